"""Shards, sealed folders, weights and the files beneath: whole or refused by name."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hdf5_files import hopper_columns, write_hdf5
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save_file

from dawm.config import ExportSettings, TD3BCSettings
from dawm.data.export import export
from dawm.data.files import only_writer, whole_file, write_json
from dawm.data.sealed import open_sealed, seal
from dawm.data.transitions import (
    Transitions,
    number_episodes,
    parse_shard,
    read_transitions,
    shard_identity,
    write_shard,
)
from dawm.errors import InputError
from dawm.inverse_dynamics import load_inverse_dynamics
from dawm.layout import shard_name
from dawm.offline_rl.policy import load_policy
from dawm.offline_rl.training import train_policy
from dawm.world_model.training import load_world_model

ROOT = Path(__file__).resolve().parents[1]
VECTORS = ["observation", "action", "next_observation"]
SCALARS = ["reward", "discount", "terminal", "timeout", "episode", "step", "source_row", "horizon_step"]


def refusal(attempt: Callable[[], object]) -> str:
    """The sentence of the InputError that `attempt` must raise: one line."""
    with pytest.raises(InputError) as caught:
        attempt()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- transitions and shards -------------------------------------------------------------------------------------


def some_transitions(rows: int, states: tuple[str, ...] = ("qpos", "qvel"), seed: int = 0) -> Transitions:
    """Any bit pattern that is a number, the largest and smallest integers, flags of both kinds."""
    rng = np.random.default_rng(seed)

    def floats(*shape: int) -> np.ndarray:
        values = rng.normal(size=shape).astype("f4")
        values.ravel()[: values.size // 2] *= np.float32(1e-42)  # subnormal, some of them -0.0
        return values

    def integers(kind: str) -> np.ndarray:
        limits = np.iinfo(kind)
        return rng.integers(limits.min, limits.max, size=rows, dtype=kind, endpoint=True)

    return Transitions(
        observation=floats(rows, 11),
        action=floats(rows, 3),
        reward=floats(rows),
        next_observation=floats(rows, 11),
        discount=floats(rows),
        terminal=rng.random(rows) < 0.5,
        timeout=rng.random(rows) < 0.5,
        episode=integers("i4"),
        step=integers("i4"),
        source_row=integers("i8"),
        horizon_step=integers("i2"),
        qpos=rng.normal(size=(rows, 6)) if "qpos" in states else None,
        qvel=rng.normal(size=(rows, 6)) if "qvel" in states else None,
    )


@pytest.mark.parametrize("states", [(), ("qpos",), ("qpos", "qvel")])
@pytest.mark.parametrize("rows", [0, 1, 7, 1000])
def test_shard_comes_back_bit_for_bit(tmp_path, rows, states):
    written = some_transitions(rows, states)
    path = tmp_path / "shard.parquet"
    write_shard(path, written, "whose it is")
    read = parse_shard(path.read_bytes(), path)
    for name, column in written.columns().items():
        found = read.columns()[name]
        if column is None:
            assert found is None, name
        else:
            assert (found.dtype, found.shape) == (column.dtype, column.shape), name
            assert found.tobytes() == column.tobytes(), name
    assert shard_identity(path) == "whose it is"


def test_equal_transitions_make_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_shard(tmp_path / name, some_transitions(50))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table]) -> bytes:
    """A good shard after a change of its table, as bytes."""
    write_shard(path, some_transitions(6))
    sink = pa.BufferOutputStream()
    pq.write_table(change(pq.read_table(path)), sink)
    return sink.getvalue().to_pybytes()


def replaced(name: str, column: pa.Array) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, column)


@pytest.mark.parametrize("name", VECTORS + SCALARS)
def test_shard_without_a_column_is_refused_by_name(tmp_path, name):
    path = tmp_path / "shard.parquet"
    content = rewritten(path, lambda table: table.drop_columns([name]))
    message = refusal(lambda: parse_shard(content, path))
    assert str(path) in message and f"{name!r} is missing" in message


@pytest.mark.parametrize("name", VECTORS + SCALARS + ["qpos", "qvel"])
def test_shard_with_texts_in_a_column_is_refused_by_name(tmp_path, name):
    path = tmp_path / "shard.parquet"
    content = rewritten(path, replaced(name, pa.array(["1"] * 6)))
    message = refusal(lambda: parse_shard(content, path))
    assert str(path) in message and repr(name) in message and "found string" in message


WRONG_COLUMNS = {
    "float64 elements": ("observation", pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(66)), 11)),
    "lists of any length": ("action", pa.array([[0.0]] * 6, pa.list_(pa.float32()))),
    "numbers for vectors": ("next_observation", pa.array(np.zeros(6, "f4"))),
    "vectors for numbers": ("reward", pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(6, "f4")), 1)),
    "float32 states": ("qpos", pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(36, "f4")), 6)),
    "float64 reward": ("reward", pa.array(np.zeros(6))),
    "integer flags": ("terminal", pa.array(np.zeros(6, "i4"))),
    "int64 episodes": ("episode", pa.array(np.zeros(6, "i8"))),
    "int32 rows": ("source_row", pa.array(np.zeros(6, "i4"))),
}


@pytest.mark.parametrize("kind", WRONG_COLUMNS)
def test_shard_with_another_type_in_a_column_is_refused_by_name(tmp_path, kind):
    path, (name, column) = tmp_path / "shard.parquet", WRONG_COLUMNS[kind]
    content = rewritten(path, replaced(name, column))
    message = refusal(lambda: parse_shard(content, path))
    found = str(column.type).replace("item", "element")  # Parquet's name for it
    assert str(path) in message and f"column {name!r}: expected" in message and message.endswith(f"found {found}")


HOLES = {
    "observation": pa.array([[0.0] * 11] * 5 + [None], pa.list_(pa.float32(), 11)),
    "reward": pa.array([0.0] * 5 + [None], pa.float32()),
    "terminal": pa.array([True] * 5 + [None]),
    "episode": pa.array([0] * 5 + [None], pa.int32()),
}


@pytest.mark.parametrize("name", HOLES)
def test_shard_with_a_hole_in_a_column_is_refused_by_name(tmp_path, name):
    path = tmp_path / "shard.parquet"
    content = rewritten(path, replaced(name, HOLES[name]))
    message = refusal(lambda: parse_shard(content, path))
    assert str(path) in message and repr(name) in message


def test_shard_with_a_column_twice_is_refused(tmp_path):
    path = tmp_path / "shard.parquet"
    content = rewritten(path, lambda table: table.append_column("reward", pa.array(np.zeros(6, "f4"))))
    assert str(path) in refusal(lambda: parse_shard(content, path))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1PAR1", b"no Parquet at all", bytes(1000)])
def test_shard_that_is_no_parquet_is_refused_by_name(tmp_path, content):
    path = tmp_path / "shard.parquet"
    path.write_bytes(content)
    assert str(path) in refusal(lambda: parse_shard(content, path))
    assert str(path) in refusal(lambda: shard_identity(path))


def test_shard_cut_anywhere_is_refused_by_name(tmp_path):
    path = tmp_path / "shard.parquet"
    write_shard(path, some_transitions(20))
    whole = path.read_bytes()
    for length in range(1, len(whole), 150):
        path.write_bytes(whole[:length])
        message = refusal(lambda length=length: parse_shard(whole[:length], path))
        assert f"{path}: expected a Parquet file" in message, length
        assert str(path) in refusal(lambda: shard_identity(path)), length


def test_shard_whose_column_name_is_no_text_is_refused_by_name(tmp_path):
    path = tmp_path / "shard.parquet"
    write_shard(path, some_transitions(6))
    content = path.read_bytes().replace(b"discount", b"disco\xff\xfet")
    message = refusal(lambda: parse_shard(content, path))
    assert str(path) in message


def test_shards_are_read_in_order_whatever_their_number():
    names = [shard_name(number, 100_001) for number in (0, 9_999, 10_000, 99_999, 100_000)]
    assert sorted(names) == names


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.lists(st.booleans(), max_size=40))
def test_episodes_are_numbered_from_their_last_rows(last):
    episode, step = number_episodes(np.array(last, bool))
    assert episode.dtype == step.dtype == np.int32
    expected, number, place = [], 0, 0
    for end in last:
        expected.append((number, place))
        number, place = (number + 1, 0) if end else (number, place + 1)
    assert list(zip(episode.tolist(), step.tolist(), strict=True)) == expected


# --- sealed folders ---------------------------------------------------------------------------------------------


def small_export(folder: Path, output: Path, seed: int = 0) -> Path:
    source = write_hdf5(folder / "hopper_medium-v2.hdf5", hopper_columns(seed=seed))
    export(ExportSettings(source=f"hdf5:{source}", rows_per_shard=8), output)
    return output


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed data set of 16 rows in two shards. Tests change copies of it."""
    folder = tmp_path_factory.mktemp("small")
    return small_export(folder, folder / "dataset")


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "dataset"))


