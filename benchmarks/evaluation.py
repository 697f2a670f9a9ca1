"""Evaluating policies: ten episodes of each task, then several seeds' in one process and in some side by side.

python benchmarks/evaluation.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import PUBLISHED, line, write_results

from dawm.data.normalizers import ActionScaler, Standardizer
from dawm.environments.evaluation import Evaluator, Evaluators
from dawm.environments.tasks import TASKS, Task
from dawm.offline_rl.networks import Actor
from dawm.offline_rl.policy import DeterministicPolicy

POLICIES, EPISODES, ROUNDS = 8, 5, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=PUBLISHED / "evaluation-cpu.json")
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    counts = [1, *(count for count in (2, 4, 8) if count <= (os.cpu_count() or 1))]
    rows = [*measured_tasks(), *measured_processes(counts)]
    for row in rows:
        print(line(row))
    write_results(parsed.output, "python benchmarks/evaluation.py", "cpu", rows)


def untrained(task: Task, count: int) -> list[Callable[[np.ndarray], np.ndarray]]:
    """Policies of the published width with random weights."""
    dims = task.observation_dim, task.action_dim
    chance = torch.Generator().manual_seed(0)
    actors = [Actor(*dims, 256) for _ in range(count)]
    for parameter in (parameter for actor in actors for parameter in actor.parameters()):
        torch.nn.init.normal_(parameter, 0, 0.05, chance)
    return [DeterministicPolicy(Standardizer(dims[0]), actor, ActionScaler(dims[1])).act for actor in actors]


def measured_tasks() -> Iterator[dict[str, Any]]:
    """An evaluation as dear as can be: nothing ends its ten episodes before their 1,000 steps."""
    evaluators, policies = {}, {}
    for name, task in TASKS.items():
        evaluators[name], (policies[name],) = Evaluator(task, 10), untrained(task, 1)
        for simulator in evaluators[name].simulators:
            if hasattr(simulator.unwrapped, "_terminate_when_unhealthy"):
                simulator.unwrapped._terminate_when_unhealthy = False
    seconds: dict[str, list[float]] = {name: [] for name in TASKS}
    for step in range(1 + ROUNDS):
        for name, evaluator in evaluators.items():
            begun = time.process_time()
            evaluator.returns(policies[name], 0, step)
            seconds[name].append(time.process_time() - begun)
    for name, (_, *times) in seconds.items():
        yield {
            "what": "task",
            "task": name,
            "episodes": 10,
            "cpu_seconds": statistics.median(times),
            "lowest": min(times),
            "highest": max(times),
        }


def measured_processes(counts: list[int]) -> Iterator[dict[str, Any]]:
    """HalfCheetah's episodes, which nothing ends before their 1,000 steps, by untrained actors."""
    task, seeds = TASKS["halfcheetah"], range(POLICIES)
    policies = untrained(task, POLICIES)
    with ExitStack() as held:
        ways = {count: held.enter_context(Evaluators(task, EPISODES, count)) for count in counts}
        seconds: dict[int, list[float]] = {count: [] for count in counts}
        for step in range(1 + ROUNDS):
            for count, evaluators in ways.items():
                begun = time.perf_counter()
                evaluators.returns(policies, seeds, step)
                seconds[count].append(time.perf_counter() - begun)
    for count, (first, *others) in seconds.items():
        yield {
            "what": "processes",
            "task": task.name,
            "policies": POLICIES,
            "episodes": EPISODES,
            "processes": count,
            "first": first,
            "seconds": statistics.median(others),
            "lowest": min(others),
            "highest": max(others),
        }


if __name__ == "__main__":
    main()
