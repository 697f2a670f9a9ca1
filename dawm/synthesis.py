"""Stage `synthesize`: world model + inverse dynamics → complete transitions → Parquet shards, then the seal.

Between the two, a forward model may correct transitions and thresholds may drop some (`dawm.correction`).

A trajectory's result depends on (seed, its number) alone: starts and noise are counter-based, and the networks always
see the same blocks of 256 trajectories, because a matrix product's rounding depends on its shape. Shards are ranges of
whole blocks, so that 1, 4 or 16 of them hold the same transitions, bit for bit on a CPU.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dawm.config import CorrectionSettings, RequestSettings, SynthesisSettings, as_mapping
from dawm.correction import Corrector, Steps, report
from dawm.data.files import digest_of, only_writer, read_bytes
from dawm.data.sealed import Sealed, open_sealed, seal, unseal
from dawm.data.transitions import (
    NOT_APPLICABLE,
    Transitions,
    concatenate,
    parse_shard,
    read_transitions,
    shard_facts,
    shard_identity,
    write_shard,
)
from dawm.data.windows import wanted_returns
from dawm.errors import InputError
from dawm.forward_dynamics import ForwardDynamics, load_forward_dynamics
from dawm.inverse_dynamics import InverseDynamics, load_inverse_dynamics
from dawm.layout import shard_name
from dawm.progress import Progress
from dawm.randomness import generator
from dawm.world_model.model import Imagined, WorldModel
from dawm.world_model.training import load_world_model

BLOCK = 256
COPIED_FACTS = ("environment", "environment_settings", "observation_dim", "action_dim")


@dataclasses.dataclass(frozen=True)
class Parts:
    """The inputs of synthesis, with their seals; a forward model only where one was given."""

    data: Sealed
    world_model: WorldModel
    inverse_dynamics: InverseDynamics
    forward_dynamics: ForwardDynamics | None
    inputs: dict[str, Sealed]

    @classmethod
    def load(
        cls, dataset: Path, world_model: Path, inverse_dynamics: Path, forward_dynamics: Path | None = None
    ) -> Parts:
        """Refuses models that were trained on another data set."""
        data = open_sealed(dataset, "dataset")
        model, model_seal = load_world_model(world_model)
        inverse, inverse_seal = load_inverse_dynamics(inverse_dynamics)
        seals = {"world_model": model_seal, "inverse_dynamics": inverse_seal}
        forward = None
        if forward_dynamics is not None:
            forward, seals["forward_dynamics"] = load_forward_dynamics(forward_dynamics)
        for sealed in seals.values():
            if sealed.provenance["inputs"]["dataset"] != data.digest:
                raise InputError(f"{sealed.folder}: was trained on another data set than {dataset}; train it again")
        return cls(data, model, inverse, forward, {"dataset": data, **seals})

    def corrector(self, settings: SynthesisSettings, transitions: Transitions) -> Corrector | None:
        """None where transitions are written as they were imagined."""
        if settings.correction == CorrectionSettings() and self.forward_dynamics is None:
            return None
        return Corrector.prepare(
            settings.correction, self.data, transitions, self.forward_dynamics, self.inverse_dynamics
        )

    def identity(self, settings: SynthesisSettings, shard: int) -> str:
        """What a shard must be: its inputs, settings and number."""
        return digest_of([{name: sealed.digest for name, sealed in self.inputs.items()}, as_mapping(settings), shard])


def synthesize_shard(
    dataset: Path,
    world_model: Path,
    inverse_dynamics: Path,
    settings: SynthesisSettings,
    output: Path,
    shard: int,
    forward_dynamics: Path | None = None,
) -> None:
    """Writes shard number `shard` (from 0) into `output`."""
    if not 0 <= shard < settings.shards:
        raise InputError(f"shard: expected 0 to {settings.shards - 1}, found {shard}")
    parts = Parts.load(dataset, world_model, inverse_dynamics, forward_dynamics)
    trained = parts.world_model.settings
    levels = trained.diffusion_steps
    if settings.sampling_steps > levels and trained.preconditioning != "edm":
        raise InputError(
            f"sampling_steps: expected at most the {levels} noise levels of {world_model}, "
            f"found {settings.sampling_steps}"
        )
    transitions = read_transitions(parts.data, states=False)
    plan = Plan(parts.world_model, settings, transitions)
    corrector = parts.corrector(settings, transitions)
    begin, end = shard_range(settings, shard)
    progress = Progress("synthesize", (end - begin) * BLOCK)
    blocks: list[Transitions] = []
    tally: Counter[str] = Counter()
    for block in range(begin, end):
        rows, counted = synthesize_block(parts, plan, settings, transitions, block, corrector)
        blocks.append(rows)
        tally.update(counted)
        progress.advance(BLOCK)
    result = concatenate(blocks) if blocks else concatenate_none(transitions)
    facts = {"tally": tally, "thresholds": corrector.thresholds} if corrector is not None else None
    write_shard(output / shard_name(shard, settings.shards), result, parts.identity(settings, shard), facts)


def shard_range(settings: SynthesisSettings, shard: int) -> tuple[int, int]:
    """First block and end of a shard; with more shards than blocks some are empty."""
    blocks = -(-settings.trajectories // BLOCK)
    return shard * blocks // settings.shards, (shard + 1) * blocks // settings.shards


class Plan:
    """Where trajectories start and what return they ask for: by trajectory number."""

    def __init__(self, model: WorldModel, settings: SynthesisSettings, transitions: Transitions) -> None:
        rows = len(transitions)
        rounds = -(-settings.trajectories // rows)
        orders = [generator(settings.seed, "starts", draw).permutation(rows) for draw in range(rounds)]
        self.source_row = np.concatenate(orders)[: settings.trajectories]  # every row once before any comes twice
        self.draw = np.arange(settings.trajectories) // rows
        self.return_to_go = requested_returns(
            settings.request, wanted_returns(transitions, model.settings), float(model.return_scale)
        )[self.source_row]


def requested_returns(request: RequestSettings, own: np.ndarray, scale: float) -> np.ndarray:
    """What trajectories from each row are asked for, raw reward: own [n] (NaN: unknown, and not asked for by a factor)
    are the rows' own returns-to-go, `scale` the one that the model sees as 1."""
    if request.kind == "factor":
        return request.amount * own
    if request.kind == "quantile" and np.isnan(own).all():
        raise InputError("request: expected data with a known return-to-go somewhere, to take a quantile of")
    asked = np.nanquantile(own, request.amount) if request.kind == "quantile" else request.amount * scale
    return np.full(len(own), asked)


