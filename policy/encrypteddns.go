package policy

import "net/netip"

// encryptedDNS are the hosts of public resolvers by HTTPS and TLS (RFC 8484,
// RFC 7858), and the name by which browsers find out whether to use one: that
// it does not exist means no.
var encryptedDNS = newDomains([]string{
	"use-application-dns.net",
	"**.dns.google", "dns.google.com", "**.cloudflare-dns.com", "one.one.one.one", "1dot1dot1dot1.cloudflare-dns.com", "**.cloudflare-gateway.com",
	"**.quad9.net", "**.opendns.com", "doh.cleanbrowsing.org", "*.cleanbrowsing.org", "**.adguard-dns.com", "dns.adguard.com", "dns-family.adguard.com",
	"**.nextdns.io", "**.controld.com", "**.mullvad.net", "doh.dns.apple.com", "doh.dns.apple.com.v.aaplimg.com", "mask.icloud.com", "mask-h2.icloud.com",
	"doh.dns.sb", "dot.sb", "**.dns.sb", "dns.alidns.com", "doh.pub", "dot.pub", "dns.pub", "doh.360.cn", "dot.360.cn", "**.twnic.tw",
	"doh.xfinity.com", "dot.xfinity.com", "doh.libredns.gr", "dot.libredns.gr", "dns.digitale-gesellschaft.ch", "doh.li", "doh.ffmuc.net", "dot.ffmuc.net",
	"dns0.eu", "*.dns0.eu", "**.dns4eu.eu", "**.joindns4.eu", "doh.applied-privacy.net", "dot1.applied-privacy.net", "**.rethinkdns.com", "doh.tiar.app", "dot.tiar.app",
	"freedns.controld.com", "dns.switch.ch", "odvr.nic.cz", "dns.njal.la", "anycast.dns.nextdns.io", "unfiltered.joindns4.eu", "**.dnsforge.de", "**.uncensoreddns.org",
	"doh.bortzmeyer.fr", "dot.bortzmeyer.fr", "dns.comss.one", "**.dnswarden.com", "jp.tiar.app", "dns.hostux.net", "doh.seby.io", "doh.powerdns.org", "commons.host",
}, "", new(faults))

// resolvers are the addresses of the largest of them.
var resolvers = newPrefixes([]string{
	"1.1.1.1", "1.0.0.1", "1.1.1.2", "1.0.0.2", "1.1.1.3", "1.0.0.3", "2606:4700:4700::/48",
	"8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844", "2001:4860:4860::64", "2001:4860:4860::6464",
	"9.9.9.9", "9.9.9.10", "9.9.9.11", "9.9.9.12", "149.112.112.0/24", "2620:fe::/48",
	"208.67.222.222", "208.67.220.220", "208.67.222.123", "208.67.220.123", "2620:119:35::/48", "2620:119:53::/48",
	"94.140.14.0/24", "94.140.15.0/24", "45.90.28.0/24", "45.90.30.0/24", "76.76.2.0/24", "76.76.10.0/24", "194.242.2.0/24",
	"185.228.168.0/24", "185.228.169.0/24", "223.5.5.5", "223.6.6.6", "193.110.81.0", "185.253.5.0",
}, "", new(faults))

// resolverPort reports what makes a connection one to a resolver that nobody
// can look into, or "".
func resolverPort(to netip.AddrPort) string {
	if to.Port() == 853 { // RFC 7858 3.1, RFC 9250 4.1.1
		return "port 853 is for encrypted lookups"
	}
	if to.Port() == 443 {
		if resolvers.holds(canonicalAddr(to.Addr())) {
			return to.Addr().String() + " resolves names where nobody can see which"
		}
	}
	return ""
}
