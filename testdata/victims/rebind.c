// rebind N: sends from a new socket, closes it, and takes its port again, N
// times. Nobody else may hold a socket longer than its owner.
#include "victim.h"

int main(int argc, char **argv)
{
	struct sockaddr_in sink = in4("127.0.0.1", 0), a;
	socklen_t len = sizeof sink;
	int n = argc > 1 ? atoi(argv[1]) : 1000, busy = 0, r = socket(AF_INET, SOCK_DGRAM, 0);

	if (bind(r, (void *)&sink, sizeof sink) || getsockname(r, (void *)&sink, &len))
		die("bind");
	for (int i = 0; i < n; i++) {
		int s = socket(AF_INET, SOCK_DGRAM, 0), again = socket(AF_INET, SOCK_DGRAM, 0);

		if (connect(s, (void *)&sink, sizeof sink) || sendto(s, "x", 1, 0, (void *)&sink, sizeof sink) != 1)
			die("send");
		len = sizeof a;
		getsockname(s, (void *)&a, &len);
		close(s);
		busy += bind(again, (void *)&a, sizeof a) < 0;
		close(again);
	}
	printf("busy %d\n", busy);
	return busy != 0;
}
