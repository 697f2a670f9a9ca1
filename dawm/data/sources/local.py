"""Our own suite: data collected here, in the pinned simulator, by the behaviour policies that ship with the package.

The names follow D4RL's pattern, but these are not D4RL's data: other policies, another MuJoCo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np

from dawm.config import LOCAL, LOCOMOTION, RANDOM_TRANSITIONS, ExportSettings
from dawm.data.sources import BLOCK_ROWS, Columns, SourceData
from dawm.data.sources.checks import check_finite
from dawm.environments.behaviour import EXPLORATION_NOISE, SHIPPED, BehaviourPolicy
from dawm.environments.tasks import TASKS, Task, simulator_version, task_of
from dawm.errors import InputError
from dawm.progress import Progress
from dawm.randomness import derived_seed, generator


@dataclass(frozen=True)
class Part:
    """A share of a data set's transitions.

    kind: who acts; "policies": the ladder's checkpoints from early to medium, an episode each in turn; "random":
    nobody, actions are uniform.
    """

    kind: Literal["random", "medium", "expert", "policies"]
    share: float


@dataclass(frozen=True)
class Mixture:
    """One data set of the suite."""

    task: str
    parts: tuple[Part, ...]


def _suite() -> Iterator[tuple[str, Mixture]]:
    # A replay buffer begins with what was collected before training: 5,000 random steps (stable-baselines3's and our
    # `learning_starts`) of those that the ladder's last checkpoint had behind it.
    for task, random_share in (("hopper", 0.025), ("halfcheetah", 0.075), ("walker2d", 0.015)):
        yield f"{task}-random", Mixture(task, (Part("random", 1.0),))
        yield f"{task}-medium", Mixture(task, (Part("medium", 1.0),))
        replay = (Part("random", random_share), Part("policies", 1 - random_share))
        yield f"{task}-medium-replay", Mixture(task, replay)
        yield f"{task}-medium-expert", Mixture(task, (Part("medium", 0.5), Part("expert", 0.5)))
        yield f"{task}-expert", Mixture(task, (Part("expert", 1.0),))


SUITE = dict(_suite())


def open_local(settings: ExportSettings) -> SourceData:
    """`local/NAME`: rolls a mixture out until there are as many transitions as asked for."""
    name = settings.source.removeprefix(LOCAL)
    mixture = SUITE[name]
    task = TASKS[mixture.task]
    if settings.environment is not None and task_of(settings.environment) != task:
        raise InputError(f"environment: expected null for {settings.source}, which is made in {task.environment}")
    total = settings.transitions or LOCOMOTION[name]
    ends = np.round(np.cumsum([part.share for part in mixture.parts]) * total).astype(int)
    rows = dict(zip([part.kind for part in mixture.parts], np.diff(ends, prepend=0).tolist(), strict=True))
    paths = {kind: behaviour_files(task.name, kind) for kind in rows}
    policies = {kind: [BehaviourPolicy.load(path) for path in files] for kind, files in paths.items()}
    facts = {
        "source": settings.source,
        "simulator": simulator_version(),
        "terminal_successors_known": True,
        "behaviour_policies": {kind: [path.stem for path in files] for kind, files in paths.items()},
        "exploration_noise": EXPLORATION_NOISE,
        "transitions_by_kind": rows,
    }
    return SourceData(task, total, collect(task, policies, rows, noise=EXPLORATION_NOISE, seed=settings.seed), facts)


def open_random(settings: ExportSettings) -> SourceData:
    """`random`: uniformly random actions in the environment that the config gives."""
    if settings.environment is None:
        raise InputError(f"environment: expected one for the source {settings.source}, found null")
    task = task_of(settings.environment)
    total = settings.transitions or RANDOM_TRANSITIONS
    environment = task.make()
    facts = {
        "source": "random",
        "simulator": simulator_version(environment),
        "terminal_successors_known": True,
    }
    environment.close()
    return SourceData(task, total, collect(task, {"random": []}, {"random": total}, seed=settings.seed), facts)


def behaviour_files(task: str, kind: str) -> list[Path]:
    """The shipped policies of a part. The ladder's files are named after the steps of their training."""
    folder = SHIPPED / task
    if kind == "policies":
        return sorted(folder.glob("[0-9]*.safetensors"))
    return [] if kind == "random" else [folder / f"{kind}.safetensors"]


