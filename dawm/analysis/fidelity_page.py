"""Stage `fidelity`: every recipe's transitions on every data set, as one table and one page of figures.

Needs no learner: it is about the transitions alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dawm.analysis.fidelity import REAL, STILL
from dawm.analysis.statistics import over_seeds
from dawm.analysis.style import GREY, STYLE, Styles, arm_styles, save
from dawm.analysis.tables import assessed, check_scales, read_csv
from dawm.config import Experiment, decisive
from dawm.data.files import only_writer, write_csv, write_text
from dawm.data.sealed import Sealed, open_sealed, seal, unseal
from dawm.errors import InputError
from dawm.jobs import check_settings
from dawm.layout import Layout, all_synthetic_sets, trained_models

COLUMNS = {
    "state_error": "state error",
    "state_error_at_best_action": "at the best action",
    "state_error_of_action": "of the action",
    "reward_error": "reward error",
    "terminal_precision": "terminals: precision",
    "terminal_recall": "recall",
    "marginal_distance": "marginals",
    "correlation_distance": "correlations",
    "novelty": "novelty",
}
NAMES = {REAL: "real, held out", STILL: "nothing moves"}


def write_fidelity(results: Path, experiment: Experiment) -> None:
    """Writes `results`/fidelity: fidelity.csv (every number), fidelity.md (the table), fidelity.png, .pdf, and
    models.csv (how every model did on held-out rows when its training ended); sealed."""
    layout = Layout(results)
    if not experiment.generators:
        raise InputError("generators: expected a recipe of synthetic transitions, found none")
    check_settings(layout, experiment, ["fidelity"])
    check_scales({name: open_sealed(layout.dataset(name), "dataset") for name in experiment.datasets})
    assessments = {key: open_sealed(layout.assessment(*key), "assessment") for key in all_synthetic_sets(experiment)}
    models = {key: open_sealed(folder, key[1]) for key, folder in trained_models(layout, experiment).items()}
    table = assessed(assessments)
    styles = arm_styles(experiment.generators)
    with only_writer(layout.fidelity):
        unseal(layout.fidelity, "fidelity")
        write_csv(layout.fidelity / "fidelity.csv", table)
        write_csv(layout.fidelity / "models.csv", last_evaluations(models))
        write_text(layout.fidelity / "fidelity.md", markdown(table))
        with plt.rc_context(STYLE):
            figure = page(table, styles)
            save(figure, layout.fidelity / "fidelity.png", layout.fidelity / "fidelity.pdf")
            plt.close(figure)
        seal(
            layout.fidelity,
            "fidelity",
            files=["fidelity.csv", "fidelity.md", "fidelity.png", "fidelity.pdf", "models.csv"],
            settings=decisive(experiment),
            inputs={
                **{f"{name}/{recipe}/seed-{seed}": sealed for (name, recipe, seed), sealed in assessments.items()},
                **{f"{kind}/{name}/{recipe}/seed-{n}": sealed for (name, kind, recipe, n), sealed in models.items()},
            },
            metadata={"rows": len(table)},
        )


def last_evaluations(models: Mapping[tuple[str, str, str, int], Sealed]) -> pd.DataFrame:
    """The last row of each model's evaluations.csv, one line for each quantity."""
    rows = []
    for (dataset, kind, recipe, seed), sealed in models.items():
        last = read_csv(sealed, "evaluations.csv").iloc[-1]
        rows += [(dataset, kind, recipe, seed, name, value) for name, value in last.items()]
    return pd.DataFrame(rows, columns=["dataset", "model", "recipe", "world_model_seed", "quantity", "value"])


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of fidelity.csv that belong to no single step, averaged over world-model seeds, `rows` added up: one
    line for each data set, arm and quantity, in the order of their first appearance. Real rows are the same for every
    seed, and count once."""
    keys = ["dataset", "augmentation", "quantity"]
    steps = table[table["horizon_step"] == 0]
    steps = steps[~(steps["augmentation"].isin(NAMES) & steps.duplicated(keys))]
    groups = steps.groupby(keys, sort=False)
    means = over_seeds(groups).assign(coverage=groups["coverage"].mean(), rows=groups["rows"].sum())
    return means.reset_index()


def arms_of(table: pd.DataFrame, dataset: str) -> list[str]:
    """Real data first, then the generators, then "nothing moves"."""
    judged = (table["dataset"] == dataset) & (table["quantity"] == "state_error")  # n-step transitions are not
    found = table.loc[judged, "augmentation"].unique()
    return [REAL, *(arm for arm in found if arm not in NAMES), STILL]


def markdown(table: pd.DataFrame) -> str:
    """One line for each data set and arm; the state error with its 95 % interval (of several world models: range)."""
    lines = [
        "| data set | transitions | coverage | " + " | ".join(COLUMNS.values()) + " |",
        "|---|---|---:|" + "---:|" * len(COLUMNS),
    ]
    numbers = pooled(table).set_index(["dataset", "augmentation", "quantity"])
    for dataset in table["dataset"].unique():
        for arm in arms_of(table, dataset):
            cells = [_cell(numbers, (dataset, arm, quantity), quantity == "state_error") for quantity in COLUMNS]
            coverage = numbers.loc[(dataset, arm, "state_error"), "coverage"]
            lines.append(f"| {dataset} | {NAMES.get(arm, arm)} | {coverage:.0%} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(numbers: pd.DataFrame, key: tuple[str, str, str], interval: bool) -> str:
    if key not in numbers.index or np.isnan(numbers.loc[key, "value"]):
        return "–"
    row = numbers.loc[key]
    if row["value"] and abs(row["value"]) < 5e-4:
        return f"{row['value']:.0e}"
    return f"{row['value']:.3f}" + (f" ({row['low']:.3f} to {row['high']:.3f})" if interval else "")


def page(table: pd.DataFrame, styles: Styles) -> Figure:
    """A row for each data set: error by horizon step, its two parts, distances from real data, novelty."""
    datasets = list(table["dataset"].unique())
    figure, grid = plt.subplots(
        len(datasets),
        4,
        figsize=(15, 3.1 * len(datasets)),
        squeeze=False,
        layout="constrained",
        width_ratios=[3, 2, 2, 2],
    )
    numbers = pooled(table)
    for row, dataset in zip(grid, datasets, strict=True):
        chosen = numbers[numbers["dataset"] == dataset]
        judged = {arm: styles[arm] for arm in arms_of(table, dataset) if arm in styles}
        by_horizon(row[0], table[table["dataset"] == dataset], judged)
        row[0].set_title(dataset)
        parts_of_error(row[1], chosen, judged)
        row[1].set_title("where the error comes from")
        beside_real(row[2], chosen, "correlation_distance", judged)
        row[2].set_title("distance of the correlations")
        beside_real(row[3], chosen, "novelty", judged)
        row[3].set_title("novelty")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), handlelength=3)
    return figure


def by_horizon(axes: Axes, table: pd.DataFrame, styles: Styles, quantity: str = "state_error") -> pd.DataFrame:
    """A median error with its interval at each step on a logarithmic axis, of several world models their mean and
    range; dashed: where nothing moves. Returns what was drawn, a row for each arm and step."""
    chosen = table[table["quantity"] == quantity]
    steps = chosen[chosen["augmentation"].isin(styles) & (chosen["horizon_step"] > 0)]
    lines = over_seeds(steps.groupby(["augmentation", "horizon_step"]))
    for arm, (color, line) in styles.items():
        means = lines[lines.index.get_level_values("augmentation") == arm].droplevel("augmentation")
        axes.fill_between(means.index, means["low"], means["high"], color=color, alpha=0.18, linewidth=0)
        axes.plot(means.index, means["value"], "o", color=color, linestyle=line, markersize=4, label=arm)
    ceiling = chosen.loc[chosen["augmentation"] == STILL, "value"].mean()
    axes.axhline(ceiling, color=GREY, linestyle="--", linewidth=1.2, label=NAMES[STILL])
    axes.set(yscale="log", xlabel="horizon step", ylabel="state error (one-step changes)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return lines


def parts_of_error(axes: Axes, numbers: pd.DataFrame, styles: Styles) -> None:
    """What no action could mend, and lighter, what the given action adds, for each generator."""
    values = numbers.pivot(index="augmentation", columns="quantity", values="value")
    start = np.zeros(len(styles))
    for quantity, alpha in {"state_error_at_best_action": 1.0, "state_error_of_action": 0.4}.items():
        if quantity not in values:
            axes.text(0.5, 0.5, "not searched", ha="center", color=GREY, transform=axes.transAxes)
            return
        length = values.loc[list(styles), quantity].to_numpy()
        colors = [color for color, _ in styles.values()]
        axes.barh(range(len(styles)), length, left=start, color=colors, alpha=alpha)
        start = start + length
    axes.set_yticks(range(len(styles)), list(styles))
    axes.invert_yaxis()
    axes.set_xlabel("median state error: states' part (dark), action's (light)")
    axes.grid(axis="y", visible=False)


def beside_real(axes: Axes, numbers: pd.DataFrame, quantity: str, styles: Styles) -> None:
    """A quantity of each generator with its interval, if it has one; dotted: of real held-out transitions."""
    chosen = numbers[numbers["quantity"] == quantity].set_index("augmentation").reindex([REAL, *styles])
    for place, (arm, (color, _)) in enumerate(styles.items()):
        low, value, high = chosen.loc[arm, ["low", "value", "high"]]
        axes.plot([low, high], [place, place], color=color, linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot(value, place, "o", color=color, markersize=5)
    axes.axvline(chosen.loc[REAL, "value"], color=GREY, linestyle=":", linewidth=1.4)
    axes.set_yticks(range(len(styles)), list(styles))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("dotted: real, held out")
    axes.grid(axis="y", visible=False)
