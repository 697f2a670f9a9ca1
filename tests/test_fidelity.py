"""Stage `assess`: true transitions pass, false ones show, and only held-out sources are judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from dawm.analysis.distances import Reference, compare, nearest_distance, quantiles, rank_correlations
from dawm.analysis.fidelity import REAL, assess, by_step, summarize, summarize_terminals, two_samples
from dawm.analysis.fidelity_page import beside_real, write_fidelity
from dawm.analysis.replaying import Errors, errors_at_best_actions, one_step_change, replay, still_copy
from dawm.analysis.statistics import hierarchical_interval
from dawm.analysis.steering_page import write_steering
from dawm.config import AssessmentSettings, Experiment, InverseDynamicsSettings, load_yaml, read
from dawm.data.sealed import open_sealed, seal
from dawm.data.transitions import NOT_APPLICABLE, Transitions, read_transitions, write_shard
from dawm.environments.oracle import Oracle
from dawm.environments.tasks import TASKS
from dawm.errors import InputError
from dawm.inverse_dynamics import infer, load_inverse_dynamics, train_inverse_dynamics
from dawm.layout import shard_name

SETTINGS = AssessmentSettings(rows=200, best_action_rows=20)
Judge = Callable[..., pd.DataFrame]


def dreamed(transitions: Transitions, **changes: Any) -> Transitions:
    """The real transitions told as synthetic ones, each grown from its own row: as true as synthetic data can be."""
    count = len(transitions)
    told = dataclasses.replace(
        transitions,
        episode=np.full(count, -1, np.int32),
        step=np.full(count, -1, np.int32),
        timeout=np.zeros(count, bool),
        source_row=np.arange(count, dtype=np.int64),
        horizon_step=np.ones(count, np.int16),
        qpos=None,
        qvel=None,
    )
    return dataclasses.replace(told, **changes)


@pytest.fixture(scope="module")
def judge(dataset: Path, inverse_dynamics: Path, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Seals rows as synthetic data, assesses them, and returns fidelity.csv."""

    def of(rows: Transitions, settings: AssessmentSettings = SETTINGS, dataset: Path = dataset) -> pd.DataFrame:
        folder = tmp_path_factory.mktemp("judged")
        write_shard(folder / "synthetic" / shard_name(0, 1), rows)
        inputs = {
            "dataset": open_sealed(dataset, "dataset"),
            "inverse_dynamics": open_sealed(inverse_dynamics, "inverse-dynamics"),
        }
        facts = {"observation_dim": 11, "action_dim": 3}
        names = [shard_name(0, 1)]
        seal(folder / "synthetic", "synthetic", files=names, settings={}, inputs=inputs, metadata=facts)
        assess(dataset, folder / "synthetic", inverse_dynamics, settings, folder / "assessment", "arm")
        open_sealed(folder / "assessment", "assessment").read("fidelity.csv")
        return pd.read_csv(folder / "assessment" / "fidelity.csv")

    return of


def value(table: pd.DataFrame, quantity: str, arm: str = "arm", column: str = "value", step: int = 0) -> Any:
    rows = table[(table["augmentation"] == arm) & (table["quantity"] == quantity)]
    rows = rows[rows["horizon_step"] == step]
    assert len(rows) == 1, (arm, quantity)
    return rows[column].iloc[0]


@pytest.fixture(scope="module")
def truth(judge: Judge, transitions: Transitions) -> pd.DataFrame:
    return judge(dreamed(transitions))


# --- what the table says ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["real_held_out", "arm"])
def test_true_transitions_have_no_error(truth: pd.DataFrame, arm: str) -> None:
    assert value(truth, "state_error", arm) < 1e-3
    assert value(truth, "reward_error", arm) < 1e-4
    assert value(truth, "terminal_agreement", arm) == 1
    assert 0 < value(truth, "state_error", arm, "coverage") <= 1


def test_noisy_successors_show_in_the_state_error(judge: Judge, truth: pd.DataFrame, transitions: Transitions) -> None:
    rng = np.random.default_rng(0)
    spread = (transitions.next_observation - transitions.observation).std(0)
    noise = (spread * rng.standard_normal(transitions.observation.shape)).astype(np.float32)
    found = judge(dreamed(transitions, next_observation=transitions.next_observation + noise))
    assert value(found, "state_error") > 1000 * value(truth, "state_error")
    assert 0.5 < value(found, "state_error") < 1.1  # the mean over dimensions of |N(0, 1)| is 0.8
    assert value(found, "state_error", "real_held_out") == value(truth, "state_error", "real_held_out")


