"""The one-step baseline's models: Gaussians fitted by likelihood, plain (successors) and censored (actions)."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import contents

from dawm.cli import main
from dawm.cloned_policy import ClonedPolicy, cloning_errors, load_cloned_policy, train_cloned_policy
from dawm.config import ClonedPolicySettings, ForwardDynamicsSettings
from dawm.data.sealed import open_sealed
from dawm.data.transitions import Transitions
from dawm.dynamics import Pairs
from dawm.errors import InputError
from dawm.forward_dynamics import ForwardDynamics, load_forward_dynamics, train_forward_dynamics
from dawm.gaussians import LOG_STD, bounded_log_std, censored_negative_log_likelihood, negative_log_likelihood

EPISODES, LENGTH = 200, 50
TWO_ACTIONS = "Reacher-v5"  # an environment with as many actions, bounded by ±1
HELD_OUT = list(range(3, EPISODES, 20))
ACTION_STD = 0.4


def true_mean(s: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Mean change of state [n, 2] and mean reward [n, 1], as [n, 3]."""
    change = np.stack([0.1 * s[:, 1] + 0.2 * a[:, 0], 0.3 * a[:, 1] - 0.1 * s[:, 0]], axis=1)
    return np.concatenate([change, (s[:, :1] - a[:, 1:])], axis=1)


def true_std(s: np.ndarray) -> np.ndarray:
    """Standard deviations of the same, [n, 3]: the first grows threefold from s₀ = -1 to 1."""
    return np.stack([0.1 * np.exp(0.55 * s[:, 0]), np.full(len(s), 0.1), np.full(len(s), 0.5)], axis=1)


def policy_mean(s: np.ndarray) -> np.ndarray:
    """[n, 2]; the first often lies beyond the bounds of ±1."""
    return np.stack([1.2 * s[:, 0], -0.3 * s[:, 1]], axis=1)


@pytest.fixture(scope="module")
def rows() -> Transitions:
    """Known Gaussians: independent states, actions clipped to ±1, noisy changes and rewards."""
    rng = np.random.default_rng(0)
    n = EPISODES * LENGTH
    s = rng.normal(size=(n, 2))
    a = np.clip(policy_mean(s) + ACTION_STD * rng.normal(size=(n, 2)), -1, 1)
    found = true_mean(s, a) + true_std(s) * rng.normal(size=(n, 3))
    last = np.tile(np.arange(LENGTH) == LENGTH - 1, EPISODES)
    return Transitions.real(
        observation=s,
        action=a,
        reward=found[:, 2],
        next_observation=s + found[:, :2],
        terminal=np.zeros(n, dtype=bool),
        timeout=last,
    )


@pytest.fixture(scope="module")
def folder(rows: Transitions, seal_dataset: Callable[..., Path]) -> Path:
    return seal_dataset(rows, HELD_OUT, environment=TWO_ACTIONS)


