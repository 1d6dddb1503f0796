# A static binary in an empty image, run as an unprivileged user.
#
#   docker build -t heddle .
#   docker run -p 443:8443 -p 3478:3478/udp -v heddle:/var/lib/heddle \
#       -v /etc/heddle:/etc/heddle:ro heddle serve --config /etc/heddle/config.yaml
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /heddle ./cmd/heddle \
 && mkdir -m 0700 /data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /heddle /heddle
COPY --from=build --chown=65532:65532 /data /var/lib/heddle
USER 65532:65532
ENV HEDDLE_DATA_DIR=/var/lib/heddle
VOLUME /var/lib/heddle
EXPOSE 8080/tcp 3478/udp
ENTRYPOINT ["/heddle"]
CMD ["serve"]
