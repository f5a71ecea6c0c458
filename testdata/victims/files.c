// files WAY DIR: changes what is in DIR, in one of many ways. DIR has the file
// "secret", the empty folder "folder" and the hard link "hard" of ./hard.
#include "victim.h"

#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif
#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE (1 << 1)
#endif

static const char *dir;

static char *in(const char *name)
{
	char *s;

	if (asprintf(&s, "%s/%s", dir, name) < 0)
		die("asprintf");
	return s;
}

static const char *mine(const char *name)
{
	int fd = open(name, O_WRONLY | O_CREAT, 0644);

	if (fd < 0)
		die(name);
	close(fd);
	return name;
}

static int reading(const char *path)
{
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		die(path);
	return fd;
}

static char *via(const char *format, int n)
{
	char *s;

	if (asprintf(&s, format, n) < 0)
		die("asprintf");
	return s;
}

static long attempt(const char *way)
{
	char *secret = in("secret"), *new = in("new");
	int fd;

	if (is(way, "write"))
		return open(secret, O_WRONLY);
	if (is(way, "read-write"))
		return open(secret, O_RDWR);
	if (is(way, "append"))
		return open(secret, O_WRONLY | O_APPEND);
	if (is(way, "mode-3")) // neither reads nor writes, and asks for both rights
		return open(secret, O_ACCMODE);
	if (is(way, "truncate-read"))
		return open(secret, O_RDONLY | O_TRUNC);
	if (is(way, "open")) // not openat, as the C library has it
#ifdef SYS_open
		return syscall(SYS_open, secret, 0xffffffff00000000UL | O_WRONLY, 0);
#else
		return open(secret, O_WRONLY);
#endif
	if (is(way, "creat"))
		return creat(secret, 0644);
	if (is(way, "openat2")) {
		struct open_how how = {.flags = O_WRONLY};
		return syscall(SYS_openat2, AT_FDCWD, secret, &how, sizeof how);
	}
	if (is(way, "openat2-dirfd")) {
		struct open_how how = {.flags = O_WRONLY, .resolve = RESOLVE_BENEATH};
		return syscall(SYS_openat2, reading(dir), "secret", &how, sizeof how);
	}
	if (is(way, "dirfd"))
		return openat(reading(dir), "secret", O_WRONLY);
	if (is(way, "cwd")) {
		if (chdir(dir) < 0)
			die("chdir");
		return open("secret", O_WRONLY);
	}
	if (is(way, "dots"))
		return open(in("folder/../secret"), O_WRONLY);
	if (is(way, "symlink")) {
		if (symlink(secret, "link") < 0)
			die("symlink");
		return open("link", O_WRONLY);
	}
	if (is(way, "symlink-folder")) {
		if (symlink(dir, "link") < 0)
			die("symlink");
		return open("link/secret", O_WRONLY);
	}
	if (is(way, "proc-fd"))
		return open(via("/proc/self/fd/%d", reading(secret)), O_WRONLY);
	if (is(way, "dev-fd-path"))
		return open(via("/dev/fd/%d", open(secret, O_PATH)), O_RDWR);
	if (is(way, "proc-fd-folder"))
		return open(via("/proc/thread-self/fd/%d/secret", reading(dir)), O_RDWR);
	if (is(way, "proc-root"))
		return open(via("/proc/%d/root", getpid()), O_PATH) < 0 ? -1 : openat(open("/proc/self/root", O_PATH), secret + 1, O_WRONLY);
	if (is(way, "handle")) {
		struct {
			struct file_handle h;
			char bytes[128];
		} h = {.h.handle_bytes = 128};
		int mount;

		if (name_to_handle_at(AT_FDCWD, secret, &h.h, &mount, 0) < 0)
			die("name_to_handle_at");
		return open_by_handle_at(reading("."), &h.h, O_WRONLY);
	}
	if (is(way, "create"))
		return open(new, O_WRONLY | O_CREAT, 0644);
	if (is(way, "create-read"))
		return open(new, O_RDONLY | O_CREAT, 0644);
	if (is(way, "create-new"))
		return open(new, O_WRONLY | O_CREAT | O_EXCL, 0644);
	if (is(way, "create-nofollow"))
		return open(new, O_WRONLY | O_CREAT | O_NOFOLLOW, 0644);
	if (is(way, "dangling")) { // a link to what is not there yet
		if (symlink(new, "link") < 0)
			die("symlink");
		return open("link", O_WRONLY | O_CREAT, 0644);
	}
	if (is(way, "dangling-twice")) {
		if (symlink("link2", "link") < 0 || symlink(new, "link2") < 0)
			die("symlink");
		return open("link", O_WRONLY | O_CREAT, 0644);
	}
	if (is(way, "dangling-relative")) {
		char *target = NULL, cwd[PATH_MAX], *p;

		if (!getcwd(cwd, sizeof cwd))
			die("getcwd");
		target = strdup("");
		for (p = cwd; *p; p++)
			if (*p == '/' && asprintf(&target, "../%s", target) < 0)
				die("asprintf");
		if (asprintf(&target, "%s%s", target, new + 1) < 0 || symlink(target, "link") < 0)
			die("symlink");
		return open("link", O_WRONLY | O_CREAT, 0644);
	}
	if (is(way, "tmpfile-link")) { // a file that gets its name later
		fd = open("/tmp", O_TMPFILE | O_RDWR, 0644);
		if (fd < 0)
			die("O_TMPFILE");
		return linkat(AT_FDCWD, via("/proc/self/fd/%d", fd), AT_FDCWD, new, AT_SYMLINK_FOLLOW);
	}
	if (is(way, "tmpfile-link-empty")) {
		fd = open("/tmp", O_TMPFILE | O_RDWR, 0644);
		return linkat(fd, "", AT_FDCWD, new, AT_EMPTY_PATH);
	}
	if (is(way, "tmpfile-late")) { // written when it has its name
		static const char key[] = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7\n";

		fd = open(dir, O_TMPFILE | O_RDWR, 0644);
		if (linkat(AT_FDCWD, via("/proc/self/fd/%d", fd), AT_FDCWD, new, AT_SYMLINK_FOLLOW) < 0)
			die("linkat");
		usleep(300000);
		return write(fd, key, sizeof key - 1);
	}
	if (is(way, "truncate"))
		return truncate(secret, 0);
	if (is(way, "rename-away"))
		return rename(secret, "away");
	if (is(way, "rename-over"))
		return rename(mine("mine"), secret);
	if (is(way, "rename-in"))
		return renameat(AT_FDCWD, mine("mine"), reading(dir), "new");
	if (is(way, "rename-folder")) // and all that is in it
		return rename(dir, "away");
	if (is(way, "rename-exchange"))
		return renameat2(AT_FDCWD, mine("mine"), AT_FDCWD, secret, RENAME_EXCHANGE);
	if (is(way, "link-out"))
		return link(secret, "out");
	if (is(way, "link-out-fd"))
		return linkat(reading(secret), "", AT_FDCWD, "out", AT_EMPTY_PATH);
	if (is(way, "link-in"))
		return link(mine("mine"), new);
	if (is(way, "unlink"))
		return unlink(secret);
	if (is(way, "unlinkat"))
		return unlinkat(reading(dir), "secret", 0);
	if (is(way, "rmdir"))
		return rmdir(in("folder"));
	if (is(way, "rmdir-slash"))
		return rmdir(in("folder/"));
	if (is(way, "unlinkat-dir"))
		return unlinkat(reading(dir), "folder", AT_REMOVEDIR);
	if (is(way, "mkdir"))
		return mkdir(new, 0755);
	if (is(way, "mkdir-slash"))
		return mkdir(in("new/"), 0755);
	if (is(way, "mkdirat"))
		return mkdirat(reading(dir), "new", 0755);
	if (is(way, "symlink-in"))
		return symlink("/etc/passwd", new);
	if (is(way, "mknod"))
		return mknod(new, S_IFREG | 0644, 0);
	if (is(way, "fifo"))
		return mkfifo(new, 0644);
	if (is(way, "socket")) {
		struct sockaddr_un u = {.sun_family = AF_UNIX};

		if (chdir(dir) < 0)
			die("chdir");
		strcpy(u.sun_path, "new");
		return bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&u, sizeof u);
	}
	if (is(way, "chmod"))
		return chmod(secret, 0777);
	if (is(way, "fchmod")) // of a descriptor that only reads
		return fchmod(reading(secret), 0777);
	if (is(way, "fchmodat"))
		return fchmodat(reading(dir), "secret", 0777, 0);
	if (is(way, "fchmodat2"))
		return syscall(SYS_fchmodat2, open(secret, O_PATH), "", 0777, AT_EMPTY_PATH);
	if (is(way, "chmod-folder"))
		return chmod(dir, 0777);
	if (is(way, "chown"))
		return chown(secret, getuid(), getgid());
	if (is(way, "lchown"))
		return lchown(secret, getuid(), getgid());
	if (is(way, "fchown"))
		return fchown(reading(secret), getuid(), getgid());
	if (is(way, "fchownat-empty"))
		return fchownat(open(secret, O_PATH), "", getuid(), getgid(), AT_EMPTY_PATH);
	if (is(way, "setxattr"))
		return setxattr(secret, "user.x", "y", 1, 0);
	if (is(way, "fsetxattr"))
		return fsetxattr(reading(secret), "user.x", "y", 1, 0);
	if (is(way, "lsetxattr"))
		return lsetxattr(secret, "trusted.x", "y", 1, 0);
	if (is(way, "mount")) {
		if (unshare(CLONE_NEWNS) < 0 || mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
			die("unshare");
		return mount("tmpfs", dir, "tmpfs", 0, NULL);
	}
	if (is(way, "chroot")) {
		if (chroot(dir) < 0 || chdir("/") < 0)
			die("chroot");
		return open("/secret", O_WRONLY);
	}
	// What is no change to a file of the folder.
	if (is(way, "read"))
		return open(secret, O_RDONLY);
	if (is(way, "path"))
		return open(secret, O_PATH | O_WRONLY);
	if (is(way, "missing"))
		return open(new, O_WRONLY);
	if (is(way, "missing-folder"))
		return open(in("no/new"), O_WRONLY | O_CREAT, 0644);
	if (is(way, "exists"))
		return open(secret, O_WRONLY | O_CREAT | O_EXCL, 0644);
	if (is(way, "mkdir-exists"))
		return mkdir(dir, 0755);
	if (is(way, "folder"))
		return open(dir, O_RDWR);
	if (is(way, "below-file"))
		return open(in("secret/x"), O_WRONLY | O_CREAT, 0644);
	if (is(way, "unlink-missing"))
		return unlink(new);
	if (is(way, "bad-address"))
		return open((void *)8, O_WRONLY);
	if (is(way, "empty"))
		return open("", O_WRONLY | O_CREAT, 0644);
	if (is(way, "loop")) {
		if (symlink("loop", "loop") < 0)
			die("symlink");
		return open("loop", O_WRONLY | O_CREAT, 0644);
	}
	if (is(way, "nofollow")) {
		if (symlink(secret, "link") < 0)
			die("symlink");
		return open("link", O_WRONLY | O_NOFOLLOW);
	}
	if (is(way, "null"))
		return open("/dev/null", O_RDWR);
	if (is(way, "stdout"))
		return open("/dev/stdout", O_WRONLY);
	if (is(way, "pipe")) {
		int fds[2];

		if (pipe(fds) < 0)
			die("pipe");
		return open(via("/proc/self/fd/%d", fds[1]), O_WRONLY);
	}
	if (is(way, "substitution")) { // as bash's >(command)
		int fds[2];

		if (pipe(fds) < 0)
			die("pipe");
		return open(via("/dev/fd/%d", dup2(fds[1], 963)), O_WRONLY);
	}
	if (is(way, "tmpfile"))
		return open("/tmp", O_TMPFILE | O_RDWR, 0600);
	if (is(way, "memfd")) {
		fd = memfd_create("x", 0);
		return open(via("/proc/self/fd/%d", fd), O_RDWR);
	}
	if (is(way, "deleted")) {
		fd = open(mine("mine"), O_RDONLY);
		unlink("mine");
		return open(via("/proc/self/fd/%d", fd), O_RDWR);
	}
	if (is(way, "mine"))
		return open(mine("mine"), O_RDWR);
	if (is(way, "proc"))
		return open("/proc/self/comm", O_WRONLY);
	die(way);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		die("files WAY DIR");
	dir = argv[2];
	umask(0);
	return say(argv[1], attempt(argv[1])) < 0;
}
