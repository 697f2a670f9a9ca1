"""HDF5 files in D4RL's layout: good ones come back exactly, bad ones get one sentence and leave nothing behind."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hdf5_files import (
    ACTION_DIM,
    FLAGS,
    FLOATS,
    OBSERVATION_DIM,
    REQUIRED,
    check_rows,
    hopper_columns,
    without,
    write_hdf5,
)
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from dawm.cli import main
from dawm.config import EnvironmentSettings, ExportSettings
from dawm.data.export import export
from dawm.data.sealed import Sealed, open_sealed
from dawm.data.sources import open_source
from dawm.data.transitions import Transitions, read_transitions
from dawm.errors import InputError

NAME = "hopper_medium-v2.hdf5"
ROWS = 16
Refused = Callable[..., str]


def exported(path: Path, output: Path, **chosen: Any) -> tuple[Transitions, Sealed]:
    export(ExportSettings(source=f"hdf5:{path}", **chosen), output)
    sealed = open_sealed(output, "dataset")
    return read_transitions(sealed), sealed


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Exports through the command line; asserts status 2, one line and no output; returns the sentence."""

    def run(path: Path, **chosen: Any) -> str:
        output = tmp_path / "dataset"
        settings = json.dumps({"source": f"hdf5:{path}", **chosen})
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it would be a second line
            status = main(["export", "--settings", settings, "--output", str(output)])
        lines = capsys.readouterr().err.splitlines()
        assert status == 2
        assert len(lines) == 1 and lines[0].startswith("dawm export: ")
        assert not [path for path in output.glob("*") if path.name != ".lock"]
        return lines[0]

    return run


# --- good files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("float_type", ["f4", "f8", ">f8"])
def test_every_column_comes_back_exactly(tmp_path, float_type):
    columns = hopper_columns(float_type=float_type)
    found, sealed = exported(write_hdf5(tmp_path / NAME, columns), tmp_path / "out")
    assert len(found) == ROWS
    np.testing.assert_array_equal(found.observation, columns["observations"].astype("f4"))
    np.testing.assert_array_equal(found.action, columns["actions"].astype("f4"))
    np.testing.assert_array_equal(found.reward, columns["rewards"].astype("f4"))
    np.testing.assert_array_equal(found.next_observation, columns["next_observations"].astype("f4"))
    np.testing.assert_array_equal(found.terminal, columns["terminals"])
    np.testing.assert_array_equal(np.flatnonzero(found.timeout), [8, 15])
    np.testing.assert_array_equal(found.discount, 1 - columns["terminals"].astype("f4"))
    assert found.episode.tolist() == [0] * 4 + [1] * 5 + [2] * 3 + [3] * 4
    assert found.step.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3]
    assert set(found.source_row) == set(found.horizon_step) == {-1}
    assert found.qpos is None and found.qvel is None
    assert sealed.metadata["terminal_successors_known"] is True


def test_metadata_counts_what_the_file_holds(tmp_path):
    columns = hopper_columns()
    _, sealed = exported(write_hdf5(tmp_path / NAME, columns), tmp_path / "out")
    returns = [
        columns["rewards"][part].astype("f8").sum() for part in (slice(4), slice(4, 9), slice(9, 12), slice(12, 16))
    ]
    facts = sealed.metadata
    assert (facts["rows"], facts["episodes"], facts["terminals"], facts["timeouts"]) == (ROWS, 4, 2, 2)
    assert facts["largest_return"] == pytest.approx(max(returns), rel=1e-12)
    assert facts["smallest_return"] == pytest.approx(min(returns), rel=1e-12)
    assert facts["mean_return"] == pytest.approx(np.mean(returns), rel=1e-12)
    assert len(facts["held_out_episodes"]) == 1 and facts["held_out_episodes"][0] in range(4)
    assert facts["simulator"] == "unknown"


def test_columns_of_n_by_1_are_read_as_n(tmp_path):
    columns = hopper_columns()
    tall = columns | {name: columns[name][:, None] for name in ("rewards", *FLAGS)}
    found, _ = exported(write_hdf5(tmp_path / NAME, tall), tmp_path / "out")
    np.testing.assert_array_equal(found.reward, columns["rewards"])
    np.testing.assert_array_equal(found.terminal, columns["terminals"])


