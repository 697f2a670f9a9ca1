"""A part of another data set: some of its episodes, for experiments with little data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dawm.config import ExportSettings
from dawm.data.sealed import Sealed, open_sealed
from dawm.data.sources import Columns, SourceData
from dawm.data.transitions import read_shards
from dawm.environments.tasks import task_of_metadata
from dawm.errors import InputError
from dawm.randomness import generator

COUNTED = {
    *("kind", "rows", "episodes", "terminals", "timeouts", "transitions_by_kind", "held_out_episodes"),
    *("mean_return", "smallest_return", "largest_return", "unmarked_episode_ends"),
}
"""What a data set's metadata.json says of all of its episodes."""


def open_part(settings: ExportSettings, parent: Path | None) -> SourceData:
    """`settings.fraction` of the episodes of `parent`, a folder that `export` wrote, in their order."""
    if parent is None:
        raise InputError(f"source: {settings.source!r} is a part of another data set; give its folder as --parent")
    if settings.fraction is None:
        raise InputError(f"fraction: expected the share of episodes for the source {settings.source}, found null")
    sealed = open_sealed(parent, "dataset")
    lengths = episode_lengths(sealed)
    chosen = choose(len(lengths), settings.fraction, settings.seed)
    facts = {name: value for name, value in sealed.metadata.items() if name not in COUNTED}
    return SourceData(
        task_of_metadata(sealed.metadata),
        int(lengths[chosen].sum()),
        _blocks(sealed, chosen),
        {**facts, "source": settings.source, "fraction": settings.fraction, "parent": sealed.metadata["source"]},
        {"parent": sealed},
    )


def choose(episodes: int, fraction: float, seed: int) -> np.ndarray:
    """Sorted numbers of the episodes of a part, at least two, so that one can be held out. Drawn at random; with one
    seed a smaller part lies within a larger one."""
    if episodes < 2:
        raise InputError(f"fraction: expected a data set of at least 2 episodes to take a part of, found {episodes}")
    count = min(max(2, round(fraction * episodes)), episodes)
    return np.sort(generator(seed, "part").permutation(episodes)[:count])


def episode_lengths(sealed: Sealed) -> np.ndarray:
    """Rows of every episode, int64 [episodes]."""
    lengths = np.zeros(sealed.metadata["episodes"], dtype=np.int64)
    for shard in read_shards(sealed, states=False):
        lengths += np.bincount(shard.episode, minlength=len(lengths))
    return lengths


def _blocks(sealed: Sealed, chosen: np.ndarray) -> Iterator[Columns]:
    names = ("observation", "action", "reward", "next_observation", "terminal", "timeout", "qpos", "qvel")
    for shard in read_shards(sealed):
        part = shard.take(np.isin(shard.episode, chosen)).columns()
        yield {name: column for name in names if (column := part[name]) is not None}
