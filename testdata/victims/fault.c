// fault: one thread's connect has its address on a page whose fault nobody
// serves (userfaultfd(2)); whoever reads it waits. Others must not: another
// thread starts a program. "unsupported" where the kernel does not let us.
#include "victim.h"
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

static void *page;

static void *stuck(void *unused)
{
	(void)unused;
	connect(socket(AF_INET, SOCK_STREAM, 0), page, sizeof(struct sockaddr_in));
	return NULL;
}

int main(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd = dev < 0 ? -1 : ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC);
	pthread_t t;

	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	reg.range.start = (uintptr_t)page;
	reg.range.len = 4096;
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg)) {
		puts("unsupported");
		return 0;
	}
	pthread_create(&t, NULL, stuck, NULL);
	usleep(200000);
	spawn_true();
	_exit(0);
}
