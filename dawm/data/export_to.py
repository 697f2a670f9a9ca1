"""`export-to`: real and synthetic transitions in the layouts that other people's learners read, whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dawm.data.files import whole_file, write_json
from dawm.data.outgoing import Kind, Outgoing
from dawm.data.transitions import Transitions, concatenate
from dawm.environments.tasks import task_of_metadata
from dawm.errors import InputError
from dawm.variables import environment_variable

Format = Literal["d4rl-hdf5", "minari", "parquet"]
CHUNK_ROWS = 4096  # of an HDF5 file
COLUMNS = {
    "observation": "float32[obs_dim], raw units",
    "action": "float32[act_dim], in the environment's bounds",
    "reward": "float32, raw units",
    "next_observation": "float32[obs_dim], the successor, also at a terminal and at a timeout",
    "discount": "float32, 0 at a terminal, else 1, also at a timeout; a learner bootstraps with γ·discount",
    "terminal, timeout": "bool, what ends a real episode; a synthetic trajectory that just stops has neither",
    "episode, step": "int32, of real rows, else -1",
    "source_row": "int64, the real row that a synthetic trajectory starts from, else -1",
    "horizon_step": "int16, of synthetic rows, else -1; a trajectory begins at 1, with the state and action of its "
    "source_row, if it has one",
    "qpos, qvel": "float64, the simulator's state before the step, where it is known",
    "is_synthetic": "bool",
}


def export_to(
    layout: Format,
    output: Path,
    dataset: Path | None = None,
    synthetic: Path | None = None,
    minari_id: str | None = None,
) -> list[str]:
    """Writes the rows of sealed folders; of both, the real ones come first.

    output: a file (d4rl-hdf5), a folder (parquet), or the folder of Minari's data sets (minari), where the new one has
    the id `minari_id`. Returns sentences: what was written, and what readers of that layout drop or distort.
    """
    rows = Outgoing(dataset, synthetic)
    if layout == "minari":
        return write_minari(rows, output, default_id(dataset, synthetic) if minari_id is None else minari_id)
    if minari_id is not None:
        raise InputError(f"--id: expected none for {layout}, found {minari_id}")
    return write_d4rl(rows, output) if layout == "d4rl-hdf5" else write_parquet(rows, output)


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise InputError(f"{path}: expected nothing there yet; remove it or write elsewhere")


# --- D4RL -------------------------------------------------------------------------------------------------------


def write_d4rl(rows: Outgoing, path: Path) -> list[str]:
    """One HDF5 file. Its facts are attributes, since d4rl's sequence_dataset fails on arrays that have no rows."""
    _refuse_existing(path)
    reader = QLearningReader()
    with whole_file(path) as part, h5py.File(part, "w") as file:
        for kind, block in rows.trajectories():
            _append(file, _d4rl_columns(block, with_states=not rows.mixed))
            reader.read(kind, block)
        for key, value in rows.facts().items():
            file.attrs[key] = json.dumps(value) if isinstance(value, dict) else value
    kept = " and ".join(f"{reader.kept[kind]:,} of {tally.rows:,} {kind} rows" for kind, tally in rows.tallies.items())
    rounded = f", up to rounding in {reader.misread_others:,} others" if reader.misread_others else ""
    return [
        f"wrote {path}: {rows.counted()}",
        *rows.caveats(),
        f"d4rl.qlearning_dataset keeps {kept}: it drops the last row of the file and of each of the "
        f"{reader.timeouts:,} episodes that end without a terminal",
        f"d4rl.qlearning_dataset takes the next row's observation for the successor: a wrong one in "
        f"{reader.misread_terminals:,} terminal rows{rounded}; the true ones are in next_observations",
        "d4rl.sequence_dataset keeps every row",
        "left out: discount (0 in terminal rows, else 1), and source_row and horizon_step of synthetic rows",
    ]


