"""Transitions as learners read them, without a folder."""

from __future__ import annotations

from dawm.data.table import Table, episode_starts, rows_of
from dawm.data.transitions import Transitions


def table_of(transitions: Transitions) -> Table:
    """A copy of the columns that learners read."""
    dims = transitions.observation_dim, transitions.action_dim
    return Table(rows_of(transitions), *dims, episode_starts([transitions.episode]))
