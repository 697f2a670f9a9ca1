"""Exact resume: all that a training changes, on the disk as it goes, for one run or for several side by side."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dawm.data.files import write_text
from dawm.data.weights import write_tensors
from dawm.errors import DivergedError
from dawm.spent import note_spent

CHECKPOINT = ".checkpoint.safetensors"
Metrics = Mapping[str, Tensor]
"""What an update returns: scalars, or [members] where several runs are trained at once."""


class State:
    """Everything that a training changes, by name: the tensors of modules and of their optimizers.

    Where `members` runs are trained at once, each has an equal part of every tensor's first dimension; scalars, such as
    an optimizer's count of steps, are common.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer], members: int = 1
    ) -> None:
        self.modules, self.optimizers, self.members = dict(modules), dict(optimizers), members

    def tensors(self) -> dict[str, Tensor]:
        """Of all members."""
        found = {}
        for name, module in self.modules.items():
            found.update({f"{name}/{key}": value for key, value in module.state_dict().items()})
        for name, optimizer in self.optimizers.items():
            for index, slots in optimizer.state_dict()["state"].items():
                found.update({f"{name}/{index}/{slot}": value for slot, value in slots.items()})
        return {key: value.detach() for key, value in found.items()}

    def parts(self) -> list[dict[str, Tensor]]:
        """Of each member, as a training of it alone would have them."""
        whole = self.tensors()
        pieces = {
            key: value.chunk(self.members) if value.dim() else [value] * self.members for key, value in whole.items()
        }
        return [{key: piece[k].contiguous() for key, piece in pieces.items()} for k in range(self.members)]

    def load(self, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """parts: of each member."""
        tensors = {
            key: torch.cat([part[key] for part in parts]) if value.dim() else value for key, value in parts[0].items()
        }

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


class Member:
    """One of the runs that a training makes at once: what it is called, its folder, the digest of all that decides its
    result, its tables, and why it ended early, if it did."""

    def __init__(self, what: str, folder: Path, run: str) -> None:
        self.what, self.folder, self.run = what, folder, run
        self.ledgers = {name: Ledger(folder / f"{name}.csv") for name in ("metrics", "evaluations")}
        self.failure: DivergedError | None = None

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT


def save_checkpoints(members: Sequence[Member], step: int, state: State, sums: Metrics) -> None:
    """Of those that have not diverged."""
    for place, (member, tensors) in enumerate(zip(members, state.parts(), strict=True)):
        if member.failure is not None:
            continue
        running = {f"sums/{name}": value.reshape(-1)[place].clone() for name, value in sums.items()}
        header = {
            "run": member.run,
            "step": str(step),
            "rows": json.dumps({name: ledger.rows for name, ledger in member.ledgers.items()}),
            "sums": json.dumps(list(sums)),  # safetensors sorts its names; a table's columns keep their order
        }
        kept = tensors | running
        write_tensors(member.checkpoint, kept, header | {"sha256": digest_of_state(kept, header)})
        note_spent(member.folder, member.run)


def digest_of_state(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """SHA-256 of all that a checkpoint holds: a flipped bit would otherwise train on, unnoticed."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        found.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def checkpoint_step(folder: Path, run: str) -> int:
    """How far the checkpoint in a folder is; 0 where there is none of `run`."""
    found = read_checkpoint(folder / CHECKPOINT, run)
    return found.step if found else 0


@dataclass(frozen=True)
class Checkpoint:
    """What a member goes on from: steps done, its tables' rows, its part of the state, running sums of its metrics."""

    step: int
    rows: Mapping[str, list[dict[str, float]]]
    tensors: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]


def read_checkpoint(path: Path, run: str) -> Checkpoint | None:
    """None where there is no whole checkpoint of `run`."""
    try:
        with safe_open(path, "pt") as file:
            header = dict(file.metadata() or {})
            if header.get("run") != run:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError):
        return None
    if header.pop("sha256", None) != digest_of_state(tensors, header):
        print(f"{path}: damaged, and left aside: the training starts anew", file=sys.stderr)
        return None
    sums = {name: tensors.pop(f"sums/{name}") for name in json.loads(header["sums"])}
    return Checkpoint(int(header["step"]), json.loads(header["rows"]), tensors, sums)


def resume(members: Sequence[Member], state: State) -> tuple[int, dict[str, Tensor]]:
    """Step and running sums of the members' checkpoints; a fresh start unless all have one of the same step."""
    found = [read_checkpoint(member.checkpoint, member.run) for member in members]
    checkpoints = [checkpoint for checkpoint in found if checkpoint is not None]
    resumed = len(checkpoints) == len(members) and len({checkpoint.step for checkpoint in checkpoints}) == 1
    for place, member in enumerate(members):
        for name, ledger in member.ledgers.items():
            ledger.restore(checkpoints[place].rows[name] if resumed else [])
    if not resumed:
        return 0, {}
    state.load([checkpoint.tensors for checkpoint in checkpoints])
    names = checkpoints[0].sums
    return checkpoints[0].step, {name: torch.stack([one.sums[name] for one in checkpoints]) for name in names}
