package supervisor

var olderChanges map[int32]change