FILES = ["shard-00000-of-00002.parquet", "shard-00001-of-00002.parquet", "metadata.json", "provenance.json"]


def read_everything(folder: Path) -> Transitions:
    return read_transitions(open_sealed(folder, "dataset"))


def test_sealed_data_set_holds_these_files_and_opens(copy):
    assert sorted(path.name for path in copy.iterdir() if path.name != ".lock") == sorted(FILES)
    assert len(read_everything(copy)) == 16


@pytest.mark.parametrize("name", FILES)
def test_file_cut_anywhere_is_refused_by_name(copy, name):
    path = copy / name
    whole = path.read_bytes()
    for length in np.linspace(0, len(whole) - 2, 10).astype(int):  # -2: the seal's last byte is a newline
        path.write_bytes(whole[:length])
        assert str(path) in refusal(lambda: read_everything(copy)), length


@pytest.mark.parametrize("name", FILES)
def test_file_with_one_byte_flipped_anywhere_is_refused_by_name(copy, name):
    path = copy / name
    whole = path.read_bytes()
    footer = range(len(whole) - 8, len(whole))  # of Parquet: the length of the metadata and the magic
    for number, place in enumerate([*np.linspace(0, len(whole) - 1, 60).astype(int), *footer]):
        flipped = bytearray(whole)
        flipped[place] ^= (0x01, 0x80, 0xFF)[number % 3]
        path.write_bytes(flipped)
        assert str(path) in refusal(lambda: read_everything(copy)), place


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_refused_by_name(copy, name):
    (copy / name).unlink()
    message = refusal(lambda: read_everything(copy))
    assert str(copy) in message and name in message


