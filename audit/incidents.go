package audit

import "appdefender/policy"

// Categories of incidents, in the reference's words.
const (
	categoryCustom    = "customRule"
	categoryBinary    = "suspiciousBinary"
	categoryMiner     = "cryptoMiner"
	categoryScan      = "portScanning"
	categoryHijacked  = "hijackedProcess"
	categoryExecution = "executionFlowHijackAttempt"
	categoryMalware   = "malware"
)

// categories are the detections that are more than an audit: what they find
// does not happen to an application that is left alone. What is on a list, or
// was merely modified, is an audit only.
var categories = map[policy.Detection]string{
	policy.AlteredBinary:   "alteredBinary",
	policy.CryptoMiner:     categoryMiner,
	policy.MiningPool:      categoryMiner,
	policy.ReverseShell:    "reverseShell",
	policy.LateralMovement: "lateralMovement",
	policy.VerticalPorts:   categoryScan,
	policy.HorizontalScan:  categoryScan,
	policy.WebShell:        categoryHijacked,
	policy.Fileless:        categoryBinary,
	policy.Swapped:         categoryExecution,
	policy.CloudMetadata:   "cloudProvider",
	policy.Tunnel:          "dataExfiltration",
	policy.AdminAccount:    "backdoorAdministrativeAccount",
	policy.SSHAccess:       "backdoorSSHAccess",
	policy.EncryptedBinary: categoryBinary,
	policy.SuspiciousELF:   categoryBinary,
	policy.ForeignELF:      categoryBinary,
	policy.MalwareFile:     categoryMalware,
	policy.MalwareProcess:  categoryMalware,
}

// category is that of the incident that a verdict makes, "" for an audit. A
// custom rule says itself whether it makes one.
func category(v policy.Verdict) string {
	switch {
	case v.Incident:
		return categoryCustom
	case v.Custom != "":
		return ""
	}
	return categories[v.Detection]
}
