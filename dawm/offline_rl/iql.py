"""IQL (Kostrikov et al. 2021): expectile values from the data's actions, then advantage-weighted cloning."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dawm.checkpoints import State
from dawm.config import IQLSettings
from dawm.offline_rl.adam import Adam
from dawm.offline_rl.batches import Batch
from dawm.offline_rl.learner import Learner
from dawm.offline_rl.networks import Chance, TanhActor, TwinQ, Value, squared_errors
from dawm.training import average_into, cosine_rate

LOG_STD_RANGE = (-5.0, 2.0)
ACTION_CLIP = 1 - 1e-5


class GaussianActor(TanhActor):
    """Normal policy with a tanh mean and a standard deviation that does not depend on the state."""

    def __init__(self, chance: Chance, observation_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__(chance, observation_dim, action_dim, hidden)
        self.log_std = nn.Parameter(torch.zeros(len(chance), action_dim), requires_grad=False)


@dataclass
class IQL(Learner[IQLSettings]):
    """Networks, target and optimizers of S seeds."""

    actor: GaussianActor
    critic: TwinQ
    value: Value
    target_critic: TwinQ
    actor_optimizer: Adam
    critic_optimizer: Adam
    value_optimizer: Adam

    @classmethod
    def create(
        cls, settings: IQLSettings, observation_dim: int, action_dim: int, chance: Chance, device: str = "cpu"
    ) -> IQL:
        actor = GaussianActor(chance, observation_dim, action_dim, settings.hidden).to(device)
        critic = TwinQ(chance, observation_dim, action_dim, settings.hidden).to(device)
        value = Value(chance, observation_dim, settings.hidden).to(device)
        return cls(
            actor,
            critic,
            value,
            copy.deepcopy(critic),
            Adam(actor.parameters(), settings.learning_rate),
            Adam(critic.parameters(), settings.learning_rate),
            Adam(value.parameters(), settings.learning_rate),
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
        return State(modules, optimizers, members=self.actor.seeds)

    def schedule(self, step: int, settings: IQLSettings) -> None:
        """The actor's rate falls along a cosine."""
        self.actor_optimizer.set_rate(cosine_rate(step, settings.gradient_steps, settings.learning_rate))

    def update(self, batch: Batch, noise: Tensor, step: int, settings: IQLSettings) -> dict[str, Tensor]:
        """One gradient step in the published order: V, actor, Q, target; the later three see the new V."""
        state_action = torch.cat([batch.observation, batch.action], dim=-1)
        q = self.target_critic(state_action).amin(1)
        v = self.value.layers.forward(batch.observation)
        value_loss, by_v = expectile_loss(q - v.output[:, 0], settings.expectile)
        self.value_optimizer.descend(self.value.layers.gradient(v, -by_v[:, None]))

        new_v, next_v = self.value(torch.cat([batch.observation, batch.next_observation], dim=1)).chunk(2, dim=1)
        weight = (settings.inverse_temperature * (q - new_v)).exp().clamp(max=settings.advantage_weight_clip)
        actor_loss, by_actor = CLONING[settings.actor](self.actor, batch, weight)
        self.actor_optimizer.descend(by_actor)

        online = self.critic.layers.forward(state_action)
        critic_loss, by_q = squared_errors(online.output, td_target(next_v, batch, settings.discount))
        self.critic_optimizer.descend(self.critic.layers.gradient(online, by_q))
        average_into(self.target_critic, self.critic, settings.target_rate)
        return {"critic_loss": critic_loss, "value_loss": value_loss, "actor_loss": actor_loss, "q": q.mean(-1)}


def expectile_loss(residual: Tensor, expectile: float) -> tuple[Tensor, Tensor]:
    """Asymmetric squared error, |τ - 1(u < 0)| u²  (Kostrikov et al. 2021, eq. 5).

    residual: [..., B] target minus prediction, in units of return. Returns the mean, [...], and its derivative by the
    residual.
    """
    weighted = torch.where(residual < 0, 1 - expectile, expectile) * residual
    return (weighted * residual).mean(-1), (2 / residual.shape[-1]) * weighted


def cloning_loss(actor: GaussianActor, batch: Batch, weight: Tensor) -> tuple[Tensor, list[Tensor]]:
    """-mean w log π(a | s)  (Kostrikov et al. 2021, eq. 7), [S], and its derivative by the actor's parameters.

    weight: [S, B]. With z = (a - μ) / σ: log π = -Σ (z²/2 + log σ + log(2π)/2), ∂μ = z / σ, ∂ log σ = z² - 1.
    """
    low, high = LOG_STD_RANGE
    trace = actor.layers.forward(batch.observation)
    mean = trace.output.tanh()  # [S, act_dim, B]
    log_std = actor.log_std.clamp(low, high)[:, :, None]
    action = batch.action.mT.clamp(-ACTION_CLIP, ACTION_CLIP)
    z = (action - mean) / log_std.exp()
    half_square = 0.5 * z.square()
    log_probability = -(half_square + log_std + 0.5 * math.log(2 * math.pi)).sum(1)
    share = weight / len(batch)
    by_mean = -share[:, None] * z / log_std.exp() * (1 - mean.square())  # tanh′ = 1 - tanh²
    by_log_std = (share[:, None] * (1 - 2 * half_square)).sum(2)
    by_log_std *= (low <= actor.log_std) & (actor.log_std <= high)
    return -(share * log_probability).sum(-1), [*actor.layers.gradient(trace, by_mean), by_log_std]


def squared_cloning_loss(actor: GaussianActor, batch: Batch, weight: Tensor) -> tuple[Tensor, list[Tensor]]:
    """mean w Σ (μ - a)², [S], of the mean alone (CORL's deterministic policy); the deviation is not learned."""
    trace = actor.layers.forward(batch.observation)
    mean = trace.output.tanh()  # [S, act_dim, B]
    error = mean - batch.action.mT
    share = weight / len(batch)
    by_mean = 2 * share[:, None] * error * (1 - mean.square())  # tanh′ = 1 - tanh²
    loss = (share * error.square().sum(1)).sum(-1)
    return loss, [*actor.layers.gradient(trace, by_mean), torch.zeros_like(actor.log_std)]


CLONING = {"gaussian": cloning_loss, "deterministic": squared_cloning_loss}


def td_target(next_value: Tensor, batch: Batch, discount: float) -> Tensor:
    """r + γ · discount · V(s′)  (Kostrikov et al. 2021, eq. 6), [S, B]."""
    return batch.reward + discount * batch.discount * next_value