@pytest.mark.parametrize("name", FILES)
def test_folder_in_place_of_a_file_is_refused_by_name(copy, name):
    (copy / name).unlink()
    (copy / name).mkdir()
    message = refusal(lambda: read_everything(copy))
    assert str(copy) in message and name in message


@pytest.mark.parametrize("name", FILES)
def test_file_of_another_data_set_is_refused_by_name(copy, tmp_path, name):
    other = small_export(tmp_path / "source", tmp_path / "other", seed=1)
    shutil.copy(other / name, copy / name)
    if name == "provenance.json":  # another data set's seal does not fit this one's files
        assert str(copy / "metadata.json") in refusal(lambda: read_everything(copy))
    else:
        assert str(copy / name) in refusal(lambda: read_everything(copy))


def test_two_shards_of_one_data_set_cannot_change_places(copy):
    first, second = copy / FILES[0], copy / FILES[1]
    first.rename(copy / "aside")
    second.rename(first)
    (copy / "aside").rename(second)
    assert str(first) in refusal(lambda: read_everything(copy))


def test_seal_that_was_adapted_by_hand_is_refused(copy):
    provenance = json.loads((copy / "provenance.json").read_text())
    provenance["settings"]["seed"] = 1
    write_json(copy / "provenance.json", provenance)
    assert str(copy / "provenance.json") in refusal(lambda: read_everything(copy))


@pytest.mark.parametrize("content", ["[]", "null", '"seal"', "{}", '{"digest": "0"}', "{" * 3])
def test_seal_of_another_form_is_refused(copy, content):
    (copy / "provenance.json").write_text(content)
    assert str(copy / "provenance.json") in refusal(lambda: read_everything(copy))


def test_additional_file_does_no_harm(copy):
    before = read_everything(copy)
    (copy / "shard-00002-of-00003.parquet").write_bytes(b"a stranger")
    (copy / "notes.txt").write_text("mine")
    after = read_everything(copy)
    assert after.observation.tobytes() == before.observation.tobytes()


def test_unsealed_file_is_not_read_through_the_seal(copy):
    (copy / "notes.txt").write_text("mine")
    message = refusal(lambda: open_sealed(copy, "dataset").read("notes.txt"))
    assert str(copy / "notes.txt") in message


def test_folder_of_another_kind_is_refused(copy):
    message = refusal(lambda: open_sealed(copy, "policy"))
    assert str(copy) in message and "policy" in message and "dataset" in message


@pytest.mark.parametrize("kind", ["nothing", "a folder", "a file"])
def test_folder_without_a_seal_is_refused(tmp_path, kind):
    folder = tmp_path / "dataset"
    if kind == "a folder":
        folder.mkdir()
    if kind == "a file":
        folder.write_text("")
    message = refusal(lambda: open_sealed(folder, "dataset"))
    assert str(folder) in message and "dataset" in message and "provenance.json" in message


