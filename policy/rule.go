package policy

// Policy is an ordered list of rules. The first enabled rule whose scope
// matches the workload is the only one that counts; with none, nothing is
// refused and nothing told.
type Policy struct {
	Version int    `yaml:"version" json:"version"`
	Rules   []Rule `yaml:"rules" json:"rules"`
}

// Rule is one rule. A nil section says nothing.
type Rule struct {
	Name      string            `yaml:"name" json:"name"`
	Scope     Scope             `yaml:"scope" json:"scope,omitzero"`
	Disabled  bool              `yaml:"disabled" json:"disabled,omitzero"`
	Processes *ProcessesSection `yaml:"processes" json:"processes,omitzero"`
	DNS       *DNSSection       `yaml:"dns" json:"dns,omitzero"`
	Network   *NetworkSection   `yaml:"network" json:"network,omitzero"`
	Files     *FilesSection     `yaml:"files" json:"files,omitzero"`
	// OnUnknown judges calls that could not be read; nil means the effect of
	// the section that would have judged the call.
	OnUnknown *Effect `yaml:"onUnknown" json:"onUnknown,omitzero"`
}

// Scope selects workloads: the fields are joined by "and", the patterns of a
// field by "or". An empty field matches everything. A pattern is
// case-insensitive, with "*" for any run of characters; a leading "-"
// excludes, and exclusions are looked at first.
type Scope struct {
	Images     []string `yaml:"images" json:"images,omitzero"`
	Containers []string `yaml:"containers" json:"containers,omitzero"`
	AppIDs     []string `yaml:"appIDs" json:"appIDs,omitzero"`
}

// ProcessesSection judges the start of programs. Entries are a name (no
// slash), an absolute path, or either with "*" for any run of characters.
type ProcessesSection struct {
	Effect *Effect  `yaml:"effect" json:"effect,omitzero"`
	Allow  []string `yaml:"allow" json:"allow,omitzero"`
	Deny   []string `yaml:"deny" json:"deny,omitzero"`
}

// DNSSection judges lookups. Entries are "example.com" (that name only),
// "*.example.com" (below it), ".example.com" or "**.example.com" (both), or
// "*" (every name).
type DNSSection struct {
	Effect *Effect  `yaml:"effect" json:"effect,omitzero"`
	Allow  []string `yaml:"allow" json:"allow,omitzero"`
	Deny   []string `yaml:"deny" json:"deny,omitzero"`
}

// NetworkSection judges connections, datagrams and ports.
type NetworkSection struct {
	Effect   *Effect         `yaml:"effect" json:"effect,omitzero"`
	Outbound OutboundSection `yaml:"outbound" json:"outbound,omitzero"`
	Listen   ListenSection   `yaml:"listen" json:"listen,omitzero"`
	Unix     UnixSection     `yaml:"unix" json:"unix,omitzero"`
}

// OutboundSection lists destinations: addresses or prefixes in CIDR form, and
// ports or port ranges ("6660-6669").
type OutboundSection struct {
	Allow      []string `yaml:"allow" json:"allow,omitzero"`
	Deny       []string `yaml:"deny" json:"deny,omitzero"`
	AllowPorts []string `yaml:"allowPorts" json:"allowPorts,omitzero"`
	DenyPorts  []string `yaml:"denyPorts" json:"denyPorts,omitzero"`
}

// ListenSection lists the ports that programs bind and listen on, as ports or
// port ranges. A port that the kernel chooses is judged once it is known.
type ListenSection struct {
	AllowPorts []string `yaml:"allowPorts" json:"allowPorts,omitzero"`
	DenyPorts  []string `yaml:"denyPorts" json:"denyPorts,omitzero"`
}

// UnixSection lists Unix sockets that programs connect and send to. Entries
// are those of a FilesSection, and "@name" for a name in the abstract
// namespace.
type UnixSection struct {
	Allow []string `yaml:"allow" json:"allow,omitzero"`
	Deny  []string `yaml:"deny" json:"deny,omitzero"`
}

// FilesSection judges changes to the file system. Entries are an absolute
// path, which stands for itself and all that is below it; a base name (no
// slash), in any folder; or either with "*" for any run of characters, slashes
// too.
type FilesSection struct {
	Effect *Effect  `yaml:"effect" json:"effect,omitzero"`
	Allow  []string `yaml:"allow" json:"allow,omitzero"`
	Deny   []string `yaml:"deny" json:"deny,omitzero"`
}
