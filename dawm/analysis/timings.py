"""Stage `timings`: how long jobs took and how fast trainings ran; numbers that differ from run to run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from dawm.analysis.style import COLORS, STYLE, save
from dawm.config import Experiment, decisive
from dawm.data.files import only_writer, write_csv
from dawm.data.sealed import PROVENANCE, seal, unseal
from dawm.jobs import Job, every_job
from dawm.layout import Layout
from dawm.spent import benchmark, spent_before

FILES = ("rates.csv", "rates.png", "timings.csv")
PROGRESS = re.compile(r": (\d+)/\d+ \(\d+ %\), ([\d,]+)/s,")


def write_timings(results: Path, experiment: Experiment, output: Path) -> None:
    """Writes `output`/timings.csv (wall and CPU time of the jobs before it, from Snakemake's benchmark files, and what
    earlier attempts of trainings had spent), rates.csv and rates.png (steps per second over the trainings of policies,
    from their logs), and the seal."""
    jobs = every_job(Layout(results), experiment)
    rates = pd.DataFrame(progress(results / "logs", jobs), columns=["job", "step", "steps_per_second"])
    with only_writer(output), plt.rc_context(STYLE):
        unseal(output, "timings")
        write_csv(output / "timings.csv", timings(results / "benchmarks", jobs))
        write_csv(output / "rates.csv", rates)
        figure = draw_rates(rates)
        save(figure, output / "rates.png")
        plt.close(figure)
        seal(output, "timings", files=FILES, settings=decisive(experiment), metadata={})


def timings(folder: Path, jobs: list[Job]) -> pd.DataFrame:
    """Of the jobs whose benchmark file is there."""
    rows = []
    for job in jobs:
        row = benchmark(folder / f"{job.slug}.tsv")
        if row is not None:
            wall, cpu = max(map(spent_before, {output.parent for output in job.outputs}))
            disk = sum(file.stat().st_size for file in written(job)) / 2**20
            rows.append((job.stage, job.name, row["s"] + wall, row["cpu_time"] + cpu, row["max_rss"], disk))
    return pd.DataFrame(rows, columns=["stage", "job", "wall_seconds", "cpu_seconds", "max_rss_mib", "disk_mib"])


def written(job: Job) -> Iterator[Path]:
    """Files that a job left: its shard, or all of its folders that no other job wrote into."""
    for path in filter(Path.is_file, job.outputs):
        if path.name != PROVENANCE:
            yield path
        elif job.stage != "seal-synthetic":
            yield from filter(Path.is_file, path.parent.iterdir())


def progress(folder: Path, jobs: list[Job]) -> Iterator[tuple[str, int, float]]:
    """(job, step, steps per second since the line before) of the policies' logs."""
    for job in jobs:
        path = folder / f"{job.slug}.log"
        if job.stage == "train-policy" and path.is_file():
            for step, rate in PROGRESS.findall(path.read_text(errors="replace")):
                yield job.name, int(step), float(rate.replace(",", ""))


def draw_rates(rates: pd.DataFrame) -> Figure:
    """A line for each job, coloured by learner."""
    figure, axes = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
    learners = rates["job"].str.split("/").str[1]
    for color, (learner, group) in zip(COLORS, rates.groupby(learners, sort=False), strict=False):
        for place, (_, line) in enumerate(group.groupby("job", sort=False)):
            label = str(learner) if place == 0 else None
            axes.plot(line["step"], line["steps_per_second"], color=color, linewidth=0.9, alpha=0.6, label=label)
    axes.set(xlabel="gradient steps", ylabel="steps per second of wall time", ylim=(0, None))
    if len(rates):
        axes.legend()
    return figure
