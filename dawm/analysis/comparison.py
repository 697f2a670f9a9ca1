"""Stage `compare`: arms against each other over data sets and seeds, from the scores alone.

Statistics are those of Agarwal et al. 2021 ("Deep RL at the Edge of the Statistical Precipice"): IQM, performance
profiles, probability of improvement. Intervals are 95 % percentile bootstrap intervals, stratified by data set,
hierarchical over world models, and paired: one replicate draws the same seeds for every arm. The probability of
improvement compares runs that are not paired, and its replicates draw the seeds of either arm alone. Arms are compared
on the data sets and seeds for which all of them have a score; what that leaves out is said below every table.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dawm.analysis.comparison_figures import draw_comparison
from dawm.analysis.comparison_markdown import PANEL, iqm_markdown, markdown, scores_markdown
from dawm.analysis.run_scores import SCORE, read_scores
from dawm.analysis.statistics import (
    RESAMPLES,
    expected_choice,
    interquartile_mean,
    percentile_interval,
    performance_profile,
    probability_of_improvement,
    resampled_runs,
)
from dawm.analysis.style import REFERENCE, learner_name, save_all
from dawm.analysis.tables import LAST_EVALUATIONS
from dawm.data.files import only_writer, read_bytes, write_csv, write_text
from dawm.data.sealed import refuse_other, seal, unseal
from dawm.errors import InputError

VARIANT = "__"
"""Between an arm's name and what is different in one of its variants."""
FEW_SEEDS = 4
"""Of fewer an interval is little more than their range; docs/results.md has how often those of five hold the truth."""
THRESHOLDS = np.arange(0.0, 121.0, 2.0)


