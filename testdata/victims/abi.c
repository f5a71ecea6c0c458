// abi WAY PATH: starts PATH by another of the processor's call tables.
#include "victim.h"

int main(int argc, char **argv)
{
	long r = -ENOSYS;

	if (argc < 3)
		die("abi WAY PATH");
#if defined(__x86_64__)
	char *low = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	uint32_t *vec = (uint32_t *)(low + 4096);

	strcpy(low, argv[2]);
	vec[0] = (uintptr_t)low;
	if (is(argv[1], "int80"))
		__asm__ volatile("int $0x80" : "=a"(r) : "a"(11), "b"(low), "c"(vec), "d"(0L) : "memory", "r8", "r9", "r10", "r11");
	else if (is(argv[1], "int80-execveat"))
		__asm__ volatile("int $0x80" : "=a"(r) : "a"(358), "b"(AT_FDCWD), "c"(low), "d"(vec), "S"(0L), "D"(0L) : "memory", "r8", "r9", "r10", "r11");
	else if (is(argv[1], "x32"))
		r = syscall(0x40000000 | 520, low, vec, 0) < 0 ? -errno : 0;
	else if (is(argv[1], "x32-native-number"))
		r = syscall(0x40000000 | SYS_execve, argv[2], argv + 2, environ) < 0 ? -errno : 0;
	else
		die(argv[1]);
	r = (int)r;
#else
	(void)argv; // it has one table alone: the other needs another program
#endif
	errno = -r;
	say("exec", r < 0 ? -1 : 0);
	return 1;
}
