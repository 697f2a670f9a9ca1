"""Reading settings: YAML in, validated by the schema, a frozen dataclass out; one sentence for what does not fit."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import jsonschema
import yaml

from dawm.config.experiment import Experiment
from dawm.config.fields import NAME
from dawm.config.schema import json_schema
from dawm.errors import InputError, one_line

T = TypeVar("T")
LARGEST = 1e15  # whole numbers beyond it are not exact as float64

# What PyYAML raises on odd dates, numbers and tags, beside its own errors.
LARGEST_CONFIG = 100_000  # values
YAML_PROBLEMS = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def read(cls: type[T], values: Any, where: str) -> T:
    """`values` (from YAML or JSON) as a settings dataclass. InputError: `where`, key, expected, found."""
    if (strange := _no_json(values)) is not None:
        raise InputError(f"{where}: {strange}")
    errors = jsonschema.Draft202012Validator(json_schema(cls)).iter_errors(values)
    error = jsonschema.exceptions.best_match(errors)
    if error is not None:
        raise InputError(f"{where}: {_sentence(error)}")
    try:
        return _build(cls, values)
    except InputError as problem:
        raise InputError(f"{where}: {problem}") from problem


def load_experiment(path: Path) -> Experiment:
    """The experiment in a YAML file."""
    return read(Experiment, load_yaml(path), str(path))


def load_yaml(path: Path) -> Any:
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(f"{path}: expected a readable YAML file, found: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected YAML in UTF-8, found: {error}") from error


def parse_yaml(text: str, where: str) -> Any:
    """Safe YAML: plain values only, no key twice, and no aliases that stand for more than a config could hold."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        values = _size(node, {})
        if values > LARGEST_CONFIG:
            raise InputError(
                f"{where}: expected at most {LARGEST_CONFIG:,} values, found {values:,} behind its aliases"
            )
        return None if node is None else loader.construct_document(node)
    except YAML_PROBLEMS as error:
        raise InputError(f"{where}: expected YAML or JSON, found: {one_line(error)}") from error


def _size(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Values below a node, an alias counted as what it stands for; known: those of nodes by identity."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    names = [key.value for key, _ in node.value if key.value != "<<"] if isinstance(node, yaml.MappingNode) else []
    if twice := [name for name in names if names.count(name) > 1]:
        raise yaml.YAMLError(f"the key {twice[0]!r} twice in the mapping of line {node.start_mark.line + 1}")
    if id(node) not in known:
        known[id(node)] = 0
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    elif known[id(node)] == 0:
        raise yaml.YAMLError(f"an alias in line {node.start_mark.line + 1} that stands for what it is in")
    return known[id(node)]


def as_mapping(settings: Any) -> dict[str, Any]:
    """The settings as plain JSON values, every default spelled out."""
    return dataclasses.asdict(settings)


def decisive(experiment: Experiment) -> dict[str, Any]:
    """The settings that results depend on, as jobs take and seals hold them: all but `notes`."""
    return {name: value for name, value in as_mapping(experiment).items() if name != "notes"}


def result_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a training's settings those that its result depends on: all but how often it keeps a checkpoint."""
    return {name: value for name, value in settings.items() if name != "checkpoint_every"}


def plain(value: Any) -> Any:
    """The same with lists for tuples, as YAML writes them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def as_yaml(settings: Any) -> str:
    """The same as a file that can be read again."""
    return yaml.safe_dump(plain(as_mapping(settings)), sort_keys=False, allow_unicode=True)


def _build(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        hints, cls = get_type_hints(hint), cast(type, hint)
        return cls(**{key: _build_at(key, hints[key], item) for key, item in value.items()})
    if origin in (Union, types.UnionType):
        return None if value is None else _build(arguments[0], value)
    if origin is tuple:
        return tuple(_build_at(str(number), arguments[0], item) for number, item in enumerate(value))
    if origin is dict:
        return {key: _build_at(key, arguments[1], item) for key, item in value.items()}
    return hint(value) if hint in (int, float) else value


def _build_at(key: str, hint: Any, value: Any) -> Any:
    """The same, where a complaint about several keys together gets the path to them."""
    try:
        return _build(hint, value)
    except InputError as problem:
        raise InputError(f"{key}.{problem}") from problem


def _no_json(value: Any, key: str = "") -> str | None:
    """A complaint about what YAML can say and JSON cannot: keys that are no texts, numbers without end."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                return f"{key or 'the file'}: expected names as text, found {name!r} (put it into quotes)"
            if complaint := _no_json(item, f"{key}.{name}".lstrip(".")):
                return complaint
    elif isinstance(value, list):
        for number, item in enumerate(value):
            if complaint := _no_json(item, f"{key}.{number}".lstrip(".")):
                return complaint
    elif isinstance(value, (int, float)) and not abs(value) <= LARGEST:
        return f"{key}: expected a number of at most {LARGEST:g} either way, found {str(value)[:20]}"
    return None


EXPECTED = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "pattern": f"a name that matches {NAME}".replace("{", "{{").replace("}", "}}"),
    "enum": "one of {}",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
    "minProperties": "at least {} entries",
    "minLength": "at least {} characters",
}
KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "a text",
    "object": "a mapping",
    "array": "a list",
    "null": "null",
}


def _sentence(error: jsonschema.exceptions.ValidationError) -> str:
    key = ".".join(str(part) for part in error.absolute_path) or "the file"
    rule, found = error.validator, error.instance
    if rule == "anyOf":  # a value or null: the complaint is about the value
        return _sentence(next(cause for cause in error.context if cause.relative_schema_path[0] == 0))
    if rule == "additionalProperties":
        known = error.schema["properties"]
        unknown = next(name for name in found if name not in known)
        prefix = f"{key}." if error.absolute_path else ""
        return f"{prefix}{unknown}: unknown key; expected one of {', '.join(known)}"
    if rule == "required":
        missing = next(name for name in error.validator_value if name not in found)
        unknown = next((name for name in found if name not in error.schema["properties"]), None)  # it, misspelled?
        hint = "" if unknown is None else f"; found the unknown key {unknown!r}"
        place = f"{key}: " if error.absolute_path else ""
        return f"{place}the key {missing!r} is missing{hint}"
    if rule == "uniqueItems":
        twice = next(item for item in found if found.count(item) > 1)
        return f"{key}: expected every entry once, found {twice!r} twice"
    if rule == "type":
        hint = ""
        if error.validator_value in ("number", "integer") and isinstance(found, str) and _is_number(found):
            form = "with a point and a sign, as in 3.0e-4" if error.validator_value == "number" else "in digits alone"
            hint = f" (YAML reads this as text; write it {form}, without quotes)"
        kinds = [error.validator_value] if isinstance(error.validator_value, str) else error.validator_value
        return f"{key}: expected {' or '.join(KINDS[kind] for kind in kinds)}, found {found!r}{hint}"
    expected = EXPECTED[rule].format(error.validator_value)
    return f"{key}: expected {expected}, found {found!r}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
