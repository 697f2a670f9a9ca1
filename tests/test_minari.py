"""Minari's data sets: what Minari itself wrote comes back exactly, what does not fit gets one sentence."""

from __future__ import annotations

import copy
import json
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import WrapperSpec
from loopback_server import Answer, loopback_server
from minari.data_collector import EpisodeBuffer
from minari.storage.remotes.cloud_storage import CloudStorage

from dawm.cli import main
from dawm.config import EnvironmentSettings, ExportSettings
from dawm.data.export import export
from dawm.data.sealed import Sealed, open_sealed
from dawm.data.sources import minari as source
from dawm.data.transitions import Transitions, read_transitions
from dawm.environments.tasks import task_of_metadata
from dawm.errors import InputError

NAME = "mujoco/hopper/medium-v0"
ENDS = ("terminal", "timeout", "both", "unfinished")
LENGTHS = (4, 5, 3, 6)
Refused = Callable[..., str]


class Tilted(gymnasium.Env):
    """Bounds that are not symmetric."""

    observation_space = spaces.Box(-1, 1, (2,), np.float64)
    action_space = spaces.Box(np.array([-0.5, 0.0]), np.array([2.0, 3.0]), dtype=np.float32)


class Jumping(Tilted):
    action_space = spaces.Discrete(3)


class Seeing(Tilted):
    observation_space = spaces.Dict({"state": Tilted.observation_space})


class Unbounded(Tilted):
    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class Painting(Tilted):
    observation_space = spaces.Box(0, 255, (4, 4), np.uint8)


for made in (Tilted, Jumping, Seeing, Unbounded, Painting):
    gymnasium.register(f"Dawm{made.__name__}-v0", f"{__name__}:{made.__name__}", max_episode_steps=50)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Minari's folder for this test."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def episodes(
    ends: tuple[str, ...] = ENDS, widths: tuple[int, int] = (11, 3), float_type: str = "f8", **infos: int
) -> list[dict[str, Any]]:
    """Episodes that end in these ways; `infos` gives the widths of qpos and qvel."""
    rng = np.random.default_rng(0)
    result = []
    for length, end in zip(LENGTHS, ends, strict=False):
        flags = {name: np.zeros(length, bool) for name in ("terminations", "truncations")}
        flags["terminations"][-1] = end in ("terminal", "both")
        flags["truncations"][-1] = end in ("timeout", "both")
        result.append(
            {
                "observations": rng.normal(size=(length + 1, widths[0])).astype(float_type),
                "actions": rng.uniform(-1, 1, (length, widths[1])).astype("f4"),
                "rewards": rng.normal(size=length),
                **flags,
                "infos": {name: rng.normal(size=(length + 1, width)) for name, width in infos.items()} or None,
            }
        )
    return result


def write(buffers: list[dict[str, Any]], env: Any = "Hopper-v5", name: str = NAME, **more: Any) -> Path:
    """A data set as Minari writes it; returns its folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = minari.create_dataset_from_buffers(
            name, [EpisodeBuffer(**buffer) for buffer in buffers], env=env, **more
        )
    return Path(dataset.spec.data_path).parent


def change_metadata(folder: Path, **values: Any) -> None:
    path = folder / "data/metadata.json"
    metadata = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in metadata.items() if value is not None}))


def exported(output: Path, name: str = NAME, **chosen: Any) -> tuple[Transitions, Sealed]:
    export(ExportSettings(source=f"minari/{name}", **chosen), output)
    sealed = open_sealed(output, "dataset")
    return read_transitions(sealed), sealed


@pytest.fixture
def refused(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Exports through the command line; asserts status 2, one line and no output; returns the sentence."""

    def run(name: str = NAME, **chosen: Any) -> str:
        output = tmp_path / "dataset"
        settings = json.dumps({"source": f"minari/{name}", **chosen})
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it would be a second line
            status = main(["export", "--settings", settings, "--output", str(output)])
        lines = capsys.readouterr().err.splitlines()
        assert status == 2
        assert len(lines) == 1 and lines[0].startswith("dawm export: "), lines
        assert not [path for path in output.glob("*") if path.name != ".lock"]
        return lines[0]

    return run


