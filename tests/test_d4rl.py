"""d4rl's own API: its scores are ours, its names run on today's MuJoCo, its files are fetched whole or refused."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hdf5_files import REQUIRED, hopper_columns, without, write_hdf5
from loopback_server import Answer, LoopbackServer, loopback_server

from dawm.config import EnvironmentSettings, ExportSettings
from dawm.data.export import export
from dawm.data.sealed import open_sealed
from dawm.data.transitions import read_transitions
from dawm.environments.d4rl import NAMES, OTHER_SIMULATORS, LocomotionEnv, dataset_path, dataset_url, fetch, register
from dawm.environments.tasks import TASKS
from dawm.errors import InputError

import d4rl  # isort: skip  # after the module that imports it without its notices
import gym  # isort: skip

NAME = "hopper-medium-replay-v2"
FILE = "hopper_medium_replay-v2.hdf5"
BERKELEY = "http://rail.eecs.berkeley.edu/datasets/offline_rl"
Refused = Callable[[], str]


@pytest.mark.parametrize("name", sorted(TASKS))
def test_scores_are_those_of_d4rl(name: str) -> None:
    from d4rl import infos

    task = TASKS[name]
    for dataset in ("random", "medium", "medium-replay", "medium-expert", "expert"):
        low, high = (table[f"{name}-{dataset}-v2"] for table in (infos.REF_MIN_SCORE, infos.REF_MAX_SCORE))
        assert (task.reference_min, task.reference_max) == (low, high)
    returns = np.array([low, 1234.5, high])
    assert task.normalized_score(returns) == pytest.approx(100 * (returns - low) / (high - low))


# --- names, addresses, places -----------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """d4rl's folder for this test."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_names_are_fifteen_of_d4rl_s():
    policies = ("random", "medium", "medium-replay", "medium-expert", "expert")
    assert set(NAMES) == {f"{task}-{policy}-v2" for task in TASKS for policy in policies}
    assert len(NAMES) == 15 and set(NAMES) <= set(d4rl.infos.DATASET_URLS)


@pytest.mark.parametrize("name", NAMES)
def test_addresses_and_places_are_d4rl_s(name, cache):
    task, rest = name.split("-", 1)
    file = f"{task}_{rest.removesuffix('-v2').replace('-', '_')}-v2.hdf5"
    assert dataset_url(name) == d4rl.infos.DATASET_URLS[name] == f"{BERKELEY}/gym_mujoco_v2/{file}"
    assert dataset_path(name) == cache / file


@pytest.mark.parametrize("base_url", ["https://mirror.example/d4rl", "https://mirror.example/d4rl/"])
def test_another_base_url_keeps_the_folder_and_the_file(base_url):
    assert dataset_url(NAME, base_url) == f"https://mirror.example/d4rl/gym_mujoco_v2/{FILE}"


@pytest.mark.parametrize("name", ["hopper-medium-v0", "hopper-full-replay-v2", "ant-medium-v2", "hopper", "", "../x"])
@pytest.mark.parametrize("function", [dataset_url, dataset_path, fetch, LocomotionEnv])
def test_other_names_are_refused_with_the_known_ones(function, name):
    with pytest.raises(InputError, match=rf"^{re.escape(name)}: expected one of .* hopper-medium-replay-v2, "):
        function(name)


def test_folder_is_the_one_that_was_set_last(tmp_path, monkeypatch):
    def both() -> tuple[Path, str]:
        return dataset_path(NAME).parent, d4rl.offline_env.DATASET_PATH

    first, second, third = (tmp_path / name for name in "abc")
    monkeypatch.setenv("D4RL_DATASET_DIR", str(first))
    assert both() == (first, str(first)) and first.is_dir()
    monkeypatch.setattr(d4rl.offline_env, "DATASET_PATH", str(first))  # so that it is put back
    d4rl.set_dataset_path(str(second))
    assert both() == (second, str(second))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(third))
    assert both() == (third, str(third))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("D4RL_DATASET_DIR")
    assert both()[0].parts[-2:] == (".d4rl", "datasets")


