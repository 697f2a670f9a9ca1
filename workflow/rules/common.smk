# The validated config, the paths of results, and the small helpers that the rules share.

import json
import os
import re
import shlex
import shutil
import sys
from functools import partial
from os.path import isfile
from pathlib import Path

sys.path.insert(0, workflow.basedir)

from snakemake.settings.types import DeploymentMethod
from snakemake.utils import update_config

from dawm.config import Experiment, as_mapping, as_yaml, decisive, load_yaml, parse_yaml, read
from dawm.data.files import write_text
from dawm.data.sealed import PROVENANCE
from dawm.errors import InputError
from dawm.jobs import group_name
from dawm.layout import (
    SHARDS_VERSION,
    Layout,
    Run,
    all_synthetic_sets,
    animated_sets,
    filmed_runs,
    planners,
    runs,
    shard_name,
    steerings,
    synthetic_sets,
    trained_models,
)

# `python` in a rule is its conda environment's with --use-conda, else the one that runs Snakemake, whatever environment
# the shell is in; the package comes from here, before whatever else the shell would import without conda.
by_conda = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
own_python = "" if by_conda else f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"; '
others = "" if by_conda else '"${{PYTHONPATH:+:$PYTHONPATH}}"'  # doubled: Snakemake formats it
shell.prefix(f"{own_python}export PYTHONPATH={shlex.quote(str(workflow.basedir))}{others} PYTHONUNBUFFERED=1; ")

if by_conda and shutil.which("conda") is None:
    print(
        "--use-conda: expected conda 24.7.1 or newer on PATH, found none: install Miniforge "
        "(https://conda-forge.org/download), or leave --use-conda out and run in .venv (make run)",
        file=sys.stderr,
    )
    sys.exit(2)

changes = workflow.config_settings.config
config_files = " and ".join([*map(str, workflow.configfiles), *(["--config"] if changes else [])])


def typed(value):
    """A value in --config, of which Snakemake reads as text whatever is nested."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return parse_yaml(value, "--config") if isinstance(value, str) else value


try:
    update_config(config, {key: typed(value) for key, value in changes.items() if isinstance(value, (dict, list))})
    for file in workflow.configfiles:  # Snakemake takes the last of a key that is there twice
        load_yaml(Path(file))
    experiment = read(Experiment, config, config_files)
    layout = Layout.of(experiment.experiment)
    for name, dataset in experiment.datasets.items():  # without it only a job would miss the file
        if dataset.file is not None and not (isfile(dataset.file) or isfile(layout.dataset(name) / PROVENANCE)):
            raise InputError(f"{config_files}: datasets.{name}.source: {dataset.file}: no such file")
except InputError as error:
    print(error, file=sys.stderr)
    sys.exit(2)

matrix = experiment.matrix()
logs, benchmarks = layout.root / "logs", layout.root / "benchmarks"
ENVIRONMENT = Path(workflow.basedir) / "environment.yml"
ANALYSIS = Path(os.path.relpath(workflow.basedir)) / "dawm" / "analysis"


onstart:
    write_text(layout.config, as_yaml(experiment))  # for `dawm status` and `dawm verify`


wildcard_constraints:
    dataset="|".join(experiment.datasets),
    algorithm="|".join(experiment.algorithm_names),
    augmentation="|".join(experiment.augmentations),
    generator="|".join(experiment.generators) or "(?!)",
    seed="|".join(map(str, dict.fromkeys((*experiment.seeds, *experiment.world_model_seeds)))),
    shard=r"\d{5}",
    shards=r"\d{5}",


def text(settings):
    """Settings as one argument of the command line, every default spelled out: a changed one reruns the job. Jobs of
    equal settings share it."""
    return sys.intern(json.dumps(as_mapping(settings)))


EXPERIMENT = json.dumps(decisive(experiment))  # of jobs that take all of it


def compute(precision, compile):
    """How a job computes."""
    device = [] if experiment.compute.device == "auto" else ["--device", experiment.compute.device]
    return ["--precision", precision, "--compile", compile, *device]


MODEL_COMPUTE = compute(experiment.compute.precision, experiment.compute.compile)
# A shard calls a network a few times, which pays for no compiling.
SYNTHESIS_COMPUTE = compute(experiment.compute.precision, "none")
# Learners know no mixed precision and no compiled networks; where models have those, they compute plainly.
LEARNER_COMPUTE = compute(
    "tf32" if experiment.compute.precision == "tf32" else "float32",
    "graphs" if experiment.compute.learner_graphs else "none",
)


def growing(amount):
    """A resource: what was too little at an attempt will do at the next. A training goes on where it was stopped."""
    return lambda wildcards, attempt: amount * attempt


def inside(folder, *names):
    return str(Path(folder, *names))


def seal_of(folder):
    """What stands for a sealed folder among a rule's inputs and outputs."""
    return inside(folder, PROVENANCE)


def shared(folder):
    """A folder as text, of which many jobs hold one copy."""
    return sys.intern(str(folder))


def dataset_folder(wildcards):
    return shared(layout.dataset(wildcards.dataset))


def recipe_folder(kind):
    """What a generator's models and transitions are kept in; kind: as `Layout` names it."""
    return lambda wildcards: shared(getattr(layout, kind)(wildcards.dataset, wildcards.generator, wildcards.seed))


def dataset_seal(wildcards):
    return seal_of(layout.dataset(wildcards.dataset))


