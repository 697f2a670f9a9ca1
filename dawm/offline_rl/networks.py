"""The learners' networks: two hidden layers, as both papers have them, for S seeds side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dawm.offline_rl.mlp import Layers, MLPs

Chance = Sequence[torch.Generator]
"""A generator for each seed."""


class TwinQ(MLPs):
    """Two critics Q(s, a) (clipped double Q-learning; Fujimoto et al. 2018): [S, B, obs_dim + act_dim] → [S, 2, B].

    Observations are normalised, actions lie in [-1, 1].
    """

    def __init__(self, chance: Chance, observation_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__(chance, 2, observation_dim + action_dim, hidden, 1)

    def forward(self, state_action: Tensor) -> Tensor:
        return by_critic(super().forward(state_action))


class Value(MLPs):
    """V(s): [S, B, obs_dim] → [S, B]."""

    def __init__(self, chance: Chance, observation_dim: int, hidden: int) -> None:
        super().__init__(chance, 1, observation_dim, hidden, 1)

    def forward(self, observation: Tensor) -> Tensor:
        return super().forward(observation)[:, 0]


class TanhActor(MLPs):
    """The actor while it learns: [S, B, obs_dim] → [S, act_dim, B] before the tanh."""

    def __init__(self, chance: Chance, observation_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__(chance, 1, observation_dim, hidden, action_dim)

    def plain(self, place: int) -> Actor:
        """A copy of one seed's in plain layers: what acts, and what is saved."""
        layers = Layers(*(values[place] for values in self.layers))
        actor = Actor(layers.weight1.shape[0], layers.weight3.shape[0], layers.weight1.shape[1])
        weights = (layers.weight1.T, layers.bias1[0], layers.weight2.T, layers.bias2[0])
        head = (layers.weight3, layers.bias3[:, 0])
        actor.load_state_dict(dict(zip(actor.state_dict(), (*weights, *head), strict=True)))
        return actor.to(layers.weight1.device)


class Actor(nn.Module):
    """Deterministic policy, or the mean of a Gaussian one: tanh of an MLP, actions in [-1, 1]."""

    def __init__(self, observation_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(observation_dim, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, action_dim),
        )  # fmt: skip

    def forward(self, observation: Tensor) -> Tensor:
        """observation [B, obs_dim], normalised; returns [B, act_dim]."""
        return self.network(observation).tanh()


def by_critic(output: Tensor) -> Tensor:
    """[2S, 1, B] → [S, 2, B]."""
    return output.unflatten(0, (-1, 2))[:, :, 0]


def squared_errors(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_i mean (Q_i - y)², both critics' loss, [S], and its derivative by Q; output [2S, 1, B], target [S, B]."""
    error = by_critic(output) - target[:, None]
    batch_size = target.shape[-1]
    return error.square().sum((1, 2)) / batch_size, ((2 / batch_size) * error).view_as(output)
