"""Animations of imagined rollouts beside the simulator's."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dawm.analysis import animation
from dawm.analysis.animation import PAUSE, animate, composed, replayed, travelled
from dawm.analysis.replaying import one_step_change
from dawm.config import AnimationSettings, EnvironmentSettings
from dawm.data.sealed import open_sealed, seal
from dawm.data.transitions import Transitions, write_shard
from dawm.environments.oracle import Oracle
from dawm.environments.tasks import TASKS, task_of
from dawm.errors import InputError
from dawm.layout import shard_name
from dawm.rendering import choose_renderer

SMALL = AnimationSettings(starts=2, size=64)


@pytest.fixture
def renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    if reason := choose_renderer():
        pytest.skip(reason)


def command(dataset: Path, synthetic: Path, output: Path, name: str, **variables: str) -> str:
    """Runs the stage in a process of its own, since MuJoCo chooses how to draw when it is imported; what it said."""
    settings = json.dumps(dataclasses.asdict(SMALL))
    options = {"dataset": dataset, "synthetic": synthetic, "settings": settings, "output": output, "name": name}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    run = subprocess.run(
        [sys.executable, "-m", "dawm", "animate", *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stderr


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(TASKS["hopper"])


@pytest.fixture
def as_synthetic(dataset: Path, tmp_path: Path) -> Callable[..., Path]:
    """Seals rows as synthetic transitions of `dataset`."""

    def write(rows: Transitions, **metadata: object) -> Path:
        folder = tmp_path / "synthetic"
        name = shard_name(0, 1)
        write_shard(folder / name, dataclasses.replace(rows, qpos=None, qvel=None))
        inputs = {"dataset": open_sealed(dataset, "dataset")}
        facts = {"observation_dim": 11, "action_dim": 3, "conditional": True, **metadata}
        seal(folder, "synthetic", files=[name], settings={}, inputs=inputs, metadata=facts)
        return folder

    return write


def real_trajectories(transitions: Transitions, held_out: np.ndarray, length: int) -> Transitions:
    """Every stretch of `length` held-out rows inside an episode, as if it had been imagined."""
    inside = held_out & (transitions.step % length == 0)
    firsts = [
        first
        for first in np.flatnonzero(inside)
        if first + length <= len(transitions)
        and not (transitions.terminal | transitions.timeout)[first : first + length].any()
    ]
    rows = np.concatenate([np.arange(first, first + length) for first in firsts])
    steps = np.tile(np.arange(1, length + 1, dtype=np.int16), len(firsts))
    return dataclasses.replace(transitions.take(rows), source_row=np.repeat(firsts, length), horizon_step=steps)


def gif_frames(folder: Path) -> list[np.ndarray]:
    image = Image.open(folder / "rollouts.gif")
    found = []
    for number in range(image.n_frames):
        image.seek(number)
        found += [np.asarray(image.convert("RGB"))] * max(1, round(image.info["duration"] / 200))
    return found


def difference(frame: np.ndarray) -> float:
    """Mean absolute difference of the halves, below their labels and beside the line between them."""
    return float(np.abs(frame[20:64, 2:62].astype(float) - frame[20:64, 66:126]).mean())


@pytest.mark.usefixtures("renderer")
def test_true_rows_make_equal_halves_and_a_wrong_one_shows(
    dataset: Path, transitions: Transitions, held_out: np.ndarray, as_synthetic: Callable[..., Path], tmp_path: Path
) -> None:
    rows = real_trajectories(transitions, held_out, 3)
    command(dataset, as_synthetic(rows), tmp_path / "one", "real")
    frames = gif_frames(tmp_path / "one")
    assert len(frames) == 2 * (3 + PAUSE)
    for frame in frames:
        assert frame[20:64, 2:62].std() > 5  # something is drawn
        assert difference(frame) < 3
    command(dataset, tmp_path / "synthetic", tmp_path / "two", "real")
    assert (tmp_path / "two" / "rollouts.gif").read_bytes() == (tmp_path / "one" / "rollouts.gif").read_bytes()

    bent = rows.next_observation.copy()
    bent[rows.horizon_step == 3, 2] += 1.0  # the thigh's angle in the last frame
    command(dataset, as_synthetic(dataclasses.replace(rows, next_observation=bent)), tmp_path / "three", "bent")
    last = gif_frames(tmp_path / "three")[3]
    assert difference(last) > 6
    metadata = open_sealed(tmp_path / "three", "animation").metadata
    assert metadata == {"kind": "animation", "recipe": "bent", "starts": 2, "skipped": None}


def test_rollout_is_the_simulators_with_the_trajectorys_actions(
    oracle: Oracle, transitions: Transitions, held_out: np.ndarray
) -> None:
    rows = real_trajectories(transitions, held_out, 4).take(slice(0, 4))
    found = replayed(oracle, rows, one_step_change(transitions))
    assert found is not None
    np.testing.assert_allclose(found.true[1:], rows.next_observation, atol=1e-3)
    assert found.error.shape == (5,) and found.error[0] == 0 and found.error.max() < 1e-3
    clipped = rows.observation.copy()
    clipped[2, 7] = 10.0
    lost = dataclasses.replace(rows, next_observation=np.concatenate([clipped[1:], clipped[:1]]))
    assert replayed(oracle, lost, one_step_change(transitions)) is None


def test_body_travels_by_its_velocity(oracle: Oracle) -> None:
    states = np.zeros((4, 11))
    states[:, 0], states[:, 5] = 1.25, 2.0  # height, forward velocity
    np.testing.assert_allclose(travelled(oracle, states)[:, 0], 2.0 * 0.008 * np.arange(4))
    np.testing.assert_array_equal(travelled(oracle, states)[:, 1], 1.25)


def test_body_whose_place_is_not_observed_is_refused() -> None:
    unknown = Oracle(task_of(EnvironmentSettings(id="InvertedDoublePendulum-v5")))
    with pytest.raises(InputError, match="the simulator's state does not follow from its observations"):
        travelled(unknown, np.zeros((4, 9)))


def test_caption_is_drawn_below_the_pictures() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    frame = np.asarray(composed([black, black], "Hopper", "distance: 0.1"))
    assert frame.shape == (64 + animation.CAPTION, 128, 3)
    assert (frame[64:] < 128).any() and not np.array_equal(
        frame[64:], np.asarray(composed([black, black], "Hopper", "distance: 0.2"))[64:]
    )


def test_where_nothing_can_be_drawn_the_stage_says_so_and_goes_on(
    dataset: Path, transitions: Transitions, held_out: np.ndarray, as_synthetic: Callable[..., Path], tmp_path: Path
) -> None:
    folder = as_synthetic(real_trajectories(transitions, held_out, 3))
    said = command(dataset, folder, tmp_path / "out", "dawm", MUJOCO_GL="osmesa", PYOPENGL_PLATFORM="none-such")
    (line,) = [line for line in said.splitlines() if line.startswith("animate:")]
    assert line.startswith("animate: no animation: MuJoCo cannot draw here (MUJOCO_GL=osmesa): ")
    sealed = open_sealed(tmp_path / "out", "animation")
    assert sealed.metadata["skipped"] in line and not sealed.files
    assert not (tmp_path / "out" / "rollouts.gif").exists()


def test_single_transitions_make_no_rollout(
    dataset: Path, transitions: Transitions, held_out: np.ndarray, as_synthetic: Callable[..., Path], tmp_path: Path
) -> None:
    folder = as_synthetic(real_trajectories(transitions, held_out, 1), conditional=False)
    animate(dataset, folder, SMALL, tmp_path / "out", "synther", skip=None)
    assert json.loads((tmp_path / "out" / "metadata.json").read_text())["skipped"].startswith("single transitions")


def test_synthetic_transitions_of_another_data_set_are_refused(
    scrambled: Path, transitions: Transitions, held_out: np.ndarray, as_synthetic: Callable[..., Path], tmp_path: Path
) -> None:
    folder = as_synthetic(real_trajectories(transitions, held_out, 3))
    with pytest.raises(InputError, match="was not made from"):
        animate(scrambled, folder, SMALL, tmp_path / "out", "dawm", skip=None)
