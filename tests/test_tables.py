"""Tables, figures and report: numbers that can be recomputed, the same bytes each time, nothing from outside."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hdf5_files import hopper_columns, write_hdf5
from PIL import Image, ImageSequence

from dawm.analysis.animation import animate
from dawm.analysis.comparison import compare
from dawm.analysis.fidelity import assess
from dawm.analysis.fidelity_page import NAMES, pooled
from dawm.analysis.figures import curves_by_arm, draw_all, learning_curves, values_by_arm
from dawm.analysis.film import film_policy
from dawm.analysis.recipe_words import request_words
from dawm.analysis.report import arm_rows, cost_rows, number, points, write_report
from dawm.analysis.statistics import hierarchical_interval, interquartile_mean
from dawm.analysis.style import ALGORITHMS, STYLE, save
from dawm.analysis.tables import check_scales, inverse_pairs, read_csv, score_row, summary_rows, write_tables
from dawm.analysis.timings import write_timings
from dawm.config import (
    BCSettings,
    EnvironmentSettings,
    Experiment,
    ExportSettings,
    Matrix,
    RequestSettings,
    load_experiment,
    read,
)
from dawm.data.export import export
from dawm.data.sealed import digest_of, open_sealed
from dawm.errors import InputError
from dawm.layout import Layout, Run, filmed_runs, runs
from dawm.offline_rl.training import train_policy
from dawm.rendering import choose_renderer
from dawm.spent import SPENT

ROOT = Path(__file__).resolve().parents[1]
REPORTED = ("comparison", "figures", "timings")
SCORES = (
    "experiment,dataset,algorithm,augmentation,seed,world_model_seed,data_fraction,real_fraction,"
    "gradient_steps,normalized_score_last,normalized_score_mean10,normalized_score_best,return_last,episodes,whole"
)
FIDELITY = ["dataset", "augmentation", "horizon_step", "quantity", "value", "low", "high", "rows", "coverage"]
# Twelve evaluations, so that the last ten are not all.
LEARNER = {"gradient_steps": 48, "evaluate_every": 4, "evaluation_episodes": 1, "hidden": 8, "batch_size": 16}
TINY = {
    "experiment": "tiny",
    "seeds": [3, 4],
    "datasets": {"hopper": {"source": "local/hopper-medium-replay", "transitions": 3000, "rows_per_shard": 1000}},
    "generators": {"dawm": {"synthesis": {"trajectories": 700, "shards": 2, "sampling_steps": 3}}},
    "augmentations": {"real": {"real_fraction": 1.0}, "dawm": {"real_fraction": 0.5}},
    "algorithms": {"td3_bc": LEARNER},
    "assessment": {"rows": 40},
}


@dataclasses.dataclass(frozen=True)
class Results:
    """A folder results/<experiment>, and the experiment that it holds."""

    root: Path
    experiment: Experiment

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    def table(self, name: str) -> list[dict[str, str]]:
        with open(self.layout.tables / f"{name}.csv", newline="") as file:
            return list(csv.DictReader(file))

    def write(self) -> None:
        write_tables(self.root, self.experiment)

    def draw(self) -> None:
        draw_all(self.layout.tables, self.layout.figures)
        compare([self.layout.tables / "scores.csv"], self.layout.comparison)
        write_timings(self.root, self.experiment, self.layout.timings)

    def report(self) -> None:
        write_report(self.root, self.experiment)

    def copied(self, root: Path, *parts: str) -> Results:
        """A copy without tables, figures and report, or of some parts alone."""
        for part in parts or ("datasets", "synthetic", "assessments", "policies"):
            shutil.copytree(self.root / part, root / part)
        return Results(root, self.experiment)


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, dataset: Path, synthetic: Path, inverse_dynamics: Path
) -> Results:
    """Two seeds of TD3+BC on real and on augmented data, assessed, with tables, figures and report."""
    made = Results(tmp_path_factory.mktemp("results") / "tiny", read(Experiment, TINY, "here"))
    layout, experiment = made.layout, made.experiment
    shutil.copytree(dataset, layout.dataset("hopper"))
    shutil.copytree(synthetic, layout.synthetic("hopper", "dawm", 0))
    folders = layout.dataset("hopper"), layout.synthetic("hopper", "dawm", 0)
    assess(*folders, inverse_dynamics, experiment.assessment, layout.assessment("hopper", "dawm", 0), "dawm")
    for run in runs(experiment.matrix()):
        fraction = experiment.augmentations[run.augmentation].real_fraction
        settings = experiment.algorithm(run.algorithm)
        imagined = folders[1] if fraction < 1 else None
        train_policy(run.algorithm, folders[0], imagined, settings, fraction, layout.policy(run), run.seed)
    made.write()
    write_costs(made.root)
    made.draw()
    animate(*folders, experiment.animation, layout.animation("hopper", "dawm", 0), "dawm", "there is no renderer here")
    for run in filmed_runs(experiment.matrix()):  # in a process that has not chosen a renderer yet
        options = ["--policy", layout.policy(run), "--output", layout.film(run), "--seed", run.seed]
        subprocess.run([sys.executable, "-m", "dawm", "film", *map(str, options)], check=True)
    made.report()
    return made


def write_costs(root: Path) -> None:
    """As Snakemake leaves them."""
    jobs = {
        "train-world-model,hopper/dawm/seed-0": 100,
        "train-inverse-dynamics,hopper/dawm/seed-0": 50,
        "synthesize,hopper/dawm/seed-0/00000-of-00002": 20,
        "synthesize,hopper/dawm/seed-0/00001-of-00002": 10,
        "assess,hopper/dawm/seed-0": 7,  # nothing is trained on it
        "train-policy,hopper/td3_bc/real/seed-3": 400,
        "train-policy,hopper/td3_bc/real/seed-4": 440,
        "train-policy,hopper/td3_bc/dawm/seed-3": 3600,
        "train-policy,hopper/td3_bc/dawm/seed-4": 3420,
    }
    for job, seconds in jobs.items():
        path = root / "benchmarks" / f"{job.replace(',', '/')}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\tmax_rss\tcpu_time\n1\t100\t{seconds}\n")


@pytest.fixture(scope="module")
def real_only(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The arm of real data alone, as an experiment of its own."""
    experiment = read(Experiment, TINY | {"augmentations": {"real": {"real_fraction": 1.0}}}, "here")
    root = results.copied(tmp_path_factory.mktemp("real-only") / "tiny", "datasets", "policies").root
    shutil.rmtree(root / "policies/hopper/td3_bc/dawm")
    made = Results(root, experiment)
    made.write()
    made.draw()
    for run in filmed_runs(experiment.matrix()):
        film_policy(made.layout.policy(run), made.layout.film(run), run.seed, skip="there is no renderer here")
    made.report()
    return made


