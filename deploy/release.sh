#!/usr/bin/env bash
# Builds a release into dist/: static binaries in archives with completions and manual pages, checksums, an SBOM of each binary,
# a Homebrew formula, and the image where buildah is on the machine.
#
#   deploy/release.sh v1.2.3 [PLATFORM…]        by default linux and darwin, on amd64 and arm64
#
# Not for Windows: files are replaced by a rename that must be atomic, and sockets ask the system who connects.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:?"a version such as v1.2.3 is missing"}
[[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || { echo "version \"$version\": allowed: v1.2.3 or v1.2.3-rc.1" >&2; exit 2; }
shift
platforms=("$@")
[ ${#platforms[@]} -gt 0 ] || platforms=(linux/amd64 linux/arm64 darwin/amd64 darwin/arm64)

revision=$(git rev-parse HEAD)
# The commit's time, not the build's: the same commit gives the same bytes.
export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
cyclonedx=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.9.0
rm -rf dist && mkdir -p dist/extras/completions dist/extras/man
export CGO_ENABLED=0
env -u DAPR_COMPONENTS_SOCKETS_FOLDER go run -tags man ./cmd/dapr-bolt dist/extras/man
go build -o dist/extras/host ./cmd/dapr-bolt
for shell in bash zsh fish powershell; do dist/extras/host completion $shell > dist/extras/completions/dapr-bolt.$shell; done
rm dist/extras/host

for platform in "${platforms[@]}"; do
	os=${platform%/*} arch=${platform#*/}
	name=dapr-bolt_${version#v}_${os}_$arch
	echo "building $name"
	mkdir -p "dist/$name"
	GOOS=$os GOARCH=$arch go build -buildvcs=true -trimpath -ldflags "-s -w -X main.release=$version" -o "dist/$name/" ./cmd/dapr-bolt ./cmd/todo
	cp -r LICENSE README.md docs dist/extras/completions dist/extras/man "dist/$name/"
	if [ "$os" = linux ]; then cp deploy/systemd/dapr-bolt.service "dist/$name/"; fi
	go run "$cyclonedx" bin -json -noserial -version "$version" -output "dist/$name.sbom.json" "dist/$name/dapr-bolt" 2>/dev/null
	tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -C dist -cf - "$name" | gzip -n > "dist/$name.tar.gz"
done
(cd dist && sha256sum ./*.tar.gz ./*.sbom.json | sed 's| \./| |' > checksums.txt)

# sum prints the checksum of a platform's archive, or nothing.
sum() { sed -n "s/^\([0-9a-f]*\)  dapr-bolt_${version#v}_$1.tar.gz$/\1/p" dist/checksums.txt; }
sed -e "s/@VERSION@/${version#v}/" -e "s/@DARWIN_ARM64@/$(sum darwin_arm64)/" -e "s/@DARWIN_AMD64@/$(sum darwin_amd64)/" \
	-e "s/@LINUX_ARM64@/$(sum linux_arm64)/" -e "s/@LINUX_AMD64@/$(sum linux_amd64)/" deploy/homebrew/dapr-bolt.rb > dist/dapr-bolt.rb

linux=dist/dapr-bolt_${version#v}_linux_$(go env GOHOSTARCH)
if [ -d "$linux" ] && command -v buildah >/dev/null; then
	cp "$linux/dapr-bolt" "$linux/todo" dist/
	for image in dapr-bolt:prebuilt todo:prebuilt-todo; do
		buildah build --quiet --format docker --build-arg VERSION="$version" --build-arg REVISION="$revision" --timestamp "$SOURCE_DATE_EPOCH" \
			--target "${image#*:}" -t "${image%:*}:$version" . >/dev/null
		buildah push --quiet "${image%:*}:$version" "docker-archive:dist/${image%:*}_${version#v}_image.tar:${image%:*}:$version"
	done
	rm dist/dapr-bolt dist/todo
elif [ -d "$linux" ]; then
	echo "buildah is not installed: there is no image"
fi
for platform in "${platforms[@]}"; do rm -r "dist/dapr-bolt_${version#v}_${platform%/*}_${platform#*/}"; done
rm -r dist/extras
ls -l dist
