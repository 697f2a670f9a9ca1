"""The planner, and the stage that asks the models for other returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from dawm.analysis.statistics import hierarchical_interval
from dawm.analysis.steering import Ground, imagined_from, open_loop, steer, true_rewards
from dawm.analysis.steering_page import markdown, page
from dawm.config import (
    CorrectionSettings,
    EnvironmentSettings,
    InverseDynamicsSettings,
    SteeringSettings,
    SynthesisSettings,
    ThresholdSettings,
    WorldModelSettings,
    as_mapping,
    load_experiment,
    read,
)
from dawm.data.sealed import open_sealed
from dawm.data.transitions import Transitions, read_transitions
from dawm.environments.oracle import Oracle
from dawm.environments.tasks import TASKS
from dawm.errors import InputError
from dawm.inverse_dynamics import infer, load_inverse_dynamics, train_inverse_dynamics
from dawm.layout import steerings
from dawm.planner import Planner
from dawm.randomness import generator
from dawm.synthesis import Parts, imagine
from dawm.world_model.model import WorldModel
from dawm.world_model.training import load_world_model, train_world_model

SAMPLING = SynthesisSettings(sampling_steps=3)


class Glide(gymnasium.Env):
    """x′ = x + 0.1 a, and what is paid is a: the more is asked for, the harder one must push."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.state = self.np_random.normal(size=2)
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self.state = self.state + np.array([0.1 * action[0], 0.0])
        return self.state.copy(), float(action[0]), False, False, {}


gymnasium.register("Glide-v0", entry_point=Glide, max_episode_steps=50)


@pytest.fixture(scope="module")
def glide(seal_dataset: Callable[..., Path]) -> Path:
    """40 episodes of 50 steps, each pushed about equally hard all along."""
    rng, environment, columns = np.random.default_rng(0), Glide(), []
    for episode in range(40):
        state, _ = environment.reset(seed=episode)
        effort = rng.uniform(-0.9, 0.9)
        for step in range(50):
            action = np.clip([effort + 0.1 * rng.normal()], -1, 1).astype(np.float32)
            successor, reward, *_ = environment.step(action)
            columns.append((state, action, reward, successor, episode, step))
            state = successor
    observation, action, reward, successor, episode, step = (np.array(values) for values in zip(*columns, strict=True))
    count = len(reward)
    rows = Transitions(
        observation.astype(np.float32),
        action.astype(np.float32),
        reward.astype(np.float32),
        successor.astype(np.float32),
        np.ones(count, np.float32),
        np.zeros(count, bool),
        step == 49,
        episode.astype(np.int32),
        step.astype(np.int32),
        np.full(count, -1, np.int64),
        np.zeros(count, np.int16),
    )
    settings = EnvironmentSettings(id="Glide-v0", reference_min=0, reference_max=50)
    return seal_dataset(rows, [0, 1, 2, 3], environment="Glide-v0", environment_settings=as_mapping(settings))


@pytest.fixture(scope="module")
def glide_models(glide: Path) -> tuple[Path, Path]:
    """A world model that can plan and an inverse dynamics model."""
    world_model, inverse = glide / "world-model", glide / "inverse-dynamics"
    settings = WorldModelSettings(
        window=4, hidden=64, blocks=1, gradient_steps=600, batch_size=128, discount=0.9, action_dropout=0.3
    )
    train_world_model(glide, settings, world_model, seed=0)
    train_inverse_dynamics(glide, InverseDynamicsSettings(hidden=64, gradient_steps=600), inverse, seed=0)
    return world_model, inverse


@pytest.fixture(scope="module")
def hopper_planner(dataset: Path, world_model_settings: WorldModelSettings) -> Path:
    folder = dataset.parent / "planner"
    train_world_model(dataset, dataclasses.replace(world_model_settings, action_dropout=0.5), folder, seed=0)
    return folder


