"""Stage `inspect`: what is in a data set, and does it obey the physics of its environment?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dawm.analysis.physics import Physics, check_physics
from dawm.config import (
    D4RL,
    HDF5,
    LOCAL,
    MINARI,
    PART,
    RANDOM,
    EnvironmentSettings,
    ExportSettings,
    InspectionSettings,
    as_mapping,
)
from dawm.data.files import only_writer, write_csv, write_json
from dawm.data.sealed import PROVENANCE, Sealed, open_sealed, seal, unseal
from dawm.data.sources import open_source
from dawm.data.sources.hdf5 import count_not_finite
from dawm.data.transitions import Transitions, next_step, number_episodes, read_transitions
from dawm.environments.tasks import Task, task_of_metadata
from dawm.errors import InputError

SATURATED = 0.999  # of the way to a bound
RANGE = ("smallest", "largest", "mean", "std")


@dataclass(frozen=True, eq=False)
class Inspection:
    """Everything that is printed, and the distributions that are drawn."""

    name: str
    facts: dict[str, Any]
    physics: Physics
    returns: np.ndarray
    lengths: np.ndarray
    transitions: Transitions
    task: Task

    def summary(self) -> dict[str, Any]:
        """As JSON, without the distributions."""
        return {"name": self.name, **self.facts, "physics": asdict(self.physics)}


def inspect(dataset: str, settings: InspectionSettings, environment: str | None = None) -> Inspection:
    """dataset: a sealed folder, an HDF5 file, or a source such as d4rl/hopper-medium-v2.

    environment: gymnasium's id, for a file that does not tell it.
    """
    transitions, task, facts = _load(dataset, environment)
    real = transitions if (transitions.episode >= 0).all() else _renumbered(transitions)
    lengths = np.bincount(real.episode)
    returns = np.bincount(real.episode, weights=real.reward.astype(np.float64))
    facts |= {
        "environment": task.environment,
        "rows": len(real),
        "episodes": len(lengths),
        "terminals": int(real.terminal.sum()),
        "timeouts": int(real.timeout.sum()),
        "terminals_unlike_termination_function": _terminals_unlike(real, task, facts),
        "length": _spread(lengths),
        "return": _spread(returns),
        "normalized_score": _score(task, returns),
        "duplicates": _duplicates(real),
        "observation": _ranges(real.observation),
        "action": _ranges(real.action),
        "reward": {key: values[0] for key, values in _ranges(real.reward[:, None]).items()},
        "constant_dimensions": np.flatnonzero(np.ptp(real.observation, axis=0) == 0).tolist(),
        "action_saturation": _saturation(real.action, task),
    }
    physics = _physics(real, task, facts, settings)
    return Inspection(dataset, facts, physics, returns, lengths, real, task)


def _physics(transitions: Transitions, task: Task, facts: dict[str, Any], settings: InspectionSettings) -> Physics:
    """Of rows that are single steps with a true successor."""
    if (steps := facts.get("n_step", 1)) != 1:
        return Physics("none", f"not possible: a row spans up to {steps} steps")
    unknown = facts.get("terminal_successors_known") is False
    return check_physics(transitions, task, ~(transitions.terminal & unknown), settings)


def _load(dataset: str, environment: str | None) -> tuple[Transitions, Task, dict[str, Any]]:
    folder = Path(dataset)
    if (folder / PROVENANCE).is_file():
        if environment is not None:
            raise InputError(
                f"--environment: expected none for {dataset}, whose metadata tells it, found {environment}"
            )
        sealed = open_sealed(folder, "dataset", "synthetic")
        return read_transitions(sealed), task_of_metadata(sealed.metadata), _origin(sealed)
    settings = _source(dataset, environment)
    try:
        opened = open_source(settings)
    except InputError as error:
        counts = count_not_finite(settings.file) if settings.file is not None and settings.file.is_file() else {}
        if not counts:
            raise
        found = ", ".join(f"{count:,} in {key!r}" for key, count in counts.items())
        raise InputError(f"{error}; not finite in all: {found}") from error
    blocks = list(opened.blocks)
    columns: dict[str, Any] = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return Transitions.real(**columns), opened.task, dict(opened.facts)


def _source(dataset: str, environment: str | None) -> ExportSettings:
    """Of what is no sealed folder."""
    path = Path(dataset)
    source = f"{HDF5}{dataset}" if path.suffix in (".hdf5", ".h5") and not dataset.startswith(HDF5) else dataset
    if source.startswith(PART):
        raise InputError(f"{dataset}: expected the folder that export wrote of a part, found its source")
    if source == RANDOM and environment is None:
        raise InputError(f"--environment: expected an ID such as Pendulum-v1 for the source {RANDOM}, found none")
    if source != RANDOM and not source.startswith((LOCAL, D4RL, HDF5, MINARI)):
        found = f"a folder without {PROVENANCE}" if path.is_dir() else "a file" if path.is_file() else "nothing there"
        expected = "a sealed folder, a file *.hdf5, or a source such as d4rl/hopper-medium-v2 or minari/ID"
        raise InputError(f"{dataset}: expected {expected}, found {found}")
    return ExportSettings(
        source=source, environment=None if environment is None else EnvironmentSettings(id=environment)
    )


def _origin(sealed: Sealed) -> dict[str, Any]:
    keys = ("source", "simulator", "terminal_successors_known", "unmarked_episode_ends", "n_step")
    found = {key: sealed.metadata[key] for key in keys if key in sealed.metadata}
    return {"kind": sealed.provenance["kind"], "digest": sealed.digest, **found}


def _renumbered(synthetic: Transitions) -> Transitions:
    """Synthetic trajectories as episodes; where rows were dropped, what is left of one as several."""
    columns = synthetic.columns()
    last = np.append(~next_step(synthetic.take(slice(-1)), synthetic.take(slice(1, None))), True)
    columns["episode"], columns["step"] = number_episodes(last)
    return Transitions(**columns)  # type: ignore[arg-type]


def _spread(values: np.ndarray) -> dict[str, float]:
    quantiles = dict(zip(("smallest", "median", "largest"), np.quantile(values, (0, 0.5, 1)).tolist(), strict=True))
    return {"mean": float(values.mean()), "std": float(values.std()), **quantiles}


def _ranges(values: np.ndarray) -> dict[str, list[float]]:
    """Per dimension of [n, dim]."""
    exact = values.astype(np.float64)
    found = (exact.min(0), exact.max(0), exact.mean(0), exact.std(0))
    return {name: values.tolist() for name, values in zip(RANGE, found, strict=True)}


def _score(task: Task, returns: np.ndarray) -> float | None:
    return float(task.normalized_score(returns.mean())) if task.reference_min is not None else None


def _terminals_unlike(transitions: Transitions, task: Task, facts: dict[str, Any]) -> int | None:
    """Rows whose terminal flag is not what the task's termination function says of the successor."""
    if task.termination is None or facts.get("terminal_successors_known") is False:
        return None
    return int((task.terminated(transitions.next_observation) != transitions.terminal).sum())


