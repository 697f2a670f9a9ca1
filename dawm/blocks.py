"""What every synthesis shares: starts, blocks of 256 trajectories, shards of whole blocks, their table and their seal.

A trajectory's result depends on (seed, its number) alone: starts and noise are counter-based, and the networks always
see the same blocks of 256 trajectories, because a matrix product's rounding depends on its shape. Shards are ranges of
whole blocks, so that 1, 4 or 16 of them hold the same transitions, bit for bit on a CPU.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dawm.compute import CPU, Compute
from dawm.config import SynthesisSettings, as_mapping
from dawm.correction import Corrector, Steps, report
from dawm.data.files import digest_of, only_writer, read_bytes
from dawm.data.sealed import Sealed, refuse_other, seal, unseal
from dawm.data.transitions import (
    NOT_APPLICABLE,
    Transitions,
    concatenate,
    parse_shard,
    shard_facts,
    shard_identity,
    write_shard,
)
from dawm.errors import InputError
from dawm.layout import SHARDS_VERSION, shard_name
from dawm.progress import Progress
from dawm.randomness import generator

BLOCK = 256
GPU_BLOCKS = 256  # together 65,536 trajectories
COPIED_FACTS = ("environment", "environment_settings", "observation_dim", "action_dim")


class Starts:
    """Where trajectories start, by their number: source_row and draw, [trajectories] each."""

    def __init__(self, settings: SynthesisSettings, rows: np.ndarray) -> None:
        """rows [n]: those that trajectories may start from; every one of them once before any comes twice."""
        rounds = -(-settings.trajectories // len(rows))
        orders = [generator(settings.seed, "starts", draw).permutation(len(rows)) for draw in range(rounds)]
        self.source_row = rows[np.concatenate(orders)[: settings.trajectories]]
        self.draw = np.arange(settings.trajectories) // len(rows)


def numbers_of(settings: SynthesisSettings, blocks: range) -> tuple[np.ndarray, np.ndarray]:
    """The trajectories of these blocks and which of them count, [256 · blocks] each: block b holds 256 b … 256 b + 255,
    and the last one is padded with its last trajectory."""
    numbers = np.arange(blocks.start * BLOCK, blocks.stop * BLOCK)
    return np.minimum(numbers, settings.trajectories - 1), numbers < settings.trajectories


def blocks_at_once(compute: Compute) -> int:
    """How many blocks the networks see together: one on a CPU, so that no bit depends on the shards."""
    return GPU_BLOCKS if compute.device == "cuda" else 1


def check_inputs(inputs: Mapping[str, Sealed]) -> None:
    """Refuses models that were trained on another data set than inputs["dataset"]."""
    data = inputs["dataset"]
    for name, sealed in inputs.items():
        if name != "dataset" and sealed.provenance["inputs"]["dataset"] != data.digest:
            raise InputError(f"{sealed.folder}: was trained on another data set than {data.folder}; train it again")


def shard_digest(inputs: Mapping[str, Sealed], settings: SynthesisSettings, shard: int) -> str:
    """What a shard must be: its inputs, settings and number, by this version of the code."""
    digests = {name: sealed.digest for name, sealed in inputs.items()}
    return digest_of([digests, as_mapping(settings), shard, SHARDS_VERSION])


def shard_range(settings: SynthesisSettings, shard: int) -> tuple[int, int]:
    """First block and end of a shard; with more shards than blocks some are empty."""
    if not 0 <= shard < settings.shards:
        raise InputError(f"shard: expected 0 to {settings.shards - 1}, found {shard}")
    blocks = -(-settings.trajectories // BLOCK)
    return shard * blocks // settings.shards, (shard + 1) * blocks // settings.shards


def write_blocks(
    output: Path,
    settings: SynthesisSettings,
    shard: int,
    inputs: Mapping[str, Sealed],
    transitions: Transitions,
    corrector: Corrector | None,
    make: Callable[[range], tuple[Transitions, Counter[str]]],
    compute: Compute,
) -> None:
    """Writes shard number `shard` into `output`: make(range of blocks) for all of its blocks, as many at a time as
    `blocks_at_once`. transitions: the real ones. The shard tells what it was computed by, if by anything but plain
    float32 on a CPU."""
    refuse_other(output, "synthetic")
    begin, end = shard_range(settings, shard)
    together = blocks_at_once(compute)
    progress = Progress("synthesize", (end - begin) * BLOCK)
    made: list[Transitions] = []
    tally: Counter[str] = Counter()
    for block in range(begin, end, together):
        blocks = range(block, min(block + together, end))
        rows, counted = make(blocks)
        made.append(rows)
        tally.update(counted)
        progress.advance(BLOCK * len(blocks))
    result = concatenate(made) if made else concatenate_none(transitions)
    facts: dict[str, Any] = {} if compute == CPU else {"compute": compute.identity}
    if corrector is not None:
        facts |= {"tally": tally, "thresholds": corrector.thresholds}
    identity = shard_digest(inputs, settings, shard)
    write_shard(output / shard_name(shard, settings.shards), result, identity, facts)


def rows_of(steps: Steps, stay: torch.Tensor, source: np.ndarray, discount: np.ndarray | float = 1.0) -> Transitions:
    """The table of the steps that stay, bool [B, S]; source [B]: the real rows that the trajectories grew from, or -1;
    discount: of those rows where they are no terminals."""
    batch, length = stay.shape
    keep = stay.cpu().numpy().ravel()
    terminal = steps.terminal.cpu().numpy().ravel()[keep]
    count = int(keep.sum())

    def flat(values: torch.Tensor) -> np.ndarray:
        return np.ascontiguousarray(values.cpu().numpy().reshape(batch * length, -1)[keep], dtype=np.float32)

    return Transitions(
        observation=flat(steps.observation),
        action=flat(steps.action),
        reward=flat(steps.reward)[:, 0],
        next_observation=flat(steps.next_observation),
        discount=np.where(terminal, 0, discount).astype(np.float32),
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


def seal_shards(output: Path, settings: SynthesisSettings, inputs: Mapping[str, Sealed], conditional: bool) -> None:
    """Seals `output` once all shards are there; refuses shards of another run. With a correction, metadata.json tells
    the share of transitions that was dropped, by reason. conditional: whether trajectories begin at given rows."""
    names = [shard_name(number, settings.shards) for number in range(settings.shards)]
    rows = terminals = 0
    tally: Counter[str] = Counter()
    corrected: dict[str, Any] = {}
    computed = set()
    with only_writer(output):
        for number, name in enumerate(names):
            path = output / name
            if not path.is_file():
                raise InputError(f"{path}: the shard is missing; write it with: synthesize --shard {number}")
            if shard_identity(path) != shard_digest(inputs, settings, number):
                raise InputError(
                    f"{path}: is another shard, or of another data set, model, setting or version; write it again"
                )
            shard = parse_shard(read_bytes(path), path)
            rows += len(shard)
            terminals += int(shard.terminal.sum())
            found = shard_facts(path)
            computed.add(found.get("compute", CPU.identity))
            if "tally" in found:
                tally.update(found["tally"])
                corrected = {"correction": report(tally, found["thresholds"])}
        if not rows:
            raise InputError(f"{output}: the thresholds of `correction` dropped every transition; raise them")
        unseal(output, "synthetic")
        for stale in {path.name for path in output.glob("shard-*.parquet")}.difference(names):
            (output / stale).unlink()  # of another number of shards
        copied = inputs["dataset"].metadata
        facts = {key: copied[key] for key in COPIED_FACTS if key in copied}
        seal(
            output,
            "synthetic",
            files=names,
            settings=as_mapping(settings),
            seed=settings.seed,
            inputs=inputs,
            metadata={
                **facts,
                "conditional": conditional,
                "rows": rows,
                "terminals": terminals,
                "version": SHARDS_VERSION,
                "n_step": 1 if settings.expansion is None else settings.expansion.steps,
                **corrected,
                **({} if computed == {CPU.identity} else {"compute": ", ".join(sorted(computed))}),
                **({} if settings.expansion is None else {"expansion": as_mapping(settings.expansion)}),
            },
        )
