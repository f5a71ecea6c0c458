package scrub

import "strings"

// text takes away the secrets that are known by what stands around them in any
// text, or by their shape.
func text(s string) string {
	t := texter{s: s}
	for t.at < len(s) {
		t.step()
	}
	if t.last == 0 {
		return s
	}
	t.out.WriteString(s[t.last:])
	return t.out.String()
}

// texter reads a text once, from its start to its end.
type texter struct {
	s    string
	at   int
	last int // what is before it has been written
	out  strings.Builder

	runEnd int // up to here it is one run of base64u
}

// hide puts the mark in place of s[from:to], and goes on behind it.
func (t *texter) hide(from, to int) {
	t.at = max(t.at, to)
	if from < t.last || harmless(t.s[from:to]) {
		return
	}
	t.out.WriteString(t.s[t.last:from])
	t.out.WriteString(Mark)
	t.last = to
}

// step reads one byte, or what begins with it.
func (t *texter) step() {
	s, i := t.s, t.at
	switch c := s[i]; {
	case c == '-' && strings.HasPrefix(s[i:], "-----BEGIN "):
		t.privateKey()
		return
	case c == ':' && strings.HasPrefix(s[i:], "://"):
		t.url()
		return
	case c == '=' || c == ':':
		t.pair()
		return
	case c == '@':
		t.remote()
		return
	case (c == 'p' || c == 'P' || c == 'b' || c == 'B') && t.starts():
		if t.sql() {
			return
		}
	}
	if t.starts() && t.token() {
		return
	}
	t.at++
}

// starts reports whether a word may begin here.
func (t *texter) starts() bool {
	return t.at == 0 || !isAlnum(t.s[t.at-1]) && t.s[t.at-1] != '_'
}

func (t *texter) token() bool {
	s := t.s[t.at:]
	n := token(s)
	if n == 0 && strings.HasPrefix(s, "eyJ") {
		if t.runEnd <= t.at {
			t.runEnd = t.at + run(s, base64u)
		}
		n = jwt(s, t.runEnd-t.at)
	}
	if n == 0 && strings.HasPrefix(s, "hooks.slack.com/services/") {
		n = len("hooks.slack.com/services/")
		t.at += n
		t.hide(t.at, t.at+run(strings.ReplaceAll(s[n:min(len(s), n+128)], "/", "_"), base64u))
		return true
	}
	if n == 0 {
		return false
	}
	aws := s[:n]
	t.hide(t.at, t.at+n)
	// AWS gives its keys in pairs: what follows the first is the second.
	if len(aws) == 20 && aws[3] == 'A' {
		if k := t.at + 1; k+40 <= len(t.s) && awsSecret(t.s[k:k+40]) && (k+40 == len(t.s) || !isAlnum(t.s[k+40])) {
			t.hide(k, k+40)
		}
	}
	return true
}

// privateKey hides what stands between PEM's lines (RFC 7468).
func (t *texter) privateKey() {
	s := t.s
	eol := strings.Index(s[t.at+11:min(len(s), t.at+11+64)], "-----")
	if eol < 0 || !strings.HasSuffix(s[t.at+11:t.at+11+eol], "PRIVATE KEY") && !strings.HasSuffix(s[t.at+11:t.at+11+eol], "PRIVATE KEY BLOCK") {
		t.at++
		return
	}
	from := t.at + 11 + eol + 5
	to := from
	for to < len(s) && (isAlnum(s[to]) || strings.IndexByte("+/= \t\r\n\\:,-", s[to]) >= 0) {
		if strings.HasPrefix(s[to:], "-----END ") {
			break
		}
		to++
	}
	t.hide(from, to)
	if strings.HasPrefix(s[t.at:], "-----END ") {
		t.at += len("-----END ")
	}
}

// url hides the password of scheme://user:password@host. A password may hold
// what should have been escaped.
func (t *texter) url() {
	s := t.s
	scheme := t.at
	for scheme > 0 && t.at-scheme < 24 && (isAlnum(s[scheme-1]) || s[scheme-1] == '+') {
		scheme--
	}
	from := t.at + 3
	end, colon, at, pathAt := from, -1, -1, -1
	inPath := false
read:
	for ; end < len(s) && !space(s[end]) && strings.IndexByte("\"'`<>|", s[end]) < 0; end++ {
		switch s[end] {
		case '/', '?', '#':
			inPath = true
		case ':':
			if colon < 0 && !inPath {
				colon = end
			}
			if end > from && strings.HasPrefix(s[end:], "://") {
				break read // another URL
			}
		case '@':
			if inPath {
				pathAt = end
			} else {
				at = end
			}
		}
	}
	t.at = from
	switch {
	case at < 0 && pathAt > 0 && colon > 0 && !digitsUntilSlash(s[colon+1:pathAt]) && (len(s) == from || s[from] != '['):
		t.hide(colon+1, pathAt)
	case at > 0 && pathAt > 0 && colon > 0 && colon < at && !hostLike(s[at+1:pathAt]) && hostLike(s[pathAt+1:end]):
		t.hide(colon+1, pathAt)
	case at > 0 && colon > 0 && colon < at:
		t.hide(colon+1, at)
	case at-from >= 16 && strings.ContainsAny(s[from:at], "0123456789") && strings.HasPrefix(s[scheme:], "http"):
		t.hide(from, at)
	}
}

