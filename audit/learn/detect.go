package learn

import (
	"slices"
	"sync"

	"appdefender/policy"
)

// candidate is a detection that a learned policy has where nothing that was
// seen sets it off.
type candidate struct {
	key     string // section and detection, as in a policy file
	section policy.Section
	kinds   []policy.Kind
	set     func(*policy.Rule) **policy.Effect
	usual   bool           // that something sets it off is no news
	engine  *policy.Engine // of a policy with nothing else in it
}

// candidates returns the detections, in the order of a policy file: all but
// malware, which says nothing without a list of somebody's.
var candidates = sync.OnceValue(func() []candidate {
	p := func(key string, of func(*policy.ProcessDetections) **policy.Effect) candidate {
		return candidate{key: "processes." + key, section: policy.Processes, kinds: []policy.Kind{policy.Launch}, set: func(r *policy.Rule) **policy.Effect {
			if r.Processes == nil {
				r.Processes = &policy.ProcessesSection{}
			}
			return of(&r.Processes.Detect)
		}}
	}
	d := func(key string, of func(*policy.DNSDetections) **policy.Effect) candidate {
		return candidate{key: "dns." + key, section: policy.DNS, kinds: []policy.Kind{policy.Lookup}, set: func(r *policy.Rule) **policy.Effect {
			if r.DNS == nil {
				r.DNS = &policy.DNSSection{}
			}
			return of(&r.DNS.Detect)
		}}
	}
	n := func(key string, kind policy.Kind, of func(*policy.NetworkDetections) **policy.Effect) candidate {
		return candidate{key: "network." + key, section: policy.Network, kinds: []policy.Kind{kind}, set: func(r *policy.Rule) **policy.Effect {
			if r.Network == nil {
				r.Network = &policy.NetworkSection{}
			}
			return of(&r.Network.Detect)
		}}
	}
	f := func(key string, of func(*policy.FileDetections) **policy.Effect) candidate {
		return candidate{key: "files." + key, section: policy.Files, kinds: []policy.Kind{policy.FileWrite, policy.Launch}, set: func(r *policy.Rule) **policy.Effect {
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
		p("alteredPackages", func(d pd) effect { return &d.AlteredPackages }),
		p("cryptoMiners", func(d pd) effect { return &d.CryptoMiners }),
		p("reverseShell", func(d pd) effect { return &d.ReverseShell }),
		p("lateralMovement", func(d pd) effect { return &d.LateralMovement }),
		p("fileless", func(d pd) effect { return &d.Fileless }),
		p("writablePath", func(d pd) effect { return &d.WritablePath }),
		p("setUID", func(d pd) effect { return &d.SetUID }),
		p("shellsFromServers", func(d pd) effect { return &d.ShellsFromServers }),
		p("packageManagersFromServers", func(d pd) effect { return &d.PackageManagersFromServers }),
		p("onlyMainProcess", func(d pd) effect { return &d.OnlyMainProcess }),
		d("minerPools", func(d dd) effect { return &d.MinerPools }),
		d("rebinding", func(d dd) effect { return &d.Rebinding }),
		d("tunnels", func(d dd) effect { return &d.Tunnels }),
		d("encryptedDNS", func(d dd) effect { return &d.EncryptedDNS }),
		n("cloudMetadata", policy.Outbound, func(d nd) effect { return &d.CloudMetadata }),
		n("portScan", policy.Outbound, func(d nd) effect { return &d.PortScan }),
		n("rawSockets", policy.RawSocket, func(d nd) effect { return &d.RawSockets }),
		n("minerPools", policy.Outbound, func(d nd) effect { return &d.MinerPools }),
		n("encryptedDNS", policy.Outbound, func(d nd) effect { return &d.EncryptedDNS }),
		f("binaries", func(d fd) effect { return &d.Binaries }),
		f("certificates", func(d fd) effect { return &d.Certificates }),
		f("sshAndAdminFiles", func(d fd) effect { return &d.SSHAndAdminFiles }),
		f("packedBinaries", func(d fd) effect { return &d.PackedBinaries }),
		f("suspiciousELF", func(d fd) effect { return &d.SuspiciousELF }),
		f("foreignArchitecture", func(d fd) effect { return &d.ForeignArchitecture }),
		f("privateKeys", func(d fd) effect { return &d.PrivateKeys }),
	}
	for i := range list {
		list[i].usual = list[i].key == "processes.onlyMainProcess"
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
		// What cannot be prevented any more is told of all the same.
		if slices.Contains(c.kinds, ev.Kind) && c.engine.Decide(ev).Tell() {
			keys = append(keys, c.key)
		}
	}
	return keys
}
