# The images of the programs. Each holds static programs and nothing else:
#
#	docker build --target defender -t defender .
#	docker build --target console -t console .
#
# For both architectures at once, without emulation: what builds runs on this
# machine's, and compiles for the other.
#
#	docker buildx build --platform linux/amd64,linux/arm64 --target defender -t registry.example.com/defender:1 --push .
#	podman build --platform linux/amd64,linux/arm64 --target defender --manifest defender .
#
# (Debian 12's podman needs --build-arg BUILDPLATFORM=linux/amd64, its own.)
#
# "make test-platforms" builds and runs them (internal/endtoend).

ARG GO_VERSION=1.26

FROM --platform=$BUILDPLATFORM golang:${GO_VERSION}-bookworm AS source
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ENV GOFLAGS=-buildvcs=false
# A scratch image has no folder that somebody but root may write.
RUN mkdir -p /folders/defender /folders/console

# The Defender needs C: a compiler for its architecture, and libseccomp.
FROM source AS build-defender
ARG TARGETARCH
RUN cross=; own=$(dpkg --print-architecture); arch=${TARGETARCH:-$own} \
	&& case $arch in \
		"$own") cross="gcc libc6-dev" ;; \
		amd64) cross="gcc-x86-64-linux-gnu libc6-dev-amd64-cross" ;; \
		arm64) cross="gcc-aarch64-linux-gnu libc6-dev-arm64-cross" ;; \
		*) echo "there is a defender for amd64 and arm64, none for $arch" >&2; exit 1 ;; \
	esac \
	&& if [ "$arch" != "$own" ]; then dpkg --add-architecture "$arch"; fi \
	&& apt-get update \
	&& apt-get install -y --no-install-recommends $cross pkg-config "libseccomp-dev:$arch" \
	&& rm -rf /var/lib/apt/lists/*
ARG VERSION=dev
RUN case ${TARGETARCH:-$(dpkg --print-architecture)} in amd64) cpu=x86_64 ;; arm64) cpu=aarch64 ;; esac \
	&& GOARCH=$TARGETARCH CGO_ENABLED=1 CC=$cpu-linux-gnu-gcc PKG_CONFIG_LIBDIR=/usr/lib/$cpu-linux-gnu/pkgconfig \
	go build -trimpath -tags netgo,osusergo,urfave_cli_no_docs \
	-ldflags "-s -w -linkmode external -extldflags -static -X main.version=${VERSION}" \
	-o /defender ./cmd/defender

FROM source AS build-console
ARG TARGETARCH
ARG VERSION=dev
RUN GOARCH=$TARGETARCH CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /console ./cmd/console

# The Console, and the Defender that it puts into a ZIP. Its data is a volume.
FROM scratch AS console
COPY --from=build-console /console /console
COPY --from=build-defender /defender /defender
COPY --from=source /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=source --chown=65532:65532 /folders/console /var/lib/console
VOLUME /var/lib/console
ENV CONSOLE_DATA_DIR=/var/lib/console
USER 65532:65532
ENTRYPOINT ["/console"]
CMD ["serve"]

# The defender: what brings the program into a task, or what another Dockerfile
# copies it from. It needs no rights; the containers that run it have theirs.
FROM scratch AS defender
COPY --from=build-defender /defender /defender
COPY --from=source --chown=65532:65532 /folders/defender /var/lib/appdefender
VOLUME /var/lib/appdefender
USER 65532:65532
ENTRYPOINT ["/defender"]
CMD ["install", "/var/lib/appdefender"]