// hostLike reports whether s begins with a host's name and domain, or its port.
func hostLike(s string) bool {
	n := run(s, dotted)
	return strings.Contains(s[:n], ".") || strings.HasPrefix(s[n:], ":") || s[:n] == "localhost"
}

// digitsUntilSlash reports whether s begins with a port.
func digitsUntilSlash(s string) bool {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	return n > 0 && n <= 5 && (n == len(s) || strings.IndexByte("/?#,", s[n]) >= 0)
}

// remote hides the password of user:password@host where no scheme is given.
func (t *texter) remote() {
	s, at := t.s, t.at
	t.at++
	from, colon := at, -1
	for from > t.last && at-from < 128 && !space(s[from-1]) && strings.IndexByte("\"'`/@<>()|;,=", s[from-1]) < 0 {
		from--
		if s[from] == ':' {
			colon = from
		}
	}
	if colon <= from || colon+1 == at {
		return
	}
	host := run(s[at+1:], dotted)
	rest := s[at+1+host:]
	h := s[at+1 : at+1+host]
	isHost := host > 0 && (strings.Contains(h, ".") && !isDigit(h[0]) || strings.Count(h, ".") == 3 || h == "localhost" || strings.HasPrefix(rest, ":") || strings.HasPrefix(rest, "/"))
	if !isHost || strings.HasPrefix(h, "sha256") || strings.HasPrefix(h, "sha512") || strings.HasPrefix(s[from:], "npm:") || strings.HasPrefix(s[from:], "mailto:") || strings.HasPrefix(s[from:], "sip:") {
		return
	}
	t.hide(colon+1, at)
}

// pair hides the value of name=value and name: value.
func (t *texter) pair() {
	s, i := t.s, t.at
	t.at++
	if s[i] == '=' && (strings.HasPrefix(s[i+1:], "=") || i > 0 && strings.IndexByte("=!<>", s[i-1]) >= 0) {
		return // a comparison
	}
	from, end, quoted := t.nameBefore(i)
	g := given{name: strings.TrimLeft(s[from:end], "-."), by: s[i], quoted: quoted}
	if g.name == "" {
		return
	}
	if from > 0 {
		g.before = s[from-1]
	}
	if g.by == ':' && headerName(g.name) && !quoted {
		t.header(from, g.before)
		return
	}
	g.weak = (g.before == '?' || g.before == '&') && g.by == '=' && weakName(g.name)
	g.strong = secretName(g.name)
	if !g.weak && !g.strong && !authName(g.name) {
		return
	}
	k := i + 1
	if g.by == '=' && strings.HasPrefix(s[k:], ">") {
		k++
	}
	value := k
	for value < len(s) && value-k < 3 && (s[value] == ' ' || s[value] == '\t') {
		value++
	}
	g.spaced = value > k || end < i && !quoted && g.by == '='
	stop, isQuoted := t.valueEnd(&value, g.before)
	g.quoted = g.quoted || isQuoted
	if g.secret(s[value:min(stop, len(s))], s[stop:]) {
		t.hide(value, stop)
	}
}

// nameBefore returns where the name stands, perhaps in quotes, that the = or :
// at i belongs to.
func (t *texter) nameBefore(i int) (from, end int, quoted bool) {
	s := t.s
	end = i
	for end > 0 && i-end < 3 && (s[end-1] == ' ' || s[end-1] == '\t' || s[i] == '=' && s[end-1] == ':') {
		end--
	}
	if end > 0 && (s[end-1] == '"' || s[end-1] == '\'') {
		quoted = true
		for end--; end > 0 && i-end < 6 && s[end-1] == '\\'; end-- {
		}
	}
	from = end
	for from > 0 && end-from <= maxName && isName(s[from-1]) {
		from--
	}
	return from, end, quoted
}

// given is how a value is given under a name.
type given struct {
	name   string
	by     byte // '=' or ':'
	before byte // what stands before the name; 0 at the text's start
	quoted bool // the name or the value
	spaced bool // there are blanks between the two
	strong bool // the name is a secret's
	weak   bool // … in a query
}

// secret reports whether v is a secret, with rest behind it.
func (g *given) secret(v, rest string) bool {
	if harmless(v) || g.before == '/' && v[0] == '/' {
		return false // the last is sed's
	}
	switch {
	case !g.strong && !g.weak: // auth
		return strings.Contains(v, ":") || len(v) >= 8 && strings.ContainsAny(v, "0123456789")
	case !g.strong:
		return len(v) >= 16 || g.name == "sig"
	case g.quoted:
		return secretValue(g.name, v)
	case g.spaced:
		// Prose has such words as well: "bad password: access denied".
		last := strings.TrimRight(rest, " \t\r\n") == ""
		return strictName(g.name) && !looksLikePath(v) && !strings.HasPrefix(v, "-") &&
			(last || strings.Trim(v, "abcdefghijklmnopqrstuvwxyz.") != "")
	case g.by == ':':
		// An image's tag, a port, a file's line.
		return strictName(g.name) && g.before != '/' && g.before != '.' && !strings.HasPrefix(v, "//") &&
			(len(v) > 5 || strings.Trim(v, "0123456789") != "")
	}
	return secretValue(g.name, v)
}

