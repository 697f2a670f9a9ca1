#!/bin/sh
# Makes .venv, the environment of `make run`, `make test` and `make check`. Does nothing when it is whole and current.
set -eu
cd "$(dirname "$0")"

fail() {
    echo "$1" >&2
    exit 2
}

run_pip() {
    .venv/bin/python -m pip "$@" >>.venv/install.log 2>&1 ||
        fail "pip could not install the locked packages; is there a network? The log is .venv/install.log"
}

command -v flock >/dev/null || fail "flock is needed; on Debian: apt-get install util-linux"
command -v sha256sum >/dev/null || fail "sha256sum is needed; on Debian: apt-get install coreutils"

# The stamp is written last and says what .venv was made from, and where: a changed or moved checkout gets a new one.
# The tool tables of pyproject.toml are left out, they do not change what is installed.
wanted=$({ pwd; cat requirements.lock requirements-torch.txt setup.sh; sed '/^\[tool\./,$d' pyproject.toml; } | sha256sum)
if [ -x .venv/bin/python ] && [ "$(cat .venv/complete 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

for python in python3.11 python3 none; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && break
done
[ "$python" != none ] ||
    fail "Python 3.11 with its venv module is needed; on Debian: apt-get install python3.11-venv"

exec 9>.make.lock
flock -n 9 || { echo "Another make is at work in this folder; waiting for it to end."; flock 9; }
[ "$(cat .venv/complete 2>/dev/null)" != "$wanted" ] || exit 0
if [ -d .venv ] && [ ! -f .venv/install.log ]; then
    fail ".venv is not of this Makefile's making; move it away, then try again"
fi

echo "Making the environment in .venv (once; some minutes, about 2 GB). Details go to .venv/install.log."
rm -rf .venv
mkdir .venv
"$python" -m venv .venv >.venv/install.log 2>&1 || fail "$python could not make .venv; the log is .venv/install.log"

echo "Installing the locked packages ..."
# Some packages come as source only, so the build tools are first. Isolated builds would fetch unlocked ones.
sed -n -e '/^setuptools==/,/[^\\]$/p' -e '/^wheel==/,/[^\\]$/p' requirements.lock >.venv/build-tools.lock
run_pip install --no-deps --require-hashes -r .venv/build-tools.lock
run_pip install --no-deps --no-build-isolation --require-hashes -r requirements.lock

echo "Installing torch ..."
# Last, so that what it shares with the lock is there, checked by hash; what a CUDA build needs besides comes with it.
# Constraints with hashes would ask for a hash of torch too.
sed -n 's/^\([^ #]*==[^ ]*\).*/\1/p' requirements.lock >.venv/constraints.txt
run_pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c .venv/constraints.txt -r requirements-torch.txt

run_pip install --no-deps --no-build-isolation -e .
echo "$wanted" >.venv/complete
