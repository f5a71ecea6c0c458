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
#include "victim.h"

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

static int become(void *unused)
{
	(void)unused;
	execve((const char *)path, (char *[]){"program", NULL}, environ);
	_exit(errno == EACCES ? 100 : 101);
}

static void *also(void *unused)
{
	for (;;)
		execve((const char *)path, (char *[]){"program", NULL}, environ);
	return unused;
}

int main(int argc, char **argv)
{
	int ran = 0, refused = 0, killed = 0, other = 0, status;
	char *stack = malloc(1 << 16), linkname[64];
	double end;
	pid_t pid, rewriter = 0;
	pthread_t t;

	if (argc < 6)
		die("execrace HOW SECONDS PATH OFFSET BYTE");
	argv_ = argv;
	path = shared(PATH_MAX);
	stop = shared(sizeof *stop);
	strcpy((char *)path, argv[3]);
	offset = atoi(argv[4]);
	a = path[offset];
	b = argv[5][0];
	end = now() + atof(argv[2]);
	if (is(argv[1], "symlink")) {
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
	} else if (is(argv[1], "content")) {
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
		if ((rewriter = fork()) == 0)
			overwrite(linkname, argv[3], other_path);
	} else {
		pthread_create(&t, NULL, rewrite, NULL);
	}
	while (now() < end) {
		if (is(argv[1], "vm"))
			pid = clone(become, stack + (1 << 16), CLONE_VM | SIGCHLD, NULL);
		else if ((pid = fork()) == 0) {
			if (is(argv[1], "traced") && ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
				die("traceme");
			for (int i = 0; is(argv[1], "threads") && i < 3; i++)
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
