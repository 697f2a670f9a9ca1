"""What training asks of any learner."""

from __future__ import annotations

from typing import ClassVar, Protocol, Self, TypeVar

from torch import Tensor

from dawm.checkpoints import State
from dawm.config import LearnerSettings
from dawm.offline_rl.batches import Batch
from dawm.offline_rl.networks import Chance, TanhActor

Settings = TypeVar("Settings", bound=LearnerSettings, contravariant=True)


class Learner(Protocol[Settings]):
    """Networks, targets and optimizers of S seeds that learn side by side; `update` changes nothing else."""

    actor: TanhActor
    noisy: ClassVar[bool] = False
    """Whether `update` uses its noise."""

    @classmethod
    def create(
        cls, settings: Settings, observation_dim: int, action_dim: int, chance: Chance, device: str = "cpu"
    ) -> Self:
        """A new one; `chance` has a generator for each seed."""
        ...

    def state(self) -> State:
        """All that `update` changes."""
        ...

    def period(self, settings: Settings) -> int:
        """Steps after which the kinds of steps repeat."""
        return 1

    def schedule(self, step: int, settings: Settings) -> None:
        """Sets the rates of a step, before its `update`; here they are constant."""
        return

    def update(self, batch: Batch, noise: Tensor, step: int, settings: Settings) -> dict[str, Tensor]:
        """One gradient step on `batch`; noise [S, B, act_dim], standard normal, B = 0 unless `noisy`. Returns metrics,
        [S] each."""
        ...
