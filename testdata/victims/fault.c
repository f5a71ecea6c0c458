// fault: one thread's connect has its address on a page whose fault nobody
// serves (userfaultfd(2)); whoever reads it waits. Others must not: another
// thread starts a program. "unsupported" where the kernel does not let us.
//
// fault none: calls whose addresses lie where nobody may read.
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

static int none(void)
{
	struct iovec iov = {"x", 1};
	struct msghdr msg = {0};
	void *nowhere = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	say("connect", connect(s, nowhere, sizeof(struct sockaddr_in)));
	say("sendto", sendto(s, "x", 1, 0, nowhere, sizeof(struct sockaddr_in)));
	msg = (struct msghdr){.msg_name = nowhere, .msg_namelen = sizeof(struct sockaddr_in), .msg_iov = &iov, .msg_iovlen = 1};
	say("sendmsg", sendmsg(s, &msg, 0));
	say("exec", execve(nowhere, nowhere, nowhere));
	return 0;
}

int main(int argc, char **argv)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd = dev < 0 ? -1 : ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC);
	pthread_t t;

	if (argc > 1 && is(argv[1], "none"))
		return none();
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
