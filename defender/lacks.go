package defender

import "appdefender/policy"

// unknownHere are facts that rules may rest on and this Defender does not find
// out. inform finds the others.
const unknownHere = policy.NeedPackages | policy.NeedContent

// lacks says what the rule in force rests on and this Defender cannot tell the
// judge. Such a rule is not wrong, but its writer believes in more than there
// is.
func (d *Defender) lacks() {
	for _, what := range lacks(d.engine.Load().Needs(), d.cfg.FileMonitoring) {
		d.notice("%s", what)
	}
}

func lacks(needs policy.Needs, fileMonitoring bool) (list []string) {
	if !fileMonitoring && needs&(policy.NeedFileWrites|policy.NeedContent) != 0 {
		list = append(list, "the rule's section files says nothing without --file-monitoring")
	}
	if missing := needs & unknownHere; missing != 0 {
		list = append(list, "the rule asks for what this Defender does not find out ("+missing.String()+"): what rests on it is not detected")
	}
	return list
}
