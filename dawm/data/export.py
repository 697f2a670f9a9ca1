"""Stage `export`: a source becomes a sealed data set of Parquet shards, with its held-out episodes chosen for good."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dawm.config import ExportSettings, as_mapping
from dawm.data.files import only_writer
from dawm.data.sealed import seal, unseal
from dawm.data.sources import load_source
from dawm.data.transitions import Transitions, write_shard
from dawm.layout import shard_name
from dawm.randomness import generator


def export(settings: ExportSettings, output: Path) -> None:
    """Writes `output`/shard-*.parquet, metadata.json and provenance.json (kind "dataset")."""
    data = load_source(settings)
    transitions, task = data.transitions, data.task
    returns = episode_returns(transitions)
    held_out = hold_out(len(returns), settings.held_out_fraction, settings.seed)
    count = -(-len(transitions) // settings.rows_per_shard)
    with only_writer(output):
        unseal(output)
        for old in output.glob("shard-*.parquet"):
            old.unlink()
        names = [shard_name(number, count) for number in range(count)]
        for number, name in enumerate(names):
            rows = slice(number * settings.rows_per_shard, (number + 1) * settings.rows_per_shard)
            write_shard(output / name, transitions.take(rows))
        seal(
            output,
            "dataset",
            files=names,
            settings=as_mapping(settings),
            seed=settings.seed,
            metadata={
                **data.facts,
                "environment": task.environment,
                "observation_dim": task.observation_dim,
                "action_dim": task.action_dim,
                "reference_min": task.reference_min,
                "reference_max": task.reference_max,
                "rows": len(transitions),
                "episodes": len(returns),
                "terminals": int(transitions.terminal.sum()),
                "timeouts": int(transitions.timeout.sum()),
                "mean_return": float(returns.mean()),
                "smallest_return": float(returns.min()),
                "largest_return": float(returns.max()),
                "held_out_episodes": held_out.tolist(),
            },
        )


def episode_returns(transitions: Transitions) -> np.ndarray:
    """Undiscounted return of every episode, float64 [episodes], raw reward."""
    return np.bincount(transitions.episode, weights=transitions.reward.astype(np.float64))


def hold_out(episodes: int, fraction: float, seed: int) -> np.ndarray:
    """Sorted numbers of the held-out episodes: at least one, and never all."""
    count = min(max(1, round(fraction * episodes)), episodes - 1)
    return np.sort(generator(seed, "held-out").permutation(episodes)[:count])
