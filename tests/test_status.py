"""`dawm status`: what of an experiment is complete, running, stopped and waiting, with or without Snakemake."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dawm.cli import main
from dawm.config import Experiment, as_yaml, load_experiment, read
from dawm.data.files import is_locked, only_writer
from dawm.data.sealed import PROVENANCE
from dawm.errors import InputError
from dawm.jobs import jobs
from dawm.layout import Layout, Run
from dawm.spent import benchmark
from dawm.status import status

VALUES = {
    "experiment": "tiny",
    "seeds": [0, 1, 2],
    "datasets": {"hopper": {"source": "local/hopper-medium-replay"}},
    "generators": {"dawm": {"synthesis": {"shards": 2}}},
    "augmentations": {"real": {"real_fraction": 1.0}, "dawm": {"real_fraction": 0.5}},
    "algorithms": {"bc": {}},
}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Of an experiment that has just begun."""
    layout = Layout(tmp_path / "tiny")
    layout.root.mkdir()
    layout.config.write_text(as_yaml(read(Experiment, VALUES, "here")))
    return layout


def finish(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROVENANCE).write_text("{}\n")


def write_log(layout: Layout, slug: str, text: str) -> Path:
    path = layout.root / "logs" / f"{slug}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def states(layout: Layout) -> dict[str, str]:
    return {one.job.slug: one.state for one in status(layout.root).jobs}


def test_jobs_come_in_the_order_of_need_and_once_each(layout: Layout) -> None:
    slugs = [job.slug for job in jobs(layout, read(Experiment, VALUES, "here"))]
    assert slugs == [
        "export/hopper",
        "train-world-model/hopper/dawm/seed-0",
        "train-inverse-dynamics/hopper/dawm/seed-0",
        "synthesize/hopper/dawm/seed-0/00000-of-00002",
        "synthesize/hopper/dawm/seed-0/00001-of-00002",
        "seal-synthetic/hopper/dawm/seed-0",
        "assess/hopper/dawm/seed-0",
        *(f"train-policy/hopper/bc/{arm}/seed-{seed}" for arm in ("real", "dawm") for seed in (0, 1, 2)),
        "tables",
        "compare",
        "figures",
        "film/hopper/bc/dawm/seed-0",
        "animate/hopper/dawm/seed-0",
        "timings",
        "report",
    ]


def test_targets_have_the_jobs_that_the_workflow_makes_for_them(layout: Layout) -> None:
    """Also of recipes that no arm needs."""
    unused = {"generators": {"dawm": {}, "plain": {"world_model": {"window": 4}}}}
    experiment = read(Experiment, VALUES | unused, "here")

    def stages(*targets: str) -> Counter[str]:
        return Counter(job.stage for job in jobs(layout, experiment, targets))

    assert stages("datasets") == {"export": 1, "inspect": 1, "datasets": 1}
    models = {"export": 1, "train-world-model": 2, "train-inverse-dynamics": 1}
    imagined = {"synthesize": 8, "seal-synthetic": 2}
    assert stages("fidelity") == {**models, **imagined, "assess": 2, "fidelity": 1}
    assert stages("animations") == {**models, **imagined, "animate": 2}
    assert stages("steering") == {**models, "steer": 2, "steering": 1}
    assert stages("steering", "animations") == stages("steering") | stages("animations")
    assert stages("report")["train-world-model"] == 1
    with pytest.raises(InputError, match=r"--target: expected some of report, .*, found everything"):
        jobs(layout, experiment, ["everything"])


@pytest.mark.parametrize("config", sorted(Path(__file__).parents[1].glob("config/*.yaml")), ids=lambda path: path.stem)
def test_jobs_of_shipped_configs_come_after_what_they_need(config: Path) -> None:
    experiment = load_experiment(config)
    before: set[str] = set()
    for job in jobs(Layout.of(experiment.experiment), experiment):
        assert set(job.needs) <= before and job.slug not in before
        before.add(job.slug)


def test_seeds_that_share_a_process_are_one_job(layout: Layout) -> None:
    experiment = read(Experiment, VALUES | {"compute": {"seeds_per_job": 2}}, "here")
    (pair,) = [job for job in jobs(layout, experiment) if job.slug == "train-policy/hopper/bc/real/seeds-0-to-1"]
    for seed in (0, 1):
        assert not pair.done
        finish(layout.policy(Run("hopper", "bc", "real", seed)))
    assert pair.done


