"""Every setting of every stage: one frozen dataclass each, documented and bounded where it is declared."""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal

from dawm.errors import InputError

NAME = "[a-z0-9][a-z0-9_-]{0,63}"
SLUG = rf"^{NAME}(?![\s\S])"  # `$` would let a line break pass


def setting(doc: str, default: Any = MISSING, **schema: Any) -> Any:
    """A documented field; `schema` holds further JSON-schema keywords such as minimum=1."""
    metadata = {"doc": doc, "schema": schema}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class BoundSettings:
    """An open interval of one dimension of an observation."""

    dimension: int = setting("which dimension, from 0", minimum=0)
    above: float | None = setting("its lower end; null: none", None)
    below: float | None = setting("its upper end; null: none", None)


@dataclass(frozen=True, kw_only=True)
class TerminationSettings:
    """When a state is terminal: once a bound of `alive` is left, or all bounds of `goal` hold. `{}` is never."""

    alive: tuple[BoundSettings, ...] = setting("intervals that an episode must not leave", ())
    goal: tuple[BoundSettings, ...] = setting("intervals that together end an episode", ())


@dataclass(frozen=True, kw_only=True)
class EnvironmentSettings:
    """A gymnasium environment with Box spaces. MuJoCo's Hopper, HalfCheetah and Walker2d, v4 and v5, need only `id`."""

    id: str = setting("gymnasium's id, such as `Pendulum-v1`; `module:Name-v0` imports the module first", minLength=1)
    arguments: dict[str, bool | float | str | None] = setting("further arguments of `gymnasium.make`", dict)
    max_episode_steps: int | None = setting("time limit; null: the environment's own", None, minimum=1)
    reference_min: float | None = setting("return that scores 0; null: the known one, or no scores", None)
    reference_max: float | None = setting("return that scores 100; null: the known one, or no scores", None)
    termination: TerminationSettings | None = setting("when a state is terminal; null: the known one, or unknown", None)

    def __post_init__(self) -> None:
        low, high = self.reference_min, self.reference_max
        if (low is None) != (high is None):
            raise InputError("reference_min, reference_max: expected both or neither, found one")
        if low is not None and high is not None and not low < high:
            raise InputError(f"reference_max: expected more than reference_min ({low}), found {high}")


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Stage `export`: one data set."""

    source: str = setting(
        "`local/hopper-medium` and so on (collected here), `d4rl/hopper-medium-v2` and so on, `minari/ID`, `hdf5:PATH` "
        "(a file in D4RL's layout), `random` (uniformly random actions in `environment`)",
        minLength=1,
    )
    environment: EnvironmentSettings | None = setting("where it belongs; null: the source tells it", None)
    transitions: int | None = setting("how many to collect; null: the source's own number", None, minimum=1000)
    base_url: str | None = setting("where D4RL's files are fetched from; null: their own server", None, minLength=1)
    rows_per_shard: int = setting("rows of one Parquet shard", 100_000, minimum=1)
    held_out_fraction: float = setting(
        "share of episodes that world model and inverse dynamics never see", 0.1, exclusiveMinimum=0, maximum=0.5
    )
    seed: int = setting("seed of collection and of the split", 0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class WorldModelSettings:
    """Stage `train-world-model`: the diffusion over windows of states, rewards, terminals and, if joint, actions."""

    window: int = setting("T, rows of a window; T rows yield T - 1 transitions", 8, minimum=2, maximum=32)
    actions: Literal["inferred", "joint"] = setting(
        "`inferred`: no actions are generated, the inverse dynamics infers them; `joint`: generated with the states",
        "inferred",
    )
    conditional: bool = setting(
        "given s_t, a_t and return-to-go; false: all is generated (SynthER's kind with `window: 2`, `joint` and `edm`)",
        True,
    )
    preconditioning: Literal["clean", "noise", "edm"] = setting(
        "what the network predicts: x⁰ or ε, at K levels of the cosine schedule, or EDM's mixture, at log-normal ones",
        "clean",
    )
    diffusion_steps: int = setting("K, noise levels of training; EDM has no such", 10, minimum=1, maximum=1000)
    normalizer: Literal["standard", "cdf"] = setting(
        "units of states: mean 0 and variance 1, or uniform on [-1, 1] by the empirical distribution function",
        "standard",
    )
    denoiser: Literal["residual", "unet"] = setting(
        "`residual`: MLP on the flattened window; `unet`: temporal U-Net of the paper's lineage, 10–20 times slower",
        "residual",
    )
    hidden: int = setting("width of the residual network", 256, minimum=8)
    blocks: int = setting("blocks of the residual network", 3, minimum=1)
    unet_channels: tuple[int, ...] = setting(
        "channels of each level of the U-Net; two levels make DWM's six residual blocks",
        (64, 128),
        minItems=1,
        maxItems=5,
        items={"minimum": 8, "maximum": 4096},
    )
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

    members: int = setting("ensemble size; the mean action counts, their spread tells where they guess", 1, minimum=1)
    input_noise: float = setting(
        "noise on the inputs in training, in units of the standardised state and change: against the shift from real "
        "pairs to generated ones",
        0.0,
        minimum=0,
    )
    loss: Literal["squared", "absolute"] = setting("of the actions; `absolute`: a smaller median error", "squared")
    hidden: int = setting("width", 512, minimum=8)
    layers: int = setting("hidden layers", 2, minimum=1)
    dropout: float = setting("dropout of the hidden layers", 0.0, minimum=0, maximum=0.9)
    batch_size: int = setting("transitions per gradient step", 256, minimum=1)
    learning_rate: float = setting("Adam's, decayed to 0 along a cosine", 1e-3, exclusiveMinimum=0)
    gradient_steps: int = setting("length of training", 50_000, minimum=1)
    checkpoint_every: int = setting("gradient steps between two checkpoints", 1000, minimum=1)


@dataclass(frozen=True, kw_only=True)
class ForwardDynamicsSettings:
    """Stage `train-forward-dynamics`: s′, r = f(s, a), which corrects synthetic transitions or filters them."""

    members: int = setting("ensemble size; their mean counts, their spread tells where they guess", 1, minimum=1)
    hidden: int = setting("width", 256, minimum=8)
    layers: int = setting("hidden layers", 3, minimum=1)
    batch_size: int = setting("transitions per gradient step", 256, minimum=1)
    learning_rate: float = setting("Adam's, decayed to 0 along a cosine", 1e-3, exclusiveMinimum=0)
    gradient_steps: int = setting("length of training", 50_000, minimum=1)
    checkpoint_every: int = setting("gradient steps between two checkpoints", 1000, minimum=1)


@dataclass(frozen=True, kw_only=True)
class ThresholdSettings:
    """The largest score that is kept: a number, or a quantile of the scores of real held-out transitions."""

    quantile: float | None = setting("share of real transitions that would be kept", None, minimum=0, maximum=1)
    value: float | None = setting("the score itself", None, minimum=0)

    def __post_init__(self) -> None:
        if (self.quantile is None) == (self.value is None):
            raise InputError(f"quantile, value: expected one of them, found {'none' if self.value is None else 'both'}")


@dataclass(frozen=True, kw_only=True)
class CorrectionSettings:
    """What happens to synthetic transitions before they are written, by a forward model and by the IDM's ensemble."""

    mode: Literal["none", "correct", "filter", "both"] = setting(
        "`correct`: the forward model's successor and reward replace the imagined ones; `filter`: transitions beyond a "
        "threshold are dropped; `both`: judged as imagined, then corrected",
        "none",
    )
    residual: ThresholdSettings | None = setting(
        "filter: distance of the imagined successor from the forward model's, mean over dimensions in units of the "
        "data's one-step change",
        None,
    )
    forward_disagreement: ThresholdSettings | None = setting(
        "filter: spread of the forward model's members, mean over dimensions in the same unit", None
    )
    action_disagreement: ThresholdSettings | None = setting(
        "filter: spread of the IDM's members, mean over dimensions, actions scaled to ±1", None
    )
    range_margin: float | None = setting(
        "filter: how far outside the train split's range a state may lie, as a share of the range's width",
        None,
        exclusiveMinimum=-0.5,
    )
    drop: Literal["rest", "row"] = setting(
        "what a bad transition takes with it: the rest of its trajectory, or nothing else", "rest"
    )
    terminals: Literal["learned", "function", "both"] = setting(
        "who says that an episode ends: the world model, the environment's termination function, or either", "learned"
    )

    @property
    def thresholds(self) -> dict[str, ThresholdSettings]:
        names = ("residual", "forward_disagreement", "action_disagreement")
        return {name: threshold for name in names if (threshold := getattr(self, name)) is not None}

    @property
    def corrects(self) -> bool:
        return self.mode in ("correct", "both")

    @property
    def filters(self) -> bool:
        return self.mode in ("filter", "both")

    @property
    def needs_forward_dynamics(self) -> bool:
        return self.corrects or bool(self.thresholds.keys() & {"residual", "forward_disagreement"})

    def __post_init__(self) -> None:
        given = [*self.thresholds] + ["range_margin"] * (self.range_margin is not None)
        if self.filters and not given:
            raise InputError(
                f"mode: {self.mode!r} drops what is beyond a threshold, found none; give residual, "
                "forward_disagreement, action_disagreement or range_margin"
            )
        if given and not self.filters:
            raise InputError(f"{given[0]}: expected mode 'filter' or 'both' with a threshold, found {self.mode!r}")


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """Stage `synthesize`: trajectories sampled from real (s, a), completed by the inverse dynamics."""

    trajectories: int = setting("sampled trajectories; each yields up to T - 1 transitions", 150_000, minimum=1)
    shards: int = setting("Parquet shards, one job each", 4, minimum=1, maximum=10_000)
    sampler: Literal["ddpm", "ddim", "dpmpp_2m"] = setting(
        "ancestral sampling, or the probability-flow ODE by steps of first (DDIM) or second order (DPM-Solver++ 2M)",
        "ddpm",
    )
    sampling_steps: int = setting("N, noise levels visited: equally spaced among K, or EDM's", 5, minimum=1)
    guidance: float = setting("ω of classifier-free guidance; 1: plain conditional", 1.2, minimum=0)
    temperature: float = setting("α, scale of the sampler's noise: each step's (DDPM), or the start's", 0.5, minimum=0)
    sigma_min: float = setting("σ_min, least noise level of EDM's sampling", 0.002, exclusiveMinimum=0)
    sigma_max: float = setting("σ_max, largest noise level of EDM's sampling", 80.0, exclusiveMinimum=0)
    rho: float = setting("ρ of EDM's sampling: the larger, the more of its levels are small", 7.0, minimum=1)
    return_factor: float = setting("requested return-to-go as a multiple of the real one", 1.1)
    seed: int = setting("seed of the drawn starts and of the noise", 0, minimum=0)
    correction: CorrectionSettings = setting("what happens to them before they are written", CorrectionSettings)

    def __post_init__(self) -> None:
        if not self.sigma_min < self.sigma_max:
            raise InputError(f"sigma_max: expected more than sigma_min ({self.sigma_min}), found {self.sigma_max}")


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
class GeneratorSettings:
    """One recipe of synthetic transitions. Models with equal settings in several recipes are trained once."""

    world_model: WorldModelSettings = setting("diffusion world model", WorldModelSettings)
    inverse_dynamics: InverseDynamicsSettings = setting("inverse dynamics model", InverseDynamicsSettings)
    forward_dynamics: ForwardDynamicsSettings | None = setting(
        "forward model that corrects or filters; null: none", None
    )
    synthesis: SynthesisSettings = setting("synthetic transitions", SynthesisSettings)

    def __post_init__(self) -> None:
        correction = self.synthesis.correction
        if correction.needs_forward_dynamics != (self.forward_dynamics is not None):
            expected, found = ("settings", "null") if self.forward_dynamics is None else ("null", "settings")
            mode = f"synthesis.correction.mode {correction.mode!r}"
            raise InputError(f"forward_dynamics: expected {expected} for {mode}, found {found}")
        levelled = self.world_model.preconditioning != "edm"
        if levelled and self.synthesis.sampling_steps > self.world_model.diffusion_steps:
            raise InputError(
                f"synthesis.sampling_steps: expected at most world_model.diffusion_steps "
                f"({self.world_model.diffusion_steps}), found {self.synthesis.sampling_steps}"
            )


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """One arm: what a learner's batches are made of."""

    real_fraction: float = setting(
        "share of real transitions per batch; 1: real only, 0: synthetic only", minimum=0, maximum=1
    )
    generator: str | None = setting("which of `generators` the others are from; null: the one of the arm's name", None)