# --- good data sets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_rows", [1, 7, 10_000])
@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_every_column_comes_back_exactly(tmp_path, root, monkeypatch, data_format, block_rows):
    monkeypatch.setattr(source, "BLOCK_ROWS", block_rows)
    buffers = episodes()
    write(buffers, data_format=data_format)
    found, sealed = exported(tmp_path / "out")

    def column(name: str, rows: slice = slice(None)) -> np.ndarray:
        return np.concatenate([buffer[name][rows] for buffer in buffers])

    np.testing.assert_array_equal(found.observation, column("observations", slice(-1)).astype("f4"))
    np.testing.assert_array_equal(found.next_observation, column("observations", slice(1, None)).astype("f4"))
    np.testing.assert_array_equal(found.action, column("actions"))
    np.testing.assert_array_equal(found.reward, column("rewards").astype("f4"))
    assert np.flatnonzero(found.terminal).tolist() == [3, 11]  # a terminal wins where both flags are set
    assert np.flatnonzero(found.timeout).tolist() == [8, 17]
    assert found.discount.tolist() == (1 - found.terminal.astype("f4")).tolist()
    assert found.episode.tolist() == [0] * 4 + [1] * 5 + [2] * 3 + [3] * 6
    assert found.step.tolist() == [step for length in LENGTHS for step in range(length)]
    assert found.qpos is None and found.qvel is None
    facts = sealed.metadata
    assert (facts["rows"], facts["episodes"], facts["terminals"], facts["timeouts"]) == (18, 4, 2, 2)
    assert facts["environment"] == "Hopper-v5" and facts["terminal_successors_known"] is True
    assert facts["unmarked_episode_ends"] == 1
    assert facts["simulator"] == "unknown" and (facts["reference_min"], facts["reference_max"]) == (None, None)


def test_an_episode_longer_than_minari_reads_back_from_arrow_is_refused(root, refused):
    """Minari takes a file's record batches for episodes, and cuts long ones without a word."""
    buffer = episodes(("timeout",))[0]
    longer = {key: np.resize(buffer[key], (200_000, *buffer[key].shape[1:])) for key in ("actions", "rewards")}
    longer |= {key: np.zeros(200_000, bool) for key in ("terminations", "truncations")}
    write([buffer | longer | {"observations": np.zeros((200_001, 11))}, buffer], data_format="arrow")
    assert "episode 0: expected 200000 rows as its 'total_steps' says, found " in refused()


def test_metadata_tells_where_the_data_come_from(tmp_path, root):
    write(
        episodes(),
        author={"Ada"},
        algorithm_name="SAC",
        code_permalink="https://example.org/code",
        requirements=["mujoco==3.2.3", "gymnasium>=1.0.0"],
    )
    _, sealed = exported(tmp_path / "out")
    assert sealed.metadata["source"] == f"minari/{NAME}"
    assert sealed.metadata["simulator"] == "mujoco==3.2.3"
    assert sealed.metadata["minari"] == {
        "author": ["Ada"],
        "algorithm_name": "SAC",
        "code_permalink": "https://example.org/code",
        "minari_version": minari.__version__,
    }


def test_reference_scores_become_the_task_s(tmp_path, root):
    write(episodes(), ref_min_score=-10.5, ref_max_score=3000.0)
    _, sealed = exported(tmp_path / "out")
    assert (sealed.metadata["reference_min"], sealed.metadata["reference_max"]) == (-10.5, 3000.0)
    task = task_of_metadata(sealed.metadata)
    assert task.normalized_score(3000.0) == 100 and task.normalized_score(-10.5) == 0
    assert task.termination is not None and task.layout is not None  # what is known of Hopper-v5 stays


def test_reference_scores_of_another_environment_are_left_out(tmp_path, root):
    write(episodes(), ref_min_score=0.0, ref_max_score=1.0, eval_env="HalfCheetah-v5")
    _, sealed = exported(tmp_path / "out")
    assert sealed.metadata["reference_max"] is None


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"id": "Hopper-v5", "max_episode_steps": 500}, (-10.5, 3000.0)),
        ({"id": "Hopper-v5", "reference_min": 1.0, "reference_max": 2.0}, (1.0, 2.0)),
        ({"id": "Hopper-v4"}, (-20.272305, 3234.3)),
    ],
)
def test_environment_setting_wins(tmp_path, root, chosen, expected):
    write(episodes(), ref_min_score=-10.5, ref_max_score=3000.0)
    _, sealed = exported(tmp_path / "out", environment=EnvironmentSettings(**chosen))
    assert sealed.metadata["environment"] == chosen["id"]
    assert (sealed.metadata["reference_min"], sealed.metadata["reference_max"]) == expected


def test_environment_setting_replaces_a_missing_one(tmp_path, root):
    space = {"observation_space": spaces.Box(-np.inf, np.inf, (11,)), "action_space": spaces.Box(-1, 1, (3,))}
    write(episodes(), env=None, **space)
    _, sealed = exported(tmp_path / "out", environment=EnvironmentSettings(id="Hopper-v5"))
    assert sealed.metadata["environment"] == "Hopper-v5"


