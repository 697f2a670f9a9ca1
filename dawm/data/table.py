"""Transitions as learners read them: one float32 table, whose rows are gathered once and not column by column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # learners need no Parquet
    from dawm.data.transitions import Transitions

CHUNK = 1 << 16


@dataclass(frozen=True, eq=False)
class Table:
    """rows: float32 [n, 2 · obs_dim + act_dim + 2], in raw units: observation, action, reward, next_observation,
    discount.

    episode_starts: int64 [episodes + 1], the first row of each episode and n; [1] where the rows are synthetic.
    """

    rows: np.ndarray
    observation_dim: int
    action_dim: int
    episode_starts: np.ndarray

    @property
    def widths(self) -> list[int]:
        """Of the five columns."""
        return [self.observation_dim, self.action_dim, 1, self.observation_dim, 1]

    @property
    def reward(self) -> np.ndarray:
        """[n], a view."""
        return self.rows[:, self.observation_dim + self.action_dim]

    def __len__(self) -> int:
        return len(self.rows)

    def episode_returns(self) -> np.ndarray:
        """Undiscounted return of every episode, float64 [episodes], raw reward."""
        return np.add.reduceat(self.reward.astype(np.float64), self.episode_starts[:-1])

    def observation_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the observations, float64 [obs_dim] each."""
        observation = self.rows[:, : self.observation_dim]
        starts = range(0, len(self), CHUNK)  # in parts, so that no float64 copy of it all is made
        mean = sum(observation[i : i + CHUNK].sum(0, dtype=np.float64) for i in starts) / len(self)
        square = sum(((observation[i : i + CHUNK] - mean) ** 2).sum(0) for i in starts) / len(self)
        return mean, np.sqrt(square)

    def episodes(self, numbers: np.ndarray) -> Table:
        """A copy of some episodes, in their old order."""
        chosen = np.sort(numbers)
        bounds = zip(self.episode_starts[chosen], self.episode_starts[chosen + 1], strict=True)
        parts = [self.rows[first:last] for first, last in bounds]
        starts = np.cumsum([0, *map(len, parts)])
        return Table(np.concatenate(parts), self.observation_dim, self.action_dim, starts)


def rows_of(transitions: Transitions) -> np.ndarray:
    """float32 [n, width], as in `Table`."""
    columns = (transitions.observation, transitions.action, transitions.reward[:, None])
    return np.concatenate([*columns, transitions.next_observation, transitions.discount[:, None]], axis=1)


def episode_starts(episode: Iterable[np.ndarray]) -> np.ndarray:
    """As in `Table`, from the column `episode` of successive parts of a data set."""
    numbers = np.concatenate(list(episode))
    first = np.flatnonzero(np.diff(numbers, prepend=-1))
    return np.append(first, len(numbers)) if len(first) else np.array([len(numbers)])
