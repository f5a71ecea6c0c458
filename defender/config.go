package defender

import (
	"appdefender/dnsproxy"
	"appdefender/policy"
)

// Config is what a Defender is told from outside. Its zero value protects with
// a policy that refuses everything.
type Config struct {
	Policy   *policy.Policy // nil refuses everything
	Workload policy.Workload
	Version  string

	// Argv is the target's command; its first element is looked up in PATH.
	// It must be the end of os.Args.
	Argv []string

	Console Console // where policy comes from and audits go

	// AuditLog is a file for records, one JSON object a line, "-" or "" for
	// standard error, "none" for nothing.
	AuditLog string

	FailOpen bool // let the target run where it cannot be supervised
	// Supervisor is the backend, one of supervisor.Backend, or "auto" or "" for
	// the best that works here.
	Supervisor string
	KeepPtrace bool       // leave CAP_SYS_PTRACE to the target
	ResolvConf ResolvConf // what to do with /etc/resolv.conf
	// Upstreams are asked in place of the machine's own name servers, or
	// beside them if all are for some names alone.
	Upstreams []dnsproxy.Upstream
	// FileMonitoring stops the calls that change files, so that rules can be
	// about them. It is fixed at the start; without it they cost nothing.
	FileMonitoring bool
	DryRun         bool // refuse nothing, tell what would be refused
	// Forensics is how many bytes of what happened in the container are
	// remembered for a Console; 0 remembers nothing.
	Forensics int
	// Learn is a file for the least policy that would have refused nothing of
	// what the target was let do, "-" for standard error, "" for none.
	Learn       string
	KeepSecrets bool // leave passwords and the like in what is recorded
	// Warnings are what somebody should know of how the Defender was started.
	// They become records.
	Warnings []string
}

// ResolvConf says whether /etc/resolv.conf may be rewritten.
type ResolvConf string

const (
	// ResolvAuto rewrites it in a container: where we are process 1, or the
	// file is a mount of its own.
	ResolvAuto    ResolvConf = "auto"
	ResolvRewrite ResolvConf = "rewrite"
	ResolvLeave   ResolvConf = "leave"
)
