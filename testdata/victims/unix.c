// unix WAY PATH: reaches the Unix socket PATH in one of many ways. PATH has a
// stream socket, PATH.d a datagram socket.
#include "victim.h"

static char hello[] = "hello";

static struct sockaddr_un name(const char *path, socklen_t *len)
{
	struct sockaddr_un u = {.sun_family = AF_UNIX};
	size_t n = strlen(path);

	if (n > sizeof u.sun_path)
		die("too long");
	memcpy(u.sun_path, path, n);
	*len = offsetof(struct sockaddr_un, sun_path) + n + (n < sizeof u.sun_path);
	return u;
}

static int reach(const char *path)
{
	socklen_t len;
	struct sockaddr_un u = name(path, &len);
	int s = socket(AF_UNIX, SOCK_STREAM, 0);

	if (say("connect", connect(s, (void *)&u, len)) < 0)
		return 1;
	char from[32] = "";
	// The other side says whom it sees.
	if (recv(s, from, sizeof from - 1, 0) > 0)
		printf("seen: %s\n", atoi(from) == getpid() ? "me" : from);
	return 0;
}

int main(int argc, char **argv)
{
	const char *way = argv[1], *path = argv[2];
	char other[PATH_MAX], base[64], dir[PATH_MAX];
	struct sockaddr_un u;
	socklen_t len;
	struct iovec iov = {hello, sizeof hello};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	int fd;

	if (argc < 3)
		die("unix WAY PATH");
	snprintf(dir, sizeof dir, "%.*s", (int)(strrchr(path, '/') - path), path);
	snprintf(base, sizeof base, "%s", strrchr(path, '/') + 1);
	if (is(way, "plain"))
		return reach(path);
	if (is(way, "unterminated")) {
		u = name(path, &len);
		return say("connect", connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&u, len - 1)) < 0;
	}
	if (is(way, "relative")) {
		if (chdir(dir) < 0)
			die("chdir");
		return reach(base);
	}
	if (is(way, "dots")) {
		char *dots;
		if (asprintf(&dots, "%s/../%s/./%s", dir, strrchr(dir, '/') + 1, base) < 0)
			die("asprintf");
		return reach(dots);
	}
	if (is(way, "symlink")) {
		if (symlink(path, "link") < 0)
			die("symlink");
		return reach("link");
	}
	if (is(way, "cwd")) {
		if (chdir(dir) < 0)
			die("chdir");
		snprintf(other, sizeof other, "/proc/self/cwd/%s", base);
		return reach(other);
	}
	if (is(way, "fd")) {
		fd = open(path, O_PATH);
		snprintf(other, sizeof other, "/proc/self/fd/%d", fd);
		return reach(other);
	}
	if (is(way, "hard-link")) {
		if (link(path, "hard") < 0)
			die("link");
		return reach("hard");
	}
	if (is(way, "abstract")) {
		u = name(base, &len);
		memmove(u.sun_path + 1, u.sun_path, sizeof u.sun_path - 1);
		u.sun_path[0] = 0;
		return say("connect", connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&u, len)) < 0;
	}
	if (is(way, "no-socket"))
		return reach("/etc/passwd");
	if (is(way, "nothing"))
		return reach("/nowhere/socket");
	if (is(way, "pair")) { // no address at all
		int fds[2];
		char control[CMSG_SPACE(sizeof(int))] = {0};
		struct cmsghdr *c = (void *)control;

		socketpair(AF_UNIX, SOCK_STREAM, 0, fds);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), fds, sizeof(int));
		msg.msg_control = control;
		msg.msg_controllen = sizeof control;
		return say("sendmsg", sendmsg(fds[0], &msg, 0)) < 0;
	}
	// The rest are datagrams.
	snprintf(other, sizeof other, "%s.d", path);
	u = name(other, &len);
	fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	msg.msg_name = &u;
	msg.msg_namelen = len;
	if (is(way, "sendto"))
		return say("sendto", sendto(fd, hello, sizeof hello, 0, (void *)&u, len)) < 0;
	if (is(way, "sendmsg"))
		return say("sendmsg", sendmsg(fd, &msg, 0)) < 0;
	if (is(way, "sendmmsg")) {
		struct mmsghdr m = {.msg_hdr = msg};
		return say("sendmmsg", sendmmsg(fd, &m, 1, 0)) < 0;
	}
	if (is(way, "dgram-connect")) {
		if (say("connect", connect(fd, (void *)&u, len)) < 0)
			return 1;
		return say("send", send(fd, hello, sizeof hello, 0)) < 0;
	}
	die(way);
}
