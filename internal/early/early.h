// What the early processes and the Go program share; see early.go.

#ifndef APPDEFENDER_EARLY_H
#define APPDEFENDER_EARLY_H

#include <stdint.h>

#define EARLY_INTERRUPT 63 // ends a blocking call of one of our threads
#define EARLY_SLOTS 4096
#define EARLY_SLOT_SIZE 128 // struct seccomp_notif is 80 bytes; the kernel may grow it
#define EARLY_PROG_MAX 4096 // BPF_MAXINSNS
#define EARLY_PATH_MAX 4096
#define EARLY_PROBES 2 // one for each way to supervise

enum { ORDER_WAIT, ORDER_GO, ORDER_QUIT };

// The states of a stage or probe, in order.
enum {
	STATE_BORN,
	STATE_WAITING,   // for its order: it may be read and traced
	STATE_LISTENING, // the filter is installed, .listener is open in the shared table
	STATE_UNSHARED,  // the stage has left the shared descriptor table
	STATE_FAILED,    // .failed_call and .failed_errno say what
	STATE_DONE,      // the probe came to its end
};

// One forked child that waits for orders.
struct early_child {
	int32_t pid;
	uint32_t order; // futex: written by the supervisor
	uint32_t state; // futex: written by the child
	int32_t listener;
	int32_t failed_errno;
	int32_t new_privs_off; // no_new_privs had to be set
	int32_t kept_ptrace;   // CAP_SYS_PTRACE could not be taken from the bounding set
	int32_t killable;      // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV was accepted
	int32_t probe[4];      // results of the probe's calls
	char failed_call[32];
};

struct early {
	int32_t guardian;      // pid, 0 if there is none
	int32_t guardian_sock; // the supervisor's end of the line to the guardian
	int32_t watcher;       // pid, 0 if there is none
	int32_t watcher_sock;  // the supervisor's end of the line to the watcher
	int32_t supervisor;
	int32_t group; // the process group we were started in
	uint32_t closed_stdio; // bit n: descriptor n was closed when we were started
	struct early_child stage, probe[EARLY_PROBES];

	// Orders for the stage.
	int32_t argv_index; // where the target's argv begins in ours
	int32_t keep_ptrace;
	int32_t die_with_supervisor;
	int32_t no_tcp_connect; // all TCP connects are performed for the target
	uint32_t traced;        // the filter stops calls for a tracer: there is no listener
	uint32_t prog_len; // in instructions
	char path[EARLY_PATH_MAX];

	// Orders for the guardian.
	uint32_t on_failure_open;
	uint32_t forwards; // the supervisor passes signals on
	uint32_t started;  // the target is, or is about to be, running
	uint32_t finished; // the supervisor ends in order
	int32_t target;    // pid
	uint32_t ended;    // the target has, with
	int32_t ended_status;
	uint32_t stopped;  // 1: job control has stopped the target; 2: the guardian stops
	uint32_t took_over;

	uint64_t prog[EARLY_PROG_MAX]; // struct sock_filter
	// One struct seccomp_notif a receiver, and behind it struct early_result. The kernel writes a notification
	// here and nowhere else, so that the guardian can answer what a killed
	// supervisor had taken and not yet answered.
	uint8_t slots[EARLY_SLOTS][EARLY_SLOT_SIZE];
};

// What a receiver has done for the target and not yet told it.
struct early_result {
	uint32_t performed;
	int32_t error; // negative
	int64_t value;
};

#define EARLY_RESULT_AT (EARLY_SLOT_SIZE - 16)

// The page, or NULL in a program that was not started with "run".
extern struct early *early_page;

// Keeps signals that Go does not catch from ending us, once Go has started.
void early_catch_signals(void);

// Overwrites this process's copy of the values of our own variables.
void early_wipe_environment(void);

#endif
