"""Windows of T rows over real episodes, and the return-to-go that conditions them."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from scipy.signal import lfilter
from torch import Tensor

from dawm.config import WorldModelSettings
from dawm.data.cdf_normalizer import CDFNormalizer
from dawm.data.normalizers import ActionScaler, MinMaxScaler, Standardizer
from dawm.data.transitions import Transitions

UNKNOWN_SHARE = 0.1  # a return-to-go that lacks γ^k > 0.1 of its weight to a cut is no condition


def wanted_returns(transitions: Transitions, settings: WorldModelSettings) -> np.ndarray:
    """The return-to-go that a model is conditioned on at every row, float32 [n], raw reward, NaN where unknown."""
    if settings.return_horizon == "window":
        return returns_of_steps(transitions, settings.discount, settings.window - 1)
    return returns_to_go(transitions, settings.discount, settings.truncated_return)


def returns_of_steps(transitions: Transitions, discount: float, steps: int) -> np.ndarray:
    """g_t = Σ_{k<steps} γ^k r_{t+k}, float32 [n], raw reward.

    Ding et al. 2024, alg. 17, write the sum over all T rewards of a window; a model here has T - 1, those that it
    generates with both of their states. Nothing is earned after a terminal; NaN where a timeout comes before.
    """
    ends = np.flatnonzero(transitions.terminal | transitions.timeout)
    last = ends[transitions.episode]
    row = np.arange(len(last))
    result = np.zeros(len(last))
    for step in range(steps):
        inside = row + step <= last
        result[inside] += discount**step * transitions.reward[(row + step)[inside]]
    result[(row + steps - 1 > last) & ~transitions.terminal[last]] = np.nan
    return result.astype(np.float32)


def returns_to_go(transitions: Transitions, discount: float, truncated: str = "drop") -> np.ndarray:
    """g_t = Σ_{k≥0} γ^k r_{t+k} to the episode's end (Ding et al. 2024, §6.3), float32 [n], raw reward.

    Where the episode ended by timeout its future is cut off. truncated="drop": NaN where the missing part weighs
    γ^k > 0.1; "average_reward_tail": the episode's mean reward goes on for ever, r̄ / (1 - γ); "as_is": the sum of the
    rewards that there are, as in Decision Diffuser and DWM.
    """
    reward = transitions.reward.astype(np.float64)
    result = np.empty(len(reward))
    last = np.flatnonzero(transitions.terminal | transitions.timeout)
    first = np.concatenate([[0], last[:-1] + 1])
    for begin, end in zip(first, last, strict=True):
        cut = bool(transitions.timeout[end])
        tail = 0.0
        if cut and truncated == "average_reward_tail" and discount < 1:
            tail = reward[begin : end + 1].mean() / (1 - discount)
        backwards, _ = lfilter([1.0], [1.0, -discount], reward[begin : end + 1][::-1], zi=[discount * tail])
        result[begin : end + 1] = backwards[::-1]
        if cut and truncated == "drop":
            missing = discount ** (end - np.arange(begin, end + 1) + 1)
            result[begin : end + 1][missing > UNKNOWN_SHARE] = np.nan
    return result.astype(np.float32)


@dataclass(frozen=True)
class WindowBatch:
    """B windows in the model's units, channels [state, action (joint), reward, terminal].

    rows [B, T, C]: row i holds s_{t+i}, a_{t+i}, r_{t+i} and whether the episode had ended when s_{t+i} was reached.
    mask [B, T, C]: 1 where the loss counts. action [B, act_dim] = a_t. return_to_go [B] in raw reward, 0
    where it is not known [B].
    """

    rows: Tensor
    mask: Tensor
    action: Tensor
    return_to_go: Tensor
    known: Tensor

    def to(self, device: torch.device) -> WindowBatch:
        columns = (self.rows, self.mask, self.action, self.return_to_go, self.known)
        return WindowBatch(*(column.to(device) for column in columns))


@dataclass(frozen=True)
class Normalizers:
    """Raw units to the model's. changes: rows after the first hold s_i - s_{i-1} by it; None: s_i by `states`."""

    states: Standardizer | CDFNormalizer
    rewards: MinMaxScaler
    actions: ActionScaler
    changes: Standardizer | CDFNormalizer | None = None

    def successors(self, transitions: Transitions) -> Tensor:
        """What the row after each transition holds of its state, [n, obs_dim]."""
        successor = torch.from_numpy(transitions.next_observation)
        if self.changes is None:
            return self.states.encode(successor)
        return self.changes.encode(successor - torch.from_numpy(transitions.observation))


