"""Rows on their way out of sealed folders: verified, real before synthetic, shard by shard, cut into trajectories."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dawm import __version__
from dawm.data.sealed import Sealed, open_sealed
from dawm.data.sources.checks import apart
from dawm.data.transitions import Transitions, concatenate, next_step, read_shards, shard_names
from dawm.errors import InputError
from dawm.progress import Progress

Kind = Literal["real", "synthetic"]
COPIED_FACTS = ("environment", "environment_settings", "source", "simulator", "terminal_successors_known")
WHY_ONE_STEP = "other people's learners bootstrap with γ·V(s′), which is wrong for a row of several steps"


@dataclass
class Tally:
    """What was counted while rows of one kind went by.

    trajectories: how many ended; seams: those of them that end only because the next row does not start at the stored
    successor; rounded: rows whose successor is the next row's observation up to rounding alone.
    """

    rows: int = 0
    terminals: int = 0
    trajectories: int = 0
    seams: int = 0
    rounded: int = 0


class Outgoing:
    """The rows of a data set, of the synthetic transitions that grew from it, or of both."""

    def __init__(self, dataset: Path | None, synthetic: Path | None) -> None:
        self.folders: dict[Kind, Sealed] = {}
        if dataset is not None:
            self.folders["real"] = open_sealed(dataset, "dataset")
        if synthetic is not None:
            self.folders["synthetic"] = open_sealed(synthetic, "synthetic")
        if not self.folders:
            raise InputError("expected --dataset, --synthetic or both, found neither")
        if self.mixed and self.folders["synthetic"].provenance["inputs"].get("dataset") != self.folders["real"].digest:
            raise InputError(f"{synthetic}: grew from another data set than {dataset}; give the one it grew from")
        for sealed in self.folders.values():
            if (steps := sealed.metadata.get("n_step", 1)) != 1:
                raise InputError(f"{sealed.folder}: expected n_step 1, found {steps}; {WHY_ONE_STEP}")
        self.tallies: dict[Kind, Tally] = {kind: Tally() for kind in self.folders}

    @property
    def mixed(self) -> bool:
        return len(self.folders) == 2

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Of the data set, else of the synthetic transitions."""
        return next(iter(self.folders.values())).metadata

    def shards(self) -> Iterator[tuple[Kind, Transitions]]:
        """Rows as they lie in the shards; no shard is empty."""
        progress = Progress("export-to", sum(int(s.metadata.get("rows", 0)) for s in self.folders.values()))
        for kind, sealed in self.folders.items():
            for rows in _shards(sealed):
                self.tallies[kind].rows += len(rows)
                self.tallies[kind].terminals += int(rows.terminal.sum())
                yield kind, rows
                progress.advance(len(rows))
        if not any(tally.rows for tally in self.tallies.values()):
            raise InputError(
                f"{' and '.join(str(sealed.folder) for sealed in self.folders.values())}: no rows to write"
            )

    def trajectories(self) -> Iterator[tuple[Kind, Transitions]]:
        """The same rows with `timeout` wherever a trajectory ends without a terminal, so that none runs into another.

        Whether a row is the last of its trajectory is told by the next row, so one row waits for the next shard.
        """
        held: tuple[Kind, Transitions] | None = None
        for kind, shard in self.shards():
            if held is not None and held[0] != kind:
                yield held[0], self._ended(*held, None)
                held = None
            rows = shard if held is None else concatenate([held[1], shard])
            if len(rows) > 1:
                yield kind, self._ended(kind, rows.take(slice(None, -1)), rows.take(slice(1, None)))
            held = kind, rows.take(slice(-1, None))
        if held is not None:
            yield held[0], self._ended(*held, None)

    def _ended(self, kind: Kind, rows: Transitions, following: Transitions | None) -> Transitions:
        """`rows` with every end marked; following: each one's next row, None after the very last."""
        tally, last = self.tallies[kind], np.ones(len(rows), dtype=bool)
        if following is not None:
            last = rows.terminal | rows.timeout | ~next_step(rows, following)
            seam = ~last & apart(rows.next_observation, following.observation)
            last |= seam
            tally.seams += int(seam.sum())
            tally.rounded += int((~last & (rows.next_observation != following.observation).any(1)).sum())
        tally.trajectories += int(last.sum())
        return dataclasses.replace(rows, timeout=last & ~rows.terminal)

    def facts(self) -> dict[str, Any]:
        """What the file should tell of itself, once all rows went by."""
        facts: dict[str, Any] = {"written_by": f"dawm {__version__}"}
        facts |= {key: self.metadata[key] for key in COPIED_FACTS if key in self.metadata}
        for kind, sealed in self.folders.items():
            facts |= {f"{kind}_rows": self.tallies[kind].rows, f"{kind}_digest": sealed.digest}
        return facts

    def counted(self) -> str:
        """How many rows of which kind went by."""
        return " and ".join(f"{tally.rows:,} {kind} rows" for kind, tally in self.tallies.items())

    def caveats(self) -> list[str]:
        """What a reader should know of the rows in any layout."""
        sentences = []
        if seams := sum(tally.seams for tally in self.tallies.values()):
            sentences.append(
                f"ends of episodes that no flag tells, where the next row does not start at the successor: {seams:,}"
            )
        if "real" in self.tallies and not self.metadata.get("terminal_successors_known", True):
            sentences.append(
                f"nobody knows the successors of the {self.tallies['real'].terminals:,} real terminal rows; their own "
                "observation stands there"
            )
        return sentences


def _shards(sealed: Sealed) -> Iterator[Transitions]:
    """The rows that the folder's shards hold; refused unless they are of one step and all alike."""
    states: bool | None = None
    for name, rows in zip(shard_names(sealed), read_shards(sealed), strict=True):
        if not len(rows):
            continue
        path = sealed.folder / name
        wrong = rows.discount != np.where(rows.terminal, 0, 1)
        if wrong.any():
            found = rows.discount[wrong][0]
            raise InputError(f"{path}: expected the discount 0 at terminals, else 1, found {found:g}; {WHY_ONE_STEP}")
        if states not in (None, rows.qpos is not None):
            raise InputError(f"{path}: expected qpos and qvel in all shards or in none")
        states = rows.qpos is not None
        yield rows
