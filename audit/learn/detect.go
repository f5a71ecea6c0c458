package learn

import (
	"sync"

	"appdefender/policy"
)

// candidate is a detection that a learned policy has where nothing that was
// seen sets it off.
type candidate struct {
	key     string // section and detection, as in a policy file
	section policy.Section
	kind    policy.Kind
	set     func(*policy.Rule) **policy.Effect
	engine  *policy.Engine // of a policy with nothing else in it
}

// candidates returns the detections, in the order of a policy file. Those that
// look at what was written cannot prevent, and are not among them; nor are
// those whose facts are costly.
var candidates = sync.OnceValue(func() []candidate {
	p := func(key string, of func(*policy.ProcessDetections) **policy.Effect) candidate {
		return candidate{key: "processes." + key, section: policy.Processes, kind: policy.Launch, set: func(r *policy.Rule) **policy.Effect {
			if r.Processes == nil {
				r.Processes = &policy.ProcessesSection{}
			}
			return of(&r.Processes.Detect)
		}}
	}
	d := func(key string, of func(*policy.DNSDetections) **policy.Effect) candidate {
		return candidate{key: "dns." + key, section: policy.DNS, kind: policy.Lookup, set: func(r *policy.Rule) **policy.Effect {
			if r.DNS == nil {
				r.DNS = &policy.DNSSection{}
			}
			return of(&r.DNS.Detect)
		}}
	}
	n := func(key string, kind policy.Kind, of func(*policy.NetworkDetections) **policy.Effect) candidate {
		return candidate{key: "network." + key, section: policy.Network, kind: kind, set: func(r *policy.Rule) **policy.Effect {
			if r.Network == nil {
				r.Network = &policy.NetworkSection{}
			}
			return of(&r.Network.Detect)
		}}
	}
	f := func(key string, of func(*policy.FileDetections) **policy.Effect) candidate {
		return candidate{key: "files." + key, section: policy.Files, kind: policy.FileWrite, set: func(r *policy.Rule) **policy.Effect {
			if r.Files == nil {
				r.Files = &policy.FilesSection{}
			}
			return of(&r.Files.Detect)
		}}
	}
	type (
		effect = **policy.Effect
		pd     = *policy.ProcessDetections
		dd     = *policy.DNSDetections
		nd     = *policy.NetworkDetections
		fd     = *policy.FileDetections
	)
	list := []candidate{
		p("modified", func(d pd) effect { return &d.Modified }),
		p("newBinaries", func(d pd) effect { return &d.NewBinaries }),
		p("cryptoMiners", func(d pd) effect { return &d.CryptoMiners }),
		p("reverseShell", func(d pd) effect { return &d.ReverseShell }),
		p("lateralMovement", func(d pd) effect { return &d.LateralMovement }),
		p("fileless", func(d pd) effect { return &d.Fileless }),
		p("writablePath", func(d pd) effect { return &d.WritablePath }),
		p("setUID", func(d pd) effect { return &d.SetUID }),
		p("shellsFromServers", func(d pd) effect { return &d.ShellsFromServers }),
		p("packageManagersFromServers", func(d pd) effect { return &d.PackageManagersFromServers }),
		d("minerPools", func(d dd) effect { return &d.MinerPools }),
		d("rebinding", func(d dd) effect { return &d.Rebinding }),
		d("tunnels", func(d dd) effect { return &d.Tunnels }),
		d("encryptedDNS", func(d dd) effect { return &d.EncryptedDNS }),
		n("cloudMetadata", policy.Outbound, func(d nd) effect { return &d.CloudMetadata }),
		n("rawSockets", policy.RawSocket, func(d nd) effect { return &d.RawSockets }),
		n("minerPools", policy.Outbound, func(d nd) effect { return &d.MinerPools }),
		n("encryptedDNS", policy.Outbound, func(d nd) effect { return &d.EncryptedDNS }),
		f("binaries", func(d fd) effect { return &d.Binaries }),
		f("certificates", func(d fd) effect { return &d.Certificates }),
		f("sshAndAdminFiles", func(d fd) effect { return &d.SSHAndAdminFiles }),
	}
	for i := range list {
		r := policy.Rule{Name: "candidate"}
		*list[i].set(&r) = new(policy.Prevent)
		setEffect(&r, policy.Disable)
		engine, err := policy.Compile(&policy.Policy{Version: 1, Rules: []policy.Rule{r}}, policy.Workload{})
		if err != nil {
			panic(err) // a test compiles them
		}
		list[i].engine = engine
	}
	return list
})

// Facts returns what a recorder should find out about every event.
func Facts(files bool) policy.Needs {
	n := policy.NeedSubject | policy.NeedAncestry | policy.NeedArgv | policy.NeedCommand | policy.NeedMain | policy.NeedNames |
		policy.NeedListenPorts | policy.NeedUnixSockets
	for _, c := range candidates() {
		if files || c.section != policy.Files {
			n |= c.engine.Needs()
		}
	}
	return n
}

// detected returns the detections that an event would set off.
func detected(ev *policy.Event) []string {
	var keys []string
	for _, c := range candidates() {
		if c.kind == ev.Kind && !c.engine.Decide(ev).Allow {
			keys = append(keys, c.key)
		}
	}
	return keys
}
