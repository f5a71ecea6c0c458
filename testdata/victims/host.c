// host CMD…: two ancestors for an attacker who expects a supervisor and a
// guardian above it, for the run without a Defender. They wait for their
// child, as those do.
#include "victim.h"

static int below(char **argv, int depth)
{
	int status = 0;
	pid_t pid;

	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	if ((pid = fork()) == 0) {
		if (depth == 0)
			exit(below(argv, 1));
		setpgid(0, 0);
		execv(argv[0], argv);
		die("exec");
	}
	// Whatever is left is ours: wait for all of it.
	while (wait(&status) > 0 || errno == EINTR)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
	(void)argc;
	setpgid(0, 0);
	return below(argv + 1, 0);
}
