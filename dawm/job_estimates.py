"""`plan`: how long an experiment will take on so many machines, from the times that other experiments' jobs took."""

from __future__ import annotations

import heapq
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dawm.config import D4RL, LOCAL, LOCOMOTION, RANDOM, RANDOM_TRANSITIONS, Experiment, as_mapping, load_experiment
from dawm.errors import InputError, one_line
from dawm.jobs import REPORT, Job, every_job, jobs
from dawm.layout import Layout
from dawm.progress import clock

ON_GPU = (
    *("train-world-model", "train-inverse-dynamics", "train-forward-dynamics", "train-cloned-policy"),
    *("train-policy", "synthesize"),
)
"""Stages that the SLURM profile sends to GPUs."""
QUEUED = 10.0
"""Seconds that a cluster's job costs beside its work (facts of SLURM's plugin); none on one machine."""
STARTED = 1.8
"""Seconds that a job's Python takes before its work, whatever that is."""
GROWTH = {
    "gradient_steps": 1.0,
    "batch_size": 0.85,  # as measured for TD3+BC from 64 to 1,024 rows (docs/performance.md)
    "hidden": 1.7,  # and widths from 128 to 512
    "members": 1.0,
    "transitions": 1.0,
    "rows_cost": 1.0,
    "trajectories": 1.0,
    "sampling_steps": 1.0,
    "seeds": 1.0,
}
"""Exponents by which time follows a setting; all others count as equal or not."""
COLLECTED = 36.0
"""How many times as long rows take that a simulator makes as those of a file (docs/datasets.md)."""
HOW_LONG = ("gradient_steps", "batch_size")
DISK_GROWTH = {"transitions": 1.0, "trajectories": 1.0, "seeds": 1.0, "hidden": 2.0, "members": 1.0}


@dataclass(frozen=True)
class Measurement:
    """A job that ran: what its duration depends on, CPU-seconds, MiB that it left (NaN: not known)."""

    stage: str
    traits: Mapping[str, Any]
    seconds: float
    disk: float


@dataclass(frozen=True)
class Estimate:
    """Of a job: seconds and MiB (NaN: of its stage none was measured); exact: whether a job of the same settings, but
    for their amount, was measured."""

    job: Job
    seconds: float
    disk: float
    exact: bool


@dataclass(frozen=True)
class Plan:
    """Of an experiment: an estimate for each job, and the seconds from its start to its end on `gpus` and `cores`."""

    experiment: str
    estimates: list[Estimate]
    unknown: list[Job]
    gpus: int
    cores: int
    makespan: float

    def lines(self) -> Iterator[str]:
        on_gpu = sum(one.seconds for one in self.estimates if one.job.stage in ON_GPU)
        on_cpu = sum(one.seconds for one in self.estimates) - on_gpu
        yield f"{self.experiment}: {len(self.estimates) + len(self.unknown)} jobs"
        yield f"\n{'stage':<24}{'jobs':>7}{'each':>10}{'together':>12}{'disk':>11}"
        for stage in dict.fromkeys(one.job.stage for one in self.estimates):
            chosen = [one for one in self.estimates if one.job.stage == stage]
            seconds, disk = sum(one.seconds for one in chosen), sum(one.disk for one in chosen)
            note = "" if all(one.exact for one in chosen) else "  scaled from other settings"
            each, together = clock(seconds / len(chosen)), clock(seconds)
            yield f"{stage:<24}{len(chosen):>7}{each:>10}{together:>12}{gib(disk):>11}{note}"
        if self.unknown:
            stages = ", ".join(dict.fromkeys(job.stage for job in self.unknown))
            yield f"not measured, counted as nothing: {stages} ({len(self.unknown)} jobs)"
        left = gib(sum(one.disk for one in self.estimates if not math.isnan(one.disk)))
        if self.gpus:
            yield f"\n{clock(on_gpu)} on GPUs and {clock(on_cpu)} on cores together; {left}"
            yield f"{clock(self.makespan)} from start to end on {self.gpus} GPUs and {self.cores} cores"
        else:
            yield f"\n{clock(on_gpu + on_cpu)} on cores together; {left}"
            yield f"{clock(self.makespan)} from start to end on {self.cores} cores"


def gib(mib: float) -> str:
    return "–" if math.isnan(mib) else f"{mib / 1024:.1f} GiB"


