"""The world model: condition and guidance, the denoising loss, its training."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from dawm.compute import CPU
from dawm.config import WorldModelSettings
from dawm.data.normalizers import MinMaxScaler, Standardizer
from dawm.data.sealed import open_sealed
from dawm.data.transitions import Transitions, read_transitions
from dawm.data.windows import WindowBatch
from dawm.errors import InputError
from dawm.randomness import derived_seed, generator
from dawm.training import cosine_rate, ema_rate
from dawm.world_model.model import Imagined, WorldModel
from dawm.world_model.schedule import cosine_sigmas
from dawm.world_model.training import Denoising, denoising_loss, fit_normalizers, load_world_model, train_world_model

# --- the world model as a sampler: condition and guidance --------------------------------------------------------

BATCH = 6


KINDS = ("clean", "noise", "edm")
SHORT: dict[str, Any] = {"window": 3, "hidden": 8, "blocks": 1, "batch_size": 8}
SMALL = WorldModelSettings(**SHORT)


def tiny_model(preconditioning: str = "clean", **changes: object) -> WorldModel:
    """K = 1, so that a sample is one call of the denoiser; normalizers that do something."""
    torch.manual_seed(0)
    settings = WorldModelSettings(
        successors="states",
        **(
            {"window": 3, "diffusion_steps": 1, "hidden": 16, "blocks": 1, "preconditioning": preconditioning} | changes
        ),  # type: ignore[arg-type]
    )
    model = WorldModel(settings, 2, 1)
    model.states.mean, model.states.std = torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5])
    model.rewards.low, model.rewards.high = torch.tensor(-3.0), torch.tensor(5.0)
    model.return_scale = torch.tensor(4.0)
    return model.eval()


def givens() -> tuple[Tensor, Tensor, torch.Generator]:
    """BATCH states and actions, raw units, and the generator after them."""
    g = torch.Generator().manual_seed(5)
    return torch.randn(BATCH, 2, generator=g), torch.rand(BATCH, 1, generator=g) * 2 - 1, g


def draw(model: WorldModel, return_to_go: Tensor, guidance: float, steps: int = 1, **options: object) -> Imagined:
    """BATCH samples from fixed states, actions and noise."""
    state, action, g = givens()
    noise = torch.randn(steps, BATCH, model.settings.window, model.channels, generator=g)
    options = {"sampler": "ddpm", "temperature": 1.0} | options
    return model.sample(state, action, return_to_go, noise, guidance=guidance, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.2, 3.0])
@torch.inference_mode()
def test_guidance_goes_from_the_unconditional_prediction_towards_the_conditional(kind: str, guidance: float) -> None:
    """A sample of one step, by hand: D = c_skip x + c_out F with and without the return, then extrapolated."""
    model = tiny_model(kind)
    wanted = torch.linspace(-2, 8, BATCH)
    imagined = draw(model, wanted, guidance)

    state, action, g = givens()
    sigma = 80.0 if kind == "edm" else math.sqrt(0.999 / 0.001)  # a single level: β is clipped at 0.999
    x = sigma * torch.randn(1, BATCH, 3, 4, generator=g)[0]
    seen = x / math.sqrt(1 + sigma**2)
    seen[:, 0, :2] = (state - torch.tensor([1.0, -2.0])) / torch.tensor([2.0, 0.5])
    level = torch.full((BATCH,), math.log(sigma) / 4 if kind == "edm" else 2 / math.pi * math.atan(sigma))
    conditional, unconditional = (
        model.denoiser(seen, level, action, wanted / 4, torch.full((BATCH,), shown)).double().numpy()
        for shown in (True, False)
    )
    predicted = unconditional + guidance * (conditional - unconditional)
    noisy = x.double().numpy()
    if kind == "noise":
        predicted = noisy - sigma * predicted
    elif kind == "edm":
        predicted = (noisy + sigma * math.sqrt(1 + sigma**2) * predicted) / (1 + sigma**2)
    states = predicted[:, 1:, :2] * [2.0, 0.5] + [1.0, -2.0]
    rewards = (np.clip(predicted[:, :-1, 2], -1, 1) + 1) / 2 * 8 - 3
    np.testing.assert_allclose(imagined.states[:, 1:], states, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(imagined.rewards, rewards, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(imagined.terminals, predicted[:, 1:, 3] > 0)
    assert torch.equal(imagined.states[:, 0], state)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
@pytest.mark.parametrize("kind", KINDS)
def test_sampling_at_temperature_zero_does_not_depend_on_the_noise(kind: str, sampler: str) -> None:
    """Of DDPM only the start is left; the ODE solvers begin at 0."""
    model = tiny_model(kind, diffusion_steps=6)
    state, action, g = givens()
    first, second = torch.randn(2, 4, BATCH, 3, 4, generator=g)
    if sampler == "ddpm":
        second[0] = first[0]
    found = [
        model.sample(state, action, torch.zeros(BATCH), noise, sampler=sampler, guidance=1.2, temperature=0.0)
        for noise in (first, second)
    ]
    assert torch.equal(found[0].states, found[1].states) and torch.equal(found[0].rewards, found[1].rewards)


def test_levels_of_sampling_are_those_of_training() -> None:
    assert torch.equal(tiny_model("clean", diffusion_steps=6).sigmas(3), cosine_sigmas(6, 3))
    found = tiny_model("edm").sigmas(7, 0.01, 20.0, 5.0)
    np.testing.assert_allclose(found[[0, -2, -1]], [20, 0.01, 0], rtol=1e-9)


def test_guidance_matters_where_the_return_is_known() -> None:
    model = tiny_model()
    wanted = torch.full((BATCH,), 8.0)
    assert not torch.equal(draw(model, wanted, 0.0).states, draw(model, wanted, 1.0).states)
    assert not torch.equal(draw(model, wanted, 1.0).states, draw(model, wanted, 3.0).states)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 4.0])
def test_unknown_return_gives_the_unconditional_sample_whatever_the_guidance(guidance: float) -> None:
    model = tiny_model()
    wanted = torch.tensor([5.0, torch.nan] * (BATCH // 2))
    unconditional = draw(model, torch.full((BATCH,), 5.0), guidance=0.0)
    found = draw(model, wanted, guidance)
    np.testing.assert_allclose(found.states[1::2], unconditional.states[1::2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.rewards[1::2], unconditional.rewards[1::2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_sample_begins_with_exactly_the_given_state(sampler: str, world_model: Path, transitions: Transitions) -> None:
    model, _ = load_world_model(world_model)
    state, action = torch.from_numpy(transitions.observation[:50]), torch.from_numpy(transitions.action[:50])
    noise = torch.randn(4, 50, 4, 13, generator=torch.Generator().manual_seed(0))
    wanted = torch.full((50,), 100.0)
    imagined = model.sample(state, action, wanted, noise, sampler=sampler, guidance=1.2, temperature=1.0)
    assert torch.equal(imagined.states[:, 0], state)
    assert not torch.equal(imagined.states[:, 1], state)


def test_first_rows_are_kept_in_the_range_of_states_and_later_ones_in_that_of_changes() -> None:
    model = WorldModel(WorldModelSettings(**SHORT), 2, 1)
    assert model.changes is not None
    for part, low in ((model.states, -7.0), (model.changes, -3.0)):
        part.low, part.high = torch.full((2,), low), torch.full((2,), -2 * low)
    low, high = model.encoded_range()
    assert low.tolist() == [[-7, -7, -1, -1], [-3, -3, -1, -1], [-3, -3, -1, -1]]
    assert high.tolist() == [[14, 14, 1, 1], [6, 6, 1, 1], [6, 6, 1, 1]]


def test_edm_knows_the_spread_of_its_normalizer() -> None:
    """Uniform in [-1, 1] by its distribution function: a variance of a third."""
    model = WorldModel(WorldModelSettings(preconditioning="edm", normalizer="cdf", **SHORT), 2, 1)
    none = torch.zeros(1, 2), torch.zeros(1, 1), torch.zeros(1), torch.ones(1, dtype=torch.bool)
    _, found = model.network(torch.zeros(1, 3, 4), torch.tensor([2.0]), model.condition(*none))
    assert float(found.c_skip) == pytest.approx((1 / 3) / (4 + 1 / 3))


def test_samples_stay_in_the_range_of_the_training_data(
    world_model: Path, transitions: Transitions, held_out: np.ndarray
) -> None:
    model, _ = load_world_model(world_model)
    seen = transitions.take(~held_out)
    state, action = torch.from_numpy(transitions.observation[:50]), torch.from_numpy(transitions.action[:50])
    noise = 100 * torch.randn(3, 50, 4, 13, generator=torch.Generator().manual_seed(0))
    imagined = model.sample(
        state, action, torch.full((50,), torch.nan), noise, sampler="ddpm", guidance=1.0, temperature=1.0
    )
    both = np.concatenate([seen.observation, seen.next_observation])
    slack = 1e-5 * np.ptp(both, axis=0)
    assert np.all(imagined.states[:, 1:].numpy() >= both.min(0) - slack)
    assert np.all(imagined.states[:, 1:].numpy() <= both.max(0) + slack)
    assert np.all(imagined.rewards.numpy() >= seen.reward.min() - 1e-4)
    assert np.all(imagined.rewards.numpy() <= seen.reward.max() + 1e-4)


# --- the loss ---------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """A denoiser that predicts the same rows whatever it sees."""

    def __init__(self, prediction: Tensor) -> None:
        super().__init__()
        self.prediction = nn.Parameter(prediction)

    def forward(self, *_: Tensor) -> Tensor:
        return self.prediction


def some_batch(count: int = 8, channels: int = 4) -> WindowBatch:
    g = torch.Generator().manual_seed(2)
    mask = (torch.rand(count, 3, channels, generator=g) < 0.6).float()
    known = torch.arange(count) % 4 > 0
    return WindowBatch(
        torch.randn(count, 3, channels, generator=g),
        mask,
        torch.rand(count, 1, generator=g),
        torch.rand(count, generator=g) * known,
        known,
    )


@pytest.mark.parametrize(("loss", "norm"), [("squared", np.square), ("absolute", np.abs)])
@pytest.mark.parametrize("kind", KINDS)
def test_denoising_loss_is_the_mean_error_of_what_the_mask_shows(kind: str, loss: str, norm: np.ufunc) -> None:
    model, batch = tiny_model(kind, diffusion_steps=10, loss=loss), some_batch()
    model.denoiser = Fixed(torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(9)))
    rng = np.random.default_rng(4)
    if kind == "edm":  # the levels come first
        sigma = np.exp(rng.normal(-1.2, 1.2, size=8))[:, None, None]
    else:
        rng.integers(10, size=8)
    noise = rng.standard_normal((8, 3, 4), dtype=np.float32).astype(np.float64)
    clean = batch.rows.double().numpy()
    if kind == "edm":
        target = (clean * (1 + sigma**2) - (clean + sigma * noise)) / (sigma * np.sqrt(1 + sigma**2))
    else:
        target = noise if kind == "noise" else clean
    predicted = model.denoiser.prediction.detach().double().numpy()
    shown = batch.mask.bool().numpy()
    error = predicted - target
    terminal = np.arange(4) == 3  # an absolute loss would learn that nothing ends, since little does
    expected = np.where(terminal, np.square(error), norm(error))[shown].mean()
    found = denoising_loss(model, batch, np.random.default_rng(4))
    np.testing.assert_allclose(float(found.detach()), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_predictions_have_no_influence(kind: str) -> None:
    model, batch = tiny_model(kind), some_batch()
    model.denoiser = Fixed(torch.zeros(8, 3, 4))
    denoising_loss(model, batch, np.random.default_rng(4)).backward()
    gradient = model.denoiser.prediction.grad
    assert gradient is not None
    assert torch.equal(gradient != 0, batch.mask.bool())


@pytest.mark.parametrize("kind", KINDS)
def test_masked_targets_have_no_influence(kind: str) -> None:
    model, batch = tiny_model(kind), some_batch()
    model.denoiser = Fixed(torch.zeros(8, 3, 4))
    other = dataclasses.replace(batch, rows=torch.where(batch.mask.bool(), batch.rows, 1e3))
    first, second = (denoising_loss(model, b, np.random.default_rng(4)) for b in (batch, other))
    assert torch.equal(first, second)


def loss_with_returns(dropout: float, batch: WindowBatch, return_to_go: Tensor) -> Tensor:
    changed = dataclasses.replace(batch, return_to_go=return_to_go)
    return denoising_loss(tiny_model(condition_dropout=dropout), changed, np.random.default_rng(4)).detach()


def test_return_is_hidden_always_never_or_where_it_is_unknown() -> None:
    batch = some_batch()
    moved = batch.return_to_go + 3
    assert torch.equal(loss_with_returns(1.0, batch, moved), loss_with_returns(1.0, batch, batch.return_to_go))
    assert not torch.equal(loss_with_returns(0.0, batch, moved), loss_with_returns(0.0, batch, batch.return_to_go))
    moved_where_unknown = torch.where(batch.known, batch.return_to_go, 3.0)
    assert torch.equal(
        loss_with_returns(0.0, batch, moved_where_unknown), loss_with_returns(0.0, batch, batch.return_to_go)
    )


class Keeper(nn.Module):
    """A denoiser that remembers what it saw."""

    seen: tuple[Tensor, ...]

    def forward(self, *inputs: Tensor) -> Tensor:
        self.seen = inputs
        return inputs[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("actions", "given"), [("inferred", 2), ("joint", 3)])
def test_what_is_given_reaches_the_denoiser_without_noise_and_unscaled(kind: str, actions: str, given: int) -> None:
    model, batch, keeper = tiny_model(kind, actions=actions), some_batch(channels=given + 2), Keeper()
    model.denoiser = keeper
    denoising_loss(model, batch, np.random.default_rng(4))
    assert torch.equal(keeper.seen[0][:, 0, :given], batch.rows[:, 0, :given])
    assert torch.all(keeper.seen[0][:, 0, given:] != batch.rows[:, 0, given:])
    assert torch.all(keeper.seen[0][:, 1:] != batch.rows[:, 1:])


def test_an_unconditional_denoiser_is_given_nothing() -> None:
    model, batch, keeper = tiny_model("edm", actions="joint", conditional=False), some_batch(channels=5), Keeper()
    model.denoiser = keeper
    denoising_loss(model, batch, np.random.default_rng(4))
    rows, _, action, _, known = keeper.seen
    told = torch.ones(3, 5, dtype=torch.bool)
    told[0, 4] = told[2, 2:4] = False  # row 0's terminal, the last row's action and reward: no targets, not seen
    assert torch.all((rows != batch.rows)[:, told]) and not rows[:, ~told].any()
    assert not action.any() and not known.any()


def test_what_an_unconditional_model_imagines_does_not_depend_on_what_is_no_target() -> None:
    model = tiny_model("edm", actions="joint", conditional=False, window=2)
    noise = torch.randn(3, BATCH, 2, 5, generator=torch.Generator().manual_seed(2))
    other = noise.clone()
    other[:, :, 0, 4] += 1
    other[:, :, 1, 2:4] -= 1

    def imagined(noise: Tensor) -> Imagined:
        state, action, _ = givens()
        unknown = torch.full((BATCH,), torch.nan)
        return model.sample(state, action, unknown, noise, sampler="dpmpp_2m", guidance=1.0, temperature=1.0)

    first, second, third = imagined(noise), imagined(other), imagined(noise + 1)
    for name in ("states", "rewards", "terminals", "actions"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert not torch.equal(first.states, third.states)


def test_all_but_what_is_no_target_is_shown_to_an_unconditional_denoiser() -> None:
    model, batch, keeper = tiny_model("edm", actions="joint", conditional=False), some_batch(channels=5), Keeper()
    model.denoiser = keeper
    denoising_loss(model, batch, np.random.default_rng(4))
    told = torch.ones(3, 5, dtype=torch.bool)
    told[0, 4] = told[2, 2:4] = False
    assert torch.equal((keeper.seen[0] != 0).all(0), told)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_action_is_hidden_as_often_as_the_settings_say(dropout: float) -> None:
    model, batch, keeper = tiny_model(action_dropout=dropout), some_batch(count=4000), Keeper()
    model.denoiser = keeper
    denoising_loss(model, batch, np.random.default_rng(4))
    hidden = keeper.seen[2].isnan().any(1)
    assert float(hidden.float().mean()) == pytest.approx(dropout, abs=0.1 * dropout)
    assert torch.equal(keeper.seen[2][~hidden], batch.action[~hidden])


def test_the_denoiser_learns_the_mean_where_the_sampler_follows_it() -> None:
    losses = [WorldModelSettings(preconditioning=kind).loss for kind in ("clean", "noise", "edm")]  # type: ignore[arg-type]
    assert losses == ["absolute", "absolute", "squared"]
    assert WorldModelSettings(preconditioning="edm", loss="absolute").loss == "absolute"


# --- training ---------------------------------------------------------------------------------------------------


def test_normalizers_are_those_of_the_train_split(
    world_model: Path, transitions: Transitions, held_out: np.ndarray
) -> None:
    model, _ = load_world_model(world_model)
    seen = transitions.take(~held_out)
    both = np.concatenate([seen.observation, seen.next_observation]).astype(np.float64)
    np.testing.assert_allclose(model.states.mean, both.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.states.std, both.std(0), rtol=1e-5)
    assert model.rewards.low == seen.reward.min() and model.rewards.high == seen.reward.max()
    largest = 0.0
    for episode in np.unique(seen.episode):
        rows = seen.take(seen.episode == episode)
        for t in range(len(rows)):
            if rows.terminal[-1] or 0.99 ** (len(rows) - t) <= 0.1:
                discounted = 0.99 ** np.arange(len(rows) - t) * rows.reward[t:].astype(np.float64)
                largest = max(largest, abs(discounted.sum()))
    np.testing.assert_allclose(float(model.return_scale), largest, rtol=1e-5)


@pytest.mark.parametrize(("scales", "expected"), [({"hopper": 400.0}, 400.0), ({"walker2d": 550.0}, None)])
def test_a_return_scale_counts_for_its_environment_only(
    dataset: Path, transitions: Transitions, held_out: np.ndarray, scales: dict[str, float], expected: float | None
) -> None:
    data = open_sealed(dataset, "dataset")
    fitted = []
    for return_scales in ({}, scales):
        model = WorldModel(WorldModelSettings(hidden=8, blocks=1, return_scales=return_scales), 11, 3)
        fit_normalizers(model, transitions, held_out, data)
        fitted.append(float(model.return_scale))
    assert fitted[1] == (expected or fitted[0]) and fitted[0] not in scales.values()


def test_a_return_scale_counts_for_every_version_of_its_environment(
    transitions: Transitions, held_out: np.ndarray, seal_dataset: Callable[..., Path]
) -> None:
    data = open_sealed(seal_dataset(transitions, [0], environment="Hopper-v5"), "dataset")
    model = WorldModel(WorldModelSettings(hidden=8, blocks=1, return_scales={"hopper": 400.0}), 11, 3)
    fit_normalizers(model, transitions, held_out, data)
    assert model.return_scale == 400


def test_the_return_scale_of_costs_is_that_of_rewards(
    dataset: Path, transitions: Transitions, held_out: np.ndarray
) -> None:
    scales = []
    for sign in (1, -1):
        rows, model = dataclasses.replace(transitions, reward=sign * transitions.reward), WorldModel(SMALL, 11, 3)
        fit_normalizers(model, rows, held_out, open_sealed(dataset, "dataset"))
        scales.append(float(model.return_scale))
    assert scales[0] == pytest.approx(scales[1])


def test_a_model_that_no_return_can_be_given_is_refused(
    dataset: Path, transitions: Transitions, held_out: np.ndarray
) -> None:
    """Timeouts cut every episode before its returns are known; else the condition would silently be none."""
    cut = dataclasses.replace(
        transitions, terminal=np.zeros_like(transitions.terminal), timeout=transitions.terminal | transitions.timeout
    )
    data = open_sealed(dataset, "dataset")
    with pytest.raises(InputError, match="expected a row with a known return-to-go to condition on, found none"):
        fit_normalizers(WorldModel(dataclasses.replace(SMALL, discount=0.999), 11, 3), cut, held_out, data)
    for more in ({"return_horizon": "window"}, {"truncated_return": "as_is"}, {"conditional": False}):
        fit_normalizers(WorldModel(dataclasses.replace(SMALL, discount=0.999, **more), 11, 3), cut, held_out, data)


def test_windows_know_whether_terminal_successors_are_true(
    transitions: Transitions, seal_dataset: Callable[..., Path]
) -> None:
    data = open_sealed(seal_dataset(transitions, [0, 1], terminal_successors_known=False), "dataset")
    for windows in fit_normalizers(WorldModel(SMALL, 11, 3), transitions, transitions.episode < 2, data):
        assert not windows.terminal_successors_known


def test_changes_to_unknown_successors_are_no_unit(transitions: Transitions, seal_dataset: Callable[..., Path]) -> None:
    """In such data a terminal row's own state stands in its successor's place, so that it seems not to move."""
    still = np.where(transitions.terminal[:, None], transitions.observation, transitions.next_observation)
    for known in (True, False):
        data = open_sealed(seal_dataset(transitions, [0, 1], terminal_successors_known=known), "dataset")
        rows, model = dataclasses.replace(transitions, next_observation=still), WorldModel(SMALL, 11, 3)
        fit_normalizers(model, rows, transitions.episode < 2, data)
        moved = (transitions.episode >= 2) & (known | ~transitions.terminal)
        change = (still - transitions.observation)[moved].astype(np.float64)
        assert isinstance(model.changes, Standardizer)
        np.testing.assert_allclose(model.changes.std.numpy(), change.std(0), rtol=1e-4)


def denoising(dataset: Path, transitions: Transitions, held_out: np.ndarray, settings: WorldModelSettings) -> Denoising:
    torch.manual_seed(1)
    model = WorldModel(settings, 11, 3)
    windows = fit_normalizers(model, transitions, held_out, open_sealed(dataset, "dataset"))
    return Denoising(model, *windows, None, 5, CPU)


def test_a_step_has_its_rows_and_rate_and_the_average_takes_its_share(
    dataset: Path, transitions: Transitions, held_out: np.ndarray
) -> None:
    settings = WorldModelSettings(**SHORT, gradient_steps=12, ema_every=3, ema_decay=0.15, learning_rate=3e-3)
    training, taken = denoising(dataset, transitions, held_out, settings), []
    whole = training.seen.batch
    training.seen.batch = lambda numbers: taken.append(numbers) or whole(numbers)  # type: ignore[method-assign]
    averaged = [weight.detach().clone() for weight in training.model.denoiser.parameters()]
    for step in range(12):
        training.update(step)
        assert training.optimizer.param_groups[0]["lr"] == pytest.approx(cosine_rate(step, 12, 3e-3))
        rows = generator(5, "world-model", "step", step).integers(len(training.seen), size=8)
        assert taken[-1].tolist() == rows.tolist()
        if step % 3 == 2:
            rate, weights = ema_rate(step // 3, 0.15), training.model.denoiser.parameters()
            averaged = [a + rate * (w.detach() - a) for a, w in zip(averaged, weights, strict=True)]
        for found, expected in zip(training.averaged.denoiser.parameters(), averaged, strict=True):
            torch.testing.assert_close(found, expected)


def test_the_averaged_model_is_judged_by_the_same_windows_every_time(
    dataset: Path, transitions: Transitions, held_out: np.ndarray
) -> None:
    training = denoising(dataset, transitions, held_out, SMALL)
    first = training.evaluate(1)
    for weight in training.model.denoiser.parameters():
        torch.nn.init.normal_(weight)
    assert training.evaluate(2) == first


def test_the_averaged_weights_are_kept_which_begin_as_the_seed_says(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dawm.world_model.training.average_into", lambda average, model, rate: None)
    settings = WorldModelSettings(**SHORT, gradient_steps=2)
    for seed in (0, 1):
        train_world_model(dataset, settings, tmp_path / str(seed), seed)
        torch.manual_seed(derived_seed(seed, "world-model", "weights"))
        fresh = WorldModel(settings, 11, 3)
        kept, _ = load_world_model(tmp_path / str(seed))
        assert all(map(torch.equal, kept.denoiser.parameters(), fresh.denoiser.parameters()))


def test_train_windows_never_hold_a_held_out_row(
    dataset: Path,
    scrambled: Path,
    transitions: Transitions,
    held_out: np.ndarray,
    world_model_settings: WorldModelSettings,
) -> None:
    data = open_sealed(dataset, "dataset")
    absurd = read_transitions(open_sealed(scrambled, "dataset"))
    batches = []
    for rows in (transitions, absurd):
        windows, _ = fit_normalizers(WorldModel(world_model_settings, 11, 3), rows, held_out, data)
        batches.append(windows.batch(torch.arange(len(windows))))
    for name in ("rows", "mask", "action", "return_to_go", "known"):
        assert torch.equal(getattr(batches[0], name), getattr(batches[1], name))
    assert len(batches[0].rows) > 1000


def test_held_out_episodes_change_no_weight_of_the_world_model(
    world_model: Path, scrambled: Path, world_model_settings: WorldModelSettings, tmp_path: Path
) -> None:
    train_world_model(scrambled, world_model_settings, tmp_path / "other", seed=0)
    other = tmp_path / "other"
    assert (other / "model.safetensors").read_bytes() == (world_model / "model.safetensors").read_bytes()
    assert (other / "metrics.csv").read_bytes() == (world_model / "metrics.csv").read_bytes()
    assert (other / "evaluations.csv").read_bytes() != (world_model / "evaluations.csv").read_bytes()


def test_a_constant_rate_begins_as_the_cosine_does_and_goes_another_way(dataset: Path, tmp_path: Path) -> None:
    def weights(schedule: str, steps: int) -> bytes:
        settings = WorldModelSettings(
            hidden=8,
            blocks=1,
            batch_size=8,
            gradient_steps=steps,
            ema_every=1,
            learning_rate_schedule=schedule,  # type: ignore[arg-type]
        )
        train_world_model(dataset, settings, tmp_path / f"{schedule}-{steps}", seed=0)
        return (tmp_path / f"{schedule}-{steps}" / "model.safetensors").read_bytes()

    assert weights("constant", 1) == weights("cosine", 1)
    assert weights("constant", 4) != weights("cosine", 4)


def test_training_lowers_the_held_out_loss(dataset: Path, tmp_path: Path) -> None:
    losses = []
    for steps in (1, 200):
        settings = WorldModelSettings(
            window=4, hidden=32, blocks=1, batch_size=64, gradient_steps=steps, ema_decay=0.8, ema_every=1
        )
        train_world_model(dataset, settings, tmp_path / str(steps), seed=0)
        last = (tmp_path / str(steps) / "evaluations.csv").read_text().splitlines()[-1]
        losses.append(float(last.split(",")[1]))
    assert losses[1] < 0.7 * losses[0]


def test_loaded_world_model_is_the_saved_one(world_model: Path) -> None:
    model, sealed = load_world_model(world_model)
    stored = load_file(world_model / "model.safetensors")
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, stored[key])
    assert sealed.metadata["observation_dim"] == 11
    assert json.loads((world_model / "provenance.json").read_text())["settings"]["window"] == model.settings.window


def test_normalizers_belong_to_the_model() -> None:
    """They are stored, and loaded, with the weights."""
    keys = set(WorldModel(WorldModelSettings(window=2, hidden=8, blocks=1), 2, 1).state_dict())
    for name, normalizer in (("states", Standardizer(2)), ("rewards", MinMaxScaler())):
        assert {f"{name}.{key}" for key in normalizer.state_dict()} <= keys
    assert "return_scale" in keys
