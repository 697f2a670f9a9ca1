"""Denoisers: networks from a noisy window, its noise level and the condition to an output of the window's shape."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from dawm.config import WorldModelSettings
from dawm.world_model.conditioning import ConditionEmbedding
from dawm.world_model.unet import TemporalUNet


class Denoiser(Protocol):
    """What training and sampling ask of any denoiser, on windows of shape [B, T, C]."""

    def __call__(
        self, rows: Tensor, noise_level: Tensor, action: Tensor, return_to_go: Tensor, known: Tensor
    ) -> Tensor:
        """rows [B, T, C] = c_in x, with what is given clean in row 0; noise_level [B] = c_noise, within about ±1;
        action [B, act_dim], NaN: not given; return_to_go [B], read where known [B] is true. Returns F, [B, T, C]."""
        ...


class ResidualDenoiser(nn.Module):
    """Residual MLP over the flattened window: much cheaper on a CPU than the temporal U-Net."""

    def __init__(self, window: int, channels: int, action_dim: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.condition = ConditionEmbedding(action_dim)
        self.enter = nn.Linear(window * channels + ConditionEmbedding.WIDTH, hidden)
        self.blocks = nn.ModuleList(ResidualBlock(hidden) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, window * channels))
        self.shape = (window, channels)

    def forward(self, rows: Tensor, noise_level: Tensor, action: Tensor, return_to_go: Tensor, known: Tensor) -> Tensor:
        condition = self.condition(noise_level, action, return_to_go, known)
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


def make_denoiser(settings: WorldModelSettings, channels: int, action_dim: int) -> nn.Module:
    """The network that the settings ask for, a `Denoiser` on windows [B, T, channels]."""
    if settings.denoiser == "unet":
        return TemporalUNet(channels, action_dim, settings.unet_channels)
    return ResidualDenoiser(settings.window, channels, action_dim, settings.hidden, settings.blocks)
