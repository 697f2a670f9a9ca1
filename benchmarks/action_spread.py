"""How many actions does a learner see around a state? Of real and of synthetic transitions, as many of each.

    python benchmarks/action_spread.py config/sweeps.yaml

A learner that weighs actions by their advantage can choose among those alone that the data have around a state. The
spread is the variance of actions among the ten nearest states that are of other trajectories, mean over states and
dimensions; states are standardised by the real ones. It is measured for every set of transitions at hand below
results/EXPERIMENT, and written to results/published/EXPERIMENT/action_spread.csv and .md, which documents quote: sets
that are measured anew replace their rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from measuring import quote_tables

from dawm.config import Experiment, load_experiment
from dawm.data.files import write_csv, write_text
from dawm.data.sealed import PROVENANCE, open_sealed
from dawm.data.transitions import NOT_APPLICABLE, Transitions, read_transitions
from dawm.errors import InputError
from dawm.layout import Layout, all_synthetic_sets
from dawm.randomness import generator

ROWS, STATES, NEIGHBOURS = 20_000, 4_000, 10
SET = ["dataset", "generator", "world_model_seed"]
REAL = "real"


def trajectories(transitions: Transitions) -> np.ndarray:
    """int64 [n]: equal where rows are of one episode, or of rollouts from one row; all unequal where nothing tells."""
    for known in (transitions.episode, transitions.source_row):
        if (known != NOT_APPLICABLE).all():
            return known.astype(np.int64)
    return np.arange(len(transitions))


def spread(transitions: Transitions, mean: np.ndarray, deviation: np.ndarray) -> float:
    """Variance of actions among the nearest states of other trajectories, of `ROWS` transitions of those.

    mean, deviation [obs_dim]: of the states that distances are measured in.
    """
    drawn = transitions.take(generator(0, "action_spread").permutation(len(transitions))[:ROWS])
    states = torch.from_numpy((drawn.observation - mean) / deviation).float()
    actions, groups = torch.from_numpy(drawn.action), torch.from_numpy(trajectories(drawn))
    variances = []
    for first in range(0, STATES, 1000):
        asked = slice(first, first + 1000)
        distance = torch.cdist(states[asked], states)
        distance[groups[asked, None] == groups] = torch.inf
        variances.append(actions[distance.topk(NEIGHBOURS, largest=False).indices].var(1))
    return float(torch.cat(variances).mean())


def enough(folder: Path, kind: str) -> Transitions:
    """What is sealed in a folder; refused where it is too little to be compared with others."""
    found = read_transitions(open_sealed(folder, kind), states=False)
    if len(found) < ROWS:
        raise InputError(f"{folder}: expected at least {ROWS:,} transitions, found {len(found):,}")
    return found


def measure(experiment: Experiment) -> pd.DataFrame:
    """A row for the real and for each synthetic set of transitions that is sealed, with its share of the real one."""
    layout, rows = Layout.of(experiment.experiment), []
    for dataset in experiment.datasets:
        if not (layout.dataset(dataset) / PROVENANCE).is_file():
            continue
        real = enough(layout.dataset(dataset), "dataset")
        scale = real.observation.mean(0), np.maximum(real.observation.std(0), 1e-6)
        own = spread(real, *scale)
        rows.append([dataset, REAL, None, own, 1.0])
        for _, recipe, seed in (key for key in all_synthetic_sets(experiment) if key[0] == dataset):
            folder = layout.synthetic(dataset, recipe, seed)
            if (folder / PROVENANCE).is_file() and experiment.generators[recipe].synthesis.expansion is None:
                found = spread(enough(folder, "synthetic"), *scale)
                rows.append([dataset, recipe, seed, found, found / own])
    if not rows:
        raise InputError(f"{layout.root}: expected a data set, found none")
    table = pd.DataFrame(rows, columns=[*SET, "action_spread", "of_real"])
    return table.astype({"world_model_seed": "Int64"})


def merged(before: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    both = pd.concat([before.astype({"world_model_seed": "Int64"}), measured])
    return both.drop_duplicates(SET, keep="last").sort_values("dataset", kind="stable")


def markdown(table: pd.DataFrame) -> str:
    """The spread and its share of the real one, mean over world models, a line for each recipe."""
    datasets = list(table["dataset"].unique())
    lines = [f"| transitions | {' | '.join(datasets)} |", f"|---|{'---:|' * len(datasets)}"]
    for recipe, rows in table.groupby("generator", sort=False):
        means = rows.groupby("dataset")[["action_spread", "of_real"]].mean()
        cells = [f"{value:.3f} ({share:.0%})" for value, share in means.reindex(datasets).to_numpy()]
        lines.append(f"| `{recipe}` | {' | '.join(cell if 'nan' not in cell else '–' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parsed = parser.parse_args(arguments)
    try:
        experiment = load_experiment(parsed.config)
        output = Path("results/published") / experiment.experiment / "action_spread.csv"
        table = measure(experiment)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if output.is_file():
        table = merged(pd.read_csv(output), table)
    write_csv(output, table)
    write_text(output.with_suffix(".md"), markdown(table))
    quote_tables()
    print(markdown(table), end="")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