def plan(config: Path, measured: Sequence[Path], gpus: int, cores: int, targets: Sequence[str] = REPORT) -> Plan:
    """Of what `targets` ask for. measured: folders of experiments, each with its config.yaml and timings/timings.csv;
    gpus: 0 runs all on cores.

    Raises InputError where nothing was measured.
    """
    experiment = load_experiment(config)
    known = [one for folder in measured for one in measurements(folder)]
    if not known:
        raise InputError("--measured: expected a folder with config.yaml and timings/timings.csv, found none")
    estimates, unknown = [], []
    planned = jobs(Layout.of(experiment.experiment), experiment, targets)
    for job in planned:
        found = estimate(job, traits(job, experiment), known)
        unknown += [] if found else [job]
        estimates += [found] if found else []
    seconds = {one.job.slug: one.seconds + (QUEUED if gpus else 0.0) for one in estimates}
    return Plan(experiment.experiment, estimates, unknown, gpus, cores, makespan(planned, seconds, gpus, cores))


def measured_below(results: Path) -> list[Path]:
    """Experiments whose times are there and can be read; says which cannot, such as those of another version."""
    found = []
    for path in sorted(results.glob("**/timings/timings.csv")):
        folder = path.parents[1]
        try:
            next(measurements(folder), None)
            found.append(folder)
        except InputError as error:
            print(f"passed over {folder}: {error}", file=sys.stderr)
    return found


def measurements(folder: Path) -> Iterator[Measurement]:
    """Of an experiment's jobs, as the stage `timings` collected them."""
    layout = Layout(folder)
    path = layout.timings / "timings.csv"
    if not (path.is_file() and layout.config.is_file()):
        raise InputError(
            f"{folder}: expected {layout.config.name} and {path.relative_to(folder)}, "
            "found only one of them, or neither"
        )
    experiment = load_experiment(layout.config)
    known = {(job.stage, job.name): job for job in every_job(layout, experiment)}
    for row in read_timings(path).to_dict("records"):
        job = known.get((row["stage"], row["job"]))
        if job is not None:
            # Snakemake samples CPU time: of jobs of a few seconds it misses most, of some it knows none.
            sampled = row["wall_seconds"] > 60 and not math.isnan(row["cpu_seconds"])
            seconds = row["cpu_seconds"] if sampled else row["wall_seconds"]
            yield Measurement(job.stage, traits(job, experiment), seconds, row["disk_mib"])


def read_timings(path: Path) -> pd.DataFrame:
    """Columns stage, job, wall_seconds, cpu_seconds and disk_mib, of which the last two may be NaN."""
    try:
        table = pd.read_csv(path, dtype={"stage": str, "job": str})
        table["job"] = table["job"].fillna("")  # a stage's only job has no name
        numbers = table.reindex(columns=["wall_seconds", "cpu_seconds", "disk_mib"]).astype(float)
        fits = np.isfinite(numbers["wall_seconds"]) & ~np.isinf(numbers).any(axis=1)
        if not fits.all():
            raise ValueError(f"row {int(np.argmin(fits)) + 1} has a time or a size that is none")
        return table[["stage", "job"]].join(numbers.clip(lower=0))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: expected a table of timings, found: {one_line(error)}") from error


def traits(job: Job, experiment: Experiment) -> dict[str, Any]:
    """What a job's duration depends on, flat: its settings, its simulator, how many runs share it."""
    found = dict(flat(as_mapping(job.settings))) if job.settings is not None else {}
    found = {key: value for key, value in found.items() if key.rpartition(".")[2] not in ("seed", "checkpoint_every")}
    if job.dataset:
        source = experiment.whole(job.dataset).source
        found["task"] = source.partition("/")[2].partition("-")[0]
    if job.stage == "export":
        found["transitions"] = rows_of(experiment, job.dataset)
        found["rows_cost"] = COLLECTED if found["source"].startswith((LOCAL, RANDOM)) else 1.0
    if job.stage in ("synthesize", "seal-synthetic"):  # no matter how long its models learned
        found = {key: value for key, value in found.items() if key.rpartition(".")[2] not in HOW_LONG}
    if job.stage == "synthesize":
        found["synthesis.trajectories"] = found["synthesis.trajectories"] / found["synthesis.shards"]
    if job.stage == "train-policy":
        found["algorithm"], found["seeds"] = job.name.split("/")[1], len(job.outputs)
    return found


