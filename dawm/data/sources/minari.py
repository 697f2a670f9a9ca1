"""Minari's data sets: found in its folder or downloaded by it, surveyed whole, then read episode by episode."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import gymnasium
import h5py
import minari
import numpy as np
from huggingface_hub.utils import logging as hub_logging
from minari.dataset.minari_dataset import parse_dataset_id
from minari.dataset.minari_storage import MinariStorage
from minari.storage.datasets_root_dir import get_dataset_path

from dawm.config import EnvironmentSettings, ExportSettings, read
from dawm.data.sources import BLOCK_ROWS, Columns, SourceData
from dawm.data.sources.checks import check_actions, check_container, check_finite
from dawm.environments.tasks import Task, bounded, task_of
from dawm.errors import InputError, one_line

SPACES = {"observation_space": "observations", "action_space": "actions"}
STATES = ("qpos", "qvel")
KEPT_FACTS = ("author", "algorithm_name", "code_permalink", "minari_version")


def open_minari(settings: ExportSettings) -> SourceData:
    """`minari/ID`, of the folder MINARI_DATASETS_PATH (~/.minari/datasets) or downloaded into it by Minari."""
    name = settings.source.removeprefix("minari/")
    folder = _folder(name)
    with _readable(folder):
        metadata = MinariStorage.read_raw_metadata(folder / "data")
        _check_metadata(metadata, name, folder)
        dataset = minari.MinariDataset(folder / "data")
        if metadata["data_format"] == "hdf5":
            main = folder / "data/main_data.hdf5"
            with h5py.File(main) as file:
                check_container(file, main)
    _check_spaces(dataset, folder)
    task = _task(dataset, metadata, settings.environment, folder)
    survey = _survey(dataset, task, folder)
    facts = {
        "source": settings.source,
        "simulator": _simulator(metadata),
        "terminal_successors_known": True,
        "unmarked_episode_ends": survey.unmarked_ends,
        "minari": {key: metadata[key] for key in KEPT_FACTS if isinstance(metadata.get(key), str | list)},
    }
    return SourceData(task, survey.rows, _blocks(dataset, task, survey, folder), facts)


def _folder(name: str) -> Path:
    """Where the data set lies; downloaded if it is not there."""
    try:
        parse_dataset_id(name)
    except (ValueError, TypeError) as error:  # TypeError: without a version
        raise InputError(
            f"source: expected an id such as minari/mujoco/hopper/medium-v0, found minari/{name}"
        ) from error
    folder = get_dataset_path(name)
    if not (folder / "data").exists():
        try:
            with _quiet():
                minari.download_dataset(name)
        except Exception as error:  # each of Minari's servers has exceptions of its own
            raise InputError(
                f"minari/{name}: not found in {folder}, and Minari cannot download it ({_line(error)}); put it there, "
                "or set MINARI_DATASETS_PATH to the folder of data sets that holds it"
            ) from error
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Minari's advice and the notice of each of the download's attempts."""
    level = hub_logging.get_verbosity()
    hub_logging.set_verbosity(hub_logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub_logging.set_verbosity(level)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Minari trusts its files and fails by whatever a damaged one makes it stumble over
        raise InputError(
            f"{folder}: expected a data set that Minari {minari.__version__} can read, found another ({_line(error)}); "
            "if it was downloaded, remove the folder, and it is downloaded again"
        ) from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")


def _check_metadata(metadata: Any, name: str, folder: Path) -> None:
    if not isinstance(metadata, dict) or metadata.get("dataset_id") != name:
        found = metadata.get("dataset_id") if isinstance(metadata, dict) else metadata
        raise InputError(f"{folder / 'data/metadata.json'}: expected the 'dataset_id' {name}, found {found!r}")
    for key in SPACES:
        if not isinstance(metadata.get(key), str):
            # Minari would look at the environment instead, made by whatever code the file names.
            raise InputError(f"{folder / 'data/metadata.json'}: key {key!r} is missing")


def _check_spaces(dataset: minari.MinariDataset, folder: Path) -> None:
    for key, what in SPACES.items():
        space = getattr(dataset, key)
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1 or np.dtype(space.dtype).kind != "f":
            found = " ".join(str(space).split())
            raise InputError(f"{folder}: expected {what} in a flat Box of floats, found {found:.200}")
    actions = dataset.action_space
    if not bounded(actions):
        raise InputError(f"{folder}: expected bounded actions, found {' '.join(str(actions).split()):.200}")


def _task(
    dataset: minari.MinariDataset, metadata: Mapping[str, Any], chosen: EnvironmentSettings | None, folder: Path
) -> Task:
    """The config's environment, or the data set's own. The data set's reference scores belong to its own."""
    spec = dataset.env_spec
    if chosen is None and spec is None:
        raise InputError(f"{folder}: tells no environment (env_spec); set `environment`, for example {{id: Hopper-v5}}")
    if chosen is None:
        wrappers = ", ".join(wrapper.name for wrapper in spec.additional_wrappers)
        if wrappers or ":" in spec.id:  # what imports a module may run code, and data must not
            found = f"wrappers ({wrappers})" if wrappers else f"the id {spec.id}"
            raise InputError(
                f"{folder}: expected an environment (env_spec) that its id and arguments tell, found {found}; "
                "set `environment`"
            )
        arguments = {key: value for key, value in spec.kwargs.items() if key != "render_mode"}
        told = {"id": spec.id, "arguments": arguments, "max_episode_steps": spec.max_episode_steps}
        chosen = read(EnvironmentSettings, told, f"{folder}: env_spec")
    scores = _reference_scores(metadata)
    if scores and chosen.reference_min is None and (spec is None or spec.id == chosen.id):
        if not scores[0] < scores[1]:
            raise InputError(
                f"{folder}: expected 'ref_min_score' below 'ref_max_score', found {scores[0]}, {scores[1]}"
            )
        chosen = replace(chosen, reference_min=scores[0], reference_max=scores[1])
    try:
        task = task_of(chosen)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    for key, what, width in (
        ("observation_space", "observations", task.observation_dim),
        ("action_space", "actions", task.action_dim),
    ):
        if (shape := getattr(dataset, key).shape) != (width,):
            raise InputError(f"{folder}: expected {what} of {width} numbers for {task.environment}, found {shape[0]}")
    return task


def _reference_scores(metadata: Mapping[str, Any]) -> tuple[float, float] | None:
    """(returns that score 0 and 100); none where they were measured in another environment than the data's."""
    evaluated = metadata.get("eval_env_spec")
    if evaluated is not None and _identity(evaluated) != _identity(metadata.get("env_spec")):
        return None
    low, high = (metadata.get(key) for key in ("ref_min_score", "ref_max_score"))
    if isinstance(low, int | float) and isinstance(high, int | float):
        return float(low), float(high)
    return None


def _identity(spec: str | None) -> Any:
    """What makes environments different, of a specification in JSON."""
    parts = json.loads(spec) if spec else {}
    return [parts.get(key) for key in ("id", "kwargs", "max_episode_steps", "additional_wrappers")]


def _simulator(metadata: Mapping[str, Any]) -> str:
    """The packages that the data set asks for, or those of them that are MuJoCo."""
    stated = metadata.get("requirements")
    requirements = [item for item in stated if isinstance(item, str)] if isinstance(stated, list) else []
    simulators = [item for item in requirements if item.startswith("mujoco")] or requirements
    return ", ".join(simulators) or "unknown"


@dataclass(frozen=True)
class Survey:
    """What the first pass found. states: every row has the simulator's state; unmarked_ends: episodes that end neither
    in a terminal nor in a timeout."""

    rows: int
    states: bool
    unmarked_ends: int


def _survey(dataset: minari.MinariDataset, task: Task, folder: Path) -> Survey:
    """Reads the data set through and refuses it at the first thing that is wrong."""
    rows = unmarked_ends = 0
    dims: set[tuple[int, ...]] = set()
    for where, episode in _episodes(dataset, folder):
        columns = _columns(episode, task, where)
        rows += len(columns["reward"])
        unmarked_ends += not (episode.terminations[-1] or episode.truncations[-1])
        dims.add(tuple(columns[name].shape[1] for name in STATES if name in columns))
    if not rows:
        raise InputError(f"{folder}: has no rows")
    wanted = task.state_dims or next(iter(dims))
    return Survey(rows, states=len(wanted) == len(STATES) and dims == {wanted}, unmarked_ends=unmarked_ends)


def _blocks(dataset: minari.MinariDataset, task: Task, survey: Survey, folder: Path) -> Iterator[Columns]:
    waiting: list[Columns] = []
    rows = 0
    for where, episode in _episodes(dataset, folder):
        columns = _columns(episode, task, where)
        waiting.append(columns)
        rows += len(columns["reward"])
        if rows >= BLOCK_ROWS:
            yield _joined(waiting, survey)
            waiting, rows = [], 0
    if waiting:
        yield _joined(waiting, survey)


def _joined(episodes: list[Columns], survey: Survey) -> Columns:
    names = [name for name in episodes[0] if survey.states or name not in STATES]
    return {name: np.concatenate([episode[name] for episode in episodes]) for name in names}


def _episodes(dataset: minari.MinariDataset, folder: Path) -> Iterator[tuple[str, minari.EpisodeData]]:
    """Every episode that has rows, and how a complaint names it."""
    with _readable(folder):
        stated = dataset.storage.get_episode_metadata(dataset.episode_indices)
        episodes = zip(dataset.iterate_episodes(), stated, strict=True)
    while True:
        with _readable(folder):
            found = next(episodes, None)
            if found is None:
                return
            episode, facts = found
            rows = len(episode.rewards)
            expected = int(facts.get("total_steps", rows))
        where = f"{folder}: episode {episode.id}"
        if rows != expected:
            raise InputError(f"{where}: expected {expected} rows as its 'total_steps' says, found {rows}")
        if rows:
            yield where, episode


def _columns(episode: minari.EpisodeData, task: Task, where: str) -> dict[str, np.ndarray]:
    """One episode as a source's columns, once its shapes, numbers and flags are checked."""
    rows = len(episode.rewards)
    shapes = {
        "observations": (rows + 1, task.observation_dim),
        "actions": (rows, task.action_dim),
        "rewards": (rows,),
        "terminations": (rows,),
        "truncations": (rows,),
    }
    values = {key: getattr(episode, key) for key in shapes}
    for key, value in values.items():
        if not _is_array_of_numbers(value):
            raise InputError(f"{where}: {key!r}: expected an array of numbers")
        if value.shape != shapes[key]:
            raise InputError(
                f"{where}: {key!r}: expected shape {shapes[key]} for {task.environment} and {rows} rewards, "
                f"found {value.shape}"
            )
    for key in ("observations", "actions", "rewards"):
        check_finite(values[key], key, where)
    check_actions(values["actions"], task, where)
    for key in ("terminations", "truncations"):
        wrong = ~np.isin(values[key], (0, 1))
        if wrong.any():
            raise InputError(f"{where}: {key!r}: expected 0 or 1, found {values[key][wrong][0]}")
    terminal = values["terminations"].astype(bool)
    timeout = values["truncations"].astype(bool) & ~terminal
    timeout[-1] = not terminal[-1]
    observations = values["observations"].astype(np.float32)
    columns = {
        "observation": observations[:-1],
        "action": np.clip(values["actions"], task.action_low, task.action_high).astype(np.float32),
        "reward": values["rewards"].astype(np.float32),
        "next_observation": observations[1:],
        "terminal": terminal,
        "timeout": timeout,
    }
    return columns | _states(episode.infos or {}, rows, where)


def _states(infos: Mapping[str, Any], rows: int, where: str) -> dict[str, np.ndarray]:
    """The simulator's state before each step, where the episode tells all of it."""
    states = {}
    for name in STATES:
        value = infos.get(name)
        if not _is_array_of_numbers(value) or value.ndim != 2 or len(value) != rows + 1:
            return {}
        check_finite(value[:-1], f"infos/{name}", where)
        states[name] = value[:-1].astype(np.float64)
    return states


def _is_array_of_numbers(value: Any) -> TypeGuard[np.ndarray]:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
