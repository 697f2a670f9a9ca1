"""The simulator as an oracle: one true step from any state that an observation determines."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from dawm.environments.tasks import Task
from dawm.errors import InputError


@dataclass(frozen=True)
class TrueStep:
    """next_observation float64 [n, obs_dim], reward float64 [n], terminal bool [n]: what the simulator answers."""

    next_observation: np.ndarray
    reward: np.ndarray
    terminal: np.ndarray


class Oracle:
    """Replays transitions one step; the order of rows does not matter, since every one starts from fresh data.

    What it cannot replay it says: a state must follow from the observation (`checkable`), or be given to a MuJoCo
    environment (`takes_states`).
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.environment = task.make().unwrapped

    @property
    def takes_states(self) -> bool:
        return isinstance(self.environment, MujocoEnv)

    def checkable(self, observation: np.ndarray) -> np.ndarray:
        """bool [n]: rows whose simulator state follows from the observation; none where the task has no layout."""
        layout = self.task.layout
        return np.zeros(len(observation), dtype=bool) if layout is None else layout.tells_state(observation)

    def step(self, observation: np.ndarray, action: np.ndarray) -> TrueStep:
        """From checkable observations [n, obs_dim]."""
        layout = self.task.layout
        if layout is not None:
            return self.step_from(*layout.state(observation), action)
        if len(observation):
            raise InputError(f"{self.task.environment}: the simulator's state does not follow from its observations")
        return TrueStep(np.empty_like(observation), np.empty(0), np.empty(0, dtype=bool))

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
