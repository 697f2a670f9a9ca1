"""Settings of data sets: where they come from, the environment they belong to, what is looked at."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from dawm.config.fields import setting
from dawm.errors import InputError

LOCAL, D4RL, HDF5, MINARI, PART, RANDOM = "local/", "d4rl/", "hdf5:", "minari/", "part/", "random"
RANDOM_TRANSITIONS = 100_000
"""What a random policy collects where nothing else is said."""
LOCOMOTION = {
    f"{task}-{kind}": rows
    for task, replayed in (("hopper", 400_000), ("halfcheetah", 200_000), ("walker2d", 300_000))
    for kind, rows in (
        ("random", 1_000_000),
        ("medium", 1_000_000),
        ("medium-replay", replayed),
        ("medium-expert", 2_000_000),
        ("expert", 1_000_000),
    )
}
"""Data sets of our own suite, and with `-v2` D4RL's: how many transitions those have, rounded, and ours exactly."""
KNOWN = {LOCAL: [LOCAL + name for name in LOCOMOTION], D4RL: [f"{D4RL}{name}-v2" for name in LOCOMOTION]}
ALIKE = 0.85  # of difflib: one letter in ten


def check_source(source: str) -> None:
    """InputError for a source of no known kind or name. Whether a file or a Minari set is there, opening it tells."""
    for kind, names in KNOWN.items():
        if source.startswith(kind) and source not in names:
            close = difflib.get_close_matches(source, names, 1, ALIKE)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(f"source: expected one of {', '.join(names)}, found {source}{hint}")
    if source != RANDOM and (not source.startswith((*KNOWN, HDF5, MINARI, PART)) or source == HDF5):
        raise InputError(
            "source: expected local/NAME, d4rl/NAME, minari/ID, hdf5:PATH, part/NAME or random (with `environment`), "
            f"found {source!r}"
        )


@dataclass(frozen=True, kw_only=True)
class BoundSettings:
    """An open interval of one dimension of an observation."""

    dimension: int = setting("which dimension, from 0", minimum=0)
    above: float | None = setting("its lower end; null: none", None)
    below: float | None = setting("its upper end; null: none", None)

    def __post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise InputError("above, below: expected one or both, found neither")
        if self.above is not None and self.below is not None and not self.above < self.below:
            raise InputError(f"below: expected more than above ({self.above}), found {self.below}")


@dataclass(frozen=True, kw_only=True)
class TerminationSettings:
    """When a state is terminal: once a bound of `alive` is left, or all bounds of `goal` hold. `{}` is never."""

    alive: tuple[BoundSettings, ...] = setting("intervals that an episode must not leave", ())
    goal: tuple[BoundSettings, ...] = setting("intervals that together end an episode", ())


@dataclass(frozen=True, kw_only=True)
class EnvironmentSettings:
    """A gymnasium environment with Box spaces. MuJoCo's Hopper, HalfCheetah and Walker2d, v4 and v5, need only `id`."""

    id: str = setting("gymnasium's id, such as `Pendulum-v1`; `module:Name-v0` imports the module first", minLength=1)
    arguments: dict[str, bool | float | str | None] = setting("further arguments of `gymnasium.make`", dict)
    max_episode_steps: int | None = setting("time limit; null: the environment's own", None, minimum=1)
    reference_min: float | None = setting("return that scores 0; null: the known one, or no scores", None)
    reference_max: float | None = setting("return that scores 100; null: the known one, or no scores", None)
    termination: TerminationSettings | None = setting("when a state is terminal; null: the known one, or unknown", None)

    def __post_init__(self) -> None:
        low, high = self.reference_min, self.reference_max
        if (low is None) != (high is None):
            raise InputError("reference_min, reference_max: expected both or neither, found one")
        if low is not None and high is not None and not low < high:
            raise InputError(f"reference_max: expected more than reference_min ({low}), found {high}")


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Stage `export`: one data set."""

    source: str = setting(
        "`local/hopper-medium` and so on (collected here), `d4rl/hopper-medium-v2` and so on, `minari/ID`, `hdf5:PATH` "
        "(a file in D4RL's layout), `random` (uniformly random actions in `environment`), `part/NAME` (a `fraction` of "
        "the data set NAME of the same config)",
        minLength=1,
    )
    fraction: float | None = setting(
        "of `part/NAME`: share of the episodes, drawn with `seed`, a smaller part within a larger one; null: no part",
        None,
        exclusiveMinimum=0,
        maximum=1,
    )
    environment: EnvironmentSettings | None = setting("where it belongs; null: the source tells it", None)
    transitions: int | None = setting("how many to collect; null: the source's own number", None, minimum=1000)
    base_url: str | None = setting("where D4RL's files are fetched from; null: their own server", None, minLength=1)
    rows_per_shard: int = setting("rows of one Parquet shard", 100_000, minimum=1)
    held_out_fraction: float = setting(
        "share of episodes that the models never see, at least one and never all", 0.1, exclusiveMinimum=0, maximum=0.5
    )
    seed: int = setting("seed of collection and of the split", 0, minimum=0)

    @property
    def parent(self) -> str | None:
        """The data set that this one is a part of."""
        return self.source.removeprefix(PART) if self.source.startswith(PART) else None

    @property
    def file(self) -> Path | None:
        """The HDF5 file that it is read from, `~` expanded; a relative path counts from where the command runs."""
        named = self.source.removeprefix(HDF5) if self.source.startswith(HDF5) else None
        return None if named is None else Path(os.path.expanduser(named))

    def __post_init__(self) -> None:
        if (self.parent is None) != (self.fraction is None):
            expected = "null" if self.parent is None else "a share of the episodes"
            raise InputError(f"fraction: expected {expected} for the source {self.source}, found {self.fraction}")
        if self.source == RANDOM and self.environment is None:
            raise InputError("environment: expected one for the source `random`, such as {id: Pendulum-v1}, found null")
        for key, kinds in (("transitions", (LOCAL, RANDOM)), ("base_url", (D4RL,))):
            if getattr(self, key) is not None and not self.source.startswith(kinds):
                raise InputError(f"{key}: expected null for the source {self.source}, found {getattr(self, key)!r}")
        if self.parent is not None and self.environment is not None:
            raise InputError(
                f"environment: expected null for the source {self.source}, which has its whole's, found one"
            )


@dataclass(frozen=True, kw_only=True)
class InspectionSettings:
    """Stage `inspect`: what is in a data set, and whether it obeys the physics of its environment."""

    rows: int = setting("most transitions replayed in the simulator", 1000, minimum=1)
    seed: int = setting("seed of the drawn rows", 0, minimum=0)
