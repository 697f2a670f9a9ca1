"""Our own suite: data collected here, in the pinned simulator, by the behaviour policies that ship with the package.

The names follow D4RL's pattern, but these are not D4RL's data: other policies, another MuJoCo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
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
    """A replay buffer's history, thinned out: first uniformly random actions, then a task's shipped checkpoints in
    turn, an episode each, with the Gaussian exploration noise of their training."""

    task: str
    transitions: int
    random_share: float  # of all transitions, before training began
    exploration_noise: float


# The last checkpoint had 190,000 steps behind it, of which the first 5,000 were random: about a fortieth.
SUITE = {"hopper-medium-replay": Mixture("hopper", 60_000, random_share=0.025, exploration_noise=0.1)}


def collect_local(settings: ExportSettings) -> SourceData:
    """Rolls the mixture out in the simulator until there are as many transitions as asked for."""
    name = settings.source.removeprefix("local/")
    if name not in SUITE:
        raise InputError(f"source: expected one of {', '.join(f'local/{n}' for n in SUITE)}, found local/{name}")
    mixture = SUITE[name]
    task = TASKS[mixture.task]
    if settings.environment not in (None, task.environment):
        raise InputError(f"environment: expected null or {task.environment}, found {settings.environment}")
    paths = sorted((SHIPPED / mixture.task).glob("*.safetensors"))
    total = settings.transitions or mixture.transitions
    random_rows = round(mixture.random_share * total)
    columns = collect(
        task,
        [BehaviourPolicy.load(path) for path in paths],
        random_rows,
        total - random_rows,
        noise=mixture.exploration_noise,
        seed=settings.seed,
    )
    facts = {
        "source": settings.source,
        "simulator": simulator_version(),
        "terminal_successors_known": True,
        "behaviour_policies": [path.stem for path in paths],
        "exploration_noise": mixture.exploration_noise,
        "random_transitions": random_rows,
    }
    return SourceData(task, Transitions.real(**columns), facts)


def collect(
    task: Task, policies: Sequence[BehaviourPolicy], random_rows: int, policy_rows: int, *, noise: float, seed: int
) -> dict[str, np.ndarray]:
    """Columns of episodes with random actions, then of the policies in turn; each part is cut at its number of rows,
    where its last episode ends like a timeout."""
    environment = task.make()
    progress = Progress("export", random_rows + policy_rows)
    parts: dict[str, list] = {}
    for kind, rows in (("random", random_rows), ("policies", policy_rows)):
        episode = collected = 0
        while collected < rows:
            rng = generator(seed, "behaviour", task.name, kind, episode)
            act = _explorer(None if kind == "random" else policies[episode % len(policies)], task, noise, rng)
            reset_seed = derived_seed(seed, "reset", task.name, kind, episode)
            for row in _episode(environment, act, rows - collected, reset_seed):
                for name, value in row.items():
                    parts.setdefault(name, []).append(value)
                collected += 1
                progress.advance()
            episode += 1
    environment.close()
    return {name: np.asarray(values) for name, values in parts.items()}


def _explorer(
    policy: BehaviourPolicy | None, task: Task, noise: float, rng: np.random.Generator
) -> Callable[[np.ndarray], np.ndarray]:
    """observation [obs_dim] → action float32 [act_dim]: noisy, or uniform where there is no policy."""

    def act(observation: np.ndarray) -> np.ndarray:
        if policy is None:
            return rng.uniform(-1.0, 1.0, task.action_dim).astype(np.float32)
        explored = policy(observation) + noise * rng.standard_normal(task.action_dim)
        return np.clip(explored, -1.0, 1.0).astype(np.float32)

    return act


def _episode(
    environment: gymnasium.Env, act: Callable[[np.ndarray], np.ndarray], longest: int, seed: int
) -> Iterator[dict[str, Any]]:
    """The rows of one episode, of at most `longest`, with the simulator's state before each step."""
    simulator: Any = environment.unwrapped
    observation, _ = environment.reset(seed=seed)
    for number in range(longest):
        qpos, qvel = simulator.data.qpos.copy(), simulator.data.qvel.copy()
        action = act(observation)
        successor, reward, terminal, truncated, _ = environment.step(action)
        yield {
            "observation": observation,
            "action": action,
            "reward": reward,
            "next_observation": successor,
            "terminal": terminal,
            "timeout": (truncated or number == longest - 1) and not terminal,
            "qpos": qpos,
            "qvel": qvel,
        }
        if terminal or truncated:
            return
        observation = successor
