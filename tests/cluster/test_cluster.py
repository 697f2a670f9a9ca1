"""The workflow on a real SLURM cluster: every job by sbatch, and every event of a cluster's life, without loss.

Each event is asserted by what SLURM and the jobs themselves say of it. `make test-cluster` runs it.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from cluster import Cluster, cluster, wait_for
from workflow_clone import clone, command, files, snakemake

from dawm.verification import verify

PROFILE = ("--workflow-profile", "slurm")
TARGET = "results/tiny/policies/hopper/td3_bc/real/seed-0"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone that has run on this machine alone."""
    folder = clone(tmp_path_factory.mktemp("local"))
    run = snakemake(folder)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture(scope="module")
def remote(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone that has run on the cluster, the learners' jobs as arrays."""
    folder = clone(tmp_path_factory.mktemp("remote"))
    run = on_cluster(slurm, folder, "--slurm-array-jobs", "train_policy")
    out, _ = run.communicate(timeout=600)
    assert run.returncode == 0, out
    return folder


def on_cluster(slurm: Cluster, folder: Path, *options: str, config: str = "tiny.yaml") -> subprocess.Popen[str]:
    """Snakemake at work through the profile, what it says in one stream."""
    return subprocess.Popen(
        command(*PROFILE, *options, config=config),
        cwd=folder,
        env=slurm.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def of_folder(slurm: Cluster, folder: Path) -> list[dict[str, str]]:
    """SLURM's records of the jobs that were sent from a folder."""
    return [job for job in slurm.jobs() if job["WorkDir"] == str(folder)]


def rule_of(job: dict[str, str]) -> str:
    """As the submission names it."""
    found = re.match(r"(?:rule|group)_(.+?)(?:_wildcards_.*)?$", job["Comment"].strip())
    assert found, job["Comment"]
    return found[1]


def test_every_rule_goes_through_sbatch_to_its_partition(slurm: Cluster, remote: Path) -> None:
    jobs = of_folder(slurm, remote)
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    sent = Counter((rule_of(job), job["Partition"], job.get("TresPerJob", "").strip()) for job in jobs)
    on_gpu = {"train_world_model": 1, "train_inverse_dynamics": 1, "train_policy": 8, "shards_synthesize": 1}
    once = ("export", "seal_synthetic", "assess", "animate", "tables", "compare", "figures", "timings", "report")
    on_cpu = {rule: 1 for rule in once} | {"film": 2}
    expected = Counter({(rule, "gpu", "gres:gpu:1"): count for rule, count in on_gpu.items()})
    assert sent == expected + Counter({(rule, "cpu", ""): count for rule, count in on_cpu.items()})


def test_policies_go_as_arrays(slurm: Cluster, remote: Path) -> None:
    arrays = Counter(job.get("ArrayJobId") for job in of_folder(slurm, remote) if rule_of(job) == "train_policy")
    assert set(arrays.values()) == {4}, "one array for each arm that became ready"


def test_results_are_those_of_a_local_run(local: Path, remote: Path) -> None:
    assert files(remote) == files(local)
    assert not verify(remote / "results").damage


# --- events -----------------------------------------------------------------------------------------------------

STEPS = 60_000
"""Of a training that lasts long enough for an event, some 30 seconds."""


@pytest.fixture
def prepared(local: Path, tmp_path: Path) -> Path:
    """A clone with the data set, in which one long training is to be done."""
    folder = clone(tmp_path)
    shutil.copytree(local / "results" / "tiny" / "datasets", folder / "results" / "tiny" / "datasets")
    lengthen(folder, STEPS)
    return folder


def lengthen(folder: Path, steps: int) -> None:
    config = yaml.safe_load((folder / "tiny.yaml").read_text())
    config["algorithms"]["td3_bc"] |= {"gradient_steps": steps, "evaluate_every": steps, "checkpoint_every": steps}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))


def train(slurm: Cluster, folder: Path, *options: str) -> subprocess.Popen[str]:
    """Sends the long training; returns Snakemake once it is at work."""
    run = on_cluster(slurm, folder, *options, "--", f"{TARGET}/provenance.json")
    wait_for(lambda: steps_told(folder) != [], 90)
    return run


def log(folder: Path) -> str:
    path = folder / "results" / "tiny" / "logs" / "train-policy" / "hopper" / "td3_bc" / "real" / "seed-0.log"
    return path.read_text() if path.is_file() else ""


def steps_told(folder: Path) -> list[int]:
    return [int(step) for step in re.findall(r"policy seed 0: (\d+)/\d+ ", log(folder))]


def finish(run: subprocess.Popen[str], folder: Path) -> str:
    """What Snakemake said until its good end; the policy is whole, and no step was left out or made twice."""
    said, _ = run.communicate(timeout=400)
    assert run.returncode == 0, said
    rows = pd.read_csv(folder / TARGET / "metrics.csv")
    assert rows["step"].is_monotonic_increasing and rows["step"].is_unique
    assert not verify(folder / "results").damage
    return said