@pytest.mark.parametrize("flag_type", ["u1", "i8", "f4"])
def test_flags_may_be_numbers_0_and_1(tmp_path, flag_type):
    columns = hopper_columns()
    numbers = columns | {name: columns[name].astype(flag_type) for name in FLAGS}
    found, _ = exported(write_hdf5(tmp_path / NAME, numbers), tmp_path / "out")
    np.testing.assert_array_equal(found.terminal, columns["terminals"])
    np.testing.assert_array_equal(np.flatnonzero(found.timeout), [8, 15])


def test_without_timeouts_episodes_end_where_successors_do_not_fit(tmp_path):
    columns = without(hopper_columns(), "timeouts")
    found, sealed = exported(write_hdf5(tmp_path / NAME, columns), tmp_path / "out")
    assert np.flatnonzero(found.timeout).tolist() == [8, 15]  # row 8's successor is not row 9's observation
    assert found.episode.tolist() == [0] * 4 + [1] * 5 + [2] * 3 + [3] * 4
    assert sealed.metadata["unmarked_episode_ends"] == 1


def test_without_next_observations_successors_come_from_the_same_episode(tmp_path):
    columns = without(hopper_columns(), "next_observations")
    found, sealed = exported(write_hdf5(tmp_path / NAME, columns), tmp_path / "out")
    kept = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14]  # rows 8 (timeout) and 15 (unfinished) have no successor
    np.testing.assert_array_equal(found.observation, columns["observations"][kept])
    np.testing.assert_array_equal(found.action, columns["actions"][kept])
    np.testing.assert_array_equal(found.reward, columns["rewards"][kept])
    inside = ~found.terminal
    np.testing.assert_array_equal(found.next_observation[inside], columns["observations"][np.array(kept)[inside] + 1])
    np.testing.assert_array_equal(found.next_observation[~inside], found.observation[~inside])  # nobody knows it
    assert [kept[row] for row in np.flatnonzero(found.terminal)] == [3, 11]
    assert [kept[row] for row in np.flatnonzero(found.timeout)] == [7, 14]
    assert found.episode.tolist() == [0] * 4 + [1] * 4 + [2] * 3 + [3] * 3
    assert sealed.metadata["terminal_successors_known"] is False


def test_without_next_observations_and_timeouts_only_the_last_row_is_dropped(tmp_path):
    columns = without(hopper_columns(), "next_observations", "timeouts")
    found, sealed = exported(write_hdf5(tmp_path / NAME, columns), tmp_path / "out")
    np.testing.assert_array_equal(found.observation, columns["observations"][:15])
    np.testing.assert_array_equal(found.next_observation[4:11], columns["observations"][5:12])
    assert np.flatnonzero(found.timeout).tolist() == [14]
    assert sealed.metadata["terminal_successors_known"] is False


@pytest.mark.parametrize("left_out", [(), ("next_observations",)])
def test_terminal_wins_where_both_flags_are_set(tmp_path, left_out):
    columns = without(hopper_columns([(4, "both"), (3, "terminal")]), *left_out)
    found, _ = exported(write_hdf5(tmp_path / NAME, columns), tmp_path / "out")
    assert len(found) == 7
    assert found.terminal.tolist() == [False] * 3 + [True] + [False] * 2 + [True]
    assert not found.timeout.any()
    assert found.discount[3] == 0


def test_an_episode_of_a_single_timeout_row_vanishes_without_next_observations(tmp_path):
    columns = without(hopper_columns([(3, "terminal"), (1, "timeout"), (3, "timeout")]), "next_observations")
    found, _ = exported(write_hdf5(tmp_path / NAME, columns), tmp_path / "out")
    np.testing.assert_array_equal(found.observation, columns["observations"][[0, 1, 2, 4, 5]])
    assert found.episode.tolist() == [0, 0, 0, 1, 1]
    assert np.flatnonzero(found.timeout).tolist() == [4]