class Windows:
    """All windows of a set of episodes. After a terminal they are padded; across a timeout there are none.

    Padding is no target, but the network sees it. So that nothing but the states tells an end, as in sampling, it holds
    ordinary rows: those of another window of the batch (docs/decisions.md).
    """

    def __init__(
        self,
        transitions: Transitions,
        episodes: np.ndarray,
        settings: WorldModelSettings,
        return_to_go: np.ndarray,
        normalizers: Normalizers,
        terminal_successors_known: bool = True,
    ) -> None:
        """episodes: bool [n], rows that may be used; return_to_go [n] in raw reward, NaN where unknown.

        Joint models' rows hold actions too; a conditional model is given row 0's state and action, hence no target.
        """
        self.window, self.joint, self.conditional = settings.window, settings.joint, settings.conditional
        self.state = normalizers.states.encode(torch.from_numpy(transitions.observation))
        self.successor = normalizers.successors(transitions)
        self.reward = normalizers.rewards.encode(torch.from_numpy(transitions.reward))
        self.action = normalizers.actions.encode(torch.from_numpy(transitions.action))
        self.return_to_go = torch.from_numpy(return_to_go)
        self.terminal_successors_known = terminal_successors_known
        ends = np.flatnonzero(transitions.terminal | transitions.timeout)
        last = ends[transitions.episode]
        self.last = torch.from_numpy(last)
        self.terminal = torch.from_numpy(transitions.terminal)
        complete = np.arange(len(transitions)) + self.window - 2 <= last
        self.can_start = complete | transitions.terminal[last]
        self.starts = torch.from_numpy(np.flatnonzero(episodes & self.can_start))

    def of(self, episodes: np.ndarray) -> Windows:
        """The windows of other episodes, bool [n], over the same encoded rows."""
        made = copy.copy(self)
        made.starts = torch.from_numpy(np.flatnonzero(episodes & self.can_start)).to(self.starts.device)
        return made

    def to(self, device: str) -> Windows:
        """The same with their rows on a device, where batches are then put together."""
        made = copy.copy(self)
        vars(made).update({name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)})
        return made

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, numbers: Tensor) -> WindowBatch:
        """The windows that start at `self.starts[numbers]`, on the device of the rows."""
        start = self.starts[numbers.to(self.starts.device)]
        last = self.last[start][:, None]  # [B, 1]
        steps = torch.arange(self.window, device=start.device)
        row = start[:, None] + steps  # [B, T], may run past the episode's end
        over = (row[:, 1:] - 1 >= last) & self.terminal[last]  # row i is the terminal state, or padding after it
        terminal = torch.cat([torch.zeros_like(over[:, :1]), over], dim=1)

        donor = whole_windows(row, last)
        other, its_last = row[donor], last[donor]
        state_real = row - 1 <= last  # the terminal state itself is real, what follows is padding
        if not self.terminal_successors_known:
            state_real = state_real & ~terminal
        before = torch.where(state_real, row - 1, torch.minimum(other - 1, its_last))  # the transition that leads to it
        state = torch.cat([self.state[start][:, None], self.successor[before[:, 1:]]], dim=1)
        reward_real = row <= last
        step = torch.where(reward_real, row, torch.minimum(other, its_last))
        reward = self.reward[step]

        state_known = state_real.clone()
        state_known[:, 0] = not self.conditional  # given, no target
        reward_known = reward_real.clone()
        reward_known[:, -1] = False  # belongs to a transition whose successor lies outside the window
        terminal_known = torch.ones_like(reward_known)
        terminal_known[:, 0] = False

        parts = [
            (state, state_known),
            (reward[..., None], reward_known),
            (2.0 * terminal[..., None] - 1.0, terminal_known),
        ]
        if self.joint:
            action = self.action[step]
            action_known = reward_known.clone()  # an action belongs to its transition, as the reward does
            action_known[:, 0] &= not self.conditional
            parts.insert(1, (action, action_known))
        rows = torch.cat([values for values, _ in parts], dim=-1)
        mask = torch.cat([known[..., None].expand_as(values) for values, known in parts], dim=-1).float()
        wanted = self.return_to_go[start]
        return WindowBatch(rows, mask, self.action[start], wanted.nan_to_num(0.0), ~wanted.isnan())


def whole_windows(row: Tensor, last: Tensor) -> Tensor:
    """For each of the windows row [B, T] of episodes that end with the transitions last [B, 1] a whole one among them,
    [B], in turn; where none is whole, itself."""
    whole, places = row[:, -2] <= last[:, 0], torch.arange(len(row), device=row.device)
    first = torch.argsort(~whole, stable=True)  # the whole ones in order, then the others; no wait for a device
    count = whole.sum()
    return torch.where(count > 0, first[places % count.clamp(min=1)], places)
