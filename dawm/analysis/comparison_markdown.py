"""The tables of a comparison for people: in Markdown, and the rows that the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dawm.analysis.run_scores import SCORE
from dawm.analysis.style import REFERENCE, learner_name, learners, method_of, reference_name

PANEL = ["algorithm", "data_fraction", "augmentation"]
APART = [f"ΔIQM vs `{REFERENCE}`", f"Δmean vs `{REFERENCE}`"]
"""Heads of the differences to the reference arm."""


def compared(aggregates: pd.DataFrame, pairs: pd.DataFrame, method: str) -> list[dict[str, Any]]:
    """A row for each arm's IQM, with the pairs `above` (it against the reference arm) and `lead` (the method against
    it), None where there are none."""
    known = _by_arms(pairs)
    rows = []
    for row in aggregates[aggregates["statistic"] == "iqm"].to_dict("records"):
        place, arm = (row["algorithm"], row["data_fraction"]), row["augmentation"]
        rows.append({**row, "above": known.get((*place, arm, REFERENCE)), "lead": known.get((*place, method, arm))})
    return rows


def verdicts(pairs: pd.DataFrame, differences: pd.DataFrame) -> list[str]:
    """A sentence for each learner and data fraction: the method against the reference arm, in IQM and in the mean, on
    how many data sets it is better, and which is the worst."""
    method, parts, said = method_of(pairs["augmentation"]), pairs["data_fraction"].nunique() > 1, []
    for pair in pairs[(pairs["augmentation"] == method) & (pairs["other"] == REFERENCE)].to_dict("records"):
        place = (differences[list(PANEL)] == [pair[name] for name in PANEL]).all(axis=1)
        worst = differences[place].sort_values("difference", kind="stable").iloc[0]
        learner = learner_name(pair["algorithm"]) + (f", {share(pair['data_fraction'])} of the data" if parts else "")
        sets = f"{pair['datasets']} data set{'s' if pair['datasets'] > 1 else ''}"
        said.append(
            f"{learner}: `{method}` minus `{REFERENCE}` is {_sure(pair, 'iqm')} in IQM and {_sure(pair, 'mean')} "
            f"in the mean; better on {pair['better']} of {sets}, worst on {worst['dataset']} "
            f"({worst['difference']:+z.1f})."
        )
    return said


def _sure(pair: Mapping[str, Any], statistic: str) -> str:
    """A difference and its interval."""
    value, low, high = (pair[f"{statistic}_{name}"] for name in ("difference", "low", "high"))
    if np.isnan(low):
        return f"{value:+z.1f} (one seed: no interval)"
    return f"{value:+z.1f} ({low:+z.1f} to {high:+z.1f})"


def _by_arms(pairs: pd.DataFrame) -> dict[tuple, dict[str, Any]]:
    """Of each row its learner, data fraction, arm and other arm, and the row."""
    return {tuple(pair[name] for name in (*PANEL, "other")): pair for pair in pairs.to_dict("records")}


def markdown(aggregates: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """IQM by arm, its distance from the reference and that of the means, and the method's lead over it."""
    parts = aggregates["data_fraction"].nunique() > 1
    heads = ["data sets × seeds", "IQM (95 % interval)", *APART, "better on"]
    method = method_of(pairs["augmentation"])
    lines = _head(parts, [*heads, f"ΔIQM of `{method}` vs it", f"P(`{method}` is better)"])
    for row in compared(aggregates, pairs, method):
        above, lead = row["above"], row["lead"]
        cells = _place(parts, row["algorithm"], row["data_fraction"], row["augmentation"])
        cells += [f"{row['datasets']} × {row['seeds']}", _estimate(row, "value", ".1f")]
        cells += [*_differences(above), f"{above['better']} of {above['datasets']}"] if above else ["–"] * 3
        cells += [_difference(lead), _chance(lead)] if lead else ["–", "–"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def iqm_markdown(aggregates: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """A line for each arm and three columns for each learner: IQM, its distance from the reference, and that of the
    means. Reference learners are lines of their own, the same below every other learner."""
    columns = {name: aggregates[aggregates["algorithm"] == name] for name in learners(aggregates)}
    places = [(name, fraction) for name, rows in columns.items() for fraction in rows["data_fraction"].unique()]
    cells: dict[str, dict[tuple[str, float], str]] = {}
    for row in compared(aggregates, pairs, method_of(pairs["augmentation"])):
        algorithm, fraction = row["algorithm"], row["data_fraction"]
        numbers = _estimate(row, "value", ".1f")
        if algorithm in columns:
            apart = _differences(row["above"]) if row["above"] else ["–", "–"]
            cells.setdefault(f"`{row['augmentation']}`", {})[algorithm, fraction] = " | ".join([numbers, *apart])
        else:
            same = {place: f"{numbers} | – | –" for place in places if place[1] == fraction}
            cells.setdefault(reference_name(algorithm, row["augmentation"], quote="`"), {}).update(same)
    heads = [learner_name(name) + ("" if fraction == 1 else f", {share(fraction)}") for name, fraction in places]
    lines = ["| arm |" + "".join(f" {' | '.join([head, *APART])} |" for head in heads)]
    lines.append("|---|" + "---:|---:|---:|" * len(places))
    for arm, found in cells.items():
        lines.append(f"| {arm} | " + " | ".join(found.get(place, "– | – | –") for place in places) + " |")
    return "\n".join(lines) + "\n"


def scores_markdown(scored: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Mean ± standard deviation over seeds by data set, a line for each learner, data fraction and arm."""
    tasks, parts = list(scored["whole"].unique()), scored["data_fraction"].nunique() > 1
    lines = _head(parts, [*tasks, *APART])
    known = _by_arms(pairs)
    for (algorithm, fraction, arm), rows in scored.groupby(PANEL, sort=False):
        values = {task: group for task, group in rows.groupby("whole")[SCORE]}
        cells = _place(parts, algorithm, fraction, arm)
        cells += [spread(values[task]) if task in values else "–" for task in tasks]
        above = known.get((algorithm, fraction, arm, REFERENCE))
        cells += _differences(above) if above else ["–", "–"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def share(fraction: float) -> str:
    """Of the data, in per cent: 10%, 0.4%."""
    return f"{100 * fraction:.3g}%"


def spread(values: pd.Series) -> str:
    """Mean ± standard deviation of a score."""
    return f"{values.mean():.1f} ± {values.std():.1f}" if len(values) > 1 else f"{values.iloc[0]:.1f}"


def _head(parts: bool, columns: Sequence[str]) -> list[str]:
    """A table's first two lines; the fraction of the data has a column where there are several."""
    names = ["learner", *["data"] * parts, "arm", *columns]
    rules = ["---", *["---:"] * parts, "---", *["---:"] * len(columns)]
    return [f"| {' | '.join(names)} |", f"|{'|'.join(rules)}|"]


def _place(parts: bool, algorithm: str, fraction: float, arm: str) -> list[str]:
    return [learner_name(algorithm), *[share(fraction)] * parts, f"`{arm}`"]


def _differences(pair: Mapping[str, Any]) -> list[str]:
    """Of the IQMs and of the means."""
    return [_difference(pair, statistic) for statistic in ("iqm", "mean")]


def _difference(pair: Mapping[str, Any], statistic: str = "iqm") -> str:
    return _estimate(pair, f"{statistic}_difference", "+z.1f", f"{statistic}_")


def _chance(pair: Mapping[str, Any]) -> str:
    return _estimate(pair, "probability_of_improvement", ".2f", "probability_")


def _estimate(row: Mapping[str, Any], name: str, style: str, ends: str = "") -> str:
    """A number and its interval, where there is one; `ends` is before the names of the interval's ends."""
    low, high = row[f"{ends}low"], row[f"{ends}high"]
    value = f"{row[name]:{style}}"
    return value if np.isnan(low) else f"{value} ({low:{style}} to {high:{style}})"
