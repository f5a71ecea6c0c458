// The processes that exist before the Go runtime does: see early.go for the
// picture. Everything here runs single-threaded, in a process that has not
// started Go, and calls nothing but system calls and plain string functions.

#define _GNU_SOURCE
#include "early.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_USER_NOTIF_FLAG_CONTINUE
#define SECCOMP_USER_NOTIF_FLAG_CONTINUE (1UL << 0)
#endif

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

#define OURS "DEFENDER_" // how the names of our own environment variables begin

struct early *early_page;
static char **our_argv;
static char **our_envp;

static void futex_wake(uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, 64, NULL, NULL, 0);
}

static void set_state(struct early_child *c, uint32_t state)
{
	__atomic_store_n(&c->state, state, __ATOMIC_SEQ_CST);
	futex_wake(&c->state);
}

static void fail(struct early_child *c, const char *call, int err)
{
	strncpy(c->failed_call, call, sizeof c->failed_call - 1);
	c->failed_errno = err;
	set_state(c, STATE_FAILED);
	// What a shell returns for a program it cannot start.
	_exit(err == ENOENT ? 127 : 126);
}

static void await_order(struct early_child *c)
{
	uint32_t order;

	while ((order = __atomic_load_n(&c->order, __ATOMIC_SEQ_CST)) == ORDER_WAIT)
		syscall(SYS_futex, &c->order, FUTEX_WAIT, ORDER_WAIT, NULL, NULL, 0);
	if (order != ORDER_GO)
		_exit(0);
}

// What a child does first: it dies with the supervisor, forgets our secrets,
// and only then becomes dumpable, so that a supervisor without CAP_SYS_PTRACE
// can read the arguments of its calls.
static void begin(struct early_child *c, pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (getppid() != parent)
		_exit(127);
	early_wipe_environment();
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	set_state(c, STATE_WAITING);
}

// Takes CAP_SYS_PTRACE from every set of this process, so that not even a
// root target may read or trace the supervisor, which is not dumpable. A root
// target regains through exec what the bounding set still holds, so without
// CAP_SETPCAP the capability stays, and the supervisor says so.
static void drop_ptrace(struct early_child *c)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2];

	if (prctl(PR_CAPBSET_READ, CAP_SYS_PTRACE, 0, 0, 0) == 1 &&
	    prctl(PR_CAPBSET_DROP, CAP_SYS_PTRACE, 0, 0, 0) != 0 &&
	    (geteuid() == 0 || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0))
		c->kept_ptrace = 1;
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, CAP_SYS_PTRACE, 0, 0);
	if (syscall(SYS_capget, &head, data) == 0) {
		data[0].effective &= ~(1U << CAP_SYS_PTRACE);
		data[0].permitted &= ~(1U << CAP_SYS_PTRACE);
		data[0].inheritable &= ~(1U << CAP_SYS_PTRACE);
		syscall(SYS_capset, &head, data);
	}
}

// Installs the filter and publishes its listener, whose number is valid in
// the supervisor too because the descriptor table is shared: passing it over
// a socket would be a call that the filter itself may stop. A filter for a
// tracer has no listener.
static void install_filter(struct early_child *c)
{
	struct sock_fprog prog = {(unsigned short)early_page->prog_len, (struct sock_filter *)early_page->prog};
	unsigned long flags = early_page->traced ? 0 : SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
	long fd = -1;

	c->listener = -1;
	for (;;) {
		if (prog.len == 0)
			break; // the target runs unsupervised: --on-failure open
		fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
		if (fd >= 0) {
			if (early_page->traced)
				fd = -1;
			break;
		}
		if (errno == EINVAL && (flags & SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)) {
			flags &= ~SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV; // before Linux 5.19
			continue;
		}
		// Without CAP_SYS_ADMIN a filter needs no_new_privs, which disables
		// set-uid programs: only then.
		if (errno == EACCES && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0 &&
		    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0) {
			c->new_privs_off = 1;
			continue;
		}
		fail(c, "seccomp", errno);
	}
	c->killable = (flags & SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) != 0;
	c->listener = (int32_t)fd;
	set_state(c, STATE_LISTENING);
}

