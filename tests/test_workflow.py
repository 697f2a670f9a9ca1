"""The workflow as a user runs it: end to end, again, interrupted, with changed code and with other configs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from benchmark_modules import load as load_benchmark
from hdf5_files import hopper_columns, write_hdf5
from safetensors.torch import load, load_file
from torch.testing import assert_close
from workflow_clone import ROOT, clone, command, files, snakemake

from dawm.cli import main
from dawm.config import AssessmentSettings, SynthesisSettings, as_mapping, load_experiment
from dawm.data.sealed import open_sealed
from dawm.job_estimates import ON_GPU
from dawm.jobs import jobs
from dawm.layout import Layout, runs
from dawm.offline_rl.policy import load_policy
from dawm.status import status
from dawm.verification import verify


def planned(folder: Path) -> set[str]:
    """The rules that the next run would start."""
    run = snakemake(folder, "--dry-run")
    assert run.returncode == 0, run.stderr
    return set(re.findall(r"^(?:local)?rule (\w+):", run.stdout + run.stderr, re.M))


@pytest.fixture(scope="module")
def both_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A clone whose workflow has run to the end, and what a second run ended with that was started meanwhile."""
    folder = clone(tmp_path_factory.mktemp("workflow"))
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command(), cwd=folder, **pipes) as first:  # type: ignore[call-overload]
        log = folder / "results" / "tiny" / "logs" / "export" / "hopper.log"
        deadline = time.monotonic() + 60
        while not log.is_file():
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        second = snakemake(folder)
        said = first.communicate(timeout=300)[1]
    assert first.returncode == 0, said
    return folder, second


@pytest.fixture(scope="module")
def finished(both_runs: tuple[Path, subprocess.CompletedProcess[str]]) -> Path:
    """A clone whose workflow has run to the end."""
    return both_runs[0]


