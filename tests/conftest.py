"""One tiny run of the pipeline, made once per session: data set, models, synthetic transitions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dawm.config import (
    ExportSettings,
    ForwardDynamicsSettings,
    InverseDynamicsSettings,
    SynthesisSettings,
    WorldModelSettings,
)
from dawm.data.export import export
from dawm.data.sealed import open_sealed, seal
from dawm.data.transitions import Transitions, read_transitions, write_shard
from dawm.forward_dynamics import train_forward_dynamics
from dawm.inverse_dynamics import train_inverse_dynamics
from dawm.layout import shard_name
from dawm.synthesis import seal_synthetic, synthesize_shard
from dawm.world_model.training import train_world_model

torch.set_num_threads(1)  # tiny networks: more threads only wait for each other


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The workflow's tests first: they take as long as half of all others, in one process beside them."""
    items.sort(key=lambda item: item.path.name != "test_workflow.py")


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of decoded tables, for this process and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAWM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def export_settings() -> ExportSettings:
    return ExportSettings(source="local/hopper-medium-replay", transitions=3000, rows_per_shard=1000)


@pytest.fixture(scope="session")
def world_model_settings() -> WorldModelSettings:
    return WorldModelSettings(
        window=4, hidden=32, blocks=1, batch_size=64, gradient_steps=60, ema_decay=0.9, checkpoint_every=20
    )


@pytest.fixture(scope="session")
def inverse_dynamics_settings() -> InverseDynamicsSettings:
    return InverseDynamicsSettings(hidden=32, batch_size=64, gradient_steps=60, checkpoint_every=20)


@pytest.fixture(scope="session")
def synthesis_settings() -> SynthesisSettings:
    """Three blocks, the last one padded, in two shards."""
    return SynthesisSettings(trajectories=700, shards=2, sampling_steps=3)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, export_settings: ExportSettings) -> Path:
    """A sealed data set of 3000 Hopper transitions in 3 shards."""
    folder = tmp_path_factory.mktemp("run") / "dataset"
    export(export_settings, folder)
    return folder


@pytest.fixture(scope="session")
def transitions(dataset: Path) -> Transitions:
    """The rows of `dataset`. Shared: do not write into its columns."""
    return read_transitions(open_sealed(dataset, "dataset"))


@pytest.fixture(scope="session")
def held_out(dataset: Path, transitions: Transitions) -> np.ndarray:
    """bool [n]: rows of `dataset` whose episode is held out, told from metadata.json by hand."""
    numbers = set(open_sealed(dataset, "dataset").metadata["held_out_episodes"])
    return np.array([episode in numbers for episode in transitions.episode.tolist()])


@pytest.fixture(scope="session")
def world_model(dataset: Path, world_model_settings: WorldModelSettings) -> Path:
    """A sealed world model after 60 steps on `dataset`."""
    folder = dataset.parent / "world-model"
    train_world_model(dataset, world_model_settings, folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def inverse_dynamics(dataset: Path, inverse_dynamics_settings: InverseDynamicsSettings) -> Path:
    """A sealed inverse dynamics model after 60 steps on `dataset`."""
    folder = dataset.parent / "inverse-dynamics"
    train_inverse_dynamics(dataset, inverse_dynamics_settings, folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def forward_dynamics(dataset: Path) -> Path:
    """A sealed forward model after 60 steps on `dataset`."""
    folder = dataset.parent / "forward-dynamics"
    train_forward_dynamics(dataset, ForwardDynamicsSettings(hidden=32, gradient_steps=60), folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def synthetic(dataset: Path, world_model: Path, inverse_dynamics: Path, synthesis_settings: SynthesisSettings) -> Path:
    """Sealed synthetic transitions: 700 trajectories in 2 shards."""
    folder = dataset.parent / "synthetic"
    for shard in range(synthesis_settings.shards):
        synthesize_shard(dataset, world_model, inverse_dynamics, synthesis_settings, folder, shard)
    seal_synthetic(dataset, world_model, inverse_dynamics, synthesis_settings, folder)
    return folder


SealDataset = Callable[..., Path]


@pytest.fixture(scope="session")
def seal_dataset(tmp_path_factory: pytest.TempPathFactory) -> SealDataset:
    """Writes rows as a sealed data set of one shard: seal_dataset(transitions, held_out_episodes, **more metadata)."""

    def write(rows: Transitions, held_out_episodes: list[int], **metadata: Any) -> Path:
        folder = tmp_path_factory.mktemp("dataset")
        write_shard(folder / shard_name(0, 1), rows)
        facts = {
            "environment": "Hopper-v4",
            "observation_dim": rows.observation_dim,
            "action_dim": rows.action_dim,
            "held_out_episodes": held_out_episodes,
            **metadata,
        }
        seal(folder, "dataset", files=[shard_name(0, 1)], settings={}, metadata=facts)
        return folder

    return write


@pytest.fixture(scope="session")
def scrambled(dataset: Path, transitions: Transitions, held_out: np.ndarray, seal_dataset: SealDataset) -> Path:
    """`dataset` with absurd numbers in every held-out row, and the same split: what learns from it would show."""
    rng = np.random.default_rng(0)
    columns = {}
    for name in ("observation", "next_observation", "action", "reward"):
        values = getattr(transitions, name).copy()
        values[held_out] = 1e4 * rng.standard_normal(values[held_out].shape)
        columns[name] = values
    numbers = open_sealed(dataset, "dataset").metadata["held_out_episodes"]
    return seal_dataset(dataclasses.replace(transitions, **columns), numbers)
