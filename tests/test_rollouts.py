"""Rollouts of a one-step model: what a row is, that cutting the work changes no bit, what is refused, assessment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dawm.analysis.fidelity import assess
from dawm.blocks import BLOCK, Starts
from dawm.cli import main
from dawm.cloned_policy import ClonedPolicy, train_cloned_policy
from dawm.config import (
    AssessmentSettings,
    ClonedPolicySettings,
    CorrectionSettings,
    ForwardDynamicsSettings,
    SynthesisSettings,
    ThresholdSettings,
)
from dawm.data.sealed import open_sealed
from dawm.data.transitions import Transitions, read_transitions
from dawm.environments.tasks import TASKS
from dawm.errors import InputError
from dawm.forward_dynamics import ForwardDynamics, train_forward_dynamics
from dawm.rollouts import RolloutParts, roll_out, roll_out_blocks, roll_out_shard, seal_rollouts
from dawm.world_model.noise import trajectory_noise

Models = tuple[Path, Path, Path]
FUNCTION = CorrectionSettings(terminals="function")
SETTINGS = SynthesisSettings(
    trajectories=700, shards=2, horizon=5, correction=FUNCTION
)  # 3 blocks, the last one padded


@pytest.fixture(scope="module")
def models(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The data set, a Gaussian ensemble of three and a cloned policy, trained for some steps."""
    folder = tmp_path_factory.mktemp("one-step")
    forward = ForwardDynamicsSettings(loss="likelihood", members=3, hidden=32, gradient_steps=200)
    train_forward_dynamics(dataset, forward, folder / "forward", seed=0)
    train_cloned_policy(dataset, ClonedPolicySettings(hidden=32, gradient_steps=100), folder / "policy", seed=0)
    return dataset, folder / "forward", folder / "policy"


@pytest.fixture(scope="module")
def parts(models: Models) -> RolloutParts:
    return RolloutParts.load(*models)


def written(models: Models, settings: SynthesisSettings, folder: Path) -> Transitions:
    """All shards, written last to first, sealed, and read back."""
    for shard in reversed(range(settings.shards)):
        roll_out_shard(*models, settings, folder, shard)
    seal_rollouts(*models, settings, folder)
    return read_transitions(open_sealed(folder, "synthetic"))


