"""config/README.md: the table of keys, from the same schema that judges them."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import MISSING
from typing import Any

import yaml

from dawm.config.compute import ComputeSettings
from dawm.config.data import (
    BoundSettings,
    EnvironmentSettings,
    ExportSettings,
    InspectionSettings,
    TerminationSettings,
)
from dawm.config.experiment import (
    AnimationSettings,
    AssessmentSettings,
    AugmentationSettings,
    Experiment,
    SteeringSettings,
)
from dawm.config.generation import (
    ClonedPolicySettings,
    CorrectionSettings,
    ExpansionSettings,
    ForwardDynamicsSettings,
    InverseDynamicsSettings,
    RequestSettings,
    SynthesisSettings,
    ThresholdSettings,
    WorldModelSettings,
)
from dawm.config.learners import LEARNER_SETTINGS
from dawm.config.reading import EXPECTED, KINDS, plain
from dawm.config.recipes import GeneratorSettings
from dawm.config.schema import json_schema


def key_table() -> str:
    """config/README.md: every key with its default, its bounds and its meaning."""
    sections = [
        ("", Experiment),
        ("datasets.NAME", ExportSettings),
        ("datasets.NAME.environment", EnvironmentSettings),
        ("datasets.NAME.environment.termination", TerminationSettings),
        ("datasets.NAME.environment.termination.alive, goal", BoundSettings),
        ("inspection", InspectionSettings),
        ("generators.NAME", GeneratorSettings),
        ("generators.NAME.world_model", WorldModelSettings),
        ("generators.NAME.inverse_dynamics", InverseDynamicsSettings),
        ("generators.NAME.forward_dynamics", ForwardDynamicsSettings),
        ("generators.NAME.cloned_policy", ClonedPolicySettings),
        ("generators.NAME.synthesis", SynthesisSettings),
        ("generators.NAME.synthesis.correction", CorrectionSettings),
        (
            "generators.NAME.synthesis.correction.residual, forward_disagreement, action_disagreement",
            ThresholdSettings,
        ),
        ("generators.NAME.synthesis.request", RequestSettings),
        ("generators.NAME.synthesis.expansion", ExpansionSettings),
        ("augmentations.NAME", AugmentationSettings),
        *((f"algorithms.{name}", settings) for name, settings in LEARNER_SETTINGS.items()),
        ("assessment", AssessmentSettings),
        ("animation", AnimationSettings),
        ("steering", SteeringSettings),
        ("compute", ComputeSettings),
    ]
    lines = [_README_HEAD]
    for title, cls in sections:
        lines += [f"\n## `{title}`\n" if title else "\n## The file\n", f"{inspect.getdoc(cls)}\n"]
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
`dawm/config/`, which the workflow validates against; a test compares them. An editor that reads JSON schemas
completes and checks keys with it.

`snakemake` takes `config/quickstart.yaml`; `snakemake --configfile FILE` takes that file alone, and
`--config experiment=again 'compute={seeds_per_job: 5}'` changes keys of either. `python -m dawm check-config FILE`
validates a file and prints it with all defaults. Unknown keys, wrong types and values out of bounds are refused with
one sentence that names the key. Names (of the experiment, of data sets and arms) are made of `a-z`, `0-9`, `-`, `_`."""


def _yaml_value(value: Any) -> str:
    return yaml.safe_dump(plain(value), default_flow_style=True).split("\n")[0]


def _allowed(schema: dict[str, Any]) -> str:
    """Bounds of a key in words."""
    branch = schema.get("anyOf", [schema])[0]
    if "enum" in branch:
        return ", ".join(f"`{value}`" for value in branch["enum"])
    words = [KINDS[branch["type"]]]
    words += [EXPECTED[rule].format(branch[rule]) for rule in EXPECTED if rule in branch and rule != "pattern"]
    if branch.get("uniqueItems"):
        words.append("every entry once")
    return ", ".join(words + (["or null"] if "anyOf" in schema else []))
