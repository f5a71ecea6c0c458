// What the victims share. A victim does one thing a target may do, tells on
// standard output how it ended, one line a try: "name: ok" or "name: EACCES".

#ifndef VICTIM_H
#define VICTIM_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

// How an errno is called; the ones that never reach a program have numbers.
static inline const char *ename(int e)
{
	static char text[16];
	const char *name = strerrorname_np(e);

	if (name)
		return name;
	snprintf(text, sizeof text, "%d", e);
	return text;
}

// Tells how a call ended. It keeps errno.
static inline long say(const char *name, long r)
{
	int e = errno;

	printf("%s: %s\n", name, r < 0 ? ename(e) : "ok");
	fflush(stdout);
	errno = e;
	return r;
}

static inline void die(const char *what)
{
	fprintf(stderr, "victim: %s: %s\n", what, strerror(errno));
	_exit(99);
}

static inline int is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static inline double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

// A page that every child and thread sees.
static inline void *shared(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static inline struct sockaddr_in in4(const char *addr, int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};

	if (inet_pton(AF_INET, addr, &a.sin_addr) != 1)
		die(addr);
	return a;
}

static inline struct sockaddr_in6 in6(const char *addr, int port)
{
	struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(port)};

	if (inet_pton(AF_INET6, addr, &a.sin6_addr) != 1)
		die(addr);
	return a;
}

// A listener on loopback whose queue is full: it answers nobody any more.
static inline struct sockaddr_in full(void)
{
	struct sockaddr_in a = in4("127.0.0.1", 0);
	socklen_t len = sizeof a;
	int l = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(l, (void *)&a, sizeof a) || listen(l, 0) || getsockname(l, (void *)&a, &len))
		die("listen");
	for (int i = 0; i < 4; i++) {
		int c = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		struct pollfd p = {c, POLLOUT, 0};

		connect(c, (void *)&a, sizeof a);
		poll(&p, 1, 100);
	}
	return a;
}

// Starts a program as a quick shell would, and tells whether it ran.
static inline void spawn_true(void)
{
	int status = 1;
	pid_t pid = vfork();

	if (pid == 0) {
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	waitpid(pid, &status, 0);
	printf("exec: %s\n", status ? "no" : "ok");
	fflush(stdout);
}

#endif
