"""The forward dynamics model and its training."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import contents

from dawm.cli import main
from dawm.config import ForwardDynamicsSettings, InverseDynamicsSettings
from dawm.data.sealed import open_sealed
from dawm.data.transitions import Transitions
from dawm.dynamics import Pairs, evaluated
from dawm.environments.tasks import TASKS
from dawm.errors import InputError
from dawm.forward_dynamics import (
    ForwardDynamics,
    load_forward_dynamics,
    observable_range,
    train_forward_dynamics,
)
from dawm.inverse_dynamics import InverseDynamics
from dawm.randomness import derived_seed, generator

EPISODES, LENGTH = 40, 50
TWO_ACTIONS = "Reacher-v5"  # an environment with as many actions, bounded by ±1
HELD_OUT = [3, 17, 29, 38]


def linear_system() -> Transitions:
    """s′ = A s + B a, r = 2 s₀ - s₁ + a₀."""
    rng = np.random.default_rng(0)
    drift = np.array([[0.95, 0.1, 0.0], [-0.1, 0.95, 0.05], [0.0, 0.0, 0.9]])
    gain = np.array([[0.1, 0.0], [0.0, 0.2], [0.1, -0.1]])
    action = rng.uniform(-1, 1, (EPISODES, LENGTH, 2))
    state = np.empty((EPISODES, LENGTH + 1, 3))
    state[:, 0] = rng.normal(0, 1, (EPISODES, 3))
    for t in range(LENGTH):
        state[:, t + 1] = state[:, t] @ drift.T + action[:, t] @ gain.T
    last = np.tile(np.arange(LENGTH) == LENGTH - 1, EPISODES)
    return Transitions.real(
        observation=state[:, :-1].reshape(-1, 3),
        action=action.reshape(-1, 2),
        reward=(2 * state[:, :-1, 0] - state[:, :-1, 1] + action[..., 0]).reshape(-1),
        next_observation=state[:, 1:].reshape(-1, 3),
        terminal=last & (np.repeat(np.arange(EPISODES), LENGTH) % 2 == 0),
        timeout=last & (np.repeat(np.arange(EPISODES), LENGTH) % 2 == 1),
    )


@pytest.fixture(scope="module")
def rows() -> Transitions:
    return linear_system()


@pytest.fixture(scope="module")
def folder(rows: Transitions, seal_dataset: Callable[..., Path]) -> Path:
    return seal_dataset(rows, HELD_OUT, environment=TWO_ACTIONS)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = ForwardDynamicsSettings(
        members=3, hidden=64, layers=2, batch_size=128, learning_rate=3e-3, gradient_steps=600
    )
    output = tmp_path_factory.mktemp("forward-dynamics")
    train_forward_dynamics(folder, settings, output, seed=0)
    return output


def tensors(rows: Transitions) -> list[torch.Tensor]:
    return [torch.from_numpy(c) for c in (rows.observation, rows.action, rows.next_observation, rows.reward)]


def test_held_out_successors_and_rewards_are_predicted_far_better_than_by_nothing_moves(
    rows: Transitions, trained: Path
) -> None:
    model, _ = load_forward_dynamics(trained)
    s, a, successor, reward = tensors(rows.take(np.isin(rows.episode, HELD_OUT)))
    found, found_reward = evaluated(model, s, a)
    assert found.shape == successor.shape and found_reward.shape == reward.shape
    assert (found - successor).abs().mean() < 0.1 * (s - successor).abs().mean()
    assert (found_reward - reward).abs().mean() < 0.1 * (reward.mean() - reward).abs().mean()


def test_evaluations_are_in_units_of_the_one_step_change(rows: Transitions, trained: Path) -> None:
    model, _ = load_forward_dynamics(trained)
    s, a, successor, reward = tensors(rows.take(np.isin(rows.episode, HELD_OUT)))
    seen = rows.take(~np.isin(rows.episode, HELD_OUT))
    change = torch.from_numpy((seen.next_observation.astype(float) - seen.observation).std(0))
    found, found_reward = evaluated(model, s, a)
    error = ((found - successor).abs() / change).mean(1)
    last = {key: float(v) for key, v in list(csv.DictReader((trained / "evaluations.csv").open()))[-1].items()}
    assert last["state_error"] == pytest.approx(float(error.mean()), rel=1e-3)
    assert last["state_error_median"] == pytest.approx(float(error.quantile(0.5)), rel=2e-2)
    assert last["state_error_nothing_moves"] == pytest.approx(float(((successor - s).abs() / change).mean()), rel=1e-3)
    assert last["reward_error"] == pytest.approx(float((found_reward - reward).abs().mean()), rel=1e-3)
    torch.testing.assert_close(model.residual(s, a, successor), error.float(), rtol=1e-3, atol=1e-4)


def test_members_differ_average_and_disagree_off_the_data(rows: Transitions, trained: Path) -> None:
    model, _ = load_forward_dynamics(trained)
    s, a, _, _ = tensors(rows)
    with torch.inference_mode():
        members = model.propose(s, a)
        assert members.shape == (3, len(rows), 4)
        assert (members[0] - members[1]).abs().max() > 1e-3
        torch.testing.assert_close(model(s, a)[0], s + model.changes.decode(members.mean(0)[:, :3]))
        near, far = model.disagreement(s, a), model.disagreement(s + 8 * s.std(0), a)
    torch.testing.assert_close(near, members[..., :3].std(0, correction=0).mean(-1))
    assert far.mean() > 3 * near.mean()


def test_any_leading_dimensions_give_the_same_rows(rows: Transitions, trained: Path) -> None:
    model, _ = load_forward_dynamics(trained)
    s, a, successor, _ = (column[:60] for column in tensors(rows))
    folded = [column.unflatten(0, (12, 5)) for column in (s, a, successor)]
    with torch.inference_mode():
        torch.testing.assert_close(model(*folded[:2])[0].flatten(0, 1), model(s, a)[0])
        torch.testing.assert_close(model(*folded[:2])[1].flatten(), model(s, a)[1])
        torch.testing.assert_close(model.residual(*folded).flatten(), model.residual(s, a, successor))


def test_held_out_episodes_change_no_weight(dataset: Path, scrambled: Path, tmp_path: Path) -> None:
    settings = ForwardDynamicsSettings(hidden=16, gradient_steps=20)
    for name, data in (("one", dataset), ("other", scrambled)):
        train_forward_dynamics(data, settings, tmp_path / name, seed=0)
    weights, judged = (
        [(tmp_path / name / file).read_bytes() for name in ("one", "other")]
        for file in ("model.safetensors", "evaluations.csv")
    )
    assert weights[0] == weights[1] and judged[0] != judged[1]


@pytest.mark.parametrize("known", [True, False])
def test_terminal_rows_are_learned_from_only_where_their_successors_are_known(
    rows: Transitions, seal_dataset: Callable[..., Path], tmp_path: Path, known: bool
) -> None:
    weights = []
    for name, shift in (("one", 0.0), ("other", 5.0)):
        successor = rows.next_observation + np.float32(shift) * rows.terminal[:, None]
        altered = dataclasses.replace(rows, next_observation=successor)
        data = seal_dataset(altered, HELD_OUT, environment=TWO_ACTIONS, terminal_successors_known=known)
        train_forward_dynamics(data, ForwardDynamicsSettings(hidden=16, gradient_steps=3), tmp_path / name, seed=0)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert (weights[0] == weights[1]) == (not known)


def test_successors_stay_within_what_the_environment_observes() -> None:
    low, high = observable_range(TASKS["hopper"], 11)
    assert high.tolist() == [torch.inf] * 5 + [10.0] * 6 and torch.equal(low, -high)
    assert observable_range(TASKS["halfcheetah"], 17)[1].isinf().all()
    model = ForwardDynamics(ForwardDynamicsSettings(hidden=8), 11, 3)
    model.low, model.high = low, high
    found, _ = evaluated(model, torch.full((4, 11), 50.0), torch.zeros(4, 3))
    assert (found[:, 5:] == 10).all() and (found[:, :5] > 40).all()


def test_seal_tells_kind_and_data_set_and_other_kinds_are_refused(folder: Path, trained: Path) -> None:
    sealed = open_sealed(trained, "forward-dynamics")
    assert sealed.provenance["inputs"] == {"dataset": open_sealed(folder, "dataset").digest}
    with pytest.raises(InputError, match="expected a folder of kind forward-dynamics, found dataset"):
        load_forward_dynamics(folder)


def test_command_trains_what_the_function_trains(folder: Path, tmp_path: Path) -> None:
    train_forward_dynamics(folder, ForwardDynamicsSettings(hidden=8, gradient_steps=3), tmp_path / "function", seed=4)
    options = ["--dataset", str(folder), "--output", str(tmp_path / "command"), "--seed", "4", "--device", "cpu"]
    assert main(["train-forward-dynamics", *options, "--settings", "{hidden: 8, gradient_steps: 3}"]) == 0
    assert contents(tmp_path / "command") == contents(tmp_path / "function")


def test_first_loss_is_that_of_fresh_weights_on_the_rows_of_step_0(
    dataset: Path, transitions: Transitions, held_out: np.ndarray, tmp_path: Path
) -> None:
    settings = ForwardDynamicsSettings(hidden=8, batch_size=16, gradient_steps=1)
    train_forward_dynamics(dataset, settings, tmp_path, seed=5)
    seen = transitions.take(~held_out)
    batch = Pairs.of(seen.take(generator(5, "forward-dynamics", "step", 0).integers(len(seen), size=16)))
    torch.manual_seed(derived_seed(5, "forward-dynamics", "weights"))
    fresh, (trained, _) = ForwardDynamics(settings, 11, 3), load_forward_dynamics(tmp_path)
    for name in ("states", "changes", "actions", "rewards"):
        setattr(fresh, name, getattr(trained, name))
    with torch.no_grad():
        expected = (fresh.propose(batch.observation, batch.action)[0] - fresh.target(batch)).abs().mean()
    (row,) = csv.DictReader((tmp_path / "metrics.csv").open())
    assert float(row["loss"]) == pytest.approx(float(expected), rel=1e-4)


def test_a_trained_model_knows_what_its_environment_observes(forward_dynamics: Path) -> None:
    """Hopper's velocities are clipped at ±10, its positions are not."""
    model, _ = load_forward_dynamics(forward_dynamics)
    assert model.high.tolist() == [math.inf] * 5 + [10.0] * 6 and torch.equal(model.low, -model.high)


def test_actions_are_seen_in_units_of_their_bounds() -> None:
    model = ForwardDynamics(ForwardDynamicsSettings(hidden=8), 2, 1)
    model.actions.low, model.actions.high = torch.tensor([2.0]), torch.tensor([6.0])
    assert model.encode(torch.zeros(3, 2), torch.tensor([[2.0], [4.0], [6.0]]))[:, 2].tolist() == [-1, 0, 1]


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("layers", [1, 3])
def test_networks_have_as_many_hidden_layers_as_are_asked_for(members: int, layers: int) -> None:
    forward = ForwardDynamics(
        ForwardDynamicsSettings(members=members, hidden=8, layers=layers, loss="likelihood"), 4, 2
    )
    inverse = InverseDynamics(InverseDynamicsSettings(members=members, hidden=8, layers=layers), 4, 2)
    for network, inputs, outputs in (
        (forward.network, 6, 5),
        (forward.deviations, 6, 5),
        (inverse.network, 8, 2),
    ):
        assert network is not None
        expected = (inputs + 1) * 8 + (layers - 1) * 9 * 8 + 9 * outputs
        assert sum(parameter.numel() for parameter in network.parameters()) == members * expected
