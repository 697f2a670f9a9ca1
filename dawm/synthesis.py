"""Stage `synthesize`: world model + inverse dynamics → complete transitions → Parquet shards, then the seal.

Between the two, a forward model may correct transitions and thresholds may drop some (`dawm.correction`). Starts,
blocks and shards are `dawm.blocks`'; one-step models are rolled out in `dawm.rollouts`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dawm.blocks import (
    Starts,
    check_inputs,
    numbers_of,
    rows_of,
    seal_shards,
    shard_range,
    write_blocks,
)
from dawm.compute import CPU, Compute
from dawm.config import CorrectionSettings, RequestSettings, SynthesisSettings
from dawm.config.recipes import check_synthesis
from dawm.correction import Corrector, Steps
from dawm.data.sealed import Sealed, open_sealed
from dawm.data.transitions import NOT_APPLICABLE, Transitions, read_transitions
from dawm.data.windows import wanted_returns
from dawm.errors import InputError
from dawm.expansion import expanded, spans
from dawm.forward_dynamics import ForwardDynamics, load_forward_dynamics
from dawm.inverse_dynamics import InverseDynamics, load_inverse_dynamics
from dawm.world_model.model import Imagined, WorldModel
from dawm.world_model.noise import trajectory_noise
from dawm.world_model.training import load_world_model


@dataclasses.dataclass(frozen=True)
class Parts:
    """The inputs of synthesis, with their seals; inverse and forward dynamics only where they were given."""

    data: Sealed
    world_model: WorldModel
    inverse_dynamics: InverseDynamics | None
    forward_dynamics: ForwardDynamics | None
    inputs: dict[str, Sealed]
    compute: Compute = CPU

    @classmethod
    def load(
        cls,
        dataset: Path,
        world_model: Path,
        inverse_dynamics: Path | None,
        forward_dynamics: Path | None = None,
        compute: Compute = CPU,
    ) -> Parts:
        """Refuses models that were trained on another data set, and none where actions must be inferred."""
        data = open_sealed(dataset, "dataset")
        model, model_seal = load_world_model(world_model)
        seals = {"world_model": model_seal}
        inverse, forward = None, None
        if inverse_dynamics is not None:
            inverse, seals["inverse_dynamics"] = load_inverse_dynamics(inverse_dynamics)
        elif not model.joint:
            raise InputError(f"{world_model}: generates no actions; give --inverse-dynamics")
        if forward_dynamics is not None:
            forward, seals["forward_dynamics"] = load_forward_dynamics(forward_dynamics)
        inputs = {"dataset": data, **seals}
        check_inputs(inputs)
        compute.prepare([model.denoiser, inverse, forward])
        for part in (model, inverse, forward):
            if part is not None:
                part.to(compute.device)
        return cls(data, model, inverse, forward, inputs, compute)

    def corrector(self, settings: SynthesisSettings, transitions: Transitions) -> Corrector | None:
        """None where transitions are written as they were imagined."""
        if settings.correction == CorrectionSettings() and self.forward_dynamics is None:
            return None
        return Corrector.prepare(
            settings.correction,
            self.data,
            transitions,
            self.forward_dynamics,
            self.inverse_dynamics,
            self.compute,
        )


def synthesize_shard(
    dataset: Path,
    world_model: Path,
    inverse_dynamics: Path | None,
    settings: SynthesisSettings,
    output: Path,
    shard: int,
    forward_dynamics: Path | None = None,
    compute: Compute = CPU,
) -> None:
    """Writes shard number `shard` (from 0) into `output`."""
    shard_range(settings, shard)
    parts = Parts.load(dataset, world_model, inverse_dynamics, forward_dynamics, compute)
    check_synthesis(settings, parts.world_model.settings)
    transitions = read_transitions(parts.data, states=False)
    requests = Requests(parts.world_model, settings, transitions)
    corrector = parts.corrector(settings, transitions)

    def make(blocks: range) -> tuple[Transitions, Counter[str]]:
        return synthesize_blocks(parts, requests, settings, transitions, blocks, corrector)

    write_blocks(output, settings, shard, parts.inputs, transitions, corrector, make, compute)


class Requests(Starts):
    """Where trajectories start and what return they ask for: by trajectory number."""

    def __init__(
        self,
        model: WorldModel,
        settings: SynthesisSettings,
        transitions: Transitions,
        rows: np.ndarray | None = None,
    ) -> None:
        """rows [n]: as in `Starts`; None: all of the transitions."""
        super().__init__(settings, np.arange(len(transitions)) if rows is None else rows)
        self.return_to_go = requested_returns(
            settings.request, wanted_returns(transitions, model.settings), float(model.return_scale)
        )[self.source_row]


def requested_returns(request: RequestSettings, own: np.ndarray, scale: float) -> np.ndarray:
    """What trajectories from each row are asked for, raw reward: own [n] (NaN: unknown, and not asked for by a factor)
    are the rows' own returns-to-go, `scale` the one that the model sees as 1.

    A factor asks for own + (amount - 1) |own|: (2 - amount) · own of a negative return (Lee et al. 2024, GTA).
    """
    if request.kind == "factor":
        return np.where(own < 0, (2 - request.amount) * own, request.amount * own)
    if request.kind == "quantile" and np.isnan(own).all():
        raise InputError("request: expected data with a known return-to-go somewhere, to take a quantile of")
    asked = np.nanquantile(own, request.amount) if request.kind == "quantile" else request.amount * scale
    return np.full(len(own), asked)


def synthesize_blocks(
    parts: Parts,
    requests: Requests,
    settings: SynthesisSettings,
    transitions: Transitions,
    blocks: range,
    corrector: Corrector | None = None,
) -> tuple[Transitions, Counter[str]]:
    """Complete transitions of these blocks of 256 trajectories, which the networks see at once, and the tally of what
    the corrector dropped. The last block is padded with its last trajectory."""
    numbers, kept = numbers_of(settings, blocks)
    source = requests.source_row[numbers]
    model, device = parts.world_model, parts.compute.device
    columns = (transitions.observation, transitions.action)
    observation, action = (torch.from_numpy(column[source]).to(device) for column in columns)
    return_to_go = torch.from_numpy(requests.return_to_go[numbers].astype(np.float32)).to(device)
    rows, draws = (torch.from_numpy(values).to(device) for values in (source, requests.draw[numbers]))
    shape = (settings.sampling_steps, model.settings.window, model.channels)
    with parts.compute.arithmetic():
        noise = trajectory_noise(settings.seed, rows, draws, shape)
        imagined = imagine(model, settings, observation, action, return_to_go, noise)
        given = action if model.settings.conditional else None
        steps, stay, tally = complete(imagined, parts.inverse_dynamics, given, kept, corrector)
        if settings.expansion is None:
            grown_from = source if model.settings.conditional else np.full_like(source, NOT_APPLICABLE)
            return rows_of(steps, stay, grown_from), tally
        span = spans(settings.expansion, settings.seed, rows, draws)
        return rows_of_expanded(steps, stay, source, span, settings.expansion.discount), tally


def imagine(
    model: WorldModel,
    settings: SynthesisSettings,
    observation: Tensor,
    action: Tensor,
    return_to_go: Tensor,
    noise: Tensor,
) -> Imagined:
    """Windows from observation [B, obs_dim], action [B, act_dim], return_to_go [B] and noise [N, B, T, C], float32."""
    return model.sample(
        observation,
        action,
        return_to_go,
        noise,
        sampler=settings.sampler,
        guidance=settings.guidance,
        temperature=settings.temperature,
        sigmas=model.sigmas(settings.sampling_steps, settings.sigma_min, settings.sigma_max, settings.rho),
    )


@torch.inference_mode()
def complete(
    imagined: Imagined,
    inverse_dynamics: InverseDynamics | None,
    action: Tensor | None,
    kept: np.ndarray,
    corrector: Corrector | None = None,
) -> tuple[Steps, Tensor, Counter[str]]:
    """The steps of imagined windows, with the actions that were imagined, or else with inferred ones after the given
    first; which of them stay, bool [B, S]: up to a terminal and as the corrector says; the tally of what it dropped.

    action [B, act_dim] belongs to the starts (None: the first is inferred too); kept [B] says which trajectories count.
    """
    observation, successor = imagined.states[:, :-1], imagined.states[:, 1:]
    if imagined.actions is not None:
        actions = imagined.actions
    elif inverse_dynamics is None:
        raise InputError("expected an inverse dynamics model for windows without actions, found none")
    else:
        actions = inverse_dynamics(observation, successor)
        if action is not None:
            actions = torch.cat([action[:, None], actions[:, 1:]], dim=1)
    padding = torch.from_numpy(~kept)[:, None].to(successor.device)
    steps = Steps(observation, actions, imagined.rewards, successor, imagined.terminals, imagined.terminals, padding)
    if corrector is None:
        return steps, steps.counts, Counter()
    return corrector.apply(steps)


def rows_of_expanded(steps: Steps, stay: Tensor, source: np.ndarray, span: Tensor, discount: float) -> Transitions:
    """n-step transitions of the trajectories whose first step stays."""
    whole, there, discounts = expanded(steps, stay, span, discount)
    return rows_of(whole, there, source, discounts)


def seal_synthetic(
    dataset: Path,
    world_model: Path,
    inverse_dynamics: Path | None,
    settings: SynthesisSettings,
    output: Path,
    forward_dynamics: Path | None = None,
) -> None:
    """Seals `output` once all shards are there; refuses shards of another run. With a correction, metadata.json tells
    the share of transitions that was dropped, by reason."""
    parts = Parts.load(dataset, world_model, inverse_dynamics, forward_dynamics)
    seal_shards(output, settings, parts.inputs, conditional=parts.world_model.settings.conditional)
