// ask WAY SERVER NAME: looks NAME up at port 53 of SERVER in one of many ways,
// and takes an answer from nobody else.
#include "victim.h"

#ifndef MSG_FASTOPEN
#define MSG_FASTOPEN 0x20000000
#endif
#ifndef TCP_FASTOPEN_CONNECT
#define TCP_FASTOPEN_CONNECT 30
#endif
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

// A query of one address, with its length before it for TCP.
static unsigned char buf[600], *query = buf + 2;
static int len;

static void question(const char *name, int id)
{
	unsigned char *p = query + 12;

	memset(buf, 0, sizeof buf);
	query[0] = id >> 8, query[1] = id, query[2] = 1, query[5] = 1;
	while (*name) {
		int n = strcspn(name, ".");
		*p++ = n;
		memcpy(p, name, n);
		p += n, name += n + (name[n] == '.');
	}
	p += 1;
	p[1] = 1, p[3] = 1, p += 4;
	len = p - query;
	buf[0] = len >> 8, buf[1] = len;
}

// Tells what an answer says: its last address, or its code.
static int tell(const char *way, const unsigned char *a, int n)
{
	static const char *codes[16] = {"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"};

	if (n < 12 || a[0] != query[0] || a[1] != query[1])
		return printf("%s: not the answer\n", way), 1;
	if (a[3] & 15 || !a[7])
		printf("%s: %s\n", way, codes[a[3] & 15]);
	else
		printf("%s: %d.%d.%d.%d\n", way, a[n - 4], a[n - 3], a[n - 2], a[n - 1]);
	return 0;
}

static int datagram(const char *way, int s, struct sockaddr *to, socklen_t tolen)
{
	unsigned char a[4096];
	struct pollfd p = {s, POLLIN, 0};

	for (;;) {
		struct sockaddr_in6 from = {0};
		socklen_t fromlen = sizeof from;
		if (poll(&p, 1, 3000) == 0)
			return printf("%s: no answer\n", way), 1;
		int n = recvfrom(s, a, sizeof a, 0, (void *)&from, &fromlen);
		if (n < 0)
			return say(way, n), 1;
		if (fromlen != tolen || memcmp(&from, to, tolen)) {
			printf("%s: an answer from elsewhere\n", way);
			continue;
		}
		if (n > 1 && (a[0] != query[0] || a[1] != query[1]))
			continue; // to another of our questions
		return tell(way, a, n);
	}
}

static int stream(const char *way, int s)
{
	unsigned char a[4096];
	int n = recv(s, a, 2, MSG_WAITALL);

	if (n != 2)
		return say(way, n), 1;
	n = recv(s, a, a[0] << 8 | a[1], MSG_WAITALL);
	return tell(way, a, n);
}