def evaluations(results: Results, row: dict[str, str]) -> list[dict[str, str]]:
    """The evaluations of the run that a row names."""
    run = Run(row["dataset"], row["algorithm"], row["augmentation"], int(row["seed"]))
    with open(results.layout.policy(run) / "evaluations.csv", newline="") as file:
        return list(csv.DictReader(file))


# --- tables -----------------------------------------------------------------------------------------------------


def test_scores_have_exactly_the_promised_columns(results):
    first = (results.layout.tables / "scores.csv").read_text().splitlines()[0]
    assert first == SCORES


def test_scores_have_one_row_per_run_in_order(results):
    names = [(row["dataset"], row["algorithm"], row["augmentation"], row["seed"]) for row in results.table("scores")]
    assert names == [("hopper", "td3_bc", arm, seed) for arm in ("real", "dawm") for seed in ("3", "4")]


def test_scores_say_what_each_run_was(results):
    for row in results.table("scores"):
        augmented = row["augmentation"] == "dawm"
        assert row["experiment"] == "tiny"
        assert row["world_model_seed"] == ("0" if augmented else "")
        assert (float(row["real_fraction"]), float(row["data_fraction"])) == (0.5 if augmented else 1.0, 1.0)
        assert (row["gradient_steps"], row["episodes"], row["whole"]) == ("48", "1", "hopper")


def test_scores_are_those_of_the_evaluations(results):
    for row in results.table("scores"):
        found = evaluations(results, row)
        assert [evaluation["step"] for evaluation in found] == [str(step) for step in range(4, 49, 4)]
        scores = [float(evaluation["normalized_score"]) for evaluation in found]
        assert row["normalized_score_last"] == f"{scores[-1]:.6g}"
        assert float(row["normalized_score_mean10"]) == pytest.approx(np.mean(scores[2:]), rel=1e-5)
        assert float(row["normalized_score_best"]) == pytest.approx(max(scores), rel=1e-5)
        assert row["return_last"] == f"{float(found[-1]['return_mean']):.6g}"
        # D4RL's score: 0 is the random policy's return, 100 the expert's
        again = 100 * (float(row["return_last"]) + 20.272305) / (3234.3 + 20.272305)
        assert float(row["normalized_score_last"]) == pytest.approx(again, rel=1e-4)


def test_learning_curves_hold_every_evaluation(results):
    curves = results.table("learning_curves")
    expected = []
    for row in results.table("scores"):
        expected += [
            (row["augmentation"], row["seed"], found["step"], f"{float(found['normalized_score']):.6g}")
            for found in evaluations(results, row)
        ]
    assert [
        tuple(row[name] for name in ("augmentation", "seed", "step", "normalized_score")) for row in curves
    ] == expected


def test_learning_curves_hold_the_means_since_the_evaluation_before(results):
    for row in results.table("scores"):
        run = Run(row["dataset"], row["algorithm"], row["augmentation"], int(row["seed"]))
        with open(results.layout.policy(run) / "metrics.csv", newline="") as file:
            metrics = [{key: float(value) for key, value in line.items()} for line in csv.DictReader(file)]
        names = ("dataset", "algorithm", "augmentation", "seed")
        curve = [line for line in results.table("learning_curves") if all(line[name] == row[name] for name in names)]
        last = 0.0
        for line in curve:
            since = [found for found in metrics if last < found["step"] <= float(line["step"])]
            last = float(line["step"])
            for name in ("q", "real_share"):
                expected = sum(found[name] for found in since) / len(since) if since else None
                assert float(line[name]) == pytest.approx(expected, rel=1e-4) if since else line[name] == ""
        shares = {line["real_share"] for line in curve} - {""}
        assert shares == {"1"} if run.augmentation == "real" else all(abs(float(s) - 0.5) < 0.1 for s in shares)


def test_summary_is_that_of_the_scores(results):
    summary, scores = results.table("summary"), results.table("scores")
    assert len(summary) == 6  # two arms; last, mean of ten, best
    for row in summary:
        values = np.array([float(s[row["quantity"]]) for s in scores if s["augmentation"] == row["augmentation"]])
        assert (row["experiment"], row["dataset"], row["algorithm"], row["seeds"]) == ("tiny", "hopper", "td3_bc", "2")
        assert float(row["mean"]) == pytest.approx(values.mean(), rel=1e-4)
        assert float(row["iqm"]) == pytest.approx(values.mean(), rel=1e-4)  # of two values
        assert float(row["std"]) == pytest.approx(values.std(ddof=1), rel=1e-3)
        assert float(row["iqm_low"]) == pytest.approx(values.min(), rel=1e-4)
        assert float(row["iqm_high"]) == pytest.approx(values.max(), rel=1e-4)


