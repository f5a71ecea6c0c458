// exec WAY PATH [ARG…]: starts PATH in one of many ways. In those by another name
// the first ARG is that name.
#include "victim.h"

#include <link.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mount.h>

#ifndef AT_EXECVE_CHECK
#define AT_EXECVE_CHECK 0x10000
#endif

static char **args;
static const char *path;

// Whether a tracee stands at the entry of getppid.
static int entering(pid_t pid)
{
	struct {
		uint8_t op, pad[3];
		uint32_t arch;
		uint64_t ip, sp, nr, args[6];
	} info;

	return ptrace(0x420e /* PTRACE_GET_SYSCALL_INFO */, pid, (void *)sizeof info, &info) > 0 && info.op == 1 && info.nr == SYS_getppid;
}

static int copy_to_memfd(void)
{
	char buf[65536];
	ssize_t n;
	int from = open(path, O_RDONLY | O_CLOEXEC), to = memfd_create("victim", 0);

	if (from < 0 || to < 0)
		die("memfd");
	while ((n = read(from, buf, sizeof buf)) > 0)
		if (write(to, buf, n) != n)
			die("write");
	return to;
}

static int at(int fd, const char *name, int flags)
{
	return syscall(SYS_execveat, fd, name, args, environ, flags);
}

static int by_fd(const char *dir, int fd)
{
	char link[64];

	snprintf(link, sizeof link, "%s/%d", dir, fd);
	return execve(link, args, environ);
}

static int prefixed(const char *prefix)
{
	char name[PATH_MAX];

	snprintf(name, sizeof name, "%s%s", prefix, path);
	return execve(name, args, environ);
}

// A chain of links, the middle one relative, over a link to the directory.
static int symlinked(void)
{
	char dir[] = "/tmp/victim-XXXXXX", a[64], b[64], c[64];

	if (!mkdtemp(dir))
		die("mkdtemp");
	snprintf(a, sizeof a, "%s/a", dir);
	snprintf(b, sizeof b, "%s/b", dir);
	snprintf(c, sizeof c, "%s/c", dir);
	if (symlink(path, a) || symlink("a", b) || symlink(b, c))
		die("symlink");
	return execve(c, args, environ);
}

static void *in_thread(void *unused)
{
	(void)unused;
	execve(path, args, environ);
	say("exec", -1);
	_exit(1);
}

static pthread_barrier_t barrier;

static void *at_once(void *unused)
{
	(void)unused;
	pthread_barrier_wait(&barrier);
	execve(path, args, environ);
	return (void *)(long)errno;
}

// Several threads start a program at the same moment: one wins, the others
// are gone.
static int together(int n)
{
	pthread_t t[16];
	int i;

	pthread_barrier_init(&barrier, NULL, n + 1);
	for (i = 0; i < n; i++)
		pthread_create(&t[i], NULL, at_once, NULL);
	pthread_barrier_wait(&barrier);
	execve(path, args, environ);
	return -1;
}

static int wait_for(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		die("waitpid");
	if (WIFSIGNALED(status))
		printf("exec: signal %d\n", WTERMSIG(status));
	exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

// Starts PATH as a debugger does: the child asks to be traced.
static int traced(void)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
			say("traceme", -1);
		execve(path, args, environ);
		say("exec", -1);
		_exit(1);
	}
	while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status))
		ptrace(PTRACE_CONT, pid, NULL, (void *)(long)(WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status)));
	exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

#if defined(__x86_64__)
#include <sys/user.h>

static void turn(pid_t pid)
{
	struct user_regs_struct r;

	ptrace(PTRACE_GETREGS, pid, NULL, &r);
	r.orig_rax = SYS_execve;
	r.rdi = (uintptr_t)path;
	r.rsi = (uintptr_t)args;
	r.rdx = (uintptr_t)environ;
	ptrace(PTRACE_SETREGS, pid, NULL, &r);
}
#else
#include <elf.h>
#include <sys/user.h>

static void turn(pid_t pid)
{
	struct user_regs_struct r;
	int nr = SYS_execve;
	struct iovec all = {&r, sizeof r}, call = {&nr, sizeof nr};

	ptrace(PTRACE_GETREGSET, pid, (void *)NT_PRSTATUS, &all);
	r.regs[0] = (uintptr_t)path;
	r.regs[1] = (uintptr_t)args;
	r.regs[2] = (uintptr_t)environ;
	ptrace(PTRACE_SETREGSET, pid, (void *)NT_PRSTATUS, &all);
	ptrace(PTRACE_SETREGSET, pid, (void *)0x404 /* NT_ARM_SYSTEM_CALL */, &call);
}
#endif

