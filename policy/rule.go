package policy

// Policy is an ordered list of rules. The first enabled rule whose scope
// matches the workload is the only one that counts; with none, nothing is
// refused and nothing told.
type Policy struct {
	Version int    `yaml:"version" json:"version"`
	Rules   []Rule `yaml:"rules" json:"rules"`
	// CustomRules are the library that rules choose from.
	CustomRules []CustomRule `yaml:"customRules" json:"customRules,omitzero"`
}

// CustomRule is a condition in the language of package rules. It does nothing
// until a rule uses it.
type CustomRule struct {
	// ID is the number it goes by in the compatible API; 0 is none.
	ID          int    `yaml:"id" json:"id,omitzero"`
	Name        string `yaml:"name" json:"name"`
	Type        string `yaml:"type" json:"type"` // processes, filesystem, network-outgoing, dns, listening
	Description string `yaml:"description" json:"description,omitzero"`
	Script      string `yaml:"script" json:"script"`
	// Message is what its records say; %proc.name stands for the attribute.
	Message          string   `yaml:"message" json:"message,omitzero"`
	AttackTechniques []string `yaml:"attackTechniques" json:"attackTechniques,omitzero"`
}

// CustomRef is the use of a custom rule. They are looked at in order, before
// everything else in the rule, and the first that holds decides alone.
type CustomRef struct {
	Rule   string `yaml:"rule" json:"rule"`              // its name
	Effect string `yaml:"effect" json:"effect"`          // allow, disable, alert, prevent, block
	Action string `yaml:"action" json:"action,omitzero"` // audit or incident; "" is audit
}

