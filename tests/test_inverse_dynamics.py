"""The inverse dynamics model and its training."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dawm.dynamics
from dawm.config import InverseDynamicsSettings
from dawm.data.transitions import Transitions
from dawm.dynamics import Pairs, evaluated
from dawm.environments.tasks import TASKS
from dawm.inverse_dynamics import InverseDynamics, action_errors, infer, load_inverse_dynamics, train_inverse_dynamics
from dawm.randomness import derived_seed, generator
from dawm.training import cosine_rate

EPISODES, LENGTH = 40, 50
TWO_ACTIONS = "Reacher-v5"  # an environment with as many actions, bounded by ±1
HELD_OUT = [3, 17, 29, 38]


def invertible_system() -> Transitions:
    """s′ = s + 0.1 (B a - sin s): the action follows from (s, s′) by solving B a = 10 (s′ - s) + sin s."""
    rng = np.random.default_rng(0)
    gain = np.array([[1.0, 0.4], [-0.3, 0.8], [0.2, 0.5]])
    action = rng.uniform(-1, 1, (EPISODES, LENGTH, 2))
    state = np.empty((EPISODES, LENGTH + 1, 3))
    state[:, 0] = rng.normal(0, 1, (EPISODES, 3))
    for t in range(LENGTH):
        state[:, t + 1] = state[:, t] + 0.1 * (action[:, t] @ gain.T - np.sin(state[:, t]))
    last = np.tile(np.arange(LENGTH) == LENGTH - 1, EPISODES)
    even = np.repeat(np.arange(EPISODES) % 2 == 0, LENGTH)
    return Transitions.real(
        observation=state[:, :-1].reshape(-1, 3),
        action=action.reshape(-1, 2),
        reward=np.zeros(EPISODES * LENGTH),
        next_observation=state[:, 1:].reshape(-1, 3),
        terminal=last & even,
        timeout=last & ~even,
    )


@pytest.fixture(scope="module")
def rows() -> Transitions:
    return invertible_system()


@pytest.fixture(scope="module")
def trained(rows: Transitions, seal_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = InverseDynamicsSettings(hidden=64, batch_size=128, learning_rate=3e-3, gradient_steps=600)
    folder = tmp_path_factory.mktemp("inverse-dynamics")
    train_inverse_dynamics(seal_dataset(rows, HELD_OUT, environment=TWO_ACTIONS), settings, folder, seed=0)
    return folder


def test_held_out_actions_are_inferred_far_better_than_by_their_mean(rows: Transitions, trained: Path) -> None:
    model, _ = load_inverse_dynamics(trained)
    hidden = np.isin(rows.episode, HELD_OUT)
    tested, seen = rows.take(hidden), rows.take(~hidden)
    inferred = infer(model, torch.from_numpy(tested.observation), torch.from_numpy(tested.next_observation)).numpy()
    error = np.abs(inferred.astype(float) - tested.action).mean()
    of_the_mean = np.abs(seen.action.mean(0) - tested.action).mean()
    assert error < 0.15 * of_the_mean


def test_evaluations_tell_the_held_out_error_of_every_action_dimension(rows: Transitions, trained: Path) -> None:
    model, _ = load_inverse_dynamics(trained)
    tested = rows.take(np.isin(rows.episode, HELD_OUT))
    inferred = infer(model, torch.from_numpy(tested.observation), torch.from_numpy(tested.next_observation)).numpy()
    expected = np.abs(inferred.astype(float) - tested.action).mean(0)
    last = list(csv.DictReader((trained / "evaluations.csv").open()))[-1]
    assert last["step"] == "600"
    found = [float(last[f"mean_absolute_error_{dimension}"]) for dimension in range(2)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_evaluations_tell_mean_and_median_over_all_dimensions(rows: Transitions, trained: Path) -> None:
    model, _ = load_inverse_dynamics(trained)
    tested = rows.take(np.isin(rows.episode, HELD_OUT))
    inferred = infer(model, torch.from_numpy(tested.observation), torch.from_numpy(tested.next_observation)).numpy()
    error = np.abs(inferred.astype(float) - tested.action)
    last = list(csv.DictReader((trained / "evaluations.csv").open()))[-1]
    assert float(last["mean_absolute_error"]) == pytest.approx(error.mean(), rel=1e-4)
    assert float(last["median_absolute_error"]) == pytest.approx(np.median(error), rel=1e-2)
    assert "mean_absolute_error_unclipped" not in last  # Reacher clips nothing


def test_pairs_with_a_clipped_velocity_are_left_out_of_the_unclipped_mean() -> None:
    torch.manual_seed(0)
    model = InverseDynamics(InverseDynamicsSettings(hidden=16), 11, 3)
    g = torch.Generator().manual_seed(1)
    s, successor = torch.randn(2, 30, 11, generator=g)
    s[:10, 7], successor[20:, 10] = 10.0, -10.0
    pairs = Pairs(s, successor, torch.zeros(30, 3), torch.zeros(30))
    found = action_errors(model, pairs, TASKS["hopper"])
    error = infer(model, s, successor).abs()
    assert found["mean_absolute_error_unclipped"] == pytest.approx(float(error[10:20].mean()), rel=1e-5)
    assert found["mean_absolute_error"] == pytest.approx(float(error.mean()), rel=1e-5)


def test_normalizers_are_those_of_the_train_split(rows: Transitions, trained: Path) -> None:
    model, _ = load_inverse_dynamics(trained)
    seen = rows.take(~np.isin(rows.episode, HELD_OUT))
    change = seen.next_observation.astype(float) - seen.observation
    np.testing.assert_allclose(model.states.mean, seen.observation.astype(float).mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.states.std, seen.observation.astype(float).std(0), rtol=1e-5)
    np.testing.assert_allclose(model.changes.mean, change.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.changes.std, change.std(0), rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_actions_stay_in_their_bounds_whatever_the_states(scale: float) -> None:
    torch.manual_seed(0)
    model = InverseDynamics(InverseDynamicsSettings(hidden=16), 3, 2)
    g = torch.Generator().manual_seed(1)
    states = scale * torch.randn(2, 500, 3, generator=g)
    action = infer(model, states[0], states[1])
    assert action.shape == (500, 2)
    assert torch.all(action.abs() <= 1)
    assert torch.all(action.isfinite())


@pytest.mark.parametrize("members", [1, 3])
def test_inference_does_not_drop_anything_out(members: int) -> None:
    torch.manual_seed(0)
    model = InverseDynamics(InverseDynamicsSettings(members=members, hidden=64, dropout=0.5), 3, 2)
    states = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(infer(model, states[0], states[1]), infer(model, states[0], states[1]))
    assert not torch.equal(model.train()(states[0], states[1]), model(states[0], states[1]))


def test_held_out_episodes_change_no_weight_of_the_inverse_dynamics(
    inverse_dynamics: Path, scrambled: Path, inverse_dynamics_settings: InverseDynamicsSettings, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    train_inverse_dynamics(scrambled, inverse_dynamics_settings, other, seed=0)
    assert (other / "model.safetensors").read_bytes() == (inverse_dynamics / "model.safetensors").read_bytes()
    assert (other / "metrics.csv").read_bytes() == (inverse_dynamics / "metrics.csv").read_bytes()
    assert (other / "evaluations.csv").read_bytes() != (inverse_dynamics / "evaluations.csv").read_bytes()


@pytest.mark.parametrize("known", [True, False])
def test_terminal_rows_are_learned_from_only_where_their_successors_are_known(
    rows: Transitions, seal_dataset: Callable[..., Path], tmp_path: Path, known: bool
) -> None:
    settings = InverseDynamicsSettings(hidden=16, batch_size=512, gradient_steps=3)
    weights = []
    for name, shift in (("one", 0.0), ("other", 5.0)):
        successor = rows.next_observation + np.float32(shift) * rows.terminal[:, None]
        altered = dataclasses.replace(rows, next_observation=successor)
        folder = seal_dataset(altered, HELD_OUT, environment=TWO_ACTIONS, terminal_successors_known=known)
        train_inverse_dynamics(folder, settings, tmp_path / name, seed=0)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert (weights[0] == weights[1]) == (not known)


def test_seed_decides_the_weights(rows: Transitions, seal_dataset: Callable[..., Path], tmp_path: Path) -> None:
    settings = InverseDynamicsSettings(hidden=16, batch_size=32, gradient_steps=3)
    folder = seal_dataset(rows, HELD_OUT, environment=TWO_ACTIONS)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_inverse_dynamics(folder, settings, tmp_path / name, seed=seed)
    first, again, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert first == again != other


# --- ensembles and input noise ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ensemble(rows: Transitions, seal_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = InverseDynamicsSettings(members=4, hidden=64, batch_size=128, learning_rate=3e-3, gradient_steps=600)
    folder = tmp_path_factory.mktemp("ensemble")
    train_inverse_dynamics(seal_dataset(rows, HELD_OUT, environment=TWO_ACTIONS), settings, folder, seed=0)
    return folder


def test_members_differ_and_the_ensemble_answers_with_their_mean(rows: Transitions, ensemble: Path) -> None:
    model, _ = load_inverse_dynamics(ensemble)
    s, successor = torch.from_numpy(rows.observation[:50]), torch.from_numpy(rows.next_observation[:50])
    with torch.inference_mode():
        members = model.propose(model.encode(s, successor))
    assert members.shape == (4, 50, 2)
    for i in range(4):
        for j in range(i):
            assert (members[i] - members[j]).abs().max() > 1e-3
    torch.testing.assert_close(infer(model, s, successor), members.mean(0))
    torch.testing.assert_close(model.disagreement(s, successor), members.std(0, correction=0))


def test_every_member_learns_as_well_as_a_model_alone(rows: Transitions, ensemble: Path, trained: Path) -> None:
    tested = rows.take(np.isin(rows.episode, HELD_OUT))
    s, successor, action = map(torch.from_numpy, (tested.observation, tested.next_observation, tested.action))
    alone = (infer(load_inverse_dynamics(trained)[0], s, successor) - action).abs().mean()
    model, _ = load_inverse_dynamics(ensemble)
    with torch.inference_mode():
        members = (model.propose(model.encode(s, successor)) - action).abs().mean((1, 2))
    assert (members < 1.5 * alone).all()
    assert (infer(model, s, successor) - action).abs().mean() < members.mean()


def test_members_disagree_off_the_data(rows: Transitions, ensemble: Path) -> None:
    model, _ = load_inverse_dynamics(ensemble)
    s, successor = torch.from_numpy(rows.observation), torch.from_numpy(rows.next_observation)
    shift = 4 * torch.from_numpy(rows.observation).std(0)
    near, far = model.disagreement(s, successor).mean(), model.disagreement(s + shift, successor + shift).mean()
    assert far > 3 * near


def test_single_model_never_disagrees(rows: Transitions, trained: Path) -> None:
    model, _ = load_inverse_dynamics(trained)
    s, successor = torch.from_numpy(rows.observation[:5]), torch.from_numpy(rows.next_observation[:5])
    assert not model.disagreement(s, successor).any()


def test_input_noise_changes_training_and_no_answer(
    rows: Transitions, seal_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    folder = seal_dataset(rows, HELD_OUT, environment=TWO_ACTIONS)
    found = {}
    for name, noise in (("none", 0.0), ("some", 0.3), ("again", 0.3)):
        settings = InverseDynamicsSettings(hidden=16, batch_size=32, gradient_steps=30, input_noise=noise)
        train_inverse_dynamics(folder, settings, tmp_path / name, seed=0)
        found[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert found["some"] == found["again"] != found["none"]
    model, _ = load_inverse_dynamics(tmp_path / "some")
    s, successor = torch.from_numpy(rows.observation[:50]), torch.from_numpy(rows.next_observation[:50])
    assert torch.equal(infer(model.train(), s, successor), infer(model, s, successor))


def test_input_noise_makes_the_answer_depend_less_on_the_input(
    rows: Transitions, seal_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    folder = seal_dataset(rows, HELD_OUT, environment=TWO_ACTIONS)
    moved = []
    s, successor = torch.from_numpy(rows.observation), torch.from_numpy(rows.next_observation)
    for noise in (0.0, 0.5):
        settings = InverseDynamicsSettings(
            hidden=32, batch_size=128, learning_rate=3e-3, gradient_steps=300, input_noise=noise
        )
        train_inverse_dynamics(folder, settings, tmp_path / str(noise), seed=0)
        model, _ = load_inverse_dynamics(tmp_path / str(noise))
        nudged = successor + 0.5 * model.changes.std
        moved.append((infer(model, s, nudged) - infer(model, s, successor)).abs().mean())
    assert moved[1] < 0.95 * moved[0]


# --- a step -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "input_noise"), [("absolute", 0.0), ("squared", 0.0), ("absolute", 0.5)])
def test_first_loss_is_that_of_fresh_weights_on_the_rows_of_step_0(
    dataset: Path, transitions: Transitions, held_out: np.ndarray, loss: Any, input_noise: float, tmp_path: Path
) -> None:
    settings = InverseDynamicsSettings(loss=loss, input_noise=input_noise, hidden=8, batch_size=16, gradient_steps=1)
    train_inverse_dynamics(dataset, settings, tmp_path, seed=5)
    seen = transitions.take(~held_out)
    batch = seen.take(generator(5, "inverse-dynamics", "step", 0).integers(len(seen), size=16))
    torch.manual_seed(derived_seed(5, "inverse-dynamics", "weights"))
    fresh, (trained, _) = InverseDynamics(settings, 11, 3), load_inverse_dynamics(tmp_path)
    fresh.states, fresh.changes, fresh.actions = trained.states, trained.changes, trained.actions
    seen_by = fresh.encode(*map(torch.from_numpy, (batch.observation, batch.next_observation)))
    noise = generator(5, "inverse-dynamics", "input-noise", 0).standard_normal(seen_by.shape, dtype=np.float32)
    with torch.no_grad():
        found = fresh.propose(seen_by + input_noise * torch.from_numpy(noise))[0].numpy()
    error = np.abs(found - batch.action) if loss == "absolute" else (found - batch.action) ** 2
    (row,) = csv.DictReader((tmp_path / "metrics.csv").open())
    assert float(row["loss"]) == pytest.approx(error.mean(), rel=1e-4)


def test_models_of_pairs_learn_at_a_cosine_rate_from_other_rows_at_every_step(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, take = [], Pairs.take
    monkeypatch.setattr(Pairs, "take", lambda pairs, chosen: rows.append(tuple(chosen)) or take(pairs, chosen))
    rates, whole = [], dawm.dynamics.set_rate
    monkeypatch.setattr(dawm.dynamics, "set_rate", lambda optimizer, rate: rates.append(rate) or whole(optimizer, rate))
    settings = InverseDynamicsSettings(hidden=8, batch_size=8, gradient_steps=4, learning_rate=3e-3)
    train_inverse_dynamics(dataset, settings, tmp_path, seed=0)
    np.testing.assert_allclose(rates, [cosine_rate(step, 4, 3e-3) for step in range(4)])
    assert len(set(rows)) == 5  # with those that it is judged by


@pytest.mark.parametrize("training", [True, False])
def test_a_model_that_is_judged_stays_in_its_mode(training: bool) -> None:
    model = InverseDynamics(InverseDynamicsSettings(hidden=8), 3, 2).train(training)
    evaluated(model, torch.zeros(1, 3), torch.zeros(1, 3))
    assert model.training is training
