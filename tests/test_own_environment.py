"""A user's own environment: any gymnasium id with Box spaces, described in the config, goes the whole way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import pytest
import torch

from dawm.config import (
    BoundSettings,
    EnvironmentSettings,
    ExportSettings,
    InverseDynamicsSettings,
    SynthesisSettings,
    TD3BCSettings,
    TerminationSettings,
    WorldModelSettings,
    load_experiment,
    read,
)
from dawm.data.export import export
from dawm.data.normalizers import ActionScaler
from dawm.data.sealed import open_sealed
from dawm.data.transitions import Transitions, read_transitions
from dawm.environments.oracle import Oracle
from dawm.environments.tasks import TASKS, StateLayout, task_of, task_of_metadata
from dawm.errors import InputError
from dawm.inverse_dynamics import train_inverse_dynamics
from dawm.offline_rl.policy import load_policy
from dawm.offline_rl.training import train_policy
from dawm.synthesis import seal_synthetic, synthesize_shard
from dawm.world_model.training import train_world_model

ROOT = Path(__file__).parents[1]
LOW, HIGH = np.array([-1.0, 0.5], np.float32), np.array([3.0, 0.75], np.float32)


class Drift(gymnasium.Env):
    """s′ = s + 0.1 a + 0.01; over when the first coordinate exceeds 5. Bounds of the actions are asymmetric."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(LOW, HIGH)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.state = self.np_random.normal(size=2)
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action), action  # whoever acts stays within the bounds
        self.state = self.state + 0.1 * action + 0.01
        return self.state.copy(), float(self.state[1]), bool(self.state[0] > 5), False, {}


gymnasium.register("Drift-v0", entry_point=Drift, max_episode_steps=60)
EVERYTHING = {"exclude_current_positions_from_observation": False}
DRIFT = EnvironmentSettings(id="Drift-v0", reference_min=0, reference_max=100)


# --- what a config may say --------------------------------------------------------------------------------------


def test_unknown_environment_is_examined() -> None:
    task = task_of(DRIFT)
    assert (task.observation_dim, task.action_low, task.action_high) == (2, (-1.0, 0.5), (3.0, 0.75))
    assert (task.max_episode_steps, task.layout, task.termination) == (60, None, None)
    assert task.normalized_score(50.0) == 50


def test_without_reference_scores_there_is_no_score() -> None:
    assert np.isnan(task_of(EnvironmentSettings(id="Drift-v0")).normalized_score(np.array([1.0, 2.0]))).all()


def test_what_the_config_says_wins_over_what_is_known() -> None:
    task = task_of(EnvironmentSettings(id="Hopper-v4", reference_min=0, reference_max=10, max_episode_steps=7))
    assert task.normalized_score(5.0) == 50 and task.layout == TASKS["hopper"].layout
    environment = task.make()
    environment.reset(seed=0)
    ends = [environment.step(np.zeros(3))[3] for _ in range(7)]
    assert ends == [False] * 6 + [True]


def test_arguments_reach_the_environment() -> None:
    task = task_of(EnvironmentSettings(id="Swimmer-v5", arguments=EVERYTHING))
    assert task.observation_dim == 10 and task.layout == StateLayout(0, 5, False)


@pytest.mark.parametrize(
    ("environment", "layout"),
    [
        ("Swimmer-v5", StateLayout(2, 3, False)),
        ("Hopper-v5", StateLayout(1, 5, True)),
        ("Ant-v5", None),  # observes contact forces as well
        ("Pendulum-v1", None),  # no MuJoCo
    ],
)
def test_layout_of_a_mujoco_state_is_found(environment: str, layout: StateLayout | None) -> None:
    arguments = {"reset_noise_scale": 0.01} if layout else {}  # an argument keeps known tasks from being looked up
    assert task_of(EnvironmentSettings(id=environment, arguments=arguments)).layout == layout


def test_found_layout_lets_the_oracle_replay() -> None:
    task = task_of(EnvironmentSettings(id="Swimmer-v5"))
    environment = task.make()
    before, _ = environment.reset(seed=0)
    rows = []
    for step in range(50):
        action = np.random.default_rng(step).uniform(-1, 1, 2).astype(np.float32)
        after, reward, *_ = environment.step(action)
        rows.append((before, action, after, reward))
        before = after
    observation, actions, successor, rewards = map(np.array, zip(*rows, strict=True))
    true = Oracle(task).step(observation, actions)
    np.testing.assert_allclose(true.next_observation, successor, atol=1e-6)
    np.testing.assert_allclose(true.reward, rewards, atol=1e-6)


