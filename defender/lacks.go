package defender

import (
	"fmt"
	"reflect"
	"slices"

	"appdefender/policy"
	"appdefender/policy/file"
)

// lacks says what the rule in force rests on and this Defender cannot tell the
// judge, or that there is no rule for this workload. Such a policy is not wrong,
// but its writer believes in more than there is. What has been told is not told
// again until it changes.
func (d *Defender) lacks() {
	e := d.engine.Load()
	list := lacks(e.Needs(), d.cfg.FileMonitoring || d.shipped.Load())
	if w := d.cfg.Workload; e != nil && e.Rule() == "" {
		list = append(list, fmt.Sprintf("no rule of the policy is for this workload, so nothing is refused and nothing told: "+
			"image %q, container %q, App ID %q (see --image, --container and --app-id)", w.Image, w.Container, w.AppID))
	}
	if told := d.told.Swap(&list); told != nil && slices.Equal(*told, list) {
		return
	}
	for _, what := range list {
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

// use puts an engine, made of p, into force and returns the one before it.
func (d *Defender) use(p *policy.Policy, e *policy.Engine) *policy.Engine {
	d.shipped.Store(shippedFiles(p, e.Rule()))
	return d.engine.Swap(e)
}

// shippedFiles reports whether what a rule asks about files is what the shipped
// policy asks: nobody wrote that, so nobody believes in it.
func shippedFiles(p *policy.Policy, rule string) bool {
	for i := range p.Rules {
		if p.Rules[i].Name == rule {
			return reflect.DeepEqual(p.Rules[i].Files, file.Default().Rules[0].Files)
		}
	}
	return false
}
