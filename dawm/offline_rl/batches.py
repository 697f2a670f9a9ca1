"""Batches of a chosen mixture of real and synthetic transitions, in the learner's units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dawm.data.normalizers import ActionScaler, Standardizer
from dawm.data.transitions import Transitions
from dawm.errors import InputError
from dawm.randomness import generator

STEPS_PER_DRAW = 256


@dataclass(frozen=True)
class Batch:
    """observation, next_observation [B, obs_dim] (normalised), action [B, act_dim] in [-1, 1], reward, discount [B]."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    discount: Tensor

    def __len__(self) -> int:
        return len(self.reward)


class Mixture:
    """Rows of a real and a synthetic data set, of which every batch takes a fraction of real ones.

    The number of real rows in a batch is real_fraction · B rounded at random to a neighbour, so that its expectation
    is exact. The draw of a step depends on (seed, step) alone.
    """

    def __init__(
        self,
        real: Transitions,
        synthetic: Transitions | None,
        real_fraction: float,
        observations: Standardizer,
        actions: ActionScaler,
        reward_scale: float,
        device: str = "cpu",
    ) -> None:
        if real_fraction < 1 and (synthetic is None or not len(synthetic)):
            raise InputError(f"real_fraction: {real_fraction} needs synthetic transitions, found none")
        self.real_rows = len(real)
        self.synthetic_rows = len(synthetic) if synthetic is not None else 0
        self.real_fraction = real_fraction
        parts = [real] if synthetic is None else [real, synthetic]

        def column(name: str) -> Tensor:
            return torch.from_numpy(np.concatenate([getattr(part, name) for part in parts])).to(device)

        observations, actions = observations.to(device), actions.to(device)
        self.widths = [real.observation_dim, real.action_dim, 1, real.observation_dim, 1]
        self.table = torch.empty(self.real_rows + self.synthetic_rows, sum(self.widths), device=device)
        columns = self._columns(self.table)
        columns.observation.copy_(observations.encode(column("observation")))
        columns.action.copy_(actions.encode(column("action")))
        columns.reward.copy_(column("reward") * reward_scale)
        columns.next_observation.copy_(observations.encode(column("next_observation")))
        columns.discount.copy_(column("discount"))
        self._drawn: tuple[tuple[int, int, int], np.ndarray] | None = None

    def row_numbers(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        """Rows of one step's batch, int64 [B]; numbers from `real_rows` on are synthetic."""
        group, place = divmod(step, STEPS_PER_DRAW)
        key = (seed, group, batch_size)
        if self._drawn is None or self._drawn[0] != key:
            rng = generator(seed, "batches", group)
            real_count = np.floor(self.real_fraction * batch_size + rng.random((STEPS_PER_DRAW, 1)))
            is_real = np.arange(batch_size) < real_count
            uniform = rng.random((STEPS_PER_DRAW, batch_size))
            synthetic = self.real_rows + (uniform * self.synthetic_rows).astype(np.int64)
            self._drawn = key, np.where(is_real, (uniform * self.real_rows).astype(np.int64), synthetic)
        return self._drawn[1][place]

    def batch(self, seed: int, step: int, batch_size: int) -> Batch:
        rows = torch.from_numpy(self.row_numbers(seed, step, batch_size)).to(self.table.device)
        return self._columns(self.table.index_select(0, rows))

    def _columns(self, table: Tensor) -> Batch:
        """The columns of rows that lie side by side, so that a batch is gathered once and not five times."""
        observation, action, reward, next_observation, discount = table.split(self.widths, dim=1)
        return Batch(observation, action, reward[:, 0], next_observation, discount[:, 0])
