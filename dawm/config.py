"""Every setting of every stage: frozen dataclasses, the JSON schema generated from them, the reader that applies it.

The schema is the only judge of a config: workflow, command line, an editor and the tests all read the same one.
"""

from __future__ import annotations

import dataclasses
import types
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import jsonschema
import yaml

from dawm.errors import InputError

NAME = "[a-z0-9][a-z0-9_-]{0,63}"
SLUG = rf"^{NAME}(?![\s\S])"  # `$` would let a line break pass

LARGEST = 1e15  # whole numbers beyond it are not exact as float64
T = TypeVar("T")

# What PyYAML raises on odd dates, numbers and tags, beside its own errors.
YAML_PROBLEMS = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def setting(doc: str, default: Any = MISSING, **schema: Any) -> Any:
    """A documented field; `schema` holds further JSON-schema keywords such as minimum=1."""
    metadata = {"doc": doc, "schema": schema}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Stage `export`: one data set."""

    source: str = setting(
        "`local/hopper-medium-replay` (collected here) or `hdf5:PATH` (a file in D4RL's layout)",
        minLength=1,
    )
    environment: str | None = setting(
        "gymnasium id of an HDF5 file's environment; null: known from D4RL's file name", None
    )
    transitions: int | None = setting("how many to collect; null: the source's own number", None, minimum=1000)
    rows_per_shard: int = setting("rows of one Parquet shard", 100_000, minimum=1)
    held_out_fraction: float = setting(
        "share of episodes that world model and inverse dynamics never see", 0.1, exclusiveMinimum=0, maximum=0.5
    )
    seed: int = setting("seed of collection and of the split", 0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class WorldModelSettings:
    """Stage `train-world-model`: the conditional diffusion over windows of states, rewards and terminals."""

    window: int = setting("T, rows of a window; T rows yield T - 1 transitions", 8, minimum=2, maximum=32)
    diffusion_steps: int = setting("K, noise levels of training", 10, minimum=1, maximum=1000)
    prediction: Literal["clean", "noise"] = setting("what the network predicts: x⁰ or ε", "clean")
    hidden: int = setting("width of the residual network", 256, minimum=8)
    blocks: int = setting("residual blocks", 3, minimum=1)
    discount: float = setting("γ of the return-to-go", 0.99, exclusiveMinimum=0, maximum=1)
    return_scale: float | None = setting(
        "return-to-go that becomes 1 (D4RL: Hopper 400, Walker2d 550, HalfCheetah 1200); null: the largest in the data",
        None,
        exclusiveMinimum=0,
    )
    truncated_return: Literal["drop", "average_reward_tail"] = setting(
        "return-to-go where a timeout cut its future off: no condition there, or the episode's mean reward goes on",
        "drop",
    )
    condition_dropout: float = setting("p_uncond, how often the return-to-go is hidden", 0.25, minimum=0, maximum=1)
    batch_size: int = setting("windows per gradient step", 256, minimum=1)
    learning_rate: float = setting("Adam's, decayed to 0 along a cosine", 1e-3, exclusiveMinimum=0)
    ema_decay: float = setting("decay of the averaged weights, which are the ones kept", 0.995, minimum=0, maximum=1)
    ema_every: int = setting("gradient steps between two averagings", 10, minimum=1)
    gradient_steps: int = setting("length of training", 100_000, minimum=1)
    checkpoint_every: int = setting("gradient steps between two checkpoints", 1000, minimum=1)

    def __post_init__(self) -> None:
        if self.truncated_return == "average_reward_tail" and self.discount == 1:
            raise InputError("discount: expected less than 1 with truncated_return: average_reward_tail, found 1")


@dataclass(frozen=True, kw_only=True)
class InverseDynamicsSettings:
    """Stage `train-inverse-dynamics`: a = f(s, s′)."""

    hidden: int = setting("width", 512, minimum=8)
    layers: int = setting("hidden layers", 2, minimum=1)
    dropout: float = setting("dropout of the hidden layers", 0.0, minimum=0, maximum=0.9)
    batch_size: int = setting("transitions per gradient step", 256, minimum=1)
    learning_rate: float = setting("Adam's, decayed to 0 along a cosine", 1e-3, exclusiveMinimum=0)
    gradient_steps: int = setting("length of training", 50_000, minimum=1)
    checkpoint_every: int = setting("gradient steps between two checkpoints", 1000, minimum=1)


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """Stage `synthesize`: trajectories sampled from real (s, a), completed by the inverse dynamics."""

    trajectories: int = setting("sampled trajectories; each yields up to T - 1 transitions", 150_000, minimum=1)
    shards: int = setting("Parquet shards, one job each", 4, minimum=1, maximum=10_000)
    sampler: Literal["ddpm", "ddim"] = setting("ancestral or deterministic sampling", "ddpm")
    sampling_steps: int = setting("N, noise levels visited, equally spaced among K", 5, minimum=1)
    guidance: float = setting("ω of classifier-free guidance; 1: plain conditional", 1.2, minimum=0)
    temperature: float = setting("α, scale of the sampler's noise (DDPM)", 0.5, minimum=0)
    return_factor: float = setting("requested return-to-go as a multiple of the real one", 1.1)
    seed: int = setting("seed of the drawn starts and of the noise", 0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class LearnerSettings:
    """Stage `train-policy`: what TD3+BC and IQL share."""

    gradient_steps: int = setting("length of training", 1_000_000, minimum=1)
    batch_size: int = setting("transitions per gradient step", 256, minimum=1)
    hidden: int = setting("width of the two hidden layers of every network", 256, minimum=8)
    learning_rate: float = setting("Adam's, of every network", 3e-4, exclusiveMinimum=0)
    discount: float = setting("γ", 0.99, minimum=0, maximum=1)
    target_rate: float = setting("τ, share of the online weights per target update", 0.005, minimum=0, maximum=1)
    evaluate_every: int = setting("gradient steps between two evaluations", 5000, minimum=1)
    evaluation_episodes: int = setting("episodes of one evaluation", 10, minimum=1)
    checkpoint_every: int = setting("gradient steps between two checkpoints", 10_000, minimum=1)


@dataclass(frozen=True, kw_only=True)
class TD3BCSettings(LearnerSettings):
    """TD3+BC (Fujimoto & Gu 2021); the defaults are the published ones."""

    alpha: float = setting("α, weight of Q against cloning", 2.5, minimum=0)
    policy_noise: float = setting("standard deviation of the target action's noise", 0.2, minimum=0)
    noise_clip: float = setting("bound of that noise", 0.5, minimum=0)
    policy_delay: int = setting("critic steps per actor and target step", 2, minimum=1)
    normalize_observations: bool = setting("standardise observations with the real data's statistics", True)
    normalize_rewards: bool = setting("scale rewards by 1000 / (largest - smallest return of the real data)", False)


@dataclass(frozen=True, kw_only=True)
class IQLSettings(LearnerSettings):
    """IQL (Kostrikov et al. 2021); the defaults are the published ones for locomotion."""

    expectile: float = setting("τ of the value's expectile regression", 0.7, exclusiveMinimum=0, exclusiveMaximum=1)
    inverse_temperature: float = setting("β of the advantage weights", 3.0, minimum=0)
    advantage_weight_clip: float = setting("largest advantage weight", 100.0, exclusiveMinimum=0)
    normalize_observations: bool = setting("standardise observations with the real data's statistics", False)
    normalize_rewards: bool = setting("scale rewards by 1000 / (largest - smallest return of the real data)", True)


@dataclass(frozen=True, kw_only=True)
class AlgorithmsSettings:
    """The learners to run; leave one out to skip it."""

    td3_bc: TD3BCSettings | None = setting("TD3+BC", None)
    iql: IQLSettings | None = setting("IQL", None)


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """One arm: what a learner's batches are made of."""

    real_fraction: float = setting(
        "share of real transitions per batch; 1: real only, 0: synthetic only", minimum=0, maximum=1
    )


