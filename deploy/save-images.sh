#!/bin/sh
# Puts container images for arm64 into one file, for devices without a registry in reach. On a
# machine with Docker, internet and the dedgeai image: ./save-images.sh images.txt images-arm64.tar
set -eu
list="$1"
archive="$2"
while read -r image; do
    # dedgeai itself is built, not pulled.
    docker image inspect "$image" >/dev/null 2>&1 || docker pull --platform linux/arm64 "$image"
    platform="$(docker image inspect --format '{{.Architecture}}' "$image")"
    if [ "$platform" != arm64 ]; then
        echo "$image is there for $platform only: docker image rm it, or build it for arm64" >&2
        exit 1
    fi
done <"$list"
xargs docker save --output "$archive" <"$list"
sha256sum "$archive"
