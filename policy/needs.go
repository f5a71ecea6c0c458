package policy

// Needs is a set of what a rule asks about beyond what every event has. Each
// is a fact that costs the caller input and output to find out, or an event
// for which calls must be stopped.
type Needs uint32

const (
	NeedDigests     Needs = 1 << iota // Program.Digests
	NeedModified                      // Program.Modified and New
	NeedPackages                      // Program.Altered
	NeedAncestry                      // Process.Ancestors
	NeedUser                          // Process.User
	NeedFileless                      // Program.Fileless
	NeedWritable                      // Program.Writable
	NeedSetUID                        // Program.SetUID
	NeedRemoteIO                      // Program.RemoteIO
	NeedMain                          // Program.Main
	NeedNames                         // Event.Name and Resolved
	NeedScans                         // Event.Scan
	NeedListenPorts                   // Listen events
	NeedUnixSockets                   // UnixConnect events
	NeedRawSockets                    // RawSocket events
	NeedFileWrites                    // FileWrite events
	NeedFileType                      // File.Type and Image
	NeedContent                       // File events of OpWritten, with Findings and digests
	NeedArgv                          // Process.Command of Subject
)

// Has reports whether all of these are needed.
func (n Needs) Has(these Needs) bool { return n&these == these }

// Needs returns what the rule asks about. A caller fills in these facts and
// stops the calls of these events; whatever else it tells does no harm.
func (e *Engine) Needs() Needs {
	if e == nil {
		return 0
	}
	return e.needs
}