@pytest.mark.parametrize("left_out", [(), ("next_observations",)])
def test_simulator_states_come_back_in_full_precision(tmp_path, left_out):
    states = {name: np.random.default_rng(1).normal(size=(ROWS, 6)) for name in ("infos/qpos", "infos/qvel")}
    columns = without(hopper_columns(), *left_out) | states
    found, _ = exported(write_hdf5(tmp_path / NAME, columns), tmp_path / "out")
    kept = np.delete(np.arange(ROWS), [8, 15]) if left_out else np.arange(ROWS)
    np.testing.assert_array_equal(found.qpos, states["infos/qpos"][kept])
    np.testing.assert_array_equal(found.qvel, states["infos/qvel"][kept])


def test_actions_beyond_the_bounds_by_rounding_alone_are_clipped(tmp_path):
    columns = hopper_columns(float_type="f8")
    columns["actions"][2] = [1 + 1e-6, -1 - 1e-6, 0.5]
    found, _ = exported(write_hdf5(tmp_path / NAME, columns), tmp_path / "out")
    assert found.action[2].tolist() == [1.0, -1.0, 0.5]


def test_rows_keep_their_order_over_several_shards(tmp_path):
    path = write_hdf5(tmp_path / NAME, hopper_columns())
    one, _ = exported(path, tmp_path / "one")
    many, sealed = exported(path, tmp_path / "many", rows_per_shard=5)
    assert len([name for name in sealed.files if name.endswith(".parquet")]) == 4
    for name, column in one.columns().items():
        np.testing.assert_array_equal(many.columns()[name], column, err_msg=name)


