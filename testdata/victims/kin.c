// kin HOW PROG: starts PROG in a process that is related to this one in an
// unusual way. Whoever watches by kinship or by tracing may lose it.
#include "victim.h"

#include <linux/sched.h>

#ifndef CLONE_UNTRACED
#define CLONE_UNTRACED 0x00800000
#endif

static char *prog;
static int quiet[2]; // closed by the last of us

static int run(void *unused)
{
	char *argv[] = {prog, NULL};

	(void)unused;
	close(quiet[0]);
	fcntl(quiet[1], F_SETFD, 0);
	execve(prog, argv, environ);
	say("exec", -1);
	_exit(1);
}

static long clone3(uint64_t flags, int exit_signal)
{
	struct clone_args a = {.flags = flags, .exit_signal = exit_signal};

	return syscall(SYS_clone3, &a, sizeof a);
}

// The child waits until somebody traces it, or gives up.
static int run_traced(void *unused)
{
	raise(SIGSTOP);
	return run(unused);
}

// Lets whatever the tracee's filter asks a tracer about go on.
static void trace(pid_t pid)
{
	int status, event, sig;

	if (say("seize", ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESECCOMP)) < 0) {
		kill(pid, SIGCONT);
		waitpid(pid, &status, __WALL);
		return;
	}
	kill(pid, SIGCONT);
	while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
		event = status >> 16;
		sig = event || WSTOPSIG(status) == SIGSTOP ? 0 : WSTOPSIG(status);
		ptrace(PTRACE_CONT, pid, 0, sig);
	}
}

// Its parent becomes its tracer, and is told of a signal.
static void traceme(void)
{
	signal(SIGUSR1, SIG_IGN);
	say("traceme", ptrace(PTRACE_TRACEME, 0, 0, 0));
	raise(SIGUSR1);
	run(NULL);
}

// Goes on when the first thread of its process has ended.
static void *after_leader(void *unused)
{
	char text[256], *p = NULL;
	int fd, n;

	while (!p || p[2] != 'Z') {
		fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (n = (int)read(fd, text, sizeof text - 1)) < 0)
			die("stat");
		close(fd);
		text[n] = 0;
		p = strrchr(text, ')');
		usleep(1000);
	}
	run(unused);
	return NULL;
}

static char stack[65536];

int main(int argc, char **argv)
{
	const char *how = argv[1];
	void *top = stack + sizeof stack;
	pid_t pid = 0;
	int status;
	char c;

	if (argc < 3 || pipe2(quiet, O_CLOEXEC))
		die("usage");
	prog = argv[2];
	if (is(how, "orphan")) { // its parent is gone when it starts
		if (fork() == 0) {
			if (fork() == 0) {
				while (getppid() == (int)syscall(SYS_getpgid, 0))
					usleep(1000);
				usleep(20000);
				run(NULL);
			}
			_exit(0);
		}
	} else if (is(how, "setsid")) {
		if (fork() == 0) {
			setsid();
			run(NULL);
		}
	} else if (is(how, "parent")) { // our sibling
		if (clone(run, top, CLONE_PARENT | SIGCHLD, NULL) < 0)
			die("clone");
	} else if (is(how, "thread-signal")) { // no SIGCHLD at its end
		pid = clone(run, top, 0, NULL);
	} else if (is(how, "vm")) {
		pid = clone(run, top, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
	} else if (is(how, "vm-apart")) {
		pid = clone(run, top, CLONE_VM | SIGCHLD, NULL);
	} else if (is(how, "vfork-chain")) {
		if ((pid = vfork()) == 0) {
			if (vfork() == 0) {
				if (vfork() == 0)
					run(NULL);
				_exit(0);
			}
			_exit(0);
		}
	} else if (is(how, "ptrace")) {
		pid = clone(run, top, CLONE_PTRACE | SIGCHLD, NULL);
	} else if (is(how, "untraced")) {
		pid = clone(run, top, CLONE_UNTRACED | SIGCHLD, NULL);
	} else if (is(how, "untraced-seized")) {
		pid = clone(run_traced, top, CLONE_UNTRACED | SIGCHLD, NULL);
		waitpid(pid, &status, WUNTRACED | __WALL);
		trace(pid);
	} else if (is(how, "untraced3")) {
		if ((pid = clone3(CLONE_UNTRACED, SIGCHLD)) == 0)
			run(NULL);
	} else if (is(how, "untraced3-seized")) {
		if ((pid = clone3(CLONE_UNTRACED, SIGCHLD)) == 0)
			run_traced(NULL);
		waitpid(pid, &status, WUNTRACED | __WALL);
		trace(pid);
	} else if (is(how, "untraced-traceme")) {
		if ((pid = clone3(CLONE_UNTRACED, SIGCHLD)) == 0) {
			say("traceme", ptrace(PTRACE_TRACEME, 0, 0, 0));
			run_traced(NULL);
		}
		if (waitpid(pid, &status, WUNTRACED | __WALL) == pid && WIFSTOPPED(status)) {
			ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESECCOMP);
			kill(pid, SIGCONT);
			do
				ptrace(PTRACE_CONT, pid, 0, 0);
			while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status));
		}
	} else if (is(how, "pdeathsig")) { // lives on although it asked not to
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGUSR1);
			signal(SIGUSR1, SIG_IGN);
			if (fork() == 0) {
				prctl(PR_SET_PDEATHSIG, SIGUSR1);
				usleep(50000);
				run(NULL);
			}
			_exit(0);
		}
	} else if (is(how, "traceme")) { // by whoever is our parent
		traceme();
	} else if (is(how, "orphan-traceme")) { // by whoever takes orphans
		if (fork() == 0) {
			pid_t parent = getpid();

			if (fork() == 0) {
				while (getppid() == parent)
					usleep(1000);
				traceme();
			}
			_exit(0);
		}
	} else if (is(how, "leader-gone")) { // the first thread has ended
		pthread_t t;

		pthread_create(&t, NULL, after_leader, NULL);
		pthread_exit(NULL);
	} else if (is(how, "not-dumpable")) {
		if (fork() == 0) {
			prctl(PR_SET_DUMPABLE, 0);
			run(NULL);
		}
	} else {
		die(how);
	}
	if (pid < 0)
		die("clone");
	close(quiet[1]);
	while (read(quiet[0], &c, 1) < 0 && errno == EINTR)
		;
	while (wait(NULL) > 0 || errno == EINTR)
		;
	return 0;
}
