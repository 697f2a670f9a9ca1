"""Figures of data sets: what one holds and whether it obeys physics, and the returns of several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from dawm.analysis.style import COLORS, GREY, STYLE, save

if TYPE_CHECKING:
    from dawm.analysis.inspection import Inspection

BINS = 60


def draw_inspection(inspection: Inspection, path: Path) -> None:
    """Histograms of returns, lengths and rewards; ranges of observations; use of the actions; the physics' verdict."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(2, 3, figsize=(10.5, 5.6), layout="constrained")
        transitions, facts = inspection.transitions, inspection.facts
        _histogram(panels[0, 0], inspection.returns, "return of an episode", "episodes")
        _histogram(panels[0, 1], inspection.lengths, "length of an episode", "episodes")
        _histogram(panels[0, 2], transitions.reward, "reward", "rows")
        _ranges(panels[1, 0], facts["observation"], "observation dimension")
        _actions(panels[1, 1], transitions.action)
        _physics(panels[1, 2], inspection)
        figure.suptitle(
            f"{facts.get('source', inspection.name)} · {inspection.task.environment} · "
            f"{facts['rows']:,} rows in {facts['episodes']:,} episodes",
            fontsize=11,
        )
        save(figure, path)
        plt.close(figure)


def _histogram(axes: Axes, values: np.ndarray, label: str, what: str) -> None:
    axes.hist(values.astype(np.float64), bins=BINS, color=COLORS[0])  # float32 may have too few numbers in the range
    axes.axvline(values.mean(), color=COLORS[1], linewidth=1.2)
    axes.set_title(f"mean {values.mean():,.4g}", color=COLORS[1], fontsize=8, loc="right")
    axes.set_xlabel(label)
    axes.set_ylabel(what)


def _ranges(axes: Axes, ranges: dict[str, list[float]], label: str) -> None:
    """Smallest to largest as a line, mean ± standard deviation as a bar, by dimension."""
    low, high, mean, std = (np.array(ranges[key]) for key in ("smallest", "largest", "mean", "std"))
    place = np.arange(len(mean))
    axes.vlines(place, low, high, color=GREY, linewidth=1)
    axes.bar(place, 2 * std, bottom=mean - std, width=0.6, color=COLORS[0], alpha=0.8)
    axes.set_xlabel(label)
    axes.set_ylabel("range, mean ± std")
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]


def _actions(axes: Axes, action: np.ndarray) -> None:
    for dimension in range(action.shape[1]):
        counts, edges = np.histogram(action[:, dimension].astype(np.float64), bins=BINS)
        color = COLORS[dimension % len(COLORS)]
        axes.stairs(counts / len(action), edges, color=color, linewidth=1.2, label=str(dimension))
    axes.set_xlabel("action, by dimension")
    axes.set_ylabel("share of rows")
    axes.legend(ncols=2, fontsize=7)


def _physics(axes: Axes, inspection: Inspection) -> None:
    """The verdict in words and, where rows were replayed, how their error compares with "nothing moves"."""
    physics = inspection.physics
    axes.set_title("physics", color=COLORS[1] if physics.alarm else "black")
    axes.axis("off")
    words = physics.verdict
    if physics.method != "none":
        words += (
            f"\n\n{physics.rows:,} rows replayed from {physics.method}; "
            f"{100 * physics.coverage:.1f} % of all rows can be.\n"
            f"equal to float32: {100 * (physics.reproduced or 0):.2f} %\n"
            f"median error, relative to a step: {physics.relative_error:.2g}\n"
            f'the same for "nothing moves": {physics.still:.2g}'
        )
    axes.text(0, 0.95, words, va="top", wrap=True, fontsize=8.5, transform=axes.transAxes)


def draw_returns(scores: dict[str, dict[str, np.ndarray]], label: dict[str, str], output: Path) -> None:
    """Writes returns.png and returns.pdf into `output`: a panel per environment, a histogram per data set.

    scores: by environment and data set, of every episode; label: of each environment's axis.
    """
    with plt.rc_context(STYLE):
        rows = max(len(sets) for sets in scores.values())
        size = (3.6 * len(scores), 0.8 + 0.62 * rows)
        figure, panels = plt.subplots(1, len(scores), figsize=size, layout="constrained", squeeze=False)
        for axes, (environment, sets) in zip(panels[0], scores.items(), strict=True):
            low = min(values.min() for values in sets.values())
            high = max(values.max() for values in sets.values())
            edges = np.linspace(low, high + 1e-9 + 0.001 * abs(high), BINS + 1)
            for place, values in enumerate(reversed(sets.values())):
                counts, _ = np.histogram(values, edges)
                height = 0.85 * counts / counts.max()
                color = COLORS[(len(sets) - 1 - place) % len(COLORS)]
                axes.stairs(place + height, edges, baseline=place, fill=True, color=color, alpha=0.85)
                axes.plot([values.mean()] * 2, [place, place + 0.85], color="black", linewidth=1)
            axes.set_yticks(range(len(sets)), reversed(list(sets)))
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", visible=False)
            axes.set_title(environment)
            axes.set_xlabel(label[environment])
        save(figure, output / "returns.png", output / "returns.pdf")
        plt.close(figure)
