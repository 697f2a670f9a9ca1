"""What every settings dataclass is made of: documented, bounded fields, and the pattern of names."""

from __future__ import annotations

from dataclasses import MISSING, field
from typing import Any

NAME = "[a-z0-9][a-z0-9_-]{0,63}"
SLUG = rf"^{NAME}(?![\s\S])"  # `$` would let a line break pass


def setting(doc: str, default: Any = MISSING, **schema: Any) -> Any:
    """A documented field; `schema` holds further JSON-schema keywords such as minimum=1."""
    metadata = {"doc": doc, "schema": schema}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)
