"""The world model's variants, baselines among them, through training, synthesis and assessment."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dawm.analysis.fidelity import assess
from dawm.config import AssessmentSettings, SynthesisSettings, WorldModelSettings
from dawm.data.cdf_normalizer import CDFNormalizer
from dawm.data.sealed import open_sealed, seal, unseal
from dawm.data.transitions import NOT_APPLICABLE, Transitions, read_transitions
from dawm.errors import InputError
from dawm.inverse_dynamics import load_inverse_dynamics
from dawm.synthesis import seal_synthetic, synthesize_shard
from dawm.world_model.model import WorldModel
from dawm.world_model.training import fit_normalizers, load_world_model, train_world_model

VARIANTS: dict[str, dict[str, Any]] = {
    "reference": {
        "denoiser": "unet",
        "unet_channels": (8, 8),
        "normalizer": "cdf",
        "successors": "states",
        "preconditioning": "noise",
        "window": 4,
        "diffusion_steps": 5,
    },
    "joint": {"actions": "joint", "successors": "states", "window": 4},
    "synther": {
        "successors": "states",
        "actions": "joint",
        "conditional": False,
        "preconditioning": "edm",
        "window": 2,
    },
    "changes": {"window": 4},
    "joint_changes": {"actions": "joint", "conditional": False, "window": 3},
    "unconditional": {
        "successors": "states",
        "conditional": False,
        "preconditioning": "edm",
        "normalizer": "cdf",
        "window": 3,
    },
}
SAMPLERS = {"joint": "ddim", "synther": "dpmpp_2m"}  # the others: ddpm


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def made(variant: str, dataset: Path, inverse_dynamics: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the variant's `world-model`, 40 steps long, and its `synthetic` transitions in 2 shards."""
    folder = tmp_path_factory.mktemp(variant)
    settings = WorldModelSettings(hidden=32, blocks=1, batch_size=64, gradient_steps=40, **VARIANTS[variant])
    train_world_model(dataset, settings, folder / "world-model", seed=0)
    synthesize(folder, dataset, inverse_dynamics, variant, shards=2)
    return folder


def synthesize(folder: Path, dataset: Path, inverse_dynamics: Path, variant: str, shards: int) -> Path:
    settings = SynthesisSettings(
        trajectories=300, shards=shards, sampling_steps=3, sampler=SAMPLERS.get(variant, "ddpm")
    )  # type: ignore[arg-type]
    output = folder / ("synthetic" if shards == 2 else f"synthetic-{shards}")
    stages = dataset, folder / "world-model", inverse_dynamics, settings, output
    for shard in range(shards):
        synthesize_shard(*stages, shard)
    seal_synthetic(*stages)
    return output


@pytest.fixture(scope="module")
def rows(made: Path) -> Transitions:
    return read_transitions(open_sealed(made / "synthetic", "synthetic"))


def test_rows_of_every_variant_fit_the_schema_and_the_data(
    rows: Transitions, variant: str, transitions: Transitions
) -> None:
    first = rows.take(rows.horizon_step == 1)
    sources = 300 if VARIANTS[variant].get("conditional", True) else 1  # -1: grown from no row
    assert len(first) == 300 and len(set(first.source_row.tolist())) == sources
    assert rows.horizon_step.max() <= VARIANTS[variant]["window"] - 1
    assert np.abs(rows.action).max() <= 1
    both = np.concatenate([transitions.observation, transitions.next_observation])
    slack = 1e-5 * np.ptp(both, axis=0)
    if "changes" in variant:  # what is kept in the data's range is each step, not the sum of several
        steps = transitions.next_observation - transitions.observation
        found = (rows.next_observation - rows.observation,)
        both, slack = steps, 1e-4 * np.ptp(both, axis=0)
    else:
        found = (rows.observation, rows.next_observation)
    for values in found:
        assert np.all(values >= both.min(0) - slack) and np.all(values <= both.max(0) + slack)
    np.testing.assert_array_equal(rows.discount, np.where(rows.terminal, 0.0, 1.0))


def test_given_are_state_and_action_or_nothing(rows: Transitions, variant: str, transitions: Transitions) -> None:
    first = rows.take(rows.horizon_step == 1)
    if not VARIANTS[variant].get("conditional", True):
        assert (rows.source_row == NOT_APPLICABLE).all()
        first = dataclasses.replace(first, source_row=np.arange(len(first)) % len(transitions))
    same_state = (first.observation == transitions.observation[first.source_row]).all(1)
    same_action = (first.action == transitions.action[first.source_row]).all(1)
    if VARIANTS[variant].get("conditional", True):
        assert same_state.all() and same_action.all()
    else:
        assert not same_state.any() and not same_action.any()