// Rule is one rule. A nil section says nothing.
type Rule struct {
	Name      string            `yaml:"name" json:"name"`
	Notes     string            `yaml:"notes" json:"notes,omitzero"` // for people
	Scope     Scope             `yaml:"scope" json:"scope,omitzero"`
	Disabled  bool              `yaml:"disabled" json:"disabled,omitzero"`
	Processes *ProcessesSection `yaml:"processes" json:"processes,omitzero"`
	DNS       *DNSSection       `yaml:"dns" json:"dns,omitzero"`
	Network   *NetworkSection   `yaml:"network" json:"network,omitzero"`
	Files     *FilesSection     `yaml:"files" json:"files,omitzero"`
	Custom    []CustomRef       `yaml:"custom" json:"custom,omitzero"`
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
// slash), an absolute path, either with "*" for any run of characters, or the
// SHA-256 of a file ("sha256:" and 64 hexadecimals).
type ProcessesSection struct {
	Effect *Effect  `yaml:"effect" json:"effect,omitzero"`
	Allow  []string `yaml:"allow" json:"allow,omitzero"`
	Deny   []string `yaml:"deny" json:"deny,omitzero"`
	// Parents say which programs others may start.
	Parents []ParentRule `yaml:"parents" json:"parents,omitzero"`
	// Exempt are programs that no detection concerns. The lists and Parents do.
	Exempt []string          `yaml:"exempt" json:"exempt,omitzero"`
	Detect ProcessDetections `yaml:"detect" json:"detect,omitzero"`
}

// ParentRule judges programs by who starts them; all lists have entries as in
// a ProcessesSection, of parents without digests.
type ParentRule struct {
	Programs []string `yaml:"programs" json:"programs,omitzero"` // judged; at least one
	// Allow are the programs that alone may start them, by themselves.
	Allow []string `yaml:"allow" json:"allow,omitzero"`
	// Deny are programs that may not, by themselves or through others.
	Deny []string `yaml:"deny" json:"deny,omitzero"`
	// Effect is that of the section if nil or Inherit.
	Effect *Effect `yaml:"effect" json:"effect,omitzero"`
}

// ProcessDetections are effects of detections. One that is nil is not looked
// for; Inherit is the section's effect.
type ProcessDetections struct {
	Modified                   *Effect `yaml:"modified" json:"modified,omitzero"`                                     // written since the target started
	NewBinaries                *Effect `yaml:"newBinaries" json:"newBinaries,omitzero"`                               // made since then
	AlteredPackages            *Effect `yaml:"alteredPackages" json:"alteredPackages,omitzero"`                       // not as the package recorded it
	CryptoMiners               *Effect `yaml:"cryptoMiners" json:"cryptoMiners,omitzero"`                             // by name, option, pool
	ReverseShell               *Effect `yaml:"reverseShell" json:"reverseShell,omitzero"`                             // a shell operated from elsewhere
	LateralMovement            *Effect `yaml:"lateralMovement" json:"lateralMovement,omitzero"`                       // tools such as nmap and netcat
	Fileless                   *Effect `yaml:"fileless" json:"fileless,omitzero"`                                     // in memory or deleted
	WritablePath               *Effect `yaml:"writablePath" json:"writablePath,omitzero"`                             // on a temporary file system
	SetUID                     *Effect `yaml:"setUID" json:"setUID,omitzero"`                                         // gains privileges
	ShellsFromServers          *Effect `yaml:"shellsFromServers" json:"shellsFromServers,omitzero"`                   // web shells
	PackageManagersFromServers *Effect `yaml:"packageManagersFromServers" json:"packageManagersFromServers,omitzero"` // apt below nginx
	OnlyMainProcess            *Effect `yaml:"onlyMainProcess" json:"onlyMainProcess,omitzero"`                       // everything else
}

// DNSSection judges lookups. Entries are "example.com" (that name only),
// "*.example.com" (below it), ".example.com" or "**.example.com" (both), or
// "*" (every name).
type DNSSection struct {
	Effect *Effect  `yaml:"effect" json:"effect,omitzero"`
	Allow  []string `yaml:"allow" json:"allow,omitzero"`
	Deny   []string `yaml:"deny" json:"deny,omitzero"`
	// Answer is what a refused lookup gets: AnswerNoName or "" (there is no
	// such name), AnswerRefused, AnswerEmpty (no such record), or an address.
	Answer string `yaml:"answer" json:"answer,omitzero"`
	// Private are names, as on the lists, that may lead to private addresses.
	Private []string `yaml:"private" json:"private,omitzero"`
	// Detect are effects of detections, as in a ProcessesSection.
	Detect DNSDetections `yaml:"detect" json:"detect,omitzero"`
}

// DNSDetections are effects of detections, as in ProcessDetections.
type DNSDetections struct {
	MinerPools   *Effect `yaml:"minerPools" json:"minerPools,omitzero"`     // names of mining pools
	Rebinding    *Effect `yaml:"rebinding" json:"rebinding,omitzero"`       // public names that lead to private addresses
	Tunnels      *Effect `yaml:"tunnels" json:"tunnels,omitzero"`           // data carried out in names
	EncryptedDNS *Effect `yaml:"encryptedDNS" json:"encryptedDNS,omitzero"` // names of resolvers by HTTPS or TLS
}

// NetworkSection judges connections, datagrams and ports.
type NetworkSection struct {
	Effect   *Effect         `yaml:"effect" json:"effect,omitzero"`
	Outbound OutboundSection `yaml:"outbound" json:"outbound,omitzero"`
	Listen   ListenSection   `yaml:"listen" json:"listen,omitzero"`
	Unix     UnixSection     `yaml:"unix" json:"unix,omitzero"`

	Detect NetworkDetections `yaml:"detect" json:"detect,omitzero"`
}

// NetworkDetections are effects of detections, as in ProcessDetections.
type NetworkDetections struct {
	CloudMetadata *Effect `yaml:"cloudMetadata" json:"cloudMetadata,omitzero"` // the cloud's metadata and credentials
	PortScan      *Effect `yaml:"portScan" json:"portScan,omitzero"`           // many ports or machines in a short time
	RawSockets    *Effect `yaml:"rawSockets" json:"rawSockets,omitzero"`       // sockets for whole packets
	MinerPools    *Effect `yaml:"minerPools" json:"minerPools,omitzero"`       // connections to mining pools
	EncryptedDNS  *Effect `yaml:"encryptedDNS" json:"encryptedDNS,omitzero"`   // connections to resolvers by HTTPS or TLS
}

// OutboundSection lists destinations: addresses or prefixes in CIDR form,
// ports or port ranges ("6660-6669"), and names as in a DNSSection. A name
// stands for the addresses that a lookup of it returned to the target.
type OutboundSection struct {
	Allow      []string `yaml:"allow" json:"allow,omitzero"`
	Deny       []string `yaml:"deny" json:"deny,omitzero"`
	AllowNames []string `yaml:"allowNames" json:"allowNames,omitzero"`
	DenyNames  []string `yaml:"denyNames" json:"denyNames,omitzero"`
	AllowPorts []string `yaml:"allowPorts" json:"allowPorts,omitzero"`
	DenyPorts  []string `yaml:"denyPorts" json:"denyPorts,omitzero"`
	// AllowFamilies are families of sockets whose addresses none of these lists
	// can name, such as "vsock". Others are refused where any of them judges.
	AllowFamilies []string `yaml:"allowFamilies" json:"allowFamilies,omitzero"`
	// Unresolved is the effect on destinations that are neither on the allow
	// list nor loopback, and that no allowed lookup returned.
	Unresolved *Effect `yaml:"unresolved" json:"unresolved,omitzero"`
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
	// Malware are digests of files, "md5:" or "sha256:" and hexadecimals, each
	// perhaps with a space and a name behind it. Trusted are digests of files
	// whose content no detection concerns.
	Malware []string       `yaml:"malware" json:"malware,omitzero"`
	Trusted []string       `yaml:"trusted" json:"trusted,omitzero"`
	Detect  FileDetections `yaml:"detect" json:"detect,omitzero"`
}

// FileDetections are effects of detections, as in ProcessDetections. Those
// from PackedBinaries on look at what was written, and cannot prevent it; but
// for private keys they prevent the start of such a program.
type FileDetections struct {
	Binaries            *Effect `yaml:"binaries" json:"binaries,omitzero"`                       // changes to programs and libraries
	Certificates        *Effect `yaml:"certificates" json:"certificates,omitzero"`               // changes to certificates and keys
	SSHAndAdminFiles    *Effect `yaml:"sshAndAdminFiles" json:"sshAndAdminFiles,omitzero"`       // who may log in
	PackedBinaries      *Effect `yaml:"packedBinaries" json:"packedBinaries,omitzero"`           // packed or encrypted
	SuspiciousELF       *Effect `yaml:"suspiciousELF" json:"suspiciousELF,omitzero"`             // headers against analysis
	ForeignArchitecture *Effect `yaml:"foreignArchitecture" json:"foreignArchitecture,omitzero"` // for another processor
	Malware             *Effect `yaml:"malware" json:"malware,omitzero"`                         // the list above
	PrivateKeys         *Effect `yaml:"privateKeys" json:"privateKeys,omitzero"`                 // new private keys
}
