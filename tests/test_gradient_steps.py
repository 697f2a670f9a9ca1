"""Whole gradient steps of TD3+BC, IQL and BC against NumPy in float64: losses, every parameter, targets, Adam."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dawm.config import BCSettings, IQLSettings, LearnerSettings, TD3BCSettings
from dawm.offline_rl import bc, iql, td3_bc
from dawm.offline_rl.adam import Adam
from dawm.offline_rl.batches import Batch
from dawm.offline_rl.learner import Learner
from dawm.offline_rl.mlp import Layers, MLPs

OBSERVATION, ACTION, HIDDEN, ROWS = 7, 3, 16, 32
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}
Weights = dict[str, np.ndarray]


# --- an MLP with two hidden layers and its chain rule, per network and per layer --------------------------------


def of(module: torch.nn.Module) -> Weights:
    return {name: value.detach().double().numpy().copy() for name, value in module.state_dict().items()}


def forward(w: Weights, member: int, x: np.ndarray) -> list[np.ndarray]:
    """Inputs, both hidden layers, output [B, out]."""
    first = np.maximum(x @ w["weight1"][member] + w["bias1"][member], 0)
    second = np.maximum(first @ w["weight2"][member] + w["bias2"][member], 0)
    return [x, first, second, second @ w["weight3"][member].T + w["bias3"][member][:, 0]]


def backward(w: Weights, member: int, layers: list[np.ndarray], slope: np.ndarray) -> tuple[Weights, np.ndarray]:
    """Gradients by the weights of a network and by its inputs; slope: by its output, [B, out]."""
    x, first, second, _ = layers
    by_second = (slope @ w["weight3"][member]) * (second > 0)
    by_first = (by_second @ w["weight2"][member].T) * (first > 0)
    gradients = {
        "weight1": x.T @ by_first,
        "bias1": by_first.sum(0)[None],
        "weight2": first.T @ by_second,
        "bias2": by_second.sum(0)[None],
        "weight3": slope.T @ second,
        "bias3": slope.sum(0)[:, None],
    }
    return gradients, by_first @ w["weight1"][member].T


def together(members: list[Weights]) -> Weights:
    return {name: np.stack([member[name] for member in members]) for name in members[0]}


class NumpyAdam:
    """Kingma & Ba (2015), algorithm 1."""

    def __init__(self) -> None:
        self.first: Weights = {}
        self.second: Weights = {}
        self.count = 0

    def step(self, weights: Weights, gradients: Weights, rate: float) -> None:
        self.count += 1
        for name, g in gradients.items():
            self.first[name] = 0.9 * self.first.get(name, 0.0) + 0.1 * g
            self.second[name] = 0.999 * self.second.get(name, 0.0) + 0.001 * g**2
            mean = self.first[name] / (1 - 0.9**self.count)
            square = self.second[name] / (1 - 0.999**self.count)
            weights[name] -= rate * mean / (np.sqrt(square) + 1e-8)


def averaged(target: Weights, online: Weights, rate: float) -> None:
    for name in target:
        target[name] += rate * (online[name] - target[name])


def agree(module: torch.nn.Module, expected: Mapping[str, np.ndarray]) -> None:
    found = of(module)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, **TOLERANCE, err_msg=name)


def chance(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


# --- the learners' steps -----------------------------------------------------------------------------------------


def batch(seed: int) -> Batch:
    g = torch.Generator().manual_seed(seed)
    discount = torch.tensor([0.0, 1.0, 0.81, 1.0]).repeat(ROWS // 4)  # terminal, timeout, three steps, inside
    return Batch(
        torch.randn(1, ROWS, OBSERVATION, generator=g),
        torch.rand(1, ROWS, ACTION, generator=g) * 2 - 1,
        torch.randn(1, ROWS, generator=g),
        torch.randn(1, ROWS, OBSERVATION, generator=g),
        discount[None],
    )


def double(rows: Batch) -> tuple[np.ndarray, ...]:
    return tuple(getattr(rows, item.name)[0].double().numpy() for item in dataclasses.fields(rows))


def critic_gradient(critic: Weights, inputs: np.ndarray, target: np.ndarray) -> tuple[float, Weights]:
    """Of Σ_i mean (Q_i - y)²."""
    loss, members = 0.0, []
    for member in range(2):
        layers = forward(critic, member, inputs)
        error = layers[-1][:, 0] - target
        loss += (error**2).mean()
        members.append(backward(critic, member, layers, 2 * error[:, None] / len(error))[0])
    return loss, together(members)


def lowest_q(critic: Weights, inputs: np.ndarray) -> np.ndarray:
    return np.minimum(*(forward(critic, member, inputs)[-1][:, 0] for member in range(2)))


def test_td3_bc_steps_agree_with_numpy() -> None:
    settings = TD3BCSettings(hidden=HIDDEN, batch_size=ROWS, learning_rate=1e-3, target_rate=0.1)
    learner = td3_bc.TD3BC.create(settings, OBSERVATION, ACTION, chance(0))
    actor, critic = of(learner.actor), of(learner.critic)
    target_actor, target_critic = of(learner.actor), of(learner.critic)
    actor_adam, critic_adam = NumpyAdam(), NumpyAdam()
    for step in range(4):
        rows, noise = batch(step), torch.randn(1, ROWS, ACTION, generator=torch.Generator().manual_seed(90 + step)) * 2
        metrics = learner.update(rows, noise, step, settings)

        observation, action, reward, successor, discount = double(rows)
        smoothing = np.clip(0.2 * noise[0].double().numpy(), -0.5, 0.5)
        next_action = np.clip(np.tanh(forward(target_actor, 0, successor)[-1]) + smoothing, -1, 1)
        q = lowest_q(target_critic, np.concatenate([successor, next_action], 1))
        inputs = np.concatenate([observation, action], 1)
        mean_q = forward(critic, 0, inputs)[-1].mean()
        loss, gradients = critic_gradient(critic, inputs, reward + 0.99 * discount * q)
        critic_adam.step(critic, gradients, 1e-3)
        np.testing.assert_allclose(metrics["critic_loss"], loss, **TOLERANCE)
        np.testing.assert_allclose(metrics["q"], mean_q, **TOLERANCE)
        if step % 2:
            layers = forward(actor, 0, observation)
            chosen = np.tanh(layers[-1])
            values = forward(critic, 0, np.concatenate([observation, chosen], 1))
            weight = 2.5 / np.abs(values[-1]).mean()
            _, by_inputs = backward(critic, 0, values, np.full((ROWS, 1), -weight / ROWS))
            by_action = by_inputs[:, OBSERVATION:] + 2 * (chosen - action) / action.size
            gradients, _ = backward(actor, 0, layers, by_action * (1 - chosen**2))
            actor_adam.step(actor, together([gradients]), 1e-3)
            averaged(target_actor, actor, 0.1)
            averaged(target_critic, critic, 0.1)
        agree(learner.actor, actor)
        agree(learner.critic, critic)
        agree(learner.target_actor, target_actor)
        agree(learner.target_critic, target_critic)


def test_bc_steps_agree_with_numpy() -> None:
    settings = BCSettings(hidden=HIDDEN, batch_size=ROWS, learning_rate=1e-3)
    learner = bc.BC.create(settings, OBSERVATION, ACTION, chance(0))
    actor, adam = of(learner.actor), NumpyAdam()
    for step in range(4):
        rows = batch(step)
        metrics = learner.update(rows, Tensor(), step, settings)

        observation, action, *_ = double(rows)
        layers = forward(actor, 0, observation)
        chosen = np.tanh(layers[-1])
        np.testing.assert_allclose(metrics["actor_loss"], ((chosen - action) ** 2).mean(), **TOLERANCE)
        slope = 2 * (chosen - action) / action.size * (1 - chosen**2)
        adam.step(actor, together([backward(actor, 0, layers, slope)[0]]), 1e-3)
        agree(learner.actor, actor)


@pytest.mark.parametrize("kind", ["gaussian", "deterministic"])
@pytest.mark.parametrize("clip", [0.4, 100.0])
def test_iql_steps_agree_with_numpy(clip: float, kind: Any) -> None:
    settings = IQLSettings(
        hidden=HIDDEN,
        batch_size=ROWS,
        learning_rate=1e-3,
        gradient_steps=8,
        target_rate=0.1,
        advantage_weight_clip=clip,
        actor=kind,
    )
    learner = iql.IQL.create(settings, OBSERVATION, ACTION, chance(0))
    learner.actor.log_std.copy_(torch.tensor([[0.3, -4.9999, 2.5]]))  # inside, about to leave the range, beyond it
    actor, critic, value = of(learner.actor), of(learner.critic), of(learner.value)
    target = of(learner.critic)
    actor_adam, critic_adam, value_adam = NumpyAdam(), NumpyAdam(), NumpyAdam()
    for step in range(4):
        rows = batch(step)
        learner.schedule(step, settings)
        metrics = learner.update(rows, Tensor(), step, settings)

        observation, action, reward, successor, discount = double(rows)
        inputs = np.concatenate([observation, action], 1)
        q = lowest_q(target, inputs)
        layers = forward(value, 0, observation)
        u = q - layers[-1][:, 0]
        share = np.where(u < 0, 1 - settings.expectile, settings.expectile)
        gradients, _ = backward(value, 0, layers, (-2 * share * u / ROWS)[:, None])
        value_adam.step(value, together([gradients]), 1e-3)
        np.testing.assert_allclose(metrics["value_loss"], (share * u**2).mean(), **TOLERANCE)

        advantage = q - forward(value, 0, observation)[-1][:, 0]
        weight = np.minimum(np.exp(settings.inverse_temperature * advantage), clip)
        assert (weight == clip).any() == (clip < 2)
        layers = forward(actor, 0, observation)
        mean = np.tanh(layers[-1])
        log_std = np.clip(actor["log_std"], -5, 2)
        z = (np.clip(action, -1 + 1e-5, 1 - 1e-5) - mean) / np.exp(log_std)
        density = -(z**2 / 2 + log_std + np.log(2 * np.pi) / 2).sum(1)
        loss, by_mean = -(weight * density).mean(), -(weight[:, None] / ROWS) * z / np.exp(log_std)
        if kind == "deterministic":
            loss = (weight * ((mean - action) ** 2).sum(1)).mean()
            by_mean = 2 * weight[:, None] / ROWS * (mean - action)
        np.testing.assert_allclose(metrics["actor_loss"], loss, **TOLERANCE)
        gradients, _ = backward(actor, 0, layers, by_mean * (1 - mean**2))
        inside = (actor["log_std"] >= -5) & (actor["log_std"] <= 2)
        by_log_std = {"log_std": (weight[:, None] / ROWS * (1 - z**2)).sum(0) * inside * (kind == "gaussian")}
        rate = 1e-3 * (1 + np.cos(np.pi * step / 8)) / 2
        actor_adam.step(actor, together([gradients]) | by_log_std, rate)

        y = reward + 0.99 * discount * forward(value, 0, successor)[-1][:, 0]
        loss, gradients = critic_gradient(critic, inputs, y)
        critic_adam.step(critic, gradients, 1e-3)
        np.testing.assert_allclose(metrics["critic_loss"], loss, **TOLERANCE)
        averaged(target, critic, 0.1)
        for module, expected in (
            (learner.actor, actor),
            (learner.critic, critic),
            (learner.value, value),
            (learner.target_critic, target),
        ):
            agree(module, expected)


# --- seeds side by side -------------------------------------------------------------------------------------------

LEARNERS: dict[str, tuple[type[Learner[Any]], LearnerSettings]] = {
    "td3_bc": (td3_bc.TD3BC, TD3BCSettings(hidden=HIDDEN, batch_size=ROWS)),
    "iql": (iql.IQL, IQLSettings(hidden=HIDDEN, batch_size=ROWS, gradient_steps=40)),
    "iql_deterministic": (iql.IQL, IQLSettings(hidden=HIDDEN, batch_size=ROWS, actor="deterministic")),
    "bc": (bc.BC, BCSettings(hidden=HIDDEN, batch_size=ROWS)),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_steps_a_period_apart_change_the_same_and_others_do_not(name: str) -> None:
    """What a CUDA graph of each phase relies on; the rate, a tensor, is set outside of it."""
    kind, settings = LEARNERS[name]
    learner, noise = kind.create(settings, OBSERVATION, ACTION, chance(0)), torch.zeros(1, ROWS, ACTION)

    def after(step: int) -> dict[str, Tensor]:
        twin = copy.deepcopy(learner)
        twin.update(batch(0), noise, step, settings)
        return twin.state().tensors()

    period = learner.period(settings)
    phases = [after(step) for step in range(period)]
    for phase, expected in enumerate(phases):
        found = after(phase + period)
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert period == 1 or any(not torch.equal(phases[0][key], value) for key, value in phases[1].items())


@pytest.mark.parametrize("name", LEARNERS)
def test_seed_among_others_learns_what_it_learns_alone(name: str) -> None:
    """To rounding: what of a product or of Adam is done in vectors depends on where a seed's weights lie."""
    kind, settings = LEARNERS[name]
    seeds = [0, 7, 3, 1, 9]
    alone = [kind.create(settings, OBSERVATION, ACTION, chance(seed)) for seed in seeds]
    among = kind.create(settings, OBSERVATION, ACTION, chance(*seeds))
    for step in range(20):
        batches = [batch(1000 * step + seed) for seed in seeds]
        noise = torch.randn(len(seeds), ROWS, ACTION, generator=torch.Generator().manual_seed(step))
        columns = [item.name for item in dataclasses.fields(Batch)]
        stacked = Batch(*(torch.cat([getattr(rows, column) for rows in batches]) for column in columns))
        among.schedule(step, settings)
        metrics = among.update(stacked, noise, step, settings)
        for place, learner in enumerate(alone):
            learner.schedule(step, settings)
            expected = learner.update(batches[place], noise[place : place + 1], step, settings)
            for key, value in expected.items():
                torch.testing.assert_close(metrics[key][place : place + 1], value, rtol=1e-5, atol=1e-5)
    for learner, part in zip(alone, among.state().parts(), strict=True):
        expected = learner.state().tensors()
        assert set(part) == set(expected)
        for key, value in expected.items():
            torch.testing.assert_close(part[key], value, rtol=1e-5, atol=1e-6)
    weights = [part["actor/weight1"] for part in among.state().parts()]
    assert not any(torch.equal(weights[0], other) for other in weights[1:])


