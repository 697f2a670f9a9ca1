"""HDF5 files in D4RL's layout (Fu et al. 2020): surveyed whole before a row is believed, then read block by block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from dawm.config import D4RL, HDF5, EnvironmentSettings, ExportSettings
from dawm.data.sources import BLOCK_ROWS, Columns, SourceData
from dawm.data.sources.checks import apart, check_actions, check_container, check_finite
from dawm.data.transitions import number_episodes
from dawm.environments.tasks import TASKS, Task, task_of
from dawm.errors import InputError, one_line

CHUNK_CACHE = 2**24  # bytes; a block's chunks of all columns, so that none is decompressed twice
REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("timeouts", "next_observations", "infos/qpos", "infos/qvel")


def open_hdf5(settings: ExportSettings) -> SourceData:
    """`hdf5:PATH`."""
    path = settings.file or Path()
    _check_file(path)
    task = task_of_file(path, settings.environment)
    # Nobody knows which simulator wrote the file.
    return _source(path, task, {"source": f"{HDF5}{path.name}", "simulator": "unknown"})


def open_d4rl(settings: ExportSettings) -> SourceData:
    """`d4rl/NAME`: D4RL's own file, from d4rl's cache folder or downloaded into it."""
    from dawm.environments.d4rl import fetch

    name = settings.source.removeprefix(D4RL)
    task = TASKS[name.split("-")[0]]
    if settings.environment not in (None, EnvironmentSettings(id=task.environment)):
        raise InputError(
            f"environment: expected null or {{id: {task.environment}}} for {settings.source}, whose scores belong to it"
        )
    path = fetch(name, settings.base_url)
    return _source(path, task, {"source": settings.source, "simulator": "mujoco 2, as D4RL recorded it"})


def task_of_file(path: Path, environment: EnvironmentSettings | None) -> Task:
    """The task that the config names, or the one that D4RL's file name tells."""
    if environment is not None:
        return task_of(environment)
    name = path.name.replace("-", "_").split("_")[0]
    if name not in TASKS:
        raise InputError(
            f"{path}: no D4RL name that tells its environment (such as hopper_medium-v2.hdf5); "
            "set `environment` in the config, for example {id: Hopper-v4}, or give `inspect` --environment Hopper-v4"
        )
    return TASKS[name]


def _source(path: Path, task: Task, facts: dict[str, str]) -> SourceData:
    with opened(path) as file:
        survey = _survey(file, path, task)
        told = bool(file.attrs.get("terminal_successors_known", True))  # as `export-to d4rl-hdf5` writes it
    known = {"terminal_successors_known": survey.successors_known and told, "unmarked_episode_ends": survey.seams}
    return SourceData(task, int(survey.keep.sum()), _blocks(path, task, survey), {**facts, **known})


@dataclass(frozen=True)
class Survey:
    """What the first pass found: how episodes end and which rows are kept, bool [rows]; seams: ends without a flag."""

    terminal: np.ndarray
    timeout: np.ndarray
    keep: np.ndarray
    successors_known: bool
    seams: int


def _survey(file: h5py.File, path: Path, task: Task) -> Survey:
    """Reads the file through and refuses it at the first thing that is wrong."""
    rows = check_layout(file, path, task)
    terminal, timeout = (_flag(file, path, key, rows) for key in ("terminals", "timeouts"))
    timeout &= ~terminal
    timeout[-1] |= not terminal[-1]  # an unfinished tail
    known = "next_observations" in file
    if "timeouts" not in file and not known:
        timeout |= _time_limits(terminal, task.max_episode_steps)
    marked = int(timeout.sum())
    for start in range(0, rows, BLOCK_ROWS):
        block = slice(start, min(start + BLOCK_ROWS, rows))
        for key in _floats(file):
            check_finite(_rows(file, path, key, block), key, path, block.start)
        check_actions(_rows(file, path, "actions", block), task, path, block.start)
        if known:
            timeout[block] |= _broken(file, path, block, rows) & ~terminal[block]
    seams = int(timeout.sum()) - marked
    if known and seams > rows / 2:
        raise InputError(
            f"{path}: 'next_observations' expected to be the following row's 'observations' inside an episode, "
            f"found another in {seams} of {rows} rows; the rows must be in the order of collection"
        )
    keep = np.ones(rows, dtype=bool)
    if not known:
        timeout, keep = _drop_timeouts(terminal, timeout)
        if not keep.any():
            raise InputError(f"{path}: expected 'next_observations' or episodes of two rows and more, found neither")
    return Survey(terminal, timeout, keep, known, seams)


def _blocks(path: Path, task: Task, survey: Survey) -> Iterator[Columns]:
    """The kept rows. Without `next_observations` they are built within episodes, never across them."""
    rows = len(survey.keep)
    with opened(path) as file:
        for start in range(0, rows, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, rows)
            block, keep = slice(start, stop), survey.keep[start:stop]
            observation = _rows(file, path, "observations", slice(start, min(stop + 1, rows)))
            terminal = survey.terminal[block]
            if survey.successors_known:
                successor = _rows(file, path, "next_observations", block)
            else:  # nobody knows a terminal row's successor, and nothing bootstraps from it
                following = np.concatenate([observation[1:], observation[-1:]])[: stop - start]
                successor = np.where(terminal[:, None], observation[: stop - start], following)
            columns = {
                "observation": observation[: stop - start],
                "action": np.clip(_rows(file, path, "actions", block), task.action_low, task.action_high),
                "reward": _rows(file, path, "rewards", block),
                "next_observation": successor,
                "terminal": terminal,
                "timeout": survey.timeout[block],
            }
            for name in ("qpos", "qvel"):
                if f"infos/{name}" in file:
                    columns[name] = _rows(file, path, f"infos/{name}", block).astype(np.float64)
            types = {"observation": np.float32, "action": np.float32, "reward": np.float32}
            yield {
                name: np.ascontiguousarray(column[keep], types.get(name.removeprefix("next_")))
                for name, column in columns.items()
            }


