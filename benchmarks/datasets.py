"""What data sets cost, beside d4rl's and Minari's readers: CPU-seconds, memory and disk for a million Hopper rows.

    python benchmarks/datasets.py            # prints a table, writes results/published/benchmarks/datasets-cpu.json

Every measurement is a process of its own, so that its CPU-seconds and its largest memory are its own. The rows are
collected first (local/hopper-medium), which takes some minutes and is measured too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STEPS, REPEATS = 10_000, 5
VERSIONS = ("numpy", "pyarrow", "h5py", "torch", "mujoco", "gymnasium", "minari", "d4rl")


# --- measured in a process of their own ---------------------------------------------------------------------------


def collect(folder: Path, rows: int) -> dict[str, Any]:
    """The simulator → sealed Parquet."""
    from dawm.config import ExportSettings
    from dawm.data.export import export

    export(ExportSettings(source="local/hopper-medium", transitions=rows), folder)
    return {}


def export_hdf5(folder: Path, source: Path) -> dict[str, Any]:
    """HDF5 in D4RL's layout → sealed Parquet."""
    from dawm.config import EnvironmentSettings, ExportSettings
    from dawm.data.export import export

    export(ExportSettings(source=f"hdf5:{source}", environment=EnvironmentSettings(id="Hopper-v4")), folder)
    return disk(folder)


def read_tensors(folder: Path) -> dict[str, Any]:
    """Sealed Parquet, verified → the tensors that a learner draws from."""
    import torch

    from dawm.data.sealed import open_sealed
    from dawm.data.transitions import read_transitions

    torch.set_num_threads(1)
    begun = time.process_time()
    transitions = read_transitions(open_sealed(folder, "dataset"), states=False)
    names = ("observation", "action", "reward", "next_observation", "discount")
    tensors = [torch.from_numpy(getattr(transitions, name)) for name in names]
    return {"rows": len(tensors[0]), "cpu_seconds": time.process_time() - begun}


def read_d4rl(source: Path) -> dict[str, Any]:
    """d4rl.qlearning_dataset on the same file."""
    import dawm.environments.d4rl  # its environments on today's MuJoCo; before d4rl, which it imports quietly

    d4rl, gym = dawm.environments.d4rl.d4rl, dawm.environments.d4rl.gym

    begun = time.process_time()
    environment = gym.make("hopper-medium-v2")
    found = d4rl.qlearning_dataset(environment, dataset=environment.get_dataset(h5path=str(source)))
    return {"rows": len(found["rewards"]), "cpu_seconds": time.process_time() - begun}


def read_minari(name: str) -> dict[str, Any]:
    """Minari's reader: every episode of the same rows as arrays."""
    import minari
    import numpy as np

    begun = time.process_time()
    episodes = list(minari.load_dataset(name).iterate_episodes())
    observations = np.concatenate([episode.observations[:-1] for episode in episodes])
    successors = np.concatenate([episode.observations[1:] for episode in episodes])
    return {"rows": min(len(observations), len(successors)), "cpu_seconds": time.process_time() - begun}


def simulate(task_name: str) -> dict[str, Any]:
    """Steps per CPU-second: the bare simulator with the very actions that the collector took, and the collector."""
    from dawm.data.sources.local import behaviour_files, collect
    from dawm.environments.behaviour import BehaviourPolicy
    from dawm.environments.tasks import TASKS
    from dawm.randomness import derived_seed

    task = TASKS[task_name]
    policies = {"medium": [BehaviourPolicy.load(path) for path in behaviour_files(task_name, "medium")]}
    bare, collected = [], []
    for _ in range(REPEATS):
        begun = time.process_time()
        blocks = list(collect(task, policies, {"medium": STEPS}, seed=0))
        collected.append(STEPS / (time.process_time() - begun))
        environment, episode = task.make(), 0
        begun = time.process_time()
        environment.reset(seed=derived_seed(0, "reset", task_name, "medium", episode))
        for block in blocks:
            for action, last in zip(block["action"], block["terminal"] | block["timeout"], strict=True):
                environment.step(action)
                if last:
                    episode += 1
                    environment.reset(seed=derived_seed(0, "reset", task_name, "medium", episode))
        bare.append(STEPS / (time.process_time() - begun))
    ratios = [mine / theirs for mine, theirs in zip(collected, bare, strict=True)]
    return {
        "bare_steps_per_cpu_second": statistics.median(bare),
        "collected_steps_per_cpu_second": statistics.median(collected),
        "share_of_bare": statistics.median(ratios),
    }


MEASUREMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "collect": lambda folder, rows: collect(Path(folder), int(rows)),
    "export_hdf5": lambda folder, source: export_hdf5(Path(folder), Path(source)),
    "read_tensors": lambda folder: read_tensors(Path(folder)),
    "read_d4rl": lambda source: read_d4rl(Path(source)),
    "read_minari": read_minari,
    "simulate": simulate,
}


