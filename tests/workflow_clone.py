"""Clones of the workflow to run and to spoil."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from dawm.spent import SPENT

ROOT = Path(__file__).resolve().parents[1]
TRAVELS = ("Snakefile", "workflow", "dawm", "config", "profiles", "environment.yml")


def clone(folder: Path) -> Path:
    """The workflow's files in a path with a space in it, with the tiny config."""
    target = folder / "a clone"
    target.mkdir()
    for name in TRAVELS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    shutil.copy(ROOT / "tests" / "tiny.yaml", target / "tiny.yaml")
    return target


def command(*options: str, config: str | None = "tiny.yaml") -> list[str]:
    chosen = ["--configfile", config] if config else []
    return [sys.executable, "-m", "snakemake", "--cores", "2", *chosen, *options]


def snakemake(folder: Path, *options: str, config: str | None = "tiny.yaml") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*options, config=config), cwd=folder, capture_output=True, text=True, timeout=900)


def files(folder: Path) -> dict[str, bytes]:
    """What must be the same bytes each time: everything but logs, wall times and the scheduler's own notes."""
    results = folder / "results" / "tiny"
    skipped = {"logs", "benchmarks", "timings", "provenance.json"}  # the last one is the report's, which tells them
    found = {
        str(path.relative_to(results)): path.read_bytes()
        for path in sorted(results.rglob("*"))
        if path.is_file() and path.relative_to(results).parts[0] not in skipped and path.name != SPENT
    }
    cost = re.compile(rb'<section id="cost">.*?</section>', re.S)
    assert len(cost.findall(found["report.html"])) == 1
    return found | {"report.html": cost.sub(b"", found["report.html"])}
