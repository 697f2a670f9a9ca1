"""Stage `train-policy`: one learner, one mixture of data, one seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dawm.compute import Compute
from dawm.config import BCSettings, BestBCSettings, IQLSettings, LearnerSettings, TD3BCSettings, as_mapping, with_preset
from dawm.data.export import episode_returns
from dawm.data.normalizers import ActionScaler, Standardizer
from dawm.data.sealed import Sealed, open_sealed
from dawm.data.transitions import Transitions, read_transitions
from dawm.environments.evaluation import Evaluator
from dawm.environments.tasks import task_of_metadata
from dawm.errors import InputError
from dawm.offline_rl.batches import Mixture
from dawm.offline_rl.bc import BC
from dawm.offline_rl.iql import IQL
from dawm.offline_rl.policy import WEIGHTS, DeterministicPolicy
from dawm.offline_rl.td3_bc import TD3BC
from dawm.randomness import derived_seed, generator
from dawm.training import Job, train_and_seal

LEARNERS = {
    "td3_bc": (TD3BC, TD3BCSettings),
    "iql": (IQL, IQLSettings),
    "bc": (BC, BCSettings),
    "bc_10": (BC, BestBCSettings),
}
LOG_EVERY = 500
NOISE_STEPS = 64


def train_policy(
    algorithm: str,
    dataset: Path,
    synthetic: Path | None,
    settings: LearnerSettings,
    real_fraction: float,
    output: Path,
    seed: int,
    device: str = "cpu",
) -> None:
    """Writes `output`/policy.safetensors (with its normalizer), evaluations.csv, metrics.csv and the seal."""
    data = open_sealed(dataset, "dataset")
    settings = with_preset(settings, data.provenance["settings"].get("source", ""))
    real = read_transitions(data, states=False)
    inputs = {"dataset": data}
    imagined = None
    if real_fraction < 1:
        if synthetic is None:
            raise InputError(f"real_fraction: {real_fraction} needs a folder of synthetic transitions, found none")
        inputs["synthetic"] = open_sealed(synthetic, "synthetic")
        imagined = read_synthetic(inputs["synthetic"], data)
    task = task_of_metadata(data.metadata)
    observations = observation_normalizer(real, settings.normalize_observations)
    actions = ActionScaler.between(task.action_low, task.action_high)
    scale = reward_scale(real, settings.normalize_rewards)
    if isinstance(settings, BCSettings):
        real = best_episodes(real, settings.best_episodes)
    mixture = Mixture(real, imagined, real_fraction, observations, actions, scale, device)
    torch.manual_seed(derived_seed(seed, "policy", "weights"))
    learner = LEARNERS[algorithm][0].create(settings, real.observation_dim, real.action_dim, device)  # type: ignore[attr-defined]

    def policy() -> DeterministicPolicy:
        return DeterministicPolicy(observations.to(device), learner.actor.plain(), actions.to(device))

    evaluator = Evaluator(task, settings.evaluation_episodes)
    noise = NoiseStream(seed, learner.noise_shape, device)

    def update(step: int) -> dict[str, Tensor]:
        return learner.update(mixture.batch(seed, step, settings.batch_size), noise.at(step), step, settings)

    def evaluate(step: int) -> dict[str, float]:
        returns = evaluator.returns(policy().act, seed, step)
        scores = task.normalized_score(returns)
        return {
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std()),
            "normalized_score": float(np.mean(scores)),
            "episodes": len(returns),
        }

    environment = {key: data.metadata[key] for key in ("environment", "environment_settings") if key in data.metadata}
    chosen = {"algorithm": algorithm, "real_fraction": real_fraction}
    train_and_seal(
        Job("policy", output, {**as_mapping(settings), **chosen}, seed, Compute(device), inputs),
        update,
        learner.state(),
        policy,
        weights=WEIGHTS,
        metadata={**chosen, **environment, **policy().facts()},
        log_every=LOG_EVERY,
        evaluate=evaluate,
        evaluate_every=settings.evaluate_every,
        limits=value_limits(real, settings.discount, scale),
    )


def read_synthetic(sealed: Sealed, data: Sealed) -> Transitions:
    """Synthetic transitions, refused unless they grew from this data set."""
    if sealed.provenance["inputs"]["dataset"] != data.digest:
        raise InputError(f"{sealed.folder}: grew from another data set than {data.folder}; synthesize again")
    return read_transitions(sealed)


def observation_normalizer(real: Transitions, wanted: bool) -> Standardizer:
    """(s - mean) / (std + 1e-3) of the real data (Fujimoto & Gu 2021, §5), or the identity."""
    normalizer = Standardizer(real.observation_dim)
    if wanted:
        values = torch.from_numpy(real.observation).double()
        normalizer.mean = values.mean(0).float()
        normalizer.std = (values.std(0, correction=0) + 1e-3).float()
    return normalizer


def reward_scale(real: Transitions, wanted: bool) -> float:
    """1000 / (largest - smallest return) of the real episodes (IQL's locomotion setting), or 1."""
    returns = episode_returns(real)
    return float(1000.0 / (returns.max() - returns.min())) if wanted and np.ptp(returns) > 0 else 1.0


def best_episodes(real: Transitions, share: float) -> Transitions:
    """The rows of the share of episodes with the largest undiscounted returns, at least of one."""
    returns = episode_returns(real)
    count = max(1, round(share * len(returns)))
    chosen = np.argsort(-returns, kind="stable")[:count]
    return real.take(np.isin(real.episode, chosen))


def value_limits(real: Transitions, discount: float, scale: float) -> dict[str, float]:
    """Ten times the largest value that the data's rewards could add up to, Σ γ^t max |r|; none where γ is 1."""
    if discount == 1:
        return {}
    return {"q": 10 * scale * float(np.abs(real.reward).max()) / (1 - discount) + 1.0}


class NoiseStream:
    """Standard normal noise of a step by (seed, step), drawn many steps at a time."""

    def __init__(self, seed: int, shape: tuple[int, ...], device: str) -> None:
        self.seed, self.shape, self.device = seed, shape, device
        self.group, self.drawn = -1, torch.empty(0)

    def at(self, step: int) -> Tensor:
        """[*shape]; nothing is drawn for a learner without noise."""
        if not self.shape:
            return self.drawn
        group, place = divmod(step, NOISE_STEPS)
        if group != self.group:
            rng = generator(self.seed, "target-noise", group)
            drawn = rng.standard_normal((NOISE_STEPS, *self.shape), dtype=np.float32)
            self.group, self.drawn = group, torch.from_numpy(drawn).to(self.device)
        return self.drawn[place]
