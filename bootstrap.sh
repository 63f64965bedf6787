#!/bin/sh
# Makes .venv: a Python, exactly the packages of its lane's lock, and this project. With nothing to do it prints nothing
# and returns at once. An error is one sentence on stderr and exit code 1; the installers' own output is in
# build/setup.log.
#
# There are two lanes, since no version of TFX fits all machines:
#   requirements.lock          TFX 1.16, Python 3.10,         glibc 2.28 or newer
#   requirements-forward.lock  TFX 1.21, Python 3.11 to 3.13, glibc 2.39 or newer; taken where it can be
# FP_TFRS_PYTHON names a Python, and its version the lane. A finished .venv keeps its lane.
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
packages_fingerprint() { { pwd && cat "$1"; } | cksum; }
project_fingerprint() { cat setup.py pyproject.toml | cksum; }
has_packages() {
    [ -x .venv/bin/python ] && made_from=$(sed -n 1p $STAMP 2>/dev/null) || return
    for lock in requirements.lock requirements-forward.lock; do
        [ "$made_from" != "$(packages_fingerprint $lock)" ] || return 0
    done
    return 1
}
is_ready() { has_packages && [ "$(sed -n 2p $STAMP)" = "$(project_fingerprint)" ]; }

check_machine() {
    machine="$(uname -s) on $(uname -m)"
    [ "$machine" = "Linux on x86_64" ] ||
        fail "TFX is built for Linux on x86_64 only and this is $machine: use such a machine or container."
    libc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || libc=
    case $libc in
    "glibc "*) ;;
    *) fail "the packages need glibc 2.28 or newer and this system has another C library: use e.g. Debian 10 or newer." ;;
    esac
    # 2.28 is the least for which each locked package with native code has a wheel (h5py, optree, pillow and others).
    minor=${libc#glibc 2.}
    minor=${minor%%.*}
    [ "$minor" -ge 28 ] ||
        fail "the packages need glibc 2.28 or newer and this system has ${libc#glibc }: use e.g. Debian 10 or newer."
    # 2.39 is what the wheels of TFX's native parts are built for from TFX 1.17 on.
    if [ "$minor" -ge 39 ]; then versions="3.13 3.12 3.11 3.10"; else versions=3.10; fi
    wanted=$(echo "$versions" | sed 's/ / or /g')
    for compiler in ${CXX:-} c++ g++; do
        command -v "$compiler" >/dev/null 2>&1 && return
    done
    fail "there is no C++ compiler, and pyfarmhash has to be built from source: install g++, and repeat."
}

# Sets `python` to what "$1" is and `lock` to its lane's, if that is CPython of one of `versions` (or of "$2" alone) with
# the C headers that source builds need. Found out by running it, since a shim may exist and not start.
take_python() {
    found=$("$1" -c '
import os, sys, sysconfig
version = "%d.%d" % sys.version_info[:2]
has_headers = os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
print(version, sys.executable)
sys.exit(not (sys.implementation.name == "cpython" and version in sys.argv[1].split() and has_headers))
' "${2:-$versions}" 2>/dev/null) || return
    python=${found#* }
    if [ "${found%% *}" = 3.10 ]; then lock=requirements.lock; else lock=requirements-forward.lock; fi
}

find_python() {
    if [ -n "${FP_TFRS_PYTHON:-}" ]; then
        take_python "$FP_TFRS_PYTHON" ||
            fail "FP_TFRS_PYTHON=$FP_TFRS_PYTHON is no CPython $wanted (what $libc allows) with C headers that starts: \
correct or unset it."
        return
    fi
    for version in $versions; do
        for candidate in "python$version" python3 "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$version".*/bin/python; do
            take_python "$candidate" "$version" && return
        done
    done
    version=${versions%% *}
    say "no Python $wanted with C headers here; uv downloads $version (1 minute)"
    find_uv
    if "$uv" python install "$version" >>$LOG 2>&1; then
        take_python "$("$uv" python find --managed-python "$version" 2>>$LOG)" && return
    fi
    fail "no Python $wanted was found and uv could not download $version (see $LOG): install it with its headers \
(pyenv install $version, or apt-get install python$version-dev), or name one in FP_TFRS_PYTHON, and repeat."
}

# Sets `uv`: from PATH, or installed by pip for this set-up only, with whatever Python starts.
find_uv() {
    [ -z "$uv" ] || return 0
    uv=$(command -v uv) && "$uv" --version >/dev/null 2>&1 && return
    uv=$tools/bin/uv
    has_python=
    for candidate in "${FP_TFRS_PYTHON:-python3}" python3 "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.*/bin/python; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 8))' >/dev/null 2>&1 || continue
        has_python=yes
        { "$candidate" -m venv "$tools" && "$tools/bin/python" -m pip install uv; } >>$LOG 2>&1 && return
        "$candidate" -m pip install --target "$tools" --upgrade uv >>$LOG 2>&1 && return # a Python without ensurepip
    done
    [ -n "$has_python" ] ||
        fail "there is neither uv nor a Python 3.8 or newer that starts: install Python ${versions%% *}, or uv, and repeat."
    fail "uv could not be installed with pip (see $LOG): check the network and pip's settings, or install uv, and repeat."
}

install() {
    "$uv" pip install --python .venv/bin/python "$@" >>$LOG 2>&1 && return
    cause=$(grep -iE '^ *(error|cause|caused by):' $LOG | tail -n 1 | sed 's/^ *//' | cut -c1-200)
    fail "the installation stopped (${cause:-no message}; all of it: $LOG): check the network and the free space \
(8 GB), and repeat."
}

# A finished .venv keeps its Python: whoever asks for another one has to be told.
if [ -n "${FP_TFRS_PYTHON:-}" ] && has_packages; then
    asked=$("$FP_TFRS_PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        fail "FP_TFRS_PYTHON=$FP_TFRS_PYTHON does not start: correct or unset it."
    found=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    [ "$asked" = "$found" ] ||
        fail "FP_TFRS_PYTHON=$FP_TFRS_PYTHON is Python $asked, and .venv has $found: rm -rf .venv, and repeat."
fi
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
if has_packages; then
    find_uv
else
    find_python
    find_uv
    say "$("$python" --version) at $python, $libc: the lane of $lock"
    say "installing $(grep -c == $lock) packages into .venv (1 to 5 minutes, 4 GB)"
    rm -rf .venv
    "$uv" venv --python "$python" .venv >>$LOG 2>&1 ||
        fail "$python cannot make a virtual environment (see $LOG): name another in FP_TFRS_PYTHON, and repeat."
    install --compile-bytecode -r $lock
fi
say "installing this project into .venv"
install --no-deps --no-build-isolation --editable .
{ packages_fingerprint $lock && project_fingerprint; } >$STAMP
say "done in $(($(date +%s) - start_s)) s"