def folders(wildcards, names):
    """The folders of some of a generator's models by name: its own, or those of the first with equal settings."""
    owners = {name: experiment.owner(wildcards.generator, name) for name in names}
    return {name: getattr(layout, name)(wildcards.dataset, owner, wildcards.seed) for name, owner in owners.items()}


def models(wildcards):
    """The folders of the models that synthetic transitions grow from, by name."""
    return folders(wildcards, experiment.generators[wildcards.generator].grown_by())


def teachers(wildcards):
    """Those that the training of the world model takes."""
    return folders(wildcards, experiment.generators[wildcards.generator].taught_by("world_model"))


def options(named):
    return [word for name, folder in named.items() for word in (f"--{name.replace('_', '-')}", shared(folder))]


def model_options(wildcards):
    return options(models(wildcards))


def teacher_options(wildcards):
    return options(teachers(wildcards))


def seals(wildcards, named):
    """Of the data set and of models."""
    return {"dataset": dataset_seal(wildcards), **{name: seal_of(folder) for name, folder in named.items()}}


def model_seals(wildcards):
    return seals(wildcards, models(wildcards))


def teacher_seals(wildcards):
    return seals(wildcards, teachers(wildcards))


def inverse_dynamics_seal(wildcards):
    """Where a generator has one."""
    return [seal_of(folder) for name, folder in models(wildcards).items() if name == "inverse_dynamics"]


def inverse_dynamics_option(wildcards):
    folder = models(wildcards).get("inverse_dynamics")
    return [] if folder is None else ["--inverse-dynamics", str(folder)]


def parent_of(wildcards):
    """The folder of the data set that this one is a part of, if it is."""
    parent = experiment.datasets[wildcards.dataset].parent
    return [] if parent is None else [layout.dataset(parent)]


def source_files(wildcards):
    """What an export reads: a user's HDF5 file, or the data set that this one is a part of. A file that went away after
    its export leaves the data set as it is: Snakemake takes what is there for a source."""
    if parents := parent_of(wildcards):
        return [seal_of(folder) for folder in parents]
    path = experiment.datasets[wildcards.dataset].file
    return [] if path is None else [str(path)]


def policy_groups():
    """The seeds that share a job, or a wildcard where each has its own."""
    return experiment.seed_groups() if experiment.compute.seeds_per_job > 1 else [("{seed}",)]


def evaluators(seeds):
    """The processes in which the seeds of a job are evaluated, of some 300 MB each."""
    return min(experiment.compute.evaluation_processes, len(seeds))


def rule_of(seeds):
    return "train_policy" if "{seed}" in seeds else f"train_policy_{group_name(seeds)}".replace("-", "_")


# What a profile sets for `train_policy` holds for groups of seeds too, whose names it cannot know. Before the first rule.
given = workflow.resource_settings.overwrite_resources
given |= {rule_of(seeds): given["train_policy"] for seeds in policy_groups() if "train_policy" in given}


def policy_folder(dataset, algorithm, augmentation, seed):
    return layout.policy(Run(dataset, algorithm, augmentation, seed))


def seeds_of(seeds, wildcards):
    return [int(wildcards.seed)] if "{seed}" in seeds else seeds


def synthetic_folders(seeds, wildcards):
    """Of each seed's synthetic transitions; none for an arm of real data only."""
    generator = matrix.augmentations[wildcards.augmentation].generator
    if generator is None:
        return []
    numbers = [matrix.world_model_seed(seed) for seed in seeds_of(seeds, wildcards)]
    return [layout.synthetic(wildcards.dataset, generator, number) for number in numbers]


def policy_inputs(seeds, wildcards):
    return [dataset_seal(wildcards), *map(seal_of, synthetic_folders(seeds, wildcards))]


def run_options(seeds, wildcards):
    """Seeds, outputs and synthetic folders, in one order."""
    numbers = seeds_of(seeds, wildcards)
    names = wildcards.dataset, wildcards.algorithm, wildcards.augmentation
    synthetic = synthetic_folders(seeds, wildcards)
    return [
        *("--seed", *numbers),
        *("--output", *(policy_folder(*names, seed) for seed in numbers)),
        *(("--synthetic", *synthetic) if synthetic else ()),
    ]


def shard_files(wildcards):
    count = experiment.generators[wildcards.generator].synthesis.shards
    folder = layout.synthetic(wildcards.dataset, wildcards.generator, wildcards.seed)
    return [inside(folder, shard_name(number, count)) for number in range(count)]


def model_version(wildcards):
    """Of the code of a generator's world model. 5: behind an episode's end are ordinary rows."""
    return 1 if experiment.generators[wildcards.generator].world_model is None else 5


def shards_version(wildcards):
    """Of the code behind a generator's transitions."""
    return model_version(wildcards), SHARDS_VERSION


def part(name):
    """A rule's settings: those of its generator's part."""
    return lambda wildcards: text(getattr(experiment.generators[wildcards.generator], name))


def code(name):
    """A module of dawm.analysis, and those of it that it imports, as inputs: a rule runs again when its code changes.
    Their paths are relative, so that a checkout can be moved."""
    waiting, found = [name], {}
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = path = ANALYSIS / f"{name}.py"
            imported = re.compile(r"^\s*from dawm\.analysis\.(\w+) import", re.MULTILINE)
            waiting += imported.findall(path.read_text(encoding="utf-8"))
    return sorted(map(str, found.values()))


def beside_code(name):
    """Another file of dawm/analysis."""
    return str(ANALYSIS / name)
