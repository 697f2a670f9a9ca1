"""What stages leave in a folder, and how they are stopped."""

from __future__ import annotations

from pathlib import Path

from dawm.spent import SPENT


class Killed(BaseException):
    """Ends a stage as a signal would, wherever it stands."""


def contents(folder: Path) -> dict[str, bytes]:
    """What equal runs leave alike: every file, hidden ones too, but the lock and how long the run worked."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", SPENT))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}