def _duplicates(transitions: Transitions) -> int:
    """Rows that have a twin before them: the same observation, action and reward, bit for bit."""
    rows = np.concatenate([transitions.observation, transitions.action, transitions.reward[:, None]], axis=1)
    whole = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))
    return len(rows) - len(np.unique(whole))


def _saturation(action: np.ndarray, task: Task) -> list[float]:
    """Share of rows at a bound, by action dimension."""
    low, high = np.array(task.action_low), np.array(task.action_high)
    scaled = (2 * action - low - high) / (high - low)
    return (np.abs(scaled) >= SATURATED).mean(0).tolist()


def save_inspection(inspection: Inspection, settings: InspectionSettings, output: Path) -> None:
    """Writes `output`/inspection.json, episodes.csv and inspection.png, sealed."""
    from dawm.analysis.dataset_figures import draw_inspection

    episodes = pd.DataFrame({"length": inspection.lengths, "return": inspection.returns})
    with only_writer(output):
        unseal(output, "inspection")
        write_json(output / "inspection.json", inspection.summary())
        write_csv(output / "episodes.csv", episodes)
        draw_inspection(inspection, output / "inspection.png")
        seal(
            output,
            "inspection",
            files=["inspection.json", "episodes.csv", "inspection.png"],
            settings=as_mapping(settings),
            seed=settings.seed,
            metadata={"dataset": inspection.name, "environment": inspection.task.environment},
        )


