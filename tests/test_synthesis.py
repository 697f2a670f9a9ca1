"""Synthesis: what a row is, how trajectories end, and that cutting the work otherwise changes no bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from dawm.blocks import BLOCK, Starts, rows_of
from dawm.config import InverseDynamicsSettings, RequestSettings, SynthesisSettings
from dawm.data.sealed import open_sealed
from dawm.data.transitions import Transitions, concatenate, parse_shard, read_transitions
from dawm.data.windows import returns_to_go
from dawm.errors import InputError
from dawm.inverse_dynamics import load_inverse_dynamics, train_inverse_dynamics
from dawm.layout import shard_name
from dawm.synthesis import (
    Parts,
    Requests,
    complete,
    imagine,
    requested_returns,
    seal_synthetic,
    synthesize_blocks,
    synthesize_shard,
)
from dawm.world_model.model import Imagined, WorldModel
from dawm.world_model.training import load_world_model

Models = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def models(dataset: Path, world_model: Path, inverse_dynamics: Path) -> Models:
    return dataset, world_model, inverse_dynamics


@pytest.fixture(scope="module")
def parts(models: Models) -> Parts:
    return Parts.load(*models)


@pytest.fixture(scope="module")
def imagined(synthetic: Path) -> Transitions:
    return read_transitions(open_sealed(synthetic, "synthetic"))


def written(models: Models, settings: SynthesisSettings, folder: Path) -> Transitions:
    """All shards, written last to first, sealed, and read back."""
    for shard in reversed(range(settings.shards)):
        synthesize_shard(*models, settings, folder, shard)
    seal_synthetic(*models, settings, folder)
    return read_transitions(open_sealed(folder, "synthetic"))


def assert_same_bits(first: Transitions, second: Transitions) -> None:
    for name, column in first.columns().items():
        other = second.columns()[name]
        if column is None:
            assert other is None, name
        else:
            assert other is not None and column.dtype == other.dtype and column.shape == other.shape, name
            assert column.tobytes() == other.tobytes(), name


# --- the same bits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_shards_do_not_depend_on_their_number(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path, sampler: str
) -> None:
    found = []
    for shards in (1, 4, 16):  # 700 trajectories are 3 blocks, so that some of 4 and most of 16 shards are empty
        settings = dataclasses.replace(synthesis_settings, shards=shards, sampler=sampler)  # type: ignore[arg-type]
        found.append(written(models, settings, tmp_path / str(shards)))
    assert len(found[0]) > 700
    assert_same_bits(found[0], found[1])
    assert_same_bits(found[0], found[2])


def test_shards_of_another_number_go_when_the_new_ones_are_sealed(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path
) -> None:
    for shards in (3, 2):
        written(models, dataclasses.replace(synthesis_settings, trajectories=300, shards=shards), tmp_path)
    found = sorted(path.name for path in tmp_path.glob("*.parquet"))
    assert found == ["shard-00000-of-00002.parquet", "shard-00001-of-00002.parquet"]


def test_repeated_synthesis_is_the_same(
    models: Models, imagined: Transitions, synthesis_settings: SynthesisSettings, tmp_path: Path
) -> None:
    assert_same_bits(written(models, synthesis_settings, tmp_path / "again"), imagined)


def test_more_trajectories_change_none_of_the_earlier_ones(
    models: Models, imagined: Transitions, synthesis_settings: SynthesisSettings, tmp_path: Path
) -> None:
    fewer = written(models, dataclasses.replace(synthesis_settings, trajectories=300, shards=1), tmp_path / "fewer")
    assert 300 <= len(fewer) < len(imagined)
    assert_same_bits(fewer, imagined.take(slice(0, len(fewer))))


# --- noise and starts -------------------------------------------------------------------------------------------


def block_of(
    parts: Parts, transitions: Transitions, settings: SynthesisSettings, order: np.ndarray | None = None, draw: int = 0
) -> Transitions:
    """The first block's transitions sorted by source row; its trajectories come in the given order."""
    requests = Requests(parts.world_model, settings, transitions)
    if order is not None:
        requests.source_row[:BLOCK] = requests.source_row[:BLOCK][order]
        requests.return_to_go[:BLOCK] = requests.return_to_go[:BLOCK][order]
    requests.draw[:] = draw
    found, _ = synthesize_blocks(parts, requests, settings, transitions, range(1))
    return found.take(np.lexsort((found.horizon_step, found.source_row)))


