#!/bin/sh
# Writes requirements.lock: every package at one version with the hashes of all its files (`make lock`).
# Versions that the old lock names are kept where they still fit; remove it first to move to the newest ones.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3.11 -m venv "$work/venv"
python=$work/venv/bin/python
"$python" -m pip install --quiet pip-tools==7.6.2

if [ -f requirements.lock ]; then
    sed -n 's/^\([^ #]*==[^ ]*\).*/\1/p' requirements.lock >"$work/pins.txt"
fi
"$python" -m piptools compile --quiet --extra test --all-build-deps --allow-unsafe --strip-extras --no-annotate \
    --no-header --no-emit-options --output-file "$work/pins.txt" pyproject.toml >/dev/null

# torch is in requirements-torch.txt, what its CUDA builds need comes with it; d4rl is installed without dependencies.
{
    grep -Ev '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==|^#|^$' "$work/pins.txt"
    echo "d4rl==1.1"
} | sort >"$work/packages.txt"

"$python" - "$work/packages.txt" >"$work/requirements.lock" <<'END'
import sys
from pathlib import Path

from pip._internal.req.constructors import install_req_from_line
from piptools.repositories import PyPIRepository

print("# Written by `make lock`; not to be edited by hand. torch is in requirements-torch.txt.")
index = PyPIRepository(pip_args=[], cache_dir=str(Path(sys.argv[1]).parent / "cache"))
with index.allow_all_wheels():
    for line in Path(sys.argv[1]).read_text().splitlines():
        hashes = sorted(index.get_hashes(install_req_from_line(line)))
        print(" \\\n".join([line, *(f"    --hash={value}" for value in hashes)]))
END
# In place only when whole.
mv "$work/requirements.lock" requirements.lock
