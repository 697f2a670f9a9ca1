"""Tables `scores.csv`, one run a row, as anybody may have written them: read, checked cell by cell, joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dawm.errors import InputError, one_line

SCORE = "normalized_score_mean10"
"""The score that arms are compared by."""
KEY = ["whole", "data_fraction", "algorithm", "augmentation", "seed"]
NAMES = ["whole", "algorithm", "augmentation"]
EMPTY = ["", "nan", "na", "<na>", "none", "null"]
LARGEST_WHOLE = 2**53


def _is_whole(values: pd.Series) -> pd.Series:
    return (values >= 0) & (values <= LARGEST_WHOLE) & (values % 1 == 0)


NUMBERS: dict[str, tuple[str, Callable[[pd.Series, pd.Series], pd.Series]]] = {
    "data_fraction": ("a number above 0 and at most 1", lambda values, _: (values > 0) & (values <= 1)),
    "seed": ("a whole number from 0", lambda values, _: _is_whole(values)),
    "world_model_seed": ("a whole number from 0, or nothing", lambda values, empty: _is_whole(values) | empty),
    "episodes": ("a whole number from 1", lambda values, _: _is_whole(values) & (values >= 1)),
    SCORE: ("a number, or nothing", lambda values, empty: values.notna() | empty),
}
"""Of a column, what is expected, and which rows are so; these are given the numbers, and where there is nothing."""


def read_scores(paths: Sequence[Path]) -> pd.DataFrame:
    """The runs of all tables under each other; refuses a run that is there twice."""
    table = pd.concat([_read(path) for path in paths], ignore_index=True)
    twice = table[table.duplicated(KEY)]
    if len(twice):
        run = "/".join(str(twice.iloc[0][name]) for name in KEY)
        raise InputError(f"{paths[-1]}: expected every run once, found {run} twice")
    return table


def _read(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, compression=None, dtype=str, keep_default_na=False, index_col=False).fillna("")
    except OSError as error:
        raise InputError(f"{path}: expected a table scores.csv, found: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path}: expected a table scores.csv, found: {one_line(error):.200}") from error
    absent = [name for name in (*KEY, *NUMBERS) if name not in table]
    if absent:
        raise InputError(f"{path}: expected a table scores.csv, found no column {absent[0]!r}")
    if table.empty:
        raise InputError(f"{path}: expected at least one run, found none")
    for name in NAMES:
        fits = table[name].map(lambda text: text.strip() != "" and text.isprintable() and not set(text) & set("|`$"))
        _check(path, table[name], fits, "a name in one line, without |, ` and $")
    for name, (expected, fits) in NUMBERS.items():
        values = pd.to_numeric(table[name], errors="coerce").astype(float)
        empty = table[name].str.strip().str.lower().isin(EMPTY)
        _check(path, table[name], fits(values, empty), expected)
        table[name] = values
    return table.astype({"seed": int})


def _check(path: Path, column: pd.Series, fits: pd.Series, expected: str) -> None:
    """Rows count from 1."""
    if not fits.all():
        row = int(np.flatnonzero(~fits)[0])
        raise InputError(
            f"{path}: column {column.name!r}, row {row + 1}: expected {expected}, found {column.iloc[row]!r:.50}"
        )
