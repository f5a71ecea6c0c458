package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// programRows are programs from start to end.
func programRows() []row {
	return []row{
		program("build", "make -j of 120 C files", 5, []bound{{"notify", ratioAtMost, 1.05}}, []string{"make", "gcc"}, prepareBuild,
			func(b *bench) []string {
				return []string{"make", "-s", "-B", "-C", b.path("cbuild"), "-j", strconv.Itoa(runtime.NumCPU())}
			}),
		program("go-build", "go build of a small program, standard library cached", 3, nil, []string{"go"}, prepareGoBuild,
			func(b *bench) []string {
				return []string{"sh", "-c", "cd " + b.path("gobuild") + " && date +'package main; const built = \"%N\"' > built.go && GOFLAGS=-mod=mod CGO_ENABLED=0 go build -o prog ."}
			}),
		program("git", "clone of a repository of 400 files, and 20 times status", 5, nil, []string{"git"}, prepareGit,
			func(b *bench) []string {
				return []string{"sh", "-c", "rm -rf clone && git clone -q repo clone && cd clone && for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do git status --short; done"}
			}),
		program("shell", "a shell loop of a thousand commands", 5, nil, nil, nil,
			func(b *bench) []string {
				return []string{"sh", "-c", "i=0; while [ $i -lt " + strconv.Itoa(b.count(1000)) + " ]; do " + b.path("true") + "; i=$((i+1)); done"}
			}),
		program("python", "import of 30 modules of Python's library", 0, nil, []string{"python3"}, nil,
			func(b *bench) []string {
				return []string{"python3", "-c", "import argparse, ast, asyncio, base64, collections, concurrent.futures, configparser, csv, datetime, decimal, difflib, " +
					"email.message, glob, hashlib, html.parser, http.server, inspect, json, logging.config, multiprocessing, pathlib, pickle, random, ssl, " +
					"statistics, subprocess, tarfile, unittest, urllib.request, xml.dom.minidom"}
			}),
		program("node", "start and end of node", 0, nil, []string{"node"}, nil, fixed("node", "-e", "0")),
		program("java", "start and end of java", 0, nil, []string{"java"}, nil, fixed("java", "-version")),
		program("curl", "100 times curl from a server on loopback", 5, nil, []string{"curl"}, prepareWeb,
			func(b *bench) []string {
				return []string{"sh", "-c", "i=0; while [ $i -lt " + strconv.Itoa(b.count(100)) + " ]; do curl -sf -o /dev/null $BENCH_URL || exit 1; i=$((i+1)); done"}
			}),
		program("apt", "apt-get update from a repository on disk", 5, nil, []string{"apt-get"}, prepareApt,
			func(b *bench) []string {
				d := b.path("apt")
				return []string{"apt-get", "-qq", "-o", "Dir::Etc::SourceList=" + d + "/sources.list", "-o", "Dir::Etc::SourceParts=-", "-o", "Dir::State=" + d + "/state",
					"-o", "Dir::Cache=" + d + "/cache", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Languages=none", "update"}
			}),
	}
}

func fixed(argv ...string) func(*bench) []string { return func(*bench) []string { return argv } }

// program is a row that runs one command, prepared once.
func program(name, what string, turns int, bounds []bound, needs []string, prepare func(*bench) error, argv func(*bench) []string) row {
	return row{
		name: name, group: groupPrograms, what: what, unit: "ms", variants: append(slices.Clone(ways), "floor"), turns: turns, bounds: bounds, needs: needs,
		measure: func(b *bench, v variant) (float64, error) {
			if prepare != nil {
				if err := b.atMostOnce(name, func() error { return prepare(b) }); err != nil {
					return 0, err
				}
			}
			took, err := b.time(v, argv(b)...)
			return took * 1000, err
		},
	}
}

func prepareBuild(b *bench) error {
	dir := b.path("cbuild")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var objects []string
	for i := range b.count(120) {
		var src strings.Builder
		src.WriteString("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n")
		for f := range 12 {
			fmt.Fprintf(&src, "int f%d_%d(const char *s, int n)\n{\n\tchar b[64];\n\tint x = %d;\n\n\tfor (int i = 0; i < n; i++)\n"+
				"\t\tx = x * 31 + s[i %% %d];\n\tsnprintf(b, sizeof b, \"%%d-%%s\", x, s);\n\treturn (int)strlen(b) + x;\n}\n", i, f, i*f, f+1)
		}
		if i == 0 {
			src.WriteString("int main(void) { return f0_0(\"x\", 1) == 0; }\n")
		}
		name := fmt.Sprintf("f%d", i)
		if err := os.WriteFile(filepath.Join(dir, name+".c"), []byte(src.String()), 0o644); err != nil {
			return err
		}
		objects = append(objects, name+".o")
	}
	rules := "prog: " + strings.Join(objects, " ") + "\n\t$(CC) -o $@ $^\n%.o: %.c\n\t$(CC) -O1 -c -o $@ $<\n"
	return os.WriteFile(filepath.Join(dir, "Makefile"), []byte(rules), 0o644)
}

func prepareGoBuild(b *bench) error {
	dir := b.path("gobuild")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	const text = `package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
)

func main() {
	if len(os.Args) > 1 {
		fmt.Println(http.ListenAndServe(os.Args[1], nil))
	}
	_ = json.NewEncoder(os.Stdout).Encode(built)
}
`
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(text), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module built\n\ngo 1.26\n"), 0o644)
}

func prepareGit(b *bench) error {
	dir := b.path("repo")
	for i := range 400 {
		name := filepath.Join(dir, fmt.Sprintf("d%d/e%d", i%20, i%7), fmt.Sprintf("file%d.txt", i))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(strings.Repeat(fmt.Sprintf("line of file %d\n", i), 50)), 0o644); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"init", "-q", dir},
		{"-C", dir, "add", "."},
		{"-C", dir, "-c", "user.name=bench", "-c", "user.email=bench@example.test", "commit", "-q", "-m", "files"},
	} {
		if _, err := b.output(append([]string{"git"}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

// prepareWeb serves one page for the life of this program.
func prepareWeb(b *bench) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	page := []byte(strings.Repeat("a page\n", 100))
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(page) }),
		ReadHeaderTimeout: time.Minute,
	}
	go func() { _ = server.Serve(l) }()
	go func() { <-b.ctx.Done(); server.Close() }()
	return os.Setenv("BENCH_URL", "http://"+l.Addr().String()+"/")
}

func prepareApt(b *bench) error {
	d := b.path("apt")
	for _, name := range []string{"repo", "state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(d, name), 0o755); err != nil {
			return err
		}
	}
	var list strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&list, "Package: p%d\nVersion: 1.%d\nArchitecture: all\nMaintainer: Nobody <nobody@example.test>\nFilename: ./p%d.deb\nSize: 1\n"+
			"Description: package %d\n\n", i, i, i, i)
	}
	if err := os.WriteFile(filepath.Join(d, "repo/Packages"), []byte(list.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d, "sources.list"), []byte("deb [trusted=yes] file:"+d+"/repo ./\n"), 0o644)
}