def test_equal_inputs_give_equal_folders(tmp_path):
    for name in ("a", "b"):
        small_export(tmp_path, tmp_path / name)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_collecting_twice_gives_equal_folders(tmp_path):
    chosen = ExportSettings(source="local/hopper-medium-replay", transitions=1000, rows_per_shard=500)
    for name in ("a", "b"):
        export(chosen, tmp_path / name)
    names = [sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in ("a", "b")]
    assert names[0] == names[1] and len([name for name in names[0] if name.endswith(".parquet")]) == 2
    for name in names[0]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_provenance_leads_back_to_settings_seed_and_versions(small):
    sealed = open_sealed(small, "dataset")
    assert sealed.provenance["settings"]["source"].startswith("hdf5:")
    assert sealed.provenance["settings"]["held_out_fraction"] == 0.1  # a default, spelled out
    assert sealed.provenance["seed"] == 0
    assert {"dawm", "python", "torch", "mujoco"} <= sealed.provenance["versions"].keys()


def test_digest_stands_for_every_file_setting_and_input(tmp_path):
    (tmp_path / "a.csv").write_text("1")

    def digest(**changes: object) -> str:
        chosen: dict = {"files": ["a.csv"], "settings": {"x": 1}, "metadata": {"y": 1}, "inputs": {}, "seed": 0}
        seal(tmp_path, "tables", **(chosen | changes))
        return open_sealed(tmp_path, "tables").digest

    first = digest()
    assert digest() == first
    data = open_sealed(tmp_path, "tables")
    changed = [
        digest(settings={"x": 2}),
        digest(metadata={"y": 2}),
        digest(seed=1),
        digest(inputs={"dataset": data}),
        digest(files=[]),
    ]
    (tmp_path / "a.csv").write_text("2")
    changed.append(digest())
    assert len({first, *changed}) == 7


def reseal(folder: Path, **inputs: Path) -> None:
    """Seals a folder's present files again, as if a stage had written them; inputs: sealed data sets."""
    sealed = open_sealed(folder, json.loads((folder / "provenance.json").read_text())["kind"])
    kind, facts = sealed.provenance["kind"], {key: value for key, value in sealed.metadata.items() if key != "kind"}
    seal(
        folder,
        kind,
        files=sealed.files,
        metadata=facts,
        settings=sealed.provenance["settings"],
        seed=sealed.provenance["seed"],
        inputs={name: open_sealed(path, "dataset") for name, path in inputs.items()},
    )


@pytest.mark.parametrize("name", VECTORS)
def test_shard_of_other_dimensions_than_metadata_s_is_refused_by_name(copy, name):
    path = copy / FILES[1]
    table = pq.read_table(path)
    narrow = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2 * len(table), "f4")), 2)
    pq.write_table(replaced(name, narrow)(table), path)
    reseal(copy)
    assert str(path) in refusal(lambda: read_everything(copy))


# --- weights ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed policy after 20 steps."""
    folder = tmp_path_factory.mktemp("policy")
    chosen = TD3BCSettings(
        gradient_steps=20, batch_size=16, hidden=8, evaluate_every=20, evaluation_episodes=1, checkpoint_every=20
    )
    train_policy("td3_bc", dataset, None, chosen, 1.0, folder, seed=0)
    return folder


MODELS = {
    "world_model": ("model.safetensors", load_world_model),
    "inverse_dynamics": ("model.safetensors", load_inverse_dynamics),
    "policy": ("policy.safetensors", load_policy),
}
Tensors = dict[str, torch.Tensor]


def first_matrix(tensors: Tensors) -> str:
    """One that is not square: turned, it has another shape."""
    return next(name for name in sorted(tensors) if tensors[name].dim() == 2 and len(set(tensors[name].shape)) == 2)


def widened(tensors: Tensors) -> str:
    name = first_matrix(tensors)
    tensors[name] = torch.zeros(tensors[name].shape[0], tensors[name].shape[1] + 1)
    return name


def turned(tensors: Tensors) -> str:
    name = first_matrix(tensors)
    tensors[name] = tensors[name].T.contiguous()
    return name


def missing(tensors: Tensors) -> str:
    name = first_matrix(tensors)
    del tensors[name]
    return name


def additional(tensors: Tensors) -> str:
    tensors["stranger"] = torch.zeros(1)
    return "stranger"


def integers(tensors: Tensors) -> str:
    name = first_matrix(tensors)
    tensors[name] = tensors[name].int()
    return name


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[[Path], object]]:
    """A copy of a sealed model: its weights' path, and its loader."""
    file, loader = MODELS[request.param]
    folder = shutil.copytree(request.getfixturevalue(request.param), tmp_path / request.param)
    return Path(folder) / file, loader


def test_model_loads_from_its_sealed_folder(model):
    path, loader = model
    _, sealed = loader(path.parent)
    assert path.name in sealed.files


