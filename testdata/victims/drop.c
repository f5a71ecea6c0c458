// drop WAY CMD…: becomes user 1000, then does something.
//
//	exec      starts CMD
//	dumpable  the same, as a process that one of its user may look into
//	connect   connects to CMD[0]:CMD[1] without an exec: nobody may look into
//	          such a process without CAP_SYS_PTRACE
#include "victim.h"

int main(int argc, char **argv)
{
	if (argc < 3)
		die("drop WAY CMD…");
	if (setgid(1000) || setuid(1000))
		die("setuid");
	if (is(argv[1], "connect")) {
		struct sockaddr_in a = in4(argv[2], atoi(argv[argc - 1]));

		return say("connect", connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&a, sizeof a)) < 0;
	}
	if (is(argv[1], "dumpable"))
		prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	execv(argv[2], argv + 2);
	say("exec", -1);
	return 1;
}
