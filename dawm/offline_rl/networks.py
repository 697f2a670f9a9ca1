"""The learners' networks: two hidden layers, as both papers have them."""

from __future__ import annotations

from torch import Tensor, nn

from dawm.offline_rl.mlp import MLPs


class TwinQ(MLPs):
    """Two critics Q(s, a) (clipped double Q-learning; Fujimoto et al. 2018): [B, obs_dim + act_dim] → [2, 1, B].

    Observations are normalised, actions lie in [-1, 1].
    """

    def __init__(self, observation_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__(2, observation_dim + action_dim, hidden, 1)


class Value(MLPs):
    """V(s): [B, obs_dim] → [1, 1, B]."""

    def __init__(self, observation_dim: int, hidden: int) -> None:
        super().__init__(1, observation_dim, hidden, 1)


class TanhActor(MLPs):
    """The actor while it learns: [B, obs_dim] → [1, act_dim, B] before the tanh."""

    def __init__(self, observation_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__(1, observation_dim, hidden, action_dim)

    def plain(self) -> Actor:
        """A copy in plain layers: what acts, and what is saved."""
        layers = self.layers
        actor = Actor(layers.weight1.shape[1], layers.weight3.shape[1], layers.weight1.shape[2])
        weights = (layers.weight1[0].T, layers.bias1[0, 0], layers.weight2[0].T, layers.bias2[0, 0])
        head = (layers.weight3[0], layers.bias3[0, :, 0])
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


def squared_errors(q: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_i mean (Q_i - y)², both critics' loss, and its derivative by Q; q [2, 1, B], target [B]."""
    error = q - target
    return error.square().sum() / len(target), (2 / len(target)) * error
