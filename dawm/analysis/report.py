"""Stage `report`: one offline page of everything, from the sealed tables and the figures."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image

from dawm import __version__
from dawm.analysis.animation import GIF
from dawm.analysis.comparison_markdown import compared, share, verdicts
from dawm.analysis.fidelity_page import NAMES, pooled
from dawm.analysis.film import FILM
from dawm.analysis.recipe_words import recipe_words
from dawm.analysis.statistics import RESAMPLES
from dawm.analysis.style import REFERENCE, is_many, learner_name, method_of
from dawm.analysis.tables import read_csv
from dawm.config import Experiment, as_yaml, decisive
from dawm.data.files import only_writer, write_text
from dawm.data.sealed import Sealed, open_sealed, seal, unseal
from dawm.jobs import check_settings, group_name
from dawm.layout import Layout, Run, animated_sets, filmed_runs, synthetic_sets

TEMPLATE = Path(__file__).with_name("report.html.j2")
PUBLISHED = Path(__file__).with_name("published_scores.csv")
"""Others' scores with protocol and source, collected by hand from papers and READMEs."""
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def write_report(results: Path, experiment: Experiment) -> None:
    """Writes `results`/report.html and its seal: nothing from outside, pictures inside, a script that sorts tables."""
    layout, matrix = Layout(results), experiment.matrix()
    check_settings(layout, experiment)
    inputs = {name: open_sealed(layout.root / name, name) for name in ("tables", "comparison", "figures", "timings")}
    tables, comparison = inputs["tables"], inputs["comparison"]
    pairs, method = read_csv(comparison, "pairs.csv"), method_of(experiment.augmentations)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": number, "points": points, "learner": learner_name, "share": share}
    environment.filters["marked"] = marked
    page = environment.get_template(TEMPLATE.name).render(
        experiment=experiment,
        version=__version__,
        resamples=RESAMPLES,
        reference=REFERENCE,
        method=method,
        datasets=read_csv(tables, "datasets.csv").to_dict("records"),
        arms=arm_rows(experiment, read_csv(tables, "learning_curves.csv")),
        many=is_many(experiment.augmentations),
        notes=comparison.metadata["notes"],
        verdicts=verdicts(pairs, read_csv(comparison, "differences.csv")),
        compared=compared(read_csv(comparison, "aggregates.csv"), pairs, method),
        summary=summary_table(tables),
        planner=planner_rows(tables),
        published=published_table(tables),
        costs=cost_rows(experiment, read_csv(inputs["timings"], "timings.csv")),
        scores=read_csv(tables, "scores.csv").to_dict("records"),
        fidelity=fidelity_table(tables),
        actions=action_table(tables),
        synthetic_rows=tables.metadata["synthetic_rows"],
        synthetic_shards=sum(experiment.generators[name].synthesis.shards for _, name, _ in synthetic_sets(matrix)),
        figures=pictures(inputs["figures"]),
        comparison=pictures(comparison),
        films={title(run): moving(open_sealed(layout.film(run), "film"), FILM) for run in filmed_runs(matrix)},
        rollouts={
            f"{dataset}, {generator}": moving(open_sealed(layout.animation(dataset, generator, seed), "animation"), GIF)
            for dataset, generator, seed in animated_sets(experiment)
        },
        versions=tables.provenance["versions"],
        digest=tables.digest,
        config=as_yaml(experiment),
    )
    with only_writer(layout.root):
        unseal(layout.root, "report")
        write_text(layout.report, page)
        settings = decisive(experiment)
        seal(layout.root, "report", files=[layout.report.name], settings=settings, inputs=inputs, metadata={})


def summary_table(tables: Sealed) -> list[dict]:
    """One row per data set, learner and arm, with the data's own mean beside it."""
    summary, datasets = read_csv(tables, "summary.csv"), read_csv(tables, "datasets.csv")
    wide = []
    for key, group in summary.groupby(["dataset", "algorithm", "augmentation"], sort=False):
        rows = group.set_index("quantity")
        wide.append(
            dict(zip(("dataset", "algorithm", "augmentation"), key, strict=True))
            | {kind: rows.loc[f"normalized_score_{kind}"] for kind in ("last", "mean10", "best")}
            | {"data": datasets.set_index("dataset").loc[key[0], "normalized_score_mean"]}
        )
    return wide


def fidelity_table(tables: Sealed) -> list[dict]:
    """Errors and terminals by arm, steps 2 and later together, averaged over world-model seeds."""
    if not readable(tables, "fidelity.csv"):
        return []
    rows, table = [], pooled(read_csv(tables, "fidelity.csv"))
    for (dataset, arm), group in table.groupby(["dataset", "augmentation"], sort=False):
        numbers = group.set_index("quantity")
        place = {"dataset": dataset, "arm": NAMES.get(str(arm), arm)}
        if "state_error" in numbers.index:  # not of inverse dynamics
            rows.append(place | numbers.loc["state_error", ["rows", "coverage"]].to_dict() | numbers["value"].to_dict())
    return rows


def action_table(tables: Sealed) -> list[dict]:
    """Of every inverse dynamics model once, however many recipes share it."""
    known = {
        tuple(row[name] for name in ("dataset", "world_model_seed", "quantity", "value")): row
        for row in readable(tables, "fidelity.csv")
        if row["quantity"].startswith("action_error")
    }
    return [
        row | {"dimension": row["quantity"].removeprefix("action_error").lstrip("_") or "all"} for row in known.values()
    ]


def readable(tables: Sealed, name: str) -> list[dict]:
    """The rows of a table that may be empty (an experiment without synthetic data)."""
    if not tables.read(name).strip():
        return []
    return read_csv(tables, name).to_dict("records")


