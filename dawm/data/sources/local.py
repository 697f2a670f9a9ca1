"""Our own suite: data collected here, in the pinned simulator, by the behaviour policies that ship with the package.

The names follow D4RL's pattern, but these are not D4RL's data: other policies, another MuJoCo.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dawm.config import ExportSettings
from dawm.data.sources import SourceData
from dawm.data.transitions import Transitions
from dawm.environments.behaviour import SHIPPED, BehaviourPolicy
from dawm.environments.tasks import TASKS, Task, simulator_version
from dawm.errors import InputError
from dawm.progress import Progress
from dawm.randomness import derived_seed, generator


@dataclass(frozen=True)
class Mixture:
    """Equal shares of transitions from every shipped checkpoint of a task, each with Gaussian exploration noise."""

    task: str
    exploration_noise: float
    transitions: int


SUITE = {"hopper-medium-replay": Mixture("hopper", exploration_noise=0.1, transitions=60_000)}


def collect_local(settings: ExportSettings) -> SourceData:
    """Rolls the mixture's policies out, from weakest to strongest, as a replay buffer would hold them."""
    name = settings.source.removeprefix("local/")
    if name not in SUITE:
        raise InputError(f"source: expected one of {', '.join(f'local/{n}' for n in SUITE)}, found local/{name}")
    mixture = SUITE[name]
    task = TASKS[mixture.task]
    if settings.environment not in (None, task.environment):
        raise InputError(f"environment: expected null or {task.environment}, found {settings.environment}")
    paths = sorted((SHIPPED / mixture.task).glob("*.safetensors"))
    total = settings.transitions or mixture.transitions
    shares = np.diff(np.linspace(0, total, len(paths) + 1).astype(int))
    progress = Progress("export", total)
    parts: list[dict[str, np.ndarray]] = []
    for number, (path, share) in enumerate(zip(paths, shares, strict=True)):
        policy = BehaviourPolicy.load(path)
        parts.append(
            collect(task, policy, int(share), mixture.exploration_noise, settings.seed, number, progress=progress)
        )
    facts = {
        "source": settings.source,
        "simulator": simulator_version(),
        "terminal_successors_known": True,
        "behaviour_policies": [path.stem for path in paths],
        "exploration_noise": mixture.exploration_noise,
    }
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return SourceData(task, Transitions.real(**columns), facts)


def collect(
    task: Task,
    policy: BehaviourPolicy,
    rows: int,
    noise: float,
    seed: int,
    stream: int,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Columns of `rows` transitions of noisy episodes; the last episode is cut there and ends like a timeout."""
    environment = task.make()
    simulator = environment.unwrapped
    rng = generator(seed, "behaviour", task.name, stream)
    columns: dict[str, list] = {
        name: []
        for name in ("observation", "action", "reward", "next_observation", "terminal", "timeout", "qpos", "qvel")
    }
    episode, ended = 0, True
    observation = np.empty(0)
    for row in range(rows):
        if ended:
            observation, _ = environment.reset(seed=derived_seed(seed, "reset", task.name, stream, episode))
            episode += 1
        explored = policy(observation) + noise * rng.standard_normal(task.action_dim)
        action = np.clip(explored, -1.0, 1.0).astype(np.float32)
        columns["qpos"].append(simulator.data.qpos.copy())  # type: ignore[attr-defined]
        columns["qvel"].append(simulator.data.qvel.copy())  # type: ignore[attr-defined]
        successor, reward, terminal, truncated, _ = environment.step(action)
        timeout = (truncated or row == rows - 1) and not terminal
        for name, value in (
            ("observation", observation),
            ("action", action),
            ("reward", reward),
            ("next_observation", successor),
            ("terminal", terminal),
            ("timeout", timeout),
        ):
            columns[name].append(value)
        observation, ended = successor, terminal or truncated
        if progress is not None:
            progress.advance()
    environment.close()
    return {name: np.asarray(values) for name, values in columns.items()}
