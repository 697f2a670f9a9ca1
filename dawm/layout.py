"""Where an experiment's results lie: the one place that knows, for the workflow and for the stages that collect."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dawm.config import Experiment, Matrix

TABLES = ("datasets", "fidelity", "inverse_dynamics", "learning_curves", "planner", "scores", "summary")


@dataclass(frozen=True)
class Run:
    """One RL run of the matrix."""

    dataset: str
    algorithm: str
    augmentation: str
    seed: int

    @property
    def slug(self) -> str:
        return f"{self.dataset}/{self.algorithm}/{self.augmentation}/seed-{self.seed}"


@dataclass(frozen=True)
class Layout:
    """Folders and files below `results/<experiment>`."""

    root: Path

    @classmethod
    def of(cls, experiment: str) -> Layout:
        return cls(Path("results") / experiment)

    def dataset(self, dataset: str) -> Path:
        return self.root / "datasets" / dataset

    def inspection(self, dataset: str) -> Path:
        return self.root / "inspections" / dataset

    @property
    def overview(self) -> Path:
        """Of the data sets."""
        return self.root / "overview"

    def world_model(self, dataset: str, generator: str, seed: int | str) -> Path:
        return self.root / "world-models" / dataset / generator / f"seed-{seed}"

    def inverse_dynamics(self, dataset: str, generator: str, seed: int | str) -> Path:
        return self.root / "inverse-dynamics" / dataset / generator / f"seed-{seed}"

    def forward_dynamics(self, dataset: str, generator: str, seed: int | str) -> Path:
        return self.root / "forward-dynamics" / dataset / generator / f"seed-{seed}"

    def cloned_policy(self, dataset: str, generator: str, seed: int | str) -> Path:
        return self.root / "cloned-policies" / dataset / generator / f"seed-{seed}"

    def synthetic(self, dataset: str, generator: str, seed: int | str) -> Path:
        return self.root / "synthetic" / dataset / generator / f"seed-{seed}"

    def assessment(self, dataset: str, generator: str, seed: int | str) -> Path:
        return self.root / "assessments" / dataset / generator / f"seed-{seed}"

    @property
    def fidelity(self) -> Path:
        """Of all recipes, beside each other."""
        return self.root / "fidelity"

    def animation(self, dataset: str, generator: str, seed: int | str) -> Path:
        return self.root / "animations" / dataset / generator / f"seed-{seed}"

    def steering(self, dataset: str, generator: str, seed: int | str) -> Path:
        return self.root / "steering" / dataset / generator / f"seed-{seed}"

    @property
    def steering_page(self) -> Path:
        """Of all recipes, beside each other."""
        return self.root / "steering-page"

    def policy(self, run: Run) -> Path:
        return self.root / "policies" / run.slug

    def film(self, run: Run) -> Path:
        return self.root / "films" / run.slug

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    @property
    def table_files(self) -> list[Path]:
        return [self.tables / f"{name}.csv" for name in TABLES]

    @property
    def timings(self) -> Path:
        return self.root / "timings"

    @property
    def comparison(self) -> Path:
        """Of the arms."""
        return self.root / "comparison"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def config(self) -> Path:
        """As the workflow last ran it, every default spelled out."""
        return self.root / "config.yaml"

    @property
    def report(self) -> Path:
        return self.root / "report.html"


SHARDS_VERSION = 4
"""Of what the code writes into synthetic shards; those of another version are made again. 2: a request by factor asks
for more where a row's own return is negative; 4: nothing starts where the termination function says that it is over."""


def shard_name(number: int, count: int) -> str:
    width = max(5, len(str(count)))  # so that names sort like numbers
    return f"shard-{number:0{width}d}-of-{count:0{width}d}.parquet"


def runs(matrix: Matrix) -> Iterator[Run]:
    """Every RL run, in the order of the tables."""
    for dataset in matrix.datasets:
        for algorithm in matrix.algorithms:
            for augmentation in matrix.arms_of(algorithm):
                for seed in matrix.seeds:
                    yield Run(dataset, algorithm, augmentation, seed)


def filmed_runs(matrix: Matrix) -> Iterator[Run]:
    """The runs that the report shows in motion: of each learner one, on the first data set, with synthetic transitions
    where an arm has them."""
    for algorithm in matrix.algorithms:
        arms = sorted(matrix.arms_of(algorithm), key=lambda name: matrix.augmentations[name].generator is None)
        yield from (Run(matrix.datasets[0], algorithm, arm, matrix.seeds[0]) for arm in arms[:1])


def animated_sets(experiment: Experiment) -> Iterator[tuple[str, str, int]]:
    """(data set, generator, world-model seed) of the synthetic transitions that the report shows in motion: the first
    that an arm needs, unless they are n-step transitions."""
    for dataset, generator, seed in synthetic_sets(experiment.matrix()):
        if experiment.generators[generator].synthesis.expansion is None:
            yield dataset, generator, seed
            return


def synthetic_sets(matrix: Matrix) -> Iterator[tuple[str, str, int]]:
    """(data set, generator, world-model seed) of all synthetic transitions that some arm needs."""
    for dataset in matrix.datasets:
        for generator in matrix.generators():
            for seed in matrix.world_model_seeds:
                yield dataset, generator, seed


def planners(matrix: Matrix) -> Iterator[tuple[str, str, int]]:
    """(data set, generator, world-model seed) of the models that act on their own."""
    yield from itertools.product(matrix.datasets, matrix.planners, matrix.world_model_seeds)


def all_synthetic_sets(experiment: Experiment) -> Iterator[tuple[str, str, int]]:
    """(data set, generator, world-model seed) of every recipe of the config, whether or not an arm needs it."""
    yield from itertools.product(experiment.datasets, experiment.generators, experiment.world_model_seeds)


def trained_models(layout: Layout, experiment: Experiment) -> dict[tuple[str, str, str, int], Path]:
    """Folders of all models by (data set, kind, recipe that owns it, world-model seed); equal ones are there once."""
    found = {}
    for dataset, generator, seed in all_synthetic_sets(experiment):
        for part in ("world_model", "inverse_dynamics", "forward_dynamics", "cloned_policy"):
            if getattr(experiment.generators[generator], part) is not None:
                owner = experiment.owner(generator, part)
                folder = getattr(layout, part)(dataset, owner, seed)
                found[dataset, part.replace("_", "-"), owner, seed] = folder
    return found


def steerings(experiment: Experiment) -> Iterator[tuple[str, str, int]]:
    """(data set, generator, world-model seed) of every recipe whose world model takes a request, unless it makes n-step
    transitions or asks the simulator: then another one's rollouts are behind it."""
    for dataset, generator, seed in all_synthetic_sets(experiment):
        recipe = experiment.generators[generator]
        plain = recipe.synthesis.expansion is None and recipe.synthesis.correction.oracle == "none"
        if recipe.world_model is not None and recipe.world_model.conditional and plain:
            yield dataset, generator, seed