def synthesize_block(
    parts: Parts,
    plan: Plan,
    settings: SynthesisSettings,
    transitions: Transitions,
    block: int,
    corrector: Corrector | None = None,
) -> tuple[Transitions, Counter[str]]:
    """Complete transitions of trajectories 256·block … 256·block + 255, and the tally of what the corrector dropped.

    The last block is padded with its last trajectory.
    """
    numbers = np.arange(block * BLOCK, (block + 1) * BLOCK)
    kept = numbers < settings.trajectories
    numbers = np.minimum(numbers, settings.trajectories - 1)
    source = plan.source_row[numbers]
    model = parts.world_model
    shape = (settings.sampling_steps, model.settings.window, model.channels)
    noise = np.stack(
        [
            generator(settings.seed, "noise", int(row), int(draw)).standard_normal(shape, dtype=np.float32)
            for row, draw in zip(source, plan.draw[numbers], strict=True)
        ],
        axis=1,
    )
    imagined = model.sample(
        torch.from_numpy(transitions.observation[source]),
        torch.from_numpy(transitions.action[source]),
        torch.from_numpy(plan.return_to_go[numbers].astype(np.float32)),
        torch.from_numpy(noise),
        sampler=settings.sampler,
        guidance=settings.guidance,
        temperature=settings.temperature,
        sigmas=model.sigmas(settings.sampling_steps, settings.sigma_min, settings.sigma_max, settings.rho),
    )
    action = transitions.action[source] if model.settings.conditional else None
    return complete(imagined, parts.inverse_dynamics, action, source, kept, corrector)


