"""What every training shares: exact resume, metrics written as they come, progress, averaged weights, the cosine."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dawm import __version__
from dawm.compute import Compute
from dawm.data.files import digest_of, only_writer, whole_file, write_text
from dawm.data.sealed import Sealed, seal, unseal
from dawm.data.weights import save_weights
from dawm.errors import DivergedError
from dawm.progress import Progress

CHECKPOINT = ".checkpoint.safetensors"
NO_LIMITS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Job:
    """A training that ends as a sealed folder: its kind, its place, and all that decides its result."""

    kind: str
    output: Path
    settings: Mapping[str, Any]
    seed: int
    compute: Compute
    inputs: Mapping[str, Sealed]

    @property
    def digest(self) -> str:
        """Checkpoints belong to it."""
        inputs = {name: sealed.digest for name, sealed in self.inputs.items()}
        return digest_of([__version__, self.kind, self.settings, self.seed, self.compute.identity, inputs])


def train_and_seal(
    job: Job,
    update: Callable[[int], Mapping[str, Tensor]],
    state: State,
    result: Callable[[], nn.Module],
    *,
    weights: str,
    metadata: Mapping[str, Any],
    log_every: int,
    evaluate: Callable[[int], dict[str, float]],
    evaluate_every: int,
    limits: Mapping[str, float] = NO_LIMITS,
) -> None:
    """Trains (see `train`) and writes `job.output`: the weights of `result()` under the name `weights`, metrics.csv,
    evaluations.csv and the seal. Length and checkpoints are the settings' gradient_steps and checkpoint_every."""
    with only_writer(job.output):
        unseal(job.output)
        train(
            f"{job.kind} seed {job.seed}",
            update,
            state,
            folder=job.output,
            run=job.digest,
            steps=job.settings["gradient_steps"],
            checkpoint_every=job.settings["checkpoint_every"],
            log_every=log_every,
            evaluate=evaluate,
            evaluate_every=evaluate_every,
            limits=limits,
        )
        save_weights(job.output / weights, result())
        seal(
            job.output,
            job.kind,
            files=[weights, "metrics.csv", "evaluations.csv"],
            settings=job.settings,
            seed=job.seed,
            inputs=job.inputs,
            metadata=metadata,
        )
        (job.output / CHECKPOINT).unlink(missing_ok=True)


