"""Correcting and filtering imagined transitions before they are written, by models that learned from the same data.

The distance of an imagined successor from a forward model's estimates its true error without a simulator; replacing it
by the forward model's removes most of that error (docs/method.md). Thresholds come from real held-out transitions and
never from synthetic ones, so that they do not depend on how the work is cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dawm.compute import CPU, Compute
from dawm.config import CorrectionSettings
from dawm.data.sealed import Sealed
from dawm.data.transitions import Transitions, held_out_rows, usable_pairs
from dawm.dynamics import Pairs
from dawm.environments.oracle import Oracle
from dawm.environments.tasks import Task, task_of_metadata
from dawm.errors import InputError
from dawm.forward_dynamics import ForwardDynamics
from dawm.inverse_dynamics import InverseDynamics
from dawm.randomness import generator

REAL_ROWS = 4096
CANDIDATES, DROPPED, REST = "candidates", "dropped", "rest_of_trajectory"
TERMINALS, TERMINALS_DROPPED = "terminals", "terminals_dropped"
HIDDEN_STATE, PAST_THE_END = "hidden_state", "past_the_end"


@dataclass(frozen=True)
class Steps:
    """B trajectories of S steps, raw units: observation, next_observation [B, S, obs_dim], action [B, S, act_dim],
    reward, terminal [B, S]; ended [B, S]: nothing after this step counts; padding [B, 1]: nothing counts at all."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminal: Tensor
    ended: Tensor
    padding: Tensor

    @property
    def counts(self) -> Tensor:
        """bool [B, S]: the steps up to the one with which a trajectory ended."""
        return (self.ended.cumsum(1) - self.ended.int() == 0) & ~self.padding


def correct(steps: Steps, forward: ForwardDynamics) -> Steps:
    """Successor and reward of every transition as the forward model sees them, from its own (ŝ, â)."""
    successor, reward = forward(steps.observation, steps.action)
    return replace(steps, next_observation=successor, reward=reward)


def with_terminals(steps: Steps, terminals: str, task: Task) -> Steps:
    """Terminals `learned`, by the task's `function` on the successor, or by `both`.

    A trajectory ends at a learned terminal in any case: what the world model imagines after it is padding.
    """
    if terminals == "learned":
        return steps
    found = terminated(task, steps.next_observation)
    if terminals == "both":
        found = found | steps.terminal
    return replace(steps, terminal=found, ended=steps.ended | found)


def terminated(task: Task, states: Tensor) -> Tensor:
    """What the task's termination function says of states [..., obs_dim], bool [...] on their device."""
    found = task.terminated(states.double().cpu().numpy())
    return torch.from_numpy(np.asarray(found)).to(states.device)


def score(
    name: str, forward: ForwardDynamics | None, inverse: InverseDynamics | None, s: Tensor, a: Tensor, successor: Tensor
) -> Tensor:
    """One of CorrectionSettings' scores for transitions [..., dim], as [...]; see there for the units."""
    if name == "action_disagreement" and inverse is not None:
        return inverse.disagreement(s, successor).mean(-1)
    if forward is None:
        raise InputError(f"correction.{name}: needs a forward dynamics model, found none; give --forward-dynamics")
    return forward.residual(s, a, successor) if name == "residual" else forward.disagreement(s, a)