def test_data_sets_are_described_by_their_own_metadata(results, dataset):
    (row,) = results.table("datasets")
    sealed = open_sealed(dataset, "dataset")
    facts = sealed.metadata
    assert (row["dataset"], row["digest"]) == ("hopper", sealed.digest)
    assert (row["source"], row["environment"], row["simulator"]) == (
        "local/hopper-medium-replay",
        "Hopper-v4",
        facts["simulator"],
    )
    assert (row["rows"], row["episodes"]) == ("3000", str(facts["episodes"]))
    score = 100 * (facts["mean_return"] - facts["reference_min"]) / (facts["reference_max"] - facts["reference_min"])
    assert float(row["normalized_score_mean"]) == pytest.approx(score, rel=1e-4)


def test_fidelity_begins_with_the_promised_columns_and_holds_the_assessment(results):
    table = results.table("fidelity")
    assert list(table[0])[: len(FIDELITY)] == FIDELITY
    with open(results.layout.assessment("hopper", "dawm", 0) / "fidelity.csv", newline="") as file:
        assessed = list(csv.DictReader(file))
    assert len(table) == len(assessed) > 0
    for row, found in zip(table, assessed, strict=True):
        assert row["dataset"] == "hopper" and row["world_model_seed"] == "0"
        assert {name: row[name] for name in FIDELITY[1:]} == found
    assert {"state_error", "reward_error", "action_error", "terminal_precision", "terminal_recall"} <= {
        row["quantity"] for row in table
    }
    assert {row["augmentation"] for row in table} == {"real_held_out", "nothing_moves", "dawm"}


def test_tables_lead_back_to_every_run_data_set_and_assessment(results):
    layout = results.layout
    inputs = open_sealed(layout.tables, "tables").provenance["inputs"]
    folders = {run.slug: (layout.policy(run), "policy") for run in runs(results.experiment.matrix())}
    folders["datasets/hopper"] = (layout.dataset("hopper"), "dataset")
    folders["assessments/hopper/dawm/seed-0"] = (layout.assessment("hopper", "dawm", 0), "assessment")
    assert inputs == {name: open_sealed(folder, kind).digest for name, (folder, kind) in folders.items()}


def test_equal_results_make_equal_tables(results, tmp_path):
    again = results.copied(tmp_path / "tiny")
    again.write()
    same_bytes(results.layout.tables, again.layout.tables)


def test_tables_written_over_older_ones_are_the_same(results, tmp_path):
    again = results.copied(tmp_path / "tiny", "datasets", "synthetic", "assessments", "policies", "tables")
    (again.layout.tables / "scores.csv").write_text("old\n")
    again.write()
    same_bytes(results.layout.tables, again.layout.tables)


def same_bytes(one: Path, other: Path) -> None:
    names = [sorted(path.name for path in folder.iterdir() if path.name != ".lock") for folder in (one, other)]
    assert names[0] == names[1] and names[0]
    for name in names[0]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_seed_of_a_world_model_is_written_in_full(results, tmp_path):
    """Arms without a world model leave gaps in the column, which must not turn whole numbers into rounded ones."""
    again = results.copied(tmp_path / "tiny", "datasets", "policies")
    for folder in (Layout.synthetic, Layout.assessment):
        shutil.copytree(folder(results.layout, "hopper", "dawm", 0), folder(again.layout, "hopper", "dawm", 1234567))
    write_tables(again.root, dataclasses.replace(again.experiment, world_model_seeds=(1234567,)))
    found = {(row["augmentation"], row["world_model_seed"]) for row in again.table("scores")}
    assert found == {("real", ""), ("dawm", "1234567")}


