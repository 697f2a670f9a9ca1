"""Tasks, evaluation and the simulator as an oracle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from dawm.config import EnvironmentSettings
from dawm.data.transitions import Transitions
from dawm.environments.evaluation import Evaluator, Evaluators
from dawm.environments.oracle import Oracle
from dawm.environments.tasks import TASKS, Task, task_of
from dawm.errors import InputError
from dawm.randomness import derived_seed

# --- tasks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "random", "expert"),
    [("hopper", -20.272305, 3234.3), ("halfcheetah", -280.178953, 12135.0), ("walker2d", 1.629008, 4592.3)],
)
def test_score_is_0_for_the_random_and_100_for_the_expert_policy(name: str, random: float, expert: float) -> None:
    score = TASKS[name].normalized_score
    assert score(random) == 0 and score(expert) == 100
    np.testing.assert_allclose(score(np.array([random, (random + expert) / 2])), [0, 50])


@pytest.mark.parametrize("name", TASKS)
def test_task_describes_its_simulator(name: str) -> None:
    task = TASKS[name]
    environment = task.make()
    assert task_of(EnvironmentSettings(id=task.environment)) == task
    assert environment.observation_space.shape == (task.observation_dim,)
    assert environment.action_space.shape == (task.action_dim,)
    np.testing.assert_array_equal(environment.action_space.low, -1)
    np.testing.assert_array_equal(environment.action_space.high, 1)
    assert environment.spec is not None and environment.spec.max_episode_steps == 1000
    observation, _ = environment.reset(seed=0)
    np.testing.assert_array_equal(observation[: task.layout.positions], environment.unwrapped.data.qpos[1:])  # type: ignore[attr-defined]


def test_unknown_environment_is_refused() -> None:
    with pytest.raises(InputError, match=r"gymnasium cannot make 'Hoper-v4'"):
        task_of(EnvironmentSettings(id="Hoper-v4"))


class Rollout:
    """Random actions in a plain gymnasium environment: what was seen before and after every step."""

    def __init__(self, task: Task, steps: int) -> None:
        environment = task.make()
        rng = np.random.default_rng(0)
        columns: list[tuple] = []
        terminal = truncated = True
        for step in range(steps):
            if terminal or truncated:
                observation, _ = environment.reset(seed=step)
            data = environment.unwrapped.data  # type: ignore[attr-defined]
            qpos, qvel = data.qpos.copy(), data.qvel.copy()
            action = rng.uniform(-1, 1, task.action_dim).astype(np.float32)
            successor, reward, terminal, truncated, _ = environment.step(action)
            columns.append((observation, qpos, qvel, action, successor, reward, terminal))
            observation = successor
        (
            self.observation,
            self.qpos,
            self.qvel,
            self.action,
            self.next_observation,
            self.reward,
            self.terminal,
        ) = map(np.array, zip(*columns, strict=True))


@pytest.fixture(scope="module")
def rollout() -> Callable[[str], Rollout]:
    kept: dict[str, Rollout] = {}

    def of(name: str) -> Rollout:
        if name not in kept:
            kept[name] = Rollout(TASKS[name], 1500)
        return kept[name]

    return of


@pytest.mark.parametrize("name", ["hopper", "walker2d"])
def test_termination_function_agrees_with_the_simulator(name: str, rollout: Callable[[str], Rollout]) -> None:
    found = rollout(name)
    np.testing.assert_array_equal(TASKS[name].terminated(found.next_observation), found.terminal)
    assert found.terminal.sum() >= 20 and not TASKS[name].terminated(found.observation).any()


def test_halfcheetah_never_terminates(rollout: Callable[[str], Rollout]) -> None:
    found = rollout("halfcheetah")
    assert not found.terminal.any() and not TASKS["halfcheetah"].terminated(found.next_observation).any()


@pytest.mark.parametrize(
    ("name", "dimension", "healthy", "fallen"),
    [
        ("hopper", 0, [0.71, 9.0], [0.69, 0.7, -1.0]),
        ("hopper", 1, [-0.19, 0.19], [-0.21, 0.2, 3.0]),
        ("hopper", 4, [-99.0, 99.0], [-100.0, 101.0]),
        ("hopper", 10, [-10.0, 10.0], [np.nan, np.inf]),
        ("walker2d", 0, [0.81, 1.99], [0.79, 2.01, 0.8]),
        ("walker2d", 1, [-0.99, 0.99], [-1.01, 1.0, np.nan]),
        ("walker2d", 9, [-10.0, 99.0], []),
    ],
)
def test_termination_begins_at_the_documented_bounds(
    name: str, dimension: int, healthy: list[float], fallen: list[float]
) -> None:
    observation = np.zeros((len(healthy) + len(fallen), TASKS[name].observation_dim))
    observation[:, 0] = 1.25
    observation[:, dimension] = [*healthy, *fallen]
    found = TASKS[name].terminated(observation)
    assert found.tolist() == [False] * len(healthy) + [True] * len(fallen)


# --- oracle -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle(TASKS["hopper"])


def test_oracle_replays_collected_data_from_the_simulators_state(oracle: Oracle, transitions: Transitions) -> None:
    """All rows, those with clipped velocities too."""
    assert transitions.qpos is not None and transitions.qvel is not None
    clipped = (np.abs(transitions.qvel) > 10).any(1)
    assert clipped.sum() > 10
    true = oracle.step_from(transitions.qpos, transitions.qvel, transitions.action)
    np.testing.assert_allclose(true.next_observation, transitions.next_observation, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(true.reward, transitions.reward, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(true.terminal, transitions.terminal)


def test_oracle_replays_collected_data_from_observations_where_they_tell_the_state(
    oracle: Oracle, transitions: Transitions
) -> None:
    assert transitions.qvel is not None
    known = oracle.checkable(transitions.observation)
    np.testing.assert_array_equal(known, (np.abs(transitions.qvel) < 10).all(1))
    rows = transitions.take(known)
    true = oracle.step(rows.observation.astype(np.float64), rows.action)
    np.testing.assert_allclose(true.next_observation, rows.next_observation, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(true.reward, rows.reward, rtol=1e-5, atol=1e-5)
    assert (true.terminal == rows.terminal).mean() > 0.999  # float32 may lie across a bound


@pytest.mark.parametrize("name", TASKS)
def test_oracle_replays_every_task(name: str, rollout: Callable[[str], Rollout]) -> None:
    task, found = TASKS[name], rollout(name)
    oracle, few = Oracle(task), slice(0, 400)
    true = oracle.step_from(found.qpos[few], found.qvel[few], found.action[few])
    np.testing.assert_allclose(true.next_observation, found.next_observation[few], atol=1e-7)
    np.testing.assert_allclose(true.reward, found.reward[few], atol=1e-6)
    np.testing.assert_array_equal(true.terminal, found.terminal[few])
    known = oracle.checkable(found.observation[few])
    assert known.all() if not task.layout.clips_velocity else 0.2 < known.mean() <= 1
    from_observation = oracle.step(found.observation[few][known], found.action[few][known])
    np.testing.assert_allclose(from_observation.next_observation, found.next_observation[few][known], atol=1e-6)


def test_oracle_does_not_depend_on_the_order_of_rows(oracle: Oracle, transitions: Transitions) -> None:
    rows = transitions.take(oracle.checkable(transitions.observation)).take(slice(0, None, 10))
    order = np.random.default_rng(0).permutation(len(rows))
    observation, action = rows.observation.astype(np.float64), rows.action
    straight, shuffled = oracle.step(observation, action), oracle.step(observation[order], action[order])
    assert np.array_equal(straight.next_observation[order], shuffled.next_observation)
    assert np.array_equal(straight.reward[order], shuffled.reward)
    assert np.array_equal(straight.terminal[order], shuffled.terminal)


def test_oracle_does_not_check_clipped_or_broken_observations(oracle: Oracle) -> None:
    observation = np.ones((5, 11))
    observation[1, 5], observation[2, 10], observation[3, 0] = 10.0, -10.0, np.nan
    observation[4, 0] = 50.0  # a position may be anything
    assert oracle.checkable(observation).tolist() == [True, False, False, False, True]


def test_oracle_answers_nothing_for_no_rows(oracle: Oracle) -> None:
    true = oracle.step(np.empty((0, 11)), np.empty((0, 3)))
    assert true.next_observation.shape == (0, 11) and true.reward.shape == true.terminal.shape == (0,)


# --- evaluation -------------------------------------------------------------------------------------------------


def policy(observations: np.ndarray) -> np.ndarray:
    """Row by row, so that its rounding does not depend on how many rows there are."""
    gain = np.random.default_rng(0).normal(0, 0.5, (11, 3))
    return np.stack([np.tanh(observation @ gain) for observation in observations])


def plain_returns(episodes: int, seed: int, step: int) -> list[float]:
    """One fresh environment and one episode after the other."""
    found = []
    for number in range(episodes):
        environment = gymnasium.make("Hopper-v4")
        observation, _ = environment.reset(seed=derived_seed(seed, "evaluation", step, number))
        total, ended = 0.0, False
        while not ended:
            observation, reward, terminal, truncated, _ = environment.step(policy(observation[None])[0])
            total, ended = total + float(reward), terminal or truncated
        found.append(total)
    return found


def test_evaluation_is_a_plain_loop_over_single_environments() -> None:
    found = Evaluator(TASKS["hopper"], 5).returns(policy, seed=0, step=100)
    assert found.tolist() == plain_returns(5, 0, 100)
    assert len(set(found.tolist())) == 5


def test_evaluation_does_not_depend_on_how_many_episodes_run_beside_it() -> None:
    few, many = (Evaluator(TASKS["hopper"], episodes).returns(policy, 0, 100) for episodes in (2, 6))
    assert few.tolist() == many[:2].tolist()


def test_repeated_evaluation_is_the_same_and_another_step_or_seed_is_not() -> None:
    evaluator = Evaluator(TASKS["hopper"], 3)
    first = evaluator.returns(policy, 0, 100).tolist()
    other_step, other_seed = evaluator.returns(policy, 0, 200).tolist(), evaluator.returns(policy, 1, 100).tolist()
    assert evaluator.returns(policy, 0, 100).tolist() == first
    assert first != other_step != other_seed != first


def test_evaluations_in_processes_of_their_own_are_the_same() -> None:
    seeds = [4, 0, 3]
    alone = [Evaluator(TASKS["hopper"], 2).returns(policy, seed, 100).tolist() for seed in seeds]
    for processes in (1, 2):
        with Evaluators(TASKS["hopper"], 2, processes) as evaluators:
            found = evaluators.returns([policy] * 3, seeds, 100)
        assert [returns.tolist() for returns in found] == alone
    assert len(set(map(tuple, alone))) == 3


def unlucky(observations: np.ndarray) -> np.ndarray:
    raise InputError(f"no action for {len(observations)} rows")


def test_what_fails_in_another_process_fails_here_and_leaves_no_process(capfd: pytest.CaptureFixture[str]) -> None:
    with Evaluators(TASKS["hopper"], 2, 2) as evaluators:
        evaluators.returns([policy] * 2, [0, 1], 100)
        processes = [process for process, _ in evaluators.others]
        with pytest.raises(ChildProcessError, match="has ended, by an error that it told"):
            evaluators.returns([unlucky, policy], [0, 1], 100)
    assert "no action for 2 rows" in capfd.readouterr().err
    assert len(processes) == 2 and not any(process.is_alive() for process in processes)


def test_a_process_that_was_killed_is_told_in_one_sentence() -> None:
    with Evaluators(TASKS["hopper"], 1, 2) as evaluators:
        evaluators.returns([policy] * 2, [0, 1], 100)
        evaluators.others[1][0].kill()
        with pytest.raises(ChildProcessError, match=r"has ended, .* or killed, .*; the same command goes on"):
            evaluators.returns([policy] * 2, [0, 1], 100)


def test_signals_to_all_of_a_job_leave_its_evaluations_alone() -> None:
    with Evaluators(TASKS["hopper"], 1, 2) as evaluators:
        for process, _ in evaluators.others:  # as they start
            assert process.pid is not None
            os.kill(process.pid, signal.SIGTERM)
            os.kill(process.pid, signal.SIGINT)
        found = evaluators.returns([policy] * 2, [0, 1], 100)
    assert [len(returns) for returns in found] == [1, 1]


BESIDE = """
import sys, time
from test_environments import TASKS, Evaluators, policy
if __name__ == "__main__":
    evaluators = Evaluators(TASKS["hopper"], 1, 2)
    evaluators.returns([policy] * 2, [0, 1], 0)
    print(*(process.pid for process, _ in evaluators.others), flush=True)
    time.sleep(600)
"""


def test_processes_end_with_the_one_that_they_belong_to(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text(BESIDE)
    where = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "beside.py"], cwd=tmp_path, env=where, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    others = [int(number) for number in process.stdout.readline().split()]
    assert len(others) == 2 and all(map(lives, others))
    process.kill()
    process.wait()
    for _ in range(600):
        if not any(map(lives, others)):
            return
        time.sleep(0.05)
    raise AssertionError(f"{others} go on")


def lives(number: int) -> bool:
    """Not so of what has ended and waits to be buried."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_evaluation_ends_at_the_time_limit() -> None:
    """HalfCheetah never falls: standing still for 1000 steps."""
    steps = 0

    def still(observations: np.ndarray) -> np.ndarray:
        nonlocal steps
        steps += 1
        return np.zeros((len(observations), 6))

    Evaluator(TASKS["halfcheetah"], 1).returns(still, 0, 0)
    assert steps == 1000
