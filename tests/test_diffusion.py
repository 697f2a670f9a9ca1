"""Noise schedule, samplers, guidance, the denoising loss and the world model's training."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from dawm.config import WorldModelSettings
from dawm.data.normalizers import MinMaxScaler, Standardizer
from dawm.data.sealed import open_sealed
from dawm.data.transitions import Transitions, read_transitions
from dawm.data.windows import WindowBatch
from dawm.world_model.model import Imagined, WorldModel
from dawm.world_model.samplers import Denoise, posterior, sample_ddim, sample_ddpm
from dawm.world_model.schedule import cosine_schedule, strided_levels
from dawm.world_model.training import denoising_loss, fit_normalizers, load_world_model, train_world_model

# --- schedule ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, 5, 10, 100])
def test_cosine_schedule_follows_its_formula_with_beta_clipped(levels: int) -> None:
    def f(k: int) -> float:
        return math.cos((k / levels + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [1.0]
    for k in range(1, levels + 1):
        expected.append(expected[-1] * (1 - min(1 - f(k) / f(k - 1), 0.999)))
    found = cosine_schedule(levels).alpha_bar
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[0] == 1 and torch.all(found.diff() < 0) and found[-1] > 0
    np.testing.assert_allclose(found[-1] / found[-2], 0.001, rtol=1e-4)  # the last β is the clipped one


def test_strided_levels_fall_in_equal_strides_to_zero() -> None:
    assert strided_levels(10, 5) == [10, 8, 6, 4, 2, 0]
    assert strided_levels(10, 1) == [10, 0]
    assert strided_levels(9, 3) == [9, 6, 3, 0]


def test_strided_levels_are_distinct_for_any_number_of_steps() -> None:
    for levels in range(1, 41):
        for steps in range(1, levels + 1):
            found = strided_levels(levels, steps)
            assert found[0] == levels and found[-1] == 0 and len(found) == steps + 1
            assert all(above > below for above, below in pairwise(found))


def test_diffuse_mixes_signal_and_noise_by_each_samples_level() -> None:
    schedule, rng = cosine_schedule(10), np.random.default_rng(0)
    clean, noise = rng.standard_normal((2, 11, 3, 2)).astype(np.float32)
    found = schedule.diffuse(torch.from_numpy(clean), torch.from_numpy(noise), torch.arange(11))
    for k in range(11):
        kept = float(schedule.alpha_bar[k])
        expected = math.sqrt(kept) * clean[k].astype(float) + math.sqrt(1 - kept) * noise[k]
        np.testing.assert_allclose(found[k], expected, atol=1e-6)


@pytest.mark.parametrize("level", [1, 4, 9, 10])
def test_diffusion_is_undone_by_the_noise_and_by_the_clean_sample(level: int) -> None:
    schedule = cosine_schedule(10)
    clean, noise = torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(0))
    noisy = schedule.diffuse(clean, noise, torch.full((64,), level))
    blown_up = float(schedule.alpha_bar[level].rsqrt())
    np.testing.assert_allclose(schedule.clean_from_noise(noisy, noise, level), clean, atol=1e-6 * blown_up)
    np.testing.assert_allclose(schedule.noise_from_clean(noisy, clean, level), noise, atol=1e-5)


# --- posterior --------------------------------------------------------------------------------------------------


def test_posterior_is_bayes_rule() -> None:
    """q(x^lower | x^level, x⁰) ∝ q(x^level | x^lower) q(x^lower | x⁰), multiplied out on a grid."""
    schedule = cosine_schedule(10)
    x = np.linspace(-8, 8, 160_001)
    for level, lower in [(10, 9), (10, 4), (7, 6), (6, 2), (2, 1)]:
        above, below = (float(schedule.alpha_bar[k]) for k in (level, lower))
        for clean, noisy in [(0.3, -1.2), (-1.0, 0.4)]:
            prior = np.exp(-((x - math.sqrt(below) * clean) ** 2) / (2 * (1 - below)))
            likelihood = np.exp(-((noisy - math.sqrt(above / below) * x) ** 2) / (2 * (1 - above / below)))
            density = prior * likelihood / (prior * likelihood).sum()
            mean = (density * x).sum()
            deviation = math.sqrt((density * (x - mean) ** 2).sum())
            found = posterior(torch.tensor(clean), torch.tensor(noisy), schedule, level, lower)
            np.testing.assert_allclose([float(value) for value in found], [mean, deviation], atol=1e-5)


def test_posterior_steps_lead_to_the_marginals_of_the_forward_process() -> None:
    """Σ over x^level of q(x^lower | x^level, x⁰) q(x^level | x⁰) has mean √ᾱ_lower x⁰ and variance 1 - ᾱ_lower."""
    schedule, one, zero = cosine_schedule(10), torch.tensor(1.0), torch.tensor(0.0)
    for level in range(1, 11):
        for lower in range(level):
            of_clean, deviation = posterior(one, zero, schedule, level, lower)
            of_noisy, _ = posterior(zero, one, schedule, level, lower)
            above, below = schedule.alpha_bar[level], schedule.alpha_bar[lower]
            np.testing.assert_allclose(of_clean + of_noisy * above.sqrt(), below.sqrt(), atol=1e-6)
            np.testing.assert_allclose(of_noisy**2 * (1 - above) + deviation**2, 1 - below, atol=1e-6)


def test_posterior_at_level_zero_is_the_clean_sample() -> None:
    clean = torch.tensor([0.25, -3.0])
    mean, deviation = posterior(clean, torch.tensor([9.0, 9.0]), cosine_schedule(10), 3, 0)
    np.testing.assert_allclose(mean, clean, rtol=1e-6)
    assert torch.all(deviation == 0)


# --- samplers on a distribution that is known -------------------------------------------------------------------

MEAN = torch.tensor([0.7, -1.5])
COVARIANCE = torch.tensor([[0.25, 0.12], [0.12, 0.16]])
SAMPLES = 10_000


def exact_denoiser(levels: int) -> Denoise:
    """E[x⁰ | x^k] of x⁰ ~ N(MEAN, COVARIANCE): m + √ᾱ Σ (ᾱ Σ + (1 - ᾱ) I)⁻¹ (x^k - √ᾱ m)."""
    schedule = cosine_schedule(levels)

    def denoise(noisy: Tensor, level: int) -> Tensor:
        kept = schedule.alpha_bar[level]
        gain = kept.sqrt() * COVARIANCE @ torch.linalg.inv(kept * COVARIANCE + (1 - kept) * torch.eye(2))
        return MEAN + (noisy - kept.sqrt() * MEAN) @ gain.T

    return denoise


def gaussian_noise(steps: int, samples: int = SAMPLES) -> Tensor:
    return torch.randn(steps, samples, 2, generator=torch.Generator().manual_seed(1))


# With the posterior's own variance DDPM falls short of the data's by a share of about 5 / steps, so that it needs more.
@pytest.mark.parametrize(("sampler", "steps"), [(sample_ddpm, 400), (sample_ddim, 100)])
@pytest.mark.parametrize("stride", [1, 2])
def test_sampler_draws_from_the_distribution_whose_denoiser_it_gets(
    sampler: Callable[..., Tensor], steps: int, stride: int
) -> None:
    levels = steps * stride
    samples = sampler(exact_denoiser(levels), gaussian_noise(steps), cosine_schedule(levels))
    np.testing.assert_allclose(samples.mean(0), MEAN, atol=0.02)
    np.testing.assert_allclose(np.cov(samples.T.numpy()), COVARIANCE, atol=0.012)


def test_low_temperature_samples_spread_less() -> None:
    hot, cool = (
        sample_ddpm(exact_denoiser(50), gaussian_noise(50), cosine_schedule(50), temperature)
        for temperature in (1.0, 0.5)
    )
    assert torch.all(cool.std(0) < 0.8 * hot.std(0))
    np.testing.assert_allclose(cool.mean(0), MEAN, atol=0.02)


def test_ddim_depends_on_its_start_alone() -> None:
    noise, schedule = gaussian_noise(8, 32), cosine_schedule(10)
    other = noise.clone()
    other[1:] = 7.0
    first, second = (sample_ddim(exact_denoiser(10), draw, schedule) for draw in (noise, other))
    assert torch.equal(first, second)
    halved = sample_ddim(exact_denoiser(10), torch.cat([0.5 * noise[:1], noise[1:]]), schedule)
    assert torch.equal(sample_ddim(exact_denoiser(10), noise, schedule, temperature=0.5), halved)
    assert not torch.equal(first, halved)


def test_ddim_step_moves_the_noise_to_the_next_level_unchanged() -> None:
    """With a denoiser that knows x⁰, every state on the way has the same ε."""
    schedule, noise = cosine_schedule(10), gaussian_noise(5, 16)
    clean, seen = torch.full((16, 2), 0.3), []

    def denoise(noisy: Tensor, level: int) -> Tensor:
        seen.append((noisy - schedule.alpha_bar[level].sqrt() * clean) / (1 - schedule.alpha_bar[level]).sqrt())
        return clean

    np.testing.assert_allclose(sample_ddim(denoise, noise, schedule), clean, rtol=1e-6)
    for noise_left in seen[1:]:
        np.testing.assert_allclose(noise_left, seen[0], atol=1e-5)


def test_ddpm_at_temperature_zero_has_no_noise_beyond_its_start() -> None:
    noise, schedule = gaussian_noise(8, 32), cosine_schedule(10)
    other = noise.clone()
    other[1:] = 7.0
    cold = sample_ddpm(exact_denoiser(10), noise, schedule, 0.0)
    assert torch.equal(cold, sample_ddpm(exact_denoiser(10), other, schedule, 0.0))
    x = noise[0]
    visited = strided_levels(10, 8)
    for level, lower in pairwise(visited):
        x, _ = posterior(exact_denoiser(10)(x, level), x, schedule, level, lower)
    assert torch.equal(cold, x)
    assert not torch.equal(sample_ddpm(exact_denoiser(10), noise, schedule, 1.0), cold)


# --- the world model as a sampler: condition and guidance --------------------------------------------------------

BATCH = 6


def one_level_model(prediction: str = "clean") -> WorldModel:
    """K = 1, so that a sample is one call of the denoiser; normalizers that do something."""
    torch.manual_seed(0)
    settings = WorldModelSettings(window=3, diffusion_steps=1, prediction=prediction, hidden=16, blocks=1)  # type: ignore[arg-type]
    model = WorldModel(settings, 2, 1)
    model.states.mean, model.states.std = torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5])
    model.rewards.low, model.rewards.high = torch.tensor(-3.0), torch.tensor(5.0)
    model.return_scale = torch.tensor(4.0)
    return model.eval()


def draw(model: WorldModel, return_to_go: Tensor, guidance: float, **options: object) -> Imagined:
    """BATCH samples from fixed states, actions and noise."""
    g = torch.Generator().manual_seed(5)
    steps = int(options.pop("steps", 1))  # type: ignore[call-overload]
    state = torch.randn(BATCH, 2, generator=g)
    action = torch.rand(BATCH, 1, generator=g) * 2 - 1
    noise = torch.randn(steps, BATCH, model.settings.window, 4, generator=g)
    options = {"sampler": "ddpm", "temperature": 1.0} | options
    return model.sample(state, action, return_to_go, noise, guidance=guidance, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("prediction", ["clean", "noise"])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.2, 3.0])
@torch.inference_mode()
def test_guidance_goes_from_the_unconditional_prediction_towards_the_conditional(
    prediction: str, guidance: float
) -> None:
    model = one_level_model(prediction)
    wanted = torch.linspace(-2, 8, BATCH)
    imagined = draw(model, wanted, guidance)

    g = torch.Generator().manual_seed(5)
    state = torch.randn(BATCH, 2, generator=g)
    action = torch.rand(BATCH, 1, generator=g) * 2 - 1
    x = torch.randn(1, BATCH, 3, 4, generator=g)[0]
    x[:, 0, :2] = (state - torch.tensor([1.0, -2.0])) / torch.tensor([2.0, 0.5])
    ones = torch.ones(BATCH)
    conditional, unconditional = (
        model.denoiser(x, ones, action, wanted / 4, ones.bool() & shown).double().numpy() for shown in (True, False)
    )
    predicted = unconditional + guidance * (conditional - unconditional)
    if prediction == "noise":
        kept = 0.001  # ᾱ_1 of a single level: β is clipped at 0.999
        predicted = (x.double().numpy() - math.sqrt(1 - kept) * predicted) / math.sqrt(kept)
    states = predicted[:, 1:, :2] * [2.0, 0.5] + [1.0, -2.0]
    rewards = (np.clip(predicted[:, :-1, 2], -1, 1) + 1) / 2 * 8 - 3
    np.testing.assert_allclose(imagined.states[:, 1:], states, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(imagined.rewards, rewards, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(imagined.terminals, predicted[:, 1:, 3] > 0)


def test_guidance_matters_where_the_return_is_known() -> None:
    model = one_level_model()
    wanted = torch.full((BATCH,), 8.0)
    assert not torch.equal(draw(model, wanted, 0.0).states, draw(model, wanted, 1.0).states)
    assert not torch.equal(draw(model, wanted, 1.0).states, draw(model, wanted, 3.0).states)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 4.0])
def test_unknown_return_gives_the_unconditional_sample_whatever_the_guidance(guidance: float) -> None:
    model = one_level_model()
    wanted = torch.tensor([5.0, torch.nan] * (BATCH // 2))
    unconditional = draw(model, torch.full((BATCH,), 5.0), guidance=0.0)
    found = draw(model, wanted, guidance)
    np.testing.assert_allclose(found.states[1::2], unconditional.states[1::2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.rewards[1::2], unconditional.rewards[1::2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_sample_begins_with_exactly_the_given_state(sampler: str, world_model: Path, transitions: Transitions) -> None:
    model, _ = load_world_model(world_model)
    state, action = torch.from_numpy(transitions.observation[:50]), torch.from_numpy(transitions.action[:50])
    noise = torch.randn(4, 50, 4, 13, generator=torch.Generator().manual_seed(0))
    wanted = torch.full((50,), 100.0)
    imagined = model.sample(state, action, wanted, noise, sampler=sampler, guidance=1.2, temperature=1.0)
    assert torch.equal(imagined.states[:, 0], state)
    assert not torch.equal(imagined.states[:, 1], state)


def test_samples_stay_in_the_range_of_the_training_data(
    world_model: Path, transitions: Transitions, held_out: np.ndarray
) -> None:
    model, _ = load_world_model(world_model)
    seen = transitions.take(~held_out)
    state, action = torch.from_numpy(transitions.observation[:50]), torch.from_numpy(transitions.action[:50])
    noise = 100 * torch.randn(3, 50, 4, 13, generator=torch.Generator().manual_seed(0))
    imagined = model.sample(
        state, action, torch.full((50,), torch.nan), noise, sampler="ddpm", guidance=1.0, temperature=1.0
    )
    both = np.concatenate([seen.observation, seen.next_observation])
    slack = 1e-5 * np.ptp(both, axis=0)
    assert np.all(imagined.states[:, 1:].numpy() >= both.min(0) - slack)
    assert np.all(imagined.states[:, 1:].numpy() <= both.max(0) + slack)
    assert np.all(imagined.rewards.numpy() >= seen.reward.min() - 1e-4)
    assert np.all(imagined.rewards.numpy() <= seen.reward.max() + 1e-4)


# --- the loss ---------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """A denoiser that predicts the same rows whatever it sees."""

    def __init__(self, prediction: Tensor) -> None:
        super().__init__()
        self.prediction = nn.Parameter(prediction)

    def forward(self, *_: Tensor) -> Tensor:
        return self.prediction


def some_batch(count: int = 8) -> WindowBatch:
    g = torch.Generator().manual_seed(2)
    mask = (torch.rand(count, 3, 4, generator=g) < 0.6).float()
    known = torch.arange(count) % 4 > 0
    return WindowBatch(
        torch.randn(count, 3, 4, generator=g),
        mask,
        torch.rand(count, 1, generator=g),
        torch.rand(count, generator=g) * known,
        known,
    )


def loss_model(prediction: str, dropout: float = 0.25) -> WorldModel:
    torch.manual_seed(0)
    settings = WorldModelSettings(window=3, prediction=prediction, hidden=16, blocks=1, condition_dropout=dropout)  # type: ignore[arg-type]
    return WorldModel(settings, 2, 1)


@pytest.mark.parametrize("prediction", ["clean", "noise"])
def test_denoising_loss_is_the_mean_squared_error_of_what_the_mask_shows(prediction: str) -> None:
    model, batch = loss_model(prediction), some_batch()
    model.denoiser = Fixed(torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(9)))
    rng = np.random.default_rng(4)
    rng.integers(1, 11, size=8)  # the levels come first
    noise = rng.standard_normal((8, 3, 4), dtype=np.float32)
    target = noise if prediction == "noise" else batch.rows.numpy()
    predicted = model.denoiser.prediction.detach().numpy()
    total = count = 0.0
    for index in np.ndindex(8, 3, 4):
        if batch.mask[index]:
            total += (float(predicted[index]) - float(target[index])) ** 2
            count += 1
    found = denoising_loss(model, batch, np.random.default_rng(4))
    np.testing.assert_allclose(float(found.detach()), total / count, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["clean", "noise"])
def test_masked_predictions_have_no_influence(prediction: str) -> None:
    model, batch = loss_model(prediction), some_batch()
    model.denoiser = Fixed(torch.zeros(8, 3, 4))
    denoising_loss(model, batch, np.random.default_rng(4)).backward()
    gradient = model.denoiser.prediction.grad
    assert gradient is not None
    assert torch.equal(gradient != 0, batch.mask.bool())


def test_masked_targets_have_no_influence() -> None:
    model, batch = loss_model("clean"), some_batch()
    model.denoiser = Fixed(torch.zeros(8, 3, 4))
    other = dataclasses.replace(batch, rows=torch.where(batch.mask.bool(), batch.rows, 1e3))
    first, second = (denoising_loss(model, b, np.random.default_rng(4)) for b in (batch, other))
    assert torch.equal(first, second)


def loss_with_returns(dropout: float, batch: WindowBatch, return_to_go: Tensor) -> Tensor:
    changed = dataclasses.replace(batch, return_to_go=return_to_go)
    return denoising_loss(loss_model("clean", dropout), changed, np.random.default_rng(4)).detach()


def test_return_is_hidden_always_never_or_where_it_is_unknown() -> None:
    batch = some_batch()
    moved = batch.return_to_go + 3
    assert torch.equal(loss_with_returns(1.0, batch, moved), loss_with_returns(1.0, batch, batch.return_to_go))
    assert not torch.equal(loss_with_returns(0.0, batch, moved), loss_with_returns(0.0, batch, batch.return_to_go))
    moved_where_unknown = torch.where(batch.known, batch.return_to_go, 3.0)
    assert torch.equal(
        loss_with_returns(0.0, batch, moved_where_unknown), loss_with_returns(0.0, batch, batch.return_to_go)
    )


def test_given_state_reaches_the_denoiser_without_noise() -> None:
    class Keeper(nn.Module):
        seen: Tensor

        def forward(self, rows: Tensor, *_: Tensor) -> Tensor:
            self.seen = rows
            return rows

    model, batch, keeper = loss_model("clean"), some_batch(), Keeper()
    model.denoiser = keeper  # type: ignore[assignment]
    denoising_loss(model, batch, np.random.default_rng(4))
    assert torch.equal(keeper.seen[:, 0, :2], batch.rows[:, 0, :2])
    assert torch.all(keeper.seen[:, 1:] != batch.rows[:, 1:])


# --- training ---------------------------------------------------------------------------------------------------


def test_normalizers_are_those_of_the_train_split(
    world_model: Path, transitions: Transitions, held_out: np.ndarray
) -> None:
    model, _ = load_world_model(world_model)
    seen = transitions.take(~held_out)
    both = np.concatenate([seen.observation, seen.next_observation]).astype(np.float64)
    np.testing.assert_allclose(model.states.mean, both.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.states.std, both.std(0), rtol=1e-5)
    assert model.rewards.low == seen.reward.min() and model.rewards.high == seen.reward.max()
    largest = 0.0
    for episode in np.unique(seen.episode):
        rows = seen.take(seen.episode == episode)
        for t in range(len(rows)):
            if rows.terminal[-1] or 0.99 ** (len(rows) - t) <= 0.1:
                discounted = 0.99 ** np.arange(len(rows) - t) * rows.reward[t:].astype(np.float64)
                largest = max(largest, abs(discounted.sum()))
    np.testing.assert_allclose(float(model.return_scale), largest, rtol=1e-5)


def test_train_windows_never_hold_a_held_out_row(
    dataset: Path,
    scrambled: Path,
    transitions: Transitions,
    held_out: np.ndarray,
    world_model_settings: WorldModelSettings,
) -> None:
    data = open_sealed(dataset, "dataset")
    absurd = read_transitions(open_sealed(scrambled, "dataset"))
    batches = []
    for rows in (transitions, absurd):
        windows, _ = fit_normalizers(WorldModel(world_model_settings, 11, 3), rows, held_out, data)
        batches.append(windows.batch(torch.arange(len(windows))))
    for name in ("rows", "mask", "action", "return_to_go", "known"):
        assert torch.equal(getattr(batches[0], name), getattr(batches[1], name))
    assert len(batches[0].rows) > 1000


def test_held_out_episodes_change_no_weight_of_the_world_model(
    world_model: Path, scrambled: Path, world_model_settings: WorldModelSettings, tmp_path: Path
) -> None:
    train_world_model(scrambled, world_model_settings, tmp_path / "other", seed=0)
    other = tmp_path / "other"
    assert (other / "model.safetensors").read_bytes() == (world_model / "model.safetensors").read_bytes()
    assert (other / "metrics.csv").read_bytes() == (world_model / "metrics.csv").read_bytes()
    assert (other / "evaluations.csv").read_bytes() != (world_model / "evaluations.csv").read_bytes()


def test_training_lowers_the_held_out_loss(dataset: Path, tmp_path: Path) -> None:
    losses = []
    for steps in (1, 200):
        settings = WorldModelSettings(
            window=4, hidden=32, blocks=1, batch_size=64, gradient_steps=steps, ema_decay=0.8, ema_every=1
        )
        train_world_model(dataset, settings, tmp_path / str(steps), seed=0)
        last = (tmp_path / str(steps) / "evaluations.csv").read_text().splitlines()[-1]
        losses.append(float(last.split(",")[1]))
    assert losses[1] < 0.7 * losses[0]


def test_loaded_world_model_is_the_saved_one(world_model: Path) -> None:
    model, sealed = load_world_model(world_model)
    stored = load_file(world_model / "model.safetensors")
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, stored[key])
    assert sealed.metadata["observation_dim"] == 11
    assert json.loads((world_model / "provenance.json").read_text())["settings"]["window"] == model.settings.window


def test_normalizers_belong_to_the_model() -> None:
    """They are stored, and loaded, with the weights."""
    keys = set(WorldModel(WorldModelSettings(window=2, hidden=8, blocks=1), 2, 1).state_dict())
    for name, normalizer in (("states", Standardizer(2)), ("rewards", MinMaxScaler())):
        assert {f"{name}.{key}" for key in normalizer.state_dict()} <= keys
    assert "return_scale" in keys