@dataclass(frozen=True, kw_only=True)
class AssessmentSettings:
    """Stage `assess`: synthetic transitions against the true simulator."""

    rows: int = setting("most transitions replayed per kind and horizon step", 1000, minimum=10)
    seed: int = setting("seed of the drawn rows and of the bootstrap", 0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment: everything that `snakemake` is asked for."""

    experiment: str = setting("name; results go to `results/<experiment>/`", pattern=SLUG)
    seeds: tuple[int, ...] = setting("one RL run per seed", minItems=1, uniqueItems=True, items={"minimum": 0})
    world_model_seeds: tuple[int, ...] = setting(
        "one world model and inverse dynamics per seed; RL seed number i uses number i modulo their count",
        (0,),
        minItems=1,
        uniqueItems=True,
        items={"minimum": 0},
    )
    datasets: dict[str, ExportSettings] = setting("the data sets by name", minProperties=1)
    world_model: WorldModelSettings = setting("diffusion world model", WorldModelSettings)
    inverse_dynamics: InverseDynamicsSettings = setting("inverse dynamics model", InverseDynamicsSettings)
    synthesis: SynthesisSettings = setting("synthetic transitions", SynthesisSettings)
    augmentations: dict[str, AugmentationSettings] = setting("the arms by name", minProperties=1)
    algorithms: AlgorithmsSettings = setting("the learners", minProperties=1)
    assessment: AssessmentSettings = setting("fidelity in the true simulator", AssessmentSettings)

    def __post_init__(self) -> None:
        if self.synthesis.sampling_steps > self.world_model.diffusion_steps:
            raise InputError(
                f"synthesis.sampling_steps: expected at most world_model.diffusion_steps "
                f"({self.world_model.diffusion_steps}), found {self.synthesis.sampling_steps}"
            )
        if not self.algorithm_names:
            raise InputError("algorithms: expected settings of at least one learner, found only null")

    def algorithm(self, name: str) -> TD3BCSettings | IQLSettings:
        return getattr(self.algorithms, name)

    @property
    def algorithm_names(self) -> list[str]:
        return [f.name for f in dataclasses.fields(self.algorithms) if getattr(self.algorithms, f.name) is not None]

    def matrix(self) -> Matrix:
        return Matrix(
            experiment=self.experiment,
            datasets=tuple(self.datasets),
            algorithms=tuple(self.algorithm_names),
            real_fractions={name: arm.real_fraction for name, arm in self.augmentations.items()},
            seeds=self.seeds,
            world_model_seeds=self.world_model_seeds,
        )


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """What an experiment consists of, by name: all that tables, figures and report need to know."""

    experiment: str = setting("name", pattern=SLUG)
    datasets: tuple[str, ...] = setting("data sets", minItems=1, uniqueItems=True)
    algorithms: tuple[str, ...] = setting("learners", minItems=1, uniqueItems=True)
    real_fractions: dict[str, float] = setting("share of real transitions per batch, by arm", minProperties=1)
    seeds: tuple[int, ...] = setting("RL seeds", minItems=1, uniqueItems=True)
    world_model_seeds: tuple[int, ...] = setting("world-model seeds", minItems=1, uniqueItems=True)

    def world_model_seed(self, seed: int) -> int:
        """The world model that an RL seed's synthetic transitions come from."""
        return self.world_model_seeds[self.seeds.index(seed) % len(self.world_model_seeds)]


# --- the schema -------------------------------------------------------------------------------------------------


def json_schema(cls: type) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a settings dataclass: types, bounds and documentation of every key."""
    hints = get_type_hints(cls)
    properties, required = {}, []
    for item in dataclasses.fields(cls):
        schema = _schema_of(hints[item.name])
        extra = dict(item.metadata["schema"])
        schema.get("items", {}).update(extra.pop("items", {}))
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
        return {"anyOf": [_schema_of(arguments[0]), {"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": _schema_of(arguments[0])}
    if origin is dict:
        return {
            "type": "object",
            "propertyNames": {"pattern": SLUG},
            "additionalProperties": _schema_of(arguments[1]),
        }
    return {"type": {int: "integer", float: "number", bool: "boolean", str: "string"}[hint]}


# --- reading ----------------------------------------------------------------------------------------------------


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
    """Safe YAML: plain values only."""
    try:
        return yaml.safe_load(text)
    except YAML_PROBLEMS as error:
        raise InputError(f"{where}: expected YAML or JSON, found: {' '.join(str(error).split())}") from error


def as_mapping(settings: Any) -> dict[str, Any]:
    """The settings as plain JSON values, every default spelled out."""
    return dataclasses.asdict(settings)


def plain(value: Any) -> Any:
    """The same with lists for tuples, as YAML writes them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _build(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        hints, cls = get_type_hints(hint), cast(type, hint)
        return cls(**{key: _build(hints[key], item) for key, item in value.items()})
    if origin in (Union, types.UnionType):
        return None if value is None else _build(arguments[0], value)
    if origin is tuple:
        return tuple(_build(arguments[0], item) for item in value)
    if origin is dict:
        return {key: _build(arguments[1], item) for key, item in value.items()}
    return hint(value) if hint in (int, float) else value


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


_EXPECTED = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "pattern": f"a name that matches {NAME}".replace("{", "{{").replace("}", "}}"),
    "enum": "one of {}",
    "minItems": "at least {} entries",
    "minProperties": "at least {} entries",
    "minLength": "at least {} characters",
}
_KINDS = {
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
        prefix = "" if key == "the file" else f"{key}."
        return f"{prefix}{unknown}: unknown key; expected one of {', '.join(known)}"
    if rule == "required":
        missing = next(name for name in error.validator_value if name not in found)
        return f"{key}: the key {missing!r} is missing"
    if rule == "uniqueItems":
        twice = next(item for item in found if found.count(item) > 1)
        return f"{key}: expected every entry once, found {twice!r} twice"
    if rule == "type":
        hint = ""
        if error.validator_value in ("number", "integer") and isinstance(found, str) and _is_number(found):
            hint = " (YAML reads this as text; write it with a point and a sign, as in 3.0e-4)"
        return f"{key}: expected {_KINDS[error.validator_value]}, found {found!r}{hint}"
    expected = _EXPECTED[rule].format(error.validator_value)
    return f"{key}: expected {expected}, found {found!r}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- the table of keys ------------------------------------------------------------------------------------------


def key_table() -> str:
    """config/README.md: every key with its default, its bounds and its meaning."""
    sections = [
        ("", Experiment),
        ("datasets.NAME", ExportSettings),
        ("world_model", WorldModelSettings),
        ("inverse_dynamics", InverseDynamicsSettings),
        ("synthesis", SynthesisSettings),
        ("augmentations.NAME", AugmentationSettings),
        ("algorithms.td3_bc", TD3BCSettings),
        ("algorithms.iql", IQLSettings),
        ("assessment", AssessmentSettings),
    ]
    lines = [_README_HEAD]
    for title, cls in sections:
        lines += [f"\n## `{title}`\n" if title else "\n## The file\n", f"{(cls.__doc__ or '').strip()}\n"]
        lines += ["| key | default | allowed | meaning |", "|---|---|---|---|"]
        properties = json_schema(cls)["properties"]
        for item in dataclasses.fields(cls):
            default = "required" if item.default is MISSING else f"`{_yaml_value(item.default)}`"
            if item.default_factory is not MISSING:
                default = "its defaults"
            lines.append(f"| `{item.name}` | {default} | {_allowed(properties[item.name])} | {item.metadata['doc']} |")
    return "\n".join(lines) + "\n"


_README_HEAD = """# Every key of a config

This file and `workflow/schemas/config.schema.json` are written by `make config-reference` from the dataclasses in
`dawm/config.py`, which the workflow validates against; a test compares them. An editor that reads JSON schemas
completes and checks keys with it.

`snakemake` takes `config/quickstart.yaml`; `snakemake --configfile FILE` takes that file alone, and
`--config experiment=again` changes a single key of either. `python -m dawm check-config FILE` validates a file and
prints it with all defaults. Unknown keys, wrong types and values out of bounds are refused with one sentence that names
the key. Names (of the experiment, of data sets and arms) are made of `a-z`, `0-9`, `-` and `_`."""


def _yaml_value(value: Any) -> str:
    return yaml.safe_dump(plain(value), default_flow_style=True).split("\n")[0]


def _allowed(schema: dict[str, Any]) -> str:
    """Bounds of a key in words."""
    branch = schema.get("anyOf", [schema])[0]
    if "enum" in branch:
        return ", ".join(f"`{value}`" for value in branch["enum"])
    words = [_KINDS[branch["type"]]]
    words += [_EXPECTED[rule].format(branch[rule]) for rule in _EXPECTED if rule in branch and rule != "pattern"]
    if branch.get("uniqueItems"):
        words.append("every entry once")
    return ", ".join(words + (["or null"] if "anyOf" in schema else []))
