"""Whatever stands in a file: every reader takes it or refuses it in one sentence, in little time and memory.

Each target mutates a good file: bits flipped, pieces cut out, repeated or moved, numbers made enormous, words of the
format put in. `DAWM_FUZZ` says how many inputs each gets: 10,000 for docs/reliability.md.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
import torch
from hdf5_files import check_rows, hopper_columns, write_hdf5
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer
from torch import nn

from dawm.analysis.comparison import panels
from dawm.analysis.run_scores import SCORE, read_scores
from dawm.checkpoints import CHECKPOINT, Member, State, read_checkpoint, save_checkpoints
from dawm.config import Experiment, ExportSettings, load_experiment
from dawm.data.export import export
from dawm.data.files import digest_of, sha256
from dawm.data.sealed import METADATA, PROVENANCE, Sealed, open_sealed, seal
from dawm.data.sources import open_source
from dawm.data.table_cache import mapped, open_table
from dawm.data.transitions import parse_shard, shard_facts, shard_identity
from dawm.data.weights import load_weights, save_weights
from dawm.errors import InputError

INPUTS = int(os.environ.get("DAWM_FUZZ", "150"))
ROOM = 4 << 30
"""Bytes of address space that reading a file of some kilobytes may add."""

HUGE = [number.to_bytes(8, "little", signed=True) for number in (0, -1, 1 << 31, 1 << 40, (1 << 63) - 1)]
JSON_WORDS = [b"{}", b"[]", b"null", b"-1", b"1e999", b"NaN", b'"', b"[" * 500, b"\\ud800", b'"../../x"', b"true"]
YAML_WORDS = [
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!python/object/apply:os.system ",
    b"!!binary ",
    b"- ",
    b"? ",
    b"2001-01-01",
    b"\t",
]
CSV_WORDS = [b",", b"\n", b'"', b"nan", b"1e999", b"=1+1", b"dataset"]

fuzzed = settings(
    max_examples=INPUTS,
    deadline=None,
    derandomize=True,  # a suite that fails on some days only is no help
    database=None,
    suppress_health_check=list(HealthCheck),
)


def mutations(words: Sequence[bytes] = ()) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Edits by (what, where as a share of the file, …)."""
    place = st.floats(0, 1, exclude_max=True)
    length = st.sampled_from([1, 2, 4, 8, 32, 512])
    edits = [
        st.tuples(st.just("flip"), place, st.integers(0, 7)),
        st.tuples(st.just("set"), place, st.binary(min_size=1, max_size=4)),
        st.tuples(st.just("set"), place, st.sampled_from(HUGE)),
        st.tuples(st.just("cut"), place, length),
        st.tuples(st.just("repeat"), place, length),
        st.tuples(st.just("move"), place, place, length),
        st.tuples(st.just("end"), place),
    ]
    if words:
        edits.append(st.tuples(st.just("insert"), place, st.sampled_from(words)))
    return st.lists(st.one_of(edits), min_size=1, max_size=6)


def mutated(content: bytes, edits: Sequence[tuple[Any, ...]]) -> bytes:
    changed = bytearray(content)
    for what, where, *more in edits:
        at = int(where * len(changed))
        if what == "flip" and changed:
            changed[at] ^= 1 << more[0]
        elif what == "set":
            changed[at : at + len(more[0])] = more[0]
        elif what == "cut":
            del changed[at : at + more[0]]
        elif what == "repeat":
            changed[at:at] = changed[at : at + more[0]]
        elif what == "move":
            to = int(more[0] * len(changed))
            changed[to:to] = changed[at : at + more[1]]
        elif what == "insert":
            changed[at:at] = more[0]
        elif what == "end":
            del changed[at:]
    return bytes(changed)


def taken_or_refused(attempt: Callable[[], object], named: Path) -> None:
    """Anything but an InputError of one line that names the file fails the test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attempt()
    except InputError as error:
        assert str(named) in str(error) and len(str(error).splitlines()) == 1


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """A file that makes its reader ask for more than `ROOM` ends in a MemoryError, which fails the test."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed data set of 16 rows."""
    folder = tmp_path_factory.mktemp("small")
    source = write_hdf5(folder / "hopper_medium-v2.hdf5", hopper_columns())
    export(ExportSettings(source=f"hdf5:{source}"), folder / "dataset")
    return folder / "dataset"


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small, tmp_path / "copy")


CONFIGS = sorted((Path(__file__).resolve().parents[1] / "config").glob("*.yaml"))


@fuzzed
@given(edits=mutations(YAML_WORDS), chosen=st.sampled_from(CONFIGS))
def test_config(tmp_path_factory: pytest.TempPathFactory, edits: Any, chosen: Path) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(mutated(chosen.read_bytes(), edits))
    taken_or_refused(lambda: load_experiment(path), path)


KEYS = [str(field) for field in Experiment.__dataclass_fields__]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(KEYS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner, max_size=4),
    max_leaves=12,
)


