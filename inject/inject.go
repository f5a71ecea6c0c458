// Package inject makes a protected definition out of one that runs an
// application: every container then starts the Defender, which starts the
// original command, and one more container brings the Defender's program along.
//
//	appdefender ─ "/defender install /var/lib/appdefender" ─► volume ─┐ read-only
//	web ───────── "/var/lib/appdefender/defender run -- nginx" ◄──────┘ after the first has succeeded
//
// A definition is edited, not written anew: what is not ours stays as it is,
// byte for byte, known to us or not, and [Remove] gives the original back.
// What is not understood is an error with its path; no container is left
// unprotected unless the options name it.
//
// A definition becomes a tree that knows where each value stands (json.go,
// yaml.go) and is edited by cutting and inserting text (tree.go, encode.go).
// What protection is, and how it is taken out again, is said once (embed.go);
// a dialect says how a platform writes it
// (ecs.go, pods.go, compose.go). A Dockerfile is no tree and goes its own way
// (dockerfile.go).
package inject

import "time"

// What a protected definition says, and what the program in it must agree to.
const (
	// Sidecar is the container that brings the program.
	Sidecar = "appdefender"
	// Dir is where its volume is, in every container.
	Dir = "/var/lib/appdefender"
	// Program is the Defender's in a protected container.
	Program = Dir + "/defender"
	// caFile and policyFile are written by "defender install" beside it.
	caFile     = Dir + "/ca.pem"
	policyFile = Dir + "/policy.yaml"
)

// What a container with a Console does unless the options say otherwise.
const (
	// DefaultDataDir is a folder that nearly every image lets everybody make.
	// It lasts as long as the container does, restarts included. Where it
	// cannot be made, the Defender says so and works from memory.
	DefaultDataDir = "/tmp/appdefender"
	// DefaultWait is much longer than a Console takes to answer, and not so
	// long that an application waits for one that is away until its platform
	// gives up.
	DefaultWait = 15 * time.Second
)

// Environment variables.
const (
	envConsole   = "DEFENDER_CONSOLE"
	envToken     = "DEFENDER_TOKEN"
	envTokenFile = "DEFENDER_TOKEN_FILE"
	envCA        = "DEFENDER_CA"
	envPolicy    = "DEFENDER_POLICY"
	envAppID     = "DEFENDER_APP_ID"
	envContainer = "DEFENDER_CONTAINER"
	envImage     = "DEFENDER_IMAGE"
	envDataDir   = "DEFENDER_DATA_DIR"
	envWait      = "DEFENDER_WAIT_FOR_POLICY"
	envOnFailure = "DEFENDER_ON_FAILURE"
	envFiles     = "DEFENDER_FILE_MONITORING"

	// Of the sidecar alone: the text of the two files. So the definition holds
	// each once, and needs no volume of its own for them.
	envInstallCA     = "DEFENDER_INSTALL_CA"
	envInstallPolicy = "DEFENDER_INSTALL_POLICY"
)

// ours are the variables that embedding sets in a container. Others that begin
// with DEFENDER_ are the owner's, to set switches of "defender run".
var ours = map[string]bool{
	envConsole: true, envToken: true, envTokenFile: true, envCA: true, envPolicy: true,
	envAppID: true, envContainer: true, envImage: true, envDataDir: true, envWait: true,
	envOnFailure: true, envFiles: true,
}

const tracing = "SYS_PTRACE"
