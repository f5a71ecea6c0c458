package scrub

import (
	"path"
	"slices"
	"strings"
)

// How an option's value holds a secret.
const (
	whole   = iota // it is one
	second         // user:password
	last           // certificate:password
	behind         // user%password
	cookie         // name=value; a file otherwise
	literal        // name=anything
	header         // a header that is joined to its option; others text knows
)

// program is one whose short options, or words, are secrets.
type program struct {
	names string // the last part of its path, without a version
	after string // a word that must have come before, such as "login"
	// takes are the letters of options with a value, for options that are
	// joined (-su USER:X). Without it each stands alone.
	takes    string
	joined   string // letters whose value is joined to them, never the next word: -pX
	secrets  string // letters whose value is a secret, joined or in the next word
	userpass string // … is USER:SECRET
	cert     string // … is FILE:SECRET
	percent  string // … is USER%SECRET
	cookies  string // … is a cookie or a file
	headers  string // … is an HTTP header
	long     string // long names with one dash, or any word, that a secret follows
}

var programs = []program{
	{names: "mysql mysqldump mysqladmin mysqlimport mysqlshow mysqlcheck mysqlslap mysqlbinlog mysqlpump mysqlsh mysqld_safe mariadb mariadb-dump mariadb-admin mariadb-import mariadb-show mariadb-check mariadb-slap mariadb-binlog mariabackup xtrabackup innobackupex", joined: "p"},
	{names: "mysqladmin mariadb-admin", long: "password"},
	{names: "mongo mongosh mongodump mongorestore mongoexport mongoimport mongostat mongotop mongofiles sshpass cqlsh cypher-shell influx hydra medusa rdesktop xfreerdp ncftp ncftpget ncftpput vncdo isql", secrets: "p"},
	{names: "docker podman nerdctl buildah skopeo helm crane oras regctl az cf oc ibmcloud docker-compose kubectl", after: "login", secrets: "p"},
	{names: "twine", secrets: "p"},
	{names: "curl", takes: "AbcCdDeEFHKmoPQrtTuUwxXyYz", userpass: "uU", cert: "E", cookies: "b", headers: "H"},
	{names: "http https httpie xh", userpass: "a"},
	{names: "wget2 wget aria2c lftp", userpass: "u"},
	{names: "redis-cli valkey-cli keydb-cli", secrets: "a", long: "auth AUTH Auth requirepass masterauth"},
	{names: "redis-server valkey-server", long: "requirepass masterauth"},
	{names: "ldapsearch ldapadd ldapmodify ldapdelete ldapwhoami ldapcompare ldapmodrdn", takes: "bDdEefHhlopPRsStTUwXYyzZ", secrets: "w"},
	{names: "ldappasswd", takes: "aDdeHhlNopRSsTtUwXYyZ", secrets: "was"},
	{names: "openssl", long: "k K hmac"},
	{names: "sqlcmd bcp osql tsql ipmitool zip unzip mosquitto_pub mosquitto_sub", secrets: "P"},
	{names: "7z 7za 7zr 7zz", joined: "p"},
	{names: "rar unrar", joined: "p", long: "hp"},
	{names: "smbclient rpcclient smbget smbmap winexe nmblookup", percent: "U"},
	{names: "useradd usermod groupadd groupmod", secrets: "p"},
	{names: "ssh-keygen", secrets: "NP"},
	{names: "plink pscp psftp putty", long: "pw"},
	{names: "snmpwalk snmpget snmpset snmpbulkwalk", secrets: "AX"},
	{names: "doctl flyctl fly vercel netlify", secrets: "t"},
	// These have no such options, but their words are read: see places, configs.
	{names: "aws git npm yarn pnpm gcloud pip pip3 poetry composer heroku gh glab"},
	{names: "rabbitmqctl ngrok vault bao htpasswd mc wpa_passphrase cloudflared tailscale"},
	{names: "sqlplus sqlldr exp imp expdp impdp rman sqlcl"},
}

// byProgram are the programs by name; a name may have several.
var byProgram = func() map[string][]*program {
	m := make(map[string][]*program)
	for i := range programs {
		for _, n := range strings.Fields(programs[i].names) {
			m[n] = append(m[n], &programs[i])
		}
	}
	return m
}()

