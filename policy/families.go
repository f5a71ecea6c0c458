package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Families are the families of sockets that lead elsewhere than to addresses of
// the Internet and to Unix sockets, by the kernel's names in lower case
// (linux/socket.h, without AF_): to the hypervisor (vsock), over the Internet by
// connections of the kernel's own (rxrpc, tipc, pppox), to devices and buses.
var Families = []string{
	"ash", "atmpvc", "atmsvc", "appletalk", "ax25", "bluetooth", "bridge", "caif", "can", "decnet", "econet", "ib", "ieee802154", "ipx",
	"irda", "isdn", "iucv", "llc", "mctp", "mpls", "netbeui", "netrom", "nfc", "phonet", "pppox", "qipcrtr", "rose", "rxrpc", "security",
	"sna", "tipc", "vsock", "wanpipe", "x25",
	"unknown", // of a later kernel
}

// familyJudge judges sockets of these families: whoever lists where the target
// may connect to means to list all of it.
type familyJudge struct {
	judges bool // there is a list of destinations
	allow  []string
}

func newFamilies(s *OutboundSection, path string, f *faults) familyJudge {
	for i, name := range s.AllowFamilies {
		if !slices.Contains(Families, name) {
			f.addEntry(path, i, fmt.Errorf("%q is no family of sockets; they are %s", name, strings.Join(Families, ", ")))
		}
	}
	lists := len(s.Allow) + len(s.Deny) + len(s.AllowNames) + len(s.DenyNames) + len(s.AllowPorts) + len(s.DenyPorts) + len(s.AllowFamilies)
	return familyJudge{judges: lists > 0, allow: s.AllowFamilies}
}

func (j *familyJudge) judge(family string) (Detection, string) {
	if !j.judges || !slices.Contains(Families, family) || slices.Contains(j.allow, family) {
		return NothingDetected, ""
	}
	return DeniedFamily, "no list of destinations knows addresses of " + family + ", and allowFamilies does not name it"
}
