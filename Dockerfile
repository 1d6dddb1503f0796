# A static binary in an empty image, run as an unprivileged user.
#
#   docker build -t heddle .
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=v1.2.3 -t heddle .
#   podman build --format docker -t heddle .    # the default format has no health checks
#
# It needs no more than the volume for its data: run it with --read-only --tmpfs /tmp --cap-drop ALL.
# With a certificate that it gets by itself: deploy/compose.yaml.
#
# Behind a reverse proxy that terminates TLS (see trusted_proxies):
#
#   docker run --name heddle -p 8080:8080 -p 3478:3478/udp -v heddle:/var/lib/heddle \
#       -e HEDDLE_SERVER_URL=https://vpn.example.com heddle
#
# With a certificate and a config file of its own, which user 65532 can read:
#
#   docker run --name heddle -p 443:8080 -p 3478:3478/udp -v heddle:/var/lib/heddle \
#       -v /etc/heddle:/etc/heddle:ro -e HEDDLE_CONFIG=/etc/heddle/config.yaml heddle
#
# The variables below win over the file: loopback in a container is reached by
# nobody outside, so it listens on all interfaces, at port 8080. The private
# listener for operators (metrics_listen_addr) stays on the container's loopback.
# Admin commands: docker exec heddle /heddle users create alice
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath \
        -ldflags="-s -w -X heddle/cmd/heddle/cli.version=$VERSION" -o /heddle ./cmd/heddle
# One level down, where COPY keeps the mode.
RUN install -d -m 0700 /data/heddle

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /heddle /heddle
COPY --from=build --chown=65532:65532 /data /var/lib
USER 65532:65532
ENV HEDDLE_DATA_DIR=/var/lib/heddle \
    HEDDLE_LISTEN_ADDR=:8080
VOLUME /var/lib/heddle
EXPOSE 8080/tcp 3478/udp
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s CMD ["/heddle", "health"]
ENTRYPOINT ["/heddle"]
CMD ["serve"]
