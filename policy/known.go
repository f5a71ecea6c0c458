package policy

import "strings"

// Programs by what they are for. A version at the end of a name (python3.12,
// php-fpm8.2, xmrig-6.21) and its letter case do not count.
var (
	shells = words(`sh bash dash ash zsh ksh mksh lksh pdksh yash csh tcsh fish rbash rksh rzsh posh pwsh hush`)

	interpreters = words(`python pypy perl ruby php lua luajit node nodejs deno bun tclsh wish expect awk gawk mawk nawk
		guile Rscript groovy jshell`)

	// Not among them are Erlang's machine and Varnish: each command of theirs,
	// and what Varnish makes of its configuration, goes by a shell.
	servers = words(`nginx openresty apache apache2 httpd lighttpd caddy haproxy envoy traefik squid uwsgi
		php-fpm php-cgi unicorn gunicorn redis-server redis-sentinel valkey-server keydb-server memcached mysqld mariadbd
		postgres mongod mongos named unbound dnsmasq dovecot exim exim4 vsftpd proftpd pure-ftpd slapd smbd mosquitto
		nats-server etcd influxd clickhouse-server`)

	// ownCommands are what servers are built to have a shell run for them, and
	// by which of them, perhaps with a number behind: initdb has postgres list the
	// locales, PHP's mail() has one start what it was configured with, and Debian's
	// lighttpd has two read parts of its configuration.
	ownCommands = map[string]*nameSet{
		"locale -a":                words(`postgres`),
		"/usr/sbin/sendmail -t -i": words(`php-fpm php-cgi apache2 httpd`),

		"/usr/share/lighttpd/create-mime.conf.pl": words(`lighttpd`),
		"/usr/share/lighttpd/use-ipv6.pl":         words(`lighttpd`),
	}

	packageManagers = words(`apt apt-get aptitude dpkg apk yum dnf microdnf tdnf rpm zypper pacman snap pip pipx easy_install
		npm npx pnpm yarn gem cargo conda`)

	lateralTools = words(`nc ncat netcat nc.traditional nc.openbsd socat cryptcat pwncat pwncat-cs nmap zenmap masscan zmap
		rustscan fscan naabu hydra medusa ncrack patator crackmapexec netexec nxc evil-winrm psexec psexec.py smbexec.py
		wmiexec.py dcomexec.py atexec.py secretsdump.py enum4linux responder.py chisel ligolo ligolo-ng frpc frps gost
		rpivot proxychains sshuttle sshpass kubeletctl peirates botb deepce.sh linpeas.sh linpeas linenum.sh traitor`)

	// namesakes are commands of programs that have a tool's name and are none:
	// Ory's server of identities, and a shop.
	namesakes = map[string]*nameSet{
		"hydra":  words(`serve migrate create get list update delete import introspect perform revoke janitor clients keys token version help completion`),
		"medusa": words(`start start-cluster develop build seed user exec new plugin migrations db:setup db:create db:migrate db:rollback db:generate db:sync-links telemetry help`),
	}

	miners = words(`xmrig xmrig-notls xmrigdaemon xmrigminer xmr-stak xmr-stak-cpu xmr-stak-rx minerd cpuminer cpuminer-multi
		cpuminer-opt ethminer ethdcrminer64 cgminer bfgminer sgminer ccminer nbminer t-rex trexminer lolminer phoenixminer
		gminer teamredminer nanominer nheqminer minergate minergate-cli srbminer srbminer-multi wildrig wildrig-multi
		bminer ewbf excavator claymore kawpowminer progminer astrominer randomxminer p2pool moneroocean c3pool
		kinsing kdevtmpfsi kthreaddi watchbog sysrv dbused dovecat xmrminer cryptonight`)
)

// pools are the domains of mining pools, each of two labels, with all below it.
var pools = words(`2miners.com antpool.com c3pool.com c3pool.org coinotron.com crypto-pool.fr dwarfpool.com ethermine.org
	ethpool.org f2pool.com flexpool.io flypool.org hashvault.pro herominers.com hiveon.net k1pool.com kryptex.network
	luxor.tech minergate.com minexmr.com minexmr.to miningocean.org miningpoolhub.com moneroocean.stream monerohash.com
	nanopool.org nicehash.com poolin.com poolbinance.com prohashing.com ravenminer.com skypool.org slushpool.com
	sparkpool.com supportxmr.com suprnova.cc unmineable.com uupool.cn viabtc.com xmrpool.eu xmrpool.net xmr-pool.net
	xmrfast.com woolypooly.com zergpool.com zpool.ca`)