def lines(inspection: Inspection) -> Iterator[str]:
    """The inspection as text for a terminal."""
    facts, physics = inspection.facts, inspection.physics
    for key in ("kind", "source", "environment", "simulator", "rows", "episodes", "terminals", "timeouts"):
        if key in facts:
            yield f"{key:<22}{facts[key]:,}" if isinstance(facts[key], int) else f"{key:<22}{facts[key]}"
    if facts.get("unmarked_episode_ends"):
        yield f"{'ends without a flag':<22}{facts['unmarked_episode_ends']:,} (a successor is not the next observation)"
    if facts["terminals_unlike_termination_function"]:
        yield f"{'terminals':<22}{facts['terminals_unlike_termination_function']:,} unlike the termination function"
    for key in ("length", "return"):
        spread = facts[key]
        yield (
            f"{key:<22}mean {spread['mean']:,.1f} ± {spread['std']:,.1f}, "
            f"from {spread['smallest']:,.1f} by {spread['median']:,.1f} to {spread['largest']:,.1f}"
        )
    if facts["normalized_score"] is not None:
        yield f"{'normalised score':<22}{facts['normalized_score']:.1f} (mean return; 0 random, 100 reference)"
    yield f"{'returns':<22}{_histogram(inspection.returns)}"
    reward = facts["reward"]
    yield f"{'reward':<22}from {reward['smallest']:.4g} to {reward['largest']:.4g}, mean {reward['mean']:.4g}"
    yield f"{'duplicate rows':<22}{facts['duplicates']:,}"
    yield f"{'constant dimensions':<22}{facts['constant_dimensions'] or 'none'}"
    yield f"{'actions at a bound':<22}" + ", ".join(f"{100 * share:.1f} %" for share in facts["action_saturation"])
    for key in ("observation", "action"):
        yield f"{key:>12}    smallest     largest        mean         std"
        for dimension, row in enumerate(zip(*(facts[key][q] for q in RANGE), strict=True)):
            yield f"{dimension:>12}" + "".join(f"{value:>12.4g}" for value in row)
    yield f"{'physics':<22}{physics.verdict}"
    if physics.method != "none":
        yield (
            f"{'':<22}{physics.rows:,} rows replayed from {physics.method} ({100 * physics.coverage:.1f} % of rows can "
            f"be), {100 * (physics.reproduced or 0):.2f} % equal to float32"
        )
        yield (
            f"{'':<22}observation error: median {physics.observation_error_median:.3g}, "
            f"largest {physics.observation_error_largest:.3g}; reward error: median {physics.reward_error_median:.3g}, "
            f"largest {physics.reward_error_largest:.3g}; terminals that differ: {physics.terminals_differ}"
        )
        yield (
            f"{'':<22}relative to a step's change: {physics.relative_error:.3g} ('nothing moves': {physics.still:.3g})"
        )


def _histogram(values: np.ndarray, bins: int = 40) -> str:
    """One line of blocks between the smallest and the largest value."""
    counts, edges = np.histogram(values, bins=bins)
    levels = np.ceil(8 * counts / counts.max()).astype(int)
    return f"{edges[0]:,.0f} {''.join(' ▁▂▃▄▅▆▇█'[level] for level in levels)} {edges[-1]:,.0f}"