def test_a_second_export_with_fewer_shards_leaves_no_old_ones(tmp_path):
    path = write_hdf5(tmp_path / NAME, hopper_columns())
    exported(path, tmp_path / "out", rows_per_shard=5)
    exported(path, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 1


@pytest.mark.parametrize(
    ("name", "environment", "dims"),
    [
        ("hopper_medium-v2.hdf5", "Hopper-v4", (11, 3)),
        ("hopper-medium-v2.hdf5", "Hopper-v4", (11, 3)),
        ("walker2d_medium_replay-v2.hdf5", "Walker2d-v4", (17, 6)),
        ("halfcheetah_medium_expert-v2.hdf5", "HalfCheetah-v4", (17, 6)),
    ],
)
def test_environment_is_known_from_d4rl_s_file_name(tmp_path, name, environment, dims):
    columns = hopper_columns(observation_dim=dims[0], action_dim=dims[1])
    found, sealed = exported(write_hdf5(tmp_path / name, columns), tmp_path / "out")
    assert sealed.metadata["environment"] == environment
    assert (found.observation_dim, found.action_dim) == dims


@pytest.mark.parametrize("name", ["mine.hdf5", "walker2d_medium-v2.hdf5"])
def test_environment_setting_wins_over_the_file_name(tmp_path, name):
    _, sealed = exported(
        write_hdf5(tmp_path / name, hopper_columns()), tmp_path / "out", environment=EnvironmentSettings(id="Hopper-v4")
    )
    assert sealed.metadata["environment"] == "Hopper-v4"


def test_seam_between_two_files_ends_an_episode_without_a_flag(tmp_path):
    """As in medium-expert files, where one set follows another: the first one's last episode has no end."""
    columns = hopper_columns([(4, "terminal"), (3, "unfinished"), (5, "timeout"), (2, "terminal")])
    found, sealed = exported(write_hdf5(tmp_path / NAME, columns), tmp_path / "out")
    assert found.episode.tolist() == [0] * 4 + [1] * 3 + [2] * 5 + [3] * 2
    assert np.flatnonzero(found.timeout).tolist() == [6, 11]
    assert found.discount[6] == 1  # a cut is no terminal
    assert sealed.metadata["unmarked_episode_ends"] == 1


def test_successors_that_fit_to_rounding_are_no_seam(tmp_path):
    columns = hopper_columns(float_type="f8")
    columns["next_observations"] = columns["next_observations"].astype("f4").astype("f8")
    _, sealed = exported(write_hdf5(tmp_path / NAME, columns), tmp_path / "out")
    assert sealed.metadata["unmarked_episode_ends"] == 0


def test_without_timeouts_and_successors_episodes_end_at_the_time_limit(tmp_path):
    columns = without(hopper_columns([(7, "terminal"), (2500, "terminal")]), "next_observations", "timeouts")
    found, _ = exported(write_hdf5(tmp_path / NAME, columns), tmp_path / "out")
    lengths = np.bincount(found.episode)
    assert lengths.tolist() == [7, 999, 999, 500]  # the row at each limit has no successor
    assert found.timeout.sum() == 2 and found.terminal.sum() == 2


def test_blocks_do_not_show(tmp_path, monkeypatch):
    """Rows, ends and successors are the same whatever the size of the blocks that the file is read in."""
    import dawm.data.sources.hdf5 as hdf5

    episodes = [(40, "terminal"), (33, "unfinished"), (64, "timeout"), (1, "timeout"), (30, "unfinished")]
    for left_out in ((), ("next_observations",), ("timeouts",), ("timeouts", "next_observations")):
        path = write_hdf5(tmp_path / NAME, without(hopper_columns(episodes), *left_out))
        whole = [exported(path, tmp_path / "whole")[0]]
        for size in (1, 7, 32):
            monkeypatch.setattr(hdf5, "BLOCK_ROWS", size)
            whole.append(exported(path, tmp_path / f"{size}")[0])
        monkeypatch.undo()
        for other in whole[1:]:
            for name, column in whole[0].columns().items():
                np.testing.assert_array_equal(other.columns()[name], column, err_msg=f"{left_out} {name}")


def test_metadata_of_any_kind_beside_the_columns_does_not_matter(tmp_path):
    columns = hopper_columns() | {
        "metadata/algorithm": "SAC",
        "metadata/iteration": 5,
        "metadata/policy/fc0": np.ones(3),
    }
    found, _ = exported(write_hdf5(tmp_path / NAME, columns), tmp_path / "out")
    assert len(found) == ROWS


def test_actions_may_have_asymmetric_bounds(tmp_path, refused):
    """Swimmer-like bounds of another environment: the file is judged by the environment's own."""
    columns = hopper_columns(observation_dim=4, action_dim=1)
    columns["actions"] = columns["actions"] * 3
    inside = {"id": "InvertedPendulum-v5"}  # actions in [-3, 3]
    found, _ = exported(
        write_hdf5(tmp_path / "mine.hdf5", columns), tmp_path / "out", environment=EnvironmentSettings(**inside)
    )
    np.testing.assert_array_equal(found.action, columns["actions"])
    columns["actions"][2] = 3.1
    message = refused(write_hdf5(tmp_path / "mine.hdf5", columns), environment=inside)
    assert "'actions': expected values in [-3, 3] for InvertedPendulum-v5, found 3.1 in row 2" in message


# --- bad files --------------------------------------------------------------------------------------------------


def test_rows_in_disorder_are_refused(tmp_path, refused):
    columns = hopper_columns([(60, "timeout")])
    order = np.random.default_rng(0).permutation(60)
    message = refused(write_hdf5(tmp_path / NAME, {name: column[order] for name, column in columns.items()}))
    assert "the rows must be in the order of collection" in message and NAME in message


@pytest.mark.parametrize(("key", "value"), [("transitions", 1000), ("base_url", "http://mirror")])
def test_setting_of_another_source_is_refused(tmp_path, refused, key, value):
    message = refused(write_hdf5(tmp_path / NAME, hopper_columns()), **{key: value})
    assert f"{key}: expected null for the source hdf5:" in message


def test_unknown_file_name_asks_for_the_environment(tmp_path, refused):
    message = refused(write_hdf5(tmp_path / "mine.hdf5", hopper_columns()))
    assert "mine.hdf5" in message and "`environment`" in message and "Hopper-v4" in message


def test_unknown_environment_is_refused(tmp_path, refused):
    message = refused(write_hdf5(tmp_path / NAME, hopper_columns()), environment={"id": "Hoper-v4"})
    assert "gymnasium cannot make 'Hoper-v4'" in message


def test_number_of_transitions_is_refused_for_a_file(tmp_path, refused):
    message = refused(write_hdf5(tmp_path / NAME, hopper_columns()), transitions=1000)
    assert NAME in message and "transitions" in message and "expected null" in message and "1000" in message


@pytest.mark.parametrize("name", [NAME, "mine.hdf5"])
def test_missing_file_is_refused_before_its_name_is_read(tmp_path, refused, name):
    assert f"{tmp_path / name}: no such file" in refused(tmp_path / name)


def test_file_in_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_hdf5(tmp_path / NAME, hopper_columns())
    assert open_source(ExportSettings(source=f"hdf5:~/{NAME}")).rows > 0


def test_file_name_longer_than_any_is_refused(tmp_path, refused):
    path = tmp_path / f"hopper_{'x' * 300}.hdf5"
    assert str(path) in refused(path)


def test_folder_instead_of_a_file_is_refused(tmp_path, refused):
    (tmp_path / NAME).mkdir()
    assert str(tmp_path / NAME) in refused(tmp_path / NAME)


@pytest.mark.parametrize("content", [b"", b"observations,actions\n1,2\n", b"\x89HDF\r\n\x1a\n", bytes(4096)])
def test_a_file_that_is_not_hdf5_is_refused(tmp_path, refused, content):
    (tmp_path / NAME).write_bytes(content)
    message = refused(tmp_path / NAME)
    assert str(tmp_path / NAME) in message and "expected an HDF5 file" in message


def test_a_file_cut_anywhere_is_refused(tmp_path, refused):
    path = write_hdf5(tmp_path / NAME, hopper_columns())
    whole = path.read_bytes()
    for length in [1, 100, 512, *range(1000, len(whole), 700), len(whole) - 1]:
        path.write_bytes(whole[:length])
        message = refused(path)
        assert str(path) in message and "truncated or damaged" in message, length


@pytest.mark.parametrize("key", REQUIRED)
def test_missing_key_is_refused_by_name(tmp_path, refused, key):
    message = refused(write_hdf5(tmp_path / NAME, without(hopper_columns(), key)))
    assert NAME in message and f"{key!r} is missing" in message


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("key", [*FLOATS, *FLAGS, "infos/qpos", "infos/qvel"])
def test_column_of_another_length_is_refused_by_name(tmp_path, refused, key, change):
    columns = hopper_columns() | {"infos/qpos": np.zeros((ROWS, 6)), "infos/qvel": np.zeros((ROWS, 6))}
    columns[key] = np.resize(columns[key], (ROWS + change, *columns[key].shape[1:]))
    message = refused(write_hdf5(tmp_path / NAME, columns))
    assert NAME in message
    if key == "observations":  # all others have another length than it
        assert f"{ROWS} rows, 'observations' {ROWS + change}" in message
    else:
        assert f"{key!r} has {ROWS + change} rows, 'observations' {ROWS}" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", [*FLOATS, "infos/qpos", "infos/qvel"])
def test_value_that_is_not_finite_is_refused_with_its_row(tmp_path, refused, key, value):
    columns = hopper_columns() | {"infos/qpos": np.zeros((ROWS, 6)), "infos/qvel": np.zeros((ROWS, 6))}
    columns[key][5] = value
    message = refused(write_hdf5(tmp_path / NAME, columns))
    assert NAME in message and f"{key!r}: expected finite numbers, found others in row 5" in message


@pytest.mark.parametrize("key", ["observations", "rewards", "next_observations"])
def test_value_too_large_for_float32_is_refused(tmp_path, refused, key):
    columns = hopper_columns(float_type="f8")
    columns[key][5] = 1e300
    message = refused(write_hdf5(tmp_path / NAME, columns))
    assert NAME in message and repr(key) in message


@pytest.mark.parametrize("key", FLOATS)
def test_signalling_nan_is_refused_without_a_warning(tmp_path, refused, key):
    columns = hopper_columns()
    columns[key].view("u4")[5] = 0x7F800001
    message = refused(write_hdf5(tmp_path / NAME, columns))
    assert NAME in message and f"{key!r}: expected finite numbers, found others in row 5" in message


@pytest.mark.parametrize("value", [1.001, -1.001, 7.0])
def test_action_out_of_bounds_is_refused_with_its_row(tmp_path, refused, value):
    columns = hopper_columns()
    columns["actions"][6, 1] = value
    message = refused(write_hdf5(tmp_path / NAME, columns))
    assert NAME in message and "'actions'" in message and "[-1, 1]" in message and "in row 6" in message
    assert f"{abs(value):g}" in message


def test_smallest_integer_is_out_of_an_action_s_bounds(tmp_path, refused):
    actions = np.zeros((ROWS, ACTION_DIM), np.int8)
    actions[6, 1] = -128  # whose absolute value is -128 again
    message = refused(write_hdf5(tmp_path / NAME, hopper_columns() | {"actions": actions}))
    assert NAME in message and "'actions'" in message


def test_file_without_rows_is_refused(tmp_path, refused):
    empty = {name: value[:0] for name, value in hopper_columns().items()}
    message = refused(write_hdf5(tmp_path / NAME, empty))
    assert NAME in message and "'observations' has no rows" in message


@pytest.mark.parametrize("episodes", [[(1, "unfinished")], [(1, "timeout"), (1, "timeout")]])
def test_file_without_a_single_successor_is_refused(tmp_path, refused, episodes):
    message = refused(write_hdf5(tmp_path / NAME, without(hopper_columns(episodes), "next_observations")))
    assert NAME in message and "'next_observations'" in message


@pytest.mark.parametrize("key", ["observations", "actions", "next_observations"])
def test_dimensions_of_another_environment_are_refused(tmp_path, refused, key):
    columns = hopper_columns()
    columns[key] = np.zeros((ROWS, 17), "f4")
    message = refused(write_hdf5(tmp_path / NAME, columns))
    expected = ACTION_DIM if key == "actions" else OBSERVATION_DIM
    assert NAME in message and repr(key) in message and "Hopper-v4" in message
    assert f"({ROWS}, {expected})" in message and f"({ROWS}, 17)" in message


@pytest.mark.parametrize("key", [*FLOATS, *FLAGS])
def test_array_of_another_rank_is_refused(tmp_path, refused, key):
    columns = hopper_columns()
    columns[key] = np.zeros((ROWS, 2, 2), "f4")
    message = refused(write_hdf5(tmp_path / NAME, columns))
    assert NAME in message and repr(key) in message and f"({ROWS}, 2, 2)" in message


@pytest.mark.parametrize("key", [*FLOATS, *FLAGS])
def test_single_number_instead_of_a_column_is_refused(tmp_path, refused, key):
    message = refused(write_hdf5(tmp_path / NAME, hopper_columns() | {key: np.float32(0)}))
    assert NAME in message and repr(key) in message


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 2, 3), (ROWS, 0)])
@pytest.mark.parametrize("key", ["infos/qpos", "infos/qvel"])
def test_simulator_states_that_are_no_matrix_are_refused(tmp_path, refused, key, shape):
    message = refused(write_hdf5(tmp_path / NAME, hopper_columns() | {key: np.zeros(shape)}))
    assert NAME in message and repr(key) in message


