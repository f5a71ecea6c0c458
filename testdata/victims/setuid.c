// setuid: tells its user ids; its file is set-uid.
#include "victim.h"

int main(void)
{
	printf("uid %d euid %d\n", getuid(), geteuid());
	return 0;
}
