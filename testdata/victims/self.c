// self: what a program can find out about itself, and what it does to itself
// with its family. All of it must be the same whoever watches.
#include "victim.h"

#include <sys/auxv.h>
#include <sys/personality.h>

static void file(const char *name)
{
	char text[4096];
	int fd = open(name, O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

	text[n < 0 ? 0 : n] = 0;
	printf("%s: %s\n", name, text);
	if (fd >= 0)
		close(fd);
}

static void *vforks(void *bad)
{
	for (int i = 0; i < 50; i++) {
		int status = 1;
		pid_t pid = vfork();

		if (pid == 0) {
			execl("/bin/true", "true", NULL);
			_exit(1);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
			__atomic_fetch_add((int *)bad, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static pthread_barrier_t changed;

static void *user(void *unused)
{
	pthread_barrier_wait(&changed);
	pthread_barrier_wait(&changed);
	if (getuid() != 1000 || geteuid() != 1000)
		puts("a thread kept its user");
	spawn_true();
	return unused;
}

static int how(pid_t pid)
{
	int status = -1;

	waitpid(pid, &status, 0);
	return status;
}

int main(void)
{
	static const char *const spaces[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
	static const unsigned long aux[] = {AT_UID, AT_EUID, AT_GID, AT_EGID, AT_SECURE, AT_CLKTCK, AT_PAGESZ, AT_HWCAP, AT_HWCAP2, AT_FLAGS};
	char name[64], link[128];
	int sig = -1, bad = 0, go[2];
	sigset_t set;
	pthread_t t[4];
	pid_t pid;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (unsigned i = 0; i < sizeof spaces / sizeof *spaces; i++) {
		snprintf(name, sizeof name, "/proc/self/ns/%s", spaces[i]);
		ssize_t n = readlink(name, link, sizeof link - 1);
		printf("%.*s\n", (int)(n < 0 ? 0 : n), link);
	}
	for (unsigned i = 0; i < sizeof aux / sizeof *aux; i++)
		printf("auxv %lu %lu\n", aux[i], getauxval(aux[i]));
	printf("execfn %s\n", (const char *)getauxval(AT_EXECFN));
	file("/proc/self/cgroup");
	file("/proc/self/oom_score_adj");
	file("/proc/self/coredump_filter");
	file("/proc/self/timerslack_ns");
	file("/proc/self/loginuid");
	file("/proc/self/attr/current");
	prctl(PR_GET_PDEATHSIG, &sig);
	printf("personality %x pdeathsig %d no_new_privs %d thp %d tsc %d sched %d ioprio %ld\n", personality(0xffffffff), sig,
	       prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), prctl(PR_GET_TSC, &bad),
	       sched_getscheduler(0), syscall(SYS_ioprio_get, 1, 0));

	bad = 0;
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, vforks, &bad);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	printf("vfork: %d\n", bad);

	// The end of a parent is told to a child that asked, under another root of
	// the family: we adopt orphans now.
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (pipe(go))
		die("pipe");
	if ((pid = fork()) == 0) {
		pid_t between = getpid();

		if (fork() == 0) {
			sigemptyset(&set);
			sigaddset(&set, SIGUSR1);
			sigprocmask(SIG_BLOCK, &set, NULL);
			prctl(PR_SET_PDEATHSIG, SIGUSR1);
			if (write(go[1], "", 1) != 1)
				_exit(1);
			while (getppid() == between)
				sigtimedwait(&set, NULL, &(struct timespec){0, 1000000});
			_exit(getppid() == 1 ? 2 : 42);
		}
		_exit(read(go[0], name, 1) != 1);
	}
	printf("parent %d\n", how(pid));
	printf("adopted %d\n", how(-1));
	prctl(PR_SET_CHILD_SUBREAPER, 0);

	if ((pid = fork()) == 0) { // the bit in the status that a core was written
		struct rlimit l = {0, 0};

		setrlimit(RLIMIT_CORE, &l);
		abort();
	}
	printf("aborted %x\n", how(pid));

	if ((pid = fork()) == 0) { // closed to others
		prctl(PR_SET_DUMPABLE, 0);
		if (getuid() == 0) // or the exec is one that cannot be read
			spawn_true();
		_exit(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
	}
	printf("undumpable %x\n", how(pid));

	if ((pid = fork()) == 0) { // a daemon, which we wait for
		printf("setsid %d\n", setsid() == getpid());
		if (pipe(go))
			die("pipe");
		if (fork() == 0) {
			printf("group %d\n", getpgrp() != getpid());
			spawn_true();
			_exit(0);
		}
		close(go[1]);
		_exit(read(go[0], name, 1) != 0);
	}
	printf("daemon %x\n", how(pid));

	if (getuid() == 0 && (pid = fork()) == 0) { // the C library changes all threads
		pthread_barrier_init(&changed, NULL, 3);
		pthread_create(&t[0], NULL, user, NULL);
		pthread_create(&t[1], NULL, user, NULL);
		pthread_barrier_wait(&changed);
		say("setresuid", setresuid(1000, 1000, 1000));
		pthread_barrier_wait(&changed);
		pthread_join(t[0], NULL);
		pthread_join(t[1], NULL);
		_exit(0);
	}
	if (getuid() == 0)
		printf("changed %x\n", how(pid));
	return 0;
}
