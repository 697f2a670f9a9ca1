"""Evaluating the policies of several seeds in one process and in several: seconds, from interleaved rounds.

python benchmarks/evaluation.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from measuring import PUBLISHED, write_results

from dawm.data.normalizers import ActionScaler, Standardizer
from dawm.environments.evaluation import Evaluators
from dawm.environments.tasks import TASKS
from dawm.offline_rl.networks import Actor
from dawm.offline_rl.policy import DeterministicPolicy

POLICIES, EPISODES, ROUNDS = 8, 5, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=PUBLISHED / "evaluation-cpu.json")
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(measured([1, *(count for count in (2, 4, 8) if count <= (os.cpu_count() or 1))]))
    for row in rows:
        print("{processes} processes: {seconds:.2f} s ({lowest:.2f} to {highest:.2f})".format(**row))
    write_results(parsed.output, "python benchmarks/evaluation.py", "cpu", rows)


def measured(counts: list[int]) -> Iterator[dict[str, Any]]:
    """HalfCheetah's episodes, which nothing ends before their 1,000 steps, by untrained actors."""
    task, seeds = TASKS["halfcheetah"], range(POLICIES)
    dims = task.observation_dim, task.action_dim
    chance = torch.Generator().manual_seed(0)
    actors = [Actor(*dims, 256) for _ in seeds]
    for parameter in (parameter for actor in actors for parameter in actor.parameters()):
        torch.nn.init.normal_(parameter, 0, 0.05, chance)
    policies = [DeterministicPolicy(Standardizer(dims[0]), actor, ActionScaler(dims[1])).act for actor in actors]
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
