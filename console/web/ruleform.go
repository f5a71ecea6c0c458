package web

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"appdefender/console"
	"appdefender/console/store"
	"appdefender/policy"
)

// ruleForm is a rule while it is edited, perhaps with faults.
type ruleForm struct {
	Old      string      // the rule's name in the policy; "" for a new rule
	Base     string      // the digest of the rule that the form was made from
	Rule     policy.Rule // with all sections that the form has
	ReadOnly bool
	Conflict string   // who saved in between
	Other    []string // faults of no field

	faults map[string][]string // by field
}

// list is a field of one entry a line.
type list struct {
	id, path    string // of the field and of the list in a rule
	label, hint string
	example     string // shown while it is empty
	of          func(*policy.Rule) *[]string
}

// lists are all such fields.
var lists = []list{
	{id: "images", path: "scope.images", label: "Images", example: "*",
		hint: "Such as nginx:1.27 or ghcr.io/shop/*",
		of:   func(r *policy.Rule) *[]string { return &r.Scope.Images }},
	{id: "containers", path: "scope.containers", label: "Containers", example: "*",
		hint: "The name in the task definition",
		of:   func(r *policy.Rule) *[]string { return &r.Scope.Containers }},
	{id: "appids", path: "scope.appIDs", label: "App IDs", example: "*",
		hint: "What the Defender was embedded with",
		of:   func(r *policy.Rule) *[]string { return &r.Scope.AppIDs }},

	{id: "processes-deny", path: "processes.deny", label: "Denied processes", example: "mkdir\n/usr/bin/nc",
		hint: "A name, a path, or either with *",
		of:   func(r *policy.Rule) *[]string { return &r.Processes.Deny }},
	{id: "processes-allow", path: "processes.allow", label: "Allowed processes", example: "",
		hint: "With entries here, everything else is denied",
		of:   func(r *policy.Rule) *[]string { return &r.Processes.Allow }},

	{id: "dns-allow", path: "dns.allow", label: "DNS allow list", example: "gmail.com\n*.gmail.com",
		hint: "With entries here, every other name is denied",
		of:   func(r *policy.Rule) *[]string { return &r.DNS.Allow }},
	{id: "dns-deny", path: "dns.deny", label: "DNS deny list", example: "",
		hint: "example.com is that name, *.example.com what is below it, **.example.com both",
		of:   func(r *policy.Rule) *[]string { return &r.DNS.Deny }},

	{id: "ip-deny", path: "network.outbound.deny", label: "Denied outbound IPs", example: "169.254.169.254\n10.0.0.0/8",
		hint: "Addresses or prefixes",
		of:   func(r *policy.Rule) *[]string { return &r.Network.Outbound.Deny }},
	{id: "ip-allow", path: "network.outbound.allow", label: "Allowed outbound IPs", example: "",
		hint: "With entries here, every other address is denied, but for loopback",
		of:   func(r *policy.Rule) *[]string { return &r.Network.Outbound.Allow }},
	{id: "port-deny", path: "network.outbound.denyPorts", label: "Denied outbound ports", example: "25\n6660-6669",
		hint: "Of destinations on the internet",
		of:   func(r *policy.Rule) *[]string { return &r.Network.Outbound.DenyPorts }},
	{id: "port-allow", path: "network.outbound.allowPorts", label: "Allowed outbound ports", example: "",
		hint: "With entries here, every other port is denied",
		of:   func(r *policy.Rule) *[]string { return &r.Network.Outbound.AllowPorts }},
	{id: "listen-deny", path: "network.listen.denyPorts", label: "Denied listening ports", example: "22",
		hint: "Which the application may not open",
		of:   func(r *policy.Rule) *[]string { return &r.Network.Listen.DenyPorts }},
	{id: "listen-allow", path: "network.listen.allowPorts", label: "Allowed listening ports", example: "",
		hint: "With entries here, every other port is denied",
		of:   func(r *policy.Rule) *[]string { return &r.Network.Listen.AllowPorts }},
	{id: "unix-deny", path: "network.unix.deny", label: "Denied Unix sockets", example: "docker.sock",
		hint: "A path and all below it, a name, or either with *; @name for an abstract one",
		of:   func(r *policy.Rule) *[]string { return &r.Network.Unix.Deny }},
	{id: "unix-allow", path: "network.unix.allow", label: "Allowed Unix sockets", example: "",
		hint: "With entries here, every other socket is denied",
		of:   func(r *policy.Rule) *[]string { return &r.Network.Unix.Allow }},

	{id: "files-deny", path: "files.deny", label: "Denied paths", example: "/etc\n/usr/bin/*",
		hint: "A path and all below it, a name, or either with *",
		of:   func(r *policy.Rule) *[]string { return &r.Files.Deny }},
	{id: "files-allow", path: "files.allow", label: "Allowed paths", example: "",
		hint: "With entries here, changes everywhere else are denied",
		of:   func(r *policy.Rule) *[]string { return &r.Files.Allow }},
	{id: "files-malware", path: "files.malware", label: "Malware", example: "sha256:… Name",
		hint: "Digests, sha256: or md5:, each perhaps with a name; needs the detection below",
		of:   func(r *policy.Rule) *[]string { return &r.Files.Malware }},
	{id: "files-trusted", path: "files.trusted", label: "Trusted files", example: "sha256:…",
		hint: "Digests of files that no detection concerns",
		of:   func(r *policy.Rule) *[]string { return &r.Files.Trusted }},
}

