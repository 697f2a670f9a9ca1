"""The noise of trajectories: each one's own, whoever shares its batch, on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dawm.philox import WORD, noise_key, normal_pair, philox


def trajectory_noise(
    seed: int, source_row: Tensor, draw: Tensor, shape: tuple[int, ...], purpose: str = "noise"
) -> Tensor:
    """Standard normal noise for `shape` = (steps, ...) of each trajectory, float32 [steps, B, ...].

    source_row, draw: int64 [B], on the device where the noise is wanted. A trajectory's numbers are functions of seed,
    purpose, row and draw alone, and those of its first steps do not depend on how many follow.
    """
    steps, size = shape[0], math.prod(shape[1:])
    fours = -(-size // 4)
    place = torch.arange(steps * fours, device=source_row.device)
    row = source_row[:, None]  # [B, 1]
    counter = (place[None], row & WORD, row >> 32, draw[:, None])
    a, b, c, d = philox(counter, noise_key(seed, purpose))
    normals = torch.cat(
        [part.unflatten(1, (steps, fours)) for part in (*normal_pair(a, b), *normal_pair(c, d))], dim=2
    )  # [B, steps, 4 fours]
    return normals[:, :, :size].transpose(0, 1).reshape(steps, -1, *shape[1:])
