"""The JSON schema of a settings dataclass: types, bounds and documentation, from the one place that declares them."""

from __future__ import annotations

import dataclasses
import types
from dataclasses import MISSING
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dawm.config.fields import SLUG


def json_schema(cls: type) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a settings dataclass: types, bounds and documentation of every key."""
    hints = get_type_hints(cls)
    properties, required = {}, []
    for item in dataclasses.fields(cls):
        schema = _schema_of(hints[item.name])
        extra = dict(item.metadata["schema"])
        for inner, key in (("items", "items"), ("additionalProperties", "values")):  # of lists and mappings
            if key in extra:
                schema[inner].update(extra.pop(key))
        schema.get("anyOf", [schema])[0].update(extra)
        schema["description"] = item.metadata["doc"]
        properties[item.name] = schema
        if item.default is MISSING and item.default_factory is MISSING:
            required.append(item.name)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema_of(hint: Any) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return json_schema(hint)  # type: ignore[arg-type]
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        kinds = [_schema_of(kind) for kind in arguments if kind is not types.NoneType]
        if len(kinds) > 1:  # plain values of several types
            return {"type": [kind["type"] for kind in kinds] + ["null"]}
        return {"anyOf": [*kinds, {"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": _schema_of(arguments[0])}
    if origin is dict:
        return {
            "type": "object",
            "propertyNames": {"pattern": SLUG},
            "additionalProperties": _schema_of(arguments[1]),
        }
    return {"type": {int: "integer", float: "number", bool: "boolean", str: "string"}[hint]}