# --- a hidden action ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("denoiser", ["residual", "unet"])
def test_of_an_action_that_is_not_given_nothing_passes(denoiser: str) -> None:
    torch.manual_seed(0)
    model = WorldModel(WorldModelSettings(window=4, hidden=32, denoiser=denoiser, unet_channels=(8, 16)), 5, 2)
    for module in model.modules():  # fresh networks end in zeros
        if isinstance(module, torch.nn.Linear | torch.nn.Conv1d):
            torch.nn.init.normal_(module.weight, std=0.3)
    state, noise = torch.randn(6, 5), torch.randn(3, 6, 4, model.channels)

    def rewards(action: torch.Tensor) -> torch.Tensor:
        options = {"sampler": "ddpm", "guidance": 1.2, "temperature": 0.5}
        return model.sample(state, action, torch.ones(6), noise, **options).rewards

    given = torch.rand(6, 2)
    hidden = given.clone()
    hidden[:3] = torch.nan
    partly = given.clone()
    partly[:3, 0] = torch.nan
    assert not torch.equal(rewards(given)[:3], rewards(hidden)[:3])
    torch.testing.assert_close(rewards(given)[3:], rewards(hidden)[3:])
    torch.testing.assert_close(rewards(partly), rewards(hidden))
    assert rewards(hidden).isfinite().all()


