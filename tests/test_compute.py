"""Mixed precision and compiled networks: flags that change the arithmetic and nothing else, checked against float32."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import contents

import dawm.world_model.training
from dawm.checkpoints import CHECKPOINT
from dawm.compute import CPU, Compute
from dawm.config import InverseDynamicsSettings, SynthesisSettings, WorldModelSettings
from dawm.data.sealed import open_sealed
from dawm.data.transitions import Transitions
from dawm.inverse_dynamics import infer, load_inverse_dynamics, train_inverse_dynamics
from dawm.synthesis import Parts, Requests, seal_synthetic, synthesize_blocks, synthesize_shard
from dawm.training import train
from dawm.world_model.training import load_world_model, train_world_model

BF16 = Compute("cpu", precision="bf16")
COMPILED = Compute("cpu", compile="default")
compiles = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
GPU = [
    Compute("cuda", precision, how)  # type: ignore[arg-type]
    for precision in ("float32", "tf32", "bf16")
    for how in ("none", "graphs")
]
Models = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def models(dataset: Path, world_model: Path, inverse_dynamics: Path) -> Models:
    return dataset, world_model, inverse_dynamics


def losses(folder: Path) -> np.ndarray:
    return np.genfromtxt(folder / "metrics.csv", delimiter=",", names=True)["loss"]


def imagined(
    models: Models, transitions: Transitions, settings: SynthesisSettings, compute: Compute, blocks: range = range(1)
) -> Transitions:
    parts = Parts.load(*models, compute=compute)
    requests = Requests(parts.world_model, settings, transitions)
    return synthesize_blocks(parts, requests, settings, transitions, blocks)[0]


def assert_alike(found: Transitions, expected: Transitions, tolerance: float) -> None:
    """By trajectory and step; errors in units of each column's deviation, for nearly all rows: a terminal may flip."""
    keys = [set(zip(t.source_row.tolist(), t.horizon_step.tolist(), strict=True)) for t in (found, expected)]
    common = keys[0] & keys[1]
    assert len(common) > 0.95 * len(keys[0] | keys[1])
    chosen = []
    for table in (found, expected):
        places = [
            i
            for i, key in enumerate(zip(table.source_row.tolist(), table.horizon_step.tolist(), strict=True))
            if key in common
        ]
        rows = table.take(np.array(places))
        chosen.append(rows.take(np.lexsort((rows.horizon_step, rows.source_row))))
    for name in ("action", "reward", "next_observation"):
        first, second = (getattr(rows, name) for rows in chosen)
        assert first.dtype == np.float32
        error = np.abs(first - second) / (second.std(0) + 1e-6)
        assert np.quantile(error, 0.99) < tolerance, name


# --- bf16 ---------------------------------------------------------------------------------------------------------


def test_bf16_trains_as_float32_does(
    dataset: Path, world_model: Path, world_model_settings: WorldModelSettings, tmp_path: Path
) -> None:
    train_world_model(dataset, world_model_settings, tmp_path, seed=0, compute=BF16)
    np.testing.assert_allclose(losses(tmp_path), losses(world_model), rtol=0.02)
    first, second = (load_world_model(folder)[0].state_dict() for folder in (tmp_path, world_model))
    assert all(value.dtype == torch.float32 for value in first.values())
    assert any(not torch.equal(first[name], second[name]) for name in first)  # it was another arithmetic
    told, silent = (open_sealed(folder, "world-model").metadata for folder in (tmp_path, world_model))
    assert told["compute"] == "cpu/bf16/none" and "compute" not in silent


def test_bf16_trains_inverse_dynamics_as_float32_does(
    dataset: Path, inverse_dynamics: Path, inverse_dynamics_settings: InverseDynamicsSettings, tmp_path: Path
) -> None:
    train_inverse_dynamics(dataset, inverse_dynamics_settings, tmp_path, seed=0, compute=BF16)
    np.testing.assert_allclose(losses(tmp_path), losses(inverse_dynamics), rtol=0.02)
    model, _ = load_inverse_dynamics(tmp_path)
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())


def test_bf16_samples_as_float32_does(
    models: Models, transitions: Transitions, synthesis_settings: SynthesisSettings
) -> None:
    found, expected = (imagined(models, transitions, synthesis_settings, compute) for compute in (BF16, CPU))
    assert_alike(found, expected, tolerance=0.1)
    assert not np.array_equal(found.next_observation[:50], expected.next_observation[:50])


