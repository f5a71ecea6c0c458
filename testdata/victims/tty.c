// tty: types into a terminal as if somebody sat at it (TIOCSTI).
#include "victim.h"
#include <sys/ioctl.h>

int main(void)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY), status;

	if (master < 0 || grantpt(master) || unlockpt(master))
		die("pty");
	if (fork() == 0) {
		int slave;
		char c = 0;

		setsid();
		if ((slave = open(ptsname(master), O_RDWR)) < 0)
			die("slave");
		say("type", ioctl(slave, TIOCSTI, "\n"));
		fcntl(slave, F_SETFL, O_NONBLOCK);
		printf("read %zd\n", read(slave, &c, 1));
		fflush(stdout);
		_exit(0);
	}
	wait(&status);
	return 0;
}
