"""Parts of data sets: whole episodes, the share that was asked for, one part within another."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from dawm.cli import main
from dawm.config import ExportSettings
from dawm.data.export import export
from dawm.data.sealed import open_sealed
from dawm.data.sources.part import choose
from dawm.data.transitions import Transitions, read_transitions
from dawm.errors import InputError


def part(dataset: Path, output: Path, fraction: float, **options: int) -> Transitions:
    export(ExportSettings(source="part/hopper", fraction=fraction, **options), output, dataset)  # type: ignore[arg-type]
    return read_transitions(open_sealed(output, "dataset"))


def episodes_of(rows: Transitions) -> set[bytes]:
    """Every episode as the bytes of its observations."""
    return {rows.observation[rows.episode == number].tobytes() for number in np.unique(rows.episode)}


def test_part_holds_whole_episodes_as_they_were(dataset: Path, transitions: Transitions, tmp_path: Path) -> None:
    rows = part(dataset, tmp_path / "half", 0.5, rows_per_shard=700)
    facts, whole = (open_sealed(folder, "dataset").metadata for folder in (tmp_path / "half", dataset))
    assert facts["episodes"] == round(0.5 * whole["episodes"]) == len(np.unique(rows.episode))
    assert episodes_of(rows) < episodes_of(transitions)
    chosen = choose(whole["episodes"], 0.5, 0)
    expected = transitions.take(np.isin(transitions.episode, chosen))
    for name in ("observation", "action", "reward", "next_observation", "terminal", "timeout", "step", "qpos", "qvel"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(expected, name))


def test_part_says_what_it_is_of(dataset: Path, tmp_path: Path) -> None:
    rows = part(dataset, tmp_path / "half", 0.5)
    sealed, parent = open_sealed(tmp_path / "half", "dataset"), open_sealed(dataset, "dataset")
    facts = sealed.metadata
    assert (facts["source"], facts["parent"], facts["fraction"]) == ("part/hopper", "local/hopper-medium-replay", 0.5)
    assert (facts["rows"], facts["terminals"]) == (len(rows), rows.terminal.sum())
    assert facts["mean_return"] == pytest.approx(rows.reward.sum(dtype=float) / facts["episodes"])
    for name in ("environment", "simulator", "reference_max", "behaviour_policies", "terminal_successors_known"):
        assert facts[name] == parent.metadata[name]
    assert "transitions_by_kind" not in facts
    assert set(facts["held_out_episodes"]) < set(range(facts["episodes"]))
    assert sealed.provenance["inputs"] == {"parent": parent.digest}


def test_smaller_parts_lie_within_larger_ones_of_their_seed() -> None:
    parts = [set(choose(1000, fraction, 7).tolist()) for fraction in (0.01, 0.05, 0.3, 1.0)]
    assert [len(chosen) for chosen in parts] == [10, 50, 300, 1000]
    assert all(small < large for small, large in itertools.pairwise(parts))
    assert set(choose(1000, 0.05, 8).tolist()) != parts[1]
    assert len(choose(50, 0.01, 0)) == 2  # so that one can be held out
    with pytest.raises(InputError, match="at least 2 episodes"):
        choose(1, 0.5, 0)


@pytest.mark.parametrize(
    ("settings", "parent", "sentence"),
    [
        ("{source: part/hopper, fraction: 0.5}", False, "give its folder as --parent"),
        ("{source: random, environment: {id: Hopper-v4}}", True, "--parent: expected with a source part/NAME alone"),
        ("{source: part/hopper}", True, "fraction: expected a share of the episodes for the source part/hopper"),
        ("{source: local/hopper-medium, fraction: 0.5}", False, "fraction: expected null for the source local/hopper"),
    ],
)
def test_parts_without_their_whole_are_refused(
    dataset: Path, tmp_path: Path, settings: str, parent: bool, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--parent", str(dataset)] if parent else []
    assert main(["export", "--settings", settings, *words, "--output", str(tmp_path / "part")]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not (tmp_path / "part").exists()


def test_a_part_is_not_written_over_its_whole(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = shutil.copytree(dataset, tmp_path / "whole")
    settings = "{source: part/hopper, fraction: 0.5}"
    assert main(["export", "--settings", settings, "--parent", str(whole), "--output", str(whole)]) == 2
    assert f"{whole}: expected another folder than that of the data set it is a part of" in capsys.readouterr().err
    assert len(read_transitions(open_sealed(whole, "dataset"))) == 3000