// Lets no TCP connect of the target succeed by itself (landlock(7), Linux
// 6.7): ours, on a duplicate of its socket, are made outside of this domain.
// A second thread that exchanges the descriptor while a call goes on that was
// judged for another socket then reaches nothing. Without Landlock, or in a
// profile that refuses it, there is just the filter.
static void forbid_tcp_connect(void)
{
	struct { uint64_t fs, net; } attr = {0, 1 << 1}; // LANDLOCK_ACCESS_NET_CONNECT_TCP
	long fd = syscall(444, &attr, sizeof attr, 0); // landlock_create_ruleset

	if (fd < 0)
		return;
	syscall(446, fd, 0); // landlock_restrict_self
	close((int)fd);
}

// The target's environment: ours without our variables. LISTEN_PID names the
// process that sockets were passed to (sd_listen_fds(3)): now this one.
static void strip_environment(void)
{
	static char listen_pid[32];
	char old[32];
	char **from, **to;

	snprintf(old, sizeof old, "LISTEN_PID=%d", early_page->guardian ? early_page->guardian : early_page->supervisor);
	for (from = to = our_envp; *from; from++) {
		if (strncmp(*from, OURS, strlen(OURS)) == 0)
			continue;
		if (strcmp(*from, old) == 0) {
			snprintf(listen_pid, sizeof listen_pid, "LISTEN_PID=%d", getpid());
			*to++ = listen_pid;
			continue;
		}
		*to++ = *from;
	}
	*to = NULL;
}

// The stage becomes the target: it was forked before anything of ours could
// change its signals, limits or descriptors.
static void stage(pid_t parent)
{
	struct early_child *c = &early_page->stage;
	sigset_t ttou, before;
	int i;

	begin(c, parent);
	await_order(c);

	// A process group of its own, so that kill(0, …) in the target does not
	// reach us, with the terminal if we had it.
	setpgid(0, 0);
	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	sigprocmask(SIG_BLOCK, &ttou, &before);
	for (i = 0; i < 3; i++)
		if (tcgetpgrp(i) == early_page->group) {
			tcsetpgrp(i, getpid());
			break;
		}
	sigprocmask(SIG_SETMASK, &before, NULL);

	install_filter(c);
	if (early_page->no_tcp_connect)
		forbid_tcp_connect();
	if (!early_page->keep_ptrace)
		drop_ptrace(c);
	if (syscall(SYS_unshare, CLONE_FILES) != 0)
		fail(c, "unshare", errno);
	for (i = 0; i < 3; i++)
		if (early_page->closed_stdio & (1u << i))
			close(i);
	strip_environment();
	if (!early_page->die_with_supervisor)
		prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
	set_state(c, STATE_UNSHARED);

	execve(early_page->path, our_argv + early_page->argv_index, our_envp);
	fail(c, "execve", errno);
}

// The probe makes the calls that the self-test answers; what it sees in
// return tells whether supervision works here from end to end.
static void probe(pid_t parent, struct early_child *c)
{
	char *none[] = {NULL};
	// The self-test reads these bytes out of our memory.
	static const char address[16] = "appdefender-test";
	int s;

	begin(c, parent);
	await_order(c);
	install_filter(c);
	s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	c->probe[0] = connect(s, (const struct sockaddr *)address, sizeof address) == 0 ? 0 : errno;
	c->probe[1] = connect(-1, (const struct sockaddr *)address, sizeof address) == 0 ? 0 : errno;
	c->probe[2] = execve("", none, none) == 0 ? 0 : errno;
	set_state(c, STATE_DONE);
	_exit(0);
}

