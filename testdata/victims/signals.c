// signals HOW: signals as a program sees them that depends on them. What it
// tells must be the same whoever watches it.
#include "victim.h"

#include <ucontext.h>

static volatile int caught, last, code;
static int got[64];

static void note(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	last = info->si_value.sival_int;
	code = info->si_code;
	if (caught < 64)
		got[caught] = last;
	caught++;
}

static void on(int sig)
{
	struct sigaction sa = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};

	sigaction(sig, &sa, NULL);
}

#ifdef __x86_64__
#define TF 0x100
static void stepped(int sig, siginfo_t *info, void *context)
{
	ucontext_t *u = context;

	(void)sig;
	code = info->si_code;
	if (++caught == 20)
		u->uc_mcontext.gregs[REG_EFL] &= ~TF;
}
#endif

static void *quick(void *unused)
{
	struct sockaddr_in a = in4("127.0.0.1", 9);

	for (;;)
		connect(socket(AF_INET, SOCK_DGRAM, 0), (void *)&a, sizeof a);
	return unused;
}

// A connect that waits for minutes.
static void *wait_long(void *unused)
{
	struct sockaddr_in a = full();

	connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&a, sizeof a);
	return unused;
}

static void await(pid_t pid, const char *what)
{
	int status;

	if (waitpid(pid, &status, WUNTRACED | WCONTINUED) != pid)
		die("waitpid");
	printf("%s: %s %d\n", what, WIFSTOPPED(status) ? "stopped" : WIFCONTINUED(status) ? "continued" : WIFSIGNALED(status) ? "killed" : "exited",
		WIFSTOPPED(status) ? WSTOPSIG(status) : WIFSIGNALED(status) ? WTERMSIG(status) : WIFEXITED(status) ? WEXITSTATUS(status) : 0);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	const char *how = argv[argc > 1];
	union sigval v;
	sigset_t set;
	pthread_t t;
	pid_t pid;

	if (is(how, "queue")) { // real-time signals: each counts, in order, with its value
		int sorted = 1;

		on(SIGRTMIN + 5);
		sigemptyset(&set);
		sigaddset(&set, SIGRTMIN + 5);
		sigprocmask(SIG_BLOCK, &set, NULL);
		for (v.sival_int = 0; v.sival_int < 64; v.sival_int++)
			sigqueue(getpid(), SIGRTMIN + 5, v);
		sigprocmask(SIG_UNBLOCK, &set, NULL);
		for (int i = 0; i < 64; i++)
			sorted &= got[i] == i;
		printf("queue: %d, sorted %d, code %d\n", caught, sorted, code);
	} else if (is(how, "trap")) { // SIGTRAP is the tracer's own, and anybody's
		on(SIGTRAP);
		raise(SIGTRAP);
		v.sival_int = 77;
		sigqueue(getpid(), SIGTRAP, v);
		printf("trap: %d, value %d, code %d\n", caught, last, code);
	} else if (is(how, "trap-unhandled")) {
		raise(SIGTRAP);
	} else if (is(how, "stop-unhandled")) { // 0x85, what a tracer sees of calls, is no signal
		printf("kill: %d\n", kill(getpid(), SIGTRAP | 0x80));
#ifdef __x86_64__
	} else if (is(how, "int3")) {
		on(SIGTRAP);
		__asm__ volatile("int3");
		printf("int3: %d, code %d\n", caught, code);
	} else if (is(how, "step")) { // single steps over system calls, stopped ones too
		struct sigaction sa = {.sa_sigaction = stepped, .sa_flags = SA_SIGINFO};
		struct sockaddr_in a = in4("127.0.0.1", 9);
		int s = socket(AF_INET, SOCK_DGRAM, 0);
		long r;

		sigaction(SIGTRAP, &sa, NULL);
		__asm__ volatile(
			"pushfq; orq $0x100, (%%rsp); popfq\n"
			"1: syscall; mov %[nr], %%eax; nop; nop; nop; nop; nop; nop; nop; nop; jmp 2f; 2: nop;nop;nop;nop;nop;nop;nop;nop;nop"
			: "=a"(r) : "a"((long)SYS_connect), "D"((long)s), "S"(&a), "d"(sizeof a), [nr] "i"(SYS_connect) : "rcx", "r11", "memory", "cc");
		printf("step: %s, code %d\n", caught >= 20 ? "many" : "few", code);
#endif
	} else if (is(how, "stop")) {
		int go[2];
		char c;

		if (pipe(go))
			die("pipe");
		setpgid(0, 0); // SIGTSTP stops nobody whose group has no parent
		if ((pid = fork()) == 0) {
			setpgid(0, 0);
			raise(SIGSTOP);
			if (read(go[0], &c, 1) == 1)
				raise(SIGTSTP);
			_exit(read(go[0], &c, 1) == 1 ? 5 : 6);
		}
		for (int i = 0; i < 2; i++) {
			await(pid, "stop");
			kill(pid, SIGCONT);
			await(pid, "stop");
			if (write(go[1], "", 1) != 1)
				die("write");
		}
		await(pid, "stop");
	} else if (is(how, "stop-threads") || is(how, "stop-connect")) {
		if ((pid = fork()) == 0) {
			for (int i = 0; i < 4; i++)
				pthread_create(&t, NULL, is(how, "stop-connect") && i == 0 ? wait_long : quick, NULL);
			for (;;)
				pause();
		}
		usleep(500000);
		kill(pid, SIGSTOP);
		await(pid, how);
		kill(pid, SIGCONT);
		await(pid, how);
		usleep(100000);
		kill(pid, SIGKILL);
		await(pid, how);
	} else if (is(how, "exec-storm")) { // a signal during each of many execs
		int bad = 0, status;

		for (int i = 0; i < 300; i++) {
			if ((pid = fork()) == 0) {
				signal(SIGUSR1, SIG_IGN);
				execl("/bin/true", "true", NULL);
				_exit(9);
			}
			for (int j = 0; j < i % 50; j++)
				kill(pid, SIGCONT);
			waitpid(pid, &status, 0);
			bad += status != 0;
		}
		printf("exec-storm: %d\n", bad);
	} else if (is(how, "kill-storm")) { // SIGKILL at any moment of an exec
		int other = 0, status;

		for (int i = 0; i < 600; i++) {
			if ((pid = fork()) == 0) {
				char *args[] = {argv[2], NULL};

				execv(args[0], args);
				_exit(9);
			}
			for (int j = 0; j < i; j++)
				sched_yield();
			usleep(i % 300);
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			other += status != 0 && status != SIGKILL;
		}
		printf("kill-storm: %d\n", other);
	} else if (is(how, "stop-storm")) { // SIGSTOP and SIGCONT at any moment
		int bad = 0, status;

		for (int i = 0; i < 200; i++) {
			if ((pid = fork()) == 0) {
				execl("/bin/true", "true", NULL);
				_exit(9);
			}
			for (int j = 0; j < 5; j++) {
				kill(pid, SIGSTOP);
				usleep(i);
				kill(pid, SIGCONT);
			}
			waitpid(pid, &status, 0);
			bad += status != 0;
		}
		printf("stop-storm: %d\n", bad);
	} else {
		die(how);
	}
	return 0;
}
