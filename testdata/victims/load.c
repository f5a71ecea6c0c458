// load SECONDS PROGRAM [FILE]: starts PROGRAM and connects to itself over and
// over, in several processes, and tells which calls failed and how. At the end
// it writes "end" to FILE; the end comes early once there is FILE.stop.
#include "victim.h"

static int *counts; // by errno
static char stop[PATH_MAX];

static int running(double end) { return now() < end && (!*stop || access(stop, F_OK) != 0); }

static void note(int r)
{
	if (r < 0)
		__atomic_fetch_add(&counts[errno & 1023], 1, __ATOMIC_SEQ_CST);
}

static void execs(const char *path, double end)
{
	while (running(end)) {
		pid_t pid = vfork();

		if (pid == 0) {
			execl(path, path, NULL);
			note(-1);
			_exit(0);
		}
		waitpid(pid, NULL, 0);
	}
}

static void connects(double end)
{
	struct sockaddr_in a = in4("127.0.0.1", 0);
	socklen_t len = sizeof a;
	struct linger hard = {1, 0};
	int l = socket(AF_INET, SOCK_STREAM, 0), d = socket(AF_INET, SOCK_DGRAM, 0);

	if (bind(l, (void *)&a, sizeof a) || listen(l, 64) || getsockname(l, (void *)&a, &len))
		die("listen");
	while (running(end)) {
		int s = socket(AF_INET, SOCK_STREAM, 0), c;

		setsockopt(s, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
		int r = connect(s, (void *)&a, sizeof a);
		note(r);
		if (r == 0 || errno == EISCONN) {
			c = accept(l, NULL, NULL);
			close(c);
		}
		close(s);
		note(sendto(d, "x", 1, 0, (void *)&a, sizeof a));
	}
}

int main(int argc, char **argv)
{
	double end;

	if (argc < 3)
		die("load SECONDS PROGRAM");
	if (argc > 3)
		snprintf(stop, sizeof stop, "%s.stop", argv[3]);
	counts = shared(1024 * sizeof *counts);
	end = now() + atof(argv[1]);
	for (int i = 0; i < 4; i++)
		if (fork() == 0) {
			if (i & 1)
				connects(end);
			else
				execs(argv[2], end);
			_exit(0);
		}
	puts("ready");
	fflush(stdout);
	while (wait(NULL) > 0 || errno == EINTR)
		;
	for (int i = 0; i < 1024; i++)
		// Nobody listens for the datagrams: ECONNREFUSED is the answer.
		if (counts[i] && i != ECONNREFUSED)
			printf("%s %d\n", ename(i), counts[i]);
	puts("done");
	if (argc > 3) {
		int fd = open(argv[3], O_WRONLY | O_CREAT | O_APPEND, 0666);

		if (fd < 0 || write(fd, "end\n", 4) != 4)
			die(argv[3]);
	}
	return 42;
}