// name is what a program is called: /usr/bin/mysql and mysql.exe are mysql,
// and so is mysql8.0.
func name(word string) string {
	if len(word) > 256 {
		return ""
	}
	n := strings.TrimSuffix(path.Base(word), ".exe")
	if _, ok := byProgram[n]; ok {
		return n
	}
	if t := strings.TrimRight(n, "0123456789.-"); byProgram[t] != nil {
		return t
	}
	return n
}

// reader reads the words of one command and knows what the next one is.
type reader struct {
	program string
	rules   []*program
	seen    []string // the words since the program's name, a few
	plain   int      // words that are no options
	next    int      // how the next word holds a secret
	wants   bool     // there is such a word
	option  string   // under which name
}

// take reads the next word of a command and takes its secret away. It reports
// whether the word is done with.
func (p *reader) take(w *word) bool {
	v := w.value
	if p.wants {
		p.wants = false
		if !isOption(v) || p.next == whole && p.option == "" {
			if p.option == "" || p.next != whole || secretValue(p.option, v) && !strings.HasPrefix(v, "id=") {
				w.value = part(v, p.next)
			}
			return true
		}
	}
	if rules := byProgram[name(v)]; rules != nil {
		*p = reader{program: name(v), rules: rules}
		return true
	}
	if p.rules != nil && len(p.seen) < 8 {
		p.seen = append(p.seen, v)
	}
	for _, r := range p.rules {
		if (r.after == "" || slices.Contains(p.seen, r.after)) && p.short(w, r) {
			return true
		}
	}
	if p.words(w) {
		return true
	}
	return p.named(w)
}

// short takes away the secret of a short option, or a word, of a program.
func (p *reader) short(w *word, r *program) bool {
	v := w.value
	for _, l := range strings.Fields(r.long) {
		if v == l || v == "-"+l {
			p.expect(whole, "")
			return true
		}
	}
	if len(v) < 2 || v[0] != '-' || v[1] == '-' {
		return false
	}
	for i := 1; i < len(v); i++ {
		c := v[i]
		kind := -1
		for k, letters := range []string{whole: r.secrets, second: r.userpass, last: r.cert, behind: r.percent, cookie: r.cookies, header: r.headers} {
			if strings.IndexByte(letters, c) >= 0 {
				kind = k
			}
		}
		switch {
		case strings.IndexByte(r.joined, c) >= 0 && i == 1:
			if len(v) > 2 {
				w.value = v[:2] + part(v[2:], whole)
			}
			return true
		case kind >= 0 && i+1 < len(v):
			if r.takes == "" && kind == whole && secretName(v[1:]) {
				return false // -password, -pass
			}
			w.value = v[:i+1] + part(strings.TrimPrefix(v[i+1:], "="), kind)
			return true
		case kind >= 0:
			p.expect(kind, "")
			return true
		case r.takes == "" || strings.IndexByte(r.takes, c) >= 0 || !isAlnum(c) && c != '#':
			return false // the rest is another option's value
		}
	}
	return false
}

// places are where programs expect secrets as plain words: after words that
// come first, from which word on. Options are not counted.
var places = []struct {
	program, words string
	from           int
}{
	{"rabbitmqctl", "add_user", 3},
	{"rabbitmqctl", "change_password", 3},
	{"rabbitmqctl", "authenticate_user", 3},
	{"mc", "alias set", 5},
	{"mc", "config host add", 6},
	{"vault", "login", 2},
	{"vault", "operator unseal", 3},
	{"bao", "login", 2},
	{"ngrok", "authtoken", 2},
	{"ngrok", "config add-authtoken", 3},
	{"openssl", "passwd", 2},
	{"wpa_passphrase", "", 2},
	{"htpasswd", "-b", 3},
	{"cloudflared", "service install", 3},
	{"tailscale", "lock sign", 3},
}

// configs are programs with "config NAME VALUE".
var configs = set("git npm yarn pnpm gcloud pip pip3 poetry composer aws heroku gh glab")