def test_arguments_and_time_limit_come_from_the_data_set(tmp_path, root):
    made = gymnasium.make("Hopper-v5", reset_noise_scale=0.1, render_mode="rgb_array", max_episode_steps=77)
    write(episodes(), env=made)
    _, sealed = exported(tmp_path / "out")
    settings = sealed.metadata["environment_settings"]
    assert settings["arguments"] == {"reset_noise_scale": 0.1} and settings["max_episode_steps"] == 77


def test_bounds_need_not_be_symmetric(tmp_path, root):
    buffers = episodes(widths=(2, 2))
    for buffer in buffers:
        buffer["actions"] = np.random.default_rng(1).uniform([-0.5, 0], [2, 3], buffer["actions"].shape)
    buffers[0]["actions"][0] = [-0.5 - 1e-6, 3 + 1e-6]  # beyond by rounding alone
    write(buffers, env="DawmTilted-v0")
    found, _ = exported(tmp_path / "out")
    assert found.action[0].tolist() == [-0.5, 3.0]
    np.testing.assert_array_equal(found.action[1:4], buffers[0]["actions"][1:].astype("f4"))


def test_simulator_states_come_back_in_full_precision(tmp_path, root):
    buffers = episodes(qpos=6, qvel=6)
    write(buffers)
    found, _ = exported(tmp_path / "out")
    for name in ("qpos", "qvel"):
        expected = np.concatenate([buffer["infos"][name][:-1] for buffer in buffers])
        np.testing.assert_array_equal(getattr(found, name), expected)


@pytest.mark.parametrize("infos", [{"qpos": 6}, {"qpos": 9, "qvel": 9}])
def test_simulator_states_that_do_not_tell_all_are_left_out(tmp_path, root, infos):
    write(episodes(**infos))
    found, _ = exported(tmp_path / "out")
    assert found.qpos is None and found.qvel is None


def test_simulator_states_of_some_episodes_are_left_out(tmp_path, root):
    buffers = episodes(qpos=6, qvel=6)
    buffers[2]["infos"] = None
    write(buffers)
    found, _ = exported(tmp_path / "out")
    assert found.qpos is None and len(found) == 18


def test_empty_episodes_are_skipped(tmp_path, root):
    folder = write(episodes())
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        group = file.create_group("episode_4")
        group.attrs.update({"id": 4, "total_steps": 0})
        group["observations"], group["actions"] = np.zeros((1, 11)), np.zeros((0, 3))
        for name in ("rewards", "terminations", "truncations"):
            group[name] = np.zeros(0)
    change_metadata(folder, total_episodes=5)
    found, sealed = exported(tmp_path / "out")
    assert len(found) == 18 and sealed.metadata["episodes"] == 4


# --- downloads --------------------------------------------------------------------------------------------------


def test_data_set_that_is_not_there_is_downloaded_by_minari(tmp_path, root, monkeypatch):
    write(episodes())
    remote = root.rename(tmp_path / "remote")

    class Mirror(CloudStorage):
        """Serves `remote` in place of Hugging Face."""

        def __init__(self, *_: Any) -> None: ...
        def list_datasets(self, prefix=None):
            return [NAME] if NAME.startswith(prefix or "") else []

        def get_dataset_metadata(self, dataset_id):
            return json.loads((remote / dataset_id / "data/metadata.json").read_text())

        def download_dataset(self, dataset_id, path):
            shutil.copytree(remote / dataset_id, path / dataset_id)

        def list_namespaces(self):
            return ["mujoco", "mujoco/hopper"]

        def download_namespace_metadata(self, namespace, path):
            shutil.copy(remote / namespace / "namespace_metadata.json", path / namespace)

        upload_dataset = upload_namespace = NotImplemented

    for module in ("storage.hosting", "namespace"):
        monkeypatch.setattr(f"minari.{module}.get_cloud_storage", lambda **_: Mirror())
    found, _ = exported(tmp_path / "out")
    assert len(found) == 18 and (root / NAME / "data/main_data.hdf5").is_file()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """hub(URL) puts a server in the place of Hugging Face's, where Minari looks for data sets."""

    def put(url: str) -> None:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        # Its client asks for a list of who uses it, once a day, and keeps it in the home folder.
        monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", {})
        monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between attempts

    return put


def test_unknown_id_is_refused_with_the_place_to_put_it(root, refused, hub):
    with loopback_server() as server:
        server.otherwise = Answer(body=b"[]", headers={"Content-Type": "application/json"})
        hub(server.url)
        message = refused("mujoco/hoper/medium-v0")
    assert "minari/mujoco/hoper/medium-v0: not found in" in message and "Couldn't find any version" in message
    assert str(root / "mujoco/hoper/medium-v0") in message and "MINARI_DATASETS_PATH" in message


