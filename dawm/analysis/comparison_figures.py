"""Figures of stage `compare`: arms against each other, from its tables alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dawm.analysis.style import (
    COLORS,
    GREY,
    METHOD,
    PALE,
    REFERENCE,
    REFERENCES,
    STYLE,
    arm_styles,
    banded,
    learner_name,
    learners,
    method_of,
    outer_legend,
    reference_name,
)

LEGIBLE = 16
"""Arms whose lines a legend of two columns names."""
LEAST_LIMIT = 10.0
"""Points of difference whose colour is the deepest, at least: what is small shall look so."""


def draw_comparison(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
    """Every figure that `compare`'s tables have data for, by name."""
    aggregates, pairs = tables["aggregates"], tables["pairs"]
    figures: dict[str, Callable[[], Figure]] = {}
    if len(aggregates):
        figures["iqm"] = lambda: intervals(aggregates)
    if len(pairs):
        figures["improvement"] = lambda: improvement(whole(pairs))
        figures["profiles"] = lambda: draw_profiles(whole(tables["profiles"]))
    if len(tables["differences"]):
        figures["differences"] = lambda: draw_differences(whole(tables["differences"]))
    if len(tables["budgets"]):
        figures["budget"] = lambda: by_budget(whole(tables["budgets"]))
    if len(aggregates) and aggregates["data_fraction"].nunique() > 1:
        figures["small-data"] = lambda: by_fraction(aggregates)
    with plt.rc_context(STYLE):
        return {name: draw() for name, draw in figures.items()}


def whole(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the most data."""
    return table[table["data_fraction"] == table["data_fraction"].max()]


def learner_panels(table: pd.DataFrame, height: float) -> tuple[Figure, list[tuple[pd.DataFrame, Axes]]]:
    """A figure with a panel per learner, and each one's rows."""
    names = learners(table)
    size = (4.2 * len(names), height)
    figure, axes = plt.subplots(1, len(names), figsize=size, squeeze=False, sharex=True, layout="constrained")
    for name, place in zip(names, axes[0], strict=True):
        place.set_title(learner_name(name))
    return figure, [(table[table["algorithm"] == name], place) for name, place in zip(names, axes[0], strict=True)]


def intervals(aggregates: pd.DataFrame) -> Figure:
    """IQM by arm with its interval, behaviour cloning below; a line at the reference arm's."""
    table = whole(aggregates[aggregates["statistic"] == "iqm"])
    cloned = table[table["algorithm"].isin(REFERENCES) & (len(learners(table)) < table["algorithm"].nunique())]
    most = table.groupby("algorithm").size().max() + len(cloned)
    figure, panels = learner_panels(table, height=0.9 + 0.27 * most)
    for rows, axes in panels:
        for place, row in enumerate([*rows.itertuples(), *cloned.itertuples()]):
            color = {REFERENCE: "black", METHOD: COLORS[1]}.get(row.augmentation, COLORS[0])
            bar(axes, place, row.value, row.low, row.high, GREY if place >= len(rows) else color)
            if row.augmentation == REFERENCE and place < len(rows):
                axes.axvline(row.value, color="black", linewidth=0.7)
        references = zip(cloned["algorithm"], cloned["augmentation"], strict=True)
        names = [*rows["augmentation"], *itertools.starmap(reference_name, references)]
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel("IQM of the normalised score")
        axes.grid(axis="y", visible=False)
    return figure


def bar(axes: Axes, place: float, value: float, low: float, high: float, color: str) -> None:
    """An interval with a tick at its value."""
    axes.plot([low, high], [place, place], color=color, alpha=0.35, linewidth=7, solid_capstyle="butt")
    axes.plot(value, place, "|", color=color, markersize=13, markeredgewidth=2.5)


def improvement(pairs: pd.DataFrame) -> Figure:
    """P(a run of the method, see `method_of`, is better than one of another arm)."""
    method = method_of(pairs["augmentation"])
    table = pairs[pairs["augmentation"] == method]
    most = table.groupby("algorithm").size().max()
    figure, panels = learner_panels(table, height=0.8 + 0.27 * most)
    for rows, axes in panels:
        for place, row in enumerate(rows.itertuples()):
            ends = row.probability_low, row.probability_high
            bar(axes, place, row.probability_of_improvement, *ends, COLORS[0])
        axes.axvline(0.5, color=GREY, linewidth=1)
        axes.set_yticks(range(len(rows)), rows["other"])
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(-0.02, 1.02), xlabel=f"P({method} is better)")
        axes.grid(axis="y", visible=False)
    return figure