def rows_of(experiment: Experiment, dataset: str) -> float:
    """How many transitions a data set has, about: a million where its source does not tell."""
    whole = experiment.whole(dataset)
    usual = RANDOM_TRANSITIONS if whole.source == RANDOM else LOCOMOTION.get(suite_name(whole.source), 1_000_000)
    return (whole.transitions or usual) * (experiment.datasets[dataset].fraction or 1.0)


def suite_name(source: str) -> str:
    """As it stands in LOCOMOTION, if it does."""
    return source.removeprefix(LOCAL).removeprefix(D4RL).removesuffix("-v2")


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def estimate(job: Job, wanted: Mapping[str, Any], known: Sequence[Measurement]) -> Estimate | None:
    """From the measured jobs of the stage that are most like it; None where the stage was never measured."""
    same = [one for one in known if one.stage == job.stage]
    if not same:
        return None
    distances = [distance(wanted, one.traits) for one in same]
    nearest = [one for one, far in zip(same, distances, strict=True) if far == min(distances)]
    seconds = [STARTED + max(one.seconds - STARTED, 0.0) * ratio(wanted, one.traits, GROWTH) for one in nearest]
    told = [(one, far) for one, far in zip(same, distances, strict=True) if not math.isnan(one.disk)]
    closest = min((far for _, far in told), default=0.0)
    disk = [one.disk * ratio(wanted, one.traits, DISK_GROWTH) for one, far in told if far == closest]
    exact = min(distances) == 0
    return Estimate(job, sum(seconds) / len(seconds), sum(disk) / len(disk) if disk else math.nan, exact)


def distance(wanted: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """How many settings differ; those that time follows count by their ratio, a tenth for a factor of e."""
    far = 0.0
    for key in wanted.keys() | other.keys():
        if wanted.get(key) == other.get(key):
            continue
        sizes = sizes_of(key, wanted, other)
        far += 1.0 if sizes is None else 0.0 if key in ("gradient_steps", "seeds") else 0.1 * abs(math.log(sizes))
    return far


def ratio(wanted: Mapping[str, Any], other: Mapping[str, Any], growth: Mapping[str, float]) -> float:
    """How much more work; of several models' equal settings, such as their widths, the mean."""
    factors: dict[str, list[float]] = defaultdict(list)
    for key in wanted.keys() & other.keys():
        sizes = sizes_of(key, wanted, other)
        if sizes is not None:
            name = key.rpartition(".")[2]
            factors[name].append(sizes ** growth.get(name, 0.0))
    return math.prod(sum(found) / len(found) for found in factors.values())


def sizes_of(key: str, wanted: Mapping[str, Any], other: Mapping[str, Any]) -> float | None:
    """By what factor a setting is larger, if it is one that time follows."""
    first, second = wanted.get(key), other.get(key)
    if key.rpartition(".")[2] not in GROWTH or not (first and second):
        return None
    return float(first) / float(second)


def makespan(planned: Sequence[Job], seconds: Mapping[str, float], gpus: int, cores: int) -> float:
    """When the last job ends, if each starts as soon as what it needs is there and a machine of its kind is free; those
    with the longest way to the end go first."""
    after: dict[str, list[str]] = defaultdict(list)
    for job in planned:
        for need in job.needs:
            after[need].append(job.slug)
    longest: dict[str, float] = {}
    for job in reversed(planned):
        longest[job.slug] = seconds.get(job.slug, 0.0) + max((longest[slug] for slug in after[job.slug]), default=0.0)
    by_slug = {job.slug: job for job in planned}
    missing = {job.slug: len(job.needs) for job in planned}
    free = {True: gpus, False: cores}
    ready: dict[bool, list[tuple[float, str]]] = {True: [], False: []}
    running: list[tuple[float, str]] = []
    now = 0.0

    def on_gpu(slug: str) -> bool:
        return gpus > 0 and by_slug[slug].stage in ON_GPU

    def start(slug: str) -> None:
        heapq.heappush(ready[on_gpu(slug)], (-longest[slug], slug))

    for slug in [slug for slug, count in missing.items() if count == 0]:
        start(slug)
    while running or any(ready.values()):
        for kind, waiting in ready.items():
            while waiting and free[kind]:
                _, slug = heapq.heappop(waiting)
                free[kind] -= 1
                heapq.heappush(running, (now + seconds.get(slug, 0.0), slug))
        now, done = heapq.heappop(running)
        free[on_gpu(done)] += 1
        for slug in after[done]:
            missing[slug] -= 1
            if missing[slug] == 0:
                start(slug)
    return now
