"""IQL (Kostrikov et al. 2021): expectile values from the data's actions, then advantage-weighted cloning."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dawm.config import IQLSettings
from dawm.offline_rl.batches import Batch
from dawm.offline_rl.networks import Actor, TwinQ, Value
from dawm.training import State, adam, average_into, cosine_rate, set_rate

LOG_STD_RANGE = (-5.0, 2.0)
ACTION_CLIP = 1 - 1e-5


class GaussianActor(Actor):
    """Normal policy with a tanh mean and a standard deviation that does not depend on the state."""

    def __init__(self, observation_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__(observation_dim, action_dim, hidden)
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def log_probability(self, observation: Tensor, action: Tensor) -> Tensor:
        """log π(a | s), [B]."""
        log_std = self.log_std.clamp(*LOG_STD_RANGE)
        z = (action - self(observation)) / log_std.exp()
        return -(0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)


@dataclass
class IQL:
    """Networks, target and optimizers; `update` changes nothing else."""

    actor: GaussianActor
    critic: TwinQ
    value: Value
    target_critic: TwinQ
    actor_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    value_optimizer: torch.optim.Optimizer
    noise_shape: tuple[int, ...] = ()

    @classmethod
    def create(cls, settings: IQLSettings, observation_dim: int, action_dim: int, device: str = "cpu") -> IQL:
        actor = GaussianActor(observation_dim, action_dim, settings.hidden).to(device)
        critic = TwinQ(observation_dim, action_dim, settings.hidden).to(device)
        value = Value(observation_dim, settings.hidden).to(device)
        return cls(
            actor,
            critic,
            value,
            copy.deepcopy(critic).requires_grad_(False),
            adam(actor.parameters(), settings.learning_rate),
            adam(critic.parameters(), settings.learning_rate),
            adam(value.parameters(), settings.learning_rate),
        )

    def state(self) -> State:
        modules: dict[str, nn.Module] = {
            "actor": self.actor,
            "critic": self.critic,
            "value": self.value,
            "target_critic": self.target_critic,
        }
        optimizers = {
            "actor_optimizer": self.actor_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "value_optimizer": self.value_optimizer,
        }
        return State(modules, optimizers)

    def update(self, batch: Batch, noise: Tensor, step: int, settings: IQLSettings) -> dict[str, Tensor]:
        """One gradient step in the published order: V, actor, Q, target; the later three see the new V.

        `noise` is not used.
        """
        with torch.no_grad():
            q = self.target_critic(batch.observation, batch.action).amin(0)
        v = self.value(batch.observation)
        value_loss = expectile_loss(q - v, settings.expectile)
        _step(self.value_optimizer, value_loss)

        with torch.no_grad():
            v, next_v = self.value(torch.cat([batch.observation, batch.next_observation])).chunk(2)
            target = td_target(next_v, batch, settings.discount)
            advantage = q - v
            weight = (settings.inverse_temperature * advantage).exp().clamp(max=settings.advantage_weight_clip)
        action = batch.action.clamp(-ACTION_CLIP, ACTION_CLIP)
        actor_loss = -(weight * self.actor.log_probability(batch.observation, action)).mean()
        set_rate(self.actor_optimizer, cosine_rate(step, settings.gradient_steps, settings.learning_rate))
        _step(self.actor_optimizer, actor_loss)

        critic_loss = (self.critic(batch.observation, batch.action) - target).square().mean(1).sum()
        _step(self.critic_optimizer, critic_loss)
        average_into(self.target_critic, self.critic, settings.target_rate)
        return {"critic_loss": critic_loss, "value_loss": value_loss, "actor_loss": actor_loss, "q": q.mean()}


def expectile_loss(residual: Tensor, expectile: float) -> Tensor:
    """Asymmetric squared error, |τ - 1(u < 0)| u²  (Kostrikov et al. 2021, eq. 5).

    residual: [...] target minus prediction, in units of return. Returns the mean, a scalar.
    """
    return (torch.where(residual < 0, 1 - expectile, expectile) * residual.square()).mean()


def td_target(next_value: Tensor, batch: Batch, discount: float) -> Tensor:
    """r + γ · discount · V(s′)  (Kostrikov et al. 2021, eq. 6), [B]."""
    return batch.reward + discount * batch.discount * next_value


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