def test_actions_are_generated_or_inferred(rows: Transitions, variant: str, inverse_dynamics: Path) -> None:
    """Actions that were given are neither."""
    begin = 2 if VARIANTS[variant].get("conditional", True) else 1
    later = rows.take(rows.horizon_step >= begin)
    with torch.inference_mode():
        inverse, _ = load_inverse_dynamics(inverse_dynamics)
        inferred = inverse(torch.from_numpy(later.observation), torch.from_numpy(later.next_observation)).numpy()
    alike = np.abs(later.action - inferred).max(1) < 1e-4
    assert not alike.any() if VARIANTS[variant].get("actions") == "joint" else alike.all()


def test_joint_models_need_no_inverse_dynamics(made: Path, rows: Transitions, variant: str, dataset: Path) -> None:
    settings = SynthesisSettings(trajectories=300, shards=1, sampling_steps=3, sampler=SAMPLERS.get(variant, "ddpm"))  # type: ignore[arg-type]
    output = made / "acting"
    stages = dataset, made / "world-model", None, settings, output
    if VARIANTS[variant].get("actions") != "joint":
        with pytest.raises(InputError, match="generates no actions; give --inverse-dynamics"):
            synthesize_shard(*stages, 0)
        return
    synthesize_shard(*stages, 0)
    seal_synthetic(*stages)
    sealed = open_sealed(output, "synthetic")
    assert set(sealed.provenance["inputs"]) == {"dataset", "world_model"}
    assert read_transitions(sealed).action.tobytes() == rows.action.tobytes()


def test_an_unconditional_model_of_the_code_that_hid_no_channel_is_refused(
    made: Path, variant: str, tmp_path: Path
) -> None:
    model, sealed = load_world_model(made / "world-model")
    assert ("hidden_channels" in sealed.metadata) != model.settings.conditional
    folder = shutil.copytree(made / "world-model", tmp_path / "old")
    facts = {key: value for key, value in sealed.metadata.items() if key not in ("kind", "hidden_channels")}
    told = sealed.provenance
    unseal(folder, "world-model")
    seal(folder, "world-model", files=list(told["files"]), settings=told["settings"], seed=told["seed"], metadata=facts)
    if model.settings.conditional:
        load_world_model(folder)
        return
    with pytest.raises(InputError, match="was trained by an earlier version of this code; train it again"):
        load_world_model(folder)


def test_cutting_the_work_otherwise_changes_no_bit(
    made: Path, rows: Transitions, variant: str, dataset: Path, inverse_dynamics: Path
) -> None:
    other = read_transitions(open_sealed(synthesize(made, dataset, inverse_dynamics, variant, shards=1), "synthetic"))
    for name, column in rows.columns().items():
        if column is not None:
            assert column.tobytes() == other.columns()[name].tobytes(), name  # type: ignore[union-attr]


def test_every_variant_can_be_assessed(
    made: Path, dataset: Path, inverse_dynamics: Path, variant: str, tmp_path: Path
) -> None:
    settings = AssessmentSettings(rows=50)
    assess(dataset, made / "synthetic", inverse_dynamics, settings, tmp_path / "assessment", variant)
    table = pd.read_csv(tmp_path / "assessment" / "fidelity.csv")
    errors = table[(table["augmentation"] == variant) & (table["quantity"] == "state_error")]
    assert len(errors) == VARIANTS[variant]["window"]  # T - 1 steps, and those after the first together
    assert np.isfinite(errors["value"]).all()


def test_the_chosen_normalizer_is_fitted_on_the_train_split_and_comes_back_with_the_weights(
    dataset: Path, transitions: Transitions, held_out: np.ndarray, tmp_path: Path
) -> None:
    settings = WorldModelSettings(window=3, hidden=8, blocks=1, gradient_steps=2, normalizer="cdf", successors="states")
    train_world_model(dataset, settings, tmp_path / "model", seed=0)
    loaded, _ = load_world_model(tmp_path / "model")
    seen = transitions.take(~held_out)
    expected = CDFNormalizer.fit(torch.from_numpy(np.concatenate([seen.observation, seen.next_observation])))
    assert torch.equal(loaded.states.values, expected.values) and torch.equal(loaded.states.codes, expected.codes)
    windows, _ = fit_normalizers(WorldModel(settings, 11, 3), transitions, held_out, open_sealed(dataset, "dataset"))
    assert windows.batch(torch.arange(200)).rows[..., :11].abs().max() <= 1


def test_actions_of_a_joint_model_are_scaled_in_windows_and_raw_in_samples() -> None:
    torch.manual_seed(0)
    model = WorldModel(WorldModelSettings(window=3, hidden=8, blocks=1, actions="joint", diffusion_steps=1), 2, 1)
    model.actions.low, model.actions.high = torch.tensor([2.0]), torch.tensor([6.0])
    action = torch.tensor([[2.5], [6.0]])
    noise = 50 * torch.randn(1, 2, 3, model.channels)
    found = model.sample(
        torch.zeros(2, 2), action, torch.zeros(2), noise, sampler="ddim", guidance=1.0, temperature=1.0
    ).actions
    assert found is not None and found.shape == (2, 2, 1)
    assert torch.equal(found[:, 0], action)
    assert torch.all((found >= 2) & (found <= 6))
