package policy

import (
	"math/bits"
	"strings"
)

// This file looks for short texts in command lines, which are long now and
// then: of a shell a whole script is one argument. Eight bytes are looked at in
// one step for the two letters that are rare together in each text, and what is
// around those is compared. A command line that is full of them takes some ten
// times as long, in which each byte is still looked at only so often.

const eachByte = 0x0101010101010101 // times a byte: eight of them

// octets are eight times a byte. They are in variables for loops to keep them in
// registers: constants of eight bytes are loaded anew in each step, which takes
// twice the time.
//
// Of eight bytes x and one of these, b, x^b is 0 where x has that byte. The high
// bit of (y-one)&^y is set for each byte of y that is 0, and perhaps for some
// above such a byte that are 1; that of y-one also for those above 128.
var octets = struct{ colon, dash, slash, o, c, v, apart, one, high uint64 }{
	':' * eachByte, '-' * eachByte, '/' * eachByte, 'o' * eachByte, 'c' * eachByte,
	'v' * eachByte, ('v' - '4') * eachByte, // 4, 6 and t are v but for these bits
	eachByte, 0x80 * eachByte,
}

// eight returns the first eight bytes of s, the first in the lowest bits.
func eight(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

func letter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func digit(c byte) bool { return '0' <= c && c <= '9' }

// signs are what only a miner is given, as far as they were looked for.
type signs struct {
	stratum bool   // the URL of a pool
	option  string // the first option
	pool    string // the first host of a pool
}

// minerSigns looks in an argument for what only miners are given:
//
//   - a URL of the protocol of pools: stratum+tcp://, stratum2+ssl://, in any
//     letters. With one nothing else is looked for.
//   - an option that only miners have. It may stand anywhere in an argument: sh
//     -c takes a whole command as one.
//   - a pool's host with a port behind it (pool.supportxmr.com:3333). A URL
//     without a port may be read by anybody.
//
// All of them have a colon or two dashes.
func minerSigns(arg string) (found signs) {
	for i := nextColon(arg, 0); i >= 0; i = nextColon(arg, i+1) {
		if arg[i+1] == '/' {
			if strings.HasPrefix(arg[i:], "://") && stratumScheme(arg[:i]) {
				return signs{stratum: true}
			}
		} else if found.pool == "" {
			start := i
			for start > 0 && hostByte(arg[start-1]) {
				start--
			}
			found.pool = pool(arg[start:i])
		}
	}
	for i := nextOption(arg, 0); i >= 0 && found.option == ""; i = nextOption(arg, i+1) {
		found.option = minerOption(arg[i:])
	}
	return found
}

// nextColon returns where from at on there is the colon of a URL or behind a
// host that may be a pool's; -1 is nowhere.
func nextColon(arg string, at int) int {
	colon, one, high := octets.colon, octets.one, octets.high
	rest := arg[at:]
	for ; len(rest) > 8; rest = rest[8:] {
		x := eight(rest) ^ colon
		less := x - one
		if less&high == 0 {
			continue
		}
		for m := less &^ x & high; m != 0; m &= m - 1 {
			if i := len(arg) - len(rest) + bits.TrailingZeros64(m)/8; leads(arg, i) {
				return i
			}
		}
	}
	for at = len(arg) - len(rest); at < len(arg); at++ {
		if leads(arg, at) {
			return at
		}
	}
	return -1
}

// leads reports whether nextColon returns i.
func leads(arg string, i int) bool {
	if arg[i] != ':' || i < 2 || i+1 >= len(arg) {
		return false
	}
	behind := arg[i+1]
	return behind == '/' && schemeByte(arg[i-1]) || digit(behind) && poolEnds.has(arg[i-2], arg[i-1])
}

// nextOption returns where from at on there are the dashes of an option that
// may be a miner's; -1 is nowhere.
func nextOption(arg string, at int) int {
	dash, one, high := octets.dash, octets.one, octets.high
	rest := arg[at:]
	for ; len(rest) > 11; rest = rest[8:] {
		dashes := (eight(rest) ^ dash) | (eight(rest[1:]) ^ dash)
		less := dashes - one
		if less&high == 0 {
			continue // no byte is 0
		}
		for m := less &^ dashes & high; m != 0; m &= m - 1 {
			i := bits.TrailingZeros64(m) / 8
			if optionStarts.has(rest[i+2], rest[i+3]) {
				return len(arg) - len(rest) + i
			}
		}
	}
	for at = len(arg) - len(rest); at+3 < len(arg); at++ {
		if arg[at] == '-' && arg[at+1] == '-' && optionStarts.has(arg[at+2], arg[at+3]) {
			return at
		}
	}
	return -1
}

// minerOptions are what must be there of an option, for getopt_long(3) takes
// any beginning that is no other option's, and the rest of its name.
var minerOptions = []struct{ least, rest string }{
	{"--donate-l", "evel"}, {"--donate-o", "ver-proxy"}, {"--randomx-", ""}, {"--cpu-max-t", "hreads-hint"}, {"--niceh", "ash"},
	{"--coin=monero", ""}, {"--coin monero", ""}, {"--rig-i", "d"}, {"--cuda-bf", "actor-hint"}, {"--opencl-platform=", ""},
	{"--asm=ryzen", ""}, {"--astrobwt-", ""},
}

// optionStarts are the letters that they begin with, behind the dashes, and
// poolEnds those that pools end in.
var optionStarts, poolEnds = func() (starts, ends letterPairs) {
	for _, option := range minerOptions {
		starts.add(option.least[2], option.least[3])
	}
	for name := range pools.names {
		ends.add(name[len(name)-2], name[len(name)-1])
	}
	return starts, ends
}()

// minerOption returns the option of a miner that a text begins with, or "".
func minerOption(text string) string {
	for _, option := range minerOptions {
		if len(text) > 4 && text[4] == option.least[4] && strings.HasPrefix(text, option.least) {
			return option.least + option.rest
		}
	}
	return ""
}

// stratumScheme reports whether a text ends in such a URL's scheme.
func stratumScheme(text string) bool {
	const name = "stratum"
	start := len(text)
	for start > 0 && schemeByte(text[start-1]) {
		start--
	}
	scheme := text[start:]
	return len(scheme) >= len(name) && strings.EqualFold(scheme[:len(name)], name)
}

func schemeByte(c byte) bool { return letter(c) || digit(c) || c == '+' }

func hostByte(c byte) bool { return letter(c) || digit(c) || c == '.' || c == '-' }

// dialsByName reports whether a shell's command opens a connection as a file,
// /dev/tcp/HOST/PORT.
func dialsByName(command string) bool {
	for at := 0; ; at++ {
		next := strings.IndexByte(command[at:], 'v') // rarer than a slash
		if next < 0 {
			return false
		}
		at += next
		if rest := command[at+1:]; strings.HasSuffix(command[:at], "/de") && (strings.HasPrefix(rest, "/tcp/") || strings.HasPrefix(rest, "/udp/")) {
			return true
		}
	}
}

// dials reports whether a one-line program opens a connection: by a socket,
// PHP's fsockopen, awk's /inet/tcp/… or node's net.connect.
func dials(code string) bool {
	for i := nextDial(code, 0); i >= 0; i = nextDial(code, i+1) {
		before, behind := code[:i], code[i:]
		if strings.HasPrefix(behind, "ocket") ||
			strings.HasPrefix(behind, "ockopen") && strings.HasSuffix(before, "fs") ||
			(strings.HasPrefix(behind[1:], "/tcp/") || strings.HasPrefix(behind[1:], "/udp/")) && inet(code[:i+1]) ||
			strings.HasPrefix(behind, "t.connect") && strings.HasSuffix(before, "ne") {
			return true
		}
	}
	return false
}

// inet reports whether a text ends in the folder of awk's connections.
func inet(text string) bool {
	return strings.HasSuffix(text, "/inet") || strings.HasSuffix(text, "/inet4") || strings.HasSuffix(text, "/inet6")
}

// nextDial returns where from at on there is "ock", "t/t", "t/u" (also with 4 or
// 6 for the first t) or "t.c", as in what dials looks for, or something like
// that; -1 is nowhere.
func nextDial(code string, at int) int {
	o, c, v, apart, slash, one, high := octets.o, octets.c, octets.v, octets.apart, octets.slash, octets.one, octets.high
	rest := code[at:]
	for ; len(rest) > 9; rest = rest[8:] {
		x, next := eight(rest), eight(rest[1:])
		oc, ts := (x^o)|(next^c), ((x|apart)^v)|((next|one)^slash) // a dot is a slash but for its lowest bit
		lessO, lessT := oc-one, ts-one
		if (lessO|lessT)&high == 0 {
			continue // no byte of either is 0
		}
		for m := (lessO&^oc | lessT&^ts) & high; m != 0; m &= m - 1 {
			i := len(code) - len(rest) + bits.TrailingZeros64(m)/8
			if third := code[i+2]; third == 'k' || third == 't' || third == 'u' || third == 'c' {
				return i
			}
		}
	}
	for at = len(code) - len(rest); at+2 < len(code); at++ {
		switch code[at : at+3] {
		case "ock", "t.c", "t/t", "t/u", "4/t", "4/u", "6/t", "6/u":
			return at
		}
	}
	return -1
}
