"""The inverse dynamics model a = f(s, s′), alone or as an ensemble, and its stage, `train-inverse-dynamics`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dawm.compute import CPU, Compute
from dawm.config import InverseDynamicsSettings, as_mapping
from dawm.data.normalizers import ActionScaler, Standardizer
from dawm.data.sealed import Sealed
from dawm.dynamics import Pairs, SplitPairs, evaluated, train_on_pairs
from dawm.ensembles import mlp_ensemble, spread
from dawm.environments.tasks import Task
from dawm.randomness import derived_seed, generator
from dawm.training import TrainingRun, load_model

KIND = "inverse-dynamics"
LOSSES = {"squared": nn.functional.mse_loss, "absolute": nn.functional.l1_loss}


class InverseDynamics(nn.Module):
    """MLPs on the standardised state and the standardised change s′ - s; a tanh keeps actions inside their bounds.

    Ding et al. 2024 (§6.8, their Decision Diffuser) use three layers of 1024 on (s, s′); the change is given here
    because a step's change is small beside the states' spread. An ensemble answers with its members' mean.
    """

    def __init__(self, settings: InverseDynamicsSettings, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.members = settings.members
        self.states = Standardizer(observation_dim)
        self.changes = Standardizer(observation_dim)
        self.actions = ActionScaler(action_dim)
        self.network = mlp_ensemble(
            settings.members, 2 * observation_dim, settings.hidden, settings.layers, action_dim, settings.dropout
        )

    def forward(self, observation: Tensor, next_observation: Tensor) -> Tensor:
        """observation, next_observation [..., obs_dim], returns actions [..., act_dim]; all in raw units."""
        return self.actions.decode(self.propose(self.encode(observation, next_observation)).mean(0))

    def encode(self, observation: Tensor, next_observation: Tensor) -> Tensor:
        """Standardised state and change, [..., 2 obs_dim]."""
        change = self.changes.encode(next_observation - observation)
        return torch.cat([self.states.encode(observation), change], dim=-1)

    def propose(self, encoded: Tensor) -> Tensor:
        """Every member's action in [-1, 1], as the loss sees it: [..., 2 obs_dim] → [members, ..., act_dim]."""
        return self.network(encoded).tanh()

    def disagreement(self, observation: Tensor, next_observation: Tensor) -> Tensor:
        """Standard deviation of the members' actions, [..., act_dim], in units of [-1, 1]; 0 for a single member."""
        return spread(self.propose(self.encode(observation, next_observation)))


def train_inverse_dynamics(
    dataset: Path, settings: InverseDynamicsSettings, output: Path, seed: int, compute: Compute = CPU
) -> None:
    """Writes `output`/model.safetensors, metrics.csv, evaluations.csv (see `action_errors`), the seal."""
    pairs = SplitPairs.read(dataset, compute.device)
    torch.manual_seed(derived_seed(seed, KIND, "weights"))
    model = InverseDynamics(settings, **pairs.dims)
    model.states = Standardizer.fit(pairs.seen.observation.cpu())
    model.changes = Standardizer.fit(pairs.seen.change.cpu())
    model.actions = ActionScaler.between(pairs.task.action_low, pairs.task.action_high)
    model.to(compute.device)

    def loss(batch: Pairs, step: int) -> Tensor:
        encoded = model.encode(batch.observation, batch.next_observation)
        if settings.input_noise > 0:
            rng = generator(seed, KIND, "input-noise", step)
            noise = torch.from_numpy(rng.standard_normal(encoded.shape, dtype="float32")).to(compute.device)
            encoded = encoded + settings.input_noise * noise
        proposed = model.propose(encoded)
        return LOSSES[settings.loss](proposed, model.actions.encode(batch.action).expand_as(proposed))

    train_on_pairs(
        TrainingRun(KIND, output, as_mapping(settings), seed, compute, {"dataset": pairs.data}),
        model,
        pairs,
        loss=loss,
        errors=lambda judged: action_errors(model, judged, pairs.task),
        members=settings.members,
    )


def action_errors(model: InverseDynamics, pairs: Pairs, task: Task) -> dict[str, float]:
    """Absolute errors of the inferred actions, in action units: mean per dimension, mean and median over all.

    Where observations clip velocities, also the mean over pairs of which neither state is clipped: a clipped velocity
    hides what the action did.
    """
    error = (infer(model, pairs.observation, pairs.next_observation) - pairs.action).abs()
    found = {f"mean_absolute_error_{i}": float(value) for i, value in enumerate(error.mean(0))}
    found |= {"mean_absolute_error": float(error.mean()), "median_absolute_error": float(error.median())}
    if task.layout is not None and task.layout.clips_velocity:
        told = [task.layout.tells_state(s.cpu().numpy()) for s in (pairs.observation, pairs.next_observation)]
        found["mean_absolute_error_unclipped"] = float(error[torch.from_numpy(told[0] & told[1])].mean())
    return found


def infer(model: InverseDynamics, observation: Tensor, next_observation: Tensor) -> Tensor:
    """Actions without dropout; the model stays in the mode that it was in."""
    return evaluated(model, observation, next_observation)


def load_inverse_dynamics(folder: Path) -> tuple[InverseDynamics, Sealed]:
    """a = f(s, s') of a sealed folder, ready to use; InputError for a folder of another kind, or damaged."""
    return load_model(folder, KIND, InverseDynamicsSettings, InverseDynamics)
