"""Point estimates with bootstrap intervals, as the field asks for them (Agarwal et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from pandas.core.groupby import DataFrameGroupBy
from scipy import stats

RESAMPLES = 2000
BATCH = 2_000_000
"""Resampled numbers that are held at once."""
Statistic = Callable[..., np.ndarray]


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of the middle half (Agarwal et al. 2021, §4.3); with fewer than four values, their mean."""
    return stats.trim_mean(values, 0.25, axis=axis)


def bootstrap_interval(values: np.ndarray, statistic: Statistic, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of `statistic` over values [n]; NaN where there are fewer than two."""
    if len(values) < 2:
        return float("nan"), float("nan")
    interval = stats.bootstrap(
        (values,),
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH // len(values)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def resampled_runs(groups: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Runs of bootstrap replicates, int64 [resamples, n], for n runs of which groups [n] says to which they belong.

    Hierarchical: groups (world models) are drawn with replacement, in proportion to their runs, so that all runs count
    alike; then for each of n places, which the drawn groups take in turn, a run of its group. With every run in a group
    of its own, the plain bootstrap.
    """
    names, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    members = [np.flatnonzero(group_of == number) for number in range(len(names))]
    drawn = rng.choice(len(names), size=(resamples, len(names)), p=sizes / len(groups))
    group_of_place = drawn[:, np.arange(len(groups)) % len(names)]
    padded = np.array([np.resize(runs, sizes.max()) for runs in members])
    return padded[group_of_place, rng.integers(sizes[group_of_place])]


def hierarchical_interval(values: np.ndarray, groups: np.ndarray, statistic: Statistic) -> tuple[float, float]:
    """95 % interval of `statistic` over values [n] that `resampled_runs` draws; NaN where there are fewer than two."""
    low, high = hierarchical_intervals(values, groups, statistic)
    return float(low), float(high)


def hierarchical_intervals(
    values: np.ndarray, groups: np.ndarray, statistic: Statistic
) -> tuple[np.ndarray, np.ndarray]:
    """The same of several quantities of the runs, values [..., n]: ends [...]."""
    if len(groups) < 2:
        return np.full(values.shape[:-1], np.nan), np.full(values.shape[:-1], np.nan)
    drawn = resampled_runs(groups, RESAMPLES, np.random.default_rng(0))
    batches = np.array_split(drawn, max(1, drawn.size * values[..., 0].size // BATCH))
    found = [statistic(values[..., batch], axis=-1) for batch in batches]
    return percentile_interval(np.concatenate(found, axis=-1), axis=-1)


def over_seeds(groups: DataFrameGroupBy) -> pd.DataFrame:
    """Mean over a group's rows, one for each world model, of `value`, and its ends: of one row `low` and `high`, which
    are its sample's interval; of several the range of their values."""
    alone, values = groups[["low", "high"]].first(), groups["value"]
    several = values.size() > 1
    ends = {"low": alone["low"].mask(several, values.min()), "high": alone["high"].mask(several, values.max())}
    return pd.DataFrame({"value": values.mean(), **ends})


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """P(X > Y), ties counted half, of runs x, y [..., tasks, runs], mean over tasks (Agarwal et al. 2021, §4.4): the
    Mann-Whitney U statistic by the number of pairs."""
    over = [np.sign(x[..., run, None] - y).mean(-1) for run in range(x.shape[-1])]  # all pairs at once are large
    return (0.5 * (1 + np.mean(over, axis=0))).mean(-1)


def performance_profile(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of values [..., n] above each threshold [t], [..., t] (Agarwal et al. 2021, §4.2)."""
    return (values[..., None, :] > thresholds[:, None]).mean(-1)


def percentile_interval(replicates: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the central 95 % of bootstrap replicates."""
    low, high = np.percentile(replicates, [2.5, 97.5], axis=axis)
    return low, high


def expected_choice(chosen_by: np.ndarray, judged: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """Mean of judged [n] for the configuration that `chosen_by` [n] prefers among k that are drawn, for each k of
    `tried`: Σ v₍ᵢ₎ ((i/n)^k - ((i-1)/n)^k) in the order of `chosen_by` (Dodge et al. 2019, eq. 7; expected online
    performance of Kurenkov & Kolesnikov 2022); of those that it holds for equal, the mean. What judged it must not have
    chosen it too: it would be chosen for its noise.
    """
    ranks = np.arange(len(judged) + 1) / len(judged)
    weights = np.diff(ranks ** np.asarray(tried)[:, None], axis=-1)
    fair = pd.Series(judged).groupby(chosen_by).transform("mean").to_numpy()
    return weights @ fair[np.argsort(chosen_by, kind="stable")]
