// netrace HOW SECONDS ALLOWED DENIED PORT: reaches ALLOWED again and again while
// another thread makes it DENIED and back. No connection and no datagram may
// arrive at DENIED.
//
//	connect, sendto, sendmsg, sendmmsg   the thread rewrites the address
//	name                                 it rewrites the pointer to the address in struct msghdr
//	swap-unix                            it swaps the descriptor, between a unix socket and a TCP socket
//	swap-stream                          between a connected TCP socket and a UDP socket
//	swap-datagrams                       between two UDP sockets, one of them connected to DENIED's neighbour
//	length                               it rewrites the length of the address, of a message of many
//	vector                               it rewrites where the payload lies, and the address
//
// These get through, which is a limit, and told:
//
//	unix-send, unix-sendmsg, unix-connect   it swaps a Unix datagram socket and a UDP socket
//	stream-sendmsg                          a connected TCP socket and a UDP socket
#include "victim.h"

static volatile int stop;
static struct sockaddr_in allowed, denied;
static struct sockaddr_in current;
static struct msghdr msg;
static char payload[64] = "race";
static volatile struct iovec iov = {payload, 5};
static volatile struct mmsghdr many[2];
static int fd, one, two, swapped;

static void *rewrite(void *how)
{
	while (!stop) {
		if (is(how, "name")) {
			*(void *volatile *)&msg.msg_name = &denied;
			for (volatile int i = 0; i < 40; i++)
				;
			*(void *volatile *)&msg.msg_name = &allowed;
		} else if (is(how, "length")) {
			many[1].msg_hdr.msg_namelen = sizeof denied;
			many[1].msg_hdr.msg_name = &denied;
			for (volatile int i = 0; i < 40; i++)
				;
			many[1].msg_hdr.msg_namelen = 0;
			many[1].msg_hdr.msg_name = &allowed;
		} else if (is(how, "vector")) {
			iov.iov_len = 64;
			*(volatile uint32_t *)&current.sin_addr.s_addr = denied.sin_addr.s_addr;
			for (volatile int i = 0; i < 40; i++)
				;
			iov.iov_len = 1;
			*(volatile uint32_t *)&current.sin_addr.s_addr = allowed.sin_addr.s_addr;
		} else if (swapped) {
			dup2(one, fd);
			for (volatile int i = 0; i < 40; i++)
				;
			dup2(two, fd);
		} else {
			*(volatile uint32_t *)&current.sin_addr.s_addr = denied.sin_addr.s_addr;
			for (volatile int i = 0; i < 40; i++)
				;
			*(volatile uint32_t *)&current.sin_addr.s_addr = allowed.sin_addr.s_addr;
		}
		for (volatile int i = 0; i < 40; i++)
			;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	const char *how = argv[1];
	int ok = 0, refused = 0, other = 0, r = 0;
	struct linger hard = {1, 0};
	pthread_t t;
	double end;

	if (argc < 6)
		die("netrace HOW SECONDS ALLOWED DENIED PORT");
	end = now() + atof(argv[2]);
	allowed = current = in4(argv[3], atoi(argv[5]));
	denied = in4(argv[4], atoi(argv[5]));
	msg = (struct msghdr){.msg_name = &current, .msg_namelen = sizeof current, .msg_iov = (struct iovec *)&iov, .msg_iovlen = 1};
	many[0].msg_hdr = many[1].msg_hdr = msg;
	swapped = strchr(how, '-') != NULL;
	if (swapped) {
		if (is(how, "swap-unix")) {
			one = socket(AF_UNIX, SOCK_STREAM, 0);
			two = socket(AF_INET, SOCK_STREAM, 0);
		} else if (strncmp(how, "unix", 4) == 0) {
			one = socket(AF_UNIX, SOCK_DGRAM, 0);
			two = socket(AF_INET, SOCK_DGRAM, 0);
			msg.msg_name = &denied;
		} else if (is(how, "swap-datagrams")) {
			one = socket(AF_INET, SOCK_DGRAM, 0);
			if (connect(one, (void *)&allowed, sizeof allowed))
				die("connect");
			two = socket(AF_INET, SOCK_DGRAM, 0);
			msg.msg_name = &denied;
		} else {
			msg.msg_name = &denied;
			one = socket(AF_INET, SOCK_STREAM, 0);
			if (connect(one, (void *)&allowed, sizeof allowed))
				die("connect");
			two = socket(AF_INET, SOCK_DGRAM, 0);
		}
		fd = dup(one);
	}
	pthread_create(&t, NULL, rewrite, (void *)how);
	while (now() < end) {
		if (is(how, "connect")) {
			int s = socket(AF_INET, SOCK_STREAM, 0);

			setsockopt(s, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
			r = connect(s, (void *)&current, sizeof current);
			close(s);
		} else if (is(how, "swap-unix")) {
			r = connect(fd, (void *)&denied, sizeof denied);
		} else if (is(how, "unix-connect")) {
			r = connect(fd, (void *)&denied, sizeof denied);
			send(fd, payload, 5, MSG_DONTWAIT);
		} else if (is(how, "unix-sendmsg") || is(how, "stream-sendmsg") || is(how, "swap-datagrams")) {
			r = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
		} else if (swapped) {
			r = sendto(fd, payload, sizeof payload, MSG_DONTWAIT | MSG_NOSIGNAL, (void *)&denied, sizeof denied);
		} else {
			int s = socket(AF_INET, SOCK_DGRAM, 0);

			if (is(how, "sendto"))
				r = sendto(s, payload, sizeof payload, 0, (void *)&current, sizeof current);
			else if (is(how, "length"))
				r = sendmmsg(s, (struct mmsghdr *)many, 2, 0);
			else if (is(how, "sendmmsg")) {
				struct mmsghdr m[2] = {{.msg_hdr = msg}, {.msg_hdr = msg}};
				r = sendmmsg(s, m, 2, 0);
			} else
				r = sendmsg(s, &msg, 0);
			close(s);
		}
		if (r >= 0)
			ok++;
		else if (errno == EACCES)
			refused++;
		else
			other++;
	}
	stop = 1;
	pthread_join(t, NULL);
	printf("ok=%d refused=%d other=%d\n", ok, refused, other);
	return 0;
}
