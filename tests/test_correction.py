"""Correcting and filtering imagined transitions: what is replaced, what is dropped and why, and what is refused."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dawm.cli import main
from dawm.compute import CPU, Compute
from dawm.config import (
    CorrectionSettings,
    ForwardDynamicsSettings,
    InverseDynamicsSettings,
    SynthesisSettings,
    ThresholdSettings,
    read,
)
from dawm.correction import Corrector, Steps, correct, drop, outside, refuse, widened_range
from dawm.data.sealed import open_sealed
from dawm.data.transitions import Transitions, read_transitions
from dawm.dynamics import evaluated
from dawm.environments.oracle import Oracle
from dawm.environments.tasks import TASKS
from dawm.errors import InputError
from dawm.forward_dynamics import ForwardDynamics, load_forward_dynamics, train_forward_dynamics
from dawm.inverse_dynamics import InverseDynamics, load_inverse_dynamics, train_inverse_dynamics
from dawm.synthesis import Parts, seal_synthetic, synthesize_shard

HOPPER = TASKS["hopper"]
GAIN = torch.linspace(-1, 1, 33).reshape(3, 11)


class Exact(ForwardDynamics):
    """Knows its system: s′ = s + a G, r = s₁."""

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return observation + action @ GAIN, observation[..., 1]


def exact() -> Exact:
    return Exact(ForwardDynamicsSettings(hidden=8), 11, 3)


def an_inverse(members: int = 1) -> InverseDynamics:
    torch.manual_seed(0)
    return InverseDynamics(InverseDynamicsSettings(members=members, hidden=8), 11, 3)


def true_steps(batch: int = 6, length: int = 5) -> Steps:
    """Healthy Hopper states, and successors and rewards as `Exact` has them."""
    g = torch.Generator().manual_seed(0)
    s = 0.05 * torch.randn(batch, length, 11, generator=g)
    s[..., 0] += 1.2
    a = 0.05 * (2 * torch.rand(batch, length, 3, generator=g) - 1)
    successor, reward = exact()(s, a)
    never = torch.zeros(batch, length, dtype=torch.bool)
    return Steps(s, a, reward, successor, never, never, torch.zeros(batch, 1, dtype=torch.bool))


def corrector(settings: CorrectionSettings, **options: Any) -> Corrector:
    thresholds = {name: threshold.value for name, threshold in settings.thresholds.items()}
    made = {"forward": exact(), "inverse": an_inverse(), "task": HOPPER, "thresholds": thresholds, **options}
    return Corrector(settings, **made)


# --- correcting -------------------------------------------------------------------------------------------------


def test_correction_replaces_successor_and_reward_and_nothing_else() -> None:
    true = true_steps()
    imagined = dataclasses.replace(true, next_observation=true.next_observation + 1, reward=true.reward - 3)
    found = correct(imagined, exact())
    assert torch.equal(found.next_observation, true.next_observation) and torch.equal(found.reward, true.reward)
    for name in ("observation", "action", "terminal", "ended", "padding"):
        assert getattr(found, name) is getattr(imagined, name), name


@pytest.mark.parametrize("mode", ["filter", "both"])
def test_filter_judges_what_was_imagined_and_corrects_only_when_asked(mode: Any) -> None:
    true = true_steps()
    off = dataclasses.replace(true, next_observation=true.next_observation + 0.01)
    settings = CorrectionSettings(mode=mode, residual=ThresholdSettings(value=0.02))
    steps, stay, _ = corrector(settings).apply(off)
    assert stay.all()
    expected = true.next_observation if mode == "both" else off.next_observation
    assert torch.equal(steps.next_observation, expected)
    _, stay, _ = corrector(CorrectionSettings(mode=mode, residual=ThresholdSettings(value=0.005))).apply(off)
    assert not stay.any()


# --- the simulator as a yardstick ---------------------------------------------------------------------------------


def test_oracle_replaces_by_the_simulators_step_where_the_state_is_told() -> None:
    """Velocities of ±10 are clipped: no state follows from them."""
    steps = true_steps()
    steps.observation[1, 2, 7], steps.observation[3, 0, 10] = 10.0, -10.0
    steps.observation[2, 1, 0] = 0.5  # fallen: the simulator ends there, whatever is claimed
    settings = CorrectionSettings(oracle="replace")
    found, stay, tally = corrector(settings, oracle=Oracle(HOPPER)).apply(steps)
    expected = torch.ones(6, 5, dtype=torch.bool)
    expected[1, 2] = expected[3, 0] = False
    assert torch.equal(stay, expected)
    assert tally == Counter(candidates=30, dropped=2, hidden_state=2, terminals=0, terminals_dropped=0)
    for place in torch.nonzero(stay).tolist():
        s, a = (part[tuple(place)].double().numpy() for part in (steps.observation, steps.action))
        true = Oracle(HOPPER).step(s[None], a[None])
        np.testing.assert_allclose(found.next_observation[tuple(place)], true.next_observation[0], rtol=1e-6, atol=1e-6)
        assert float(found.reward[tuple(place)]) == pytest.approx(true.reward[0], rel=1e-6)
        assert bool(found.terminal[tuple(place)]) == true.terminal[0]
    assert found.terminal[2, 1] and found.ended is steps.ended
    assert torch.equal(found.next_observation[~stay], steps.next_observation[~stay])


def test_what_follows_a_terminal_counts_for_nothing() -> None:
    ended = torch.zeros(6, 5, dtype=torch.bool)
    ended[1, 1] = True
    terminal = ended.clone()
    terminal[1, 3] = True
    steps = dataclasses.replace(true_steps(), terminal=terminal, ended=ended)
    _, stay, tally = corrector(CorrectionSettings(oracle="rows"), oracle=Oracle(HOPPER)).apply(steps)
    assert stay[1].tolist() == [True, True, False, False, False] and stay.sum() == 27
    assert tally == Counter(candidates=27, dropped=0, hidden_state=0, terminals=1, terminals_dropped=0)


def test_oracle_is_refused_where_observations_do_not_tell_the_state() -> None:
    settings = CorrectionSettings(oracle="rows")
    task = dataclasses.replace(HOPPER, layout=None)
    with pytest.raises(InputError, match="oracle: expected 'none' for Hopper-v4"):
        refuse(settings, None, None, task)


# --- filtering --------------------------------------------------------------------------------------------------


def corrupted() -> tuple[Steps, torch.Tensor]:
    """Steps of which some successors were moved, one of them to nowhere; and which, bool [6, 5]."""
    true, places = true_steps(), torch.zeros(6, 5, dtype=torch.bool)
    for b, t in ((0, 2), (2, 0), (3, 4), (4, 1), (4, 3)):
        places[b, t] = True
    successor = true.next_observation + 0.5 * places[..., None]
    successor[4, 3, 2] = torch.nan
    return dataclasses.replace(true, next_observation=successor), places


def test_filter_drops_exactly_the_corrupted_rows() -> None:
    steps, places = corrupted()
    settings = CorrectionSettings(mode="filter", residual=ThresholdSettings(value=0.1), drop="row")
    _, stay, tally = corrector(settings).apply(steps)
    assert torch.equal(stay, ~places)
    assert tally == {"candidates": 30, "dropped": 5, "residual": 5, "terminals": 0, "terminals_dropped": 0}


def test_filter_cuts_a_trajectory_at_its_first_bad_step() -> None:
    steps, _ = corrupted()
    settings = CorrectionSettings(mode="filter", residual=ThresholdSettings(value=0.1))
    _, stay, tally = corrector(settings).apply(steps)
    assert stay.sum(1).tolist() == [2, 5, 0, 4, 1, 5]
    assert all(row.tolist() == sorted(row.tolist(), reverse=True) for row in stay)  # a beginning of each
    assert tally + Counter() == {"candidates": 30, "dropped": 13, "residual": 5, "rest_of_trajectory": 8}


def test_steps_after_the_end_and_padding_are_neither_kept_nor_counted() -> None:
    steps, _ = corrupted()
    ended = torch.zeros(6, 5, dtype=torch.bool)
    ended[0, 1] = ended[1, 2] = True
    padding = torch.tensor([False, False, False, True, False, False])[:, None]
    steps = dataclasses.replace(steps, ended=ended, padding=padding)
    settings = CorrectionSettings(mode="filter", residual=ThresholdSettings(value=0.1))
    _, stay, tally = corrector(settings).apply(steps)
    assert stay.sum(1).tolist() == [2, 3, 0, 0, 1, 5]
    assert tally + Counter() == {"candidates": 20, "dropped": 9, "residual": 3, "rest_of_trajectory": 6}


def test_dropped_terminals_are_counted_on_their_own() -> None:
    steps, _ = corrupted()
    ended = torch.zeros(6, 5, dtype=torch.bool)
    for b, t in ((0, 2), (1, 4), (2, 3), (5, 1)):  # the first one bad itself, the third after a bad one
        ended[b, t] = True
    steps = dataclasses.replace(steps, terminal=ended, ended=ended)
    settings = CorrectionSettings(mode="filter", residual=ThresholdSettings(value=0.1))
    _, stay, tally = corrector(settings).apply(steps)
    assert (tally["terminals"], tally["terminals_dropped"]) == (4, 2)
    assert int((ended & stay).sum()) == 2


def test_step_with_two_reasons_is_counted_for_each_and_dropped_once() -> None:
    bad = {"one": torch.tensor([[True, False, False]]), "other": torch.tensor([[True, True, False]])}
    stay, tally = drop(bad, torch.ones(1, 3, dtype=torch.bool), "row")
    assert stay.tolist() == [[False, False, True]]
    assert tally == {"candidates": 3, "dropped": 2, "one": 1, "other": 2}


def test_action_disagreement_drops_the_pairs_on_which_the_ensemble_disagrees() -> None:
    steps, inverse = true_steps(), an_inverse(members=3)
    steps.next_observation[1, 3] += 40
    steps.next_observation[5, 0] -= 40
    found = inverse.disagreement(steps.observation, steps.next_observation).mean(-1).detach()
    far = torch.zeros(6, 5, dtype=torch.bool)
    far[1, 3] = far[5, 0] = True
    assert found[far].min() > found[~far].max()
    settings = CorrectionSettings(
        mode="filter", action_disagreement=ThresholdSettings(value=float(found[~far].max()) + 1e-6), drop="row"
    )
    _, stay, _ = corrector(settings, inverse=inverse, forward=None).apply(steps)
    assert torch.equal(stay, ~far)


def test_states_outside_the_widened_range_are_dropped_at_either_end_of_a_step() -> None:
    steps = true_steps()
    low, high = torch.full((11,), -1.0), torch.full((11,), 2.0)
    steps.observation[0, 3, 4] = 2.1
    steps.next_observation[2, 1, 0] = -1.1
    steps.next_observation[3, 1, 7] = torch.inf
    settings = CorrectionSettings(mode="filter", range_margin=0.0, drop="row")
    _, stay, tally = corrector(settings, forward=None, low=low, high=high).apply(steps)
    assert (~stay).nonzero().tolist() == [[0, 3], [2, 1], [3, 1]]
    assert tally["range"] == tally["dropped"] == 3


def test_range_is_widened_by_a_share_of_its_width(transitions: Transitions) -> None:
    assert widened_range(transitions, None) == (None, None)
    states = np.concatenate([transitions.observation, transitions.next_observation])
    low, high = widened_range(transitions, 0.25)
    assert low is not None and high is not None
    np.testing.assert_allclose(low, states.min(0) - 0.25 * np.ptp(states, axis=0), rtol=1e-5)
    np.testing.assert_allclose(high, states.max(0) + 0.25 * np.ptp(states, axis=0), rtol=1e-5)
    inside = torch.stack([low, high, (low + high) / 2])
    assert outside(torch.cat([inside, high[None] + 1]), low, high).tolist() == [False, False, False, True]


# --- terminals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terminals", "expected", "kept"),
    [
        ("learned", [(3, 2)], [5, 5, 5, 3, 5, 5]),
        ("function", [(0, 1), (5, 4)], [2, 5, 5, 3, 5, 5]),
        ("both", [(0, 1), (3, 2), (5, 4)], [2, 5, 5, 3, 5, 5]),
    ],
)
def test_terminals_are_the_learned_ones_the_functions_or_either(
    terminals: Any, expected: list[tuple[int, int]], kept: list[int]
) -> None:
    steps = true_steps()
    steps.next_observation[0, 1, 0] = 0.6  # fallen
    steps.next_observation[5, 4, 1] = 0.3  # tilted
    steps.terminal[3, 2] = True
    found, stay, _ = corrector(CorrectionSettings(terminals=terminals), forward=None).apply(steps)
    assert [tuple(place) for place in found.terminal.nonzero().tolist()] == expected
    assert stay.sum(1).tolist() == kept


@pytest.mark.parametrize("terminals", ["learned", "function", "both"])
def test_nothing_starts_where_the_termination_function_says_that_it_is_over(terminals: Any) -> None:
    """As some rows of an unconditional model do."""
    steps = true_steps()
    steps.observation[0, 0, 0] = steps.observation[4, 3, 0] = 0.6  # fallen
    _, stay, tally = corrector(CorrectionSettings(terminals=terminals), forward=None).apply(steps)
    kept = [5, 5, 5, 5, 5, 5] if terminals == "learned" else [0, 5, 5, 5, 3, 5]
    assert stay.sum(1).tolist() == kept
    assert tally["past_the_end"] == (0 if terminals == "learned" else 2)


def test_termination_function_sees_the_corrected_successor() -> None:
    steps = true_steps()
    steps.next_observation[0, 1, 0] = 0.6  # only imagined
    steps.observation[2, 3, 0] = 0.4  # so that the corrected successor has fallen
    found, _, _ = corrector(CorrectionSettings(mode="correct", terminals="function")).apply(steps)
    assert found.terminal.nonzero().tolist() == [[2, 3]]


# --- thresholds of real rows, the whole stage -------------------------------------------------------------------

Models = tuple[Path, Path, Path, Path]


@pytest.fixture(scope="module")
def models(dataset: Path, world_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """data set, world model, an IDM ensemble and a forward ensemble of a few steps."""
    folder = tmp_path_factory.mktemp("ensembles")
    inverse = InverseDynamicsSettings(members=3, hidden=32, batch_size=64, gradient_steps=100)
    forward = ForwardDynamicsSettings(members=2, hidden=32, layers=2, batch_size=64, gradient_steps=200)
    train_inverse_dynamics(dataset, inverse, folder / "idm", seed=0)
    train_forward_dynamics(dataset, forward, folder / "forward", seed=0)
    return dataset, world_model, folder / "idm", folder / "forward"


def written(models: Models, settings: SynthesisSettings, folder: Path, forward: bool = True) -> Transitions:
    """All shards, written last to first, sealed, and read back."""
    path = models[3] if forward else None
    for shard in reversed(range(settings.shards)):
        synthesize_shard(*models[:3], settings, folder, shard, path)
    seal_synthetic(*models[:3], settings, folder, path)
    return read_transitions(open_sealed(folder, "synthetic"))


EVERYTHING = CorrectionSettings(
    mode="both",
    residual=ThresholdSettings(value=5.0),  # the tiny world model is far off
    forward_disagreement=ThresholdSettings(quantile=0.98),
    action_disagreement=ThresholdSettings(value=0.4),
    range_margin=0.1,
    terminals="both",
)


def test_shards_do_not_depend_on_their_number_with_everything_on(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path
) -> None:
    found, reports = [], []
    for shards in (1, 4, 16):
        settings = dataclasses.replace(synthesis_settings, shards=shards, correction=EVERYTHING)
        found.append(written(models, settings, tmp_path / str(shards)))
        reports.append(open_sealed(tmp_path / str(shards), "synthetic").metadata["correction"])
    assert reports[0] == reports[1] == reports[2]
    assert 0 < reports[0]["dropped"]["rows"] < reports[0]["candidates"]
    for other in found[1:]:
        for name, column in found[0].columns().items():
            twin = other.columns()[name]
            assert (column is None and twin is None) or column.tobytes() == twin.tobytes(), name  # type: ignore[union-attr]


def test_control_of_the_oracle_keeps_the_same_rows_as_they_were(models: Models, tmp_path: Path) -> None:
    def made(oracle: Any) -> Transitions:
        settings = SynthesisSettings(trajectories=300, shards=1, correction=CorrectionSettings(oracle=oracle))
        return written(models, settings, tmp_path / oracle, forward=False)

    plain, rows, true = (made(oracle) for oracle in ("none", "rows", "replace"))
    kept = Oracle(HOPPER).checkable(plain.observation)
    assert len(rows) == len(true) == kept.sum() > 0
    for name, column in plain.take(kept).columns().items():
        if column is not None:
            np.testing.assert_array_equal(getattr(rows, name), column)
            if name not in ("reward", "next_observation", "terminal", "discount"):
                np.testing.assert_array_equal(getattr(true, name), column)
    answer = Oracle(HOPPER).step(true.observation.astype(float), true.action.astype(float))
    np.testing.assert_array_equal(true.next_observation, answer.next_observation.astype(np.float32))
    np.testing.assert_array_equal(true.reward, answer.reward.astype(np.float32))
    np.testing.assert_array_equal(true.terminal, answer.terminal)
    np.testing.assert_array_equal(true.discount, 1.0 - true.terminal)


@pytest.mark.parametrize("compute", [CPU, Compute("cpu", "bf16")], ids=lambda compute: compute.identity)
def test_thresholds_are_quantiles_of_real_held_out_rows(
    models: Models, transitions: Transitions, held_out: np.ndarray, compute: Compute
) -> None:
    """Scored as imagined rows are."""
    parts = Parts.load(*models, compute=compute)
    assert parts.forward_dynamics is not None
    made = parts.corrector(SynthesisSettings(correction=EVERYTHING), transitions)
    assert made is not None
    real = transitions.take(held_out)
    s, a = map(torch.from_numpy, (real.observation, real.action))
    with compute.arithmetic():
        scores = parts.forward_dynamics.disagreement(s, a)
    unsure = scores.detach().float().numpy()
    assert scores.dtype == (torch.float32 if compute == CPU else torch.bfloat16)
    assert made.thresholds["forward_disagreement"] == pytest.approx(np.quantile(unsure, 0.98), rel=1e-4)
    assert made.thresholds["residual"] == 5.0


@pytest.mark.parametrize("margin", [0.0, 0.25])
def test_range_is_that_of_the_train_split_and_wider_by_its_margin(
    models: Models, transitions: Transitions, held_out: np.ndarray, margin: float
) -> None:
    altered = dataclasses.replace(transitions, observation=transitions.observation + 1e3 * held_out[:, None])
    settings = CorrectionSettings(mode="filter", range_margin=margin)
    inverse, _ = load_inverse_dynamics(models[2])
    made = Corrector.prepare(settings, open_sealed(models[0], "dataset"), altered, None, inverse)
    seen = transitions.take(~held_out)
    assert made.high is not None
    states = np.concatenate([seen.observation, seen.next_observation])
    np.testing.assert_allclose(made.high, states.max(0) + margin * np.ptp(states, axis=0), rtol=1e-5)


def test_corrected_rows_are_the_forward_models_and_start_where_they_were_imagined(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path
) -> None:
    plain = written(models, synthesis_settings, tmp_path / "plain", forward=False)
    settings = dataclasses.replace(synthesis_settings, correction=CorrectionSettings(mode="correct"))
    found = written(models, settings, tmp_path / "corrected")
    for name in ("observation", "action", "terminal", "discount", "source_row", "horizon_step"):
        assert getattr(found, name).tobytes() == getattr(plain, name).tobytes(), name
    forward, _ = load_forward_dynamics(models[3])
    successor, reward = evaluated(forward, torch.from_numpy(found.observation), torch.from_numpy(found.action))
    np.testing.assert_allclose(found.next_observation, successor, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.reward, reward, rtol=1e-4, atol=1e-5)
    assert np.abs(found.next_observation - plain.next_observation).mean() > 0.01


def test_seal_reports_the_share_dropped_by_reason_and_the_forward_model(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path
) -> None:
    plain = written(models, synthesis_settings, tmp_path / "plain", forward=False)
    assert "correction" not in open_sealed(tmp_path / "plain", "synthetic").metadata
    chosen = CorrectionSettings(mode="filter", residual=ThresholdSettings(value=0.6))
    settings = dataclasses.replace(synthesis_settings, correction=chosen)
    found = written(models, settings, tmp_path / "filtered")
    sealed = open_sealed(tmp_path / "filtered", "synthetic")
    told = sealed.metadata["correction"]
    assert told["candidates"] == len(plain) and sealed.metadata["rows"] == len(found)
    dropped, reasons = told["dropped"], told["dropped"]["by_reason"]
    assert dropped["rows"] == len(plain) - len(found) > 0
    assert dropped["share"] == pytest.approx(dropped["rows"] / len(plain))
    assert reasons.keys() == {"residual", "rest_of_trajectory"}
    assert sum(reason["rows"] for reason in reasons.values()) == dropped["rows"]
    assert reasons["residual"]["share"] == pytest.approx(reasons["residual"]["rows"] / len(plain))
    assert told["thresholds"].keys() == {"residual"}
    assert told["terminals"] == int(plain.terminal.sum())
    lost = int(plain.terminal.sum() - found.terminal.sum())
    assert told["terminals_dropped"] == {"rows": lost, "share": pytest.approx(lost / max(told["terminals"], 1))}
    assert sealed.provenance["inputs"]["forward_dynamics"] == open_sealed(models[3], "forward-dynamics").digest


def test_command_takes_the_forward_model(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = CorrectionSettings(mode="correct")
    settings = dataclasses.replace(synthesis_settings, correction=chosen)
    expected = written(models, settings, tmp_path / "function")
    options = [
        *("--dataset", str(models[0]), "--world-model", str(models[1]), "--inverse-dynamics", str(models[2])),
        *("--settings", "{trajectories: 700, shards: 2, sampling_steps: 3, correction: {mode: correct}}"),
        *("--output", str(tmp_path / "command")),
    ]
    assert main(["synthesize", *options]) == 2
    assert "correction.mode: needs a forward dynamics model" in capsys.readouterr().err
    assert main(["synthesize", *options, "--forward-dynamics", str(models[3])]) == 0
    found = read_transitions(open_sealed(tmp_path / "command", "synthetic"))
    assert found.next_observation.tobytes() == expected.next_observation.tobytes()


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"mode": "filter"}, "mode: 'filter' drops what is beyond a threshold, found none"),
        ({"mode": "both"}, "mode: 'both' drops what is beyond a threshold, found none"),
        ({"mode": "correct", "residual": {"value": 1}}, "residual: expected mode 'filter' or 'both'"),
        ({"range_margin": 0.1}, "range_margin: expected mode 'filter' or 'both' with a threshold, found 'none'"),
        ({"mode": "filter", "residual": {}}, "quantile, value: expected one of them, found none"),
        ({"mode": "filter", "residual": {"value": 1, "quantile": 0.5}}, "expected one of them, found both"),
        ({"mode": "filter", "residual": {"quantile": 1.5}}, "residual.quantile: expected at most 1, found 1.5"),
        ({"mode": "repair"}, "mode: expected one of"),
    ],
)
def test_contradictory_settings_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as found:
        read(CorrectionSettings, values, "config")
    assert sentence in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("values", "forward", "sentence"),
    [
        ({"mode": "correct"}, False, "correction.mode: needs a forward dynamics model"),
        ({"mode": "filter", "residual": {"value": 1}}, False, "correction.residual: needs a forward dynamics model"),
        ({"mode": "filter", "forward_disagreement": {"value": 1}}, False, "forward_disagreement: needs a forward"),
        ({}, True, "--forward-dynamics: expected only with a correction that uses it"),
        ({"mode": "filter", "range_margin": 0.1}, True, "--forward-dynamics: expected only with a correction"),
        (
            {"mode": "filter", "action_disagreement": {"value": 1}},
            False,
            "action_disagreement: expected an ensemble of at least 2 members, found 1",
        ),
    ],
)
def test_settings_that_the_models_cannot_serve_are_refused_before_anything_is_written(
    models: Models,
    inverse_dynamics: Path,
    synthesis_settings: SynthesisSettings,
    tmp_path: Path,
    values: dict[str, Any],
    forward: bool,
    sentence: str,
) -> None:
    settings = dataclasses.replace(synthesis_settings, correction=read(CorrectionSettings, values, "config"))
    path = models[3] if forward else None
    with pytest.raises(InputError) as found:
        synthesize_shard(*models[:2], inverse_dynamics, settings, tmp_path, 0, path)
    assert sentence in str(found.value) and "\n" not in str(found.value)
    assert list(tmp_path.iterdir()) == []


def test_termination_function_is_refused_where_none_is_known(
    transitions: Transitions, seal_dataset: Callable[..., Path]
) -> None:
    data = open_sealed(seal_dataset(transitions, [0, 1], environment="InvertedPendulum-v5"), "dataset")
    settings = CorrectionSettings(terminals="function")
    with pytest.raises(InputError, match="no termination function of InvertedPendulum-v5 is known for 'function'"):
        Corrector.prepare(settings, data, transitions, None, an_inverse())


def test_forward_model_of_another_data_set_is_refused(
    models: Models, scrambled: Path, synthesis_settings: SynthesisSettings, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    train_forward_dynamics(scrambled, ForwardDynamicsSettings(hidden=8, gradient_steps=2), other, seed=0)
    with pytest.raises(InputError, match="other: was trained on another data set"):
        Parts.load(*models[:3], other)


def test_seal_refuses_shards_that_another_forward_model_corrected(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    train_forward_dynamics(models[0], ForwardDynamicsSettings(hidden=8, gradient_steps=2), other, seed=1)
    settings = dataclasses.replace(synthesis_settings, shards=1, correction=CorrectionSettings(mode="correct"))
    synthesize_shard(*models[:3], settings, tmp_path / "out", 0, other)
    with pytest.raises(InputError, match=r"shard-00000-of-00001\.parquet: is another shard"):
        seal_synthetic(*models[:3], settings, tmp_path / "out", models[3])


def test_thresholds_that_drop_everything_are_refused(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path
) -> None:
    chosen = CorrectionSettings(mode="filter", residual=ThresholdSettings(value=0.0))
    with pytest.raises(InputError, match="dropped every transition"):
        written(models, dataclasses.replace(synthesis_settings, correction=chosen), tmp_path)
    assert not (tmp_path / "provenance.json").exists()


# --- what thresholds and ranges are taken of ----------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_thresholds_are_quantiles_over_usable_held_out_rows(
    models: Models,
    transitions: Transitions,
    held_out: np.ndarray,
    seal_dataset: Callable[..., Path],
    known: bool,
) -> None:
    parts = Parts.load(*models)
    forward, inverse = parts.forward_dynamics, parts.inverse_dynamics
    assert forward is not None and inverse is not None
    thresholds = {"residual": ThresholdSettings(quantile=0.9), "action_disagreement": ThresholdSettings(quantile=0.5)}
    numbers = parts.data.metadata["held_out_episodes"]
    data = open_sealed(seal_dataset(transitions, numbers, terminal_successors_known=known), "dataset")
    settings = CorrectionSettings(mode="filter", **thresholds)  # type: ignore[arg-type]
    found = Corrector.prepare(settings, data, transitions, forward, inverse).thresholds
    real = transitions.take(held_out & (known | ~transitions.terminal))
    state, action, successor = map(torch.from_numpy, (real.observation, real.action, real.next_observation))
    with torch.inference_mode():
        scores = {
            "residual": forward.residual(state, action, successor),
            "action_disagreement": inverse.disagreement(state, successor).mean(-1),
        }
    for name, values in scores.items():
        assert found[name] == pytest.approx(np.quantile(values, thresholds[name].quantile), rel=1e-4, abs=1e-7)


def test_the_range_judges_what_is_written() -> None:
    """A successor far out that is corrected stays."""
    off = dataclasses.replace(true_steps(), next_observation=true_steps().next_observation + 100)
    bounds = {"low": torch.full((11,), -50.0), "high": torch.full((11,), 50.0)}
    assert corrector(CorrectionSettings(mode="both", range_margin=0.0), **bounds).apply(off)[1].all()
    assert not corrector(CorrectionSettings(mode="filter", range_margin=0.0), **bounds).apply(off)[1].any()
