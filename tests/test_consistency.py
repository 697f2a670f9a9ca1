"""The loss on consistent steps: what it measures, what it changes, what it needs."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dawm.config import GeneratorSettings, WorldModelSettings, read
from dawm.data.sealed import open_sealed
from dawm.data.transitions import Transitions
from dawm.data.windows import WindowBatch, Windows
from dawm.errors import InputError
from dawm.world_model.consistency import Physics
from dawm.world_model.model import WorldModel
from dawm.world_model.training import denoising_loss, fit_normalizers, load_world_model, train_world_model


@pytest.fixture(scope="module")
def physics(dataset: Path, inverse_dynamics: Path, forward_dynamics: Path) -> Physics:
    return Physics.load(open_sealed(dataset, "dataset"), inverse_dynamics, forward_dynamics, "cpu")


@pytest.fixture(scope="module")
def fitted(
    dataset: Path, transitions: Transitions, held_out: np.ndarray, world_model_settings: WorldModelSettings
) -> tuple[WorldModel, Windows]:
    model = WorldModel(world_model_settings, 11, 3)
    windows, _ = fit_normalizers(model, transitions, held_out, open_sealed(dataset, "dataset"))
    return model, windows


def batch_of(windows: Windows, count: int = 64) -> WindowBatch:
    return windows.batch(torch.arange(0, len(windows), len(windows) // count)[:count])


def obeying(model: WorldModel, physics: Physics, batch: WindowBatch) -> torch.Tensor:
    """Windows that start as the batch's and then move as the forward model says, by actions that it was asked for."""
    states = [model.states.decode(batch.rows[:, 0, :11])]
    action = model.actions.decode(batch.action)
    for _ in range(model.settings.window - 1):
        states.append(physics.forward(states[-1], action)[0])
        action = torch.zeros_like(action)
    found = torch.stack(states, dim=1)
    rows = batch.rows.clone()
    rows[:, 1:, :11] = model.changes.encode(found[:, 1:] - found[:, :-1])
    return rows


