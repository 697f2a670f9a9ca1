"""Stage `figures`: every figure from the sealed tables alone, as PNG and vector PDF without dates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dawm.analysis.fidelity import REAL, STILL
from dawm.analysis.fidelity_page import NAMES, by_horizon
from dawm.analysis.statistics import hierarchical_interval, hierarchical_intervals, interquartile_mean
from dawm.analysis.style import (
    COLORS,
    GREY,
    LINES,
    MARKERS,
    PALE,
    REFERENCE,
    STYLE,
    Styles,
    arm_styles,
    banded,
    is_many,
    learner_name,
    learners,
    method_of,
    outer_legend,
    save_all,
)
from dawm.analysis.tables import LAST_EVALUATIONS, read_csv, world_models_of
from dawm.data.files import only_writer
from dawm.data.sealed import Sealed, open_sealed, refuse_other, seal, unseal

BY_ARM = "learning-curves-"
"""Before a learner's name: its figure with a row for each of many arms."""


def draw_all(tables: Path, output: Path) -> None:
    """Writes every figure that the tables have data for, and the seal."""
    refuse_other(output, "figures")
    sealed = open_sealed(tables, "tables")
    runs = read_csv(sealed, "scores.csv")
    many = is_many(runs["augmentation"])
    figures: dict[str, Callable[[Sealed], Figure]] = {"learning-curves": learning_curves}
    if many:
        several = learners(runs[runs["augmentation"] != REFERENCE])
        figures |= {f"{BY_ARM}{name}": partial(curves_by_arm, algorithm=name) for name in several}
    figures |= {"scores": score_intervals, "values": values_by_arm if many else values_against_scores}
    if len(sealed.read("fidelity.csv").split(b"\n")) > 2:
        figures["fidelity"] = fidelity_by_horizon
    if len(sealed.read("inverse_dynamics.csv").split(b"\n")) > 2:
        figures["inverse-dynamics"] = inferred_actions
    with only_writer(output), plt.rc_context(STYLE):
        drawn = {name: draw(sealed) for name, draw in figures.items()}
        unseal(output, "figures")
        seal(output, "figures", files=save_all(drawn, output), settings={}, inputs={"tables": sealed}, metadata={})


def learning_curves(sealed: Sealed) -> Figure:
    """Score against gradient steps: mean over seeds, and a 95 % bootstrap interval of it; of many arms only those that
    the others are measured by (see `banded`), before the others in grey."""
    curves, datasets = read_csv(sealed, "learning_curves.csv"), read_csv(sealed, "datasets.csv")
    runs, styles = read_csv(sealed, "scores.csv"), styles_of(sealed)
    shown = banded(styles)
    figure, panels = grid(curves)
    for (dataset, algorithm), axes in panels.items():
        chosen, ended = of_panel(curves, dataset, algorithm), of_panel(runs, dataset, algorithm)
        quantity, label = scored_by(chosen)
        for arm, group in chosen.groupby("augmentation", sort=False):
            if arm in shown:
                banded_curve(axes, group, ended[ended["augmentation"] == arm], quantity, *styles[str(arm)], label=arm)
            else:
                mean = group.groupby("step")[quantity].mean()
                axes.plot(mean.index, mean, color=PALE, linewidth=0.7, zorder=1, label="other arms")
        behaviour = datasets.set_index("dataset").loc[
            dataset, "normalized_score_mean" if quantity == "normalized_score" else "return_mean"
        ]
        axes.axhline(behaviour, color=GREY, linestyle=":", linewidth=1.2, label="mean of the data")
        axes.set_ylim(bottom=min(0.0, chosen[quantity].min()))
        axes.set_ylabel(label)
        axes.xaxis.set_major_formatter(thousands)
    label_grid(figure, "gradient steps")
    return figure


