"""n-step transitions: sums, discounts and terminals of rollouts, and who may learn from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from dawm.analysis.fidelity import assess
from dawm.analysis.fidelity_page import markdown
from dawm.analysis.fidelity_page import page as fidelity_figure
from dawm.config import AssessmentSettings, BCSettings, ExpansionSettings, SynthesisSettings, TD3BCSettings
from dawm.correction import Steps
from dawm.data.export_to import export_to
from dawm.data.sealed import open_sealed
from dawm.data.transitions import Transitions, read_transitions
from dawm.errors import InputError
from dawm.expansion import expanded, spans
from dawm.offline_rl.training import train_policy
from dawm.synthesis import seal_synthetic, synthesize_shard

GAMMA = 0.9


def rollouts() -> tuple[Steps, torch.Tensor]:
    """Four trajectories of four steps: whole, ended by a terminal after two, broken after one, without a first step."""
    g = torch.Generator().manual_seed(0)
    stay = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1], [0, 1, 1, 1]], dtype=torch.bool)
    terminal = torch.zeros(4, 4, dtype=torch.bool)
    terminal[1, 1] = True
    steps = Steps(
        torch.randn(4, 4, 3, generator=g),
        torch.randn(4, 4, 2, generator=g),
        torch.randn(4, 4, generator=g),
        torch.randn(4, 4, 3, generator=g),
        terminal,
        terminal,
        torch.zeros(4, 1, dtype=torch.bool),
    )
    return steps, stay


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
def test_transition_sums_the_discounted_rewards_of_the_steps_that_it_spans(n: int) -> None:
    steps, stay = rollouts()
    whole, there, discounts = expanded(steps, stay, torch.full((4,), n), GAMMA)
    assert there[:, 0].tolist() == [True, True, True, False]
    lengths = [min(n, 4), min(n, 2), 1]
    for row, length in enumerate(lengths):
        rewards = steps.reward[row, :length].double().tolist()
        assert float(whole.reward[row, 0]) == pytest.approx(sum(GAMMA**k * r for k, r in enumerate(rewards)), rel=1e-5)
        assert torch.equal(whole.next_observation[row, 0], steps.next_observation[row, length - 1])
        assert torch.equal(whole.observation[row, 0], steps.observation[row, 0])
        assert torch.equal(whole.action[row, 0], steps.action[row, 0])
        assert discounts[row] == pytest.approx(GAMMA ** (length - 1))
        assert bool(whole.terminal[row, 0]) == (row == 1 and n >= 2)


def test_span_is_fixed_without_a_weight() -> None:
    rows = torch.arange(100)
    assert set(spans(ExpansionSettings(steps=5), 0, rows, torch.zeros_like(rows)).tolist()) == {5}


@pytest.mark.parametrize(("weight", "steps"), [(0.95, 7), (0.5, 3), (0.0, 4), (1.0, 4), (0.7, 1)])
def test_spans_are_drawn_as_the_lambda_return_weighs_them(weight: float, steps: int) -> None:
    rows = torch.arange(40_000)
    found = spans(ExpansionSettings(steps=steps, weight=weight), 3, rows, torch.zeros_like(rows))
    expected = [(1 - weight) * weight ** (n - 1) for n in range(1, steps)] + [weight ** (steps - 1)]
    counts = np.bincount(found.numpy(), minlength=steps + 1)[1:] / len(rows)
    assert len(counts) == steps
    np.testing.assert_allclose(counts, expected, atol=0.012)


def test_span_belongs_to_its_trajectory() -> None:
    settings = ExpansionSettings(steps=7, weight=0.8)
    rows, draws = torch.arange(50), torch.zeros(50, dtype=torch.int64)
    together = spans(settings, 0, rows, draws)
    alone = torch.cat([spans(settings, 0, rows[i : i + 1], draws[i : i + 1]) for i in range(50)])
    assert torch.equal(alone, together)
    assert not torch.equal(spans(settings, 1, rows, draws), together)
    assert not torch.equal(spans(settings, 0, rows, draws + 1), together)


# --- the stage ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expansion() -> ExpansionSettings:
    return ExpansionSettings(steps=2, discount=GAMMA)


@pytest.fixture(scope="module")
def parts(dataset: Path, world_model: Path, inverse_dynamics: Path) -> tuple[Path, Path, Path]:
    return dataset, world_model, inverse_dynamics


@pytest.fixture(scope="module")
def two_steps(
    parts: tuple[Path, Path, Path],
    synthesis_settings: SynthesisSettings,
    expansion: ExpansionSettings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("expanded") / "synthetic"
    settings = dataclasses.replace(synthesis_settings, expansion=expansion)
    for shard in range(settings.shards):
        synthesize_shard(*parts, settings, folder, shard)
    seal_synthetic(*parts, settings, folder)
    return folder


def test_rollouts_are_the_one_step_ones(
    two_steps: Path, synthetic: Path, transitions: Transitions, synthesis_settings: SynthesisSettings
) -> None:
    found, single = (read_transitions(open_sealed(folder, "synthetic")) for folder in (two_steps, synthetic))
    starts = np.flatnonzero(single.horizon_step == 1)
    assert len(found) == len(starts) == synthesis_settings.trajectories
    np.testing.assert_array_equal(found.source_row, single.source_row[starts])
    np.testing.assert_array_equal(found.observation, transitions.observation[found.source_row])
    np.testing.assert_array_equal(found.action, transitions.action[found.source_row])
    lengths = np.minimum(np.diff(np.append(starts, len(single))), 2)
    last = starts + lengths - 1
    np.testing.assert_array_equal(found.next_observation, single.next_observation[last])
    np.testing.assert_array_equal(found.terminal, single.terminal[last])
    reward = single.reward[starts] + np.where(lengths == 2, GAMMA * single.reward[last], 0)
    np.testing.assert_allclose(found.reward, reward, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.discount, np.where(found.terminal, 0, GAMMA ** (lengths - 1)), rtol=1e-6)
    assert set(found.horizon_step) == {1}
    facts = open_sealed(two_steps, "synthetic").metadata
    assert facts["n_step"] == 2 and facts["expansion"] == {"steps": 2, "discount": GAMMA, "weight": None}


LEARNER: dict[str, Any] = {"hidden": 8, "batch_size": 8, "gradient_steps": 3, "evaluation_episodes": 1}


def test_learner_with_another_discount_refuses_them(two_steps: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"discount: expected 0\.9, the γ of the n-step transitions .*, found 0\.99"):
        train_policy("td3_bc", dataset, two_steps, TD3BCSettings(**LEARNER), 0.5, tmp_path / "policy", 0)
    assert not (tmp_path / "policy").exists()
    train_policy("td3_bc", dataset, two_steps, TD3BCSettings(**LEARNER, discount=GAMMA), 0.5, tmp_path / "policy", 0)
    train_policy("bc", dataset, two_steps, BCSettings(**LEARNER), 0.5, tmp_path / "cloned", 0)  # has no values


def test_only_the_reference_rows_are_judged(two_steps: Path, parts: tuple[Path, Path, Path], tmp_path: Path) -> None:
    assess(parts[0], two_steps, parts[2], AssessmentSettings(rows=30, best_action_rows=0), tmp_path, "dwm")
    table = pd.read_csv(tmp_path / "fidelity.csv").assign(dataset="hopper", world_model_seed=0)
    assert "| dwm |" not in (page := markdown(table)) and "| hopper | nothing moves |" in page
    own = table[table["augmentation"] == "nothing_moves"].assign(augmentation="dawm", horizon_step=0)
    both = pd.concat([table, own])
    drawn = fidelity_figure(both, {"dwm": ("#000000", "-"), "dawm": ("#0072B2", "-")})
    assert [label.get_text() for label in drawn.axes[2].get_yticklabels()] == ["dawm"]
    plt.close(drawn)
    lines = [line.split(",") for line in (tmp_path / "fidelity.csv").read_text().splitlines()[1:]]
    assert {line[0] for line in lines if not line[2].startswith("action_error")} == {"real_held_out", "nothing_moves"}


def test_they_are_not_exported_as_one_step_data(two_steps: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected n_step 1, found 2"):
        export_to("parquet", tmp_path / "out", synthetic=two_steps)
