// Package endtoend has tests of the programs together, as processes: a
// Console, Defenders that run real targets, a browser. It has no code of its
// own.
package endtoend