// effect is a field that chooses one.
type effect struct {
	id, path string
	of       func(*policy.Rule) **policy.Effect
}

var effects = []effect{
	{"processes", "processes.effect", func(r *policy.Rule) **policy.Effect { return &r.Processes.Effect }},
	{"network", "network.effect", func(r *policy.Rule) **policy.Effect { return &r.Network.Effect }},
	{"dns", "dns.effect", func(r *policy.Rule) **policy.Effect { return &r.DNS.Effect }},
	{"files", "files.effect", func(r *policy.Rule) **policy.Effect { return &r.Files.Effect }},
}

// detection is a field that chooses the effect of one, or that it is not looked
// for.
type detection struct {
	section, key string // of a rule; the field is section-detect-key
	label, hint  string
	of           func(*policy.Rule) **policy.Effect
}

// detections are all such fields, as the form shows them.
var detections = []detection{
	{"processes", "cryptoMiners", "Crypto miners", "By name, option, algorithm and pool", func(r *policy.Rule) **policy.Effect { return &r.Processes.Detect.CryptoMiners }},
	{"processes", "reverseShell", "Reverse shells", "A shell operated from another machine", func(r *policy.Rule) **policy.Effect { return &r.Processes.Detect.ReverseShell }},
	{"processes", "lateralMovement", "Lateral movement", "Tools such as nmap and netcat", func(r *policy.Rule) **policy.Effect { return &r.Processes.Detect.LateralMovement }},
	{"processes", "fileless", "Programs without a file", "In memory or deleted", func(r *policy.Rule) **policy.Effect { return &r.Processes.Detect.Fileless }},
	{"processes", "modified", "Modified programs", "Written after the application had started", func(r *policy.Rule) **policy.Effect { return &r.Processes.Detect.Modified }},
	{"processes", "newBinaries", "New programs", "Made after the application had started", func(r *policy.Rule) **policy.Effect { return &r.Processes.Detect.NewBinaries }},
	{"processes", "alteredPackages", "Altered packages", "Not as the package recorded them", func(r *policy.Rule) **policy.Effect { return &r.Processes.Detect.AlteredPackages }},
	{"processes", "shellsFromServers", "Shells started by servers", "Such as below nginx: web shells", func(r *policy.Rule) **policy.Effect { return &r.Processes.Detect.ShellsFromServers }},
	{"processes", "packageManagersFromServers", "Package managers started by servers", "Such as apt below nginx", func(r *policy.Rule) **policy.Effect { return &r.Processes.Detect.PackageManagersFromServers }},
	{"processes", "writablePath", "Programs where anybody may write", "Such as in /tmp", func(r *policy.Rule) **policy.Effect { return &r.Processes.Detect.WritablePath }},
	{"processes", "setUID", "Programs that gain privileges", "By a set-user-id bit or capabilities", func(r *policy.Rule) **policy.Effect { return &r.Processes.Detect.SetUID }},
	{"processes", "onlyMainProcess", "Anything but the main process", "For applications of one program", func(r *policy.Rule) **policy.Effect { return &r.Processes.Detect.OnlyMainProcess }},

	{"dns", "minerPools", "Mining pools", "By their names", func(r *policy.Rule) **policy.Effect { return &r.DNS.Detect.MinerPools }},
	{"dns", "tunnels", "Tunnels", "Data carried out in names", func(r *policy.Rule) **policy.Effect { return &r.DNS.Detect.Tunnels }},
	{"dns", "rebinding", "Rebinding", "Public names that lead to private addresses", func(r *policy.Rule) **policy.Effect { return &r.DNS.Detect.Rebinding }},
	{"dns", "encryptedDNS", "Encrypted DNS", "Names of resolvers by HTTPS or TLS", func(r *policy.Rule) **policy.Effect { return &r.DNS.Detect.EncryptedDNS }},

	{"network", "minerPools", "Mining pools", "Connections to them", func(r *policy.Rule) **policy.Effect { return &r.Network.Detect.MinerPools }},
	{"network", "cloudMetadata", "Cloud metadata", "Where credentials of the cloud are handed out", func(r *policy.Rule) **policy.Effect { return &r.Network.Detect.CloudMetadata }},
	{"network", "portScan", "Port scans", "Many ports or machines in a short time", func(r *policy.Rule) **policy.Effect { return &r.Network.Detect.PortScan }},
	{"network", "rawSockets", "Raw sockets", "Sockets for whole packets", func(r *policy.Rule) **policy.Effect { return &r.Network.Detect.RawSockets }},
	{"network", "encryptedDNS", "Encrypted DNS", "Connections to resolvers by HTTPS or TLS", func(r *policy.Rule) **policy.Effect { return &r.Network.Detect.EncryptedDNS }},

	{"files", "binaries", "Changes to programs", "Programs and libraries of the image, and where programs lie", func(r *policy.Rule) **policy.Effect { return &r.Files.Detect.Binaries }},
	{"files", "certificates", "Changes to certificates", "Trusted certificates, and private keys of the image", func(r *policy.Rule) **policy.Effect { return &r.Files.Detect.Certificates }},
	{"files", "sshAndAdminFiles", "SSH and administrator files", "Who may log in: passwd, sudoers, authorized_keys", func(r *policy.Rule) **policy.Effect { return &r.Files.Detect.SSHAndAdminFiles }},
	{"files", "packedBinaries", "Packed programs", "Compressed or encrypted; only their start can be prevented", func(r *policy.Rule) **policy.Effect { return &r.Files.Detect.PackedBinaries }},
	{"files", "suspiciousELF", "Suspicious headers", "Against analysis; only the start can be prevented", func(r *policy.Rule) **policy.Effect { return &r.Files.Detect.SuspiciousELF }},
	{"files", "foreignArchitecture", "Programs for another processor", "Only their start can be prevented", func(r *policy.Rule) **policy.Effect { return &r.Files.Detect.ForeignArchitecture }},
	{"files", "malware", "Malware", "By the list above; only its start can be prevented", func(r *policy.Rule) **policy.Effect { return &r.Files.Detect.Malware }},
	{"files", "privateKeys", "Private keys", "New ones; this tells, and cannot prevent", func(r *policy.Rule) **policy.Effect { return &r.Files.Detect.PrivateKeys }},
}