// Forks a child that shares our descriptor table. Only raw system calls may
// follow in it: the C library does not know that it was forked.
static pid_t fork_sharing_files(void)
{
#if defined(__s390__)
	return (pid_t)syscall(SYS_clone, NULL, CLONE_FILES | SIGCHLD, NULL, NULL, NULL);
#else
	return (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
#endif
}

static void say(const char *text)
{
	if (write(2, text, strlen(text)) < 0)
		return;
}

// Ends every process below us. We are their subreaper: whatever loses its
// parent becomes our child, so the loop ends when there is no child left.
static void end_everything(void)
{
	char path[64], list[4096];
	struct timespec pause = {0, 1000000};
	int n, fd, i;

	snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
	for (;;) {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		n = fd < 0 ? -1 : (int)read(fd, list, sizeof list - 1);
		if (fd >= 0)
			close(fd);
		if (n > 0) {
			// A cut list may end in half a number: drop it.
			list[n] = 0;
			if (n == (int)sizeof list - 1)
				while (n > 0 && list[n - 1] != ' ')
					list[--n] = 0;
			for (i = 0; i < n;) {
				int pid = atoi(list + i);

				if (pid > 1)
					kill(pid, SIGKILL);
				while (i < n && list[i] != ' ')
					i++;
				i++;
			}
		} else if (n < 0 && early_page->target > 1) {
			kill(early_page->target, SIGKILL);
		}
		while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
			;
		if (waitpid(-1, NULL, WNOHANG | __WALL) < 0 && errno == ECHILD)
			return;
		nanosleep(&pause, NULL);
	}
}

static int pidfd_open(pid_t pid, unsigned flags)
{
	return (int)syscall(SYS_pidfd_open, pid, flags);
}

// Whether the supervisor made a call before it was killed, and could not note
// it: then the socket is connected, or bound, and the kernel would fail a
// second time.
static int made(const struct seccomp_notif *n)
{
	struct sockaddr_storage name;
	socklen_t len = sizeof name, size = sizeof(int);
	int pidfd, fd, type = 0, yes = 0;

	if (n->data.nr != SYS_connect && n->data.nr != SYS_bind)
		return 0;
	pidfd = pidfd_open((pid_t)n->pid, O_EXCL); // PIDFD_THREAD
	if (pidfd < 0)
		pidfd = pidfd_open((pid_t)n->pid, 0); // before Linux 6.9, of a first thread
	fd = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, (int)n->data.args[0], 0);
	if (fd >= 0 && getsockname(fd, (struct sockaddr *)&name, &len) == 0 &&
	    (name.ss_family == AF_INET || name.ss_family == AF_INET6) &&
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0) {
		if (n->data.nr == SYS_bind)
			yes = ((struct sockaddr_in *)&name)->sin_port != 0; // where IPv6 has it, too
		else
			yes = type == SOCK_STREAM && getpeername(fd, (struct sockaddr *)&name, &len) == 0;
	}
	if (fd >= 0)
		close(fd);
	if (pidfd >= 0)
		close(pidfd);
	return yes;
}

// Lets a call run in the kernel, or returns what was already done for it.
static void let_continue(int listener, const struct seccomp_notif *n, const struct early_result *done)
{
	struct seccomp_notif_resp resp;

	memset(&resp, 0, sizeof resp);
	resp.id = n->id;
	if (done && done->performed) {
		resp.error = done->error;
		resp.val = done->value;
	} else if (!done || !made(n)) {
		resp.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
	}
	ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &resp);
}

// With --on-failure open the guardian lets every call of the target pass
// until the target ends: first what the supervisor had taken and not
// answered, then what comes.
static int let_everything_pass(int listener, const sigset_t *all)
{
	struct pollfd p = {listener, POLLIN, 0};
	uint8_t buffer[EARLY_SLOT_SIZE];
	struct timespec now = {0, 0};
	siginfo_t info;
	int i, status, pid, sig;

	for (i = 0; i < EARLY_SLOTS; i++) {
		struct seccomp_notif *n = (struct seccomp_notif *)early_page->slots[i];

		if (n->id)
			let_continue(listener, n, (struct early_result *)(early_page->slots[i] + EARLY_RESULT_AT));
	}
	for (;;) {
		while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0)
			if (pid == early_page->target)
				return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		if (pid < 0 && errno == ECHILD)
			return early_page->ended ? early_page->ended_status : 128 + SIGKILL;
		while ((sig = sigtimedwait(all, &info, &now)) > 0)
			if (sig != SIGCHLD)
				kill(early_page->target, sig);
		if (poll(&p, 1, 20) <= 0 || !(p.revents & POLLIN))
			continue;
		memset(buffer, 0, sizeof buffer);
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, buffer) == 0)
			let_continue(listener, (struct seccomp_notif *)buffer, NULL);
	}
}

static int receive_listener(int sock)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *c;
	int fd;

	if (recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0)
		return -1;
	c = CMSG_FIRSTHDR(&msg);
	if (!c || c->cmsg_type != SCM_RIGHTS)
		return -1;
	memcpy(&fd, CMSG_DATA(c), sizeof fd);
	return fd;
}

// Holds nothing open that the target may want to see closed.
static void close_all_but(int fd)
{
	if (fd > 0)
		syscall(SYS_close_range, 0, fd - 1, 0);
	syscall(SYS_close_range, fd + 1, ~0U, 0);
}

