/*
 * micro makes one system call again and again and tells what it took.
 *
 *     micro [-g] CALL THREADS COUNT [PROGRAM]
 *
 * COUNT calls are shared out among the threads, which start together. Printed
 * are, in nanoseconds: the time of all divided by COUNT, and the median and
 * the 99th percentile of single calls; of those that take as long as a look
 * at the clock, a hundred count as one. What a call needs (sockets, a
 * listener) is made before the clock runs. PROGRAM is what vfork and fork
 * execute.
 *
 * With -g it says "ready" and waits for a line on standard input before the
 * first call, and for another before it ends, so that its supervisor can be looked at.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in peer; /* 127.0.0.1 and a port of ours */
static char *program, **environment;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static unsigned long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ul + t.tv_nsec;
}

static int loopback(int type, int backlog)
{
	socklen_t size = sizeof peer;
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	peer.sin_family = AF_INET;
	peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	peer.sin_port = 0;
	if (fd < 0 || bind(fd, (struct sockaddr *)&peer, sizeof peer))
		die("bind");
	if (backlog && listen(fd, backlog))
		die("listen");
	if (getsockname(fd, (struct sockaddr *)&peer, &size))
		die("getsockname");
	return fd;
}

static pid_t acceptor;

static void quit(void)
{
	if (acceptor)
		kill(acceptor, SIGTERM);
}

static void listener(void)
{
	int fd = loopback(SOCK_STREAM, 4096);

	acceptor = fork();
	if (acceptor < 0)
		die("fork");
	if (acceptor == 0)
		for (;;)
			close(accept4(fd, NULL, NULL, SOCK_CLOEXEC));
	close(fd);
	atexit(quit);
}

static void receiver(void) { loopback(SOCK_DGRAM, 0); }

static struct sockaddr_un door = {.sun_family = AF_UNIX}; /* abstract */

static void mailbox(void)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(door.sun_path + 1, sizeof door.sun_path - 1, "micro-%d", getpid());
	if (fd < 0 || bind(fd, (struct sockaddr *)&door, sizeof door))
		die("bind");
}

static void nothing(void) {}

/* Each call gets a descriptor of its thread's own, made by its open. */
static int none(void) { return -1; }
static int zero(void) { return open("/dev/zero", O_RDONLY | O_CLOEXEC); }
static int datagram(void) { return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0); }
static int letter(void) { return socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0); }

static void do_getpid(int fd) { (void)fd; syscall(SYS_getppid); }

static void do_read(int fd)
{
	char b[64];

	if (read(fd, b, sizeof b) != sizeof b)
		die("read");
}

static void do_open(int fd)
{
	if ((fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC)) < 0)
		die("open");
	close(fd);
}

static void do_lookup(int fd)
{
	char *argv[] = {"nothing", NULL};

	(void)fd;
	if (execve("/nonexistent", argv, environment) != -1)
		die("execve");
}

/* Asked about for the process it names, and no rule's business: the cheapest
 * notification there is. */
static void do_prlimit(int fd)
{
	struct rlimit64 l;

	(void)fd;
	syscall(SYS_prlimit64, getpid(), RLIMIT_NOFILE, NULL, &l);
}

static void await(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		die(program);
}

static void do_vfork(int fd)
{
	char *argv[] = {program, NULL};
	pid_t pid = vfork();

	(void)fd;
	if (pid == 0) {
		execve(program, argv, environment);
		_exit(127);
	}
	await(pid);
}

static void do_fork(int fd)
{
	char *argv[] = {program, NULL};
	pid_t pid = fork();

	(void)fd;
	if (pid == 0) {
		execve(program, argv, environment);
		_exit(127);
	}
	await(pid);
}

static void do_connect(int fd)
{
	static const struct linger reset = {1, 0}; /* no TIME_WAIT: ports would run out */

	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) ||
	    connect(fd, (struct sockaddr *)&peer, sizeof peer))
		die("connect");
	close(fd);
}

static void do_associate(int fd)
{
	if (connect(fd, (struct sockaddr *)&peer, sizeof peer))
		die("connect");
}

static void do_raw(int fd)
{
	fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	if (fd < 0)
		die("socket");
	close(fd);
}

static void do_sendto(int fd)
{
	if (sendto(fd, "datagram", 8, 0, (struct sockaddr *)&peer, sizeof peer) != 8)
		die("sendto");
}

static void do_sendmsg(int fd)
{
	struct iovec text = {"datagram", 8};
	struct msghdr m = {.msg_name = &peer, .msg_namelen = sizeof peer, .msg_iov = &text, .msg_iovlen = 1};

	if (sendmsg(fd, &m, 0) != 8)
		die("sendmsg");
}

/* Eight messages, each with an address of its own. */
static void do_sendmmsg(int fd)
{
	struct iovec text = {"datagram", 8};
	struct mmsghdr m[8];

	for (int i = 0; i < 8; i++)
		m[i].msg_hdr = (struct msghdr){.msg_name = &peer, .msg_namelen = sizeof peer, .msg_iov = &text, .msg_iovlen = 1};
	if (sendmmsg(fd, m, 8, 0) != 8)
		die("sendmmsg");
}

static void do_unix(int fd)
{
	if (connect(fd, (struct sockaddr *)&door, sizeof door))
		die("connect");
}

