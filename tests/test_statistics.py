"""Interquartile means and bootstrap intervals."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dawm.analysis.statistics import (
    bootstrap_interval,
    expected_choice,
    hierarchical_interval,
    hierarchical_intervals,
    interquartile_mean,
    over_seeds,
    percentile_interval,
    performance_profile,
    probability_of_improvement,
    resampled_runs,
)


def test_values_of_few_groups_are_as_few_samples_as_there_are_groups() -> None:
    values, groups = np.repeat([0.0, 1.0, 2.0, 3.0], 50), np.repeat(np.arange(4), 50)
    plain = np.diff(bootstrap_interval(values, np.mean, 0))
    grouped, alone = (np.diff(hierarchical_interval(values, names, np.mean)) for names in (groups, np.arange(200)))
    assert 0.2 < plain < 0.4 and 1.5 < grouped < 2.5
    np.testing.assert_allclose(alone, plain, rtol=0.1)


def test_several_world_models_have_a_mean_and_a_range_and_one_its_samples_interval() -> None:
    table = pd.DataFrame(
        {"arm": ["a", "a", "b"], "value": [1.0, 3.0, 5.0], "low": [0.9, 2.9, 4.5], "high": [1.1, 3.1, 5.5]}
    )
    assert over_seeds(table.groupby("arm")).to_numpy().tolist() == [[2.0, 1.0, 3.0], [5.0, 4.5, 5.5]]


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


def test_replicates_draw_groups_and_then_runs_of_them() -> None:
    groups = np.array(["a", "b", "a", "c", "b"])
    drawn = resampled_runs(groups, 4000, np.random.default_rng(0))
    assert drawn.shape == (4000, 5)
    found = groups[drawn]
    # places 0 and 3 belong to the first drawn group, 1 and 4 to the second
    assert (found[:, 0] == found[:, 3]).all() and (found[:, 1] == found[:, 4]).all()
    np.testing.assert_allclose(np.bincount(drawn.ravel()) / drawn.size, 1 / 5, atol=0.02)  # runs alike


def test_intervals_do_not_depend_on_how_much_is_resampled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = np.random.default_rng(0).normal(size=(3, 12)), np.arange(12) // 4
    at_once = hierarchical_intervals(values, groups, np.median)
    monkeypatch.setattr("dawm.analysis.statistics.BATCH", 1000)
    np.testing.assert_array_equal(hierarchical_intervals(values, groups, np.median), at_once)


def test_hierarchical_intervals_lie_about_the_estimate_and_are_wider_than_the_plain_one() -> None:
    values, groups = np.array([10.0, 0.0, 11.0, 30.0, 1.0]), np.array(["a", "b", "a", "c", "b"])
    low, high = hierarchical_interval(values, groups, np.mean)
    means = values[resampled_runs(groups, 20_000, np.random.default_rng(1))].mean(1)
    assert means.mean() == pytest.approx(values.mean(), abs=0.2)  # not drawn towards the run that is alone
    np.testing.assert_allclose([low, high], np.percentile(means, [2.5, 97.5]), atol=2)
    alone = hierarchical_interval(values, np.arange(5), np.mean)
    np.testing.assert_allclose(alone, bootstrap_interval(values, np.mean, seed=0), atol=1)
    assert high - low > 1.2 * (alone[1] - alone[0])
    assert np.isnan(hierarchical_interval(values[:1], groups[:1], np.mean)).all()


def test_replicates_of_runs_without_groups_are_the_plain_bootstrap() -> None:
    drawn = resampled_runs(np.arange(4), 8000, np.random.default_rng(1))
    np.testing.assert_allclose(np.bincount(drawn.ravel(), minlength=4) / drawn.size, 0.25, atol=0.01)
    distinct = np.array([len(set(row)) for row in drawn.tolist()])
    np.testing.assert_allclose(distinct.mean(), 4 * (1 - 0.75**4), atol=0.02)


def test_what_world_models_differ_in_widens_the_interval() -> None:
    """Five runs of three world models whose means differ: runs alone would make the mean look too sure."""
    groups, rng = np.array([0, 1, 2, 0, 1]), np.random.default_rng(2)
    hits = {"hierarchical": 0, "plain": 0}
    for _ in range(300):
        values = rng.normal(0, 3, 3)[groups] + rng.normal(0, 0.5, 5)
        for name, names in (("hierarchical", groups), ("plain", np.arange(5))):
            low, high = percentile_interval(values[resampled_runs(names, 400, rng)].mean(1))
            hits[name] += low < 0 < high
    assert hits["plain"] < hits["hierarchical"] and hits["hierarchical"] > 0.7 * 300


def test_probability_of_improvement_is_mann_whitneys() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 9, (4, 6)).astype(float), rng.integers(0, 7, (4, 5)).astype(float)
    expected = [stats.mannwhitneyu(one, other).statistic / 30 for one, other in zip(x, y, strict=True)]
    np.testing.assert_allclose(probability_of_improvement(x, y), np.mean(expected))
    assert probability_of_improvement(x, x) == 0.5
    assert probability_of_improvement(x + 100, y) == 1.0
    stacked = probability_of_improvement(np.stack([x, x + 100]), np.stack([y, y]))
    np.testing.assert_allclose(stacked, [np.mean(expected), 1.0])


def test_performance_profile_counts_what_is_above() -> None:
    values = np.array([[0.0, 10, 10, 30], [5, 6, 7, 8]])
    found = performance_profile(values, np.array([0.0, 10, 29]))
    assert found.tolist() == [[0.75, 0.25, 0.25], [1.0, 0.0, 0.0]]


def test_expected_choice_is_the_mean_over_all_draws() -> None:
    choosing, judged = np.array([3.0, 1.0, 7.0, 1.5]), np.array([10.0, 20.0, 5.0, 0.0])
    for k in (1, 2, 3):
        draws = [judged[max(drawn, key=choosing.__getitem__)] for drawn in itertools.product(range(4), repeat=k)]
        np.testing.assert_allclose(expected_choice(choosing, judged, np.array([k])), np.mean(draws))
    assert expected_choice(choosing, judged, np.array([1000]))[0] == pytest.approx(5)


def test_a_choice_among_equals_gains_nothing_where_others_judge_it() -> None:
    rng, tried = np.random.default_rng(0), np.array([8])
    noise = rng.normal(0, 1, (2, 500, 8))
    own, others = (
        np.mean([expected_choice(chosen_by, judged, tried) for chosen_by, judged in zip(noise[0], judges, strict=True)])
        for judges in (noise[0], noise[1])
    )
    assert own > 1 and abs(others) < 0.15


def test_of_configurations_that_are_held_for_equal_the_mean_is_expected() -> None:
    found = expected_choice(np.zeros(4), np.array([0.0, 1, 2, 3]), np.array([1, 2, 4]))
    np.testing.assert_allclose(found, 1.5)
