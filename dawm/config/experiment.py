"""Settings of an experiment: everything that `snakemake` is asked for, and its matrix of runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dawm.config.compute import ComputeSettings
from dawm.config.data import MINARI, ExportSettings, InspectionSettings, check_source
from dawm.config.fields import SLUG, setting
from dawm.config.learners import VALUED, Algorithm, AlgorithmsSettings, LearnerSettings
from dawm.config.recipes import GeneratorSettings
from dawm.errors import InputError

PUBLISHED = "published"
"""Of results, beside the experiments: the copies that docs quote."""


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """One arm: what a learner's batches are made of."""

    real_fraction: float = setting(
        "share of real transitions per batch; 1: real only, 0: synthetic only", minimum=0, maximum=1
    )
    generator: str | None = setting("which of `generators` the others are from; null: the one of the arm's name", None)
    algorithms: tuple[Algorithm, ...] | None = setting(
        "the learners of this arm; null: all", None, minItems=1, uniqueItems=True
    )


@dataclass(frozen=True, kw_only=True)
class AssessmentSettings:
    """Stage `assess`: synthetic transitions against the true simulator."""

    rows: int = setting("most transitions replayed per kind and horizon step", 1000, minimum=10)
    best_action_rows: int = setting(
        "transitions whose best action is searched in the simulator, 320 steps each: what is left there is the states' "
        "error, the rest the action's; 0: none",
        200,
        minimum=0,
    )
    seed: int = setting("seed of the drawn rows and of the bootstrap", 0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class SteeringSettings:
    """Stage `steer`: what the models do when they are asked for other returns."""

    requests: tuple[float, ...] = setting(
        "returns-to-go that are asked for, as multiples of the one that is 1 to the model: the largest in the data "
        "where `return_scales` names no other",
        (0.2, 0.4, 0.6, 0.8, 1.0, 1.2),
        minItems=1,
        uniqueItems=True,
    )
    rows: int = setting("held-out starts of windows at most, for each request", 1000, minimum=10)
    episodes: int = setting("episodes in which the planner acts, for each request", 10, minimum=1)
    seed: int = setting("seed of the starts, the noise and the bootstrap", 0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class AnimationSettings:
    """Stage `animate`: imagined rollouts beside the simulator's."""

    starts: int = setting("held-out starts, one after the other", 5, minimum=1, maximum=100)
    size: int = setting("pixels of each half, in width and height", 280, minimum=64, maximum=480)
    frames_per_second: float = setting("a step is a frame", 5.0, minimum=0.1, maximum=50)
    seed: int = setting("seed of the drawn starts", 0, minimum=0)


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
    inspection: InspectionSettings = setting("what `snakemake datasets` looks at", InspectionSettings)
    generators: dict[str, GeneratorSettings] = setting(
        "recipes of synthetic transitions by name, new ones at the end: models that several share lie under the first "
        "one's name; left out: `dawm`, with its defaults",
        lambda: {"dawm": GeneratorSettings()},
    )
    augmentations: dict[str, AugmentationSettings] = setting("the arms by name", minProperties=1)
    algorithms: AlgorithmsSettings = setting("the learners", minProperties=1)
    planners: tuple[str, ...] = setting(
        "generators whose models also act on their own, without a learner, asked for the returns in `steering`",
        (),
        uniqueItems=True,
    )
    assessment: AssessmentSettings = setting("fidelity in the true simulator", AssessmentSettings)
    animation: AnimationSettings = setting("imagined and true rollouts side by side", AnimationSettings)
    compute: ComputeSettings = setting("how models are trained and sampled from", ComputeSettings)
    steering: SteeringSettings = setting("obedience to the return that is asked for", SteeringSettings)
    notes: tuple[str, ...] = setting(
        "what a reader of the results must know, a sentence or more each; the report shows them, and nothing else runs "
        "again for them",
        (),
        items={"minLength": 1},
    )

    def __post_init__(self) -> None:
        for name, arm in self.augmentations.items():
            if arm.real_fraction < 1 and (arm.generator or name) not in self.generators:
                raise InputError(
                    f"augmentations.{name}.generator: expected one of {', '.join(self.generators) or 'generators'}, "
                    f"found {arm.generator or name}"
                )
            if arm.real_fraction == 1 and arm.generator is not None:
                raise InputError(
                    f"augmentations.{name}.generator: expected null with real_fraction 1, found {arm.generator}"
                )
        if self.experiment == PUBLISHED:
            raise InputError(f"experiment: {PUBLISHED!r} holds what the docs quote; expected another name")
        self._check_planners()
        self._check_sources()
        self._check_parts()
        minari = [name for name in self.datasets if self.whole(name).source.startswith(MINARI)]
        if 0 < len(minari) < len(self.datasets):
            raise InputError(
                f"datasets.{minari[0]}: Minari's data sets come from other policies and environments than D4RL's and "
                "ours, so that their scores share no table; make an experiment of their own for them"
            )
        if not self.algorithm_names:
            raise InputError("algorithms: expected settings of at least one learner, found only null")
        for name, arm in self.augmentations.items():
            for learner in arm.algorithms or ():
                if learner not in self.algorithm_names:
                    known = ", ".join(self.algorithm_names)
                    raise InputError(f"augmentations.{name}.algorithms: expected some of {known}, found {learner}")
        for name in self.algorithm_names:
            if not self.matrix().arms_of(name):
                raise InputError(f"algorithms.{name}: expected null, since no arm of `augmentations` has it")
        self._check_expansions()

    def _check_expansions(self) -> None:
        matrix = self.matrix()
        for learner in (name for name in self.algorithm_names if name in VALUED):
            discount = self.algorithm(learner).discount
            for arm in matrix.arms_of(learner):
                name = matrix.augmentations[arm].generator
                expansion = None if name is None else self.generators[name].synthesis.expansion
                if expansion is not None and expansion.discount != discount:
                    raise InputError(
                        f"generators.{name}.synthesis.expansion.discount: expected algorithms.{learner}.discount "
                        f"({discount}), found {expansion.discount}"
                    )

    def _check_planners(self) -> None:
        able = [name for name, recipe in self.generators.items() if recipe.plans]
        for name in self.planners:
            if name not in able:
                known = ", ".join(able) or "a generator whose world model has an action_dropout above 0"
                raise InputError(f"planners: expected some of {known}, found {name}")

    def _check_sources(self) -> None:
        for name, dataset in self.datasets.items():
            try:
                check_source(dataset.source)
            except InputError as problem:
                raise InputError(f"datasets.{name}.{problem}") from problem

    def _check_parts(self) -> None:
        for name, dataset in self.datasets.items():
            if dataset.parent is None:
                continue
            wholes = [other for other, settings in self.datasets.items() if settings.parent is None]
            if dataset.parent not in wholes:
                known = ", ".join(wholes) or "a data set that is no part"
                raise InputError(f"datasets.{name}.source: expected part/ and one of {known}, found {dataset.source}")
            parts = [other for other, part in self.datasets.items() if part.parent == dataset.parent]
            alike = [other for other in parts if self.datasets[other].fraction == dataset.fraction]
            twin = dataset.parent if dataset.fraction == 1 else alike[0]
            if twin != name:
                raise InputError(
                    f"datasets.{name}.fraction: expected another than that of {twin}, since parts are told apart by it "
                    f"in the tables, found {dataset.fraction:g}"
                )

    def whole(self, dataset: str) -> ExportSettings:
        """The data set itself, or the one that it is a part of."""
        return self.datasets[self.datasets[dataset].parent or dataset]

    def algorithm(self, name: str) -> LearnerSettings:
        return getattr(self.algorithms, name)

    @property
    def algorithm_names(self) -> list[str]:
        return [f.name for f in dataclasses.fields(self.algorithms) if getattr(self.algorithms, f.name) is not None]

    def owner(self, generator: str, part: str) -> str:
        """The first generator whose part (world_model, …) has the same settings, those of the models that teach it
        included: it is trained once."""

        def decisive(recipe: GeneratorSettings) -> list[object]:
            return [getattr(recipe, name) for name in (part, *recipe.taught_by(part))]

        wanted = decisive(self.generators[generator])
        return next(name for name, recipe in self.generators.items() if decisive(recipe) == wanted)

    def seed_groups(self) -> list[tuple[int, ...]]:
        """The RL seeds that share a process."""
        size = self.compute.seeds_per_job
        return [self.seeds[first : first + size] for first in range(0, len(self.seeds), size)]

    def matrix(self) -> Matrix:
        return Matrix(
            experiment=self.experiment,
            datasets=tuple(self.datasets),
            algorithms=tuple(self.algorithm_names),
            augmentations={
                name: dataclasses.replace(arm, generator=(arm.generator or name) if arm.real_fraction < 1 else None)
                for name, arm in self.augmentations.items()
            },
            seeds=self.seeds,
            world_model_seeds=self.world_model_seeds,
            planners=self.planners,
        )


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """What an experiment consists of, by name: its data sets, learners, arms, seeds of learners and of world models,
    and the generators whose models also act on their own."""

    experiment: str
    datasets: tuple[str, ...]
    algorithms: tuple[str, ...]
    augmentations: dict[str, AugmentationSettings]
    seeds: tuple[int, ...]
    world_model_seeds: tuple[int, ...]
    planners: tuple[str, ...] = ()

    def arms_of(self, algorithm: str) -> list[str]:
        """The arms that a learner is trained in."""
        return [name for name, arm in self.augmentations.items() if algorithm in (arm.algorithms or self.algorithms)]

    def generators(self) -> list[str]:
        """Those that some arm takes its synthetic transitions from."""
        names = [arm.generator for arm in self.augmentations.values() if arm.generator is not None]
        return list(dict.fromkeys(names))

    def world_model_seed(self, seed: int) -> int:
        """The world model that an RL seed's synthetic transitions come from."""
        return self.world_model_seeds[self.seeds.index(seed) % len(self.world_model_seeds)]