@dataclass(frozen=True)
class Panel:
    """All arms of a learner at one data fraction.

    scores: float64 [tasks, seeds] by arm; tasks: the data sets that every arm has, parts by the name of the whole;
    replicates, others: seeds drawn by each bootstrap replicate, int64 [resamples, tasks, seeds], the same for all arms;
    two independent draws; episodes: that a score is the mean of; notes: what a reader of its numbers must know.
    """

    algorithm: str
    data_fraction: float
    tasks: Sequence[str]
    scores: Mapping[str, np.ndarray]
    replicates: np.ndarray
    others: np.ndarray
    episodes: int
    notes: Sequence[str]

    @property
    def seeds(self) -> int:
        return self.replicates.shape[2]

    def interval(self, replicates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of a statistic [resamples, ...]; not a number where one seed tells nothing about others."""
        low, high = percentile_interval(replicates)
        return (low, high) if self.seeds > 1 else (np.full_like(low, np.nan), np.full_like(high, np.nan))

    def replicated(self, arm: str) -> np.ndarray:
        """Scores of the replicates, float64 [resamples, tasks, seeds]."""
        return np.take_along_axis(self.scores[arm][None], self.replicates, axis=2)

    def otherwise_replicated(self, arm: str) -> np.ndarray:
        """The same from draws that are independent of those."""
        return np.take_along_axis(self.scores[arm][None], self.others, axis=2)


def compare(scores: Sequence[Path], output: Path) -> str:
    """Writes `output`: a CSV file for each of TABLES, the same for people in Markdown, and figures, sealed; returns a
    sentence about it.

    scores: tables `scores.csv` of one or several experiments; runs without a normalised score are left out, and
    counted: all of them where an environment has no reference returns.
    """
    refuse_other(output, "comparison")
    table = read_scores(scores)
    scored = table[np.isfinite(table[SCORE])]
    found = list(panels(scored))
    notes = [note for panel in found for note in panel.notes]
    tables = {
        name: pd.DataFrame([row for panel in found for row in rows(panel)], columns=columns)
        for name, (rows, columns) in TABLES.items()
    }
    figures = draw_comparison(tables)
    with only_writer(output):
        unseal(output, "comparison")
        for name, rows in tables.items():
            write_csv(output / f"{name}.csv", rows)
        aggregates, pairs = as_written(tables["aggregates"]), as_written(tables["pairs"])
        pages = {
            "comparison.md": markdown(aggregates, pairs),
            "iqm.md": iqm_markdown(aggregates, pairs),
            "scores.md": scores_markdown(as_written(scored), pairs),
        }
        for name, page in pages.items():
            write_text(output / name, "\n".join([page, *(f"{note}\n" for note in notes)]))
        drawn = save_all(figures, output)
        seal(
            output,
            "comparison",
            files=[*(f"{name}.csv" for name in tables), *pages, *drawn],
            settings={},
            metadata={
                "scores": {str(path): hashlib.sha256(read_bytes(path)).hexdigest() for path in scores},
                "runs": len(scored),
                "runs_without_score": len(table) - len(scored),
                "notes": notes,
            },
        )
    return f"{output}: {len(scored):,} runs compared, {len(table) - len(scored):,} without a score left out"


def as_written(table: pd.DataFrame) -> pd.DataFrame:
    """With the numbers that `write_csv` leaves, so that pages which are made of either round alike."""
    floats = table.select_dtypes("float").columns
    return table.assign(**{name: [float(f"{value:.6g}") for value in table[name]] for name in floats})


def panels(table: pd.DataFrame) -> Iterator[Panel]:
    """One for each learner and data fraction. Arms are compared on the tasks that they share; seeds are shared too."""
    for (algorithm, fraction), rows in table.groupby(["algorithm", "data_fraction"], sort=False):
        arms = list(rows["augmentation"].unique())
        wide = rows.pivot(index=["whole", "seed"], columns="augmentation", values=SCORE)[arms]
        shared = shared_runs(wide, rows["whole"].unique())
        if shared.empty:
            raise InputError(f"{algorithm}: expected arms with data sets and seeds in common, found none")
        tasks = list(shared.index.unique("whole"))
        scores = {arm: np.stack([shared.loc[task, arm].to_numpy() for task in tasks]) for arm in arms}
        replicates, others = replicated_seeds(rows, {task: shared.loc[task].index for task in tasks})
        episodes = LAST_EVALUATIONS * int(rows["episodes"].max())
        said = (*left_out(wide, shared.index), *cautions(rows, replicates.shape[2]))
        notes = [f"{learner_name(str(algorithm))}: {sentence}." for sentence in said]
        yield Panel(str(algorithm), float(fraction), tasks, scores, replicates, others, episodes, notes)


def shared_runs(wide: pd.DataFrame, tasks: Iterable[str]) -> pd.DataFrame:
    """Of scores by task and seed, a column for each arm, as many as can be that every arm has: as many seeds on each
    task that has so many, first those that most tasks have."""
    shared = wide.dropna()
    if shared.empty:
        return shared
    seeds = shared.groupby(level="whole").size()
    count = max(seeds, key=lambda least: (least * (seeds >= least).sum(), (seeds >= least).sum()))
    common = shared.groupby(level="seed").transform("size").sort_values(ascending=False, kind="stable")
    chosen = common.groupby(level="whole").head(count).index
    return shared[shared.index.isin(chosen)].loc[[task for task in tasks if seeds.get(task, 0) >= count]]


def replicated_seeds(rows: pd.DataFrame, seeds: Mapping[str, pd.Index]) -> tuple[np.ndarray, np.ndarray]:
    """Two independent draws of bootstrap replicates over some seeds of each task, int64 [resamples, tasks, seeds]."""
    rng = np.random.default_rng(0)
    groups = [groups_of(rows, task, of_task) for task, of_task in seeds.items()]
    first, second = (np.stack([resampled_runs(names, RESAMPLES, rng) for names in groups], axis=1) for _ in range(2))
    return first, second


def left_out(wide: pd.DataFrame, kept: pd.Index) -> Iterator[str]:
    """What of a learner's scores (a column by arm, NaN where there is none) is compared for no arm, and why. kept: the
    tasks and seeds that are."""
    for task, rows in wide.groupby(level="whole", sort=False):
        lost = rows[~rows.index.isin(kept)]
        if lost.empty:
            continue
        gaps, seeds, whole = lost.isna(), lost.index.get_level_values("seed"), len(lost) == len(rows)
        why = [f"`{arm}` has no score with seed {_listed(seeds[gaps[arm]])}" for arm in rows if gaps[arm].any()]
        why = why or [f"other data sets have {'more' if whole else 'fewer'} seeds"]
        what = str(task) if whole else f"seed {_listed(seeds)} of {task}"
        yield f"{what} is in no IQM and no comparison, since {', and '.join(why)}"


def _listed(seeds: pd.Index) -> str:
    return ", ".join(map(str, seeds))


def cautions(rows: pd.DataFrame, seeds: int) -> Iterator[str]:
    """Said where intervals are too short: of few seeds, or where they cannot hold what world models differ in."""
    if 1 < seeds < FEW_SEEDS:
        yield f"a 95 % interval of {seeds} seeds is too short: it misses the truth in far more than 5 cases of 100"
    if any(differ(world_models_by_arm(of_task)) for _, of_task in rows.groupby("whole")):
        yield "arms have world models of different seeds; intervals are drawn by those of the arm with the fewest"
    if rows["seed"].nunique() > 1 and rows["world_model_seed"].nunique() == 1:
        yield (
            "all seeds share one world model, so no interval holds what world models differ in, and what is chosen is "
            "judged by the model that it was chosen with"
        )


def groups_of(rows: pd.DataFrame, task: str, seeds: pd.Index) -> np.ndarray:
    """Which world model each seed's synthetic transitions came from, [seeds], of the arm that has the fewest; its own
    number where there is none."""
    arms = world_models_by_arm(rows[rows["whole"] == task])
    world_models = min(arms, key=lambda of_arm: of_arm.nunique(), default=pd.Series(dtype=float))
    return np.array([str((world_models[seed],) if seed in world_models else f"seed {seed}") for seed in seeds])


def differ(arms: Sequence[pd.Series]) -> bool:
    """Whether a seed has one world model in some arm and another in another."""
    return bool(arms) and bool((pd.concat(arms).groupby(level="seed").nunique() > 1).any())


def world_models_by_arm(rows: pd.DataFrame) -> list[pd.Series]:
    """Of each arm that has any, the world model's seed by the run's."""
    known = rows[rows["world_model_seed"].notna()].sort_values("seed")
    return [of_arm.set_index("seed")["world_model_seed"] for _, of_arm in known.groupby("augmentation", sort=False)]


STATISTICS = {
    "iqm": lambda values: interquartile_mean(values.reshape(*values.shape[:-2], -1)),
    "mean": lambda values: values.mean((-1, -2)),
    "median": lambda values: np.median(values.mean(-1), axis=-1),  # over data sets, of the means over seeds
    "optimality_gap": lambda values: np.maximum(100 - values, 0).mean((-1, -2)),
}


def aggregate_rows(panel: Panel) -> Iterator[dict[str, object]]:
    """Over all data sets and seeds of an arm, score units."""
    for arm, values in panel.scores.items():
        replicates = panel.replicated(arm)
        for name, statistic in STATISTICS.items():
            low, high = map(float, panel.interval(statistic(replicates)))
            yield {
                **_place(panel),
                "augmentation": arm,
                "statistic": name,
                "value": float(statistic(values)),
                "low": low,
                "high": high,
                "datasets": len(panel.tasks),
                "seeds": panel.seeds,
            }


def pair_rows(panel: Panel) -> Iterator[dict[str, object]]:
    """Every arm against every other: difference of the IQMs and of the means, P(a run of the first is better), on how
    many data sets the mean is better, and by how many points it differs at least and at most."""
    replicates = {arm: panel.replicated(arm) for arm in panel.scores}
    others = {arm: panel.otherwise_replicated(arm) for arm in panel.scores}
    chances = {  # drawn once for both orders of a pair, so that these agree
        (arm, other): tuple(map(float, panel.interval(probability_of_improvement(replicates[arm], others[other]))))
        for arm, other in itertools.combinations(panel.scores, 2)
    }
    for arm, other in itertools.permutations(panel.scores, 2):
        x, y = panel.scores[arm], panel.scores[other]
        apart: dict[str, float] = {}
        for name in ("iqm", "mean"):
            statistic = STATISTICS[name]
            apart[f"{name}_difference"] = float(statistic(x) - statistic(y))
            ends = panel.interval(statistic(replicates[arm]) - statistic(replicates[other]))
            apart[f"{name}_low"], apart[f"{name}_high"] = map(float, ends)
        if (arm, other) in chances:
            chance_low, chance_high = chances[arm, other]
        else:
            chance_high, chance_low = (1 - end for end in chances[other, arm])
        differences = x.mean(1) - y.mean(1)
        yield {
            **_place(panel),
            "augmentation": arm,
            "other": other,
            **apart,
            "probability_of_improvement": float(probability_of_improvement(x, y)),
            "probability_low": chance_low,
            "probability_high": chance_high,
            "better": int((differences > 0).sum()),
            "datasets": len(panel.tasks),
            "smallest_difference": differences.min(),
            "largest_difference": differences.max(),
        }


def profile_rows(panel: Panel) -> Iterator[dict[str, object]]:
    """Share of an arm's runs above each score."""
    for arm, values in panel.scores.items():
        shares = performance_profile(values.ravel(), THRESHOLDS)
        replicates = panel.replicated(arm).reshape(len(panel.replicates), -1)
        lows, highs = panel.interval(performance_profile(replicates, THRESHOLDS))
        for score, share, low, high in zip(THRESHOLDS, shares, lows, highs, strict=True):
            yield {**_place(panel), "augmentation": arm, "score": score, "share": share, "low": low, "high": high}


def difference_rows(panel: Panel) -> Iterator[dict[str, object]]:
    """Mean score of every arm on every data set, and its distance from the reference arm's, mean over paired seeds."""
    if REFERENCE not in panel.scores:
        return
    for arm, values in panel.scores.items():
        for task, scores, others in zip(panel.tasks, values, panel.scores[REFERENCE], strict=True):
            if arm != REFERENCE:
                place = {**_place(panel), "augmentation": arm, "dataset": task}
                yield {**place, "score": scores.mean(), "difference": (scores - others).mean()}


def budget_rows(panel: Panel) -> Iterator[dict[str, object]]:
    """Of every family of arms (NAME and NAME__variant): the score to be expected, on a seed that did not choose, of the
    best of k configurations by the mean of the other seeds, mean over the seeds left out, least and largest; the online
    episodes that the choice takes; and NAME's own score, which takes none."""
    families: dict[str, list[str]] = {}
    for arm in panel.scores:
        families.setdefault(arm.partition(VARIANT)[0], []).append(arm)
    for family, arms in families.items():
        if len(arms) < 2 or panel.seeds < 2:
            continue
        tried = np.arange(1, len(arms) + 1)
        scores = np.stack([panel.scores[arm].mean(0) for arm in arms])
        judged = np.stack(
            [
                expected_choice(np.delete(scores, seed, axis=1).mean(1), scores[:, seed], tried)
                for seed in range(panel.seeds)
            ]
        )
        trial = len(panel.tasks) * (panel.seeds - 1) * panel.episodes
        fixed = panel.scores[family].mean() if family in panel.scores else np.nan
        for k, values in zip(tried.tolist(), judged.T, strict=True):
            yield {
                **_place(panel),
                "family": family,
                "configurations": k,
                "episodes": k * trial,
                "value": values.mean(),
                "least": values.min(),
                "largest": values.max(),
                "fixed": fixed,
            }


TABLES: dict[str, tuple[Callable[[Panel], Iterator[dict[str, object]]], list[str]]] = {
    "aggregates": (aggregate_rows, [*PANEL, "statistic", "value", "low", "high", "datasets", "seeds"]),
    "pairs": (
        pair_rows,
        [
            *(*PANEL, "other", "iqm_difference", "iqm_low", "iqm_high", "mean_difference", "mean_low", "mean_high"),
            *("probability_of_improvement", "probability_low", "probability_high"),
            *("better", "datasets", "smallest_difference", "largest_difference"),
        ],
    ),
    "differences": (difference_rows, [*PANEL, "dataset", "score", "difference"]),
    "profiles": (profile_rows, [*PANEL, "score", "share", "low", "high"]),
    "budgets": (
        budget_rows,
        [*PANEL[:2], "family", "configurations", "episodes", "value", "least", "largest", "fixed"],
    ),
}
"""What makes the rows of each table, and its columns, which an empty one has too."""


def _place(panel: Panel) -> dict[str, object]:
    return {"algorithm": panel.algorithm, "data_fraction": panel.data_fraction}