// A tracer makes an exec of another call: at its entry, or where a filter of its
// own asks for it.
static void turned(int at_filter)
{
	int status, done = 0;
	pid_t pid = fork();

	if (pid == 0) {
		struct sock_filter f[] = {
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		};
		struct sock_fprog p = {sizeof f / sizeof *f, f};
		long r;

		raise(SIGSTOP);
		if (at_filter && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &p)))
			die("seccomp");
		if ((r = syscall(SYS_getppid)) > 0) { // it was not turned
			errno = EPERM;
			r = -1;
		}
		say("exec", r);
		_exit(1);
	}
	waitpid(pid, &status, WUNTRACED);
	if (ptrace(PTRACE_SEIZE, pid, NULL, (void *)(long)(PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACESECCOMP)))
		say("seize", -1);
	kill(pid, SIGCONT);
	while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
		int event = status >> 16, sig = WSTOPSIG(status);

		if (!done && ((!at_filter && sig == (SIGTRAP | 0x80) && entering(pid)) || event == PTRACE_EVENT_SECCOMP)) {
			turn(pid);
			done = 1;
		}
		ptrace(at_filter || done ? PTRACE_CONT : PTRACE_SYSCALL, pid, NULL,
		       (void *)(long)(event || sig & 0x80 || sig == SIGTRAP ? 0 : sig));
	}
	exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

// Arguments so long that whoever cuts them does not see the last ones:
// argv[0] is a path of many slashes to the name it had.
static int long_name(void)
{
	size_t size = 128 << 10;
	char *name = malloc(size);

	memset(name, '/', size);
	strcpy(name + size - strlen(args[0]) - 1, args[0]);
	args[0] = name;
	return execve(path, args, environ);
}

// argv[1] over and over, then the rest.
static int many(int n)
{
	char **more = calloc(n + 64, sizeof *more);
	int i, m = 0;

	more[m++] = args[0];
	for (i = 0; i < n; i++)
		more[m++] = args[1];
	for (i = 2; args[i]; i++)
		more[m++] = args[i];
	return execve(path, more, environ);
}

// Copies PATH to a name, whose folders are made.
static void copy_to(const char *name)
{
	char buf[65536], dir[PATH_MAX];
	ssize_t n;
	int from = open(path, O_RDONLY | O_CLOEXEC), to;

	strcpy(dir, name);
	for (char *p = dir + 1; (p = strchr(p, '/')); *p++ = '/') {
		*p = 0;
		mkdir(dir, 0755);
	}
	to = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
	while ((n = read(from, buf, sizeof buf)) > 0)
		if (write(to, buf, n) != n)
			die("write");
	close(to); // or it is busy
	close(from);
}

// A folder in which PATH has a name.
static char *jail(const char *name)
{
	static char dir[] = "jail-XXXXXX", file[PATH_MAX];

	if (!mkdtemp(dir))
		die("mkdtemp");
	snprintf(file, sizeof file, "%s%s", dir, name);
	copy_to(file);
	return dir;
}

