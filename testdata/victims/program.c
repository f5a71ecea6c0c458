// The program that others start: it says its name (-DNAME) and, where MARK
// names a file, leaves it there, so that it cannot have run unnoticed.
#include "victim.h"

int main(void)
{
	const char *mark = getenv("MARK");

	if (mark) {
		int fd = open(mark, O_WRONLY | O_CREAT | O_APPEND, 0666);

		if (fd < 0 || write(fd, NAME "\n", sizeof NAME) < 0)
			die("mark");
		return 0;
	}
	return puts(NAME " ran") < 0;
}
