// net WAY ADDR PORT [ADDR2]: reaches ADDR in one of many ways.
#include "victim.h"

#ifndef MSG_FASTOPEN
#define MSG_FASTOPEN 0x20000000
#endif

static char hello[] = "hello";

static int udp(void) { return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0); }
static int tcp(void) { return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); }

static struct msghdr message(void *name, socklen_t len, struct iovec *iov)
{
	iov->iov_base = hello;
	iov->iov_len = sizeof hello;
	return (struct msghdr){.msg_name = name, .msg_namelen = len, .msg_iov = iov, .msg_iovlen = 1};
}

static unsigned short sum16(const void *data, int len)
{
	const unsigned short *w = data;
	unsigned sum = 0;

	for (; len > 1; len -= 2)
		sum += *w++;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

// A thread with descriptors of its own: under a number of which the first one
// has a Unix socket, it has another.
static int number;
static struct sockaddr_in *to;

static void *own_table(void *unused)
{
	struct iovec iov;
	struct msghdr msg = message(to, sizeof *to, &iov);

	if (unshare(CLONE_FILES) || dup2(udp(), number) < 0)
		die("unshare");
	say("sendmsg", sendmsg(number, &msg, 0));
	return unused;
}

static int families(int count, long above)
{
	const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_RDM, SOCK_RAW};

	for (int f = 0; f < count; f++) {
		long s = -1;

		for (size_t i = 0; i < sizeof types / sizeof *types && s < 0; i++)
			if (!(types[i] == SOCK_RAW && (f == AF_INET || f == AF_INET6)))
				s = syscall(SYS_socket, above << 32 | f, above << 32 | types[i], f == AF_PACKET ? 0x300 : 0);
		printf("%d ", f);
		say("socket", s);
		if (s >= 0)
			close(s);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct iovec iov;
	struct msghdr msg;
	const char *way = argv[1], *addr = argv[2];
	int port, s, n;
	struct sockaddr_in a;
	struct sockaddr_in6 a6;

	if (argc < 4)
		die("net WAY ADDR PORT");
	port = atoi(argv[3]);
	if (is(way, "families")) // a socket of each, up to ADDR; PORT is what all registers have above an int
		return families(atoi(addr), port);
	if (!strchr(addr, ':'))
		a = in4(addr, port);
	if (is(way, "connect"))
		return say("connect", connect(tcp(), (void *)&a, sizeof a)) < 0;
	if (is(way, "connect-long")) { // the kernel looks at the first 16 bytes only
		struct sockaddr_storage st = {0};
		memcpy(&st, &a, sizeof a);
		return say("connect", connect(tcp(), (void *)&st, sizeof st)) < 0;
	}
	if (is(way, "connect-garbage")) { // all 64 bits of an int
		return say("connect", syscall(SYS_connect, 0xffffffff00000000UL | tcp(), &a, 0xffffffff00000000UL | sizeof a)) < 0;
	}
	if (is(way, "connect-nonblock")) {
		s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		n = connect(s, (void *)&a, sizeof a);
		if (n < 0 && errno == EINPROGRESS) {
			struct pollfd p = {s, POLLOUT, 0};
			socklen_t len = sizeof n;
			poll(&p, 1, 10000);
			getsockopt(s, SOL_SOCKET, SO_ERROR, &errno, &len);
			n = errno ? -1 : 0;
		}
		return say("connect", n) < 0;
	}
	if (is(way, "mapped") || is(way, "connect6")) {
		a6 = in6(addr, port);
		s = socket(AF_INET6, SOCK_STREAM, 0);
		return say("connect", connect(s, (void *)&a6, sizeof a6)) < 0;
	}
	if (is(way, "mapped-short")) {
		a6 = in6(addr, port);
		s = socket(AF_INET6, SOCK_STREAM, 0);
		return say("connect", connect(s, (void *)&a6, 24)) < 0;
	}
	if (is(way, "mapped-udp")) {
		a6 = in6(addr, port);
		s = socket(AF_INET6, SOCK_DGRAM, 0);
		return say("sendto", sendto(s, hello, sizeof hello, 0, (void *)&a6, sizeof a6)) < 0;
	}
	if (is(way, "v4-on-v6-udp")) { // an IPv4 address on an IPv6 datagram socket
		s = socket(AF_INET6, SOCK_DGRAM, 0);
		return say("sendto", sendto(s, hello, sizeof hello, 0, (void *)&a, sizeof a)) < 0;
	}
	if (is(way, "v4-connect-on-v6-udp")) {
		s = socket(AF_INET6, SOCK_DGRAM, 0);
		if (say("connect", connect(s, (void *)&a, sizeof a)) < 0)
			return 1;
		return say("send", send(s, hello, sizeof hello, 0)) < 0;
	}
	if (is(way, "sendto"))
		return say("sendto", sendto(udp(), hello, sizeof hello, 0, (void *)&a, sizeof a)) < 0;
	if (is(way, "sendmsg")) {
		msg = message(&a, sizeof a, &iov);
		return say("sendmsg", sendmsg(udp(), &msg, 0)) < 0;
	}
	if (is(way, "own-table")) {
		pthread_t t;

		number = socket(AF_UNIX, SOCK_DGRAM, 0);
		to = &a;
		pthread_create(&t, NULL, own_table, NULL);
		pthread_join(t, NULL);
		return 0;
	}
	if (is(way, "sendmmsg")) { // to ADDR2, ADDR, ADDR2
		struct sockaddr_in other = in4(argv[4], port);
		struct iovec iovs[3];
		struct mmsghdr m[3];

		m[0].msg_hdr = message(&other, sizeof other, &iovs[0]);
		m[1].msg_hdr = message(&a, sizeof a, &iovs[1]);
		m[2].msg_hdr = message(&other, sizeof other, &iovs[2]);
		printf("sendmmsg: %d\n", sendmmsg(udp(), m, 3, 0));
		return 0;
	}
	if (is(way, "sendmmsg-first")) { // to ADDR, ADDR2
		struct sockaddr_in other = in4(argv[4], port);
		struct iovec iovs[2];
		struct mmsghdr m[2];

		m[0].msg_hdr = message(&a, sizeof a, &iovs[0]);
		m[1].msg_hdr = message(&other, sizeof other, &iovs[1]);
		return say("sendmmsg", sendmmsg(udp(), m, 2, 0)) < 0;
	}
	if (is(way, "unspec")) { // udp_sendmsg takes AF_UNSPEC for AF_INET
		a.sin_family = AF_UNSPEC;
		return say("sendto", sendto(udp(), hello, sizeof hello, 0, (void *)&a, sizeof a)) < 0;
	}
	if (is(way, "unspec-connected")) { // connected to ADDR2, and yet to ADDR
		struct sockaddr_in other = in4(argv[4], port);
		s = udp();
		if (connect(s, (void *)&other, sizeof other) < 0)
			die("connect");
		a.sin_family = AF_UNSPEC;
		return say("sendto", sendto(s, hello, sizeof hello, 0, (void *)&a, sizeof a)) < 0;
	}
	if (is(way, "unspec-raw6")) { // rawv6_sendmsg takes AF_UNSPEC for AF_INET6
		a6 = in6(addr, 0);
		a6.sin6_family = AF_UNSPEC;
		s = socket(AF_INET6, SOCK_RAW, 253);
		if (s < 0)
			die("socket");
		return say("sendto", sendto(s, hello, sizeof hello, 0, (void *)&a6, sizeof a6)) < 0;
	}
	if (is(way, "raw")) {
		a.sin_port = 0;
		s = socket(AF_INET, SOCK_RAW, 253);
		if (s < 0)
			die("socket");
		return say("sendto", sendto(s, hello, sizeof hello, 0, (void *)&a, sizeof a)) < 0;
	}
	if (is(way, "raw-header")) { // a packet to ADDR, sent to ADDR2
		struct sockaddr_in other = in4(argv[4], 0);
		struct {
			uint8_t ip[20], udp[8], data[6];
		} p = {0};

		p.ip[0] = 0x45;
		p.ip[3] = sizeof p;
		p.ip[8] = 64;
		p.ip[9] = IPPROTO_UDP;
		memcpy(p.ip + 12, &other.sin_addr, 4);
		memcpy(p.ip + 16, &a.sin_addr, 4);
		*(uint16_t *)(p.ip + 10) = sum16(p.ip, 20);
		*(uint16_t *)(p.udp + 0) = htons(4444);
		*(uint16_t *)(p.udp + 2) = htons(port);
		*(uint16_t *)(p.udp + 4) = htons(14);
		memcpy(p.data, hello, 6);
		s = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
		if (s < 0)
			die("socket");
		return say("sendto", sendto(s, &p, sizeof p, 0, (void *)&other, sizeof other)) < 0;
	}
	if (is(way, "fastopen")) {
		n = sendto(tcp(), hello, sizeof hello, MSG_FASTOPEN, (void *)&a, sizeof a);
		return say("sendto", n) < 0;
	}
	if (is(way, "fastopen-msg")) {
		msg = message(&a, sizeof a, &iov);
		return say("sendmsg", sendmsg(tcp(), &msg, MSG_FASTOPEN)) < 0;
	}
	if (is(way, "fastopen-connect")) {
		int on = 1;
		s = tcp();
		setsockopt(s, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof on);
		if (say("connect", connect(s, (void *)&a, sizeof a)) < 0)
			return 1;
		return say("write", write(s, hello, sizeof hello)) < 0;
	}
	if (is(way, "connected-udp")) {
		s = udp();
		if (say("connect", connect(s, (void *)&a, sizeof a)) < 0)
			return 1;
		return say("send", send(s, hello, sizeof hello, 0)) < 0;
	}
	if (is(way, "connected-sendmsg")) { // no address in the call
		s = udp();
		if (say("connect", connect(s, (void *)&a, sizeof a)) < 0)
			return 1;
		msg = message(NULL, 0, &iov);
		return say("sendmsg", sendmsg(s, &msg, 0)) < 0;
	}
	if (is(way, "mptcp"))
		return say("connect", connect(socket(AF_INET, SOCK_STREAM, 262), (void *)&a, sizeof a)) < 0;
	if (is(way, "smc")) // TCP by another name
		return say("connect", connect(socket(43 /* AF_SMC */, SOCK_STREAM, 0), (void *)&a, sizeof a)) < 0;
	if (is(way, "io_uring")) {
		char params[256] = {0};
		return say("io_uring_setup", syscall(SYS_io_uring_setup, 4, params)) < 0;
	}
	if (is(way, "int80")) { // connect of i386
		long r = -ENOSYS;
#if defined(__x86_64__)
		struct sockaddr_in *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
					       MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
		*low = a;
		__asm__ volatile("int $0x80" : "=a"(r) : "a"(362), "b"((long)tcp()), "c"(low), "d"(sizeof a) : "memory", "r8", "r9", "r10", "r11");
		r = (int)r;
#endif
		errno = -r;
		return say("connect", r < 0 ? -1 : 0) < 0;
	}
	if (is(way, "int80-socketcall")) {
		long r = -ENOSYS;
#if defined(__x86_64__)
		struct {
			struct sockaddr_in a;
			uint32_t args[3];
		} *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
		low->a = a;
		low->args[0] = tcp();
		low->args[1] = (uintptr_t)&low->a;
		low->args[2] = sizeof a;
		__asm__ volatile("int $0x80" : "=a"(r) : "a"(102), "b"(3L), "c"(low->args) : "memory", "r8", "r9", "r10", "r11");
		r = (int)r;
#endif
		errno = -r;
		return say("socketcall", r < 0 ? -1 : 0) < 0;
	}
	if (is(way, "x32"))
		return say("connect", syscall(0x40000000 | SYS_connect, tcp(), &a, sizeof a)) < 0;
	if (is(way, "landlock")) { // a sandbox of its own that allows no TCP at all
		struct {
			uint64_t fs, net;
		} rules = {0, 3 /* bind, connect */};
		int ruleset = syscall(444, &rules, sizeof rules, 0);

		if (ruleset < 0) {
			say("landlock", -1);
			return 0;
		}
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		if (syscall(446, ruleset, 0) < 0)
			die("landlock_restrict_self");
		return say("connect", connect(tcp(), (void *)&a, sizeof a)) < 0;
	}
	die(way);
}