// Mounts of our own, as root or in a user namespace.
static void own_mounts(void)
{
	if (unshare((geteuid() ? CLONE_NEWUSER : 0) | CLONE_NEWNS) || mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		die("unshare");
}

static void mount_over(const char *name)
{
	own_mounts();
	if (mount(path, name, NULL, MS_BIND, NULL))
		die("mount");
}

// A copy of another program, whose interpreter, which the kernel starts in its
// place, is PATH.
static int interpreted(const char *program)
{
	const char *interpreter = path;
	ElfW(Ehdr) *e;
	ElfW(Phdr) *p;
	struct stat st;
	int fd, i;

	path = program;
	copy_to("innocent");
	if ((fd = open("innocent", O_RDWR | O_CLOEXEC)) < 0 || fstat(fd, &st) < 0)
		die("innocent");
	e = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (e == MAP_FAILED)
		die("mmap");
	p = (void *)((char *)e + e->e_phoff);
	for (i = 0; i < e->e_phnum && p[i].p_type != PT_NOTE; i++)
		;
	if (i == e->e_phnum || pwrite(fd, interpreter, strlen(interpreter) + 1, st.st_size) < 0)
		die("no note");
	p[i] = (ElfW(Phdr)){.p_type = PT_INTERP, .p_offset = st.st_size, .p_filesz = strlen(interpreter) + 1};
	munmap(e, st.st_size);
	close(fd);
	return execve("./innocent", args, environ);
}

static const char *another;

// In a process that shares our descriptors and nothing else.
static void mounts_and_opens(void)
{
	mount_over(another);
	dup2(open(another, O_PATH), 200);
}

// The same with a file that is removed from where it was.
static void removes(void)
{
	char dir[PATH_MAX], saved[] = "saved-XXXXXX";

	strcpy(dir, another);
	*strrchr(dir, '/') = 0;
	if (!mkdtemp(saved))
		die("mkdtemp");
	own_mounts();
	if (mount(dir, saved, NULL, MS_BIND, NULL) || mount("none", dir, "tmpfs", 0, NULL))
		die("mount");
	snprintf(dir, sizeof dir, "%s%s", saved, strrchr(path, '/'));
	path = dir;
	copy_to(another);
	dup2(open(another, O_RDONLY), 200);
	unlink(another);
}

// Its mounts stay as long as it does.
static int opened_by(void (*f)(void))
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		die("pipe");
	if ((pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0)) == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		f();
		if (write(fds[1], "", 1) != 1)
			die("write");
		pause();
	}
	while (poll(&(struct pollfd){fds[0], POLLIN, 0}, 1, 10) == 0)
		if (waitpid(pid, NULL, WNOHANG) != 0)
			die("it has ended");
	return 200;
}

// Starts PATH by another name, in a root or in mounts of its own.
static int named(const char *way, const char *name)
{
	char text[PATH_MAX];
	int fds[2];
	pid_t pid;

	another = name;
	if (is(way, "named-chroot")) {
		char *dir = jail(name);

		if ((geteuid() && unshare(CLONE_NEWUSER)) || chroot(dir) || chdir("/"))
			die("chroot");
		return execve(name, args, environ);
	}
	if (is(way, "named-mount")) {
		mount_over(name);
		return execve(name, args, environ);
	}
	if (is(way, "named-tree")) { // a mount that is nowhere
		char *dir = jail(name);

		own_mounts();
		return at(syscall(428 /* open_tree */, AT_FDCWD, dir, 1 /* OPEN_TREE_CLONE */), name + 1, 0);
	}
	if (is(way, "named-fd"))
		return at(opened_by(mounts_and_opens), "", AT_EMPTY_PATH);
	if (is(way, "named-deleted"))
		return at(opened_by(removes), "", AT_EMPTY_PATH);
	if (pipe(fds))
		die("pipe");
	if ((pid = fork()) == 0) { // named-root: another process's
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		mount_over(name);
		if (write(fds[1], "", 1) != 1)
			die("write");
		pause();
	}
	if (read(fds[0], text, 1) != 1)
		die("read");
	snprintf(text, sizeof text, "/proc/%d/root%s", pid, name);
	execve(text, args, environ);
	return kill(pid, SIGKILL), errno = EACCES, -1;
}

