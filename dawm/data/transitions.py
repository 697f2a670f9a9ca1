"""The transitions table: the one schema that real and synthetic data share, and its Parquet shards."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dawm.data.files import whole_file
from dawm.data.sealed import Sealed
from dawm.errors import InputError, one_line

NOT_APPLICABLE = -1
_VECTORS = {
    "observation": pa.float32(),
    "action": pa.float32(),
    "next_observation": pa.float32(),
    "qpos": pa.float64(),
    "qvel": pa.float64(),
}
_SCALARS = {
    "reward": pa.float32(),
    "discount": pa.float32(),
    "terminal": pa.bool_(),
    "timeout": pa.bool_(),
    "episode": pa.int32(),
    "step": pa.int32(),
    "source_row": pa.int64(),
    "horizon_step": pa.int16(),
}
OPTIONAL = ("qpos", "qvel")


@dataclass(frozen=True, eq=False)
class Transitions:
    """n complete transitions (s, a, r, s′), in raw units; see the README's table of columns.

    observation, next_observation float32 [n, obs_dim]; action float32 [n, act_dim]; reward, discount float32 [n];
    terminal, timeout bool [n]; episode, step int32 [n]; source_row int64 [n]; horizon_step int16 [n];
    qpos, qvel float64 [n, nq], [n, nv]: the simulator's state before the step, where it is known.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_observation: np.ndarray
    discount: np.ndarray
    terminal: np.ndarray
    timeout: np.ndarray
    episode: np.ndarray
    step: np.ndarray
    source_row: np.ndarray
    horizon_step: np.ndarray
    qpos: np.ndarray | None = None
    qvel: np.ndarray | None = None

    @classmethod
    def real(
        cls,
        *,
        observation: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        next_observation: np.ndarray,
        terminal: np.ndarray,
        timeout: np.ndarray,
        qpos: np.ndarray | None = None,
        qvel: np.ndarray | None = None,
        first: tuple[int, int] = (0, 0),
    ) -> Transitions:
        """Real data in the order in which it was collected; episode and step follow from terminal and timeout.

        first: episode and step of the first row, where the rows go on after others.
        """
        episode, step = number_episodes(terminal | timeout, first)
        rows = len(reward)
        return cls(
            observation=np.ascontiguousarray(observation, np.float32),
            action=np.ascontiguousarray(action, np.float32),
            reward=np.ascontiguousarray(reward, np.float32),
            next_observation=np.ascontiguousarray(next_observation, np.float32),
            discount=np.where(terminal, 0, 1).astype(np.float32),
            terminal=terminal,
            timeout=timeout,
            episode=episode,
            step=step,
            source_row=np.full(rows, NOT_APPLICABLE, np.int64),
            horizon_step=np.full(rows, NOT_APPLICABLE, np.int16),
            qpos=qpos,
            qvel=qvel,
        )

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def observation_dim(self) -> int:
        return self.observation.shape[1]

    @property
    def action_dim(self) -> int:
        return self.action.shape[1]

    def take(self, rows: np.ndarray | slice) -> Transitions:
        """Some rows, by index, mask or slice."""
        columns = {name: value for name, value in self.columns().items() if value is not None}
        return dataclasses.replace(self, **{name: value[rows] for name, value in columns.items()})

    def columns(self) -> dict[str, np.ndarray | None]:
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}


def number_episodes(last: np.ndarray, first: tuple[int, int] = (0, 0)) -> tuple[np.ndarray, np.ndarray]:
    """Episode and step (both int32 [n]) of rows in order; `last` marks each episode's last row, `first` is where the
    first row stands."""
    begins = np.concatenate([[True], last[:-1]]) if len(last) else last
    episode = np.cumsum(begins) - 1
    starts = np.flatnonzero(begins)
    step = np.arange(len(last)) - starts[episode] + np.where(episode == 0, first[1], 0)
    return (episode + first[0]).astype(np.int32), step.astype(np.int32)


def next_step(rows: Transitions, following: Transitions) -> np.ndarray:
    """bool [n]: where the next row is the next step of the same episode or synthetic trajectory."""
    step = (following.step == rows.step + 1) | (following.horizon_step == rows.horizon_step + 1)
    return step & (following.episode == rows.episode) & (following.source_row == rows.source_row)


def concatenate(parts: Sequence[Transitions]) -> Transitions:
    """The rows of at least one table under each other; states (qpos, qvel) only where every table has them."""
    columns: dict[str, Any] = {}
    for item in dataclasses.fields(Transitions):
        values = [getattr(part, item.name) for part in parts]
        columns[item.name] = None if any(value is None for value in values) else np.concatenate(values)
    return Transitions(**columns)


