// fault HOW: one thread, or a child, makes a call whose arguments or file do not
// come for as long as the target likes; whoever reads them waits. Others must
// not: another thread starts a program. "unsupported" where the kernel does not
// let us.
//
//	page, path, message   userfaultfd(2): the page of an address, a path, a message
//	fuse-page, fuse-file  fuse(4): a mapped file, a program, that is not served
//	fifo                  a program loader is given a pipe
//	lease                 a program on which another process has a lease
//	fanotify              a program whose opens a listener of ours is asked about
//	leased-again          a program that is leased and let go all the time, with arguments
//	silent                a process whose own arguments nobody can read; it stays
//	many                  two hundred threads as by page, and then none
//	most                  as many, and what the next call says meanwhile
//	none                  calls whose addresses lie where nobody may read
#include "victim.h"
#include <linux/fuse.h>
#include <linux/userfaultfd.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

static void *page;
static const char *how;

static void unsupported(void)
{
	puts("unsupported");
	fflush(stdout);
	_exit(0);
}

static void *stuck(void *unused)
{
	struct iovec iov = {"x", 1};
	struct msghdr msg = {.msg_name = page, .msg_namelen = sizeof(struct sockaddr_in), .msg_iov = &iov, .msg_iovlen = 1};

	if (is(how, "path"))
		execve(page, (char *[]){"x", NULL}, environ);
	else if (is(how, "message"))
		sendmsg(socket(AF_INET, SOCK_DGRAM, 0), &msg, 0);
	else
		connect(socket(AF_INET, SOCK_STREAM, 0), page, sizeof(struct sockaddr_in));
	return unused;
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

// A page whose fault nobody serves, until the returned descriptor is closed.
static int hold(void *at)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd = dev < 0 ? -1 : ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC);

	reg.range.start = (uintptr_t)at;
	reg.range.len = 4096;
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg))
		unsupported();
	return fd;
}

// Has the kernel believe that our arguments lie in nothing.
static void silence(void *at)
{
	struct prctl_mm_map m = {.exe_fd = -1};
	unsigned long f[52] = {0};
	char text[1024] = "", *p;
	int fd = open("/proc/self/stat", O_RDONLY);

	if (read(fd, text, sizeof text - 1) < 0 || !(p = strrchr(text, ')')))
		die("stat");
	p = strtok(p + 2, " ");
	for (int i = 3; p && i < 52; i++, p = strtok(NULL, " "))
		f[i] = strtoul(p, NULL, 10);
	m.start_code = f[26], m.end_code = f[27], m.start_stack = f[28];
	m.start_data = f[45], m.end_data = f[46], m.start_brk = f[47], m.brk = (uintptr_t)sbrk(0);
	m.arg_start = (uintptr_t)at, m.arg_end = m.arg_start, m.env_start = f[50], m.env_end = f[51];
	if (prctl(PR_SET_MM, PR_SET_MM_MAP, &m, sizeof m, 0))
		unsupported();
}

// A file system with one program, of which everything is told but what it holds.
static void serve(int fd)
{
	static union {
		char all[1 << 18];
		struct fuse_in_header head;
	} in;
	struct {
		struct fuse_out_header head;
		union {
			struct fuse_init_out init;
			struct fuse_entry_out entry;
			struct fuse_attr_out attr;
			struct fuse_open_out open;
		};
	} out;
	struct fuse_attr file = {.ino = 2, .size = 4096, .blocks = 8, .mode = S_IFREG | 0755, .nlink = 1, .blksize = 4096};
	struct fuse_attr dir = {.ino = 1, .mode = S_IFDIR | 0755, .nlink = 2, .blksize = 4096};
	while (read(fd, &in, sizeof in) > 0) {
		size_t size = 0;

		memset(&out, 0, sizeof out);
		switch (in.head.opcode) {
		case FUSE_INIT:
			out.init = (struct fuse_init_out){.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 4096};
			size = sizeof out.init;
			break;
		case FUSE_LOOKUP:
			out.entry = (struct fuse_entry_out){.nodeid = 2, .entry_valid = 100, .attr_valid = 100, .attr = file};
			size = sizeof out.entry;
			break;
		case FUSE_GETATTR:
			out.attr = (struct fuse_attr_out){.attr_valid = 100, .attr = in.head.nodeid == 1 ? dir : file};
			size = sizeof out.attr;
			break;
		case FUSE_OPEN:
			size = sizeof out.open;
			break;
		case FUSE_FORGET:
		case FUSE_BATCH_FORGET:
		case FUSE_READ: // never
		case FUSE_INTERRUPT:
			continue;
		case FUSE_FLUSH:
		case FUSE_RELEASE:
		case FUSE_ACCESS:
			break;
		default:
			out.head.error = -ENOSYS;
		}
		out.head.unique = in.head.unique;
		out.head.len = sizeof out.head + size;
		if (write(fd, &out, out.head.len) < 0)
			break;
	}
}

