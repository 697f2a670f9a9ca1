"""What every source of real rows is held to: finite numbers, actions within bounds, successors that fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from dawm.environments.tasks import Task
from dawm.errors import InputError

ACTION_TOLERANCE = 1e-5  # float32 rounding of actions that were computed as float64
LARGEST_COMPRESSION = 1100  # deflate reaches 1032
SEAM_TOLERANCE = 1e-4  # of a stored successor to the next row's observation, relative to its size


def check_container(file: h5py.File, path: Path) -> None:
    """Refuses an HDF5 file that reaches out of itself, or whose arrays claim more than it can hold: room would be made
    for them."""

    size = path.stat().st_size
    for name, item in _arrays(file.id, path, set()):
        layout = item.get_create_plist()
        if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
            raise InputError(f"{path}: {name!r} takes its numbers from other files, which are not read")
        claimed = item.get_space().get_simple_extent_npoints() * item.get_type().get_size()
        if claimed > LARGEST_COMPRESSION * size:
            raise InputError(f"{path}: {name!r} claims {claimed} bytes in a file of {size}")


def _arrays(
    group: h5py.h5g.GroupID, path: Path, seen: set[int], prefix: str = ""
) -> Iterator[tuple[str, h5py.h5d.DatasetID]]:
    """All below a group, each once; names need not be text, and links within the file lead to what is there anyway."""
    for key in group:
        name, kind = prefix + key.decode(errors="replace"), group.links.get_info(key).type
        if kind == h5py.h5l.TYPE_EXTERNAL:
            target = group.links.get_val(key)[0].decode(errors="replace")
            raise InputError(f"{path}: {name!r} is a link to another file, {target!r}, which is not followed")
        if kind != h5py.h5l.TYPE_HARD:
            continue
        item = h5py.h5o.open(group, key)
        address = h5py.h5o.get_info(item).addr
        if address in seen:
            continue
        seen.add(address)
        if isinstance(item, h5py.h5g.GroupID):
            yield from _arrays(item, path, seen, f"{name}/")
        elif isinstance(item, h5py.h5d.DatasetID):
            yield name, item


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
