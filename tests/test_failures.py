"""Every stage through what happens to programs: kill -9 at any moment, a full or read-only disk, no rights, no memory.

docs/reliability.md tells how often each was tried; DAWM_KILLS=20 kills every stage twenty times.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from folders import contents

KILLS = int(os.environ.get("DAWM_KILLS", "2"))
"""Of each stage, one after the other in one folder."""
ROOT = Path(__file__).resolve().parents[1]
TRAINING = {"hidden": 16, "batch_size": 32, "gradient_steps": 400, "checkpoint_every": 50}
LEARNER = TRAINING | {"gradient_steps": 1500, "evaluate_every": 500, "evaluation_episodes": 1}
STAGES = (
    *("export", "train-world-model", "train-inverse-dynamics", "train-forward-dynamics", "train-cloned-policy"),
    *("synthesize", "train-policy", "assess", "animate", "steer"),
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


@pytest.fixture(scope="session")
def inputs(dataset: Path, world_model: Path, inverse_dynamics: Path, synthetic: Path) -> dict[str, Path]:
    return {
        "dataset": dataset,
        "world-model": world_model,
        "inverse-dynamics": inverse_dynamics,
        "synthetic": synthetic,
    }


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, inputs: dict[str, Path]) -> Callable[[Path], list[str]]:
    """A stage's command line for a folder to write to."""
    name = request.param
    named: dict[str, Any] = {option: folder for option, folder in inputs.items() if option in TAKEN.get(name, ())}
    options = [text for option, folder in named.items() for text in (f"--{option}", str(folder))]
    options += ["--settings", json.dumps(SETTINGS.get(name, {}))]

    def command(output: Path) -> list[str]:
        if name == "train-policy":
            outputs = [str(output / f"seed-{seed}") for seed in (0, 1)]
            return [name, *options, "--algorithm", "iql", "--seed", "0", "1", "--output", *outputs]
        synthesis = ["--synthesis", json.dumps(SETTINGS["synthesize"])] if name == "steer" else []
        return [name, *options, *synthesis, "--output", str(output / "made")]

    return command


TRAININGS = ("train-world-model", "train-inverse-dynamics", "train-forward-dynamics", "train-cloned-policy")
TAKEN = {
    **dict.fromkeys(TRAININGS, ("dataset",)),
    "train-policy": ("dataset",),
    "synthesize": ("dataset", "world-model", "inverse-dynamics"),
    "steer": ("dataset", "world-model", "inverse-dynamics"),
    "assess": ("dataset", "synthetic", "inverse-dynamics"),
    "animate": ("dataset", "synthetic"),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "export": {"source": "local/hopper-medium-replay", "transitions": 3000, "rows_per_shard": 500},
    "train-world-model": TRAINING | {"window": 4, "blocks": 1},
    "train-inverse-dynamics": TRAINING,
    "train-forward-dynamics": TRAINING,
    "train-cloned-policy": TRAINING,
    "synthesize": {"trajectories": 2000, "shards": 4, "sampling_steps": 3},
    "train-policy": LEARNER,
    "assess": {"rows": 100, "best_action_rows": 20},
    "animate": {"starts": 1, "size": 64},
    "steer": {"requests": [1.0], "rows": 100, "episodes": 1},
}


def start(arguments: list[str], **options: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "dawm", *arguments]
    return subprocess.Popen(
        command, cwd="/", env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, **options
    )


def finished(arguments: list[str]) -> float:
    """Runs a stage to its good end; returns its seconds."""
    begun = time.monotonic()
    process = start(arguments)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    return time.monotonic() - begun


def refusal(arguments: list[str], **options: Any) -> str:
    """The one sentence with which a stage ends; before it there may be progress."""
    process = start(arguments, **options)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 2, said
    assert "Traceback" not in said
    return said.splitlines()[-1]


