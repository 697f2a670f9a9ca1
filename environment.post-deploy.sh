#!/usr/bin/env bash
# Snakemake runs this in the conda environment that it has just made from environment.yml.
# d4rl's own dependencies (mujoco_py, gym<0.25, ...) break its import, so it comes without them.
set -euo pipefail
python -m pip install --no-deps d4rl==1.1
