"""What the models of single transitions share: real pairs (s, a, r, s′), split by episode, and training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dawm.checkpoints import State
from dawm.data.sealed import Sealed, open_sealed
from dawm.data.transitions import Transitions, held_out_rows, read_transitions, usable_pairs
from dawm.environments.tasks import Task, task_of_metadata
from dawm.errors import InputError
from dawm.randomness import derived_seed, generator
from dawm.training import TrainingRun, adam, cosine_rate, set_rate, train_and_seal

HELD_OUT_PAIRS = 4096


@dataclass(frozen=True)
class Pairs:
    """n real transitions in raw units: observation, next_observation [n, obs_dim], action [n, act_dim], reward [n]."""

    observation: Tensor
    next_observation: Tensor
    action: Tensor
    reward: Tensor

    def __len__(self) -> int:
        return len(self.reward)

    @classmethod
    def of(cls, rows: Transitions, device: str = "cpu") -> Pairs:
        columns = (rows.observation, rows.next_observation, rows.action, rows.reward)
        return cls(*(torch.from_numpy(column).to(device) for column in columns))

    def take(self, rows: np.ndarray) -> Pairs:
        index = torch.from_numpy(rows).to(self.reward.device)
        return Pairs(*(column[index] for column in (self.observation, self.next_observation, self.action, self.reward)))

    @property
    def change(self) -> Tensor:
        """s′ - s, [n, obs_dim]"""
        return self.next_observation - self.observation


@dataclass(frozen=True)
class SplitPairs:
    """A data set's pairs with a true successor: those that are learned from, those that the model is judged by."""

    data: Sealed
    task: Task
    seen: Pairs
    tested: Pairs

    @classmethod
    def read(cls, dataset: Path, device: str) -> SplitPairs:
        data = open_sealed(dataset, "dataset")
        transitions = read_transitions(data, states=False)
        held_out, usable = held_out_rows(data, transitions), usable_pairs(data, transitions)
        if not (usable & ~held_out).any() or not (usable & held_out).any():
            raise InputError(
                f"{dataset}: expected rows with a true successor in train and in held-out episodes, "
                "found none in one of them"
            )
        seen, tested = (Pairs.of(transitions.take(usable & part), device) for part in (~held_out, held_out))
        return cls(data, task_of_metadata(data.metadata), seen, tested)

    @property
    def dims(self) -> dict[str, int]:
        """For the model's metadata."""
        return {"observation_dim": self.seen.observation.shape[1], "action_dim": self.seen.action.shape[1]}


def train_on_pairs(
    run: TrainingRun,
    model: nn.Module,
    pairs: SplitPairs,
    *,
    loss: Callable[[Pairs, int], Tensor],
    errors: Callable[[Pairs], dict[str, float]],
    members: int = 1,
) -> None:
    """`run` by Adam on loss(batch, step), the mean over `members`; errors(held-out pairs) go to evaluations.csv.

    The gradient is that of the members' sum, so that each member learns as if it were alone.
    """
    steps, rate, batch_size = (run.settings[name] for name in ("gradient_steps", "learning_rate", "batch_size"))
    run.compute.prepare(part for part in model.children() if any(True for _ in part.parameters()))
    optimizer = adam(model.parameters(), rate)
    rng = generator(run.seed, run.kind, "held-out")
    judged = pairs.tested.take(rng.permutation(len(pairs.tested))[:HELD_OUT_PAIRS])

    def update(step: int) -> dict[str, Tensor]:
        set_rate(optimizer, cosine_rate(step, steps, rate))
        rows = generator(run.seed, run.kind, "step", step).integers(len(pairs.seen), size=batch_size)
        run.compute.seed(derived_seed(run.seed, run.kind, "dropout", step))
        with run.compute.arithmetic():
            mean = loss(pairs.seen.take(rows), step)
        optimizer.zero_grad(set_to_none=True)
        (members * mean).backward()
        optimizer.step()
        return {"loss": mean}

    train_and_seal(
        run,
        update,
        State({"model": model}, {"optimizer": optimizer}),
        lambda: model,
        metadata=pairs.dims,
        evaluate=lambda step: errors(judged),
    )


def evaluated(model: nn.Module, *inputs: Tensor) -> Any:
    """model(*inputs) without dropout and gradients; the model stays in the mode that it was in."""
    training = model.training
    with torch.inference_mode():
        found = model.eval()(*inputs)
    model.train(training)
    return found
