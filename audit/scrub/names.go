package scrub

import "strings"

// maxName bounds the length of a name that a secret is given under.
const maxName = 64

// secretWords are words that name a secret, alone or as part of a name.
var secretWords = set(`password passwd passphrase passcode pass pwd pw secret secrets token apikey credential
	credentials creds jwt bearer psk otp authkey authtoken accesskey secretkey privatekey accountkey sharedaccesskey
	encryptionkey masterkey signingkey sshkey masterauth passin passout authorization cookie`)

// secretEnds are what such a word may end with: PGPASSWORD, requirepass.
var secretEnds = []string{"password", "passwd", "passphrase", "secret", "token", "apikey", "pwd", "pass"}

// notSecret end so by chance.
var notSecret = set("bypass compass encompass surpass trespass multipass singlepass onepass twopass askpass oldpwd nopass")

// keyWords make a "key" a secret: SSH keys and the like are files.
var keyWords = set(`api access secret private account encryption shared master signing storage service license auth
	app application client consumer ssh deploy`)

// aboutWords say that a name is not the secret's but of something about it:
// password-file, TOKEN_URL, secretName, AWS_ACCESS_KEY_ID.
var aboutWords = set(`file files path paths dir directory folder url uri endpoint host server port name names id ids
	type kind ttl timeout length len min max policy count limit expiry expires expiration age days hours minutes seconds
	interval prompt stdin stdout fd env var field header hint provider store manager version arn ref reference format
	algorithm alg mode enabled disabled required audience issuer parallelism size prefix suffix command cmd helper
	rotation bucket region namespace mount user username email through thru budget callback reset change changed
	encryption location source script agent exchange review scope scopes params parameters`)

// negations make a name a switch or a number: --no-password, --max-token.
var negations = set("no ask without disable skip max min num show hide prompt allow deny check verify generate use require requires enable rotate validate with reset")

// secretName reports whether what is given under a name is a secret.
func secretName(name string) bool {
	if len(name) > maxName || name == "PWD" {
		return false
	}
	var buf [maxName]byte
	part := buf[:0]
	var prev, cur string
	first, secret := true, false
	flush := func() (switched bool) {
		for len(part) > 0 && part[len(part)-1] >= '0' && part[len(part)-1] <= '9' {
			part = part[:len(part)-1]
		}
		if len(part) == 0 {
			return false
		}
		prev, cur = cur, string(part)
		part = part[:0]
		if first && negations[cur] {
			return true
		}
		first = false
		secret = secret || secretWord(cur) || cur == "key" && keyWords[prev]
		return false
	}
	for i := range len(name) {
		c := name[i]
		upper := c >= 'A' && c <= 'Z'
		switch {
		case upper && i > 0 && (isLower(name[i-1]) || i+1 < len(name) && isLower(name[i+1]) && isUpper(name[i-1])):
			if flush() {
				return false
			}
		case !isAlnum(c):
			if flush() {
				return false
			}
			continue
		}
		if upper {
			c += 'a' - 'A'
		}
		part = append(part, c)
	}
	return !flush() && secret && !aboutWords[cur]
}

func secretWord(w string) bool {
	if secretWords[w] {
		return true
	}
	for _, end := range secretEnds {
		if strings.HasSuffix(w, end) {
			return !notSecret[w]
		}
	}
	return false
}

// strictName is a name whose last word is the secret's.
func strictName(name string) bool {
	if !secretName(name) {
		return false
	}
	last := name[strings.LastIndexAny(name, "-_.")+1:]
	return secretWord(strings.ToLower(last)) || strings.HasSuffix(strings.ToLower(last), "key")
}

// authName is a name that a name and password, or a token, may be given under.
func authName(name string) bool {
	name = strings.ToLower(name)
	return name == "auth" || strings.HasSuffix(name, "_auth") || strings.HasSuffix(name, "-auth")
}

// secretValue reports whether v, given under a name of a secret, is one itself.
func secretValue(name, v string) bool {
	if harmless(v) {
		return false
	}
	if looksLikePath(v) {
		n := strings.ToLower(name)
		return !strings.HasSuffix(n, "key") && !strings.Contains(n, "cred") && !strings.Contains(n, "cookie")
	}
	return true
}

// harmless reports whether a value is a reference to a secret, a mark in its
// place or a word that means there is none.
func harmless(v string) bool {
	switch strings.ToLower(v) {
	case "", "-", "true", "false", "yes", "no", "on", "off", "null", "nil", "none", "undefined", "stdin", "prompt", "0", "1":
		return true
	}
	if v == Mark || v == "pass:"+Mark || strings.Trim(v, "*") == "" || len(v) > 2 && strings.Trim(v, "xX") == "" {
		return true
	}
	for _, prefix := range []string{"env:", "file:", "fd:", "vault:", "ssm:", "arn:aws:", "op://", "projects/"} {
		if strings.HasPrefix(v, prefix) {
			return true
		}
	}
	switch {
	case strings.HasPrefix(v, "${") && strings.HasSuffix(v, "}"), strings.HasPrefix(v, "$(") && strings.HasSuffix(v, ")"),
		strings.HasPrefix(v, "`") && strings.HasSuffix(v, "`"), strings.HasPrefix(v, "<") && strings.HasSuffix(v, ">"),
		strings.HasPrefix(v, "{{") && strings.HasSuffix(v, "}}"), v == "%s", v == "$(", v == "${", v == "$":
		return true
	case v[0] == '$':
		return strings.Trim(v[1:], "ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789") == ""
	}
	return false
}

// looksLikePath reports whether v is a file's name and no key.
func looksLikePath(v string) bool {
	return strings.HasPrefix(v, "/") || strings.HasPrefix(v, "./") || strings.HasPrefix(v, "../") || strings.HasPrefix(v, "~/") ||
		strings.HasPrefix(v, "@") || strings.HasSuffix(v, ".pem") || strings.HasSuffix(v, ".key") || strings.HasSuffix(v, ".json")
}

func set(words string) map[string]bool {
	m := make(map[string]bool)
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isUpper(c byte) bool { return c >= 'A' && c <= 'Z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isAlnum(c byte) bool { return isLower(c) || isUpper(c) || isDigit(c) }

// isName reports whether c may be part of a name that a secret is given under.
func isName(c byte) bool { return isAlnum(c) || c == '_' || c == '-' || c == '.' }