class QLearningReader:
    """What `d4rl.qlearning_dataset` (d4rl 1.1) makes of a file, counted while the file's rows go by.

    It skips the rows with a timeout and the last row, and takes the next row's observation for the successor.
    """

    def __init__(self) -> None:
        self.kept: dict[Kind, int] = {"real": 0, "synthetic": 0}
        self.timeouts = self.misread_terminals = self.misread_others = 0
        self._waiting: tuple[Kind, Transitions] | None = None  # the last row so far

    def read(self, kind: Kind, rows: Transitions) -> None:
        if self._waiting is not None:
            self._judge(*self._waiting, rows.observation[:1])
        self._judge(kind, rows.take(slice(None, -1)), rows.observation[1:])
        self.timeouts += int(rows.timeout.sum())
        self._waiting = kind, rows.take(slice(-1, None))

    def _judge(self, kind: Kind, rows: Transitions, next_rows: np.ndarray) -> None:
        misread = ~rows.timeout & (next_rows != rows.next_observation).any(1)
        self.kept[kind] += int((~rows.timeout).sum())
        self.misread_terminals += int((misread & rows.terminal).sum())
        self.misread_others += int((misread & ~rows.terminal).sum())


def _d4rl_columns(rows: Transitions, with_states: bool) -> dict[str, np.ndarray]:
    columns = {
        "observations": rows.observation,
        "actions": rows.action,
        "rewards": rows.reward,
        "terminals": rows.terminal,
        "timeouts": rows.timeout,
        "next_observations": rows.next_observation,
    }
    if with_states and rows.qpos is not None and rows.qvel is not None:
        columns |= {"infos/qpos": rows.qpos, "infos/qvel": rows.qvel}
    return columns


def _append(file: h5py.File, columns: dict[str, np.ndarray]) -> None:
    for name, value in columns.items():
        width = value.shape[1:]
        if name not in file:
            chunks, unlimited = (CHUNK_ROWS, *width), (None, *width)
            file.create_dataset(name, (0, *width), value.dtype, maxshape=unlimited, chunks=chunks, compression="gzip")
        before = len(file[name])
        file[name].resize(before + len(value), axis=0)
        file[name][before:] = value


# --- Minari -----------------------------------------------------------------------------------------------------


def default_id(dataset: Path | None, synthetic: Path | None) -> str:
    """dawm/NAME-v0 after the data set's folder, or after the synthetic folder and the one around it."""
    if dataset is not None:
        words = [dataset.resolve().name, "mixed" if synthetic is not None else ""]
    else:
        words = ["synthetic", *Path(synthetic or "").resolve().parts[-2:]]
    slug = re.sub("[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")
    return f"dawm/{slug}-v0"


def write_minari(rows: Outgoing, root: Path, name: str) -> list[str]:
    """A data set with the id `name` below `root`: written by Minari beside its place, then moved there."""
    import minari
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(name)
    except (ValueError, TypeError) as error:  # TypeError: an id without a version
        raise InputError(f"--id: expected an id such as dawm/hopper-medium-v0, found {name}") from error
    _refuse_existing(root / name)
    task = task_of_metadata(rows.metadata)
    environment = task.make()
    with _folder(root), tempfile.TemporaryDirectory(dir=root, prefix=".export-") as part, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the environment is out of date, that no author is given
        with environment_variable("MINARI_DATASETS_PATH", part):
            buffers: Any = _buffers(rows)  # a list is asked for, but gone through once
            made = minari.create_dataset_from_buffers(
                name,
                buffers,
                env=environment,
                ref_min_score=task.reference_min,
                ref_max_score=task.reference_max,
                requirements=_requirements(rows),
            )
            made.storage.update_metadata({"description": _description(rows), "dawm": rows.facts()})
        environment.close()
        _move(Path(part), root, name)
    return [*_minari_report(rows, root, name), *rows.caveats()]


def _buffers(rows: Outgoing) -> Iterator[Any]:
    """Minari's episodes: one observation more than rows, the last one being the last row's true successor."""
    from minari.data_collector import EpisodeBuffer

    for episode in episodes(rows.trajectories()):
        yield EpisodeBuffer(
            observations=np.concatenate([episode.observation, episode.next_observation[-1:]]),  # type: ignore[arg-type]
            actions=episode.action,  # type: ignore[arg-type]
            rewards=episode.reward,  # type: ignore[arg-type]
            terminations=episode.terminal,  # type: ignore[arg-type]
            truncations=episode.timeout,  # type: ignore[arg-type]
        )