@pytest.mark.parametrize(
    ("alive", "goal", "expected"),
    [
        ((), (), [False] * 5),
        (((0, -1.0, 1.0),), (), [False, True, False, True, True]),
        ((), ((0, 0.5, None), (1, None, 0.0)), [False, False, False, True, False]),
        (((1, -5.0, None),), ((0, 0.5, None), (1, None, 0.0)), [False, False, False, True, True]),
    ],
)
def test_termination_by_leaving_bounds_or_reaching_a_goal(alive: tuple, goal: tuple, expected: list[bool]) -> None:
    def bounds(intervals: tuple) -> tuple[BoundSettings, ...]:
        return tuple(BoundSettings(dimension=d, above=low, below=high) for d, low, high in intervals)

    settings = EnvironmentSettings(
        id="Drift-v0", termination=TerminationSettings(alive=bounds(alive), goal=bounds(goal))
    )
    states = np.array([[0.0, 0.0], [1.0, 1.0], [0.6, 0.0], [2.0, -1.0], [-3.0, -6.0]])
    assert task_of(settings).terminated(states).tolist() == expected


@pytest.mark.parametrize(
    ("bound", "sentence"),
    [
        ({"dimension": 0}, "above, below: expected one or both, found neither"),
        ({"dimension": 0, "above": 0.2, "below": -0.2}, "below: expected more than above (0.2), found -0.2"),
        ({"dimension": 0, "above": 1, "below": 1}, "below: expected more than above (1.0), found 1.0"),
    ],
)
@pytest.mark.parametrize("kind", ["alive", "goal"])
def test_bounds_that_nothing_or_everything_is_within_are_refused(
    bound: dict[str, Any], sentence: str, kind: str
) -> None:
    with pytest.raises(InputError) as refused:
        read(EnvironmentSettings, {"id": "Drift-v0", "termination": {kind: [bound]}}, "config.yaml")
    assert str(refused.value) == f"config.yaml: termination.{kind}.0.{sentence}"


def test_unknown_termination_is_said() -> None:
    with pytest.raises(InputError, match="Drift-v0: no termination function is known; give `termination`"):
        task_of(DRIFT).terminated(np.zeros((1, 2)))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"id": "CartPole-v1"}, "expected CartPole-v1 to have actions in a flat Box of floats, found Discrete"),
    ({"id": "Blackjack-v1"}, "expected Blackjack-v1 to have observations in a flat Box"),
    ({"id": "NoSuch-v0"}, "gymnasium cannot make 'NoSuch-v0'"),
    ({"id": "no_such_module:Env-v0"}, "gymnasium cannot make 'no_such_module:Env-v0'"),
    ({"id": "Drift-v0", "arguments": {"speed": 3.0}}, "gymnasium cannot make 'Drift-v0'"),
    (
        {"id": "Drift-v0", "termination": TerminationSettings(alive=(BoundSettings(dimension=2, above=0.0),))},
        "expected dimensions from 0 to 1 for Drift-v0, found 2",
    ),
]


@pytest.mark.parametrize(("settings", "sentence"), REFUSED)
def test_environment_that_cannot_be_used_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        task_of(EnvironmentSettings(**settings))
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (gymnasium.spaces.Box(-np.inf, np.inf, (2,)), "expected Odd-v0 to have bounded actions"),
        (gymnasium.spaces.Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (2,)), "bounded actions"),
        (gymnasium.spaces.Box(-1, 1, (2, 2)), "flat Box of floats"),
        (gymnasium.spaces.Box(0, 5, (2,), np.int64), "flat Box of floats"),
        (gymnasium.spaces.Box(np.ones(2), np.ones(2)), "bounded actions"),
    ],
)
def test_action_space_that_cannot_be_used_is_refused(space: gymnasium.spaces.Box, sentence: str) -> None:
    class Odd(Drift):
        action_space = space

    gymnasium.register("Odd-v0", entry_point=Odd, max_episode_steps=10)
    try:
        with pytest.raises(InputError, match=sentence):
            task_of(EnvironmentSettings(id="Odd-v0"))
    finally:
        gymnasium.registry.pop("Odd-v0")


@pytest.mark.parametrize(("state", "reward"), [(np.nan, 0.0), (0.0, 1e39)])
def test_numbers_that_an_environment_should_not_give_are_refused(tmp_path: Path, state: float, reward: float) -> None:
    """1e39 is finite, and not in float32."""

    class Broken(Drift):
        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
            return self.state + state, reward, False, False, {}

    gymnasium.register("Broken-v0", entry_point=Broken, max_episode_steps=10)
    try:
        settings = ExportSettings(source="random", transitions=20, environment=EnvironmentSettings(id="Broken-v0"))
        with pytest.raises(InputError, match=r"Broken-v0: '(observation|reward)': expected finite numbers"):
            export(settings, tmp_path / "broken")
    finally:
        del gymnasium.registry["Broken-v0"]


def test_environment_without_a_time_limit_needs_one() -> None:
    gymnasium.register("Endless-v0", entry_point=Drift)
    try:
        with pytest.raises(InputError, match="Endless-v0 has no time limit; set `max_episode_steps`"):
            task_of(EnvironmentSettings(id="Endless-v0"))
        assert task_of(EnvironmentSettings(id="Endless-v0", max_episode_steps=12)).max_episode_steps == 12
    finally:
        gymnasium.registry.pop("Endless-v0")


