package learn

import (
	"net/netip"
	"path"
	"strconv"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// When several entries become one that covers more than was seen.
const (
	// fileSiblings is how many names of one folder stand for the folder.
	fileSiblings = 5
	// nameSiblings is how many names below one domain stand for all below it.
	nameSiblings = 5
	// addrSiblings is how many addresses of one /24 (IPv6: /64) stand for it.
	addrSiblings = 5
	// listenSiblings and outboundSiblings are how many ports of the kernel's
	// range (Linux's default, 32768 to 60999) stand for the range.
	listenSiblings   = 3
	outboundSiblings = 5

	ephemeralLow, ephemeralHigh = 32768, 60999
	ephemeralPorts              = "32768-60999"
)

// temporary are the folders where everybody makes files of passing names.
var temporary = map[string]bool{"/tmp": true, "/var/tmp": true, "/dev/shm": true}

// narrow are folders that no number of names in them may stand for: what lies
// there belongs to many, or decides what runs and who may. So is each folder
// right below /.
var narrow = map[string]bool{
	"/var/lib": true, "/var/log": true, "/var/cache": true, "/var/run": true, "/var/spool": true, "/var/mail": true, "/var/www": true,
	"/run/secrets": true, "/run/user": true, "/opt/bin": true,
}

// closed are folders below which each file needs an entry of its own.
var closed = []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr", "/etc", "/boot", "/root", "/proc", "/sys", "/dev"}

// mayGeneralise reports whether a folder may stand for all that is below it.
func mayGeneralise(dir string) bool {
	if temporary[dir] {
		return true
	}
	if !strings.HasPrefix(dir, "/") || strings.Count(dir, "/") < 2 || narrow[dir] || strings.Contains(dir, "/.ssh") || strings.Contains(dir, "*") {
		return false
	}
	if parent := path.Dir(dir); parent == "/home" { // a user's whole home
		return false
	}
	for _, c := range closed {
		if strings.HasPrefix(dir, c+"/") && !strings.HasPrefix(dir, "/dev/shm/") {
			return false
		}
	}
	return true
}

// maskFile puts a star where a path of a file or socket has a part that the
// next run will have another of. pid is that of who uses it.
func maskFile(p string, pid int) string { return mask(p, pid, false) }

// maskProgram is maskFile for a program. Its own name must say something: what
// has a random name is listed by it, and refused when it has another.
func maskProgram(p string) string { return mask(p, 0, true) }

func mask(p string, pid int, program bool) string {
	if p == "" || strings.Contains(p, "*") {
		return p
	}
	if p[0] != '/' {
		if p[0] == '@' && len(p) > 1 {
			if m := maskPart(p[1:], pid, true, true); strings.Trim(m, "*") != "" {
				return "@" + m
			}
		}
		return p
	}
	parts := strings.Split(p[1:], "/")
	literal := 0 // parts that say something, up to here
	inTemp := false
	for i, part := range parts {
		last := i == len(parts)-1
		m := maskPart(part, pid, last, inTemp)
		switch {
		case parts[0] == "proc" && (i == 1 || i == 3 && parts[2] == "task") && digits(part):
			m = "*"
		case strings.Trim(m, "*.-_") == "" && (literal < 2 && !inTemp || last && program):
			m = part // "/*" would be everything
		}
		parts[i] = m
		if m == part {
			literal++
		}
		inTemp = i < 2 && temporary["/"+strings.Join(parts[:i+1], "/")]
	}
	return "/" + strings.Join(parts, "/")
}

// maskPart masks one part of a path: the process's number, UUIDs, hashes, long
// numbers, the ends that mktemp and its like give, and in folders versions.
func maskPart(s string, pid int, last, inTemp bool) string {
	if i, n := findUUID(s); n > 0 {
		return s[:i] + "*" + maskPart(s[i+n:], pid, last, false)
	}
	if m, ok := maskTemp(s, inTemp); ok {
		return m
	}
	if !last {
		if m, ok := maskVersion(s); ok {
			return m
		}
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if !alnum(s[i]) {
			b.WriteByte(s[i])
			i++
			continue
		}
		j := i
		for j < len(s) && alnum(s[j]) {
			j++
		}
		run := s[i:j]
		if volatile(run) || pid > 1 && run == strconv.Itoa(pid) {
			run = "*"
		}
		b.WriteString(run)
		i = j
	}
	return b.String()
}

// maskTemp masks the names that sed -i, mktemp, Python's tempfile, Go and
// package managers make.
func maskTemp(s string, inTemp bool) (string, bool) {
	for _, prefix := range []string{"sed", "tmp.", "tmp", "go-build", "pip-", "npm-", "cc", "ccc"} {
		rest, ok := strings.CutPrefix(s, prefix)
		if !ok {
			continue
		}
		rest, ext, _ := strings.Cut(rest, ".")
		switch {
		case prefix == "tmp" && len(rest) == 8 && pythonName(rest),
			prefix != "tmp" && len(rest) == 6 && changes(rest) >= 2,
			prefix == "tmp." && len(rest) >= 6 && changes(rest) >= 2:
			if ext != "" {
				ext = "." + ext
			}
			return prefix + "*" + ext, true
		}
	}
	if !inTemp {
		return "", false
	}
	i := strings.LastIndexAny(s, ".-_") + 1
	if tail := s[i:]; len(tail) >= 6 && allAlnum(tail) && changes(tail) >= 2 {
		return s[:i] + "*", true
	}
	return "", false
}

// maskVersion puts a star in place of the first version such as 1.2 or 1.2.3.
func maskVersion(s string) (string, bool) {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' || i > 0 && (isDigit(s[i-1]) || s[i-1] == '.') {
			continue
		}
		j, dots := i, 0
		for j < len(s) && (isDigit(s[j]) || s[j] == '.' && j+1 < len(s) && isDigit(s[j+1])) {
			if s[j] == '.' {
				dots++
			}
			j++
		}
		if dots > 0 {
			return s[:i] + "*" + s[j:], true
		}
		i = j
	}
	return "", false
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// volatile reports whether a run of letters and digits is a hash or a number
// that counts or tells the time: 12 hexadecimals of both kinds, or 5 digits.
func volatile(run string) bool {
	if len(run) >= 5 && digits(run) {
		return true
	}
	if len(run) < 12 {
		return false
	}
	hasDigit := false
	for i := range len(run) {
		switch c := run[i]; {
		case isDigit(c):
			hasDigit = true
		case 'a' <= c && c <= 'f', 'A' <= c && c <= 'F':
		default:
			return false
		}
	}
	return hasDigit
}

