"""The set-up: one set of pins everywhere, hashes for all, and `make run` that fails with one sentence."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SETUP_FILES = ("Makefile", "setup.sh", "run.sh", "pyproject.toml", "requirements.lock", "requirements-torch.txt")
# What a machine without Python has.
COMMANDS = ["make", "sh", "cat", "dirname", "env", "flock", "grep", "ls", "mkdir", "nproc", "rm", "sed", "sha256sum"]
NO_PYTHON = "Python 3.11 with its venv module is needed; on Debian: apt-get install python3.11-venv"


def pins(lines: list[str]) -> dict[str, str]:
    """Exact pins as {normalized name: version}; any other requirement is an error."""
    found = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s;*]+)", line.strip())
        assert match, f"not an exact pin: {line!r}"
        found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return found


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def lock() -> dict[str, list[str]]:
    """The lock's entries: {"name==version": hashes}."""
    text = re.sub(r"^#.*\n", "", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    entries = (entry.replace("\\\n", " ").split() for entry in re.split(r"\n(?=\S)", text.strip()))
    return {name: options for name, *options in entries}


def test_conda_environment_has_the_pins_of_pyproject(project):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, by_pip = environment["dependencies"]
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    assert f"python={project['project']['requires-python'].removeprefix('==').removesuffix('.*')}" in conda
    assert pins(by_pip["pip"]) == pins(project["project"]["dependencies"])


def test_d4rl_is_installed_without_its_dependencies_everywhere(project, lock):
    assert "d4rl" not in pins(project["project"]["dependencies"])
    pinned = re.search(r"pip install --no-deps (d4rl==\S+)", (ROOT / "environment.post-deploy.sh").read_text())
    assert pinned and pinned[1] in lock
    assert not {"mujoco-py", "pybullet", "dm-control"} & pins(list(lock)).keys()


def test_torch_is_pinned_once_and_not_in_the_lock(project, lock):
    lines = (ROOT / "requirements-torch.txt").read_text().splitlines()
    torch = pins([line for line in lines if not line.startswith("#")])
    assert torch == {"torch": pins(project["project"]["dependencies"])["torch"]}
    assert not [name for name in pins(list(lock)) if re.match(r"torch$|triton|nvidia-|cuda-", name)]


def test_every_direct_dependency_is_in_the_lock(project, lock):
    direct = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["test"]
    wanted = pins(direct + project["build-system"]["requires"])
    del wanted["torch"]
    locked = pins(list(lock))
    assert {name: locked.get(name) for name in wanted} == wanted


def test_every_lock_entry_has_hashes_and_nothing_else(lock):
    assert len(lock) > 50
    for name, options in lock.items():
        assert options, f"{name} has no hash"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option) for option in options), name


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the set-up's files in a path with a space."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in SETUP_FILES:
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def without_python(tmp_path: Path) -> dict[str, str]:
    """A PATH with the usual commands and no Python."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for command in COMMANDS:
        (tools / command).symlink_to(str(shutil.which(command)))
    return {"PATH": str(tools)}


def environment(**changes: str) -> dict[str, str]:
    """The environment without what an outer make, pip or Python says in it; no pip reaches an index."""
    kept = {k: v for k, v in os.environ.items() if not re.match(r"MAKE|MFLAGS|PIP_|PYTHON|VIRTUAL_ENV|TORCH_INDEX", k)}
    return kept | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull} | changes


def make(folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment(**changes), capture_output=True, text=True, timeout=120
    )


def sentences(result: subprocess.CompletedProcess[str]) -> list[str]:
    """What the user reads as an error, without make's own last line."""
    return [line for line in result.stderr.splitlines() if not line.startswith("make: ***")]