func (d *detection) id() string { return d.section + "-detect-" + d.key }

// path is that of the detection in a rule.
func (d *detection) path() string { return d.section + ".detect." + d.key }

// read takes what was chosen. Nothing chosen is not looked for, as is what was
// disabled, which stays that; a form without the field changes nothing.
func (d *detection) read(f *ruleForm, form url.Values) {
	if !form.Has(d.id()) {
		return
	}
	at := d.of(&f.Rule)
	word := form.Get(d.id())
	if word == "" {
		if *at != nil && **at != policy.Disable {
			*at = nil
		}
		return
	}
	chosen := new(policy.Effect)
	if err := chosen.UnmarshalText([]byte(word)); err != nil {
		f.fault(d.id(), err.Error())
		return
	}
	*at = chosen
}

// complete gives a rule all sections of the form. The caller owns the rule.
func complete(r policy.Rule) policy.Rule {
	if r.Processes == nil {
		r.Processes = &policy.ProcessesSection{Effect: new(policy.Disable)}
	}
	if r.Network == nil {
		r.Network = &policy.NetworkSection{Effect: new(policy.Disable)}
	}
	if r.DNS == nil {
		r.DNS = &policy.DNSSection{Effect: new(policy.Disable)}
	}
	if r.Files == nil {
		r.Files = &policy.FilesSection{Effect: new(policy.Disable)}
	}
	return r
}

