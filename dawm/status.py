"""`status`: what of an experiment is complete, running, stopped and waiting, from its files alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dawm.config import load_experiment
from dawm.data.files import is_locked
from dawm.data.sealed import PROVENANCE
from dawm.errors import InputError
from dawm.jobs import Job, jobs
from dawm.layout import Layout
from dawm.progress import clock
from dawm.spent import benchmark

COMPLETE, RUNNING, STOPPED, WAITING = "complete", "running", "stopped", "waiting"
STATES = (COMPLETE, RUNNING, STOPPED, WAITING)
FRESH = 60.0
"""Seconds within which a job that holds no lock has written to its log, or it is taken for dead."""
LAST_LINES = 3


@dataclass(frozen=True)
class JobStatus:
    """state: one of `STATES`; log: its file, where there is one; last: that file's last lines."""

    job: Job
    state: str
    log: Path | None
    last: list[str]


@dataclass(frozen=True)
class Status:
    """Of an experiment. left: seconds that the jobs which are not complete would take one after the other, each as long
    as the mean of its stage's; untimed: how many of them are of stages that no job of has finished."""

    results: Path
    jobs: list[JobStatus]
    left: float
    untimed: int

    @property
    def complete(self) -> bool:
        return all(one.state == COMPLETE for one in self.jobs)

    def lines(self) -> Iterator[str]:
        """One page."""
        counts = Counter(one.state for one in self.jobs)
        yield f"{self.results}: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        if not self.complete:
            known = [f"about {clock(self.left)} of one core's time left"] if self.left else []
            more = "more jobs are" if known else "jobs to do are all"
            others = [f"{self.untimed} {more} of stages that none has finished of"] if self.untimed else []
            yield "; ".join([*known, *others])
        yield f"\n{'stage':<24}" + "".join(f"{state:>10}" for state in STATES)
        for stage in dict.fromkeys(one.job.stage for one in self.jobs):
            within = Counter(one.state for one in self.jobs if one.job.stage == stage)
            yield (f"{stage:<24}" + "".join(f"{within[state] or '':>10}" for state in STATES)).rstrip()
        for state, title in ((RUNNING, "Running"), (STOPPED, "Failed, or stopped before their end")):
            chosen = [one for one in self.jobs if one.state == state]
            if chosen:
                yield f"\n{title}:"
            for one in chosen:
                yield f"  {one.job.slug}"
                shown = one.last[-1:] if state == RUNNING else [*one.last, f"({one.log})"]
                yield from (f"    {line}" for line in shown)


def status(results: Path, targets: Sequence[str] = ("report",)) -> Status:
    """Of what `targets` ask for. Raises InputError where no run has left its config."""
    layout = Layout(results)
    if not layout.config.is_file():
        raise InputError(f"{results}: expected the {layout.config.name} that a run writes at its start, found none")
    found = [status_of(job, layout) for job in jobs(layout, load_experiment(layout.config), targets)]
    means = mean_seconds(layout, [one.job for one in found if one.state == COMPLETE])
    open_stages = [one.job.stage for one in found if one.state != COMPLETE]
    timed = [means[stage] for stage in open_stages if stage in means]
    return Status(results, found, sum(timed), len(open_stages) - len(timed))


def status_of(job: Job, layout: Layout) -> JobStatus:
    log = layout.root / "logs" / f"{job.slug}.log"
    if not log.is_file():
        return JobStatus(job, COMPLETE if job.done else WAITING, None, [])
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-LAST_LINES:]
    if job.done:
        return JobStatus(job, COMPLETE, log, last)
    return JobStatus(job, RUNNING if is_running(job, log) else STOPPED, log, last)


def is_running(job: Job, log: Path) -> bool:
    """Whether a process holds the job's folder; where none can be held, whether the log is fresh."""
    held = [is_locked(path.parent) for path in job.outputs if path.name == PROVENANCE]
    known = [answer for answer in held if answer is not None]
    if known:
        return any(known)
    return time.time() - log.stat().st_mtime < FRESH


def mean_seconds(layout: Layout, complete: list[Job]) -> dict[str, float]:
    """Wall time by stage, of the jobs whose benchmark file is there."""
    seconds: dict[str, list[float]] = {}
    for job in complete:
        if (measured := benchmark(layout.root / "benchmarks" / f"{job.slug}.tsv")) is not None:
            seconds.setdefault(job.stage, []).append(measured["s"])
    return {stage: sum(values) / len(values) for stage, values in seconds.items()}
