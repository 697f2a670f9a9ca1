"""The learners' networks: two hidden layers, as both papers have them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dawm.ensembles import EnsembleLinear


class TwinQ(nn.Module):
    """Two critics Q(s, a) (clipped double Q-learning; Fujimoto et al. 2018)."""

    def __init__(self, observation_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                EnsembleLinear(2, observation_dim + action_dim, hidden),
                EnsembleLinear(2, hidden, hidden),
                EnsembleLinear(2, hidden, 1),
            ]
        )

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """observation [B, obs_dim] (normalised), action [B, act_dim]; returns both values, [2, B]."""
        x = torch.cat([observation, action], dim=-1).expand(2, -1, -1)
        x = self.layers[0](x).relu()
        x = self.layers[1](x).relu()
        return self.layers[2](x).squeeze(-1)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


class Actor(nn.Module):
    """Deterministic policy, or the mean of a Gaussian one: tanh of an MLP, actions in [-1, 1]."""

    def __init__(self, observation_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.network = mlp(observation_dim, hidden, action_dim)

    def forward(self, observation: Tensor) -> Tensor:
        """observation [B, obs_dim], normalised; returns [B, act_dim]."""
        return self.network(observation).tanh()


class Value(nn.Module):
    """V(s)."""

    def __init__(self, observation_dim: int, hidden: int) -> None:
        super().__init__()
        self.network = mlp(observation_dim, hidden, 1)

    def forward(self, observation: Tensor) -> Tensor:
        """observation [B, obs_dim], normalised; returns [B]."""
        return self.network(observation).squeeze(-1)
