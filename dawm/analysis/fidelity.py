"""Stage `assess`: are synthetic transitions true? Each is replayed one step in the simulator that made the data.

Horizon step 0 stands for no single step: real transitions, and of synthetic ones the steps from 2 on together (the
first one has the real state and action), or all where there is only one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dawm.analysis.distances import Reference, compare
from dawm.analysis.replaying import Errors, errors_at_best_actions, one_step_change, origins, replay, still_copy
from dawm.analysis.statistics import Statistic, bootstrap_interval, hierarchical_interval
from dawm.config import AssessmentSettings, as_mapping
from dawm.data.files import only_writer, write_csv
from dawm.data.sealed import open_sealed, refuse_other, seal, unseal
from dawm.data.transitions import Transitions, held_out_rows, read_transitions, usable_pairs
from dawm.environments.oracle import Oracle
from dawm.environments.tasks import task_of_metadata
from dawm.errors import InputError
from dawm.inverse_dynamics import InverseDynamics, infer, load_inverse_dynamics
from dawm.randomness import derived_seed, generator

COLUMNS = ["augmentation", "horizon_step", "quantity", "value", "low", "high", "rows", "coverage"]
PAIR_COLUMNS = ["dimension", "true_action", "inferred_action"]
REAL, STILL = "real_held_out", "nothing_moves"
Measured = tuple[str, float, float, float, int]
"""quantity, value, low and high of its 95 % bootstrap interval, rows"""
Row = tuple[str, int, str, float, float, float, int, float]
"""Of the table, by `COLUMNS`."""
TERMINAL_ROWS = 10  # times `rows`, where all steps are judged together: terminals are rare
REFERENCE_ROWS = 20_000  # of the train split, among which the nearest is looked for


def by_step(grown: Transitions) -> dict[int, Transitions]:
    """The transitions of each horizon step, and under 0 those from step 2 on, or all where there is only one."""
    steps = grown.horizon_step
    later = steps > 1 if (steps > 1).any() else np.ones(len(steps), dtype=bool)
    return {0: grown.take(later)} | {int(step): grown.take(steps == step) for step in np.unique(steps)}


def drawn_rows(group: Transitions, limit: int, settings: AssessmentSettings, what: int | str) -> Transitions:
    """At most `limit` transitions, drawn by the settings' seed."""
    return group.take(generator(settings.seed, "assess", what).permutation(len(group))[:limit])


def measured(name: str, values: np.ndarray, statistic: Statistic, seed: int, origin: np.ndarray | None) -> Measured:
    """origin: which values are of one episode, as `origins` tells; None: none are."""
    value = float(statistic(values, axis=-1)) if len(values) else float("nan")
    if origin is None:
        return name, value, *bootstrap_interval(values, statistic, seed), len(values)
    return name, value, *hierarchical_interval(values, origin, statistic), len(values)


def split_error(oracle: Oracle, transitions: Transitions, change: np.ndarray, seed: int) -> Iterator[Measured]:
    """The state error of a sample: what is left at the simulator's best action, and what the given action adds."""
    if len(transitions):
        rows = transitions.take(oracle.checkable(transitions.observation))
        own, least = errors_at_best_actions(oracle, rows, change, seed)
        yield measured("state_error_at_best_action", least, np.median, seed, origins(rows))
        yield measured("state_error_of_action", own - least, np.median, seed, origins(rows))


def summarize(errors: Errors, seed: int) -> Iterator[Measured]:
    """Medians of the errors of the next state and of the reward."""
    yield measured("state_error", errors.state_error, np.median, seed, errors.origin)
    yield measured("reward_error", errors.reward_error, np.median, seed, errors.origin)


def summarize_terminals(errors: Errors, seed: int) -> Iterator[Measured]:
    """How far the claimed terminals are right: share of agreement, precision, recall."""
    claimed, true, origin = errors.claimed_terminal, errors.true_terminal, errors.origin
    yield measured("terminal_agreement", (claimed == true).astype(float), np.mean, seed, origin)
    yield measured("terminal_precision", true[claimed].astype(float), np.mean, seed, origin[claimed])
    yield measured("terminal_recall", claimed[true].astype(float), np.mean, seed, origin[true])


@dataclass(frozen=True)
class Judge:
    """What transitions are judged by. change: one-step change of the data by dimension, float [observation_dim]."""

    oracle: Oracle
    change: np.ndarray
    reference: Reference
    settings: AssessmentSettings

    @property
    def seed(self) -> int:
        return derived_seed(self.settings.seed, "bootstrap")

    def whole(
        self, arm: str, group: Transitions, best_actions: bool = False, apart: Transitions | None = None
    ) -> Iterator[Row]:
        """Distances from real data (of the rows `apart`, if given), errors, terminals on more rows; where asked for,
        what the actions add."""
        chosen = drawn_rows(group, self.settings.rows, self.settings, 0)
        distances = compare(chosen if apart is None else apart, self.reference)
        yield from self._placed(arm, 0, distances, 1.0)
        errors = replay(self.oracle, chosen, self.change)
        more = drawn_rows(group, TERMINAL_ROWS * self.settings.rows, self.settings, 0)
        terminals = summarize_terminals(replay(self.oracle, more, self.change), self.seed)
        yield from self._placed(arm, 0, (*summarize(errors, self.seed), *terminals), errors.coverage)
        if best_actions:
            few = chosen.take(slice(0, self.settings.best_action_rows))
            yield from self._placed(arm, 0, split_error(self.oracle, few, self.change, self.seed), errors.coverage)

    def single(self, arm: str, step: int, group: Transitions) -> Iterator[Row]:
        """Errors and terminals of one horizon step."""
        errors = replay(self.oracle, drawn_rows(group, self.settings.rows, self.settings, step), self.change)
        found = (*summarize(errors, self.seed), *summarize_terminals(errors, self.seed))
        yield from self._placed(arm, step, found, errors.coverage)

    def _placed(self, arm: str, step: int, found: Iterable[Measured], coverage: float) -> Iterator[Row]:
        yield from ((arm, step, *numbers, coverage) for numbers in found)