def refusal(attempt: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        attempt()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize(
    "part", ["policies/hopper/td3_bc/dawm/seed-4", "datasets/hopper", "assessments/hopper/dawm/seed-0"]
)
def test_tables_refuse_a_missing_part_by_name(results, tmp_path, part):
    again = results.copied(tmp_path / "tiny")
    (again.root / part / "provenance.json").unlink()
    assert str(again.root / part) in refusal(again.write)
    assert not again.layout.tables.exists()


@pytest.mark.parametrize(
    "name", ["policies/hopper/td3_bc/real/seed-3/evaluations.csv", "assessments/hopper/dawm/seed-0/fidelity.csv"]
)
def test_tables_refuse_altered_numbers_by_name(results, tmp_path, name):
    again = results.copied(tmp_path / "tiny")
    path = again.root / name
    path.write_text(path.read_text().replace("1", "2", 1))
    assert str(path) in refusal(again.write)
    assert not again.layout.tables.exists()


OTHERS = {"seed": "real/seed-4", "arm": "dawm/seed-3"}


@pytest.mark.parametrize("other", OTHERS)
def test_tables_refuse_a_policy_of_another_run_by_name(results, tmp_path, other):
    again = results.copied(tmp_path / "tiny")
    policies = again.root / "policies/hopper/td3_bc"
    shutil.rmtree(policies / "real/seed-3")
    shutil.copytree(policies / OTHERS[other], policies / "real/seed-3")
    assert str(policies / "real/seed-3") in refusal(again.write)


@pytest.mark.parametrize("transitions", ["there", "deleted"])
def test_tables_refuse_a_policy_that_grew_from_other_transitions_than_its_arms(results, tmp_path, transitions):
    again = results.copied(tmp_path / "tiny")
    if transitions == "deleted":
        shutil.rmtree(again.root / "synthetic")
    again.write()
    seal = again.root / "policies/hopper/td3_bc/dawm/seed-4/provenance.json"
    facts = json.loads(seal.read_text())
    facts["inputs"]["synthetic"] = 64 * "0"
    facts["digest"] = digest_of({name: value for name, value in facts.items() if name != "digest"})
    seal.write_text(json.dumps(facts))
    assert refusal(again.write).startswith(f"{seal.parent}: grew from other transitions than ")


def test_every_pair_of_an_inverse_dynamics_model_counts_and_every_model_once(results):
    """Saturated actions make equal rows, and generators share models."""
    layout, rows = results.layout, pd.read_csv(results.layout.tables / "inverse_dynamics.csv")
    assessed = pd.read_csv(layout.assessment("hopper", "dawm", 0) / "inverse_dynamics.csv")
    assert len(rows) == len(assessed) == 3 * 40 and (rows["generator"] == "dawm").all()
    seals = {("hopper", name, 0): open_sealed(layout.assessment("hopper", "dawm", 0)) for name in ("dawm", "dwm")}
    pd.testing.assert_frame_equal(inverse_pairs(seals).reset_index(drop=True), rows, check_like=True)


def test_tables_refuse_runs_on_another_data_set(results, tmp_path):
    again = results.copied(tmp_path / "tiny")
    shutil.rmtree(again.layout.dataset("hopper"))
    source = write_hdf5(tmp_path / "hopper_x.hdf5", hopper_columns())
    settings = ExportSettings(source=f"hdf5:{source}")
    export(settings, again.layout.dataset("hopper"))
    other = dataclasses.replace(again.experiment, datasets={"hopper": settings})
    assert "on another data set; train it again" in refusal(lambda: write_tables(again.root, other))


@pytest.mark.parametrize(
    ("change", "folder", "expected", "found"),
    [
        ({"algorithms": {"td3_bc": LEARNER | {"hidden": 16}}}, "policies/hopper/td3_bc/real/seed-3", "hidden 16", "8"),
        ({"assessment": {"rows": 50}}, "assessments/hopper/dawm/seed-0", "rows 50", "40"),
        (
            {"generators": {"dawm": {"synthesis": TINY["generators"]["dawm"]["synthesis"] | {"guidance": 2}}}},
            "synthetic/hopper/dawm/seed-0",
            "guidance 2.0",
            "1.2",
        ),
        (
            {"augmentations": {"real": {"real_fraction": 1.0}, "dawm": {"real_fraction": 0.25}}},
            "policies/hopper/td3_bc/dawm/seed-3",
            "real_fraction 0.25",
            "0.5",
        ),
    ],
)
def test_what_was_made_with_other_settings_is_refused(results, tmp_path, change, folder, expected, found):
    """Without Snakemake's own records nothing else would notice."""
    again = results.copied(tmp_path / "tiny")
    other = Results(again.root, read(Experiment, TINY | change, "here"))
    sentence = f"{again.root / folder}: expected {expected}, as the config has it, found {found}; remove it, and "
    for attempt in (other.write, other.report):
        assert refusal(attempt).startswith(sentence)
    assert not again.layout.tables.exists()
    shutil.rmtree(again.root / "synthetic")  # what is not there cannot be of other settings
    again.write()


def test_what_earlier_attempts_spent_is_part_of_a_training_s_time(results, tmp_path):
    path = tmp_path / "benchmarks" / "train-policy/hopper/td3_bc/real/seed-3.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("s\tmax_rss\tcpu_time\n60.5\t200\t50\n")
    attempts = [{"attempt": name, "wall_seconds": 100.25, "cpu_seconds": 90.5} for name in ("first", "second", "last")]
    folder = tmp_path / "policies/hopper/td3_bc/real/seed-3"
    folder.mkdir(parents=True)
    (folder / SPENT).write_text(json.dumps({"run": "this", "attempts": attempts}))
    write_timings(tmp_path, results.experiment, tmp_path)
    (row,) = csv.DictReader((tmp_path / "timings.csv").open())
    assert (row["wall_seconds"], row["cpu_seconds"]) == ("261", "231")


def test_timings_come_from_the_benchmark_files_that_are_there(results, tmp_path):
    head = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    benchmarks = {
        "export/hopper": "1.5\t0:00:01\t200.25\t1\t1\t1\t0\t0\t90\t1.25",
        "train-policy/hopper/td3_bc/dawm/seed-4": "60.5\t0:01:00\t-\t-\t-\t-\t0\t0\t99\t60",
        "synthesize/hopper/dawm/seed-0/00001-of-00002": "2\t0:00:02\t300\t1\t1\t1\t0\t0\t90\t2",
        "synthesize/hopper/dawm/seed-0/00000-of-00002": "3\t0:00:03\t300\t1\t1\t1\t0\t0\t90\t3",
        "train-policy/hopper/td3_bc/other/seed-4": "9\t0:00:09\t1\t1\t1\t1\t0\t0\t90\t9",  # not of this experiment
        "inspect/hopper": "4\t0:00:04\t250\t1\t1\t1\t0\t0\t90\t4",  # no part of the report
        "tables": "5\t0:00:05\t150\t1\t1\t1\t0\t0\t90\t5",
    }
    for name, values in benchmarks.items():
        path = tmp_path / "benchmarks" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(head + values + "\n")
    log = tmp_path / "logs" / "train-policy" / "hopper" / "td3_bc" / "dawm" / "seed-4.log"
    log.parent.mkdir(parents=True)
    lines = ("640/2000 (32 %), 1,280/s, 0:01 left, critic_loss 0.2", "2000/2000 (100 %), 990/s, 0:00 left")
    log.write_text("\n".join(f"policy seed 4: {line}" for line in lines))
    write_timings(tmp_path, results.experiment, tmp_path)
    assert (tmp_path / "rates.csv").read_text().splitlines() == [
        "job,step,steps_per_second",
        "hopper/td3_bc/dawm/seed-4,640,1280",
        "hopper/td3_bc/dawm/seed-4,2000,990",
    ]
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "timings.csv").read_text().splitlines() == [
        "stage,job,wall_seconds,cpu_seconds,max_rss_mib,disk_mib",
        "export,hopper,1.5,1.25,200.25,0",
        "inspect,hopper,4,4,250,0",
        "synthesize,hopper/dawm/seed-0/00000-of-00002,3,3,300,0",
        "synthesize,hopper/dawm/seed-0/00001-of-00002,2,2,300,0",
        "train-policy,hopper/td3_bc/dawm/seed-4,60.5,60,,0",
        "tables,,5,5,150,0",
    ]