@pytest.mark.parametrize("key", ["infos/qpos", "infos/qvel"])
def test_simulator_states_of_another_environment_are_refused(tmp_path, refused, key):
    message = refused(write_hdf5(tmp_path / NAME, hopper_columns() | {key: np.zeros((ROWS, 9))}))  # Walker2d's width
    assert NAME in message and repr(key) in message and "Hopper-v4" in message


TEXTS = {
    "fixed": np.array([b"0.5"] * ROWS),
    "variable": ["0.5"] * ROWS,
    "complex": np.zeros(ROWS, complex),
    "compound": np.zeros(ROWS, [("value", "f4")]),
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("key", [*FLOATS, *FLAGS])
def test_column_that_does_not_hold_numbers_is_refused(tmp_path, refused, key, kind):
    message = refused(write_hdf5(tmp_path / NAME, hopper_columns() | {key: TEXTS[kind]}))
    assert NAME in message and f"{key!r}: expected an array of numbers" in message


@pytest.mark.parametrize("key", [*FLOATS, *FLAGS])
def test_group_instead_of_an_array_is_refused(tmp_path, refused, key):
    columns = without(hopper_columns(), key) | {f"{key}/inside": np.zeros(ROWS)}
    message = refused(write_hdf5(tmp_path / NAME, columns))
    assert NAME in message and f"{key!r}: expected an array of numbers" in message


@pytest.mark.parametrize("key", ["observations", "timeouts"])
def test_array_without_a_dataspace_is_refused(tmp_path, refused, key):
    message = refused(write_hdf5(tmp_path / NAME, hopper_columns() | {key: h5py.Empty("f4")}))
    assert NAME in message and repr(key) in message


@pytest.mark.parametrize(
    "link", [h5py.SoftLink("/nowhere"), h5py.SoftLink("/rewards"), h5py.ExternalLink("no.h5", "/x")]
)
def test_link_to_nothing_is_refused(tmp_path, refused, link):
    assert NAME in refused(write_hdf5(tmp_path / NAME, hopper_columns() | {"rewards": link}))


@pytest.mark.parametrize("value", [2, -1, 0.5])
@pytest.mark.parametrize("key", FLAGS)
def test_flag_other_than_0_and_1_is_refused(tmp_path, refused, key, value):
    columns = hopper_columns()
    columns[key] = columns[key].astype("f8" if value == 0.5 else "i8")
    columns[key][3] = value
    message = refused(write_hdf5(tmp_path / NAME, columns))
    assert NAME in message and f"{key!r}: expected 0 or 1, found" in message and f"{value:g}" in message


def test_flag_is_told_as_a_plain_number(tmp_path, refused):
    columns = hopper_columns()
    columns["terminals"] = np.full(ROWS, 2)
    assert refused(write_hdf5(tmp_path / NAME, columns)).endswith("expected 0 or 1, found 2")


@pytest.mark.parametrize("shape", [(2**50, OBSERVATION_DIM), (2**60, 2**10)])
def test_array_that_claims_more_than_any_memory_is_refused(tmp_path, refused, shape):
    path = write_hdf5(tmp_path / NAME, without(hopper_columns(), "observations"))
    with h5py.File(path, "a") as file:
        file.create_dataset("observations", shape, "f4", chunks=(16, min(16, shape[1])))
    message = refused(path)
    assert NAME in message and "'observations'" in message


def test_number_type_that_numpy_does_not_have_is_refused(tmp_path, refused):
    path = write_hdf5(tmp_path / NAME, without(hopper_columns(), "rewards"))
    strange = h5py.h5t.IEEE_F32LE.copy()
    strange.set_fields(31, 23, 8, 0, 23)
    strange.set_ebias(2**20)
    with h5py.File(path, "a") as file:
        h5py.h5d.create(file.id, b"rewards", strange, h5py.h5s.create_simple((ROWS,)))
    message = refused(path)
    assert NAME in message and "'rewards'" in message


def test_key_that_is_no_text_does_not_hide_which_one_is_missing(tmp_path, refused):
    path = write_hdf5(tmp_path / NAME, without(hopper_columns(), "rewards"))
    with h5py.File(path, "a") as file:
        file[b"reward\xff"] = np.zeros(ROWS)
    message = refused(path)
    assert NAME in message and "'rewards' is missing" in message


# --- any file at all --------------------------------------------------------------------------------------------


# Derandomized: a suite that fails on some days only is no help; other examples come with another hypothesis.
NUMBERS = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e39, 2.0]))


