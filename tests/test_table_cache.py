"""Decoded tables: what learners read is what was sealed, held once per machine, and never worse for the cache."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from learner_tables import table_of

import dawm.data.table_cache
from dawm.data.sealed import Sealed, open_sealed
from dawm.data.table import Table
from dawm.data.table_cache import cache_folder, decoded, make_room, open_table
from dawm.data.transitions import Transitions, read_transitions
from dawm.errors import InputError

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DAWM_CACHE", str(folder))
    return folder


@pytest.fixture
def sealed(dataset: Path) -> Sealed:
    return open_sealed(dataset, "dataset")


def entries(cache: Path) -> list[str]:
    return sorted(path.suffix for path in cache.iterdir())


def same(found: Table, expected: Table) -> bool:
    return (
        np.array_equal(found.rows, expected.rows)
        and np.array_equal(found.episode_starts, expected.episode_starts)
        and found.widths == expected.widths
    )


def is_mapped(table: Table) -> bool:
    array = table.rows
    while array is not None and not isinstance(array, np.memmap):
        array = array.base  # type: ignore[assignment]
    return array is not None


# --- the table ----------------------------------------------------------------------------------------------------


def test_table_holds_the_columns_side_by_side(transitions: Transitions) -> None:
    table = table_of(transitions)
    columns = np.split(table.rows, np.cumsum(table.widths)[:-1], axis=1)
    names = ("observation", "action", "reward", "next_observation", "discount")
    for name, column in zip(names, columns, strict=True):
        np.testing.assert_array_equal(column.squeeze(), getattr(transitions, name))
    np.testing.assert_array_equal(table.reward, transitions.reward)


def test_episodes_of_a_table_are_those_of_the_data(transitions: Transitions) -> None:
    table = table_of(transitions)
    expected = [
        transitions.reward[transitions.episode == n].sum(dtype=np.float64) for n in np.unique(transitions.episode)
    ]
    np.testing.assert_allclose(table.episode_returns(), expected, rtol=1e-12)
    starts = [np.flatnonzero(transitions.episode == number)[0] for number in range(transitions.episode.max() + 1)]
    assert table.episode_starts.tolist() == [*starts, len(transitions)]


@pytest.mark.parametrize("chunk", [7, 1 << 16])
def test_moments_do_not_depend_on_the_parts_that_are_summed(
    transitions: Transitions, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(dawm.data.table, "CHUNK", chunk)
    mean, std = table_of(transitions).observation_moments()
    np.testing.assert_allclose(mean, transitions.observation.mean(0, dtype=np.float64), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(std, transitions.observation.std(0, dtype=np.float64), rtol=1e-10)


# --- the cache ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dataset", "synthetic"])
def test_cached_table_is_the_sealed_one(kind: str, request: pytest.FixtureRequest, cache: Path) -> None:
    sealed = open_sealed(request.getfixturevalue(kind), kind)
    expected = table_of(read_transitions(sealed))
    first, second = open_table(sealed), open_table(sealed)
    assert entries(cache) == [".float32", ".json"]
    for found in (first, second, decoded(sealed)):
        assert same(found, expected)
    assert is_mapped(first) and is_mapped(second) and not is_mapped(expected)
    assert (len(first.episode_starts) == 1) == (kind == "synthetic")


def test_second_opening_decodes_nothing(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = open_table(sealed)

    def refused(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(dawm.data.table_cache, "read_shards", refused)
    assert same(open_table(sealed), expected)


@pytest.mark.parametrize("part", [".float32", ".json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "removed"])
def test_damaged_entry_is_made_again(sealed: Sealed, cache: Path, part: str, damage: str) -> None:
    expected = decoded(sealed)
    open_table(sealed)
    (path,) = cache.glob(f"*{part}")
    content = path.read_bytes()
    flipped = bytes([content[len(content) // 2] ^ 4])
    damaged = {
        "flipped": content[: len(content) // 2] + flipped + content[len(content) // 2 + 1 :],
        "cut": content[: len(content) // 2],
        "emptied": b"",
    }
    path.unlink() if damage == "removed" else path.write_bytes(damaged[damage])
    assert same(open_table(sealed), expected)
    assert same(open_table(sealed), expected)


def test_altered_shard_is_refused_although_its_table_is_cached(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for path in dataset.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    open_table(open_sealed(folder, "dataset"))
    shard = next(folder.glob("shard-00001*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"shard-00001.*expected SHA-256"):
        open_table(open_sealed(folder, "dataset"))


def test_writing_into_a_table_changes_nobody_elses(sealed: Sealed) -> None:
    first = open_table(sealed)
    before = first.rows.copy()
    first.rows[:] = 7
    assert np.array_equal(open_table(sealed).rows, before)


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_where_no_cache_can_be_the_table_is_in_memory(
    sealed: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DAWM_CACHE", str(tmp_path / "file" / ("" if place == "a file" else "sub")))
    found = open_table(sealed)
    assert same(found, decoded(sealed)) and not is_mapped(found)


def test_full_disk_costs_the_cache_and_nothing_else(
    sealed: Sealed, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    written = open

    def full(path: Path, mode: str) -> object:
        return written("/dev/full" if mode == "wb" else path, mode)

    monkeypatch.setattr("builtins.open", full)
    found = open_table(sealed)
    monkeypatch.undo()
    assert same(found, decoded(sealed)) and not is_mapped(found)


def test_on_a_full_disk_old_tables_make_room(sealed: Sealed, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    old = cache / "old.json"
    old.with_suffix(".float32").write_bytes(b"x" * 1000)
    old.write_text("{}")
    written = open

    def full(path: Path, mode: str) -> object:
        if mode == "wb" and old.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(path, mode)

    monkeypatch.setattr("builtins.open", full)
    found = open_table(sealed)
    monkeypatch.undo()
    assert same(found, decoded(sealed)) and is_mapped(found) and not old.exists()


def test_folder_that_others_may_write_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAWM_CACHE")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = cache_folder()
    assert folder is not None and folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert cache_folder() is None
    folder.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    assert cache_folder() is None


def test_tables_that_were_not_opened_for_longest_make_room(sealed: Sealed, cache: Path) -> None:
    open_table(sealed)
    (kept,) = cache.glob("*.float32")
    for name, opened in (("old", 10), ("older", 5), ("recent", 20)):
        (cache / f"{name}.float32").write_bytes(b"x" * 1000)
        (cache / f"{name}.json").write_text("{}")
        os.utime(cache / f"{name}.json", (opened, opened))
    make_room(cache, keep=kept, largest=kept.stat().st_size + 1500)
    assert {path.stem for path in cache.iterdir()} == {kept.stem, "recent"}
    make_room(cache, keep=kept, largest=0)
    assert {path.stem for path in cache.iterdir()} == {kept.stem}


def test_processes_share_the_pages_of_a_table(dataset: Path) -> None:
    """A process that reads every row of a mapped table has no page of its own for it."""
    program = f"""
from pathlib import Path
from dawm.data.sealed import open_sealed
from dawm.data.table_cache import open_table
rows = open_table(open_sealed(Path({str(dataset)!r}), "dataset")).rows
rows.sum()
address = rows.__array_interface__["data"][0]
inside, own = False, 0
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0] and ":" not in line.split()[0]:
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        inside = first <= address < last
    elif inside and line.startswith("Anonymous"):
        own += int(line.split()[1])
print(rows.nbytes, own)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    size, own = map(int, run.stdout.split())
    assert size > 100_000 and own == 0
