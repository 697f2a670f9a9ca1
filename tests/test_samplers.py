"""Noise schedules, preconditioning, and samplers on distributions whose exact denoiser is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from dawm.world_model.preconditioning import PRECONDITIONINGS, log_normal, uniform_levels
from dawm.world_model.samplers import posterior, sample_ddim, sample_ddpm, sample_dpmpp_2m
from dawm.world_model.schedule import cosine_alpha_bar, cosine_sigmas, karras_sigmas, strided_levels

ODE = [sample_ddim, sample_dpmpp_2m]

# --- schedules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, 5, 10, 100])
def test_cosine_schedule_follows_its_formula_with_beta_clipped(levels: int) -> None:
    def f(k: int) -> float:
        return math.cos((k / levels + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [1.0]
    for k in range(1, levels + 1):
        expected.append(expected[-1] * (1 - min(1 - f(k) / f(k - 1), 0.999)))
    found = cosine_alpha_bar(levels)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(found[-1] / found[-2], 0.001, rtol=1e-9)  # the last β is the clipped one
    sigmas = cosine_sigmas(levels)
    np.testing.assert_allclose(1 / (1 + sigmas.flip(0) ** 2), expected, rtol=1e-9)  # σ² = (1-ᾱ)/ᾱ
    assert sigmas[-1] == 0 and torch.all(sigmas.diff() < 0)


def test_strided_levels_fall_in_equal_strides_to_zero_so_that_the_least_need_not_be_1() -> None:
    assert strided_levels(10, 5) == [10, 8, 6, 4, 2, 0]
    assert strided_levels(10, 1) == [10, 0]
    assert strided_levels(9, 3) == [9, 6, 3, 0]
    assert strided_levels(5, 3) == [5, 3, 2, 0]  # DWM's K = 5, N = 3; Nichol & Dhariwal: 5, 3, 1


def test_strided_sigmas_are_distinct_ones_of_the_schedule_for_any_number_of_steps() -> None:
    for levels in range(1, 41):
        every = cosine_sigmas(levels).tolist()
        for steps in range(1, levels + 1):
            found = cosine_sigmas(levels, steps).tolist()
            assert len(found) == steps + 1 and found[0] == every[0] and found[-1] == 0
            assert set(found) <= set(every) and sorted(set(found), reverse=True) == found


def test_karras_sigmas_are_equally_spaced_in_their_root_and_end_at_zero() -> None:
    found = karras_sigmas(18)
    roots = found[:-1] ** (1 / 7)
    np.testing.assert_allclose(found[[0, -2, -1]], [80, 0.002, 0], rtol=1e-9)
    np.testing.assert_allclose(roots.diff(), roots.diff().mean(), rtol=1e-6)
    assert karras_sigmas(1, sigma_max=3.0).tolist() == pytest.approx([3, 0])


# --- preconditioning --------------------------------------------------------------------------------------------

SIGMAS = torch.tensor([0.002, 0.05, 0.3, 1.0, 4.0, 80.0], dtype=torch.float64)


@pytest.mark.parametrize("kind", PRECONDITIONINGS)
def test_network_that_meets_its_target_is_a_perfect_denoiser(kind: str) -> None:
    clean, noise = torch.randn(2, len(SIGMAS), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noisy = clean + SIGMAS * noise
    coefficients = PRECONDITIONINGS[kind](SIGMAS, 0.5)
    found = coefficients.denoised(noisy, coefficients.target(clean, noisy))
    np.testing.assert_allclose(found, clean, rtol=1e-9, atol=1e-12)


def test_targets_are_the_clean_sample_and_the_noise() -> None:
    clean, noise = torch.randn(2, len(SIGMAS), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noisy = clean + SIGMAS * noise
    for kind, expected in (("clean", clean), ("noise", noise)):
        found = PRECONDITIONINGS[kind](SIGMAS, 1.0).target(clean, noisy)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["clean", "noise"])
def test_input_of_the_ddpm_kinds_is_the_variance_preserving_sample(kind: str) -> None:
    clean, noise = torch.randn(2, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigmas, kept = cosine_sigmas(10)[:-1], cosine_alpha_bar(10)[1:].flip(0)
    found = PRECONDITIONINGS[kind](sigmas, 1.0).c_in * (clean + sigmas * noise)
    np.testing.assert_allclose(found, kept.sqrt() * clean + (1 - kept).sqrt() * noise, rtol=1e-9)


@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_edm_has_inputs_and_targets_of_unit_variance(spread: float) -> None:
    g = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 100_000, dtype=torch.float64, generator=g)
    clean = spread * clean
    for sigma in SIGMAS:
        coefficients = PRECONDITIONINGS["edm"](sigma, spread)
        noisy = clean + sigma * noise
        np.testing.assert_allclose((coefficients.c_in * noisy).var(), 1, rtol=0.02)
        np.testing.assert_allclose(coefficients.target(clean, noisy).var(), 1, rtol=0.02)


def test_edm_coefficients_are_those_of_its_table() -> None:
    sigma, data = 3.0, 0.5
    found = PRECONDITIONINGS["edm"](torch.tensor(sigma, dtype=torch.float64), data)
    total = sigma**2 + data**2
    expected = [data**2 / total, sigma * data / math.sqrt(total), 1 / math.sqrt(total), math.log(sigma) / 4]
    np.testing.assert_allclose([found.c_skip, found.c_out, found.c_in, found.c_noise], expected, rtol=1e-12)


@pytest.mark.parametrize("kind", PRECONDITIONINGS)
def test_noise_level_that_the_network_sees_grows_with_sigma_and_stays_small(kind: str) -> None:
    sigmas = torch.logspace(-3, 5, 200, dtype=torch.float64) if kind != "edm" else torch.logspace(-3, 2, 200)
    level = PRECONDITIONINGS[kind](sigmas, 1.0).c_noise
    assert torch.all(level.diff() > 0) and level.abs().max() < 2


def test_noise_level_of_the_cosine_schedule_is_about_its_place() -> None:
    level = PRECONDITIONINGS["clean"](cosine_sigmas(50), 1.0).c_noise
    np.testing.assert_allclose(level, torch.linspace(1, 0, 51), atol=0.02)


def test_levels_of_training_are_those_that_belong_to_each_kind() -> None:
    found = uniform_levels(40_000, 5, np.random.default_rng(0))
    levels, counts = found.unique(return_counts=True)
    np.testing.assert_allclose(levels, cosine_sigmas(5)[:-1].flip(0), rtol=1e-6)
    np.testing.assert_allclose(counts / 40_000, 0.2, atol=0.01)
    logs = log_normal(40_000, np.random.default_rng(0)).log()
    np.testing.assert_allclose([logs.mean(), logs.std()], [-1.2, 1.2], atol=0.03)


# --- posterior --------------------------------------------------------------------------------------------------


def test_posterior_is_bayes_rule() -> None:
    """q(x_lower | x_σ, x⁰) ∝ q(x_σ | x_lower) q(x_lower | x⁰), multiplied out on a grid."""
    x = np.linspace(-30, 30, 300_001)
    for sigma, lower in [(3.0, 2.5), (3.0, 0.4), (1.0, 0.9), (0.3, 0.1)]:
        for clean, noisy in [(0.3, -1.2), (-1.0, 0.4)]:
            prior = np.exp(-((x - clean) ** 2) / (2 * lower**2))
            likelihood = np.exp(-((noisy - x) ** 2) / (2 * (sigma**2 - lower**2)))
            density = prior * likelihood / (prior * likelihood).sum()
            mean = (density * x).sum()
            expected = [mean, math.sqrt((density * (x - mean) ** 2).sum())]
            found = posterior(torch.tensor(clean), torch.tensor(noisy), sigma, lower)
            np.testing.assert_allclose([float(value) for value in found], expected, atol=1e-5)


def test_posterior_is_the_variance_preserving_one_in_other_units() -> None:
    """Ho et al. 2020, eq. 7, between any two levels of the cosine schedule, divided by √ᾱ."""
    kept, sigmas = cosine_alpha_bar(10).tolist(), cosine_sigmas(10).flip(0).tolist()
    clean, noisy = torch.tensor([0.25, -3.0], dtype=torch.float64), torch.tensor([9.0, 0.5], dtype=torch.float64)
    for level in range(1, 11):
        for lower in range(level):
            above, below = kept[level], kept[lower]
            alpha = above / below
            mean = math.sqrt(below) * (1 - alpha) * clean + math.sqrt(alpha) * (1 - below) * math.sqrt(above) * noisy
            variance = (1 - below) / (1 - above) * (1 - alpha)
            found, deviation = posterior(clean, noisy, sigmas[level], sigmas[lower])
            np.testing.assert_allclose(found, mean / (1 - above) / math.sqrt(below), rtol=1e-9)
            np.testing.assert_allclose(deviation, math.sqrt(variance / below), rtol=1e-9, atol=1e-12)


def test_posterior_at_level_zero_is_the_clean_sample() -> None:
    clean = torch.tensor([0.25, -3.0])
    mean, deviation = posterior(clean, torch.tensor([9.0, 9.0]), 3.0, 0.0)
    assert torch.equal(mean, clean) and deviation == 0


# --- samplers on a mixture that is known ------------------------------------------------------------------------

WEIGHTS = torch.tensor([0.3, 0.7])
MEANS = torch.tensor([[-1.5, 0.5], [0.8, -0.6]])
COVARIANCES = torch.tensor([[[0.10, 0.04], [0.04, 0.06]], [[0.08, -0.05], [-0.05, 0.16]]])
SAMPLES = 10_000


def of_the_mixture(noisy: Tensor, sigma: float) -> Tensor:
    """E[x⁰ | x] = Σ_k w_k(x) (m_k + Σ_k (Σ_k + σ² I)⁻¹ (x - m_k)), w_k ∝ π_k N(x; m_k, Σ_k + σ² I)."""
    parts, logs = [], []
    for weight, mean, covariance in zip(WEIGHTS, MEANS, COVARIANCES, strict=True):
        wide = covariance + sigma**2 * torch.eye(2)
        inverse, offset = torch.linalg.inv(wide), noisy - mean
        parts.append(mean + offset @ (covariance @ inverse).T)
        logs.append(weight.log() - 0.5 * ((offset @ inverse) * offset).sum(-1) - 0.5 * torch.logdet(wide))
    shares = torch.softmax(torch.stack(logs), dim=0)[..., None]  # [K, B, 1]
    return (shares * torch.stack(parts)).sum(0)


def gaussian_noise(steps: int, samples: int = SAMPLES) -> Tensor:
    return torch.randn(steps, samples, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("temperature", "kept"), [(0.5, 0.097), (1.0, 0.388), (1.5, 0.873)])
def test_three_of_five_levels_narrow_a_gaussian_also_at_temperature_1(temperature: float, kept: float) -> None:
    """What docs/method.md says of the default sampler: this share of a unit variance, by the exact denoiser."""
    noise = gaussian_noise(3, 100_000).double()
    found = sample_ddpm(lambda noisy, sigma: noisy / (1 + sigma**2), noise, cosine_sigmas(5, 3), temperature)
    assert float(found.var()) == pytest.approx(kept, rel=0.01)


# With the posterior's own variance DDPM falls short of the data's by a share of some 1 / steps, so that it needs more.
@pytest.mark.parametrize(
    ("sampler", "sigmas"),
    [
        (sample_ddpm, cosine_sigmas(400)),
        (sample_ddpm, cosine_sigmas(800, 400)),
        (sample_ddpm, karras_sigmas(200)),
        (sample_ddim, cosine_sigmas(100)),
        (sample_ddim, karras_sigmas(200)),
        (sample_dpmpp_2m, cosine_sigmas(80, 40)),
        (sample_dpmpp_2m, karras_sigmas(60)),
    ],
)
def test_sampler_draws_from_the_mixture_whose_denoiser_it_gets(sampler: Callable[..., Tensor], sigmas: Tensor) -> None:
    samples = sampler(of_the_mixture, gaussian_noise(len(sigmas) - 1), sigmas)
    nearest = torch.cdist(samples, MEANS).argmin(1)
    for number in range(2):  # 0.02 is some 4 standard errors of the rarer one
        mine = samples[nearest == number]
        np.testing.assert_allclose(len(mine) / SAMPLES, WEIGHTS[number], atol=0.02)
        np.testing.assert_allclose(mine.mean(0), MEANS[number], atol=0.03)
        np.testing.assert_allclose(np.cov(mine.T.numpy()), COVARIANCES[number], atol=0.012)


def observed_orders(sampler: Callable[..., Tensor], ends: tuple[float, float]) -> list[float]:
    """log₂ of how much the error falls when the steps are doubled, for x⁰ ~ N(0, 0.5²), whose ODE has the solution
    x(σ) ∝ √(0.25 + σ²); the levels are equally spaced in ln σ."""
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)
    errors = []
    for steps in (20, 40, 80, 160):
        sigmas = torch.logspace(math.log10(ends[0]), math.log10(ends[1]), steps + 1, dtype=torch.float64)
        found = sampler(lambda x, sigma: x * 0.25 / (0.25 + sigma**2), start[None], sigmas)
        exact = start * ends[0] * math.sqrt((0.25 + ends[1] ** 2) / (0.25 + ends[0] ** 2))
        errors.append(float((found - exact).abs().max()))
    return [math.log2(before / after) for before, after in pairwise(errors)]


@pytest.mark.parametrize(("sampler", "order"), [(sample_ddim, 1), (sample_dpmpp_2m, 2)])
@pytest.mark.parametrize("ends", [(10.0, 0.05), (5.0, 0.5)])
def test_error_of_the_ode_solvers_falls_with_their_order(
    sampler: Callable[..., Tensor], order: int, ends: tuple[float, float]
) -> None:
    orders = observed_orders(sampler, ends)
    assert abs(orders[-1] - order) < 0.15, orders


def test_second_order_beats_first_order_on_the_mixture_at_the_same_cost() -> None:
    noise = gaussian_noise(1, 500)
    exact = sample_dpmpp_2m(of_the_mixture, noise, karras_sigmas(400))
    first, second = (sampler(of_the_mixture, noise, karras_sigmas(40)) for sampler in ODE)
    assert (second - exact).abs().mean() < 0.25 * (first - exact).abs().mean()


@pytest.mark.parametrize("sampler", ODE)
def test_ode_solvers_depend_on_their_start_alone_which_the_temperature_scales(sampler: Callable[..., Tensor]) -> None:
    noise, sigmas = gaussian_noise(8, 32), cosine_sigmas(10, 8)
    other = noise.clone()
    other[1:] = 7.0
    assert torch.equal(sampler(of_the_mixture, noise, sigmas), sampler(of_the_mixture, other, sigmas))
    cool = sampler(of_the_mixture, noise, sigmas, temperature=0.5)
    assert torch.equal(cool, sampler(of_the_mixture, 0.5 * noise, sigmas))
    assert not torch.equal(cool, sampler(of_the_mixture, noise, sigmas))
    cold = sampler(of_the_mixture, noise, sigmas, temperature=0.0)
    assert torch.equal(cold, cold[:1].expand_as(cold))


@pytest.mark.parametrize("sampler", ODE)
def test_ode_steps_move_the_noise_to_the_next_level_unchanged(sampler: Callable[..., Tensor]) -> None:
    """With a denoiser that knows x⁰, every state on the way has the same ε."""
    clean, seen = torch.full((16, 2), 0.3), []

    def denoise(noisy: Tensor, sigma: float) -> Tensor:
        seen.append((noisy - clean) / sigma)
        return clean

    np.testing.assert_allclose(sampler(denoise, gaussian_noise(5, 16), cosine_sigmas(5)), clean, rtol=1e-6)
    for noise_left in seen[1:]:
        np.testing.assert_allclose(noise_left, seen[0], atol=1e-4)


@pytest.mark.parametrize("sampler", [sample_ddpm, *ODE])
def test_sampler_calls_the_denoiser_once_per_level_and_ends_with_its_last_answer(
    sampler: Callable[..., Tensor],
) -> None:
    sigmas, calls, answers = karras_sigmas(6), [], []

    def denoise(noisy: Tensor, sigma: float) -> Tensor:
        calls.append(sigma)
        answers.append(of_the_mixture(noisy, sigma))
        return answers[-1]

    found = sampler(denoise, gaussian_noise(6, 4), sigmas)
    assert calls == sigmas[:-1].tolist()
    assert torch.equal(found, answers[-1])


def test_the_start_of_ddpm_has_its_whole_noise_at_any_temperature() -> None:
    noise, sigmas, seen = gaussian_noise(3, 4), cosine_sigmas(5, 3), []
    sample_ddpm(lambda noisy, sigma: seen.append(noisy) or 0 * noisy, noise, sigmas, 0.5)
    torch.testing.assert_close(seen[0], float(sigmas[0]) * noise[0])


def test_dpmpp_2m_leads_on_by_the_ratio_of_its_steps() -> None:
    """Lu et al. 2023, alg. 2, by hand: steps of ln 2 and ln (4/3), the last one to a level that is not 0."""
    answers = {4.0: 1.0, 2.0: 3.0}
    found = sample_dpmpp_2m(
        lambda noisy, sigma: torch.full_like(noisy, answers[sigma]), torch.ones(1, 1), torch.tensor([4.0, 2.0, 1.5])
    )
    first = 1 + 2 / 4 * (4 - 1)
    ratio = math.log(4 / 2) / math.log(2 / 1.5)
    led = 3 + (3 - 1) / (2 * ratio)
    assert float(found) == pytest.approx(led + 1.5 / 2 * (first - led), rel=1e-5)


def test_ddpm_at_temperature_zero_has_no_noise_beyond_its_start() -> None:
    noise, sigmas = gaussian_noise(8, 32), cosine_sigmas(10, 8)
    other = noise.clone()
    other[1:] = 7.0
    cold = sample_ddpm(of_the_mixture, noise, sigmas, 0.0)
    assert torch.equal(cold, sample_ddpm(of_the_mixture, other, sigmas, 0.0))
    assert not torch.equal(sample_ddpm(of_the_mixture, noise, sigmas, 1.0), cold)


def test_low_temperature_samples_spread_less() -> None:
    hot, cool = (
        sample_ddpm(of_the_mixture, gaussian_noise(50), cosine_sigmas(50), temperature) for temperature in (1.0, 0.5)
    )
    spreads = []
    for samples in (hot, cool):
        nearest = torch.cdist(samples, MEANS).argmin(1)
        spreads.append(torch.stack([samples[nearest == number].std(0) for number in range(2)]))
    assert torch.all(spreads[1] < 0.8 * spreads[0])
