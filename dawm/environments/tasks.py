"""Tasks: an environment with its reference scores, its termination function, and how observations hold the state."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from dawm.config import BoundSettings, EnvironmentSettings, TerminationSettings, read
from dawm.errors import InputError, one_line

VELOCITY_CLIP = 10.0  # Hopper and Walker2d observe velocities clipped to ±10


@dataclass(frozen=True)
class StateLayout:
    """How a MuJoCo task observes its state: [qpos[hidden:], qvel].

    hidden: leading coordinates that are not observed, such as the root's x position, on which nothing depends.
    positions: how many dimensions of the observation are qpos[hidden:]; the rest is qvel.
    """

    hidden: int
    positions: int
    clips_velocity: bool

    def tells_state(self, observation: np.ndarray) -> np.ndarray:
        """bool [n]: observations [n, obs_dim] that the state follows from; a clipped velocity hides it."""
        finite = np.isfinite(observation).all(1)
        if not self.clips_velocity:
            return finite
        return finite & (np.abs(observation[:, self.positions :]) < VELOCITY_CLIP).all(1)

    def state(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """qpos [n, nq], qvel [n, nv], with what is hidden at 0."""
        qpos = np.concatenate([np.zeros((len(observation), self.hidden)), observation[:, : self.positions]], axis=1)
        return qpos, observation[:, self.positions :]

    def observation(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """[n, obs_dim]"""
        velocity = np.clip(qvel, -VELOCITY_CLIP, VELOCITY_CLIP) if self.clips_velocity else qvel
        return np.concatenate([qpos[:, self.hidden :], velocity], axis=1)


@dataclass(frozen=True)
class Task:
    """A gymnasium environment with Box spaces.

    reference_min and reference_max are the returns that score 0 and 100, in raw reward (None: there are no scores).
    action_low, action_high: the bounds of every action dimension. termination, layout: None where they are not known.
    """

    name: str
    environment: str
    observation_dim: int
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    reference_min: float | None = None
    reference_max: float | None = None
    termination: TerminationSettings | None = None
    layout: StateLayout | None = None
    arguments: Mapping[str, Any] | None = None
    max_episode_steps: int = 1000

    @property
    def action_dim(self) -> int:
        return len(self.action_low)

    @property
    def family(self) -> str:
        """The environment without its version: Hopper."""
        return re.sub(r"-v\d+$", "", self.environment)

    @property
    def state_dims(self) -> tuple[int, int] | None:
        """(nq, nv), where a layout is known."""
        if self.layout is None:
            return None
        return self.layout.positions + self.layout.hidden, self.observation_dim - self.layout.positions

    def normalized_score(self, episode_return: float | np.ndarray) -> float | np.ndarray:
        """0 at reference_min, 100 at reference_max (Fu et al. 2020, §5); NaN where there are none."""
        if self.reference_min is None or self.reference_max is None:
            return episode_return * math.nan
        return 100.0 * (episode_return - self.reference_min) / (self.reference_max - self.reference_min)

    def terminated(self, next_observation: np.ndarray) -> np.ndarray:
        """Which next observations [..., obs_dim] are terminal, bool [...] (as MOPO's functions; Yu et al. 2020)."""
        if self.termination is None:
            raise InputError(f"{self.environment}: no termination function is known; give `termination` in the config")
        healthy = np.ones(next_observation.shape[:-1], dtype=bool)
        for bound in self.termination.alive:
            healthy &= _inside(bound, next_observation)
        if not self.termination.goal:
            return ~healthy
        reached = [_inside(bound, next_observation) for bound in self.termination.goal]
        return ~healthy | np.logical_and.reduce(reached)

    def make(self) -> gymnasium.Env:
        """A fresh simulator with its limit of steps; no rendering."""
        return _make(self.environment, self.arguments or {}, self.max_episode_steps)

    def settings(self) -> EnvironmentSettings:
        """What `task_of` makes this task from again."""
        return EnvironmentSettings(
            id=self.environment,
            arguments=dict(self.arguments or {}),
            max_episode_steps=self.max_episode_steps,
            reference_min=self.reference_min,
            reference_max=self.reference_max,
            termination=self.termination,
        )

    def facts(self) -> dict[str, Any]:
        """For metadata.json; `task_of_metadata` reads them again."""
        return {
            "environment": self.environment,
            "environment_settings": asdict(self.settings()),
            "observation_dim": self.observation_dim,
            "action_dim": self.action_dim,
            "reference_min": self.reference_min,
            "reference_max": self.reference_max,
        }


def _inside(bound: BoundSettings, observation: np.ndarray) -> np.ndarray:
    """False for NaN and, within any bounds, for what is infinite."""
    value = observation[..., bound.dimension]
    above = -math.inf if bound.above is None else bound.above
    below = math.inf if bound.below is None else bound.below
    return (value > above) & (value < below)


def _alive(*intervals: tuple[int, float | None, float | None]) -> TerminationSettings:
    return TerminationSettings(alive=tuple(BoundSettings(dimension=d, above=a, below=b) for d, a, b in intervals))


# The simulators' own `healthy` conditions, gymnasium's source; Hopper's holds every state variable below 100.
_HOPPER = _alive((0, 0.7, None), (1, -0.2, 0.2), *((dimension, -100.0, 100.0) for dimension in range(2, 11)))
_WALKER2D = _alive((0, 0.8, 2.0), (1, -1.0, 1.0))
_NEVER = TerminationSettings()


def _locomotion(
    name: str, base: str, dims: tuple[int, int], layout: StateLayout, termination: TerminationSettings
) -> tuple[Task, Task]:
    """The v4 task, whose physics D4RL's v2 reference scores fit, and the v5 task, which has none."""
    observation_dim, action_dim = dims
    low, high = _D4RL_REFERENCES[name]
    v4 = Task(
        name, f"{base}-v4", observation_dim, (-1.0,) * action_dim, (1.0,) * action_dim, low, high, termination, layout
    )
    return v4, replace(v4, name=f"{name}-v5", environment=f"{base}-v5", reference_min=None, reference_max=None)


# d4rl.infos: returns of a random and of an expert policy.
_D4RL_REFERENCES = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
}
_KNOWN = (
    *_locomotion("hopper", "Hopper", (11, 3), StateLayout(1, 5, True), _HOPPER),
    *_locomotion("halfcheetah", "HalfCheetah", (17, 6), StateLayout(1, 8, False), _NEVER),
    *_locomotion("walker2d", "Walker2d", (17, 6), StateLayout(1, 8, True), _WALKER2D),
)
TASKS = {task.name: task for task in _KNOWN if task.environment.endswith("-v4")}
"""The tasks of D4RL and of our own suite, by name."""