// reduce takes from a rule the sections that old has not and that say nothing.
func reduce(r, old policy.Rule) policy.Rule {
	off := func(e *policy.Effect, n int) bool { return e != nil && *e == policy.Disable && n == 0 }
	if s := r.Processes; old.Processes == nil && off(s.Effect, len(s.Allow)+len(s.Deny)) && s.Detect == (policy.ProcessDetections{}) {
		r.Processes = nil
	}
	if s := r.Network; old.Network == nil {
		o, l, u := &s.Outbound, &s.Listen, &s.Unix
		if off(s.Effect, len(o.Allow)+len(o.Deny)+len(o.AllowPorts)+len(o.DenyPorts)+len(l.AllowPorts)+len(l.DenyPorts)+len(u.Allow)+len(u.Deny)) && s.Detect == (policy.NetworkDetections{}) {
			r.Network = nil
		}
	}
	if s := r.DNS; old.DNS == nil && off(s.Effect, len(s.Allow)+len(s.Deny)) && s.Detect == (policy.DNSDetections{}) {
		r.DNS = nil
	}
	if s := r.Files; old.Files == nil && off(s.Effect, len(s.Allow)+len(s.Deny)+len(s.Malware)+len(s.Trusted)) && s.Detect == (policy.FileDetections{}) {
		r.Files = nil
	}
	return r
}

// newRule is what the form of a new rule begins with: on, telling, and for
// every workload.
func newRule() policy.Rule {
	return policy.Rule{
		Processes: &policy.ProcessesSection{Effect: new(policy.Alert)},
		Network:   &policy.NetworkSection{Effect: new(policy.Alert)},
		DNS:       &policy.DNSSection{Effect: new(policy.Disable)},
		Files:     &policy.FilesSection{Effect: new(policy.Disable)},
	}
}

// digest tells one state of a rule from another.
func digest(r policy.Rule) (string, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16]), nil
}

// entries are the lines of a field that say something; nil if none does.
func entries(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all
}

// read takes what people typed into f.Rule, which begins as the rule that is
// to be changed: what the form has no field for stays, and so does a list or the
// section of files that an older page had no field for.
func (f *ruleForm) read(form url.Values) {
	f.Rule.Name = strings.TrimSpace(form.Get("name"))
	f.Rule.Disabled = form.Get("enabled") != "true"
	for _, l := range lists {
		if form.Has(l.id) {
			*l.of(&f.Rule) = entries(form.Get(l.id))
		}
	}
	for _, e := range effects {
		if e.id == "files" && !form.Has(e.id) {
			continue
		}
		chosen := new(policy.Effect)
		word := form.Get(e.id)
		if e.id == "dns" && form.Get("dns-on") != "true" {
			word = policy.Disable.String()
		}
		if err := chosen.UnmarshalText([]byte(word)); err != nil {
			f.fault(e.id, err.Error())
			continue
		}
		*e.of(&f.Rule) = chosen
	}
	for i := range detections {
		detections[i].read(f, form)
	}
	f.Rule.OnUnknown = nil
	if word := form.Get("unknown"); word != "" {
		f.Rule.OnUnknown = new(policy.Effect)
		if err := f.Rule.OnUnknown.UnmarshalText([]byte(word)); err != nil {
			f.fault("unknown", err.Error())
		}
	}
}

