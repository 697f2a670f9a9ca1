"""How many actions does a learner see around a state? Of real and of synthetic transitions, as many of each.

    python benchmarks/action_spread.py config/sweeps.yaml

A learner that weighs actions by their advantage can choose among those alone that the data have around a state. The
spread is the variance of actions among the ten nearest states that are of other trajectories, mean over states and
dimensions; states are standardised by the real ones. It is measured for every set of transitions at hand below
results/EXPERIMENT: around its own states, also of a rollout's first and last step alone, and around real states with
half of the rows real, as in a batch. Written to results/published/EXPERIMENT/action_spread.csv and .md, which
documents quote: sets that are measured anew replace their rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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

ROWS, STATES, NEIGHBOURS, CHUNK = 20_000, 4_000, 10, 1_000
SET = ["dataset", "generator", "world_model_seed"]
SHARES = ["of_real", "first_step", "last_step", "half_real"]
REAL = "real"
Scale = tuple[np.ndarray, np.ndarray]
"""Mean and deviation of the states [obs_dim] that distances are measured in."""


def trajectories(transitions: Transitions) -> np.ndarray:
    """int64 [n]: equal where rows are of one episode, or of rollouts from one row; all unequal where nothing tells."""
    for known in (transitions.episode, transitions.source_row):
        if (known != NOT_APPLICABLE).all():
            return known.astype(np.int64)
    return np.arange(len(transitions))


@dataclass(frozen=True)
class Pool:
    """Rows that can be neighbours: standardised states float32 [n, obs_dim], actions float32 [n, act_dim], trajectories
    int64 [n]."""

    states: torch.Tensor
    actions: torch.Tensor
    trajectories: torch.Tensor

    @classmethod
    def of(cls, transitions: Transitions, scale: Scale, rows: int = ROWS) -> Pool:
        """Some of the transitions, drawn alike each time."""
        drawn = transitions.take(generator(0, "action_spread").permutation(len(transitions))[:rows])
        states = torch.from_numpy((drawn.observation - scale[0]) / scale[1]).float()
        return cls(states, torch.from_numpy(drawn.action), torch.from_numpy(trajectories(drawn)))

    def beside(self, other: Pool) -> Pool:
        """Both; no trajectory of one is of the other."""
        apart = torch.cat([self.trajectories, -1 - other.trajectories])
        return Pool(torch.cat([self.states, other.states]), torch.cat([self.actions, other.actions]), apart)

    def spread(self) -> float:
        """Variance of actions among the nearest states of other trajectories, around the first `STATES` rows."""
        variances = []
        for first in range(0, STATES, CHUNK):
            asked = slice(first, first + CHUNK)
            distance = torch.cdist(self.states[asked], self.states)
            distance[self.trajectories[asked, None] == self.trajectories] = torch.inf
            variances.append(self.actions[distance.topk(NEIGHBOURS, largest=False).indices].var(1))
        return float(torch.cat(variances).mean())


def enough(folder: Path, kind: str) -> Transitions:
    """What is sealed in a folder; refused where it is too little to be compared with others."""
    found = read_transitions(open_sealed(folder, kind), states=False)
    if len(found) < ROWS:
        raise InputError(f"{folder}: expected at least {ROWS:,} transitions, found {len(found):,}")
    return found


def measure(experiment: Experiment) -> pd.DataFrame:
    """A row for the real and for each synthetic set of transitions that is sealed; shares are of the real one's."""
    layout, rows = Layout.of(experiment.experiment), []
    for dataset in experiment.datasets:
        if not (layout.dataset(dataset) / PROVENANCE).is_file():
            continue
        real = enough(layout.dataset(dataset), "dataset")
        scale = real.observation.mean(0), np.maximum(real.observation.std(0), 1e-6)
        own, half = Pool.of(real, scale).spread(), Pool.of(real, scale, ROWS // 2)
        rows.append([dataset, REAL, None, own, 1.0, None, None, 1.0])
        for _, recipe, seed in (key for key in all_synthetic_sets(experiment) if key[0] == dataset):
            folder = layout.synthetic(dataset, recipe, seed)
            if (folder / PROVENANCE).is_file() and experiment.generators[recipe].synthesis.expansion is None:
                found = enough(folder, "synthetic")
                spreads = [Pool.of(found, scale).spread(), *of_steps(found, scale)]
                spreads.append(half.beside(Pool.of(found, scale, ROWS // 2)).spread())
                rows.append([dataset, recipe, seed, spreads[0], *(value / own for value in spreads)])
    if not rows:
        raise InputError(f"{layout.root}: expected a data set, found none")
    return pd.DataFrame(rows, columns=[*SET, "action_spread", *SHARES]).astype({"world_model_seed": "Int64"})


def of_steps(found: Transitions, scale: Scale) -> list[float]:
    """Of a rollout's first and last step; not a number where there is but one, or too few rows of it."""
    steps = found.horizon_step.min(), found.horizon_step.max()
    parts = [found.take(found.horizon_step == step) for step in steps]
    if steps[0] == steps[1] or min(map(len, parts)) < ROWS:
        return [np.nan, np.nan]
    return [Pool.of(part, scale).spread() for part in parts]


def merged(before: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """What was measured anew stands where it stood; what was not measured before, after the rest of its data set."""
    both = pd.concat([before.astype({"world_model_seed": "Int64"}), measured])
    places, newest = both[SET].drop_duplicates(), both.drop_duplicates(SET, keep="last")
    return places.merge(newest, on=SET, how="left").sort_values("dataset", kind="stable")


def markdown(table: pd.DataFrame) -> str:
    """The spread and its shares of the real one, mean over world models, a line for each data set and recipe."""
    lines = [
        "| data set | transitions | variance of actions | of the real one | first step | last step | half real |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for (dataset, recipe), rows in table.groupby(["dataset", "generator"], sort=False):
        shares = [f"{share:.0%}" if share == share else "–" for share in rows[SHARES].mean()]
        cells = [str(dataset), f"`{recipe}`", f"{rows['action_spread'].mean():.3f}", *shares]
        lines.append(f"| {' | '.join(cells)} |")
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