def draw_profiles(profiles: pd.DataFrame) -> Figure:
    """Share of an arm's runs above each score; of many arms only those that the others are measured by have bands (see
    `banded`), and of more than a legend has room for the others are grey."""
    styles = arm_styles(profiles["augmentation"])
    shown = banded(styles)
    reached = profiles.loc[profiles[["share", "high"]].max(axis=1) > 0, "score"]
    top = max(reached, default=0.0)
    figure, panels = learner_panels(profiles, height=3.2)
    for rows, axes in panels:
        for arm, line in rows.groupby("augmentation", sort=False):
            color, dash = styles[str(arm)]
            if arm not in shown and len(styles) > LEGIBLE:
                axes.plot(line["score"], line["share"], color=PALE, linewidth=0.7, zorder=1, label="other arms")
                continue
            if arm in shown:
                axes.fill_between(line["score"], line["low"], line["high"], color=color, alpha=0.12, linewidth=0)
            width = 1.8 if arm in shown else 0.9
            axes.plot(line["score"], line["share"], color=color, linestyle=dash, linewidth=width, label=arm)
        axes.set(xlim=(0, top + 2), ylim=(0, 1.02), xlabel="normalised score τ", ylabel="share of runs above τ")
    outer_legend(figure)
    return figure


def by_fraction(aggregates: pd.DataFrame) -> Figure:
    """IQM by the share of the data that everything was trained on."""
    table = aggregates[aggregates["statistic"] == "iqm"]
    styles = arm_styles(table["augmentation"])
    figure, panels = learner_panels(table, height=3.2)
    for rows, axes in panels:
        for arm, line in rows.groupby("augmentation", sort=False):
            color, dash = styles[str(arm)]
            ordered = line.sort_values("data_fraction")
            place = 100 * ordered["data_fraction"]
            axes.fill_between(place, ordered["low"], ordered["high"], color=color, alpha=0.12, linewidth=0)
            axes.plot(place, ordered["value"], "o", color=color, linestyle=dash, markersize=4, label=arm)
        axes.set_xscale("log")
        axes.set(xlabel="share of the data, %", ylabel="IQM of the normalised score")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    outer_legend(figure)
    return figure


def by_budget(budgets: pd.DataFrame) -> Figure:
    """Score to be expected, on a seed that did not choose, of the best of k configurations (a dot each), over the seeds
    left out, against the episodes that choosing it takes; dotted: of the one that was fixed beforehand."""
    styles = arm_styles(budgets["family"])
    figure, panels = learner_panels(budgets, height=3.2)
    for rows, axes in panels:
        for family, line in rows.groupby("family", sort=False):
            color, dash = styles[str(family)]
            axes.fill_between(line["episodes"], line["least"], line["largest"], color=color, alpha=0.12, linewidth=0)
            axes.plot(line["episodes"], line["value"], "o", color=color, linestyle=dash, markersize=3, label=family)
            axes.axhline(line["fixed"].iloc[0], color=color, linestyle=":", linewidth=1.2)
        axes.set(xlabel="online episodes that the choice takes", ylabel="score on a seed left out")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    outer_legend(figure)
    return figure


def draw_differences(differences: pd.DataFrame) -> Figure:
    """Mean score minus that of the reference arm, a row per arm and a column per data set."""
    tasks = list(dict.fromkeys(differences["dataset"]))
    grids = {}
    for name in learners(differences):
        rows = differences[differences["algorithm"] == name]
        grid = rows.pivot(index="augmentation", columns="dataset", values="difference")
        grids[name] = grid.reindex(rows["augmentation"].unique(), columns=tasks)  # another learner may have more tasks
    counts = [len(grid) for grid in grids.values()]
    names = 0.06 * max(differences["augmentation"].str.len())
    size = max(0.6 + names + 0.85 * len(tasks), 4), 1.1 * len(grids) + 0.28 * sum(counts)
    figure, axes = plt.subplots(len(grids), 1, figsize=size, squeeze=False, height_ratios=counts, layout="constrained")
    limit = max(LEAST_LIMIT, float(np.nanpercentile(differences["difference"].abs(), 95)))
    for (name, grid), place in zip(grids.items(), axes[:, 0], strict=True):
        place.imshow(grid, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
        for (i, j), value in np.ndenumerate(grid.to_numpy()):
            ink = "white" if abs(value) > 0.7 * limit else "black"
            place.text(
                j, i, "" if np.isnan(value) else f"{value:+z.1f}", ha="center", va="center", fontsize=8, color=ink
            )
        place.set_xticks(range(len(tasks)), [task.replace("-", "-\n", 1) for task in tasks], fontsize=7)
        place.set_yticks(range(len(grid)), grid.index)
        place.set_title(learner_name(name))
        place.grid(visible=False)
        place.tick_params(length=0)
    return figure
