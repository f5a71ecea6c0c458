# The images of the programs. Each holds static programs and nothing else:
#
#	docker build --target defender -t defender .
#	docker build --target console -t console .
#
# Builder and images are of one architecture; give --platform for another.
# "make test-platforms" builds and runs them (internal/endtoend).

ARG GO_VERSION=1.26

FROM golang:${GO_VERSION}-bookworm AS source
RUN apt-get update \
	&& apt-get install -y --no-install-recommends gcc libc6-dev pkg-config libseccomp-dev \
	&& rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ENV GOFLAGS=-buildvcs=false
# A scratch image has no folder that somebody but root may write.
RUN mkdir -p /folders/defender /folders/console

FROM source AS build-defender
ARG VERSION=dev
RUN CGO_ENABLED=1 go build -trimpath -tags netgo,osusergo \
	-ldflags "-s -w -linkmode external -extldflags -static -X main.version=${VERSION}" \
	-o /defender ./cmd/defender

FROM source AS build-console
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /console ./cmd/console

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
