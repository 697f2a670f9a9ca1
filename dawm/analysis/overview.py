"""Stage `describe`: one table and one figure of all inspected data sets of an experiment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dawm.analysis.dataset_figures import draw_returns
from dawm.analysis.tables import read_csv
from dawm.data.files import only_writer, write_csv, write_text
from dawm.data.sealed import Sealed, open_sealed, seal, unseal
from dawm.environments.tasks import task_of_metadata
from dawm.layout import Layout

FILES = ["datasets.csv", "datasets.md", "returns.png", "returns.pdf"]


def describe(results: Path, datasets: Sequence[str]) -> None:
    """Writes `results`/overview/datasets.csv, the same as datasets.md, returns.png and returns.pdf, sealed."""
    layout = Layout(results)
    output = layout.overview
    inspections = {name: open_sealed(layout.inspection(name), "inspection") for name in datasets}
    table = pd.DataFrame([_row(name, inspection) for name, inspection in inspections.items()])
    scores: dict[str, dict[str, np.ndarray]] = {}
    labels = {}
    for name, inspection in inspections.items():
        task = task_of_metadata(open_sealed(layout.dataset(name), "dataset").metadata)
        returns = read_csv(inspection, "episodes.csv")["return"].to_numpy()
        known = task.reference_min is not None
        scores.setdefault(task.environment, {})[name] = np.asarray(task.normalized_score(returns) if known else returns)
        labels[task.environment] = "normalised score of an episode" if known else "return of an episode"
    with only_writer(output):
        unseal(output, "overview")
        write_csv(output / "datasets.csv", table)
        write_text(output / "datasets.md", _markdown(table))
        draw_returns(scores, labels, output)
        seal(output, "overview", files=FILES, settings={"datasets": list(datasets)}, inputs=inspections, metadata={})


def _row(name: str, sealed: Sealed) -> dict[str, Any]:
    found = json.loads(sealed.read("inspection.json"))
    physics = found["physics"]
    return {
        "dataset": name,
        "source": found["source"],
        "environment": found["environment"],
        "simulator": found["simulator"],
        "rows": found["rows"],
        "episodes": found["episodes"],
        "terminals": found["terminals"],
        "length_mean": found["length"]["mean"],
        "return_mean": found["return"]["mean"],
        "return_std": found["return"]["std"],
        "return_largest": found["return"]["largest"],
        "normalized_score_mean": found["normalized_score"],
        "rows_replayed": physics["rows"],
        "replayed_from": physics["method"],
        "reproduced": physics["reproduced"],
        "observation_error_largest": physics["observation_error_largest"],
        "reward_error_largest": physics["reward_error_largest"],
        "terminals_differ": physics["terminals_differ"],
    }


def _markdown(table: pd.DataFrame) -> str:
    """The columns that people compare, rounded."""
    head = ["data set", "rows", "episodes", "length", "return", "score", "replayed rows", "equal to float32"]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for row in table.to_dict("records"):
        score, reproduced = row["normalized_score_mean"], row["reproduced"]
        cells = [
            row["dataset"],
            f"{row['rows']:,}",
            f"{row['episodes']:,}",
            f"{row['length_mean']:,.0f}",
            f"{row['return_mean']:,.0f} ± {row['return_std']:,.0f}",
            "–" if pd.isna(score) else f"{round(score, 1) + 0.0:.1f}",  # no -0.0
            f"{row['rows_replayed']:,}",
            "–" if pd.isna(reproduced) else f"{100 * reproduced:.2f} %",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