// findUUID finds 8-4-4-4-12 hexadecimals.
func findUUID(s string) (at, n int) {
	const size = 36
	for i := 0; i+size <= len(s); i++ {
		if isUUID(s[i : i+size]) {
			return i, size
		}
	}
	return 0, 0
}

func isUUID(s string) bool {
	if s[8] != '-' {
		return false
	}
	for i := range len(s) {
		switch i {
		case 8, 13, 18, 23:
			if s[i] != '-' {
				return false
			}
		default:
			if !strings.ContainsRune("0123456789abcdefABCDEF", rune(s[i])) {
				return false
			}
		}
	}
	return true
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func alnum(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'z' }

func allAlnum(s string) bool {
	for i := range len(s) {
		if !alnum(s[i]) {
			return false
		}
	}
	return true
}

// pythonName reports whether s has only the characters of Python's tempfile.
func pythonName(s string) bool {
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// changes counts where s goes from one of lower case, upper case and digits to
// another: words have few.
func changes(s string) int {
	n, before := 0, byte(0)
	for i := range len(s) {
		var class byte
		switch c := s[i]; {
		case isDigit(c):
			class = 1
		case 'a' <= c && c <= 'z':
			class = 2
		case 'A' <= c && c <= 'Z':
			class = 3
		default:
			return 0
		}
		if before != 0 && class != before {
			n++
		}
		before = class
	}
	return n
}

// maskDomain puts a star in place of the labels of a name down to the last one
// that the next run will have another of, if all below what remains is one
// owner's.
func maskDomain(s string) string {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	if strings.ContainsAny(s, `\*`) {
		return s
	}
	labels := strings.Split(s, ".")
	for i := len(labels) - 2; i >= 0; i-- {
		if rest := strings.Join(labels[i+1:], "."); volatileLabel(labels[i]) && mayWiden(rest) {
			return "*." + rest
		}
	}
	return s
}

// redactedLabel stands where a label was a secret.
const redactedLabel = "redacted"

func volatileLabel(s string) bool {
	if s == redactedLabel || isHostOfAddress(s) {
		return true
	}
	if _, n := findUUID(s); n > 0 {
		return true
	}
	for run := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '-' || r == '_' }) {
		if volatile(run) {
			return true
		}
	}
	return false
}

// isHostOfAddress finds names such as ip-10-0-1-7.
func isHostOfAddress(s string) bool {
	parts := strings.Split(s, "-")
	if len(parts) < 4 {
		return false
	}
	_, err := netip.ParseAddr(strings.Join(parts[len(parts)-4:], "."))
	return err == nil
}

// mayWiden reports whether all below a domain belongs to one owner: it is
// what somebody registered, or below that. Names of addresses are so as well.
func mayWiden(domain string) bool {
	if domain == "in-addr.arpa" || domain == "ip6.arpa" {
		return true
	}
	own, err := publicsuffix.EffectiveTLDPlusOne(domain)
	return err == nil && own != "" && strings.Contains(domain, ".")
}

// widerAddr is the network that many addresses stand for.
func widerAddr(a netip.Addr) netip.Prefix {
	bits := 24
	if a.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(a, bits).Masked()
}

var carrierGrade = netip.MustParsePrefix("100.64.0.0/10")

// internet reports whether the judge holds ports against lists for an address;
// see package policy.
func internet(a netip.Addr) bool {
	a = plain(a)
	return !loopback(a) && !a.IsPrivate() && !carrierGrade.Contains(a) &&
		!a.IsLinkLocalUnicast() && !a.IsLinkLocalMulticast() && !a.IsInterfaceLocalMulticast()
}
