"""Every job that an experiment's report needs, by the names that the workflow gives to logs and benchmark files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dawm.config import Experiment
from dawm.data.sealed import PROVENANCE
from dawm.layout import Layout, Run, animated_sets, filmed_runs, shard_name, synthetic_sets


@dataclass(frozen=True)
class Job:
    """stage: as on the command line; name: which of the stage's jobs, "" where there is one; outputs: the files that
    are there when it is done."""

    stage: str
    name: str
    outputs: tuple[Path, ...]

    @property
    def slug(self) -> str:
        """Of its log and benchmark files."""
        return f"{self.stage}/{self.name}".rstrip("/")

    @property
    def done(self) -> bool:
        return all(path.is_file() for path in self.outputs)


def jobs(layout: Layout, experiment: Experiment) -> Iterator[Job]:
    """In the order in which one needs the other."""
    matrix = experiment.matrix()
    for dataset in matrix.datasets:
        yield sealing("export", dataset, layout.dataset(dataset))
    yield from dict.fromkeys(model_jobs(layout, experiment))
    for dataset, generator, seed in synthetic_sets(matrix):
        folder, name = layout.synthetic(dataset, generator, seed), f"{dataset}/{generator}/seed-{seed}"
        count = experiment.generators[generator].synthesis.shards
        for shard in (shard_name(number, count) for number in range(count)):
            numbers = shard.removeprefix("shard-").removesuffix(".parquet")
            yield Job("synthesize", f"{name}/{numbers}", (folder / shard,))
        yield sealing("seal-synthetic", name, folder)
        yield sealing("assess", name, layout.assessment(dataset, generator, seed))
    yield from policy_jobs(layout, experiment)
    for run in filmed_runs(matrix):
        yield sealing("film", run.slug, layout.film(run))
    for dataset, generator, seed in animated_sets(experiment):
        yield sealing("animate", f"{dataset}/{generator}/seed-{seed}", layout.animation(dataset, generator, seed))
    for stage, folder in (
        ("tables", layout.tables),
        ("compare", layout.comparison),
        ("figures", layout.figures),
        ("timings", layout.timings),
        ("report", layout.root),
    ):
        yield sealing(stage, "", folder)


def model_jobs(layout: Layout, experiment: Experiment) -> Iterator[Job]:
    """Trainings of the models that some arm's transitions need; of recipes with equal settings, the first one's."""
    for dataset, generator, seed in synthetic_sets(experiment.matrix()):
        recipe = experiment.generators[generator]
        for part in dict.fromkeys((*recipe.taught_by("world_model"), *recipe.grown_by())):
            owner = experiment.owner(generator, part)
            folder = getattr(layout, part)(dataset, owner, seed)
            yield sealing(f"train-{part.replace('_', '-')}", f"{dataset}/{owner}/seed-{seed}", folder)


def policy_jobs(layout: Layout, experiment: Experiment) -> Iterator[Job]:
    matrix = experiment.matrix()
    for dataset in matrix.datasets:
        for algorithm in matrix.algorithms:
            for arm in matrix.arms_of(algorithm):
                for seeds in experiment.seed_groups():
                    folders = [layout.policy(Run(dataset, algorithm, arm, seed)) for seed in seeds]
                    yield sealing("train-policy", f"{dataset}/{algorithm}/{arm}/{group_name(seeds)}", *folders)


def group_name(seeds: Sequence[int | str]) -> str:
    """Of the seeds that share a job."""
    return f"seed-{seeds[0]}" if len(seeds) == 1 else f"seeds-{seeds[0]}-to-{seeds[-1]}"


def sealing(stage: str, name: str, *folders: Path) -> Job:
    return Job(stage, name, tuple(folder / PROVENANCE for folder in folders))