def assess(
    dataset: Path, synthetic: Path, inverse_dynamics: Path | None, settings: AssessmentSettings, output: Path, name: str
) -> None:
    """Writes `output`/fidelity.csv and inverse_dynamics.csv (true and inferred actions of held-out pairs; no row where
    no inverse dynamics is given), sealed.

    Only transitions that grew from held-out episodes are judged; of a model that is given no start, all. `name` is the
    arm's, in the table.
    """
    refuse_other(output, "assessment")
    data, imagined_seal = open_sealed(dataset, "dataset"), open_sealed(synthetic, "synthetic")
    inverse, inputs = None, {"dataset": data}
    if inverse_dynamics is not None:
        inverse, inputs["inverse_dynamics"] = load_inverse_dynamics(inverse_dynamics)
    for key, sealed in inputs.items():
        if imagined_seal.provenance["inputs"].get(key) != sealed.digest:
            raise InputError(f"{synthetic}: was not made from {sealed.folder}; synthesize again")
    transitions, imagined = read_transitions(data, states=False), read_transitions(imagined_seal)
    split, usable = held_out_rows(data, transitions), usable_pairs(data, transitions)
    held_out, train = split & usable, ~split & usable
    if not held_out.any():
        raise InputError(f"{dataset}: expected held-out episodes with true successors to judge by, found none")
    with only_writer(output):
        real, grown = transitions.take(held_out), imagined
        unseen, apart = two_samples(real, settings)
        if imagined_seal.metadata.get("conditional", True):
            grown = imagined.take(held_out_rows_of_sources(imagined, held_out))
            grown = dataclasses.replace(grown, episode=transitions.episode[grown.source_row])
        judge = Judge(
            Oracle(task_of_metadata(data.metadata)),
            one_step_change(transitions.take(usable)),
            Reference.of(drawn_rows(transitions.take(train), REFERENCE_ROWS, settings, "known"), unseen),
            settings,
        )
        rows = [*judge.whole(REAL, real, apart=apart), *judge.whole(STILL, still_copy(real), apart=still_copy(apart))]
        if imagined_seal.metadata.get("expansion") is None:  # no one step leads to an n-step transition's successor
            for step, group in by_step(grown).items():
                rows += judge.whole(name, group, best_actions=True) if step == 0 else judge.single(name, step, group)
        pairs = pd.DataFrame(columns=PAIR_COLUMNS)
        if inverse is not None:
            known = drawn_rows(real, settings.rows, settings, "actions")
            pairs = action_pairs(inverse, known)
            rows += list(action_errors(pairs, origins(known), name, settings))
        unseal(output, "assessment")
        table = pd.DataFrame(rows, columns=COLUMNS)
        write_csv(output / "fidelity.csv", table)
        write_csv(output / "inverse_dynamics.csv", pairs)
        seal(
            output,
            "assessment",
            files=["fidelity.csv", "inverse_dynamics.csv"],
            settings=as_mapping(settings),
            seed=settings.seed,
            inputs={**inputs, "synthetic": imagined_seal},
            metadata={"arm": name, "held_out_rows": int(held_out.sum()), "synthetic_rows": len(grown)},
        )


def two_samples(real: Transitions, settings: AssessmentSettings) -> tuple[Transitions, Transitions]:
    """The real transitions that distances are taken to, and those whose own distances are the floor, no row in both: a
    sample has no distance from itself. Of few, each has a half."""
    mixed, count = drawn_rows(real, len(real), settings, "unseen"), min(settings.rows, len(real) // 2)
    return mixed.take(slice(0, count)), mixed.take(slice(count, 2 * count))


def held_out_rows_of_sources(imagined: Transitions, held_out: np.ndarray) -> np.ndarray:
    """bool [n]: synthetic rows whose source row lies in a held-out episode."""
    return held_out[imagined.source_row]


def action_pairs(inverse: InverseDynamics, real: Transitions) -> pd.DataFrame:
    """True and inferred actions of real pairs, a row per dimension and pair."""
    inferred = infer(inverse, torch.from_numpy(real.observation), torch.from_numpy(real.next_observation)).numpy()
    dimension = np.repeat(np.arange(real.action_dim), len(real))
    return pd.DataFrame(dict(zip(PAIR_COLUMNS, (dimension, real.action.T.ravel(), inferred.T.ravel()), strict=True)))


def action_errors(pairs: pd.DataFrame, origin: np.ndarray, name: str, settings: AssessmentSettings) -> Iterator[Row]:
    """Mean absolute action error on real held-out pairs, in action units, per dimension and over all; origin: of a
    dimension's pairs."""
    error = (pairs["true_action"] - pairs["inferred_action"]).abs()
    groups = [
        ("action_error", error),
        *((f"action_error_{d}", error[pairs["dimension"] == d]) for d in range(pairs["dimension"].max() + 1)),
    ]
    for quantity, values in groups:
        of_all = np.tile(origin, len(values) // max(1, len(origin)))
        numbers = measured(quantity, values.to_numpy(), np.mean, derived_seed(settings.seed, "bootstrap"), of_all)
        yield name, 0, *numbers, 1.0