# --- figures and report -----------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, addresses and table rows of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        named = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}
        self.addresses += [value or "" for name, value in attributes if name in named]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, text: str) -> None:
        if self.inside:
            self.rows[-1][-1] += text


@pytest.fixture(params=["results", "real_only"])
def either(request: pytest.FixtureRequest) -> Results:
    """With synthetic data, and an experiment that has none."""
    return request.getfixturevalue(request.param)


def test_real_data_alone_makes_scores_and_empty_fidelity(real_only):
    assert [(row["augmentation"], row["world_model_seed"]) for row in real_only.table("scores")] == [("real", "")] * 2
    assert real_only.table("fidelity") == real_only.table("inverse_dynamics") == []


def test_figures_are_those_that_there_are_data_for(results, real_only):
    both = {"learning-curves", "scores", "values"}
    for made, names in ((results, both | {"fidelity", "inverse-dynamics"}), (real_only, both)):
        found = open_sealed(made.layout.figures, "figures").files
        assert set(found) == {f"{name}.{kind}" for name in names for kind in ("png", "pdf")}
        for path in map(made.layout.figures.joinpath, found):
            start = b"\x89PNG\r\n\x1a\n" if path.suffix == ".png" else b"%PDF-"
            assert path.read_bytes().startswith(start) and path.stat().st_size > 2000


class Tables:
    """In the place of sealed tables: scores and curves of eight arms, two seeds of two learners on one data set."""

    def __init__(self) -> None:
        arms = [*"abcdef", "real", "dawm"]
        keys = [(learner, arm, seed) for learner in ("td3_bc", "iql") for arm in arms for seed in (0, 1)]
        rows = [dict(zip(("algorithm", "augmentation", "seed"), key, strict=True)) for key in keys]
        place = {"dataset": "hopper", "world_model_seed": 0}
        scores = pd.DataFrame([row | place for row in rows])
        curves = scores.merge(pd.DataFrame({"step": range(1, 13)}), how="cross")
        curves["normalized_score"] = curves["step"] + curves["seed"]
        curves["q"] = 2 * curves["step"] + curves["augmentation"].map(arms.index)
        datasets = pd.DataFrame([{"dataset": "hopper", "normalized_score_mean": 3.0}])
        self.files = {"scores.csv": scores, "learning_curves.csv": curves, "datasets.csv": datasets}

    def read(self, name: str) -> bytes:
        return self.files[name].to_csv(index=False).encode()


def test_of_many_arms_curves_show_two_before_the_others_and_each_in_a_row_of_its_own() -> None:
    both = learning_curves(Tables())
    for axes in both.axes:
        labels = [line.get_label() for line in axes.get_lines()]
        assert set(labels) == {"real", "dawm", "other arms", "mean of the data"} and labels.count("other arms") == 6
        assert len(axes.collections) == 2  # bands
    rows = curves_by_arm(Tables(), "iql")
    assert [axes.get_ylabel() for axes in rows.axes] == [*"abcdef", "dawm"]
    assert all(len(axes.get_lines()) == 2 and len(axes.collections) == 1 for axes in rows.axes)


def test_of_many_arms_values_are_a_mark_each() -> None:
    figure = values_by_arm(Tables())
    marks = {line.get_label(): line for line in figure.axes[0].get_lines() if line.get_linestyle() == "None"}
    assert list(marks) == [*"abcdef", "real", "dawm"]
    last = np.mean(range(3, 13))  # of twelve evaluations the last ten
    for place, mark in enumerate(marks.values()):
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (last + 0.5, 2 * last + place)


def test_of_many_arms_there_are_more_figures_and_other_captions(results, tmp_path, monkeypatch) -> None:
    few = results.layout.report.read_text(encoding="utf-8")
    assert "mean over seeds with a 95 % bootstrap interval. Dotted" in few and "from evaluation to evaluation" in few
    monkeypatch.setattr("dawm.analysis.style.MANY", 1)
    again = results.copied(tmp_path / "tiny", "tables", "synthetic", "films", "animations", *REPORTED)
    draw_all(again.layout.tables, again.layout.figures)
    assert "learning-curves-td3_bc.png" in open_sealed(again.layout.figures, "figures").files
    again.report()
    text = again.layout.report.read_text(encoding="utf-8")
    said = ("of the other arms in grey", "Learning curves of TD3+BC, arm by arm", "from\nthe least seed")
    for words in said:
        assert words in text and words not in few


def test_pictures_have_a_palette_and_look_the_same(tmp_path) -> None:
    with plt.rc_context(STYLE):
        figure = learning_curves(Tables())
        figure.savefig(tmp_path / "all.png", bbox_inches="tight")
        save(figure, tmp_path / "palette.png")
    with Image.open(tmp_path / "all.png") as full, Image.open(tmp_path / "palette.png") as reduced:
        assert reduced.mode == "P" and full.info["dpi"] == pytest.approx(reduced.info["dpi"], abs=0.01)
        difference = np.abs(np.asarray(full.convert("RGB"), float) - np.asarray(reduced.convert("RGB")))
    assert difference.mean() < 0.5 and (difference > 40).mean() < 1e-3
    assert (tmp_path / "palette.png").stat().st_size < 0.6 * (tmp_path / "all.png").stat().st_size


def test_equal_tables_make_equal_figures(results, tmp_path):
    draw_all(results.layout.tables, tmp_path / "figures")
    same_bytes(results.layout.figures, tmp_path / "figures")


def test_equal_results_make_equal_reports(either):
    before = either.layout.report.read_bytes()
    either.layout.report.unlink()
    either.report()
    assert either.layout.report.read_bytes() == before


def test_report_needs_no_transitions(results, tmp_path):
    """They are large, and may have been taken away."""
    again = results.copied(tmp_path / "tiny", "tables", "films", "animations", *REPORTED)
    again.report()
    assert again.layout.report.read_bytes() == results.layout.report.read_bytes()