@pytest.fixture(scope="module")
def ensemble(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = ForwardDynamicsSettings(
        loss="likelihood", members=2, hidden=32, layers=2, batch_size=256, learning_rate=3e-3, gradient_steps=1500
    )
    output = tmp_path_factory.mktemp("forward-dynamics")
    train_forward_dynamics(folder, settings, output, seed=0)
    return output


@pytest.fixture(scope="module")
def policy(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = ClonedPolicySettings(hidden=32, batch_size=256, learning_rate=3e-3, gradient_steps=1500)
    output = tmp_path_factory.mktemp("cloned-policy")
    train_cloned_policy(folder, settings, output, seed=0)
    return output


def probes() -> tuple[np.ndarray, np.ndarray]:
    """States and actions [400, 2] as the data have them, without the rare ones."""
    rng = np.random.default_rng(1)
    s = rng.uniform(-1.5, 1.5, (400, 2))
    a = np.clip(policy_mean(s) + ACTION_STD * rng.normal(size=(400, 2)), -1, 1)
    return s.astype(np.float32), a.astype(np.float32)


# --- the successor's Gaussian -----------------------------------------------------------------------------------


def test_likelihood_recovers_mean_and_deviation(ensemble: Path) -> None:
    model, _ = load_forward_dynamics(ensemble)
    s, a = probes()
    with torch.inference_mode():
        mean, log_std = model.distribution(torch.from_numpy(s), torch.from_numpy(a))
    unit = torch.cat([model.changes.std, model.rewards.std])
    centre = torch.cat([model.changes.mean, model.rewards.mean])
    assert mean.shape == log_std.shape == (2, 400, 3)
    for member in range(2):
        error = np.abs((mean[member] * unit + centre).numpy() - true_mean(s, a)).mean(0)
        assert (error < [0.02, 0.02, 0.1]).all(), error
        ratio = (log_std[member].exp() * unit).numpy() / true_std(s)
        assert (np.abs(np.log(ratio)).mean(0) < 0.1).all() and (np.abs(np.log(ratio)) < 0.4).all()


def test_samples_spread_as_the_data_do_and_come_from_the_drawn_member(ensemble: Path) -> None:
    model, _ = load_forward_dynamics(ensemble)
    n = 4000
    s, a = torch.tensor([[1.0, 0.5]]).expand(n, 2), torch.tensor([[0.2, -0.4]]).expand(n, 2)
    noise = torch.randn(n, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        successor, reward = model.sample(s, a, torch.arange(n) % 2, noise)
        mean, _ = model.sample(s, a, torch.ones(n, dtype=torch.long), torch.zeros(n, 3))
    found = torch.cat([successor - s, reward[:, None]], dim=1).numpy()
    np.testing.assert_allclose(found.std(0), true_std(s[:1].numpy())[0], rtol=0.15)
    np.testing.assert_allclose(found.mean(0), true_mean(s[:1].numpy(), a[:1].numpy())[0], atol=0.1)
    expected = s[0] + model.changes.decode(model.propose(s[:1], a[:1])[1, 0, :2])
    torch.testing.assert_close(mean[0], expected.detach())


def test_members_of_a_gaussian_ensemble_differ(ensemble: Path) -> None:
    model, _ = load_forward_dynamics(ensemble)
    s, a = map(torch.from_numpy, probes())
    with torch.inference_mode():
        mean, log_std = model.distribution(s, a)
    assert (mean[0] - mean[1]).abs().max() > 1e-3 and (log_std[0] - log_std[1]).abs().max() > 1e-3


def test_evaluations_tell_the_likelihood_of_held_out_pairs(rows: Transitions, ensemble: Path) -> None:
    last = list(csv.DictReader((ensemble / "evaluations.csv").open()))[-1]
    unit = np.concatenate([(rows.next_observation - rows.observation).std(0), [rows.reward.std()]])
    entropy = np.log(true_std(rows.observation) / unit).mean() + 0.5 * np.log(2 * np.pi * np.e)
    assert float(last["negative_log_likelihood"]) == pytest.approx(entropy, abs=0.1)


def test_a_model_of_the_mean_alone_cannot_be_sampled_from() -> None:
    model = ForwardDynamics(ForwardDynamicsSettings(hidden=8), 2, 2)
    with pytest.raises(InputError, match="expected 'likelihood' to sample successors, found 'absolute'"):
        model.sample(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), torch.zeros(1, 3))


def test_deviations_are_softly_bounded_and_never_without_gradient() -> None:
    raw = torch.linspace(-12, 9, 50, requires_grad=True)
    bounded = bounded_log_std(raw)
    assert (bounded > LOG_STD[0]).all() and (bounded < LOG_STD[1] + 1e-2).all()
    assert (bounded.diff() > 0).all()
    assert (torch.autograd.grad(bounded.sum(), raw)[0] > 0).all()
    torch.testing.assert_close(bounded_log_std(torch.tensor(-2.0)), torch.tensor(-2.0), atol=0.1, rtol=0)


# --- the cloned policy ------------------------------------------------------------------------------------------


def test_censored_likelihood_is_a_density_inside_and_a_mass_on_the_bounds() -> None:
    mean, log_std = torch.tensor(0.7), torch.tensor(0.5).log()
    normal = torch.distributions.Normal(0.7, 0.5)
    value = torch.tensor([-1.0, -0.2, 0.9, 1.0])
    expected = torch.stack(
        [
            normal.cdf(value[0]).log(),
            normal.log_prob(value[1]),
            normal.log_prob(value[2]),
            (1 - normal.cdf(value[3])).log(),
        ]
    )
    found = -censored_negative_log_likelihood(value, mean, log_std)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(-negative_log_likelihood(value, mean, log_std), normal.log_prob(value))
    far = torch.tensor([40.0, -40.0], requires_grad=True)  # a tail that float32 has no probability for
    lost = censored_negative_log_likelihood(torch.tensor([-1.0, 1.0]), far, log_std)
    assert lost.isfinite().all() and torch.autograd.grad(lost.sum(), far)[0].isfinite().all()


def test_policy_recovers_the_gaussian_behind_clipped_actions(policy: Path) -> None:
    model, _ = load_cloned_policy(policy)
    s, _ = probes()
    with torch.inference_mode():
        mean, log_std = model.distribution(torch.from_numpy(s))
    reached = np.abs(policy_mean(s)) < 1.3  # further out, actions only tell that they were clipped
    assert np.abs(mean.numpy() - policy_mean(s))[reached].mean() < 0.06
    assert float(log_std.exp()[torch.from_numpy(reached)].median()) == pytest.approx(ACTION_STD, rel=0.12)


def test_policys_actions_are_spread_and_clipped_as_the_datas(rows: Transitions, policy: Path) -> None:
    model, _ = load_cloned_policy(policy)
    noise = torch.randn(len(rows), 2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = model.sample(torch.from_numpy(rows.observation), noise).numpy()
    assert np.abs(found).max() == 1
    for bound in (-1, 1):
        np.testing.assert_allclose((found == bound).mean(0), (rows.action == bound).mean(0), atol=0.02)
    np.testing.assert_allclose(found.std(0), rows.action.std(0), rtol=0.05)


def test_policy_acts_in_the_environments_units() -> None:
    torch.manual_seed(0)
    model = ClonedPolicy(ClonedPolicySettings(hidden=8), 2, 1)
    model.actions.low, model.actions.high = torch.tensor([2.0]), torch.tensor([6.0])
    with torch.inference_mode():
        found = model.sample(torch.randn(50, 2), 10 * torch.randn(50, 1))
        assert found.min() == 2 and found.max() == 6
        mean, log_std = model.distribution(torch.zeros(1, 2))
        expected = censored_negative_log_likelihood(torch.tensor([[0.5]]), mean, log_std)
        torch.testing.assert_close(model.negative_log_likelihood(torch.zeros(1, 2), torch.tensor([[5.0]])), expected)


def test_held_out_episodes_change_no_weight_of_the_policy(dataset: Path, scrambled: Path, tmp_path: Path) -> None:
    for name, data in (("one", dataset), ("other", scrambled)):
        train_cloned_policy(data, ClonedPolicySettings(hidden=16, gradient_steps=20), tmp_path / name, seed=0)
    weights, judged = (
        [(tmp_path / name / file).read_bytes() for name in ("one", "other")]
        for file in ("model.safetensors", "evaluations.csv")
    )
    assert weights[0] == weights[1] and judged[0] != judged[1]


def test_policy_is_sealed_with_its_data_set_and_other_kinds_are_refused(folder: Path, policy: Path) -> None:
    sealed = open_sealed(policy, "cloned-policy")
    assert sealed.provenance["inputs"] == {"dataset": open_sealed(folder, "dataset").digest}
    with pytest.raises(InputError, match="expected a folder of kind cloned-policy, found dataset"):
        load_cloned_policy(folder)


def test_command_clones_what_the_function_clones(folder: Path, tmp_path: Path) -> None:
    train_cloned_policy(folder, ClonedPolicySettings(hidden=8, gradient_steps=3), tmp_path / "function", seed=4)
    options = ["--dataset", str(folder), "--output", str(tmp_path / "command"), "--seed", "4", "--device", "cpu"]
    assert main(["train-cloned-policy", *options, "--settings", "{hidden: 8, gradient_steps: 3}"]) == 0
    assert contents(tmp_path / "command") == contents(tmp_path / "function")


def test_errors_of_a_cloned_policy_are_means_over_pairs(transitions: Transitions) -> None:
    torch.manual_seed(0)
    model, pairs = ClonedPolicy(ClonedPolicySettings(hidden=8), 11, 3), Pairs.of(transitions.take(slice(0, 50)))
    found = cloning_errors(model, pairs)
    with torch.inference_mode():
        error = (model(pairs.observation) - pairs.action).abs().mean()
        likelihood = model.negative_log_likelihood(pairs.observation, pairs.action).mean()
    assert found["mean_absolute_error"] == pytest.approx(float(error), rel=1e-5)
    assert found["negative_log_likelihood"] == pytest.approx(float(likelihood), rel=1e-5)
