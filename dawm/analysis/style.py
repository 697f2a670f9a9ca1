"""The one style of all figures: colours, fonts, names, and files that are the same each time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from dawm.data.files import whole_file

# Okabe and Ito's palette: distinguishable with every kind of colour vision.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]
GREY, PALE = "#777777", "#bdbdbd"
STYLE: Any = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "pdf.fonttype": 42,
}
ALGORITHMS = {"td3_bc": "TD3+BC", "iql": "IQL", "bc": "BC", "bc_10": "10 % BC"}
REFERENCES = ("bc", "bc_10")
"""Learners that the others are measured by; they get no panels beside others."""
LINES, MARKERS = ("-", "--", ":"), ("o", "s", "^")
REFERENCE, METHOD = "real", "dawm"
"""The arms that the others are measured by."""
MANY = 5
"""Arms whose bands can still be told apart."""


def learners(table: pd.DataFrame) -> list[str]:
    """Those of a column `algorithm` in their order, references left out unless there are no others."""
    names = [str(name) for name in table["algorithm"].unique()]
    return [name for name in names if name not in REFERENCES] or names


def learner_name(algorithm: str) -> str:
    """As people write it."""
    return ALGORITHMS.get(algorithm, algorithm)


def reference_name(algorithm: str, arm: str, quote: str = "") -> str:
    """Of a reference's line beside arms: its name, and the arm where it did not learn from the real data alone."""
    name = learner_name(algorithm)
    return name if arm == REFERENCE else f"{name}, {quote}{arm}{quote}"


Styles = Mapping[str, tuple[str, str]]
"""Colour and line by arm."""
Looks = Mapping[str, tuple[str, str]]
"""Colour and marker by arm, where lines tell something else."""


def arm_styles(arms: Iterable[str]) -> Styles:
    """Colour and line of every arm: the eight colours that can be told apart, then the same with other lines."""
    return _cycled(arms, LINES)


def marked(arms: Iterable[str]) -> Looks:
    """The same with other markers instead of other lines."""
    return _cycled(arms, MARKERS)


def _cycled(arms: Iterable[str], others: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour for each arm and, once all colours are taken, the next of the others."""
    names = list(dict.fromkeys(arms))
    return {arm: (COLORS[n % len(COLORS)], others[n // len(COLORS) % len(others)]) for n, arm in enumerate(names)}


def method_of(arms: Iterable[str]) -> str:
    """The arm that others are compared with: the method, else the first that is not the reference, else that."""
    names = list(arms)
    return METHOD if METHOD in names else next((arm for arm in names if arm != REFERENCE), REFERENCE)


def banded(arms: Iterable[str]) -> set[str]:
    """The arms whose intervals a figure of curves shows: of many only those that the others are measured by."""
    names = list(arms)
    return set(names) & {REFERENCE, method_of(names)} if is_many(names) else set(names)


def is_many(arms: Iterable[str]) -> bool:
    """Whether there are more arms than a figure of curves can tell apart."""
    return len(set(arms)) > MANY


def outer_legend(figure: Figure) -> None:
    """Beside the first row's last panel, of all panels' lines."""
    handles = {name: line for axes in figure.axes for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    last = max(figure.axes, key=lambda axes: (axes.get_position().y1, axes.get_position().x1))
    columns = -(-len(handles) // 8)  # no taller than a flat panel
    last.legend(
        list(handles.values()),
        list(handles),
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        fontsize=8,
        handlelength=3,
        ncols=columns,
    )


NO_DATES: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def save(figure: Figure, *paths: Path) -> None:
    """The figure as PNG of 256 colours, a third as large as of all, or as PDF with vectors and embedded fonts, by
    each path's suffix; the same bytes each time."""
    for path in paths:
        with whole_file(path) as part:
            figure.savefig(part, format=path.suffix[1:], metadata=NO_DATES[path.suffix], bbox_inches="tight")
            if path.suffix == ".png":
                with Image.open(part) as picture:
                    reduced = picture.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
                    dots = picture.info["dpi"]
                reduced.save(part, format="PNG", optimize=True, dpi=dots)


def save_all(figures: Mapping[str, Figure], output: Path) -> list[str]:
    """Each by its name as PNG and as PDF, and closed; returns the files' names."""
    with plt.rc_context(STYLE):
        for name, figure in figures.items():
            save(figure, output / f"{name}.png", output / f"{name}.pdf")
            plt.close(figure)
    return [f"{name}.{kind}" for name in figures for kind in ("png", "pdf")]
