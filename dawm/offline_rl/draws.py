"""What chance decides in a gradient step, by (seed, step) alone: whoever shares the process, on any device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dawm.philox import noise_key, normal_pair, philox

STEPS_AT_ONCE = 128


class Draws:
    """Values of each step, made of random words for many steps at once: a draw's cost is the number of its kernels."""

    def __init__(
        self, seeds: Sequence[int], purpose: str, size: int, made_of: Callable[[Tensor], Tensor], device: str
    ) -> None:
        """size: words for each seed and step; `made_of` turns int64 [steps, seeds, size] in [0, 2³²) into values."""
        keys = torch.tensor([noise_key(seed, purpose) for seed in seeds], device=device)
        self.key = keys[:, :1], keys[:, 1:]  # [seeds, 1] each
        self.size, self.made_of = size, made_of
        self.first, self.values = -1, torch.empty(0)

    def at(self, step: int) -> Tensor:
        """[seeds, ...]"""
        first = step - step % STEPS_AT_ONCE
        if first != self.first:
            self.first, self.values = first, self.made_of(self._words(first))
        return self.values[step - first]

    def _words(self, first: int) -> Tensor:
        device = self.key[0].device
        place = torch.arange(-(-self.size // 4), device=device)
        step = torch.arange(first, first + STEPS_AT_ONCE, device=device)[:, None, None]
        zero = torch.zeros((), dtype=torch.int64, device=device)
        return torch.cat(philox((place, step, zero, zero), self.key), dim=-1)[..., : self.size]


def normal_draws(seeds: Sequence[int], purpose: str, shape: tuple[int, ...], device: str) -> Draws:
    """Standard normal float32 [seeds, *shape] for each step."""
    count = math.prod(shape)
    half = -(-count // 2)

    def normals(words: Tensor) -> Tensor:
        pair = normal_pair(words[..., :half], words[..., half:])
        return torch.cat(pair, dim=-1)[..., :count].unflatten(-1, shape)

    return Draws(seeds, purpose, 2 * half, normals, device)
