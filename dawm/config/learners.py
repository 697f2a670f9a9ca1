"""Settings of the offline learners; the defaults are the published ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dawm.config.fields import setting

Algorithm = Literal["td3_bc", "iql", "bc", "bc_10"]
VALUED = ("td3_bc", "iql")
"""Learners of values, to whom a discount matters."""


@dataclass(frozen=True, kw_only=True)
class LearnerSettings:
    """Stage `train-policy`: what all learners share."""

    gradient_steps: int = setting("length of training", 1_000_000, minimum=1)
    batch_size: int = setting("transitions per gradient step", 256, minimum=1)
    hidden: int = setting("width of the two hidden layers of every network", 256, minimum=8)
    learning_rate: float = setting("Adam's, of every network", 3e-4, exclusiveMinimum=0)
    discount: float = setting("γ", 0.99, minimum=0, maximum=1)
    target_rate: float = setting("τ, share of the online weights per target update", 0.005, minimum=0, maximum=1)
    normalize_observations: bool = setting("standardise observations with the real data's statistics", True)
    normalize_rewards: bool = setting("scale rewards by 1000 / (largest - smallest return of the real data)", False)
    evaluate_every: int = setting("gradient steps between two evaluations", 5000, minimum=1)
    evaluation_episodes: int = setting("episodes of one evaluation", 10, minimum=1)
    checkpoint_every: int = setting("gradient steps between two checkpoints", 10_000, minimum=1)
    largest_q: float | None = setting(
        "a run stops where its mean Q is beyond this multiple of what the data's rewards could add up to; null: only "
        "where it is not finite, so that a run whose values explode is evaluated to its end",
        10.0,
        minimum=1,
    )


@dataclass(frozen=True, kw_only=True)
class TD3BCSettings(LearnerSettings):
    """TD3+BC (Fujimoto & Gu 2021); the defaults are the published ones."""

    alpha: float = setting("α, weight of Q against cloning", 2.5, minimum=0)
    policy_noise: float = setting("standard deviation of the target action's noise", 0.2, minimum=0)
    noise_clip: float = setting("bound of that noise", 0.5, minimum=0)
    policy_delay: int = setting("critic steps per actor and target step", 2, minimum=1)


@dataclass(frozen=True, kw_only=True)
class IQLSettings(LearnerSettings):
    """IQL (Kostrikov et al. 2021); the defaults are the published ones for locomotion."""

    expectile: float = setting("τ of the value's expectile regression", 0.7, exclusiveMinimum=0, exclusiveMaximum=1)
    inverse_temperature: float = setting("β of the advantage weights", 3.0, minimum=0)
    advantage_weight_clip: float = setting("largest advantage weight", 100.0, exclusiveMinimum=0)
    actor: Literal["gaussian", "deterministic"] = setting(
        "what clones the data: a Gaussian by its likelihood, or its mean alone by the squared error", "gaussian"
    )
    preset: Literal["none", "corl"] = setting(
        "`corl`: CORL's published settings for the data set, three exceptions on Hopper included, replace those given "
        "here (`dawm/config/presets.py`)",
        "none",
    )
    normalize_observations: bool = setting("standardise observations with the real data's statistics", False)
    normalize_rewards: bool = setting("scale rewards by 1000 / (largest - smallest return of the real data)", True)


@dataclass(frozen=True, kw_only=True)
class BCSettings(LearnerSettings):
    """Behaviour cloning, a reference: `discount`, `target_rate`, `normalize_rewards` and `largest_q` do not count."""

    best_episodes: float = setting(
        "share of the real episodes that is cloned, those with the best returns", 1.0, exclusiveMinimum=0, maximum=1
    )


@dataclass(frozen=True, kw_only=True)
class BestBCSettings(BCSettings):
    """The same of the best tenth of the episodes, as 10 % BC."""

    best_episodes: float = setting(
        "share of the real episodes that is cloned, those with the best returns", 0.1, exclusiveMinimum=0, maximum=1
    )


@dataclass(frozen=True, kw_only=True)
class AlgorithmsSettings:
    """The learners to run; leave one out to skip it."""

    td3_bc: TD3BCSettings | None = setting("TD3+BC", None)
    iql: IQLSettings | None = setting("IQL", None)
    bc: BCSettings | None = setting("behaviour cloning", None)
    bc_10: BestBCSettings | None = setting("10 % BC", None)


LEARNER_SETTINGS: dict[Algorithm, type[LearnerSettings]] = {
    "td3_bc": TD3BCSettings,
    "iql": IQLSettings,
    "bc": BCSettings,
    "bc_10": BestBCSettings,
}
