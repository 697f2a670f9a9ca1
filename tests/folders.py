"""What stages leave in a folder."""

from __future__ import annotations

from pathlib import Path

from dawm.spent import SPENT


def contents(folder: Path) -> dict[str, bytes]:
    """What equal runs leave alike: every file, hidden ones too, but the lock and how long the run worked."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in (".lock", SPENT)}
