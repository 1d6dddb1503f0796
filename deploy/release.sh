#!/usr/bin/env bash
# Builds what is released: binaries, packages for Linux, lists of what is in them (SBOM), checksums.
#
#   deploy/release.sh v1.2.3 [DIRECTORY [OS/ARCH ...]]
#
# DIRECTORY, by default dist, must be empty or not there yet. It wants Go, jq and tar. The same source, Go and version
# give the same binaries.
set -euo pipefail

nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0
targets=(linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 freebsd/amd64 freebsd/arm64)

version=${1:?usage: deploy/release.sh v1.2.3 [DIRECTORY [OS/ARCH ...]]}
if ! [[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]]; then
	echo "$version is no version like v1.2.3 or v1.2.3-rc.1" >&2
	exit 2
fi
dist=$(realpath -m "${2:-dist}")
[ $# -le 2 ] || targets=("${@:3}")
cd "$(dirname "$0")/.."
mkdir -p "$dist"
if [ -n "$(ls -A "$dist")" ]; then
	echo "$dist is not empty" >&2
	exit 2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The modules in a binary, as it says itself, in the form of CycloneDX 1.5.
sbom() {
	go version -m -json "$1" | jq --arg version "$version" '{
		bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
		metadata: {component: {type: "application", name: "heddle", version: $version, "bom-ref": "heddle"}},
		components: ([{type: "library", name: "std", version: (.GoVersion | ltrimstr("go")),
			purl: "pkg:golang/std@\(.GoVersion | ltrimstr("go"))"}] +
			[.Deps[] | . as $required | (.Replace // .) | {type: "library", name: .Path, version: .Version,
			purl: "pkg:golang/\(.Path)@\(.Version)",
			properties: [{name: "go:sum", value: (.Sum // "")}, {name: "go:required", value: $required.Path}]}])
	}'
}

for target in "${targets[@]}"; do
	os=${target%/*} arch=${target#*/}
	name=heddle_${version}_${os}_$arch
	echo "== $name"
	mkdir "$work/$name"
	CGO_ENABLED=0 GOOS=$os GOARCH=$arch go build -trimpath \
		-ldflags="-s -w -X heddle/cmd/heddle/cli.version=$version" -o "$work/$name/heddle" ./cmd/heddle
	sbom "$work/$name/heddle" >"$dist/$name.cdx.json"
	cp README.md deploy/heddle.service "$work/$name/"
	tar -C "$work" --owner=0 --group=0 --sort=name --mtime='2000-01-01 UTC' -cf - "$name" | gzip -n >"$dist/$name.tar.gz"
	[ "$os" = linux ] || continue
	for format in deb rpm apk; do
		ARCH=$arch VERSION=$version BINARY=$work/$name/heddle MAINTAINER=${MAINTAINER:-"heddle <root@localhost>"} \
			go run "$nfpm" package --config deploy/nfpm.yaml --packager "$format" --target "$dist/"
	done
done

(cd "$dist" && sha256sum -- * >"$work/SHA256SUMS" && mv "$work/SHA256SUMS" .)
ls -l "$dist"
