"""Behaviour cloning, of all rows or of the best episodes' (10 % BC): the reference rows of every table."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dawm.checkpoints import State
from dawm.config import BCSettings
from dawm.offline_rl.adam import Adam
from dawm.offline_rl.batches import Batch
from dawm.offline_rl.learner import Learner
from dawm.offline_rl.networks import Chance, TanhActor


@dataclass
class BC(Learner[BCSettings]):
    """The actor and its optimizer, of S seeds."""

    actor: TanhActor
    actor_optimizer: Adam

    @classmethod
    def create(
        cls, settings: BCSettings, observation_dim: int, action_dim: int, chance: Chance, device: str = "cpu"
    ) -> BC:
        actor = TanhActor(chance, observation_dim, action_dim, settings.hidden).to(device)
        return cls(actor, Adam(actor.parameters(), settings.learning_rate))

    def state(self) -> State:
        return State({"actor": self.actor}, {"actor_optimizer": self.actor_optimizer}, members=self.actor.seeds)

    def update(self, batch: Batch, noise: Tensor, step: int, settings: BCSettings) -> dict[str, Tensor]:
        """One gradient step on mean (π(s) - a)²."""
        trace = self.actor.layers.forward(batch.observation)
        action = trace.output.tanh()  # [S, act_dim, B]
        error = action - batch.action.mT
        by_output = (2 / error[0].numel()) * error * (1 - action.square())  # tanh′ = 1 - tanh²
        self.actor_optimizer.descend(self.actor.layers.gradient(trace, by_output))
        return {"actor_loss": error.square().mean((1, 2))}