def curves_by_arm(sealed: Sealed, algorithm: str) -> Figure:
    """The same of one learner with a row for each arm and a column for each data set; the reference is in each."""
    curves, runs = (of_learner(read_csv(sealed, f"{name}.csv"), algorithm) for name in ("learning_curves", "scores"))
    datasets = list(runs["dataset"].unique())
    arms = [arm for arm in runs["augmentation"].unique() if arm != REFERENCE]
    size = 0.9 + 1.75 * len(datasets), 0.6 + 0.85 * len(arms)
    figure, rows = plt.subplots(
        len(arms), len(datasets), figsize=size, squeeze=False, sharex="col", sharey="col", layout="constrained"
    )
    for arm, row in zip(arms, rows, strict=True):
        row[0].set_ylabel(arm, rotation=0, ha="right", va="center")
        for dataset, axes in zip(datasets, row, strict=True):
            chosen, ended = of_panel(curves, dataset, algorithm), of_panel(runs, dataset, algorithm)
            quantity, _ = scored_by(chosen)
            reference = chosen[chosen["augmentation"] == REFERENCE].groupby("step")[quantity].mean()
            axes.plot(reference.index, reference, color="black", linewidth=0.8)
            own = chosen[chosen["augmentation"] == arm]
            color = COLORS[1] if arm == method_of(arms) else COLORS[0]
            banded_curve(axes, own, ended[ended["augmentation"] == arm], quantity, color, "-", width=1.2)
            axes.xaxis.set_major_formatter(thousands)
            axes.tick_params(labelsize=7)
    for dataset, axes in zip(datasets, rows[0], strict=True):
        axes.set_title(dataset.replace("-", "-\n", 1) if len(dataset) > 16 else dataset, fontsize=9)
    for axes in rows[-1]:
        axes.set_xlabel("gradient steps", fontsize=8)
    figure.align_ylabels(rows[:, 0])
    return figure


def banded_curve(
    axes: Axes,
    curves: pd.DataFrame,
    runs: pd.DataFrame,
    quantity: str,
    color: str,
    line: str,
    label: object = None,
    width: float = 1.8,
) -> None:
    """An arm's mean over seeds in its 95 % bootstrap interval."""
    table = curves.pivot_table(index="step", columns="seed", values=quantity)
    groups = world_models_of(runs.set_index("seed", drop=False).loc[table.columns])
    low, high = hierarchical_intervals(table.to_numpy(), groups, np.mean)
    axes.fill_between(table.index, low, high, color=color, alpha=0.18, linewidth=0)
    axes.plot(table.index, table.mean(axis=1), color=color, linestyle=line, linewidth=width, label=label)


def scored_by(curves: pd.DataFrame) -> tuple[str, str]:
    """The column that tells how good a policy is, and how to call it: the return where nothing has a score."""
    if curves["normalized_score"].notna().any():
        return "normalized_score", "normalised score"
    return "return_mean", "return"


def score_intervals(sealed: Sealed) -> Figure:
    """Score by arm: one dot per seed (mean of the last 10 evaluations), their IQM with a 95 % bootstrap interval."""
    scores, styles = read_csv(sealed, "scores.csv"), styles_of(sealed)
    figure, panels = grid(scores, height=max(2.0, 0.8 + 0.2 * len(styles)))
    for (dataset, algorithm), axes in panels.items():
        chosen = of_panel(scores, dataset, algorithm)
        arms = list(chosen["augmentation"].unique())
        scored = chosen["normalized_score_mean10"].notna().any()
        quantity = "normalized_score_mean10" if scored else "return_last"
        for place, arm in enumerate(arms):
            color = styles[arm][0]
            rows = chosen[chosen["augmentation"] == arm]
            values = rows[quantity].to_numpy()
            low, high = hierarchical_interval(values, world_models_of(rows), interquartile_mean)
            axes.plot([low, high], [place, place], color=color, alpha=0.35, linewidth=7, solid_capstyle="butt")
            axes.plot(interquartile_mean(values), place, "|", color=color, markersize=14, markeredgewidth=2.5)
            axes.plot(values, np.full(len(values), place), "o", color=color, markersize=4, markeredgecolor="white")
        axes.set_yticks(range(len(arms)), arms)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set_xlim(left=min(0.0, chosen[quantity].min()))
        axes.set_xlabel("normalised score" if scored else "return of the last evaluation")
        axes.grid(axis="y", visible=False)
    return figure