int main(int argc, char **argv)
{
	const char *way = argv[1];
	pid_t pid;

	if (argc < 3)
		die("exec WAY PATH [ARG…]");
	path = argv[2];
	args = argv + 2;
	if (is(way, "plain"))
		execve(path, args, environ);
	else if (is(way, "argv0")) // the name comes from the arguments
		execve(path, ++args, environ);
	else if (is(way, "no-argv"))
		syscall(SYS_execve, path, NULL, NULL);
	else if (is(way, "empty-path"))
		at(open(path, O_PATH | O_CLOEXEC), "", AT_EMPTY_PATH);
	else if (is(way, "empty-path-read"))
		at(open(path, O_RDONLY), "", AT_EMPTY_PATH);
	else if (is(way, "dirfd")) {
		char *slash = strrchr(argv[2], '/');
		*slash = 0;
		at(open(argv[2], O_PATH | O_DIRECTORY | O_CLOEXEC), slash + 1, 0);
	} else if (is(way, "dirfd-keep")) {
		char *slash = strrchr(argv[2], '/');
		*slash = 0;
		at(open(argv[2], O_PATH | O_DIRECTORY), slash + 1, 0);
	} else if (is(way, "cwd")) {
		char *slash = strrchr(argv[2], '/');
		*slash = 0;
		if (chdir(argv[2]))
			die("chdir");
		execve(slash + 1, args, environ);
	} else if (is(way, "dots")) {
		char name[PATH_MAX];
		char *slash = strrchr(argv[2], '/');
		*slash = 0;
		snprintf(name, sizeof name, "%s/..//%s/./%s", argv[2], strrchr(argv[2], '/') + 1, slash + 1);
		execve(name, args, environ);
	} else if (is(way, "memfd"))
		at(copy_to_memfd(), "", AT_EMPTY_PATH);
	else if (is(way, "memfd-proc"))
		by_fd("/proc/self/fd", copy_to_memfd());
	else if (is(way, "proc-fd"))
		by_fd("/proc/self/fd", open(path, O_PATH | O_CLOEXEC));
	else if (is(way, "proc-fd-high")) // a number that the supervisor has not
		by_fd("/proc/self/fd", dup2(open(path, O_PATH | O_CLOEXEC), 900));
	else if (is(way, "proc-task-fd")) {
		char dir[64];
		snprintf(dir, sizeof dir, "/proc/self/task/%d/fd", getpid());
		by_fd(dir, dup2(open(path, O_PATH | O_CLOEXEC), 900));
	} else if (is(way, "dev-fd"))
		by_fd("/dev/fd", open(path, O_PATH | O_CLOEXEC));
	else if (is(way, "thread-self-fd"))
		by_fd("/proc/thread-self/fd", open(path, O_PATH | O_CLOEXEC));
	else if (is(way, "proc-root"))
		prefixed("/proc/self/root");
	else if (is(way, "proc-parent-root")) {
		char root[64];
		snprintf(root, sizeof root, "/proc/%d/root", getpid());
		prefixed(root);
	} else if (is(way, "proc-exe")) // PATH is what is started by this very file
		execve("/proc/self/exe", (char *[]){"again", "plain", argv[2], NULL}, environ);
	else if (is(way, "symlinks"))
		symlinked();
	else if (strncmp(way, "named-", 6) == 0)
		named(way, argv[3]);
	else if (is(way, "interpreter"))
		interpreted(argv[3]);
	else if (is(way, "below")) { // its folder is the root
		char *slash = strrchr(argv[2], '/');
		*slash = 0;
		if (chroot(argv[2]) || chdir("/"))
			die("chroot");
		*slash = '/';
		execve(slash, args, environ);
	} else if (is(way, "thread")) {
		pthread_t t;
		pthread_create(&t, NULL, in_thread, NULL);
		pthread_join(t, NULL);
	} else if (is(way, "threads"))
		together(8);
	else if (is(way, "map-files")) { // what is mapped is a file of procfs as well
		char name[96];
		void *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, open(path, O_RDONLY | O_CLOEXEC), 0);

		snprintf(name, sizeof name, "/proc/self/map_files/%lx-%lx", (long)p, (long)p + 4096);
		execve(name, args, environ);
	} else if (is(way, "open-tree")) { // a mount that is nowhere
		char *slash = strrchr(argv[2], '/');
		*slash = 0;
		at(syscall(428 /* open_tree */, AT_FDCWD, argv[2], 1 /* OPEN_TREE_CLONE */ | O_CLOEXEC), slash + 1, 0);
	} else if (is(way, "dispatch")) { // calls may be the process's own to answer, and are not
		static char allow;

		if (prctl(59 /* PR_SET_SYSCALL_USER_DISPATCH */, 1, 0, 0, &allow))
			die("prctl");
		execve(path, args, environ);
	} else if (is(way, "turned") || is(way, "turned-at-filter"))
		turned(is(way, "turned-at-filter"));
	else if (is(way, "vfork")) {
		if ((pid = vfork()) == 0) {
			execve(path, args, environ);
			say("exec", -1);
			_exit(1);
		}
		wait_for(pid);
	} else if (is(way, "spawn")) {
		errno = posix_spawn(&pid, path, NULL, NULL, args, environ);
		if (errno == 0)
			wait_for(pid);
	} else if (is(way, "traced"))
		traced();
	else if (is(way, "long-name"))
		long_name();
	else if (is(way, "many"))
		many(5000);
	else if (is(way, "check")) {
		say("check", at(AT_FDCWD, path, AT_EXECVE_CHECK));
		return 0;
	} else if (is(way, "setuid")) { // another user, then a program
		if (setgid(1000) || setuid(1000))
			die("setuid");
		execve(path, args, environ);
	} else if (is(way, "setuid-again")) { // and one more, as who it now is
		if (setgid(1000) || setuid(1000))
			die("setuid");
		execve(argv[0], (char *[]){argv[0], "plain", argv[2], NULL}, environ);
	} else
		die(way);
	say("exec", -1);
	return 1;
}
