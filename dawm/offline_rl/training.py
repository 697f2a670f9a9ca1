"""Stage `train-policy`: one learner on one mixture of data, for one seed or for several side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dawm.checkpoints import Member, checkpoint_step
from dawm.compute import CPU, Compute
from dawm.config import BCSettings, LearnerSettings, as_mapping, with_preset
from dawm.data.files import only_writer
from dawm.data.normalizers import ActionScaler, Standardizer
from dawm.data.sealed import Sealed, open_sealed, refuse_other, unseal
from dawm.data.table import Table
from dawm.data.table_cache import open_table
from dawm.environments.evaluation import Evaluators
from dawm.environments.tasks import Task, task_of_metadata
from dawm.errors import InputError
from dawm.offline_rl.batches import Mixture, Units
from dawm.offline_rl.bc import BC
from dawm.offline_rl.draws import normal_draws
from dawm.offline_rl.graphs import GradientStep, GraphedSteps
from dawm.offline_rl.iql import IQL
from dawm.offline_rl.learner import Learner
from dawm.offline_rl.policy import WEIGHTS, DeterministicPolicy
from dawm.offline_rl.td3_bc import TD3BC
from dawm.randomness import derived_seed
from dawm.training import (
    TrainingRun,
    refuse_diverged,
    seal_training,
    take_up_finished,
    train,
)

LEARNERS: dict[str, type[Learner[Any]]] = {"td3_bc": TD3BC, "iql": IQL, "bc": BC, "bc_10": BC}
LOG_EVERY = 500


@dataclass(frozen=True)
class PolicyRun:
    """What differs between runs that share a process: the seed, the folder of synthetic transitions, the output."""

    seed: int
    synthetic: Path | None
    output: Path


def train_policy(
    algorithm: str,
    dataset: Path,
    synthetic: Path | None,
    settings: LearnerSettings,
    real_fraction: float,
    output: Path,
    seed: int,
    compute: Compute = CPU,
) -> None:
    """Writes `output`/policy.safetensors (with its normalizer), evaluations.csv, metrics.csv and the seal."""
    train_policies(algorithm, dataset, settings, real_fraction, [PolicyRun(seed, synthetic, output)], compute)


def train_policies(
    algorithm: str,
    dataset: Path,
    settings: LearnerSettings,
    real_fraction: float,
    runs: Sequence[PolicyRun],
    compute: Compute = CPU,
    evaluation_processes: int = 1,
) -> None:
    """The same for several seeds in one process, each in a folder of its own and, to rounding, with the numbers that it
    would have alone. Those that an earlier attempt finished are kept.

    evaluation_processes: in which the seeds' policies are evaluated side by side.

    Raises DivergedError at the end for runs that diverged; the others are sealed.
    """
    data = open_sealed(dataset, "dataset")
    settings = with_preset(settings, data.metadata.get("parent", data.provenance["settings"].get("source", "")))
    chosen = {"algorithm": algorithm, "real_fraction": real_fraction}
    discount = None if isinstance(settings, BCSettings) else settings.discount
    prepared = []
    for run in runs:
        refuse_other(run.output, "policy")
        inputs = {"dataset": data}
        if real_fraction < 1:
            inputs["synthetic"] = synthetic_of(run, real_fraction, discount, data)
        elif run.synthetic is not None:
            raise InputError(f"--real-fraction: expected less than 1 for the transitions of {run.synthetic}, found 1")
        prepared.append(
            TrainingRun("policy", run.output, {**as_mapping(settings), **chosen}, run.seed, compute, inputs)
        )
    with ExitStack() as held:
        for one in prepared:
            held.enter_context(only_writer(one.output))
        unfinished = [one for one in prepared if not take_up_finished(one)]
        for one in unfinished:
            unseal(one.output, one.kind)
        members: list[Member] = []
        for side_by_side in of_one_step(unfinished):
            members += PolicyTraining(algorithm, settings, real_fraction, side_by_side, evaluation_processes).run()
        refuse_diverged(members)


def synthetic_of(run: PolicyRun, real_fraction: float, discount: float | None, data: Sealed) -> Sealed:
    """Synthetic transitions, refused unless they grew from this data set and, where they span steps, have this γ (None:
    of a learner without values, which reads no discount)."""
    if run.synthetic is None:
        raise InputError(
            f"--synthetic: expected a folder of transitions for a real fraction of {real_fraction:g}, found none"
        )
    sealed = open_sealed(run.synthetic, "synthetic")
    if sealed.provenance["inputs"]["dataset"] != data.digest:
        raise InputError(f"{sealed.folder}: grew from another data set than {data.folder}; synthesize again")
    expansion = sealed.metadata.get("expansion")
    if discount is not None and expansion is not None and expansion["discount"] != discount:
        raise InputError(
            f"discount: expected {expansion['discount']:g}, the γ of the n-step transitions in {sealed.folder}, "
            f"found {discount:g}"
        )
    return sealed


def of_one_step(runs: Sequence[TrainingRun]) -> list[list[TrainingRun]]:
    """Those whose checkpoints are equally far, together; a kill between two checkpoints may have parted them."""
    together: dict[int, list[TrainingRun]] = defaultdict(list)
    for run in runs:
        together[checkpoint_step(run.output, run.digest)].append(run)
    return [together[step] for step in sorted(together)]


class PolicyTraining:
    """Runs of one learner on one data set that are trained side by side."""

    def __init__(
        self,
        algorithm: str,
        settings: LearnerSettings,
        real_fraction: float,
        runs: Sequence[TrainingRun],
        evaluation_processes: int = 1,
    ) -> None:
        self.settings, self.runs, self.compute = settings, runs, runs[0].compute
        data = runs[0].inputs["dataset"]
        self.metadata = data.metadata
        self.task: Task = task_of_metadata(data.metadata)
        real = open_table(data)
        actions = ActionScaler.between(self.task.action_low, self.task.action_high)
        scale = reward_scale(real, settings.normalize_rewards)
        self.units = Units(observation_normalizer(real, settings.normalize_observations), actions, scale)
        self.limits = value_limits(real, settings, scale)
        if isinstance(settings, BCSettings):
            real = best_episodes(real, settings.best_episodes)
        opened = {run.inputs["synthetic"].digest: run.inputs["synthetic"] for run in runs if "synthetic" in run.inputs}
        tables = {digest: open_table(sealed) for digest, sealed in opened.items()}
        synthetic = [tables[run.inputs["synthetic"].digest] if tables else None for run in runs]
        seeds, device = [run.seed for run in runs], self.compute.device
        self.mixture = Mixture(real, synthetic, real_fraction, self.units, seeds, settings.batch_size, device)
        chance = [torch.Generator().manual_seed(derived_seed(seed, "policy", "weights")) for seed in seeds]
        dims = real.observation_dim, real.action_dim
        self.learner = LEARNERS[algorithm].create(settings, *dims, chance, device)
        noise_shape = (settings.batch_size if self.learner.noisy else 0, real.action_dim)
        self.noise = normal_draws(seeds, "target-noise", noise_shape, device)
        processes = min(evaluation_processes, len(runs))
        self.evaluators = Evaluators(self.task, settings.evaluation_episodes, processes)
        self.gradient_step: GradientStep = self._gradient_step
        if self.compute.compile == "graphs" and device == "cuda":
            self.gradient_step = GraphedSteps(self._gradient_step, self.learner.state(), self.learner.period(settings))

    def run(self) -> list[Member]:
        """Trains and seals; returns all members, those that diverged with their failures."""
        members = [Member(run.what, run.output, run.digest) for run in self.runs]
        with self.evaluators:
            train(
                members,
                self.update,
                self.learner.state(),
                steps=self.settings.gradient_steps,
                checkpoint_every=self.settings.checkpoint_every,
                log_every=LOG_EVERY,
                evaluate=self.evaluate,
                evaluate_every=self.settings.evaluate_every,
                limits=self.limits,
            )
        environment = {
            key: self.metadata[key] for key in ("environment", "environment_settings") if key in self.metadata
        }
        for place, (run, member) in enumerate(zip(self.runs, members, strict=True)):
            if member.failure is None:
                policy, settings = self.policy(place), run.settings
                chosen = {key: settings[key] for key in ("algorithm", "real_fraction")}
                seal_training(run, policy, WEIGHTS, {**chosen, **environment, **policy.facts()})
        return members

    def update(self, step: int) -> Mapping[str, Tensor]:
        """One gradient step; its metrics and the share of real rows that was really drawn."""
        self.learner.schedule(step, self.settings)
        numbers = self.mixture.draws.at(step)
        with self.compute.arithmetic():
            metrics = self.gradient_step(numbers, self.noise.at(step), step)
        return {**metrics, "real_share": (numbers < self.mixture.real_rows).float().mean(-1)}

    def _gradient_step(self, numbers: Tensor, noise: Tensor, step: int) -> dict[str, Tensor]:
        return self.learner.update(self.mixture.gather(numbers), noise, step, self.settings)

    def policy(self, place: int) -> DeterministicPolicy:
        """Of one seed, on the CPU, where simulators are."""
        return DeterministicPolicy(self.units.observations, self.learner.actor.plain(place).cpu(), self.units.actions)

    def evaluate(self, step: int) -> list[dict[str, float]]:
        policies = [self.policy(place).act for place in range(len(self.runs))]
        return [
            {
                "return_mean": float(returns.mean()),
                "return_std": float(returns.std()),
                "normalized_score": float(np.mean(self.task.normalized_score(returns))),
                "episodes": len(returns),
            }
            for returns in self.evaluators.returns(policies, [run.seed for run in self.runs], step)
        ]


def observation_normalizer(real: Table, wanted: bool) -> Standardizer:
    """(s - mean) / (std + 1e-3) of the real data (Fujimoto & Gu 2021, §5), or the identity."""
    normalizer = Standardizer(real.observation_dim)
    if wanted:
        mean, std = map(torch.from_numpy, real.observation_moments())
        normalizer.mean, normalizer.std = mean.float(), (std + 1e-3).float()
    return normalizer


def reward_scale(real: Table, wanted: bool) -> float:
    """1000 / (largest - smallest return of the real episodes) (IQL's locomotion setting), or 1."""
    returns = real.episode_returns()
    return float(1000.0 / (returns.max() - returns.min())) if wanted and np.ptp(returns) > 0 else 1.0


def best_episodes(real: Table, share: float) -> Table:
    """The share of episodes with the largest undiscounted returns, at least one."""
    returns = real.episode_returns()
    count = max(1, round(share * len(returns)))
    return real.episodes(np.argsort(-returns, kind="stable")[:count])


def value_limits(real: Table, settings: LearnerSettings, scale: float) -> dict[str, float]:
    """`largest_q` times the largest value that the data's rewards could add up to, Σ γ^t max |r|; none where γ is 1."""
    if settings.discount == 1 or settings.largest_q is None:
        return {}
    most = scale * float(np.abs(real.reward).max()) / (1 - settings.discount)
    return {"q": settings.largest_q * most + 1.0}