def test_no_network_is_refused_with_the_place_to_put_it(root, refused, hub):
    hub("http://127.0.0.1:9")
    message = refused()
    assert f"minari/{NAME}: not found in {root / NAME}" in message and "Connection refused" in message
    assert "MINARI_DATASETS_PATH" in message


@pytest.mark.parametrize("name", ["", "hopper", "../hopper-v0", "/etc/hopper-v0", "hf://farama/x-v0", "mujoco/x-v0/"])
def test_id_that_is_none_is_refused(refused, name):
    assert "expected an id such as minari/mujoco/hopper/medium-v0, found minari/" in refused(name)


# --- bad data sets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "what"),
    [
        ("DawmSeeing-v0", "expected observations in a flat Box of floats, found Dict("),
        ("DawmPainting-v0", "expected observations in a flat Box of floats, found Box("),
        ("DawmJumping-v0", "expected actions in a flat Box of floats, found Discrete(3)"),
        ("DawmUnbounded-v0", "expected bounded actions, found Box("),
    ],
)
def test_other_spaces_are_refused(root, refused, environment, what):
    write([], env=environment)
    message = refused()
    assert str(root / NAME) in message and what in message


def test_no_environment_is_refused_with_the_way_out(root, refused):
    space = {"observation_space": spaces.Box(-np.inf, np.inf, (11,)), "action_space": spaces.Box(-1, 1, (3,))}
    write(episodes(), env=None, **space)
    message = refused()
    assert "tells no environment" in message and "set `environment`, for example {id: Hopper-v5}" in message


def test_environment_that_is_not_installed_is_refused(root, refused):
    folder = write(episodes())
    spec = json.loads(json.loads((folder / "data/metadata.json").read_text())["env_spec"])
    change_metadata(folder, env_spec=json.dumps(spec | {"id": "NoSuchHopper-v5"}))
    assert "gymnasium cannot make 'NoSuchHopper-v5'" in refused()


def test_environment_in_wrappers_is_refused(root, refused):
    spec = copy.deepcopy(gymnasium.spec("Hopper-v5"))
    spec.additional_wrappers = (WrapperSpec("Clip", "gymnasium.wrappers:ClipAction", {}),)
    folder = write(episodes())
    change_metadata(folder, env_spec=spec.to_json())
    message = refused()
    assert "found wrappers (Clip)" in message and "set `environment`" in message


@pytest.mark.parametrize("key", ["observation_space", "action_space"])
def test_data_set_does_not_run_the_code_that_it_names(root, refused, tmp_path, key):
    folder = write(episodes())
    spec = {"id": "Evil-v0", "entry_point": "os:mkdir", "kwargs": {"path": str(tmp_path / "made")}}
    change_metadata(folder, env_spec=json.dumps(spec | {"additional_wrappers": []}), **{key: None})
    assert f"key {key!r} is missing" in refused()
    change_metadata(write(episodes(), name="other-v0"), env_spec=json.dumps(spec | {"additional_wrappers": []}))
    assert "gymnasium cannot make 'Evil-v0'" in refused("other-v0")
    change_metadata(root / "other-v0", env_spec=json.dumps({"id": "antigravity:Hopper-v5", "additional_wrappers": []}))
    assert "found the id antigravity:Hopper-v5; set `environment`" in refused("other-v0")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(("environment", "width"), [("HalfCheetah-v5", 17), ("DawmTilted-v0", 2)])
def test_environment_of_other_dimensions_is_refused(root, refused, environment, width):
    write(episodes())
    message = refused(environment={"id": environment})
    assert f"expected observations of {width} numbers for {environment}, found 11" in message


def test_reference_scores_the_wrong_way_round_are_refused(root, refused):
    write(episodes(), ref_min_score=2.0, ref_max_score=1.0)
    assert "expected 'ref_min_score' below 'ref_max_score', found 2.0, 1.0" in refused()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("key", ["observations", "rewards"])
def test_value_that_is_not_finite_is_refused_with_episode_and_row(root, refused, key, value):
    buffers = episodes()
    buffers[1][key][2] = value
    write(buffers)
    message = refused()
    assert str(root / NAME) in message
    assert f"episode 1: {key!r}: expected finite numbers, found others in row 2" in message


def test_action_that_is_not_finite_is_refused(root, refused):
    buffers = episodes()
    buffers[3]["actions"][5] = np.nan
    write(buffers)
    assert "episode 3: 'actions': expected finite numbers, found others in row 5" in refused()


