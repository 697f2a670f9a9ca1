"""Samplers: plain functions of a denoiser, the noise and a schedule; nothing here knows what is being sampled."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from dawm.world_model.schedule import Schedule, strided_levels

Denoise = Callable[[Tensor, int], Tensor]
"""(x^k [B, ...], k) → x̂⁰ [B, ...], guidance and whatever is imposed included."""


def sample_ddpm(denoise: Denoise, noise: Tensor, schedule: Schedule, temperature: float = 1.0) -> Tensor:
    """Ancestral sampling over N strided levels (Ho et al. 2020, alg. 2; stride: Nichol & Dhariwal 2021, §4).

    noise [N, B, ...]: the start and one draw for each later step. temperature: scales the posterior's standard
    deviation (low-temperature sampling, Ajay et al. 2023). Returns x⁰ [B, ...].
    """
    x = noise[0]
    visited = strided_levels(schedule.levels, len(noise))
    for step, (level, lower) in enumerate(pairwise(visited)):
        mean, deviation = posterior(denoise(x, level), x, schedule, level, lower)
        x = mean if lower == 0 else mean + temperature * deviation * noise[step + 1]
    return x


def posterior(clean: Tensor, noisy: Tensor, schedule: Schedule, level: int, lower: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(x^lower | x^level, x⁰)  (Ho et al. 2020, eq. 7, between any two levels)."""
    above, below = schedule.alpha_bar[level], schedule.alpha_bar[lower]
    alpha = above / below  # signal kept from `lower` to `level`
    mean = (below.sqrt() * (1 - alpha) * clean + alpha.sqrt() * (1 - below) * noisy) / (1 - above)
    variance = (1 - below) / (1 - above) * (1 - alpha)
    return mean, variance.sqrt()


def sample_ddim(denoise: Denoise, noise: Tensor, schedule: Schedule, temperature: float = 1.0) -> Tensor:
    """Deterministic sampling (Song et al. 2021, eq. 12 with η = 0) over N strided levels.

    noise [N, B, ...]: only its first row is used. temperature is the start's: it has no other noise to scale.
    """
    x = temperature * noise[0]
    visited = strided_levels(schedule.levels, len(noise))
    for level, lower in pairwise(visited):
        clean = denoise(x, level)
        below = schedule.alpha_bar[lower]
        x = below.sqrt() * clean + (1 - below).sqrt() * schedule.noise_from_clean(x, clean, level)
    return x


SAMPLERS = {"ddpm": sample_ddpm, "ddim": sample_ddim}