@fuzzed
@given(values=st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_config_of_any_values(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "values.yaml"
    path.write_text(json.dumps(values))
    taken_or_refused(lambda: load_experiment(path), path)


@fuzzed
@given(edits=mutations(JSON_WORDS), name=st.sampled_from([METADATA, PROVENANCE]))
def test_seal(small: Path, copy: Path, edits: Any, name: str) -> None:
    whole = (small / name).read_bytes()
    (copy / name).write_bytes(mutated(whole, edits))
    taken_or_refused(lambda: open_sealed(copy, "dataset"), copy)
    (copy / name).write_bytes(whole)


@fuzzed
@given(edits=mutations([b"PAR1", *JSON_WORDS]))
def test_shard(small: Path, copy: Path, edits: Any) -> None:
    (shard,) = small.glob("*.parquet")
    path, content = copy / shard.name, mutated(shard.read_bytes(), edits)
    taken_or_refused(lambda: parse_shard(content, path), path)
    path.write_bytes(content)
    for reader in (shard_identity, shard_facts):
        taken_or_refused(lambda reader=reader: reader(path), path)


@fuzzed
@given(edits=mutations(JSON_WORDS))
def test_weights(tmp_path_factory: pytest.TempPathFactory, edits: Any) -> None:
    """Even where a seal vouches for them."""
    folder, module = tmp_path_factory.getbasetemp(), nn.Linear(3, 2)
    path = folder / "fuzzed.safetensors"
    save_weights(path, module)
    content = mutated(path.read_bytes(), edits)
    path.write_bytes(content)
    sealed = Sealed(folder, {}, {"files": {path.name: sha256(content)}})
    taken_or_refused(lambda: load_weights(sealed, path.name, module), path)


@fuzzed
@given(edits=mutations(JSON_WORDS))
def test_checkpoint(tmp_path_factory: pytest.TempPathFactory, edits: Any) -> None:
    """It is exactly what was saved, or none."""
    torch.manual_seed(0)
    folder, module = tmp_path_factory.getbasetemp(), nn.Linear(3, 2)
    member, state = Member("a training", folder, "run"), State({"model": module}, {})
    member.ledgers["metrics"].restore([{"step": 1, "loss": 0.5}])
    save_checkpoints([member], 7, state, {"loss": torch.tensor(1.5)})
    path = folder / CHECKPOINT
    whole = path.read_bytes()
    path.write_bytes(mutated(whole, edits))
    found = read_checkpoint(path, "run")
    if found is not None:
        assert (found.step, found.rows["metrics"]) == (7, [{"step": 1, "loss": 0.5}])
        assert {name: value.tolist() for name, value in found.sums.items()} == {"loss": 1.5}
        assert all(torch.equal(found.tensors[f"model/{key}"], value) for key, value in module.state_dict().items())


@fuzzed
@given(edits=mutations(JSON_WORDS), part=st.sampled_from([".json", ".float32"]))
def test_cached_table(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edits: Any, part: str) -> None:
    """It is exactly what was written, or none."""
    monkeypatch.setenv("DAWM_CACHE", str(tmp_path))
    table = open_table(open_sealed(small))
    (path,) = tmp_path.glob(f"*{part}")
    whole = path.read_bytes()
    path.write_bytes(mutated(whole, edits))
    found = mapped(path.with_suffix(".float32"))
    assert found is None or np.array_equal(found.rows, table.rows)
    path.write_bytes(whole)


SIGNATURES = [b"\x89HDF\r\n\x1a\n", b"OHDR", b"TREE", b"SNOD", b"HEAP", b"FRHP", b"GCOL"]


@fuzzed
@given(edits=mutations(SIGNATURES))
def test_hdf5(tmp_path_factory: pytest.TempPathFactory, edits: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "hopper_medium-v2.hdf5"
    write_hdf5(path, hopper_columns())
    path.write_bytes(mutated(path.read_bytes(), edits))
    taken_or_refused(lambda: check_rows(path), path)


MINARI = "mujoco/hopper/medium-v0"


@pytest.fixture(scope="module")
def minari_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Minari's folder with one small data set."""
    rng = np.random.default_rng(0)
    ends = np.arange(5) == 4
    episode = EpisodeBuffer(
        observations=rng.normal(size=(6, 11)),
        actions=rng.uniform(-1, 1, (5, 3)).astype("f4"),
        rewards=rng.normal(size=5),
        terminations=ends,
        truncations=np.zeros(5, bool),
    )
    root = tmp_path_factory.mktemp("minari")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        minari.create_dataset_from_buffers(MINARI, [episode], env=gymnasium.make("Hopper-v5"))
        yield root


@fuzzed
@given(edits=mutations([*SIGNATURES, *JSON_WORDS]), name=st.sampled_from(["metadata.json", "main_data.hdf5"]))
def test_minari(minari_root: Path, edits: Any, name: str) -> None:
    path = minari_root / MINARI / "data" / name
    whole = path.read_bytes()
    path.write_bytes(mutated(whole, edits))
    try:
        taken_or_refused(lambda: list(open_source(ExportSettings(source=f"minari/{MINARI}")).blocks), minari_root)
    finally:
        path.write_bytes(whole)


SCORES = Path(__file__).resolve().parents[1] / "results/published/quickstart/tables/scores.csv"


@fuzzed
@given(edits=mutations(CSV_WORDS))
def test_scores(tmp_path_factory: pytest.TempPathFactory, edits: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "scores.csv"
    path.write_bytes(mutated(SCORES.read_bytes(), edits))

    def compared() -> None:
        table = read_scores([path])
        try:
            list(panels(table[np.isfinite(table[SCORE])]))
        except InputError as error:
            assert str(error).endswith("expected arms with data sets and seeds in common, found none")

    taken_or_refused(compared, path)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", ".", ""])
def test_no_seal_reaches_out_of_its_folder(small: Path, tmp_path: Path, name: str) -> None:
    """Even one whose digest fits."""
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    seal(folder, "dataset", files=[], metadata={}, settings={})
    provenance = json.loads((folder / PROVENANCE).read_text())
    provenance.pop("digest")
    provenance["files"][name] = sha256(b"secret")
    provenance["digest"] = digest_of(provenance)
    (folder / PROVENANCE).write_text(json.dumps(provenance))
    with pytest.raises(InputError, match="name of a file"):
        open_sealed(folder)
