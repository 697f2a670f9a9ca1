"""HDF5 files in D4RL's layout (Fu et al. 2020): checked column by column before a row is believed."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from dawm.config import ExportSettings
from dawm.data.sources import SourceData
from dawm.data.transitions import Transitions
from dawm.environments.tasks import TASKS, Task, task_of_environment
from dawm.errors import InputError

ACTION_TOLERANCE = 1e-5  # float32 rounding of actions that were computed as float64


def load_hdf5(settings: ExportSettings) -> SourceData:
    """All rows of `hdf5:PATH`. Without `next_observations` they are built within episodes, never across them."""
    path = Path(settings.source.removeprefix("hdf5:"))
    if settings.transitions is not None:
        raise InputError(f"{path}: transitions: expected null for an HDF5 file, found {settings.transitions}")
    task = _task(path, settings.environment)
    columns = _read(path)
    _check(path, task, columns)
    terminal, timeout = _ends(path, columns)
    successor = columns.get("next_observations")
    known, keep = successor is not None, np.ones(len(terminal), dtype=bool)
    if successor is None:
        successor = np.concatenate([columns["observations"][1:], columns["observations"][-1:]])
        successor = np.where(terminal[:, None], columns["observations"], successor)
        timeout, keep = _drop_timeouts(terminal, timeout)
        if not keep.any():
            raise InputError(f"{path}: expected 'next_observations' or episodes of two rows and more, found neither")
    qpos, qvel = columns.get("infos/qpos"), columns.get("infos/qvel")
    transitions = Transitions.real(
        observation=columns["observations"][keep],
        action=np.clip(columns["actions"][keep], -1.0, 1.0),
        reward=columns["rewards"][keep],
        next_observation=successor[keep],
        terminal=terminal[keep],
        timeout=timeout[keep],
        qpos=None if qpos is None else np.ascontiguousarray(qpos[keep], np.float64),
        qvel=None if qvel is None else np.ascontiguousarray(qvel[keep], np.float64),
    )
    # Nobody knows which simulator wrote the file: D4RL's v2 sets come from MuJoCo 2.
    facts = {"source": f"hdf5:{path.name}", "simulator": "unknown", "terminal_successors_known": known}
    return SourceData(task, transitions, facts)


def _task(path: Path, environment: str | None) -> Task:
    if environment is not None:
        return task_of_environment(environment)
    name = path.name.replace("-", "_").split("_")[0]
    if name not in TASKS:
        raise InputError(
            f"{path}: no D4RL name that tells its environment (such as hopper_medium-v2.hdf5); "
            "set `environment`, for example Hopper-v4"
        )
    return TASKS[name]


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    wanted = ["observations", "actions", "rewards", "terminals"]
    optional = ["timeouts", "next_observations", "infos/qpos", "infos/qvel"]
    columns = {}
    try:
        with h5py.File(path, "r") as file:
            for key in wanted + optional:
                if key not in file:
                    if key in wanted:
                        found = ", ".join(sorted(str(name) for name in file)) or "none"
                        raise InputError(f"{path}: key {key!r} is missing; found {found}")
                    continue
                columns[key] = _array(file[key], key, path)
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{path}: expected an HDF5 file, found one that is truncated or damaged ({' '.join(str(error).split())})"
        ) from error
    for key in ("rewards", "terminals", "timeouts"):
        if key in columns and columns[key].ndim == 2 and columns[key].shape[1] == 1:
            columns[key] = columns[key][:, 0]
    return columns


def _array(item: h5py.Group | h5py.Dataset, key: str, path: Path) -> np.ndarray:
    """All of a numeric data set; whatever claims to be one and is not is refused."""
    try:
        if not isinstance(item, h5py.Dataset) or item.shape is None or item.dtype.kind not in "fiub":
            raise InputError(f"{path}: {key!r}: expected an array of numbers")
        return item[()]
    except (ValueError, TypeError, MemoryError) as error:
        raise InputError(f"{path}: {key!r}: cannot be read ({' '.join(str(error).split())})") from error


def _check(path: Path, task: Task, columns: dict[str, np.ndarray]) -> None:
    rows = len(columns["observations"]) if columns["observations"].ndim else 0
    if rows == 0:
        raise InputError(f"{path}: 'observations' has no rows")
    widths = {
        "observations": task.observation_dim,
        "next_observations": task.observation_dim,
        "actions": task.action_dim,
        "infos/qpos": task.state_dims[0],
        "infos/qvel": task.state_dims[1],
    }
    for key, value in columns.items():
        if value.ndim == 0 or len(value) != rows:
            found = len(value) if value.ndim else 0
            raise InputError(
                f"{path}: {key!r} has {found} rows, 'observations' {rows}; D4RL files hold one row per step"
            )
        expected = (rows, widths[key]) if key in widths else (rows,)
        if value.shape != expected:
            raise InputError(f"{path}: {key!r}: expected shape {expected} for {task.environment}, found {value.shape}")
        largest_float = np.finfo(np.float64 if key.startswith("infos/") else np.float32).max
        with np.errstate(invalid="ignore"):  # a signalling NaN is refused like any other
            finite = (np.abs(value.reshape(rows, -1).astype(np.float64)) <= largest_float).all(1)
        if not finite.all():
            raise InputError(f"{path}: {key!r} is not finite in {(~finite).sum()} rows, first in row {finite.argmin()}")
    largest = np.abs(columns["actions"].astype(np.float64)).max(axis=1)
    if largest.max() > 1 + ACTION_TOLERANCE:
        row = int(largest.argmax())
        raise InputError(
            f"{path}: 'actions': expected values in [-1, 1] for {task.environment}, "
            f"found {largest[row]:.6g} in row {row}"
        )


def _ends(path: Path, columns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """terminal and timeout, never both in one row; an unfinished tail ends like a timeout."""
    flags = {}
    for key in ("terminals", "timeouts"):
        value = columns.get(key, np.zeros(len(columns["rewards"]), bool))
        if not np.isin(value, (0, 1)).all():
            raise InputError(f"{path}: {key!r}: expected 0 or 1, found {value[~np.isin(value, (0, 1))][0]}")
        flags[key] = value.astype(bool)
    terminal = flags["terminals"]
    timeout = flags["timeouts"] & ~terminal
    timeout[-1] |= not terminal[-1]
    return terminal, timeout


def _drop_timeouts(terminal: np.ndarray, timeout: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where successors come from the next row, a timeout's row has none: it is dropped and the row before ends there.

    Returns the new timeouts and the rows to keep. A terminal row stays, since nothing bootstraps from its successor,
    but that successor is unknown, and metadata.json says so for those who learn dynamics.
    """
    keep = ~timeout
    moved = np.concatenate([timeout[1:], [False]]) & keep & ~terminal
    return moved, keep
