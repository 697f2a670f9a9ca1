"""The CDF normalizer: every dimension becomes uniform on [-1, 1] (Ajay et al. 2023; Ding et al. 2024, §6.9.4)."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

KNOTS = 4096
HEAVIEST_CONTINUOUS = 4 / KNOTS  # a value with a larger share of the rows is an atom, with an interval of its own


class CDFNormalizer(nn.Module):
    """x → 2 F(x) - 1 with the data's empirical distribution function F of each dimension, piecewise linear.

    Buffers values, codes [dim, KNOTS]: non-decreasing knots, the last one repeated, so that the size is always the
    same. An atom, a value that the data repeat (a velocity clipped at ±10), has two knots: its whole interval of codes
    maps back to it, and it is encoded as the middle. Values outside of the data's range are clipped into it.
    """

    SPREAD = 3**-0.5  # standard deviation of the encoded data: uniform on [-1, 1]

    values: Tensor
    codes: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        identity = torch.linspace(-1.0, 1.0, KNOTS).repeat(dim, 1)
        self.register_buffer("values", identity)
        self.register_buffer("codes", identity.clone())

    @classmethod
    def fit(cls, values: Tensor) -> Self:
        """values [n, dim] in raw units."""
        made = cls(values.shape[1])
        knots = [knots_of(column) for column in values.numpy().T]
        made.values = torch.from_numpy(np.stack([value for value, _ in knots]))
        made.codes = torch.from_numpy(np.stack([code for _, code in knots]))
        return made

    def encode(self, values: Tensor) -> Tensor:
        """values [..., dim] → codes [..., dim] in [-1, 1]."""
        wanted = self._by_dimension(values)
        wanted = torch.minimum(torch.maximum(wanted, self.values[:, :1]), self.values[:, -1:])
        first = torch.searchsorted(self.values, wanted)  # knots with this very value: first … last - 1
        last = torch.searchsorted(self.values, wanted, right=True)
        atom = (self._at(self.codes, first) + self._at(self.codes, last - 1)) / 2
        between = self._interpolate(wanted, first, self.values, self.codes)
        return torch.where(first < last, atom, between).T.reshape(values.shape)

    def decode(self, codes: Tensor) -> Tensor:
        """codes [..., dim], clipped to [-1, 1] → values [..., dim]; an atom's interval → the atom."""
        wanted = self._by_dimension(codes).clamp(-1.0, 1.0)
        above = torch.searchsorted(self.codes, wanted)
        return self._interpolate(wanted, above, self.codes, self.values).T.reshape(codes.shape)

    def encoded_range(self) -> tuple[Tensor, Tensor]:
        """-1 and 1 for each dimension: the first and the last code, at the data's smallest and largest value."""
        return self.codes[:, 0], self.codes[:, -1]

    def _by_dimension(self, rows: Tensor) -> Tensor:
        return rows.reshape(-1, rows.shape[-1]).T.contiguous()  # [dim, n]

    @staticmethod
    def _at(knots: Tensor, place: Tensor) -> Tensor:
        return knots.gather(1, place.clamp(0, KNOTS - 1))

    def _interpolate(self, wanted: Tensor, above: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """`target` on the line between knots above - 1 and above of `source`, all [dim, n]."""
        above = above.clamp(1, KNOTS - 1)
        low, high = self._at(source, above - 1), self._at(source, above)
        begin, end = self._at(target, above - 1), self._at(target, above)
        gap = high - low
        share = torch.where(gap > 0, (wanted - low) / torch.where(gap > 0, gap, 1.0), 0.0)
        return torch.minimum(torch.maximum(torch.lerp(begin, end, share), begin), end)


def knots_of(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and codes of one dimension's knots, float32 [KNOTS] each; column [n].

    Atoms have both ends of their interval; of all other values, at the middle of theirs, as many as there is room for,
    evenly by rank. The smallest value has code -1 and the largest has code 1.
    """
    unique, counts = np.unique(column, return_counts=True)
    share = counts / len(column)
    upper = np.cumsum(counts) / len(column)
    lower = upper - share
    is_atom = (counts > 1) & (share > HEAVIEST_CONTINUOUS) | (len(unique) == 1)
    plain = np.flatnonzero(~is_atom)
    if len(plain) > KNOTS // 2:
        plain = plain[np.linspace(0, len(plain) - 1, KNOTS // 2).round().astype(int)]
    lower, upper = np.where(is_atom, lower, (lower + upper) / 2), np.where(is_atom, upper, (lower + upper) / 2)
    lower[0], upper[-1] = 0.0, 1.0
    if not is_atom[0]:
        upper[0] = 0.0
    if not is_atom[-1]:
        lower[-1] = 1.0
    atoms = np.flatnonzero(is_atom)
    place = np.concatenate([plain, atoms, atoms])
    code = 2 * np.concatenate([lower[plain], lower[atoms], upper[atoms]]) - 1
    order = np.lexsort((code, unique[place]))
    missing = KNOTS - len(order)
    return (
        np.pad(unique[place][order].astype(np.float32), (0, missing), mode="edge"),
        np.pad(code[order].astype(np.float32), (0, missing), mode="edge"),
    )
