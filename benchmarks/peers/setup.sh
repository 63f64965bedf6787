#!/bin/sh
# Makes the environment that RecBole is measured in: sh benchmarks/peers/setup.sh DIR. With nothing to do it prints nothing.
#
# Python 3.11, or the one that FP_TFRS_PEERS_PYTHON names; packages of requirements.txt. Where pip finds a torch for GPUs
# first (5 GB), PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL can name a place with those for CPUs.
set -eu
[ $# = 1 ] || { echo "usage: sh benchmarks/peers/setup.sh DIR" >&2; exit 2; }
pins=$(dirname "$0")/requirements.txt
cmp -s "$pins" "$1/made-from.txt" && exit 0
python=${FP_TFRS_PEERS_PYTHON:-python3.11}
"$python" --version >/dev/null 2>&1 || {
    echo "peers: $python does not start: install Python 3.11, or name one in FP_TFRS_PEERS_PYTHON" >&2
    exit 1
}
echo "peers: installing RecBole into $1 (1 to 6 minutes, 1.5 GB)" >&2
rm -rf "$1"
"$python" -m venv "$1"
"$1/bin/python" -m pip install --quiet --disable-pip-version-check -r "$pins"
cp "$pins" "$1/made-from.txt"