@examples(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from([*FLOATS, *FLAGS]), st.integers(0, ROWS - 1), st.integers(0, 10), NUMBERS),
        min_size=1,
        max_size=4,
    ),
    left_out=st.sets(st.sampled_from(["timeouts", "next_observations"])),
)
def test_changed_values_come_back_as_they_are_or_are_refused(changes, left_out):
    """Never a traceback, and never another number in the table than in the file."""
    columns = {name: value.astype("f8") for name, value in hopper_columns().items()}
    for key, row, dimension, number in changes:
        place = (row,) if columns[key].ndim == 1 else (row, dimension % columns[key].shape[1])
        columns[key][place] = number
    columns = without(columns, *left_out)
    with tempfile.TemporaryDirectory() as folder:
        path = write_hdf5(Path(folder) / NAME, columns)
        try:
            source = open_source(ExportSettings(source=f"hdf5:{path}"))
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return
        (block,) = source.blocks
    assert np.isin(columns["terminals"], (0, 1)).all()
    kept = np.isin(columns["rewards"].astype("f4"), block["reward"])
    rows = np.flatnonzero(kept)[: len(block["reward"])]
    if "next_observations" in columns:
        assert len(block["reward"]) == ROWS
        np.testing.assert_array_equal(block["next_observation"], columns["next_observations"].astype("f4"))
        rows = np.arange(ROWS)
    if len(np.unique(columns["rewards"])) == ROWS:  # rows can be told apart
        np.testing.assert_array_equal(block["observation"], columns["observations"][rows].astype("f4"))
        np.testing.assert_array_equal(block["action"], columns["actions"][rows].clip(-1, 1).astype("f4"))
        np.testing.assert_array_equal(block["terminal"], columns["terminals"][rows].astype(bool))
    assert (np.abs(block["action"]) <= 1).all()
    assert not (block["terminal"] & block["timeout"]).any() and (block["terminal"] | block["timeout"])[-1]


