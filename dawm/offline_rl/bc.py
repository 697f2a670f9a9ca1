"""Behaviour cloning, of all rows or of the best episodes' (10 % BC): the reference rows of every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dawm.checkpoints import State
from dawm.config import BCSettings
from dawm.offline_rl.adam import Adam
from dawm.offline_rl.batches import Batch
from dawm.offline_rl.networks import Chance, TanhActor


@dataclass
class BC:
    """The actor and its optimizer, of S seeds; `update` changes nothing else."""

    actor: TanhActor
    actor_optimizer: Adam
    noisy: ClassVar[bool] = False  # whether `update` uses its noise

    @classmethod
    def create(
        cls, settings: BCSettings, observation_dim: int, action_dim: int, chance: Chance, device: str = "cpu"
    ) -> BC:
        actor = TanhActor(chance, observation_dim, action_dim, settings.hidden).to(device)
        return cls(actor, Adam(actor.parameters(), settings.learning_rate))

    def state(self) -> State:
        return State({"actor": self.actor}, {"actor_optimizer": self.actor_optimizer}, members=self.actor.seeds)

    def schedule(self, step: int, settings: BCSettings) -> None:
        """All rates are constant."""

    def update(self, batch: Batch, noise: Tensor, step: int, settings: BCSettings) -> dict[str, Tensor]:
        """One gradient step on mean (π(s) - a)²; `noise` is not used."""
        trace = self.actor.layers.forward(batch.observation)
        action = trace.output.tanh()  # [S, act_dim, B]
        error = action - batch.action.mT
        by_output = (2 / error[0].numel()) * error * (1 - action.square())  # tanh′ = 1 - tanh²
        self.actor_optimizer.descend(self.actor.layers.gradient(trace, by_output))
        return {"actor_loss": error.square().mean((1, 2))}
