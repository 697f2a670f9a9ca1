"""What every settings dataclass is made of: documented, bounded fields, and the pattern of names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields
from typing import Any

from dawm.errors import InputError

NAME = "[a-z0-9][a-z0-9_-]{0,63}"
SLUG = rf"^{NAME}(?![\s\S])"  # `$` would let a line break pass


def setting(doc: str, default: Any = MISSING, **schema: Any) -> Any:
    """A documented field; `schema` holds further JSON-schema keywords such as minimum=1."""
    metadata = {"doc": doc, "schema": schema}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def default_of(item: Field) -> Any:
    """What a field is where nothing is said."""
    return item.default if item.default_factory is MISSING else item.default_factory()


def refuse_unheeded(settings: Any, unheeded: Mapping[str, str]) -> None:
    """Refuses any but the default for settings that make no difference: by name, what they make none with."""
    for item in fields(settings):
        if item.name in unheeded and getattr(settings, item.name) != default_of(item):
            raise InputError(f"{item.name}: makes no difference with {unheeded[item.name]}, expected no such key")
