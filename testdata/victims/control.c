// control WAY ADDR PORT: sends a datagram whose control data asks for more
// than an ordinary one. WAY with "-user" or "-none" does so without rights.
#include "victim.h"

#include <linux/capability.h>

static long sends(int s, void *name, socklen_t len, int level, int type, const void *data, size_t size)
{
	char control[256] = {0};
	struct cmsghdr *c = (void *)control;
	struct iovec iov = {"hello", 5};
	struct msghdr m = {.msg_name = name, .msg_namelen = len, .msg_iov = &iov, .msg_iovlen = 1,
			   .msg_control = control, .msg_controllen = CMSG_SPACE(size)};

	c->cmsg_level = level;
	c->cmsg_type = type;
	c->cmsg_len = CMSG_LEN(size);
	memcpy(CMSG_DATA(c), data, size);
	return sendmsg(s, &m, 0);
}

int main(int argc, char **argv)
{
	const char *way = argv[1];
	int s, n = 7;

	if (argc < 4)
		die("control WAY ADDR PORT");
	if (strstr(way, "-user")) {
		if (setgid(1000) < 0 || setuid(1000) < 0)
			die("setuid");
	}
	if (strstr(way, "-none")) { // root without what it takes
		struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
		struct __user_cap_data_struct data[2];

		if (syscall(SYS_capget, &head, data) < 0)
			die("capget");
		data[0].effective &= ~(1U << CAP_NET_ADMIN | 1U << CAP_NET_RAW);
		if (syscall(SYS_capset, &head, data) < 0)
			die("capset");
	}
	if (strncmp(way, "hopopts", 7) == 0) {
		struct sockaddr_in6 a6 = in6(argv[2], atoi(argv[3]));
		char options[8] = {0, 0, 1, 4};

		s = socket(AF_INET6, SOCK_DGRAM, 0);
		return say(way, sends(s, &a6, sizeof a6, IPPROTO_IPV6, IPV6_HOPOPTS, options, sizeof options)) < 0;
	}
	if (strncmp(way, "rthdr", 5) == 0) { // a routing header
		struct sockaddr_in6 a6 = in6(argv[2], atoi(argv[3]));
		char header[24] = {0, 2, 2, 1};

		s = socket(AF_INET6, SOCK_DGRAM, 0);
		return say(way, sends(s, &a6, sizeof a6, IPPROTO_IPV6, IPV6_RTHDR, header, sizeof header)) < 0;
	}
	struct sockaddr_in a = in4(argv[2], atoi(argv[3]));

	s = socket(AF_INET, SOCK_DGRAM, 0);
	if (strncmp(way, "mark", 4) == 0)
		return say(way, sends(s, &a, sizeof a, SOL_SOCKET, SO_MARK, &n, sizeof n)) < 0;
	if (strncmp(way, "ttl", 3) == 0)
		return say(way, sends(s, &a, sizeof a, IPPROTO_IP, IP_TTL, &n, sizeof n)) < 0;
	if (strncmp(way, "retopts", 7) == 0) { // a source route
		char options[8] = {131, 7, 4, 127, 0, 0, 1, 0};
		return say(way, sends(s, &a, sizeof a, IPPROTO_IP, IP_RETOPTS, options, sizeof options)) < 0;
	}
	if (strncmp(way, "options", 7) == 0) { // of the socket, for all it sends
		char options[8] = {131, 7, 4, 127, 0, 0, 1, 0};

		return say(way, setsockopt(s, IPPROTO_IP, IP_OPTIONS, options, strstr(way, "-off") ? 0 : sizeof options)) < 0;
	}
	if (strncmp(way, "bad", 3) == 0)
		return say(way, sends(s, &a, sizeof a, SOL_SOCKET, 9999, &n, sizeof n)) < 0;
	die(way);
}
