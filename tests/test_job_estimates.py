"""`dawm plan`: an experiment's hours from the times that another one's jobs took."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dawm.cli import main
from dawm.config import RANDOM_TRANSITIONS, Experiment, WorldModelSettings, as_yaml, read
from dawm.job_estimates import COLLECTED, GROWTH, QUEUED, STARTED, plan
from dawm.jobs import jobs
from dawm.layout import Layout

ROOT = Path(__file__).resolve().parents[1]
USUAL_STEPS = WorldModelSettings().gradient_steps
VALUES: dict[str, Any] = {
    "experiment": "tiny",
    "seeds": [0, 1],
    "datasets": {"hopper": {"source": "local/hopper-medium-replay"}},
    "generators": {"dawm": {"synthesis": {"shards": 2, "trajectories": 1000}}},
    "augmentations": {"real": {"real_fraction": 1.0}, "dawm": {"real_fraction": 0.5}},
    "algorithms": {"td3_bc": {"gradient_steps": 1000}},
}
SECONDS = {
    "export": 100,
    "train-world-model": 1000,
    "train-inverse-dynamics": 400,
    "synthesize": 90,
    "seal-synthetic": 70,
    "assess": 80,
    "train-policy": 2000,
}
TOGETHER = 100 + 1000 + 400 + 2 * 90 + 70 + 80 + 4 * 2000


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """An experiment of which every job before the tables was measured."""
    layout = Layout(tmp_path / "measured")
    experiment = read(Experiment, VALUES, "here")
    layout.timings.mkdir(parents=True)
    layout.config.write_text(as_yaml(experiment))
    lines = [
        f"{job.stage},{job.name},{SECONDS[job.stage] + 1},{SECONDS[job.stage]},100,10"
        for job in jobs(layout, experiment)
        if job.stage in SECONDS
    ]
    head = "stage,job,wall_seconds,cpu_seconds,max_rss_mib,disk_mib"
    (layout.timings / "timings.csv").write_text("\n".join([head, *lines]) + "\n")
    return layout.root


def config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(as_yaml(read(Experiment, VALUES | changes, "here")))
    return path


def by_stage(path: Path, measured: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in plan(path, [measured], gpus=0, cores=1).estimates:
        found[one.job.stage] = found.get(one.job.stage, 0.0) + one.seconds
    return found


def test_same_experiment_takes_as_long_again(tmp_path: Path, measured: Path) -> None:
    found = plan(config(tmp_path), [measured], gpus=0, cores=1)
    assert sum(one.seconds for one in found.estimates) == pytest.approx(TOGETHER)
    assert found.makespan == pytest.approx(TOGETHER)
    assert all(one.exact for one in found.estimates)
    assert sum(one.disk for one in found.estimates) == pytest.approx(10 * len(found.estimates))
    assert {job.stage for job in found.unknown} == {
        "tables",
        "compare",
        "figures",
        "timings",
        "film",
        "animate",
        "report",
    }


def test_random_policies_collect_what_they_do_where_nothing_is_said(tmp_path: Path, measured: Path) -> None:
    source = {"source": "random", "environment": {"id": "Pendulum-v1", "termination": {}}}
    said = by_stage(config(tmp_path, datasets={"pendulum": source | {"transitions": RANDOM_TRANSITIONS}}), measured)
    unsaid = by_stage(config(tmp_path, datasets={"pendulum": source}), measured)
    assert unsaid["export"] == said["export"] < SECONDS["export"]


def test_a_part_is_as_large_as_its_share(tmp_path: Path, measured: Path) -> None:
    datasets = VALUES["datasets"] | {"tenth": {"source": "part/hopper", "fraction": 0.1}}
    found = plan(config(tmp_path, datasets=datasets), [measured], gpus=0, cores=1).estimates
    seconds = {one.job.name: one.seconds for one in found if one.job.stage == "export"}
    assert seconds["hopper"] == SECONDS["export"]
    read = (SECONDS["export"] - STARTED) / COLLECTED
    assert seconds["tenth"] == pytest.approx(STARTED + 0.1 * read)


def test_rows_of_a_file_are_read_and_not_collected(tmp_path: Path, measured: Path) -> None:
    found = by_stage(config(tmp_path, datasets={"hopper": {"source": "d4rl/hopper-medium-replay-v2"}}), measured)
    assert found["export"] == pytest.approx(STARTED + (SECONDS["export"] - STARTED) / COLLECTED)


def test_jobs_without_a_name_are_known_too(tmp_path: Path, measured: Path) -> None:
    with (measured / "timings" / "timings.csv").open("a") as file:
        file.write("tables,,3,2,100,0\n")
    found = plan(config(tmp_path), [measured], gpus=0, cores=1)
    assert [one.seconds for one in found.estimates if one.job.stage == "tables"] == [3]
    assert "tables" not in {job.stage for job in found.unknown}


def test_time_follows_the_amount_of_work(tmp_path: Path, measured: Path) -> None:
    changes = {
        "algorithms": {"td3_bc": {"gradient_steps": 3000}},
        "generators": {
            "dawm": {"world_model": {"gradient_steps": 100_000}, "synthesis": {"shards": 4, "trajectories": 4000}}
        },
        "seeds": [0, 1, 2],
    }
    found = by_stage(config(tmp_path, **changes), measured)
    assert found["train-policy"] == pytest.approx(6 * grown(2000, 3))
    assert found["synthesize"] == pytest.approx(4 * grown(90, 2))
    assert found["train-world-model"] == pytest.approx(grown(1000, 100_000 / USUAL_STEPS))


def grown(seconds: float, times: float) -> float:
    """Of a job with so many times the work."""
    return STARTED + (seconds - STARTED) * times


def test_widths_of_several_models_count_by_their_mean(tmp_path: Path, measured: Path) -> None:
    wider = {
        "world_model": {"hidden": 2 * WorldModelSettings().hidden},
        "synthesis": {"shards": 2, "trajectories": 1000},
    }
    found = by_stage(config(tmp_path, generators={"dawm": wider}), measured)
    assert found["synthesize"] == pytest.approx(2 * grown(90, (2 ** GROWTH["hidden"] + 1) / 2))


def test_seeds_that_share_a_process_count_each(tmp_path: Path, measured: Path) -> None:
    found = plan(config(tmp_path, compute={"seeds_per_job": 2}), [measured], gpus=0, cores=1)
    (first, second) = [one for one in found.estimates if one.job.stage == "train-policy"]
    assert first.seconds == second.seconds == pytest.approx(grown(2000, 2))


def test_other_settings_are_marked_as_scaled(tmp_path: Path, measured: Path) -> None:
    found = plan(config(tmp_path, algorithms={"td3_bc": {"hidden": 512}}), [measured], gpus=0, cores=1)
    assert [one.exact for one in found.estimates if one.job.stage == "train-policy"] == 4 * [False]
    assert "scaled from other settings" in "\n".join(found.lines())


def test_more_machines_shorten_the_way_down_to_its_longest_chain(tmp_path: Path, measured: Path) -> None:
    path = config(tmp_path)
    chain = 100 + 1000 + 90 + 70 + 2000
    assert plan(path, [measured], gpus=0, cores=100).makespan == pytest.approx(chain)
    assert TOGETHER / 2 <= plan(path, [measured], gpus=0, cores=2).makespan < TOGETHER
    assert plan(path, [measured], gpus=100, cores=100).makespan == pytest.approx(chain + 5 * QUEUED)
    alone = plan(path, [measured], gpus=1, cores=100)
    assert alone.makespan >= 1000 + 400 + 2 * 90 + 4 * 2000
    assert "2:39:40 on GPUs and 4:10 on cores together" in "\n".join(alone.lines())


def test_bad_questions_get_one_sentence(
    tmp_path: Path, measured: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(config(tmp_path))
    for options, expected in (
        (["--cores", "0"], "expected --gpus from 0 and --cores from 1, found 0 and 0"),
        (
            ["--measured", str(tmp_path)],
            f"{tmp_path}: expected config.yaml and timings/timings.csv, found only one of them, or neither",
        ),
    ):
        assert main(["plan", path, *options]) == 2
        assert capsys.readouterr().err == f"dawm plan: {expected}\n"
    monkeypatch.chdir(tmp_path)
    assert main(["plan", path]) == 2
    assert "--measured: expected a folder" in capsys.readouterr().err
    (tmp_path / "results").mkdir()
    measured.rename(tmp_path / "results" / "tiny")
    assert main(["plan", path]) == 0
    assert capsys.readouterr().out.startswith("tiny: 18 jobs\n")


def test_an_unknown_size_is_no_size_of_nothing(tmp_path: Path, measured: Path) -> None:
    path = Layout(measured).timings / "timings.csv"
    whole = plan(config(tmp_path), [measured], gpus=0, cores=1)
    bare = Layout(tmp_path / "bare")
    bare.timings.mkdir(parents=True)
    bare.config.write_text(Layout(measured).config.read_text())
    lines = path.read_text().splitlines()
    (bare.timings / "timings.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")
    both = plan(config(tmp_path), [measured, bare.root], gpus=0, cores=1)
    assert [one.disk for one in both.estimates] == [one.disk for one in whole.estimates]
    assert "  –" in "\n".join(plan(config(tmp_path), [bare.root], gpus=0, cores=1).lines())


def test_where_cpu_time_was_not_sampled_wall_time_counts(tmp_path: Path, measured: Path) -> None:
    path = Layout(measured).timings / "timings.csv"
    path.write_text(path.read_text().replace(",2001,2000,", ",2001,,"))
    assert by_stage(config(tmp_path), measured)["train-policy"] == 4 * 2001


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("stage,job,", "name,job,", "stage"),
        ("stage,job,", "stage,name,", "job"),
        (",101,100,100,10", ",101,100,100,much", "much"),
        (",101,100,100,10", ",inf,100,100,10", "row 1 has a time or a size that is none"),
        (",101,100,100,10", ",,100,100,10", "row 1 has a time or a size that is none"),
    ],
)
def test_damaged_timings_are_refused_by_name_and_passed_over_where_nobody_named_them(
    tmp_path: Path,
    measured: Path,
    old: str,
    new: str,
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damaged = tmp_path / "results" / "damaged"
    shutil.copytree(measured, tmp_path / "results" / "whole")
    shutil.copytree(measured, damaged)
    path = Layout(damaged).timings / "timings.csv"
    path.write_text(path.read_text().replace(old, new))
    wanted = str(config(tmp_path))
    assert main(["plan", wanted, "--measured", str(damaged)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"dawm plan: {path}: expected a table of timings, found: ") and expected in said
    monkeypatch.chdir(tmp_path)
    assert main(["plan", wanted]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("tiny: 18 jobs\n") and shown.err.startswith("passed over results/damaged: ")


def test_plan_that_the_documents_print_is_the_one_that_their_command_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    command = next(line for line in text.splitlines() if line.startswith("    python -m dawm plan "))
    assert main(command.split()[3:]) == 0
    assert capsys.readouterr().out.strip() == text.split("```")[1].strip()
