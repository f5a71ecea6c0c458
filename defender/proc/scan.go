package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Started is one process at one time: a number alone comes back.
type Started struct {
	PID  int
	Time uint64 // of its start, in ticks since boot
}

// Stat is what a scan needs of /proc/PID/stat.
type Stat struct {
	Started
	Parent int
	Kernel bool // a thread of the kernel
}

// ReadStat reads it.
func ReadStat(pid int) (Stat, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Stat{}, err
	}
	// pid (comm) state ppid …: comm may hold anything but ends at the last ")".
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(f) < 20 {
		return Stat{}, fmt.Errorf("reading /proc/%d/stat: %d fields", pid, len(f))
	}
	st := Stat{Started: Started{PID: pid}}
	const kthread = 0x00200000 // PF_KTHREAD
	flags, _ := strconv.ParseUint(f[6], 10, 64)
	st.Kernel = flags&kthread != 0
	if st.Parent, err = strconv.Atoi(f[1]); err == nil {
		st.Time, err = strconv.ParseUint(f[19], 10, 64)
	}
	return st, err
}

// Scan returns every process that /proc shows.
func Scan() (map[int]Stat, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	all := make(map[int]Stat)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if st, err := ReadStat(pid); err == nil {
			all[pid] = st
		}
	}
	return all, nil
}

// Below reports whether process pid descends from ancestor.
func Below(all map[int]Stat, pid, ancestor int) bool {
	for range len(all) {
		st, ok := all[pid]
		if !ok {
			return false
		}
		if st.Parent == ancestor {
			return true
		}
		pid = st.Parent
	}
	return false
}
