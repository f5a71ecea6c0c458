// eof N: closes a connection N times; its other end must see the end at once.
#include "victim.h"

int main(int argc, char **argv)
{
	struct sockaddr_in a = in4("127.0.0.1", 0);
	socklen_t len = sizeof a;
	int n = argc > 1 ? atoi(argv[1]) : 1000, late = 0, l = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(l, (void *)&a, sizeof a) || listen(l, 64) || getsockname(l, (void *)&a, &len))
		die("listen");
	for (int i = 0; i < n; i++) {
		int s = socket(AF_INET, SOCK_STREAM, 0), c;
		char b;

		if (connect(s, (void *)&a, sizeof a) || (c = accept(l, NULL, NULL)) < 0)
			die("connect");
		close(s);
		late += recv(c, &b, 1, MSG_DONTWAIT) != 0;
		close(c);
	}
	printf("late %d\n", late);
	return late != 0;
}
