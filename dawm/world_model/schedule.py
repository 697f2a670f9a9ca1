"""The noise schedule: how much of the signal is left at each of K noise levels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """alpha_bar [K + 1]: ᾱ_k, with ᾱ_0 = 1 (no noise). Levels run from 1 (least noise) to K."""

    alpha_bar: Tensor

    @property
    def levels(self) -> int:
        return len(self.alpha_bar) - 1

    def diffuse(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """x^k = √ᾱ_k x⁰ + √(1-ᾱ_k) ε  (Ho et al. 2020, eq. 4); level [B] int, clean and noise [B, ...]."""
        alpha_bar = self.alpha_bar[level].view(-1, *[1] * (clean.dim() - 1))
        return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise

    def clean_from_noise(self, noisy: Tensor, noise: Tensor, level: int) -> Tensor:
        """x̂⁰ = (x^k - √(1-ᾱ_k) ε̂) / √ᾱ_k  (Ho et al. 2020, eq. 15)."""
        alpha_bar = self.alpha_bar[level]
        return (noisy - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()

    def noise_from_clean(self, noisy: Tensor, clean: Tensor, level: int) -> Tensor:
        """ε̂ = (x^k - √ᾱ_k x̂⁰) / √(1-ᾱ_k), the inverse of `clean_from_noise`."""
        alpha_bar = self.alpha_bar[level]
        return (noisy - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()


def cosine_schedule(levels: int, offset: float = 0.008) -> Schedule:
    """ᾱ_k = f(k/K)/f(0), f(u) = cos²((u + s)/(1 + s) π/2), β clipped at 0.999  (Nichol & Dhariwal 2021, eq. 17)."""
    u = torch.arange(levels + 1, dtype=torch.float64) / levels
    f = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return Schedule(torch.cat([torch.ones(1), torch.cumprod(1 - beta, 0).float()]))


def strided_levels(levels: int, steps: int) -> list[int]:
    """N levels equally spaced in 1 … K, from K down to the least, then 0  (Nichol & Dhariwal 2021, §4)."""
    return [round(levels * (steps - i) / steps) for i in range(steps)] + [0]
