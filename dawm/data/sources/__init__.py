"""Where real transitions come from: each source turns a name into rows and says what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dawm.config import ExportSettings
from dawm.data.transitions import Transitions
from dawm.environments.tasks import Task
from dawm.errors import InputError


@dataclass(frozen=True)
class SourceData:
    """Rows in the order of collection, the task that they belong to, and facts for metadata.json."""

    task: Task
    transitions: Transitions
    facts: dict[str, Any]


def load_source(settings: ExportSettings) -> SourceData:
    """The data set that `settings.source` names."""
    kind, _, _ = settings.source.partition(":")
    if kind == "hdf5":
        from dawm.data.sources.hdf5 import load_hdf5

        return load_hdf5(settings)
    if settings.source.startswith("local/"):
        from dawm.data.sources.local import collect_local

        return collect_local(settings)
    raise InputError(f"source: expected local/NAME or hdf5:PATH, found {settings.source!r}")