// valueEnd returns where a value ends that begins at *value, which it moves
// behind a quote.
func (t *texter) valueEnd(value *int, before byte) (end int, quoted bool) {
	s, k := t.s, *value
	slashes := 0
	for k < len(s) && s[k] == '\\' && slashes < 4 {
		k++
		slashes++
	}
	if k < len(s) && (s[k] == '"' || s[k] == '\'') {
		q, from := s[k], k+1
		for e := from; e < len(s) && s[e] != '\n'; e++ {
			switch {
			case slashes == 0 && s[e] == '\\':
				e++
			case s[e] == q && (slashes == 0 || e-from >= slashes && strings.Trim(s[e-slashes:e], `\`) == ""):
				*value = from
				return e - slashes, true
			}
		}
	}
	stops := " \t\r\n\"'`;&|)"
	switch before {
	case '?', '&':
		stops = " \t\r\n\"'`&;#"
	case ';':
		stops = " \t\r\n\"'`;"
	case ',', '{', '(', '[':
		stops = " \t\r\n\"'`;&|,)}]"
	}
	e := *value
	for e < len(s) && strings.IndexByte(stops, s[e]) < 0 {
		e++
	}
	return e, false
}

// weakName is the name of a secret in a query, and of anything elsewhere.
func weakName(name string) bool {
	switch n := strings.ToLower(name); n {
	case "sig", "signature", "key", "auth", "code", "sid", "session", "x-amz-signature", "x-goog-signature", "x-amz-credential":
		return true
	}
	return false
}

// headerName reports whether name is an HTTP header's that carries a secret.
func headerName(name string) bool {
	n := strings.ToLower(name)
	switch n {
	case "authorization", "proxy-authorization", "cookie", "set-cookie", "private-token", "job-token":
		return true
	}
	return strings.Contains(n, "-") && (strings.HasPrefix(n, "x-") || strings.HasSuffix(n, "-key") || strings.HasSuffix(n, "-token")) && secretName(name)
}

// header hides the value of a header whose name begins at from. It goes on to
// the line's end where the text or a quote began with it; otherwise what
// follows it may be something else.
func (t *texter) header(from int, before byte) {
	s := t.s
	for t.at < len(s) && (s[t.at] == ' ' || s[t.at] == '\t') {
		t.at++
	}
	value := t.at
	// The scheme may stay.
	scheme := value
	for scheme < len(s) && scheme-value < 20 && (isAlnum(s[scheme]) || s[scheme] == '-') {
		scheme++
	}
	switch strings.ToLower(s[value:scheme]) {
	case "basic", "bearer", "token", "digest", "negotiate", "ntlm", "apikey", "aws4-hmac-sha256", "key", "oauth", "splunk", "geniekey", "ssws":
		if scheme < len(s) && s[scheme] == ' ' {
			value = scheme + 1
		}
	}
	end := value
	switch {
	case from == 0 || s[from-1] == '\n':
		for end < len(s) && s[end] != '\r' && s[end] != '\n' {
			end++
		}
	case before == '"' || before == '\'':
		for end < len(s) && s[end] != before && s[end] != '\n' {
			end++
		}
	default:
		for end < len(s) && strings.IndexByte(" \t\r\n\"'`|", s[end]) < 0 {
			end++
			if end+1 < len(s) && s[end-1] == ';' && s[end] == ' ' && strings.IndexByte(s[value:end], '=') >= 0 && strings.Contains(s[end:min(len(s), end+maxName)], "=") {
				end++ // the next cookie
			}
		}
	}
	if end > value {
		t.hide(value, end)
	}
}

// sql hides the literal of PASSWORD 'x' and IDENTIFIED BY 'x'.
func (t *texter) sql() bool {
	s := t.s[t.at:]
	n := 0
	switch {
	case len(s) > 8 && strings.EqualFold(s[:8], "password"):
		n = 8
	case len(s) > 2 && strings.EqualFold(s[:2], "by") && t.at > 11 && strings.Contains(strings.ToLower(t.s[max(0, t.at-64):t.at]), "identified "):
		n = 2
	default:
		return false
	}
	k := n
	for k < len(s) && k-n < 3 && (s[k] == ' ' || s[k] == '(' || s[k] == '\\') {
		k++
	}
	if k == n || k >= len(s) || s[k] != '\'' && s[k] != '"' {
		return false
	}
	end := closing(s, k+1, s[k], true)
	if end < 0 || end == k+1 {
		return false
	}
	t.hide(t.at+k+1, t.at+end)
	return true
}

func space(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }
