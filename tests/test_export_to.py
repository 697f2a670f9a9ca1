"""Files for other people's learners: their readers accept them, find every row and drop what we said they drop."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pandas as pd
import pytest

from dawm.cli import main
from dawm.config import ExportSettings
from dawm.data.export import export
from dawm.data.export_to import export_to
from dawm.data.sealed import PROVENANCE, open_sealed, seal
from dawm.data.transitions import NOT_APPLICABLE, Transitions, parse_shard, read_transitions, write_shard
from dawm.environments.d4rl import LocomotionEnv
from dawm.layout import shard_name

import d4rl  # isort: skip  # after the module that imports it without its notices

LAYOUTS = ("d4rl-hdf5", "minari", "parquet")
Refused = Callable[..., str]
WriteSynthetic = Callable[..., Path]


@pytest.fixture
def write_synthetic(tmp_path: Path, dataset: Path) -> WriteSynthetic:
    """write_synthetic(rows, shards, **metadata): sealed synthetic transitions that grew from `dataset`."""

    def write(rows: Transitions, shards: int = 1, **metadata: Any) -> Path:
        folder = tmp_path / "synthetic"
        names = [shard_name(number, shards) for number in range(shards)]
        for name, part in zip(names, np.array_split(np.arange(len(rows)), shards), strict=True):
            write_shard(folder / name, rows.take(part))
        real = open_sealed(dataset, "dataset")
        facts = {"environment": "Hopper-v4", "observation_dim": 11, "action_dim": 3, "rows": len(rows), "n_step": 1}
        seal(folder, "synthetic", files=names, settings={}, metadata=facts | metadata, inputs={"dataset": real})
        return folder

    return write


def trajectories(lengths: Sequence[int], terminals: Sequence[int] = ()) -> Transitions:
    """Synthetic trajectories of these lengths, each from a row of its own; `terminals` are the rows that are ones."""
    rng = np.random.default_rng(0)
    states = [rng.normal(size=(length + 1, 11)).astype("f4") for length in lengths]
    rows = sum(lengths)
    terminal = np.isin(np.arange(rows), terminals)
    return Transitions(
        observation=np.concatenate([part[:-1] for part in states]),
        action=rng.uniform(-1, 1, (rows, 3)).astype("f4"),
        reward=rng.normal(size=rows).astype("f4"),
        next_observation=np.concatenate([part[1:] for part in states]),
        discount=1 - terminal.astype("f4"),
        terminal=terminal,
        timeout=np.zeros(rows, bool),
        episode=np.full(rows, NOT_APPLICABLE, "i4"),
        step=np.full(rows, NOT_APPLICABLE, "i4"),
        source_row=np.repeat(np.arange(len(lengths)), lengths),
        horizon_step=np.concatenate([np.arange(1, length + 1) for length in lengths]).astype("i2"),
    )


def synthetic_ends(rows: Transitions) -> np.ndarray:
    """bool [n]: last rows of trajectories; the next one starts at horizon step 1."""
    return np.append(rows.horizon_step[1:] == 1, True)


def numbers(sentences: Sequence[str], begins: str) -> list[int]:
    """The numbers in the one sentence that begins so."""
    (sentence,) = [sentence for sentence in sentences if sentence.startswith(begins)]
    return [int(found.replace(",", "")) for found in re.findall(r"(?<![\w.])\d[\d,]*", sentence.removeprefix(begins))]


def read_d4rl(path: Path) -> dict[str, np.ndarray]:
    return LocomotionEnv("hopper-medium-v2").get_dataset(h5path=path)


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command; asserts status 2, one line, and nothing new on the disk; returns the sentence."""

    def run(layout: str, *arguments: Any, output: Path | None = None) -> str:
        before = sorted(tmp_path.rglob("*"))
        target = tmp_path / "target" if output is None else output
        status = main(["export-to", layout, *map(str, arguments), "--output", str(target)])
        found = capsys.readouterr()
        assert status == 2 and not found.out
        assert len(found.err.splitlines()) == 1 and found.err.startswith("dawm export-to: "), found.err
        assert sorted(tmp_path.rglob("*")) == before
        return found.err.strip()

    return run


# --- D4RL -------------------------------------------------------------------------------------------------------


