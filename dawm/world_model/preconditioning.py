"""Preconditioning: how a network F becomes a denoiser D(x; σ) = c_skip x + c_out F(c_in x; c_noise), and its training.

The network's target follows from D = x⁰: F = (x⁰ - c_skip x)/c_out  (Karras et al. 2022, eq. 7 and 8).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dawm.world_model.schedule import cosine_sigmas


@dataclass(frozen=True)
class Coefficients:
    """Each of the shape of the σ that they belong to  (Karras et al. 2022, eq. 7)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor

    def target(self, clean: Tensor, noisy: Tensor) -> Tensor:
        """What F should have said: (x⁰ - c_skip x)/c_out."""
        return (clean - self.c_skip * noisy) / self.c_out

    def denoised(self, noisy: Tensor, output: Tensor) -> Tensor:
        """D(x; σ) from F's output."""
        return self.c_skip * noisy + self.c_out * output


def predict_clean(sigma: Tensor, sigma_data: float) -> Coefficients:
    """F = x̂⁰ on the variance-preserving input √ᾱ x, √ᾱ = 1/√(1 + σ²)  (Ho et al. 2020, eq. 4)."""
    return Coefficients(torch.zeros_like(sigma), torch.ones_like(sigma), (1 + sigma**2).rsqrt(), cosine_place(sigma))


def predict_noise(sigma: Tensor, sigma_data: float) -> Coefficients:
    """F = ε̂ on the variance-preserving input: x̂⁰ = x - σ ε̂  (Ho et al. 2020, eq. 15)."""
    return Coefficients(torch.ones_like(sigma), -sigma, (1 + sigma**2).rsqrt(), cosine_place(sigma))


def predict_mixture(sigma: Tensor, sigma_data: float) -> Coefficients:
    """F = a mixture of x̂⁰ and ε̂; input and target have variance 1 for data of standard deviation σ_data.

    Karras et al. 2022, table 1.
    """
    total = (sigma**2 + sigma_data**2).sqrt()
    return Coefficients((sigma_data / total) ** 2, sigma * sigma_data / total, 1 / total, sigma.log() / 4)


def cosine_place(sigma: Tensor) -> Tensor:
    """2/π arctan σ in (0, 1): about k/K of the cosine schedule, whose √ᾱ is a cosine."""
    return 2 / math.pi * sigma.atan()


PRECONDITIONINGS: dict[str, Callable[[Tensor, float], Coefficients]] = {
    "clean": predict_clean,
    "noise": predict_noise,
    "edm": predict_mixture,
}


def uniform_levels(count: int, levels: int, rng: np.random.Generator) -> Tensor:
    """σ [B] of training: each of the cosine schedule's K levels equally often  (Ho et al. 2020, alg. 1)."""
    return cosine_sigmas(levels)[torch.from_numpy(rng.integers(levels, size=count))].float()


def log_normal(count: int, rng: np.random.Generator) -> Tensor:
    """σ [B] of training: ln σ ~ N(P_mean, P_std²)  (Karras et al. 2022, table 1)."""
    return torch.from_numpy(np.exp(rng.normal(-1.2, 1.2, size=count))).float()


def training_sigmas(preconditioning: str, count: int, levels: int, rng: np.random.Generator) -> Tensor:
    """σ [B] float32 from the distribution that belongs to the preconditioning; `levels` is K of the cosine schedule."""
    return log_normal(count, rng) if preconditioning == "edm" else uniform_levels(count, levels, rng)
