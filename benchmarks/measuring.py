"""What the benchmarks share: clocks, the machine's peak, and the file that a measurement ends in."""

from __future__ import annotations

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dawm.compute import Compute

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "results" / "published" / "benchmarks"


def clock(device: str) -> float:
    return time.perf_counter() if device == "cuda" else time.process_time()


def matrix_peak(compute: Compute) -> float:
    """FLOP per second of the best square product."""
    best, device = 0.0, compute.device
    for size in (256, 512, 1024) if device == "cpu" else (4096, 8192):
        left, right = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
        for _ in range(5):
            begun = clock(device)
            with compute.precise():
                for _ in range(4):
                    left @ right
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 4 * 2 * size**3 / (clock(device) - begun))
    return best


def write_results(path: Path, command: str, device: str, rows: list[dict[str, Any]]) -> None:
    """JSON with the command, the machine, versions and one record per measurement."""
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "numpy")},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    command += " --device cuda" if device == "cuda" else ""
    path.write_text(json.dumps({"command": command, "machine": machine, "rows": rows}, indent=1) + "\n")