int main(int argc, char **argv)
{
	const char *way = argv[1], *server = argv[2];
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(53)};
	struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons(53)};
	struct sockaddr *to = (void *)&a;
	socklen_t tolen = sizeof a;
	int family = AF_INET, s, n, one = 1;

	if (argc < 4)
		die("ask WAY SERVER NAME");
	if (strchr(server, ':')) {
		family = AF_INET6, to = (void *)&a6, tolen = sizeof a6;
		char *zone = strchr(server, '%');
		if (zone)
			*zone = 0, a6.sin6_scope_id = atoi(zone + 1);
		inet_pton(AF_INET6, server, &a6.sin6_addr);
	} else
		inet_pton(AF_INET, server, &a.sin_addr);
	question(argv[3], 4711);
	s = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (is(way, "sendto")) {
		n = sendto(s, query, len, 0, to, tolen);
		return n < 0 ? say(way, n), 1 : datagram(way, s, to, tolen);
	}
	if (is(way, "bound")) {
		struct sockaddr_in6 own = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
		struct sockaddr_in own4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		if (IN6_IS_ADDR_V4MAPPED(&a6.sin6_addr))
			inet_pton(AF_INET6, "::ffff:127.0.0.1", &own.sin6_addr);
		if (bind(s, family == AF_INET ? (void *)&own4 : (void *)&own, tolen))
			return say("bind", -1), 1;
		n = sendto(s, query, len, 0, to, tolen);
		return n < 0 ? say(way, n), 1 : datagram(way, s, to, tolen);
	}
	if (is(way, "connected") || is(way, "connected-write")) {
		if (connect(s, to, tolen))
			return say("connect", -1), 1;
		n = is(way, "connected") ? send(s, query, len, 0) : write(s, query, len);
		unsigned char r[4096];
		struct pollfd p = {s, POLLIN, 0};
		if (n < 0 || poll(&p, 1, 3000) == 0)
			return say(way, n), 1;
		n = recv(s, r, sizeof r, 0);
		return n < 0 ? say(way, n), 1 : tell(way, r, n);
	}
	if (is(way, "connected-elsewhere")) { // the address of the message counts; an answer would be for another port
		struct sockaddr_in other = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0x7f000001)};
		struct sockaddr_in6 other6 = {.sin6_family = AF_INET6, .sin6_port = htons(9), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
		struct sockaddr none = {.sa_family = AF_UNSPEC};
		if (connect(s, family == AF_INET ? (void *)&other : (void *)&other6, tolen))
			return say("connect", -1), 1;
		n = sendto(s, query, len, 0, to, tolen);
		connect(s, &none, sizeof none);
		return say(way, n) < 0;
	}
	struct iovec iov[2] = {{query, 7}, {query + 7, len - 7}};
	struct msghdr m = {.msg_name = to, .msg_namelen = tolen, .msg_iov = iov, .msg_iovlen = 2};
	char control[CMSG_SPACE(sizeof(int))] = {0};
	if (is(way, "sendmsg") || is(way, "control")) {
		if (is(way, "control")) {
			m.msg_control = control, m.msg_controllen = sizeof control;
			struct cmsghdr *c = CMSG_FIRSTHDR(&m);
			c->cmsg_level = family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
			c->cmsg_type = family == AF_INET ? IP_TOS : IPV6_TCLASS;
			c->cmsg_len = CMSG_LEN(sizeof(int));
		}
		n = sendmsg(s, &m, 0);
		return n < 0 ? say(way, n), 1 : datagram(way, s, to, tolen);
	}
	if (is(way, "sendmmsg")) { // the name is in the last of three
		unsigned char other[600];
		question("good.test", 815);
		memcpy(other, query, sizeof other - 2);
		struct iovec first = {other, len};
		question(argv[3], 4711);
		iov[1].iov_len = len - 7;
		struct mmsghdr all[3] = {{.msg_hdr = m}, {.msg_hdr = m}, {.msg_hdr = m}};
		all[0].msg_hdr.msg_iov = all[1].msg_hdr.msg_iov = &first;
		all[0].msg_hdr.msg_iovlen = all[1].msg_hdr.msg_iovlen = 1;
		n = sendmmsg(s, all, 3, 0);
		if (n != 3)
			return printf("%s: %d sent\n", way, n), 1;
		return datagram(way, s, to, tolen);
	}
	s = socket(family, SOCK_STREAM | SOCK_CLOEXEC, is(way, "mptcp") ? IPPROTO_MPTCP : 0);
	if (is(way, "tcp") || is(way, "mptcp")) {
		if (connect(s, to, tolen))
			return say("connect", -1), 1;
		n = send(s, buf, len + 2, 0);
	} else if (is(way, "fastopen"))
		n = sendto(s, buf, len + 2, MSG_FASTOPEN, to, tolen);
	else if (is(way, "fastopen-connect")) {
		setsockopt(s, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one);
		if (connect(s, to, tolen))
			return say("connect", -1), 1;
		n = send(s, buf, len + 2, 0);
	} else
		die("ask: no such way");
	return n < 0 ? say(way, n), 1 : stream(way, s);
}
