"""Noise schedules: functions that return decreasing noise levels σ, where a noisy sample is x = x⁰ + σ ε.

A variance-preserving x^k = √ᾱ_k x⁰ + √(1-ᾱ_k) ε is the same sample in other units: x = x^k / √ᾱ_k.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

OFFSET = 0.008  # s


def cosine_alpha_bar(levels: int) -> Tensor:
    """ᾱ_0 = 1, ᾱ_1, …, ᾱ_K of K levels, float64 [K + 1]  (Nichol & Dhariwal 2021, eq. 17).

    ᾱ_k = f(k/K)/f(0) with f(u) = cos²((u + s)/(1 + s) π/2), steps clipped at β = 1 - ᾱ_k/ᾱ_{k-1} ≤ 0.999.
    """
    u = torch.arange(levels + 1, dtype=torch.float64) / levels
    f = torch.cos((u + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)])


def cosine_sigmas(levels: int, steps: int | None = None) -> Tensor:
    """σ_k = √((1-ᾱ_k)/ᾱ_k) of N of the cosine schedule's K levels, decreasing to 0, float64 [N + 1].

    steps: N ≤ K, in equal strides (see `strided_levels`); None: all K.
    """
    alpha_bar = cosine_alpha_bar(levels)[strided_levels(levels, levels if steps is None else steps)]
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def strided_levels(levels: int, steps: int) -> list[int]:
    """The multiples of K/N, rounded, from K down to K/N, then 0.

    Nichol & Dhariwal (2021, §4), whom DWM follow, space them from 1 to K with both ends: 5, 3, 1 of K = 5 and N = 3,
    where these are 5, 3, 2.
    """
    return [round(levels * (steps - i) / steps) for i in range(steps)] + [0]


def karras_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """N levels from σ_max to σ_min, equally spaced in σ^(1/ρ), then 0, float64 [N + 1]  (Karras et al. 2022, eq. 5)."""
    place = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(high + place * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])
