// Package schemas holds what embedding writes against what the platforms say
// that they take: every golden definition of inject/testdata/corpus, key by
// key. It has tests only, and a module of its own.
package schemas
