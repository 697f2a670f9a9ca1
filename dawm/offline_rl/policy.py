"""A trained policy as it is saved: the actor together with the normalizers of observations and actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dawm.data.normalizers import ActionScaler, Standardizer
from dawm.data.sealed import Sealed, open_sealed
from dawm.data.weights import load_weights
from dawm.offline_rl.networks import Actor

WEIGHTS = "policy.safetensors"


class DeterministicPolicy(nn.Module):
    """Raw observations in, actions in the environment's bounds out: the actor's mean, without exploration noise."""

    def __init__(self, observations: Standardizer, actor: Actor, actions: ActionScaler) -> None:
        super().__init__()
        self.observations, self.actor, self.actions = observations, actor, actions

    def forward(self, observation: Tensor) -> Tensor:
        return self.actions.decode(self.actor(self.observations.encode(observation)))

    @torch.inference_mode()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """observation [B, obs_dim] of any float type; returns float32 [B, act_dim]."""
        device = self.observations.mean.device
        return self(torch.as_tensor(observation, dtype=torch.float32, device=device)).cpu().numpy()

    def facts(self) -> dict[str, Any]:
        layers = [module for module in self.actor.network if isinstance(module, nn.Linear)]
        return {
            "observation_dim": layers[0].in_features,
            "hidden": layers[0].out_features,
            "action_dim": layers[-1].out_features,
        }


def load_policy(folder: Path) -> tuple[DeterministicPolicy, Sealed]:
    """The policy of a sealed folder; it acts exactly as when it was saved."""
    sealed = open_sealed(folder, "policy")
    facts = sealed.metadata
    actor = Actor(facts["observation_dim"], facts["action_dim"], facts["hidden"])
    policy = DeterministicPolicy(Standardizer(facts["observation_dim"]), actor, ActionScaler(facts["action_dim"]))
    load_weights(sealed, WEIGHTS, policy)
    return policy.eval(), sealed