@torch.inference_mode()
def complete(
    imagined: Imagined,
    inverse_dynamics: InverseDynamics,
    action: np.ndarray | None,
    source: np.ndarray,
    kept: np.ndarray,
    corrector: Corrector | None = None,
) -> tuple[Transitions, Counter[str]]:
    """One-step transitions of imagined windows, cut after a terminal: with the actions that were imagined, or else
    with inferred ones after the given first; and the tally of those that the corrector dropped.

    action [B, act_dim] (None: the first is inferred too) and source [B] belong to the starts; kept [B] says which
    trajectories count.
    """
    observation, successor = imagined.states[:, :-1], imagined.states[:, 1:]
    if imagined.actions is not None:
        actions = imagined.actions
    else:
        actions = inverse_dynamics(observation, successor)
        if action is not None:
            actions = torch.cat([torch.from_numpy(action)[:, None], actions[:, 1:]], dim=1)
    padding = torch.from_numpy(~kept)[:, None]
    steps = Steps(observation, actions, imagined.rewards, successor, imagined.terminals, imagined.terminals, padding)
    if corrector is None:
        return rows_of(steps, steps.counts, source), Counter()
    steps, stay, tally = corrector.apply(steps)
    return rows_of(steps, stay, source), tally


def rows_of(steps: Steps, stay: torch.Tensor, source: np.ndarray) -> Transitions:
    """The table of the steps that stay, bool [B, S]; source [B]: the real rows that the trajectories grew from."""
    batch, length = stay.shape
    keep = stay.numpy().ravel()
    terminal = steps.terminal.numpy().ravel()[keep]
    count = int(keep.sum())

    def flat(values: torch.Tensor) -> np.ndarray:
        return np.ascontiguousarray(values.numpy().reshape(batch * length, -1)[keep], dtype=np.float32)

    return Transitions(
        observation=flat(steps.observation),
        action=flat(steps.action),
        reward=flat(steps.reward)[:, 0],
        next_observation=flat(steps.next_observation),
        discount=np.where(terminal, 0, 1).astype(np.float32),
        terminal=terminal,
        timeout=np.zeros(count, dtype=bool),
        episode=np.full(count, NOT_APPLICABLE, np.int32),
        step=np.full(count, NOT_APPLICABLE, np.int32),
        source_row=np.repeat(source, length)[keep].astype(np.int64),
        horizon_step=np.tile(np.arange(1, length + 1), batch)[keep].astype(np.int16),
    )


def concatenate_none(transitions: Transitions) -> Transitions:
    """An empty table of the same dimensions, for a shard without a block."""
    return dataclasses.replace(transitions, qpos=None, qvel=None).take(slice(0, 0))


def seal_synthetic(
    dataset: Path,
    world_model: Path,
    inverse_dynamics: Path,
    settings: SynthesisSettings,
    output: Path,
    forward_dynamics: Path | None = None,
) -> None:
    """Seals `output` once all shards are there; refuses shards of another run. With a correction, metadata.json tells
    the share of transitions that was dropped, by reason."""
    parts = Parts.load(dataset, world_model, inverse_dynamics, forward_dynamics)
    names = [shard_name(number, settings.shards) for number in range(settings.shards)]
    rows = terminals = 0
    tally: Counter[str] = Counter()
    corrected: dict[str, Any] = {}
    with only_writer(output):
        for number, name in enumerate(names):
            path = output / name
            if not path.is_file():
                raise InputError(f"{path}: the shard is missing; write it with: synthesize --shard {number}")
            if shard_identity(path) != parts.identity(settings, number):
                raise InputError(f"{path}: is another shard or of another data set, model or setting; write it again")
            shard = parse_shard(read_bytes(path), path)
            rows += len(shard)
            terminals += int(shard.terminal.sum())
            if found := shard_facts(path):
                tally.update(found["tally"])
                corrected = {"correction": report(tally, found["thresholds"])}
        if not rows:
            raise InputError(f"{output}: the thresholds of `correction` dropped every transition; raise them")
        unseal(output)
        conditional = parts.world_model.settings.conditional
        facts = {key: parts.data.metadata[key] for key in COPIED_FACTS if key in parts.data.metadata}
        seal(
            output,
            "synthetic",
            files=names,
            settings=as_mapping(settings),
            seed=settings.seed,
            inputs=parts.inputs,
            metadata={
                **facts,
                "conditional": conditional,
                "rows": rows,
                "terminals": terminals,
                "n_step": 1,
                **corrected,
            },
        )
