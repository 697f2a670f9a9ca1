"""Stage `steering`: every recipe's obedience to the return that is asked for, as one table and one page of figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dawm.analysis.statistics import over_seeds
from dawm.analysis.style import GREY, STYLE, Looks, marked, save
from dawm.analysis.tables import CLOSED, OPEN, check_scales, read_csv
from dawm.config import Experiment, decisive
from dawm.data.files import only_writer, write_csv, write_text
from dawm.data.sealed import open_sealed, seal, unseal
from dawm.errors import InputError
from dawm.jobs import check_settings
from dawm.layout import Layout, steerings

COLUMNS = {
    (OPEN, "imagined_reward"): "window: imagined",
    (OPEN, "true_reward"): "true",
    (OPEN, "behaviour_reward"): "behaviour's",
    (CLOSED, "return"): "planner's return",
    (CLOSED, "normalized_score"): "score",
    (CLOSED, "cpu_seconds_per_decision"): "CPU-ms per decision",
}
STYLES: dict[str, tuple[str, Literal["-", "--"]]] = {
    "imagined_reward": ("imagined", "-"),
    "true_reward": ("paid by the simulator", "--"),
}


def write_steering(results: Path, experiment: Experiment) -> None:
    """Writes `results`/steering: steering.csv (every number), steering.md (the table), steering.png, .pdf; sealed."""
    layout = Layout(results)
    if not any(steerings(experiment)):
        raise InputError("generators: expected a recipe whose world model is conditional, found none")
    check_settings(layout, experiment, ["steering"])
    check_scales({name: open_sealed(layout.dataset(name), "dataset") for name in experiment.datasets})
    found = {key: open_sealed(layout.steering(*key), "steering") for key in steerings(experiment)}
    table = pd.concat(
        read_csv(sealed, "steering.csv").assign(dataset=dataset, recipe=recipe, world_model_seed=seed)
        for (dataset, recipe, seed), sealed in found.items()
    )
    with only_writer(layout.steering_page):
        unseal(layout.steering_page, "steering-page")
        write_csv(layout.steering_page / "steering.csv", table)
        write_text(layout.steering_page / "steering.md", markdown(table))
        with plt.rc_context(STYLE):
            figure = page(table)
            save(figure, layout.steering_page / "steering.png", layout.steering_page / "steering.pdf")
            plt.close(figure)
        seal(
            layout.steering_page,
            "steering-page",
            files=["steering.csv", "steering.md", "steering.png", "steering.pdf"],
            settings=decisive(experiment),
            inputs={f"{name}/{recipe}/seed-{seed}": sealed for (name, recipe, seed), sealed in found.items()},
            metadata={"rows": len(table)},
        )


def averaged(table: pd.DataFrame) -> pd.DataFrame:
    """Over world-model seeds: a row for each data set, recipe and request, with the raw return-to-go that it means to
    the recipe's models; a column for each (loop, quantity)."""
    keys = ["dataset", "recipe", "request", "return_to_go"]
    return table.pivot_table(index=keys, columns=["loop", "quantity"], values="value", sort=False)


def markdown(table: pd.DataFrame) -> str:
    """One line for each data set, recipe and request."""
    lines = [
        "| data set | recipe | asked for | raw | " + " | ".join(COLUMNS.values()) + " |",
        "|---|---|---:|---:|" + "---:|" * len(COLUMNS),
    ]
    for (dataset, recipe, request, raw), values in averaged(table).iterrows():
        cells = " | ".join(_cells(values))
        lines.append(f"| {dataset} | {recipe} | {request:g} | {raw:,.0f} | {cells} |")
    return "\n".join(lines) + "\n"


def _cells(values: pd.Series) -> Iterator[str]:
    for key in COLUMNS:
        value = values.get(key, np.nan)
        if np.isnan(value):
            yield "–"
        elif key[1] == "cpu_seconds_per_decision":
            yield f"{1000 * value:.2f}"
        else:
            yield f"{value:,.2f}" if key[0] == OPEN else f"{value:,.1f}"


def page(table: pd.DataFrame) -> Figure:
    """A row for each data set: rewards of windows, and the planner's score, against the return that was asked for, in
    raw reward: what is 1 to a model is another return to another model."""
    datasets = list(table["dataset"].unique())
    looks = marked(table["recipe"].unique())
    figure, grid = plt.subplots(
        len(datasets), 2, figsize=(10, 3.2 * len(datasets)), squeeze=False, layout="constrained"
    )
    for (left, right), dataset in zip(grid, datasets, strict=True):
        chosen = table[table["dataset"] == dataset]
        windows(left, chosen[chosen["loop"] == OPEN], looks)
        left.set_title(f"{dataset}: open loop")
        scores(right, chosen[chosen["loop"] == CLOSED], looks)
        right.set_title("closed loop: the planner")
        for axes in (left, right):
            axes.set_xlabel("return-to-go asked for (raw reward)")
    behaviour = Line2D([], [], color=GREY, linestyle=":", label="the data's behaviour")
    styles = [Line2D([], [], color=GREY, linestyle=style, label=word) for word, style in STYLES.values()]
    recipes = [
        Line2D([], [], color=color, marker=marker, markersize=4, label=name) for name, (color, marker) in looks.items()
    ]
    figure.legend(handles=[*recipes, *styles, behaviour], loc="outside lower center", ncols=4)
    return figure


def windows(axes: Axes, table: pd.DataFrame, looks: Looks) -> None:
    """What a window's rewards add up to: imagined, and paid by the simulator. Without intervals: they are those of the
    starts, which are the same for every request."""
    for recipe, (color, marker) in looks.items():
        for quantity, (_, style) in STYLES.items():
            chosen = table[(table["recipe"] == recipe) & (table["quantity"] == quantity)]
            line = chosen.groupby("return_to_go")["value"].mean()
            axes.plot(line.index, line, style, color=color, marker=marker, markersize=4)
    behaviour = table.loc[table["quantity"] == "behaviour_reward", "value"].mean()
    axes.axhline(behaviour, color=GREY, linestyle=":", linewidth=1.4)
    axes.set_ylabel("reward of a window")


def scores(axes: Axes, table: pd.DataFrame, looks: Looks) -> None:
    """The planner's normalised score with its interval, of several world models their mean and range, where a recipe's
    world model can plan."""
    for recipe, (color, marker) in looks.items():
        chosen = table[(table["recipe"] == recipe) & (table["quantity"] == "normalized_score")]
        if len(chosen):
            line = over_seeds(chosen.groupby("return_to_go"))
            axes.fill_between(line.index, line["low"], line["high"], color=color, alpha=0.15, linewidth=0)
            axes.plot(line.index, line["value"], color=color, marker=marker, markersize=4)
    if not len(table):
        axes.text(0.5, 0.5, "no model was trained to plan", ha="center", color=GREY, transform=axes.transAxes)
    axes.set_ylabel("normalised score")
