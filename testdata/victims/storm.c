// storm N: a process of many threads that becomes itself N times, each time by
// another thread than its first, while its threads connect: some get an answer
// at once and some wait for minutes, and others start programs.
//
//	storm procs N   starts N processes, as many at once as there are threads,
//	                says "ready", and ends when its standard input does
//	storm crowd N   starts N processes that live all at once
//	storm fastopen  sends over a connection that nobody takes, in one process,
//	                and connects in another
#include "victim.h"

static struct sockaddr_in closed, queue;
static char *self, next_n[16];

static void *quick(void *unused)
{
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	for (;;)
		connect(s, (void *)&closed, sizeof closed);
	return unused;
}

static void *blocked(void *unused)
{
	for (;;)
		connect(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), (void *)&queue, sizeof queue);
	return unused;
}

static void spawn(void)
{
	pid_t pid = vfork();

	if (pid == 0) {
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	waitpid(pid, NULL, 0);
}

static void *starts(void *unused)
{
	for (;;)
		spawn();
	return unused;
}

static void *become(void *unused)
{
	usleep(atoi(next_n) * 37 % 3000);
	execl(self, self, next_n, NULL);
	say("exec", -1);
	_exit(1);
	return unused;
}

static void *some(void *count)
{
	while (__atomic_fetch_sub((int *)count, 1, __ATOMIC_SEQ_CST) > 0)
		spawn();
	return NULL;
}

int main(int argc, char **argv)
{
	void *(*roles[])(void *) = {quick, blocked, starts, quick, blocked, become, become};
	int n = argc > 1 ? atoi(argv[1]) : 0;
	pthread_t t[8];

	setvbuf(stdout, NULL, _IOLBF, 0);

	closed = in4("127.0.0.1", 9);
	if (argc > 2 && is(argv[1], "procs")) {
		n = atoi(argv[2]);
		for (int i = 0; i < 4; i++)
			pthread_create(&t[i], NULL, some, &n);
		for (int i = 0; i < 4; i++)
			pthread_join(t[i], NULL);
		puts("ready");
		fflush(stdout);
		while (read(0, &n, 1) > 0)
			;
		return 0;
	}
	if (argc > 2 && is(argv[1], "crowd")) {
		int go[2], started = 0;
		char c;

		if (pipe(go))
			die("pipe");
		n = atoi(argv[2]);
		for (int i = 0; i < n; i++) {
			pid_t pid = fork();

			if (pid == 0) {
				close(go[1]);
				if (read(go[0], &c, 1) == 0)
					execl("/bin/true", "true", NULL);
				_exit(1);
			}
			started += pid > 0;
		}
		close(go[1]);
		for (int status, i = 0; i < n && wait(&status) > 0; i++)
			started -= status == 0;
		printf("left: %d\n", started);
		return 0;
	}
	queue = full();
	if (argc > 1 && is(argv[1], "fastopen")) {
		struct iovec iov = {"x", 1};
		struct mmsghdr m = {.msg_hdr = {&queue, sizeof queue, &iov, 1, NULL, 0, 0}};
		pid_t pid = fork();

		if (pid == 0) {
			sendmmsg(socket(AF_INET, SOCK_STREAM, 0), &m, 1, MSG_FASTOPEN);
			pause();
		}
		usleep(100000);
		say("connect", connect(socket(AF_INET, SOCK_DGRAM, 0), (void *)&closed, sizeof closed));
		kill(pid, SIGKILL);
		return 0;
	}
	if (n == 0) {
		puts("done");
		return 0;
	}
	self = argv[0];
	snprintf(next_n, sizeof next_n, "%d", n - 1);
	for (unsigned i = 0; i < sizeof roles / sizeof *roles; i++)
		pthread_create(&t[i], NULL, roles[i], NULL);
	(n % 2 ? blocked : quick)(NULL);
}
