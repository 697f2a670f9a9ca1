"""Stage `figures`: every figure from the sealed tables alone, as PNG and vector PDF without dates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dawm.analysis.fidelity import REAL, STILL
from dawm.analysis.statistics import hierarchical_interval, interquartile_mean
from dawm.analysis.style import (
    COLORS,
    GREY,
    STYLE,
    Styles,
    arm_styles,
    banded,
    learner_name,
    learners,
    outer_legend,
    save,
)
from dawm.analysis.tables import read_csv, world_models_of
from dawm.data.files import only_writer
from dawm.data.sealed import Sealed, open_sealed, refuse_other, seal, unseal


def draw_all(tables: Path, output: Path) -> None:
    """Writes every figure that the tables have data for, and the seal."""
    refuse_other(output, "figures")
    sealed = open_sealed(tables, "tables")
    figures: dict[str, Callable[[Sealed], Figure]] = {
        "learning-curves": learning_curves,
        "scores": score_intervals,
        "values": values_against_scores,
        "batches": batch_composition,
    }
    if len(sealed.read("fidelity.csv").split(b"\n")) > 2:
        figures["fidelity"] = fidelity_by_horizon
    if len(sealed.read("inverse_dynamics.csv").split(b"\n")) > 2:
        figures["inverse-dynamics"] = inferred_actions
    names = [f"{name}.{kind}" for name in figures for kind in ("png", "pdf")]
    with only_writer(output), plt.rc_context(STYLE):
        drawn = {name: draw(sealed) for name, draw in figures.items()}
        unseal(output, "figures")
        for name, figure in drawn.items():
            save(figure, output / f"{name}.png", output / f"{name}.pdf")
            plt.close(figure)
        seal(output, "figures", files=names, settings={}, inputs={"tables": sealed}, metadata={})


def learning_curves(sealed: Sealed) -> Figure:
    """Score against gradient steps: mean over seeds, and a 95 % bootstrap interval of it (see `banded`)."""
    curves, datasets = read_csv(sealed, "learning_curves.csv"), read_csv(sealed, "datasets.csv")
    runs = read_csv(sealed, "scores.csv")
    styles = styles_of(sealed)
    shown = banded(styles)
    figure, panels = grid(curves)
    for (dataset, algorithm), axes in panels.items():
        chosen, ended = of_panel(curves, dataset, algorithm), of_panel(runs, dataset, algorithm)
        scored = chosen["normalized_score"].notna().any()
        quantity = "normalized_score" if scored else "return_mean"
        for arm, group in chosen.groupby("augmentation", sort=False):
            color, line = styles[str(arm)]
            width = 1.8 if arm in shown else 0.9
            table = group.pivot_table(index="step", columns="seed", values=quantity)
            steps, mean = table.index.to_numpy(), table.mean(axis=1).to_numpy()
            if arm in shown:
                groups = world_models_of(
                    ended[ended["augmentation"] == arm].set_index("seed", drop=False).loc[table.columns]
                )
                interval = np.array([hierarchical_interval(row, groups, np.mean) for row in table.to_numpy()])
                axes.fill_between(steps, interval[:, 0], interval[:, 1], color=color, alpha=0.18, linewidth=0)
            axes.plot(steps, mean, color=color, linestyle=line, linewidth=width, label=arm)
        behaviour = datasets.set_index("dataset").loc[dataset, "normalized_score_mean" if scored else "return_mean"]
        axes.axhline(behaviour, color=GREY, linestyle=":", linewidth=1.2, label="mean of the data")
        axes.set_ylim(bottom=min(0.0, chosen[quantity].min()))
        axes.set_ylabel("normalised score" if scored else "return")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
    label_grid(figure, "gradient steps")
    return figure


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
        scored = chosen["normalized_score"].notna().any()
        quantity = "normalized_score" if scored else "return_mean"
        for run, line in lines_of_seeds(chosen, styles):
            axes.plot(run[quantity], run["q"], alpha=0.45, linewidth=0.9, **line)
            axes.plot(run[quantity].iloc[-1:], run["q"].iloc[-1:], "o", color=line["color"], markersize=4)
        if chosen["q"].isna().all():
            axes.text(0.5, 0.5, "has no critic", ha="center", color=GREY, transform=axes.transAxes)
        axes.set(xlabel="normalised score" if scored else "return", ylabel="mean Q of batches")
    outer_legend(figure)
    return figure


def batch_composition(sealed: Sealed) -> Figure:
    """Share of real rows in the batches, as they were drawn: one line per seed."""
    curves, styles = read_csv(sealed, "learning_curves.csv"), styles_of(sealed)
    figure, panels = grid(curves, height=2.0)
    for (dataset, algorithm), axes in panels.items():
        for run, line in lines_of_seeds(of_panel(curves, dataset, algorithm), styles):
            axes.plot(run["step"], run["real_share"], linewidth=1, **line)
        axes.set(ylim=(-0.05, 1.05), ylabel="real share")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
    label_grid(figure, "gradient steps")
    return figure


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
            axes.set(title=dataset, xlabel="horizon step", ylabel=label)
            if chosen["value"].isna().all():
                axes.text(0.5, 0.5, "could not be replayed", ha="center", color=GREY, transform=axes.transAxes)
                continue
            floor, ceiling = (chosen.loc[chosen["augmentation"] == name, "value"].mean() for name in (REAL, STILL))
            lowest = ceiling
            for arm, group in chosen[chosen["horizon_step"] > 0].groupby("augmentation", sort=False):
                color, line = styles.get(str(arm), ("black", "-"))
                means = group.groupby("horizon_step")[["value", "low", "high"]].mean()  # over world-model seeds
                axes.fill_between(means.index, means["low"], means["high"], color=color, alpha=0.18, linewidth=0)
                axes.plot(means.index, means["value"], "o", color=color, linestyle=line, markersize=4, label=arm)
                if means["value"].min() > 10 * floor:  # the oracle's lie far below the axis
                    lowest = min(lowest, means["value"].min())
            axes.axhline(ceiling, color=GREY, linestyle="--", linewidth=1.2, label="nothing moves")
            axes.set_yscale("log")
            axes.set_ylim(0.6 * lowest, 1.6 * ceiling)
            axes.set_title(f"{dataset}\nnothing moves: {ceiling:.2g}; real, held out: {floor:.0e}", fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    outer_legend(figure)
    return figure


def inferred_actions(sealed: Sealed) -> Figure:
    """Inferred against true actions of held-out real pairs, a panel per dimension of the first data set."""
    pairs = read_csv(sealed, "inverse_dynamics.csv")
    pairs = pairs[pairs["world_model_seed"] == pairs["world_model_seed"].iloc[0]]
    pairs = pairs[pairs["dataset"] == pairs["dataset"].iloc[0]]
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


def label_grid(figure: Figure, x: str) -> None:
    for axes in figure.axes:
        axes.set_xlabel(x)
    outer_legend(figure)
