"""TD3+BC (Fujimoto & Gu 2021): TD3 with behaviour cloning in the actor's loss."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dawm.checkpoints import State
from dawm.config import TD3BCSettings
from dawm.offline_rl.adam import Adam
from dawm.offline_rl.batches import Batch
from dawm.offline_rl.learner import Learner
from dawm.offline_rl.mlp import Layers
from dawm.offline_rl.networks import Chance, TanhActor, TwinQ, by_critic, squared_errors
from dawm.training import average_into


@dataclass
class TD3BC(Learner[TD3BCSettings]):
    """Networks, targets and optimizers of S seeds."""

    actor: TanhActor
    critic: TwinQ
    target_actor: TanhActor
    target_critic: TwinQ
    actor_optimizer: Adam
    critic_optimizer: Adam
    noisy: ClassVar[bool] = True

    @classmethod
    def create(
        cls, settings: TD3BCSettings, observation_dim: int, action_dim: int, chance: Chance, device: str = "cpu"
    ) -> TD3BC:
        actor = TanhActor(chance, observation_dim, action_dim, settings.hidden).to(device)
        critic = TwinQ(chance, observation_dim, action_dim, settings.hidden).to(device)
        return cls(
            actor,
            critic,
            copy.deepcopy(actor),
            copy.deepcopy(critic),
            Adam(actor.parameters(), settings.learning_rate),
            Adam(critic.parameters(), settings.learning_rate),
        )

    def state(self) -> State:
        modules: dict[str, nn.Module] = {
            "actor": self.actor,
            "critic": self.critic,
            "target_actor": self.target_actor,
            "target_critic": self.target_critic,
        }
        optimizers = {"actor_optimizer": self.actor_optimizer, "critic_optimizer": self.critic_optimizer}
        return State(modules, optimizers, members=self.actor.seeds)

    def period(self, settings: TD3BCSettings) -> int:
        return settings.policy_delay

    def update(self, batch: Batch, noise: Tensor, step: int, settings: TD3BCSettings) -> dict[str, Tensor]:
        """One gradient step on `batch`; the noise is target policy smoothing's."""
        target = td_target(self, batch, noise, settings)
        q = self.critic.layers.forward(torch.cat([batch.observation, batch.action], dim=-1))
        critic_loss, by_q = squared_errors(q.output, target)
        self.critic_optimizer.descend(self.critic.layers.gradient(q, by_q))
        if (step + 1) % settings.policy_delay == 0:
            self.actor_optimizer.descend(actor_gradient(self, batch, settings.alpha))
            average_into(self.target_actor, self.actor, settings.target_rate)
            average_into(self.target_critic, self.critic, settings.target_rate)
        return {"critic_loss": critic_loss, "q": by_critic(q.output)[:, 0].mean(-1)}


def td_target(learner: TD3BC, batch: Batch, noise: Tensor, settings: TD3BCSettings) -> Tensor:
    """r + γ · discount · min_i Q̄_i(s′, clip(π̄(s′) + clip(ε)))  (Fujimoto et al. 2018, alg. 1), [S, B].

    `discount` is 0 after a true terminal, 1 at a timeout, γ^(n-1) in an n-step row.
    """
    smoothing = (settings.policy_noise * noise).clamp_(-settings.noise_clip, settings.noise_clip)
    action = (learner.target_actor(batch.next_observation).tanh_().mT + smoothing).clamp_(-1.0, 1.0)
    q = learner.target_critic(torch.cat([batch.next_observation, action], dim=-1)).amin(1)
    return batch.reward + settings.discount * batch.discount * q


def actor_gradient(learner: TD3BC, batch: Batch, alpha: float) -> Layers:
    """Of -λ mean Q₁(s, π(s)) + mean (π(s) - a)²  (Fujimoto & Gu 2021, eqs. 3 and 5) by the actor's weights.

    λ = α / mean |Q₁| counts as a constant.
    """
    actor, critic = learner.actor.layers, learner.critic.layers.first_of(2)
    mean = actor.forward(batch.observation)
    action = mean.output.tanh()  # [S, act_dim, B]
    q = critic.forward(torch.cat([batch.observation, action.mT], dim=-1))
    weight = alpha / q.output.abs().mean((1, 2), keepdim=True)
    by_q = (-weight / len(batch)).expand_as(q.output)
    by_action = critic.input_gradient(q, by_q, start=batch.observation.shape[-1])
    by_action += (2 / action[0].numel()) * (action - batch.action.mT)
    return actor.gradient(mean, by_action * (1 - action.square()))  # tanh′ = 1 - tanh²
