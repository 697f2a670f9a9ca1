"""Do the rows of a data set obey the physics of their environment? A sample of them is replayed in the simulator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dawm.analysis.replaying import one_step_change, state_error
from dawm.config import InspectionSettings
from dawm.data.transitions import Transitions
from dawm.environments.oracle import Oracle, TrueStep
from dawm.environments.tasks import Task
from dawm.randomness import generator

FLOAT32_ROUNDING = 2e-6  # relative to max(1, |value|): the error of one rounding, doubled for a difference
OTHER_PHYSICS = 0.5  # share of the error of "nothing moves" from which rows do not follow the simulator at all


@dataclass(frozen=True)
class Physics:
    """A sample of rows, replayed one step.

    method: "stored states", "observations" or "none", with `verdict` saying why. coverage: share of all rows whose
    state is known. reproduced: share of the sample that is the simulator's step to float32. Errors are absolute, in raw
    units, the largest dimension of a row; relative_error is the median of the mean over dimensions of
    |s′ - simulator's| / std of the one-step change, and `still` the same for "nothing moves".
    """

    method: str
    verdict: str
    alarm: bool = False
    rows: int = 0
    coverage: float = 0.0
    reproduced: float | None = None
    observation_error_median: float | None = None
    observation_error_largest: float | None = None
    reward_error_median: float | None = None
    reward_error_largest: float | None = None
    terminals_differ: int | None = None
    relative_error: float | None = None
    still: float | None = None


def check_physics(
    transitions: Transitions, task: Task, true_successor: np.ndarray, settings: InspectionSettings
) -> Physics:
    """Replays some of the rows with a true successor (bool [n]), from stored states where they are those of the
    observations, else from the observations."""
    oracle = Oracle(task)
    states = _stored_states(transitions, task) if oracle.takes_states else None
    known = true_successor & (oracle.checkable(transitions.observation) if states is None else True)
    if not known.any():
        return Physics("none", _why_not(task, oracle))
    drawn = np.sort(generator(settings.seed, "inspect").permutation(np.flatnonzero(known))[: settings.rows])
    sample = transitions.take(drawn)
    if states is None:
        true = oracle.step(sample.observation.astype(np.float64), sample.action)
    else:
        true = oracle.step_from(states[0][drawn], states[1][drawn], sample.action)
    change = one_step_change(transitions.take(true_successor))
    return _judge("observations" if states is None else "stored states", sample, true, change, float(known.mean()))


def _judge(method: str, sample: Transitions, true: TrueStep, change: np.ndarray, coverage: float) -> Physics:
    error = np.abs(sample.next_observation - true.next_observation)
    reward_error = np.abs(sample.reward - true.reward)
    relative = float(np.median(state_error(sample.next_observation, true.next_observation, change)))
    still = float(np.median(state_error(sample.observation, true.next_observation, change)))
    same = (error <= FLOAT32_ROUNDING * np.maximum(1, np.abs(true.next_observation))).all(1)
    same &= reward_error <= FLOAT32_ROUNDING * np.maximum(1, np.abs(true.reward))
    same &= sample.terminal == true.terminal
    reproduced = float(same.mean())
    alarm = reproduced < 1 and not relative < OTHER_PHYSICS * still
    if reproduced == 1:
        verdict = "every replayed row is the simulator's own step, to float32"
    elif relative < 0.01 * still:
        verdict = "the rows follow the simulator, to the rounding of the observations that they were replayed from"
    elif not alarm:
        verdict = (
            "the rows follow these dynamics, but not exactly: another version of the simulator recorded them "
            "(as MuJoCo 2 did D4RL's), or noise was added; no alarm"
        )
    else:
        verdict = (
            "ALARM: the rows do not follow the simulator (the error is that of predicting no movement, or worse): "
            "another environment, rows in disorder, or made-up numbers"
        )
    return Physics(
        method=method,
        verdict=verdict,
        alarm=alarm,
        rows=len(sample),
        coverage=coverage,
        reproduced=reproduced,
        observation_error_median=float(np.median(error.max(1))),
        observation_error_largest=float(error.max()),
        reward_error_median=float(np.median(reward_error)),
        reward_error_largest=float(reward_error.max()),
        terminals_differ=int((sample.terminal != true.terminal).sum()),
        relative_error=relative,
        still=still,
    )


def _stored_states(transitions: Transitions, task: Task) -> tuple[np.ndarray, np.ndarray] | None:
    """qpos and qvel before the step, if they are stored and are the states that the observations tell."""
    if transitions.qpos is None or transitions.qvel is None:
        return None
    states = transitions.qpos, transitions.qvel
    if task.layout is None:
        return states
    first = slice(0, 1000)
    observed = task.layout.observation(states[0][first], states[1][first])
    return states if np.allclose(observed, transitions.observation[first], rtol=1e-4, atol=1e-4) else None


def _why_not(task: Task, oracle: Oracle) -> str:
    if task.layout is not None:
        return "not possible: every row has a velocity clipped at ±10, which hides the simulator's state"
    if oracle.takes_states:
        return f"not possible: no qpos and qvel are stored, and {task.environment} does not observe all of them"
    return f"not possible: {task.environment} is no MuJoCo environment that can be put into a row's state"