def test_at_the_start_everything_waits(layout: Layout) -> None:
    assert set(states(layout).values()) == {"waiting"}
    assert "20 jobs to do are all of stages that none has finished of" in "\n".join(status(layout.root).lines())
    assert [one.job.stage for one in status(layout.root, ["datasets"]).jobs] == ["export", "inspect", "datasets"]


def test_complete_running_and_stopped_jobs_are_told_apart(layout: Layout) -> None:
    finish(layout.dataset("hopper"))
    write_log(layout, "train-world-model/hopper/dawm/seed-0", "step 1\n")
    write_log(layout, "train-policy/hopper/bc/real/seed-0", "a\nb\n\ndawm train-policy: no such thing\n")
    with writing(layout.world_model("hopper", "dawm", 0)):
        found = states(layout)
    assert found["export/hopper"] == "complete"
    assert found["train-world-model/hopper/dawm/seed-0"] == "running"
    assert found["train-policy/hopper/bc/real/seed-1"] == "waiting"
    with only_writer(layout.policy(Run("hopper", "bc", "real", 0))):
        pass  # it was there, and has gone
    found = states(layout)
    assert found["train-world-model/hopper/dawm/seed-0"] == "stopped"
    assert found["train-policy/hopper/bc/real/seed-0"] == "stopped"
    text = "\n".join(status(layout.root).lines())
    assert "train-policy/hopper/bc/real/seed-0\n    a\n    b\n    dawm train-policy: no such thing\n" in text


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """While another process writes into a folder."""
    program = (
        "import sys, pathlib\nfrom dawm.data.files import only_writer\n"
        "with only_writer(pathlib.Path(sys.argv[1])):\n    print(flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


def test_a_folder_is_locked_only_while_its_writer_lives(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert is_locked(folder) is None
    with writing(folder):
        assert is_locked(folder) is True
    assert is_locked(folder) is False


def test_a_shard_runs_while_its_log_is_fresh(layout: Layout) -> None:
    slug = "synthesize/hopper/dawm/seed-0/00001-of-00002"
    path = write_log(layout, slug, "synthesize: 256/700\n")
    assert states(layout)[slug] == "running"
    old = time.time() - 3600
    os.utime(path, (old, old))
    assert states(layout)[slug] == "stopped"


def test_time_left_follows_the_jobs_that_are_done(layout: Layout) -> None:
    for seed, seconds in ((0, 100), (1, 300)):
        finish(layout.policy(Run("hopper", "bc", "real", seed)))
        path = layout.root / "benchmarks" / f"train-policy/hopper/bc/real/seed-{seed}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\n{seconds}\t-\n")
    found = status(layout.root)
    assert found.left == 4 * 200.0
    assert found.untimed == len(found.jobs) - 6
    assert "about 13:20 of one core's time left; 14 more jobs are of stages" in "\n".join(found.lines())


@pytest.mark.parametrize("text", ["", "s\n", "h:m:s\n1\n", "s\tcpu_time\nNA\t1\n", "s\n-\n", "s\nlong\n", "\0\x80\n"])
def test_a_damaged_time_is_none(layout: Layout, text: str) -> None:
    finish(layout.policy(Run("hopper", "bc", "real", 0)))
    path = layout.root / "benchmarks" / "train-policy/hopper/bc/real/seed-0.tsv"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("latin-1"))
    assert status(layout.root).left == 0
    assert benchmark(path) is None


def test_status_needs_the_config_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    expected = f"dawm status: {tmp_path}: expected the config.yaml that a run writes at its start, found none\n"
    assert capsys.readouterr().err == expected


def test_watching_ends_when_all_is_complete(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    for job in jobs(layout, read(Experiment, VALUES, "here")):
        for path in job.outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}\n")
    assert main(["status", str(layout.root), "--watch", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{layout.root}: 20 complete"
    shutil.rmtree(layout.tables)
    assert not status(layout.root).complete


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e300"])
def test_watching_at_no_time_is_refused(seconds: str, layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(layout.root), f"--watch={seconds}"]) == 2
    expected = f"dawm status: --watch: expected a number of seconds above 0, 86,400 at most, found {float(seconds):g}\n"
    assert capsys.readouterr().err == expected


def test_watching_ends_in_silence_when_it_is_interrupted(layout: Layout) -> None:
    command = [sys.executable, "-m", "dawm", "status", str(layout.root), "--watch", "60"]

    def heed_interrupts() -> None:  # which a shell's background jobs ignore
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    watching = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    )
    assert watching.stdout is not None and watching.stdout.readline().startswith(str(layout.root))
    watching.send_signal(signal.SIGINT)
    assert watching.communicate(timeout=60)[1] == "" and watching.returncode == 130
