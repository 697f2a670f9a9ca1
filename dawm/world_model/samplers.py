"""Samplers: plain functions of a denoiser, the noise and decreasing σ's; nothing here knows what is being sampled.

All of them go from x = σ_0 ε to the last σ, usually 0, with one call of the denoiser per step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
"""(x = x⁰ + σ ε [B, ...], σ) → x̂⁰ [B, ...], guidance and whatever is imposed included."""


def sample_ddpm(denoise: Denoise, noise: Tensor, sigmas: Tensor, temperature: float = 1.0) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, alg. 2).

    noise [N, B, ...]: the start and one draw for each later step; sigmas [N + 1], decreasing. temperature: scales the
    posterior's standard deviation (low-temperature sampling, Ajay et al. 2023). Returns x [B, ...] at the last σ.
    """
    x = float(sigmas[0]) * noise[0]
    for step, (sigma, lower) in enumerate(pairwise(sigmas.tolist())):
        mean, deviation = posterior(denoise(x, sigma), x, sigma, lower)
        x = mean + temperature * deviation * noise[step + 1] if deviation > 0 else mean
    return x


def posterior(clean: Tensor, noisy: Tensor, sigma: float, lower: float) -> tuple[Tensor, float]:
    """Mean and standard deviation of q(x_lower | x_σ, x⁰)  (Ho et al. 2020, eq. 7, for x = x^k / √ᾱ_k).

    x_σ = x_lower + √(σ² - lower²) ε, so that the mean is x⁰ + lower²/σ² (x_σ - x⁰), the variance
    lower² (σ² - lower²)/σ².
    """
    kept = (lower / sigma) ** 2
    return clean + kept * (noisy - clean), lower * math.sqrt(1 - kept)


def sample_ddim(denoise: Denoise, noise: Tensor, sigmas: Tensor, temperature: float = 1.0) -> Tensor:
    """Euler's method on the probability-flow ODE dx/dσ = (x - D(x; σ))/σ  (Song et al. 2021, eq. 12 with η = 0, 13).

    noise [N, B, ...]: only its first row is used. temperature is the start's: there is no other noise to scale.
    """
    x = temperature * float(sigmas[0]) * noise[0]
    for sigma, lower in pairwise(sigmas.tolist()):
        clean = denoise(x, sigma)
        x = clean + lower / sigma * (x - clean)
    return x


def sample_dpmpp_2m(denoise: Denoise, noise: Tensor, sigmas: Tensor, temperature: float = 1.0) -> Tensor:
    """DPM-Solver++(2M), second-order multistep on the same ODE in -ln σ  (Lu et al. 2022, alg. 2).

    x' = σ'/σ x + (1 - σ'/σ) D̃ with D̃ = D + (D - D_before)/(2r), r the last step's length over this one's, in ln σ.
    The first step, and the one to σ = 0, which is infinitely long, are Euler's. noise and temperature as for DDIM.
    """
    x = temperature * float(sigmas[0]) * noise[0]
    before: tuple[float, Tensor] | None = None
    for sigma, lower in pairwise(sigmas.tolist()):
        clean = direction = denoise(x, sigma)
        if before is not None and lower > 0:
            ratio = math.log(before[0] / sigma) / math.log(sigma / lower)
            direction = clean + (clean - before[1]) / (2 * ratio)
        x = direction + lower / sigma * (x - direction)
        before = sigma, clean
    return x


SAMPLERS = {"ddpm": sample_ddpm, "ddim": sample_ddim, "dpmpp_2m": sample_dpmpp_2m}
