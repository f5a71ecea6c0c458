/*
 * floor is the least that a supervisor over a seccomp listener can do, in C:
 *
 *     floor continue PROGRAM [ARG...]    lets each connect go on, unseen
 *     floor perform PROGRAM [ARG...]     reads its address, asks whether it is
 *                                        still pending, and makes it on a
 *                                        duplicate of the socket; of an execve
 *                                        it reads the program's name, looks
 *                                        which file that is, and lets it go on
 *     floor untraced PROGRAM [ARG...]    supervises nothing: ptrace is refused,
 *                                        as on some platforms
 *
 * One thread, no decision, no record: what remains is the kernel's price,
 * against which ours is held.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS _IOW('!', 4, __u64)
#endif
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#define PIDFD_THREAD O_EXCL

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* The last pidfd is kept: opening one costs as much as all else. */
static int pidfd_of(pid_t tid)
{
	static pid_t owner;
	static int fd = -1;

	if (owner != tid) {
		close(fd);
		fd = syscall(SYS_pidfd_open, tid, PIDFD_THREAD);
		owner = tid;
	}
	return fd;
}

static int perform(int listener, const struct seccomp_notif *n)
{
	char name[128];
	struct iovec here = {name, n->data.args[2]}, there = {(void *)n->data.args[1], n->data.args[2]};
	int option, fd, err = 0;
	socklen_t size = sizeof option;

	if (here.iov_len > sizeof name)
		return -EINVAL;
	if (process_vm_readv(n->pid, &here, 1, &there, 1, 0) < 0 ||
	    (fd = syscall(SYS_pidfd_getfd, pidfd_of(n->pid), (int)n->data.args[0], 0)) < 0)
		return -errno;
	if (ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &n->id) ||
	    getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &option, &size) ||
	    connect(fd, (struct sockaddr *)name, here.iov_len))
		err = -errno;
	close(fd);
	return err;
}

static void look(int listener, const struct seccomp_notif *n)
{
	char name[4096];
	/* Not over the end of a page, behind which there may be nothing. */
	struct iovec here = {name, 4096 - n->data.args[0] % 4096}, there = {(void *)n->data.args[0], here.iov_len};
	ssize_t size = process_vm_readv(n->pid, &here, 1, &there, 1, 0);
	struct stat st;

	if (size > 0 && memchr(name, 0, size))
		stat(name, &st);
	ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &n->id);
}

static void supervise(int listener, int performs)
{
	struct seccomp_notif n;
	struct seccomp_notif_resp r;

	ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1ul /* SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP */);
	for (;;) {
		memset(&n, 0, sizeof n);
		memset(&r, 0, sizeof r);
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &n)) {
			struct pollfd p = {listener, POLLIN, 0};

			if (poll(&p, 1, 0) == 1 && p.revents & POLLHUP)
				return;
			continue;
		}
		r.id = n.id;
		if (n.data.nr == SYS_connect && performs) {
			r.error = perform(listener, &n);
		} else {
			if (performs)
				look(listener, &n);
			r.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		}
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &r);
	}
}

static int untraced(char **argv)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ptrace, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {sizeof code / sizeof *code, code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog))
		die("seccomp");
	execvp(argv[0], argv);
	die(argv[0]);
	return 1;
}

int main(int argc, char **argv)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_filter with_exec[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {sizeof code / sizeof *code, code};
	int performs = argc > 1 && !strcmp(argv[1], "perform");
	int status, listener, ready[2];
	pid_t pid;

	if (argc < 3)
		return 2;
	if (!strcmp(argv[1], "untraced"))
		return untraced(argv + 2);
	if (performs)
		prog = (struct sock_fprog){sizeof with_exec / sizeof *with_exec, with_exec};
	if (pipe2(ready, O_CLOEXEC))
		die("pipe2");
	/* The child shares our descriptors until it executes, so that the listener needs no passing on. */
	pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0) {
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
				   SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &prog);
		if (listener < 0)
			die("seccomp");
		if (write(ready[1], &listener, sizeof listener) != sizeof listener)
			die("write");
		execvp(argv[2], argv + 2);
		die(argv[2]);
	}
	if (read(ready[0], &listener, sizeof listener) != sizeof listener)
		return 1;
	supervise(listener, performs);
	if (waitpid(pid, &status, 0) != pid)
		die("waitpid");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
