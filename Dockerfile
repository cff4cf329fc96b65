# The image of a release: one static binary and nothing else. Authorities are compiled in.
#
# `make image` writes the same image without an engine; this file is for those who build with one.
# The mirror listens on the loopback address, so give the container the host's network:
#   docker run --network host -v kioo:/var/lib/kioo kioo

ARG GO_VERSION=1.26
FROM --platform=$BUILDPLATFORM golang:${GO_VERSION} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY pkg pkg
ARG TARGETOS TARGETARCH VERSION=devel
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} \
    go build -trimpath -tags grpcnotrace -ldflags "-s -w -X main.version=${VERSION}" -o /kioo ./cmd/kioo

FROM scratch
COPY --from=build /kioo /kioo
ENTRYPOINT ["/kioo"]
CMD ["serve"]