@pytest.mark.parametrize("unknown", [["00000", "00001"], ["00001"]])
def test_costs_that_were_not_measured_are_not_nothing(results, unknown):
    table = pd.read_csv(results.layout.timings / "timings.csv")
    (before,) = [row for row in cost_rows(results.experiment, table) if row["arm"] == "dawm"]
    shards = table["job"].str.contains("|".join(f"{number}-of" for number in unknown))
    table.loc[shards & (table["stage"] == "synthesize"), "cpu_seconds"] = np.nan
    (after,) = [row for row in cost_rows(results.experiment, table) if row["arm"] == "dawm"]
    assert before["models"] == 180 and np.isnan(after["models"]) and np.isnan(after["hours"])


def test_report_holds_the_scores_of_every_run(either):
    page = Page(either.layout.report.read_text(encoding="utf-8"))
    scores = either.table("scores")
    for row in scores:
        cells = [row["dataset"], ALGORITHMS[row["algorithm"]], row["augmentation"], row["seed"]]
        (found,) = [r for r in page.rows if r[:4] == cells]
        assert found[4] == (row["world_model_seed"] or "–")
        assert found[6] == "48"
        assert found[7:] == [
            number(float(row["return_last"]), 0),
            points(float(row["normalized_score_last"])),
            points(float(row["normalized_score_mean10"])),
        ]
    assert len([r for r in page.rows if r[:2] == ["hopper", "TD3+BC"] and r[3] in "34"]) == len(scores)


def test_report_is_offline(either):
    text = either.layout.report.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.tags & {"link", "iframe", "object", "embed", "base", "form"}
    assert page.addresses and all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert "url(" not in text and "@import" not in text and "http-equiv" not in text
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.S)
    assert len(scripts) == text.count("<script") == 1 and scripts[0][0] == ""
    assert not re.search(r"fetch|XMLHttp|import|http|src|eval|innerHTML", scripts[0][1])


def test_numbers_of_sortable_tables_are_there_unrounded(either):
    text = either.layout.report.read_text(encoding="utf-8")
    tables = re.findall('<table class="sortable">.*?</table>', text, re.S)
    cells = [cell for table in tables for cell in re.findall(r'<td class="n"([^>]*)>', table)]
    values = [re.fullmatch(r' data-value="([^"]*)"', cell).group(1) for cell in cells]
    numbers = [float(value) for value in values if value]
    assert len(tables) >= 3 and np.isfinite(numbers).all()
    scores = [float(row["normalized_score_mean10"]) for row in either.table("scores")]
    assert set(scores) <= set(numbers)


def test_links_within_the_report_lead_somewhere(either):
    text = either.layout.report.read_text(encoding="utf-8")
    targets = {address[1:] for address in Page(text).addresses if address.startswith("#")}
    assert targets >= {"protocol", "data", "scores", "runs", "provenance"}
    assert all(text.count(f'id="{target}"') == 1 for target in targets)
    assert ("fidelity" in targets) == ("cost" in targets) == (len(either.table("scores")) == 4)


def test_report_compares_the_arms(results):
    page = Page(results.layout.report.read_text(encoding="utf-8"))
    table = pd.DataFrame(results.table("scores")).astype({"normalized_score_mean10": float})
    scores = {arm: rows["normalized_score_mean10"] for arm, rows in table.groupby("augmentation")}
    (row,) = [row for row in page.rows if row[:3] == ["TD3+BC", "dawm", "1 × 2"]]
    assert row[3] == points(scores["dawm"].mean())  # the IQM of two
    assert row[5] == row[7] == points(scores["dawm"].mean() - scores["real"].mean())  # of the IQMs and of the means
    assert row[9] == f"{int(scores['dawm'].mean() > scores['real'].mean())} of 1"


def test_report_begins_with_notes_and_the_verdict(results, tmp_path):
    experiment = dataclasses.replace(results.experiment, notes=("Its <data> are old.", "`dawm` has few."))
    parts = ("tables", "synthetic", "films", "animations", *REPORTED)
    again = Results(results.copied(tmp_path / "tiny", *parts).root, experiment)
    again.report()
    text = again.layout.report.read_text(encoding="utf-8")
    lead, overview, _ = re.split('<h2 id="(?:overview|protocol)">', text)
    for part in (lead, overview):
        assert "Its &lt;data&gt; are old.</p>" in part and "<code>dawm</code> has few.</p>" in part
    assert "<code>dawm</code> minus <code>real</code>" in overview and "better on" in overview.split("<figure>")[0]
    seals = [open_sealed(made.root, "report") for made in (results, again)]
    assert seals[0].provenance["settings"] == seals[1].provenance["settings"]
    assert "notes" not in seals[1].provenance["settings"]


def test_what_is_left_out_stands_in_the_report_without_back_ticks(results, tmp_path):
    again = results.copied(tmp_path / "tiny", "tables", "synthetic", "films", "animations", *REPORTED)
    scores = pd.read_csv(again.layout.tables / "scores.csv")
    scores.loc[(scores["augmentation"] == "dawm") & (scores["seed"] == 4), "normalized_score_mean10"] = np.nan
    scores.to_csv(tmp_path / "scores.csv", index=False)
    compare([tmp_path / "scores.csv"], again.layout.comparison)
    again.report()
    text = again.layout.report.read_text(encoding="utf-8")
    overview = text.partition('id="overview"')[2].partition('id="protocol"')[0]
    assert "since <code>dawm</code> has no score with seed 4." in overview and "`" not in overview


def test_the_planner_is_asked_in_multiples_of_what_is_1_to_its_model(results, tmp_path, monkeypatch):
    row = {"dataset": "hopper", "generator": "dawm", "request": 0.8, "mean": 20.0, "std": 1.0, "milliseconds": 9.0}
    monkeypatch.setattr("dawm.analysis.report.planner_rows", lambda tables: [row | {"models": 3}])
    again = results.copied(tmp_path / "tiny", "tables", "synthetic", "films", "animations", *REPORTED)
    again.report()
    text = " ".join(again.layout.report.read_text(encoding="utf-8").split())
    assert "multiples of the one that is 1 to the model: the largest in the data, where <code>return_scales" in text