def test_without_dropout_training_is_what_it_was_and_with_it_another(
    world_model: Path, hopper_planner: Path, dataset: Path, world_model_settings: WorldModelSettings, tmp_path: Path
) -> None:
    zero = dataclasses.replace(world_model_settings, action_dropout=0.0)
    train_world_model(dataset, zero, tmp_path / "again", seed=0)
    plain = (world_model / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == plain
    assert (hopper_planner / "model.safetensors").read_bytes() != plain


@pytest.mark.parametrize("more", [{"actions": "joint"}, {"conditional": False}])
def test_models_that_cannot_plan_are_not_trained_to(more: dict) -> None:
    with pytest.raises(InputError, match="action_dropout: expected 0 with a model that is"):
        read(WorldModelSettings, {"action_dropout": 0.1, **more}, "here")


# --- the planner --------------------------------------------------------------------------------------------------


def test_planner_infers_the_action_to_the_first_imagined_state(
    hopper_planner: Path, inverse_dynamics: Path, transitions: Transitions
) -> None:
    model, inverse = load_world_model(hopper_planner)[0], load_inverse_dynamics(inverse_dynamics)[0]
    planner = Planner(model, inverse, SAMPLING, return_to_go=120.0, seed=5)
    state = torch.from_numpy(transitions.observation[:7])
    found = [planner(state.double().numpy()) for _ in range(2)]
    for step, actions in enumerate(found):
        drawn = generator(5, "planner", step).standard_normal((3, 7, 4, model.channels), dtype=np.float32)
        unknown, wanted = torch.full((7, 3), torch.nan), torch.full((7,), 120.0)
        successor = imagine(model, SAMPLING, state, unknown, wanted, torch.from_numpy(drawn)).states[:, 1]
        expected = infer(inverse, state, successor).numpy()
        assert actions.tobytes() == expected.tobytes()
    assert not np.array_equal(*found)  # the second step has its own noise
    assert planner.decisions == 14 and planner.cpu_seconds > 0


def test_planner_needs_a_model_that_has_imagined_without_actions(world_model: Path, inverse_dynamics: Path) -> None:
    models = load_world_model(world_model)[0], load_inverse_dynamics(inverse_dynamics)[0]
    with pytest.raises(InputError, match="action_dropout: expected more than 0"):
        Planner(*models, SAMPLING, 1.0, seed=0)


def test_planner_earns_what_it_is_asked_for(glide: Path, glide_models: tuple[Path, Path], tmp_path: Path) -> None:
    settings = SteeringSettings(requests=(-0.8, 0.0, 0.8), rows=50, episodes=4)
    steer(glide, *glide_models, settings, SAMPLING, tmp_path)
    table = pd.read_csv(tmp_path / "steering.csv")
    returns = table[(table["loop"] == "closed") & (table["quantity"] == "return")].set_index("request")["value"]
    largest = float(load_world_model(glide_models[0])[0].return_scale)
    effort = largest * (1 - 0.9)  # what, paid at each step for ever, is worth the largest return-to-go
    for request, value in returns.items():
        assert abs(value / 50 - request * effort) < 0.12, returns
    scores = table[table["quantity"] == "normalized_score"].set_index("request")["value"]
    np.testing.assert_allclose(scores, 2 * returns, rtol=1e-4)


# --- the stage ----------------------------------------------------------------------------------------------------


def test_open_loop_pays_the_inferred_actions_in_the_simulator(transitions: Transitions) -> None:
    """Real rows as if they were imagined: what the simulator pays is what was earned, and nothing after a terminal."""
    task = TASKS["hopper"]
    ends = np.flatnonzero(transitions.terminal)
    firsts = np.array([5, ends[0] - 2, ends[1] - 1])
    rows = np.concatenate([np.arange(first, first + 4) for first in firsts])
    grown = dataclasses.replace(
        transitions.take(rows),
        source_row=np.repeat(firsts, 4),
        horizon_step=np.tile(np.arange(1, 5, dtype=np.int16), 3),
    )
    found = true_rewards(Oracle(task), transitions.observation[firsts], grown, np.repeat(np.arange(3), 4))
    lengths = [4, 3, 2]
    expected = [transitions.reward[f : f + length].sum() for f, length in zip(firsts, lengths, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_stage_reports_both_loops_from_held_out_starts(
    dataset: Path, hopper_planner: Path, inverse_dynamics: Path, held_out: np.ndarray, tmp_path: Path
) -> None:
    settings = SteeringSettings(requests=(0.5, 1.0), rows=40, episodes=2)
    for name in ("one", "two"):
        steer(dataset, hopper_planner, inverse_dynamics, settings, SAMPLING, tmp_path / name)
    table = pd.read_csv(tmp_path / "one" / "steering.csv")
    again = pd.read_csv(tmp_path / "two" / "steering.csv")
    cost = table["quantity"] == "cpu_seconds_per_decision"
    assert (table.loc[cost, "value"] > 0).all()
    pd.testing.assert_frame_equal(table[~cost], again[~cost])
    quantities = {"imagined_reward", "true_reward", "behaviour_reward", "return", "normalized_score"}
    assert set(table.loc[~cost, "quantity"]) == quantities
    counts = table[table["quantity"] == "true_reward"]["count"]
    assert (counts > 10).all() and (counts <= min(40, held_out.sum())).all()
    values = table[~cost].set_index(["request", "quantity"])
    assert (values["low"] <= values["value"]).all() and (values["value"] <= values["high"]).all()
    assert open_sealed(tmp_path / "one", "steering").metadata["plans"] is True


def test_windows_are_summed_from_held_out_starts_for_what_is_asked(
    dataset: Path, world_model: Path, inverse_dynamics: Path, transitions: Transitions, held_out: np.ndarray
) -> None:
    parts, settings = Parts.load(dataset, world_model, inverse_dynamics), SteeringSettings(requests=(1.0,), rows=40)
    ground = Ground.of(parts)
    grown, other = (imagined_from(parts, ground, settings, SAMPLING, request) for request in (0.5, -3.0))
    starts, place = np.unique(grown.source_row, return_inverse=True)
    assert held_out[starts].all() and np.array_equal(starts, np.unique(other.source_row))
    assert len(other) != len(grown) or not np.array_equal(other.reward, grown.reward)

    behaviour = np.full(len(starts), np.nan)
    for i, start in enumerate(starts):  # a model's windows of four rows are three steps
        rows = np.flatnonzero(transitions.episode == transitions.episode[start])
        rows = rows[(rows >= start) & (rows < start + 3)]
        if len(rows) == 3 or transitions.terminal[rows[-1]]:
            behaviour[i] = transitions.reward[rows].sum()
    true = true_rewards(ground.oracle, transitions.observation[starts], grown, place)
    imagined = np.array([grown.reward[place == i].sum() for i in range(len(starts))])
    known = ~np.isnan(true) & ~np.isnan(behaviour)
    origin = transitions.episode[starts][known]
    found = {name: numbers for name, *numbers in open_loop(parts, ground, settings, SAMPLING, 0.5, 0)}
    for name, rewards in {"imagined_reward": imagined, "true_reward": true, "behaviour_reward": behaviour}.items():
        value, low, high, count = found[name]
        assert (value, count) == (pytest.approx(rewards[known].mean(), rel=1e-5), known.sum())
        np.testing.assert_allclose([low, high], hierarchical_interval(rewards[known], origin, np.mean), rtol=1e-5)


def test_nothing_is_summed_where_the_simulators_state_is_not_known(transitions: Transitions) -> None:
    starts = transitions.observation[:2].copy()
    starts[1, 7] = 10.0  # a clipped velocity
    grown = dataclasses.replace(
        transitions.take(slice(0, 2)), source_row=np.arange(2), horizon_step=np.ones(2, np.int16)
    )
    found = true_rewards(Oracle(TASKS["hopper"]), starts, grown, np.arange(2))
    assert np.isnan(found).tolist() == [False, True]


def test_a_filter_takes_nothing_from_the_windows_that_are_judged(
    dataset: Path, world_model: Path, inverse_dynamics: Path, forward_dynamics: Path, tmp_path: Path
) -> None:
    """Sums of what survives it would be of other starts and of fewer steps."""
    settings, found = SteeringSettings(requests=(1.0,), rows=20), []
    strict = CorrectionSettings(mode="filter", range_margin=-0.4, drop="row")
    true = CorrectionSettings(mode="filter", residual=ThresholdSettings(quantile=0.01))
    for name, correction, forward in (
        ("none", CorrectionSettings(), None),
        ("range", strict, None),
        ("residual", true, forward_dynamics),
    ):
        sampling = dataclasses.replace(SAMPLING, correction=correction)
        steer(dataset, world_model, inverse_dynamics, settings, sampling, tmp_path / name, forward)
        found.append(pd.read_csv(tmp_path / name / "steering.csv"))
    for table in found[1:]:
        pd.testing.assert_frame_equal(found[0], table)
    assert found[0]["count"].nunique() == 1  # imagined, paid and behaviour's are of the same starts


def test_a_recipe_that_its_model_cannot_serve_is_refused(
    dataset: Path, world_model: Path, inverse_dynamics: Path, tmp_path: Path
) -> None:
    sampling = dataclasses.replace(SAMPLING, sampler="dpmpp_2m", sampling_steps=9)
    with pytest.raises(InputError, match="sampling_steps"):
        steer(dataset, world_model, inverse_dynamics, SteeringSettings(), sampling, tmp_path / "steering")


def test_model_that_cannot_plan_is_asked_in_an_open_loop_only(
    dataset: Path, world_model: Path, inverse_dynamics: Path, tmp_path: Path
) -> None:
    steer(dataset, world_model, inverse_dynamics, SteeringSettings(requests=(1.0,), rows=20), SAMPLING, tmp_path)
    assert set(pd.read_csv(tmp_path / "steering.csv")["loop"]) == {"open"}


def test_data_without_held_out_episodes_are_refused(
    seal_dataset: Callable[..., Path], transitions: Transitions, dataset: Path
) -> None:
    folder = seal_dataset(read_transitions(open_sealed(dataset, "dataset")), [])
    parts = Parts(open_sealed(folder, "dataset"), None, None, None, {})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected held-out episodes to start from"):
        Ground.of(parts)


def test_recipes_made_of_anothers_rollouts_are_not_steered_again() -> None:
    evidence = load_experiment(Path(__file__).resolve().parents[1] / "config" / "evidence.yaml")
    assert {"dwm", "dwm_3", "oracle", "synther", "one_step"} < set(evidence.generators)
    assert {recipe for _, recipe, _ in steerings(evidence)} == {"dawm", "dawm_paper", "joint"}


def test_decisions_are_told_in_milliseconds_and_what_was_not_measured_by_a_dash() -> None:
    rows = [("closed", "cpu_seconds_per_decision", 0.0123), ("open", "true_reward", 1.5)]
    facts = {"dataset": "hopper", "recipe": "dawm", "world_model_seed": 0, "request": 1.0, "return_to_go": 327.4}
    table = pd.DataFrame([{**facts, "loop": loop, "quantity": quantity, "value": v} for loop, quantity, v in rows])
    line = markdown(table).splitlines()[-1]
    assert line == "| hopper | dawm | 1 | 327 | – | 1.50 | – | – | – | 12.30 |"


def test_page_shows_every_recipe_at_the_return_that_it_is_asked_for() -> None:
    """1 is another return to a model with other `return_scales`."""
    scales = {f"recipe_{number}": 100.0 * (number + 1) for number in range(18)}
    quantities = {"imagined_reward": "open", "true_reward": "open", "behaviour_reward": "open"}
    quantities |= {"normalized_score": "closed"}
    rows = [
        ("hopper", recipe, 0, loop, quantity, request, request * scale, 1.0, 0.5, 1.5)
        for recipe, scale in scales.items()
        for quantity, loop in quantities.items()
        for request in (0.5, 1.0)
    ]
    names = ["dataset", "recipe", "world_model_seed", "loop", "quantity", "request", "return_to_go", "value"]
    figure = page(pd.DataFrame(rows, columns=[*names, "low", "high"]))
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    looks = [(line.get_color(), line.get_marker()) for line in legend.get_lines()][: len(scales)]
    assert labels[:18] == list(scales) and len(set(looks)) == 18
    for axes, lines in zip(figure.axes, (2, 1), strict=True):
        drawn = [line.get_xdata().tolist() for line in axes.get_lines() if line.get_marker() != "None"]
        assert drawn == [[0.5 * scale, scale] for scale in scales.values() for _ in range(lines)]
    plt.close(figure)