def stopped_at(text: str) -> int:
    (step,) = re.findall(r"told to stop; the same command goes on from step (\d+) of", text)
    return int(step)


def test_job_that_is_cancelled_from_outside_is_noticed_and_sent_again(slurm: Cluster, prepared: Path) -> None:
    run = train(slurm, prepared)
    (job,) = of_folder(slurm, prepared)
    slurm.tell("scancel", job["JobId"])
    wait_for(lambda: "told to stop" in log(prepared), 30)
    step = stopped_at(log(prepared))
    said = finish(run, prepared)
    first, second = of_folder(slurm, prepared)
    assert (first["JobState"], second["JobState"]) == ("CANCELLED", "COMPLETED")
    assert f"SLURM-job '{first['JobId']}' failed" in said
    assert steps_told(prepared)[0] > step > 0


def test_job_that_takes_too_long_gets_more_time_and_goes_on(slurm: Cluster, prepared: Path) -> None:
    lengthen(prepared, 4 * STEPS)  # more than a minute
    run = train(slurm, prepared, "--set-resources", "train_policy:runtime=attempt")
    said = finish(run, prepared)
    first, second = of_folder(slurm, prepared)
    assert (first["JobState"], first["TimeLimit"]) == ("TIMEOUT", "00:01:00")
    assert (second["JobState"], second["TimeLimit"]) == ("COMPLETED", "00:02:00")
    assert f"SLURM-job '{first['JobId']}' failed" in said
    assert steps_told(prepared)[0] > STEPS / 10, "it began anew"


def test_job_of_a_node_that_dies_is_run_on_another(slurm: Cluster, prepared: Path) -> None:
    """The node is drained at first: its job goes on, and new ones go elsewhere. Then it loses power."""
    run = train(slurm, prepared, "--set-resources", "train_policy:slurm_partition=cpu")
    (job,) = of_folder(slurm, prepared)
    node = job["NodeList"]
    slurm.tell("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    told = steps_told(prepared)[-1]
    wait_for(lambda: steps_told(prepared)[-1] > told, 30)
    slurm.kill_node(node)
    try:
        requeued(slurm, job["JobId"])
        finish(run, prepared)
        (again,) = of_folder(slurm, prepared)
        assert (again["JobId"], again["JobState"], again["Restarts"]) == (job["JobId"], "COMPLETED", "1")
        assert again["NodeList"] != node
    finally:
        slurm.start_node(node)
        wait_for(lambda: slurm.tell("scontrol", "update", f"NodeName={node}", "State=RESUME") == "", 30)
        wait_for(slurm.idle, 60)


def requeued(slurm: Cluster, number: str) -> None:
    """Waits until a job is in the queue again, and spares it the two minutes that SLURM would let it wait there."""

    def pending() -> bool:
        return any(job["JobId"] == number and job["JobState"] == "PENDING" for job in slurm.jobs())

    wait_for(pending, 90)
    slurm.tell("scontrol", "update", f"JobId={number}", "StartTime=now")


def test_pre_empted_job_checkpoints_in_time_and_goes_on(slurm: Cluster, prepared: Path) -> None:
    run = train(slurm, prepared)
    (job,) = of_folder(slurm, prepared)
    assert job["Partition"] == "gpu"
    slurm.tell("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap", "sleep 2")
    wait_for(lambda: "told to stop" in log(prepared), 30)
    step = stopped_at(log(prepared))
    requeued(slurm, job["JobId"])
    finish(run, prepared)
    (again,) = of_folder(slurm, prepared)
    assert (again["JobState"], again["Restarts"]) == ("COMPLETED", "1")
    assert steps_told(prepared)[0] > step > 0


def test_killed_scheduler_is_started_again_and_nothing_finished_is_redone(slurm: Cluster, prepared: Path) -> None:
    """Its job lives on: the next one waits for it, and takes up what it has finished."""
    run = train(slurm, prepared)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert snakemake(prepared, "--unlock").returncode == 0
    data = {path: path.stat().st_mtime_ns for path in (prepared / "results/tiny/datasets/hopper").iterdir()}
    again = on_cluster(slurm, prepared, "--", f"{TARGET}/provenance.json")
    finish(again, prepared)
    first, second = of_folder(slurm, prepared)
    assert (first["JobState"], second["JobState"]) == ("COMPLETED", "COMPLETED")
    assert rule_of(second) == "train_policy"
    assert "another process writes here; waiting for it to end" in log(prepared)
    assert steps_told(prepared) == [], "the finished training was made again"
    assert data == {path: path.stat().st_mtime_ns for path in data}
