"""Stage `tables`: one row per run in scores.csv, what follows from it, and how true transitions and models are."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from dawm.analysis.statistics import hierarchical_interval, interquartile_mean
from dawm.config import PART, Experiment, Matrix, as_mapping
from dawm.data.files import only_writer, write_csv
from dawm.data.sealed import PROVENANCE, Sealed, open_sealed, seal, unseal
from dawm.environments.tasks import task_of_metadata
from dawm.errors import InputError
from dawm.jobs import check_settings
from dawm.layout import Layout, Run, planners, runs, synthetic_sets

LAST_EVALUATIONS = 10
GROUP = ["experiment", "dataset", "algorithm", "augmentation"]
MEANS = ["q", "real_share"]
OPEN, CLOSED = "open", "closed"
"""The loops in a table steering.csv."""
PLANNED = ["return", "normalized_score", "cpu_seconds_per_decision"]


def write_tables(results: Path, experiment: Experiment) -> None:
    """Reads every sealed run below `results`; writes tables/*.csv, sealed. Equal results give equal bytes."""
    layout, matrix = Layout(results), experiment.matrix()
    check_settings(layout, experiment)
    policies = {run: open_sealed(layout.policy(run), "policy") for run in runs(matrix)}
    datasets = {name: open_sealed(layout.dataset(name), "dataset") for name in matrix.datasets}
    check_scales(datasets)
    assessments = {key: open_sealed(layout.assessment(*key), "assessment") for key in synthetic_sets(matrix)}
    for run, sealed in policies.items():
        check_run(run, sealed, matrix, datasets[run.dataset])
        check_source(run, sealed, matrix, layout, assessments)
    steerings = {key: open_sealed(layout.steering(*key), "steering") for key in planners(matrix)}
    evaluations = {run: read_csv(sealed, "evaluations.csv") for run, sealed in policies.items()}
    scores = pd.DataFrame(
        [score_row(matrix, run, policies[run], evaluations[run], datasets[run.dataset]) for run in policies]
    )
    scores["world_model_seed"] = scores["world_model_seed"].astype("Int64")  # whole numbers beside gaps
    tables = {
        "datasets": pd.DataFrame([dataset_row(name, sealed) for name, sealed in datasets.items()]),
        "scores": scores,
        "summary": pd.DataFrame(summary_rows(scores)),
        "learning_curves": pd.concat([curve(run, policies[run], table) for run, table in evaluations.items()]),
        "fidelity": assessed(assessments),
        "inverse_dynamics": inverse_pairs(assessments),
        "planner": planner_table(matrix, steerings),
    }
    with only_writer(layout.tables):
        unseal(layout.tables, "tables")
        for name, table in tables.items():
            write_csv(layout.tables / f"{name}.csv", table)
        inputs = {run.slug: sealed for run, sealed in policies.items()}
        inputs |= {f"datasets/{name}": sealed for name, sealed in datasets.items()}
        inputs |= {f"assessments/{name}/{recipe}/seed-{n}": sealed for (name, recipe, n), sealed in assessments.items()}
        inputs |= {f"steering/{name}/{recipe}/seed-{n}": sealed for (name, recipe, n), sealed in steerings.items()}
        seal(
            layout.tables,
            "tables",
            files=[f"{name}.csv" for name in tables],
            settings=as_mapping(matrix),
            inputs=inputs,
            metadata={
                "runs": len(policies),
                "synthetic_rows": sum(sealed.metadata["synthetic_rows"] for sealed in assessments.values()),
            },
        )


def curve(run: Run, sealed: Sealed, evaluations: pd.DataFrame) -> pd.DataFrame:
    """A run's evaluations, with the means since the one before of the learner's Q, where it has one, and real share."""
    metrics = read_csv(sealed, "metrics.csv")
    since = pd.cut(metrics["step"], [0, *evaluations["step"]], labels=False)
    means = metrics.groupby(since)[[name for name in MEANS if name in metrics]].mean()
    return named(evaluations.join(means.reindex(columns=MEANS)), run)


def check_scales(datasets: dict[str, Sealed]) -> None:
    """Refuses data sets of one environment's several versions, or with several reference scores, in one table."""
    scales: dict[str, tuple[str, tuple]] = {}
    for name, sealed in datasets.items():
        facts = sealed.metadata
        family = task_of_metadata(facts).family
        scale = (facts["environment"], facts.get("reference_min"), facts.get("reference_max"))
        other, known = scales.setdefault(family, (name, scale))
        if known != scale:
            raise InputError(
                f"{sealed.folder}: expected the environment and reference scores of {other}, "
                f"{known[0]} from {known[1]} to {known[2]}, found {scale[0]} from {scale[1]} to {scale[2]}; "
                "their scores are not comparable, so make an experiment of their own for them"
            )


def check_run(run: Run, sealed: Sealed, matrix: Matrix, dataset: Sealed) -> None:
    """Refuses a policy whose provenance is not what its place says."""
    facts = sealed.provenance
    found = (
        facts["settings"]["algorithm"],
        facts["settings"]["real_fraction"],
        facts["seed"],
        facts["inputs"]["dataset"],
    )
    expected = (run.algorithm, matrix.augmentations[run.augmentation].real_fraction, run.seed, dataset.digest)
    if found != expected:
        raise InputError(
            f"{sealed.folder}: expected {run.algorithm} with real fraction {expected[1]} and seed {run.seed} on "
            f"{dataset.folder}, found {found[0]} with {found[1]} and seed {found[2]}"
            f"{'' if found[3] == expected[3] else ' on another data set'}; train it again"
        )


def check_source(
    run: Run, sealed: Sealed, matrix: Matrix, layout: Layout, assessments: Mapping[tuple[str, str, int], Sealed]
) -> None:
    """Refuses a policy that learned from other synthetic transitions than its arm's: those at their place, or those
    that were assessed, if they have been made again since."""
    generator = matrix.augmentations[run.augmentation].generator
    if generator is None:
        return
    key = run.dataset, generator, matrix.world_model_seed(run.seed)
    folder, known = layout.synthetic(*key), {assessments[key].provenance["inputs"]["synthetic"]}
    if (folder / PROVENANCE).is_file():
        known.add(open_sealed(folder, "synthetic").digest)
    if sealed.provenance["inputs"].get("synthetic") not in known:
        raise InputError(f"{sealed.folder}: grew from other transitions than {folder}; train it again")


def score_row(
    matrix: Matrix, run: Run, sealed: Sealed, evaluations: pd.DataFrame, dataset: Sealed
) -> dict[str, object]:
    """A run's row of scores.csv. sealed: its policy; evaluations: of it, a row each with steps, raw and normalised
    return; dataset: what it was trained on."""
    fraction, last = sealed.provenance["settings"]["real_fraction"], evaluations.iloc[-1]
    return {
        "experiment": matrix.experiment,
        "dataset": run.dataset,
        "algorithm": run.algorithm,
        "augmentation": run.augmentation,
        "seed": run.seed,
        "world_model_seed": matrix.world_model_seed(run.seed) if fraction < 1 else None,
        "data_fraction": dataset.metadata.get("fraction", 1.0),
        "real_fraction": fraction,
        "gradient_steps": sealed.provenance["settings"]["gradient_steps"],
        **scores_of(evaluations),
        "return_last": last["return_mean"],
        "episodes": int(last["episodes"]),
        "whole": whole_of(run.dataset, dataset),
    }


def scores_of(evaluations: pd.DataFrame) -> dict[str, float]:
    """A run's last score, the mean of its last ten, and its best, which is for reading old papers: no statistic uses
    it."""
    scores = evaluations["normalized_score"]
    return {
        "normalized_score_last": scores.iloc[-1],
        "normalized_score_mean10": scores.tail(LAST_EVALUATIONS).mean(),
        "normalized_score_best": scores.max(),
    }


def whole_of(name: str, dataset: Sealed) -> str:
    """The data set that this one is a part of, or itself."""
    source = dataset.metadata["source"]
    return source.removeprefix(PART) if source.startswith(PART) else name


def summary_rows(scores: pd.DataFrame) -> Iterator[dict[str, object]]:
    """Per arm and kind of score over the seeds: mean, standard deviation, IQM with a 95 % bootstrap interval that is
    hierarchical over world models."""
    for key, group in scores.groupby(GROUP, sort=False):
        for quantity in ("normalized_score_last", "normalized_score_mean10", "normalized_score_best"):
            values = group[quantity].to_numpy()
            low, high = hierarchical_interval(values, world_models_of(group), interquartile_mean)
            yield {
                **dict(zip(GROUP, key, strict=True)),
                "quantity": quantity,
                "seeds": len(values),
                "mean": values.mean(),
                "std": values.std(ddof=1) if len(values) > 1 else np.nan,
                "iqm": float(interquartile_mean(values)),
                "iqm_low": low,
                "iqm_high": high,
            }


def world_models_of(rows: pd.DataFrame) -> np.ndarray:
    """Of an arm's runs (columns seed and world_model_seed) which share a world model, [runs]; names of their own where
    there is none."""
    shared = rows["world_model_seed"].notna()
    return np.where(shared, "model " + rows["world_model_seed"].astype(str), "seed " + rows["seed"].astype(str))


def dataset_row(name: str, sealed: Sealed) -> dict[str, object]:
    """A data set's row of datasets.csv: where it comes from, its size, raw returns of its episodes and their score."""
    facts = sealed.metadata
    score = task_of_metadata(facts).normalized_score
    return {
        "dataset": name,
        "source": facts["source"],
        "environment": facts["environment"],
        "simulator": facts["simulator"],
        "rows": facts["rows"],
        "episodes": facts["episodes"],
        "return_mean": facts["mean_return"],
        "return_largest": facts["largest_return"],
        "normalized_score_mean": score(facts["mean_return"]),
        "digest": sealed.digest,
    }


def named(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    names = {"dataset": run.dataset, "algorithm": run.algorithm, "augmentation": run.augmentation, "seed": run.seed}
    return pd.concat([pd.DataFrame([names] * len(table)), table.reset_index(drop=True)], axis=1)


def assessed(assessments: Mapping[tuple[str, str, int], Sealed]) -> pd.DataFrame:
    """The assessments' fidelity under each other, with data set and world-model seed; what generators share, once."""
    parts = []
    for (dataset, _, seed), sealed in assessments.items():
        table = read_csv(sealed, "fidelity.csv")
        table.insert(0, "dataset", dataset)
        table["world_model_seed"] = seed
        parts.append(table)
    return pd.concat(parts).drop_duplicates() if parts else pd.DataFrame()


def inverse_pairs(assessments: Mapping[tuple[str, str, int], Sealed]) -> pd.DataFrame:
    """True and inferred actions of every inverse dynamics model once, by data set, generator and world-model seed: the
    first generator's that has it."""
    parts, known = [], set()
    for (dataset, generator, seed), sealed in assessments.items():
        model = sealed.provenance["inputs"].get("inverse_dynamics")
        if model is not None and (model, dataset) not in known:
            known.add((model, dataset))
            place = {"dataset": dataset, "generator": generator, "world_model_seed": seed}
            parts.append(read_csv(sealed, "inverse_dynamics.csv").assign(**place))
    return pd.concat(parts) if parts else pd.DataFrame()


def planner_table(matrix: Matrix, steerings: Mapping[tuple[str, str, int], Sealed]) -> pd.DataFrame:
    """What models earn that act on their own: a row for each data set, generator, world model and request."""
    rows = []
    for (dataset, generator, seed), sealed in steerings.items():
        table = read_csv(sealed, "steering.csv")
        closed = table[table["loop"] == CLOSED].pivot(index="request", columns="quantity", values="value")
        for request, values in closed.sort_index().iterrows():
            rows.append([matrix.experiment, dataset, generator, seed, request, *(values[name] for name in PLANNED)])
    return pd.DataFrame(rows, columns=["experiment", "dataset", "generator", "world_model_seed", "request", *PLANNED])


def read_csv(sealed: Sealed, name: str) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(sealed.read(name)))
