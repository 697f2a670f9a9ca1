"""What every training shares: exact resume, metrics written as they come, progress, averaged weights, the cosine."""

from __future__ import annotations

import functools
import json
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import nn

from dawm.checkpoints import CHECKPOINT, Member, Metrics, State, resume, save_checkpoints
from dawm.compute import CPU, Compute
from dawm.config import read, result_settings
from dawm.data.files import digest_of, only_writer, sha256, write_json
from dawm.data.sealed import PROVENANCE, Sealed, open_sealed, seal, unseal, versions
from dawm.data.weights import load_weights, save_weights
from dawm.errors import DivergedError, InputError, StoppedError
from dawm.progress import Progress
from dawm.spent import note_spent

FINISHED = ".finished.json"
WEIGHTS = "model.safetensors"
LOG_EVERY, EVALUATE_EVERY = 200, 2000  # gradient steps of a model; learners have their own
NO_LIMITS: Mapping[str, float] = MappingProxyType({})
Settings = TypeVar("Settings")
Model = TypeVar("Model", bound=nn.Module)


@functools.cache
def code_digest() -> str:
    """Stands for this package's code: no run goes on from what other code has begun."""
    package = Path(__file__).parent
    return digest_of({str(file.relative_to(package)): sha256(file.read_bytes()) for file in package.rglob("*.py")})


@dataclass(frozen=True)
class TrainingRun:
    """A training that ends as a sealed folder: its kind, its place, and all that decides its result."""

    kind: str
    output: Path
    settings: Mapping[str, Any]
    seed: int
    compute: Compute
    inputs: Mapping[str, Sealed]

    @property
    def what(self) -> str:
        return f"{self.kind} seed {self.seed}"

    @property
    def digest(self) -> str:
        """Checkpoints belong to it, whoever else was trained beside it: code and libraries are part of it."""
        inputs = {name: sealed.digest for name, sealed in self.inputs.items()}
        made_by = [code_digest(), versions()]
        settings = result_settings(self.settings)
        return digest_of([made_by, self.kind, settings, self.seed, self.compute.identity, inputs])


def train_and_seal(
    run: TrainingRun,
    update: Callable[[int], Metrics],
    state: State,
    result: Callable[[], nn.Module],
    *,
    metadata: Mapping[str, Any],
    evaluate: Callable[[int], dict[str, float]],
) -> None:
    """Trains (see `train`) and writes the model `run.output`: the weights of `result()`, metrics.csv, evaluations.csv
    and the seal; nothing where it is finished already. Length and checkpoints are the settings' gradient_steps and
    checkpoint_every."""
    with only_writer(run.output):
        if take_up_finished(run):
            return
        unseal(run.output, run.kind)
        members = [Member(run.what, run.output, run.digest)]
        train(
            members,
            update,
            state,
            steps=run.settings["gradient_steps"],
            checkpoint_every=run.settings["checkpoint_every"],
            log_every=LOG_EVERY,
            evaluate=lambda step: [evaluate(step)],
            evaluate_every=EVALUATE_EVERY,
        )
        refuse_diverged(members)
        seal_training(run, result(), WEIGHTS, metadata)


def load_model(
    folder: Path, kind: str, settings: type[Settings], build: Callable[[Settings, int, int], Model]
) -> tuple[Model, Sealed]:
    """What `train_and_seal` left in a sealed folder, ready to use; `build`: from settings, obs_dim and act_dim."""
    sealed = open_sealed(folder, kind)
    trained_with = read(settings, sealed.provenance["settings"], str(folder))
    model = build(trained_with, sealed.metadata["observation_dim"], sealed.metadata["action_dim"])
    load_weights(sealed, WEIGHTS, model)
    return model.eval(), sealed


def seal_training(run: TrainingRun, result: nn.Module, weights: str, metadata: Mapping[str, Any]) -> None:
    """The seal comes last: who was killed before it finds a note of what was finished, and seals that.

    Schedulers take seals away before they start a job again: one of some seeds of which another was not finished, or
    one whose predecessor finished after the scheduler was killed. Metadata tell what it was computed by, if by anything
    but plain float32 on a CPU.
    """
    by = {} if run.compute == CPU else {"compute": run.compute.identity}

    def note(content: Mapping[str, Any]) -> None:
        write_json(run.output / FINISHED, {"run": run.digest, "seal": content})
        (run.output / CHECKPOINT).unlink(missing_ok=True)
        note_spent(run.output, run.digest)

    save_weights(run.output / weights, result)
    seal(
        run.output,
        run.kind,
        files=[weights, "metrics.csv", "evaluations.csv"],
        settings=run.settings,
        seed=run.seed,
        inputs=run.inputs,
        metadata={**metadata, **by},
        before=note,
    )


def take_up_finished(run: TrainingRun) -> bool:
    """Whether the folder holds this very run, finished and whole; then it is sealed as it was."""
    try:
        kept = json.loads((run.output / FINISHED).read_text())
        if kept["run"] != run.digest:
            return False
        for name, digest in kept["seal"]["files"].items():
            if sha256((run.output / name).read_bytes()) != digest:
                return False
        write_json(run.output / PROVENANCE, kept["seal"])
        open_sealed(run.output, run.kind)
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return False
    note_spent(run.output, run.digest)
    print(f"{run.what}: had finished with these settings, inputs and code; sealed as it was", file=sys.stderr)
    return True