# --- the whole way, with asymmetric bounds ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data set, models, synthetic transitions and a policy of Drift-v0."""
    root = tmp_path_factory.mktemp("drift")
    export(ExportSettings(source="random", transitions=2000, environment=DRIFT), root / "data")
    data = root / "data"
    train_world_model(data, WorldModelSettings(window=3, hidden=32, blocks=1, gradient_steps=300), root / "wm", 0)
    inverse = InverseDynamicsSettings(hidden=64, batch_size=128, gradient_steps=1500)
    train_inverse_dynamics(data, inverse, root / "idm", 0)
    synthesis = SynthesisSettings(trajectories=300, shards=1, sampling_steps=3)
    synthesize_shard(data, root / "wm", root / "idm", synthesis, root / "syn", 0)
    seal_synthetic(data, root / "wm", root / "idm", synthesis, root / "syn")
    learner = TD3BCSettings(gradient_steps=60, hidden=16, batch_size=32, evaluate_every=30, evaluation_episodes=2)
    train_policy("td3_bc", data, root / "syn", learner, 0.5, root / "policy", 0)
    return root


def rows(folder: Path) -> Transitions:
    return read_transitions(open_sealed(folder, "dataset", "synthetic"))


def test_collected_rows_are_the_environments_own(run: Path) -> None:
    data = rows(run / "data")
    np.testing.assert_allclose(data.next_observation, data.observation + 0.1 * data.action + 0.01, atol=1e-5)
    np.testing.assert_array_equal(data.terminal, data.next_observation[:, 0] > 5)
    assert (data.action >= LOW).all() and (data.action <= HIGH).all()
    assert np.ptp(data.action, axis=0) == pytest.approx(HIGH - LOW, rel=0.02)
    assert data.qpos is None  # there is no MuJoCo state
    assert set(data.step[data.timeout & ~data.terminal]) <= {59, data.step[-1]}


def test_collection_does_not_depend_on_how_much_is_collected(run: Path, tmp_path: Path) -> None:
    export(ExportSettings(source="random", transitions=1000, environment=DRIFT, rows_per_shard=300), tmp_path / "few")
    few, many = rows(tmp_path / "few"), rows(run / "data")
    for name in ("observation", "action", "reward", "next_observation", "episode", "step"):
        np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[:1000], err_msg=name)


def test_inferred_actions_lie_within_asymmetric_bounds_and_are_right(run: Path) -> None:
    synthetic = rows(run / "syn")
    assert (synthetic.action >= LOW).all() and (synthetic.action <= HIGH).all()
    table = pd.read_csv(run / "idm" / "evaluations.csv").iloc[-1]
    errors = [table[f"mean_absolute_error_{dimension}"] for dimension in range(2)]
    assert (np.array(errors) < 0.1 * (HIGH - LOW)).all()  # a quarter of the range if guessed


def test_policy_acts_within_asymmetric_bounds_after_reloading(run: Path) -> None:
    policy, _ = load_policy(run / "policy")
    actions = policy.act(np.random.default_rng(0).normal(0, 100, (500, 2)))
    assert (actions >= LOW).all() and (actions <= HIGH).all() and np.ptp(actions[:, 0]) > 1


def test_metadata_describe_the_environment_for_every_later_stage(run: Path) -> None:
    for name, kind in (("data", "dataset"), ("syn", "synthetic")):
        assert task_of_metadata(open_sealed(run / name, kind).metadata) == task_of(DRIFT)


def test_action_scaler_maps_bounds_to_plus_minus_one_and_back() -> None:
    scaler = ActionScaler.between(LOW.tolist(), HIGH.tolist())
    ends = torch.tensor(np.stack([LOW, (LOW + HIGH) / 2, HIGH]))
    assert scaler.encode(ends).tolist() == [[-1, -1], [0, 0], [1, 1]]
    assert torch.equal(scaler.decode(torch.tensor([[-1.0, -1], [0, 0], [1, 1], [5, -5]]))[[0, 1, 2]], ends)
    assert scaler.decode(torch.tensor([[5.0, -5.0]])).tolist() == [[3.0, 0.5]]


def test_action_scaler_is_exactly_the_identity_for_unit_bounds() -> None:
    values = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (1000, 3)).astype(np.float32))
    scaler = ActionScaler.between([-1.0] * 3, [1.0] * 3)
    assert torch.equal(scaler.encode(values), values) and torch.equal(scaler.decode(values), values)


# --- the worked example -----------------------------------------------------------------------------------------


def test_worked_example_is_valid_and_its_facts_are_the_environments() -> None:
    experiment = load_experiment(ROOT / "config" / "own-environment.yaml")
    task = task_of(experiment.datasets["pendulum"].environment)  # type: ignore[arg-type]
    environment = task.make()
    returns, ended = [], 0
    for episode in range(300):
        environment.reset(seed=episode)
        rng, total, done = np.random.default_rng(episode), 0.0, False
        while not done:
            observation, reward, terminal, truncated, _ = environment.step(rng.uniform(-3, 3, 1).astype(np.float32))
            assert bool(task.terminated(observation[None])[0]) == terminal
            total, done, ended = total + float(reward), terminal or truncated, ended + terminal
        returns.append(total)
    assert ended == 300
    assert abs(np.mean(returns) - task.reference_min) < 0.8  # type: ignore[operator]
