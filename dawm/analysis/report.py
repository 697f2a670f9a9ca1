"""Stage `report`: one offline page of everything, from the sealed tables and the figures."""

from __future__ import annotations

import base64
from pathlib import Path

import jinja2
import pandas as pd
import yaml

from dawm import __version__
from dawm.analysis.fidelity import REAL, STILL
from dawm.analysis.figures import ALGORITHMS
from dawm.analysis.film import FILM
from dawm.analysis.tables import read_csv
from dawm.config import Experiment, as_mapping, plain
from dawm.data.files import read_bytes, write_text
from dawm.data.sealed import Sealed, open_sealed
from dawm.layout import Layout, Run, filmed_runs, synthetic_sets

TEMPLATE = Path(__file__).with_name("report.html.j2")
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SHOWN = {REAL: "real, held out", STILL: "nothing moves"}


def write_report(results: Path, experiment: Experiment) -> None:
    """Writes `results`/report.html: no scripts, no network, pictures inside."""
    layout, matrix = Layout(results), experiment.matrix()
    tables = open_sealed(layout.tables, "tables")
    synthetic = [open_sealed(layout.synthetic(*key), "synthetic") for key in synthetic_sets(matrix)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["number"] = number
    page = environment.get_template(TEMPLATE.name).render(
        experiment=experiment,
        version=__version__,
        datasets=read_csv(tables, "datasets.csv").to_dict("records"),
        summary=summary_table(tables),
        scores=read_csv(tables, "scores.csv").to_dict("records"),
        fidelity=fidelity_table(tables),
        actions=action_table(tables),
        synthetic_rows=sum(sealed.metadata["rows"] for sealed in synthetic),
        synthetic_shards=sum(len(sealed.files) for sealed in synthetic),
        figures={path.stem: picture(path) for path in sorted(layout.figures.glob("*.png"))},
        films={title(run): gif(layout.film(run)) for run in filmed_runs(matrix)},
        versions=tables.provenance["versions"],
        digest=tables.digest,
        config=yaml.safe_dump(plain(as_mapping(experiment)), sort_keys=False, allow_unicode=True),
    )
    write_text(layout.report, page)


def summary_table(tables: Sealed) -> list[dict]:
    """One row per data set, learner and arm, with the data's own mean beside it."""
    summary, datasets = read_csv(tables, "summary.csv"), read_csv(tables, "datasets.csv")
    wide = []
    for key, group in summary.groupby(["dataset", "algorithm", "augmentation"], sort=False):
        rows = group.set_index("quantity")
        wide.append(
            dict(zip(("dataset", "algorithm", "augmentation"), key, strict=True))
            | {"last": rows.loc["normalized_score_last"], "mean10": rows.loc["normalized_score_mean10"]}
            | {"data": datasets.set_index("dataset").loc[key[0], "normalized_score_mean"]}
        )
    return wide


def fidelity_table(tables: Sealed) -> list[dict]:
    """Errors and terminals by arm, steps 2 and later together, averaged over world-model seeds."""
    if not (table := readable(tables, "fidelity.csv")):
        return []
    frame = pd.DataFrame(table)
    frame = frame[(frame["horizon_step"] == 0) & ~frame["quantity"].str.startswith("action_error")]
    rows = []
    for (dataset, arm), group in frame.groupby(["dataset", "augmentation"], sort=False):
        means = group.groupby("quantity")["value"].mean()
        counts = group[group["quantity"] == "state_error"]
        rows.append(
            {
                "dataset": dataset,
                "arm": SHOWN.get(arm, arm),
                "rows": int(counts["rows"].sum()),
                "coverage": counts["coverage"].mean(),
                **means.to_dict(),
            }
        )
    return rows


def action_table(tables: Sealed) -> list[dict]:
    rows = [row for row in readable(tables, "fidelity.csv") if row["quantity"].startswith("action_error")]
    return [row | {"dimension": row["quantity"].removeprefix("action_error").lstrip("_") or "all"} for row in rows]


def readable(tables: Sealed, name: str) -> list[dict]:
    """The rows of a table that may be empty (an experiment without synthetic data)."""
    if not tables.read(name).strip():
        return []
    return read_csv(tables, name).to_dict("records")


def picture(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(read_bytes(path)).decode()


def title(run: Run) -> str:
    return f"{run.dataset}, {ALGORITHMS.get(run.algorithm, run.algorithm)}, {run.augmentation}, seed {run.seed}"


def gif(folder: Path) -> str | None:
    """The film of a policy; none where none could be drawn."""
    sealed = open_sealed(folder, "film")
    return "data:image/gif;base64," + base64.b64encode(sealed.read(FILM)).decode() if FILM in sealed.files else None


def number(value: float | None, digits: int = 1) -> str:
    """A number for people: an en dash where there is none, powers of ten where it is tiny."""
    if value is None or value != value:
        return "–"
    if value and abs(value) < 10**-digits / 2:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}·10{str(int(exponent)).translate(SUPERSCRIPT)}"
    return f"{value:,.{digits}f}"
