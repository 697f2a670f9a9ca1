"""How far can the intervals be trusted, and how much do world models differ?

    python benchmarks/intervals.py

Intervals are percentiles of a hierarchical bootstrap over few seeds of few world models. Simulated comparisons of two
arms that are equally good, one of them with world models, tell how often an interval of 95 % holds the true difference,
zero, and how long it is. They take a share of the variance of scores that lies between world models; what it is in the
evidence is told by the variance within the seeds of one world model over that of all seeds, in every cell of learner,
arm and data set that has such seeds: one where world models do not matter. `real` has none, so that its seeds, grouped
alike, tell what chance makes of that. Written to results/published/intervals/, which documents quote.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from measuring import quote_tables

from dawm.analysis.comparison import STATISTICS
from dawm.analysis.run_scores import SCORE
from dawm.analysis.statistics import RESAMPLES, percentile_interval, resampled_runs
from dawm.analysis.style import REFERENCE
from dawm.data.files import write_csv, write_text

OUTPUT = Path("results/published/intervals")
EXPERIMENTS = ("evidence", "evidence-2")
CELL = ["algorithm", "dataset", "augmentation"]
DESIGNS = ((1, 5, 3), (4, 5, 3), (4, 10, 10), (9, 5, 3), (9, 10, 10))
"""Data sets, seeds, world models."""
SHARES = (0.0, 0.25, 0.5)
SIMULATIONS = 1_000
DEVIATION = 5.0
"""Of an arm's scores over seeds, on each data set, in points."""


def between_world_models(scores: pd.DataFrame) -> pd.DataFrame:
    """By cell, the share of the variance of scores that lies within world models, in units of all of it.

    scores: runs of one experiment. Seed number i has world model number i modulo their count in every arm; arms without
    world models are grouped by those of the others.
    """
    model_of = scores.dropna(subset="world_model_seed").groupby("seed")["world_model_seed"].first()
    rows = []
    for cell, runs in scores.groupby(CELL, sort=False):
        total = runs[SCORE].var()
        if total > 0:
            groups = runs.groupby(runs["seed"].map(model_of))[SCORE]
            within = groups.var().mul(groups.size() - 1).sum() / (groups.size() - 1).sum()
            rows.append([*cell, within / total])
    return pd.DataFrame(rows, columns=[*CELL, "within"])


def simulated(datasets: int, seeds: int, world_models: int, share: float) -> Iterator[dict[str, float]]:
    """By statistic: how often its interval holds the true difference of two arms, and half its mean length.

    share: of the variance of the second arm's scores that lies between world models; the first has none.
    """
    rng = np.random.default_rng(0)
    model_of = np.arange(seeds) % world_models
    draws = np.stack([resampled_runs(model_of, RESAMPLES, rng) for _ in range(datasets)], axis=1)
    places = np.arange(datasets)[:, None]
    levels = np.linspace(10, 90, datasets)[:, None]
    differences = {name: np.empty((SIMULATIONS, 2)) for name in ("iqm", "mean")}
    for number in range(SIMULATIONS):
        own = rng.standard_normal((2, datasets, seeds))
        models = rng.standard_normal((datasets, world_models))[:, model_of]
        own[1] = np.sqrt(1 - share) * own[1] + np.sqrt(share) * models
        scores = levels + DEVIATION * own
        real, synthetic = scores[:, places, draws]
        for name, ends in differences.items():
            ends[number] = percentile_interval(STATISTICS[name](synthetic) - STATISTICS[name](real))
    for name, ends in differences.items():
        yield {
            "datasets": datasets,
            "seeds": seeds,
            "world_models": world_models,
            "share": share,
            "statistic": name,
            "coverage": float(((ends[:, 0] <= 0) & (ends[:, 1] >= 0)).mean()),
            "half_length": float(np.ptp(ends, axis=1).mean() / 2),
        }


def variance_markdown(table: pd.DataFrame) -> str:
    """Mean over cells, and its 95 % interval by a bootstrap over the learners and data sets."""
    lines = [
        "| experiment | arms | cells | variance within world models, of all |",
        "|---|---|---:|---:|",
    ]
    rng = np.random.default_rng(0)
    arms = np.where(table["augmentation"] == REFERENCE, f"`{REFERENCE}` (grouped alike)", "with world models")
    for (experiment, name), cells in table.groupby(["experiment", arms], sort=False):
        blocks = cells.groupby(CELL[:2])["within"].agg(["sum", "size"]).to_numpy()
        sums = blocks[rng.integers(len(blocks), size=(RESAMPLES, len(blocks)))].sum(1)
        low, high = percentile_interval(sums[:, 0] / sums[:, 1])
        lines.append(
            f"| `{experiment}` | {name} | {len(cells)} | {cells['within'].mean():.2f} ({low:.2f} to {high:.2f}) |"
        )
    return "\n".join(lines) + "\n"


def coverage_markdown(table: pd.DataFrame) -> str:
    """A line for each design, coverages by the share of variance between world models."""
    shares = " | ".join(f"{name}, {share:.0%}" for name in ("IQM", "mean") for share in SHARES)
    lines = [
        f"| data sets | seeds | world models | {shares} | half length, IQM | mean |",
        "|---:|---:|---:|" + "---:|" * (2 * len(SHARES) + 2),
    ]
    for design, rows in table.groupby(["datasets", "seeds", "world_models"], sort=False):
        wide = rows.pivot(index="statistic", columns="share")
        covered = [f"{wide.loc[name, ('coverage', share)]:.1%}" for name in ("iqm", "mean") for share in SHARES]
        halves = [f"{wide.loc[name, ('half_length', 0.0)]:.1f}" for name in ("iqm", "mean")]
        lines.append(f"| {' | '.join([*map(str, design), *covered, *halves])} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    cells = []
    for experiment in EXPERIMENTS:
        ended = pd.read_csv(OUTPUT.parent / experiment / "ended.csv")
        learners = ended[~ended["algorithm"].isin(["bc", "bc_10"])]
        cells.append(between_world_models(learners).assign(experiment=experiment))
    found = pd.concat(cells)[["experiment", *CELL, "within"]]
    variance = found.drop_duplicates([*CELL, "within"])  # some runs are both experiments'
    coverage = pd.DataFrame(
        row for design, share in itertools.product(DESIGNS, SHARES) for row in simulated(*design, share)
    )
    for name, table, page in (
        ("world_models", variance, variance_markdown(variance)),
        ("coverage", coverage, coverage_markdown(coverage)),
    ):
        write_csv(OUTPUT / f"{name}.csv", table)
        write_text(OUTPUT / f"{name}.md", page)
        print(page)
    quote_tables()
    return 0


if __name__ == "__main__":
    sys.exit(main())
