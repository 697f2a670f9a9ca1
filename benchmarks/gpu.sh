#!/bin/sh
# Every measurement that needs a GPU, in one command of a few minutes, on a machine with Python 3.12, its own CUDA build of
# torch and no package registry:
#
#     sh benchmarks/gpu.sh carry          # where there is a registry: packages go to build/wheels (40 MB)
#     sh benchmarks/gpu.sh [OUTPUT]       # on the GPU's machine, with that folder beside it; JSON goes to OUTPUT
#
# OUTPUT: results/published/benchmarks if not given.
set -eu
cd "$(dirname "$0")/.."
wheels=build/wheels
packages="pyyaml jsonschema numpy safetensors gymnasium mujoco imageio packaging"

if [ "${1:-}" = carry ]; then
    mkdir -p "$wheels"
    sed -n 's/^\([a-z0-9._-]*==[^ ;]*\).*/\1/p' requirements.lock >"$wheels/pins.txt"
    # shellcheck disable=SC2086
    exec python3 -m pip download --quiet --dest "$wheels" --constraint "$wheels/pins.txt" --python-version 3.12 \
        --only-binary=:all: $packages
fi

output=${1:-results/published/benchmarks}
python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null || {
    echo "benchmarks/gpu.sh: torch sees no GPU here" >&2
    exit 2
}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
for package in $packages; do # only what is missing: torch, and perhaps numpy, are the machine's own
    module=$(echo "$package" | sed 's/pyyaml/yaml/')
    python3 -c "import $module" 2>/dev/null ||
        python3 -m pip install --quiet --no-index --find-links "$wheels" --target "$site" "$package"
done
export PYTHONPATH="$PWD:$site"
status=0 # what fails does not keep the other from being measured
python3 benchmarks/offline_rl.py --device cuda --output "$output/offline_rl-cuda.json" || status=1
python3 benchmarks/world_model.py --device cuda --output "$output/world_model-cuda.json" || status=1
python3 benchmarks/evaluation.py --output "$output/evaluation-cpu-beside-gpu.json" || status=1 # on the cores beside it
exit $status
