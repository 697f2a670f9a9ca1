"""How long a job has worked: what Snakemake measured of it, and what a training had spent in earlier attempts, which it
tells beside its checkpoint, in no sealed file.

A scheduler measures the attempt that succeeds. What was killed, pre-empted or out of time before it was work as well.
"""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import time
from pathlib import Path
from typing import Any

from dawm.data.files import write_json

SPENT = ".spent.json"
_STARTED = time.monotonic()
_ATTEMPT = f"{platform.node()}-{os.getpid()}-{time.time_ns()}"


def note_spent(folder: Path, run: str) -> None:
    """Writes how long this process has worked so far, after what earlier ones wrote of the same run (its digest)."""
    before, earlier = _read(folder)
    if before != run:
        earlier = []
    now = {
        "attempt": _ATTEMPT,
        "wall_seconds": round(time.monotonic() - _STARTED, 3),
        "cpu_seconds": round(sum(os.times()[:4]), 3),
    }
    attempts = [one for one in earlier if one["attempt"] != _ATTEMPT]
    write_json(folder / SPENT, {"run": run, "attempts": [*attempts, now]})


def spent_before(folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of all attempts but the last, up to what each of them kept."""
    earlier = _read(folder)[1][:-1]
    return sum(one["wall_seconds"] for one in earlier), sum(one["cpu_seconds"] for one in earlier)


def benchmark(path: Path) -> dict[str, float] | None:
    """Of a job's benchmark file `s` (wall time) and `cpu_time`, seconds, and `max_rss`, MiB, NaN where it says none.
    None where the file is missing or damaged, since nothing depends on it."""
    try:
        with open(path, newline="") as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        wall = float(row["s"])
        return {"s": wall, **{name: _number(row.get(name)) for name in ("cpu_time", "max_rss")}} if wall >= 0 else None
    except (OSError, ValueError, TypeError, KeyError, StopIteration, csv.Error):
        return None


def _number(text: str | None) -> float:
    return math.nan if text in (None, "", "-", "NA") else float(text)


def _read(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """The run and its attempts: none where the file is missing or damaged, since nothing depends on it."""
    try:
        told = json.loads((folder / SPENT).read_text())
        attempts = [
            {
                "attempt": str(one["attempt"]),
                "wall_seconds": float(one["wall_seconds"]),
                "cpu_seconds": float(one["cpu_seconds"]),
            }
            for one in told["attempts"]
        ]
        return str(told["run"]), attempts
    except (OSError, ValueError, TypeError, KeyError):
        return "", []
