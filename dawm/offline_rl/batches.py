"""Batches of a chosen mixture of real and synthetic transitions, in the learner's units, for some seeds at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dawm.data.normalizers import ActionScaler, Standardizer
from dawm.data.table import Table
from dawm.errors import InputError
from dawm.offline_rl.draws import Draws

LARGEST_UNIFORM = 1 - 2.0**-24
"""The float32 before 1, to which the largest words would round: a batch without real rows would get one."""


@dataclass(frozen=True)
class Batch:
    """observation, next_observation [S, B, obs_dim] (normalised), action [S, B, act_dim] in [-1, 1], reward, discount
    [S, B], of S seeds that learn side by side."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    discount: Tensor

    def __len__(self) -> int:
        """B"""
        return self.reward.shape[-1]


@dataclass(frozen=True)
class Units:
    """From raw units to the learner's."""

    observations: Standardizer
    actions: ActionScaler
    reward_scale: float

    def of_rows(self) -> tuple[Tensor, Tensor]:
        """Shift and scale of a table's rows, [width] each; encoded is (row - shift) / scale."""
        observation = self.observations.mean, self.observations.std
        action = (self.actions.high + self.actions.low) / 2, (self.actions.high - self.actions.low) / 2
        reward = torch.zeros(1), torch.tensor([1 / self.reward_scale])
        discount = torch.zeros(1), torch.ones(1)
        shift, scale = zip(observation, action, reward, observation, discount, strict=True)
        return torch.cat(shift), torch.cat(scale)


class Mixture:
    """Rows of a real data set and of each seed's synthetic one, of which every batch takes a fraction of real ones.

    The number of real rows in a batch is real_fraction · B rounded at random to a neighbour, so that its expectation
    is exact to float32's precision: of 64 wanted rows 65 are drawn once in 2¹⁸ steps. The draw of a step depends on
    (seed, step) alone.
    """

    def __init__(
        self,
        real: Table,
        synthetic: Sequence[Table | None],
        real_fraction: float,
        units: Units,
        seeds: Sequence[int],
        batch_size: int,
        device: str = "cpu",
    ) -> None:
        """synthetic: one for each seed; a table that several seeds share is held once."""
        if real_fraction < 1 and not all(synthetic):
            raise InputError(f"real_fraction: {real_fraction} needs synthetic transitions, found none")
        self.real_rows, self.real_fraction, self.batch_size = len(real), real_fraction, batch_size
        self.widths = real.widths
        self.shift, self.scale = (values.to(device) for values in units.of_rows())
        self.rows = SharedRows([real, *(table for table in synthetic if table)], device)
        places = [self.rows.start(table) if table else 0 for table in synthetic]
        counts = [len(table) if table else 0 for table in synthetic]
        self.synthetic_start, self.synthetic_rows = torch.tensor([places, counts], device=device)[:, :, None]
        self.draws = Draws(seeds, "batches", 1 + batch_size, self.row_numbers, device)

    def row_numbers(self, words: Tensor) -> Tensor:
        """int64 [..., S, B], the real rows first, from words [..., S, 1 + B] in [0, 2³²)."""
        uniform = (words[..., :1] * 2.0**-32).clamp(max=LARGEST_UNIFORM)
        real_count = (self.real_fraction * self.batch_size + uniform).floor()
        is_real = torch.arange(self.batch_size, device=words.device) < real_count
        drawn = (words[..., 1:] * torch.where(is_real, self.real_rows, self.synthetic_rows)) >> 32
        return drawn + torch.where(is_real, 0, self.synthetic_start)

    def gather(self, numbers: Tensor) -> Batch:
        """The transitions of some row numbers, int64 [S, B], in the learner's units."""
        rows = (self.rows.take(numbers) - self.shift).div_(self.scale)
        observation, action, reward, next_observation, discount = rows.split(self.widths, dim=-1)
        return Batch(observation, action, reward[..., 0], next_observation, discount[..., 0])


class SharedRows:
    """Tables under common row numbers. On a CPU each is read where it is mapped; on a GPU they lie in one piece."""

    def __init__(self, tables: Sequence[Table], device: str) -> None:
        self.tables = list(dict.fromkeys(tables))
        self.starts = [0, *itertools.accumulate(map(len, self.tables))]
        mapped = [torch.from_numpy(table.rows) for table in self.tables]
        self.parts = mapped if device == "cpu" else [torch.cat([part.to(device) for part in mapped])]

    def start(self, table: Table) -> int:
        """The number of its first row."""
        return self.starts[self.tables.index(table)]

    def take(self, numbers: Tensor) -> Tensor:
        """float32 [..., width] of row numbers [...]."""
        found = rows_at(self.parts[0], numbers)
        for start, part in zip(self.starts[1:], self.parts[1:], strict=False):
            found = torch.where((numbers < start)[..., None], found, rows_at(part, numbers - start))
        return found


def rows_at(table: Tensor, numbers: Tensor) -> Tensor:
    """table [n, width], numbers [...]; [..., width], any row where a number is out of range."""
    return table.index_select(0, numbers.clamp(0, len(table) - 1).flatten()).unflatten(0, numbers.shape)
