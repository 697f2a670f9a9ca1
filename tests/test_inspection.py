"""`inspect`: what is in a data set, whether it obeys physics, and that noise is called out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hdf5_files import hopper_columns, without, write_hdf5

from dawm.analysis.dataset_figures import _actions, _histogram
from dawm.analysis.inspection import inspect, lines
from dawm.analysis.physics import check_physics
from dawm.cli import main
from dawm.config import ExportSettings, InspectionSettings
from dawm.data.export import export
from dawm.data.sealed import open_sealed, seal
from dawm.data.transitions import Transitions, write_shard
from dawm.environments.tasks import TASKS
from dawm.errors import InputError
from dawm.layout import shard_name

NAME = "hopper_medium-v2.hdf5"
SETTINGS = InspectionSettings(rows=300)


def write_d4rl(path: Path, rows: Transitions, *left_out: str, **replaced: np.ndarray) -> Path:
    """Transitions as a file in D4RL's layout."""
    columns: dict[str, Any] = {
        "observations": rows.observation,
        "actions": rows.action,
        "rewards": rows.reward,
        "terminals": rows.terminal,
        "timeouts": rows.timeout,
        "next_observations": rows.next_observation,
        "infos/qpos": rows.qpos,
        "infos/qvel": rows.qvel,
    }
    return write_hdf5(path, without(columns, *left_out) | replaced)


def judged(path: Path) -> Any:
    return inspect(str(path), SETTINGS).physics


# --- physics ----------------------------------------------------------------------------------------------------


def test_rows_collected_here_are_reproduced_from_stored_states(dataset: Path) -> None:
    physics = inspect(str(dataset), InspectionSettings(rows=3000)).physics
    assert (physics.method, physics.rows, physics.coverage, physics.alarm) == ("stored states", 3000, 1.0, False)
    assert physics.reproduced == 1 and physics.terminals_differ == 0
    assert physics.observation_error_largest < 1e-5 and physics.reward_error_largest < 1e-5
    assert "every replayed row is the simulator's own step" in physics.verdict


@pytest.mark.parametrize("kind", ["random", "medium", "medium-replay", "medium-expert", "expert"])
@pytest.mark.parametrize("task", TASKS)
def test_every_data_set_of_the_suite_is_reproduced(tmp_path: Path, task: str, kind: str) -> None:
    export(ExportSettings(source=f"local/{task}-{kind}", transitions=1200), tmp_path)
    physics = inspect(str(tmp_path), SETTINGS).physics
    assert physics.rows == 300 and physics.reproduced == 1


def test_without_stored_states_rows_are_replayed_from_observations(tmp_path: Path, transitions: Transitions) -> None:
    physics = judged(write_d4rl(tmp_path / NAME, transitions, "infos/qpos", "infos/qvel"))
    known = (np.abs(transitions.observation[:, 5:]) < 10).all(1)
    assert physics.method == "observations" and physics.coverage == pytest.approx(known.mean())
    assert physics.reproduced > 0.99 and not physics.alarm


def test_rows_replayed_from_rounded_observations_follow_to_the_rounding(
    tmp_path: Path, transitions: Transitions
) -> None:
    rounded = {
        "observations": transitions.observation.round(4),
        "next_observations": transitions.next_observation.round(4),
    }
    physics = judged(write_d4rl(tmp_path / NAME, transitions, "infos/qpos", "infos/qvel", **rounded))
    assert physics.reproduced < 0.1 and not physics.alarm
    assert "to the rounding of the observations" in physics.verdict


def test_states_after_the_step_are_not_taken_for_those_before(tmp_path: Path, transitions: Transitions) -> None:
    shifted = {f"infos/{name}": np.roll(getattr(transitions, name), -1, axis=0) for name in ("qpos", "qvel")}
    physics = judged(write_d4rl(tmp_path / NAME, transitions, **shifted))
    assert physics.method == "observations" and not physics.alarm


def noise(rng: np.random.Generator, transitions: Transitions) -> dict[str, np.ndarray]:
    """Columns of the same means and spreads, all made up; successors chain as in a real file."""
    observation = rng.normal(transitions.observation.mean(0), transitions.observation.std(0), (3000, 11))
    return {
        "observations": observation.astype("f4"),
        "next_observations": np.concatenate([observation[1:], observation[:1]]).astype("f4"),
        "rewards": rng.normal(size=3000).astype("f4"),
        "actions": rng.uniform(-1, 1, (3000, 3)).astype("f4"),
        "terminals": np.zeros(3000, bool),
        "timeouts": np.arange(3000) % 100 == 99,
    }