def test_report_tells_what_every_arm_is_and_costs(results, real_only):
    page = Page(results.layout.report.read_text(encoding="utf-8"))
    assert ["real", "1.0", "1.000", "–"] in page.rows
    (arm,) = [row for row in page.rows if row[:2] == ["dawm", "0.5"]]
    curves = pd.read_csv(results.layout.tables / "learning_curves.csv")
    drawn = curves.loc[curves["augmentation"] == "dawm", "real_share"].mean()
    assert arm[2] == f"{drawn:.3f}" and 0.3 < drawn < 0.7
    assert arm[3] == (
        "conditional diffusion over windows, actions by inverse dynamics; window 8; trajectories 700, "
        "sampling steps 3, temperature 0.5, asked for a start's own return g and 0.1 |g| more"
    )
    costs = [row for row in page.rows if row[0] == "TD3+BC" and len(row) == 5]
    assert costs == [["TD3+BC", "real", "420", "0", "0.23"], ["TD3+BC", "dawm", "3,510", "180", "2.00"]]
    assert "Cost</h2>" not in real_only.layout.report.read_text()


def told_arms(path: Path) -> list[dict]:
    return arm_rows(load_experiment(path), pd.DataFrame({"augmentation": [], "real_share": []}))


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_arms_of_different_transitions_are_told_apart(path: Path) -> None:
    """No two lines are alike, and none is of the simulator's successor and of a model's."""
    lines = [row["recipe"] for row in told_arms(path)]
    lines = [line for line in lines if line != "–" and not line.startswith("those of ")]
    assert len(set(lines)) == len(lines)
    assert not [line for line in lines if "by the simulator" in line and "by the forward model" in line]


def test_arms_are_told_by_what_is_not_alike() -> None:
    told = {}
    for name in ("evidence", "sweeps"):
        told |= {(name, row["name"]): row["recipe"] for row in told_arms(ROOT / f"config/{name}.yaml")}
    assert told["sweeps", "dawm__temperature_100"] == "as dawm, but temperature 1"
    assert told["sweeps", "dwm__temperature_150"] == "as dwm, but temperature 1.5"
    assert told["sweeps", "dawm__real_25"] == "those of dawm" and told["sweeps", "real"] == "–"
    assert "temperature 0.5, asked for a start's own return g and 0.1 |g| more" in told["sweeps", "dawm"]
    assert "shards" in told["sweeps", "dawm"] and "shards" not in told["evidence", "dawm"]  # alike in all of them
    assert told["evidence", "oracle"].startswith("as dawm, but successor, reward and terminal by the simulator")
    for words in ("unconditional", "edm", "loss absolute", "dpmpp_2m", "steps 20", "terminals by the world model"):
        assert words in told["evidence", "synther"]
    assert "asked for" not in told["evidence", "synther"] and "sampler" not in told["evidence", "one_step"]


@pytest.mark.parametrize(
    ("request_settings", "words"),
    [
        ({"amount": 1.3}, "a start's own return g and 0.3 |g| more"),
        ({"amount": 0.8}, "a start's own return g and 0.2 |g| less"),
        ({"amount": 1.0}, "a start's own return g"),
        ({"kind": "quantile", "amount": 0.9}, "the 0.9 quantile of the data's returns"),
        ({"kind": "value", "amount": 0.6}, "0.6 of the return that is 1 to the model"),
    ],
)
def test_requests_are_told_by_their_rule(request_settings, words) -> None:
    assert request_words(RequestSettings(**request_settings)) == words


def test_fidelity_in_the_report_is_that_of_the_fidelity_page(results):
    table = pd.read_csv(results.layout.tables / "fidelity.csv")
    numbers = pooled(pd.concat([table, table])).set_index(["augmentation", "quantity"])  # as of two world models
    times = {"dawm": 2}  # real rows are the same ones
    once = table[table["horizon_step"] == 0].set_index(["augmentation", "quantity"])
    page = Page(results.layout.report.read_text(encoding="utf-8"))
    for arm, name in {"dawm": "dawm", **NAMES}.items():
        (row,) = [row for row in page.rows if row[:2] == ["hopper", name] and len(row) == 11]
        error = numbers.loc[(arm, "state_error")]
        rows = once.loc[(arm, "state_error"), "rows"]
        assert error["rows"] == times.get(arm, 1) * rows and int(row[2].replace(",", "")) == rows
        assert row[3:5] == [f"{100 * error['coverage']:.0f} %", number(error["value"], 3)]
        assert row[6] == number(numbers.loc[(arm, "reward_error"), "value"], 3)


def test_report_shows_published_scores_beside_and_none_that_is_not_known(results):
    page = Page(results.layout.report.read_text(encoding="utf-8"))
    rows = [row for row in page.rows if row[0] == "hopper-medium-replay-v2"]
    (corl,) = [row for row in rows if row[1] == "TD3+BC" and row[7] == "CORL README"]
    assert corl[2:6] == ["64.4", "21.5", "98.1", "4"]
    (own,) = [row for row in rows if row[1].startswith("DAWM")]
    assert own[2:] == ["–", "–", "–", "–", "not known", "–"]
    assert not [row for row in page.rows if row[:1] == ["walker2d-medium-v2"]]


def test_report_shows_every_figure_and_the_whole_config(either):
    text = either.layout.report.read_text(encoding="utf-8")
    pictures = [address for address in Page(text).addresses if address.startswith("data:image/png;base64,")]
    drawn = [*either.layout.figures.glob("*.png"), *either.layout.comparison.glob("*.png")]
    assert len(pictures) == len(set(pictures)) == len(drawn)
    assert open_sealed(either.layout.tables, "tables").digest in text
    for line in ("policy_noise: 0.2", "sampling_steps: 3", "evaluate_every: 4"):
        assert line in text


