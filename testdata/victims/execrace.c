// execrace HOW SECONDS PATH OFFSET BYTE: execs PATH again and again, while
// another thread changes one byte of it all the time, from what it is to BYTE
// and back. The path must never lead to a program that was not judged.
//
//	shared   the path lies in memory shared with the rewriting process
//	vm       the process that execs shares all memory (CLONE_VM)
//	traced   as shared, and the process that execs is traced by its parent
//	threads  as shared, and four threads of the process exec at once
//	symlink  the path is a link that is renamed, PATH and PATH with BYTE
//	content  the path is a file that is overwritten, PATH and PATH with BYTE
//
// In these, two folders "a" and "d" of the working directory hold a copy of
// PATH and of PATH with BYTE, each by the name "p":
//
//	dirfd     p below a descriptor, exchanged between the folders (CLONE_FILES)
//	fd        a descriptor of the file itself, AT_EMPTY_PATH
//	proc-fd   the same by /proc/self/fd
//	chdir     p from the working directory, changed by another (CLONE_FS)
//	chroot    the same with the root
//	exchange  the folders exchange their names
//	argv      PATH is a multi-call binary, whose function changes between
//	          "true" and "mkdir"
//	args      PATH is mkdir, whose argument changes between "fine" and "made"
//
//	touched  PATH is a multi-call binary, started as mkdir by a copy of it
//	         that another process chmods
#include "victim.h"

#include <linux/fs.h>

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE 2
#endif

static volatile char *path;
static char **argv_;
static char a, b;
static int offset;
static volatile int *stop;

static void *rewrite(void *unused)
{
	(void)unused;
	while (!*stop) {
		path[offset] = b;
		for (volatile int i = 0; i < 40; i++)
			;
		path[offset] = a;
		for (volatile int i = 0; i < 40; i++)
			;
	}
	return NULL;
}

static char *whole(const char *name, size_t *size)
{
	struct stat st;
	int fd = open(name, O_RDONLY);
	char *data;

	if (fd < 0 || fstat(fd, &st) < 0 || !(data = malloc(st.st_size)) || read(fd, data, st.st_size) != st.st_size)
		die(name);
	close(fd);
	*size = st.st_size;
	return data;
}

// Overwrites file with one program and the other, as far as they differ.
static void overwrite(const char *file, const char *first, const char *second)
{
	size_t n1, n2, from = 0, to;
	char *one = whole(first, &n1), *two = whole(second, &n2);

	if (n1 != n2)
		die("programs of different sizes");
	while (from < n1 && one[from] == two[from])
		from++;
	for (to = n1; to > from && one[to - 1] == two[to - 1];)
		to--;
	for (int i = 0; !*stop; i++) {
		int fd = open(file, O_WRONLY | O_CLOEXEC);

		if (fd < 0)
			continue; // it is being executed
		if (pwrite(fd, (i & 1 ? one : two) + from, to - from, from) < 0)
			die("pwrite");
		close(fd);
		for (volatile int k = 0; k < (i & 1023) * 8; k++)
			;
	}
	_exit(0);
}

enum { SLOT = 99 }; // the descriptor that is exchanged

static const char *how;
static char *args[] = {"program", NULL, NULL, NULL};
static int folder[2], file[2];

static int become(void *unused)
{
	(void)unused;
	if (is(how, "dirfd"))
		syscall(SYS_execveat, SLOT, "p", args, environ, 0);
	else if (is(how, "fd"))
		syscall(SYS_execveat, SLOT, "", args, environ, AT_EMPTY_PATH);
	else
		execve((const char *)path, args, environ);
	_exit(errno == EACCES ? 100 : 101);
}

// Makes what one name leads to the allowed program, or the denied one.
static void turn(int i)
{
	if (is(how, "dirfd"))
		dup2(folder[i], SLOT);
	else if (strstr(how, "fd"))
		dup2(file[i], SLOT);
	else if (is(how, "exchange"))
		syscall(SYS_renameat2, AT_FDCWD, "a", AT_FDCWD, "d", RENAME_EXCHANGE);
	else if (is(how, "argv"))
		*(char *volatile *)&args[1] = i ? "mkdir" : "true";
	else if (is(how, "args"))
		*(char *volatile *)&args[1] = i ? "made" : "fine";
	else if (fchdir(folder[i]) == 0 && is(how, "chroot") && chroot("."))
		die("chroot");
}

static void *turning(void *unused)
{
	for (int i = 0; !*stop; i++) {
		turn(i & 1);
		for (volatile int k = 0; k < (i & 63) * 8; k++)
			;
	}
	return unused;
}

