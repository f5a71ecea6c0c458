package audit

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"appdefender/policy"
)

// The words are the reference's, and so is what is an incident.
func TestCategories(t *testing.T) {
	for d, c := range map[policy.Detection]string{
		policy.AlteredBinary: "alteredBinary", policy.CryptoMiner: "cryptoMiner", policy.AdminAccount: "backdoorAdministrativeAccount",
		policy.SSHAccess: "backdoorSSHAccess", policy.EncryptedBinary: "suspiciousBinary", policy.MalwareFile: "malware", policy.MalwareProcess: "malware",
		policy.ForeignELF: "suspiciousBinary", policy.SuspiciousELF: "suspiciousBinary", policy.ReverseShell: "reverseShell",
		policy.DeniedProcess: "", policy.ModifiedProcess: "", policy.DeniedDNS: "", policy.DeniedIP: "", policy.DeniedFile: "",
		policy.BinaryChanged: "", policy.SecretFile: "", policy.RegularFile: "",
	} {
		if got := category(policy.Verdict{Detection: d}); got != c {
			t.Errorf("%s: %q, want %q", d, got, c)
		}
	}
	if got := category(policy.Verdict{Detection: policy.Custom, Custom: "x"}); got != "" {
		t.Errorf("a custom rule that asks for an audit: %q", got)
	}
	if got := category(policy.Verdict{Detection: policy.Custom, Custom: "x", Incident: true}); got != "customRule" {
		t.Errorf("a custom rule that asks for an incident: %q", got)
	}
	var known struct {
		Enums map[string][]string `json:"enums"`
	}
	raw, err := os.ReadFile("testdata/enums.json")
	if err == nil {
		err = json.Unmarshal(raw, &known)
	}
	if err != nil {
		t.Fatal(err)
	}
	for d, c := range categories {
		if !slices.Contains(known.Enums["shared.IncidentCategory"], c) {
			t.Errorf("%s: %q is not a category of the reference", d, c)
		}
		if len(policy.Verdict{Detection: d}.Techniques()) == 0 {
			t.Errorf("%s: an incident without a technique", d)
		}
	}
}