@pytest.mark.parametrize("change", [widened, turned, missing, additional, integers])
def test_weights_that_do_not_fit_are_refused_by_name(model, dataset, change):
    path, loader = model
    tensors = load(path.read_bytes())  # not mapped into memory: the file is rewritten
    name = change(tensors)
    save_file(tensors, path)
    reseal(path.parent, dataset=dataset)
    message = refusal(lambda: loader(path.parent))
    assert str(path) in message and repr(name) in message


@pytest.mark.parametrize("kind", ["cut", "empty", "pickle", "text"])
def test_weights_that_are_no_safetensors_are_refused_by_name(model, dataset, kind):
    path, loader = model
    if kind == "pickle":
        torch.save(load(path.read_bytes()), path)
    else:
        path.write_bytes({"cut": path.read_bytes()[:-1], "empty": b"", "text": b"weights" * 100}[kind])
    reseal(path.parent, dataset=dataset)
    message = refusal(lambda: loader(path.parent))
    assert f"{path}: expected a safetensors file" in message


def test_weights_that_were_altered_after_sealing_are_refused_by_name(model):
    path, loader = model
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert str(path) in refusal(lambda: loader(path.parent))


def test_model_of_another_kind_is_refused(world_model, inverse_dynamics, policy):
    pairs = [(world_model, load_policy), (inverse_dynamics, load_world_model), (policy, load_inverse_dynamics)]
    for folder, loader in pairs:
        message = refusal(lambda folder=folder, loader=loader: loader(folder))
        assert str(folder) in message and "of kind" in message


# --- files ------------------------------------------------------------------------------------------------------


def test_whole_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "made" / "file.txt"
    with whole_file(path) as part:
        part.write_text("half")
        assert not path.exists()
        part.write_text("whole")
    assert path.read_text() == "whole"
    assert [found.name for found in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_interrupted_writing_leaves_neither_the_file_nor_its_part(tmp_path, error):
    def interrupted() -> None:
        with whole_file(tmp_path / "file.txt") as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_interrupted_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ValueError), whole_file(path) as part:
        part.write_text("half")
        raise ValueError
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["file.txt"]


def test_whole_file_has_the_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "file.txt") as part:
            part.write_text("whole")
    finally:
        os.umask(before)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o640


def test_equal_values_are_equal_json(tmp_path):
    write_json(tmp_path / "a", {"x": 1, "y": [1.5, None]})
    write_json(tmp_path / "b", {"y": (1.5, None), "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_writer_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    for name in (".model.safetensors.123.part", "model.safetensors", ".checkpoint.safetensors", "a.part"):
        (tmp_path / name).write_text("")
    with only_writer(tmp_path):
        left = {path.name for path in tmp_path.iterdir()} - {".lock"}
        assert left == {".checkpoint.safetensors", "a.part", "model.safetensors"}


WRITER = """
import sys
from pathlib import Path
from dawm.data.files import only_writer
with only_writer(Path(sys.argv[1])):
    print("writing", flush=True)
    sys.stdin.readline()
    with open(Path(sys.argv[1], "log"), "a") as log:
        log.write(sys.argv[2])
"""


@contextmanager
def writer(folder: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder until it is sent a line, and then signs the log."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def let_go(process: subprocess.Popen[str]) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def test_second_writer_waits_until_the_first_lets_go(tmp_path):
    folder = tmp_path / "made"
    with writer(folder, "first ") as first:
        assert first.stdout.readline() == "writing\n"
        with writer(folder, "second ") as second:
            let_go(second)  # were it not waiting, it would sign first
            message = second.stderr.readline()
            assert str(folder) in message and "another process writes here" in message
            assert not (folder / "log").exists()
            let_go(first)
            assert second.wait(timeout=30) == 0
            assert first.wait(timeout=30) == 0
    assert (folder / "log").read_text() == "first second "


def test_killed_writer_holds_nobody_up(tmp_path):
    with writer(tmp_path, "first ") as first:
        assert first.stdout.readline() == "writing\n"
        first.send_signal(signal.SIGKILL)
        first.wait(timeout=30)
        with writer(tmp_path, "second ") as second:
            let_go(second)
            assert second.wait(timeout=30) == 0
            assert second.stderr.read() == ""
    assert (tmp_path / "log").read_text() == "second "


def test_writer_of_another_folder_does_not_wait(tmp_path):
    with writer(tmp_path / "a", "first ") as first:
        assert first.stdout.readline() == "writing\n"
        with only_writer(tmp_path / "b"):
            assert first.poll() is None
