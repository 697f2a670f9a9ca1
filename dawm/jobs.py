"""Every job that an experiment's targets need, by the names that the workflow gives to logs and benchmark files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dawm.config import Experiment, as_mapping, plain, result_settings, with_preset
from dawm.data.sealed import PROVENANCE, settings_in
from dawm.errors import InputError
from dawm.layout import (
    Layout,
    all_synthetic_sets,
    animated_sets,
    filmed_runs,
    planners,
    runs,
    shard_name,
    steerings,
    synthetic_sets,
)

TARGETS = ("report", "datasets", "fidelity", "steering", "animations")
"""What the workflow is asked for."""
REPORT = TARGETS[:1]
"""Without a word."""


@dataclass(frozen=True)
class Job:
    """stage: as on the command line; name: which of the stage's jobs, "" where there is one; outputs: the files that
    are there when it is done; needs: slugs of the jobs before it; settings: what its duration depends on."""

    stage: str
    name: str
    outputs: tuple[Path, ...]
    needs: tuple[str, ...]
    settings: Any = field(default=None, compare=False)

    @property
    def slug(self) -> str:
        """Of its log and benchmark files."""
        return f"{self.stage}/{self.name}".rstrip("/")

    @property
    def dataset(self) -> str:
        """The data set that it works on; "" where it is about all."""
        return self.name.partition("/")[0]

    @property
    def done(self) -> bool:
        return all(path.is_file() for path in self.outputs)


def jobs(layout: Layout, experiment: Experiment, targets: Sequence[str] = REPORT) -> list[Job]:
    """Those that some of TARGETS ask for, in an order in which each comes after what it needs.

    Raises:
        InputError: a target is none of them.
    """
    for target in targets:
        if target not in TARGETS:
            raise InputError(f"--target: expected some of {', '.join(TARGETS)}, found {target}")
    made = every_job(layout, experiment)
    wanted = {slug for target in targets for slug in roots(made, target)}
    for job in reversed(made):
        wanted.update(job.needs if job.slug in wanted else ())
    return [job for job in made if job.slug in wanted]


def roots(made: Sequence[Job], target: str) -> list[str]:
    """Slugs of the jobs that a target names; `animations` is no job but all of a stage."""
    return [job.slug for job in made if (job.stage == "animate" if target == "animations" else job.slug == target)]


def every_job(layout: Layout, experiment: Experiment) -> list[Job]:
    """Whatever the targets need."""
    made = [
        *export_jobs(layout, experiment),
        *inspection_jobs(layout, experiment),
        *dict.fromkeys(model_jobs(layout, experiment)),
        *synthesis_jobs(layout, experiment),
        *steering_jobs(layout, experiment),
        *policy_jobs(layout, experiment),
    ]
    matrix, exports = experiment.matrix(), tuple(f"export/{dataset}" for dataset in experiment.datasets)
    trained = tuple(job.slug for job in made if job.stage == "train-policy")
    assessed = tuple(f"assess/{set_name(*key)}" for key in synthetic_sets(matrix))
    steered = tuple(f"steer/{set_name(*key)}" for key in planners(matrix))
    made.append(sealing("tables", "", (*exports, *assessed, *steered, *trained), layout.tables))
    for stage, folder in (("compare", layout.comparison), ("figures", layout.figures)):
        made.append(sealing(stage, "", ("tables",), folder))
    films, animations = [*film_jobs(layout, experiment)], [*animation_jobs(layout, experiment)]
    shown = (*(job.slug for job in films), *(f"animate/{set_name(*key)}" for key in animated_sets(experiment)))
    pages = (
        ("timings", layout.timings, ("compare", "figures", *shown)),
        ("report", layout.root, ("timings",)),
        ("datasets", layout.overview, (*exports, *(job.slug for job in made if job.stage == "inspect"))),
        ("fidelity", layout.fidelity, (*exports, *(job.slug for job in made if job.stage == "assess"))),
        ("steering", layout.steering_page, (*exports, *(f"steer/{set_name(*key)}" for key in steerings(experiment)))),
    )
    return [*made, *films, *animations, *(sealing(stage, "", needs, folder) for stage, folder, needs in pages)]


def refuse_made_otherwise(
    experiment: Experiment,
    made: Iterable[Job],
    told: Callable[[Path], Mapping[str, Any] | None],
    remedy: str = "remove it, and the same command makes it again",
) -> None:
    """Refuses a folder that was made with settings which are not the experiment's, since no path tells them.

    told: the settings in a folder's seal, None where there is none; remedy: the end of the sentence.
    """
    for job in made:
        expected = sealed_settings(experiment, job)
        for folder in (file.parent for file in job.outputs if expected and file.name == PROVENANCE):
            found = told(folder)
            for key, value in expected.items():
                if found is not None and found.get(key) != value:
                    raise InputError(
                        f"{folder}: expected {key} {value}, as the config has it, found {found.get(key)}; {remedy}"
                    )


def sealed_settings(experiment: Experiment, job: Job) -> dict[str, Any]:
    """What the seals of a job's folders tell of the experiment's settings."""
    if job.settings is None:
        return {}
    if job.stage == "seal-synthetic":
        return plain(as_mapping(job.settings.synthesis))
    if job.stage != "train-policy":
        return result_settings(plain(as_mapping(job.settings)))
    dataset, _, arm = job.name.split("/")[:3]
    settings = with_preset(job.settings, experiment.whole(dataset).source)
    return result_settings(plain(as_mapping(settings))) | {"real_fraction": experiment.augmentations[arm].real_fraction}


def check_settings(layout: Layout, experiment: Experiment, targets: Sequence[str] = REPORT) -> None:
    """Refuses what some of TARGETS need that was made with other settings."""
    refuse_made_otherwise(experiment, jobs(layout, experiment, targets), settings_in)


def export_jobs(layout: Layout, experiment: Experiment) -> Iterator[Job]:
    wholes_first = sorted(experiment.datasets.items(), key=lambda item: item[1].parent is not None)
    for name, settings in wholes_first:
        parent = () if settings.parent is None else (f"export/{settings.parent}",)
        yield sealing("export", name, parent, layout.dataset(name), settings=settings)


def inspection_jobs(layout: Layout, experiment: Experiment) -> Iterator[Job]:
    for name in experiment.datasets:
        yield sealing("inspect", name, (f"export/{name}",), layout.inspection(name), settings=experiment.inspection)


def set_name(dataset: str, generator: str, seed: int) -> str:
    """Of the jobs about a recipe's transitions."""
    return f"{dataset}/{generator}/seed-{seed}"


