// reach WHO WAY: what a target may do to its parent, the supervisor (WHO is
// "parent"), or to the parent's parent, the guardian ("grandparent").
#include "victim.h"

#include <sys/mount.h>

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif
#define THREAD O_EXCL // PIDFD_THREAD

static int parent_of(int pid)
{
	char name[64], buf[512], *p;
	int fd, n;

	snprintf(name, sizeof name, "/proc/%d/stat", pid);
	fd = open(name, O_RDONLY);
	n = fd < 0 ? -1 : (int)read(fd, buf, sizeof buf - 1);
	if (n <= 0)
		die("stat");
	close(fd);
	buf[n] = 0;
	p = strrchr(buf, ')');
	return p ? atoi(p + 4) : -1;
}

static int proc_open(int pid, const char *file, int flags)
{
	char name[128];

	snprintf(name, sizeof name, "/proc/%d/%s", pid, file);
	return open(name, flags | O_CLOEXEC);
}

// Says the best result of f over all threads of pid but the first, and over
// the first if it is alone.
static long each_thread(int pid, long (*f)(int pid, int tid))
{
	char name[64];
	struct dirent *d;
	DIR *dir;
	long best = -1;
	int e = ENOENT, threads = 0;

	snprintf(name, sizeof name, "/proc/%d/task", pid);
	if (!(dir = opendir(name)))
		die("task");
	while ((d = readdir(dir))) {
		int tid = atoi(d->d_name);

		if (tid <= 0 || (tid == pid && ++threads))
			continue;
		threads++;
		if (f(pid, tid) >= 0)
			best = 0;
		else
			e = errno;
	}
	if (threads == 1 && f(pid, pid) >= 0)
		best = 0;
	else if (threads == 1)
		e = errno;
	errno = e;
	return best;
}

static siginfo_t info;

static long t_kill(int pid, int tid) { (void)pid; return kill(tid, SIGKILL); }
static long t_tkill(int pid, int tid) { (void)pid; return syscall(SYS_tkill, tid, SIGKILL); }
static long t_tgkill(int pid, int tid) { return syscall(SYS_tgkill, pid, tid, SIGKILL); }
static long t_queue(int pid, int tid) { (void)pid; return syscall(SYS_rt_sigqueueinfo, tid, SIGKILL, &info); }
static long t_prlimit(int pid, int tid)
{
	struct rlimit l = {1, 1};
	(void)pid;
	return prlimit(tid, RLIMIT_NOFILE, &l, NULL);
}
static long t_prlimit64(int pid, int tid)
{
	struct rlimit l = {1, 1};
	(void)pid;
	return syscall(SYS_prlimit64, 0x100000000UL | (unsigned)tid, RLIMIT_NOFILE, &l, NULL);
}
static long t_affinity(int pid, int tid)
{
	cpu_set_t set;
	(void)pid;
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	return sched_setaffinity(tid, sizeof set, &set);
}
// Nothing that whoever it is has to wait for on a busy machine.
static long t_batch(int pid, int tid)
{
	struct sched_param p = {0};
	(void)pid;
	return sched_setscheduler(tid, SCHED_BATCH, &p);
}
static long t_nice(int pid, int tid) { (void)pid; return setpriority(PRIO_PROCESS, tid, 1); }
static long t_ioprio(int pid, int tid) { (void)pid; return syscall(SYS_ioprio_set, 1, tid, 2 << 13 | 7); }
static long t_pidfd(int pid, int tid)
{
	int fd = syscall(SYS_pidfd_open, tid, THREAD);
	(void)pid;
	return fd < 0 ? -1 : syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
}
static long t_proc_pidfd(int pid, int tid)
{
	char name[64];
	int fd;

	snprintf(name, sizeof name, "/proc/%d/task/%d", pid, tid);
	fd = open(name, O_RDONLY | O_DIRECTORY);
	return fd < 0 ? -1 : syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
}
static long t_proc_tid_pidfd(int pid, int tid)
{
	char name[64];
	int fd;

	(void)pid;
	snprintf(name, sizeof name, "/proc/%d", tid);
	fd = open(name, O_RDONLY | O_DIRECTORY);
	return fd < 0 ? -1 : syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
}
// Every signal that can be caught, to every thread, by every call. What is
// passed on to us we ignore.
static long t_signals(int pid, int tid)
{
	long r = -1;

	for (int sig = 1; sig <= 64; sig++) {
		if (sig == SIGKILL || sig == SIGSTOP)
			continue;
		r &= syscall(SYS_tkill, tid, sig);
		r &= syscall(SYS_tgkill, pid, tid, sig);
		r &= syscall(SYS_kill, tid, sig);
	}
	return r;
}
// The same with what a fault would carry, and from itself: who queues a signal
// says so himself.
static siginfo_t *queued(int pid, int sig)
{
	memset(&info, 0, sizeof info);
	info.si_signo = sig;
	info.si_code = SI_QUEUE;
	info.si_pid = pid;
	return &info;
}
static long t_queued(int pid, int tid)
{
	long r = -1;

	for (int sig = 1; sig <= 64; sig++)
		if (sig != SIGKILL && sig != SIGSTOP)
			r &= syscall(SYS_rt_sigqueueinfo, tid, sig, queued(pid, sig));
	return r;
}
static long t_seize(int pid, int tid) { (void)pid; return ptrace(PTRACE_SEIZE, tid, NULL, NULL); }