func (f *ruleForm) fault(field, msg string) {
	if f.faults == nil {
		f.faults = make(map[string][]string)
	}
	f.faults[field] = append(f.faults[field], msg)
}

// place puts the faults of a rule beside the fields that they are about.
func (f *ruleForm) place(faults []console.Fault) {
	fields := map[string]string{"name": "name", "onUnknown": "unknown"}
	for _, l := range lists {
		fields[l.path] = l.id
	}
	for _, e := range effects {
		fields[e.path] = e.id
	}
	for i := range detections {
		d := &detections[i]
		fields[d.path()] = d.id()
	}
	for _, fault := range faults {
		path, line := cutIndex(fault.Path)
		field, ok := fields[path]
		switch {
		case !ok:
			f.Other = append(f.Other, fault.String())
		case line > 0:
			f.fault(field, fmt.Sprintf("Line %d: %s", line, fault.Msg))
		default:
			f.fault(field, fault.Msg)
		}
	}
}

// cutIndex cuts "dns.allow[2]" into "dns.allow" and 3; without an index the
// line is 0.
func cutIndex(path string) (list string, line int) {
	list, rest, ok := strings.Cut(path, "[")
	if !ok {
		return path, 0
	}
	n, err := strconv.Atoi(strings.TrimSuffix(rest, "]"))
	if err != nil {
		return path, 0
	}
	return list, n + 1
}

// What the templates ask of a form.

// Faulty returns how many faults there are in fields whose ids begin with one
// of the prefixes; without any, in all.
func (f *ruleForm) Faulty(prefixes ...string) int {
	n := 0
	for field, msgs := range f.faults {
		match := len(prefixes) == 0
		for _, p := range prefixes {
			match = match || strings.HasPrefix(field, p)
		}
		if match {
			n += len(msgs)
		}
	}
	if len(prefixes) == 0 {
		n += len(f.Other)
	}
	return n
}

// FaultsOf returns the faults of one field.
func (f *ruleForm) FaultsOf(field string) []string { return f.faults[field] }

// Tabs are the tabs, one of which is shown first: that with a fault, or else the
// first.
func (f *ruleForm) Tabs() []tab {
	tabs := []tab{
		{ID: "processes", Label: "Processes", Faults: f.Faulty("processes")},
		{ID: "networking", Label: "Networking", Faults: f.Faulty("network", "ip-", "port-", "listen-", "unix-", "dns")},
		{ID: "files", Label: "File system", Faults: f.Faulty("files")},
	}
	tabs[max(0, slices.IndexFunc(tabs, func(t tab) bool { return t.Faults > 0 }))].First = true
	return tabs
}

// tab is one part of the form.
type tab struct {
	ID, Label string
	Faults    int
	First     bool
}

// Hidden reports whether a tab's panel is not shown first.
func (f *ruleForm) Hidden(id string) bool {
	return slices.ContainsFunc(f.Tabs(), func(t tab) bool { return t.ID == id && !t.First })
}

// listView is a list field as the template shows it.
type listView struct {
	ID, Label, Hint, Example, Text string
	Count, Rows                    int
	Faults                         []string
	ReadOnly                       bool
}