def test_real_rows_come_back_from_d4rl_s_layout(tmp_path, dataset, transitions):
    export_to("d4rl-hdf5", tmp_path / "hopper_again.hdf5", dataset)
    export(ExportSettings(source=f"hdf5:{tmp_path / 'hopper_again.hdf5'}"), tmp_path / "again")
    again = open_sealed(tmp_path / "again", "dataset")
    assert again.metadata["environment"] == "Hopper-v4" and again.metadata["terminal_successors_known"] is True
    for name, column in read_transitions(again).columns().items():
        np.testing.assert_array_equal(column, transitions.columns()[name], err_msg=name)


def test_that_successors_of_terminals_are_unknown_comes_back_too(tmp_path, dataset):
    path = tmp_path / "hopper_again.hdf5"
    export_to("d4rl-hdf5", path, dataset)
    with h5py.File(path, "a") as file:
        file.attrs["terminal_successors_known"] = False
    export(ExportSettings(source=f"hdf5:{path}"), tmp_path / "again")
    assert open_sealed(tmp_path / "again", "dataset").metadata["terminal_successors_known"] is False


@pytest.mark.parametrize("kinds", [("real",), ("synthetic",), ("real", "synthetic")])
def test_d4rl_s_reader_drops_what_we_said(tmp_path, dataset, synthetic, kinds):
    path = tmp_path / "new" / "mixed.hdf5"
    inputs = {"dataset": dataset if "real" in kinds else None, "synthetic": synthetic if "synthetic" in kinds else None}
    sentences = export_to("d4rl-hdf5", path, **inputs)
    columns = read_d4rl(path)
    folders = {"real": (dataset, "dataset"), "synthetic": (synthetic, "synthetic")}
    rows = {kind: read_transitions(open_sealed(*folders[kind])) for kind in kinds}
    total = sum(map(len, rows.values()))

    for key, name in (("observations", "observation"), ("actions", "action"), ("rewards", "reward")):
        expected = np.concatenate([getattr(part, name) for part in rows.values()])
        np.testing.assert_array_equal(columns[key], expected)
        assert columns[key].dtype == np.float32
    successors = np.concatenate([part.next_observation for part in rows.values()])
    np.testing.assert_array_equal(columns["next_observations"], successors)
    assert columns["terminals"].dtype == columns["timeouts"].dtype == np.bool_
    ends = np.concatenate(
        [synthetic_ends(part) if kind == "synthetic" else part.terminal | part.timeout for kind, part in rows.items()]
    )
    np.testing.assert_array_equal(columns["terminals"] | columns["timeouts"], ends)
    assert not (columns["terminals"] & columns["timeouts"]).any()
    assert ("infos/qpos" in columns) == ("infos/qvel" in columns) == (kinds == ("real",))
    with h5py.File(path) as file:
        assert file.attrs["environment"] == "Hopper-v4" and "metadata" not in file
        assert [file.attrs[f"{kind}_rows"] for kind in kinds] == [len(part) for part in rows.values()]

    read = d4rl.qlearning_dataset(None, dataset=columns)
    kept = np.flatnonzero(~columns["timeouts"][:-1])
    np.testing.assert_array_equal(read["observations"], columns["observations"][kept])
    wrong = (read["next_observations"] != columns["next_observations"][kept]).any(1)
    np.testing.assert_array_equal(wrong, read["terminals"])  # wrong at every terminal and nowhere else
    *by_kind, timeouts = numbers(sentences, "d4rl.qlearning_dataset keeps")
    said = dict(zip(kinds, zip(by_kind[::2], by_kind[1::2], strict=True), strict=True))
    assert sum(part[0] for part in said.values()) == len(kept) == len(read["rewards"])
    assert said["real" if "real" in said else "synthetic"][0] == (kept < len(next(iter(rows.values())))).sum()
    assert {kind: part[1] for kind, part in said.items()} == {kind: len(part) for kind, part in rows.items()}
    assert timeouts == columns["timeouts"].sum()
    assert numbers(sentences, "d4rl.qlearning_dataset takes") == [wrong.sum()]

    sequences = list(d4rl.sequence_dataset(None, dataset=columns))
    assert sum(len(sequence["rewards"]) for sequence in sequences) == total
    assert len(sequences) == ends.sum()