struct way {
	const char *name;
	long (*f)(int pid, int tid);
};

// The ways that try every thread.
static const struct way ways[] = {
	{"threads-kill", t_kill},
	{"threads-tkill", t_tkill},
	{"threads-tgkill", t_tgkill},
	{"threads-sigqueue", t_queue},
	{"threads-prlimit", t_prlimit},
	{"threads-prlimit64", t_prlimit64},
	{"threads-affinity", t_affinity},
	{"threads-scheduler", t_batch},
	{"threads-nice", t_nice},
	{"threads-ioprio", t_ioprio},
	{"threads-pidfd", t_pidfd},
	{"threads-proc-pidfd", t_proc_pidfd},
	{"threads-proc-tid-pidfd", t_proc_tid_pidfd},
	{"threads-seize", t_seize},
	{"threads-signals", t_signals},
	{"threads-queued-signals", t_queued},
	{NULL, NULL},
};

// The kernel sends sig to pid, or to the group -pid, when the pipe can be read.
static long fasync(int pid, int sig)
{
	int fds[2];

	if (pipe(fds) < 0 || fcntl(fds[0], F_SETFL, O_ASYNC) < 0 || fcntl(fds[0], F_SETSIG, sig) < 0 || fcntl(fds[0], F_SETOWN, pid) < 0)
		return -1;
	return write(fds[1], "x", 1) < 0 ? -1 : 0;
}

// A directory of /proc under another name.
static long bound(int pid)
{
	char dir[] = "/tmp/victim-proc-XXXXXX", name[64];
	int fd;

	if (!mkdtemp(dir))
		die("mkdtemp");
	if (unshare((geteuid() ? CLONE_NEWUSER : 0) | CLONE_NEWNS) < 0 || mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("/proc", dir, NULL, MS_BIND | MS_REC, NULL) < 0)
		die("mount");
	snprintf(name, sizeof name, "%s/%d", dir, pid);
	fd = open(name, O_RDONLY | O_DIRECTORY);
	return fd < 0 ? -1 : syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
}

static volatile int over;

// Exchanges descriptor 200 between two files.
static void *exchange(void *two)
{
	while (!over) {
		dup2(((int *)two)[0], 200);
		dup2(((int *)two)[1], 200);
	}
	return NULL;
}

// Signals a child that has ended, by a pidfd that another thread exchanges.
static long race(int pid)
{
	int fds[2] = {0, proc_open(pid, "", O_RDONLY | O_DIRECTORY)};
	double end = now() + 0.5;
	pthread_t t;
	pid_t child;

	if ((child = fork()) == 0)
		_exit(0);
	if (fds[1] < 0 || (fds[0] = syscall(SYS_pidfd_open, child, 0)) < 0)
		return -1;
	pthread_create(&t, NULL, exchange, fds);
	while (now() < end)
		syscall(SYS_pidfd_send_signal, 200, SIGKILL, NULL, 0);
	over = 1;
	pthread_join(t, NULL);
	return 0;
}

