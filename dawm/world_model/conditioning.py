"""What a denoiser is told beside the window: noise level, return-to-go and action, embedded and concatenated."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ConditionEmbedding(nn.Module):
    """Small MLPs for noise level, return-to-go and action, concatenated (Ding et al. 2024, §6.6.1), [B, 3·SIZE].

    The embedding of what is not known, a return-to-go or an action of NaN, is zero: nothing of a value passes.
    """

    SIZE = 32
    WIDTH = 3 * SIZE

    def __init__(self, action_dim: int) -> None:
        super().__init__()
        size = self.SIZE
        self.level = nn.Sequential(nn.Linear(size, size), nn.Mish(), nn.Linear(size, size))
        self.value = nn.Sequential(nn.Linear(1, size), nn.Mish(), nn.Linear(size, size))
        self.action = nn.Sequential(nn.Linear(action_dim, size), nn.Mish(), nn.Linear(size, size))

    def forward(self, noise_level: Tensor, action: Tensor, return_to_go: Tensor, known: Tensor) -> Tensor:
        return torch.cat(
            [
                self.level(sinusoidal(noise_level, self.SIZE)),
                self.value(return_to_go[:, None]) * known[:, None],
                self.action(action.nan_to_num(0.0)) * ~action.isnan().any(1, keepdim=True),
            ],
            dim=-1,
        )


def sinusoidal(level: Tensor, size: int) -> Tensor:
    """Sines and cosines of the noise level (within about ±1) at `size`/2 geometric frequencies, [B] → [B, size]."""
    frequency = torch.exp(torch.linspace(0.0, math.log(100.0), size // 2, device=level.device))
    angle = level[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