// Blocks every signal that can be: the C library keeps 32 and 33 to itself,
// and would die of them.
static void block_signals(void)
{
	uint64_t every = ~0ULL;

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, &every, NULL, sizeof every);
}

// The watcher acts only if supervisor and guardian were killed together: then
// nobody is left who owns the target's processes or answers their calls. It
// is in a session of its own, so that no signal to a group meets it with them.
static void watch(pid_t guardian, int sock)
{
	struct pollfd dead[2] = {{-1, POLLIN, 0}, {-1, POLLIN, 0}};
	struct pollfd call = {-1, POLLIN, 0};
	uint8_t buffer[EARLY_SLOT_SIZE];
	int i, open;

	close_all_but(sock);
	dead[0].fd = pidfd_open(guardian, 0);
	if (dead[0].fd < 0)
		_exit(0); // gVisor, where the supervisor is a tracer: the kernel does our work
	setsid();
	block_signals();
	early_wipe_environment();
	prctl(PR_SET_NAME, "defender-watch", 0, 0, 0);
	while (!early_page->supervisor && poll(dead, 1, 1) == 0)
		;
	if (early_page->supervisor)
		dead[1].fd = pidfd_open(early_page->supervisor, 0);
	for (i = 0; i < 2; i++)
		while (dead[i].fd >= 0 && poll(&dead[i], 1, -1) < 0)
			;
	if (early_page->finished || !early_page->started || early_page->took_over)
		_exit(0);

	open = early_page->on_failure_open;
	call.fd = receive_listener(sock);
	if (!open)
		kill(-early_page->target, SIGKILL);
	for (i = 0; i < EARLY_SLOTS; i++) {
		struct seccomp_notif *n = (struct seccomp_notif *)early_page->slots[i];

		if (!n->id)
			continue;
		if (open)
			let_continue(call.fd, n, (struct early_result *)(early_page->slots[i] + EARLY_RESULT_AT));
		else if (n->pid > 1)
			kill((pid_t)n->pid, SIGKILL);
	}
	// What left the group of the target's first process betrays itself with
	// its next call. The listener hangs up when no process has the filter.
	while (call.fd >= 0 && (poll(&call, 1, -1) < 0 || !(call.revents & POLLHUP))) {
		struct seccomp_notif *n = (struct seccomp_notif *)buffer;

		memset(buffer, 0, sizeof buffer);
		if (!(call.revents & POLLIN) || ioctl(call.fd, SECCOMP_IOCTL_NOTIF_RECV, n) != 0)
			continue;
		if (open)
			let_continue(call.fd, n, NULL);
		else if (n->pid > 1)
			kill((pid_t)n->pid, SIGKILL);
	}
	_exit(0);
}

// The guardian is the process that was started: the supervisor is its child,
// the target its grandchild. It passes signals on, returns the exit status,
// and acts when the supervisor dies without having said goodbye.
static void guard(pid_t supervisor, int sock)
{
	sigset_t all, child;
	siginfo_t info;
	const struct timespec pause = {0, 1000000};
	int sig, status, listener = -1, null, held = 0;
	pid_t pid;

	sigfillset(&all);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	block_signals();
	signal(SIGCHLD, SIG_DFL); // an inherited SIG_IGN would reap behind our back
	early_wipe_environment(); // the supervisor has a copy
	prctl(PR_SET_NAME, "defender-guard", 0, 0, 0);
	// Hold nothing open that the target may want to see closed.
	syscall(SYS_close_range, 3, sock - 1, 0);
	syscall(SYS_close_range, sock + 1, ~0U, 0);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null >= 0) {
		dup2(null, 0);
		dup2(null, 1);
		close(null);
	}
	for (;;) {
		// Go drops some signals and dies of others before it is told about
		// them: those wait. Not for ever, so that one can end a supervisor
		// that hangs at its start.
		if (!early_page->forwards && held++ < 3000)
			sig = sigtimedwait(&child, &info, &pause);
		else
			sig = sigwaitinfo(&all, &info);
		if (sig < 0)
			continue;
		if (sig == SIGTTIN || sig == SIGTTOU) {
			// The supervisor ignores them, for the sake of its own output; what
			// somebody sends is for the target.
			if (info.si_code <= 0 && early_page->started)
				kill(early_page->target, sig);
			continue;
		}
		if (sig == SIGCONT && info.si_pid == supervisor)
			continue; // the target goes on already
		if (sig != SIGCHLD) {
			kill(supervisor, sig);
			continue;
		}
		// Only the supervisor: after its death the rest is ours as well.
		pid = waitpid(supervisor, &status, WNOHANG | WUNTRACED);
		if (pid == supervisor && WIFSTOPPED(status)) {
			// Whoever stops it wants the target's calls unanswered.
			kill(supervisor, SIGCONT);
			continue;
		}
		if (pid != supervisor) {
			uint32_t asked = 1;

			if (__atomic_compare_exchange_n(&early_page->stopped, &asked, 2, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
				kill(getpid(), SIGSTOP); // the shell shall see the job stopped
				__atomic_store_n(&early_page->stopped, 0, __ATOMIC_SEQ_CST);
			}
			continue;
		}
		break;
	}
	if (early_page->finished || !early_page->started)
		_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));

	early_page->took_over = 1;
	if (early_page->on_failure_open && (listener = receive_listener(sock)) >= 0) {
		say("defender: the supervisor died; every call of the target passes from now on (--on-failure open)\n");
		status = let_everything_pass(listener, &all);
		end_everything(); // nobody would answer what outlives the target
		_exit(status);
	}
	say("defender: the supervisor died; ending the target (--on-failure closed)\n");
	end_everything();
	_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : 70);
}

