package policy

import (
	"slices"
	"strings"
	"testing"
)

// The words are the reference's, and every detection but those of lists has one.
func TestTechniques(t *testing.T) {
	words := strings.Fields(`exploitationForPrivilegeEscalation exploitPublicFacingApplication applicationExploitRCE networkServiceScanning
		endpointDenialOfService exfiltrationGeneral systemNetworkConfigurationDiscovery unsecuredCredentials credentialDumping
		systemInformationDiscovery systemNetworkConnectionDiscovery systemUserDiscovery accountDiscovery cloudInstanceMetadataAPI
		accessKubeletMainAPI queryKubeletReadonlyAPI accessKubernetesAPIServer softwareDeploymentTools ingressToolTransfer
		lateralToolTransfer commandAndControlGeneral resourceHijacking manInTheMiddle nativeBinaryExecution foreignBinaryExecution
		createAccount accountManipulation abuseElevationControlMechanisms supplyChainCompromise obfuscatedFiles hijackExecutionFlow
		impairDefences scheduledTaskJob exploitationOfRemoteServices eventTriggeredExecution accountAccessRemoval privilegedContainer
		writableVolumes execIntoContainer softwareDiscovery createContainer kubernetesSecrets fileAndDirectoryDiscovery masquerading
		webShell compileAfterDelivery`)
	for d, list := range techniques {
		for _, technique := range list {
			if !slices.Contains(words, technique) {
				t.Errorf("%s: %q is not a technique", d, technique)
			}
		}
	}
	none := []Detection{DeniedProcess, DeniedDNS, DeniedUnix, DeniedFamily, DeniedIP, DeniedOutboundPort, DeniedListenPort, DeniedFile, Unreadable, Custom}
	check := func(d Detection) {
		if (len(techniques[d]) == 0) != slices.Contains(none, d) {
			t.Errorf("%s has %q", d, techniques[d])
		}
	}
	for i := range processChecks {
		check(processChecks[i].detection)
	}
	for i := range networkChecks {
		check(networkChecks[i].detection)
	}
	for i := range dnsChecks {
		check(dnsChecks[i].detection)
	}
	for i := range fileChecks {
		check(fileChecks[i].detection)
	}
	for _, d := range append(none, Unresolved, Swapped) {
		check(d)
	}
	if got := (Verdict{Detection: CryptoMiner}).Techniques(); !slices.Equal(got, list("resourceHijacking")) {
		t.Errorf("got %q", got)
	}
}