COLUMNS = st.sampled_from([*FLOATS, *FLAGS, "infos/qpos", "infos/qvel"])
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 6, 11]), max_size=3).map(tuple)


@examples(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    shapes=st.dictionaries(COLUMNS, SHAPES, min_size=1, max_size=2),
    number_type=st.sampled_from(["f2", "f4", "f8", "i1", "i8", "u8", "?"]),
)
def test_columns_of_any_shape_are_read_or_refused_and_nothing_else(shapes, number_type):
    """One or two columns are of any shape and type, the others those of a good file with two rows."""
    columns = hopper_columns([(2, "unfinished")])
    columns |= {key: np.ones(shape, number_type) for key, shape in shapes.items()}
    with tempfile.TemporaryDirectory() as folder:
        read_or_refused(write_hdf5(Path(folder) / NAME, columns), export_to=Path(folder) / "out")


def read_or_refused(path: Path, export_to: Path) -> None:
    """An exception other than InputError fails the test."""
    try:
        check_rows(path)
    except InputError as error:
        assert str(path) in str(error)
        return
    export(ExportSettings(source=f"hdf5:{path}"), export_to)


# --- files that reach out of themselves -------------------------------------------------------------------------


def test_link_to_another_file_is_not_followed(tmp_path, refused):
    """Although it is there and would fit."""
    other = write_hdf5(tmp_path / "other.hdf5", hopper_columns())
    path = write_hdf5(tmp_path / NAME, hopper_columns() | {"rewards": h5py.ExternalLink(other.name, "/rewards")})
    assert "'rewards' is a link to another file, 'other.hdf5', which is not followed" in refused(path)


