package defender

import "appdefender/policy"

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
		what := "the rule's section files says nothing without --file-monitoring"
		if needs.Has(policy.NeedProgramContent) {
			what += ", but of programs when they start"
		}
		list = append(list, what)
	}
	return list
}