def arm_rows(experiment: Experiment, curves: pd.DataFrame) -> list[dict]:
    """What every arm's batches are made of: the real share that was asked for, that of the rows as they were drawn
    (curves: the table of learning curves), and the recipe in words."""
    arms = experiment.matrix().augmentations
    first: dict[str, str] = {}
    for name, arm in arms.items():
        if arm.generator is not None:
            first.setdefault(arm.generator, name)
    words = recipe_words({name: experiment.generators[generator] for generator, name in first.items()})
    drawn = curves.groupby("augmentation")["real_share"].mean()
    rows = []
    for name, arm in arms.items():
        owner = None if arm.generator is None else first[arm.generator]
        recipe = "–" if owner is None else words.get(name, f"those of {owner}")
        rows.append({"name": name, "real_fraction": arm.real_fraction, "drawn": drawn.get(name), "recipe": recipe})
    return rows


def cost_rows(experiment: Experiment, table: pd.DataFrame) -> list[dict]:
    """CPU-seconds by arm and learner, as Snakemake sampled them: of a run, and of the models and transitions that one
    data set and world-model seed need, means over the jobs that were sampled (NaN: none was); `hours` of all of it."""
    if table.empty:
        return []
    matrix = experiment.matrix()
    words = table["job"].str.split("/", expand=True).reindex(columns=range(4))
    table = table.join(words.set_axis(["dataset", "second", "third", "fourth"], axis=1))
    policies, others = table[table["stage"] == "train-policy"], table[table["stage"] != "train-policy"]
    size = {group_name(group): len(group) for group in experiment.seed_groups()}
    each = policies["cpu_seconds"] / policies["fourth"].map(size)
    runs = each.groupby([policies["second"], policies["third"]]).mean()
    of_sets = others.groupby(["stage", "second", "dataset", "third"])["cpu_seconds"]
    made = of_sets.agg(lambda shards: shards.sum(skipna=False))
    parts = made.groupby(["stage", "second"]).mean()
    rows = []
    for algorithm in matrix.algorithms:
        for name in matrix.arms_of(algorithm):
            generator = matrix.augmentations[name].generator
            run = runs.get((algorithm, name), np.nan)
            models = sum(parts.get(key, np.nan) for key in jobs_of(experiment, generator)) if generator else 0.0
            seconds = run * len(matrix.seeds) + models * len(matrix.world_model_seeds)
            hours = len(matrix.datasets) * seconds / 3600
            rows.append({"algorithm": algorithm, "arm": name, "run": run, "models": models, "hours": hours})
    return rows


def jobs_of(experiment: Experiment, generator: str) -> list[tuple[str, str]]:
    """(stage, recipe) of the jobs that a recipe's transitions need; models are those of the recipe that owns them."""
    recipe = experiment.generators[generator]
    needed = dict.fromkeys(recipe.grown_by())
    needed |= dict.fromkeys(recipe.taught_by("world_model"))
    models = [(f"train-{part.replace('_', '-')}", experiment.owner(generator, part)) for part in needed]
    return [*models, ("synthesize", generator)]


def planner_rows(tables: Sealed) -> list[dict]:
    """Of what acts without a learner: mean and standard deviation over world models, by what was asked for."""
    table = read_csv(tables, "planner.csv")
    groups = table.groupby(["dataset", "generator", "request"], sort=False)
    return [
        dict(zip(("dataset", "generator", "request"), key, strict=True))
        | {"mean": group["normalized_score"].mean(), "std": group["normalized_score"].std()}
        | {"milliseconds": 1000 * group["cpu_seconds_per_decision"].mean(), "models": len(group)}
        for key, group in groups
    ]


def published_table(tables: Sealed) -> list[dict]:
    """Scores that others have published for D4RL's data sets of the names that the experiment has."""
    sources = read_csv(tables, "datasets.csv")["source"]
    tasks = {source.rpartition("/")[2].removesuffix("-v2") + "-v2" for source in sources}
    table = pd.read_csv(PUBLISHED)
    rows = table[table["task"].isin(tasks)].to_dict("records")
    own = [{"task": task, "method": "DAWM (arXiv 2509.19538)"} for task in table["task"].unique() if task in tasks]
    missing = dict.fromkeys(("mean", "std", "best_mean", "seeds")) | {"protocol": "not known", "source": "–"}
    return rows + [row | missing for row in own]


def pictures(sealed: Sealed) -> dict[str, str]:
    return {name[:-4]: png(sealed.read(name)) for name in sealed.files if name.endswith(".png")}


def png(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def title(run: Run) -> str:
    return f"{run.dataset}, {learner_name(run.algorithm)}, {run.augmentation}, seed {run.seed}"


def moving(sealed: Sealed, name: str) -> str | None:
    """A moving picture as WebP, smaller than the GIF that it is made of; none where none could be drawn."""
    if name not in sealed.files:
        return None
    smaller = io.BytesIO()
    with Image.open(io.BytesIO(sealed.read(name))) as picture:
        picture.save(smaller, "WEBP", save_all=True, quality=40, method=4)
    return "data:image/webp;base64," + base64.b64encode(smaller.getvalue()).decode()


def marked(text: str) -> Markup:
    """Text with names in back-ticks, as Markdown has them, as HTML."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def points(score: float | None) -> str:
    """A score, or a difference of scores: a tenth of a point is enough."""
    return "–" if score is None or score != score else f"{round(score, 1) + 0.0:,.1f}"


def number(value: float | None, digits: int = 1) -> str:
    """A number for people: an en dash where there is none, powers of ten where it is tiny."""
    if value is None or value != value:
        return "–"
    if value and abs(value) < 10**-digits / 2:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}·10{str(int(exponent)).translate(SUPERSCRIPT)}"
    return f"{value:,.{digits}f}"