static char file[PATH_MAX];

// Its server is a process of its own: once that has died nobody waits for it.
static void mount_fuse(void)
{
	char options[64], dir[] = "victim-fuse-XXXXXX";
	int fuse;

	if ((fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC)) < 0 || unshare(CLONE_NEWNS) || !mkdtemp(dir))
		unsupported();
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", fuse);
	if (mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("victim", dir, "fuse", MS_NOSUID | MS_NODEV, options)) {
		rmdir(dir);
		unsupported();
	}
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		serve(fuse);
		_exit(0);
	}
	close(fuse);
	snprintf(file, sizeof file, "%s/program", dir);
}

static void *other(void *unused)
{
	spawn_true();
	return unused;
}

// Starts a program in a child and does not wait for it.
static void child(const char *program, const char *argument)
{
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		execl(program, program, argument, NULL);
		_exit(1);
	}
}

int main(int argc, char **argv)
{
	pthread_t t, threads[200];
	int fd;

	how = argc > 1 ? argv[1] : "page";
	if (is(how, "none"))
		return none();
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (is(how, "fuse-page") || is(how, "fuse-file"))
		mount_fuse();
	if (is(how, "fuse-page")) {
		if ((fd = open(file, O_RDONLY)) < 0 || (page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0)) == MAP_FAILED)
			die(file);
		close(fd); // while somebody answers that
		pthread_create(&t, NULL, stuck, NULL);
	} else if (is(how, "fuse-file")) {
		child(file, NULL);
	} else if (is(how, "fifo")) { // argv[2] is the loader
		if (mkfifo("fifo", 0755))
			die("mkfifo");
		child(argv[2], "./fifo");
	} else if (is(how, "lease")) { // argv[2] is a program of ours
		signal(SIGIO, SIG_IGN);
		if ((fd = open(argv[2], O_RDONLY)) < 0 || fcntl(fd, F_SETLEASE, F_WRLCK))
			unsupported();
		child(argv[2], NULL);
	} else if (is(how, "fanotify")) { // argv[2] is a program of ours
		fd = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY);
		if (fd < 0 || fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, argv[2]))
			unsupported();
		child(argv[2], NULL);
	} else if (is(how, "leased-again")) { // argv[2] is a program; whoever looks at it finds it leased, over and over
		int status, once = 0;
		pid_t pid;

		signal(SIGIO, SIG_IGN);
		if ((fd = open(argv[2], O_RDONLY)) < 0)
			unsupported();
		if ((pid = fork()) == 0) {
			close(fd);
			execv(argv[2], argv + 3);
			say("exec", -1);
			_exit(1);
		}
		while (waitpid(pid, &status, WNOHANG) == 0) {
			once |= fcntl(fd, F_SETLEASE, F_WRLCK) == 0;
			fcntl(fd, F_SETLEASE, F_UNLCK);
		}
		if (!once)
			unsupported();
		return 0;
	} else if (is(how, "silent")) {
		silence(page);
		puts("silent");
		fflush(stdout);
		for (;;)
			pause();
	} else if (is(how, "many") || is(how, "most")) {
		fd = hold(page);
		for (int i = 0; i < 200; i++)
			pthread_create(&threads[i], NULL, stuck, NULL);
		if (is(how, "many"))
			usleep(500000);
		else // until as many wait as may
			while (connect(socket(AF_INET, SOCK_DGRAM, 0), (void *)&(struct sockaddr_in){.sin_family = AF_INET}, sizeof(struct sockaddr_in)) == 0)
				usleep(10000);
		if (is(how, "most"))
			say("connect", -1);
		close(fd);
		for (int i = 0; i < 200; i++)
			pthread_join(threads[i], NULL);
	} else {
		hold(page);
		pthread_create(&t, NULL, stuck, NULL);
	}
	usleep(200000);
	pthread_create(&t, NULL, other, NULL);
	pthread_join(t, NULL);
	_exit(0);
}