def test_noise_under_a_d4rl_name_is_called_out(
    tmp_path: Path, transitions: Transitions, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_hdf5(tmp_path / NAME, noise(np.random.default_rng(0), transitions))
    assert main(["inspect", str(path), "--output", str(tmp_path / "out")]) == 3
    printed = capsys.readouterr().out
    assert "ALARM: the rows do not follow the simulator" in printed
    found = json.loads((tmp_path / "out" / "inspection.json").read_text())["physics"]
    assert found["alarm"] and found["relative_error"] > 0.5 * found["still"] and found["reproduced"] == 0


def test_actions_of_other_rows_are_called_out(tmp_path: Path, transitions: Transitions) -> None:
    """The states follow each other, but not by these actions: half of the error of standing still or more."""
    shuffled = transitions.action[np.random.default_rng(0).permutation(len(transitions))]
    physics = judged(write_d4rl(tmp_path / NAME, transitions, actions=shuffled))
    assert physics.reproduced < 0.05
    assert physics.relative_error > 100 * judged(write_d4rl(tmp_path / NAME, transitions)).relative_error


def test_another_simulator_version_is_no_alarm(transitions: Transitions) -> None:
    """Rows recorded with a little other physics, as old MuJoCo's were: a softer contact, a heavier foot."""
    environment: Any = gymnasium.make("Hopper-v4", disable_env_checker=True).unwrapped
    environment.model.opt.timestep *= 1.02
    environment.model.body_mass[-1] *= 1.03
    assert transitions.qpos is not None and transitions.qvel is not None
    successors = []
    for qpos, qvel, action in zip(transitions.qpos[:500], transitions.qvel[:500], transitions.action, strict=False):
        environment.set_state(qpos, qvel)
        successors.append(environment.step(action)[0])
    old = transitions.take(slice(0, 500))
    old = dataclasses.replace(old, next_observation=np.array(successors, np.float32))
    physics = check_physics(old, TASKS["hopper"], np.ones(500, bool), SETTINGS)
    assert physics.observation_error_median is not None and physics.observation_error_median > 0.006  # as D4RL's
    assert not physics.alarm and physics.reproduced is not None and physics.reproduced < 0.1
    assert "another version of the simulator" in physics.verdict


def test_walker_data_under_the_other_friction_is_told_from_its_own(tmp_path: Path) -> None:
    """Walker2d's v4 and v5 differ: replayed in the wrong one, rows that touch the ground do not fit."""
    export(ExportSettings(source="local/walker2d-medium", transitions=1500), tmp_path / "walker")
    own = inspect(str(tmp_path / "walker"), SETTINGS)
    rows = dataclasses.replace(own.transitions, qpos=None, qvel=None)
    path = write_d4rl(tmp_path / "mine.hdf5", rows, "infos/qpos", "infos/qvel")
    other = inspect(str(path), SETTINGS, environment="Walker2d-v5").physics
    same = inspect(str(path), SETTINGS, environment="Walker2d-v4").physics
    assert same.relative_error is not None and other.relative_error is not None
    assert same.observation_error_largest < 0.01 < 0.1 < other.observation_error_largest


def test_where_physics_cannot_be_checked_the_reason_is_said(tmp_path: Path) -> None:
    environment = {"id": "Pendulum-v1"}
    settings = json.dumps({"source": "random", "transitions": 1000, "environment": environment})
    assert main(["export", "--settings", settings, "--output", str(tmp_path / "data")]) == 0
    physics = inspect(str(tmp_path / "data"), SETTINGS).physics
    assert (physics.method, physics.rows, physics.alarm) == ("none", 0, False)
    assert physics.verdict == "not possible: Pendulum-v1 is no MuJoCo environment that can be put into a row's state"


def test_where_all_velocities_are_clipped_it_is_said(transitions: Transitions) -> None:
    observation = transitions.observation.copy()
    observation[:, 10] = 10
    clipped = dataclasses.replace(transitions, observation=observation, qpos=None, qvel=None)
    physics = check_physics(clipped, TASKS["hopper"], np.ones(len(clipped), bool), SETTINGS)
    assert physics.method == "none" and "every row has a velocity clipped at ±10" in physics.verdict


def test_rows_without_a_true_successor_are_not_judged(tmp_path: Path, transitions: Transitions) -> None:
    """A file without next_observations: terminal rows have a stand-in for a successor."""
    found = inspect(str(write_d4rl(tmp_path / NAME, transitions, "next_observations")), InspectionSettings(rows=3000))
    assert found.facts["terminal_successors_known"] is False
    assert found.facts["terminals_unlike_termination_function"] is None
    assert found.physics.reproduced == 1 and found.physics.rows == (~found.transitions.terminal).sum()


# --- what is counted --------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_rows(dataset: Path, transitions: Transitions) -> None:
    facts = inspect(str(dataset), SETTINGS).facts
    assert (facts["rows"], facts["episodes"]) == (3000, transitions.episode.max() + 1)
    assert (facts["terminals"], facts["timeouts"]) == (transitions.terminal.sum(), transitions.timeout.sum())
    lengths = np.unique(transitions.episode, return_counts=True)[1]
    assert facts["length"]["mean"] == lengths.mean() and facts["length"]["largest"] == lengths.max()
    assert facts["terminals_unlike_termination_function"] == 0
    np.testing.assert_array_equal(facts["observation"]["smallest"], transitions.observation.min(0).astype(float))
    np.testing.assert_array_equal(facts["action"]["largest"], transitions.action.max(0).astype(float))
    np.testing.assert_allclose(facts["action_saturation"], (np.abs(transitions.action) >= 0.999).mean(0))
    assert facts["duplicates"] == 0 and facts["constant_dimensions"] == []
    assert facts["normalized_score"] == pytest.approx(TASKS["hopper"].normalized_score(facts["return"]["mean"]))


def test_duplicates_and_constant_dimensions_are_found(tmp_path: Path) -> None:
    columns = hopper_columns([(10, "timeout"), (10, "timeout"), (5, "terminal")])
    columns["observations"][:, 4] = columns["next_observations"][:, 4] = 0.25
    for column in columns.values():
        column[10:20] = column[0:10]
    facts = inspect(str(write_hdf5(tmp_path / NAME, columns)), SETTINGS).facts
    assert facts["duplicates"] == 10 and facts["constant_dimensions"] == [4]


def test_wrong_terminals_are_counted(tmp_path: Path, transitions: Transitions) -> None:
    terminals = transitions.terminal.copy()
    wrong = np.flatnonzero(terminals)[:3]
    terminals[wrong] = False
    path = write_d4rl(tmp_path / NAME, transitions, terminals=terminals)
    facts = inspect(str(path), SETTINGS).facts
    assert facts["terminals_unlike_termination_function"] == 3
    assert facts["unmarked_episode_ends"] == 3  # each was followed by another episode's first state


def test_synthetic_transitions_are_inspected_too(synthetic: Path) -> None:
    found = inspect(str(synthetic), SETTINGS)
    steps = found.transitions
    assert found.facts["kind"] == "synthetic" and found.facts["episodes"] == 700
    assert found.facts["length"]["largest"] == 3  # a window of four rows
    np.testing.assert_array_equal(steps.step, steps.horizon_step - 1)


Write = Callable[[Transitions], Path]


@pytest.fixture
def write_synthetic(transitions: Transitions, tmp_path: Path) -> Callable[..., Path]:
    """Real rows in a sealed folder of synthetic ones: write(rows, source_row, horizon_step, **more metadata)."""

    def write(rows: Transitions, source_row: list[int], horizon_step: list[int], **metadata: Any) -> Path:
        none = np.full(len(rows), -1, np.int32)
        sources, steps = np.array(source_row, np.int64), np.array(horizon_step, np.int16)
        grown = dataclasses.replace(rows, episode=none, step=none, source_row=sources, horizon_step=steps)
        write_shard(tmp_path / shard_name(0, 1), dataclasses.replace(grown, qpos=None, qvel=None))
        facts = {"environment": "Hopper-v4", "observation_dim": 11, "action_dim": 3, **metadata}
        seal(tmp_path, "synthetic", files=[shard_name(0, 1)], settings={}, metadata=facts)
        return tmp_path

    return write


def test_trajectories_whose_first_steps_were_dropped_are_told_apart(
    transitions: Transitions, write_synthetic: Callable[..., Path]
) -> None:
    sources, steps = [5, 5, 9, 9, 9, 9, 2], [1, 2, 2, 3, 6, 7, 3]
    found = inspect(str(write_synthetic(transitions.take(slice(0, 7)), sources, steps)), SETTINGS)
    assert found.lengths.tolist() == [2, 2, 2, 1]
    np.testing.assert_allclose(found.returns, np.add.reduceat(transitions.reward[:7].astype(float), [0, 2, 4, 6]))


def test_rows_of_several_steps_are_not_judged_as_one(
    transitions: Transitions, write_synthetic: Callable[..., Path]
) -> None:
    first = np.flatnonzero((transitions.step % 7 == 0) & (np.arange(len(transitions)) < len(transitions) - 6))
    first = first[transitions.episode[first] == transitions.episode[first + 6]]
    rows = dataclasses.replace(
        transitions.take(first),
        next_observation=transitions.next_observation[first + 6],
        terminal=transitions.terminal[first + 6],
    )
    numbers, ones = list(range(len(rows))), [1] * len(rows)
    found = inspect(str(write_synthetic(rows, numbers, ones, n_step=7)), SETTINGS)
    assert found.physics.method == "none" and not found.physics.alarm
    assert found.physics.verdict == "not possible: a row spans up to 7 steps"


# --- the command ------------------------------------------------------------------------------------------------


def test_command_prints_and_draws(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert main(["inspect", str(dataset), "--output", str(output), "--settings", "{rows: 50}"]) == 0
    printed = capsys.readouterr().out
    for text in ("rows                  3,000", "episodes", "duplicate rows        0", "50 rows replayed from stored"):
        assert text in printed
    assert (output / "inspection.png").read_bytes().startswith(b"\x89PNG")
    sealed = open_sealed(output, "inspection")
    assert json.loads(sealed.read("inspection.json"))["physics"]["rows"] == 50
    episodes = pd.read_csv(output / "episodes.csv")
    assert episodes["length"].sum() == 3000


@pytest.mark.parametrize(("place", "name"), [("Files", "files"), ("数据", "数据")])
def test_default_output_is_named_after_the_data_set(
    tmp_path: Path, transitions: Transitions, monkeypatch: pytest.MonkeyPatch, place: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_d4rl(tmp_path / place / NAME, transitions)
    assert main(["inspect", f"{place}/{NAME}"]) == 0
    assert (tmp_path / "inspections" / f"{name}-hopper-medium-v2" / "inspection.png").is_file()


def test_histogram_shows_where_the_returns_are(dataset: Path) -> None:
    line = next(line for line in lines(inspect(str(dataset), SETTINGS)) if line.startswith("returns"))
    assert "█" in line and len(line) > 60


@pytest.mark.parametrize("high", [np.nextafter(np.float32(2), np.float32(3)), np.float32(2)])
def test_histograms_hold_as_few_numbers_as_float32_has_there(high: np.float32) -> None:
    values = np.array([2, high] * 50, np.float32)
    figure, (one, other) = plt.subplots(ncols=2)
    _histogram(one, values, "reward", "rows")
    _actions(other, values[:, None])
    plt.close(figure)
    assert sum(patch.get_height() for patch in one.patches) == len(values)


Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    def run(*arguments: object) -> str:
        assert main(["inspect", *map(str, arguments), "--output", str(tmp_path / "out")]) == 2
        printed = capsys.readouterr().err.splitlines()
        assert len(printed) == 1 and not (tmp_path / "out").exists()
        return printed[0]

    return run


def test_numbers_that_are_not_finite_are_counted_in_the_refusal(tmp_path: Path, refused: Refused) -> None:
    columns = hopper_columns()
    columns["observations"][3, 1] = np.nan
    columns["observations"][7, :2] = np.inf
    columns["rewards"][5] = -np.inf
    message = refused(write_hdf5(tmp_path / NAME, columns))
    assert "'observations': expected finite numbers, found others in row 3" in message
    assert message.endswith("not finite in all: 3 in 'observations', 1 in 'rewards'")


def test_sealed_folder_takes_no_environment(dataset: Path, refused: Refused) -> None:
    assert f"--environment: expected none for {dataset}, whose metadata tells it" in refused(
        dataset, "--environment", "Hopper-v4"
    )


def test_missing_file_is_told_before_its_environment_is_asked_for(tmp_path: Path, refused: Refused) -> None:
    assert f"{tmp_path / 'mine.hdf5'}: no such file" in refused(tmp_path / "mine.hdf5")
    write_hdf5(tmp_path / "mine.hdf5", hopper_columns())
    assert "--environment Hopper-v4" in refused(tmp_path / "mine.hdf5")


@pytest.mark.parametrize("name", ["nothing-here", "nothing/here.hdf5", "local/none", ""])
def test_what_is_no_data_set_is_refused(refused: Refused, name: str) -> None:
    refused(name)


def test_altered_folder_is_refused(tmp_path: Path) -> None:
    export(ExportSettings(source="local/hopper-random", transitions=1000), tmp_path)
    shard = next(tmp_path.glob("*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match="SHA-256"):
        inspect(str(tmp_path), SETTINGS)


UNKNOWN = "expected a sealed folder, a file *.hdf5, or a source such as d4rl/hopper-medium-v2 or minari/ID, found"


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        ("nothere", f"nothere: {UNKNOWN} nothing there"),
        ("folder", f"folder: {UNKNOWN} a folder without provenance.json"),
        ("notes.txt", f"notes.txt: {UNKNOWN} a file"),
        ("part/x", "part/x: expected the folder that export wrote of a part, found its source"),
        ("random", "--environment: expected an ID such as Pendulum-v1 for the source random, found none"),
    ],
)
def test_what_cannot_be_inspected_is_told_from_what_can(
    dataset: str, sentence: str, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").touch()
    assert refused(dataset) == f"dawm inspect: {sentence}"
