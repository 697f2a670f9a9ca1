"""Trains the behaviour policies that ship with the package (needs the optional extra `behaviour`: sbx-rl)."""

from __future__ import annotations

import csv
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from dawm.environments.behaviour import BehaviourPolicy
from dawm.environments.tasks import Task, simulator_version
from dawm.errors import InputError

HIDDEN = 128
EXPLORATION_NOISE = 0.1


def train_behaviour_policy(
    task: Task, folder: Path, *, algorithm: str, steps: int, every: int, episodes: int, seed: int
) -> None:
    """Trains one agent and keeps a checkpoint of its actor every `every` steps, each with its mean return.

    Online learners collapse (Hopper above all), so nothing is chosen here: `checkpoints.csv` lists them all.
    """
    try:
        import sbx
        from stable_baselines3.common.noise import NormalActionNoise
    except ImportError as error:
        raise InputError(
            f"training behaviour policies needs sbx-rl ({error}); install it with: pip install 'dawm[behaviour]'"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    common = dict(
        learning_rate=1e-3 if algorithm == "td3" else 5e-4,
        batch_size=128,
        learning_starts=5_000,
        train_freq=8,
        gradient_steps=8,
        policy_kwargs={"net_arch": [HIDDEN, HIDDEN]},
        seed=seed,
    )
    if algorithm == "td3":
        noise = NormalActionNoise(np.zeros(task.action_dim), np.full(task.action_dim, EXPLORATION_NOISE))
        model = sbx.TD3("MlpPolicy", task.make(), action_noise=noise, **common)
    else:
        model = sbx.SAC("MlpPolicy", task.make(), **common)
    facts = {"algorithm": algorithm, "seed": str(seed)}
    rows: list[dict[str, float]] = []
    started = time.process_time()

    def after_step(*_: object) -> bool:
        if model.num_timesteps % every == 0:
            returns = keep_checkpoint(task, actor_of(model), folder, model.num_timesteps, episodes, seed, facts)
            rows.append(returns | {"cpu_seconds": round(time.process_time() - started)})
            write_checkpoints(folder, rows)
            print(rows[-1], file=sys.stderr, flush=True)
        return True

    model.learn(steps, callback=after_step)


def keep_checkpoint(
    task: Task, policy: BehaviourPolicy, folder: Path, step: int, episodes: int, seed: int, facts: dict[str, str]
) -> dict[str, float]:
    """Saves the actor under its step, with what it reached in its header; returns its row of the table."""
    returns = episode_returns(task, policy, episodes, seed)
    row = {"step": step, "mean_return": round(float(np.mean(returns)), 1)}
    known = {"environment": task.environment, "simulator": simulator_version(), "steps": str(step)}
    policy.save(folder / f"{step:08d}.safetensors", {**facts, **known, "mean_return": str(row["mean_return"])})
    return row | {"std_return": round(float(np.std(returns)), 1)}


def write_checkpoints(folder: Path, rows: list[dict[str, float]]) -> None:
    with open(folder / "checkpoints.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def actor_of(model: object) -> BehaviourPolicy:
    """The deterministic actor of an sbx TD3 or SAC agent: the dense layers up to the action's mean, tanh outside."""
    params = model.policy.actor_state.params["params"]  # type: ignore[attr-defined]
    layers: list[tuple[np.ndarray, np.ndarray]] = []

    def collect(tree: dict) -> None:
        for name in sorted(tree):
            node = tree[name]
            if "kernel" in node:
                layers.append((np.asarray(node["kernel"]).T.copy(), np.asarray(node["bias"]).copy()))
            else:
                collect(node)

    collect(params)
    return BehaviourPolicy(tuple(layers[:3]))  # SAC's fourth layer is the standard deviation's


def episode_returns(task: Task, policy: BehaviourPolicy, episodes: int, seed: int) -> list[float]:
    """Undiscounted returns of the noiseless policy, raw reward; episode i starts from seed + 10,000 + i."""
    environment = task.make()
    returns = []
    for episode in range(episodes):
        observation, _ = environment.reset(seed=seed + 10_000 + episode)
        total, done = 0.0, False
        while not done:
            observation, reward, terminated, truncated, _ = environment.step(policy(observation))
            total += float(reward)
            done = terminated or truncated
        returns.append(total)
    environment.close()
    return returns


def choose_ladder(folder: Path, output: Path, *, medium_return: float, rungs: int) -> list[Path]:
    """Copies `rungs` checkpoints from early to medium into `output`: a replay buffer's history, thinned out.

    The last rung is the checkpoint whose mean return is nearest to `medium_return`; the others are nearest to
    evenly spaced returns between the first checkpoint's and the medium's, among those trained for no longer.
    """
    with open(folder / "checkpoints.csv", newline="") as file:
        rows = [(int(row["step"]), float(row["mean_return"])) for row in csv.DictReader(file)]
    medium = min(rows, key=lambda row: abs(row[1] - medium_return))
    earlier = [row for row in rows if row[0] <= medium[0]]
    chosen = {
        min(earlier, key=lambda row: abs(row[1] - target))[0] for target in np.linspace(earlier[0][1], medium[1], rungs)
    }
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("*.safetensors"):
        old.unlink()
    return [Path(shutil.copy(folder / f"{step:08d}.safetensors", output)) for step in sorted(chosen)]