# --- their parts against autograd ---------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("seeds", [1, 3])
def test_closed_form_gradients_are_those_of_autograd(members: int, seeds: int) -> None:
    layers = MLPs(chance(*range(seeds)), members, 5, 8, 3).double().requires_grad_(True)
    weights = layers.layers
    assert all(value.dtype == torch.float64 for value in weights)
    x = torch.randn(seeds, 6, 5, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(seeds * members, 3, 6, dtype=torch.float64)
    trace = weights.forward(x)
    expected = torch.autograd.grad(trace.output, [*weights, x], slope)
    with torch.no_grad():
        found = weights.gradient(trace, slope)
        by_inputs = weights.input_gradient(trace, slope, start=2)
    for name, ours, theirs in zip(Layers._fields, found, expected, strict=False):
        torch.testing.assert_close(ours, theirs, msg=name)
    torch.testing.assert_close(by_inputs.unflatten(0, (seeds, members)).sum(1).mT, expected[-1][:, :, 2:])


def test_first_members_are_networks_by_themselves() -> None:
    networks, x = MLPs(chance(0, 1), 2, 5, 8, 3), torch.randn(2, 6, 5)
    torch.testing.assert_close(networks.layers.first_of(2).forward(x).output, networks(x)[::2])


def test_fresh_layers_are_drawn_as_torch_draws_them() -> None:
    drawn, bound = MLPs(chance(0), 2, 100, 200, 3).layers, {"1": 0.1, "2": 200**-0.5, "3": 200**-0.5}
    for name, values in drawn._asdict().items():
        limit = bound[name[-1]]
        assert values.abs().max() <= limit and values.abs().max() > 0.7 * limit
        if values.numel() > 10_000:
            assert abs(float(values.mean())) < 0.01 * limit and abs(float(values.std()) * 3**0.5 / limit - 1) < 0.02


def test_adam_is_torchs_and_continues_from_a_saved_state() -> None:
    g = torch.Generator().manual_seed(0)
    start = [torch.randn(4, 3, generator=g), torch.randn(3, generator=g)]
    gradients = [[torch.randn(value.shape, generator=g) for value in start] for _ in range(6)]

    def fresh() -> list[Any]:
        return [torch.nn.Parameter(value.clone()) for value in start]

    ours, theirs = fresh(), fresh()
    plain, fast = torch.optim.Adam(theirs, lr=0.1), Adam(ours, 0.1)
    for number, step in enumerate(gradients):
        if number == 3:
            saved, fast = fast.state_dict(), Adam(ours, 0.7)
            fast.load_state_dict(saved)
        for parameter, gradient in zip(theirs, step, strict=True):
            parameter.grad = gradient
        plain.step()
        fast.descend(step)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected)