def outside(states: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Which states [..., obs_dim] leave [low, high] in any dimension or are not finite, bool [...]"""
    return ~((states >= low) & (states <= high) & states.isfinite()).all(-1)


def drop(bad: Mapping[str, Tensor], counts: Tensor, how: str) -> tuple[Tensor, Counter[str]]:
    """Which steps stay, bool [B, S], and how many were dropped for which reason.

    bad: bool [B, S] by reason; counts [B, S]: the steps that there are. `row` drops the bad steps alone, `rest` also
    all later ones of their trajectory. A step with two reasons is counted for each.
    """
    reasons = {name: steps & counts for name, steps in bad.items()}
    any_bad = torch.stack(list(reasons.values())).any(0) if reasons else torch.zeros_like(counts)
    lost = any_bad.cumsum(1) > 0 if how == "rest" else any_bad
    tally = Counter({name: int(steps.sum()) for name, steps in reasons.items()})
    tally[CANDIDATES], tally[DROPPED] = int(counts.sum()), int((lost & counts).sum())
    if bad and how == "rest":
        tally[REST] = int((lost & counts & ~any_bad).sum())
    return counts & ~lost, tally


def as_in_the_simulator(oracle: Oracle, steps: Steps, stay: Tensor) -> Steps:
    """The steps that stay, bool [B, S], with the true successor, reward and terminal of their own (ŝ, â); those must
    tell the simulator's state. Where trajectories end stays as it was."""
    chosen = stay.cpu().numpy()
    true = oracle.step(*(part.double().cpu().numpy()[chosen] for part in (steps.observation, steps.action)))

    def replaced(values: Tensor, true_values: np.ndarray) -> Tensor:
        result = values.clone()
        result[stay] = torch.from_numpy(true_values).to(values)
        return result

    return replace(
        steps,
        next_observation=replaced(steps.next_observation, true.next_observation),
        reward=replaced(steps.reward, true.reward),
        terminal=replaced(steps.terminal, true.terminal),
    )


@dataclass(frozen=True)
class Corrector:
    """Everything that decides what happens to a block: settings, models, task and thresholds.

    thresholds: the largest allowed score by name; low, high [obs_dim]: the range of states, None where it is not asked;
    oracle: the true simulator, None where it is not asked.
    """

    settings: CorrectionSettings
    forward: ForwardDynamics | None
    inverse: InverseDynamics | None
    task: Task
    thresholds: Mapping[str, float]
    low: Tensor | None = None
    high: Tensor | None = None
    oracle: Oracle | None = None

    @classmethod
    def prepare(
        cls,
        settings: CorrectionSettings,
        data: Sealed,
        transitions: Transitions,
        forward: ForwardDynamics | None,
        inverse: InverseDynamics | None,
        compute: Compute = CPU,
    ) -> Corrector:
        """Thresholds from the data set's real rows; the same for every shard.

        compute: that of the models, by which real rows are scored as imagined ones will be.
        """
        task = task_of_metadata(data.metadata)
        refuse(settings, forward, inverse, task)
        held_out, usable = held_out_rows(data, transitions), usable_pairs(data, transitions)
        rows = np.flatnonzero(held_out & usable)
        rows = generator(0, "correction", "real rows").permutation(rows)[:REAL_ROWS]
        real = Pairs.of(transitions.take(rows), compute.device)
        thresholds = {}
        with torch.inference_mode(), compute.arithmetic():
            for name, threshold in settings.thresholds.items():
                if threshold.quantile is not None:
                    scores = score(name, forward, inverse, real.observation, real.action, real.next_observation)
                    thresholds[name] = float(np.quantile(scores.float().cpu().numpy(), threshold.quantile))
                elif threshold.value is not None:
                    thresholds[name] = threshold.value
        low, high = widened_range(transitions.take(usable & ~held_out), settings.range_margin, compute.device)
        oracle = None if settings.oracle == "none" else Oracle(task)
        return cls(settings, forward, inverse, task, thresholds, low, high, oracle)

    @torch.inference_mode()
    def apply(self, steps: Steps) -> tuple[Steps, Tensor, Counter[str]]:
        """The steps as they are to be written, which of them stay [B, S], and the tally of `drop`.

        Scores judge what was imagined; range and terminals what is finally kept. Where the termination function is
        asked, nothing starts in a state in which an episode is over: no data have such rows, an unconditional model's
        samples do.
        """
        s, a, successor = steps.observation, steps.action, steps.next_observation
        bad = {
            name: ~(score(name, self.forward, self.inverse, s, a, successor) <= threshold)
            for name, threshold in self.thresholds.items()
        }
        if self.settings.corrects and self.forward is not None:
            steps = correct(steps, self.forward)
        if self.low is not None and self.high is not None:
            ends = (steps.observation, steps.next_observation)
            bad["range"] = outside(ends[0], self.low, self.high) | outside(ends[1], self.low, self.high)
        if self.settings.terminals != "learned":
            bad[PAST_THE_END] = terminated(self.task, steps.observation)
        steps = with_terminals(steps, self.settings.terminals, self.task)
        stay, tally = drop(bad, steps.counts, self.settings.drop)
        terminals = steps.terminal & steps.counts
        if self.oracle is not None:
            told = self.oracle.checkable(steps.observation.flatten(0, 1).double().cpu().numpy())
            hidden = stay & ~torch.from_numpy(told).to(stay.device).view_as(stay)
            stay, tally[HIDDEN_STATE] = stay & ~hidden, int(hidden.sum())
            tally[DROPPED] += tally[HIDDEN_STATE]
            if self.settings.oracle == "replace":
                steps = as_in_the_simulator(self.oracle, steps, stay)
        tally[TERMINALS], tally[TERMINALS_DROPPED] = int(terminals.sum()), int((terminals & ~stay).sum())
        return steps, stay, tally


def refuse(
    settings: CorrectionSettings, forward: ForwardDynamics | None, inverse: InverseDynamics | None, task: Task
) -> None:
    """InputError for settings that these models and this task cannot serve."""
    if settings.needs_forward_dynamics and forward is None:
        reason = "mode" if settings.corrects else "residual" if settings.residual else "forward_disagreement"
        raise InputError(f"correction.{reason}: needs a forward dynamics model, found none; give --forward-dynamics")
    if forward is not None and not settings.needs_forward_dynamics:
        raise InputError("--forward-dynamics: expected only with a correction that uses it, found one without use")
    if inverse is None and "action_disagreement" in settings.thresholds:
        raise InputError(
            "correction.action_disagreement: needs an inverse dynamics model, found none; give --inverse-dynamics"
        )
    ensembles = {"forward_disagreement": forward, "action_disagreement": inverse}
    for name, model in ensembles.items():
        if name in settings.thresholds and model is not None and model.members < 2:
            raise InputError(f"correction.{name}: expected an ensemble of at least 2 members, found 1")
    if settings.terminals != "learned" and task.termination is None:
        raise InputError(
            f"correction.terminals: no termination function of {task.environment} is known for {settings.terminals!r}; "
            "give `termination` in the data set's environment or use 'learned'"
        )
    if settings.oracle != "none" and task.layout is None:
        raise InputError(
            f"correction.oracle: expected 'none' for {task.environment}, whose observations do not tell the "
            f"simulator's state, found {settings.oracle!r}"
        )


def widened_range(rows: Transitions, margin: float | None, device: str = "cpu") -> tuple[Tensor | None, Tensor | None]:
    """Smallest and largest state of real rows per dimension, moved apart by `margin` times their distance."""
    if margin is None:
        return None, None
    states = torch.from_numpy(np.concatenate([rows.observation, rows.next_observation])).to(device)
    low, high = states.amin(0), states.amax(0)
    return low - margin * (high - low), high + margin * (high - low)


def report(tally: Counter[str], thresholds: Mapping[str, float]) -> dict[str, Any]:
    """For metadata.json: how many transitions there were and the share that was dropped, by reason, and the same of the
    terminal ones, which a filter drops first because they are the hardest to imagine."""

    def share(part: str, whole: str) -> dict[str, float]:
        return {"rows": tally[part], "share": tally[part] / max(tally[whole], 1)}

    known = (CANDIDATES, DROPPED, TERMINALS, TERMINALS_DROPPED)
    return {
        CANDIDATES: tally[CANDIDATES],
        DROPPED: {
            **share(DROPPED, CANDIDATES),
            "by_reason": {name: share(name, CANDIDATES) for name in sorted(tally) if name not in known},
        },
        TERMINALS: tally[TERMINALS],
        TERMINALS_DROPPED: share(TERMINALS_DROPPED, TERMINALS),
        "thresholds": dict(thresholds),
    }