def collect(
    task: Task,
    policies: dict[str, list[BehaviourPolicy]],
    rows: dict[str, int],
    *,
    seed: int,
    noise: float = EXPLORATION_NOISE,
) -> Iterator[Columns]:
    """Blocks of episodes: for each kind its policies in turn, an episode each (random actions where there are none).

    Each kind is cut at its number of rows, where its last episode ends like a timeout. Episodes depend on
    (seed, task, kind, number) alone.
    """
    environment = task.make()
    progress = Progress("export", sum(rows.values()))
    recorder = Recorder(task, environment)
    for kind, count in rows.items():
        episode = collected = 0
        while collected < count:
            policy = policies[kind][episode % len(policies[kind])] if policies[kind] else None
            act = _explorer(policy, task, noise, generator(seed, "behaviour", task.name, kind, episode))
            reset_seed = derived_seed(seed, "reset", task.name, kind, episode)
            length = recorder.episode(act, count - collected, reset_seed)
            collected += length
            progress.advance(length)
            episode += 1
            if recorder.rows >= BLOCK_ROWS:
                yield checked(recorder.take(), task)
    if recorder.rows:
        yield checked(recorder.take(), task)
    environment.close()


def checked(columns: Columns, task: Task) -> Columns:
    """What an environment gave, refused where it is not finite in the table's types."""
    for name, values in columns.items():
        check_finite(values, f"infos/{name}" if name in ("qpos", "qvel") else name, task.environment)
    return columns


def _explorer(
    policy: BehaviourPolicy | None, task: Task, noise: float, rng: np.random.Generator
) -> Callable[[np.ndarray], np.ndarray]:
    """observation [obs_dim] → action float32 [act_dim]: noisy, or uniform where there is no policy."""
    low, high = np.array(task.action_low, np.float32), np.array(task.action_high, np.float32)

    def uniform(observation: np.ndarray) -> np.ndarray:
        return rng.uniform(low, high).astype(np.float32)

    if policy is None:
        return uniform

    def explore(observation: np.ndarray) -> np.ndarray:
        explored = policy(observation) + noise * rng.standard_normal(task.action_dim)
        return np.minimum(np.maximum(explored, -1.0), 1.0).astype(np.float32)

    return explore


class Recorder:
    """Columns of the episodes rolled out since the last `take`, with the simulator's state before each step."""

    def __init__(self, task: Task, environment: gymnasium.Env) -> None:
        self.environment = environment
        simulator: Any = environment.unwrapped
        self.data = getattr(simulator, "data", None) if hasattr(simulator, "set_state") else None
        size = BLOCK_ROWS + task.max_episode_steps
        shapes: dict[str, tuple[tuple[int, ...], type]] = {
            "observation": ((task.observation_dim,), np.float64),
            "action": ((task.action_dim,), np.float32),
            "reward": ((), np.float64),
            "next_observation": ((task.observation_dim,), np.float64),
            "terminal": ((), np.bool_),
            "timeout": ((), np.bool_),
        }
        if self.data is not None:
            shapes |= {name: (getattr(self.data, name).shape, np.float64) for name in ("qpos", "qvel")}
        self.columns: dict[str, np.ndarray] = {
            name: np.zeros((size, *shape), kind) for name, (shape, kind) in shapes.items()
        }
        self.rows = 0

    def episode(self, act: Callable[[np.ndarray], np.ndarray], longest: int, seed: int) -> int:
        """Rolls one episode out, of at most `longest` rows; returns how many it has."""
        step, data = self.environment.step, self.data
        columns = self.columns
        observation, _ = self.environment.reset(seed=seed)
        row = first = self.rows
        ended = False
        while not ended and row - first < longest:
            if data is not None:
                columns["qpos"][row], columns["qvel"][row] = data.qpos, data.qvel
            action = act(observation)
            successor, reward, terminal, truncated, _ = step(action)
            columns["observation"][row], columns["action"][row] = observation, action
            columns["next_observation"][row], columns["reward"][row] = successor, reward
            columns["terminal"][row] = terminal
            columns["timeout"][row] = False
            observation, ended = successor, terminal or truncated
            row += 1
        columns["timeout"][row - 1] = not columns["terminal"][row - 1]
        self.rows = row
        return row - first

    def take(self) -> Columns:
        taken = {name: column[: self.rows].copy() for name, column in self.columns.items()}
        self.rows = 0
        return taken
