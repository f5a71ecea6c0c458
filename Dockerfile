# An image with the Defender and nothing else, to copy it from:
#
#	docker build -t defender .
#
# and in the image of the application
#
#	COPY --from=defender /defender /defender

FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN make build VERSION="$VERSION"

FROM scratch
COPY --from=build /src/bin/defender /defender
ENTRYPOINT ["/defender"]