// poolPorts are ports that pools listen on and little else does.
var poolPorts = map[uint16]bool{
	3333: true, 3334: true, 3335: true, 3336: true, 5555: true, 7777: true, 9999: true, 10128: true, 10300: true,
	10343: true, 13333: true, 14433: true, 14444: true, 17777: true, 20535: true, 20580: true, 45560: true, 45700: true,
}

// nameSet is a set of programs' names, in lower case, of two letters or more.
type nameSet struct {
	names  map[string]struct{}
	starts letterPairs // of the names: most others are told by them without a hash
}

// letterPairs is a set of two letters each, in either case. It may say that it
// has two that it has not, and never the other way.
type letterPairs [32]uint32

func (p *letterPairs) add(a, b byte) { p[a&31] |= 1 << (b & 31) }

func (p *letterPairs) has(a, b byte) bool { return p[a&31]>>(b&31)&1 != 0 }

func words(s string) *nameSet {
	set := &nameSet{names: make(map[string]struct{})}
	for _, w := range strings.Fields(s) {
		w = strings.ToLower(w)
		set.names[w] = struct{}{}
		set.starts.add(w[0], w[1])
	}
	return set
}

// knows reports whether a base name is in set, whatever its letter case and
// the version at its end.
func knows(set *nameSet, name string) bool {
	var buf [48]byte
	if len(name) < 2 || len(name) > len(buf) || !set.starts.has(name[0], name[1]) {
		return false
	}
	lower := buf[:len(name)]
	for i := range len(name) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower[i] = c
	}
	if _, ok := set.names[string(lower)]; ok {
		return true
	}
	end := len(lower)
	for end > 0 && (lower[end-1] == '.' || lower[end-1] == '-' || '0' <= lower[end-1] && lower[end-1] <= '9') {
		end--
	}
	if end == len(lower) {
		return false
	}
	_, ok := set.names[string(lower[:end])]
	return ok
}

// called returns a name of p that is in set, for people, or "". All its names
// count: as typed and resolved, applet, interpreters, behind a loader.
func (p *Program) called(set *nameSet) string {
	for i := 0; ; {
		name, next := p.name(i)
		if next < 0 {
			return ""
		}
		if knows(set, name) {
			return name
		}
		i = next
	}
}

// name returns the first base name of p from position i on and the position
// behind it, which is -1 if there is none.
func (p *Program) name(i int) (name string, next int) {
	for ; i < 4+len(p.Interpreters); i++ {
		switch i {
		case 0:
			name = base(p.Path)
		case 1:
			if p.Typed != p.Path {
				name = base(p.Typed)
			}
		case 2:
			name = p.Applet
		case 3:
			name = base(p.Loaded)
		default:
			name = base(p.Interpreters[i-4])
		}
		if name != "" {
			return name, i + 1
		}
	}
	return "", -1
}

// pool returns the mining pool that a host belongs to, in any letters, or "".
// The longest of them is shorter than its buffer.
func pool(host string) string {
	dot := strings.LastIndexByte(host, '.')
	if dot < 0 {
		return ""
	}
	domain := host[strings.LastIndexByte(host[:dot], '.')+1:]
	var buf [32]byte
	if len(domain) > len(buf) {
		return ""
	}
	lower := buf[:0]
	for i := range len(domain) {
		c := domain[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower = append(lower, c)
	}
	if _, ok := pools.names[string(lower)]; !ok {
		return ""
	}
	return domain
}

// descends returns the program of set that p runs or descends from, or "".
func (p *Process) descends(set *nameSet) string {
	if knows(set, base(p.Path)) {
		return p.Path
	}
	for i := range p.Ancestors {
		if knows(set, base(p.Ancestors[i].Path)) {
			return p.Ancestors[i].Path
		}
	}
	return ""
}