static void copy(const char *from, const char *dir, int i)
{
	size_t size;
	char to[64], *data = whole(from, &size);
	int out;

	mkdir(dir, 0755);
	folder[i] = open(dir, O_PATH | O_CLOEXEC);
	snprintf(to, sizeof to, "%s/%s", dir, i ? "prog-d" : "prog-a");
	out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0755);
	if (out < 0 || write(out, data, size) != (ssize_t)size)
		die(to);
	close(out);
	file[i] = open(to, O_PATH | O_CLOEXEC);
	snprintf(to, sizeof to, "%s/p", dir);
	unlink(to);
	if (symlink(i ? "prog-d" : "prog-a", to))
		die(to);
	free(data);
}

static void *also(void *unused)
{
	for (;;)
		execve((const char *)path, args, environ);
	return unused;
}

int main(int argc, char **argv)
{
	int ran = 0, refused = 0, killed = 0, other = 0, status, share = 0;
	char *stack = malloc(1 << 16), linkname[64];
	double end;
	pid_t pid, rewriter = 0;
	pthread_t t;

	if (argc < 6)
		die("execrace HOW SECONDS PATH OFFSET BYTE");
	argv_ = argv;
	how = argv[1];
	path = shared(PATH_MAX);
	stop = shared(sizeof *stop);
	strcpy((char *)path, argv[3]);
	offset = atoi(argv[4]);
	a = path[offset];
	b = argv[5][0];
	end = now() + atof(argv[2]);
	if (is(how, "symlink")) {
		char new[80], other_path[PATH_MAX];

		snprintf(linkname, sizeof linkname, "/tmp/victim-race-%d", getpid());
		snprintf(new, sizeof new, "%s.new", linkname);
		strcpy(other_path, argv[3]);
		other_path[offset] = b;
		if (symlink(argv[3], linkname))
			die("symlink");
		strcpy((char *)path, linkname);
		if ((rewriter = fork()) == 0)
			for (int i = 0; !*stop; i++)
				if (symlink(i & 1 ? argv[3] : other_path, new) == 0)
					rename(new, linkname);
	} else if (is(how, "content") || is(how, "touched")) {
		char other_path[PATH_MAX];
		size_t size;
		char *data = whole(argv[3], &size);
		int fd;

		snprintf(linkname, sizeof linkname, "/tmp/victim-race-%d", getpid());
		strcpy(other_path, argv[3]);
		other_path[offset] = b;
		fd = open(linkname, O_WRONLY | O_CREAT | O_TRUNC, 0755);
		if (fd < 0 || write(fd, data, size) != (ssize_t)size)
			die(linkname);
		close(fd);
		strcpy((char *)path, linkname);
		args[0] = "mkdir";
		args[1] = is(how, "touched") ? "made" : NULL;
		if ((rewriter = fork()) == 0) {
			for (int i = 0; is(how, "touched") && !*stop; i++)
				chmod(linkname, 0700 + (i & 7));
			overwrite(linkname, argv[3], other_path);
		}
	} else if (is(how, "argv") || is(how, "args")) {
		args[0] = is(how, "argv") ? "busybox" : "mkdir";
		args[2] = is(how, "argv") ? "made" : NULL;
		share = CLONE_VM;
		pthread_create(&t, NULL, turning, NULL);
	} else if (is(how, "shared") || is(how, "vm") || is(how, "traced") || is(how, "threads")) {
		pthread_create(&t, NULL, rewrite, NULL);
	} else {
		char other_path[PATH_MAX];

		strcpy(other_path, argv[3]);
		other_path[offset] = b;
		copy(argv[3], "a", 0);
		copy(other_path, "d", 1);
		share = strstr(how, "fd") ? CLONE_FILES : is(how, "exchange") ? 0 : CLONE_FS;
		strcpy((char *)path, is(how, "proc-fd") ? "/proc/self/fd/99" : is(how, "exchange") ? "a/p" : is(how, "chroot") ? "/p" : "p");
		if (is(how, "chroot"))
			unsetenv("MARK"); // it is elsewhere: the program says its name
		turn(0);
		pthread_create(&t, NULL, turning, NULL);
	}
	while (now() < end) {
		if (is(how, "vm") || share)
			pid = clone(become, stack + (1 << 16), (share ? share : CLONE_VM) | SIGCHLD, NULL);
		else if ((pid = fork()) == 0) {
			if (is(how, "traced") && ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
				die("traceme");
			for (int i = 0; is(how, "threads") && i < 3; i++)
				pthread_create(&t, NULL, also, NULL);
			become(NULL);
		}
		if (pid < 0)
			die("fork");
		while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status))
			ptrace(PTRACE_CONT, pid, NULL, NULL);
		if (WIFSIGNALED(status))
			killed++;
		else if (WEXITSTATUS(status) == 100)
			refused++;
		else if (WEXITSTATUS(status) == 0)
			ran++;
		else
			other++;
	}
	*stop = 1;
	if (rewriter) {
		kill(rewriter, SIGKILL);
		waitpid(rewriter, NULL, 0);
		unlink(linkname);
	}
	printf("ran=%d refused=%d killed=%d other=%d\n", ran, refused, killed, other);
	return 0;
}
