"""Stage `synthesize` from a one-step model: (s, a) of real rows, then a cloned policy's actions in a Gaussian ensemble.

The usual baseline of model-based offline RL (MOPO; Yu et al. 2020, alg. 2, and DWM's one-step model), with the policy
that made the data in the learner's place, so that transitions can be written before any learner starts.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from dawm.blocks import (
    Starts,
    check_inputs,
    numbers_of,
    rows_of,
    seal_shards,
    shard_range,
    write_blocks,
)
from dawm.cloned_policy import ClonedPolicy, load_cloned_policy
from dawm.compute import CPU, Compute
from dawm.config import SynthesisSettings
from dawm.config.recipes import check_synthesis
from dawm.correction import Corrector, Steps
from dawm.data.sealed import Sealed, open_sealed
from dawm.data.transitions import Transitions, read_transitions
from dawm.errors import InputError
from dawm.forward_dynamics import ForwardDynamics, load_forward_dynamics
from dawm.world_model.noise import trajectory_noise


@dataclasses.dataclass(frozen=True)
class RolloutParts:
    """The inputs of rollouts, with their seals."""

    data: Sealed
    forward_dynamics: ForwardDynamics
    cloned_policy: ClonedPolicy
    inputs: dict[str, Sealed]
    compute: Compute = CPU

    @classmethod
    def load(cls, dataset: Path, forward_dynamics: Path, cloned_policy: Path, compute: Compute = CPU) -> RolloutParts:
        """Refuses models that were trained on another data set, and a forward model that is no distribution."""
        data = open_sealed(dataset, "dataset")
        forward, forward_seal = load_forward_dynamics(forward_dynamics)
        policy, policy_seal = load_cloned_policy(cloned_policy)
        inputs = {"dataset": data, "forward_dynamics": forward_seal, "cloned_policy": policy_seal}
        check_inputs(inputs)
        if forward.deviations is None:
            raise InputError(f"{forward_dynamics}: expected a model trained with loss 'likelihood', found 'absolute'")
        compute.prepare([forward.network, forward.deviations, policy.network])
        return cls(data, forward.to(compute.device), policy.to(compute.device), inputs, compute)

    def corrector(self, settings: SynthesisSettings, transitions: Transitions) -> Corrector:
        """It tells the terminals, too; without a filter it drops nothing."""
        forward = self.forward_dynamics if settings.correction.needs_forward_dynamics else None
        return Corrector.prepare(settings.correction, self.data, transitions, forward, None, self.compute)


def roll_out_shard(
    dataset: Path,
    forward_dynamics: Path,
    cloned_policy: Path,
    settings: SynthesisSettings,
    output: Path,
    shard: int,
    compute: Compute = CPU,
) -> None:
    """Writes shard number `shard` (from 0) into `output`."""
    shard_range(settings, shard)
    check_synthesis(settings, None)
    parts = RolloutParts.load(dataset, forward_dynamics, cloned_policy, compute)
    transitions = read_transitions(parts.data, states=False)
    starts = Starts(settings, np.arange(len(transitions)))
    corrector = parts.corrector(settings, transitions)

    def make(blocks: range) -> tuple[Transitions, Counter[str]]:
        return roll_out_blocks(parts, starts, settings, transitions, blocks, corrector)

    write_blocks(output, settings, shard, parts.inputs, transitions, corrector, make, compute)


def roll_out_blocks(
    parts: RolloutParts,
    starts: Starts,
    settings: SynthesisSettings,
    transitions: Transitions,
    blocks: range,
    corrector: Corrector,
) -> tuple[Transitions, Counter[str]]:
    """Transitions of these blocks of trajectories, and the tally of what the corrector dropped."""
    numbers, kept = numbers_of(settings, blocks)
    source = starts.source_row[numbers]
    device = parts.compute.device
    columns = (transitions.observation, transitions.action)
    observation, action = (torch.from_numpy(column[source]).to(device) for column in columns)
    horizon = cast(int, settings.horizon)  # `check_synthesis` has seen that it is there
    shape = (horizon, observation.shape[1] + action.shape[1] + 2)
    rows, draws = (torch.from_numpy(values).to(device) for values in (source, starts.draw[numbers]))
    noise = trajectory_noise(settings.seed, rows, draws, shape, "rollout")
    padding = torch.from_numpy(~kept).to(device)
    with parts.compute.arithmetic():
        steps = roll_out(parts.forward_dynamics, parts.cloned_policy, observation, action, noise, padding)
        steps, stay, tally = corrector.apply(steps)
    return rows_of(steps, stay, source), tally


@torch.inference_mode()
def roll_out(
    forward: ForwardDynamics, policy: ClonedPolicy, observation: Tensor, action: Tensor, noise: Tensor, padding: Tensor
) -> Steps:
    """S steps from observation [B, obs_dim] and action [B, act_dim], raw; a member of the ensemble is drawn anew for
    every step (as MOPO's). noise [S, B, obs_dim + 1 + act_dim + 1]: of successor and reward, of the next action, and
    one that becomes the member's number; padding [B]: which trajectories do not count.

    Nothing ends here: the steps go on after a terminal, which the corrector finds and cuts.
    """
    observations, actions, rewards = [observation], [action], []
    outputs = observation.shape[1] + 1
    for drawn in noise:
        step, act, choice = drawn.split([outputs, action.shape[1], 1], dim=1)
        uniform = torch.special.ndtr(choice[:, 0])  # so that all noise is of one kind
        member = (uniform * forward.members).long().clamp(max=forward.members - 1)
        successor, reward = forward.sample(observations[-1], actions[-1], member, step)
        observations.append(successor)
        rewards.append(reward)
        actions.append(policy.sample(successor, act))
    states = torch.stack(observations, dim=1)  # [B, S + 1, obs_dim]
    never = torch.zeros(len(observation), len(noise), dtype=torch.bool, device=states.device)
    return Steps(
        observation=states[:, :-1],
        action=torch.stack(actions[:-1], dim=1),
        reward=torch.stack(rewards, dim=1),
        next_observation=states[:, 1:],
        terminal=never,
        ended=never,
        padding=padding[:, None],
    )


def seal_rollouts(
    dataset: Path, forward_dynamics: Path, cloned_policy: Path, settings: SynthesisSettings, output: Path
) -> None:
    """Seals `output` once all shards are there; refuses shards of another run."""
    parts = RolloutParts.load(dataset, forward_dynamics, cloned_policy)
    seal_shards(output, settings, parts.inputs, conditional=True)
