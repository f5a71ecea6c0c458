package policy

// Policy is an ordered list of rules. The first enabled rule whose scope
// matches the workload is the only one that counts; with none, nothing is
// refused and nothing told.
type Policy struct {
	Version int    `yaml:"version"`
	Rules   []Rule `yaml:"rules"`
}

// Rule is one rule. A nil section says nothing.
type Rule struct {
	Name      string            `yaml:"name"`
	Scope     Scope             `yaml:"scope"`
	Disabled  bool              `yaml:"disabled"`
	Processes *ProcessesSection `yaml:"processes"`
	DNS       *DNSSection       `yaml:"dns"`
	Network   *NetworkSection   `yaml:"network"`
	// OnUnknown judges calls that could not be read; nil means the effect of
	// the section that would have judged the call.
	OnUnknown *Effect `yaml:"onUnknown"`
}

// Scope selects workloads: the fields are joined by "and", the patterns of a
// field by "or". An empty field matches everything. A pattern is
// case-insensitive, with "*" for any run of characters; a leading "-"
// excludes, and exclusions are looked at first.
type Scope struct {
	Images     []string `yaml:"images"`
	Containers []string `yaml:"containers"`
	AppIDs     []string `yaml:"appIDs"`
}

// ProcessesSection judges the start of programs. Entries are a name (no
// slash), an absolute path, or either with "*" for any run of characters.
type ProcessesSection struct {
	Effect *Effect  `yaml:"effect"`
	Allow  []string `yaml:"allow"`
	Deny   []string `yaml:"deny"`
}

// DNSSection judges lookups. Entries are "example.com" (that name only),
// "*.example.com" (below it), ".example.com" or "**.example.com" (both), or
// "*" (every name).
type DNSSection struct {
	Effect *Effect  `yaml:"effect"`
	Allow  []string `yaml:"allow"`
	Deny   []string `yaml:"deny"`
}

// NetworkSection judges connections and datagrams.
type NetworkSection struct {
	Effect   *Effect         `yaml:"effect"`
	Outbound OutboundSection `yaml:"outbound"`
}

// OutboundSection lists destinations: addresses or prefixes in CIDR form, and
// ports or port ranges ("6660-6669").
type OutboundSection struct {
	Allow      []string `yaml:"allow"`
	Deny       []string `yaml:"deny"`
	AllowPorts []string `yaml:"allowPorts"`
	DenyPorts  []string `yaml:"denyPorts"`
}
