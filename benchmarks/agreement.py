"""Do TD3+BC and IQL reach d3rlpy's scores? Same data, same hyperparameters, same simulator, real data only.

    snakemake --cores 2 --configfile config/agreement.yaml           # ours, three hours on 2 cores
    python benchmarks/agreement.py --d3rlpy PYTHON [--jobs 2]        # d3rlpy's, four hours, and the table

PYTHON is the interpreter of d3rlpy's environment (see benchmarks/d3rlpy_training.py). Finished runs of either side are
kept; with what is there so far the table is written all the same. d3rlpy's actors act in our simulators, from the
starts that our policies of the same seed and step had. Writes results/published/agreement/{scores.csv, agreement.md}.

Of another experiment, whose own runs may be published scores by now, and of a part of it:

    snakemake … --configfile config/evidence.yaml -- results/evidence/datasets/NAME/provenance.json
    python benchmarks/agreement.py --d3rlpy PYTHON --config config/evidence.yaml --datasets NAME --algorithms td3_bc \
        --scores results/published/evidence/scores.csv --output results/published/agreement/evidence
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from measuring import ROOT, cut, refuse_unknown
from scipy.stats import ttest_ind
from torch import nn

from dawm.analysis.statistics import bootstrap_interval
from dawm.analysis.style import learner_name
from dawm.analysis.tables import LAST_EVALUATIONS
from dawm.config import Experiment, load_experiment
from dawm.data.files import write_csv
from dawm.data.normalizers import ActionScaler, Standardizer
from dawm.data.sealed import PROVENANCE, open_sealed
from dawm.environments.evaluation import Evaluator
from dawm.environments.tasks import Task, task_of_metadata
from dawm.errors import InputError
from dawm.layout import Layout, Run
from dawm.offline_rl.networks import Actor
from dawm.offline_rl.policy import DeterministicPolicy


def folder_of(layout: Layout, run: Run) -> Path:
    return layout.root / "d3rlpy" / run.slug


def part(experiment: Experiment, datasets: Sequence[str], algorithms: Sequence[str]) -> Experiment:
    """Some of its data sets and learners, all where none is named; of its arms `real` alone. Refuses unknown names."""
    refuse_unknown("datasets", datasets, experiment.datasets)
    refuse_unknown("algorithms", algorithms, experiment.algorithm_names)
    left_out = {name: None for name in experiment.algorithm_names if algorithms and name not in algorithms}
    return dataclasses.replace(
        cut(experiment, *(datasets or experiment.datasets)),
        algorithms=dataclasses.replace(experiment.algorithms, **left_out),
        augmentations={"real": experiment.augmentations["real"]},
        planners=(),
    )


def runs_of(experiment: Experiment) -> list[Run]:
    """Seeds outermost, so that what is there at any time is balanced."""
    return [
        Run(dataset, algorithm, "real", seed)
        for seed in experiment.seeds
        for dataset in experiment.datasets
        for algorithm in experiment.algorithm_names
    ]


def train_theirs(experiment: Experiment, layout: Layout, python: str, jobs: int, known: pd.DataFrame) -> None:
    """All runs of d3rlpy that are neither here nor `known`; raises CalledProcessError for one that fails."""
    exported = {name: layout.root / "d3rlpy" / f"{name}.hdf5" for name in experiment.datasets}
    for name, path in exported.items():
        if not path.is_file():
            options = ["--dataset", str(layout.dataset(name)), "--output", str(path)]
            subprocess.run([sys.executable, "-m", "dawm", "export-to", "d4rl-hdf5", *options], check=True)

    def train(run: Run) -> None:
        folder, settings = folder_of(layout, run), experiment.algorithm(run.algorithm)
        if (folder / "seconds.json").is_file() or matching(known, run, code="d3rlpy"):
            return
        folder.mkdir(parents=True, exist_ok=True)
        options = {
            "--algorithm": run.algorithm,
            "--seed": run.seed,
            "--steps": settings.gradient_steps,
            "--hidden": settings.hidden,
            "--batch-size": settings.batch_size,
            "--snapshot-every": settings.evaluate_every,
            "--output": folder,
        }
        script = [python, ROOT / "benchmarks" / "d3rlpy_training.py", exported[run.dataset]]
        words = [str(word) for word in (*script, *(part for option in options.items() for part in option))]
        with open(folder / "log.txt", "w") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(words, check=True, stdout=log, stderr=subprocess.STDOUT, env=environment)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(train, runs_of(experiment)))


def their_policy(path: Path, task: Task) -> DeterministicPolicy:
    """d3rlpy's actor in our own layers."""
    with np.load(path) as file:
        weights = [torch.from_numpy(file[f"arr_{number}"]) for number in range(6)]
        mean, std = (torch.from_numpy(file[name]).float() for name in ("mean", "std"))
    actor = Actor(weights[0].shape[1], weights[4].shape[0], weights[0].shape[0])
    layers = [layer for layer in actor.network if isinstance(layer, nn.Linear)]
    for layer, weight, bias in zip(layers, weights[::2], weights[1::2], strict=True):
        layer.load_state_dict({"weight": weight, "bias": bias})
    scaler = Standardizer(len(mean))
    scaler.mean, scaler.std = mean, std
    return DeterministicPolicy(scaler, actor, ActionScaler.between(task.action_low, task.action_high))


