package defender

import (
	"slices"
	"strings"
)

// place is a platform that containers run on, as far as it decides how what
// "defender check" misses can be had.
type place struct {
	name string
	sign string // a variable it gives to every container; "A=B" with this value
	// how a capability is added, and which may be: nil is any.
	how     string
	allowed []string
	// listener says how to get a kernel with seccomp listeners.
	listener string
}

// places are looked through in this order: a Fargate task has both signs.
//
// AWS: "Amazon ECS environment variables" and KernelCapabilities of the ECS
// API. Google: "Container runtime contract". Kubernetes: "Service" (variables).
var places = []place{
	{name: "ECS on Fargate", sign: "AWS_EXECUTION_ENV=AWS_ECS_FARGATE",
		how: "in linuxParameters.capabilities.add of the container definition", allowed: []string{"SYS_PTRACE"}},
	{name: "ECS", sign: "ECS_CONTAINER_METADATA_URI_V4", how: "in linuxParameters.capabilities.add of the container definition"},
	{name: "Cloud Run", sign: "K_SERVICE", allowed: []string{}, listener: secondGeneration},
	{name: "Cloud Run", sign: "CLOUD_RUN_JOB", allowed: []string{}, listener: secondGeneration},
	{name: "Kubernetes", sign: "KUBERNETES_SERVICE_HOST",
		how:      "in securityContext.capabilities.add of the container, where the namespace's policy lets it (EKS on Fargate does not)",
		listener: "run the pod without a runtimeClassName for gVisor"},
}

const secondGeneration = "run the service in the second generation (annotation run.googleapis.com/execution-environment: gen2)"

// elsewhere is the place that has no sign.
var elsewhere = place{
	how: "in linuxParameters.capabilities.add of an ECS container definition (Fargate takes\n" +
		"SYS_PTRACE alone), in securityContext.capabilities.add of a Kubernetes container, or with --cap-add",
}

// placeOf finds the place by an environment.
func placeOf(environ []string) place {
	i := slices.IndexFunc(places, func(p place) bool {
		return slices.ContainsFunc(environ, func(v string) bool { return v == p.sign || strings.HasPrefix(v, p.sign+"=") })
	})
	if i < 0 {
		return elsewhere
	}
	return places[i]
}

// capability is how a cure begins that a capability is.
const capability = "add the capability "

// remedy returns the cure as it can be had here, "" if it cannot.
func (p place) remedy(cure string) string {
	name, ok := strings.CutPrefix(cure, capability)
	if ok && p.allowed != nil && !slices.Contains(p.allowed, name) {
		return ""
	}
	return cure
}