static struct sockaddr_in nobody;

static void *blocks(void *nth)
{
	usleep((long)nth * 20000);
	connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&nobody, sizeof nobody);
	return NULL;
}

// Signals the numbers that threads will have, while calls that block have
// whoever makes them start threads.
static long coming(void)
{
	enum { THREADS = 50 };
	pthread_t t[THREADS];
	double end;
	int fd = open("/proc/loadavg", O_RDONLY), last, n;
	char text[128], *p;

	nobody = full();
	for (long i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, blocks, (void *)(i + 2));
	for (end = now() + 1.5; now() < end;) {
		if ((n = (int)pread(fd, text, sizeof text - 1, 0)) <= 0)
			die("loadavg");
		text[n] = 0;
		last = (p = strrchr(text, ' ')) ? atoi(p) : 0; // the number given last
		for (int i = 0; i < 20; i++)
			syscall(SYS_tkill, last + 1 + i % 2, SIGKILL);
	}
	return 0;
}

static long attack(int pid, const char *way)
{
	static char buf[64];
	struct iovec local = {buf, 8}, remote;
	struct rlimit limit = {0, 0};
	struct sched_param param = {0};
	cpu_set_t cpus;
	int fd, fds[2];

	info.si_signo = SIGKILL;
	info.si_code = SI_QUEUE;
	for (int i = 0; ways[i].name; i++)
		if (is(way, ways[i].name))
			return each_thread(pid, ways[i].f);
	if (is(way, "kill"))
		return kill(pid, SIGKILL);
	if (is(way, "kill-64")) // the kernel takes an int
		return syscall(SYS_kill, 0x100000000UL | (unsigned)pid, 0xff00000000UL | SIGKILL);
	if (is(way, "stop")) {
		int r = kill(pid, SIGSTOP);

		kill(pid, SIGCONT);
		return r;
	}
	if (is(way, "tkill"))
		return syscall(SYS_tkill, pid, SIGKILL);
	if (is(way, "tkill-64"))
		return syscall(SYS_tkill, 0x700000000UL | (unsigned)pid, SIGKILL);
	if (is(way, "tgkill"))
		return syscall(SYS_tgkill, pid, pid, SIGKILL);
	if (is(way, "tgkill-64"))
		return syscall(SYS_tgkill, 0x300000000UL | (unsigned)pid, pid, SIGKILL);
	if (is(way, "sigqueue"))
		return syscall(SYS_rt_sigqueueinfo, pid, SIGKILL, &info);
	if (is(way, "tgsigqueue"))
		return syscall(SYS_rt_tgsigqueueinfo, pid, pid, SIGKILL, &info);
	if (is(way, "pidfd")) {
		fd = syscall(SYS_pidfd_open, pid, 0);
		return fd < 0 ? -1 : syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
	}
	if (is(way, "proc-pidfd")) { // a /proc/PID directory is as good as a pidfd
		fd = proc_open(pid, "", O_RDONLY | O_DIRECTORY);
		return fd < 0 ? -1 : syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
	}
	if (is(way, "pidfd-race"))
		return race(pid);
	if (is(way, "proc-pidfd-signals")) {
		long r = -1;

		fd = proc_open(pid, "", O_RDONLY | O_DIRECTORY);
		for (int sig = 1; fd >= 0 && sig <= 64; sig++)
			if (sig != SIGKILL && sig != SIGSTOP)
				r &= syscall(SYS_pidfd_send_signal, fd, sig, queued(pid, sig), 0);
		return r;
	}
	if (is(way, "proc-pidfd-group")) { // the group of its number, whoever leads that
		fd = proc_open(getpgid(pid), "", O_RDONLY | O_DIRECTORY);
		return fd < 0 ? -1 : syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 4 /* PIDFD_SIGNAL_PROCESS_GROUP */);
	}
	if (is(way, "group"))
		return kill(-getpgid(pid), SIGKILL);
	if (is(way, "group-64"))
		return syscall(SYS_kill, 0x500000000UL | (unsigned)-getpgid(pid), SIGKILL);
	if (is(way, "join-group")) { // ours is theirs now
		if (setpgid(0, getpgid(pid)) < 0)
			return -1;
		return kill(0, SIGKILL);
	}
	if (is(way, "child-joins-group")) { // and somebody outlives it
		pid_t child;

		if ((child = fork()) == 0) {
			if (setpgid(0, getpgid(pid)) == 0)
				kill(0, SIGKILL);
			_exit(errno);
		}
		int status = 0;
		waitpid(child, &status, 0);
		if (WIFSIGNALED(status))
			return 0;
		errno = WEXITSTATUS(status);
		return -1;
	}
	if (is(way, "fasync"))
		return fasync(pid, SIGKILL);
	if (is(way, "fasync-group"))
		return fasync(-getpgid(pid), SIGKILL);
	if (is(way, "fasync-signals")) { // one of them may have nobody who catches it
		long r = -1;

		for (int sig = 1; sig <= 64; sig++)
			if (sig != SIGKILL && sig != SIGSTOP) {
				r &= fasync(pid, sig);
				r &= fasync(-getpgid(pid), sig);
			}
		return r;
	}
	if (is(way, "bound-proc-pidfd"))
		return bound(pid);
	if (is(way, "fasync-thread")) {
		struct f_owner_ex owner = {F_OWNER_TID, pid};

		if (pipe(fds) < 0 || fcntl(fds[0], F_SETFL, O_ASYNC) < 0 || fcntl(fds[0], F_SETSIG, SIGKILL) < 0)
			return -1;
		if (fcntl(fds[0], F_SETOWN_EX, &owner) < 0)
			return -1;
		return write(fds[1], "x", 1) < 0 ? -1 : 0;
	}
	if (is(way, "clone-parent-signal")) // a brother of ours whose end tells the parent SIGKILL
		return syscall(SYS_clone, CLONE_PARENT | SIGKILL, 0, 0, 0, 0) == 0 ? (_exit(0), 0) : 0;
	if (is(way, "exit-signal")) { // our child tells us; once we are gone, its new parent
		if (fork() == 0) {
			if (syscall(SYS_clone, SIGKILL, 0, 0, 0, 0) == 0) {
				usleep(200000);
				_exit(0);
			}
			_exit(0);
		}
		usleep(400000);
		return 0;
	}
	if (is(way, "timer")) { // a timer may signal a thread of its own process only
		timer_t t;
		struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGKILL};

		ev._sigev_un._tid = pid;
		return timer_create(CLOCK_MONOTONIC, &ev, &t);
	}
	if (is(way, "all"))
		return kill(-1, 0); // not in earnest
	if (is(way, "prlimit"))
		return prlimit(pid, RLIMIT_NOFILE, &limit, NULL);
	if (is(way, "affinity")) {
		CPU_ZERO(&cpus);
		CPU_SET(0, &cpus);
		return sched_setaffinity(pid, sizeof cpus, &cpus);
	}
	if (is(way, "scheduler"))
		return sched_setscheduler(pid, SCHED_BATCH, &param);
	if (is(way, "nice"))
		return setpriority(PRIO_PROCESS, pid, 1);
	if (is(way, "nice-group"))
		return setpriority(PRIO_PGRP, getpgid(pid), 1);
	// All processes of a user are those of the whole machine, but for a pid
	// namespace: whoever starts this must have made one.
	if ((strstr(way, "-user") || is(way, "coming-threads")) && !getenv("OWN_PID_NAMESPACE"))
		die("needs a pid namespace");
	if (is(way, "coming-threads"))
		return coming();
	if (is(way, "nice-user"))
		return setpriority(PRIO_USER, getuid(), 1);
	if (is(way, "nice-own-user"))
		return setpriority(PRIO_USER, 0, 1);
	if (is(way, "ioprio-user"))
		return syscall(SYS_ioprio_set, 3, getuid(), 2 << 13 | 7);
	if (is(way, "ioprio"))
		return syscall(SYS_ioprio_set, 1, pid, 2 << 13 | 7);
	if (is(way, "attach")) {
		if (ptrace(PTRACE_ATTACH, pid, NULL, NULL) < 0)
			return -1;
		waitpid(pid, NULL, __WALL);
		return ptrace(PTRACE_DETACH, pid, NULL, NULL);
	}
	if (is(way, "seize"))
		return ptrace(PTRACE_SEIZE, pid, NULL, NULL);
	if (is(way, "readv")) {
		// Whatever is mapped in a program that is not relocated; where it is,
		// the answer is EFAULT, after the permission.
		remote = (struct iovec){(void *)0x400000, 8};
		long r = process_vm_readv(pid, &local, 1, &remote, 1, 0);
		return r < 0 && errno == EFAULT ? 0 : r;
	}
	if (is(way, "writev")) {
		remote = (struct iovec){(void *)0x10, 8};
		long r = process_vm_writev(pid, &local, 1, &remote, 1, 0);
		return r < 0 && errno == EFAULT ? 0 : r;
	}
	if (is(way, "mem"))
		return proc_open(pid, "mem", O_RDWR);
	if (is(way, "environ")) {
		fd = proc_open(pid, "environ", O_RDONLY);
		return fd < 0 ? -1 : read(fd, buf, sizeof buf);
	}
	if (is(way, "fd"))
		return proc_open(pid, "fd/2", O_RDWR);
	if (is(way, "fdinfo"))
		return proc_open(pid, "fdinfo", O_RDONLY | O_DIRECTORY);
	if (is(way, "maps")) {
		fd = proc_open(pid, "maps", O_RDONLY);
		return fd < 0 ? -1 : read(fd, buf, sizeof buf);
	}
	if (is(way, "attr")) { // of a security module
		fd = proc_open(pid, "attr/current", O_RDWR);
		return fd < 0 ? -1 : write(fd, "unconfined", 10);
	}
	if (is(way, "oom")) { // the first to die when memory ends
		fd = proc_open(pid, "oom_score_adj", O_RDWR);
		return fd < 0 ? -1 : write(fd, "1000", 4);
	}
	if (is(way, "timerslack")) { // it wakes late
		fd = proc_open(pid, "timerslack_ns", O_RDWR);
		return fd < 0 ? -1 : write(fd, "4000000000", 10);
	}
	if (is(way, "root"))
		return proc_open(pid, "root", O_PATH);
	if (is(way, "exe"))
		return proc_open(pid, "exe", O_RDONLY);
	if (is(way, "netns"))
		return proc_open(pid, "ns/net", O_RDONLY);
	if (is(way, "getfd")) {
		fd = proc_open(pid, "", O_RDONLY | O_DIRECTORY);
		return fd < 0 ? -1 : syscall(SYS_pidfd_getfd, fd, 2, 0);
	}
	if (is(way, "madvise")) {
		fd = proc_open(pid, "", O_RDONLY | O_DIRECTORY);
		remote = (struct iovec){(void *)0x400000, 4096};
		long r = fd < 0 ? -1 : syscall(SYS_process_madvise, fd, &remote, 1, 21 /* MADV_PAGEOUT */, 0);
		return r < 0 && errno == ENOMEM ? 0 : r;
	}
	if (is(way, "kcmp"))
		return syscall(SYS_kcmp, pid, getpid(), 0, 0, 0);
	die(way);
	return 0;
}

int main(int argc, char **argv)
{
	int pid = getppid();

	if (argc < 3)
		die("reach WHO WAY");
	if (is(argv[1], "grandparent"))
		pid = parent_of(pid);
	if (pid <= 1 && !is(argv[1], "first"))
		die("no such ancestor");
	if (strstr(argv[2], "-signals"))
		for (int sig = 1; sig <= 64; sig++)
			signal(sig, SIG_IGN);
	say(argv[2], attack(pid, argv[2]));
	usleep(200000); // whatever it did shows now
	puts("alive");
	fflush(stdout);
	if (argc > 3)
		execv(argv[3], argv + 3);
	return 0;
}
