// status: what a program inherits and its parent may have spoilt.
#include "victim.h"

static const char *keys[] = {"Umask", "TracerPid", "Uid", "Gid", "Groups", "SigPnd", "ShdPnd", "SigBlk",
			     "SigIgn", "SigCgt", "Cpus_allowed_list", "Mems_allowed_list", NULL};

int main(void)
{
	char line[512];
	FILE *f = fopen("/proc/self/status", "r");
	int subreaper = 0;

	while (fgets(line, sizeof line, f))
		for (int i = 0; keys[i]; i++)
			// That it is traced is the one thing a tracer cannot hide.
			if (strncmp(line, keys[i], strlen(keys[i])) == 0 && !(getenv("TRACED") && is(keys[i], "TracerPid")))
				fputs(line, stdout);
	fclose(f);
	prctl(PR_GET_CHILD_SUBREAPER, &subreaper, 0, 0, 0);
	printf("nice %d\ndumpable %d\nsubreaper %d\ntimerslack %d\nkeepcaps %d\nsecurebits %d\n", getpriority(PRIO_PROCESS, 0),
	       prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), subreaper, prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0),
	       prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0), prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
	for (int r = 0; r < RLIMIT_NLIMITS; r++) {
		struct rlimit l;

		getrlimit(r, &l);
		printf("limit %d %llu %llu\n", r, (unsigned long long)l.rlim_cur, (unsigned long long)l.rlim_max);
	}
	return 0;
}
