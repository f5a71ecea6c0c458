package scrub

import "strings"

// Bytes that a token may consist of.
const (
	alnum   = iota // letters and digits
	hex            // lower-case hexadecimals
	caps           // upper-case letters and digits
	base64u        // letters, digits, - and _
	dotted         // base64u and .
)

// shape is a token that is known by its look.
type shape struct {
	prefix string
	of     int
	min    int // bytes after the prefix
	exact  bool
}

// shapes are the tokens of well-known services.
var shapes = []shape{
	{prefix: "AKIA", of: caps, min: 16, exact: true}, // AWS
	{prefix: "ASIA", of: caps, min: 16, exact: true},
	{prefix: "ABIA", of: caps, min: 16, exact: true},
	{prefix: "ACCA", of: caps, min: 16, exact: true},
	{prefix: "AIza", of: base64u, min: 35}, // Google
	{prefix: "ya29.", of: dotted, min: 20},
	{prefix: "GOCSPX-", of: base64u, min: 20},
	{prefix: "1//0", of: base64u, min: 30},
	{prefix: "ghp_", of: alnum, min: 30}, // GitHub
	{prefix: "gho_", of: alnum, min: 30},
	{prefix: "ghu_", of: alnum, min: 30},
	{prefix: "ghs_", of: alnum, min: 30},
	{prefix: "ghr_", of: alnum, min: 30},
	{prefix: "github_pat_", of: base64u, min: 22},
	{prefix: "glpat-", of: dotted, min: 18}, // GitLab
	{prefix: "glptt-", of: base64u, min: 18},
	{prefix: "gldt-", of: base64u, min: 18},
	{prefix: "glrt-", of: dotted, min: 18},
	{prefix: "glcbt-", of: base64u, min: 18},
	{prefix: "xoxa-", of: base64u, min: 10}, // Slack
	{prefix: "xoxb-", of: base64u, min: 10},
	{prefix: "xoxe-", of: base64u, min: 10},
	{prefix: "xoxo-", of: base64u, min: 10},
	{prefix: "xoxp-", of: base64u, min: 10},
	{prefix: "xoxr-", of: base64u, min: 10},
	{prefix: "xoxs-", of: base64u, min: 10},
	{prefix: "xapp-", of: base64u, min: 20},
	{prefix: "sk_live_", of: alnum, min: 10}, // Stripe
	{prefix: "sk_test_", of: alnum, min: 10},
	{prefix: "rk_live_", of: alnum, min: 10},
	{prefix: "rk_test_", of: alnum, min: 10},
	{prefix: "whsec_", of: alnum, min: 20},
	{prefix: "npm_", of: alnum, min: 36}, // package registries
	{prefix: "pypi-", of: base64u, min: 40},
	{prefix: "dckr_pat_", of: base64u, min: 20},
	{prefix: "rubygems_", of: hex, min: 40},
	{prefix: "SG.", of: dotted, min: 40},       // SendGrid
	{prefix: "key-", of: hex, min: 32},         // Mailgun
	{prefix: "xkeysib-", of: base64u, min: 40}, // Brevo
	{prefix: "sk-", of: base64u, min: 32},      // OpenAI and others
	{prefix: "hf_", of: alnum, min: 30},        // Hugging Face
	{prefix: "hvs.", of: base64u, min: 24},     // Vault
	{prefix: "hvb.", of: base64u, min: 24},
	{prefix: "dop_v1_", of: hex, min: 40}, // DigitalOcean
	{prefix: "dapi", of: hex, min: 32},    // Databricks
	{prefix: "shpat_", of: hex, min: 32},  // Shopify
	{prefix: "shpss_", of: hex, min: 32},
	{prefix: "sq0atp-", of: base64u, min: 20}, // Square
	{prefix: "sq0csp-", of: base64u, min: 20},
	{prefix: "glsa_", of: base64u, min: 30}, // Grafana
	{prefix: "NRAK-", of: caps, min: 20},    // New Relic
	{prefix: "lin_api_", of: alnum, min: 30},
	{prefix: "tskey-", of: base64u, min: 20}, // Tailscale
	{prefix: "AGE-SECRET-KEY-1", of: caps, min: 50},
	{prefix: "EAACEdEose0cBA", of: alnum, min: 10}, // Facebook
}

// byFirst are the shapes by their first byte.
var byFirst = func() (by [256][]shape) {
	for _, s := range shapes {
		by[s.prefix[0]] = append(by[s.prefix[0]], s)
	}
	return by
}()

// token returns the length of the token that s begins with, or 0.
func token(s string) int {
	for _, sh := range byFirst[s[0]] {
		if !strings.HasPrefix(s, sh.prefix) {
			continue
		}
		n := run(s[len(sh.prefix):], sh.of)
		if n >= sh.min && (!sh.exact || n == sh.min && (len(s) == len(sh.prefix)+n || !isAlnum(s[len(sh.prefix)+n]))) {
			return len(sh.prefix) + n
		}
	}
	return 0
}

// jwt returns the length of the JSON Web Token that s begins with, whose first
// part has head bytes, or 0. The third part, the signature, may be cut off or
// empty (RFC 7519, section 6).
func jwt(s string, head int) int {
	if head < 10 || head == len(s) || s[head] != '.' {
		return 0
	}
	n := head + 1
	body := run(s[n:], base64u)
	if body < 8 {
		return 0
	}
	n += body
	for n < len(s) && s[n] == '.' { // five parts, if it is encrypted
		n += 1 + run(s[n+1:], base64u)
	}
	return n
}

// run returns how many bytes of a kind s begins with.
func run(s string, of int) int {
	for i := range len(s) {
		c := s[i]
		ok := isDigit(c)
		switch of {
		case hex:
			ok = ok || c >= 'a' && c <= 'f'
		case caps:
			ok = ok || isUpper(c)
		case alnum:
			ok = ok || isUpper(c) || isLower(c)
		case base64u, dotted:
			ok = ok || isUpper(c) || isLower(c) || c == '-' || c == '_' || of == dotted && c == '.'
		}
		if !ok {
			return i
		}
	}
	return len(s)
}

// awsSecret reports whether s has the form of AWS's secret access keys.
func awsSecret(s string) bool {
	if len(s) != 40 {
		return false
	}
	for i := range len(s) {
		if !isAlnum(s[i]) && s[i] != '/' && s[i] != '+' {
			return false
		}
	}
	return true
}