# --- fetching ---------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackServer]:
    """Serves a small Hopper file, compressed as D4RL's are."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with loopback_server() as running:
        running.file = compressed(tmp_path / "served.hdf5", hopper_columns()).read_bytes()
        yield running


def compressed(path: Path, columns: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in columns.items():
            file.create_dataset(key, data=value, compression="gzip")
        file["metadata/algorithm"] = "SAC"
        file["metadata/policy/fc0/weight"] = np.zeros((4, 11))
    return path


@pytest.fixture
def refused(server: LoopbackServer, cache: Path) -> Refused:
    """Fetches; asserts one sentence with the URL and the way out, and an empty cache; returns the sentence."""

    def run() -> str:
        with pytest.raises(InputError) as caught:
            fetch(NAME, server.url)
        sentence = str(caught.value)
        assert sentence.startswith(f"{server.url}/gym_mujoco_v2/{FILE}: ") and "\n" not in sentence
        assert sentence.endswith(f"; download it elsewhere and put it at {cache / FILE}")
        assert not [path for path in cache.rglob("*") if path.is_file() and path.name != ".lock"]
        return sentence

    return run


def test_file_is_fetched_once(server, cache):
    assert fetch(NAME, server.url) == cache / FILE
    assert (cache / FILE).read_bytes() == server.file
    assert fetch(NAME, server.url) == fetch(NAME) == cache / FILE
    assert [request.path for request in server.requests] == [f"/gym_mujoco_v2/{FILE}"]


def test_page_instead_of_the_file_is_refused(server, refused):
    server.file = b"<html>moved</html>"
    assert "found an HTML page" in refused()


@pytest.mark.parametrize("share", [0.0001, 0.3, 0.7, 0.9999])
def test_file_cut_anywhere_is_refused(server, refused, share):
    server.file = server.file[: int(share * len(server.file)) + 1]
    assert "unusable: expected an HDF5 file, found one that is truncated or damaged (" in refused()


def test_damaged_chunk_is_found_by_reading_through(server, tmp_path, refused):
    with h5py.File(tmp_path / "served.hdf5") as file:
        chunk = file["next_observations"].id.get_chunk_info(0)
    damaged = bytearray(server.file)
    damaged[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    server.file = bytes(damaged)
    assert "truncated or damaged" in refused()


def test_damaged_chunk_after_many_blocks_is_found(server, tmp_path, cache, refused, monkeypatch):
    """No array is read at once: with a block of two rows, the last row's chunk is reached all the same."""
    monkeypatch.setattr("dawm.environments.d4rl.BLOCK_BYTES", 88)
    path = tmp_path / "chunks.hdf5"
    with h5py.File(path, "w") as file:
        for key, value in hopper_columns().items():
            file.create_dataset(key, data=value, compression="gzip", chunks=(1, *value.shape[1:]))
        chunk = file["observations"].id.get_chunk_info(15)
    server.file = path.read_bytes()
    fetch(NAME, server.url).unlink()
    damaged = bytearray(server.file)
    damaged[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    server.file = bytes(damaged)
    assert "truncated or damaged" in refused()


def test_file_damaged_anywhere_is_fetched_or_refused_and_nothing_else(server, cache, refused):
    rng, whole, fetched = np.random.default_rng(0), server.file, 0
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            damaged[place] = rng.integers(256)
        server.file = bytes(damaged)
        try:
            fetch(NAME, server.url).unlink()
            fetched += 1
        except InputError:
            refused()
    assert 0 < fetched < 150  # some bytes mean nothing


def test_array_that_claims_more_than_the_file_can_hold_is_refused(server, tmp_path, refused):
    path = write_hdf5(tmp_path / "claim.hdf5", hopper_columns())
    with h5py.File(path, "a") as file:
        file.create_dataset("infos/qpos", (2**40, 6), "f8", chunks=(16, 6))
    server.file = path.read_bytes()
    assert f"'infos/qpos' claims {2**40 * 6 * 8} bytes" in refused()


@pytest.mark.parametrize("key", REQUIRED)
def test_file_without_a_required_key_is_refused_by_name(server, tmp_path, refused, key):
    server.file = compressed(tmp_path / "less.hdf5", without(hopper_columns(), key)).read_bytes()
    assert f"unusable: key {key!r} is missing; found " in refused()


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("key", ["actions", "rewards", "terminals", "timeouts", "next_observations"])
def test_column_of_another_length_is_refused_by_name(server, tmp_path, refused, key, change):
    columns = hopper_columns()
    columns[key] = np.resize(columns[key], (16 + change, *columns[key].shape[1:]))
    server.file = compressed(tmp_path / "uneven.hdf5", columns).read_bytes()
    assert f"{key!r} has {16 + change} rows, 'observations' 16;" in refused()


@pytest.mark.parametrize("key", REQUIRED)
@pytest.mark.parametrize("value", [np.float32(1), h5py.Empty("f4"), None], ids=["number", "empty", "group"])
def test_what_is_no_column_is_refused(server, tmp_path, refused, key, value):
    columns = without(hopper_columns(), key) | ({f"{key}/inside": np.zeros(16)} if value is None else {key: value})
    server.file = write_hdf5(tmp_path / "strange.hdf5", columns).read_bytes()
    sentence = refused()
    if isinstance(value, np.float32):
        assert f"{key!r} has 0 rows, " in sentence or f"{key!r} has no rows" in sentence
    else:
        assert f"{key!r}: expected an array of numbers" in sentence


@pytest.mark.parametrize("dims", [{"observation_dim": 17}, {"action_dim": 6}])
def test_file_of_another_environment_is_refused(server, tmp_path, refused, dims):
    server.file = write_hdf5(tmp_path / "walker.hdf5", hopper_columns(**dims)).read_bytes()
    assert "for Hopper-v4, found (16, " in refused()


def test_missing_file_on_the_server_is_refused(server, refused):
    server.otherwise = Answer(status=404)
    assert "found HTTP status 404" in refused()


def test_without_network_the_sentence_says_where_the_file_belongs(cache):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        base_url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(InputError) as caught:
        fetch(NAME, base_url)
    assert str(caught.value).startswith(f"{base_url}/gym_mujoco_v2/{FILE}: expected the complete file, found no conn")
    assert str(caught.value).endswith(f"; download it elsewhere and put it at {cache / FILE}")


def test_file_that_d4rl_s_own_download_broke_off_is_refused(server, cache):
    cache.mkdir()
    (cache / FILE).write_bytes(server.file[: len(server.file) // 2])
    with pytest.raises(InputError, match=f"^{re.escape(str(cache / FILE))}: .*damaged.*; remove it, and it is downl"):
        fetch(NAME, server.url)
    assert server.requests == [] and (cache / FILE).exists()


# --- gym environments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_the_simulator_s(name):
    environment, simulator = gym.make(name), TASKS[name.split("-")[0]].make()
    assert isinstance(environment.unwrapped, d4rl.offline_env.OfflineEnv)
    for ours, theirs in (
        (environment.observation_space, simulator.observation_space),
        (environment.action_space, simulator.action_space),
    ):
        assert isinstance(ours, gym.spaces.Box) and ours.dtype == theirs.dtype
        np.testing.assert_array_equal([ours.low, ours.high], [theirs.low, theirs.high])
    rng = np.random.default_rng(0)
    for seed in (3, 4, None):  # None goes on with the random numbers of the seed before
        (found, found_info), (expected, expected_info) = environment.reset(seed=seed), simulator.reset(seed=seed)
        np.testing.assert_array_equal(found, expected)
        assert found_info == expected_info
        for _ in range(50):
            action = rng.uniform(-1, 1, environment.action_space.shape).astype("f4")
            (found, *found_rest), (expected, *expected_rest) = environment.step(action), simulator.step(action)
            np.testing.assert_array_equal(found, expected)
            assert found_rest == expected_rest
            if found_rest[1]:
                break
    environment.close()


def test_actions_are_clipped_as_by_d4rl():
    """The simulator charges for the size of an action that it does not carry out."""
    outcomes = []
    for action in ([3.0, -0.5, -7.0], [1.0, -0.5, -1.0]):
        environment = gym.make(NAME)
        environment.reset(seed=0)
        observation, reward, *_ = environment.step(np.array(action, "f4"))
        outcomes.append([*observation, reward])
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("limit", [1000, 1010, 7])
def test_episodes_end_at_the_limit_of_gym(limit):
    environment = gym.make("halfcheetah-medium-v2", **({} if limit == 1000 else {"max_episode_steps": limit}))
    environment.reset(seed=0)
    action = np.zeros(6, "f4")
    truncated = [environment.step(action)[3] for _ in range(limit)]
    assert truncated == [False] * (limit - 1) + [True]


def test_step_before_reset_is_refused():
    with pytest.raises(gym.error.ResetNeeded):
        gym.make(NAME).step(np.zeros(3, "f4"))


def test_close_closes_the_simulator(monkeypatch):
    environment, closed = gym.make(NAME), []
    monkeypatch.setattr(environment.unwrapped.simulator, "close", lambda: closed.append(True))
    environment.close()
    assert closed == [True]


@pytest.mark.parametrize("name", NAMES)
def test_get_dataset_returns_the_cached_file_s_arrays(name, cache):
    task = TASKS[name.split("-")[0]]
    columns = hopper_columns(observation_dim=task.observation_dim, action_dim=task.action_dim, seed=NAMES.index(name))
    write_hdf5(dataset_path(name), columns)
    found = gym.make(name).get_dataset()
    assert set(found) == set(columns)
    for key, value in columns.items():
        np.testing.assert_array_equal(found[key], value)
        assert found[key].dtype == value.dtype


def test_get_dataset_fetches_what_is_not_there(server, cache):
    found = gym.make(NAME, base_url=server.url).get_dataset()
    np.testing.assert_array_equal(found["observations"], hopper_columns()["observations"])
    assert (cache / FILE).exists() and len(server.requests) == 1


def test_get_dataset_hands_nothing_damaged_to_d4rl(server, cache):
    server.file = server.file[:-100]
    with pytest.raises(InputError, match="truncated or damaged"):
        gym.make(NAME, base_url=server.url).get_dataset()
    assert not (cache / FILE).exists()


@pytest.mark.parametrize("kind", [str, Path])
def test_get_dataset_reads_another_file_on_request(tmp_path, cache, kind):
    columns = hopper_columns(seed=9)
    found = gym.make(NAME).get_dataset(h5path=kind(write_hdf5(tmp_path / "mine.hdf5", columns)))
    np.testing.assert_array_equal(found["actions"], columns["actions"])


@pytest.mark.parametrize("name", NAMES)
def test_normalized_scores_are_d4rl_s(name):
    for episode_return in (-50.0, 1234.5, 12135.0):
        score = gym.make(name).get_normalized_score(episode_return)
        assert score == d4rl.get_normalized_score(name, episode_return)
        assert 100 * score == pytest.approx(TASKS[name.split("-")[0]].normalized_score(episode_return))


def test_registering_again_warns_of_nothing(recwarn, capfd):
    register()
    assert not recwarn.list and capfd.readouterr() == ("", "")


# --- d4rl's reader ----------------------------------------------------------------------------------------------


def test_the_row_where_d4rl_s_reader_is_wrong(tmp_path, cache):
    """Row 3 is terminal. d4rl says that the first state of the next episode follows; the file knows better."""
    columns = hopper_columns()
    path = write_hdf5(dataset_path(NAME), columns)
    row = int(np.flatnonzero(columns["terminals"])[0])
    true_successor, next_episode = columns["next_observations"][row], columns["observations"][row + 1]
    assert not np.isclose(true_successor, next_episode).any()

    environment = gym.make(NAME)
    theirs = d4rl.qlearning_dataset(environment)
    assert theirs["terminals"][row]
    np.testing.assert_array_equal(theirs["next_observations"][row], next_episode)
    again = d4rl.qlearning_dataset(environment, dataset=environment.get_dataset())
    np.testing.assert_array_equal(again["next_observations"], theirs["next_observations"])

    export(ExportSettings(source=f"hdf5:{path}"), tmp_path / "dataset")
    ours = read_transitions(open_sealed(tmp_path / "dataset", "dataset"))
    assert ours.terminal[row]
    np.testing.assert_array_equal(ours.next_observation[row], true_successor)


def test_d4rl_s_reader_drops_timed_out_rows_and_the_last_one(cache):
    columns = hopper_columns()  # 16 rows, row 8 is a timeout
    write_hdf5(dataset_path(NAME), columns)
    found = d4rl.qlearning_dataset(gym.make(NAME))
    kept = [row for row in range(16) if row not in (8, 15)]
    np.testing.assert_array_equal(found["observations"], columns["observations"][kept])
    np.testing.assert_array_equal(found["terminals"], columns["terminals"][kept])


def test_d4rl_s_reader_counts_steps_where_the_file_has_no_timeouts(cache):
    """It asks the environment for its limit, by a name that gym's wrappers hide."""
    write_hdf5(dataset_path(NAME), without(hopper_columns(), "timeouts"))
    assert len(d4rl.qlearning_dataset(gym.make(NAME))["rewards"]) == 15


# --- importing --------------------------------------------------------------------------------------------------


def python(program: str, tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the program in a new process, in which modules of `tmp_path` come first."""
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "D4RL_DATASET_DIR": str(tmp_path / "cache"), **variables}
    environment.pop("D4RL_SUPPRESS_IMPORT_ERROR", None)
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_import_says_nothing_and_leaves_the_environment_as_it_was(tmp_path):
    program = """
        import os, sys
        before = dict(os.environ)
        import dawm.environments.d4rl
        import d4rl, gym
        gym.make("hopper-medium-v2").reset(seed=0)
        assert {**before, "SDL_AUDIODRIVER": 0, "PYGAME_HIDE_SUPPORT_PROMPT": 0}.keys() >= os.environ.keys()
        assert "mujoco_py" not in sys.modules and "gym_notices" not in sys.modules
    """
    done = python(program, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("simulator", OTHER_SIMULATORS)
def test_simulator_that_is_installed_but_broken_is_not_met(tmp_path, simulator):
    (tmp_path / f"{simulator}.py").write_text("raise Exception('You appear to be missing MuJoCo')\n")
    plain = python("import d4rl", tmp_path)
    assert plain.returncode == 1 and plain.stderr.endswith("Exception: You appear to be missing MuJoCo\n")
    program = f"""
        import dawm.environments.d4rl, gym
        gym.make("hopper-medium-v2").reset(seed=0)
        try:
            import {simulator}
        except Exception as error:
            print(error)
    """
    done = python(program, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "You appear to be missing MuJoCo\n", "")


def test_mujoco_py_that_was_imported_before_stays(tmp_path):
    (tmp_path / "mujoco_py.py").write_text("works = True\n")
    program = """
        import mujoco_py as mine
        import dawm.environments.d4rl, gym
        import mujoco_py
        assert mujoco_py is mine
        from gym.envs.mujoco import mujoco_env
        assert mujoco_env.mujoco_py is mine
        gym.make("hopper-medium-v2").reset(seed=0)
    """
    done = python(program, tmp_path)
    assert done.returncode == 0, done.stderr


def test_d4rl_that_was_imported_before_runs_too(tmp_path):
    program = """
        import d4rl, gym, os
        os.environ["D4RL_DATASET_DIR"] = os.environ["LATER"]
        import dawm.environments.d4rl
        gym.make("hopper-medium-v2").reset(seed=0)
        print(dawm.environments.d4rl.dataset_path("hopper-medium-v2"))
    """
    later = tmp_path / "later"
    done = python(
        program, tmp_path, HOME=str(tmp_path), D4RL_DATASET_DIR=str(tmp_path / ".d4rl/datasets"), LATER=str(later)
    )
    assert (done.returncode, done.stdout) == (0, f"{later}/hopper_medium-v2.hdf5\n"), done.stderr


def test_missing_d4rl_is_one_sentence(tmp_path):
    done = python("import sys; sys.modules['d4rl'] = None; import dawm.environments.d4rl", tmp_path)
    assert "InputError: expected d4rl and gym (" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].endswith("pip install --no-deps d4rl==1.1 gym==0.26.2")


def test_cache_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "cache"
    done = python("import dawm.environments.d4rl", tmp_path, D4RL_DATASET_DIR=str(folder))
    assert f"InputError: {folder}: expected a folder for D4RL's files (" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].endswith("name another in D4RL_DATASET_DIR")


# --- the source d4rl/NAME -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_export_holds_the_rows_that_get_dataset_gives(name, cache, tmp_path):
    task = TASKS[name.split("-")[0]]
    columns = hopper_columns(observation_dim=task.observation_dim, action_dim=task.action_dim, seed=NAMES.index(name))
    write_hdf5(dataset_path(name), columns)
    export(ExportSettings(source=f"d4rl/{name}"), tmp_path / "dataset")
    sealed = open_sealed(tmp_path / "dataset", "dataset")
    ours, theirs = read_transitions(sealed), gym.make(name).get_dataset()
    np.testing.assert_array_equal(ours.observation, theirs["observations"])
    np.testing.assert_array_equal(ours.next_observation, theirs["next_observations"])
    np.testing.assert_array_equal(ours.action, theirs["actions"])
    np.testing.assert_array_equal(ours.reward, theirs["rewards"])
    np.testing.assert_array_equal(ours.terminal, theirs["terminals"])
    facts = sealed.metadata
    assert (facts["source"], facts["environment"]) == (f"d4rl/{name}", task.environment)
    assert (facts["reference_min"], facts["reference_max"]) == (task.reference_min, task.reference_max)


def test_export_downloads_from_the_base_url_of_the_config(server, cache, tmp_path):
    export(ExportSettings(source=f"d4rl/{NAME}", base_url=server.url), tmp_path / "dataset")
    assert open_sealed(tmp_path / "dataset", "dataset").metadata["rows"] == 16
    assert (cache / FILE).exists() and len(server.requests) == 1


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"source": "d4rl/hopper-medium-v0"}, "source: expected one of d4rl/hopper-random-v2, "),
        ({"source": "d4rl/"}, "source: expected one of d4rl/hopper-random-v2, "),
        ({"environment": EnvironmentSettings(id="Hopper-v5")}, "environment: expected null or {id: Hopper-v4}"),
        ({"transitions": 1000}, "transitions: expected null for the source d4rl/"),
    ],
)
def test_source_that_makes_no_sense_is_refused_before_any_download(server, cache, tmp_path, chosen, sentence):
    with pytest.raises(InputError) as refused:
        export(ExportSettings(**{"source": f"d4rl/{NAME}", **chosen}), tmp_path / "dataset")
    assert str(refused.value).startswith(sentence) and not server.requests
    assert not (tmp_path / "dataset").exists()
