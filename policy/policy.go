// Package policy decides what a protected application may do.
//
// It is pure: an [Event] and a [Policy] go in, a [Verdict] comes out. It opens
// no file, reads no clock and starts no goroutine, so a saved event can be
// judged again and must get the same verdict.
package policy

// Effect is what a rule asks for when one of its entries is violated.
type Effect uint8

const (
	// Prevent refuses the one activity. It is the zero value, so that an
	// effect nobody set refuses.
	Prevent Effect = iota
	// Block refuses the activity and ends the target.
	Block
	// Alert lets the activity pass and tells.
	Alert
	// Disable neither refuses nor tells.
	Disable
	// Inherit is the effect of the section, and an effect of detections only.
	Inherit
)

// String returns the effect's word in policy files and records.
func (e Effect) String() string {
	switch e {
	case Prevent:
		return "prevent"
	case Block:
		return "block"
	case Alert:
		return "alert"
	case Disable:
		return "disable"
	case Inherit:
		return "default"
	}
	return "effect(?)"
}

// Refuses reports whether the effect stops the activity.
func (e Effect) Refuses() bool { return e != Alert && e != Disable }

// Detection names what was detected, in the words of the audit format.
type Detection string

const (
	NothingDetected    Detection = ""
	DeniedProcess      Detection = "explicitlyDeniedProcess"
	DeniedDNS          Detection = "explicitlyDeniedDNS"
	DeniedIP           Detection = "explicitlyDeniedIP"
	DeniedOutboundPort Detection = "explicitlyDeniedOutboundPort"
	DeniedListenPort   Detection = "explicitlyDeniedListeningPort"
	DeniedFile         Detection = "explicitlyDeniedFile"

	ModifiedProcess   Detection = "modifiedProcess"
	NewProcess        Detection = "unknownOriginBinary"
	AlteredBinary     Detection = "alteredBinary"
	CryptoMiner       Detection = "cryptoMinerProcess"
	ReverseShell      Detection = "reverseShell"
	LateralMovement   Detection = "lateralMovementProcess"
	WritablePath      Detection = "tmpfsProcess"
	SetUID            Detection = "suidBinaries"
	WebShell          Detection = "webShell"
	UnexpectedProcess Detection = "unexpectedProcess"

	CloudMetadata  Detection = "cloudMetadataProbing"
	VerticalPorts  Detection = "verticalPortScanning"
	HorizontalScan Detection = "horizontalPortScanning"
	RawTraffic     Detection = "suspiciousNetworkActivity"

	AdminAccount    Detection = "administrativeAccount"
	SSHAccess       Detection = "sshAccess"
	BinaryChanged   Detection = "execFileAccess"
	ELFChanged      Detection = "elfFileAccess" // elsewhere than where programs lie
	RegularFile     Detection = "regFileAccess"
	SecretFile      Detection = "secretFileAccess"
	EncryptedBinary Detection = "encryptedBinary"
	SuspiciousELF   Detection = "suspiciousELFHeader"
	ForeignELF      Detection = "malwareDownloaded"
	MalwareFile     Detection = "malwareFileCustom"
	// MalwareProcess is the start of such a file.
	MalwareProcess Detection = "malwareProcessCustom"

	Custom Detection = "customRule"
)

// Detections that the audit format has no word for.
const (
	DeniedUnix Detection = "explicitlyDeniedUnixSocket"
	// DeniedFamily is a socket whose addresses no list of destinations can name.
	DeniedFamily Detection = "explicitlyDeniedSocketFamily"
	Fileless     Detection = "filelessProcess"
	// Rebinding is a public name that leads to a private address.
	Rebinding Detection = "dnsRebinding"
	// Tunnel is data carried out in names.
	Tunnel Detection = "dnsTunnel"
	// EncryptedDNS is a resolver that nobody can look into.
	EncryptedDNS Detection = "encryptedDNS"
	MiningPool   Detection = "cryptoMinerPool"
	Unresolved   Detection = "unresolvedDestination"
	Unreadable   Detection = "unreadableCall"
	// Swapped is an exec that loaded another file than the judged one.
	Swapped Detection = "swappedProcess"
)

// Verdict is the answer to one Event. The zero Verdict allows nothing.
type Verdict struct {
	Allow     bool
	Effect    Effect    // what the rule asks; meaningful with a Detection
	Detection Detection // NothingDetected when there is nothing to tell
	Rule      string    // the rule that answered; "" if none matched
	Answer    string    // of a lookup that is refused: AnswerRefused, AnswerEmpty, an address; else there is no such name
	Reason    string    // for people: `"evil.test" is on the deny list`

	Malware string // of MalwareFile and MalwareProcess: the name on the list, "" if it has none

	// Of a Custom detection.
	Custom   string // its name
	Message  string // its message, macros replaced
	Incident bool   // more than an audit is asked for

	techniques string // of the custom rule, joined by commas
}

// Tell reports whether the verdict is worth a record.
func (v Verdict) Tell() bool { return v.Detection != NothingDetected }

// Workload is what a rule's scope is matched against.
type Workload struct {
	Image     string // as in the task definition, e.g. "nginx:1.27"
	Container string
	AppID     string
}