def their_scores(folder: Path, task: Task, episodes: int, seed: int) -> list[float]:
    """Normalised scores of the last snapshots, the newest last."""
    evaluator = Evaluator(task, episodes)
    found = []
    for path in sorted(folder.glob("*.npz"))[-LAST_EVALUATIONS:]:
        returns = evaluator.returns(their_policy(path, task).act, seed, int(path.stem))
        found.append(float(task.normalized_score(returns).mean()))
    return found


def our_scores(layout: Layout, run: Run, published: pd.DataFrame) -> dict[str, float] | None:
    """Of a run here, else of one that is published (columns as in an experiment's scores.csv), else None."""
    folder = layout.policy(run)
    if (folder / PROVENANCE).is_file():
        table = pd.read_csv(open_sealed(folder, "policy").folder / "evaluations.csv")["normalized_score"]
        return {"last": table.iloc[-1], "mean10": table.iloc[-LAST_EVALUATIONS:].mean()}
    for row in matching(published, run, augmentation=run.augmentation):
        return {"last": row["normalized_score_last"], "mean10": row["normalized_score_mean10"]}
    return None


def matching(table: pd.DataFrame, run: Run, **more: str) -> list[dict]:
    """A table's rows of one run."""
    wanted = {"dataset": run.dataset, "algorithm": run.algorithm, "seed": run.seed, **more}
    chosen = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)] if len(table) else table
    return chosen.to_dict("records")


def scores(
    experiment: Experiment, layout: Layout, known: pd.DataFrame, published: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row for each finished run of either side; rows that are `known`, of other parts or not at hand any more, are
    kept."""
    asked = runs_of(experiment)
    mine = {(run.dataset, run.algorithm, run.seed) for run in asked}
    rows = [row for row in known.to_dict("records") if (row["dataset"], row["algorithm"], row["seed"]) not in mine]
    for run in asked:
        names = {"dataset": run.dataset, "algorithm": run.algorithm, "seed": run.seed}
        if ours := our_scores(layout, run, pd.DataFrame() if published is None else published):
            rows.append({**names, "code": "dawm", **ours})
        elif old := matching(known, run, code="dawm"):
            rows.append(old[0])
        if old := matching(known, run, code="d3rlpy"):
            rows.append(old[0])
        elif (folder_of(layout, run) / "seconds.json").is_file():
            task = task_of_metadata(open_sealed(layout.dataset(run.dataset), "dataset").metadata)
            episodes = experiment.algorithm(run.algorithm).evaluation_episodes
            found = their_scores(folder_of(layout, run), task, episodes, run.seed)
            rows.append({**names, "code": "d3rlpy", "last": found[-1], "mean10": float(np.mean(found))})
    return pd.DataFrame(rows, columns=["dataset", "algorithm", "seed", "code", "last", "mean10"])


def markdown(table: pd.DataFrame) -> str:
    """Mean and 95 % bootstrap interval over seeds, and the difference of the means with Welch's 95 % interval."""
    lines = [
        "| data set | learner | seeds | ours, mean of 10 | d3rlpy | difference | ours, last | d3rlpy | difference |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (dataset, algorithm), rows in table.groupby(["dataset", "algorithm"], sort=False):
        cells = []
        for quantity in ("mean10", "last"):
            both = [rows.loc[rows["code"] == code, quantity].to_numpy() for code in ("dawm", "d3rlpy")]
            cells += [*map(cell, both), difference(*both)]
        seeds = " and ".join(str((rows["code"] == code).sum()) for code in ("dawm", "d3rlpy"))
        lines.append(f"| {dataset} | {learner_name(algorithm)} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(values: np.ndarray) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}" if len(values) else "–"
    low, high = bootstrap_interval(values, np.mean, seed=0)
    return f"{values.mean():.1f} ({low:.1f} to {high:.1f})"


def difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    if min(len(ours), len(theirs)) < 2:
        return "–"
    interval = ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    return f"{ours.mean() - theirs.mean():+.1f} ({interval.low:+.1f} to {interval.high:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "config" / "agreement.yaml")
    parser.add_argument("--results", type=Path, help="the experiment's folder, results/agreement if not given")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "published" / "agreement")
    parser.add_argument("--datasets", nargs="*", default=[], help="some of the config's, all if not given")
    parser.add_argument("--algorithms", nargs="*", default=[], help="some of the config's, all if not given")
    parser.add_argument("--scores", type=Path, help="an experiment's scores.csv, for runs of ours that are not here")
    parser.add_argument("--d3rlpy", metavar="PYTHON", help="train d3rlpy's runs that are not there, with this python")
    parser.add_argument("--jobs", type=int, default=1)
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    try:
        experiment = part(load_experiment(parsed.config), parsed.datasets, parsed.algorithms)
    except InputError as error:
        parser.error(str(error))
    layout = Layout(parsed.results or ROOT / "results" / experiment.experiment)
    parsed.output.mkdir(parents=True, exist_ok=True)
    path = parsed.output / "scores.csv"
    known = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    if parsed.d3rlpy:
        train_theirs(experiment, layout, parsed.d3rlpy, parsed.jobs, known)
    table = scores(experiment, layout, known, parsed.scores and pd.read_csv(parsed.scores))
    write_csv(path, table)
    (parsed.output / "agreement.md").write_text(markdown(table))
    sys.stdout.write(markdown(table))


if __name__ == "__main__":
    main()