def values_against_scores(sealed: Sealed) -> Figure:
    """What critics expect against what policies earn: a line per seed through its evaluations, a dot at the last."""
    curves, styles = read_csv(sealed, "learning_curves.csv"), styles_of(sealed)
    figure, panels = grid(curves)
    for (dataset, algorithm), axes in panels.items():
        chosen = of_panel(curves, dataset, algorithm)
        quantity, label = scored_by(chosen)
        for run, line in lines_of_seeds(chosen, styles):
            axes.plot(run[quantity], run["q"], alpha=0.45, linewidth=0.9, **line)
            axes.plot(run[quantity].iloc[-1:], run["q"].iloc[-1:], "o", color=line["color"], markersize=4)
        label_values(axes, chosen, label)
    outer_legend(figure)
    return figure


def values_by_arm(sealed: Sealed) -> Figure:
    """The same of many arms: the means of an arm's last evaluations over seeds, and from the least seed to the largest
    in either direction."""
    curves, styles = read_csv(sealed, "learning_curves.csv"), styles_of(sealed)
    figure, panels = grid(curves)
    for (dataset, algorithm), axes in panels.items():
        chosen = of_panel(curves, dataset, algorithm)
        quantity, label = scored_by(chosen)
        for arm, group in chosen.groupby("augmentation", sort=False):
            last = group.groupby("seed")[[quantity, "q"]].agg(lambda values: values.tail(LAST_EVALUATIONS).mean())
            x, y = last[quantity].mean(), last["q"].mean()
            color, line = styles[str(arm)]
            axes.plot([last[quantity].min(), last[quantity].max()], [y, y], color=color, linewidth=0.8, alpha=0.6)
            axes.plot([x, x], [last["q"].min(), last["q"].max()], color=color, linewidth=0.8, alpha=0.6)
            mark = MARKERS[LINES.index(line)]
            axes.plot(x, y, mark, color=color, markersize=6, markeredgecolor="white", label=arm)
        label_values(axes, chosen, label)
    outer_legend(figure)
    return figure


def label_values(axes: Axes, curves: pd.DataFrame, label: str) -> None:
    if curves["q"].isna().all():
        axes.text(0.5, 0.5, "has no critic", ha="center", color=GREY, transform=axes.transAxes)
    axes.set(xlabel=label, ylabel="mean Q of batches")


def fidelity_by_horizon(sealed: Sealed) -> Figure:
    """Median error of the next state and of the reward by horizon step, against real data and "nothing moves"."""
    table, styles = read_csv(sealed, "fidelity.csv"), styles_of(sealed)
    datasets = list(table["dataset"].unique())
    quantities = {
        "state_error": "next-state error\n(one-step changes of the data)",
        "reward_error": "reward error (raw)",
    }
    figure, grid_axes = plt.subplots(
        len(datasets), 2, figsize=(8, 2.9 * len(datasets)), squeeze=False, layout="constrained"
    )
    for row, dataset in zip(grid_axes, datasets, strict=True):
        for axes, (quantity, label) in zip(row, quantities.items(), strict=True):
            chosen = table[(table["dataset"] == dataset) & (table["quantity"] == quantity)]
            if chosen["value"].isna().all():
                axes.text(0.5, 0.5, "could not be replayed", ha="center", color=GREY, transform=axes.transAxes)
                axes.set(title=dataset, xlabel="horizon step", ylabel=label)
                continue
            judged = chosen.loc[chosen["horizon_step"] > 0, "augmentation"].unique()
            lines = by_horizon(axes, chosen, {arm: styles.get(arm, ("black", "-")) for arm in judged}, quantity)
            floor, ceiling = (chosen.loc[chosen["augmentation"] == name, "value"].mean() for name in (REAL, STILL))
            lowest = lines.groupby("augmentation")["value"].min()
            lowest = lowest[lowest > 10 * floor].min()  # the oracle's lie far below the axis
            axes.set_ylim(0.6 * np.fmin(lowest, ceiling), 1.6 * ceiling)
            axes.set_ylabel(label)
            axes.set_title(f"{dataset}\n{NAMES[STILL]}: {ceiling:.2g}; {NAMES[REAL]}: {floor:.0e}", fontsize=9)
    outer_legend(figure)
    return figure


