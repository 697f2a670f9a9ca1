"""Stage `steer`: do the models obey the return that is asked for?

Open loop: the reward of imagined windows, and what the simulator pays for their actions from the same starts. Closed
loop: what the planner earns, where the world model can imagine without a given action.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dawm.analysis.fidelity import Measured, measured
from dawm.analysis.tables import CLOSED, OPEN
from dawm.blocks import BLOCK
from dawm.config import RequestSettings, SteeringSettings, SynthesisSettings, as_mapping
from dawm.config.recipes import check_synthesis
from dawm.data.files import only_writer, write_csv
from dawm.data.sealed import refuse_other, seal, unseal
from dawm.data.transitions import Transitions, concatenate, held_out_rows, read_transitions
from dawm.data.windows import returns_of_steps
from dawm.environments.evaluation import Evaluator
from dawm.environments.oracle import Oracle
from dawm.environments.tasks import task_of_metadata
from dawm.errors import InputError
from dawm.planner import Planner
from dawm.randomness import derived_seed
from dawm.synthesis import Parts, Requests, synthesize_blocks

COLUMNS = ["loop", "request", "return_to_go", "quantity", "value", "low", "high", "count"]


def steer(
    dataset: Path,
    world_model: Path,
    inverse_dynamics: Path | None,
    settings: SteeringSettings,
    synthesis: SynthesisSettings,
    output: Path,
    forward_dynamics: Path | None = None,
) -> None:
    """Writes `output`/steering.csv, sealed; `synthesis` is the recipe's, whose own request and number do not count."""
    refuse_other(output, "steering")
    parts = Parts.load(dataset, world_model, inverse_dynamics, forward_dynamics)
    model = parts.world_model
    if not model.settings.conditional:
        raise InputError(f"{world_model}: is unconditional, so that nothing can be asked of it")
    check_synthesis(synthesis, model.settings)
    seed, rows = derived_seed(settings.seed, "bootstrap"), []
    with only_writer(output):
        ground = Ground.of(parts)
        for request in settings.requests:
            asked = request * float(model.return_scale)
            loops = {OPEN: open_loop(parts, ground, settings, synthesis, request, seed)}
            if model.settings.plans and parts.inverse_dynamics is not None:  # of a model that plans it never is
                planner = Planner(model, parts.inverse_dynamics, synthesis, asked, settings.seed)
                loops[CLOSED] = closed_loop(planner, ground, settings, seed)
            rows += [(loop, request, asked, *numbers) for loop, found in loops.items() for numbers in found]
        unseal(output, "steering")
        table = pd.DataFrame(rows, columns=COLUMNS)
        write_csv(output / "steering.csv", table)
        seal(
            output,
            "steering",
            files=["steering.csv"],
            settings={**as_mapping(settings), "synthesis": as_mapping(synthesis)},
            seed=settings.seed,
            inputs=parts.inputs,
            metadata={"plans": model.settings.plans},
        )


@dataclass(frozen=True)
class Ground:
    """What windows are judged by: real transitions [n], which of them no model has seen, bool [n], the simulator."""

    transitions: Transitions
    held_out: np.ndarray
    oracle: Oracle

    @classmethod
    def of(cls, parts: Parts) -> Ground:
        transitions = read_transitions(parts.data, states=False)
        held_out = held_out_rows(parts.data, transitions)
        if not held_out.any():
            raise InputError(f"{parts.data.folder}: expected held-out episodes to start from, found none")
        return cls(transitions, held_out, Oracle(task_of_metadata(parts.data.metadata)))


def open_loop(
    parts: Parts, ground: Ground, settings: SteeringSettings, synthesis: SynthesisSettings, request: float, seed: int
) -> Iterator[Measured]:
    """Mean undiscounted reward of windows: as imagined, as the simulator pays for their actions, and as the data's
    behaviour earned from the same starts. Windows are whole: thresholds of a filter do not count here."""
    grown = imagined_from(parts, ground, settings, synthesis, request)
    starts, place = np.unique(grown.source_row, return_inverse=True)
    imagined = np.bincount(place, grown.reward, len(starts))
    true = true_rewards(ground.oracle, ground.transitions.observation[starts], grown, place)
    behaviour = returns_of_steps(ground.transitions, 1.0, parts.world_model.settings.window - 1)[starts]
    known, origin = ~np.isnan(true) & ~np.isnan(behaviour), ground.transitions.episode[starts]
    for name, rewards in {"imagined_reward": imagined, "true_reward": true, "behaviour_reward": behaviour}.items():
        yield measured(name, rewards[known], np.mean, seed, origin[known])


def imagined_from(
    parts: Parts, ground: Ground, settings: SteeringSettings, synthesis: SynthesisSettings, request: float
) -> Transitions:
    """Synthetic transitions from settings.rows held-out starts at most, with `request` in place of the recipe's."""
    transitions, rows = ground.transitions, np.flatnonzero(ground.held_out)
    wanted = dataclasses.replace(
        synthesis,
        trajectories=min(len(rows), settings.rows),
        shards=1,
        seed=settings.seed,
        request=RequestSettings(kind="value", amount=request),
        correction=synthesis.correction.without_thresholds(),
    )
    if not wanted.correction.needs_forward_dynamics:  # which only told what to drop
        parts = dataclasses.replace(parts, forward_dynamics=None)
    requests = Requests(parts.world_model, wanted, transitions, rows)
    corrector = parts.corrector(wanted, transitions)
    blocks = [range(b, b + 1) for b in range(-(-wanted.trajectories // BLOCK))]
    return concatenate(
        [synthesize_blocks(parts, requests, wanted, transitions, block, corrector)[0] for block in blocks]
    )


def true_rewards(oracle: Oracle, starts: np.ndarray, grown: Transitions, place: np.ndarray) -> np.ndarray:
    """Sums of what the simulator pays for the actions of trajectories from `starts` [n, obs_dim], float64 [n].

    place: the trajectory of each row of `grown`. NaN where the simulator's state does not follow from the start's
    observation or from a later one's. Nothing is paid after a true terminal.
    """
    state, total = starts.astype(np.float64), np.zeros(len(starts))
    going = np.ones(len(starts), dtype=bool)
    for step in np.unique(grown.horizon_step):
        rows = np.flatnonzero((grown.horizon_step == step) & going[place])
        here = place[rows]
        lost = ~oracle.checkable(state[here])
        total[here[lost]], going[here[lost]] = np.nan, False
        rows, here = rows[~lost], here[~lost]
        true = oracle.step(state[here], grown.action[rows].astype(np.float64))
        state[here] = true.next_observation
        total[here] += true.reward
        going[here] = ~true.terminal
    return total


def closed_loop(planner: Planner, ground: Ground, settings: SteeringSettings, seed: int) -> Iterator[Measured]:
    """What the planner earns, and the CPU-seconds of a decision."""
    task = ground.oracle.task
    returns = Evaluator(task, settings.episodes).returns(planner, settings.seed, 0)
    yield measured("return", returns, np.mean, seed, None)
    yield measured("normalized_score", np.asarray(task.normalized_score(returns)), np.mean, seed, None)
    cost = planner.cpu_seconds / planner.decisions
    yield "cpu_seconds_per_decision", cost, np.nan, np.nan, planner.decisions