def count_not_finite(path: Path) -> dict[str, int]:
    """How many numbers of every column are NaN or infinite, where there are any."""
    counts = {}
    with opened(path) as file:
        for key in (*REQUIRED, *OPTIONAL):
            if key in file and _is_array_of_numbers(file[key]) and file[key].ndim:
                blocks = range(0, len(file[key]), BLOCK_ROWS)
                counts[key] = sum(int((~np.isfinite(file[key][start : start + BLOCK_ROWS])).sum()) for start in blocks)
    return {key: count for key, count in counts.items() if count}


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: {'expected an HDF5 file, found a folder' if path.is_dir() else 'no such file'}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: expected a file that can be read, found: permission denied")


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """For reading; InputError says what hinders it."""
    _check_file(path)
    try:
        with h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE) as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> InputError:
    """What to raise where the HDF5 library fails."""
    return InputError(f"{path}: expected an HDF5 file, found one that is truncated or damaged ({one_line(error)})")


def _floats(file: h5py.File) -> list[str]:
    return [key for key in (*REQUIRED[:3], *OPTIONAL[1:]) if key in file]


def check_layout(file: h5py.File, path: Path, task: Task) -> int:
    """Refuses a file whose keys are not arrays of numbers of the right shape, within it; returns the number of rows."""
    check_container(file, path)
    for key in REQUIRED:
        if key not in file:
            found = ", ".join(sorted(str(name) for name in file)) or "none"
            raise InputError(f"{path}: key {key!r} is missing; found {found}")
    keys = [key for key in (*REQUIRED, *OPTIONAL) if key in file]
    for key in keys:
        if not _is_array_of_numbers(file[key]):
            raise InputError(f"{path}: {key!r}: expected an array of numbers")
    rows = len(file["observations"]) if file["observations"].ndim else 0
    if rows == 0:
        raise InputError(f"{path}: 'observations' has no rows")
    widths: dict[str, tuple[int, ...]] = {key: () for key in ("rewards", "terminals", "timeouts")}
    widths |= {"observations": (task.observation_dim,), "next_observations": (task.observation_dim,)}
    widths |= {"actions": (task.action_dim,)}
    for number, key in enumerate(("infos/qpos", "infos/qvel")):
        if key in file:
            dims = task.state_dims
            widths[key] = (dims[number],) if dims else file[key].shape[1:2]
    for key in keys:
        shape = file[key].shape
        length = shape[0] if shape else 0
        if length != rows:
            raise InputError(
                f"{path}: {key!r} has {length} rows, 'observations' {rows}; D4RL files hold one row per step"
            )
        tall = not widths[key] and shape[1:] == (1,)
        if shape[1:] != widths[key] and not tall:
            raise InputError(
                f"{path}: {key!r}: expected shape {(rows, *widths[key])} for {task.environment}, found {shape}"
            )
    return rows


def _is_array_of_numbers(item: h5py.Group | h5py.Dataset) -> bool:
    try:
        return isinstance(item, h5py.Dataset) and item.shape is not None and item.dtype.kind in "fiub"
    except (TypeError, ValueError):  # a type that NumPy does not have
        return False


def _rows(file: h5py.File, path: Path, key: str, rows: slice) -> np.ndarray:
    """Some rows of one key; a column of N×1 comes as N."""
    try:
        found = file[key][rows]
    except (ValueError, TypeError, MemoryError) as error:
        raise InputError(f"{path}: {key!r}: cannot be read ({one_line(error)})") from error
    one_wide = key in ("rewards", "terminals", "timeouts")
    return found.reshape(len(found)) if one_wide else found


def _flag(file: h5py.File, path: Path, key: str, rows: int) -> np.ndarray:
    if key not in file:
        return np.zeros(rows, bool)
    value = _rows(file, path, key, slice(None))
    wrong = ~np.isin(value, (0, 1))
    if wrong.any():
        raise InputError(f"{path}: {key!r}: expected 0 or 1, found {value[wrong][0]}")
    return value.astype(bool)


def _broken(file: h5py.File, path: Path, block: slice, rows: int) -> np.ndarray:
    """bool: rows whose stored successor is not the next row's observation; an episode ends there, flag or not."""
    following = _rows(file, path, "observations", slice(block.start + 1, min(block.stop + 1, rows)))
    successor = _rows(file, path, "next_observations", block)[: len(following)]
    result = np.zeros(block.stop - block.start, dtype=bool)
    result[: len(following)] = apart(successor, following)
    return result


def _time_limits(terminal: np.ndarray, limit: int) -> np.ndarray:
    """bool [rows]: where an episode reaches the time limit, for files that do not say so (as d4rl's own reader)."""
    _, step = number_episodes(terminal)
    return ((step + 1) % limit == 0) & ~terminal


def _drop_timeouts(terminal: np.ndarray, timeout: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where successors come from the next row, a timeout's row has none: it is dropped and the row before ends there.

    Returns the new timeouts and the rows to keep. A terminal row stays, since nothing bootstraps from its successor,
    but that successor is unknown, and metadata.json says so for those who learn dynamics.
    """
    keep = ~timeout
    moved = np.concatenate([timeout[1:], [False]]) & keep & ~terminal
    return moved, keep
