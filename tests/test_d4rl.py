"""What is shared with the real d4rl package: its reference scores are ours."""

from __future__ import annotations

import os

import numpy as np
import pytest

from dawm.environments.tasks import TASKS

os.environ.setdefault("D4RL_SUPPRESS_IMPORT_ERROR", "1")


@pytest.mark.parametrize("name", sorted(TASKS))
def test_scores_are_those_of_d4rl(name: str) -> None:
    from d4rl import infos

    task = TASKS[name]
    for dataset in ("random", "medium", "medium-replay", "medium-expert", "expert"):
        low, high = (table[f"{name}-{dataset}-v2"] for table in (infos.REF_MIN_SCORE, infos.REF_MAX_SCORE))
        assert (task.reference_min, task.reference_max) == (low, high)
    returns = np.array([low, 1234.5, high])
    assert task.normalized_score(returns) == pytest.approx(100 * (returns - low) / (high - low))