def write_shard(
    path: Path, transitions: Transitions, identity: str = "", facts: Mapping[str, Any] | None = None
) -> None:
    """One Parquet file, whole or not there. `identity` and `facts`, JSON values, go into its schema (see
    `shard_identity`, `shard_facts`)."""
    arrays, names = [], []
    for name, column in transitions.columns().items():
        if column is None:
            continue
        names.append(name)
        if name in _VECTORS:
            flat = pa.array(np.ascontiguousarray(column).reshape(-1), type=_VECTORS[name])
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, column.shape[1]))
        else:
            arrays.append(pa.array(column, type=_SCALARS[name]))
    about = {"dawm.identity": identity} | ({"dawm.facts": json.dumps(facts)} if facts else {})
    table = pa.Table.from_arrays(arrays, names=names).replace_schema_metadata(about)
    floats = [f"{name}.list.element" for name in _VECTORS if name in names] + ["reward", "discount"]
    with whole_file(path) as part:
        pq.write_table(table, part, compression="zstd", use_dictionary=False, use_byte_stream_split=floats)


def parse_shard(content: bytes, path: Path, states: bool = True) -> Transitions:
    """The transitions in one shard's bytes; refused by name where it is no Parquet or has another schema.

    states: whether qpos and qvel are wanted.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        names = file.schema_arrow.names
        wanted = names if states else [name for name in names if name not in OPTIONAL]
        table = file.read(wanted, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        detail = one_line(error)
        raise InputError(f"{path}: expected a Parquet file of transitions, found: {detail}") from error
    columns: dict[str, Any] = {}
    for name in _VECTORS | _SCALARS:
        if names.count(name) > 1:
            raise InputError(f"{path}: column {name!r}: expected once, found {names.count(name)} times")
        if name in wanted:
            columns[name] = _array(table.column(name), name, path)
        elif name not in OPTIONAL:
            raise InputError(f"{path}: column {name!r} is missing; a transitions table has all of its columns")
    widths = columns["observation"].shape[1], columns["next_observation"].shape[1]
    if widths[0] != widths[1]:
        raise InputError(f"{path}: column 'next_observation': expected lists of {widths[0]}, found {widths[1]}")
    return Transitions(**columns)


def _array(column: pa.ChunkedArray, name: str, path: Path) -> np.ndarray:
    """A column as [n] or [n, width], of exactly the type that the table has, without holes."""
    whole = column.combine_chunks()
    if name in _VECTORS:
        kind = _VECTORS[name]
        if not pa.types.is_fixed_size_list(column.type) or column.type.value_type != kind:
            raise InputError(f"{path}: column {name!r}: expected fixed-size lists of {kind}, found {column.type}")
        values = whole.flatten()
    else:
        if column.type != _SCALARS[name]:
            raise InputError(f"{path}: column {name!r}: expected {_SCALARS[name]}, found {column.type}")
        values = whole
    if whole.null_count or values.null_count:
        raise InputError(f"{path}: column {name!r}: expected a value in every row, found some without")
    found = values.to_numpy(zero_copy_only=False)
    return found.reshape(len(column), column.type.list_size) if name in _VECTORS else found


def shard_identity(path: Path) -> str:
    """What `write_shard` was told that the shard belongs to."""
    return _about(path).get(b"dawm.identity", b"").decode()


def shard_facts(path: Path) -> dict[str, Any]:
    """What `write_shard` was told about the shard beside its rows."""
    return json.loads(_about(path).get(b"dawm.facts", b"{}"))


def _about(path: Path) -> Mapping[bytes, bytes]:
    try:
        return pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: expected a Parquet shard, found: {one_line(error)}") from error


def read_transitions(sealed: Sealed, states: bool = True) -> Transitions:
    """All shards of a sealed data set, each verified, in order. states: whether qpos and qvel are wanted."""
    return concatenate(list(read_shards(sealed, states)))


def read_shards(sealed: Sealed, states: bool = True) -> Iterator[Transitions]:
    """The same, one shard after the other."""
    dims = (sealed.metadata["observation_dim"], sealed.metadata["action_dim"])
    for name in shard_names(sealed):
        part = parse_shard(sealed.read(name), sealed.folder / name, states)
        if (part.observation_dim, part.action_dim) != dims:
            raise InputError(
                f"{sealed.folder / name}: expected {dims[0]} observation and {dims[1]} action dimensions as in "
                f"metadata.json, found {part.observation_dim} and {part.action_dim}"
            )
        yield part


def shard_names(sealed: Sealed) -> list[str]:
    return [name for name in sealed.files if name.endswith(".parquet")]


def held_out_rows(data: Sealed, transitions: Transitions) -> np.ndarray:
    """bool [n]: rows of the episodes that no model may learn from."""
    return np.isin(transitions.episode, data.metadata["held_out_episodes"])


def usable_pairs(data: Sealed, transitions: Transitions) -> np.ndarray:
    """bool [n]: rows with a true successor; where a terminal's is not known, its own state stands there."""
    if data.metadata.get("terminal_successors_known", True):
        return np.ones(len(transitions), dtype=bool)
    return ~transitions.terminal
