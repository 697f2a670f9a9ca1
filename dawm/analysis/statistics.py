"""Point estimates with bootstrap intervals, as the field asks for them (Agarwal et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

RESAMPLES = 2000
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
        batch=max(1, 2_000_000 // len(values)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def resampled_runs(groups: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Runs of bootstrap replicates, int64 [resamples, n], for n runs of which groups [n] says to which they belong.

    Hierarchical: groups (world models) are drawn with replacement, then for each of n places, which the drawn groups
    take in turn, a run of its group. With every run in a group of its own, the plain bootstrap.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(group_of == number) for number in range(len(names))]
    drawn = rng.integers(len(names), size=(resamples, len(names)))
    group_of_place = drawn[:, np.arange(len(groups)) % len(names)]
    sizes = np.array([len(runs) for runs in members])
    padded = np.array([np.resize(runs, sizes.max()) for runs in members])
    return padded[group_of_place, rng.integers(sizes[group_of_place])]


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """P(X > Y), ties counted half, of runs x, y [..., tasks, runs], mean over tasks (Agarwal et al. 2021, §4.4): the
    Mann-Whitney U statistic by the number of pairs."""
    over = np.sign(x[..., :, None] - y[..., None, :])
    return (0.5 * (1 + over.mean((-1, -2)))).mean(-1)


def performance_profile(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of values [..., n] above each threshold [t], [..., t] (Agarwal et al. 2021, §4.2)."""
    return (values[..., None, :] > thresholds[:, None]).mean(-1)


def percentile_interval(replicates: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the central 95 % of bootstrap replicates."""
    low, high = np.percentile(replicates, [2.5, 97.5], axis=axis)
    return low, high


def expected_best(values: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """Mean of the best of k configurations that are drawn from those of values [..., n], for each k of `tried`, as
    [..., k]: Σ v₍ᵢ₎ ((i/n)^k - ((i-1)/n)^k) (Dodge et al. 2019, eq. 7; expected online performance of Kurenkov &
    Kolesnikov 2022)."""
    ranks = np.arange(values.shape[-1] + 1) / values.shape[-1]
    weights = np.diff(ranks ** np.asarray(tried)[:, None], axis=-1)
    return np.sort(values, axis=-1) @ weights.T
