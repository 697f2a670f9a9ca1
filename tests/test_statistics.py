"""Interquartile means and bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pytest

from dawm.analysis.statistics import bootstrap_interval, interquartile_mean


def test_interquartile_mean_leaves_the_outer_quarters_out() -> None:
    assert interquartile_mean(np.array([100.0, 3.0, -50.0, 1.0])) == 2.0
    assert interquartile_mean(np.array([8.0, 7, 6, 5, 4, 3, 2, 1])) == (3 + 4 + 5 + 6) / 4
    assert interquartile_mean(np.array([0.0, 1, 2, 3, 1000])) == 2.0  # one of five from either end
    values = np.random.default_rng(0).normal(0, 1, 21)
    np.testing.assert_allclose(interquartile_mean(values), sum(sorted(values.tolist())[5:-5]) / 11)


def test_interquartile_mean_of_fewer_than_four_values_is_their_mean() -> None:
    assert interquartile_mean(np.array([7.0])) == 7.0
    assert interquartile_mean(np.array([0.0, 1.0, 8.0])) == 3.0


def test_interquartile_mean_goes_along_its_axis() -> None:
    values = np.array([[100.0, 3, -50, 1], [0, 0, 4, 4]])
    assert interquartile_mean(values).tolist() == [2.0, 2.0]
    assert interquartile_mean(values.T, axis=0).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("statistic", [np.mean, np.median, interquartile_mean])
def test_interval_contains_the_estimate_and_is_as_wide_as_the_data_say(statistic: object) -> None:
    values = np.random.default_rng(0).normal(10, 2, 400)
    low, high = bootstrap_interval(values, statistic, seed=0)  # type: ignore[arg-type]
    assert low < statistic(values, axis=-1) < high  # type: ignore[operator]
    assert low < 10 < high
    assert 0.8 < (high - low) / (2 * 1.96 * 2 / np.sqrt(400)) < 1.6  # a median's is 1.25 times a mean's


def test_interval_of_a_mean_agrees_with_a_bootstrap_by_hand() -> None:
    values = np.random.default_rng(1).exponential(1, 60)
    rng = np.random.default_rng(2)
    means = sorted(np.mean([values[i] for i in rng.integers(60, size=60)]) for _ in range(4000))
    low, high = bootstrap_interval(values, np.mean, seed=0)
    np.testing.assert_allclose([low, high], [means[100], means[-100]], atol=0.04)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng, hits = np.random.default_rng(0), 0
    for trial in range(100):
        low, high = bootstrap_interval(rng.normal(0, 1, 40), np.mean, seed=trial)
        hits += low < 0 < high
    assert 86 <= hits <= 100


def test_interval_is_the_same_each_time_and_another_seed_draws_another() -> None:
    values = np.random.default_rng(0).normal(0, 1, 30)
    first = bootstrap_interval(values, np.mean, seed=0)
    assert bootstrap_interval(values, np.mean, seed=0) == first
    assert bootstrap_interval(values, np.mean, seed=1) != first


def test_interval_is_unknown_for_fewer_than_two_values() -> None:
    for values in (np.empty(0), np.array([3.0])):
        assert np.isnan(bootstrap_interval(values, np.mean, seed=0)).all()


def test_interval_of_equal_values_is_that_value() -> None:
    assert bootstrap_interval(np.full(5, 2.5), np.mean, seed=0) == (2.5, 2.5)
