"""The behaviour-cloned policy a ~ π(s), which acts in a one-step model's rollouts; its stage, `train-cloned-policy`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dawm.compute import CPU, Compute
from dawm.config import ClonedPolicySettings, as_mapping
from dawm.data.normalizers import ActionScaler, Standardizer
from dawm.data.sealed import Sealed
from dawm.dynamics import Pairs, SplitPairs, evaluated, train_on_pairs
from dawm.ensembles import mlp_ensemble
from dawm.gaussians import bounded_log_std, censored_negative_log_likelihood
from dawm.randomness import derived_seed
from dawm.training import TrainingRun, load_model

KIND = "cloned-policy"


class ClonedPolicy(nn.Module):
    """An MLP on the standardised state for a Gaussian over scaled actions, clipped to their bounds.

    Its deviation is learned, so that a replay buffer's many policies are covered and not averaged away.
    """

    def __init__(self, settings: ClonedPolicySettings, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.states = Standardizer(observation_dim)
        self.actions = ActionScaler(action_dim)
        self.network = mlp_ensemble(1, observation_dim, settings.hidden, settings.layers, 2 * action_dim)

    def distribution(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """observation [..., obs_dim], raw → mean and log σ before the clip, [..., act_dim] each, actions in [-1, 1]."""
        mean, raw = self.network(self.states.encode(observation)).squeeze(0).chunk(2, dim=-1)
        return mean, bounded_log_std(raw)

    def forward(self, observation: Tensor) -> Tensor:
        """The most likely action, [..., act_dim], in the environment's units."""
        return self.actions.decode(self.distribution(observation)[0])

    def sample(self, observation: Tensor, noise: Tensor) -> Tensor:
        """clip(μ + σε) in the environment's units; noise ε [..., act_dim] is standard normal."""
        mean, log_std = self.distribution(observation)
        return self.actions.decode(mean + log_std.exp() * noise)

    def negative_log_likelihood(self, observation: Tensor, action: Tensor) -> Tensor:
        """Of actions [..., act_dim] in the environment's units, per dimension; in nats of scaled actions."""
        return censored_negative_log_likelihood(self.actions.encode(action), *self.distribution(observation))


def train_cloned_policy(
    dataset: Path, settings: ClonedPolicySettings, output: Path, seed: int, compute: Compute = CPU
) -> None:
    """Writes `output`/model.safetensors, metrics.csv, evaluations.csv (see `cloning_errors`), the seal."""
    pairs = SplitPairs.read(dataset, compute.device)
    torch.manual_seed(derived_seed(seed, KIND, "weights"))
    model = ClonedPolicy(settings, **pairs.dims)
    model.states = Standardizer.fit(pairs.seen.observation.cpu())
    model.actions = ActionScaler.between(pairs.task.action_low, pairs.task.action_high)
    model.to(compute.device)

    def loss(batch: Pairs, step: int) -> Tensor:
        return model.negative_log_likelihood(batch.observation, batch.action).mean()

    train_on_pairs(
        TrainingRun(KIND, output, as_mapping(settings), seed, compute, {"dataset": pairs.data}),
        model,
        pairs,
        loss=loss,
        errors=lambda judged: cloning_errors(model, judged),
    )


def cloning_errors(model: ClonedPolicy, pairs: Pairs) -> dict[str, float]:
    """Negative log-likelihood per action dimension, and the absolute error of the most likely action, in its units."""
    action = evaluated(model, pairs.observation)
    with torch.inference_mode():
        likelihood = model.negative_log_likelihood(pairs.observation, pairs.action)
    return {
        "negative_log_likelihood": float(likelihood.mean()),
        "mean_absolute_error": float((action - pairs.action).abs().mean()),
    }


def load_cloned_policy(folder: Path) -> tuple[ClonedPolicy, Sealed]:
    """a ~ π(s) of a sealed folder, ready to use; InputError for a folder of another kind, or damaged."""
    return load_model(folder, KIND, ClonedPolicySettings, ClonedPolicy)
