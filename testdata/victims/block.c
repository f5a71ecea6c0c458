// block HOW: a connect that would wait for minutes, and what ends it.
//
//	eintr     a handler without SA_RESTART: EINTR
//	alarm     the same by a timer, in a process of one thread
//	restart   a handler with SA_RESTART: the connect goes on, until a second
//	          signal comes whose handler has no SA_RESTART
//	sndtimeo  a connect with a time limit is never restarted: EINTR
//	timeout   the limit itself: EINPROGRESS
//	other     signals that another thread takes leave this one alone; the end
//	          is again a signal of its own
//	ignored   an ignored signal does not end it either
//	many      a thousand of them, and the process can still start a program
//	kill      SIGKILL ends the process though its connect blocks
#include "victim.h"

static volatile int caught, done;
static pthread_t connecting;
static struct sockaddr_in to;
static int s;

static void handler(int sig)
{
	(void)sig;
	caught = 1;
}

static void on(int sig, int flags)
{
	struct sigaction sa = {.sa_handler = handler, .sa_flags = flags};

	sigaction(sig, &sa, NULL);
}

// One signal may come too early, or together with another whose handler
// restarts: repeat it.
static void end_it(int sig)
{
	while (!done) {
		pthread_kill(connecting, sig);
		usleep(300000);
	}
}

static void *one_then_end(void *last)
{
	usleep(300000);
	pthread_kill(connecting, SIGUSR1);
	usleep(300000);
	end_it(*(int *)last);
	return NULL;
}

static void *block(void *unused)
{
	(void)unused;
	connecting = pthread_self();
	say("connect", connect(s, (void *)&to, sizeof to));
	done = 1;
	return NULL;
}

static void *block_quietly(void *unused)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	(void)unused;
	connect(fd, (void *)&to, sizeof to);
	return NULL;
}

static int many(int n)
{
	pthread_attr_t small;
	pthread_t t;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	for (int i = 0; i < n; i++)
		if (pthread_create(&t, &small, block_quietly, NULL))
			die("pthread_create");
	sleep(1);
	spawn_true();
	_exit(0);
}

int main(int argc, char **argv)
{
	const char *how = argv[argc > 1];
	const struct itimerval each = {{1, 0}, {1, 0}};
	struct timeval limit = {1, 0};
	int last = is(how, "eintr") ? SIGUSR1 : SIGUSR2;
	pthread_t t, c;

	to = full();
	if (is(how, "many"))
		return many(1100);
	s = socket(AF_INET, SOCK_STREAM, 0);
	connecting = pthread_self();
	on(SIGUSR2, 0);
	on(SIGUSR1, is(how, "eintr") || is(how, "alarm") ? 0 : SA_RESTART);
	if (is(how, "alarm")) {
		on(SIGALRM, 0);
		setitimer(ITIMER_REAL, &each, NULL);
		block(NULL);
	} else if (is(how, "timeout")) {
		setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
		block(NULL);
	} else if (is(how, "kill")) {
		signal(SIGALRM, SIG_DFL);
		if (fork() == 0) {
			usleep(300000);
			kill(getppid(), SIGKILL);
			_exit(0);
		}
		block(NULL);
	} else if (is(how, "other")) {
		pid_t hammer;

		// The kernel gives a signal for the process to its first thread
		// that takes it: this one.
		pthread_create(&c, NULL, block, NULL);
		if ((hammer = fork()) == 0) {
			double end = now() + 3;

			while (now() < end)
				kill(getppid(), SIGUSR1);
			_exit(0);
		}
		while (waitpid(hammer, NULL, WNOHANG) == 0)
			;
		if (done)
			return 1;
		end_it(SIGUSR2);
		pthread_join(c, NULL);
	} else {
		if (is(how, "ignored"))
			signal(SIGUSR1, SIG_IGN);
		if (is(how, "sndtimeo")) {
			limit.tv_sec = 5;
			setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
		}
		pthread_create(&t, NULL, one_then_end, &last);
		block(NULL);
	}
	return 0;
}
