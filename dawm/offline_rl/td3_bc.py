"""TD3+BC (Fujimoto & Gu 2021): TD3 with behaviour cloning in the actor's loss."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from dawm.config import TD3BCSettings
from dawm.offline_rl.batches import Batch
from dawm.offline_rl.networks import Actor, TwinQ
from dawm.training import State, adam, average_into


@dataclass
class TD3BC:
    """Networks, targets and optimizers; `update` changes nothing else."""

    actor: Actor
    critic: TwinQ
    target_actor: Actor
    target_critic: TwinQ
    actor_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    noise_shape: tuple[int, ...]

    @classmethod
    def create(cls, settings: TD3BCSettings, observation_dim: int, action_dim: int, device: str = "cpu") -> TD3BC:
        actor = Actor(observation_dim, action_dim, settings.hidden).to(device)
        critic = TwinQ(observation_dim, action_dim, settings.hidden).to(device)
        return cls(
            actor,
            critic,
            copy.deepcopy(actor).requires_grad_(False),
            copy.deepcopy(critic).requires_grad_(False),
            adam(actor.parameters(), settings.learning_rate),
            adam(critic.parameters(), settings.learning_rate),
            (settings.batch_size, action_dim),
        )

    def state(self) -> State:
        modules: dict[str, nn.Module] = {
            "actor": self.actor,
            "critic": self.critic,
            "target_actor": self.target_actor,
            "target_critic": self.target_critic,
        }
        return State(modules, {"actor_optimizer": self.actor_optimizer, "critic_optimizer": self.critic_optimizer})

    def update(self, batch: Batch, noise: Tensor, step: int, settings: TD3BCSettings) -> dict[str, Tensor]:
        """One gradient step on `batch`; noise [B, act_dim] is standard normal, for target policy smoothing."""
        target = td_target(self, batch, noise, settings)
        q = self.critic(batch.observation, batch.action)
        critic_loss = (q - target).square().mean(1).sum()
        self.critic_optimizer.zero_grad(set_to_none=True)
        critic_loss.backward()
        self.critic_optimizer.step()
        metrics = {"critic_loss": critic_loss, "q": q[0].mean()}
        if (step + 1) % settings.policy_delay == 0:
            loss = actor_loss(self, batch, settings.alpha)
            self.actor_optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.actor_optimizer.step()
            average_into(self.target_actor, self.actor, settings.target_rate)
            average_into(self.target_critic, self.critic, settings.target_rate)
        return metrics


@torch.no_grad()
def td_target(learner: TD3BC, batch: Batch, noise: Tensor, settings: TD3BCSettings) -> Tensor:
    """r + γ · discount · min_i Q̄_i(s′, clip(π̄(s′) + clip(ε)))  (Fujimoto et al. 2018, alg. 1), [B].

    `discount` is 0 after a true terminal, 1 at a timeout, γ^(n-1) in an n-step row.
    """
    smoothing = (settings.policy_noise * noise).clamp(-settings.noise_clip, settings.noise_clip)
    action = (learner.target_actor(batch.next_observation) + smoothing).clamp(-1.0, 1.0)
    q = learner.target_critic(batch.next_observation, action).amin(0)
    return batch.reward + settings.discount * batch.discount * q


def actor_loss(learner: TD3BC, batch: Batch, alpha: float) -> Tensor:
    """-λ Q₁(s, π(s)) + (π(s) - a)², λ = α / mean |Q₁|  (Fujimoto & Gu 2021, eqs. 3 and 5), a scalar."""
    learner.critic.requires_grad_(False)
    action = learner.actor(batch.observation)
    q = learner.critic(batch.observation, action)[0]
    learner.critic.requires_grad_(True)
    weight = alpha / q.abs().mean().detach()
    return -weight * q.mean() + mse_loss(action, batch.action)