// List returns one list field.
func (f *ruleForm) List(id string) (listView, error) {
	for _, l := range lists {
		if l.id == id {
			all := *l.of(&f.Rule)
			return listView{
				ID: id, Label: l.label, Hint: l.hint, Example: l.example,
				Text: strings.Join(all, "\n"), Count: len(all), Rows: min(max(len(all)+1, 2), 12),
				Faults: f.faults[id], ReadOnly: f.ReadOnly,
			}, nil
		}
	}
	return listView{}, fmt.Errorf("there is no list %q", id)
}

// effectView is an effect field as the template shows it.
type effectView struct {
	ID, Label, Chosen string
	Choices           []effectChoice
	Faults            []string
}

type effectChoice struct{ Word, Label, Hint string }

var effectChoices = []effectChoice{
	{"disable", "Disable", "Nothing is refused and nothing told."},
	{"alert", "Alert", "It may happen, and an audit tells."},
	{"prevent", "Prevent", "Only the one activity is refused; the application goes on."},
	{"block", "Block", "The activity is refused and the application is ended."},
}

// Effect returns one effect field.
func (f *ruleForm) Effect(id, label string) (effectView, error) {
	for _, e := range effects {
		if e.id != id {
			continue
		}
		v := effectView{ID: id, Label: label, Choices: effectChoices, Faults: f.faults[id]}
		if chosen := *e.of(&f.Rule); chosen != nil {
			v.Chosen = chosen.String()
		}
		if id == "dns" { // its switch is what disables
			v.Choices = effectChoices[1:]
			if !f.DNSOn() {
				v.Chosen = policy.Alert.String()
			}
		}
		return v, nil
	}
	return effectView{}, fmt.Errorf("there is no effect %q", id)
}

// detectionsView are the detections of a section as the template shows them.
type detectionsView struct {
	Section string
	On      int // that are looked for
	Fields  []detectionView
}

type detectionView struct {
	ID, Label, Hint, Chosen string
	Faults                  []string
}

// DetectionChoices are the effects that a detection may have.
func (detectionsView) DetectionChoices() []effectChoice {
	return append([]effectChoice{
		{Word: "", Label: "Not looked for"},
		{Word: policy.Inherit.String(), Label: "As the section"},
	}, effectChoices[1:]...)
}

// Detections returns the fields of one section.
func (f *ruleForm) Detections(section string) detectionsView {
	v := detectionsView{Section: section}
	for i := range detections {
		d := &detections[i]
		if d.section != section {
			continue
		}
		field := detectionView{ID: d.id(), Label: d.label, Hint: d.hint, Faults: f.faults[d.id()]}
		if e := *d.of(&f.Rule); e != nil && *e != policy.Disable {
			field.Chosen = e.String()
			v.On++
		}
		v.Fields = append(v.Fields, field)
	}
	return v
}

// DNSOn reports whether the switch of DNS is on.
func (f *ruleForm) DNSOn() bool {
	return f.Rule.DNS.Effect == nil || *f.Rule.DNS.Effect != policy.Disable
}

// Beyond are the paths of what the rule says and the form has no field for.
func (f *ruleForm) Beyond() ([]string, error) {
	known := map[string]bool{"name": true, "disabled": true, "onUnknown": true}
	for _, l := range lists {
		known[l.path] = true
	}
	for _, e := range effects {
		known[e.path] = true
	}
	for i := range detections {
		known[detections[i].path()] = true
	}
	text, err := json.Marshal(f.Rule)
	if err != nil {
		return nil, err
	}
	var rule any
	if err := json.Unmarshal(text, &rule); err != nil {
		return nil, err
	}
	var all []string
	var walk func(path string, v any)
	walk = func(path string, v any) {
		fields, ok := v.(map[string]any)
		if !ok && !known[path] {
			all = append(all, path)
		}
		for _, key := range slices.Sorted(maps.Keys(fields)) {
			walk(strings.TrimPrefix(path+"."+key, "."), fields[key])
		}
	}
	walk("", rule)
	return all, nil
}

// OnUnknown returns the word of the effect for what cannot be read, "" for
// the section's.
func (f *ruleForm) OnUnknown() string {
	if f.Rule.OnUnknown == nil {
		return ""
	}
	return f.Rule.OnUnknown.String()
}

