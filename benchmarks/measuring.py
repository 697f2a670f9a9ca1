"""What the benchmarks share: parts of experiments, clocks, the machine's peak, and what a measurement ends in."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dawm.compute import Compute
from dawm.config import Experiment
from dawm.data.files import write_text
from dawm.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "results" / "published" / "benchmarks"
DOCUMENTS = (
    Path("README.md"),
    *(Path("docs", name) for name in ("results.md", "first-attempt.md", "tuning.md", "agreement.md")),
)
"""Quote published tables."""


def cut(experiment: Experiment, *names: str) -> Experiment:
    """To some of its data sets, in this order, and after them those that they are a part of."""
    wholes = [parent for name in names if (parent := experiment.datasets[name].parent) is not None]
    return dataclasses.replace(experiment, datasets={name: experiment.datasets[name] for name in (*names, *wholes)})


def refuse_unknown(key: str, names: Iterable[str], known: Collection[str]) -> None:
    """InputError for the first of some names that the config does not have."""
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"{key}: expected some of {', '.join(known)}, found {unknown[0]}")


def quote_tables() -> None:
    """In the documents that are there."""
    for document in filter(Path.is_file, DOCUMENTS):
        write_text(document, quoted(document.read_text(encoding="utf-8")))


def quoted(document: str) -> str:
    """The document with every table anew that stands between `<!-- results/published/….md -->` and `<!-- end -->`."""
    place = re.compile(r"(<!-- (results/published/\S+\.md) -->\n).*?(<!-- end -->)", re.DOTALL)
    return place.sub(lambda found: f"{found[1]}{Path(found[2]).read_text(encoding='utf-8')}{found[3]}", document)


class Child(NamedTuple):
    """A process that has ended: all that it wrote, its CPU-seconds with all imports, its largest memory."""

    said: str
    cpu_seconds: float
    largest_memory_mib: float


MEASURED = """
import json, resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print("\\n" + json.dumps([status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""
"""A small process to start others from: Linux counts in a process's largest memory that of the one which started it."""


def child(*arguments: object, cwd: Path | None = None) -> Child:
    """Runs Python with these arguments, on one thread.

    Raises SystemExit with its last line where it fails.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-IS", "-c", MEASURED, sys.executable, *map(str, arguments)]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    run = subprocess.run(command, cwd=cwd, env=variables, check=True, **output)  # type: ignore[call-overload]
    said, numbers = run.stdout.rstrip().rsplit("\n", 1)
    status, cpu_seconds, largest_memory_mib = json.loads(numbers)
    if status:
        sys.exit((said.splitlines() or [f"{arguments}: status {status}"])[-1])
    return Child(said, cpu_seconds, largest_memory_mib)


def clock(device: str) -> float:
    return time.perf_counter() if device == "cuda" else time.process_time()


def matrix_peak(compute: Compute) -> float:
    """FLOP per second of the best square product."""
    best, device = 0.0, compute.device
    for size in (256, 512, 1024) if device == "cpu" else (4096, 8192):
        left, right = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
        for _ in range(5):
            begun = clock(device)
            with compute.arithmetic():
                for _ in range(4):
                    left @ right
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 4 * 2 * size**3 / (clock(device) - begun))
    return best


def line(row: dict[str, Any]) -> str:
    """A record, to be read while the next one is measured."""
    return ", ".join(
        f"{key} {value:,.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )


def cpu_model() -> str:
    """Linux tells it in a file alone."""
    facts = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", facts.read_text(), re.M) if facts.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def write_results(
    path: Path, command: str, device: str, rows: list[dict[str, Any]], versions: Sequence[str] = ("torch", "numpy")
) -> None:
    """JSON with the command, the machine, versions of packages and one record per measurement."""
    machine = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in versions},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    command += " --device cuda" if device == "cuda" else ""
    path.write_text(json.dumps({"command": command, "machine": machine, "rows": rows}, indent=1) + "\n")
