"""Normalizers that are stored with the model that was trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

SMALLEST_STD = 1e-6


class Standardizer(nn.Module):
    """(x - mean) / std per dimension, with the data's own range, into which the world model clips its predictions.

    Buffers mean, std, low, high: [dim], in raw units; a dimension without variance gets std 1. Nothing is clipped here.
    """

    SPREAD = 1.0  # standard deviation of the encoded data

    def __init__(self, dim: int) -> None:
        super().__init__()
        for name, value in (("mean", 0.0), ("std", 1.0), ("low", -torch.inf), ("high", torch.inf)):
            self.register_buffer(name, torch.full((dim,), value))

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def fit(cls, values: Tensor) -> Self:
        """values [n, dim] in raw units."""
        made = cls(values.shape[1])
        wide = values.double()
        std, made.mean = wide.std(0, correction=0).float(), wide.mean(0).float()
        made.std = torch.where(std > SMALLEST_STD, std, torch.ones_like(std))
        made.low, made.high = values.amin(0), values.amax(0)
        return made

    def encode(self, values: Tensor) -> Tensor:
        """values [..., dim] in raw units → the same shape, mean 0 and variance 1."""
        return (values - self.mean) / self.std

    def decode(self, values: Tensor) -> Tensor:
        """The inverse of `encode`: [..., dim] → [..., dim] in raw units."""
        return values * self.std + self.mean

    def encoded_range(self) -> tuple[Tensor, Tensor]:
        """The data's smallest and largest value per dimension, encoded."""
        return self.encode(self.low), self.encode(self.high)


class ActionScaler(nn.Module):
    """Actions within their bounds ↔ [-1, 1], per dimension; the identity for bounds of ±1."""

    low: Tensor
    high: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("low", -torch.ones(dim))
        self.register_buffer("high", torch.ones(dim))

    @classmethod
    def between(cls, low: Sequence[float], high: Sequence[float]) -> Self:
        """low, high: bounds of each dimension, in the environment's units."""
        made = cls(len(low))
        made.low, made.high = torch.tensor(low), torch.tensor(high)
        return made

    def encode(self, values: Tensor) -> Tensor:
        """values [..., act_dim] in the environment's units → the same shape in [-1, 1]."""
        return (values - (self.high + self.low) / 2) / ((self.high - self.low) / 2)

    def decode(self, values: Tensor) -> Tensor:
        """The inverse of `encode`, clipped into the bounds: [..., act_dim] → [..., act_dim]."""
        scaled = values * ((self.high - self.low) / 2) + (self.high + self.low) / 2
        return torch.clamp(scaled, self.low, self.high)  # rounding could lead out of the bounds


class MinMaxScaler(nn.Module):
    """2 (x - low) / (high - low) - 1, DWM's map for rewards (Ding et al. 2024, §6.9.4)."""

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(1.0))

    @classmethod
    def fit(cls, values: Tensor) -> Self:
        """values [...] in raw units."""
        made = cls()
        made.low, made.high = values.min(), values.max()
        if made.high <= made.low:  # a constant reward
            made.high = made.low + 1.0
        return made

    def encode(self, values: Tensor) -> Tensor:
        """values [...] in raw units → the same shape, the data's range in [-1, 1]."""
        return 2 * (values - self.low) / (self.high - self.low) - 1

    def decode(self, values: Tensor) -> Tensor:
        """The inverse of `encode`: [...] → [...] in raw units."""
        return (values + 1) / 2 * (self.high - self.low) + self.low