// EffectWords are the words of all effects.
func (f *ruleForm) EffectWords() []effectChoice { return effectChoices }

func (p *pages) getRule(w http.ResponseWriter, r *http.Request) error {
	mayEdit := console.SessionOf(r).User.Role.May(store.Editor)
	name, ok := r.URL.Query().Get("name"), r.URL.Query().Has("name")
	if !ok {
		if !mayEdit {
			return console.Errorf(http.StatusForbidden, "This needs the role %s.", store.Editor)
		}
		return p.showRule(w, r, http.StatusOK, &ruleForm{Rule: newRule()})
	}
	now, err := p.srv.Policy()
	if err != nil {
		return err
	}
	i, err := ruleIndex(now.Policy, name)
	if err != nil {
		return err
	}
	rule := now.Policy.Rules[i]
	f := &ruleForm{Old: rule.Name, ReadOnly: !mayEdit}
	if f.Base, err = digest(rule); err != nil {
		return err
	}
	f.Rule = complete(rule)
	return p.showRule(w, r, http.StatusOK, f)
}

func (p *pages) showRule(w http.ResponseWriter, r *http.Request, status int, f *ruleForm) error {
	title := "Add rule"
	switch {
	case f.ReadOnly:
		title = "Rule " + f.Old
	case f.Old != "":
		title = "Edit " + f.Old
	}
	return p.render(w, r, status, "rule.html", view{Title: title, Nav: runtimePath, Data: f})
}

// postRule adds or changes a rule. Of a rule that somebody else changed since
// the form was made, people are told first; saving again is meant then.
func (p *pages) postRule(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return console.Errorf(http.StatusBadRequest, "reading the form: %v", err)
	}
	now, err := p.srv.Policy()
	if err != nil {
		return err
	}
	f := &ruleForm{Old: r.PostForm.Get("old"), Base: r.PostForm.Get("base"), Rule: complete(policy.Rule{})}
	var old policy.Rule
	if f.Old != "" {
		i, err := ruleIndex(now.Policy, f.Old)
		if err != nil {
			return err
		}
		old = now.Policy.Rules[i]
		f.Rule = complete(old)
	}
	base, err := digest(old)
	if err != nil {
		return err
	}
	f.read(r.PostForm)
	if _, err := ruleIndex(now.Policy, f.Rule.Name); err == nil && f.Rule.Name != f.Old {
		// Validation would find the fault in whichever of the two is lower.
		f.fault("name", fmt.Sprintf("%q is already the name of another rule", f.Rule.Name))
	}
	if len(f.faults) > 0 {
		return p.showRule(w, r, http.StatusBadRequest, f)
	}
	if f.Old != "" && f.Base != base {
		changes, err := p.history.of(r.Context(), p.srv.Store(), now.Generation)
		if err != nil {
			return err
		}
		f.Base, f.Conflict = base, changes[f.Old].Who
		if f.Conflict == "" {
			f.Conflict = "Somebody"
		}
		return p.showRule(w, r, http.StatusConflict, f)
	}

	done := "saved"
	if f.Old == "" {
		// At the top: below a rule for every workload it would say nothing.
		done = "added"
		_, err = p.srv.AddRule(r.Context(), console.Who(r), now.Generation, 0, reduce(f.Rule, old))
	} else {
		_, err = p.srv.UpdateRule(r.Context(), console.Who(r), now.Generation, f.Old, reduce(f.Rule, old))
	}
	if errors.Is(err, store.ErrConflict) {
		f.Other = append(f.Other, "Somebody else changed the policy at the same moment. Save again.")
		return p.showRule(w, r, http.StatusConflict, f)
	}
	if e, ok := errors.AsType[*console.Error](err); ok && len(e.Faults) > 0 {
		f.place(e.Faults)
		return p.showRule(w, r, http.StatusBadRequest, f)
	}
	return p.backToRules(w, r, done, err)
}