def test_noise_belongs_to_the_source_row_and_not_to_its_place(
    parts: Parts, transitions: Transitions, synthesis_settings: SynthesisSettings
) -> None:
    order = np.random.default_rng(0).permutation(BLOCK)
    first, permuted = (block_of(parts, transitions, synthesis_settings, o) for o in (None, order))
    np.testing.assert_array_equal(first.source_row, permuted.source_row)
    np.testing.assert_allclose(first.next_observation, permuted.next_observation, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(first.reward, permuted.reward, rtol=1e-4, atol=1e-4)


def test_noise_depends_on_the_seed_and_on_the_draw_of_a_row(
    parts: Parts, transitions: Transitions, synthesis_settings: SynthesisSettings
) -> None:
    first = block_of(parts, transitions, synthesis_settings).take(slice(0, BLOCK))
    redrawn = block_of(parts, transitions, synthesis_settings, draw=1).take(slice(0, BLOCK))
    np.testing.assert_array_equal(first.source_row, redrawn.source_row)
    changed = np.abs(first.next_observation - redrawn.next_observation).max(1)
    assert (changed > 1e-3).mean() > 0.9  # a sample may be cut back to the data's range in every dimension

    reseeded = Requests(parts.world_model, synthesis_settings, transitions)
    other = dataclasses.replace(synthesis_settings, seed=1)  # the starts of seed 0, the noise of seed 1
    again, _ = synthesize_blocks(parts, reseeded, other, transitions, range(1))
    original, _ = synthesize_blocks(parts, reseeded, synthesis_settings, transitions, range(1))
    np.testing.assert_array_equal(again.source_row, original.source_row)
    assert (np.abs(again.next_observation - original.next_observation).max(1) > 1e-3).mean() > 0.9


@pytest.mark.parametrize("shared", ["source_row", "draw"])
def test_noise_differs_between_the_rows_of_a_draw_and_between_the_draws_of_a_row(
    parts: Parts, transitions: Transitions, synthesis_settings: SynthesisSettings, shared: str
) -> None:
    """From the same state, action and return, 256 trajectories are 256 different samples."""
    requests = Requests(parts.world_model, synthesis_settings, transitions)
    requests.return_to_go[:] = 100.0
    requests.source_row[:] = 5 if shared == "source_row" else np.arange(len(requests.source_row))
    requests.draw[:] = 0 if shared == "draw" else np.arange(len(requests.draw))
    alike = dataclasses.replace(
        transitions,
        observation=np.repeat(transitions.observation[5:6], len(transitions), axis=0),
        action=np.repeat(transitions.action[5:6], len(transitions), axis=0),
    )
    found, _ = synthesize_blocks(parts, requests, synthesis_settings, alike, range(1))
    first = found.take(found.horizon_step == 1)
    assert len(np.unique(first.next_observation, axis=0)) == BLOCK


def test_networks_see_blocks_of_one_size_whatever_is_left_over(
    models: Models, transitions: Transitions, synthesis_settings: SynthesisSettings
) -> None:
    """A matrix product's rounding depends on its shape: 700 trajectories are 3 blocks of 256, the last one padded."""
    parts, rows = Parts.load(*models), []
    for network in (parts.world_model.denoiser, parts.inverse_dynamics):
        network.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    requests = Requests(parts.world_model, synthesis_settings, transitions)
    for block in range(3):
        synthesize_blocks(parts, requests, synthesis_settings, transitions, range(block, block + 1))
    assert rows == 3 * [512, 512, 512, 256]  # 3 sampling steps with and without the condition, then the actions


def test_sampling_is_as_the_settings_say(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(WorldModel, "sample", lambda self, *inputs, **options: seen.update(options))
    monkeypatch.setattr(WorldModel, "sigmas", lambda self, *levels: levels)
    chosen = {"sampler": "ddim", "guidance": 3.0, "temperature": 0.7}
    settings = SynthesisSettings(**chosen, sampling_steps=4, sigma_min=0.01, sigma_max=20.0, rho=5.0)  # type: ignore[arg-type]
    imagine(parts.world_model, settings, *[torch.zeros(1)] * 4)
    assert seen == {**chosen, "sigmas": (4, 0.01, 20.0, 5.0)}


def test_starts_are_in_another_order_in_every_round_and_for_every_seed() -> None:
    rows = np.arange(50, 100)
    zero, one = (Starts(SynthesisSettings(trajectories=100, seed=seed), rows).source_row for seed in (0, 1))
    assert sorted(zero[:50]) == sorted(zero[50:]) == rows.tolist()
    assert not np.array_equal(zero[:50], zero[50:]) and not np.array_equal(zero, one)


def test_every_real_row_starts_a_trajectory_before_any_starts_two(
    parts: Parts, transitions: Transitions, synthesis_settings: SynthesisSettings
) -> None:
    settings = dataclasses.replace(synthesis_settings, trajectories=3500)
    requests = Requests(parts.world_model, settings, transitions)
    assert sorted(requests.source_row[:3000].tolist()) == list(range(3000))
    assert len(set(requests.source_row[3000:].tolist())) == 500
    np.testing.assert_array_equal(requests.draw, [0] * 3000 + [1] * 500)


def test_wanted_return_is_the_rows_own_times_the_factor(
    parts: Parts, transitions: Transitions, synthesis_settings: SynthesisSettings
) -> None:
    settings = dataclasses.replace(synthesis_settings, request=RequestSettings(amount=1.7))
    requests = Requests(parts.world_model, settings, transitions)
    own = returns_to_go(transitions, 0.99)
    np.testing.assert_allclose(requests.return_to_go, [1.7 * float(own[row]) for row in requests.source_row], rtol=1e-6)


@pytest.mark.parametrize("amount", [0.7, 1.0, 1.1, 3.0])
def test_a_larger_factor_asks_for_a_higher_return_whatever_its_sign(amount: float) -> None:
    own = np.array([-200.0, -0.5, 0.0, 0.5, 200.0, np.nan], dtype=np.float32)
    asked = requested_returns(RequestSettings(amount=amount), own, 1.0)
    np.testing.assert_allclose(asked, own + (amount - 1) * np.abs(own), rtol=1e-6)
    assert asked[3:5].tolist() == (amount * own[3:5]).tolist()
    assert asked.dtype == own.dtype


def test_a_quantile_and_a_value_ask_all_trajectories_for_the_same(
    parts: Parts, transitions: Transitions, synthesis_settings: SynthesisSettings
) -> None:
    own = returns_to_go(transitions, 0.99)
    known = np.sort(own[~np.isnan(own)])
    for request, low, high in (
        (RequestSettings(kind="quantile", amount=1.0), known[-1], known[-1]),
        (RequestSettings(kind="quantile", amount=0.25), known[len(known) // 4 - 1], known[len(known) // 4 + 1]),
        (RequestSettings(kind="value", amount=0.7), *[0.7 * float(parts.world_model.return_scale)] * 2),
    ):
        requests = Requests(parts.world_model, dataclasses.replace(synthesis_settings, request=request), transitions)
        assert len(set(requests.return_to_go.tolist())) == 1 and len(requests.return_to_go) == len(requests.source_row)
        assert low * (1 - 1e-6) <= requests.return_to_go[0] <= high * (1 + 1e-6)


def test_a_quantile_of_unknown_returns_is_refused() -> None:
    with pytest.raises(InputError, match="known return-to-go"):
        requested_returns(RequestSettings(kind="quantile", amount=0.5), np.full(3, np.nan), 1.0)
    assert np.isnan(requested_returns(RequestSettings(), np.full(3, np.nan), 1.0)).all()


# --- what a row is ----------------------------------------------------------------------------------------------


def test_first_step_of_a_trajectory_is_the_real_state_and_action(
    imagined: Transitions, transitions: Transitions
) -> None:
    first = imagined.take(imagined.horizon_step == 1)
    assert len(first) == 700 == len(set(first.source_row.tolist()))
    np.testing.assert_array_equal(first.observation, transitions.observation[first.source_row])
    np.testing.assert_array_equal(first.action, transitions.action[first.source_row])


def test_trajectories_are_connected_and_count_their_steps(imagined: Transitions) -> None:
    begins = np.flatnonzero(imagined.horizon_step == 1)
    for begin, end in zip(begins, [*begins[1:], len(imagined)], strict=True):
        assert imagined.horizon_step[begin:end].tolist() == list(range(1, end - begin + 1))
        assert len(set(imagined.source_row[begin:end].tolist())) == 1
        np.testing.assert_array_equal(imagined.observation[begin + 1 : end], imagined.next_observation[begin : end - 1])
        assert not imagined.terminal[begin : end - 1].any()
        assert end - begin == 3 or imagined.terminal[end - 1]


def test_later_actions_are_those_that_the_inverse_dynamics_infers(
    imagined: Transitions, inverse_dynamics: Path
) -> None:
    model, _ = load_inverse_dynamics(inverse_dynamics)
    later = imagined.take(imagined.horizon_step > 1)
    with torch.inference_mode():
        inferred = model(torch.from_numpy(later.observation), torch.from_numpy(later.next_observation))
    np.testing.assert_allclose(later.action, inferred, rtol=1e-4, atol=1e-5)


def test_synthetic_rows_fit_the_schema_and_the_bounds(imagined: Transitions) -> None:
    assert np.abs(imagined.action).max() <= 1
    for name in ("observation", "action", "reward", "next_observation"):
        assert np.isfinite(getattr(imagined, name)).all(), name
    np.testing.assert_array_equal(imagined.discount, np.where(imagined.terminal, 0.0, 1.0))
    assert not imagined.timeout.any()
    assert set(imagined.episode.tolist()) == set(imagined.step.tolist()) == {-1}
    assert imagined.qpos is None and imagined.qvel is None


def hand_made() -> tuple[Imagined, torch.Tensor, np.ndarray]:
    """Four windows of T = 4: never ended, ended at once, ended in the middle, ended last; real actions and sources."""
    g = torch.Generator().manual_seed(0)
    terminals = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
    states, rewards = torch.randn(4, 4, 11, generator=g), torch.arange(12.0).reshape(4, 3)
    action = torch.linspace(-1, 1, 12).reshape(4, 3)
    return Imagined(states, rewards, terminals), action, np.array([40, 10, 30, 20])


def test_trajectory_ends_with_its_first_terminal(inverse_dynamics: Path) -> None:
    windows, action, source = hand_made()
    model, _ = load_inverse_dynamics(inverse_dynamics)
    steps, stay, _ = complete(windows, model, action, np.ones(4, dtype=bool))
    found = rows_of(steps, stay, source)
    assert found.source_row.tolist() == [40, 40, 40, 10, 30, 30, 20, 20, 20]
    assert found.horizon_step.tolist() == [1, 2, 3, 1, 1, 2, 1, 2, 3]
    assert found.terminal.tolist() == [False, False, False, True, False, True, False, False, True]
    assert found.discount.tolist() == [1, 1, 1, 0, 1, 0, 1, 1, 0]
    assert found.reward.tolist() == [0, 1, 2, 3, 6, 7, 9, 10, 11]
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    for row, (window, step) in enumerate(places):
        np.testing.assert_array_equal(found.observation[row], windows.states[window, step])
        np.testing.assert_array_equal(found.next_observation[row], windows.states[window, step + 1])
    for row, window in ((0, 0), (3, 1), (4, 2), (6, 3)):
        np.testing.assert_array_equal(found.action[row], action[window])


def test_padding_of_the_last_block_is_not_written(inverse_dynamics: Path) -> None:
    windows, action, source = hand_made()
    model, _ = load_inverse_dynamics(inverse_dynamics)
    steps, stay, _ = complete(windows, model, action, np.array([True, False, True, False]))
    found = rows_of(steps, stay, source)
    assert found.source_row.tolist() == [40, 40, 40, 30, 30]


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"guidance": 2.0}, {"temperature": 1.0}, {"trajectories": 699}, {"sampler": "ddim"}]
)
def test_seal_refuses_a_shard_of_other_settings(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path, change: dict
) -> None:
    synthesize_shard(*models, synthesis_settings, tmp_path, 0)
    synthesize_shard(*models, dataclasses.replace(synthesis_settings, **change), tmp_path, 1)
    with pytest.raises(InputError, match=r"shard-00001-of-00002\.parquet: is another shard, or of another"):
        seal_synthetic(*models, synthesis_settings, tmp_path)
    assert not (tmp_path / "provenance.json").exists()


def test_seal_refuses_a_shard_of_another_model(
    models: Models,
    synthesis_settings: SynthesisSettings,
    inverse_dynamics_settings: InverseDynamicsSettings,
    tmp_path: Path,
) -> None:
    other = tmp_path / "other-inverse-dynamics"
    train_inverse_dynamics(models[0], inverse_dynamics_settings, other, seed=1)
    output = tmp_path / "synthetic"
    synthesize_shard(*models, synthesis_settings, output, 0)
    synthesize_shard(models[0], models[1], other, synthesis_settings, output, 1)
    with pytest.raises(InputError, match=r"shard-00001-of-00002\.parquet: is another shard, or of another"):
        seal_synthetic(*models, synthesis_settings, output)


def test_seal_refuses_a_shard_of_another_version_of_the_code(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dawm.blocks.SHARDS_VERSION", 1)
    synthesize_shard(*models, synthesis_settings, tmp_path, 0)
    synthesize_shard(*models, synthesis_settings, tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"shard-00000-of-00002\.parquet: .* or version; write it again"):
        seal_synthetic(*models, synthesis_settings, tmp_path)


def test_seal_refuses_a_missing_shard_by_name(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path
) -> None:
    synthesize_shard(*models, synthesis_settings, tmp_path, 0)
    with pytest.raises(InputError, match=r"shard-00001-of-00002\.parquet.*missing"):
        seal_synthetic(*models, synthesis_settings, tmp_path)


def test_seal_refuses_a_shard_that_was_cut_off(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path
) -> None:
    for shard in range(2):
        synthesize_shard(*models, synthesis_settings, tmp_path, shard)
    path = tmp_path / shard_name(1, 2)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"shard-00001-of-00002\.parquet"):
        seal_synthetic(*models, synthesis_settings, tmp_path)


def test_synthesis_refuses_models_of_another_data_set(
    models: Models, scrambled: Path, synthesis_settings: SynthesisSettings, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="another data set"):
        synthesize_shard(scrambled, models[1], models[2], synthesis_settings, tmp_path, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shard", [-1, 2])
def test_synthesis_refuses_a_shard_that_the_settings_do_not_have(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path, shard: int
) -> None:
    with pytest.raises(InputError, match=f"expected 0 to 1, found {shard}"):
        synthesize_shard(*models, synthesis_settings, tmp_path, shard)


def test_seal_counts_the_rows_of_its_shards(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path
) -> None:
    written(models, synthesis_settings, tmp_path)
    sealed = open_sealed(tmp_path, "synthetic")
    shards = [parse_shard((tmp_path / name).read_bytes(), tmp_path / name) for name in sealed.files]
    rows = concatenate(shards)
    assert len(shards) == 2 and sealed.metadata["rows"] == len(rows)
    assert sealed.metadata["terminals"] == int(rows.terminal.sum())


def test_synthesis_refuses_more_sampling_steps_than_the_model_has_levels(
    models: Models, synthesis_settings: SynthesisSettings, tmp_path: Path
) -> None:
    assert load_world_model(models[1])[0].settings.diffusion_steps == 5
    settings = dataclasses.replace(synthesis_settings, sampling_steps=21)
    with pytest.raises(InputError, match="sampling_steps"):
        synthesize_shard(*models, settings, tmp_path, 0)