def test_link_beside_the_columns_is_not_followed_either(tmp_path, refused):
    other = write_hdf5(tmp_path / "other.hdf5", hopper_columns())
    path = write_hdf5(tmp_path / NAME, hopper_columns())
    with h5py.File(path, "a") as file:
        file["extra/deep"] = h5py.ExternalLink(str(other), "/")
    assert "'extra/deep' is a link to another file" in refused(path)


def test_numbers_of_another_file_are_not_read(tmp_path, refused):
    """Neither raw bytes of any file (external storage) nor another data set's (virtual ones)."""
    secret = tmp_path / "secret"
    secret.write_bytes(np.zeros(ROWS, "f4").tobytes())
    path = write_hdf5(tmp_path / NAME, without(hopper_columns(), "rewards"))
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (ROWS,), "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    assert "'rewards' takes its numbers from other files, which are not read" in refused(path)
    other = write_hdf5(tmp_path / "other.hdf5", hopper_columns())
    path = write_hdf5(tmp_path / NAME, without(hopper_columns(), "rewards"))
    with h5py.File(path, "a") as file:
        layout = h5py.VirtualLayout((ROWS,), "f4")
        layout[:] = h5py.VirtualSource(str(other), "rewards", (ROWS,))
        file.create_virtual_dataset("rewards", layout)
    assert "'rewards' takes its numbers from other files, which are not read" in refused(path)


def test_array_that_would_fill_the_memory_is_refused(tmp_path, refused):
    path = write_hdf5(tmp_path / NAME, without(hopper_columns(), "rewards"))
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (2**36,), "f4", chunks=(2**16,), compression="gzip")
    assert f"'rewards' claims {2**38} bytes in a file of" in refused(path)