def task_of(settings: EnvironmentSettings) -> Task:
    """The task that a config describes: what is known of its id, and what the config says beside it."""
    known = next((task for task in _KNOWN if task.environment == settings.id and not settings.arguments), None)
    task = known or _examined(settings)
    chosen = {
        key: value
        for key in ("reference_min", "reference_max", "termination", "max_episode_steps")
        if (value := getattr(settings, key)) is not None
    }
    task = replace(task, **chosen)
    bounds = () if task.termination is None else (*task.termination.alive, *task.termination.goal)
    for bound in bounds:
        if bound.dimension >= task.observation_dim:
            raise InputError(
                f"environment.termination: expected dimensions from 0 to {task.observation_dim - 1} for {settings.id}, "
                f"found {bound.dimension}"
            )
    return task


def task_of_metadata(metadata: Mapping[str, Any]) -> Task:
    """The task of a sealed folder."""
    settings = metadata.get("environment_settings", {"id": metadata["environment"]})
    return task_of(read(EnvironmentSettings, settings, "metadata.json: environment_settings"))


def bounded(actions: gymnasium.spaces.Box) -> bool:
    """Whether every dimension has a range that float32 can tell."""
    ranges = actions.high.astype(np.float64) - actions.low
    return bool((ranges > 0).all() and (ranges <= np.finfo(np.float32).max).all())


def _examined(settings: EnvironmentSettings) -> Task:
    """An environment that is not known here: its spaces are looked at."""
    environment = _make(settings.id, settings.arguments, settings.max_episode_steps)
    spaces: tuple[Any, Any] = environment.observation_space, environment.action_space
    limit = environment.spec.max_episode_steps if environment.spec is not None else None
    for what, space in zip(("observations", "actions"), spaces, strict=True):
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1 or np.dtype(space.dtype).kind != "f":
            raise InputError(
                f"environment: expected {settings.id} to have {what} in a flat Box of floats, found {space}"
            )
    actions = spaces[1]
    if not bounded(actions):
        raise InputError(f"environment: expected {settings.id} to have bounded actions, found {actions}")
    if limit is None:
        raise InputError(f"environment: {settings.id} has no time limit; set `max_episode_steps`")
    layout = _found_layout(environment.unwrapped)
    environment.close()
    return Task(
        settings.id,
        settings.id,
        spaces[0].shape[0],
        tuple(map(float, actions.low)),
        tuple(map(float, actions.high)),
        layout=layout,
        arguments=settings.arguments,
        max_episode_steps=limit,
    )


def _found_layout(simulator: gymnasium.Env) -> StateLayout | None:
    """The layout of a MuJoCo environment, tried on a few states around its first one; None where none fits."""
    if not isinstance(simulator, MujocoEnv):
        return None
    simulator.reset(seed=0)
    qpos, qvel = simulator.data.qpos.copy(), simulator.data.qvel.copy()
    rng = np.random.default_rng(0)
    states = [(qpos, qvel + rng.normal(0, spread, qvel.shape)) for spread in (0.1, 1.0, 20.0)]
    observations = []
    for position, velocity in states:
        simulator.set_state(position, velocity)
        observations.append(simulator._get_obs())  # type: ignore[attr-defined]
    hidden = len(qpos) + len(qvel) - observations[0].size
    if not 0 <= hidden < len(qpos):
        return None
    for clips_velocity in (False, True):
        layout = StateLayout(hidden, len(qpos) - hidden, clips_velocity)
        if np.allclose(layout.observation(*map(np.array, zip(*states, strict=True))), observations, atol=1e-9):
            return layout
    return None


def _make(environment: str, arguments: Mapping[str, Any], max_episode_steps: int | None) -> gymnasium.Env:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that v4 is out of date: the reference scores fit it all the same
            return gymnasium.make(
                environment, max_episode_steps=max_episode_steps, disable_env_checker=True, **arguments
            )
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        reason = one_line(error)
        raise InputError(f"environment: gymnasium cannot make {environment!r} ({reason})") from error


def simulator_version(environment: gymnasium.Env | None = None) -> str:
    """What moves the environment (None: MuJoCo). Hopper's physics changed with MuJoCo 3.5.0: it belongs to the data."""
    if environment is None or isinstance(environment.unwrapped, MujocoEnv):
        return f"mujoco {mujoco.__version__}"
    return f"gymnasium {gymnasium.__version__}"