@dataclass(frozen=True, kw_only=True)
class AssessmentSettings:
    """Stage `assess`: synthetic transitions against the true simulator."""

    rows: int = setting("most transitions replayed per kind and horizon step", 1000, minimum=10)
    seed: int = setting("seed of the drawn rows and of the bootstrap", 0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class InspectionSettings:
    """Stage `inspect`: what is in a data set, and whether it obeys the physics of its environment."""

    rows: int = setting("most transitions replayed in the simulator", 1000, minimum=1)
    seed: int = setting("seed of the drawn rows", 0, minimum=0)


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
        "recipes of synthetic transitions by name; left out: `dawm`, with its defaults",
        lambda: {"dawm": GeneratorSettings()},
    )
    augmentations: dict[str, AugmentationSettings] = setting("the arms by name", minProperties=1)
    algorithms: AlgorithmsSettings = setting("the learners", minProperties=1)
    assessment: AssessmentSettings = setting("fidelity in the true simulator", AssessmentSettings)

    def __post_init__(self) -> None:
        for name, arm in self.augmentations.items():
            if arm.real_fraction < 1 and (arm.generator or name) not in self.generators:
                raise InputError(
                    f"augmentations.{name}.generator: expected one of {', '.join(self.generators) or 'generators'}, "
                    f"found {arm.generator or name}"
                )
        minari = [name for name, dataset in self.datasets.items() if dataset.source.startswith("minari/")]
        if 0 < len(minari) < len(self.datasets):
            raise InputError(
                f"datasets.{minari[0]}: Minari's data sets come from other policies and environments than D4RL's and "
                "ours, so that their scores share no table; make an experiment of their own for them"
            )
        if not self.algorithm_names:
            raise InputError("algorithms: expected settings of at least one learner, found only null")

    def algorithm(self, name: str) -> TD3BCSettings | IQLSettings:
        return getattr(self.algorithms, name)

    @property
    def algorithm_names(self) -> list[str]:
        return [f.name for f in dataclasses.fields(self.algorithms) if getattr(self.algorithms, f.name) is not None]

    def owner(self, generator: str, part: str) -> str:
        """The first generator whose part (world_model, inverse_dynamics) has the same settings: it is trained once."""
        wanted = getattr(self.generators[generator], part)
        return next(name for name, recipe in self.generators.items() if getattr(recipe, part) == wanted)

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
        )


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """What an experiment consists of, by name: all that tables, figures and report need to know."""

    experiment: str = setting("name", pattern=SLUG)
    datasets: tuple[str, ...] = setting("data sets", minItems=1, uniqueItems=True)
    algorithms: tuple[str, ...] = setting("learners", minItems=1, uniqueItems=True)
    augmentations: dict[str, AugmentationSettings] = setting("the arms by name", minProperties=1)
    seeds: tuple[int, ...] = setting("RL seeds", minItems=1, uniqueItems=True)
    world_model_seeds: tuple[int, ...] = setting("world-model seeds", minItems=1, uniqueItems=True)

    def generators(self) -> list[str]:
        """Those that some arm takes its synthetic transitions from."""
        names = [arm.generator for arm in self.augmentations.values() if arm.generator is not None]
        return list(dict.fromkeys(names))

    def world_model_seed(self, seed: int) -> int:
        """The world model that an RL seed's synthetic transitions come from."""
        return self.world_model_seeds[self.seeds.index(seed) % len(self.world_model_seeds)]
