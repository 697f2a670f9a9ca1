"""d3rlpy's TD3+BC and IQL with the published hyperparameters, for comparison; runs in an environment of its own.

    python3.11 -m venv d3rlpy-venv && d3rlpy-venv/bin/pip install d3rlpy==2.8.1 torch==2.13.0
    d3rlpy-venv/bin/python benchmarks/d3rlpy_training.py DATA.hdf5 --algorithm td3_bc --seed 0 --output FOLDER

Imports nothing of dawm (d3rlpy pins another gymnasium). DATA.hdf5 is what `python -m dawm export-to d4rl-hdf5` writes.
Every `--snapshot-every` steps the actor and the scaler of its observations go to FOLDER/STEP.npz, which
benchmarks/agreement.py lets act; FOLDER/seconds.json has the CPU time of loading, of training with all that surrounds
the steps, and of a step once they run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import d3rlpy
import h5py
import numpy as np
import torch
from d3rlpy.algos import IQLConfig, TD3PlusBCConfig
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.models.encoders import VectorEncoderFactory
from d3rlpy.optimizers import AdamFactory
from d3rlpy.optimizers.lr_schedulers import CosineAnnealingLRFactory
from d3rlpy.preprocessing import ReturnBasedRewardScaler, StandardObservationScaler

WARM_UP = 20


def read(path: Path) -> d3rlpy.dataset.MDPDataset:
    with h5py.File(path) as file:
        columns = {name: file[name][:] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    return d3rlpy.dataset.MDPDataset(**columns)


def algorithm(name: str, steps: int, hidden: int, batch_size: int) -> d3rlpy.algos.QLearningAlgoBase:
    """As in the papers, and in this package's defaults; width and batches are to choose."""
    encoder = VectorEncoderFactory([hidden, hidden])
    common = {"batch_size": batch_size, "actor_encoder_factory": encoder, "critic_encoder_factory": encoder}
    if name == "td3_bc":
        config = TD3PlusBCConfig(observation_scaler=StandardObservationScaler(eps=1e-3), **common)
    else:
        falling = AdamFactory(lr_scheduler_factory=CosineAnnealingLRFactory(T_max=steps))
        scaler = ReturnBasedRewardScaler(multiplier=1000.0)
        config = IQLConfig(reward_scaler=scaler, actor_optim_factory=falling, value_encoder_factory=encoder, **common)
    return config.create(device="cpu:0")


def save(path: Path, algo: d3rlpy.algos.QLearningAlgoBase) -> None:
    """Weights of the actor's three layers, [out, in] and [out] in turn, and what its observations are scaled by."""
    weights = [value.numpy() for name, value in algo.impl.policy.state_dict().items() if "logstd" not in name]
    scaler = algo.config.observation_scaler
    width = weights[0].shape[1]
    mean = np.zeros(width) if scaler is None else np.asarray(scaler.mean)
    std = np.ones(width) if scaler is None else np.asarray(scaler.std) + scaler.eps
    part = path.with_suffix(".part.npz")
    np.savez(part, *weights, mean=mean, std=std)
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--algorithm", choices=["td3_bc", "iql"], required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--snapshot-every", type=int, default=5000)
    parser.add_argument("--output", type=Path, required=True)
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    d3rlpy.seed(parsed.seed)
    parsed.output.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    dataset = read(parsed.data)
    algo = algorithm(parsed.algorithm, parsed.steps, parsed.hidden, parsed.batch_size)
    algo.build_with_dataset(dataset)
    loaded = time.process_time()
    times: list[float] = []
    algo.fit(
        dataset,
        n_steps=parsed.steps,
        n_steps_per_epoch=min(parsed.snapshot_every, parsed.steps),
        logger_adapter=NoopAdapterFactory(),
        show_progress=False,
        save_interval=parsed.steps,
        callback=lambda *_: times.append(time.process_time()),
        epoch_callback=lambda algo, _, step: save(parsed.output / f"{step:07d}.npz", algo),
    )
    seconds = {
        "steps": parsed.steps,
        "loading": loaded - began,
        "training": time.process_time() - loaded,
        "seconds_per_step": (times[-1] - times[WARM_UP]) / (len(times) - 1 - WARM_UP),
    }
    (parsed.output / "seconds.json").write_text(json.dumps(seconds) + "\n")


if __name__ == "__main__":
    main()
