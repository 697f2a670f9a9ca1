"""Vectorised evaluation: all episodes of one evaluation in step, each in a simulator of its own."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property

import gymnasium
import numpy as np
import torch

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


class Evaluators:
    """Evaluations of several policies, each whole in one process: in this one, or in some of their own side by side.

    Where they run changes no number. Processes start at the first evaluation and end with the `with` block, or with the
    process that they belong to.
    """

    def __init__(self, task: Task, episodes: int, processes: int = 1) -> None:
        self.task, self.episodes = task, episodes
        self.pool = None
        if processes > 1:
            self.pool = ProcessPoolExecutor(
                processes,
                multiprocessing.get_context("spawn"),  # a process that holds a GPU cannot fork
                _begin,
                (task, episodes, torch.get_num_threads()),
            )

    @cached_property
    def here(self) -> Evaluator:
        return Evaluator(self.task, self.episodes)

    def __enter__(self) -> Evaluators:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def returns(self, policies: Sequence[Policy], seeds: Sequence[int], step: int) -> list[np.ndarray]:
        """Of each policy, with its seed: see `Evaluator.returns`. Other processes take what can be pickled."""
        if self.pool is None:
            return [self.here.returns(policy, seed, step) for policy, seed in zip(policies, seeds, strict=True)]
        sent = [pickle.dumps(policy) for policy in policies]  # torch would send each tensor through shared memory
        return list(self.pool.map(_returns, sent, seeds, [step] * len(sent)))


_evaluator: Evaluator
"""Of a process of `Evaluators`."""


def _begin(task: Task, episodes: int, threads: int) -> None:
    global _evaluator
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all of a job: the training decides when it ends
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _evaluator = Evaluator(task, episodes)


def _end_with_parent() -> None:
    """A parent that was killed tells nobody."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def _returns(policy: bytes, seed: int, step: int) -> np.ndarray:
    return _evaluator.returns(pickle.loads(policy), seed, step)
