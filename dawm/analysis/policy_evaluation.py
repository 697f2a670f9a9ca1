"""`evaluate`: a saved policy in its environment, as numbers for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dawm.analysis.statistics import bootstrap_interval
from dawm.environments.evaluation import Evaluator, Policy
from dawm.environments.tasks import Task, task_of_metadata
from dawm.offline_rl.policy import load_policy

TOGETHER = 50  # episodes that run side by side


@dataclass(frozen=True)
class PolicyEvaluation:
    """Undiscounted returns of episodes, float64 [episodes], raw reward, in the task's simulator."""

    task: Task
    returns: np.ndarray

    def lines(self, seed: int) -> list[str]:
        returns, scores = self.returns, np.asarray(self.task.normalized_score(self.returns))
        low, high = bootstrap_interval(scores, np.mean, seed)
        several = len(returns) > 1
        apart = f" ± {returns.std(ddof=1):.1f} ({returns.min():.1f} to {returns.max():.1f})" if several else ""
        sure = f" (95 % interval {low:.2f} to {high:.2f})" if several else ""
        return [
            f"{'environment':<18}{self.task.environment}",
            f"{'episodes':<18}{len(returns)}",
            f"{'return':<18}{returns.mean():.1f}{apart}",
            f"{'normalized score':<18}{scores.mean():.2f} of 100{sure}",
        ]


def evaluate_policy(folder: Path, episodes: int, seed: int) -> tuple[PolicyEvaluation, Policy]:
    """Runs a sealed policy without noise; the starts of episodes derive from the seed. Returns the policy too."""
    policy, sealed = load_policy(folder)
    task = task_of_metadata(sealed.metadata)
    returns = [
        Evaluator(task, min(TOGETHER, episodes - first)).returns(policy.act, seed, first)
        for first in range(0, episodes, TOGETHER)
    ]
    return PolicyEvaluation(task, np.concatenate(returns)), policy.act
