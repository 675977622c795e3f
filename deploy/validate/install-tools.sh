#!/bin/sh
# Tools for `make validate-deploy` that pip does not have, from Debian's packages: Prometheus with
# promtool and nginx, unpacked into the folder given (not installed: nothing is started, no user is
# made), and systemd-analyze, buildah and debootstrap, which only root can install.
set -eu
folder="$1"

if ! command -v apt-get >/dev/null; then
    echo "no apt-get here: bring promtool, prometheus, systemd-analyze, buildah and debootstrap" >&2
    exit 1
fi

refreshed=
# Lists of packages may be missing, or older than what the mirror still has.
refresh() {
    if [ -z "$refreshed" ] && [ "$(id -u)" = 0 ]; then
        apt-get update --quiet=2
        refreshed=yes
    fi
}

packages="$(mktemp --directory)"
trap 'rm -rf "$packages"' EXIT
unpack() {
    get() { (cd "$packages" && apt-get download --quiet=2 -o APT::Sandbox::User=root "$1"); }
    get "$1" 2>/dev/null || { refresh && get "$1"; }
    mkdir -p "$folder"
    dpkg-deb --extract "$packages/$1"_*.deb "$folder"
}

if ! { command -v promtool && command -v prometheus; } >/dev/null \
    && ! [ -x "$folder/usr/bin/promtool" ]; then
    unpack prometheus
fi
if ! command -v nginx >/dev/null && ! [ -x "$folder/usr/sbin/nginx" ]; then
    unpack nginx
fi

missing=
command -v systemd-analyze >/dev/null || missing="$missing systemd"
command -v buildah >/dev/null || missing="$missing buildah"
command -v debootstrap >/dev/null || missing="$missing debootstrap"
if [ -n "$missing" ] && [ "$(id -u)" != 0 ]; then
    echo "as root: apt-get install$missing" >&2
    exit 1
fi
if [ -n "$missing" ]; then
    refresh
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive \
        apt-get install --quiet=2 --yes --no-install-recommends $missing
fi
