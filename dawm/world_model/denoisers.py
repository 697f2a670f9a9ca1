"""Denoisers: networks from a noisy window, its noise level and the condition to a prediction of the window's shape."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn


class Denoiser(Protocol):
    """What training and sampling ask of any denoiser, on windows of shape [B, T, C]."""

    def __call__(
        self, rows: Tensor, noise_level: Tensor, action: Tensor, return_to_go: Tensor, known: Tensor
    ) -> Tensor:
        """rows [B, T, C] noisy, with the clean s_t in row 0; noise_level [B] = k/K in (0, 1]; action [B, act_dim];
        return_to_go [B], read only where known [B] is true. Returns x̂⁰ or ε̂, [B, T, C]."""
        ...


class ResidualDenoiser(nn.Module):
    """Residual MLP over the flattened window: on a CPU 12–16 times faster than the temporal U-Net.

    The embeddings of noise level, return-to-go and action are small MLPs, concatenated (DWM, §6.6.1); an unknown
    return-to-go's embedding is zero.
    """

    EMBEDDING = 32

    def __init__(self, window: int, channels: int, action_dim: int, hidden: int, blocks: int) -> None:
        super().__init__()
        size = self.EMBEDDING
        self.level = nn.Sequential(nn.Linear(size, size), nn.Mish(), nn.Linear(size, size))
        self.value = nn.Sequential(nn.Linear(1, size), nn.Mish(), nn.Linear(size, size))
        self.action = nn.Sequential(nn.Linear(action_dim, size), nn.Mish(), nn.Linear(size, size))
        self.enter = nn.Linear(window * channels + 3 * size, hidden)
        self.blocks = nn.ModuleList(ResidualBlock(hidden) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, window * channels))
        self.shape = (window, channels)

    def forward(self, rows: Tensor, noise_level: Tensor, action: Tensor, return_to_go: Tensor, known: Tensor) -> Tensor:
        condition = torch.cat(
            [
                self.level(sinusoidal(noise_level, self.EMBEDDING)),
                self.value(return_to_go[:, None]) * known[:, None],
                self.action(action),
            ],
            dim=-1,
        )
        hidden = self.enter(torch.cat([rows.flatten(1), condition], dim=-1))
        for block in self.blocks:
            hidden = block(hidden)
        return self.leave(hidden).unflatten(1, self.shape)


class ResidualBlock(nn.Module):
    """x + W₂ SiLU(W₁ norm(x)); W₂ starts at zero, so that a new block changes nothing."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.first = nn.Linear(hidden, hidden)
        self.second = nn.Linear(hidden, hidden)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.second(nn.functional.silu(self.first(self.norm(hidden))))


def sinusoidal(level: Tensor, size: int) -> Tensor:
    """Sines and cosines of the noise level at `size`/2 geometric frequencies, [B] → [B, size]."""
    frequency = torch.exp(torch.linspace(0.0, math.log(1000.0), size // 2, device=level.device))
    angle = level[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
