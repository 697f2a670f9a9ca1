"""Stage `timings`: how long jobs took and how fast trainings ran; numbers that differ from run to run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from dawm.analysis.style import COLORS, STYLE, save
from dawm.analysis.tables import write_table
from dawm.config import Matrix, as_mapping
from dawm.data.files import only_writer
from dawm.data.sealed import seal, unseal
from dawm.layout import runs, synthetic_sets

FILES = ("rates.csv", "rates.png", "timings.csv")
PROGRESS = re.compile(r": (\d+)/\d+ \(\d+ %\), ([\d,]+)/s,")


def write_timings(results: Path, matrix: Matrix, output: Path) -> None:
    """Writes `output`/timings.csv (wall and CPU time of every computing job, from Snakemake's benchmark files), and
    rates.csv and rates.png: steps per second over the trainings of policies, from their logs; and the seal."""
    names = job_names(results, matrix)
    rates = pd.DataFrame(progress(results / "logs", names), columns=["job", "step", "steps_per_second"])
    with only_writer(output), plt.rc_context(STYLE):
        unseal(output)
        write_table(output / "timings.csv", timings(results / "benchmarks", names))
        write_table(output / "rates.csv", rates)
        figure = draw_rates(rates)
        save(figure, output / "rates.png")
        plt.close(figure)
        seal(output, "timings", files=FILES, settings=as_mapping(matrix), metadata={})


def job_names(results: Path, matrix: Matrix) -> list[str]:
    """Stage and job, as benchmark and log files are named."""
    names = [f"export/{dataset}" for dataset in matrix.datasets]
    for dataset, generator, seed in synthetic_sets(matrix):
        models = ("world-model", "inverse-dynamics", "forward-dynamics", "cloned-policy")
        stages = (*(f"train-{model}" for model in models), "synthesize", "assess")
        names += [f"{stage}/{dataset}/{generator}/seed-{seed}" for stage in stages]
    names += [f"train-policy/{run.slug}" for run in runs(matrix)]
    for arm in dict.fromkeys(Path("train-policy", run.slug).parent for run in runs(matrix)):  # seeds that shared a job
        names += [f"{arm}/{path.stem}" for path in sorted((results / "benchmarks" / arm).glob("seeds-*.tsv"))]
    return names


def timings(folder: Path, names: list[str]) -> pd.DataFrame:
    rows = []
    for name in names:
        # The shards of one synthetic data set are jobs of their own, in a folder of its name.
        for path in [folder / f"{name}.tsv", *sorted((folder / name).glob("*.tsv"))]:
            if path.is_file():
                row = pd.read_csv(path, sep="\t", na_values="-").iloc[0]
                stage, _, job = path.relative_to(folder).with_suffix("").as_posix().partition("/")
                rows.append((stage, job, row["s"], row["cpu_time"], row["max_rss"]))
    return pd.DataFrame(rows, columns=["stage", "job", "wall_seconds", "cpu_seconds", "max_rss_mib"])


def progress(folder: Path, names: list[str]) -> Iterator[tuple[str, int, float]]:
    """(job, step, steps per second since the line before) of the policies' logs."""
    for name in names:
        path = folder / f"{name}.log"
        if name.startswith("train-policy/") and path.is_file():
            for step, rate in PROGRESS.findall(path.read_text(errors="replace")):
                yield name.removeprefix("train-policy/"), int(step), float(rate.replace(",", ""))


def draw_rates(rates: pd.DataFrame) -> Figure:
    """A line for each job, coloured by learner."""
    figure, axes = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
    learners = rates["job"].str.split("/").str[1]
    for color, (learner, jobs) in zip(COLORS, rates.groupby(learners, sort=False), strict=False):
        for place, (_, line) in enumerate(jobs.groupby("job", sort=False)):
            label = str(learner) if place == 0 else None
            axes.plot(line["step"], line["steps_per_second"], color=color, linewidth=0.9, alpha=0.6, label=label)
    axes.set(xlabel="gradient steps", ylabel="steps per second of wall time", ylim=(0, None))
    if len(rates):
        axes.legend()
    return figure