def disk(folder: Path) -> dict[str, Any]:
    """Bytes of the shards, as shares of the same columns as raw numbers: all, and the float32 that a learner reads."""
    import pyarrow.parquet as pq

    stored = raw = learned = learned_raw = 0
    for path in folder.glob("*.parquet"):
        metadata = pq.ParquetFile(path).metadata
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                size = {"FLOAT": 4, "DOUBLE": 8, "BOOLEAN": 1}.get(column.physical_type, 0) * column.num_values
                name = column.path_in_schema.split(".")[0]
                stored, raw = stored + column.total_compressed_size, raw + size
                if name in ("observation", "action", "reward", "next_observation", "discount"):
                    learned, learned_raw = learned + column.total_compressed_size, learned_raw + size
    return {"share_of_raw": stored / raw, "share_of_raw_float32": learned / learned_raw, "bytes": stored}


# --- the run ------------------------------------------------------------------------------------------------------


def measured(name: str, *arguments: object, **environment: str) -> dict[str, Any]:
    """Runs a measurement in a process of its own: its CPU-seconds with all imports, its largest memory in MiB."""
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", name, *map(str, arguments)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    run = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    print(name, *arguments, found, file=sys.stderr, flush=True)
    return found


def report_of_this_process(name: str, arguments: list[str]) -> None:
    found = MEASUREMENTS[name](*arguments)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    total = {"process_cpu_seconds": usage.ru_utime + usage.ru_stime, "largest_memory_mib": usage.ru_maxrss / 1024}
    print(json.dumps({**total, **found}))


def run(rows: int, work: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "dawm", "export-to"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    found: list[dict[str, Any]] = []

    def add(what: str, count: int | None, result: dict[str, Any]) -> None:
        found.append({"what": what, "rows": count, **{key: value for key, value in result.items() if key != "rows"}})

    for count in (rows // 4, rows):
        folder, source, minari = work / f"collected-{count}", work / f"hopper-{count}.hdf5", work / f"minari-{count}"
        add("collect", count, measured("collect", folder, count))
        for kind, output in (("d4rl-hdf5", source), ("minari", minari)):
            options = ["--id", "bench/hopper-v0"] if kind == "minari" else []
            subprocess.run([*command, kind, "--dataset", str(folder), "--output", str(output), *options],
                           env=variables, check=True, stdout=sys.stderr)  # fmt: skip
        for _ in range(3 if count == rows else 1):  # interleaved
            add("export_hdf5", count, measured("export_hdf5", work / f"exported-{count}", source))
            add("read_tensors", count, measured("read_tensors", work / f"exported-{count}"))
            add("read_d4rl", count, measured("read_d4rl", source))
            add("read_minari", count, measured("read_minari", "bench/hopper-v0", MINARI_DATASETS_PATH=str(minari)))
    for task in ("hopper", "halfcheetah", "walker2d"):
        found.append({"what": "simulate", "task": task, **measured("simulate", task)})
    return found


def medians(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per (what, rows, task): the median of every number."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in found:
        groups.setdefault((row["what"], row.get("rows"), row.get("task")), []).append(row)
    result = []
    for (what, rows, task), same in groups.items():
        numbers = [key for key, value in same[0].items() if isinstance(value, float | int) and key != "rows"]
        row = {"what": what, **({"rows": rows} if rows else {}), **({"task": task} if task else {})}
        result.append(row | {key: statistics.median(item[key] for item in same) for key in numbers})
    return result


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| what | rows | CPU-seconds | of it imports | largest memory, MiB | disk, share of raw float32 |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        if row["what"] == "simulate":
            continue
        total = row["process_cpu_seconds"]
        inner = f"{total - row['cpu_seconds']:.1f}" if "cpu_seconds" in row else ""
        share = f"{row['share_of_raw_float32']:.2f}" if "share_of_raw_float32" in row else ""
        lines.append(
            f"| {row['what']} | {row['rows']:,} | {total:.1f} | {inner} | {row['largest_memory_mib']:,.0f} | {share} |"
        )
    lines += ["", "| task | bare simulator, steps per CPU-second | collecting | share |", "|---|---:|---:|---:|"]
    for row in rows:
        if row["what"] == "simulate":
            bare, mine = row["bare_steps_per_cpu_second"], row["collected_steps_per_cpu_second"]
            lines.append(f"| {row['task']} | {bare:,.0f} | {mine:,.0f} | {100 * row['share_of_bare']:.0f} % |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.measure:
        report_of_this_process(parsed.measure[0], parsed.measure[1:])
        return
    from measuring import PUBLISHED, write_results  # not above: it imports torch, which no measurement shall pay for

    with tempfile.TemporaryDirectory() as work:
        rows = medians(run(parsed.rows, Path(work)))
    output = parsed.output or PUBLISHED / "datasets-cpu.json"
    write_results(output, "python benchmarks/datasets.py", "cpu", rows, VERSIONS)
    print(table(rows))


if __name__ == "__main__":
    main()
