"""Where real transitions come from: each source turns a name into blocks of rows and says what they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dawm.config import D4RL, HDF5, LOCAL, MINARI, PART, RANDOM, ExportSettings, check_source
from dawm.data.sealed import Sealed
from dawm.environments.tasks import Task
from dawm.errors import InputError

BLOCK_ROWS = 16_384
"""About how many rows a source holds in memory at a time."""

Columns = Mapping[str, np.ndarray]
"""observation, action, reward, next_observation, terminal, timeout and maybe qpos, qvel: see `Transitions.real`."""


@dataclass(frozen=True)
class SourceData:
    """`rows` rows in the order of collection, a block at a time; the task that they belong to; facts for
    metadata.json; sealed folders that they come from. What is wrong with the source is found before the first block is
    asked for."""

    task: Task
    rows: int
    blocks: Iterator[Columns]
    facts: Mapping[str, Any]
    inputs: Mapping[str, Sealed] = field(default_factory=dict)


def open_source(settings: ExportSettings, parent: Path | None = None) -> SourceData:
    """The data set that `settings.source` names; parent: the folder of the one that it is a part of."""
    check_source(settings.source)
    if settings.source.startswith(PART):
        from dawm.data.sources.part import open_part

        return open_part(settings, parent)
    if parent is not None:
        raise InputError(f"--parent: expected with a source {PART}NAME alone, found {settings.source}")
    kind = next(kind for kind in _SOURCES if settings.source.startswith(kind))
    return _SOURCES[kind](settings)


def _local(settings: ExportSettings) -> SourceData:
    from dawm.data.sources.local import open_local

    return open_local(settings)


def _random(settings: ExportSettings) -> SourceData:
    from dawm.data.sources.local import open_random

    return open_random(settings)


def _hdf5(settings: ExportSettings) -> SourceData:
    from dawm.data.sources.hdf5 import open_hdf5

    return open_hdf5(settings)


def _d4rl(settings: ExportSettings) -> SourceData:
    from dawm.data.sources.hdf5 import open_d4rl

    return open_d4rl(settings)


def _minari(settings: ExportSettings) -> SourceData:
    from dawm.data.sources.minari import open_minari

    return open_minari(settings)


# What a source begins with, and who opens it: modules are imported when they are asked for.
_SOURCES = {LOCAL: _local, RANDOM: _random, HDF5: _hdf5, D4RL: _d4rl, MINARI: _minari}