def train(
    members: Sequence[Member],
    update: Callable[[int], Metrics],
    state: State,
    *,
    steps: int,
    checkpoint_every: int,
    log_every: int,
    evaluate: Callable[[int], Sequence[dict[str, float]]] | None = None,
    evaluate_every: int = 0,
    limits: Mapping[str, float] = NO_LIMITS,
) -> None:
    """Calls update(step) for step = 0 … steps - 1, from the members' last checkpoints on, which are of one step.

    `update` draws all randomness from its step, so that a training that was killed and resumed ends with the same bytes
    as one that was not. Metrics (means over `log_every` steps) go to each member's metrics.csv, the rows of `evaluate`,
    called after every `evaluate_every` steps, to its evaluations.csv.

    On SIGTERM (a scheduler's time limit or pre-emption) it saves a checkpoint after the step at hand and raises
    StoppedError.

    A member diverges where a metric is not finite, or its mean larger than its limit: it gets a `failure` and nothing
    of it is written from then on; the others go on.
    """
    first, sums = resume(members, state)
    what = members[0].what if len(members) == 1 else f"{members[0].what} and others"
    progress = Progress(what, steps, start=first)
    note = ""
    with StopRequest() as stop:
        for step in range(first, steps):
            for name, value in update(step).items():
                value = value.detach()
                # A checkpoint's sums lie on the CPU.
                sums[name] = sums[name].to(value.device) + value if name in sums else value.clone()
            done = step + 1
            if done % log_every == 0 or done == steps:
                rows = rows_of(done, sums, (done - 1) % log_every + 1, len(members))
                for member, row in going_on(members, rows, limits):
                    member.ledgers["metrics"].append(row)
                note = ", ".join(f"{name} {value:.4g}" for name, value in rows[0].items() if name != "step")
                sums = {}
            if evaluate is not None and (done % evaluate_every == 0 or done == steps):
                for member, row in zip(members, evaluate(done), strict=True):
                    if member.failure is None:
                        member.ledgers["evaluations"].append({"step": done, **row})
            stopping = stop.requested and done < steps
            if stopping or (done % checkpoint_every == 0 and done < steps):
                going_on(members, rows_of(done, sums, 1, len(members)), NO_LIMITS)
                save_checkpoints(members, done, state, sums)
            if stopping:
                raise StoppedError(f"{what}: told to stop; the same command goes on from step {done} of {steps}")
            if all(member.failure for member in members):
                break
            progress.advance(note=note)


class StopRequest:
    """Whether SIGTERM has come while it was open. Signals reach the main thread alone; in others nothing changes."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopRequest:
        self.hears = threading.current_thread() is threading.main_thread()
        if self.hears:
            self.before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self.hears:
            signal.signal(signal.SIGTERM, self.before)

    def _hear(self, *_: object) -> None:
        self.requested = True


def refuse_diverged(members: Iterable[Member]) -> None:
    """Raises DivergedError with a sentence for each of those that diverged."""
    if failures := [str(member.failure) for member in members if member.failure]:
        raise DivergedError("; ".join(failures))


def rows_of(step: int, sums: Metrics, count: int, members: int) -> list[dict[str, float]]:
    """Means over `count` steps, a row for each member."""
    columns = {name: value.reshape(-1).tolist() for name, value in sums.items()}
    return [{"step": step, **{name: values[k] / count for name, values in columns.items()}} for k in range(members)]


def going_on(
    members: Sequence[Member], rows: Sequence[dict[str, float]], limits: Mapping[str, float]
) -> list[tuple[Member, dict[str, float]]]:
    """The members that have not diverged, with their rows."""
    for member, row in zip(members, rows, strict=True):
        if member.failure is None:
            member.failure = divergence(member, row, limits)
    return [(member, row) for member, row in zip(members, rows, strict=True) if member.failure is None]


def divergence(member: Member, row: Mapping[str, float], limits: Mapping[str, float]) -> DivergedError | None:
    """Of a metric that is not finite or beyond its limit."""
    for name, value in row.items():
        limit = limits.get(name, math.inf)
        if not math.isfinite(value) or abs(value) > limit:
            path = member.checkpoint
            kept = f"the last good checkpoint is {path}" if path.is_file() else "there is no checkpoint yet"
            bound = "a finite number" if limit == math.inf else f"at most {limit:.3g}"
            return DivergedError(
                f"{member.what}: diverged; expected {name} to be {bound} up to step {row['step']}, found {value:.3g}; "
                f"{kept}"
            )
    return None


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
    """Rate of averaging number 0, 1, …: 1 - min(decay, (1 + n)/(10 + n)), so that the start is soon forgotten.

    It is what TensorFlow's ExponentialMovingAverage does with `num_updates`; DWM names no warm-up.
    """
    return 1 - min(decay, (1 + number) / (10 + number))


def adam(parameters: Iterator[nn.Parameter] | list[nn.Parameter], rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=rate, fused=True)
