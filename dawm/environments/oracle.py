"""The simulator as an oracle: one true step from any state that an observation determines."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from dawm.environments.tasks import VELOCITY_CLIP, Task


@dataclass(frozen=True)
class TrueStep:
    """next_observation float64 [n, obs_dim], reward float64 [n], terminal bool [n]: what the simulator answers."""

    next_observation: np.ndarray
    reward: np.ndarray
    terminal: np.ndarray


class Oracle:
    """Replays transitions one step; the order of rows does not matter, since every one starts from fresh data."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.environment = task.make().unwrapped

    def checkable(self, observation: np.ndarray) -> np.ndarray:
        """bool [n]: rows whose simulator state follows from the observation; a clipped velocity hides it."""
        finite = np.isfinite(observation).all(1)
        if not self.task.clips_velocity:
            return finite
        return finite & (np.abs(observation[:, self.task.positions :]) < VELOCITY_CLIP).all(1)

    def step(self, observation: np.ndarray, action: np.ndarray) -> TrueStep:
        """From observations [n, obs_dim], with the root's x position, which nothing depends on, at 0."""
        qpos = np.concatenate([np.zeros((len(observation), 1)), observation[:, : self.task.positions]], axis=1)
        return self.step_from(qpos, observation[:, self.task.positions :], action)

    def step_from(self, qpos: np.ndarray, qvel: np.ndarray, action: np.ndarray) -> TrueStep:
        """From simulator states qpos [n, nq], qvel [n, nv]: exact also where the observation clips a velocity."""
        simulator = self.environment
        successors, rewards, terminals = [], [], []
        for position, velocity, control in zip(qpos, qvel, action, strict=True):
            mujoco.mj_resetData(simulator.model, simulator.data)  # type: ignore[attr-defined]  # the warm start too
            simulator.set_state(position, velocity)  # type: ignore[attr-defined]
            successor, reward, terminal, _, _ = simulator.step(control)
            successors.append(successor)
            rewards.append(reward)
            terminals.append(terminal)
        shape = (len(qpos), self.task.observation_dim)
        return TrueStep(np.reshape(successors, shape), np.array(rewards, dtype=float), np.array(terminals, dtype=bool))