def test_states_made_of_noise_show_in_state_error_and_terminals(
    judge: Judge, truth: pd.DataFrame, transitions: Transitions
) -> None:
    observation = np.random.default_rng(0).standard_normal(transitions.observation.shape).astype(np.float32)
    found = judge(dreamed(transitions, observation=observation))
    assert value(found, "state_error") > 1000 * value(truth, "state_error")
    assert value(found, "state_error") > 2 * value(found, "state_error", "nothing_moves")
    assert value(found, "terminal_agreement") < 0.5  # hardly any such Hopper stands upright


def test_false_terminals_show_in_agreement_precision_and_recall(judge: Judge, transitions: Transitions) -> None:
    claimed = judge(dreamed(transitions, terminal=np.ones(len(transitions), bool)))
    denied = judge(dreamed(transitions, terminal=np.zeros(len(transitions), bool)))
    assert value(claimed, "terminal_agreement") + value(denied, "terminal_agreement") == pytest.approx(1, abs=1e-5)
    assert value(claimed, "terminal_precision") == value(claimed, "terminal_agreement") < 0.1
    assert np.isnan(value(denied, "terminal_precision"))
    assert value(denied, "terminal_precision", column="rows") == 0


def test_wrong_rewards_show_in_the_reward_error(judge: Judge, transitions: Transitions) -> None:
    found = judge(dreamed(transitions, reward=transitions.reward + np.float32(0.25)))
    assert value(found, "reward_error") == pytest.approx(0.25, abs=1e-4)


def test_only_what_grew_from_held_out_episodes_is_judged(
    judge: Judge, truth: pd.DataFrame, transitions: Transitions, held_out: np.ndarray
) -> None:
    nonsense = np.where(held_out[:, None], transitions.next_observation, np.float32(50))
    found = judge(dreamed(transitions, next_observation=nonsense))
    pd.testing.assert_frame_equal(found, truth)
    assert value(judge(dreamed(transitions, next_observation=nonsense[::-1].copy())), "state_error") > 10


