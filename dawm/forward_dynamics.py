"""The forward dynamics model s′, r = f(s, a), alone or as an ensemble, and its stage, `train-forward-dynamics`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dawm.compute import CPU, Compute
from dawm.config import ForwardDynamicsSettings, as_mapping
from dawm.data.normalizers import ActionScaler, Standardizer
from dawm.data.sealed import Sealed
from dawm.dynamics import Pairs, SplitPairs, evaluated, train_on_pairs
from dawm.ensembles import mlp_ensemble, spread
from dawm.environments.tasks import VELOCITY_CLIP, Task
from dawm.errors import InputError
from dawm.gaussians import bounded_log_std, negative_log_likelihood
from dawm.randomness import derived_seed
from dawm.training import TrainingRun, load_model

KIND = "forward-dynamics"


class ForwardDynamics(nn.Module):
    """MLPs on the standardised state and the scaled action, for the standardised change s′ - s and the reward.

    The change as target and the ensemble follow MOPO (Yu et al. 2020, §5). To correct, the members' mean counts,
    trained on the absolute error. To be rolled out (`sample`), members are Gaussian with a second network for the
    deviations, trained by likelihood (as DWM's one-step baseline; Ding et al. 2024).
    """

    low: Tensor
    high: Tensor

    def __init__(self, settings: ForwardDynamicsSettings, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.members = settings.members
        self.states = Standardizer(observation_dim)
        self.changes = Standardizer(observation_dim)
        self.rewards = Standardizer(1)
        self.actions = ActionScaler(action_dim)
        self.register_buffer("low", torch.full((observation_dim,), -torch.inf))  # what observations are clipped to
        self.register_buffer("high", torch.full((observation_dim,), torch.inf))
        inputs, outputs = observation_dim + action_dim, observation_dim + 1
        self.network = mlp_ensemble(settings.members, inputs, settings.hidden, settings.layers, outputs)
        self.deviations = (
            mlp_ensemble(settings.members, inputs, settings.hidden, settings.layers, outputs)
            if settings.loss == "likelihood"
            else None
        )

    def forward(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """observation [..., obs_dim], action [..., act_dim] → next observation [..., obs_dim] and reward [...]; raw."""
        return self.decode(observation, self.propose(observation, action).mean(0))

    def decode(self, observation: Tensor, proposed: Tensor) -> tuple[Tensor, Tensor]:
        """Next observation [..., obs_dim] and reward [...], raw, of a standardised change and reward."""
        successor = observation + self.changes.decode(proposed[..., :-1])
        return torch.clamp(successor, self.low, self.high), self.rewards.decode(proposed[..., -1:]).squeeze(-1)

    def encode(self, observation: Tensor, action: Tensor) -> Tensor:
        """What the networks see, [..., obs_dim + act_dim]."""
        return torch.cat([self.states.encode(observation), self.actions.encode(action)], dim=-1)

    def propose(self, observation: Tensor, action: Tensor) -> Tensor:
        """Every member's (mean) change and reward, standardised, as the loss sees them: [members, ..., obs_dim + 1]."""
        return self.network(self.encode(observation, action))

    def distribution(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Means as `propose` has them and log σ, [members, ..., obs_dim + 1] each; of a model trained by likelihood."""
        if self.deviations is None:
            raise InputError("forward_dynamics.loss: expected 'likelihood' to sample successors, found 'absolute'")
        encoded = self.encode(observation, action)
        return self.network(encoded), bounded_log_std(self.deviations(encoded))

    def sample(self, observation: Tensor, action: Tensor, member: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """s′ and r as the Gaussian of one member each draws them.

        observation [B, obs_dim], action [B, act_dim], raw; member [B], whole numbers; noise [B, obs_dim + 1], standard
        normal. Returns next observation [B, obs_dim] and reward [B], raw.
        """
        mean, log_std = self.distribution(observation, action)
        rows = torch.arange(len(observation), device=observation.device)
        return self.decode(observation, mean[member, rows] + log_std[member, rows].exp() * noise)

    def target(self, pairs: Pairs) -> Tensor:
        """The true change and reward, standardised, [n, obs_dim + 1]."""
        return torch.cat([self.changes.encode(pairs.change), self.rewards.encode(pairs.reward[:, None])], dim=-1)

    def disagreement(self, observation: Tensor, action: Tensor) -> Tensor:
        """Standard deviation of the members' successors in units of the one-step change, mean over dimensions, [...]"""
        return spread(self.propose(observation, action)[..., :-1]).mean(-1)

    def residual(self, observation: Tensor, action: Tensor, next_observation: Tensor) -> Tensor:
        """|s′ - f(s, a)| in units of the data's one-step change, mean over dimensions, [...]"""
        expected, _ = self(observation, action)
        return ((next_observation - expected).abs() / self.changes.std).mean(-1)


def train_forward_dynamics(
    dataset: Path, settings: ForwardDynamicsSettings, output: Path, seed: int, compute: Compute = CPU
) -> None:
    """Writes `output`/model.safetensors, metrics.csv, evaluations.csv (see `forward_errors`), the seal."""
    pairs = SplitPairs.read(dataset, compute.device)
    torch.manual_seed(derived_seed(seed, KIND, "weights"))
    model = ForwardDynamics(settings, **pairs.dims)
    model.states = Standardizer.fit(pairs.seen.observation.cpu())
    model.changes = Standardizer.fit(pairs.seen.change.cpu())
    model.rewards = Standardizer.fit(pairs.seen.reward[:, None].cpu())
    model.actions = ActionScaler.between(pairs.task.action_low, pairs.task.action_high)
    model.low, model.high = observable_range(pairs.task, pairs.dims["observation_dim"])
    model.to(compute.device)

    def loss(batch: Pairs, step: int) -> Tensor:
        target = model.target(batch)
        if settings.loss == "likelihood":
            return negative_log_likelihood(target, *model.distribution(batch.observation, batch.action)).mean()
        proposed = model.propose(batch.observation, batch.action)
        return nn.functional.l1_loss(proposed, target.expand_as(proposed))

    train_on_pairs(
        TrainingRun(KIND, output, as_mapping(settings), seed, compute, {"dataset": pairs.data}),
        model,
        pairs,
        loss=loss,
        errors=lambda judged: forward_errors(model, judged),
        members=settings.members,
    )


def observable_range(task: Task, observation_dim: int) -> tuple[Tensor, Tensor]:
    """What the environment clips its observations to, [obs_dim] each; infinite where it does not."""
    high = torch.full((observation_dim,), torch.inf)
    if task.layout is not None and task.layout.clips_velocity:
        high[task.layout.positions :] = VELOCITY_CLIP
    return -high, high


def forward_errors(model: ForwardDynamics, pairs: Pairs) -> dict[str, float]:
    """State error in units of the data's one-step change (mean over dimensions; mean and median over pairs), the same
    for "nothing moves", and the absolute reward error; of Gaussian members the mean negative log-likelihood per
    standardised dimension."""
    successor, reward = evaluated(model, pairs.observation, pairs.action)
    error = ((successor - pairs.next_observation).abs() / model.changes.std).mean(-1)
    found = {
        "state_error": float(error.mean()),
        "state_error_median": float(error.median()),
        "state_error_nothing_moves": float((pairs.change.abs() / model.changes.std).mean()),
        "reward_error": float((reward - pairs.reward).abs().mean()),
    }
    if model.deviations is not None:
        with torch.inference_mode():
            likelihood = negative_log_likelihood(
                model.target(pairs), *model.distribution(pairs.observation, pairs.action)
            )
        found["negative_log_likelihood"] = float(likelihood.mean())
    return found


def load_forward_dynamics(folder: Path) -> tuple[ForwardDynamics, Sealed]:
    """s', r = f(s, a) of a sealed folder, ready to use; InputError for a folder of another kind, or damaged."""
    return load_model(folder, KIND, ForwardDynamicsSettings, ForwardDynamics)
