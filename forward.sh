#!/bin/sh
# Makes a target ($1) of the Makefile in a Debian 13, for a machine whose C library is too old for the forward lane: `make
# test-forward` is `forward.sh test-unit`. In: the files here that git knows, or would if added. Out: the target's output
# and exit code.
#
# That Debian is made by debootstrap from the mirror that apt here uses, once, under FP_TFRS_FORWARD_ROOT (8 GB; default:
# ~/.cache/fp-tfrs/debian13). The project is /project there, with a .venv of its own; a repeat makes what is missing. The
# mounts are in a namespace of their own, which ends with the command: the folder can be removed at any other time.
set -eu
cd "$(dirname "$0")"
root=${FP_TFRS_FORWARD_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/fp-tfrs/debian13}

fail() {
    printf 'forward lane: %s\n' "$1" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "mounts and chroot need root: repeat it as root."
if [ ! -d "$root" ]; then
    command -v debootstrap >/dev/null || fail "there is no debootstrap: apt-get install debootstrap, and repeat."
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/*$') ||
        fail "apt on this machine knows no Debian mirror: add one under /etc/apt, and repeat."
    rm -rf "$root.part"
    mkdir -p "$root.part"
    unshare --mount debootstrap --variant=minbase --include=ca-certificates,g++,make,python3-dev,python3-venv \
        trixie "$root.part" "$mirror"
    mkdir "$root.part/project"
    mv "$root.part" "$root"
fi
[ -d "$root/project" ] || fail "$root is not a root that this made: name another in FP_TFRS_FORWARD_ROOT."

find "$root/project" -mindepth 1 -maxdepth 1 ! -name .venv ! -name build ! -name runs -exec rm -rf {} +
git ls-files -z --cached --others --exclude-standard |
    tar --create --null --files-from=- --ignore-failed-read | tar --extract --no-same-owner --directory "$root/project"
cp -L /etc/hosts /etc/resolv.conf "$root/etc/"
export root target="$1"
# The network's certificates, and the data at the path that FP_TFRS_DATA_DIR has here, if it has one.
exec unshare --mount sh -euc '
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind /etc/ssl/certs "$root/etc/ssl/certs"
if [ -n "${FP_TFRS_DATA_DIR:-}" ]; then
    mkdir -p "$root$FP_TFRS_DATA_DIR"
    mount --bind "$FP_TFRS_DATA_DIR" "$root$FP_TFRS_DATA_DIR"
fi
unset PYENV_ROOT PYTHONPATH TMPDIR
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec chroot "$root" make -C /project "$target"
'