def test_report_shows_an_episode_of_each_learner(results, real_only):
    skipped = choose_renderer() is not None
    for made, expected in ((results, 0 if skipped else 1), (real_only, 0)):
        page = Page(made.layout.report.read_text(encoding="utf-8"))
        films = [address for address in page.addresses if address.startswith("data:image/webp;base64,")]
        assert len(films) == expected
        (run,) = filmed_runs(made.experiment.matrix())
        assert run.augmentation == ("dawm" if made is results else "real")
        sealed = open_sealed(made.layout.film(run), "film")
        assert (sealed.metadata["skipped"] is None) == bool(expected)
        for address in films:
            contents = base64.b64decode(address.partition(",")[2]), sealed.read("episode.gif")
            shown, film = (Image.open(io.BytesIO(content)) for content in contents)
            assert shown.n_frames == film.n_frames
            for one, other in zip(ImageSequence.Iterator(shown), ImageSequence.Iterator(film), strict=True):
                assert np.abs(np.asarray(one.convert("RGB"), float) - np.asarray(other.convert("RGB"))).mean() < 3


@pytest.mark.parametrize(
    ("score", "shown"), [(12.345, "12.3"), (-0.02, "0.0"), (0.0004, "0.0"), (-3.0, "-3.0"), (None, "–"), (np.nan, "–")]
)
def test_scores_are_shown_to_a_tenth_of_a_point(score, shown):
    assert points(score) == shown


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (12.345, 1, "12.3"),
        (-3.0, 0, "-3"),
        (1234567.0, 0, "1,234,567"),
        (0.0, 1, "0.0"),
        (float("nan"), 1, "–"),
        (0.0004, 2, "4·10⁻⁴"),
    ],
)
def test_numbers_are_written_for_people(value, digits, shown):
    assert number(value, digits) == shown


@pytest.mark.parametrize("name", ["scores.csv", "learning_curves.csv", "fidelity.csv", "inverse_dynamics.csv"])
def test_figures_and_report_refuse_an_altered_table_by_name(results, tmp_path, name):
    again = results.copied(tmp_path / "tiny", "tables", "synthetic", *REPORTED)
    path = again.layout.tables / name
    path.write_text(path.read_text().replace("1", "2", 1))
    assert str(path) in refusal(again.draw)
    if name in ("scores.csv", "fidelity.csv"):
        assert str(path) in refusal(again.report)
        assert not again.layout.report.exists()


def test_report_refuses_a_missing_animation_by_name(results, tmp_path):
    again = results.copied(tmp_path / "tiny", "tables", "films", *REPORTED)
    assert str(again.layout.animation("hopper", "dawm", 0)) in refusal(again.report)
    assert not again.layout.report.exists()


@pytest.mark.parametrize(
    "environment",
    [EnvironmentSettings(id="Hopper-v5"), EnvironmentSettings(id="Hopper-v4", reference_min=0, reference_max=1)],
)
def test_scores_of_other_scales_share_no_table(tmp_path: Path, environment: EnvironmentSettings) -> None:
    export(ExportSettings(source="local/hopper-random", transitions=1000), tmp_path / "d4rl")
    export(ExportSettings(source="local/walker2d-random", transitions=1000), tmp_path / "walker")
    export(ExportSettings(source="random", transitions=1000, environment=environment), tmp_path / "other")
    made = {name: open_sealed(tmp_path / name, "dataset") for name in ("d4rl", "walker", "other")}
    check_scales({name: made[name] for name in ("d4rl", "walker")})
    with pytest.raises(InputError, match="expected the environment and reference scores of d4rl, Hopper-v4"):
        check_scales(made)


# --- rows of the tables -------------------------------------------------------------------------------------------


def test_summaries_draw_world_models_before_seeds() -> None:
    values = np.array([0.0, 1.0, 2.0, 30.0, 31.0, 32.0])

    def runs_of(arm: str, models: list[int | None]) -> pd.DataFrame:
        names = {"experiment": "e", "dataset": "d", "algorithm": "a", "augmentation": arm, "seed": range(6)}
        scores = {f"normalized_score_{kind}": values for kind in ("last", "mean10", "best")}
        return pd.DataFrame({**names, "world_model_seed": pd.array(models, dtype="Int64"), **scores})

    scores = pd.concat([runs_of("real", 6 * [None]), runs_of("dawm", [0, 0, 0, 1, 1, 1])])
    rows = {row["augmentation"]: row for row in summary_rows(scores)}
    for arm, groups in (("real", np.arange(6)), ("dawm", np.array([0, 0, 0, 1, 1, 1]))):
        ends = hierarchical_interval(values, groups, interquartile_mean)
        assert (rows[arm]["iqm_low"], rows[arm]["iqm_high"]) == pytest.approx(ends)
    assert rows["real"]["iqm_low"] != rows["dawm"]["iqm_low"]


def test_a_part_is_told_by_its_whole_and_its_fraction(dataset: Path, tmp_path: Path) -> None:
    export(ExportSettings(source="part/hopper", fraction=0.5), tmp_path / "part", dataset)
    train_policy("bc", tmp_path / "part", None, BCSettings(**LEARNER), 1.0, tmp_path / "policy", 0)
    sealed, data = open_sealed(tmp_path / "policy", "policy"), open_sealed(tmp_path / "part", "dataset")
    matrix = Matrix(
        experiment="e", datasets=("half",), algorithms=("bc",), augmentations={}, seeds=(0,), world_model_seeds=(0,)
    )
    row = score_row(matrix, Run("half", "bc", "real", 0), sealed, read_csv(sealed, "evaluations.csv"), data)
    assert (row["whole"], row["data_fraction"]) == ("hopper", 0.5)
