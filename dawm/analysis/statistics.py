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