def test_action_out_of_bounds_is_refused_with_episode_and_row(root, refused):
    buffers = episodes()
    buffers[2]["actions"][1, 2] = -1.25
    write(buffers)
    message = refused()
    assert "episode 2: 'actions': expected values in [-1, 1] for Hopper-v5, found -1.25 in row 1" in message


@pytest.mark.parametrize("key", ["observations", "actions", "terminations", "truncations"])
@pytest.mark.parametrize("change", [-1, 1])
def test_lengths_that_do_not_fit_are_refused(root, refused, key, change):
    buffers = episodes()
    value = buffers[0][key]
    buffers[0][key] = np.resize(value, (len(value) + change, *value.shape[1:]))
    write(buffers)
    message = refused()
    assert f"episode 0: {key!r}: expected shape" in message and f"found ({len(value) + change}," in message


def test_rewards_of_another_length_are_refused(root, refused):
    buffers = episodes()
    buffers[0]["rewards"] = buffers[0]["rewards"][:-1]
    write(buffers)
    assert "episode 0: 'observations': expected shape (4, 11) for Hopper-v5 and 3 rewards, found (5, 11)" in refused()


def test_flag_other_than_0_and_1_is_refused(root, refused):
    buffers = episodes()
    buffers[0]["terminations"] = np.full(4, 2)
    write(buffers)
    assert "episode 0: 'terminations': expected 0 or 1, found 2" in refused()


def test_texts_instead_of_numbers_are_refused(root, refused):
    folder = write(episodes())
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        file["episode_0/rewards"] = np.array([b"0.5"] * 4)
    assert "episode 0: 'rewards': expected an array of numbers" in refused()


def test_data_set_without_rows_is_refused(root, refused):
    write([])
    assert "has no rows" in refused()


def test_data_set_of_another_id_is_refused(root, refused):
    write(episodes(), name="other/hopper-v0")
    (root / NAME).parent.mkdir(parents=True)
    (root / "other/hopper-v0").rename(root / NAME)
    assert f"metadata.json: expected the 'dataset_id' {NAME}, found 'other/hopper-v0'" in refused()


def test_data_set_of_another_minari_is_refused(root, refused):
    change_metadata(write(episodes()), minari_version="9.9.9")
    assert "does not support the dataset generated by Minari 9.9.9" in refused()


@pytest.mark.parametrize("content", ["", "[]", "null", '{"dataset_id": ', '{"dataset_id": "mujoco/hopper/medium-v0"}'])
def test_metadata_that_are_none_are_refused(root, refused, content):
    (write(episodes()) / "data/metadata.json").write_text(content)
    assert str(root / NAME) in refused()


@pytest.mark.parametrize("name", ["metadata.json", "main_data.hdf5"])
def test_missing_file_is_refused_with_the_way_out(root, refused, name):
    (write(episodes()) / "data" / name).unlink()
    message = refused()
    assert "No data found in data path" in message and "remove the folder, and it is downloaded again" in message


def test_file_cut_anywhere_is_refused(root, refused):
    path = write(episodes()) / "data/main_data.hdf5"
    whole = path.read_bytes()
    for length in [0, 1, 100, *range(1000, len(whole), len(whole) // 20), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert str(root / NAME) in refused(), length


def test_missing_episode_is_refused(root, refused):
    folder = write(episodes())
    with h5py.File(folder / "data/main_data.hdf5", "a") as file:
        del file["episode_2"]
    assert "episode_2" in refused()


def test_array_that_claims_more_than_the_file_can_hold_is_refused(root, refused):
    path = write(episodes()) / "data/main_data.hdf5"
    with h5py.File(path, "a") as file:
        del file["episode_1/rewards"]
        file["episode_1"].create_dataset("rewards", (2**40,), "f8", chunks=(16,))
    assert f"'episode_1/rewards' claims {2**43} bytes in a file of {path.stat().st_size}" in refused()


def test_file_damaged_anywhere_is_read_or_refused_and_nothing_else(root, refused, tmp_path):
    folder = write(episodes(), ref_min_score=1.0, ref_max_score=2.0) / "data"
    rng, read = np.random.default_rng(0), 0
    for path in (folder / "main_data.hdf5", folder / "metadata.json"):
        whole = path.read_bytes()
        for _ in range(100):
            damaged = bytearray(whole)
            for place in rng.integers(len(whole), size=2):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                rows, _ = exported(tmp_path / "good")
            except InputError:
                refused()
            else:
                read += 1
                assert np.isfinite(rows.observation).all() and (abs(rows.action) <= 1).all()
        path.write_bytes(whole)
    assert 0 < read < 200  # some bytes mean nothing
