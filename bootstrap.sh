#!/bin/sh
# Makes .venv: Python 3.10, exactly requirements.lock, and this project. With nothing to do it prints nothing and returns
# at once. An error is one sentence on stderr and exit code 1; the installers' own output is in build/setup.log.
set -eu
cd "$(dirname "$0")"

LOG=build/setup.log
STAMP=.venv/fp-tfrs-setup # written last: what the finished .venv was made from

say() { printf 'set-up: %s\n' "$1" >&2; }
fail() {
    say "$1"
    exit 1
}

# The folder counts too, because a virtual environment does not survive being moved.
packages_fingerprint() { { pwd && cat requirements.lock; } | cksum; }
project_fingerprint() { cat setup.py pyproject.toml | cksum; }
has_packages() { [ -x .venv/bin/python ] && [ "$(sed -n 1p $STAMP 2>/dev/null)" = "$(packages_fingerprint)" ]; }
is_ready() { has_packages && [ "$(sed -n 2p $STAMP)" = "$(project_fingerprint)" ]; }

check_machine() {
    machine="$(uname -s) on $(uname -m)"
    [ "$machine" = "Linux on x86_64" ] ||
        fail "TFX 1.16 is built for Linux on x86_64 only and this is $machine: use such a machine or container."
    libc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || libc=
    case $libc in
    "glibc "*) ;;
    *) fail "the packages need glibc 2.28 or newer and this system has another C library: use e.g. Debian 10 or newer." ;;
    esac
    # 2.28 is the least for which each locked package with native code has a wheel (h5py, optree, pillow and others).
    minor=${libc#glibc 2.}
    [ "${minor%%.*}" -ge 28 ] ||
        fail "the packages need glibc 2.28 or newer and this system has ${libc#glibc }: use e.g. Debian 10 or newer."
    for compiler in ${CXX:-} c++ g++; do
        command -v "$compiler" >/dev/null 2>&1 && return
    done
    fail "there is no C++ compiler, and pyfarmhash has to be built from source: install g++, and repeat."
}

# Sets `python` to what "$1" is if that is CPython 3.10 with the C headers that source builds need. Found out by running
# it, since a shim may exist and not start.
take_python_3_10() {
    python=$("$1" -c '
import os, sys, sysconfig
has_headers = os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
print(sys.executable)
sys.exit(not (sys.implementation.name == "cpython" and sys.version_info[:2] == (3, 10) and has_headers))
' 2>/dev/null)
}

find_python() {
    if [ -n "${FP_TFRS_PYTHON:-}" ]; then
        take_python_3_10 "$FP_TFRS_PYTHON" ||
            fail "FP_TFRS_PYTHON=$FP_TFRS_PYTHON is no CPython 3.10 with C headers that starts: correct or unset it."
        return
    fi
    for candidate in python3.10 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10.*/bin/python; do
        take_python_3_10 "$candidate" && return
    done
    say "no Python 3.10 with C headers here; uv downloads one (1 minute)"
    find_uv
    if "$uv" python install 3.10 >>$LOG 2>&1; then
        take_python_3_10 "$("$uv" python find --managed-python 3.10 2>>$LOG)" && return
    fi
    fail "no Python 3.10 was found and uv could not download one (see $LOG): install it with its headers \
(pyenv install 3.10, or apt-get install python3.10-dev), or name one in FP_TFRS_PYTHON, and repeat."
}

# Sets `uv`: from PATH, or installed by pip for this set-up only, with whatever Python starts.
find_uv() {
    [ -z "$uv" ] || return 0
    uv=$(command -v uv) && "$uv" --version >/dev/null 2>&1 && return
    uv=$tools/bin/uv
    has_python=
    for candidate in "${FP_TFRS_PYTHON:-python3}" python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 8))' >/dev/null 2>&1 || continue
        has_python=yes
        { "$candidate" -m venv "$tools" && "$tools/bin/python" -m pip install uv; } >>$LOG 2>&1 && return
        "$candidate" -m pip install --target "$tools" --upgrade uv >>$LOG 2>&1 && return # a Python without ensurepip
    done
    [ -n "$has_python" ] ||
        fail "there is neither uv nor a Python 3.8 or newer that starts: install Python 3.10, or uv, and repeat."
    fail "uv could not be installed with pip (see $LOG): check the network and pip's settings, or install uv, and repeat."
}

install() {
    "$uv" pip install --python .venv/bin/python "$@" >>$LOG 2>&1 && return
    cause=$(grep -iE '^ *(error|cause|caused by):' $LOG | tail -n 1 | sed 's/^ *//' | cut -c1-200)
    fail "the installation stopped (${cause:-no message}; all of it: $LOG): check the network and the free space \
(8 GB), and repeat."
}

is_ready && exit 0
check_machine
mkdir -p build 2>/dev/null && [ -w . ] && [ -w build ] || fail "cannot write in $(pwd): make it writable, and repeat."
exec 9<. # two calls at once: the second waits for the first, and then has nothing to do
if command -v flock >/dev/null 2>&1; then
    flock 9
    is_ready && exit 0
fi
: >$LOG
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
trap 'exit 1' HUP INT TERM
# What pip's environment says holds for uv too.
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
[ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"

start_s=$(date +%s)
uv=
has_packages || find_python
find_uv
if ! has_packages; then
    say "$("$python" --version) at $python"
    say "installing $(grep -c == requirements.lock) packages into .venv (1 to 5 minutes, 4 GB)"
    rm -rf .venv
    "$uv" venv --python "$python" .venv >>$LOG 2>&1 ||
        fail "$python cannot make a virtual environment (see $LOG): name another in FP_TFRS_PYTHON, and repeat."
    install --compile-bytecode -r requirements.lock
fi
say "installing this project into .venv"
install --no-deps --no-build-isolation --editable .
{ packages_fingerprint && project_fingerprint; } >$STAMP
say "done in $(($(date +%s) - start_s)) s"