def model_jobs(layout: Layout, experiment: Experiment) -> Iterator[Job]:
    """Trainings of all models; of recipes with equal settings, the first one's."""
    for dataset, generator, seed in all_synthetic_sets(experiment):
        recipe = experiment.generators[generator]
        for part in dict.fromkeys((*recipe.taught_by("world_model"), *recipe.grown_by())):
            owner = experiment.owner(generator, part)
            taught = [model_slug(experiment, dataset, owner, name, seed) for name in recipe.taught_by(part)]
            stage, _, name = model_slug(experiment, dataset, generator, part, seed).partition("/")
            folder = getattr(layout, part)(dataset, owner, seed)
            yield sealing(stage, name, (f"export/{dataset}", *taught), folder, settings=getattr(recipe, part))


def model_slug(experiment: Experiment, dataset: str, generator: str, part: str, seed: int) -> str:
    """Of the training of a recipe's model."""
    return f"train-{part.replace('_', '-')}/{set_name(dataset, experiment.owner(generator, part), seed)}"


def synthesis_jobs(layout: Layout, experiment: Experiment) -> Iterator[Job]:
    for dataset, generator, seed in all_synthetic_sets(experiment):
        folder, name = layout.synthetic(dataset, generator, seed), set_name(dataset, generator, seed)
        recipe = experiment.generators[generator]
        models = tuple(model_slug(experiment, dataset, generator, part, seed) for part in recipe.grown_by())
        files = [shard_name(number, recipe.synthesis.shards) for number in range(recipe.synthesis.shards)]
        shards = [f"{name}/{file.removeprefix('shard-').removesuffix('.parquet')}" for file in files]
        for shard, file in zip(shards, files, strict=True):
            yield Job("synthesize", shard, (folder / file,), (f"export/{dataset}", *models), recipe)
        yield sealing("seal-synthetic", name, tuple(f"synthesize/{shard}" for shard in shards), folder, settings=recipe)
        seal, assessment = f"seal-synthetic/{name}", layout.assessment(dataset, generator, seed)
        yield sealing("assess", name, (seal,), assessment, settings=experiment.assessment)


def steering_jobs(layout: Layout, experiment: Experiment) -> Iterator[Job]:
    for key in dict.fromkeys((*planners(experiment.matrix()), *steerings(experiment))):
        dataset, generator, seed = key
        parts = experiment.generators[generator].grown_by()
        models = tuple(model_slug(experiment, dataset, generator, part, seed) for part in parts)
        needs = (f"export/{dataset}", *models)
        yield sealing("steer", set_name(*key), needs, layout.steering(*key), settings=experiment.steering)


def policy_jobs(layout: Layout, experiment: Experiment) -> Iterator[Job]:
    matrix = experiment.matrix()
    for run in runs(matrix):
        seeds = next(group for group in experiment.seed_groups() if run.seed in group)
        if run.seed != seeds[0]:
            continue
        generator = matrix.augmentations[run.augmentation].generator
        grown = dict.fromkeys(
            f"seal-synthetic/{set_name(run.dataset, generator, matrix.world_model_seed(seed))}"
            for seed in seeds
            if generator is not None
        )
        folders = [layout.policy(dataclasses.replace(run, seed=seed)) for seed in seeds]
        name = f"{run.dataset}/{run.algorithm}/{run.augmentation}/{group_name(seeds)}"
        settings = experiment.algorithm(run.algorithm)
        yield sealing("train-policy", name, (f"export/{run.dataset}", *grown), *folders, settings=settings)


def film_jobs(layout: Layout, experiment: Experiment) -> Iterator[Job]:
    for run in filmed_runs(experiment.matrix()):
        seeds = next(group for group in experiment.seed_groups() if run.seed in group)
        policy = f"train-policy/{run.dataset}/{run.algorithm}/{run.augmentation}/{group_name(seeds)}"
        yield sealing("film", run.slug, (policy,), layout.film(run))


def animation_jobs(layout: Layout, experiment: Experiment) -> Iterator[Job]:
    for key in all_synthetic_sets(experiment):
        yield sealing("animate", set_name(*key), (f"seal-synthetic/{set_name(*key)}",), layout.animation(*key))


def group_name(seeds: Sequence[int | str]) -> str:
    """Of the seeds that share a job."""
    return f"seed-{seeds[0]}" if len(seeds) == 1 else f"seeds-{seeds[0]}-to-{seeds[-1]}"


def sealing(stage: str, name: str, needs: tuple[str, ...], *folders: Path, settings: Any = None) -> Job:
    return Job(stage, name, tuple(folder / PROVENANCE for folder in folders), needs, settings)