// Opens a socket pair, not in the place of a descriptor that we were started
// without.
static int open_line(int line[2])
{
	int i, above;

	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, line) != 0)
		return -1;
	for (i = 0; i < 2; i++) {
		above = fcntl(line[i], F_DUPFD_CLOEXEC, 3);
		if (above >= 0) {
			close(line[i]);
			line[i] = above;
		}
	}
	return 0;
}

static void fork_probes(pid_t self)
{
	pid_t pid;
	int i;

	for (i = 0; i < EARLY_PROBES; i++) {
		pid = fork_sharing_files();
		if (pid == 0)
			probe(self, &early_page->probe[i]);
		early_page->probe[i].pid = pid;
	}
}

// Puts the values of our own variables elsewhere, before there is another
// process of ours: what is wiped there only when it comes to run may be read
// until then, with CAP_PERFMON from Linux 6.17 on although it is not dumpable
// (kernel/fork.c, may_access_mm).
static void hide_environment(void)
{
	char **p;

	for (p = our_envp; *p; p++) {
		char *copy;

		if (strncmp(*p, OURS, strlen(OURS)) != 0 || !(copy = strdup(*p)))
			continue;
		explicit_bzero(*p, strlen(*p));
		*p = copy;
	}
}

// Start-up of every program that links this package; it acts only on "run",
// and on "check", which has nothing but probes.
__attribute__((constructor)) static void early(int argc, char **argv, char **envp)
{
	sigset_t all, before;
	int i, line[2] = {-1, -1}, watching[2] = {-1, -1};
	pid_t pid, self;
	int check = argc > 1 && strcmp(argv[1], "check") == 0;

	if (!check && (argc < 2 || strcmp(argv[1], "run") != 0))
		return;
	our_argv = argv;
	our_envp = envp;
	hide_environment();
	early_page = mmap(NULL, sizeof *early_page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (early_page == MAP_FAILED) {
		early_page = NULL;
		return;
	}
	for (i = 0; i < 3; i++)
		if (fcntl(i, F_GETFD) < 0)
			early_page->closed_stdio |= 1u << i;
	// Not dumpable: our memory, environment and descriptors are closed to
	// every process without CAP_SYS_PTRACE, also to one of our own user.
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	early_page->guardian_sock = early_page->watcher_sock = -1;
	early_page->group = getpgrp();
	if (check) {
		early_page->supervisor = getpid();
		fork_probes(getpid());
		return;
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);

	// As the first process of a container, our death is the container's.
	if (getpid() != 1 && open_line(line) == 0) {
		if (open_line(watching) == 0) {
			self = getpid();
			pid = fork();
			if (pid == 0)
				watch(self, watching[1]); // does not return
			early_page->watcher = pid > 0 ? pid : 0;
			early_page->watcher_sock = watching[0];
			close(watching[1]);
		}
		sigfillset(&all);
		sigprocmask(SIG_BLOCK, &all, &before);
		early_page->guardian = getpid();
		pid = fork();
		if (pid > 0)
			guard(pid, line[1]); // does not return
		sigprocmask(SIG_SETMASK, &before, NULL);
		if (pid < 0) {
			early_page->guardian = 0;
			close(line[0]);
		} else {
			prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
			early_page->guardian_sock = line[0];
			// A shell's "kill -9 %1" means the whole group: it must not
			// meet guardian and supervisor at once.
			setpgid(0, 0);
		}
		close(line[1]);
	}
	early_page->supervisor = self = getpid();
	pid = fork_sharing_files();
	if (pid == 0)
		stage(self);
	early_page->stage.pid = pid;
	fork_probes(self);
}

static void pass_on(int sig)
{
	if (early_page && early_page->target > 1)
		kill(early_page->target, sig);
}

// Go's own handlers of the signals that pass_on_from_others took over.
static struct sigaction go_handlers[SIGSYS + 1];

// Whether somebody else sent a signal. Only of SI_USER and SI_TKILL does the
// kernel say who; with all other codes below zero the sender says what he likes
// (rt_sigqueueinfo(2)), and none is of our making.
static int from_others(const siginfo_t *info)
{
	if (info->si_code == SI_USER || info->si_code == SI_TKILL)
		return info->si_pid != getpid();
	return info->si_code < 0;
}

// Some are our own as well: the Go runtime and we interrupt threads with
// SIGURG and EARLY_INTERRUPT, a reader of ours that went away is SIGPIPE, and
// faults are signals. From others they are for the target. Go takes for a fault
// of its own, and dies of, what was queued with a code of the sender's choice.
static void pass_on_from_others(int sig, siginfo_t *info, void *context)
{
	if (from_others(info))
		pass_on(sig);
	else if (sig <= SIGSYS && go_handlers[sig].sa_flags & SA_SIGINFO)
		go_handlers[sig].sa_sigaction(sig, info, context);
}

// Takes a signal over from Go, with the runtime's stack, mask and restart.
static void take_over(int sig)
{
	struct sigaction sa;

	sigaction(sig, NULL, &sa);
	if (sa.sa_sigaction == pass_on_from_others || !(sa.sa_flags & SA_SIGINFO))
		return;
	go_handlers[sig] = sa;
	sa.sa_sigaction = pass_on_from_others;
	sigaction(sig, &sa, NULL);
}

// Signals that the Go runtime leaves at their default action, which is our
// end: 32 and 33 belong to C libraries and mean nothing here, 34 is SIGRTMIN
// and the target's.
void early_catch_signals(void)
{
	static const int taken[] = {SIGURG, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGSTKFLT, SIGSYS};
	struct sigaction sa;
	size_t i;

	memset(&sa, 0, sizeof sa);
	sa.sa_flags = SA_ONSTACK | SA_RESTART;
	sa.sa_handler = pass_on;
	sigaction(SIGRTMIN, &sa, NULL);
	// Without SA_RESTART a system call that the signal meets returns EINTR;
	// Go's own handlers always restart.
	sa.sa_flags = SA_ONSTACK | SA_SIGINFO;
	sa.sa_sigaction = pass_on_from_others;
	sigaction(EARLY_INTERRUPT, &sa, NULL);
	sa.sa_flags |= SA_RESTART;
	sigaction(SIGPIPE, &sa, NULL);
	sigaction(SIGPROF, &sa, NULL);
	for (i = 0; i < sizeof taken / sizeof *taken; i++)
		take_over(taken[i]);
	// A stop of a tracee and the end of one would each interrupt some thread of
	// ours, for nothing: who waits hears of them without the signal.
	signal(SIGCHLD, SIG_DFL);
	// The C library refuses to change these two: ask the kernel, whose
	// structure begins with the handler.
	struct { void *handler; unsigned long flags; void *restorer; uint64_t mask; } ignore = {(void *)SIG_IGN, 0, NULL, 0};
	syscall(SYS_rt_sigaction, 32, &ignore, NULL, 8);
	syscall(SYS_rt_sigaction, 33, &ignore, NULL, 8);
}

void early_wipe_environment(void)
{
	char **p;

	for (p = our_envp; p && *p; p++) {
		char *value = strncmp(*p, OURS, strlen(OURS)) == 0 ? strchr(*p, '=') : NULL;

		if (value)
			explicit_bzero(value + 1, strlen(value + 1));
	}
}
