package policy

import (
	"regexp"
	"strings"
	"testing"
)

func TestLaunch(t *testing.T) {
	const deny, miss = " is on the deny list", " is not on the allow list"
	var (
		mkdir    = Program{Typed: "/bin/mkdir", Path: "/usr/bin/mkdir"}
		shell    = Program{Typed: "/bin/sh", Path: "/usr/bin/dash"}
		script   = Program{Typed: "/app/run.sh", Path: "/app/run.sh", Interpreters: list("/usr/bin/dash")}
		chain    = Program{Typed: "/app/x", Path: "/app/x", Interpreters: list("/app/wrap", "/usr/bin/dash")}
		applet   = Program{Typed: "/bin/mkdir", Path: "/bin/busybox", Applet: "mkdir"}
		busybox  = Program{Typed: "/bin/busybox", Path: "/bin/busybox", Applet: "mkdir"}
		loader   = Program{Typed: "/lib64/ld-linux.so.2", Path: "/usr/lib/ld-2.so", Loaded: "/tmp/evil"}
		loadedLs = Program{Typed: "/lib64/ld-linux.so.2", Path: "/usr/lib/ld-2.so", Loaded: "/usr/bin/ls"}
		ldScript = Program{Typed: "/tmp/s", Path: "/tmp/s", Interpreters: list("/usr/lib/ld-2.so"), Loaded: "/tmp/evil"}
		fileless = Program{Typed: "/proc/self/fd/3"}
		unknown  = Program{}
	)
	for _, c := range []struct {
		name        string
		allow, deny []string
		program     Program
		reason      string // "" is allowed
	}{
		{"by name", nil, list("mkdir"), mkdir, `"/bin/mkdir"` + deny + " (mkdir)"},
		{"by typed path", nil, list("/bin/mkdir"), mkdir, `"/bin/mkdir"` + deny},
		{"by resolved path", nil, list("/usr/bin/mkdir"), mkdir, `"/usr/bin/mkdir"` + deny},
		{"by the name of a link", nil, list("sh"), shell, `"/bin/sh"` + deny + " (sh)"},
		{"by the name behind a link", nil, list("dash"), shell, `"/usr/bin/dash"` + deny + " (dash)"},
		{"another name", nil, list("mkdi", "kdir", "mkdirs", "bin"), mkdir, ""},
		{"another letter case", nil, list("MKDIR"), mkdir, ""},
		{"name pattern", nil, list("mk*"), mkdir, `"/bin/mkdir"` + deny + " (mk*)"},
		{"name pattern is no path", nil, list("usr*"), mkdir, ""},
		{"path pattern", nil, list("/usr/bin/*"), mkdir, `"/usr/bin/mkdir"` + deny + " (/usr/bin/*)"},
		{"path pattern across slashes", nil, list("/usr/*"), mkdir, `"/usr/bin/mkdir"` + deny + " (/usr/*)"},
		{"path pattern with a leading star", nil, list("*/mkdir"), mkdir, `"/bin/mkdir"` + deny + " (*/mkdir)"},
		{"everything", nil, list("*"), mkdir, `"/bin/mkdir"` + deny + " (*)"},
		{"dots typed around it", nil, list("/bin/sh"), Program{Typed: "/usr/..//bin/./sh", Path: "/usr/bin/dash"}, `"/usr/..//bin/./sh"` + deny + " (/bin/sh)"},
		{"renamed copy", nil, list("mkdir"), Program{Typed: "/tmp/x", Path: "/tmp/x"}, ""}, // names are only names

		{"interpreter", nil, list("dash"), script, `interpreter "/usr/bin/dash"` + deny + " (dash)"},
		{"interpreter by path", nil, list("/usr/bin/dash"), script, `interpreter "/usr/bin/dash"` + deny},
		{"middle of a chain", nil, list("wrap"), chain, `interpreter "/app/wrap"` + deny + " (wrap)"},
		{"end of a chain", nil, list("dash"), chain, `interpreter "/usr/bin/dash"` + deny + " (dash)"},
		{"script itself", nil, list("run.sh"), script, `"/app/run.sh"` + deny + " (run.sh)"},
		{"applet by link", nil, list("mkdir"), applet, `"/bin/mkdir"` + deny + " (mkdir)"},
		{"applet by argument", nil, list("mkdir"), busybox, `applet "mkdir"` + deny},
		{"multi-call binary", nil, list("busybox"), applet, `"/bin/busybox"` + deny + " (busybox)"},
		{"behind a loader", nil, list("evil"), loader, `"/tmp/evil"` + deny + " (evil)"},
		{"behind a loader, by path", nil, list("/tmp/*"), loader, `"/tmp/evil"` + deny + " (/tmp/*)"},
		{"the loader", nil, list("ld-*"), loader, `"/lib64/ld-linux.so.2"` + deny + " (ld-*)"},

		{"allowed by name", list("mkdir"), nil, mkdir, ""},
		{"allowed by typed path", list("/bin/mkdir"), nil, mkdir, ""},
		{"allowed by resolved path", list("/usr/bin/mkdir"), nil, mkdir, ""},
		{"allowed by the name of a link", list("sh"), nil, shell, ""},
		{"not allowed", list("ls"), nil, mkdir, `"/usr/bin/mkdir"` + miss},
		{"another path", list("/opt/mkdir"), nil, mkdir, `"/usr/bin/mkdir"` + miss},
		{"dots typed out of a pattern", list("/usr/bin/*"), nil, Program{Typed: "/usr/bin/../../tmp/x", Path: "/tmp/x"}, `"/tmp/x"` + miss},
		{"dots typed, allowed by name", list("x"), nil, Program{Typed: "/usr/bin/../../tmp/x", Path: "/tmp/y"}, ""},
		{"two dots in a name", list("/opt/*"), nil, Program{Typed: "/opt/a..b", Path: "/mnt/a"}, ""},

		{"allowed script", list("/app/run.sh"), nil, script, ""},
		{"allowed interpreter", list("dash"), nil, script, ""},
		{"allowed end of a chain", list("dash"), nil, chain, ""},
		{"allowed middle of a chain", list("wrap"), nil, chain, `"/app/x", run by "/usr/bin/dash",` + miss},
		{"neither script nor interpreter", list("ls"), nil, script, `"/app/run.sh", run by "/usr/bin/dash",` + miss},

		{"allowed applet, linked", list("mkdir"), nil, applet, ""},
		{"allowed applet, as argument", list("mkdir"), nil, busybox, ""},
		{"allowed applet by its link", list("/bin/mkdir"), nil, applet, ""},
		{"link of another applet", list("/bin/ls"), nil, Program{Typed: "/bin/ls", Path: "/bin/busybox", Applet: "nc"}, `applet "nc" of "/bin/busybox"` + miss},
		{"name of another applet", list("ls"), nil, Program{Typed: "/bin/ls", Path: "/bin/busybox", Applet: "nc"}, `applet "nc" of "/bin/busybox"` + miss},
		{"allowed multi-call binary", list("busybox"), nil, applet, ""},
		{"applet not allowed", list("ls"), nil, busybox, `applet "mkdir" of "/bin/busybox"` + miss},

		{"loader, allowed program", list("ls"), nil, loadedLs, ""},
		{"loader, other program", list("ls"), nil, loader, `"/tmp/evil", loaded by "/usr/lib/ld-2.so",` + miss},
		{"loader covered by a pattern", list("/usr/*", "ld-*"), nil, loader, `"/tmp/evil", loaded by "/usr/lib/ld-2.so",` + miss},
		{"loader listed", list("/usr/lib/ld-2.so"), nil, loader, ""},
		{"loader listed by name", list("ld-2.so"), nil, loader, ""},
		{"loader named as an allowed program", list("ls"), nil, Program{Typed: "/tmp/ls", Path: "/usr/lib/ld-2.so", Loaded: "/tmp/evil"}, `"/tmp/evil", loaded by "/usr/lib/ld-2.so",` + miss},
		{"loader as an interpreter", list("/usr/*"), nil, ldScript, `"/tmp/s", run by "/usr/lib/ld-2.so",` + miss},
		{"everything allowed, through a loader", list("*"), nil, loader, ""},

		{"deny beats allow", list("*"), list("mkdir"), mkdir, `"/bin/mkdir"` + deny + " (mkdir)"},
		{"deny beats allow, by another name", list("/usr/bin/dash"), list("/bin/sh"), shell, `"/bin/sh"` + deny},
		{"denied applet of an allowed binary", list("busybox"), list("mkdir"), busybox, `applet "mkdir"` + deny},

		{"fileless, not listed", list("ls"), nil, fileless, `"/proc/self/fd/3"` + miss},
		{"fileless, all allowed", list("*"), nil, fileless, ""},
		{"nothing known, deny list", nil, list("ls"), unknown, ""},
		{"nothing known, all denied", nil, list("*"), unknown, "a program without a name" + deny + " (*)"},
		{"nothing known, allow list", list("ls"), nil, unknown, "a program without a name" + miss},
		{"nothing known, all allowed", list("*"), nil, unknown, "a program without a name" + miss},
		{"empty lists", nil, nil, mkdir, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := compile(t, Rule{Processes: &ProcessesSection{Effect: new(Prevent), Allow: c.allow, Deny: c.deny}})
			check(t, e.Decide(&Event{Kind: Launch, Program: c.program}), DeniedProcess, c.reason)
		})
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("*a*b*", "xaybz")
	f.Add("/usr/bin/*", "/usr/bin/ls")
	f.Add("**", "")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 64 || strings.ContainsFunc(pattern+s, func(c rune) bool { return c >= 0x80 }) {
			return
		}
		parts := strings.Split(pattern, "*")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		naive := regexp.MustCompile(`(?s)\A` + strings.Join(parts, ".*") + `\z`)
		if got, want := glob(pattern, s), naive.MatchString(s); got != want {
			t.Errorf("glob(%q, %q) = %t, want %t", pattern, s, got, want)
		}
	})
}