def test_one_command_goes_from_the_simulator_to_the_report(finished: Path) -> None:
    results = finished / "results" / "tiny"
    scores = pd.read_csv(results / "tables" / "scores.csv")
    assert len(scores) == 8  # 2 learners × 2 arms × 2 seeds
    for row in scores.itertuples():
        folder = results / "policies" / row.dataset / row.algorithm / row.augmentation / f"seed-{row.seed}"
        evaluations = pd.read_csv(folder / "evaluations.csv")
        assert row.normalized_score_last == pytest.approx(evaluations["normalized_score"].iloc[-1], rel=1e-5)
        assert row.return_last == pytest.approx(evaluations["return_mean"].iloc[-1], rel=1e-5)
        load_policy(folder)
    assert (results / "report.html").stat().st_size > 50_000
    for name in ("learning-curves", "scores", "fidelity", "inverse-dynamics"):
        assert (results / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (results / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    aggregates = pd.read_csv(results / "comparison" / "aggregates.csv")
    assert set(aggregates["algorithm"]) == {"td3_bc", "iql"} and set(aggregates["augmentation"]) == {"real", "dawm"}


def test_a_finished_run_is_whole_and_tells_its_config(finished: Path) -> None:
    found = verify(finished / "results" / "tiny")
    assert not found.damage and not found.unfinished
    assert load_experiment(finished / "results" / "tiny" / "config.yaml") == load_experiment(finished / "tiny.yaml")


def test_every_job_leaves_its_time_and_a_log(finished: Path) -> None:
    results = finished / "results" / "tiny"
    expected = {job.slug for job in jobs(Layout(results), load_experiment(finished / "tiny.yaml"))}
    for folder, suffix in (("logs", ".log"), ("benchmarks", ".tsv")):
        found = (results / folder).rglob(f"*{suffix}")
        assert {str(path.relative_to(results / folder).with_suffix("")) for path in found} == expected
    assert status(results).complete
    timings = pd.read_csv(results / "timings" / "timings.csv")
    assert timings["stage"].value_counts().to_dict() == {
        "train-policy": 8,
        "synthesize": 2,
        "export": 1,
        "train-world-model": 1,
        "train-inverse-dynamics": 1,
        "seal-synthetic": 1,
        "assess": 1,
        "tables": 1,
        "compare": 1,
        "figures": 1,
        "film": 2,
        "animate": 1,
    }
    assert (timings["wall_seconds"] > 0).all()
    log = (results / "logs" / "train-world-model" / "hopper" / "dawm" / "seed-0.log").read_text()
    assert re.search(r"world-model seed 0: 40/40 \(100 %\), [\d,]+/s, 0:00 left, loss", log)


def test_runs_of_two_machines_make_the_tables_of_one(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has an arm of its own; what is published by the second is all, though the first one's weights are gone."""
    folder = clone(tmp_path)
    benchmark = load_benchmark("evidence")
    monkeypatch.chdir(folder)
    results = folder / "results/tiny"

    def evidence(*words: str) -> subprocess.CompletedProcess[str]:
        status = benchmark.main(words)
        return subprocess.CompletedProcess(words, status, *capsys.readouterr())

    def missing(*arms: str) -> list[str]:
        run = evidence("missing", "tiny.yaml", "hopper", *arms)
        assert run.returncode == (0 if run.stdout else 1), run.stderr
        return sorted(str(Path(target).parent) for target in run.stdout.split())

    def have(arm: str) -> None:
        shutil.rmtree(results, ignore_errors=True)
        other = {"real": "dawm", "dawm": "real"}[arm]
        shutil.copytree(finished / "results/tiny", results, ignore=shutil.ignore_patterns(other, "tables"))

    runs_of = {
        arm: [f"results/tiny/policies/hopper/{learner}/{arm}/seed-{n}" for learner in ("iql", "td3_bc") for n in (0, 3)]
        for arm in ("real", "dawm")
    }
    shown = ["results/tiny/animations/hopper/dawm/seed-0", "results/tiny/assessments/hopper/dawm/seed-0"]
    films = [f"results/tiny/films/hopper/{learner}/dawm/seed-0" for learner in ("iql", "td3_bc")]
    assert missing() == sorted([*runs_of["real"], *runs_of["dawm"], *shown, *films])
    run = evidence("publish", "tiny.yaml")
    sentence = "tiny: expected runs in results/tiny or results/published/tiny, found neither\n"
    assert run.returncode == 2 and run.stderr == sentence and not (folder / "results/published/tiny").exists()
    shutil.copytree(finished / "results/tiny/datasets", results / "datasets")
    run = evidence("publish", "tiny.yaml")
    assert run.returncode == 2 and run.stderr == "tiny: expected a run that has ended, found none\n"
    have("real")
    assert missing() == sorted([*runs_of["dawm"], *shown, *films])
    run = evidence("publish", "tiny.yaml")
    published = folder / "results/published/tiny"
    assert run.returncode == 0, run.stderr
    assert run.stdout == "results/published/tiny: 4 runs have ended; complete: no data set\n"
    ended = pd.read_csv(published / "ended.csv")
    scores = pd.read_csv(finished / "results/tiny/tables/scores.csv").query("augmentation == 'real'")
    assert not (published / "scores.csv").exists()
    pd.testing.assert_frame_equal(ended, scores[ended.columns].reset_index(drop=True), check_dtype=False)
    lines = (published / "ended.md").read_text().splitlines()[2:]
    assert [line.split(" | ")[:3] for line in lines] == [[name, "1", "`real`"] for name in ("| TD3+BC", "| IQL")]
    have("dawm")
    (results / "policies/hopper/iql/dawm/seed-3/provenance.json").unlink()  # not ended yet
    assert missing() == ["results/tiny/policies/hopper/iql/dawm/seed-3"] and missing("real") == []
    run = evidence("publish", "tiny.yaml")
    assert run.stdout == "results/published/tiny: 7 runs have ended; complete: no data set\n", run.stderr
    assert (published / "ended.md").read_text().count(" (1 of 2) |\n") == 1
    compared = pd.read_csv(published / "scores.csv")  # no data set is complete, but all of one learner's arms are
    arms = compared[["algorithm", "augmentation"]].drop_duplicates()
    assert arms.to_numpy().tolist() == [["td3_bc", "real"], ["td3_bc", "dawm"]] and len(compared) == 4
    assert pd.read_csv(published / "comparison/pairs.csv")["algorithm"].tolist() == ["td3_bc", "td3_bc"]
    have("dawm")
    for once_more in (False, True):
        run = evidence("publish", "tiny.yaml")
        assert run.returncode == 0, run.stderr
        assert run.stdout == "results/published/tiny: 8 runs have ended; complete: hopper\n"
        for table in ("scores", "summary", "learning_curves", "fidelity", "inverse_dynamics", "datasets", "planner"):
            same = (finished / "results/tiny/tables" / f"{table}.csv").read_bytes()
            assert (published / f"{table}.csv").read_bytes() == same, (table, once_more)
        shutil.rmtree(results, ignore_errors=True)
    assert (published / "report.html").stat().st_size > 50_000
    with tarfile.open(published / "runs.tar.xz") as archive:
        names = archive.getnames()
    assert not [name for name in names if name.endswith((".parquet", ".safetensors", ".gif"))]
    assert (published / "animations/hopper/dawm/seed-0/provenance.json").is_file()
    assert len([*(published / "films").rglob("provenance.json")]) == 2
    assert sum(name.startswith("policies/") and name.endswith("/evaluations.csv") for name in names) == 8
    changed = yaml.safe_load((folder / "tiny.yaml").read_text())
    changed["algorithms"]["iql"]["gradient_steps"] = 31
    (folder / "changed.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    before = (published / "runs.tar.xz").read_bytes()
    for words in (("missing", "changed.yaml", "hopper", "real"), ("publish", "changed.yaml")):
        run = evidence(*words)
        assert run.returncode == 2 and run.stderr.startswith(
            "policies/hopper/iql/real/seed-0: expected gradient_steps 31"
        )
        assert len(run.stderr.splitlines()) == 1 and (published / "runs.tar.xz").read_bytes() == before
    run = evidence("missing", "tiny.yaml", "hopper", "fast")
    assert run.returncode == 2 and run.stderr == "arms: expected some of real, dawm, found fast\n"

    second = yaml.safe_load((folder / "tiny.yaml").read_text()) | {"experiment": "second"}
    second["augmentations"]["dawm"] = {"real_fraction": 0.25}
    (folder / "second.yaml").write_text(yaml.safe_dump(second, sort_keys=False))
    run = evidence("adopt", "second.yaml", "tiny.yaml", "hopper", "real", "dawm")
    assert run.returncode == 2 and run.stderr == "dawm: expected tiny's settings on hopper, found others\n"
    assert not (folder / "results/published/second").exists()
    run = evidence("adopt", "second.yaml", "tiny.yaml", "hopper", "real")
    assert run.stdout == "results/published/second: 4 runs of tiny\n", run.stderr
    run = evidence("missing", "second.yaml", "hopper")
    assert {Path(target).parts[5] for target in run.stdout.split() if "/policies/" in target} == {"dawm"}
    run = evidence("publish", "second.yaml")
    assert run.stdout == "results/published/second: 4 runs have ended; complete: no data set\n", run.stderr
    adopted = pd.read_csv(folder / "results/published/second/ended.csv")
    pd.testing.assert_frame_equal(adopted, ended.assign(experiment="second"))
    run = evidence("adopt", "tiny.yaml", "second.yaml", "hopper", "real")
    assert run.returncode == 0, run.stderr
    (folder / "results/published/second/runs.tar.xz").unlink()
    run = evidence("adopt", "tiny.yaml", "second.yaml", "hopper", "real")
    lacks = "policies/hopper/td3_bc/real/seed-0: expected in results/published/second/runs.tar.xz, did not find it\n"
    assert run.returncode == 2 and run.stderr == lacks


def test_seeds_that_share_a_job_end_in_the_same_table(finished: Path, tmp_path: Path) -> None:
    """One process for both seeds of each arm; a seed that is taken away is trained again, the other one kept."""
    folder = clone(tmp_path)
    shutil.copytree(finished / "results", folder / "results")
    for gone in ("policies", "tables", "benchmarks"):
        shutil.rmtree(folder / "results" / "tiny" / gone)
    (folder / "results" / "tiny" / "report.html").unlink()
    compute = {"seeds_per_job": 2, "evaluation_processes": 2}
    config = yaml.safe_load((folder / "tiny.yaml").read_text()) | {"compute": compute}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run = snakemake(folder)
    assert run.returncode == 0, run.stderr
    assert re.search(r"^train_policy_seeds_0_to_3\s+4$", run.stdout + run.stderr, re.M)
    tables = [pd.read_csv(place / "results" / "tiny" / "tables" / "scores.csv") for place in (finished, folder)]
    pd.testing.assert_frame_equal(*tables, rtol=0.05)
    timings = pd.read_csv(folder / "results" / "tiny" / "timings" / "timings.csv")
    assert timings["job"].str.endswith("seeds-0-to-3").sum() == 4
    arm = folder / "results" / "tiny" / "policies" / "hopper" / "iql" / "dawm"
    kept = {path.name: path.stat().st_mtime_ns for path in (arm / "seed-0").glob("*.csv")}
    before = (arm / "seed-3" / "policy.safetensors").read_bytes()
    shutil.rmtree(arm / "seed-3")
    run = snakemake(folder, "--", str((arm / "seed-3" / "provenance.json").relative_to(folder)))
    assert run.returncode == 0, run.stderr
    open_sealed(arm / "seed-0", "policy")
    assert {path.name: path.stat().st_mtime_ns for path in (arm / "seed-0").glob("*.csv")} == kept
    assert_close(load(before), load_file(arm / "seed-3" / "policy.safetensors"), rtol=1e-4, atol=1e-5)


def test_real_arms_use_no_synthetic_data(finished: Path) -> None:
    policies = finished / "results" / "tiny" / "policies" / "hopper" / "iql"
    assert set(open_sealed(policies / "real" / "seed-0", "policy").provenance["inputs"]) == {"dataset"}
    assert set(open_sealed(policies / "dawm" / "seed-0", "policy").provenance["inputs"]) == {"dataset", "synthetic"}


def test_a_second_run_does_nothing(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "results").rglob("*") if path.is_file()}
    run = snakemake(finished)
    assert run.returncode == 0
    assert "Nothing to be done" in run.stdout + run.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (finished / "results").rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "rules"),
    [("figures", {"figures"}), ("comparison", {"compare"}), ("style", {"figures", "compare"})],
)
def test_a_changed_figure_module_reruns_what_shows_it(finished: Path, name: str, rules: set[str]) -> None:
    module = finished / "dawm" / "analysis" / f"{name}.py"
    original, times = module.read_text(), module.stat()
    module.write_text(original + "# another style\n")
    try:
        assert planned(finished) == {*rules, "timings", "report", "all"}
    finally:
        module.write_text(original)
        os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_changed_setting_reruns_what_depends_on_it(finished: Path) -> None:
    config = finished / "tiny.yaml"
    original = config.read_text()
    values = yaml.safe_load(original)
    values["algorithms"]["iql"]["expectile"] = 0.8
    try:
        config.write_text(yaml.safe_dump(values))
        assert planned(finished) == {"train_policy", "film", "tables", "timings", "compare", "figures", "report", "all"}
        values["generators"]["dawm"]["synthesis"]["guidance"] = 2.0
        config.write_text(yaml.safe_dump(values))
        assert {"synthesize", "seal_synthetic", "assess"} <= planned(finished)
        assert not {"export", "train_world_model", "train_inverse_dynamics"} & planned(finished)
    finally:
        config.write_text(original)


def test_a_note_is_told_to_the_report_alone(tmp_path: Path) -> None:
    folder = clone(tmp_path)
    (folder / "noted.yaml").write_text((folder / "tiny.yaml").read_text() + 'notes: ["This is no evidence."]\n')
    targets = ("all", "fidelity", "steering")
    commands = []
    for config in ("tiny.yaml", "noted.yaml"):
        run = snakemake(folder, "--dry-run", "--forceall", "--printshellcmds", "--", *targets, config=config)
        assert run.returncode == 0, run.stderr
        commands.append(set(re.findall(r"exec (python -m dawm .*)", run.stdout + run.stderr)))
    plainly, noted = commands
    assert {words.split()[3] for words in noted} > {"timings", "fidelity", "steering", "tables", "train-policy"}
    assert [words.split()[3] for words in noted ^ plainly] == ["report", "report"]


@pytest.mark.parametrize("forgotten", [False, True], ids=["", "without .snakemake"])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(finished: Path, tmp_path: Path, forgotten: bool) -> None:
    """kill -9 of the scheduler and its jobs half way: what was complete stays and the rest follows, also where all that
    the scheduler knew of its jobs is lost."""
    folder = clone(tmp_path)
    process = subprocess.Popen(
        command(), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    policies = folder / "results" / "tiny" / "policies"
    deadline = time.monotonic() + 200
    try:
        while len(done := list(policies.rglob("provenance.json"))) < 3 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert len(done) < 8, "killed too late to show anything"
    # Two jobs run at a time, so of three that are sealed the first has ended for its scheduler too.
    first = min(done, key=lambda path: path.stat().st_mtime_ns)
    made = first.stat().st_mtime_ns
    if forgotten:
        shutil.rmtree(folder / ".snakemake")
    else:
        assert snakemake(folder, "--unlock").returncode == 0
    again = snakemake(folder)
    assert again.returncode == 0, again.stderr
    assert first.stat().st_mtime_ns == made
    assert files(folder) == files(finished)


def test_a_model_that_its_scheduler_forgot_is_not_trained_again(finished: Path, tmp_path: Path) -> None:
    """Before a job starts again Snakemake removes what its rule names as outputs: the seal, and no weights."""
    folder = shutil.copytree(finished, tmp_path / "a clone", symlinks=True)
    for kind in ("world-models", "inverse-dynamics"):
        (seal,) = (folder / "results" / "tiny" / kind).rglob("provenance.json")
        before = seal.read_bytes()
        seal.unlink()
        run = snakemake(folder, "--", str(seal.relative_to(folder)))
        assert run.returncode == 0, run.stderr
        (log,) = (folder / "results" / "tiny" / "logs" / f"train-{kind.replace('models', 'model')}").rglob("*.log")
        assert "had finished with these settings, inputs and code" in log.read_text()
        assert seal.read_bytes() == before


def test_a_second_run_at_once_says_so(both_runs: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Of two that are started by hand; `make run` waits (tests/test_setup.py). That it touches nothing, those that
    compare the first one's files with another run's see."""
    second = both_runs[1]
    assert second.returncode == 1 and "LockException" in second.stderr


def test_the_default_config_does_not_leak_into_another(finished: Path) -> None:
    """Keys that the tiny config leaves out resolve to the dataclasses' defaults, not to the quickstart's values."""
    run = snakemake(finished, "--dry-run", "--printshellcmds", "--forceall")
    settings = {}
    for line in re.findall(r"exec (python -m dawm .*)", run.stdout + run.stderr):
        words = shlex.split(line)
        if "--settings" in words:
            settings[words[3]] = json.loads(words[words.index("--settings") + 1])
    own = yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text())
    quick = yaml.safe_load((ROOT / "config" / "quickstart.yaml").read_text())
    assert settings["synthesize"] == as_mapping(SynthesisSettings(**own["generators"]["dawm"]["synthesis"]))
    assert settings["assess"] == as_mapping(AssessmentSettings())
    assert (
        settings["train-world-model"]["learning_rate"]
        == 1e-3
        != quick["generators"]["dawm"]["world_model"]["learning_rate"]
    )
    assert settings["tables"]["seeds"] == [0, 3]
    assert list(settings["tables"]["datasets"]) == ["hopper"]


def test_without_a_config_file_the_quickstart_runs(finished: Path) -> None:
    run = snakemake(finished, "--dry-run", "--config", "experiment=renamed", config=None)
    assert run.returncode == 0, run.stderr
    assert "results/renamed/policies/hopper-medium-replay/td3_bc/dawm/seed-2/provenance.json" in run.stdout


@pytest.mark.parametrize(
    ("change", "planned"),
    [("seeds=[3]", r"train_policy +4"), ("compute={seeds_per_job: 2}", r"train_policy_seeds_0_to_3 +4")],
)
def test_what_is_nested_may_be_changed_on_the_command_line(tmp_path: Path, change: str, planned: str) -> None:
    run = snakemake(clone(tmp_path), "--dry-run", "--config", change)
    assert run.returncode == 0, run.stderr
    assert re.search(f"^{planned}$", run.stdout + run.stderr, re.M)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("sedes=[0]", "tiny.yaml and --config: sedes: unknown key; expected one of "),
        ("seeds=[x]", "tiny.yaml and --config: seeds.0: expected a whole number, found 'x'"),
    ],
)
def test_what_is_wrong_on_the_command_line_is_told_of_it(tmp_path: Path, change: str, sentence: str) -> None:
    run = snakemake(clone(tmp_path), "--dry-run", "--config", change)
    assert run.returncode != 0 and sentence in run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize("run", ["hopper/td3_bc/other/seed-0", "hopper/bc/real/seed-0", "hopper/td3_bc/dawm/seed-9"])
def test_names_that_the_config_lacks_are_made_by_no_rule(finished: Path, run: str) -> None:
    found = snakemake(finished, "--dry-run", "--", f"results/tiny/policies/{run}/provenance.json")
    said = found.stdout + found.stderr
    assert found.returncode != 0 and "No rule to produce" in said and "Traceback" not in said


def test_a_checkout_may_be_moved_with_its_results(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "elsewhere")
    assert planned(tmp_path / "elsewhere") == set()


def test_modules_on_the_users_path_are_found(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "swinging.py").write_text(
        "import gymnasium\ngymnasium.register('Swing-v0', 'gymnasium.envs.classic_control.pendulum:PendulumEnv', "
        "max_episode_steps=50)\n"
    )
    folder = clone(tmp_path)
    values = yaml.safe_load((folder / "tiny.yaml").read_text())
    environment = {"id": "swinging:Swing-v0", "termination": {}}
    values["datasets"] = {"swing": {"source": "random", "transitions": 1000, "environment": environment}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    run = subprocess.run(
        command("--", "results/tiny/datasets/swing/provenance.json"),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr


def test_an_inspection_that_breaks_is_no_alarm(finished: Path, tmp_path: Path) -> None:
    folder = clone(tmp_path)
    shutil.copytree(finished / "results" / "tiny" / "datasets", folder / "results" / "tiny" / "datasets")
    path = folder / "dawm" / "analysis" / "inspection.py"
    path.write_text(path.read_text() + "\n\ndef save_inspection(*_):\n    raise RuntimeError('it broke')\n")
    run = snakemake(folder, "--", "results/tiny/inspections/hopper/provenance.json")
    assert run.returncode != 0
    assert "it broke" in run.stdout + run.stderr and "latency" not in run.stdout + run.stderr


@pytest.mark.parametrize("config", sorted(path.name for path in (ROOT / "config").glob("*.yaml")))
def test_every_shipped_config_dry_runs(config: str, tmp_path: Path) -> None:
    folder = clone(tmp_path)
    run = snakemake(folder, "--dry-run", config=f"config/{config}")
    assert run.returncode == 0, run.stderr
    experiment = load_experiment(ROOT / "config" / config)
    jobs = len(list(runs(experiment.matrix()))) // len(experiment.seeds) * len(experiment.seed_groups())
    counts = dict(re.findall(r"^(train_policy\w*)\s+(\d+)$", run.stdout + run.stderr, re.M))
    assert sum(map(int, counts.values())) == jobs


def test_a_part_is_made_of_its_whole_and_again_when_that_changes(tmp_path: Path) -> None:
    folder = clone(tmp_path)
    values = yaml.safe_load((folder / "tiny.yaml").read_text())
    values["datasets"]["hopper-half"] = {"source": "part/hopper", "fraction": 0.5}
    (folder / "part.yaml").write_text(yaml.safe_dump(values))
    target = "results/tiny/datasets/hopper-half/provenance.json"
    run = snakemake(folder, "--", target, config="part.yaml")
    assert run.returncode == 0, run.stderr
    whole, half = (
        open_sealed(folder / "results/tiny/datasets" / name, "dataset") for name in ("hopper", "hopper-half")
    )
    assert half.provenance["inputs"] == {"parent": whole.digest}
    assert 0 < half.metadata["rows"] < whole.metadata["rows"]
    values["datasets"]["hopper"]["transitions"] = 2000
    (folder / "part.yaml").write_text(yaml.safe_dump(values))
    again = snakemake(folder, "--dry-run", "--", target, config="part.yaml")
    assert re.search(r"^export\s+2$", again.stdout + again.stderr, re.M)


def test_the_paper_matrix_is_whole() -> None:
    values = yaml.safe_load((ROOT / "config" / "d4rl-locomotion.yaml").read_text())
    assert len(values["datasets"]) == 9
    assert (len(values["seeds"]), set(values["algorithms"])) == (5, {"td3_bc", "iql"})
    assert {arm["real_fraction"] for arm in values["augmentations"].values()} == {1.0, 0.5}


PROFILES = {"slurm": ["slurm_partition=gpu", "gpu=1"], "gpu": ["gpu=1"]}


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_plan_the_same_jobs_and_give_a_gpu_to_those_that_use_one(tmp_path: Path, profile: str) -> None:
    run = snakemake(clone(tmp_path), "--dry-run", "--workflow-profile", f"profiles/{profile}")
    assert run.returncode == 0, run.stderr
    assert re.search(r"^train_policy\s+8$", run.stdout + run.stderr, re.M)
    jobs = re.findall(r"^\s*(?:local)?rule (\w+):$.*?^\s+resources: ([^\n]*)$", run.stdout, re.M | re.S)
    given = {rule for rule, resources in jobs if all(one in resources for one in PROFILES[profile])}
    assert given == {"train_world_model", "train_inverse_dynamics", "synthesize", "train_policy"}
    assert not any("gpu=1" in resources for rule, resources in jobs if rule not in given)


def test_jobs_on_a_cluster_may_be_larger_than_the_machine_that_sends_them(tmp_path: Path) -> None:
    folder = clone(tmp_path)
    site = yaml.safe_load((folder / "profiles/slurm/site.yaml").read_text())
    site |= {"extra": "--constraint=avx512", "gpu_extra": "--constraint=a100"}
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    seeds = 2 * (os.cpu_count() or 1)
    options = ["--configfile", "tiny.yaml", "--workflow-profile", "slurm", "--dry-run", "--config"]
    run = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", *options),
            f"seeds={list(range(seeds))}",
            f"compute={{seeds_per_job: {seeds}, evaluation_processes: {seeds}}}",
        ],
        cwd=folder,
        env=os.environ | {"DAWM_SITE": "site.yaml"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    blocks = dict(re.findall(r"^rule (\w+):$(.*?)(?=^\[|\Z)", run.stdout, re.M | re.S))
    learners = blocks[f"train_policy_seeds_0_to_{seeds - 1}"]
    assert f"threads: {seeds}\n" in learners
    assert "slurm_extra=--constraint=a100" in learners and "slurm_partition=gpu" in learners
    assert "slurm_extra=--constraint=avx512" in blocks["export"] and "slurm_partition=cpu" in blocks["export"]


@pytest.mark.parametrize("profile", PROFILES)
def test_seeds_that_share_a_job_get_the_gpu_that_the_profile_gives_to_each(tmp_path: Path, profile: str) -> None:
    folder = clone(tmp_path)
    (folder / "tiny.yaml").write_text((folder / "tiny.yaml").read_text() + "\ncompute: {seeds_per_job: 2}\n")
    run = snakemake(folder, "--dry-run", "--workflow-profile", f"profiles/{profile}")
    assert run.returncode == 0, run.stderr
    blocks = re.findall(r"^rule train_policy_seeds_0_to_3:$(.*?)^\s+resources: ([^\n]*)$", run.stdout, re.M | re.S)
    assert len(blocks) == 4
    assert all(one in resources for _, resources in blocks for one in PROFILES[profile])


@pytest.mark.parametrize(
    ("given", "models", "synthesis", "learners"),
    [
        (
            "{precision: bf16, compile: graphs}",
            "--precision bf16 --compile graphs",
            "--precision bf16 --compile none",
            "--precision float32 --compile none --evaluation-processes 1",
        ),
        (
            "{precision: tf32, learner_graphs: true, device: cuda, seeds_per_job: 2, evaluation_processes: 3}",
            "--precision tf32 --compile none --device cuda",
            "--precision tf32 --compile none --device cuda",
            "--precision tf32 --compile graphs --device cuda --evaluation-processes 2",
        ),
    ],
)
def test_jobs_are_told_how_to_compute(
    finished: Path, tmp_path: Path, given: str, models: str, synthesis: str, learners: str
) -> None:
    (tmp_path / "how.yaml").write_text(f"compute: {given}\n")
    options = ["--dry-run", "--forceall", "--printshellcmds", "--configfile", "tiny.yaml", str(tmp_path / "how.yaml")]
    run = snakemake(finished, *options, config=None)
    assert run.returncode == 0, run.stderr
    expected = {"train-world-model": models, "train-inverse": models, "synthesize --shard": synthesis}
    memory, processes = re.findall(r"mem_mb=(\d+)", run.stdout), int(learners.split()[-1])
    assert str(4000 + 300 * (processes - 1)) in memory
    for stage, options in {**expected, "train-policy": learners}.items():
        lines = [line for line in run.stdout.splitlines() if f"python -m dawm {stage}" in line]
        assert lines and all(f" {options} " in line for line in lines), stage


def test_a_bad_config_stops_snakemake_with_one_sentence(tmp_path: Path) -> None:
    folder = clone(tmp_path)
    values = yaml.safe_load((folder / "tiny.yaml").read_text())
    values["seeds"] = [0, 0]
    (folder / "bad.yaml").write_text(yaml.safe_dump(values))
    run = snakemake(folder, config="bad.yaml")
    assert run.returncode == 2
    assert run.stderr.strip().splitlines()[-1] == f"{folder}/bad.yaml: seeds: expected every entry once, found 0 twice"
    assert not (folder / "results").exists()


def test_without_conda_one_sentence_says_what_to_do(tmp_path: Path) -> None:
    folder = clone(tmp_path)
    run = subprocess.run(
        command("--use-conda", "--dry-run"),
        cwd=folder,
        env=os.environ | {"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr.strip().splitlines()[-1].startswith("--use-conda: expected conda 24.7.1 or newer on PATH")


def test_a_data_set_that_cannot_be_made_fails_with_its_sentence_in_the_terminal(tmp_path: Path) -> None:
    folder = clone(tmp_path)
    values = yaml.safe_load((folder / "tiny.yaml").read_text())
    values["datasets"] = {"mine": {"source": "random", "environment": {"id": "Hoper-v4"}}}
    (folder / "unknown.yaml").write_text(yaml.safe_dump(values))
    run = snakemake(folder, config="unknown.yaml")
    assert run.returncode != 0
    assert "dawm export: environment: gymnasium cannot make 'Hoper-v4'" in run.stdout + run.stderr
    assert not list((folder / "results").rglob("provenance.json"))


def test_a_file_that_does_not_exist_is_missed_before_any_job_until_its_data_set_is_made(tmp_path: Path) -> None:
    folder = clone(tmp_path)
    values = yaml.safe_load((folder / "tiny.yaml").read_text())
    values["datasets"] = {"mine": {"source": "hdf5:nowhere/hopper_medium-v2.hdf5"}}
    values["generators"]["dawm"]["world_model"]["return_horizon"] = (
        "window"  # its episodes are short and end by timeouts
    )
    (folder / "missing.yaml").write_text(yaml.safe_dump(values))
    run = snakemake(folder, "--dry-run", config="missing.yaml")
    assert run.returncode == 2
    said = f"{folder}/missing.yaml: datasets.mine.source: nowhere/hopper_medium-v2.hdf5: no such file"
    assert run.stderr.strip().splitlines()[-1] == said
    (folder / "nowhere").mkdir()
    write_hdf5(folder / "nowhere/hopper_medium-v2.hdf5", hopper_columns([(60, "timeout")] * 4))
    targets = "--", "results/tiny/world-models/mine/dawm/seed-0/provenance.json"
    run = snakemake(folder, *targets, config="missing.yaml")
    assert run.returncode == 0, run.stderr
    made = sorted((folder / "results/tiny/datasets/mine").iterdir())
    shutil.rmtree(folder / "nowhere")
    run = snakemake(folder, *targets, config="missing.yaml")
    assert run.returncode == 0 and "Nothing to be done" in run.stdout + run.stderr
    assert sorted((folder / "results/tiny/datasets/mine").iterdir()) == made


def test_an_alarm_about_a_data_set_keeps_its_page_and_the_overview(tmp_path: Path) -> None:
    folder = clone(tmp_path)
    values = yaml.safe_load((folder / "tiny.yaml").read_text())
    write_hdf5(folder / "hopper_noise-v2.hdf5", hopper_columns([(60, "timeout")] * 4))  # random numbers, no physics
    values["datasets"] = {"noise": {"source": "hdf5:hopper_noise-v2.hdf5"}}
    (folder / "noise.yaml").write_text(yaml.safe_dump(values))
    run = snakemake(folder, "--", "datasets", config="noise.yaml")
    assert run.returncode == 0, run.stderr
    inspection = open_sealed(folder / "results/tiny/inspections/noise", "inspection")
    assert "ALARM" in inspection.read("inspection.json").decode()
    assert (folder / "results/tiny/overview/datasets.md").is_file()


def test_the_python_that_runs_snakemake_runs_its_jobs_whatever_conda_environment_is_active(tmp_path: Path) -> None:
    folder = clone(tmp_path)
    other = tmp_path / "conda" / "bin"
    other.mkdir(parents=True)
    (other / "python").write_text("#!/bin/sh\necho conda >&2\nexit 7\n")
    (other / "python").chmod(0o755)
    active = os.environ | {"CONDA_PREFIX": str(other.parent), "PATH": f"{other}:{os.environ['PATH']}"}
    run = subprocess.run(
        command("--until", "export"), cwd=folder, capture_output=True, text=True, timeout=300, env=active
    )
    assert run.returncode == 0, run.stderr
    assert [*(folder / "results/tiny/datasets").glob("*/provenance.json")]


def test_a_key_that_is_twice_in_a_config_stops_snakemake_with_one_sentence(tmp_path: Path) -> None:
    folder = clone(tmp_path)
    text = (folder / "tiny.yaml").read_text()
    (folder / "twice.yaml").write_text(f"{text}\nseeds: [0]\n")
    run = snakemake(folder, "--dry-run", config="twice.yaml")
    assert run.returncode == 2
    assert "the key 'seeds' twice in the mapping of line " in run.stderr.strip().splitlines()[-1]


def test_profile_and_estimates_agree_on_what_runs_on_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    rules = yaml.safe_load((ROOT / "profiles" / "on_gpu.yaml").read_text())
    assert {rule.replace("_", "-") for rule in rules} == set(ON_GPU)
    for stage in ON_GPU:
        with pytest.raises(SystemExit):
            main([stage, "--help"])
        assert "--device" in capsys.readouterr().out, stage


def test_worked_example_of_an_own_environment_runs_to_its_report(tmp_path: Path) -> None:
    """The committed file with fewer steps, and a second data set without scores or states to replay."""
    folder = clone(tmp_path)
    config = yaml.safe_load((ROOT / "config" / "own-environment.yaml").read_text())
    config |= {"experiment": "own-short", "seeds": [0]}
    config["datasets"]["pendulum"]["transitions"] = 1500
    config["datasets"]["swing"] = {
        "source": "random",
        "transitions": 1500,
        "environment": {"id": "Pendulum-v1", "termination": {}},  # it never ends
    }
    recipe = config["generators"]["dawm"]
    recipe["world_model"] |= {"gradient_steps": 40, "return_horizon": "window"}  # of 200 steps no return is known
    recipe["inverse_dynamics"] |= {"gradient_steps": 40}
    recipe["forward_dynamics"] |= {"gradient_steps": 40}
    recipe["synthesis"] |= {"trajectories": 300}
    for learner in config["algorithms"].values():
        learner |= {"gradient_steps": 40, "evaluate_every": 20, "evaluation_episodes": 2}
    (folder / "own.yaml").write_text(yaml.safe_dump(config))
    run = snakemake(folder, config="own.yaml")
    assert run.returncode == 0, run.stderr
    results = folder / "results" / "own-short"
    scores = pd.read_csv(results / "tables" / "scores.csv").set_index("dataset")
    assert scores.loc["pendulum", "normalized_score_last"].notna().all()
    assert scores.loc["swing", "normalized_score_last"].isna().all() and (scores.loc["swing", "return_last"] < 0).all()
    fidelity = pd.read_csv(results / "tables" / "fidelity.csv")
    coverage = fidelity[fidelity["quantity"] == "state_error"].groupby("dataset")["coverage"].max()
    assert coverage["pendulum"] == 1 and coverage["swing"] == 0
    assert (results / "report.html").stat().st_size > 50_000


def test_datasets_are_made_and_described_by_one_command(tmp_path: Path) -> None:
    folder = clone(tmp_path)
    config = yaml.safe_load((folder / "config" / "local-suite.yaml").read_text())
    assert len(config["datasets"]) == 15
    few = ("hopper-random", "hopper-expert", "walker2d-medium-replay", "halfcheetah-medium-expert")
    config["datasets"] = {name: config["datasets"][name] | {"transitions": 2500} for name in few}
    config["inspection"] = {"rows": 200}
    (folder / "suite.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run = snakemake(folder, "--", "datasets", config="suite.yaml")
    assert run.returncode == 0, run.stderr
    overview = folder / "results" / "local-suite" / "overview"
    table = pd.read_csv(overview / "datasets.csv").set_index("dataset")
    assert list(table.index) == list(few)
    assert (table["rows"] == 2500).all() and (table["rows_replayed"] == 200).all() and (table["reproduced"] == 1).all()
    score = table["normalized_score_mean"]
    assert score["hopper-random"] < 5 < 60 < score["hopper-expert"]
    for name in few:
        metadata = open_sealed(folder / "results" / "local-suite" / "datasets" / name, "dataset").metadata
        assert table.loc[name, "return_mean"] == pytest.approx(metadata["mean_return"], rel=1e-5)
        assert f"| {name} | 2,500 | {metadata['episodes']:,} |" in (overview / "datasets.md").read_text()
    assert (overview / "returns.png").read_bytes().startswith(b"\x89PNG")


def test_recipes_run_beside_each_other_and_share_their_models(tmp_path: Path) -> None:
    """A corrected, a plain and a joint recipe: each has its synthetic transitions; equal models are trained once."""
    folder = clone(tmp_path)
    config = yaml.safe_load((folder / "tiny.yaml").read_text())
    config |= {"experiment": "recipes", "seeds": [0]}
    plain = config["generators"]["dawm"]
    plain["world_model"]["action_dropout"] = 0.2
    correct = {"forward_dynamics": {"hidden": 16, "layers": 1, "gradient_steps": 40, "batch_size": 32}}
    corrected = plain | correct | {"synthesis": plain["synthesis"] | {"correction": {"mode": "correct"}}}
    joint = plain | {
        "world_model": plain["world_model"] | {"actions": "joint", "action_dropout": 0},
        "inverse_dynamics": None,
    }
    config["generators"] = {"plain": plain, "corrected": corrected, "joint": joint}
    config["animation"] = {"starts": 1, "size": 64}
    config["steering"] = {"requests": [0.5, 1.0], "rows": 20, "episodes": 1}
    config["planners"] = ["corrected"]
    arms = {name: {"real_fraction": 0.5} for name in config["generators"]}
    config["generators"]["idle"] = plain | {"synthesis": plain["synthesis"] | {"guidance": 2.0}}  # of no arm
    config["augmentations"] = arms | {"joint_only": {"real_fraction": 0, "generator": "joint"}}
    config["algorithms"] = {"td3_bc": config["algorithms"]["td3_bc"]}
    (folder / "recipes.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run = snakemake(folder, config="recipes.yaml")
    assert run.returncode == 0, run.stderr
    results = folder / "results" / "recipes"

    def made(stage: str) -> list[str]:
        return sorted(path.parent.name for path in (results / stage / "hopper").glob("*/seed-0"))

    assert made("world-models") == ["joint", "plain"]
    assert made("inverse-dynamics") == ["plain"] and made("forward-dynamics") == ["corrected"]
    assert made("synthetic") == ["corrected", "joint", "plain"] and made("steering") == ["corrected"]
    planned = pd.read_csv(results / "tables" / "planner.csv")
    steered = pd.read_csv(results / "steering/hopper/corrected/seed-0/steering.csv")
    assert (planned["generator"] == "corrected").all() and list(planned["request"]) == [0.5, 1.0]
    for quantity in ("return", "normalized_score", "cpu_seconds_per_decision"):
        chosen = (steered["loop"] == "closed") & (steered["quantity"] == quantity)
        assert list(planned[quantity]) == list(steered.loc[chosen, "value"])
    shown = f"{planned['normalized_score'].iloc[0]:.1f} ± –"  # of one world model
    assert shown in (results / "report.html").read_text()
    fidelity = pd.read_csv(results / "tables" / "fidelity.csv")
    assert {"plain", "corrected", "joint"} < set(fidelity["augmentation"])
    assert not fidelity.duplicated().any()
    scores = pd.read_csv(results / "tables" / "scores.csv").set_index("augmentation")
    assert scores["real_fraction"].to_dict() == {"plain": 0.5, "corrected": 0.5, "joint": 0.5, "joint_only": 0.0}
    for name, inputs in (("plain", set()), ("corrected", {"forward_dynamics"})):
        sealed = open_sealed(results / "synthetic" / "hopper" / name / "seed-0", "synthetic")
        assert set(sealed.provenance["inputs"]) == {"dataset", "world_model", "inverse_dynamics"} | inputs

    run = snakemake(folder, "--", "fidelity", config="recipes.yaml")
    assert run.returncode == 0, run.stderr
    assert made("synthetic") == ["corrected", "idle", "joint", "plain"] and made("world-models") == ["joint", "plain"]
    page = open_sealed(results / "fidelity", "fidelity")
    assert set(page.files) == {"fidelity.csv", "fidelity.md", "fidelity.png", "fidelity.pdf", "models.csv"}
    models = pd.read_csv(results / "fidelity" / "models.csv")
    assert set(zip(models["model"], models["recipe"], strict=True)) == {
        ("world-model", "plain"),
        ("world-model", "joint"),
        ("inverse-dynamics", "plain"),
        ("forward-dynamics", "corrected"),
    }
    inverse = models[models["model"] == "inverse-dynamics"].set_index("quantity")["value"]
    assert inverse["step"] == 40 and 0 < inverse["mean_absolute_error"] < 2
    lines = page.read("fidelity.md").decode().splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == [
        "real, held out",
        *("plain", "corrected", "joint", "idle"),
        "nothing moves",
    ]
    table = pd.read_csv(results / "fidelity" / "fidelity.csv")
    shared = table["augmentation"].isin(["plain", "corrected", "joint"])
    pd.testing.assert_frame_equal(
        table[shared].reset_index(drop=True),
        fidelity[fidelity["augmentation"].isin(["plain", "corrected", "joint"])].reset_index(drop=True),
    )

    run = snakemake(folder, "--", "steering", "animations", config="recipes.yaml")
    assert run.returncode == 0, run.stderr
    page = open_sealed(results / "steering-page", "steering-page")
    assert set(page.files) == {"steering.csv", "steering.md", "steering.png", "steering.pdf"}
    steering = pd.read_csv(results / "steering-page" / "steering.csv")
    loops = steering.groupby("recipe", sort=False)["loop"].agg(set).to_dict()
    both = {"open", "closed"}
    assert loops == {"plain": both, "corrected": both, "joint": {"open"}, "idle": both}
    assert len(page.read("steering.md").decode().splitlines()) == 2 + 4 * 2
    assert made("animations") == ["corrected", "idle", "joint", "plain"]

    efficiency = [
        "--config",
        "recipes.yaml",
        "--dataset",
        "hopper",
        "--results",
        "results/recipes",
        "--output",
        "costs",
    ]
    script = str(ROOT / "benchmarks" / "efficiency.py")
    run = subprocess.run([sys.executable, script, *efficiency], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    table = pd.read_csv(folder / "costs" / "efficiency.csv").set_index("recipe")
    assert list(table.index[:4]) == ["plain", "corrected", "joint", "idle"]
    planner = table[table.index.str.startswith("planner, asked for")]
    assert len(planner) in (1, 2) and planner["score"].iloc[-1] == planner["score"].max()
    costs = table["training_cpu_seconds"]
    assert costs.notna().all() and costs["corrected"] != costs["plain"] == costs["idle"]
    assert (planner["training_cpu_seconds"] == costs["plain"]).all()
    assert planner["cpu_ms_per_decision"].min() > table.loc["plain", "cpu_ms_per_decision"] > 0
    assert table.loc["joint", "score_0"] == scores.loc["joint_only", "normalized_score_last"]
    assert len((folder / "costs" / "efficiency.md").read_text().splitlines()) == 2 + len(table)


def test_recipes_without_inverse_dynamics_run_to_the_report(tmp_path: Path) -> None:
    """A joint diffusion and a one-step model with a cloned policy: no action is inferred, and no figure shows any."""
    folder = clone(tmp_path)
    config = yaml.safe_load((folder / "tiny.yaml").read_text())
    config |= {"experiment": "acting", "seeds": [0]}
    tiny = {"hidden": 16, "layers": 1, "gradient_steps": 40, "batch_size": 32}
    plain = config["generators"]["dawm"]
    config["generators"] = {
        "joint": plain | {"world_model": plain["world_model"] | {"actions": "joint"}, "inverse_dynamics": None},
        "one_step": {
            "world_model": None,
            "inverse_dynamics": None,
            "forward_dynamics": tiny | {"loss": "likelihood", "members": 2},
            "cloned_policy": tiny,
            "synthesis": {"trajectories": 300, "shards": 2, "horizon": 4, "correction": {"terminals": "function"}},
        },
    }
    config["augmentations"] = {name: {"real_fraction": 0.5} for name in config["generators"]}
    config["algorithms"] = {"td3_bc": config["algorithms"]["td3_bc"]}
    (folder / "acting.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run = snakemake(folder, config="acting.yaml")
    assert run.returncode == 0, run.stderr
    results = folder / "results" / "acting"
    assert not (results / "inverse-dynamics").exists()
    assert [path.name for path in (results / "cloned-policies" / "hopper").iterdir()] == ["one_step"]
    sealed = open_sealed(results / "synthetic" / "hopper" / "one_step" / "seed-0", "synthetic")
    assert set(sealed.provenance["inputs"]) == {"dataset", "forward_dynamics", "cloned_policy"}
    fidelity = pd.read_csv(results / "tables" / "fidelity.csv")
    assert set(fidelity.loc[fidelity["augmentation"] == "one_step", "horizon_step"]) == {0, 1, 2, 3, 4}
    assert (results / "tables" / "inverse_dynamics.csv").read_text().strip() == ""
    drawn = {path.stem for path in (results / "figures").glob("*.png")}
    assert drawn == {"learning-curves", "scores", "values", "fidelity"}
    assert "Inverse dynamics</h2>" not in (results / "report.html").read_text()
    timings = pd.read_csv(results / "timings" / "timings.csv")["stage"].value_counts()
    assert timings["train-cloned-policy"] == timings["train-forward-dynamics"] == 1 and timings["assess"] == 2
