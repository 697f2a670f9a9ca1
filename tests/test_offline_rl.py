"""Batches, TD3+BC, IQL and the stage that trains them, against NumPy in float64."""

from __future__ import annotations

import csv
import dataclasses
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learner_tables import table_of
from safetensors.numpy import load_file
from scipy import stats
from torch import Tensor, nn

import dawm.offline_rl.training
from dawm.config import (
    BCSettings,
    BestBCSettings,
    Experiment,
    ExportSettings,
    IQLSettings,
    TD3BCSettings,
    read,
    with_preset,
)
from dawm.data.export import export
from dawm.data.normalizers import ActionScaler, Standardizer
from dawm.data.sealed import open_sealed, seal, settings_in
from dawm.data.table import Table
from dawm.data.transitions import Transitions, read_transitions
from dawm.data.weights import save_weights
from dawm.environments.evaluation import Evaluator
from dawm.environments.tasks import TASKS
from dawm.errors import InputError
from dawm.jobs import jobs, refuse_made_otherwise
from dawm.layout import Layout, Run
from dawm.offline_rl import iql, td3_bc
from dawm.offline_rl.batches import Batch, Mixture, Units
from dawm.offline_rl.draws import normal_draws
from dawm.offline_rl.networks import Actor
from dawm.offline_rl.policy import DeterministicPolicy, load_policy
from dawm.offline_rl.training import best_episodes, observation_normalizer, reward_scale, train_policy, value_limits

OBSERVATION, ACTION, HIDDEN, ROWS = 5, 2, 8, 12
GAMMA = 0.9
TERMINAL, TIMEOUT, THREE_STEP = 0, 1, 2  # rows of `batch` with discounts 0, 1 and γ²


@pytest.fixture
def batch() -> Batch:
    g = torch.Generator().manual_seed(0)
    discount = torch.ones(ROWS)
    discount[TERMINAL], discount[TIMEOUT], discount[THREE_STEP] = 0.0, 1.0, GAMMA**2
    return Batch(
        torch.randn(1, ROWS, OBSERVATION, generator=g),
        torch.rand(1, ROWS, ACTION, generator=g) * 2 - 1,
        torch.randn(1, ROWS, generator=g),
        torch.randn(1, ROWS, OBSERVATION, generator=g),
        discount[None],
    )


@pytest.fixture
def noise() -> Tensor:
    """Partly beyond the clip of ±0.5 once it is scaled by 0.2."""
    return 3 * torch.randn(1, ROWS, ACTION, generator=torch.Generator().manual_seed(7))


def chance(seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed)]


def td3_bc_learner(**changes: Any) -> tuple[td3_bc.TD3BC, TD3BCSettings]:
    """Targets differ from the online networks."""
    settings = TD3BCSettings(hidden=HIDDEN, discount=GAMMA, batch_size=ROWS, learning_rate=1e-2, **changes)
    learner = td3_bc.TD3BC.create(settings, OBSERVATION, ACTION, chance(1))
    other = td3_bc.TD3BC.create(settings, OBSERVATION, ACTION, chance(2))
    learner.target_actor.load_state_dict(other.actor.state_dict())
    learner.target_critic.load_state_dict(other.critic.state_dict())
    return learner, settings


def iql_learner(**changes: Any) -> tuple[iql.IQL, IQLSettings]:
    settings = IQLSettings(
        hidden=HIDDEN, discount=GAMMA, batch_size=ROWS, learning_rate=1e-2, gradient_steps=10, **changes
    )
    learner = iql.IQL.create(settings, OBSERVATION, ACTION, chance(2))
    learner.target_critic.load_state_dict(iql.IQL.create(settings, OBSERVATION, ACTION, chance(3)).critic.state_dict())
    learner.actor.log_std.copy_(torch.tensor([[0.3, -0.4]]))
    return learner, settings


# --- the networks once more, in NumPy ---------------------------------------------------------------------------


def weights(module: nn.Module) -> dict[str, np.ndarray]:
    return {key: value.detach().double().numpy().copy() for key, value in module.state_dict().items()}


