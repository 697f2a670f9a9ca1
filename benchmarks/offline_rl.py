"""Gradient steps of TD3+BC and IQL: ours, d3rlpy's and the machine's peak, in one interleaved run.

    python benchmarks/offline_rl.py --d3rlpy PYTHON          # CPU-seconds on one thread, half an hour
    python benchmarks/offline_rl.py --device cuda            # many seeds in one process: benchmarks/gpu.sh

PYTHON is the interpreter of d3rlpy's environment (benchmarks/d3rlpy_training.py); without it d3rlpy is left out. A step
of ours is the workflow's: rows drawn and gathered from a table, encoded, one update. Prints what it measures and writes
results/published/benchmarks/offline_rl-{cpu,cuda}.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import PUBLISHED, ROOT, clock, line, matrix_peak, write_results
from torch.utils.flop_counter import FlopCounterMode

from dawm.compute import CPU, Compute
from dawm.config import IQLSettings, LearnerSettings, TD3BCSettings
from dawm.data.normalizers import ActionScaler, Standardizer
from dawm.data.table import Table
from dawm.offline_rl.batches import Mixture, Units
from dawm.offline_rl.draws import normal_draws
from dawm.offline_rl.graphs import GradientStep, GraphedSteps
from dawm.offline_rl.iql import IQL
from dawm.offline_rl.td3_bc import TD3BC

DIMENSIONS = {"hopper": (11, 3), "halfcheetah": (17, 6)}
LEARNERS: dict[str, tuple[Any, LearnerSettings]] = {"td3_bc": (TD3BC, TD3BCSettings()), "iql": (IQL, IQLSettings())}
ROUNDS = 5
ROWS = 1_000_000  # as in D4RL's medium sets


@dataclass(frozen=True)
class Case:
    """A learner in the dimensions of a task, on a table of random rows, half of a batch from a second one."""

    learner: str
    task: str = "hopper"
    hidden: int = 256
    batch_size: int = 256
    rows: int = ROWS
    seeds: int = 1
    compute: Compute = CPU


def random_table(task: str, rows: int) -> Table:
    observation_dim, action_dim = DIMENSIONS[task]
    rng = np.random.default_rng(0)
    values = rng.standard_normal((rows, 2 * observation_dim + action_dim + 2), dtype=np.float32)
    values[:, observation_dim : observation_dim + action_dim].clip(
        -1, 1, out=values[:, observation_dim:][:, :action_dim]
    )
    values[:, -1] = 1
    return Table(values, observation_dim, action_dim, np.array([0, rows]))


class Steps:
    """Successive gradient steps of a case; its parts can be called alone."""

    def __init__(self, case: Case) -> None:
        kind, settings = LEARNERS[case.learner]
        self.settings = dataclasses.replace(settings, hidden=case.hidden, batch_size=case.batch_size)
        self.compute, device = case.compute, case.compute.device
        real, synthetic = (random_table(case.task, count) for count in (case.rows, case.rows))
        dims = real.observation_dim, real.action_dim
        seeds = range(case.seeds)
        units = Units(Standardizer(dims[0]), ActionScaler(dims[1]), 1.0)
        self.mixture = Mixture(real, [synthetic] * case.seeds, 0.5, units, seeds, case.batch_size, device)
        chance = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.learner = kind.create(self.settings, *dims, chance, device)
        shape = (case.batch_size if self.learner.noisy else 0, dims[1])
        self.noise = normal_draws(seeds, "target-noise", shape, device)
        self.gradient_step: GradientStep = self.plain_step
        if case.compute.compile == "graphs" and device == "cuda":
            period = self.learner.period(self.settings)
            self.gradient_step = GraphedSteps(self.plain_step, self.learner.state(), period)
        self.count = 0

    def plain_step(self, numbers: torch.Tensor, noise: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        return self.learner.update(self.mixture.gather(numbers), noise, step, self.settings)

    def run(self, count: int) -> None:
        with self.compute.arithmetic():
            for step in range(self.count, self.count + count):
                self.learner.schedule(step % self.settings.gradient_steps, self.settings)
                self.gradient_step(self.mixture.draws.at(step), self.noise.at(step), step)
        self.count += count
        if self.compute.device == "cuda":
            torch.cuda.synchronize()

    def sample(self, count: int) -> None:
        """What of the steps is no update: drawing rows and noise, gathering, encoding."""
        for step in range(self.count, self.count + count):
            self.mixture.gather(self.mixture.draws.at(step))
            self.noise.at(step)
        self.count += count

    def flops(self) -> float:
        """Of the matrix products of a step, on average."""
        with FlopCounterMode(display=False) as counter:
            for step in range(2):
                self.plain_step(self.mixture.draws.at(step), self.noise.at(step), step)
        return counter.get_total_flops() / 2


def rate(work: Callable[[int], None], count: int, device: str = "cpu") -> float:
    """Calls per second of CPU time, or of wall time on a GPU."""
    begun = clock(device)
    work(count)
    return count / (clock(device) - begun)


# --- d3rlpy -------------------------------------------------------------------------------------------------------


def write_hdf5(path: Path, task: str) -> None:
    import h5py

    table = random_table(task, ROWS)
    observation, action, reward, _, _ = np.split(table.rows, np.cumsum(table.widths)[:-1], axis=1)
    timeouts = np.arange(1, ROWS + 1) % 1000 == 0
    columns = {"observations": observation, "actions": action, "rewards": reward[:, 0], "timeouts": timeouts}
    with h5py.File(path, "w") as file:
        for name, values in (columns | {"terminals": np.zeros(ROWS, bool)}).items():
            file[name] = values


def their_rate(python: str, data: Path, case: Case, count: int, work: Path) -> float:
    """d3rlpy's steps per CPU-second in its own training loop, once it runs."""
    script = [python, ROOT / "benchmarks" / "d3rlpy_training.py", data, "--algorithm", case.learner]
    options = ["--steps", count, "--snapshot-every", count, "--output", work / "d3rlpy"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([str(word) for word in (*script, *options)], check=True, capture_output=True, env=environment)
    return 1 / json.loads((work / "d3rlpy" / "seconds.json").read_text())["seconds_per_step"]


# --- measurements -------------------------------------------------------------------------------------------------


def measure_steps(cases: list[Case], python: str | None, count: int) -> Iterator[dict[str, Any]]:
    """Interleaved: in each round the peak, then every case of ours and of d3rlpy's once."""
    steps = {case: Steps(case) for case in cases}
    for one in steps.values():
        one.run(20)
    found: dict[tuple[str, Case], list[float]] = {}
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = {task: work / f"{task}.hdf5" for task in {case.task for case in cases}}
        if python:
            for task, path in data.items():
                write_hdf5(path, task)
        for _ in range(ROUNDS):
            peaks.append(matrix_peak(CPU))
            for case, one in steps.items():
                found.setdefault(("dawm", case), []).append(rate(one.run, count))
                found.setdefault(("sampling", case), []).append(rate(one.sample, count))
                if python:
                    theirs = their_rate(python, data[case.task], case, count, work)
                    found.setdefault(("d3rlpy", case), []).append(theirs)
    peak = statistics.median(peaks)
    yield {"what": "peak", "flops_per_second": peak, "lowest": min(peaks), "highest": max(peaks)}
    for case, one in steps.items():
        flops = one.flops()
        ours = found["dawm", case]
        for system in ("dawm", "d3rlpy")[: 2 if python else 1]:
            rates = found[system, case]
            yield {
                "what": "step",
                "system": system,
                **facts(case),
                "flops_per_step": flops,
                "steps_per_cpu_second": statistics.median(rates),
                "lowest": min(rates),
                "highest": max(rates),
                "share_of_peak": statistics.median(rates) * flops / peak,
                "slower_than_dawm": statistics.median(a / b for a, b in zip(ours, rates, strict=True)),
            }
        share = statistics.median(ours) / statistics.median(found["sampling", case])
        yield {"what": "sampling", **facts(case), "share_of_step": share}


def facts(case: Case) -> dict[str, Any]:
    values = {name: getattr(case, name) for name in ("learner", "hidden", "batch_size", "rows", "seeds")}
    how = case.compute
    return {"dimensions": case.task, "threads": 1, **values, "precision": how.precision, "compile": how.compile}


def measure_scaling(cases: list[Case], device: str, count: int) -> Iterator[dict[str, Any]]:
    """Each case by itself, medians of interleaved rounds."""
    steps = [Steps(case) for case in cases]
    for one in steps:
        one.run(20)
    found: list[list[float]] = [[] for _ in cases]
    for _ in range(3):
        for one, rates in zip(steps, found, strict=True):
            rates.append(rate(one.run, count, device))
    unit = "second" if device == "cuda" else "cpu_second"
    for case, rates in zip(cases, found, strict=True):
        yield {
            "what": "scaling",
            **facts(case),
            f"steps_per_{unit}": statistics.median(rates),
            f"seed_steps_per_{unit}": statistics.median(rates) * case.seeds,
        }


def measure_processes(count: int) -> Iterator[dict[str, Any]]:
    """The default step in one process and in two at a time, in turn: together per second, each one's per CPU-second."""
    program = (
        "import sys, time, torch; sys.path[:0] = sys.argv[1:3]; torch.set_num_threads(1)\n"
        "from offline_rl import Case, Steps\n"
        "steps = Steps(Case('td3_bc')); steps.run(20)\n"
        "wall, cpu = time.perf_counter(), time.process_time(); steps.run(int(sys.argv[3]))\n"
        "print(time.perf_counter() - wall, time.process_time() - cpu)"
    )
    command = [sys.executable, "-c", program, str(ROOT / "benchmarks"), str(ROOT), str(count)]
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for processes, rates in found.items():
            started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
            times = [[float(word) for word in process.communicate()[0].split()] for process in started]
            each = statistics.mean(count / cpu for _, cpu in times)
            rates.append((sum(count / wall for wall, _ in times), each))
    for processes, rates in found.items():
        together, each = (statistics.median(values) for values in zip(*rates, strict=True))
        yield {
            "what": "processes",
            "processes": processes,
            "steps_per_second": together,
            "steps_per_cpu_second": each,
        }


def measure_opening(rows: int) -> Iterator[dict[str, Any]]:
    """A synthetic set of `rows` is opened for the first time, again, and by two processes at once."""
    from dawm.data.sealed import seal
    from dawm.data.transitions import NOT_APPLICABLE, Transitions, write_shard
    from dawm.layout import shard_name

    rng = np.random.default_rng(0)
    observation_dim, action_dim = DIMENSIONS["hopper"]
    count = 20
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "synthetic"
        for number in range(count):
            n = rows // count
            none = np.full(n, NOT_APPLICABLE, np.int32)
            shard = Transitions(
                rng.standard_normal((n, observation_dim), dtype=np.float32),
                rng.standard_normal((n, action_dim), dtype=np.float32),
                rng.standard_normal(n, dtype=np.float32),
                rng.standard_normal((n, observation_dim), dtype=np.float32),
                np.ones(n, np.float32),
                *(np.zeros(n, bool), np.zeros(n, bool), none, none),
                *(np.arange(n), np.ones(n, np.int16)),
            )
            write_shard(folder / shard_name(number, count), shard)
        dims = {"observation_dim": observation_dim, "action_dim": action_dim, "rows": rows}
        names = [shard_name(number, count) for number in range(count)]
        seal(folder, "synthetic", files=names, settings={}, metadata=dims)
        program = (
            "import sys, time; sys.path.insert(0, sys.argv[1])\n"
            "from pathlib import Path\n"
            "from dawm.data.sealed import open_sealed; from dawm.data.table_cache import open_table\n"
            "sealed = open_sealed(Path(sys.argv[2]), 'synthetic')\n"
            "wall, cpu = time.perf_counter(), time.process_time(); table = open_table(sealed)\n"
            "print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)\n"
            "table.rows.sum(); print('read', flush=True); sys.stdin.readline()\n"
            "inside, share = False, 0\n"
            "for line in open('/proc/self/smaps'):\n"
            "    words = line.split()\n"
            "    if '-' in words[0]: inside = words[-1].endswith('.float32')\n"
            "    elif inside and words[0] == 'Pss:': share += int(words[1]) * 1024\n"
            "print(share, table.rows.nbytes, flush=True); sys.stdin.readline()"
        )
        command = [sys.executable, "-c", program, str(ROOT), str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DAWM_CACHE": str(Path(work) / "cache")}

        def start() -> subprocess.Popen[str]:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            return subprocess.Popen(command, env=environment, **pipes)  # type: ignore[call-overload]

        for opened, processes in (("first time", 1), ("again", 1), ("again", 2)):
            started = [start() for _ in range(processes)]
            times = []
            for process in started:
                times.append([float(word) for word in process.stdout.readline().split()])
                process.stdout.readline()
            ends = []
            for process in started:  # all of them are there while each one tells its share
                process.stdin.write("\n")
                process.stdin.flush()
                ends.append(process.stdout.readline().split())
            for process in started:
                process.communicate("\n")
            yield {
                "what": "opening",
                "rows": rows,
                "opened": opened,
                "processes": processes,
                "seconds": max(wall for wall, _ in times),
                "cpu_seconds": max(cpu for _, cpu in times),
                "share_of_float32": sum(int(end[0]) for end in ends) / int(ends[0][1]),  # of all processes together
            }


def measure_run() -> Iterator[dict[str, Any]]:
    """Whole runs as the workflow makes them: what of their CPU time is loading, evaluation, update."""
    from dawm.config import ExportSettings
    from dawm.data.export import export
    from dawm.offline_rl import training

    with tempfile.TemporaryDirectory() as work:
        data = Path(work) / "dataset"
        export(ExportSettings(source="local/hopper-medium", transitions=100_000), data)
        for name, (_, settings) in LEARNERS.items():
            shorter = dataclasses.replace(settings, gradient_steps=10_000)
            times = {"evaluate": 0.0, "update": 0.0}
            begun = time.process_time()
            job = training.PolicyRun(0, None, Path(work) / name)
            kept = {part: getattr(training.PolicyTraining, part) for part in times}

            def timed(part: str, whole: Any, times: dict[str, float] = times) -> Any:
                def call(*arguments: Any) -> Any:
                    start = time.process_time()
                    result = whole(*arguments)
                    times[part] += time.process_time() - start
                    return result

                return call

            for part, whole in kept.items():
                setattr(training.PolicyTraining, part, timed(part, whole))
            training.train_policies(name, data, shorter, 1.0, [job])
            for part, whole in kept.items():
                setattr(training.PolicyTraining, part, whole)
            total = time.process_time() - begun
            yield {
                "what": "run",
                "learner": name,
                "steps": shorter.gradient_steps,
                "cpu_seconds": total,
                "update_share": times["update"] / total,
                "evaluation_share": times["evaluate"] / total,
                "steps_per_cpu_second": shorter.gradient_steps / total,
            }


# --- the run ------------------------------------------------------------------------------------------------------


def on_a_cpu(python: str | None) -> Iterator[dict[str, Any]]:
    yield from measure_steps([Case(learner, task) for task in DIMENSIONS for learner in LEARNERS], python, 300)
    yield from measure_scaling(
        [
            *(Case("td3_bc", hidden=hidden) for hidden in (64, 128, 256, 512)),
            *(Case("td3_bc", batch_size=size) for size in (64, 128, 512, 1024)),
            *(Case("td3_bc", rows=rows) for rows in (10_000, 1_000_000, 2_500_000)),
            *(Case("td3_bc", seeds=seeds) for seeds in (2, 5)),
        ],
        "cpu",
        100,
    )
    yield from measure_processes(600)
    yield from measure_opening(5_000_000)
    yield from measure_run()


def on_a_gpu() -> Iterator[dict[str, Any]]:
    """Rates for 1 to 50 seeds in float32 and TF32, launched one by one and as graphs."""
    for precision in ("float32", "tf32"):
        for compile in ("none", "graphs"):
            compute = Compute("cuda", precision, compile)  # type: ignore[arg-type]
            peak = matrix_peak(compute)
            yield {"what": "peak", "precision": precision, "compile": compile, "flops_per_second": peak}
            for learner in LEARNERS:
                for seeds in (1, 2, 5, 10, 20, 50):
                    case = Case(learner, seeds=seeds, compute=compute)
                    (row,) = measure_scaling([case], "cuda", 400)
                    flops = Steps(dataclasses.replace(case, seeds=1, compute=CPU)).flops() * seeds
                    share = row["steps_per_second"] * flops / peak
                    minutes = 1_000_000 / row["steps_per_second"] / 60
                    yield row | {"share_of_peak": share, "minutes_for_a_million_steps": minutes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--d3rlpy", metavar="PYTHON")
    parser.add_argument("--output", type=Path)
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    if parsed.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    rows = []
    for row in on_a_cpu(parsed.d3rlpy) if parsed.device == "cpu" else on_a_gpu():
        rows.append(row)
        print(line(row), flush=True)
    command = f"python benchmarks/offline_rl.py{' --d3rlpy PYTHON' if parsed.d3rlpy else ''}"
    write_results(parsed.output or PUBLISHED / f"offline_rl-{parsed.device}.json", command, parsed.device, rows)


if __name__ == "__main__":
    main()
