"""Small HDF5 files in D4RL's layout, built by hand: Hopper's sizes, rows that can be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dawm.config import ExportSettings
from dawm.data.sources import open_source

OBSERVATION_DIM, ACTION_DIM = 11, 3
EPISODES = ((4, "terminal"), (5, "timeout"), (3, "terminal"), (4, "unfinished"))
FLOATS = ("observations", "actions", "rewards", "next_observations")
FLAGS = ("terminals", "timeouts")
REQUIRED = ("observations", "actions", "rewards", "terminals")


def hopper_columns(
    episodes: Sequence[tuple[int, str]] = EPISODES,
    *,
    float_type: str = "f4",
    observation_dim: int = OBSERVATION_DIM,
    action_dim: int = ACTION_DIM,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """All columns of episodes of (rows, how they end): "terminal", "timeout", "both" flags, or "unfinished".

    A row's next observation is the next row's observation, save at an episode's end, where it is like no other row.
    """
    rng = np.random.default_rng(seed)
    rows = sum(length for length, _ in episodes)
    observations = rng.normal(size=(rows, observation_dim))
    ends = np.cumsum([length for length, _ in episodes]) - 1
    following = np.concatenate([observations[1:], observations[:1]])
    following[ends] = 100 + rng.normal(size=(len(ends), observation_dim))
    flags = {name: np.zeros(rows, bool) for name in FLAGS}
    for end, (_, how) in zip(ends, episodes, strict=True):
        flags["terminals"][end] = how in ("terminal", "both")
        flags["timeouts"][end] = how in ("timeout", "both")
    floats = {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (rows, action_dim)),
        "rewards": rng.normal(size=rows),
        "next_observations": following,
    }
    return {name: value.astype(float_type) for name, value in floats.items()} | flags


def without(columns: Mapping[str, np.ndarray], *names: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in columns.items() if name not in names}


def write_hdf5(path: Path, columns: Mapping[str, Any]) -> Path:
    """The columns as an HDF5 file; a name such as infos/qpos makes its group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, value in columns.items():
            file[name] = value
    return path


def check_rows(path: Path) -> None:
    """Reads a file; its rows are finite and fit together."""
    source = open_source(ExportSettings(source=f"hdf5:{path}"))
    blocks = list(source.blocks)
    rows = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    assert source.rows == len(rows["reward"]) > 0
    for name in ("observation", "next_observation"):
        assert rows[name].shape == (source.rows, OBSERVATION_DIM) and np.isfinite(rows[name]).all()
    assert np.isfinite(rows["reward"]).all() and (abs(rows["action"]) <= 1).all()