def inferred_actions(sealed: Sealed) -> Figure:
    """Inferred against true actions of held-out real pairs, a panel per dimension: the first data set's first model."""
    pairs = read_csv(sealed, "inverse_dynamics.csv")
    for name in ("dataset", "generator", "world_model_seed"):
        pairs = pairs[pairs[name] == pairs[name].iloc[0]]
    dimensions = sorted(pairs["dimension"].unique())
    figure, axes_row = plt.subplots(
        1, len(dimensions), figsize=(2.6 * len(dimensions), 2.8), squeeze=False, layout="constrained"
    )
    for axes, dimension in zip(axes_row[0], dimensions, strict=True):
        chosen = pairs[pairs["dimension"] == dimension]
        error = (chosen["true_action"] - chosen["inferred_action"]).abs().mean()
        ends = np.array([chosen["true_action"].min(), chosen["true_action"].max()])
        axes.plot(ends, ends, color=GREY, linewidth=1)
        axes.plot(
            chosen["true_action"], chosen["inferred_action"], ".", color=COLORS[0], alpha=0.3, markersize=4, mew=0
        )
        margin = 0.025 * np.ptp(ends) * np.array([-1, 1])
        axes.set(xlim=ends + margin, ylim=ends + margin, aspect="equal", xlabel="true action")
        axes.set_title(f"action {dimension}: mean error {error:.3f}", fontsize=9)
    axes_row[0][0].set_ylabel("inferred action")
    return figure


def styles_of(sealed: Sealed) -> Styles:
    """One colour and line per arm, the same in every figure."""
    return arm_styles(read_csv(sealed, "scores.csv")["augmentation"])


def of_learner(table: pd.DataFrame, algorithm: str) -> pd.DataFrame:
    return table[table["algorithm"] == algorithm]


def of_panel(table: pd.DataFrame, dataset: str, algorithm: str) -> pd.DataFrame:
    return table[(table["dataset"] == dataset) & (table["algorithm"] == algorithm)]


def lines_of_seeds(curves: pd.DataFrame, styles: Styles) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """Each seed's rows, with how its line looks, and a label for the first seed of an arm."""
    for arm, group in curves.groupby("augmentation", sort=False):
        for place, (_, run) in enumerate(group.groupby("seed")):
            color, line = styles[str(arm)]
            yield run, {"color": color, "linestyle": line, "label": arm if place == 0 else None}


def grid(table: pd.DataFrame, height: float = 2.9) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """One panel per data set (rows) and learner (columns, see `learners`), with its title."""
    datasets, algorithms = list(table["dataset"].unique()), learners(table)
    figure, axes = plt.subplots(
        len(datasets),
        len(algorithms),
        figsize=(4.2 * len(algorithms), height * len(datasets)),
        squeeze=False,
        layout="constrained",
    )
    panels = {}
    for i, dataset in enumerate(datasets):
        for j, algorithm in enumerate(algorithms):
            panels[dataset, algorithm] = axes[i, j]
            axes[i, j].set_title(f"{dataset}, {learner_name(algorithm)}")
    return figure, panels


def thousands(value: float, _: float) -> str:
    return f"{value / 1000:g}k"


def label_grid(figure: Figure, x: str) -> None:
    for axes in figure.axes:
        axes.set_xlabel(x)
    outer_legend(figure)
