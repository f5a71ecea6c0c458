package main

import "slices"

// The groups are the chapters of the table.
const (
	groupCalls    = "Calls"
	groupThreads  = "Calls by threads"
	groupFiles    = "Changes of files, monitored"
	groupCost     = "The Defender itself"
	groupPrograms = "Programs"
	groupServers  = "Servers"
	groupSmall    = "Small containers"
	groupNames    = "Names"
	groupJudge    = "Judge and Console"
)

func groupNamesInOrder() []string {
	return []string{
		groupCalls, groupThreads, groupFiles, groupCost, groupPrograms, groupServers, groupSmall, groupNames, groupJudge,
	}
}

// ways are the usual variants of a row.
var ways = []string{"bare", "notify", "ptrace", "strace"}

// rows are all measurements there are.
func rows() []row {
	return slices.Concat(callRows(), costRows(), programRows(), serverRows(), smallRows(), nameRows(), judgeRows())
}
