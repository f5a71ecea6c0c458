// own HOW [PROG]: a target with a seccomp filter of its own, as a sandbox has
// it, beside which PROG is started.
#include "victim.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <ucontext.h>

static long install(unsigned nr, unsigned action, unsigned flags)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = {sizeof f / sizeof *f, f};

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &p);
}

static void on_sys(int sig, siginfo_t *info, void *context)
{
	ucontext_t *u = context;

	(void)sig;
	printf("trap: call %s, data %d\n", info->si_syscall == SYS_execve ? "execve" : "?", info->si_errno);
	fflush(stdout);
#ifdef __x86_64__
	u->uc_mcontext.gregs[REG_RAX] = -EXDEV;
#else
	u->uc_mcontext.regs[0] = -EXDEV;
#endif
}

static void *idle(void *unused)
{
	pause();
	return unused;
}

int main(int argc, char **argv)
{
	const char *how = argv[1];
	char *args[] = {argc > 2 ? argv[2] : NULL, NULL};
	pthread_t t;

	if (is(how, "trace")) { // nobody traces: the kernel says ENOSYS
		install(SYS_getppid, SECCOMP_RET_TRACE, 0);
		say("getppid", syscall(SYS_getppid));
	} else if (is(how, "trace-data")) {
		install(SYS_getppid, SECCOMP_RET_TRACE | 0x7e57, 0);
		say("getppid", syscall(SYS_getppid));
	} else if (is(how, "trace-exec")) {
		install(SYS_execve, SECCOMP_RET_TRACE, 0);
	} else if (is(how, "errno")) {
		install(SYS_execve, SECCOMP_RET_ERRNO | EXDEV, 0);
	} else if (is(how, "trap")) {
		struct sigaction sa = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};

		sigaction(SIGSYS, &sa, NULL);
		install(SYS_execve, SECCOMP_RET_TRAP | 7, 0);
	} else if (is(how, "kill")) {
		install(SYS_execve, SECCOMP_RET_KILL_PROCESS, 0);
	} else if (is(how, "log")) {
		install(SYS_execve, SECCOMP_RET_LOG, 0);
	} else if (is(how, "sync")) {
		pthread_create(&t, NULL, idle, NULL);
		say("filter", install(SYS_getppid, SECCOMP_RET_ERRNO | EXDEV, SECCOMP_FILTER_FLAG_TSYNC));
	} else if (is(how, "listener") || is(how, "listener-sync")) {
		// It would let its own calls pass.
		long l = install(SYS_execve, SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER |
			(is(how, "listener-sync") ? SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH : 0));

		if (say("listener", l) >= 0 && fork() == 0) {
			struct seccomp_notif n = {0};
			struct seccomp_notif_resp r = {.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};

			if (ioctl(l, SECCOMP_IOCTL_NOTIF_RECV, &n) == 0) {
				r.id = n.id;
				ioctl(l, SECCOMP_IOCTL_NOTIF_SEND, &r);
			}
			_exit(0);
		}
	} else if (is(how, "strict")) { // seccomp of the first kind: the next call kills
		if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
			say("strict", -1);
	} else {
		die(how);
	}
	if (args[0]) {
		execve(args[0], args, environ);
		say("exec", -1);
	}
	return 0;
}