@pytest.fixture(scope="module")
def folder(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("rollouts")
    written(models, SETTINGS, output)
    return output


@pytest.fixture(scope="module")
def rolled(folder: Path) -> Transitions:
    return read_transitions(open_sealed(folder, "synthetic"))


def assert_same_bits(first: Transitions, second: Transitions) -> None:
    for name, column in first.columns().items():
        if column is not None:
            assert column.tobytes() == second.columns()[name].tobytes(), name  # type: ignore[union-attr]


# --- the same bits ----------------------------------------------------------------------------------------------


def test_shards_do_not_depend_on_their_number(models: Models, rolled: Transitions, tmp_path: Path) -> None:
    for shards in (1, 4, 16):  # most of 16 shards are empty
        settings = dataclasses.replace(SETTINGS, shards=shards)
        assert_same_bits(written(models, settings, tmp_path / str(shards)), rolled)
    assert len(rolled) > 700


def test_more_trajectories_change_none_of_the_earlier_ones(models: Models, rolled: Transitions, tmp_path: Path) -> None:
    fewer = written(models, dataclasses.replace(SETTINGS, trajectories=300, shards=1), tmp_path)
    assert 300 <= len(fewer) < len(rolled)
    assert_same_bits(fewer, rolled.take(slice(0, len(fewer))))


def test_networks_see_blocks_of_one_size_whatever_is_left_over(models: Models, transitions: Transitions) -> None:
    parts, rows = RolloutParts.load(*models), []
    assert parts.forward_dynamics.deviations is not None
    for network in (parts.forward_dynamics.network, parts.forward_dynamics.deviations, parts.cloned_policy.network):
        network.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    starts, corrector = Starts(SETTINGS, np.arange(len(transitions))), parts.corrector(SETTINGS, transitions)
    for block in range(3):
        roll_out_blocks(parts, starts, SETTINGS, transitions, range(block, block + 1), corrector)
    assert rows == 3 * 5 * 3 * [BLOCK]


# --- what a row is ----------------------------------------------------------------------------------------------


def test_first_step_is_the_real_state_and_action_and_later_ones_are_connected(
    rolled: Transitions, transitions: Transitions
) -> None:
    first = rolled.take(rolled.horizon_step == 1)
    assert len(first) == 700 == len(set(first.source_row.tolist()))
    np.testing.assert_array_equal(first.observation, transitions.observation[first.source_row])
    np.testing.assert_array_equal(first.action, transitions.action[first.source_row])
    later = np.flatnonzero(rolled.horizon_step > 1)
    np.testing.assert_array_equal(rolled.observation[later], rolled.next_observation[later - 1])
    np.testing.assert_array_equal(rolled.horizon_step[later], rolled.horizon_step[later - 1] + 1)
    assert rolled.horizon_step.max() == 5 and np.abs(rolled.action).max() <= 1
    assert not (rolled.action[later] == transitions.action[rolled.source_row[later]]).all(1).any()


def test_the_termination_function_ends_trajectories(rolled: Transitions) -> None:
    np.testing.assert_array_equal(rolled.terminal, TASKS["hopper"].terminated(rolled.next_observation.astype(float)))
    np.testing.assert_array_equal(rolled.discount, np.where(rolled.terminal, 0.0, 1.0))
    ends = np.append(rolled.horizon_step[1:] == 1, True)
    assert rolled.terminal.any() and not rolled.terminal[~ends].any()
    assert (rolled.terminal | (rolled.horizon_step == 5))[ends].all()


def test_rows_are_the_models_own_steps(parts: RolloutParts, transitions: Transitions) -> None:
    """Without noise: the drawn member's mean, and the policy's most likely action."""
    forward, policy = parts.forward_dynamics, parts.cloned_policy
    s, a = (torch.from_numpy(c[:BLOCK]) for c in (transitions.observation, transitions.action))
    noise = torch.zeros(3, BLOCK, 11 + 1 + 3 + 1)
    noise[..., -1] = torch.tensor([-3.0, 0.0, 3.0])[:, None]  # members 0, 1 and 2
    steps = roll_out(forward, policy, s, a, noise, torch.zeros(BLOCK, dtype=torch.bool))
    with torch.inference_mode():
        for i in range(3):
            mean, _ = forward.distribution(s, a)
            successor, reward = forward.decode(s, mean[i])
            torch.testing.assert_close(steps.next_observation[:, i], successor)
            torch.testing.assert_close(steps.reward[:, i], reward)
            torch.testing.assert_close(steps.action[:, i], a)
            s, a = successor, policy(successor)


def test_every_member_is_drawn_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = ForwardDynamics(ForwardDynamicsSettings(loss="likelihood", members=5, hidden=8), 11, 3)
    policy, drawn = ClonedPolicy(ClonedPolicySettings(hidden=8), 11, 3), []

    def sample(s: torch.Tensor, a: torch.Tensor, member: torch.Tensor, noise: torch.Tensor) -> Any:
        drawn.append(member)
        return s, torch.zeros(len(s))

    monkeypatch.setattr(forward, "sample", sample)
    noise = trajectory_noise(0, torch.arange(BLOCK), torch.zeros(BLOCK, dtype=torch.int64), (20, 16))
    noise[0, 0, -1], noise[0, 1, -1] = 40.0, -40.0  # rounding must not lead past the last member
    roll_out(forward, policy, torch.zeros(BLOCK, 11), torch.zeros(BLOCK, 3), noise, torch.zeros(BLOCK))
    share = torch.stack(drawn).flatten().bincount(minlength=5) / (20 * BLOCK)
    assert share.shape == (5,)
    torch.testing.assert_close(share, torch.full((5,), 0.2), atol=0.03, rtol=0)


# --- filters, seal, assessment ----------------------------------------------------------------------------------


def test_disagreement_filters_rollouts(models: Models, rolled: Transitions, tmp_path: Path) -> None:
    correction = dataclasses.replace(FUNCTION, mode="filter", forward_disagreement=ThresholdSettings(quantile=0.8))
    found = written(models, dataclasses.replace(SETTINGS, correction=correction), tmp_path)
    told = open_sealed(tmp_path, "synthetic").metadata["correction"]
    assert 0 < told["dropped"]["rows"] == len(rolled) - len(found)


def test_seal_tells_its_models_and_refuses_shards_of_others(models: Models, folder: Path, tmp_path: Path) -> None:
    sealed = open_sealed(folder, "synthetic")
    kinds = ("dataset", "forward-dynamics", "cloned-policy")
    digests = [open_sealed(path, kind).digest for path, kind in zip(models, kinds, strict=True)]
    names = ("dataset", "forward_dynamics", "cloned_policy")
    assert sealed.provenance["inputs"] == dict(zip(names, digests, strict=True))
    assert sealed.metadata["conditional"] and sealed.metadata["n_step"] == 1
    train_cloned_policy(models[0], ClonedPolicySettings(hidden=8, gradient_steps=2), tmp_path / "other", seed=1)
    for shard in range(2):
        roll_out_shard(*models[:2], tmp_path / "other", SETTINGS, tmp_path / "out", shard)
    with pytest.raises(InputError, match=r"shard-00000-of-00002\.parquet: is another shard"):
        seal_rollouts(*models, SETTINGS, tmp_path / "out")


def test_rollouts_are_assessed_without_inverse_dynamics(
    models: Models, folder: Path, inverse_dynamics: Path, tmp_path: Path
) -> None:
    settings = AssessmentSettings(rows=50, best_action_rows=0)
    assess(models[0], folder, None, settings, tmp_path / "out", "one_step")
    table = pd.read_csv(tmp_path / "out" / "fidelity.csv")
    own = table[(table["augmentation"] == "one_step") & (table["quantity"] == "state_error")]
    assert own["horizon_step"].tolist() == [0, 1, 2, 3, 4, 5] and np.isfinite(own["value"]).all()
    assert not table["quantity"].str.startswith("action_error").any()
    assert (tmp_path / "out" / "inverse_dynamics.csv").read_text() == "dimension,true_action,inferred_action\n"
    with pytest.raises(InputError, match="was not made from"):
        assess(models[0], folder, inverse_dynamics, settings, tmp_path / "refused", "one_step")


# --- the command and what is refused ----------------------------------------------------------------------------


def options(models: Models, output: Path, **settings: Any) -> list[str]:
    chosen = {"trajectories": 700, "shards": 2, "horizon": 5, "correction": "{terminals: function}", **settings}
    text = ", ".join(f"{key}: {value}" for key, value in chosen.items())
    return ["--dataset", str(models[0]), "--settings", f"{{{text}}}", "--output", str(output)]


def test_command_writes_and_seals_what_the_functions_do(models: Models, rolled: Transitions, tmp_path: Path) -> None:
    given = ["--forward-dynamics", str(models[1]), "--cloned-policy", str(models[2])]
    assert main(["synthesize", *options(models, tmp_path), *given]) == 0
    assert_same_bits(read_transitions(open_sealed(tmp_path, "synthetic")), rolled)


@pytest.mark.parametrize(
    ("given", "settings", "sentence"),
    [
        ("-p", {}, "--forward-dynamics: expected a forward model for the cloned policy to act in, found none"),
        ("fpi", {}, "--inverse-dynamics: expected none with --cloned-policy"),
        ("fp", {"horizon": "null"}, "horizon: expected the length of a one-step model's rollouts, found null"),
        (
            "fp",
            {"correction": "{}"},
            "correction.terminals: expected 'function' with a one-step model, which learns no",
        ),
        ("fp", {"correction": "{terminals: both}"}, "learns no terminals, found 'both'"),
        ("wi", {"sampling_steps": 3}, "horizon: expected null with a world model, whose window (4) tells it, found 5"),
        (
            "fp",
            {"expansion": "{steps: 3}"},
            "expansion: makes no difference with a one-step model, expected no such key",
        ),
        (
            "wi",
            {"horizon": "null", "sampling_steps": 3, "expansion": "{steps: 20}"},
            "expansion.steps: expected at most 3, the steps of a window of 4 rows, found 20",
        ),
        ("w", {"horizon": "null", "sampling_steps": 3}, "generates no actions; give --inverse-dynamics"),
        (
            "fp",
            {"correction": "{mode: filter, terminals: function, action_disagreement: {quantile: 0.9}}"},
            "correction.action_disagreement: needs an inverse dynamics model, found none",
        ),
    ],
)
def test_contradictory_commands_are_refused_with_one_sentence(
    models: Models,
    world_model: Path,
    inverse_dynamics: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: str,
    settings: dict[str, Any],
    sentence: str,
) -> None:
    known = {"f": ("forward-dynamics", models[1]), "p": ("cloned-policy", models[2])}
    known |= {"w": ("world-model", world_model), "i": ("inverse-dynamics", inverse_dynamics)}
    folders = [word for key in given.strip("-") for word in (f"--{known[key][0]}", str(known[key][1]))]
    assert main(["synthesize", *options(models, tmp_path, **settings), *folders]) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error and "\n" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_forward_model_without_deviations_is_refused(models: Models, tmp_path: Path) -> None:
    train_forward_dynamics(models[0], ForwardDynamicsSettings(hidden=8, gradient_steps=2), tmp_path / "mean", seed=0)
    with pytest.raises(InputError, match="mean: expected a model trained with loss 'likelihood', found 'absolute'"):
        RolloutParts.load(models[0], tmp_path / "mean", models[2])


def test_a_policy_of_another_data_set_is_refused(models: Models, scrambled: Path, tmp_path: Path) -> None:
    train_cloned_policy(scrambled, ClonedPolicySettings(hidden=8, gradient_steps=2), tmp_path / "other", seed=0)
    with pytest.raises(InputError, match="other: was trained on another data set"):
        RolloutParts.load(*models[:2], tmp_path / "other")


# --- chance -------------------------------------------------------------------------------------------------------


def test_member_successor_and_action_have_their_own_part_of_the_noise(
    parts: RolloutParts, transitions: Transitions
) -> None:
    state, action = (torch.from_numpy(column[:BLOCK]) for column in (transitions.observation, transitions.action))
    noise = torch.randn(3, BLOCK, 16, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(BLOCK, dtype=torch.bool)
    steps = roll_out(parts.forward_dynamics, parts.cloned_policy, state, action, noise, nothing)
    with torch.inference_mode():
        for step, drawn in enumerate(noise):
            torch.testing.assert_close(steps.action[:, step], action)
            member = (torch.special.ndtr(drawn[:, -1]) * 3).long()
            state, reward = parts.forward_dynamics.sample(state, action, member, drawn[:, :12])
            torch.testing.assert_close(steps.next_observation[:, step], state)
            torch.testing.assert_close(steps.reward[:, step], reward)
            action = parts.cloned_policy.sample(state, drawn[:, 12:15])


def test_another_seed_and_another_draw_make_other_steps(parts: RolloutParts, transitions: Transitions) -> None:
    starts, corrector = Starts(SETTINGS, np.arange(len(transitions))), parts.corrector(SETTINGS, transitions)

    def firsts(seed: int, draw: int) -> np.ndarray:
        starts.draw[:] = draw
        settings = dataclasses.replace(SETTINGS, seed=seed)
        rows, _ = roll_out_blocks(parts, starts, settings, transitions, range(1), corrector)
        return rows.take(rows.horizon_step == 1).next_observation

    first = firsts(0, 0)
    assert np.array_equal(firsts(0, 0), first)
    for other in (firsts(1, 0), firsts(0, 1)):
        assert (other != first).any(1).mean() > 0.9