def test_stage_that_is_killed_at_any_moment_ends_with_the_same_bytes(
    stage: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    seconds = finished(stage(tmp_path / "undisturbed"))
    chance = random.Random(0)
    for _ in range(KILLS):
        process = start(stage(tmp_path / "killed"))
        with suppress(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.2, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finished(stage(tmp_path / "killed"))
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


@needs_root
def test_full_disk_is_one_sentence_and_the_stage_goes_on_when_there_is_room(
    stage: Callable[[Path], list[str]], disk: Path, tmp_path: Path
) -> None:
    command = stage(disk)
    if command[0] == "steer":  # whose table is small
        remount(disk, "size=4k")
    assert "No space left on device" in refusal(command)
    assert not list(disk.rglob("provenance.json"))
    remount(disk, "size=200m")
    finished(command)
    finished(stage(tmp_path / "undisturbed"))
    assert contents(disk) == contents(tmp_path / "undisturbed")
    assert not list(disk.rglob("*.part"))


@needs_root
def test_read_only_disk_is_one_sentence(stage: Callable[[Path], list[str]], disk: Path) -> None:
    remount(disk, "ro")
    assert "Read-only file system" in refusal(stage(disk))


@needs_root
def test_folder_of_somebody_else_is_one_sentence(tmp_path: Path) -> None:
    """Of a process that gives its rights away, since to root nothing is forbidden."""
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o755)
    for parent in list(folder.parents)[:-2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    program = (
        "import os, sys\nfrom dawm import cli\nimport dawm.config, dawm.data.export\n"
        "os.setuid(65534)\nsys.exit(cli.main(sys.argv[1:]))\n"
    )
    arguments = ["export", "--settings", json.dumps(SETTINGS["export"]), "--output", str(folder / "x")]
    command = [sys.executable, "-c", program, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (2, f"dawm export: {folder / 'x'}: Permission denied\n")
    assert not list(folder.iterdir())


def test_too_little_memory_is_one_sentence(dataset: Path, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))

    settings = json.dumps({**LEARNER, "hidden": 16_000})  # gigabytes of weights
    arguments = ["train-policy", "--algorithm", "bc", "--dataset", str(dataset), "--settings", settings]
    said = refusal([*arguments, "--output", str(tmp_path / "policy")], preexec_fn=limit)
    assert said.startswith("dawm train-policy: not enough memory (")
    assert not list(tmp_path.rglob("provenance.json"))


MEMORY = Path("/sys/fs/cgroup/memory")  # version 1; of version 2 the controllers are at the top
if not MEMORY.is_dir():
    MEMORY = MEMORY.parent


@pytest.fixture
def cage() -> Iterator[Path]:
    """A control group of 600 MiB: the kernel kills a process in it that wants more."""
    folder = MEMORY / f"dawm-{os.getpid()}"
    try:
        folder.mkdir()
        limit = folder / ("memory.max" if MEMORY.name == "cgroup" else "memory.limit_in_bytes")
        limit.write_text(str(600 * 2**20))
    except OSError:
        pytest.skip("no control group of memory can be made here")
    yield folder
    folder.rmdir()


def test_stage_that_the_kernel_kills_for_memory_goes_on_when_there_is_more(
    cage: Path, dataset: Path, tmp_path: Path
) -> None:
    wide = json.dumps({"hidden": 3000, "batch_size": 16, "gradient_steps": 4, "evaluation_episodes": 1})

    def command(folder: Path) -> list[str]:
        inputs = ["--dataset", str(dataset), "--settings", wide]
        return ["train-policy", "--algorithm", "td3_bc", *inputs, "--output", str(folder)]

    program = (
        "import os, pathlib, sys\n"
        "pathlib.Path(os.environ['CAGE'], 'cgroup.procs').write_text(str(os.getpid()))\n"
        "from dawm.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, *command(tmp_path / "killed")],
        env=os.environ | {"CAGE": str(cage), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=300,
    )
    assert process.returncode == -signal.SIGKILL
    events = (cage / ("memory.events" if MEMORY.name == "cgroup" else "memory.oom_control")).read_text()
    assert "oom_kill 1" in events
    assert not contents(tmp_path / "killed").keys() & {"provenance.json", "policy.safetensors"}
    finished(command(tmp_path / "killed"))
    finished(command(tmp_path / "undisturbed"))
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")
