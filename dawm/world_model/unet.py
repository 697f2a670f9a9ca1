"""The temporal U-Net of the paper's lineage (Janner et al. 2022; Ajay et al. 2023; Ding et al. 2024, §6.6.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dawm.world_model.conditioning import ConditionEmbedding

KERNEL = 5
GROUPS = 8


class TemporalUNet(nn.Module):
    """Residual blocks of two temporal convolutions: one per level on the way down, two in the middle, one per level on
    the way up. Two levels make DWM's six. Every level halves the number of rows; T is padded to what that needs."""

    def __init__(self, channels: int, action_dim: int, widths: Sequence[int]) -> None:
        """widths: channels of each level, from the full number of rows down."""
        super().__init__()
        condition = ConditionEmbedding.WIDTH
        self.condition = ConditionEmbedding(action_dim)
        self.multiple = 2 ** len(widths)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shorten, self.lengthen = nn.ModuleList(), nn.ModuleList()
        for width, next_width in pairwise([channels, *widths]):
            self.down.append(TemporalBlock(width, next_width, condition))
            self.shorten.append(nn.Conv1d(next_width, next_width, 3, stride=2, padding=1))
        self.middle = nn.ModuleList(TemporalBlock(widths[-1], widths[-1], condition) for _ in range(2))
        for width, next_width in pairwise([*reversed(widths), widths[0]]):
            self.lengthen.append(nn.ConvTranspose1d(width, width, 4, stride=2, padding=1))
            self.up.append(TemporalBlock(2 * width, next_width, condition))
        self.leave = nn.Sequential(convolution(widths[0], widths[0]), nn.Conv1d(widths[0], channels, 1))

    def forward(self, rows: Tensor, noise_level: Tensor, action: Tensor, return_to_go: Tensor, known: Tensor) -> Tensor:
        condition = self.condition(noise_level, action, return_to_go, known)
        length = rows.shape[1]
        hidden = nn.functional.pad(rows.transpose(1, 2), (0, -length % self.multiple))  # [B, C, T padded]
        kept = []
        for block, shorten in zip(self.down, self.shorten, strict=True):
            kept.append(block(hidden, condition))
            hidden = shorten(kept[-1])
        for block in self.middle:
            hidden = block(hidden, condition)
        for lengthen, block in zip(self.lengthen, self.up, strict=True):
            hidden = block(torch.cat([lengthen(hidden), kept.pop()], dim=1), condition)
        return self.leave(hidden)[:, :, :length].transpose(1, 2)


class TemporalBlock(nn.Module):
    """conv(conv(x) + W Mish(condition)) + x, with a 1 × 1 convolution where the number of channels changes."""

    def __init__(self, channels: int, out_channels: int, condition: int) -> None:
        super().__init__()
        self.first = convolution(channels, out_channels)
        self.second = convolution(out_channels, out_channels)
        self.told = nn.Sequential(nn.Mish(), nn.Linear(condition, out_channels))
        self.past = nn.Conv1d(channels, out_channels, 1) if channels != out_channels else nn.Identity()

    def forward(self, rows: Tensor, condition: Tensor) -> Tensor:
        """rows [B, channels, T], condition [B, ·] → [B, out_channels, T]."""
        return self.second(self.first(rows) + self.told(condition)[..., None]) + self.past(rows)


def convolution(channels: int, out_channels: int) -> nn.Sequential:
    """Temporal convolution, GroupNorm in at most 8 groups that divide the channels, Mish."""
    return nn.Sequential(
        nn.Conv1d(channels, out_channels, KERNEL, padding=KERNEL // 2),
        nn.GroupNorm(math.gcd(GROUPS, out_channels), out_channels),
        nn.Mish(),
    )
