// listen WAY PORT: opens PORT for others, in one of many ways.
#include "victim.h"

#include <linux/capability.h>

static int on = 1;

static int serve(int s, void *a, socklen_t len)
{
	if (say("bind", bind(s, a, len)) < 0)
		return 1;
	return say("listen", listen(s, 8)) < 0;
}

// Tells whether somebody can come in.
static int reached(int s)
{
	struct sockaddr_storage a;
	socklen_t len = sizeof a;
	int c;

	if (getsockname(s, (void *)&a, &len) < 0)
		die("getsockname");
	c = socket(a.ss_family, SOCK_STREAM, 0);
	return say("connect", connect(c, (void *)&a, len)) < 0;
}

static int *shared_fd;

static void *swapper(void *arg)
{
	int port = *(int *)arg;

	for (;;) {
		// For a moment the descriptor is another socket.
		int in = socket(AF_INET, SOCK_DGRAM, 0), un = socket(AF_UNIX, SOCK_DGRAM, 0);

		dup2(in, *shared_fd);
		dup2(un, *shared_fd);
		close(in);
		close(un);
		(void)port;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	const char *way = argv[1];
	int port, s;
	struct sockaddr_in a;
	struct sockaddr_in6 a6;

	if (argc < 3)
		die("listen WAY PORT");
	port = atoi(argv[2]);
	a = in4("127.0.0.1", port);
	a6 = in6("::1", port);
	if (is(way, "tcp")) {
		s = socket(AF_INET, SOCK_STREAM, 0);
		return serve(s, &a, sizeof a) || reached(s);
	}
	if (is(way, "everywhere")) {
		a.sin_addr.s_addr = 0;
		s = socket(AF_INET, SOCK_STREAM, 0);
		return serve(s, &a, sizeof a) || reached(s);
	}
	if (is(way, "unspec")) { // inet_bind takes AF_UNSPEC for AF_INET
		a.sin_addr.s_addr = 0;
		a.sin_family = AF_UNSPEC;
		return serve(socket(AF_INET, SOCK_STREAM, 0), &a, sizeof a);
	}
	if (is(way, "tcp6")) {
		s = socket(AF_INET6, SOCK_STREAM, 0);
		return serve(s, &a6, sizeof a6) || reached(s);
	}
	if (is(way, "mapped")) {
		a6 = in6("::ffff:127.0.0.1", port);
		return serve(socket(AF_INET6, SOCK_STREAM, 0), &a6, sizeof a6);
	}
	if (is(way, "short6")) {
		return serve(socket(AF_INET6, SOCK_STREAM, 0), &a6, 24);
	}
	if (is(way, "garbage")) { // all 64 bits of an int
		s = socket(AF_INET, SOCK_STREAM, 0);
		if (say("bind", syscall(SYS_bind, 0xffffffff00000000UL | s, &a, 0xffffffff00000000UL | sizeof a)) < 0)
			return 1;
		return say("listen", syscall(SYS_listen, 0xffffffff00000000UL | s, 0xffffffff00000008UL)) < 0;
	}
	if (is(way, "mptcp"))
		return serve(socket(AF_INET, SOCK_STREAM, 262), &a, sizeof a);
	if (is(way, "reuse")) { // two sockets share the port
		int s2 = socket(AF_INET, SOCK_STREAM, 0);

		s = socket(AF_INET, SOCK_STREAM, 0);
		setsockopt(s, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
		setsockopt(s2, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
		return serve(s, &a, sizeof a) || serve(s2, &a, sizeof a);
	}
	if (is(way, "twice")) { // the second is refused by the kernel
		s = socket(AF_INET, SOCK_STREAM, 0);
		if (serve(s, &a, sizeof a))
			return 1;
		return serve(socket(AF_INET, SOCK_STREAM, 0), &a, sizeof a);
	}
	if (is(way, "bound-twice")) {
		s = socket(AF_INET, SOCK_STREAM, 0);
		say("bind", bind(s, (void *)&a, sizeof a));
		return say("again", bind(s, (void *)&a, sizeof a)) < 0;
	}
	if (is(way, "unbound")) // the kernel chooses the port
		return say("listen", listen(s = socket(AF_INET, SOCK_STREAM, 0), 8)) < 0 || reached(s);
	if (is(way, "unbound6"))
		return say("listen", listen(s = socket(AF_INET6, SOCK_STREAM, 0), 8)) < 0 || reached(s);
	if (is(way, "any-port")) {
		a.sin_port = 0;
		s = socket(AF_INET, SOCK_STREAM, 0);
		return serve(s, &a, sizeof a) || reached(s);
	}
	if (is(way, "late-port")) { // the port is chosen when it is needed
		a.sin_port = 0;
		s = socket(AF_INET, SOCK_STREAM, 0);
		setsockopt(s, IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, &on, sizeof on);
		return serve(s, &a, sizeof a) || reached(s);
	}
	if (is(way, "udp"))
		return say("bind", bind(socket(AF_INET, SOCK_DGRAM, 0), (void *)&a, sizeof a)) < 0;
	if (is(way, "udp6"))
		return say("bind", bind(socket(AF_INET6, SOCK_DGRAM, 0), (void *)&a6, sizeof a6)) < 0;
	if (is(way, "udp-any-port")) { // a client's socket
		a.sin_port = 0;
		return say("bind", bind(socket(AF_INET, SOCK_DGRAM, 0), (void *)&a, sizeof a)) < 0;
	}
	if (is(way, "source-port")) { // a client that chooses its own port: no listener
		s = socket(AF_INET, SOCK_STREAM, 0);
		return say("bind", bind(s, (void *)&a, sizeof a)) < 0;
	}
	if (is(way, "listen-udp"))
		return say("listen", listen(socket(AF_INET, SOCK_DGRAM, 0), 8)) < 0;
	if (is(way, "wrong-family"))
		return say("bind", bind(socket(AF_INET6, SOCK_STREAM, 0), (void *)&a, sizeof a)) < 0;
	if (is(way, "too-short"))
		return say("bind", bind(socket(AF_INET, SOCK_STREAM, 0), (void *)&a, 8)) < 0;
	if (is(way, "no-memory"))
		return say("bind", bind(socket(AF_INET, SOCK_STREAM, 0), (void *)8, sizeof a)) < 0;
	if (is(way, "no-socket"))
		return say("bind", bind(0, (void *)&a, sizeof a)) < 0;
	if (is(way, "not-ours"))
		return say("bind", bind(socket(AF_INET, SOCK_STREAM, 0), (void *)&(struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x08080808)}, sizeof a)) < 0;
	if (is(way, "no-service")) { // without CAP_NET_BIND_SERVICE
		struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
		struct __user_cap_data_struct data[2];

		if (syscall(SYS_capget, &head, data) < 0)
			die("capget");
		data[0].effective &= ~(1U << CAP_NET_BIND_SERVICE);
		if (syscall(SYS_capset, &head, data) < 0)
			die("capset");
		return serve(socket(AF_INET, SOCK_STREAM, 0), &a, sizeof a);
	}
	if (is(way, "user")) {
		if (setgid(1000) < 0 || setuid(1000) < 0)
			die("setuid");
		return serve(socket(AF_INET, SOCK_STREAM, 0), &a, sizeof a);
	}
	if (is(way, "namespace")) { // root of its own user and net namespace
		if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
			die("unshare");
		a.sin_addr.s_addr = 0;
		return serve(socket(AF_INET, SOCK_STREAM, 0), &a, sizeof a);
	}
	if (is(way, "other-namespace")) { // root of a user namespace, but not of the net namespace
		if (unshare(CLONE_NEWUSER) < 0)
			die("unshare");
		return serve(socket(AF_INET, SOCK_STREAM, 0), &a, sizeof a);
	}
	if (is(way, "unix")) {
		struct sockaddr_un u = {.sun_family = AF_UNIX, .sun_path = "socket"};
		return serve(socket(AF_UNIX, SOCK_STREAM, 0), &u, sizeof u);
	}
	if (is(way, "swap")) { // ARGV[3] seconds: a thread exchanges the socket
		double until = now() + (argc > 3 ? atof(argv[3]) : 1);
		pthread_t t;
		int fd = socket(AF_UNIX, SOCK_DGRAM, 0), bound = 0;

		shared_fd = &fd;
		pthread_create(&t, NULL, swapper, &port);
		while (now() < until)
			if (bind(fd, (void *)&a, sizeof a) == 0)
				bound++;
		printf("bound: %s\n", bound ? "yes" : "no");
		fflush(stdout);
		_exit(0);
	}
	die(way);
}
