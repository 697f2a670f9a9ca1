"""Stage `assess`: are synthetic transitions true? Each is replayed one step in the simulator that made the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dawm.analysis.statistics import Statistic, bootstrap_interval
from dawm.config import AssessmentSettings, as_mapping
from dawm.data.files import only_writer, write_text
from dawm.data.sealed import open_sealed, seal, unseal
from dawm.data.transitions import Transitions, read_transitions
from dawm.dynamics import usable_pairs
from dawm.environments.oracle import Oracle
from dawm.environments.tasks import task_of_metadata
from dawm.errors import InputError
from dawm.inverse_dynamics import InverseDynamics, infer, load_inverse_dynamics
from dawm.randomness import derived_seed, generator
from dawm.world_model.training import held_out_rows

COLUMNS = ["augmentation", "horizon_step", "quantity", "value", "low", "high", "rows", "coverage"]
REAL, STILL = "real_held_out", "nothing_moves"


@dataclass(frozen=True)
class Errors:
    """Of n replayed transitions: state_error in units of the data's one-step change, reward_error in raw reward,
    claimed and true terminals; `coverage` is the share of rows that could be replayed."""

    state_error: np.ndarray
    reward_error: np.ndarray
    claimed_terminal: np.ndarray
    true_terminal: np.ndarray
    coverage: float


def replay(oracle: Oracle, transitions: Transitions, change: np.ndarray) -> Errors:
    """Compares each transition with the simulator's step from the same observation and action.

    change [obs_dim]: standard deviation of the data's one-step change; the state error is the mean over dimensions
    of |ŝ′ - s′| / change.
    """
    usable = oracle.checkable(transitions.observation)
    checked = transitions.take(usable)
    true = oracle.step(checked.observation.astype(np.float64), checked.action.astype(np.float64))
    return Errors(
        state_error=(np.abs(checked.next_observation - true.next_observation) / change).mean(1),
        reward_error=np.abs(checked.reward - true.reward),
        claimed_terminal=checked.terminal,
        true_terminal=true.terminal,
        coverage=float(usable.mean()) if len(usable) else 0.0,
    )


def summarize(errors: Errors, seed: int) -> Iterator[tuple[str, float, float, float, int]]:
    """(quantity, value, low, high, rows): medians of the errors, and how far the terminals are right."""

    def measured(name: str, values: np.ndarray, statistic: Statistic) -> tuple[str, float, float, float, int]:
        value = float(statistic(values, axis=-1)) if len(values) else float("nan")
        return name, value, *bootstrap_interval(values, statistic, seed), len(values)

    claimed, true = errors.claimed_terminal, errors.true_terminal
    yield measured("state_error", errors.state_error, np.median)
    yield measured("reward_error", errors.reward_error, np.median)
    yield measured("terminal_agreement", (claimed == true).astype(float), np.mean)
    yield measured("terminal_precision", true[claimed].astype(float), np.mean)
    yield measured("terminal_recall", claimed[true].astype(float), np.mean)


def assess(
    dataset: Path, synthetic: Path, inverse_dynamics: Path, settings: AssessmentSettings, output: Path, name: str
) -> None:
    """Writes `output`/fidelity.csv and inverse_dynamics.csv (true and inferred actions of held-out pairs), sealed.

    Only transitions that grew from held-out episodes are judged. `name` is the arm's, in the table.
    """
    data, imagined_seal = open_sealed(dataset, "dataset"), open_sealed(synthetic, "synthetic")
    inverse, inverse_seal = load_inverse_dynamics(inverse_dynamics)
    inputs = {"dataset": data, "inverse_dynamics": inverse_seal}
    for key, sealed in inputs.items():
        if imagined_seal.provenance["inputs"][key] != sealed.digest:
            raise InputError(f"{synthetic}: was not made from {sealed.folder}; synthesize again")
    transitions, imagined = read_transitions(data, states=False), read_transitions(imagined_seal)
    held_out = held_out_rows(data, transitions) & usable_pairs(data, transitions)
    if not held_out.any():
        raise InputError(f"{dataset}: expected held-out episodes with true successors to judge by, found none")
    change = one_step_change(transitions)
    oracle = Oracle(task_of_metadata(data.metadata))

    groups = {(REAL, 0): transitions.take(held_out)}
    still = groups[REAL, 0]
    groups[STILL, 0] = still_copy(still)
    grown = imagined.take(held_out_rows_of_sources(imagined, held_out))
    for step in np.unique(grown.horizon_step):
        groups[name, int(step)] = grown.take(grown.horizon_step == step)

    rows = []
    for (arm, step), group in groups.items():
        drawn = generator(settings.seed, "assess", step).permutation(len(group))[: settings.rows]
        errors = replay(oracle, group.take(drawn), change)
        for quantity, value, low, high, count in summarize(errors, derived_seed(settings.seed, "bootstrap")):
            rows.append((arm, step, quantity, value, low, high, count, errors.coverage))
    pairs = action_pairs(inverse, transitions.take(held_out), settings)
    rows += list(action_errors(pairs, name, settings))
    with only_writer(output):
        unseal(output)
        table = pd.DataFrame(rows, columns=COLUMNS)
        write_text(output / "fidelity.csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
        write_text(output / "inverse_dynamics.csv", pairs.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
        seal(
            output,
            "assessment",
            files=["fidelity.csv", "inverse_dynamics.csv"],
            settings=as_mapping(settings),
            seed=settings.seed,
            inputs={**inputs, "synthetic": imagined_seal},
            metadata={"arm": name, "held_out_rows": int(held_out.sum()), "synthetic_rows": len(grown)},
        )


def one_step_change(transitions: Transitions) -> np.ndarray:
    """Standard deviation of s′ - s per dimension, [obs_dim]; 1 where nothing ever changes."""
    std = (transitions.next_observation - transitions.observation).astype(np.float64).std(0)
    return np.where(std > 0, std, 1.0)


def still_copy(transitions: Transitions) -> Transitions:
    """The same transitions as told by "nothing moves": s′ = s, the mean reward, never a terminal."""
    columns = transitions.columns()
    columns["next_observation"] = transitions.observation
    columns["reward"] = np.full_like(transitions.reward, transitions.reward.mean() if len(transitions) else 0.0)
    columns["terminal"] = np.zeros_like(transitions.terminal)
    return Transitions(**columns)  # type: ignore[arg-type]


def held_out_rows_of_sources(imagined: Transitions, held_out: np.ndarray) -> np.ndarray:
    """bool [n]: synthetic rows whose source row lies in a held-out episode."""
    return held_out[imagined.source_row]


def action_pairs(inverse: InverseDynamics, held_out: Transitions, settings: AssessmentSettings) -> pd.DataFrame:
    """True and inferred actions of held-out real pairs, a row per pair and dimension."""
    drawn = generator(settings.seed, "assess", "actions").permutation(len(held_out))[: settings.rows]
    real = held_out.take(drawn)
    inferred = infer(inverse, torch.from_numpy(real.observation), torch.from_numpy(real.next_observation)).numpy()
    return pd.DataFrame(
        {
            "dimension": np.repeat(np.arange(real.action_dim), len(real)),
            "true_action": real.action.T.ravel(),
            "inferred_action": inferred.T.ravel(),
        }
    )


def action_errors(pairs: pd.DataFrame, name: str, settings: AssessmentSettings) -> Iterator[tuple]:
    """Mean absolute action error on real held-out pairs, in action units, per dimension and over all."""
    error = (pairs["true_action"] - pairs["inferred_action"]).abs()
    groups = [
        ("action_error", error),
        *((f"action_error_{d}", error[pairs["dimension"] == d]) for d in range(pairs["dimension"].max() + 1)),
    ]
    for quantity, values in groups:
        low, high = bootstrap_interval(values.to_numpy(), np.mean, derived_seed(settings.seed, "bootstrap"))
        yield (name, 0, quantity, values.mean(), low, high, len(values), 1.0)