def numpy_mlps(w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """[members, B, out], each network of a learner by itself."""
    outputs = []
    for i in range(len(w["weight1"])):
        first = np.maximum(x @ w["weight1"][i] + w["bias1"][i], 0)
        second = np.maximum(first @ w["weight2"][i] + w["bias2"][i], 0)
        outputs.append(second @ w["weight3"][i].T + w["bias3"][i].T)
    return np.stack(outputs)


def numpy_mlp(w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    (output,) = numpy_mlps(w, x)
    return output


def numpy_q(w: dict[str, np.ndarray], observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    """[2, B], each critic by itself."""
    return numpy_mlps(w, np.concatenate([observation, action], axis=1))[:, :, 0]


def double(batch: Batch) -> tuple[np.ndarray, ...]:
    """observation, action, reward, next_observation, discount in float64."""
    return tuple(getattr(batch, item.name)[0].double().numpy() for item in dataclasses.fields(batch))


def same_weights(module: nn.Module, expected: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(value, expected[key]) for key, value in weights(module).items())


def assert_averaged(target: nn.Module, old: dict, online: nn.Module, rate: float) -> None:
    new = weights(online)
    for key, value in weights(target).items():
        np.testing.assert_allclose(value, (1 - rate) * old[key] + rate * new[key], rtol=1e-5, atol=1e-7)


# --- TD3+BC -----------------------------------------------------------------------------------------------------


def td3_target(
    learner: td3_bc.TD3BC, batch: Batch, noise: Tensor, spread: float = 0.2, clip: float = 0.5
) -> np.ndarray:
    _, _, reward, successor, discount = double(batch)
    smoothing = np.clip(spread * noise[0].double().numpy(), -clip, clip)
    action = np.clip(np.tanh(numpy_mlp(weights(learner.target_actor), successor)) + smoothing, -1, 1)
    q = numpy_q(weights(learner.target_critic), successor, action)
    return np.array([reward[i] + GAMMA * discount[i] * min(q[0, i], q[1, i]) for i in range(ROWS)])


@pytest.mark.parametrize(("spread", "clip"), [(0.2, 0.5), (0.7, 0.3)])
def test_td3_bc_target_follows_its_formula(batch: Batch, noise: Tensor, spread: float, clip: float) -> None:
    learner, settings = td3_bc_learner(policy_noise=spread, noise_clip=clip)
    (found,) = td3_bc.td_target(learner, batch, noise, settings)
    np.testing.assert_allclose(found, td3_target(learner, batch, noise, spread, clip), rtol=1e-4, atol=1e-5)


def test_td3_bc_bootstraps_at_a_timeout_and_not_at_a_terminal(batch: Batch, noise: Tensor) -> None:
    learner, settings = td3_bc_learner()
    (target,) = td3_bc.td_target(learner, batch, noise, settings)
    bootstrapped = (target - batch.reward[0]).double().numpy()
    everywhere = dataclasses.replace(batch, discount=torch.ones(1, ROWS))
    full = (td3_bc.td_target(learner, everywhere, noise, settings) - batch.reward)[0].double().numpy()
    assert target[TERMINAL] == batch.reward[0, TERMINAL]
    assert bootstrapped[TIMEOUT] == full[TIMEOUT] != 0
    np.testing.assert_allclose(bootstrapped[THREE_STEP], GAMMA**2 * full[THREE_STEP], rtol=1e-4)


def test_td3_bc_losses_of_an_update_are_those_of_the_networks_before_it(batch: Batch, noise: Tensor) -> None:
    learner, settings = td3_bc_learner()
    observation, action, *_ = double(batch)
    q = numpy_q(weights(learner.critic), observation, action)
    target = td3_target(learner, batch, noise)
    expected = sum(((q[member] - target) ** 2).mean() for member in range(2))
    metrics = learner.update(batch, noise, 0, settings)
    np.testing.assert_allclose(float(metrics["critic_loss"].detach()), expected, rtol=1e-4)
    np.testing.assert_allclose(float(metrics["q"].detach()), q[0].mean(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_td3_bc_actor_and_targets_move_only_every_policy_delay_steps(batch: Batch, noise: Tensor, delay: int) -> None:
    learner, settings = td3_bc_learner(policy_delay=delay, target_rate=0.1)
    delayed = {"actor": learner.actor, "target_actor": learner.target_actor, "target_critic": learner.target_critic}
    for step in range(2 * delay):
        before = {name: weights(module) for name, module in delayed.items()}
        critic = weights(learner.critic)
        learner.update(batch, noise, step, settings)
        assert not same_weights(learner.critic, critic)
        moves = (step + 1) % delay == 0
        for name, module in delayed.items():
            assert same_weights(module, before[name]) == (not moves), (step, name)
        if moves:
            assert_averaged(learner.target_actor, before["target_actor"], learner.actor, 0.1)
            assert_averaged(learner.target_critic, before["target_critic"], learner.critic, 0.1)


def test_targets_start_as_copies_of_the_online_networks() -> None:
    settings = {"hidden": HIDDEN}
    for learner in (
        td3_bc.TD3BC.create(TD3BCSettings(**settings), OBSERVATION, ACTION, chance(0)),
        iql.IQL.create(IQLSettings(**settings), OBSERVATION, ACTION, chance(0)),
    ):
        assert same_weights(learner.target_critic, weights(learner.critic))
        assert not any(parameter.requires_grad for parameter in learner.target_critic.parameters())
        first, second = weights(learner.critic)["weight1"]
        assert not np.array_equal(first, second)  # two critics, not one twice


# --- IQL --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.9])
def test_expectile_loss_follows_its_formula(expectile: float) -> None:
    residual = torch.randn(50, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for u in residual.double().tolist():
        total += abs(expectile - (1 if u < 0 else 0)) * u**2
    np.testing.assert_allclose(float(iql.expectile_loss(residual, expectile)[0]), total / 50, rtol=1e-5)


def test_minimum_of_the_expectile_loss_is_the_expectile() -> None:
    """E|τ - 1(x < m)| (x - m) = 0 at the minimum: the mean for τ = 1/2, above it for a larger τ."""
    x = torch.tensor([0.0, 1.0, 5.0])
    grid = torch.linspace(0, 5, 5001)
    best = {
        tau: float(grid[torch.stack([iql.expectile_loss(x - m, tau)[0] for m in grid]).argmin()]) for tau in (0.5, 0.8)
    }
    assert abs(best[0.5] - 2.0) < 0.002
    assert abs(best[0.8] - 21 / 6) < 0.002  # 0.8 (5 - m) = 0.2 m + 0.2 (m - 1)


def test_iql_target_bootstraps_at_a_timeout_and_not_at_a_terminal(batch: Batch) -> None:
    value = torch.linspace(1, 4, ROWS)
    found = iql.td_target(value[None], batch, GAMMA)[0].double().numpy()
    _, _, reward, _, discount = double(batch)
    expected = [reward[i] + GAMMA * discount[i] * float(value[i]) for i in range(ROWS)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[TERMINAL] == batch.reward[0, TERMINAL]
    np.testing.assert_allclose(found[TIMEOUT], reward[TIMEOUT] + GAMMA * float(value[TIMEOUT]), rtol=1e-5)
    np.testing.assert_allclose(found[THREE_STEP], reward[THREE_STEP] + GAMMA**3 * float(value[THREE_STEP]), rtol=1e-5)


@pytest.mark.parametrize(("clip", "expectile"), [(0.3, 0.7), (100.0, 0.9)])
def test_iql_update_follows_its_equations_in_the_published_order(batch: Batch, clip: float, expectile: float) -> None:
    """V by the target critic, the actor by the new V's advantages, Q by the new V's successors, then the target."""
    learner, settings = iql_learner(
        advantage_weight_clip=clip, expectile=expectile, inverse_temperature=3.0, target_rate=0.1
    )
    observation, action, reward, successor, discount = double(batch)
    old = {name: weights(getattr(learner, name)) for name in ("actor", "critic", "value", "target_critic")}
    metrics = {name: float(value.detach()) for name, value in learner.update(batch, Tensor(), 0, settings).items()}
    new_value = weights(learner.value)
    assert not same_weights(learner.value, old["value"])

    q = numpy_q(old["target_critic"], observation, action).min(0)
    residual = q - numpy_mlp(old["value"], observation)[:, 0]
    value_loss = np.mean([(1 - expectile if u < 0 else expectile) * u**2 for u in residual])
    np.testing.assert_allclose(metrics["value_loss"], value_loss, rtol=1e-4)
    np.testing.assert_allclose(metrics["q"], q.mean(), rtol=1e-4, atol=1e-6)

    unclipped = np.exp(3.0 * (q - numpy_mlp(new_value, observation)[:, 0]))
    assert (unclipped > clip).any() == (clip < 1) and (unclipped < clip).any()
    mean, deviation = np.tanh(numpy_mlp(old["actor"], observation)), np.exp(old["actor"]["log_std"][0])
    density = np.exp(-((action - mean) ** 2) / (2 * deviation**2)) / np.sqrt(2 * math.pi * deviation**2)
    actor_loss = -np.mean(np.minimum(unclipped, clip) * np.log(density.prod(1)))
    np.testing.assert_allclose(metrics["actor_loss"], actor_loss, rtol=1e-4)

    target = reward + GAMMA * discount * numpy_mlp(new_value, successor)[:, 0]
    both = numpy_q(old["critic"], observation, action)
    np.testing.assert_allclose(metrics["critic_loss"], ((both - target) ** 2).mean(1).sum(), rtol=1e-4)
    assert_averaged(learner.target_critic, old["target_critic"], learner.critic, 0.1)
    assert not same_weights(learner.critic, old["critic"])


def test_iql_clones_the_data_when_the_temperature_is_infinite(batch: Batch) -> None:
    """β = 0: every weight is 1."""
    learner, settings = iql_learner(inverse_temperature=0.0)
    mean = torch.from_numpy(np.tanh(numpy_mlp(weights(learner.actor), batch.observation[0].double().numpy())))
    density = torch.distributions.Normal(mean, learner.actor.log_std[0].double().exp())
    expected = -density.log_prob(batch.action[0].double()).sum(1).mean()
    found = learner.update(batch, Tensor(), 0, settings)["actor_loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_iql_actor_learns_at_a_cosine_rate_and_the_critics_at_a_constant_one(batch: Batch) -> None:
    learner, settings = iql_learner()
    for step in (0, 5, 9):
        learner.schedule(step, settings)
        learner.update(batch, Tensor(), step, settings)
        expected = 1e-2 * (1 + math.cos(math.pi * step / 10)) / 2
        np.testing.assert_allclose(learner.actor_optimizer.param_groups[0]["lr"], expected, rtol=1e-6)
        for optimizer in (learner.critic_optimizer, learner.value_optimizer):
            assert float(optimizer.param_groups[0]["lr"]) == np.float32(1e-2)


# --- batches ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(transitions: Transitions) -> Table:
    return table_of(transitions)


@pytest.fixture(scope="module")
def imagined(synthetic: Path) -> Table:
    return table_of(read_transitions(open_sealed(synthetic, "synthetic")))


def first_rows(table: Table, count: int) -> Table:
    return Table(table.rows[:count], table.observation_dim, table.action_dim, table.episode_starts)


def mixture(
    real: Table,
    imagined: Table | None,
    fraction: float,
    size: int,
    scale: float = 1.0,
    seeds: Sequence[int] = (0,),
    others: Sequence[Table] = (),
) -> Mixture:
    units = Units(observation_normalizer(real, True), ActionScaler(3), scale)
    synthetic = [imagined, *others] if others else [imagined] * len(seeds)
    return Mixture(real, synthetic, fraction, units, seeds, size)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 1.0])
def test_share_of_real_rows_is_exact_in_expectation(real: Table, imagined: Table, fraction: float) -> None:
    size, steps = 5, 4000
    found = mixture(real, imagined, fraction, size)
    counts = np.array([int((found.draws.at(step) < len(real)).sum()) for step in range(steps)])
    wanted = fraction * size
    assert set(counts.tolist()) == {math.floor(wanted), math.ceil(wanted)}  # as near to the share as a batch can be
    part = wanted - math.floor(wanted)
    assert abs(counts.mean() - wanted) <= 4 * math.sqrt(part * (1 - part) / steps)


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (1.0, 128)])
def test_batch_of_one_kind_is_of_one_kind_whatever_is_drawn(
    real: Table, imagined: Table, fraction: float, count: int
) -> None:
    words = torch.full((1, 129), 2**32 - 1)  # a uniform number of 1 in float32
    rows = mixture(real, imagined, fraction, 128).row_numbers(words)
    assert int((rows < len(real)).sum()) == count


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_rows_of_a_batch_are_really_real_and_synthetic_to_that_share(
    real: Table, imagined: Table, fraction: float
) -> None:
    """By what is in them, not by their numbers: the synthetic rows carry a reward that no real row has."""
    marked = Table(imagined.rows.copy(), imagined.observation_dim, imagined.action_dim, imagined.episode_starts)
    marked.reward[:] = -777
    found = mixture(real, marked, fraction, 64)
    for step in range(300):
        batch = found.gather(found.draws.at(step))
        assert int((batch.reward != -777).sum()) == 64 * fraction


def test_every_row_is_drawn_equally_often(real: Table, imagined: Table) -> None:
    found = mixture(first_rows(real, 40), first_rows(imagined, 20), 0.5, 60)
    drawn = torch.cat([found.draws.at(step).flatten() for step in range(1000)])
    counts = np.bincount(drawn.numpy(), minlength=60)
    assert len(counts) == 60
    for expected, part in ((750, counts[:40]), (1500, counts[40:])):
        assert np.abs(part - expected).max() < 5 * math.sqrt(expected)


def test_draw_depends_on_seed_and_step_and_not_on_the_order_of_calls(real: Table, imagined: Table) -> None:
    in_order, jumping = (mixture(real, imagined, 0.5, 16) for _ in range(2))
    expected = [in_order.draws.at(step).clone() for step in range(600)]
    for step in (599, 0, 300, 5, 5, 256, 255):
        assert torch.equal(jumping.draws.at(step), expected[step])
    assert not torch.equal(mixture(real, imagined, 0.5, 16, seeds=[1]).draws.at(5), expected[5])
    assert len({tuple(numbers.flatten().tolist()) for numbers in expected}) == 600


def test_seed_draws_the_same_batch_and_noise_whoever_shares_its_process(real: Table, imagined: Table) -> None:
    other = first_rows(imagined, 30)
    alone = mixture(real, imagined, 0.5, 16, seeds=[3])
    among = mixture(real, other, 0.5, 16, seeds=[0, 3, 2**40], others=[imagined, other])
    noise = [normal_draws(seeds, "target-noise", (16, 3), "cpu") for seeds in ([3], [0, 3, 2**40])]
    for step in (0, 1, 127, 128, 5000):
        one, many = alone.gather(alone.draws.at(step)), among.gather(among.draws.at(step))
        for item in dataclasses.fields(Batch):
            assert torch.equal(getattr(many, item.name)[1:2], getattr(one, item.name))
        assert torch.equal(noise[1].at(step)[1:2], noise[0].at(step))
        assert len({tuple(values.flatten().tolist()) for values in noise[1].at(step)}) == 3


def test_batch_holds_normalised_observations_scaled_rewards_and_plain_actions(
    transitions: Transitions, synthetic: Path, real: Table, imagined: Table
) -> None:
    grown = read_transitions(open_sealed(synthetic, "synthetic"))
    found = mixture(real, imagined, 0.5, 32, scale=3.0)
    (numbers,), batch = found.draws.at(7).tolist(), found.gather(found.draws.at(7))
    exact = transitions.observation.astype(np.float64)
    mean = exact.mean(0)
    std = np.sqrt(((exact - mean) ** 2).mean(0)) + 1e-3
    for i, number in enumerate(numbers):
        rows, row = (transitions, number) if number < len(real) else (grown, number - len(real))
        np.testing.assert_allclose(batch.observation[0, i], (rows.observation[row] - mean) / std, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            batch.next_observation[0, i], (rows.next_observation[row] - mean) / std, rtol=1e-3, atol=1e-4
        )
        np.testing.assert_array_equal(batch.action[0, i], rows.action[row])
        np.testing.assert_allclose(batch.reward[0, i], 3.0 * rows.reward[row], rtol=1e-6)
        assert batch.discount[0, i] == rows.discount[row]
    assert {number < len(real) for number in numbers} == {True, False}


def test_actions_of_a_batch_are_in_units_of_their_bounds(transitions: Transitions, real: Table) -> None:
    low, high = np.array([-3.0, -1.0, 0.5]), np.array([1.0, 1.0, 1.5])
    units = Units(observation_normalizer(real, True), ActionScaler.between(low, high), 1.0)
    found = Mixture(real, [None], 1.0, units, [0], 16)
    numbers = found.draws.at(3)
    action = transitions.action[numbers[0].numpy()]
    np.testing.assert_allclose(
        found.gather(numbers).action[0], (2 * action - low - high) / (high - low), rtol=1e-5, atol=1e-6
    )


def test_mixture_without_synthetic_rows_is_refused(real: Table, imagined: Table) -> None:
    for none in (None, first_rows(imagined, 0)):
        with pytest.raises(InputError, match=r"real_fraction: 0\.5 needs synthetic transitions"):
            mixture(real, none, 0.5, 16)


def test_noise_is_standard_normal_and_does_not_depend_on_the_order_of_calls() -> None:
    in_order, jumping = (normal_draws([0], "target-noise", (5, 3), "cpu") for _ in range(2))
    expected = [in_order.at(step).clone() for step in range(400)]
    for step in (199, 0, 64, 63, 5, 5):
        assert torch.equal(jumping.at(step), expected[step])
    drawn = torch.stack(expected).double().flatten()
    assert drawn.shape == (400 * 15,) and stats.kstest(drawn.numpy(), "norm").pvalue > 1e-3
    assert len(drawn.unique()) > 0.99 * len(drawn)


def test_reward_scale_is_a_thousand_over_the_spread_of_real_returns(transitions: Transitions) -> None:
    returns: dict[int, float] = {}
    for episode, reward in zip(transitions.episode.tolist(), transitions.reward.tolist(), strict=True):
        returns[episode] = returns.get(episode, 0.0) + reward
    expected = 1000 / (max(returns.values()) - min(returns.values()))
    np.testing.assert_allclose(reward_scale(table_of(transitions), True), expected, rtol=1e-6)
    assert reward_scale(table_of(transitions), False) == 1.0
    one = table_of(transitions.take(transitions.episode == 0))
    assert reward_scale(one, True) == 1.0  # one episode has no spread


def test_observations_stay_raw_where_no_normalizer_is_wanted(transitions: Transitions) -> None:
    observation = torch.from_numpy(transitions.observation[:9])
    assert torch.equal(observation_normalizer(table_of(transitions), False).encode(observation), observation)


def test_values_may_be_some_times_what_the_rewards_add_up_to(transitions: Transitions) -> None:
    settings = TD3BCSettings(discount=GAMMA, largest_q=2.0)
    largest = 3.0 * np.abs(transitions.reward).max() / (1 - GAMMA)
    assert value_limits(table_of(transitions), settings, scale=3.0)["q"] == pytest.approx(2 * largest + 1)


# --- the stage --------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "hidden": HIDDEN,
    "batch_size": 16,
    "gradient_steps": 20,
    "evaluate_every": 10,
    "evaluation_episodes": 2,
}


@pytest.fixture(scope="module")
def policies(dataset: Path, synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small trained policy of each learner; IQL normalises too, so that there is something to store."""
    folder = tmp_path_factory.mktemp("policies")
    train_policy("td3_bc", dataset, synthetic, TD3BCSettings(**SMALL), 0.5, folder / "td3_bc", seed=3)
    settings = IQLSettings(normalize_observations=True, **SMALL)
    train_policy("iql", dataset, synthetic, settings, 0.5, folder / "iql", seed=3)
    train_policy("td3_bc", dataset, None, TD3BCSettings(**SMALL), 1.0, folder / "real", seed=3)
    return {name: folder / name for name in ("td3_bc", "iql", "real")}


def test_normalizer_of_a_policy_is_that_of_the_real_data_in_every_arm(
    policies: dict[str, Path], transitions: Transitions
) -> None:
    exact = transitions.observation.astype(np.float64)
    for folder in policies.values():
        stored = load_file(folder / "policy.safetensors")
        np.testing.assert_allclose(stored["observations.mean"], exact.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(stored["observations.std"], exact.std(0) + 1e-3, rtol=1e-5)


@pytest.mark.parametrize("name", ["td3_bc", "iql", "real"])
def test_reloaded_policy_earns_what_it_earned_when_it_was_saved(policies: dict[str, Path], name: str) -> None:
    policy, sealed = load_policy(policies[name])
    last = list(csv.DictReader((policies[name] / "evaluations.csv").open()))[-1]
    returns = Evaluator(TASKS["hopper"], 2).returns(policy.act, 3, 20)
    assert last["step"] == "20" and last["episodes"] == "2"
    assert last["return_mean"] == f"{returns.mean():.8g}"
    assert last["return_std"] == f"{returns.std():.8g}"
    score = 100 * (returns.mean() + 20.272305) / (3234.3 + 20.272305)
    np.testing.assert_allclose(float(last["normalized_score"]), score, rtol=1e-6)
    assert sealed.metadata["real_fraction"] == (1.0 if name == "real" else 0.5)


def test_reloaded_policy_acts_bit_for_bit_as_the_saved_one(transitions: Transitions, tmp_path: Path) -> None:
    torch.manual_seed(0)
    actor = Actor(11, 3, HIDDEN)
    policy = DeterministicPolicy(observation_normalizer(table_of(transitions), True), actor, ActionScaler(3))
    save_weights(tmp_path / "policy.safetensors", policy)
    seal(tmp_path, "policy", files=["policy.safetensors"], settings={}, metadata=policy.facts())
    loaded, _ = load_policy(tmp_path)
    before, after = policy.act(transitions.observation[:100]), loaded.act(transitions.observation[:100])
    assert before.dtype == np.float32 and before.tobytes() == after.tobytes()
    unnormalised = DeterministicPolicy(Standardizer(11), actor, ActionScaler(3)).act(transitions.observation[:100])
    assert not np.allclose(before, unnormalised)


def test_policy_acts_by_the_tanh_of_its_mean_network(policies: dict[str, Path], transitions: Transitions) -> None:
    policy, _ = load_policy(policies["iql"])
    w = weights(policy)
    x = (transitions.observation[:50].astype(np.float64) - w["observations.mean"]) / w["observations.std"]
    for layer in (0, 2):
        x = np.maximum(x @ w[f"actor.network.{layer}.weight"].T + w[f"actor.network.{layer}.bias"], 0)
    expected = np.tanh(x @ w["actor.network.4.weight"].T + w["actor.network.4.bias"])
    np.testing.assert_allclose(policy.act(transitions.observation[:50]), expected, rtol=1e-3, atol=1e-4)
    normalizers = {"observations.mean", "observations.std", "observations.low", "observations.high"}
    assert set(w) == normalizers | {"actions.low", "actions.high"} | {
        f"actor.network.{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")
    }


def test_learners_refuse_synthetic_data_that_no_batch_would_hold(
    dataset: Path, synthetic: Path, tmp_path: Path
) -> None:
    output = tmp_path / "policy"
    with pytest.raises(InputError, match=r"--real-fraction: expected less than 1 for the transitions of .*, found 1"):
        train_policy("td3_bc", dataset, synthetic, TD3BCSettings(**SMALL), 1.0, output, seed=3)
    assert not output.exists()


def test_learners_refuse_synthetic_data_of_another_data_set(scrambled: Path, synthetic: Path, tmp_path: Path) -> None:
    output = tmp_path / "policy"
    with pytest.raises(InputError, match="grew from another data set"):
        train_policy("td3_bc", scrambled, synthetic, TD3BCSettings(**SMALL), 0.5, output, seed=0)
    assert not output.exists()


def test_learners_refuse_a_mixture_without_synthetic_data(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"--synthetic: expected a folder of transitions for a real fraction of 0\.5, found none"
    ):
        train_policy("iql", dataset, None, IQLSettings(**SMALL), 0.5, tmp_path / "policy", seed=0)


def test_behaviour_cloning_learns_the_action_of_the_data(
    seal_dataset: Callable[..., Path], transitions: Transitions, tmp_path: Path
) -> None:
    """α = 0: the actor must come near to a simple policy that the data follow."""
    action = np.tanh(transitions.observation[:, :3] * [1.0, 5.0, 5.0] - [1.0, 0.0, 0.0]).astype(np.float32)
    folder = seal_dataset(dataclasses.replace(transitions, action=action), [0])
    settings = TD3BCSettings(
        **SMALL | {"hidden": 32, "batch_size": 64, "gradient_steps": 400}, alpha=0.0, learning_rate=5e-3
    )
    settings = dataclasses.replace(settings, evaluate_every=400, evaluation_episodes=1)
    train_policy("td3_bc", folder, None, settings, 1.0, tmp_path, seed=0)
    error = np.abs(load_policy(tmp_path)[0].act(transitions.observation) - action).mean()
    assert error < 0.3 * np.abs(action - action.mean(0)).mean()


def test_iql_sees_scaled_rewards_raw_observations_and_every_step_of_its_schedule(
    dataset: Path, transitions: Transitions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, units, made = [], [], dawm.offline_rl.training.Mixture

    def spied(real: Table, synthetic: Any, fraction: float, chosen: Units, *rest: Any) -> Mixture:
        units.append(chosen)
        return made(real, synthetic, fraction, chosen, *rest)

    monkeypatch.setattr(dawm.offline_rl.training, "Mixture", spied)
    monkeypatch.setattr(iql.IQL, "schedule", lambda self, step, settings: steps.append(step))
    train_policy("iql", dataset, None, IQLSettings(**SMALL), 1.0, tmp_path / "policy", seed=0)
    assert steps == list(range(20))
    assert units[0].reward_scale == reward_scale(table_of(transitions), True) != 1
    observations = load_policy(tmp_path / "policy")[0].observations
    assert not observations.mean.any() and (observations.std == 1).all()


def test_weights_begin_as_the_seed_says(dataset: Path, tmp_path: Path) -> None:
    settings = TD3BCSettings(**SMALL | {"gradient_steps": 1}, learning_rate=1e-12)
    found = []
    for seed in (0, 1):
        train_policy("td3_bc", dataset, None, settings, 1.0, tmp_path / str(seed), seed)
        found.append(load_file(tmp_path / str(seed) / "policy.safetensors"))
    assert any(np.abs(value - found[1][name]).max() > 0.01 for name, value in found[0].items())


# --- behaviour cloning, the reference ------------------------------------------------------------------------------


def test_best_episodes_are_those_with_the_largest_returns(transitions: Transitions) -> None:
    episodes = range(transitions.episode.max() + 1)
    returns = [transitions.reward[transitions.episode == e].sum(dtype=float) for e in episodes]
    wanted = np.argsort(returns)[::-1][: round(0.1 * len(returns))]
    real = table_of(transitions)
    best = best_episodes(real, 0.1)
    expected = table_of(transitions.take(np.isin(transitions.episode, wanted)))
    assert len(wanted) >= 2
    np.testing.assert_array_equal(best.rows, expected.rows)
    np.testing.assert_array_equal(best.episode_starts, expected.episode_starts)
    np.testing.assert_array_equal(best_episodes(real, 1.0).rows, real.rows)
    assert len(best_episodes(real, 1e-9).episode_starts) == 2


def test_ten_percent_bc_clones_the_best_tenth_with_the_statistics_of_all(
    dataset: Path, transitions: Transitions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    made = dawm.offline_rl.training.Mixture

    def spied(real: Table, *rest: Any) -> Mixture:
        seen.append(real)
        return made(real, *rest)

    monkeypatch.setattr(dawm.offline_rl.training, "Mixture", spied)
    small = {"hidden": 16, "batch_size": 16, "gradient_steps": 5, "evaluation_episodes": 1}
    train_policy("bc", dataset, None, BCSettings(**small), 1.0, tmp_path / "all", 0)
    assert len(seen.pop()) == len(transitions)
    train_policy("bc_10", dataset, None, BestBCSettings(**small), 1.0, tmp_path / "policy", 0)
    assert len(seen[0]) == len(best_episodes(table_of(transitions), 0.1)) < len(transitions)
    policy, _ = load_policy(tmp_path / "policy")
    np.testing.assert_allclose(policy.observations.mean, transitions.observation.mean(0), rtol=1e-4, atol=1e-4)


# --- presets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("d4rl/hopper-medium-v2", ("deterministic", 0.001, 0.7, 3.0, True)),
        ("local/hopper-medium-replay", ("deterministic", 0.001, 0.7, 3.0, True)),
        ("hdf5:hopper_medium-v2.hdf5", ("deterministic", 0.001, 0.7, 3.0, True)),
        ("hdf5:data/hopper_medium_replay-v2.hdf5", ("deterministic", 0.001, 0.7, 3.0, True)),
        ("d4rl/hopper-medium-expert-v2", ("gaussian", 0.005, 0.5, 6.0, False)),
        ("d4rl/walker2d-medium-v2", ("gaussian", 0.005, 0.7, 3.0, False)),
        ("hdf5:somewhere/mine.hdf5", ("gaussian", 0.005, 0.7, 3.0, False)),
    ],
)
def test_corls_preset_is_its_published_settings(source: str, expected: tuple) -> None:
    found = with_preset(IQLSettings(preset="corl", expectile=0.9, hidden=64), source)
    assert isinstance(found, IQLSettings) and found.normalize_observations and found.hidden == 64
    assert expected == (
        *(found.actor, found.target_rate, found.expectile, found.inverse_temperature, found.normalize_rewards),
    )
    assert with_preset(plain := IQLSettings(expectile=0.9), source) == plain
    assert with_preset(td3 := TD3BCSettings(), source) == td3


def test_policy_says_what_its_preset_meant(dataset: Path, tmp_path: Path) -> None:
    train_policy("iql", dataset, None, IQLSettings(preset="corl", **SMALL), 1.0, tmp_path, 0)
    settings = open_sealed(tmp_path, "policy").provenance["settings"]
    assert settings["actor"] == "deterministic" and settings["target_rate"] == 0.001  # local/hopper-medium-replay


@pytest.mark.parametrize("name", ["hopper", "hopper-half"])
def test_a_policy_fits_the_config_that_names_its_preset(dataset: Path, tmp_path: Path, name: str) -> None:
    """Its seal tells what the preset meant; tables and report compare that with the config."""
    values = {
        "experiment": "presets",
        "seeds": [0],
        "datasets": {
            "hopper": {"source": "local/hopper-medium-replay"},
            "hopper-half": {"source": "part/hopper", "fraction": 0.5},
        },
        "augmentations": {"real": {"real_fraction": 1.0}},
        "algorithms": {"iql": {"preset": "corl", **SMALL}},
    }
    experiment, layout = read(Experiment, values, "here"), Layout(tmp_path)
    shutil.copytree(dataset, layout.dataset("hopper"))
    export(experiment.datasets["hopper-half"], layout.dataset("hopper-half"), layout.dataset("hopper"))
    folder = layout.policy(Run(name, "iql", "real", 0))
    train_policy("iql", layout.dataset(name), None, experiment.algorithm("iql"), 1.0, folder, 0)

    def check(config: Experiment) -> None:
        trained = [job for job in jobs(layout, config) if job.stage == "train-policy"]
        refuse_made_otherwise(config, trained, settings_in)

    check(experiment)
    with pytest.raises(InputError, match="as the config has it, found"):
        check(read(Experiment, values | {"algorithms": {"iql": SMALL}}, "here"))


def test_a_part_has_the_preset_of_its_whole(dataset: Path, tmp_path: Path) -> None:
    export(ExportSettings(source="part/hopper", fraction=0.5), tmp_path / "part", dataset)
    train_policy("iql", tmp_path / "part", None, IQLSettings(preset="corl", **SMALL), 1.0, tmp_path / "policy", 0)
    assert open_sealed(tmp_path / "policy", "policy").provenance["settings"]["actor"] == "deterministic"