def standing_environment(folder: Path, python: str) -> None:
    """A whole .venv whose Python is the given shell script; the stamp is made by the set-up's own rule."""
    rule = (folder / "setup.sh").read_text()
    rule = rule[rule.index("wanted=") : rule.index("\nif [ -x .venv/bin/python ]")]
    stamp = subprocess.run(["sh", "-c", f'{rule}\necho "$wanted"'], cwd=folder, capture_output=True, text=True)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/install.log").touch()
    (folder / ".venv/bin/python").write_text(f"#!/bin/sh\n{python}\n")
    (folder / ".venv/bin/python").chmod(0o755)
    (folder / ".venv/complete").write_text(stamp.stdout)


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs in the folder while the block does, its children included."""
    process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_missing_python_is_one_sentence(checkout, without_python):
    result = make(checkout, "run", **without_python)
    assert result.returncode == 2
    assert sentences(result) == [NO_PYTHON]
    assert not (checkout / ".venv").exists()


def test_failed_install_is_one_sentence_and_is_not_taken_for_whole(checkout, without_python):
    result = make(checkout, "run")
    assert result.returncode == 2
    assert sentences(result) == [
        "pip could not install the locked packages; is there a network? The log is .venv/install.log"
    ]
    assert "No matching distribution found" in (checkout / ".venv/install.log").read_text()
    assert not (checkout / ".venv/complete").exists()
    assert sentences(make(checkout, "run", **without_python)) == [NO_PYTHON]  # it wants to start anew


def test_foreign_environment_is_not_removed(checkout):
    (checkout / ".venv").mkdir()
    (checkout / ".venv/mine").touch()
    result = make(checkout, "run")
    assert result.returncode == 2
    assert sentences(result) == [".venv is not of this Makefile's making; move it away, then try again"]
    assert (checkout / ".venv/mine").exists()


def test_second_run_installs_nothing(checkout):
    standing_environment(checkout, 'echo "called with: $*"')
    (checkout / "config").mkdir()
    (checkout / "config/other one.yaml").touch()
    result = make(checkout, "run", "CORES=3", "CONFIG=config/other one.yaml")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "called with: -m snakemake --cores 3 --configfile config/other one.yaml",
        "called with: -m dawm report-path config/other one.yaml",
    ]


def test_config_that_is_not_there_is_one_sentence(checkout):
    standing_environment(checkout, 'echo "called with: $*"')
    result = make(checkout, "run", "CONFIG=config/no such.yaml")
    assert result.returncode == 2 and result.stdout == ""
    assert sentences(result) == ["config/no such.yaml: expected a config's YAML file, found no such file"]


@pytest.mark.parametrize("changed", ["setup.sh", "pyproject.toml", "requirements.lock", "requirements-torch.txt"])
def test_changed_input_asks_for_a_new_environment(checkout, without_python, changed):
    standing_environment(checkout, "true")
    assert make(checkout, "setup", **without_python).returncode == 0
    (checkout / changed).write_text("# changed\n" + (checkout / changed).read_text())
    assert sentences(make(checkout, "setup", **without_python)) == [NO_PYTHON]


def test_moved_checkout_asks_for_a_new_environment(checkout, without_python):
    standing_environment(checkout, "true")
    moved = checkout.rename(checkout.with_name("moved"))
    assert sentences(make(moved, "setup", **without_python)) == [NO_PYTHON]


def test_tool_settings_do_not_ask_for_a_new_environment(checkout, without_python):
    standing_environment(checkout, "true")
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert make(checkout, "setup", **without_python).returncode == 0


def test_second_run_at_once_waits_for_the_first(checkout):
    wait = "echo start >>calls; while [ ! -e go ]; do sleep 0.05; done; echo end >>calls"
    standing_environment(checkout, f'if [ "$2" = snakemake ]; then {wait}; fi')
    with running(["make", "run"], checkout):
        deadline = time.monotonic() + 30
        while not (checkout / "calls").exists():
            assert time.monotonic() < deadline, "the first run did not start"
            time.sleep(0.05)
        with running(["make", "run"], checkout) as second:
            assert second.stdout.readline() == b"Another run is at work in this folder; waiting for it to end.\n"
            cleaned = make(checkout, "clean")
            assert cleaned.returncode == 2
            assert sentences(cleaned) == ["another make is at work in this folder; wait until it has ended"]
            assert (checkout / "calls").read_text().split() == ["start"]
            (checkout / "go").touch()
            assert second.wait(timeout=30) == 0
    assert (checkout / "calls").read_text().split() == ["start", "end", "start", "end"]


def test_killed_run_leaves_no_lock_behind(checkout):
    standing_environment(checkout, 'echo "$*" >>calls')
    (checkout / ".snakemake/locks").mkdir(parents=True)
    (checkout / ".snakemake/locks/0.input.lock").touch()
    result = make(checkout, "run", "CORES=1")
    assert result.returncode == 0, result.stderr
    assert (checkout / "calls").read_text().splitlines() == [
        "-m snakemake --unlock --cores 1",
        "-m snakemake --cores 1",
        "-m dawm report-path config/quickstart.yaml",
    ]


def test_lock_of_a_snakemake_started_by_hand_stays(checkout):
    standing_environment(checkout, 'echo "$*" >>calls')
    (checkout / ".snakemake/locks").mkdir(parents=True)
    (checkout / ".snakemake/locks/0.input.lock").touch()
    with running(["sh", "-c", "sleep 60; true", "-m", "snakemake", "--cores", "1"], checkout) as other:
        result = make(checkout, "run", "CORES=1")
    assert result.returncode == 2
    assert sentences(result) == [
        f"a Snakemake started by hand (process {other.pid}) is at work in this folder; wait until it has ended"
    ]
    assert not (checkout / "calls").exists()
