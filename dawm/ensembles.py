"""Ensembles of MLPs in one module: the members see the same rows and differ by their first weights."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn


class EnsembleLinear(nn.Module):
    """`members` independent linear layers in one batched product: [members, B, in] → [members, B, out]."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)  # torch.nn.Linear's own initialisation
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class SingleMLP(nn.Sequential):
    """An ensemble of one, [..., in] → [1, ..., out]: plain layers, which are faster than a stack of one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[None]


class StackedMLP(nn.Module):
    """`members` MLPs with ReLU, each dropping out on its own: [..., in] → [members, ..., out]."""

    def __init__(self, members: int, widths: list[int], dropout: float) -> None:
        super().__init__()
        self.members = members
        self.layers = nn.ModuleList(EnsembleLinear(members, a, b) for a, b in itertools.pairwise(widths))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.reshape(-1, x.shape[-1]).expand(self.members, -1, -1)
        for layer in self.layers[:-1]:
            hidden = self.dropout(layer(hidden).relu())
        return self.layers[-1](hidden).unflatten(1, x.shape[:-1])


def mlp_ensemble(members: int, inputs: int, hidden: int, layers: int, outputs: int, dropout: float = 0.0) -> nn.Module:
    """[..., inputs] → [members, ..., outputs]; `layers` hidden layers of width `hidden`."""
    widths = [inputs] + layers * [hidden]
    if members > 1:
        return StackedMLP(members, [*widths, outputs], dropout)
    made: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        made += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return SingleMLP(*made, nn.Linear(widths[-1], outputs))


def spread(proposals: Tensor) -> Tensor:
    """Standard deviation over the members, [members, ...] → [...]; 0 for a single one."""
    return proposals.std(0, correction=0)
