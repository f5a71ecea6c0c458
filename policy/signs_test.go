package policy

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

// The plain reading of what signs.go looks for. It is slow, and says what is
// meant.

var (
	plainStratum = regexp.MustCompile(`(?:^|[^a-zA-Z0-9+])(?i:stratum)[a-zA-Z0-9+]*://`)
	plainHost    = regexp.MustCompile(`[a-zA-Z0-9.-]*\z`)
	plainDials   = regexp.MustCompile(`ocket|fsockopen|/inet[46]?/(?:tcp|udp)/|net\.connect`)
	plainDialled = regexp.MustCompile(`/dev/(?:tcp|udp)/`)
)

func plainSigns(arg string) (found signs) {
	if plainStratum.MatchString(arg) {
		return signs{stratum: true}
	}
	first := len(arg)
	for _, option := range minerOptions {
		if at := strings.Index(arg, option.least); at >= 0 && at < first {
			first, found.option = at, option.least+option.rest
		}
	}
	for at := range len(arg) - 1 {
		if arg[at] != ':' || !digit(arg[at+1]) {
			continue
		}
		labels := strings.Split(plainHost.FindString(arg[:at]), ".")
		if len(labels) < 2 {
			continue
		}
		domain := strings.Join(labels[len(labels)-2:], ".")
		if _, ok := pools.names[strings.ToLower(domain)]; ok {
			found.pool = domain
			break
		}
	}
	return found
}

func plainKnows(set *nameSet, name string) bool {
	name = strings.ToLower(name)
	_, as := set.names[name]
	_, versioned := set.names[strings.TrimRight(name, "0123456789.-")]
	return as || versioned
}

// agree holds what is quick against the plain reading.
func agree(t *testing.T, text string) {
	t.Helper()
	got, want := minerSigns(text), plainSigns(text)
	if want.stratum { // with it nothing else is looked for
		got.option, got.pool = "", ""
	}
	if got != want {
		t.Errorf("minerSigns(%q) = %+v, want %+v", text, got, want)
	}
	if got, want := dialsByName(text), plainDialled.MatchString(text); got != want {
		t.Errorf("dialsByName(%q) = %t", text, got)
	}
	if got, want := dials(text), plainDials.MatchString(text); got != want {
		t.Errorf("dials(%q) = %t", text, got)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r >= 0x80 }) || len(text) > 48 {
		return // of no name of ours, and ToLower knows other letters
	}
	for _, set := range allNames {
		if got, want := knows(set, text), plainKnows(set, text); got != want {
			t.Errorf("knows(…, %q) = %t", text, got)
		}
	}
}

var allNames = []*nameSet{shells, interpreters, servers, packageManagers, lateralTools, miners, relays, socats}

// hidden are texts to find, and some that are almost that.
var hidden = []string{
	"stratum+tcp://", "STRATUM2+ssl://x", "stratum://", "stratu://", "xstratum://", "+stratum://", "://", ":/", ":",
	"pool.supportxmr.com:3333", "zpool.ca:1", "c3pool.org:0", "xmr.F2Pool.Com:9", "nosupportxmr.com:1", "supportxmr.com:", "supportxmr.com.:1", "a.com:1",
	"--donate-level", "--donate-l=1", "---donate-level", "--donate", "--randomx-no-numa", "--coin monero", "--coin=mone", "--DONATE-LEVEL", "--", "-", "--a",
	"/dev/tcp/", "/dev/udp/1", "/dev/tcp", "dev/tcp/", "/dev//dev/tcp/", "v/", "/DEV/TCP/",
	"socket", "Socket", "ock", "ocke", "fsockopen", "sockopen", "/inet/tcp", "/inet/inet/tcp/", "/inet4/udp/", "/inet6/tcp/", "6/tcp/", "net.connect", "net.con", "nn", "ck",
	"xmrig", "XMRig-6.2", "python3.12", "sh", "s", "x7", "t-rex", "t-", "nc.", "-", "7", "Rscript", "botb",
}

// TestSigns puts what is looked for at every place of a text of every length
// that matters to eight bytes at a time, among bytes that are next to what is
// looked for and mislead quick ways to look.
func TestSigns(t *testing.T) {
	for _, what := range hidden {
		for _, pad := range []string{"a", " ", ":", "-", "/", ".", ";", ",", "\x00", "\x80", "\xba", "\xad", "\xff", ":1", "--", "v/", "t/", "ck", "nn"} {
			for before := range 18 {
				for _, after := range []int{0, 1, 7, 8, 9, 16} {
					agree(t, strings.Repeat(pad, before)+what+strings.Repeat(pad, after))
				}
			}
		}
	}
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same each time
	for range 20_000 {
		var text strings.Builder
		for range r.IntN(8) {
			if what := hidden[r.IntN(len(hidden))]; r.IntN(2) == 0 {
				text.WriteString(what[:r.IntN(len(what)+1)])
			} else {
				text.WriteString(what)
			}
			for range r.IntN(4) {
				text.WriteByte(byte(r.IntN(256)))
			}
		}
		agree(t, text.String())
	}
}

func TestNameSets(t *testing.T) {
	for _, set := range append(allNames, pools) {
		for name := range set.names {
			if len(name) < 2 || strings.ToLower(name) != name {
				t.Errorf("%q is no name that would be found", name)
			}
			if set != pools && (!knows(set, name) || !knows(set, strings.ToUpper(name))) {
				t.Errorf("%s is not found", name)
			}
		}
	}
}

func FuzzSigns(f *testing.F) {
	for _, what := range hidden {
		f.Add("1234567" + what + "1234567")
	}
	f.Fuzz(agree)
}
