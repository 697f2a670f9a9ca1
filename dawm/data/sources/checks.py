"""What every source of real rows is held to: finite numbers, actions within bounds, successors that fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dawm.environments.tasks import Task
from dawm.errors import InputError

ACTION_TOLERANCE = 1e-5  # float32 rounding of actions that were computed as float64
SEAM_TOLERANCE = 1e-4  # of a stored successor to the next row's observation, relative to its size


def check_finite(value: np.ndarray, key: str, where: Path | str, start: int = 0) -> None:
    """Refuses rows [n, ...] with a number that is not finite in the table's type; `start` is the first row's number."""
    largest = np.finfo(np.float64 if key.startswith("infos/") else np.float32).max
    with np.errstate(invalid="ignore"):  # a signalling NaN is refused like any other
        finite = (np.abs(value.reshape(len(value), -1).astype(np.float64)) <= largest).all(1)
    if not finite.all():
        raise InputError(f"{where}: {key!r}: expected finite numbers, found others in row {start + finite.argmin()}")


def check_actions(action: np.ndarray, task: Task, where: Path | str, start: int = 0) -> None:
    """Refuses actions [n, act_dim] that are out of the task's bounds by more than rounding."""
    low, high = np.array(task.action_low), np.array(task.action_high)
    beyond = np.maximum(low - action, action - high) / np.maximum(np.abs(low), np.abs(high))
    row, dimension = np.unravel_index(beyond.argmax(), beyond.shape)
    if beyond[row, dimension] > ACTION_TOLERANCE:
        raise InputError(
            f"{where}: 'actions': expected values in [{low[dimension]:g}, {high[dimension]:g}] for {task.environment}, "
            f"found {action[row, dimension]:.6g} in row {start + row}"
        )


def apart(successor: np.ndarray, following: np.ndarray) -> np.ndarray:
    """bool [n]: where the stored successors [n, obs_dim] are not the following rows' observations."""
    following = following.astype(np.float64)
    return (np.abs(successor.astype(np.float64) - following) > SEAM_TOLERANCE * (1 + np.abs(following))).any(1)
