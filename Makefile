# "make help" says what there is. Everything works in a fresh clone with Go and
# make: Debian packages that are missing are installed (as root) or named.

SHELL := /bin/sh
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo dev)
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# Clones of other users, as in CI, must build too; the version comes from above.
export GOFLAGS := $(GOFLAGS) -buildvcs=false
export CGO_ENABLED := 1

BUILD_PACKAGES := ca-certificates gcc libc6-dev pkg-config libseccomp-dev
DEMO_PACKAGES := wget
TEST_PACKAGES := wget busybox-static bind9-dnsutils strace
PLATFORM_PACKAGES := $(TEST_PACKAGES) podman buildah skopeo docker-compose runc netavark aardvark-dns catatonit debootstrap \
	qemu-system-x86 cpio xz-utils chromium \
	iproute2 musl-tools nodejs python3 curl knot-dnsutils ldnsutils bind9-host nscd default-jdk-headless \
	dash git make gdb python3-pytest python3-psutil python3-prctl \
	nginx redis-server redis-tools postgresql php-cli python3-venv openssh-client perl \
	lighttpd haproxy memcached apache2-bin apache2-utils

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

BENCH_PACKAGES := $(BUILD_PACKAGES) make strace tini dumb-init git curl python3-minimal nginx wrk redis-server \
	postgresql dnsperf dnsmasq-base unbound util-linux

STATIC := -trimpath -tags netgo,osusergo,urfave_cli_no_docs -ldflags '-s -w -linkmode external -extldflags -static -X main.version=$(VERSION)'
ARM64_PACKAGES := gcc-aarch64-linux-gnu libc6-dev-arm64-cross libseccomp-dev:arm64

.PHONY: build
build: ## bin/defender, bin/console and bin/defenderctl, static programs
	@scripts/packages $(BUILD_PACKAGES)
	go build $(STATIC) -o bin/defender ./cmd/defender
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/console ./cmd/defenderctl
	@if readelf -l bin/defender | grep -q INTERP; then \
		echo 'build: bin/defender is not static' >&2; rm bin/defender; exit 1; fi

.PHONY: build-arm64
build-arm64: ## the same for arm64 (Graviton, Ampere), in bin/arm64; from any Debian machine
	@scripts/packages $(BUILD_PACKAGES) $(ARM64_PACKAGES)
	GOARCH=arm64 CC=aarch64-linux-gnu-gcc PKG_CONFIG_LIBDIR=/usr/lib/aarch64-linux-gnu/pkgconfig \
		go build $(STATIC) -o bin/arm64/defender ./cmd/defender
	GOARCH=arm64 CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/arm64/ ./cmd/console ./cmd/defenderctl

.PHONY: demo
demo: build ## the sample task, with and without the Defender (DEMO_EXIT=1: end by itself)
	@scripts/packages $(DEMO_PACKAGES)
	@go run ./internal/demo

.PHONY: test
test: build ## formatting, vet, lint, arrows and all tests of one machine
	@scripts/packages $(TEST_PACKAGES)
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then \
		echo "not gofmt-clean:" $$unformatted >&2; exit 1; fi
	go vet ./...
	go run $(GOLANGCI) run ./...
	go test -race -timeout 20m ./...
	DEFENDER_SUPERVISOR=ptrace go test -count=1 -timeout 20m ./cmd/defender

.PHONY: test-platforms
test-platforms: build ## containers, other kernels and a browser (as root)
	@RUNLEVEL=1 scripts/packages $(PLATFORM_PACKAGES) $(ARM64_PACKAGES) qemu-system-arm
	cd internal/schemas && CGO_ENABLED=0 go test -count=1 ./...
	go test -count=1 -tags platforms -timeout 40m ./internal/platforms/... ./internal/endtoend ./inject ./console/web

# Servers are installed, not started: the benchmark starts its own. RUNLEVEL says so to Debian.
.PHONY: bench
bench: build ## what protection costs, beside its peers; writes docs/performance.md (half an hour, a quiet machine)
	@RUNLEVEL=1 scripts/packages $(BENCH_PACKAGES)
	go run ./internal/bench -defender bin/defender -json docs/performance.json -plots docs

.PHONY: bench-quick
bench-quick: build ## the same with small counts; writes nothing (BENCH="connect vfork": some rows)
	@RUNLEVEL=1 scripts/packages $(BENCH_PACKAGES)
	go run ./internal/bench -quick -defender bin/defender $(BENCH)

.PHONY: clean
clean: ## remove what build made
	rm -rf bin