def episodes(blocks: Iterator[tuple[Kind, Transitions]]) -> Iterator[Transitions]:
    """The rows cut behind every terminal and timeout, one of which the last row has."""
    waiting: list[Transitions] = []
    for _, rows in blocks:
        start = 0
        for end in (np.flatnonzero(rows.terminal | rows.timeout) + 1).tolist():
            waiting.append(rows.take(slice(start, end)))
            yield waiting[0] if len(waiting) == 1 else concatenate(waiting)
            waiting, start = [], end
        if start < len(rows):
            waiting.append(rows.take(slice(start, None)))


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Makes the folder, and takes it away again where what follows fails."""
    new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            if new:
                path.rmdir()
        raise


def _move(made: Path, root: Path, name: str) -> None:
    """The data set and, where they are new, its namespaces' files from one of Minari's folders to another."""
    for namespace in list(Path(name).parents)[-2::-1]:  # from the outermost in, without "."
        (root / namespace).mkdir(exist_ok=True)
        described = namespace / "namespace_metadata.json"
        if (made / described).exists() and not (root / described).exists():
            shutil.copy(made / described, root / described)
    for path in (made / name).rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    (made / name).rename(root / name)


def _requirements(rows: Outgoing) -> list[str] | None:
    """The simulator that made the real rows, as pip names it."""
    match = re.fullmatch(r"(mujoco|gymnasium) (\d+(?:\.\d+)*)", str(rows.metadata.get("simulator")))
    return [f"{match[1]}=={match[2]}"] if match else None


def _description(rows: Outgoing) -> str:
    origin = rows.metadata.get("source", "a data set of dawm")
    if "synthetic" not in rows.tallies:
        return f"{rows.counted()}, recorded: {origin}, by way of dawm."
    grown = "sampled from a diffusion action world model (dawm)"
    if not rows.mixed:
        given = rows.folders["synthetic"].metadata.get("conditional", True)
        starts = "every trajectory starts at a real state and action" if given else "all of it is generated"
        return f"{rows.counted()}, {grown}, not recorded; {starts}."
    return (
        f"{rows.counted()}: the first {rows.tallies['real'].trajectories:,} episodes are real ({origin}), the others "
        f"{grown}, not recorded."
    )


def _minari_report(rows: Outgoing, root: Path, name: str) -> list[str]:
    size = sum(path.stat().st_size for path in (root / name).rglob("*") if path.is_file())
    count = sum(tally.trajectories for tally in rows.tallies.values())
    sentences = [
        f"wrote {root / name}: {rows.counted()} as {count:,} episodes, {size / 1e6:,.1f} MB",
        f"Minari finds it with MINARI_DATASETS_PATH={root.resolve()} as {name}; its readers keep every row and find "
        "every true successor",
        "left out: source_row, horizon_step, qpos and qvel",
    ]
    if rows.mixed:
        sentences.append(f"the first {rows.tallies['real'].trajectories:,} episodes are real, the others synthetic")
    if rounded := sum(tally.rounded for tally in rows.tallies.values()):
        sentences.append(f"in {rounded:,} rows the successor is the next row's observation, equal up to rounding")
    return sentences


# --- Parquet ----------------------------------------------------------------------------------------------------


def write_parquet(rows: Outgoing, folder: Path) -> list[str]:
    """`folder` with transitions.parquet, the table as it is and `is_synthetic`, and a _README.json, which readers of
    whole folders pass over for its name."""
    _refuse_existing(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as temporary:
        part = Path(temporary) / folder.name
        with whole_file(part / "transitions.parquet") as path:
            _write_tables(rows, path)
        write_json(part / "_README.json", {**rows.facts(), "columns": COLUMNS})
        part.rename(folder)
    return [
        f"wrote {folder / 'transitions.parquet'}: {rows.counted()}",
        *rows.caveats(),
        "nothing is dropped or changed; the successor is next_observation, never the next row's observation: a "
        "synthetic trajectory stops without a flag",
    ]


def _write_tables(rows: Outgoing, path: Path) -> None:
    writer: pq.ParquetWriter | None = None
    try:
        for kind, block in rows.shards():
            table = _table(block, synthetic=kind == "synthetic")
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema, compression="zstd")
            for name in set(writer.schema.names) - set(table.column_names):  # states, which only real rows have
                table = table.append_column(name, pa.nulls(len(table), writer.schema.field(name).type))
            writer.write_table(table.select(writer.schema.names))
    finally:
        if writer is not None:
            writer.close()


def _table(rows: Transitions, synthetic: bool) -> pa.Table:
    arrays = {
        name: pa.array(column)
        if column.ndim == 1
        else pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(column).reshape(-1)), column.shape[1])
        for name, column in rows.columns().items()
        if column is not None
    }
    return pa.table({**arrays, "is_synthetic": pa.array(np.full(len(rows), synthetic))})