@pytest.mark.parametrize(
    ("lengths", "terminals", "kept"),
    [([1] * 20, [], 0), ([7, 7, 6], [], 17), ([7, 7, 6], [13], 18), ([7, 7, 6], [19], 17), ([1], [0], 0)],
)
def test_d4rl_s_reader_keeps_as_many_synthetic_rows_as_we_said(
    tmp_path, write_synthetic, lengths, terminals, kept, capsys
):
    folder = write_synthetic(trajectories(lengths, terminals), shards=min(6, len(lengths) * 2 - 1))
    path = tmp_path / "synthetic.hdf5"
    assert main(["export-to", "d4rl-hdf5", "--synthetic", str(folder), "--output", str(path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"wrote {path}: {sum(lengths)} synthetic rows"
    assert numbers(printed, "d4rl.qlearning_dataset keeps")[:2] == [kept, sum(lengths)]
    read = d4rl.qlearning_dataset(None, dataset=read_d4rl(path))
    assert len(read["rewards"]) == kept
    said_wrong = numbers(printed, "d4rl.qlearning_dataset takes")
    assert said_wrong == [read["terminals"].sum()]


def test_rows_that_do_not_go_on_from_each_other_are_cut_apart(tmp_path, write_synthetic):
    rows = trajectories([7, 7])
    rows.observation[3] += 1  # no longer row 2's successor
    rows.horizon_step[10:] += 1  # a row was filtered out
    sentences = export_to("d4rl-hdf5", tmp_path / "cut.hdf5", synthetic=write_synthetic(rows, shards=5))
    assert np.flatnonzero(read_d4rl(tmp_path / "cut.hdf5")["timeouts"]).tolist() == [2, 6, 9, 13]
    assert numbers(sentences, "ends of episodes that no flag tells") == [1]


def test_trajectories_of_the_same_row_are_two(tmp_path, write_synthetic):
    rows = dataclasses.replace(trajectories([3, 3]), source_row=np.zeros(6, "i8"))
    export_to("d4rl-hdf5", tmp_path / "two.hdf5", synthetic=write_synthetic(rows))
    assert np.flatnonzero(read_d4rl(tmp_path / "two.hdf5")["timeouts"]).tolist() == [2, 5]


def test_files_do_not_depend_on_shards(tmp_path, write_synthetic):
    rows = trajectories([7, 1, 5, 7], terminals=[7])
    contents = []
    for shards in (1, 3, 20):
        path = tmp_path / f"{shards}.hdf5"
        export_to("d4rl-hdf5", path, synthetic=write_synthetic(rows, shards))
        contents.append({key: value.tolist() for key, value in read_d4rl(path).items()})
    assert contents[0] == contents[1] == contents[2]


def test_successors_equal_up_to_rounding_do_not_end_an_episode(tmp_path, transitions, seal_dataset):
    rows = transitions.take(transitions.episode < 2)
    rounded = rows.next_observation * np.float32(1 + 1e-6)
    folder = seal_dataset(dataclasses.replace(rows, next_observation=rounded), [0])
    sentences = export_to("d4rl-hdf5", tmp_path / "rounded.hdf5", folder)
    columns = read_d4rl(tmp_path / "rounded.hdf5")
    np.testing.assert_array_equal(columns["timeouts"], rows.timeout)
    read = d4rl.qlearning_dataset(None, dataset=columns)
    kept = np.flatnonzero(~columns["timeouts"][:-1])
    wrong = (read["next_observations"] != columns["next_observations"][kept]).any(1)
    terminals = int(read["terminals"].sum())
    assert numbers(sentences, "d4rl.qlearning_dataset takes") == [terminals, wrong.sum() - terminals]
    sentences = export_to("minari", tmp_path / "minari", folder, minari_id="rounded-v0")
    assert numbers(sentences, "in")[0] == wrong.sum() - terminals


def test_unknown_successors_of_terminals_are_told(tmp_path, transitions, seal_dataset):
    folder = seal_dataset(transitions, [0], terminal_successors_known=False)
    sentences = export_to("parquet", tmp_path / "out", folder)
    assert numbers(sentences, "nobody knows the successors of the") == [transitions.terminal.sum()]


# --- Minari -----------------------------------------------------------------------------------------------------


def test_real_rows_come_back_from_minari(tmp_path, monkeypatch, dataset, transitions):
    export_to("minari", tmp_path / "root", dataset, minari_id="dawm/hopper/mine-v3")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    assert list(minari.list_local_datasets()) == ["dawm/hopper/mine-v3"]
    export(ExportSettings(source="minari/dawm/hopper/mine-v3"), tmp_path / "again")
    again, original = (open_sealed(folder, "dataset").metadata for folder in (tmp_path / "again", dataset))
    for key in ("environment", "environment_settings", "reference_min", "reference_max", "rows", "terminals"):
        assert again[key] == original[key], key
    assert again["simulator"] == original["simulator"].replace(" ", "==")
    for name, column in read_transitions(open_sealed(tmp_path / "again", "dataset")).columns().items():
        expected = None if name in ("qpos", "qvel") else transitions.columns()[name]
        np.testing.assert_array_equal(column, expected, err_msg=name)


def test_mixed_rows_are_minari_episodes_real_ones_first(tmp_path, monkeypatch, dataset, transitions, synthetic):
    monkeypatch.setenv("MINARI_DATASETS_PATH", "elsewhere")
    sentences = export_to("minari", tmp_path / "root", dataset, synthetic)
    assert os.environ["MINARI_DATASETS_PATH"] == "elsewhere" and not Path("elsewhere").exists()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    found = minari.load_dataset("dawm/dataset-mixed-v0")
    grown = read_transitions(open_sealed(synthetic, "synthetic"))
    real = int((transitions.terminal | transitions.timeout).sum())
    assert found.total_episodes == real + synthetic_ends(grown).sum()
    assert found.total_steps == len(transitions) + len(grown)
    assert numbers(sentences, f"wrote {tmp_path / 'root/dawm/dataset-mixed-v0'}:")[:3] == [
        len(transitions),
        len(grown),
        found.total_episodes,
    ]
    assert numbers(sentences, "the first") == [real]
    assert found.recover_environment().spec.id == "Hopper-v4"
    episodes = list(found.iterate_episodes())
    starts = np.flatnonzero(np.append(True, synthetic_ends(grown)[:-1]))
    np.testing.assert_array_equal([e.observations[0] for e in episodes[real:]], grown.observation[starts])
    ends = np.flatnonzero(synthetic_ends(grown))
    np.testing.assert_array_equal([e.observations[-1] for e in episodes[real:]], grown.next_observation[ends])
    for episode in episodes:
        assert len(episode.observations) == len(episode) + 1
        assert episode.terminations[-1] ^ episode.truncations[-1]
        assert not (episode.terminations | episode.truncations)[:-1].any()
    description = found.storage.metadata["description"]
    assert f"{len(grown):,} synthetic rows" in description and "not recorded" in description
    assert found.storage.metadata["dawm"]["synthetic_digest"] == open_sealed(synthetic, "synthetic").digest


def test_minari_episodes_end_where_rows_do_not_go_on(tmp_path, monkeypatch, write_synthetic):
    rows = trajectories([7, 7], terminals=[13])
    rows.observation[3] += 1
    export_to("minari", tmp_path / "root", synthetic=write_synthetic(rows, shards=5), minari_id="cut-v0")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    lengths = [len(episode) for episode in minari.load_dataset("cut-v0")]
    assert lengths == [3, 4, 7]


def test_minari_data_sets_stand_side_by_side(tmp_path, monkeypatch, dataset, write_synthetic):
    folder = write_synthetic(trajectories([2, 3]))
    for name in ("dawm/one-v0", "dawm/two-v0", "three-v0", None):
        export_to("minari", tmp_path / "root", synthetic=folder, minari_id=name)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    own = f"dawm/synthetic-{re.sub('[^a-z0-9]+', '-', tmp_path.name.lower())}-synthetic-v0"
    assert sorted(minari.list_local_datasets()) == sorted(["dawm/one-v0", "dawm/two-v0", "three-v0", own])
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == ["dawm", "three-v0"]


# --- Parquet ----------------------------------------------------------------------------------------------------


def test_parquet_is_the_table_and_where_each_row_comes_from(tmp_path, dataset, transitions, synthetic):
    sentences = export_to("parquet", tmp_path / "plain", dataset, synthetic)
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == ["_README.json", "transitions.parquet"]
    table = pd.read_parquet(tmp_path / "plain")
    grown = read_transitions(open_sealed(synthetic, "synthetic"))
    assert numbers(sentences, f"wrote {tmp_path / 'plain/transitions.parquet'}:") == [len(transitions), len(grown)]
    assert table["is_synthetic"].tolist() == [False] * len(transitions) + [True] * len(grown)
    for part, rows in ((table[~table["is_synthetic"]], transitions), (table[table["is_synthetic"]], grown)):
        for name, column in rows.columns().items():
            if column is None:
                assert part[name].isna().all()
            else:
                np.testing.assert_array_equal(np.stack(part[name].to_list()), column, err_msg=name)
    readme = json.loads((tmp_path / "plain/_README.json").read_text())
    assert (readme["real_rows"], readme["synthetic_rows"]) == (len(transitions), len(grown))
    assert set(", ".join(readme["columns"]).split(", ")) == set(table.columns)


def test_real_rows_come_back_from_parquet(tmp_path, dataset, transitions):
    export_to("parquet", tmp_path / "plain", dataset)
    path = tmp_path / "plain/transitions.parquet"
    for name, column in parse_shard(path.read_bytes(), path).columns().items():
        np.testing.assert_array_equal(column, transitions.columns()[name], err_msg=name)


# --- refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_several_steps_are_refused_with_the_reason(layout, refused, write_synthetic, transitions, seal_dataset):
    rows = trajectories([1] * 5)
    message = refused(layout, "--synthetic", write_synthetic(rows, n_step=3))
    assert "expected n_step 1, found 3" in message and "γ·V(s′)" in message
    rows.discount[4] = 0.97
    message = refused(layout, "--synthetic", write_synthetic(rows, shards=3))
    assert "shard-00002-of-00003.parquet: expected the discount 0 at terminals, else 1, found 0.97" in message
    discounted = np.where(transitions.terminal, 0, 0.5).astype("f4")
    folder = seal_dataset(dataclasses.replace(transitions, discount=discounted), [0])
    assert "found 0.5; other people's learners" in refused(layout, "--dataset", folder)


@pytest.mark.parametrize(("layout", "made"), [("d4rl-hdf5", ""), ("minari", "taken-v0"), ("parquet", "")])
@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_existing_output_is_refused(tmp_path, refused, dataset, layout, made, what):
    target = tmp_path / "target" / made
    target.parent.mkdir(parents=True, exist_ok=True)
    if what == "folder":
        target.mkdir(parents=True)
    elif what == "file":
        target.write_text("mine")
    else:
        target.symlink_to("nowhere")
    more = ["--id", made] if made else []
    assert f"{target}: expected nothing there yet" in refused(layout, "--dataset", dataset, *more)
    assert target.is_symlink() or what == "folder" or target.read_text() == "mine"


def test_synthetic_rows_of_another_data_set_are_refused(refused, dataset, scrambled, synthetic):
    message = refused("parquet", "--dataset", scrambled, "--synthetic", synthetic)
    assert f"{synthetic}: grew from another data set than {scrambled}" in message


def test_folders_of_another_kind_are_refused(refused, dataset, synthetic, world_model):
    assert "expected a folder of kind dataset, found synthetic" in refused("parquet", "--dataset", synthetic)
    assert "expected a folder of kind synthetic, found world-model" in refused("parquet", "--synthetic", world_model)


def test_nothing_to_write_is_refused(refused, write_synthetic):
    assert "expected --dataset, --synthetic or both, found neither" in refused("minari")
    folder = write_synthetic(trajectories([1]).take(slice(0, 0)))
    for layout in LAYOUTS:
        assert f"{folder}: no rows to write" in refused(layout, "--synthetic", folder)


@pytest.mark.parametrize("name", ["", "hopper", "../x-v0", "/tmp/x-v0", "dawm/x-v0/"])
def test_id_that_is_none_is_refused(refused, dataset, name):
    assert "--id: expected an id such as dawm/hopper-medium-v0" in refused("minari", "--dataset", dataset, "--id", name)


def test_id_is_minari_s_alone(refused, dataset):
    assert "--id: expected none for parquet, found x-v0" in refused("parquet", "--dataset", dataset, "--id", "x-v0")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_altered_shard_is_refused_and_leaves_nothing(tmp_path, refused, write_synthetic, layout):
    folder = write_synthetic(trajectories([7] * 20), shards=4)
    path = folder / shard_name(3, 4)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "was altered, cut or swapped" in refused(layout, "--synthetic", folder)
    (folder / PROVENANCE).unlink()
    assert "expected a sealed synthetic folder" in refused(layout, "--synthetic", folder)


# --- a learner of other people ----------------------------------------------------------------------------------

# d3rlpy wants gymnasium 1.0.0 and so cannot live in our environment; the rest of what it needs it finds there.
D3RLPY = (
    "d3rlpy==2.8.1",
    "gymnasium==1.0.0",
    "colorama==0.4.6",
    "dataclasses-json==0.6.7",
    "joblib==1.6.0",
    "marshmallow==3.26.2",
    "mypy-extensions==1.2.0",
    "narwhals==2.29.0",
    "scikit-learn==1.9.1",
    "structlog==26.1.0",
    "threadpoolctl==3.8.0",
    "typing-inspect==0.9.0",
)
TRAIN = """
    import json, sys
    import d3rlpy, gymnasium, h5py
    from d3rlpy.algos import IQLConfig, TD3PlusBCConfig
    from d3rlpy.logging import NoopAdapterFactory

    with h5py.File(sys.argv[1]) as file:
        keys = ("observations", "actions", "rewards", "terminals", "timeouts")
        columns = {key: file[key][:] for key in keys}
    dataset = d3rlpy.dataset.MDPDataset(**columns)
    result = {
        "versions": [d3rlpy.__version__, gymnasium.__version__],
        "episodes": len(dataset.episodes),
        "transitions": dataset.transition_count,
    }
    for config in (TD3PlusBCConfig(batch_size=64), IQLConfig(batch_size=64)):
        algorithm = config.create(device="cpu:0")
        epochs = algorithm.fit(
            dataset, n_steps=20, n_steps_per_epoch=10, logger_adapter=NoopAdapterFactory(), show_progress=False
        )
        losses = [metrics["critic_loss"] for _, metrics in epochs]
        actions = algorithm.predict(columns["observations"][:100])
        result[type(algorithm).__name__] = {"losses": losses, "actions": actions.tolist()}
    print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def d3rlpy_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with d3rlpy, in an environment of its own over ours. Skips only where no package index is reached."""
    folder = tmp_path_factory.mktemp("peers") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    paths = {"base": str(folder), "platbase": str(folder)}
    (Path(sysconfig.get_path("purelib", "venv", paths)) / "ours.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--retries", "1", "--no-deps"]
    installed = subprocess.run([*pip, "--ignore-installed", *D3RLPY], capture_output=True, text=True)
    said = installed.stdout + installed.stderr
    if installed.returncode and ("connection broken by" in said or os.environ.get("PIP_NO_INDEX")):
        pytest.skip("no package index can be reached")
    assert installed.returncode == 0, said
    return python


def test_d3rlpy_trains_on_the_exported_file(tmp_path, d3rlpy_python, dataset, synthetic):
    sentences = export_to("d4rl-hdf5", tmp_path / "mixed.hdf5", dataset, synthetic)
    command = [d3rlpy_python, "-c", textwrap.dedent(TRAIN), tmp_path / "mixed.hdf5"]
    trained = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert trained.returncode == 0, trained.stderr
    found = json.loads(trained.stdout.splitlines()[-1])
    assert found["versions"] == ["2.8.1", "1.0.0"]
    columns = read_d4rl(tmp_path / "mixed.hdf5")
    assert found["episodes"] == (columns["terminals"] | columns["timeouts"]).sum()
    assert found["transitions"] == len(columns["rewards"]) - columns["timeouts"].sum()
    assert numbers(sentences, "d4rl.qlearning_dataset keeps")[-1] == columns["timeouts"].sum()
    for learner in ("TD3PlusBC", "IQL"):
        assert len(found[learner]["losses"]) == 2 and np.isfinite(found[learner]["losses"]).all()
        actions = np.array(found[learner]["actions"])
        assert actions.shape == (100, 3) and (abs(actions) <= 1).all()
