// args: its arguments, every byte visible.
#include "victim.h"

int main(int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		printf("%d:", i);
		for (unsigned char *p = (unsigned char *)argv[i]; *p; p++)
			if (*p > ' ' && *p < 127 && *p != '\\')
				putchar(*p);
			else
				printf("\\x%02x", *p);
		putchar('\n');
	}
	return 0;
}