def test_terminal_rows_are_not_judged_where_their_successors_are_unknown(
    judge: Judge,
    dataset: Path,
    transitions: Transitions,
    held_out: np.ndarray,
    seal_dataset: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a D4RL file without next_observations a terminal row holds its own state in the successor's place."""
    known, whole = [], Reference.of
    monkeypatch.setattr(Reference, "of", lambda seen, unseen: known.append(seen) or whole(seen, unseen))
    successor = np.where(transitions.terminal[:, None], transitions.observation, transitions.next_observation)
    rows = dataclasses.replace(transitions, next_observation=successor)
    numbers = open_sealed(dataset, "dataset").metadata["held_out_episodes"]
    folder = seal_dataset(rows, numbers, terminal_successors_known=False)
    table = judge(dreamed(rows), AssessmentSettings(rows=5000), folder)
    for arm in ("real_held_out", "arm"):
        checkable = (np.abs(rows.observation[:, 5:]) < 10).all(1) & held_out & ~rows.terminal
        assert value(table, "state_error", arm, "rows") == checkable.sum()
    assert value(table, "action_error", column="rows") == 3 * (held_out & ~rows.terminal).sum()
    assert len(known[0]) == (~held_out & ~rows.terminal).sum() < (~held_out).sum()


def test_rows_are_counted_by_horizon_step_and_bounded_by_the_setting(
    dataset: Path, synthetic: Path, inverse_dynamics: Path, held_out: np.ndarray, tmp_path: Path
) -> None:
    imagined = read_transitions(open_sealed(synthetic, "synthetic"))
    for limit in (10, 5000):
        assess(dataset, synthetic, inverse_dynamics, AssessmentSettings(rows=limit), tmp_path / str(limit), "dawm")
        table = pd.read_csv(tmp_path / str(limit) / "fidelity.csv")
        for step in (1, 2, 3):
            grown = sum(
                bool(held_out[source]) and at == step
                for source, at in zip(imagined.source_row.tolist(), imagined.horizon_step.tolist(), strict=True)
            )
            rows = value(table, "state_error", "dawm", "rows", step)
            coverage = value(table, "state_error", "dawm", "coverage", step)
            assert rows == pytest.approx(coverage * min(limit, grown), abs=1e-3)
    assert open_sealed(tmp_path / "10", "assessment").metadata["arm"] == "dawm"


def test_action_errors_are_those_of_held_out_real_pairs(
    judge: Judge, transitions: Transitions, held_out: np.ndarray, inverse_dynamics: Path
) -> None:
    table = judge(dreamed(transitions), AssessmentSettings(rows=5000))  # all of them
    model, _ = load_inverse_dynamics(inverse_dynamics)
    real = transitions.take(held_out)
    inferred = infer(model, torch.from_numpy(real.observation), torch.from_numpy(real.next_observation)).numpy()
    error = np.abs(inferred.astype(float) - real.action)
    assert value(table, "action_error") == pytest.approx(error.mean(), rel=1e-4)
    assert value(table, "action_error", column="rows") == error.size
    for dimension in range(3):
        assert value(table, f"action_error_{dimension}") == pytest.approx(error[:, dimension].mean(), rel=1e-4)


def test_nothing_moves_is_the_median_change_of_the_data(
    judge: Judge, transitions: Transitions, held_out: np.ndarray
) -> None:
    table = judge(dreamed(transitions), AssessmentSettings(rows=5000))
    change = transitions.next_observation.astype(float) - transitions.observation
    checkable = (np.abs(transitions.observation[:, 5:]) < 10).all(1)
    moved = np.abs(change / change.std(0)).mean(1)[held_out & checkable]
    assert value(table, "state_error", "nothing_moves") == pytest.approx(np.median(moved), rel=1e-3)
    assert value(table, "state_error", "nothing_moves", "rows") == len(moved)


def test_assessment_is_the_same_bytes_each_time(
    dataset: Path, synthetic: Path, inverse_dynamics: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        assess(dataset, synthetic, inverse_dynamics, SETTINGS, tmp_path / name, "dawm")
    for path in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes()


# --- its parts --------------------------------------------------------------------------------------------------


def test_state_error_is_the_mean_over_dimensions_in_units_of_the_change(transitions: Transitions) -> None:
    oracle = Oracle(TASKS["hopper"])
    rows = transitions.take(slice(0, 40))
    change = np.linspace(0.5, 2.0, 11)
    for dimension in (0, 10):
        successor = rows.next_observation.copy()
        successor[:, dimension] += 3 * change[dimension]
        errors = replay(oracle, dataclasses.replace(rows, next_observation=successor), change)
        np.testing.assert_allclose(errors.state_error, 3 / 11, rtol=1e-4)


def test_rows_of_one_source_episode_are_of_one_origin(transitions: Transitions) -> None:
    """Errors along an episode are alike, so that its rows tell less than as many of others."""
    oracle, change = Oracle(TASKS["hopper"]), one_step_change(transitions)
    rows = transitions.take(slice(0, 60))
    assert replay(oracle, rows, change).origin.tolist() == rows.episode.tolist()
    nowhere = dataclasses.replace(rows, episode=np.full(60, NOT_APPLICABLE, np.int32))
    assert len(set(replay(oracle, nowhere, change).origin.tolist())) == 60


def test_rows_that_cannot_be_replayed_lower_the_coverage(transitions: Transitions) -> None:
    rows = transitions.take(np.flatnonzero((np.abs(transitions.observation[:, 5:]) < 9).all(1))[:40])
    observation = rows.observation.copy()
    observation[:10, 7] = 10.0
    errors = replay(Oracle(TASKS["hopper"]), dataclasses.replace(rows, observation=observation), np.ones(11))
    assert errors.coverage == 0.75 and len(errors.state_error) == len(errors.true_terminal) == 30
    np.testing.assert_allclose(errors.state_error, 0, atol=1e-4)


def test_summary_counts_terminals_by_hand() -> None:
    claimed = np.array([1, 1, 1, 0, 0, 0, 0, 0], bool)
    true = np.array([1, 0, 0, 1, 0, 0, 0, 0], bool)
    errors = Errors(np.arange(8.0), np.arange(8.0) ** 2, claimed, true, np.arange(8), 1.0)
    both = [*summarize(errors, seed=0), *summarize_terminals(errors, seed=0)]
    found = {name: (point, rows) for name, point, _, _, rows in both}
    assert found == {
        "state_error": (3.5, 8),
        "reward_error": (12.5, 8),
        "terminal_agreement": (5 / 8, 8),
        "terminal_precision": (1 / 3, 3),
        "terminal_recall": (1 / 2, 2),
    }
    for name, point, low, high, _ in both:
        assert low <= point <= high, name


def test_summary_of_no_rows_is_unknown() -> None:
    none = np.empty(0)
    errors = Errors(none, none, none.astype(bool), none.astype(bool), none.astype(int), 0.0)
    for _, point, low, high, rows in (*summarize(errors, seed=0), *summarize_terminals(errors, seed=0)):
        assert rows == 0 and np.isnan([point, low, high]).all()


def test_one_step_change_is_the_deviation_of_the_steps_and_1_where_nothing_changes(transitions: Transitions) -> None:
    observation, successor = transitions.observation.copy(), transitions.next_observation.copy()
    observation[:, 4] = successor[:, 4] = 3.0
    found = one_step_change(dataclasses.replace(transitions, observation=observation, next_observation=successor))
    expected = (successor.astype(float) - observation).std(0)
    expected[4] = 1.0
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def nudged(action: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.2, action.shape)
    return np.clip(action + noise, -1, 1).astype(np.float32)


def test_the_search_finds_the_action_that_led_to_the_successor(transitions: Transitions) -> None:
    """Rows told with a wrong action: what a better one mends is the action's error, nothing is the states'."""
    upright = (np.abs(transitions.observation[:, 5:]) < 9).all(1)
    rows = transitions.take(np.flatnonzero(upright)[:30])
    wrong = nudged(rows.action)
    oracle, change = Oracle(TASKS["hopper"]), one_step_change(transitions)
    own, least = errors_at_best_actions(oracle, dataclasses.replace(rows, action=wrong), change, seed=0)
    assert np.median(own) > 0.05 and np.median(least) < 0.005
    again, _ = errors_at_best_actions(oracle, rows, change, seed=0)
    np.testing.assert_allclose(again, 0, atol=1e-3)


def test_no_action_mends_a_state_that_no_action_reaches(transitions: Transitions) -> None:
    rows = transitions.take(np.flatnonzero((np.abs(transitions.observation[:, 5:]) < 9).all(1))[:20])
    moved = dataclasses.replace(rows, next_observation=rows.next_observation + np.float32(5) * one_step_change(rows))
    own, least = errors_at_best_actions(Oracle(TASKS["hopper"]), moved, one_step_change(rows), seed=0)
    assert (least <= own).all() and np.median(least) > 3


def test_the_split_of_the_error_is_in_the_table(judge: Judge, transitions: Transitions) -> None:
    table = judge(dreamed(transitions, action=nudged(transitions.action)))
    left, added = value(table, "state_error_at_best_action"), value(table, "state_error_of_action")
    assert left < 0.01 < 0.05 < added
    assert value(table, "state_error_at_best_action", column="rows") <= 20
    none = judge(dreamed(transitions), AssessmentSettings(rows=50, best_action_rows=0))
    assert not none["quantity"].str.startswith("state_error_").any()


def test_steps_from_the_second_on_are_pooled_and_a_single_one_stands_for_itself(transitions: Transitions) -> None:
    steps = (np.arange(len(transitions)) % 3 + 1).astype(np.int16)
    found = by_step(dreamed(transitions, horizon_step=steps))
    assert {step: len(rows) for step, rows in found.items()} == {
        0: int((steps > 1).sum()),
        **{step: int((steps == step).sum()) for step in (1, 2, 3)},
    }
    assert len(by_step(dreamed(transitions))[0]) == len(transitions)


def test_copies_of_the_train_split_are_not_new(transitions: Transitions) -> None:
    train, held_out = transitions.take(slice(0, 1000)), transitions.take(slice(1000, 1500))
    reference = Reference.of(train, held_out)
    found = {name: value for name, value, *_ in compare(train.take(slice(0, 300)), reference)}
    other = {name: value for name, value, *_ in compare(held_out, reference)}
    assert found["novelty"] == 0 < 0.05 < other["novelty"]
    assert other["marginal_distance"] == other["correlation_distance"] == 0


def test_shuffled_columns_keep_the_marginals_and_lose_the_correlations(transitions: Transitions) -> None:
    reference = Reference.of(transitions, transitions)
    order = np.random.default_rng(0).permutation(len(transitions))
    shuffled = dataclasses.replace(transitions, action=transitions.action[order], reward=transitions.reward[order])
    found = {name: value for name, value, *_ in compare(shuffled, reference)}
    assert found["marginal_distance"] < 1e-6 and found["correlation_distance"] > 0.01
    louder = dataclasses.replace(transitions, reward=transitions.reward * np.float32(3))
    found = {name: value for name, value, *_ in compare(louder, reference)}
    assert found["marginal_distance"] > 0.01 and found["correlation_distance"] < 1e-6


def test_distances_by_hand() -> None:
    rows = np.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(nearest_distance(rows, np.array([[0.0, 0.0], [3.0, 3.0]])), [0, 0.5**0.5])
    even = np.linspace(0, 1, 501)[:, None]
    np.testing.assert_allclose(np.abs(quantiles(even) - quantiles(even + 2)).mean(), 2)
    np.testing.assert_allclose(rank_correlations(np.stack([even[:, 0], -(even[:, 0] ** 3)], axis=1)), [-1])


def test_the_floor_of_few_rows_is_no_distance_from_themselves(judge: Judge, transitions: Transitions) -> None:
    few = judge(dreamed(transitions), AssessmentSettings(rows=100_000, best_action_rows=20))
    for name in ("marginal_distance", "correlation_distance"):
        assert value(few, name, "real_held_out") > 0.01, name
    held_out = value(few, "novelty", "arm", "rows")
    assert value(few, "novelty", "real_held_out", "rows") == held_out // 2


@pytest.mark.parametrize("rows", [5, 40, 1000])
def test_no_row_is_in_both_samples_of_real_ones(transitions: Transitions, rows: int) -> None:
    real = transitions.take(slice(0, 91))
    both = two_samples(real, AssessmentSettings(rows=rows, best_action_rows=5))
    assert [len(sample) for sample in both] == 2 * [min(rows, 45)]
    assert not {row.tobytes() for row in both[0].observation} & {row.tobytes() for row in both[1].observation}


def test_still_copy_moves_nothing_and_never_ends(transitions: Transitions) -> None:
    found = still_copy(transitions)
    np.testing.assert_array_equal(found.next_observation, found.observation)
    np.testing.assert_allclose(found.reward, transitions.reward.astype(float).mean(), rtol=1e-5)
    assert not found.terminal.any() and transitions.terminal.any()


# --- what is refused --------------------------------------------------------------------------------------------


def test_synthetic_data_of_another_data_set_is_refused(
    scrambled: Path, synthetic: Path, inverse_dynamics: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="was not made from"):
        assess(scrambled, synthetic, inverse_dynamics, SETTINGS, tmp_path / "out", "dawm")
    assert not (tmp_path / "out").exists()


def test_synthetic_data_of_another_inverse_dynamics_is_refused(
    dataset: Path, synthetic: Path, inverse_dynamics_settings: InverseDynamicsSettings, tmp_path: Path
) -> None:
    train_inverse_dynamics(dataset, inverse_dynamics_settings, tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="was not made from"):
        assess(dataset, synthetic, tmp_path / "other", SETTINGS, tmp_path / "out", "dawm")


def test_a_folder_of_another_kind_is_refused(dataset: Path, inverse_dynamics: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of kind synthetic, found dataset"):
        assess(dataset, dataset, inverse_dynamics, SETTINGS, tmp_path / "out", "dawm")


def test_a_recipe_without_a_distance_leaves_its_place_empty() -> None:
    numbers = pd.DataFrame({"augmentation": [REAL], "quantity": "novelty", "low": 0.1, "value": 0.2, "high": 0.3})
    figure, axes = plt.subplots()
    beside_real(axes, numbers, "novelty", {"dawm": ("C0", "-")})
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dawm"]
    plt.close(figure)


@pytest.mark.parametrize("page", [write_fidelity, write_steering])
def test_pages_of_recipes_need_one(page: Callable[[Path, Experiment], None], tmp_path: Path) -> None:
    values = load_yaml(Path(__file__).with_name("tiny.yaml"))
    values |= {"generators": {}, "augmentations": {"real": {"real_fraction": 1.0}}}
    with pytest.raises(InputError, match=r"generators: expected a recipe .*, found none"):
        page(tmp_path, read(Experiment, values, "here"))


# --- intervals and rows -------------------------------------------------------------------------------------------


def test_terminals_are_judged_on_all_rows_and_states_on_those_of_the_settings(
    judge: Judge, transitions: Transitions
) -> None:
    table = judge(dreamed(transitions), AssessmentSettings(rows=10, best_action_rows=0))
    few, many = (value(table, name, column="rows") for name in ("state_error", "terminal_agreement"))
    assert few <= 10 and many > 60


def width(table: pd.DataFrame, quantity: str) -> float:
    return value(table, quantity, column="high") - value(table, quantity, column="low")


def test_errors_are_drawn_again_by_the_episodes_that_rows_grew_from(
    judge: Judge, transitions: Transitions, held_out: np.ndarray, inverse_dynamics: Path
) -> None:
    """Rows of an episode err alike here, so that intervals of rows would be far too short."""
    noise = np.random.default_rng(0).normal(0, 0.1, transitions.observation.shape)
    noise *= 1 + transitions.episode[:, None] % 7
    rows = dreamed(transitions, next_observation=(transitions.next_observation + noise).astype(np.float32))
    table = judge(rows, AssessmentSettings(rows=5000, best_action_rows=0))
    real = dataclasses.replace(rows.take(held_out), episode=transitions.episode[held_out])
    errors = replay(Oracle(TASKS["hopper"]), real, one_step_change(transitions))
    low, high = hierarchical_interval(errors.state_error, errors.origin, np.median)
    assert width(table, "state_error") == pytest.approx(high - low, rel=0.2)
    low, high = hierarchical_interval(errors.state_error, np.arange(len(errors.origin)), np.median)
    assert width(table, "state_error") > 1.5 * (high - low)

    held = transitions.take(held_out)
    pairs = map(torch.from_numpy, (held.observation, held.next_observation))
    wrong = np.abs(infer(load_inverse_dynamics(inverse_dynamics)[0], *pairs).numpy() - held.action)
    low, high = hierarchical_interval(wrong[:, 0], held.episode, np.mean)
    assert width(table, "action_error_0") == pytest.approx(high - low, rel=0.2)


def test_what_was_trained_on_is_all_that_novelty_is_measured_from(judge: Judge, transitions: Transitions) -> None:
    table = judge(dreamed(transitions), AssessmentSettings(rows=5000, best_action_rows=0))
    assert value(table, "novelty", "real_held_out") > 0.05 and value(table, "novelty") > 0.05


def test_novelty_is_the_median_distance_to_the_nearest_row_in_units_of_its_deviation(transitions: Transitions) -> None:
    known, new = transitions.take(slice(0, 1000)), transitions.take(slice(1000, 1500))

    def columns(rows: Transitions) -> np.ndarray:
        change = rows.next_observation - rows.observation
        return np.concatenate([rows.observation, rows.action, rows.reward[:, None], change], axis=1).astype(float)

    mean, std = columns(known).mean(0), columns(known).std(0)
    one, other = ((columns(rows) - mean) / std for rows in (known, new))
    nearest = np.sqrt(((other[:, None] - one[None]) ** 2).mean(-1).min(1))
    (found,) = (row for row in compare(new, Reference.of(known, known)) if row[0] == "novelty")
    assert found[1] == pytest.approx(np.median(nearest), rel=1e-6)
    np.testing.assert_allclose(found[2:4], hierarchical_interval(nearest, new.episode, np.median), rtol=1e-6)


def test_a_reward_that_is_too_low_is_as_wrong_as_one_that_is_too_high(transitions: Transitions) -> None:
    rows = transitions.take(slice(0, 40))
    low = dataclasses.replace(rows, reward=rows.reward - np.float32(0.25))
    np.testing.assert_allclose(replay(Oracle(TASKS["hopper"]), low, np.ones(11)).reward_error, 0.25, atol=1e-4)
