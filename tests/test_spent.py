"""What a training spent before: nothing that depends on it may stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dawm.spent import SPENT, note_spent, spent_before

WHOLE = {"attempt": "before", "wall_seconds": 2.0, "cpu_seconds": 1.0}


@pytest.mark.parametrize(
    "damaged",
    [
        "{",
        "[]",
        "null",
        '{"run": "this"}',
        '{"run": "this", "attempts": 3}',
        '{"run": "this", "attempts": [{}]}',
        json.dumps({"run": "this", "attempts": [WHOLE | {"wall_seconds": "long"}]}),
    ],
)
def test_a_damaged_note_counts_nothing(tmp_path: Path, damaged: str) -> None:
    (tmp_path / SPENT).write_text(damaged)
    assert spent_before(tmp_path) == (0, 0)
    note_spent(tmp_path, "this")
    note_spent(tmp_path, "this")
    assert spent_before(tmp_path) == (0, 0)  # this process is one attempt


def test_earlier_attempts_are_told_of_the_same_run_alone(tmp_path: Path) -> None:
    (tmp_path / SPENT).write_text(json.dumps({"run": "this", "attempts": [WHOLE]}))
    note_spent(tmp_path, "this")
    assert spent_before(tmp_path) == (2, 1)
    note_spent(tmp_path, "other")
    assert spent_before(tmp_path) == (0, 0)
