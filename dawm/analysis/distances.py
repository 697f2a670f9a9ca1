"""How far a set of transitions is from real ones as a set: marginals, correlations, and whether it is new."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata

from dawm.analysis.replaying import origins
from dawm.analysis.statistics import hierarchical_interval
from dawm.data.normalizers import SMALLEST_STD
from dawm.data.transitions import Transitions


@dataclass(frozen=True)
class Reference:
    """Real transitions that others are compared with, standardised by their own mean and deviation.

    known [n, d]: of the train split, for the distance to the nearest; unseen [m, d]: of held-out episodes; d columns
    are state, action, reward and change of state.
    """

    mean: np.ndarray
    deviation: np.ndarray
    known: np.ndarray
    unseen: np.ndarray

    @classmethod
    def of(cls, train: Transitions, held_out: Transitions) -> Reference:
        known, unseen = columns(train), columns(held_out)
        deviation = known.std(0)
        made = cls(known.mean(0), np.where(deviation > SMALLEST_STD, deviation, 1.0), known, unseen)
        return cls(made.mean, made.deviation, made.standardised(known), made.standardised(unseen))

    def standardised(self, values: np.ndarray) -> np.ndarray:
        return (values - self.mean) / self.deviation


def columns(transitions: Transitions) -> np.ndarray:
    """[n, 2 obs_dim + act_dim + 1] float64: s, a, r, s′ - s."""
    change = transitions.next_observation - transitions.observation
    parts = [transitions.observation, transitions.action, transitions.reward[:, None], change]
    return np.concatenate(parts, axis=1).astype(np.float64)


def compare(transitions: Transitions, reference: Reference) -> Iterator[tuple[str, float, float, float, int]]:
    """(quantity, value, low, high, rows). Novelty alone has a 95 % bootstrap interval: a replicate has some rows twice
    and lies farther from anything than they do, so that none tells of a distance.

    marginal_distance: mean over columns of the Wasserstein-1 distance to held-out real transitions, by quantiles;
    correlation_distance: mean absolute difference of the pairwise rank correlations (Spearman) from theirs;
    novelty: median distance to the nearest transition of the train split, see `nearest_distance`.
    """
    rows = reference.standardised(columns(transitions))
    if len(rows) < 2:
        return
    for name, of in {"marginal_distance": quantiles, "correlation_distance": rank_correlations}.items():
        yield name, float(np.abs(of(rows) - of(reference.unseen)).mean()), np.nan, np.nan, len(rows)
    nearest = nearest_distance(rows, reference.known)
    low, high = hierarchical_interval(nearest, origins(transitions), np.median)
    yield "novelty", float(np.median(nearest)), low, high, len(rows)


def quantiles(rows: np.ndarray) -> np.ndarray:
    """200 equally spaced quantiles of every column of [n, d], [200, d]: their mean distance is Wasserstein-1."""
    return np.quantile(rows, (np.arange(200) + 0.5) / 200, axis=0)


def rank_correlations(rows: np.ndarray) -> np.ndarray:
    """Spearman's, of every two columns of [n, d], each pair once; 0 for a column that is constant."""
    ranks = rankdata(rows, axis=0)
    centred = ranks - ranks.mean(0)
    length = np.sqrt((centred**2).sum(0))
    scale = length[:, None] * length
    matrix = (centred.T @ centred) / np.where(scale > 0, scale, 1.0)
    return matrix[np.triu_indices(rows.shape[1], 1)]


def nearest_distance(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Root mean square over columns of the difference from the nearest of `known` [n, d], for each of rows [m, d]."""
    to_all = torch.cdist(torch.from_numpy(rows), torch.from_numpy(known), compute_mode="donot_use_mm_for_euclid_dist")
    return (to_all.amin(1) / rows.shape[1] ** 0.5).numpy()
