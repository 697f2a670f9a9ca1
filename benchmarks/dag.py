"""What planning costs: Snakemake's dry run of the paper's matrix and of larger ones, in CPU-seconds and memory.

python benchmarks/dag.py
"""

from __future__ import annotations

import argparse
import re
import tempfile

import yaml
from measuring import PUBLISHED, ROOT, child, write_results

CONFIG = ROOT / "config" / "paper.yaml"
TIMES = (1, 12, 20)
"""By which the seeds of learners and of world models are multiplied."""


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = [dry_run(times) for times in TIMES]
    for row in rows:
        print("{jobs:>7,} jobs  {cpu_seconds:>6.1f} CPU-seconds  {max_rss_mb:>5.0f} MB".format(**row))
    write_results(PUBLISHED / "dag-cpu.json", "python benchmarks/dag.py", "cpu", rows)


def dry_run(times: int) -> dict[str, float]:
    """Of the paper's matrix with so many times its seeds."""
    config = yaml.safe_load(CONFIG.read_text())
    for key in ("seeds", "world_model_seeds"):
        config[key] = list(range(times * len(config[key])))
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(config, file)
        file.flush()
        found = child("-m", "snakemake", "--dry-run", "--quiet", "rules", "--configfile", file.name, cwd=ROOT)
    total = re.search(r"^total\s+(\d+)", found.said, re.M)
    if total is None:
        raise SystemExit("snakemake: expected its number of jobs, found none")
    return {
        "times": times,
        "jobs": int(total[1]),
        "cpu_seconds": round(found.cpu_seconds, 2),
        "max_rss_mb": round(found.largest_memory_mib, 1),
    }


if __name__ == "__main__":
    main()