def test_killed_bf16_training_ends_with_the_same_bytes(
    dataset: Path, world_model_settings: WorldModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_world_model(dataset, world_model_settings, tmp_path / "undisturbed", seed=0, compute=BF16)

    def killed(members, update, state, **options) -> None:
        def until(step: int):
            if step == 30:
                raise KeyboardInterrupt
            return update(step)

        train(members, until, state, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dawm.training, "train", killed)
        train_world_model(dataset, world_model_settings, tmp_path / "killed", seed=0, compute=BF16)
    assert (tmp_path / "killed" / CHECKPOINT).is_file()
    train_world_model(dataset, world_model_settings, tmp_path / "killed", seed=0, compute=BF16)
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


# --- what belongs to a run ----------------------------------------------------------------------------------------


def test_checkpoints_belong_to_their_arithmetic() -> None:
    ways = itertools.product(("cpu", "cuda"), ("float32", "tf32", "bf16"), ("none", "graphs"))
    identities = {Compute(*way).identity for way in ways}  # type: ignore[arg-type]
    assert len(identities) == 12
    assert CPU.identity == "cpu"  # as before there was a choice


def test_tf32_is_on_only_where_it_was_asked_for() -> None:
    for precision in ("tf32", "float32", "tf32", "bf16"):
        with Compute("cpu", precision).arithmetic():  # type: ignore[arg-type]
            assert torch.backends.cuda.matmul.allow_tf32 == (precision == "tf32")
    with CPU.arithmetic():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == torch.float32


# --- compiled networks --------------------------------------------------------------------------------------------


@compiles
def test_compiled_networks_sample_what_plain_ones_do(
    models: Models, transitions: Transitions, synthesis_settings: SynthesisSettings
) -> None:
    assert "forward" in vars(Parts.load(*models, compute=COMPILED).world_model.denoiser)  # is another than its class's
    found, expected = (imagined(models, transitions, synthesis_settings, compute) for compute in (COMPILED, CPU))
    assert_alike(found, expected, tolerance=1e-3)


@compiles
def test_compiled_training_keeps_its_weights_names(
    dataset: Path, inverse_dynamics: Path, inverse_dynamics_settings: InverseDynamicsSettings, tmp_path: Path
) -> None:
    train_inverse_dynamics(dataset, inverse_dynamics_settings, tmp_path, seed=0, compute=COMPILED)
    np.testing.assert_allclose(losses(tmp_path), losses(inverse_dynamics), rtol=1e-4)
    model, _ = load_inverse_dynamics(tmp_path)
    expected, _ = load_inverse_dynamics(inverse_dynamics)
    state = torch.randn(20, 11, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(infer(model, state, state), infer(expected, state, state), rtol=1e-3, atol=1e-3)


def test_outputs_of_one_network_outlive_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA graphs write into the same memory again: of this network here, of all compiled ones on a GPU."""

    def recorded(forward, **options):
        assert options == {"mode": "reduce-overhead", "dynamic": False}
        memory = torch.empty(2)

        def replay(inputs: torch.Tensor) -> torch.Tensor:
            return memory.copy_(forward(inputs))

        return replay

    monkeypatch.setattr(torch, "compile", recorded)
    network = torch.nn.Linear(2, 2)
    expected = [network(torch.full((2,), value)) for value in (1.0, 2.0)]
    Compute("cuda", compile="graphs").prepare([network, None])
    with torch.inference_mode():
        found = [network(torch.full((2,), value)) for value in (1.0, 2.0)]
    assert all(map(torch.equal, found, expected))
    assert set(network.state_dict()) == {"weight", "bias"}


# --- many blocks at once, as on a GPU -----------------------------------------------------------------------------


def test_blocks_together_are_those_blocks_one_by_one(
    models: Models, transitions: Transitions, synthesis_settings: SynthesisSettings
) -> None:
    together = imagined(models, transitions, synthesis_settings, CPU, range(3))
    alone = [imagined(models, transitions, synthesis_settings, CPU, range(b, b + 1)) for b in range(3)]
    assert len(together) == sum(map(len, alone))
    rows = np.concatenate([part.next_observation for part in alone])
    np.testing.assert_allclose(together.next_observation, rows, rtol=1e-3, atol=1e-3)


def test_shards_of_many_blocks_at_once_hold_all_trajectories(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dawm.blocks.blocks_at_once", lambda compute: 2)  # 3 blocks: one of 2, one of 1
    settings = dataclasses.replace(synthesis_settings, shards=1)
    synthesize_shard(*models, settings, tmp_path, 0)
    from dawm.data.files import read_bytes
    from dawm.data.transitions import parse_shard
    from dawm.layout import shard_name

    path = tmp_path / shard_name(0, 1)
    assert len(np.unique(parse_shard(read_bytes(path), path).source_row)) == settings.trajectories


def test_transitions_tell_how_they_were_computed_where_it_was_not_plainly_on_a_cpu(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path
) -> None:
    settings = dataclasses.replace(synthesis_settings, shards=2)
    for second, expected in ((CPU, None), (BF16, "cpu, cpu/bf16/none")):
        synthesize_shard(*models, settings, tmp_path, 0)
        synthesize_shard(*models, settings, tmp_path, 1, compute=second)
        seal_synthetic(*models, settings, tmp_path)
        assert open_sealed(tmp_path, "synthetic").metadata.get("compute") == expected


# --- on a GPU -----------------------------------------------------------------------------------------------------


@on_a_gpu
@pytest.mark.parametrize("compute", GPU, ids=lambda compute: compute.identity)
def test_a_gpu_samples_what_a_cpu_does(
    models: Models, transitions: Transitions, synthesis_settings: SynthesisSettings, compute: Compute
) -> None:
    found, expected = (imagined(models, transitions, synthesis_settings, c) for c in (compute, CPU))
    assert_alike(found, expected, tolerance=0.1 if compute.precision == "bf16" else 0.01)


@on_a_gpu
@pytest.mark.parametrize("compute", GPU, ids=lambda compute: compute.identity)
def test_a_gpu_trains_as_a_cpu_does(
    dataset: Path, world_model: Path, world_model_settings: WorldModelSettings, tmp_path: Path, compute: Compute
) -> None:
    train_world_model(dataset, world_model_settings, tmp_path, seed=0, compute=compute)
    np.testing.assert_allclose(losses(tmp_path), losses(world_model), rtol=0.02)
