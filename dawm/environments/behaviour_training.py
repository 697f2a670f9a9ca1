"""Trains the behaviour policies that ship with the package (needs the optional extra `behaviour`: sbx-rl)."""

from __future__ import annotations

import csv
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from dawm.data.files import read_bytes
from dawm.environments.behaviour import EXPLORATION_NOISE, BehaviourPolicy
from dawm.environments.tasks import Task, simulator_version
from dawm.errors import InputError
from dawm.randomness import generator

HIDDEN = 128
CANDIDATES = 6


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
            f"training behaviour policies needs sbx-rl ({error}); install it with: pip install -e '.[behaviour]'"
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
    policy.save(checkpoint_path(folder, step), {**facts, **known, "mean_return": str(row["mean_return"])})
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


def episode_returns(task: Task, policy: BehaviourPolicy, episodes: int, seed: int, noise: float = 0.0) -> list[float]:
    """Undiscounted returns, raw reward, with Gaussian exploration noise; episode i starts from seed + 10,000 + i."""
    environment = task.make()
    returns = []
    for episode in range(episodes):
        rng = generator(seed, "behaviour-evaluation", episode)
        observation, _ = environment.reset(seed=seed + 10_000 + episode)
        total, done = 0.0, False
        while not done:
            action = policy(observation) + noise * rng.standard_normal(task.action_dim)
            observation, reward, terminated, truncated, _ = environment.step(np.clip(action, -1.0, 1.0))
            total += float(reward)
            done = terminated or truncated
        returns.append(total)
    environment.close()
    return returns


def choose_behaviour(
    task: Task, folder: Path, output: Path, *, medium_return: float, rungs: int, episodes: int
) -> None:
    """Copies what the local suite collects with from a training's checkpoints into `output`.

    A ladder (see `choose_ladder`); medium.safetensors and expert.safetensors, the checkpoints whose return under the
    exploration noise of data collection is nearest to `medium_return`, and largest, among the CANDIDATES that come
    nearest without noise; checkpoints.csv; and candidates.csv with the noisy returns of the candidates. Nothing is
    written before all is chosen; raises InputError for an `output` whose policies are no former choice.
    """
    if output.resolve() == folder.resolve():
        raise InputError(f"{output}: expected another folder than that of the checkpoints to choose from")
    if next(output.glob("*.safetensors"), None) and not (output / "candidates.csv").is_file():
        raise InputError(f"{output}: holds policies that were not chosen; expected an empty folder or a former choice")
    rows = read_checkpoints(folder)
    policies = {step: read_policy(checkpoint_path(folder, step), task) for step in rows}
    ladder = [checkpoint_path(folder, step) for step in choose_ladder(rows, medium_return, rungs)]
    sources = {path.name: path for path in ladder}
    table = []
    for name, target in (("medium", medium_return), ("expert", np.inf)):
        nearest = sorted(rows, key=lambda step: (abs(rows[step] - target), -rows[step]))[:CANDIDATES]
        noisy = {}
        for step in sorted(nearest):
            returns = episode_returns(task, policies[step], episodes, 0, EXPLORATION_NOISE)
            noisy[step] = float(np.mean(returns))
            table.append((name, step, round(noisy[step], 1), round(float(np.std(returns)), 1), episodes))
            print(*table[-1], file=sys.stderr, flush=True)
        chosen = min(noisy, key=lambda step: (abs(noisy[step] - target), -noisy[step]))
        sources[f"{name}.safetensors"] = checkpoint_path(folder, chosen)
    write_choice(output, table, {**sources, "checkpoints.csv": folder / "checkpoints.csv"})


def write_choice(output: Path, candidates: list[tuple], sources: dict[str, Path]) -> None:
    """The table of candidates, by which a choice is known, and the files in place of a former choice's."""
    output.mkdir(parents=True, exist_ok=True)
    with open(output / "candidates.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["for", "step", "mean_noisy_return", "std_noisy_return", "episodes"])
        writer.writerows(candidates)
    for old in output.glob("*.safetensors"):
        old.unlink()
    for name, source in sources.items():
        shutil.copy(source, output / name)


def choose_ladder(returns: dict[int, float], medium_return: float, rungs: int) -> list[int]:
    """Steps of `rungs` checkpoints from early to medium, a replay buffer's history thinned out; returns: by step.

    The last rung is the checkpoint whose mean return is nearest to `medium_return`; the others are nearest to
    evenly spaced returns between the first checkpoint's and the medium's, among those trained for no longer.
    """
    medium = min(returns, key=lambda step: abs(returns[step] - medium_return))
    earlier = [step for step in returns if step <= medium]
    targets = np.linspace(returns[earlier[0]], returns[medium], rungs)
    return sorted({min(earlier, key=lambda step: abs(returns[step] - target)) for target in targets})


def read_checkpoints(folder: Path) -> dict[int, float]:
    """Mean return of every checkpoint, by step; InputError for a table that does not tell them."""
    path = folder / "checkpoints.csv"
    try:
        rows = list(csv.DictReader(read_bytes(path).decode().splitlines()))
        returns = {int(row["step"]): float(row["mean_return"]) for row in rows}
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: expected columns step and mean_return of numbers, found: {error}") from error
    if not returns or not np.isfinite(list(returns.values())).all():
        raise InputError(f"{path}: expected a finite mean_return for at least one step, found {returns or 'no row'}")
    return returns


def read_policy(path: Path, task: Task) -> BehaviourPolicy:
    """InputError for a file that is no policy of the task."""
    try:
        policy = BehaviourPolicy.load(path)
        dims = policy.layers[0][0].shape[1], len(policy.layers[-1][1])
    except (OSError, SafetensorError, KeyError, IndexError) as error:
        raise InputError(f"{path}: expected a behaviour policy, found: {error}") from error
    if dims != (task.observation_dim, task.action_dim):
        raise InputError(
            f"{path}: expected a policy with {task.observation_dim} observations and {task.action_dim} actions, "
            f"found {dims[0]} and {dims[1]}"
        )
    return policy


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"{step:08d}.safetensors"
