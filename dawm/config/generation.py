"""Settings of synthetic transitions: the models, the sampling and what is done to the result."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from dawm.config.fields import setting
from dawm.errors import InputError


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
    diffusion_steps: int = setting("K, noise levels of training; not used by EDM", 5, minimum=1, maximum=1000)
    normalizer: Literal["standard", "cdf"] = setting(
        "units of states: mean 0 and variance 1, or uniform on [-1, 1] by the empirical distribution function",
        "standard",
    )
    successors: Literal["states", "changes"] = setting(
        "rows after the first: the state itself, or its change from the row before, in units of the data's changes",
        "changes",
    )
    denoiser: Literal["residual", "unet"] = setting(
        "`residual`: MLP on the flattened window; `unet`: temporal U-Net of the paper's lineage, on a CPU about 3 "
        "times slower to sample from and 5 times slower to train on equally many windows",
        "residual",
    )
    hidden: int = setting("width of the residual network", 384, minimum=8)
    blocks: int = setting("blocks of the residual network", 3, minimum=1)
    unet_channels: tuple[int, ...] = setting(
        "channels of each level of the U-Net; two levels make DWM's six residual blocks",
        (64, 128),
        minItems=1,
        maxItems=5,
        items={"minimum": 8, "maximum": 4096},
    )
    discount: float = setting("γ of the return-to-go", 0.99, exclusiveMinimum=0, maximum=1)
    return_scales: dict[str, float] = setting(
        "return-to-go that becomes 1, by environment in small letters, without its version (DWM: `hopper: 400`, "
        "`walker2d: 550`, `halfcheetah: 1200`); for one that is left out, the largest in the data",
        dict,
        values={"exclusiveMinimum": 0},
    )
    return_horizon: Literal["episode", "window"] = setting(
        "the return-to-go goes to the episode's end, or over the window's T - 1 rewards", "episode"
    )
    truncated_return: Literal["drop", "average_reward_tail", "as_is"] = setting(
        "return-to-go where a timeout cut its future off: no condition there, or the episode's mean reward goes on, or "
        "the sum of the rewards that there are, as in DWM",
        "drop",
    )
    loss: Literal["squared", "absolute"] | None = setting(
        "of the denoiser: its optimum is the mean, or the median, of what the noisy window leaves open; null: "
        "`squared` with `edm`, whose equation asks for the mean, else `absolute`; of terminals, which are rare, the "
        "square in any case",
        None,
    )
    condition_dropout: float = setting("p_uncond, how often the return-to-go is hidden", 0.25, minimum=0, maximum=1)
    action_dropout: float = setting(
        "how often the first action is hidden; more than 0 for a model that is to act as a planner too (`steer`)",
        0.0,
        minimum=0,
        exclusiveMaximum=1,
    )
    consistency: float = setting(
        "weight of a second loss, how far an imagined step is from the forward model's with the inferred action; needs "
        "both models (docs/method.md); 0: none",
        0.0,
        minimum=0,
    )
    batch_size: int = setting("windows per gradient step", 256, minimum=1)
    learning_rate: float = setting("Adam's", 1e-3, exclusiveMinimum=0)
    learning_rate_schedule: Literal["cosine", "constant"] = setting("`cosine`: decayed to 0 along one", "cosine")
    ema_decay: float = setting("decay of the averaged weights, which are the ones kept", 0.995, minimum=0, maximum=1)
    ema_every: int = setting("gradient steps between two averagings; there is one after the last", 10, minimum=1)
    gradient_steps: int = setting("length of training", 100_000, minimum=1)
    checkpoint_every: int = setting("gradient steps between two checkpoints", 1000, minimum=1)

    def __post_init__(self) -> None:
        if self.loss is None:
            object.__setattr__(self, "loss", "squared" if self.preconditioning == "edm" else "absolute")
        if self.truncated_return == "average_reward_tail" and self.discount == 1:
            raise InputError("discount: expected less than 1 with truncated_return: average_reward_tail, found 1")
        if self.joint or not self.conditional:
            kind = "joint" if self.joint else "unconditional"
            for name, value in (("consistency", self.consistency), ("action_dropout", self.action_dropout)):
                if value:
                    raise InputError(f"{name}: expected 0 with a model that is {kind}, found {value}")

    @property
    def unheeded(self) -> dict[str, str]:
        """The settings that make no difference, and what they make none with."""
        names: dict[str, str] = {}
        if self.preconditioning == "edm":
            names["diffusion_steps"] = "preconditioning 'edm'"
        if self.denoiser == "unet":
            names |= dict.fromkeys(("hidden", "blocks"), "denoiser 'unet'")
        else:
            names["unet_channels"] = "denoiser 'residual'"
        if self.return_horizon == "window":
            names["truncated_return"] = "return_horizon 'window'"
        if not self.conditional:
            returns = ("discount", "return_scales", "return_horizon", "truncated_return", "condition_dropout")
            names |= dict.fromkeys((*returns, "action_dropout"), "conditional false")
        return names

    @property
    def joint(self) -> bool:
        """Whether the model generates the actions too."""
        return self.actions == "joint"

    @property
    def plans(self) -> bool:
        """Whether the model learns to imagine without a given action."""
        return self.action_dropout > 0


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
    loss: Literal["squared", "absolute"] = setting("of the actions; `absolute`: a smaller median error", "absolute")
    hidden: int = setting("width", 512, minimum=8)
    layers: int = setting("hidden layers", 2, minimum=1)
    dropout: float = setting("dropout of the hidden layers", 0.0, minimum=0, maximum=0.9)
    batch_size: int = setting("transitions per gradient step", 256, minimum=1)
    learning_rate: float = setting("Adam's, decayed to 0 along a cosine", 1e-3, exclusiveMinimum=0)
    gradient_steps: int = setting("length of training", 50_000, minimum=1)
    checkpoint_every: int = setting("gradient steps between two checkpoints", 1000, minimum=1)


@dataclass(frozen=True, kw_only=True)
class ForwardDynamicsSettings:
    """Stage `train-forward-dynamics`: s′, r = f(s, a), which corrects synthetic transitions, filters or makes them."""

    members: int = setting("ensemble size; their mean counts, their spread tells where they guess", 1, minimum=1)
    loss: Literal["absolute", "likelihood"] = setting(
        "`absolute`: of the mean alone; `likelihood`: of a Gaussian with learned deviations, to be sampled from",
        "absolute",
    )
    hidden: int = setting("width", 256, minimum=8)
    layers: int = setting("hidden layers", 3, minimum=1)
    batch_size: int = setting("transitions per gradient step", 256, minimum=1)
    learning_rate: float = setting("Adam's, decayed to 0 along a cosine", 1e-3, exclusiveMinimum=0)
    gradient_steps: int = setting("length of training", 50_000, minimum=1)
    checkpoint_every: int = setting("gradient steps between two checkpoints", 1000, minimum=1)


@dataclass(frozen=True, kw_only=True)
class ClonedPolicySettings:
    """Stage `train-cloned-policy`: a ~ π(s) by maximum likelihood, which acts in a one-step model's rollouts."""

    hidden: int = setting("width", 256, minimum=8)
    layers: int = setting("hidden layers", 2, minimum=1)
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

    oracle: Literal["none", "rows", "replace"] = setting(
        "a yardstick, no method: the true simulator's successor, reward and terminal `replace` all others, where the "
        "state follows from the observation, and other transitions are dropped; `rows`: they are only dropped",
        "none",
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

    def without_thresholds(self) -> CorrectionSettings:
        """The same, but that nothing is dropped for being far from what the models say."""
        mode: Literal["none", "correct"] = "correct" if self.corrects else "none"
        return dataclasses.replace(
            self, mode=mode, residual=None, forward_disagreement=None, action_disagreement=None, range_margin=None
        )

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
class RequestSettings:
    """The return-to-go that synthetic trajectories are asked for."""

    kind: Literal["factor", "quantile", "value"] = setting(
        "`factor`: the start's own g and so much of it more, g + (amount - 1) |g|, so that more than 1 asks for a "
        "higher return where g is negative too; `quantile`: of the data's, the same for all; `value`: a multiple of "
        "the return that is 1 to the model (see `return_scales`; left out, the largest |g| in the data, so that what "
        "only costs is asked for with a negative amount), the same for all",
        "factor",
    )
    amount: float = setting("the factor, the multiple, or which quantile", 1.1)

    def __post_init__(self) -> None:
        if self.kind == "quantile" and not 0 <= self.amount <= 1:
            raise InputError(f"amount: expected a quantile from 0 to 1, found {self.amount}")


@dataclass(frozen=True, kw_only=True)
class ExpansionSettings:
    """Rollouts written as n-step transitions from their real starts, DWM's value expansion."""

    steps: int = setting("n, steps that one transition spans, if its rollout has as many", minimum=1)
    discount: float = setting("γ of the rewards' sum; learners must have the same", 0.99, minimum=0, maximum=1)
    weight: float | None = setting(
        "λ: n is drawn up to `steps`, so that the mean target is the λ-return; null: always `steps`",
        None,
        minimum=0,
        maximum=1,
    )


@dataclass(frozen=True, kw_only=True)
class SynthesisSettings:
    """Stage `synthesize`: trajectories sampled from real (s, a). A one-step model needs no sampler and no request."""

    trajectories: int = setting("sampled trajectories; each yields up to T - 1 transitions", 150_000, minimum=1)
    shards: int = setting("Parquet shards, one job each", 4, minimum=1, maximum=10_000)
    horizon: int | None = setting(
        "T - 1, length of a one-step model's rollouts; null: a diffusion world model's window tells it",
        None,
        minimum=1,
        maximum=1000,
    )
    sampler: Literal["ddpm", "ddim", "dpmpp_2m"] = setting(
        "ancestral sampling, or the probability-flow ODE by steps of first (DDIM) or second order (DPM-Solver++ 2M)",
        "ddpm",
    )
    sampling_steps: int = setting("N, noise levels visited: equally spaced among K, or EDM's", 3, minimum=1)
    guidance: float = setting("ω of classifier-free guidance; 1: plain conditional", 1.2, minimum=0)
    temperature: float = setting("α, scale of the sampler's noise: each step's (DDPM), or the start's", 0.5, minimum=0)
    sigma_min: float = setting("σ_min, least noise level of EDM's sampling", 0.002, exclusiveMinimum=0)
    sigma_max: float = setting("σ_max, largest noise level of EDM's sampling", 80.0, exclusiveMinimum=0)
    rho: float = setting("ρ of EDM's sampling: the larger, the more of its levels are small", 7.0, minimum=1)
    request: RequestSettings = setting("the return-to-go that is asked for", RequestSettings)
    seed: int = setting("seed of the drawn starts and of the noise", 0, minimum=0)
    correction: CorrectionSettings = setting("what happens to them before they are written", CorrectionSettings)
    expansion: ExpansionSettings | None = setting(
        "one n-step transition of each rollout instead of its one-step ones; null: none", None
    )

    def __post_init__(self) -> None:
        if not self.sigma_min < self.sigma_max:
            raise InputError(f"sigma_max: expected more than sigma_min ({self.sigma_min}), found {self.sigma_max}")
        if self.expansion is not None and self.correction.oracle != "none":
            raise InputError(
                "correction.oracle: judges single steps, expected 'none' with an expansion, "
                f"found {self.correction.oracle!r}"
            )