static void do_kill(int fd)
{
	(void)fd;
	if (kill(getpid(), 0))
		die("kill");
}

/* A file of the thread's own, in the working directory. */
static __thread char name[64], other[80];

static int file(void)
{
	int fd;

	snprintf(name, sizeof name, "micro-%ld", syscall(SYS_gettid));
	snprintf(other, sizeof other, "%s.other", name);
	if ((fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)) < 0)
		die(name);
	close(fd);
	return -1;
}

static void do_write_open(int fd)
{
	if ((fd = open(name, O_WRONLY | O_CLOEXEC)) < 0)
		die("open");
	close(fd);
}

static void do_rename(int fd)
{
	(void)fd;
	if (rename(name, other) || rename(other, name))
		die("rename");
}

static void do_link(int fd)
{
	(void)fd;
	if (link(name, other) || unlink(other))
		die("link");
}

static void do_mkdir(int fd)
{
	(void)fd;
	if (mkdir(other, 0700) || rmdir(other))
		die("mkdir");
}

static void do_chmod(int fd)
{
	(void)fd;
	if (chmod(name, 0600))
		die("chmod");
}

static void do_truncate(int fd)
{
	(void)fd;
	if (truncate(name, 0))
		die("truncate");
}

static void do_listen(int fd)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(fd, (struct sockaddr *)&any, sizeof any) || listen(fd, 1))
		die("listen");
	close(fd);
}

static const struct call {
	const char *name;
	void (*prepare)(void);
	int (*open)(void);
	void (*make)(int fd);
	int batch; /* calls that count as one; 0 is 1 */
} calls[] = {
	{"getpid", nothing, none, do_getpid, 100},
	{"read", nothing, zero, do_read, 100},
	{"open", nothing, none, do_open},
	{"prlimit", nothing, none, do_prlimit},
	{"lookup", nothing, none, do_lookup},
	{"vfork", nothing, none, do_vfork},
	{"fork", nothing, none, do_fork},
	{"connect", listener, none, do_connect},
	{"associate", receiver, datagram, do_associate},
	{"raw", nothing, none, do_raw},
	{"sendto", receiver, datagram, do_sendto},
	{"sendmsg", receiver, datagram, do_sendmsg},
	{"sendmmsg", receiver, datagram, do_sendmmsg},
	{"unix", mailbox, letter, do_unix},
	{"listen", nothing, none, do_listen},
	{"kill", nothing, none, do_kill},
	{"write-open", nothing, file, do_write_open},
	{"rename", nothing, file, do_rename},
	{"link", nothing, file, do_link},
	{"mkdir", nothing, file, do_mkdir},
	{"chmod", nothing, file, do_chmod},
	{"truncate", nothing, file, do_truncate},
};

static const struct call *call;
static unsigned *took;
static long each;
static int batch, gated;
static pthread_barrier_t start;

static void *run(void *arg)
{
	unsigned *at = took + (long)arg * each;
	int fd = call->open();
	unsigned long before, after;

	pthread_barrier_wait(&start);
	before = now();
	for (long i = 0; i < each; i++) {
		for (int k = 0; k < batch; k++)
			call->make(fd);
		after = now();
		at[i] = after - before;
		before = after;
	}
	if (*name)
		unlink(name);
	return NULL;
}

static int compare(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

	return (x > y) - (x < y);
}

static void gate(void)
{
	int c;

	fflush(stdout);
	while (gated && (c = getchar()) != EOF && c != '\n')
		;
}

int main(int argc, char **argv, char **envp)
{
	unsigned long begin;
	pthread_t *ids;
	long threads, n;

	if (argc > 1 && !strcmp(argv[1], "-g")) {
		gated = 1;
		argc--, argv++;
	}
	threads = argc > 3 ? atol(argv[2]) : 0;
	if (threads < 1) {
		fprintf(stderr, "usage: micro [-g] CALL THREADS COUNT [PROGRAM]\n");
		return 2;
	}
	program = argc > 4 ? argv[4] : "/bin/true";
	environment = envp;
	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
		if (!strcmp(calls[i].name, argv[1]))
			call = &calls[i];
	if (!call) {
		fprintf(stderr, "micro: no call %s\n", argv[1]);
		return 2;
	}
	batch = call->batch ? call->batch : 1;
	each = atol(argv[3]) / threads / batch;
	if (each < 1)
		each = 1;
	n = each * threads;
	if (!(took = calloc(n, sizeof *took)) || !(ids = calloc(threads, sizeof *ids)))
		die("calloc");
	memset(took, 1, n * sizeof *took); /* no page faults while the clock runs */
	call->prepare();
	pthread_barrier_init(&start, NULL, threads + 1);
	for (long i = 0; i < threads; i++)
		if (pthread_create(&ids[i], NULL, run, (void *)i))
			die("pthread_create");
	if (gated)
		puts("ready");
	gate();
	begin = now();
	pthread_barrier_wait(&start);
	for (long i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
	begin = now() - begin;
	qsort(took, n, sizeof *took, compare);
	printf("%.1f %.1f %.1f\n", (double)begin / n / batch, (double)took[n / 2] / batch,
	       (double)took[n - 1 - n / 100] / batch);
	gate();
	return 0;
}
