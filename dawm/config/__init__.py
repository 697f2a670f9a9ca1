"""Configs: settings, the JSON schema generated from them, and the reader that applies it.

The schema is the only judge of a config: workflow, command line, an editor and the tests all read the same one.
"""

from dawm.config.compute import Compile, ComputeSettings, Precision
from dawm.config.data import (
    D4RL,
    HDF5,
    LOCAL,
    LOCOMOTION,
    MINARI,
    PART,
    RANDOM,
    RANDOM_TRANSITIONS,
    BoundSettings,
    EnvironmentSettings,
    ExportSettings,
    InspectionSettings,
    TerminationSettings,
    check_source,
)
from dawm.config.experiment import (
    AnimationSettings,
    AssessmentSettings,
    AugmentationSettings,
    Experiment,
    Matrix,
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
from dawm.config.learners import (
    LEARNER_SETTINGS,
    AlgorithmsSettings,
    BCSettings,
    BestBCSettings,
    IQLSettings,
    LearnerSettings,
    TD3BCSettings,
)
from dawm.config.presets import with_preset
from dawm.config.reading import as_mapping, as_yaml, decisive, load_experiment, load_yaml, parse_yaml, plain, read
from dawm.config.recipes import GeneratorSettings
from dawm.config.reference import key_table
from dawm.config.schema import json_schema

__all__ = [
    "D4RL",
    "HDF5",
    "LEARNER_SETTINGS",
    "LOCAL",
    "LOCOMOTION",
    "MINARI",
    "PART",
    "RANDOM",
    "RANDOM_TRANSITIONS",
    "AlgorithmsSettings",
    "AnimationSettings",
    "AssessmentSettings",
    "AugmentationSettings",
    "BCSettings",
    "BestBCSettings",
    "BoundSettings",
    "ClonedPolicySettings",
    "Compile",
    "ComputeSettings",
    "CorrectionSettings",
    "EnvironmentSettings",
    "ExpansionSettings",
    "Experiment",
    "ExportSettings",
    "ForwardDynamicsSettings",
    "GeneratorSettings",
    "IQLSettings",
    "InspectionSettings",
    "InverseDynamicsSettings",
    "LearnerSettings",
    "Matrix",
    "Precision",
    "RequestSettings",
    "SteeringSettings",
    "SynthesisSettings",
    "TD3BCSettings",
    "TerminationSettings",
    "ThresholdSettings",
    "WorldModelSettings",
    "as_mapping",
    "as_yaml",
    "check_source",
    "decisive",
    "json_schema",
    "key_table",
    "load_experiment",
    "load_yaml",
    "parse_yaml",
    "plain",
    "read",
    "with_preset",
]
