"""Stage `export`: a source becomes a sealed data set of Parquet shards, with its held-out episodes chosen for good.

Rows are passed on in blocks, so that a data set of any size needs the memory of a shard.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dawm.config import ExportSettings, as_mapping, plain
from dawm.data.files import only_writer
from dawm.data.sealed import refuse_other, seal, settings_in, unseal
from dawm.data.sources import Columns, open_source
from dawm.data.transitions import Transitions, write_shard
from dawm.errors import InputError
from dawm.layout import shard_name
from dawm.randomness import generator


def export(settings: ExportSettings, output: Path, parent: Path | None = None) -> None:
    """Writes `output`/shard-*.parquet, metadata.json and provenance.json (kind "dataset"). parent: the folder of the
    data set that the source is a part of."""
    refuse_other(output, "dataset")
    source = open_source(settings, parent)
    if any(sealed.folder.resolve() == output.resolve() for sealed in source.inputs.values()):
        raise InputError(f"{output}: expected another folder than that of the data set it is a part of")
    count = -(-source.rows // settings.rows_per_shard)
    names = [shard_name(number, count) for number in range(count)]
    tally = Tally()
    with only_writer(output):
        if settings_in(output) not in (None, plain(as_mapping(settings))):
            print(f"export: {output}: replacing a data set of other settings", file=sys.stderr)
        unseal(output, "dataset")
        for old in output.glob("shard-*.parquet"):
            old.unlink()
        for name, columns in zip(names, regrouped(source.blocks, settings.rows_per_shard), strict=True):
            transitions = Transitions.real(**columns, first=tally.next_row)
            tally.add(transitions)
            write_shard(output / name, transitions)
        returns = np.array(tally.returns)
        seal(
            output,
            "dataset",
            files=names,
            settings=as_mapping(settings),
            seed=settings.seed,
            inputs=source.inputs,
            metadata={
                **source.facts,
                **source.task.facts(),
                "rows": source.rows,
                "episodes": len(returns),
                "terminals": tally.terminals,
                "timeouts": tally.timeouts,
                "mean_return": float(returns.mean()),
                "smallest_return": float(returns.min()),
                "largest_return": float(returns.max()),
                "held_out_episodes": hold_out(len(returns), settings.held_out_fraction, settings.seed).tolist(),
            },
        )


class Tally:
    """What is counted while shards go by: returns of the episodes, terminals, timeouts, where the next row stands."""

    def __init__(self) -> None:
        self.returns: list[float] = []
        self.terminals = self.timeouts = 0
        self.next_row = (0, 0)

    def add(self, transitions: Transitions) -> None:
        first = int(transitions.episode[0])
        sums = np.bincount(transitions.episode - first, weights=transitions.reward.astype(np.float64))
        if first < len(self.returns):  # goes on from the shard before
            sums[0] += self.returns.pop()
        self.returns += sums.tolist()
        self.terminals += int(transitions.terminal.sum())
        self.timeouts += int(transitions.timeout.sum())
        ended = transitions.terminal[-1] | transitions.timeout[-1]
        episode, step = int(transitions.episode[-1]), int(transitions.step[-1])
        self.next_row = (episode + 1, 0) if ended else (episode, step + 1)


def regrouped(blocks: Iterator[Columns], rows: int) -> Iterator[dict[str, np.ndarray]]:
    """The same rows in blocks of `rows`, the last one of what is left."""
    waiting: list[Columns] = []
    held = 0
    for block in blocks:
        waiting.append(block)
        held += len(block["reward"])
        while held >= rows:
            whole = _joined(waiting)
            yield {name: column[:rows] for name, column in whole.items()}
            waiting, held = [{name: column[rows:] for name, column in whole.items()}], held - rows
    if held:
        yield _joined(waiting)


def _joined(blocks: list[Columns]) -> dict[str, np.ndarray]:
    if len(blocks) == 1:
        return dict(blocks[0])
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def hold_out(episodes: int, fraction: float, seed: int) -> np.ndarray:
    """Sorted numbers of the held-out episodes: at least one, and never all; none of a single episode."""
    count = min(max(1, round(fraction * episodes)), episodes - 1)
    return np.sort(generator(seed, "held-out").permutation(episodes)[:count])