@torch.no_grad()
def test_residual_is_the_distance_from_the_forward_models_step(
    fitted: tuple[WorldModel, Windows], physics: Physics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows that obey it have none, where the inferred actions are those that were taken; a shift is seen in full."""
    model, windows = fitted
    batch, low = batch_of(windows), torch.full((64,), 0.5)
    monkeypatch.setattr(type(physics.inverse), "forward", lambda self, s, n: torch.zeros(*s.shape[:-1], 3))
    rows = obeying(model, physics, batch)
    assert float(physics.residual(model, rows, low, batch, batch.action)) < 1e-4
    shifted = rows.clone()
    shifted[:, -1, :11] += 3 / model.changes.std * physics.forward.changes.std  # the last step alone
    counted = batch.mask[:, 1:, :11]
    share = float(counted[:, -1].sum() / counted.sum())
    assert float(physics.residual(model, shifted, low, batch, batch.action)) == pytest.approx(3 * share, rel=1e-3)


@torch.no_grad()
def test_where_the_action_is_hidden_the_first_step_is_judged_by_the_inferred_one(
    fitted: tuple[WorldModel, Windows], physics: Physics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is not told the action can step by any: a step that some action leads through is no fault."""
    model, windows = fitted
    batch, low = batch_of(windows), torch.full((64,), 0.5)
    monkeypatch.setattr(type(physics.inverse), "forward", lambda self, s, n: torch.zeros(*s.shape[:-1], 3))
    by_none = dataclasses.replace(batch, action=model.actions.encode(torch.zeros(64, 3)))
    rows, hidden = obeying(model, physics, by_none), torch.full_like(batch.action, torch.nan)
    assert float(physics.residual(model, rows, low, batch, hidden)) < 1e-4
    assert float(physics.residual(model, rows, low, batch, batch.action)) > 1e-3


def test_the_residual_counts_by_its_weight(fitted: tuple[WorldModel, Windows], physics: Physics) -> None:
    model, windows, losses = copy.deepcopy(fitted[0]), fitted[1], []
    for weight in (0.0, 1.0, 5.0):
        model.settings = dataclasses.replace(model.settings, consistency=weight)
        losses.append(float(denoising_loss(model, batch_of(windows), np.random.default_rng(0), physics).detach()))
    assert losses[2] - losses[0] == pytest.approx(5 * (losses[1] - losses[0]), rel=1e-3) and losses[1] > losses[0]


def test_states_learn_to_be_where_the_forward_model_leads_and_not_to_lead_it_elsewhere(
    fitted: tuple[WorldModel, Windows], physics: Physics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand for a forward model that stays where it is: no gradient through what it is given."""
    model, batch = fitted[0], batch_of(fitted[1])
    monkeypatch.setattr(type(physics.forward), "forward", lambda self, state, action: (1.0 * state, state[..., 0]))
    clean, twin = (batch.rows.clone().requires_grad_() for _ in range(2))
    physics.residual(model, clean, torch.full((64,), 0.5), batch, batch.action).backward()
    states = model.decode_states(twin[..., :11], model.states.decode(batch.rows[:, 0, :11]))
    mask, moved = batch.mask[:, 1:, :11], (states[:, 1:] - states[:, :-1].detach()).abs()
    ((mask * moved / physics.forward.changes.std).sum() / mask.sum()).backward()
    torch.testing.assert_close(clean.grad, twin.grad)


def test_only_low_noise_counts(fitted: tuple[WorldModel, Windows], physics: Physics) -> None:
    model, windows = fitted
    batch = batch_of(windows)
    sigma = torch.where(torch.arange(64) % 2 == 0, 0.5, 3.0)
    clean = batch.rows.clone().requires_grad_()
    physics.residual(model, clean, sigma, batch, batch.action).backward()
    assert (clean.grad[1::2] == 0).all() and (clean.grad[::2] != 0).any()
    high = torch.full((64,), 3.0)
    assert float(physics.residual(model, clean.detach(), high, batch, batch.action)) == 0.0


def test_residual_is_given_everything_on_the_models_device(
    fitted: tuple[WorldModel, Windows], physics: Physics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's `meta` stands for a GPU, whose masks index no CPU tensor."""
    devices = []

    def residual(
        _: Physics, model: WorldModel, clean: Tensor, sigma: Tensor, batch: WindowBatch, action: Tensor
    ) -> Tensor:
        devices.extend(tensor.device.type for tensor in (clean, sigma, action, *vars(batch).values()))
        return clean.sum()

    monkeypatch.setattr(Physics, "residual", residual)
    model = copy.deepcopy(fitted[0]).to("meta")
    denoising_loss(model, batch_of(fitted[1]), np.random.default_rng(0), physics)
    assert devices == 8 * ["meta"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_loss_on_a_gpu_is_the_cpus(
    dataset: Path, inverse_dynamics: Path, forward_dynamics: Path, fitted: tuple[WorldModel, Windows]
) -> None:
    data, found = open_sealed(dataset, "dataset"), []
    for device in ("cpu", "cuda"):
        judges = Physics.load(data, inverse_dynamics, forward_dynamics, device)
        model = copy.deepcopy(fitted[0]).to(device)
        found.append(float(denoising_loss(model, batch_of(fitted[1]), np.random.default_rng(0), judges)))
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_models_that_judge_do_not_learn(
    fitted: tuple[WorldModel, Windows], physics: Physics, inverse_dynamics: Path, forward_dynamics: Path
) -> None:
    model, windows = fitted
    batch = batch_of(windows)
    clean = batch.rows.clone().requires_grad_()
    physics.residual(model, clean, torch.full((64,), 0.5), batch, batch.action).backward()
    judges = [*physics.inverse.parameters(), *physics.forward.parameters()]
    assert judges and not any(parameter.requires_grad or parameter.grad is not None for parameter in judges)


def test_training_with_it_leads_to_steps_with_less_residual(
    dataset: Path,
    inverse_dynamics: Path,
    forward_dynamics: Path,
    fitted: tuple[WorldModel, Windows],
    physics: Physics,
    world_model_settings: WorldModelSettings,
    tmp_path: Path,
) -> None:
    longer = dataclasses.replace(world_model_settings, gradient_steps=300)
    models = {}
    for weight in (0.0, 5.0):
        folder, teachers = tmp_path / str(weight), (inverse_dynamics, forward_dynamics) if weight else (None, None)
        settings = dataclasses.replace(longer, consistency=weight)
        train_world_model(dataset, settings, folder, 0, inverse_dynamics=teachers[0], forward_dynamics=teachers[1])
        models[weight], sealed = load_world_model(folder)
        inputs = {"dataset", "inverse_dynamics", "forward_dynamics"} if weight else {"dataset"}
        assert set(sealed.provenance["inputs"]) == inputs
    batch = batch_of(fitted[1])
    residuals = {}
    for weight, model in models.items():
        condition = model.condition(batch.rows[:, 0], batch.action, batch.return_to_go, batch.known)
        noise = torch.randn(batch.rows.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            clean = model.denoise(batch.rows + 0.5 * noise, 0.5, condition, 1.0, model.encoded_range())
            residuals[weight] = float(physics.residual(model, clean, torch.full((64,), 0.5), batch, batch.action))
    assert residuals[5.0] < 0.8 * residuals[0.0]


@pytest.mark.parametrize("missing", ["inverse_dynamics", "forward_dynamics"])
def test_it_needs_both_models(
    dataset: Path,
    inverse_dynamics: Path,
    forward_dynamics: Path,
    world_model_settings: WorldModelSettings,
    tmp_path: Path,
    missing: str,
) -> None:
    teachers: dict[str, Any] = {"inverse_dynamics": inverse_dynamics, "forward_dynamics": forward_dynamics}
    settings = dataclasses.replace(world_model_settings, consistency=1.0)
    with pytest.raises(InputError, match="consistency: needs an inverse and a forward model"):
        train_world_model(dataset, settings, tmp_path / "out", 0, **(teachers | {missing: None}))
    assert not (tmp_path / "out").exists()


def test_models_without_it_are_refused(
    dataset: Path, inverse_dynamics: Path, world_model_settings: WorldModelSettings, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="consistency: expected more than 0 with inverse or forward dynamics, found 0"):
        train_world_model(dataset, world_model_settings, tmp_path / "out", 0, inverse_dynamics=inverse_dynamics)
    assert not (tmp_path / "out").exists()


def test_models_of_another_data_set_are_refused(
    scrambled: Path, inverse_dynamics: Path, forward_dynamics: Path
) -> None:
    with pytest.raises(InputError, match="was trained on another data set than"):
        Physics.load(open_sealed(scrambled, "dataset"), inverse_dynamics, forward_dynamics, "cpu")


@pytest.mark.parametrize("more", [{"actions": "joint"}, {"conditional": False}])
def test_it_is_for_conditional_models_without_actions(more: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="consistency: expected 0 with a model that is"):
        read(WorldModelSettings, {"consistency": 0.5, **more}, "here")


def test_recipe_with_it_needs_a_forward_model_and_synthesis_does_not_take_it() -> None:
    with pytest.raises(
        InputError, match=r"forward_dynamics: expected settings for world_model.consistency 0.5, found null"
    ):
        read(GeneratorSettings, {"world_model": {"consistency": 0.5}}, "here")
    recipe = read(GeneratorSettings, {"world_model": {"consistency": 0.5}, "forward_dynamics": {}}, "here")
    assert recipe.taught_by("world_model") == ["inverse_dynamics", "forward_dynamics"]
    assert recipe.grown_by() == ["world_model", "inverse_dynamics"]
    corrected = {"world_model": {}, "forward_dynamics": {}, "synthesis": {"correction": {"mode": "correct"}}}
    recipe = read(GeneratorSettings, corrected, "here")
    assert recipe.taught_by("world_model") == []
    assert recipe.grown_by() == ["world_model", "inverse_dynamics", "forward_dynamics"]
