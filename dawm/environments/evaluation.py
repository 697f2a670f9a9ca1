"""Vectorised evaluation: all episodes of one evaluation in step, each in a simulator of its own."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

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
    process that they belong to. Signals do not reach them: sent to all of a job, they are for the training to heed.
    """

    def __init__(self, task: Task, episodes: int, processes: int = 1) -> None:
        self.task, self.episodes, self.processes = task, episodes, processes

    @cached_property
    def here(self) -> Evaluator:
        return Evaluator(self.task, self.episodes)

    @cached_property
    def others(self) -> list[tuple[BaseProcess, Connection]]:
        spawn = multiprocessing.get_context("spawn")  # a process that holds a GPU cannot fork
        made: list[tuple[BaseProcess, Connection]] = []
        resource_tracker.ensure_running()  # by the first process it would be, and let signals through again
        for _ in range(self.processes):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(theirs, self.task, self.episodes, torch.get_num_threads()))
            with held_signals():  # which the new process inherits
                process.start()
            theirs.close()
            made.append((process, ours))
        return made

    def __enter__(self) -> Evaluators:
        return self

    def __exit__(self, *_: object) -> None:
        for process, connection in self.__dict__.pop("others", []):
            connection.close()
            process.kill()
            process.join()

    def returns(self, policies: Sequence[Policy], seeds: Sequence[int], step: int) -> list[np.ndarray]:
        """Of each policy, with its seed: see `Evaluator.returns`. Other processes take what can be pickled.

        Raises:
            ChildProcessError: one of them is gone.
        """
        if self.processes == 1:
            return [self.here.returns(policy, seed, step) for policy, seed in zip(policies, seeds, strict=True)]
        # Pickled here, or torch would send each tensor through shared memory.
        work = [(pickle.dumps(policy), seed, step) for policy, seed in zip(policies, seeds, strict=True)]
        try:
            for place, (_, connection) in enumerate(self.others):
                connection.send(work[place :: self.processes])
            answers = [connection.recv() for _, connection in self.others]
        except (EOFError, ConnectionError) as error:
            raise ChildProcessError(
                "a process that evaluates has ended, by an error that it told, or killed, perhaps for its memory; the "
                "same command goes on from the last checkpoint"
            ) from error
        found: list[np.ndarray] = [np.empty(0)] * len(work)
        for place, answer in enumerate(answers):
            found[place :: self.processes] = answer
        return found


@contextmanager
def held_signals() -> Iterator[None]:
    """SIGINT and SIGTERM wait until its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, task: Task, episodes: int, threads: int) -> None:
    """Answers each list of (policy, seed, step) with a list of returns, up to the other's end."""
    torch.set_num_threads(threads)
    evaluator = Evaluator(task, episodes)
    while True:
        try:
            work = connection.recv()
        except EOFError:
            return
        connection.send([evaluator.returns(pickle.loads(policy), seed, step) for policy, seed, step in work])
