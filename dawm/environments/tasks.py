"""The simulated tasks: identifiers, reference scores, termination functions, how observations hold the state."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium
import mujoco
import numpy as np

from dawm.errors import InputError

VELOCITY_CLIP = 10.0  # Hopper and Walker2d observe velocities clipped to ±10


@dataclass(frozen=True)
class Task:
    """A gymnasium v4 locomotion task, the physics that D4RL's v2 reference scores fit.

    reference_min and reference_max are the returns of D4RL's random and expert policies (d4rl.infos), in raw reward.
    terminated maps next observations [..., obs_dim] to bool [...] (MOPO's static functions; Yu et al. 2020).
    positions is how many leading dimensions of the observation are qpos[1:]; the rest is qvel.
    """

    name: str
    environment: str
    observation_dim: int
    action_dim: int
    reference_min: float
    reference_max: float
    positions: int
    clips_velocity: bool
    terminated: Callable[[np.ndarray], np.ndarray]

    @property
    def state_dims(self) -> tuple[int, int]:
        """(nq, nv): the observation leaves out the root's x position and holds everything else."""
        return self.positions + 1, self.observation_dim - self.positions

    def normalized_score(self, episode_return: float | np.ndarray) -> float | np.ndarray:
        """D4RL's score: 0 at the random policy's return, 100 at the expert's (Fu et al. 2020, §5)."""
        return 100.0 * (episode_return - self.reference_min) / (self.reference_max - self.reference_min)

    def make(self) -> gymnasium.Env:
        """A fresh simulator with the usual limit of 1000 steps; no rendering."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that v4 is out of date: the reference scores fit it all the same
            return gymnasium.make(self.environment, disable_env_checker=True)


def _hopper_terminated(observation: np.ndarray) -> np.ndarray:
    healthy = np.isfinite(observation).all(-1) & (np.abs(observation[..., 2:]) < 100).all(-1)
    return ~(healthy & (observation[..., 0] > 0.7) & (np.abs(observation[..., 1]) < 0.2))


def _walker2d_terminated(observation: np.ndarray) -> np.ndarray:
    height, angle = observation[..., 0], observation[..., 1]
    return ~((height > 0.8) & (height < 2.0) & (angle > -1.0) & (angle < 1.0))


def _never_terminated(observation: np.ndarray) -> np.ndarray:
    return np.zeros(observation.shape[:-1], dtype=bool)


TASKS = {
    task.name: task
    for task in (
        Task("hopper", "Hopper-v4", 11, 3, -20.272305, 3234.3, 5, True, _hopper_terminated),
        Task("halfcheetah", "HalfCheetah-v4", 17, 6, -280.178953, 12135.0, 8, False, _never_terminated),
        Task("walker2d", "Walker2d-v4", 17, 6, 1.629008, 4592.3, 8, True, _walker2d_terminated),
    )
}


def task_of_environment(environment: str) -> Task:
    """The task whose gymnasium id is `environment`; InputError names the known ones otherwise."""
    for task in TASKS.values():
        if task.environment == environment:
            return task
    known = ", ".join(task.environment for task in TASKS.values())
    raise InputError(f"environment: expected one of {known}, found {environment!r}")


def simulator_version() -> str:
    """MuJoCo's version: Hopper's physics changed at 3.5.0, so that it belongs to every data set."""
    return f"mujoco {mujoco.__version__}"