// words takes away the secrets of programs that expect them at a place.
func (p *reader) words(w *word) bool {
	v := w.value
	if strings.HasPrefix(v, "-") {
		if p.program == "htpasswd" && !strings.HasPrefix(v, "--") && strings.Contains(v, "b") {
			p.seen = append(p.seen[:0], "-b")
			if strings.Contains(v, "n") {
				p.plain++ // there is no file
			}
		}
		return false
	}
	p.plain++
	for _, at := range places {
		if at.program == p.program && p.plain >= at.from && (strings.HasPrefix(strings.Join(p.seen, " ")+" ", at.words+" ") || at.words == "") {
			w.value = part(v, whole)
			return true
		}
	}
	switch p.program {
	case "sqlplus", "sqlldr", "exp", "imp", "expdp", "impdp", "rman", "sqlcl":
		if login, ok := oracle(v); ok {
			w.value = login
			return true
		}
	}
	if key := v[strings.LastIndexAny(v, "/:")+1:]; configs[p.program] && p.plain > 1 && p.plain < 5 && strictName(key) &&
		slices.ContainsFunc(p.seen, func(s string) bool { return strings.HasPrefix(s, "config") }) {
		p.expect(whole, key)
		return true
	}
	return false
}

// oracle hides the password of user/password@database.
func oracle(v string) (string, bool) {
	slash := strings.IndexByte(v, '/')
	if slash <= 0 || v[0] == '@' || strings.HasPrefix(v[slash:], "//") || strings.HasSuffix(v, ".sql") || strings.HasSuffix(v, ".ctl") {
		return v, false
	}
	end := strings.LastIndexByte(v, '@')
	if end < slash {
		end = len(v)
	}
	if end == slash+1 || strings.Contains(v[slash+1:end], "/") {
		return v, false
	}
	return v[:slash+1] + Mark + v[end:], true
}

// named takes away a secret that is given under its name, whatever the program.
func (p *reader) named(w *word) bool {
	v := w.value
	n := strings.TrimLeft(v, "-")
	eq := strings.IndexByte(n, '=')
	if eq < 0 {
		if len(n) < len(v) && len(n) > 1 && strings.TrimFunc(n, nameRune) == "" {
			switch {
			case secretName(n) || n == "oauth2-bearer":
				p.expect(whole, n)
				return true
			case authName(n) || n == "user" && p.program == "curl" || n == "proxy-user":
				p.expect(second, n)
				return true
			case n == "cert" && p.program == "curl":
				p.expect(last, n)
				return true
			case n == "from-literal":
				p.expect(literal, n)
				return true
			}
		}
		return false
	}
	key, value := n[:eq], n[eq+1:]
	head := v[:len(v)-len(value)]
	if strings.TrimFunc(key, nameRune) != "" {
		return false
	}
	switch {
	case key == "from-literal":
		w.value = head + part(value, literal)
	case head == key+"=" && strings.HasPrefix(value, "="):
		return false // a version: token==1.0
	case secretName(key) && secretValue(key, value) && !strings.HasPrefix(value, "id="):
		w.value = head + Mark
	case key == "user" && p.program == "curl" || key == "proxy-user" || authName(key):
		w.value = head + part(value, second)
	default:
		return false
	}
	return true
}

func (p *reader) expect(kind int, option string) { p.next, p.wants, p.option = kind, true, option }

func nameRune(r rune) bool { return r < 128 && isName(byte(r)) }

// isOption reports whether a word is an option rather than a value that begins
// with a dash: --word, --word=X, -w.
func isOption(v string) bool {
	if len(v) == 2 {
		return v[0] == '-' // also --
	}
	n, ok := strings.CutPrefix(v, "--")
	n, _, _ = strings.Cut(n, "=")
	return ok && n != "" && strings.TrimFunc(n, nameRune) == ""
}

// part hides the secret part of a value.
func part(v string, kind int) string {
	if harmless(v) {
		return v
	}
	at := 0
	switch kind {
	case header:
		return text(v)
	case second:
		at = strings.IndexByte(v, ':') + 1
	case last:
		at = strings.LastIndexByte(v, ':') + 1
	case behind:
		at = strings.IndexByte(v, '%') + 1
	case cookie, literal:
		at = strings.IndexByte(v, '=') + 1
	}
	if kind != whole && at == 0 || harmless(v[at:]) || v[at:] == "" {
		return v // without one, such as a user alone or a file
	}
	return v[:at] + Mark
}
