"""Transitions against the simulator that made the data: errors of a step, and what its action could have mended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dawm.data.normalizers import SMALLEST_STD
from dawm.data.transitions import NOT_APPLICABLE, Transitions
from dawm.environments.oracle import Oracle
from dawm.randomness import generator

SEARCH_ROUNDS, SEARCH_CANDIDATES, SEARCH_ELITE = 10, 32, 10
SEARCH_SPREAD = 0.5  # of half an action's range: standard deviation of the first round


@dataclass(frozen=True)
class Errors:
    """Of n replayed transitions: state_error in units of the data's one-step change, reward_error in raw reward,
    claimed and true terminals, `origins`; `coverage` is the share of rows that could be replayed."""

    state_error: np.ndarray
    reward_error: np.ndarray
    claimed_terminal: np.ndarray
    true_terminal: np.ndarray
    origin: np.ndarray
    coverage: float


def replay(oracle: Oracle, transitions: Transitions, change: np.ndarray) -> Errors:
    """Compares each transition with the simulator's step from the same observation and action.

    change [obs_dim]: standard deviation of the data's one-step change; see `state_error`.
    """
    usable = oracle.checkable(transitions.observation)
    checked = transitions.take(usable)
    true = oracle.step(checked.observation.astype(np.float64), checked.action.astype(np.float64))
    return Errors(
        state_error=state_error(checked.next_observation, true.next_observation, change),
        reward_error=np.abs(checked.reward - true.reward),
        claimed_terminal=checked.terminal,
        true_terminal=true.terminal,
        origin=origins(checked),
        coverage=float(usable.mean()) if len(usable) else 0.0,
    )


def origins(transitions: Transitions) -> np.ndarray:
    """int64 [n], equal where rows are of one real episode and so no independent samples; of no episode, all unequal."""
    alone = -1 - np.arange(len(transitions))
    return np.where(transitions.episode == NOT_APPLICABLE, alone, transitions.episode)


def state_error(claimed: np.ndarray, true: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Mean over dimensions of |ŝ′ - s′| / change, [n]; states [n, obs_dim], change [obs_dim]."""
    return (np.abs(claimed - true) / change).mean(1)


def errors_at_best_actions(
    oracle: Oracle, rows: Transitions, change: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """State errors [n] of n replayable transitions with their own action, and with the best that a search found.

    What is left at the best action is the imagined states' fault: no action leads from ŝ to ŝ′. The search is the
    cross-entropy method on the simulator, around the given action and within the bounds; it keeps the given one where
    it finds nothing better.
    """
    if not len(rows):
        return np.empty(0), np.empty(0)
    observation = rows.observation.astype(np.float64)
    low, high = np.array(oracle.task.action_low), np.array(oracle.task.action_high)
    rng = generator(seed, "best-action")

    def error(actions: np.ndarray) -> np.ndarray:
        """[n, candidates] of actions [n, candidates, act_dim]."""
        count = actions.shape[1]
        true = oracle.step(np.repeat(observation, count, axis=0), actions.reshape(-1, actions.shape[-1]))
        claimed = np.repeat(rows.next_observation, count, axis=0)
        return state_error(claimed, true.next_observation, change).reshape(-1, count)

    best = rows.action.astype(np.float64)[:, None]  # [n, 1, act_dim]
    own = least = error(best)
    centre, spread = best, np.broadcast_to(SEARCH_SPREAD * (high - low) / 2, best.shape)
    for _ in range(SEARCH_ROUNDS):
        noise = rng.standard_normal((len(rows), SEARCH_CANDIDATES, best.shape[-1]))
        tried = np.clip(centre + spread * noise, low, high)
        found = np.concatenate([least, error(tried)], axis=1)
        order = np.argsort(found, axis=1, kind="stable")[:, :SEARCH_ELITE]
        elite = np.take_along_axis(np.concatenate([best, tried], axis=1), order[..., None], axis=1)
        best, least = elite[:, :1], np.take_along_axis(found, order[:, :1], axis=1)
        centre, spread = elite.mean(1, keepdims=True), elite.std(1, keepdims=True)
    return own[:, 0], least[:, 0]


def one_step_change(transitions: Transitions) -> np.ndarray:
    """Standard deviation of s′ - s per dimension, [obs_dim]; 1 where nothing changes but by rounding."""
    std = (transitions.next_observation - transitions.observation).astype(np.float64).std(0)
    return np.where(std > SMALLEST_STD, std, 1.0)


def still_copy(transitions: Transitions) -> Transitions:
    """The same transitions as told by "nothing moves": s′ = s, the mean reward, never a terminal."""
    columns = transitions.columns()
    columns["next_observation"] = transitions.observation
    columns["reward"] = np.full_like(transitions.reward, transitions.reward.mean() if len(transitions) else 0.0)
    columns["terminal"] = np.zeros_like(transitions.terminal)
    return Transitions(**columns)  # type: ignore[arg-type]
