package policy

import "strings"

// techniques are the ATT&CK techniques that a detection hints at, in the words
// of the audit format (https://attack.mitre.org). What is on a list has none:
// that it is there says nothing of an attack.
var techniques = map[Detection][]string{
	ModifiedProcess:   {"foreignBinaryExecution"},
	NewProcess:        {"foreignBinaryExecution", "ingressToolTransfer"},
	AlteredBinary:     {"hijackExecutionFlow", "masquerading"},
	CryptoMiner:       {"resourceHijacking"},
	MiningPool:        {"resourceHijacking"},
	ReverseShell:      {"commandAndControlGeneral", "applicationExploitRCE"},
	LateralMovement:   {"exploitationOfRemoteServices", "lateralToolTransfer"},
	Fileless:          {"foreignBinaryExecution", "impairDefences"},
	WritablePath:      {"foreignBinaryExecution"},
	SetUID:            {"abuseElevationControlMechanisms"},
	WebShell:          {"webShell", "applicationExploitRCE"},
	UnexpectedProcess: {"nativeBinaryExecution"},
	Swapped:           {"hijackExecutionFlow"},
	CloudMetadata:     {"cloudInstanceMetadataAPI"},
	VerticalPorts:     {"networkServiceScanning"},
	HorizontalScan:    {"networkServiceScanning"},
	RawTraffic:        {"manInTheMiddle"},
	Tunnel:            {"exfiltrationGeneral", "commandAndControlGeneral"},
	EncryptedDNS:      {"commandAndControlGeneral"},
	Unresolved:        {"commandAndControlGeneral"},
	Rebinding:         {"exploitPublicFacingApplication"},
	AdminAccount:      {"accountManipulation", "createAccount"},
	SSHAccess:         {"accountManipulation"},
	BinaryChanged:     {"hijackExecutionFlow"},
	ELFChanged:        {"hijackExecutionFlow"},
	RegularFile:       {"manInTheMiddle"},
	SecretFile:        {"unsecuredCredentials"},
	EncryptedBinary:   {"obfuscatedFiles"},
	SuspiciousELF:     {"obfuscatedFiles"},
	ForeignELF:        {"ingressToolTransfer"},
	MalwareFile:       {"ingressToolTransfer"},
	MalwareProcess:    {"foreignBinaryExecution"},
}

// Techniques returns the ATT&CK techniques of what was detected, nil if none
// are known: those of its kind, or of the custom rule.
func (v Verdict) Techniques() []string {
	if v.techniques != "" {
		return strings.Split(v.techniques, ",")
	}
	return techniques[v.Detection]
}
