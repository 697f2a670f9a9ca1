"""Recipes of synthetic transitions: which models make them, and what must fit together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dawm.config.fields import refuse_unheeded, setting
from dawm.config.generation import (
    ClonedPolicySettings,
    ForwardDynamicsSettings,
    InverseDynamicsSettings,
    SynthesisSettings,
    WorldModelSettings,
)
from dawm.errors import InputError

ROLLOUT_KEYS = {"trajectories", "shards", "horizon", "seed", "correction"}
"""What a one-step model's rollouts take of SynthesisSettings."""


@contextmanager
def named(part: str) -> Iterator[None]:
    """What is refused within is said to be a part's."""
    try:
        yield
    except InputError as problem:
        raise InputError(f"{part}.{problem}") from problem


def unheeded_in_synthesis(model: WorldModelSettings | None) -> dict[str, str]:
    """The settings of synthesis that make no difference to a diffusion world model, or with None to a one-step model's
    rollouts, and what they make none with."""
    if model is None:
        keys = (item.name for item in dataclasses.fields(SynthesisSettings))
        return dict.fromkeys((key for key in keys if key not in ROLLOUT_KEYS), "a one-step model")
    names: dict[str, str] = {}
    if model.preconditioning != "edm":
        other = f"world_model.preconditioning {model.preconditioning!r}"
        names |= dict.fromkeys(("sigma_min", "sigma_max", "rho"), other)
    if not model.conditional:
        names |= dict.fromkeys(("request", "guidance"), "world_model.conditional false")
    return names


def check_synthesis(settings: SynthesisSettings, model: WorldModelSettings | None) -> None:
    """Refuses what a diffusion world model, or with None a one-step model's rollouts, cannot serve or will not heed."""
    refuse_unheeded(settings, unheeded_in_synthesis(model))
    if model is None:
        if settings.horizon is None:
            raise InputError("horizon: expected the length of a one-step model's rollouts, found null")
        if settings.correction.terminals != "function":
            raise InputError(
                "correction.terminals: expected 'function' with a one-step model, which learns no terminals, "
                f"found {settings.correction.terminals!r}"
            )
        return
    if settings.horizon is not None:
        raise InputError(
            f"horizon: expected null with a world model, whose window ({model.window}) tells it, "
            f"found {settings.horizon}"
        )
    if settings.expansion is not None:
        if settings.expansion.steps >= model.window:
            raise InputError(
                f"expansion.steps: expected at most {model.window - 1}, the steps of a window of {model.window} rows, "
                f"found {settings.expansion.steps}"
            )
        if not model.conditional:
            raise InputError(
                "expansion: expected null with world_model.conditional false, which grows from no real row"
            )
    if model.conditional and model.condition_dropout == 0 and settings.guidance != 1:
        raise InputError(
            "guidance: expected 1 with world_model.condition_dropout 0, which never learns what guidance counts from, "
            f"found {settings.guidance:g}"
        )
    if model.preconditioning != "edm" and settings.sampling_steps > model.diffusion_steps:
        raise InputError(
            f"sampling_steps: expected at most world_model.diffusion_steps ({model.diffusion_steps}), "
            f"found {settings.sampling_steps}"
        )


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """One recipe of synthetic transitions. Models with equal settings in several recipes are trained once.

    Either a diffusion world model imagines whole windows, or, with `world_model: null` and `inverse_dynamics: null`, a
    one-step model (`forward_dynamics` with `loss: likelihood`) is rolled out with a behaviour-cloned policy.
    """

    world_model: WorldModelSettings | None = setting(
        "diffusion world model; null: the forward model is rolled out", WorldModelSettings
    )
    inverse_dynamics: InverseDynamicsSettings | None = setting(
        "inverse dynamics model; null: no action is inferred (joint and one-step models)", InverseDynamicsSettings
    )
    forward_dynamics: ForwardDynamicsSettings | None = setting(
        "forward model that corrects, filters or is rolled out; null: none", None
    )
    cloned_policy: ClonedPolicySettings | None = setting(
        "policy that acts in a one-step model's rollouts; null: none", None
    )
    synthesis: SynthesisSettings = setting("synthetic transitions", SynthesisSettings)

    def __post_init__(self) -> None:
        if self.world_model is None:
            self._check_one_step()
        else:
            self._check_diffusion(self.world_model)
            with named("world_model"):
                refuse_unheeded(self.world_model, self.world_model.unheeded)
        with named("synthesis"):
            check_synthesis(self.synthesis, self.world_model)
        if self.inverse_dynamics is None and self.synthesis.correction.action_disagreement is not None:
            raise InputError("inverse_dynamics: expected settings for correction.action_disagreement, found null")

    def grown_by(self) -> list[str]:
        """The models that synthesis takes, by name."""
        names = ["world_model", "inverse_dynamics", "cloned_policy"]
        if self.world_model is None or self.synthesis.correction.needs_forward_dynamics:
            names.append("forward_dynamics")
        return [name for name in names if getattr(self, name) is not None]

    @property
    def plans(self) -> bool:
        """Whether its models can act on their own."""
        return self.world_model is not None and self.world_model.plans

    def taught_by(self, part: str) -> list[str]:
        """The other models that the training of one takes, by name."""
        consistent = part == "world_model" and self.world_model is not None and self.world_model.consistency > 0
        return ["inverse_dynamics", "forward_dynamics"] if consistent else []

    def _check_one_step(self) -> None:
        if self.inverse_dynamics is not None:
            raise InputError("inverse_dynamics: expected null where world_model is null, found settings")
        if self.cloned_policy is None:
            raise InputError("cloned_policy: expected settings where world_model is null, found null")
        loss = None if self.forward_dynamics is None else self.forward_dynamics.loss
        if loss != "likelihood":
            raise InputError(
                f"forward_dynamics.loss: expected 'likelihood' where world_model is null, found {loss or 'null'}"
            )

    def _check_diffusion(self, model: WorldModelSettings) -> None:
        if self.cloned_policy is not None:
            raise InputError("cloned_policy: expected null with a world_model, or world_model: null, found both")
        if self.inverse_dynamics is None and not model.joint:
            raise InputError("inverse_dynamics: expected settings for world_model.actions 'inferred', found null")
        if self.inverse_dynamics is not None and model.joint and self.synthesis.correction.action_disagreement is None:
            raise InputError(
                "inverse_dynamics: expected null with world_model.actions 'joint', which infers no action, "
                "found settings"
            )
        ensembles = {"forward_disagreement": self.forward_dynamics, "action_disagreement": self.inverse_dynamics}
        for name, members in ensembles.items():
            if name in self.synthesis.correction.thresholds and members is not None and members.members < 2:
                owner = "forward_dynamics" if name.startswith("forward") else "inverse_dynamics"
                raise InputError(f"{owner}.members: expected at least 2 for synthesis.correction.{name}, found 1")
        needed = self.synthesis.correction.needs_forward_dynamics or model.consistency > 0
        if needed != (self.forward_dynamics is not None):
            expected, found = ("settings", "null") if self.forward_dynamics is None else ("null", "settings")
            reason = f"synthesis.correction.mode {self.synthesis.correction.mode!r}"
            if model.consistency > 0:
                reason = f"world_model.consistency {model.consistency:g}"
            raise InputError(f"forward_dynamics: expected {expected} for {reason}, found {found}")