class Ledger:
    """A growing CSV table. Rows are on the disk as they come; a resumed run goes back to its checkpoint's rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []

    def restore(self, rows: list[dict[str, float]]) -> None:
        self.rows = list(rows)
        text = io.StringIO()
        for row in self.rows:
            self._write(text, row, header=row is self.rows[0])
        write_text(self.path, text.getvalue())

    def append(self, row: dict[str, float]) -> None:
        self.rows.append(row)
        with open(self.path, "a", newline="") as file:
            self._write(file, row, header=len(self.rows) == 1)

    def _write(self, file: Any, row: dict[str, float], header: bool) -> None:
        writer = csv.DictWriter(file, fieldnames=list(self.rows[0]), lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerow({key: f"{value:.8g}" if isinstance(value, float) else value for key, value in row.items()})


class State:
    """Everything that a training changes, by name: the tensors of modules and of their optimizers."""

    def __init__(self, modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        self.modules, self.optimizers = dict(modules), dict(optimizers)

    def tensors(self) -> dict[str, Tensor]:
        found = {}
        for name, module in self.modules.items():
            found.update({f"{name}/{key}": value for key, value in module.state_dict().items()})
        for name, optimizer in self.optimizers.items():
            for index, slots in optimizer.state_dict()["state"].items():
                found.update({f"{name}/{index}/{slot}": value for slot, value in slots.items()})
        return {key: value.detach().contiguous() for key, value in found.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        def under(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        for name, module in self.modules.items():
            module.load_state_dict(under(f"{name}/"))
        for name, optimizer in self.optimizers.items():
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in under(f"{name}/").items():
                index, slot = key.split("/")
                slots.setdefault(int(index), {})[slot] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})


def train(
    what: str,
    update: Callable[[int], Mapping[str, Tensor]],
    state: State,
    *,
    folder: Path,
    run: str,
    steps: int,
    checkpoint_every: int,
    log_every: int,
    evaluate: Callable[[int], dict[str, float]] | None = None,
    evaluate_every: int = 0,
    limits: Mapping[str, float] = NO_LIMITS,
) -> None:
    """Calls update(step) for step = 0 … steps - 1, from the last checkpoint on if one of this `run` is there.

    `run` is the digest of everything that decides the result. `update` draws all randomness from its step, so that a
    training that was killed and resumed ends with the same bytes as one that was not. Metrics (means over `log_every`
    steps) go to metrics.csv, the rows of `evaluate`, called after every `evaluate_every` steps, to evaluations.csv.

    Raises DivergedError where a metric is not finite, or its mean larger than its limit, before that is checkpointed.
    """
    ledgers = {"metrics": Ledger(folder / "metrics.csv")}
    if evaluate is not None:
        ledgers["evaluations"] = Ledger(folder / "evaluations.csv")
    first, rows, sums = _resume(folder / CHECKPOINT, run, state)
    for name, ledger in ledgers.items():
        ledger.restore(rows.get(name, []))
    progress = Progress(what, steps, start=first)
    note = ""
    for step in range(first, steps):
        for name, value in update(step).items():
            sums[name] = sums[name] + value.detach() if name in sums else value.detach().clone()
        done = step + 1
        if done % log_every == 0 or done == steps:
            count = (done - 1) % log_every + 1
            row = {"step": done, **{name: float(value) / count for name, value in sums.items()}}
            check_convergence(what, row, limits, folder / CHECKPOINT)
            ledgers["metrics"].append(row)
            note = ", ".join(f"{name} {row[name]:.4g}" for name in sums)
            sums = {}
        if evaluate is not None and (done % evaluate_every == 0 or done == steps):
            ledgers["evaluations"].append({"step": done, **evaluate(done)})
        if done % checkpoint_every == 0 and done < steps:
            so_far = {"step": done, **{name: float(value) for name, value in sums.items()}}
            check_convergence(what, so_far, NO_LIMITS, folder / CHECKPOINT)
            save_checkpoint(folder / CHECKPOINT, run, done, state, ledgers, sums)
        progress.advance(note=note)


def check_convergence(what: str, row: Mapping[str, float], limits: Mapping[str, float], checkpoint: Path) -> None:
    """Raises DivergedError for a metric that is not finite or beyond its limit."""
    for name, value in row.items():
        limit = limits.get(name, math.inf)
        if not math.isfinite(value) or abs(value) > limit:
            kept = f"the last good checkpoint is {checkpoint}" if checkpoint.is_file() else "there is no checkpoint yet"
            bound = "a finite number" if limit == math.inf else f"at most {limit:.3g}"
            raise DivergedError(
                f"{what}: diverged; expected {name} to be {bound} up to step {row['step']}, found {value:.3g}; {kept}"
            )


def save_checkpoint(
    path: Path, run: str, step: int, state: State, ledgers: Mapping[str, Ledger], sums: Mapping[str, Tensor]
) -> None:
    tensors = state.tensors() | {f"sums/{name}": value for name, value in sums.items()}
    header = {
        "run": run,
        "step": str(step),
        "rows": json.dumps({name: ledger.rows for name, ledger in ledgers.items()}),
        "sums": json.dumps(list(sums)),  # safetensors sorts its names; a table's columns keep their order
    }
    with whole_file(path) as part:
        save_file(tensors, part, metadata=header)


def _resume(path: Path, run: str, state: State) -> tuple[int, dict[str, list], dict[str, Tensor]]:
    """Step, ledgers' rows and running sums of the checkpoint at `path`; a fresh start where there is none of `run`."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata()
            if header["run"] != run:
                return 0, {}, {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError):
        return 0, {}, {}
    sums = {name: tensors.pop(f"sums/{name}") for name in json.loads(header["sums"])}
    state.load(tensors)
    return int(header["step"]), json.loads(header["rows"]), sums


def cosine_rate(step: int, steps: int, start: float) -> float:
    """Learning rate that falls from `start` to 0 along half a cosine (Loshchilov & Hutter 2017, eq. 5)."""
    return start * 0.5 * (1 + math.cos(math.pi * step / steps))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def average_into(averaged: nn.Module, online: nn.Module, rate: float) -> None:
    """averaged ← (1 - rate) averaged + rate online: EMA weights (rate = 1 - decay) and target networks (rate = τ)."""
    pairs = list(zip(averaged.parameters(), online.parameters(), strict=True))
    torch._foreach_lerp_([a for a, _ in pairs], [o.detach() for _, o in pairs], rate)


def ema_rate(number: int, decay: float) -> float:
    """Rate of averaging number 0, 1, …: 1 - min(decay, (1 + n)/(10 + n)), so that the start is soon forgotten."""
    return 1 - min(decay, (1 + number) / (10 + number))


def adam(parameters: Iterator[nn.Parameter] | list[nn.Parameter], rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=rate, fused=True)
