"""Vectorised evaluation: all episodes of one evaluation in step, each in a simulator of its own."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium
import numpy as np

from dawm.environments.tasks import Task
from dawm.randomness import derived_seed

Policy = Callable[[np.ndarray], np.ndarray]
"""observations [episodes, obs_dim], raw units → actions [episodes, act_dim]."""


class Evaluator:
    """Simulators that are made once and used for every evaluation of a run."""

    def __init__(self, task: Task, episodes: int) -> None:
        self.task = task
        self.simulators: list[gymnasium.Env] = [task.make() for _ in range(episodes)]

    def returns(self, policy: Policy, seed: int, step: int) -> np.ndarray:
        """Undiscounted return of each episode, float64 [episodes], raw reward.

        Episode i starts from a seed derived from (seed, step, i), the same for every arm. The policy always sees all
        rows, so that its rounding does not depend on which episodes have ended.
        """
        observations = np.stack(
            [
                simulator.reset(seed=derived_seed(seed, "evaluation", step, number))[0]
                for number, simulator in enumerate(self.simulators)
            ]
        )
        totals = np.zeros(len(self.simulators))
        running = list(range(len(self.simulators)))
        while running:
            actions = policy(observations)
            for number in list(running):
                observation, reward, terminal, timeout, _ = self.simulators[number].step(actions[number])
                observations[number] = observation
                totals[number] += float(reward)
                if terminal or timeout:
                    running.remove(number)
        return totals
