"""`dawm verify`: whatever is altered among an experiment's results is found by name, and told how to be made again."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dawm.cli import main
from dawm.config import BCSettings, load_experiment
from dawm.data.sealed import PROVENANCE, open_sealed, seal
from dawm.layout import Layout, Run
from dawm.offline_rl.training import train_policy
from dawm.verification import remedies, verify

FLIPS = int(os.environ.get("DAWM_FLIPS", "20"))
"""Of each file; 200 for docs/reliability.md."""
GENERATOR = ("hopper", "dawm", 0)
TINY = Path(__file__).parent / "tiny.yaml"


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, dataset: Path, world_model: Path, inverse_dynamics: Path, synthetic: Path
) -> Path:
    """An experiment as the workflow lays it out: data, models, synthetic transitions, two policies, a report."""
    layout = Layout(tmp_path_factory.mktemp("results") / "tiny")
    shutil.copytree(dataset, layout.dataset("hopper"))
    shutil.copytree(world_model, layout.world_model(*GENERATOR))
    shutil.copytree(inverse_dynamics, layout.inverse_dynamics(*GENERATOR))
    shutil.copytree(synthetic, layout.synthetic(*GENERATOR))
    settings = BCSettings(gradient_steps=4, hidden=16, batch_size=16, evaluate_every=4, evaluation_episodes=1)
    for seed in (0, 1):
        folder = layout.policy(Run("hopper", "bc", "real", seed))
        train_policy("bc", layout.dataset("hopper"), None, settings, 1.0, folder, seed)
    layout.report.write_text("<p>Everything went well.</p>\n")
    seal(layout.root, "report", files=[layout.report.name], settings={}, metadata={})
    layout.config.write_text("experiment: tiny\n")
    return layout.root


@pytest.fixture
def results(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(whole, tmp_path / "tiny")


def stored(results: Path) -> list[Path]:
    """All files under seals, and the seals."""
    return [
        path
        for path in sorted(results.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path != Layout(results).config
    ]


def complaints(results: Path) -> str:
    return "\n".join(sentence for sentences in verify(results).damage.values() for sentence in sentences)


def test_untouched_results_are_whole(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify(whole)
    assert not found.damage and not found.unfinished
    assert found.folders == 7 and found.files + found.folders == len(stored(whole))
    assert main(["verify", str(whole.parent)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{whole.parent}: 7 sealed folders with {found.files} files read",
    ]


def test_any_flipped_bit_is_found_by_name(results: Path) -> None:
    """Of every file, among them the last bytes, where Parquet has its footer."""
    chance = random.Random(0)
    for path in stored(results):
        size = path.stat().st_size
        for offset in (size - 1, size - 9, *(chance.randrange(size) for _ in range(FLIPS - 2))):
            spoiled(path, lambda content, at=offset: flipped(content, at, chance.randrange(8)), results)


def flipped(content: bytes, offset: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[offset] ^= 1 << bit
    return bytes(changed)


def test_any_truncation_is_found_by_name(results: Path) -> None:
    """Of every file, at 20 places."""
    for path in stored(results):
        size = path.stat().st_size
        for length in (1, size - 2, *(size * place // 18 for place in range(18))):
            spoiled(path, lambda content, at=length: content[:at], results)


def spoiled(path: Path, spoil: Callable[[bytes], bytes], results: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(spoil(content))
    assert str(path) in complaints(results), path
    path.write_bytes(content)


def test_a_file_of_another_run_is_found(results: Path) -> None:
    folders = [Layout(results).policy(Run("hopper", "bc", "real", seed)) for seed in (0, 1)]
    for name in ("policy.safetensors", "evaluations.csv", "metrics.csv"):
        path = folders[0] / name
        spoiled(path, lambda _, other=folders[1] / name: other.read_bytes(), results)


def test_a_whole_folder_of_another_run_is_found(results: Path) -> None:
    first, second = (Layout(results).policy(Run("hopper", "bc", "real", seed)) for seed in (0, 1))
    shutil.rmtree(first)
    shutil.copytree(second, first)
    assert complaints(results) == f"{first}: expected the result of seed 0, found that of seed 1"


def test_models_of_another_seed_are_found(results: Path) -> None:
    layout = Layout(results)
    moved = layout.synthetic("hopper", "dawm", 1)
    shutil.copytree(layout.synthetic(*GENERATOR), moved)
    assert f"{moved}: expected what grew from models of seed 1, found what grew from " in complaints(results)


def test_what_was_made_from_other_data_is_found(results: Path) -> None:
    layout = Layout(results)
    layout.dataset("hopper").rename(layout.dataset("walker2d"))
    policy = layout.policy(Run("hopper", "bc", "real", 0))
    text = complaints(results)
    assert (
        f"{policy}: expected what was made from its own data set, found what was made from {layout.dataset('walker2d')}"
        in text
    )
    shutil.rmtree(layout.dataset("walker2d"))
    layout.dataset("hopper").mkdir()
    assert f"{policy}: the dataset that it was made from is not here" in complaints(results)


def test_equal_data_of_another_experiment_are_no_others(results: Path) -> None:
    """Equal settings make equal folders, whatever their name: here in an experiment that is looked at later."""
    shutil.copytree(Layout(results).dataset("hopper"), Layout(results.with_name("zoo")).dataset("walker2d"))
    found = verify(results.parent)
    assert found.folders == 8 and not found.damage


def test_each_folder_is_read_once_whatever_links_lead_to_it(results: Path) -> None:
    (results / "again").symlink_to(results)
    results.with_name("latest").symlink_to(results)
    assert verify(results.parent).folders == verify(results).folders == 7


def test_a_stranger_among_sealed_files_is_found(results: Path) -> None:
    path = Layout(results).synthetic(*GENERATOR) / "shard-00002-of-00003.parquet"
    path.write_bytes(b"PAR1")
    assert complaints(results) == f"{path}: not among the files sealed in {PROVENANCE}"


def test_names_of_unsealed_folders_hide_no_data_set(results: Path) -> None:
    shutil.copytree(results / "datasets" / "hopper", results / "datasets" / "benchmarks")
    (results / "logs").mkdir()
    (results / "logs" / "export.log").touch()
    assert verify(results).folders == 8 and not verify(results).unfinished
    spoiled = next((results / "datasets" / "benchmarks").glob("shard-*.parquet"))
    spoiled.write_bytes(spoiled.read_bytes()[:-1])
    assert spoiled.name in complaints(results)


def test_copies_that_docs_quote_are_no_experiments(results: Path) -> None:
    shutil.copytree(results / "datasets", results.parent / "published" / "tiny" / "datasets")
    assert verify(results.parent).folders == 7


@pytest.mark.parametrize("below", [(), ("tiny",), ("tiny", "policies")])
def test_copies_are_refused_in_one_sentence(
    below: tuple[str, ...], results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    published = results.parent / "published"
    shutil.copytree(results / "policies", published / "tiny" / "policies")
    (next((published / "tiny").rglob("policy.safetensors"))).unlink()
    for given, here in ((published.joinpath(*below), Path.cwd()), (Path(), published.joinpath(*below))):
        monkeypatch.chdir(here)
        assert main(["verify", str(given)]) == 2
        said = capsys.readouterr()
        assert "expected sealed folders below, found copies without weights and transitions, kept by git" in said.err
        assert not said.out and said.err.count("\n") == 1


def test_an_experiment_below_a_folder_of_that_name_is_verified(results: Path) -> None:
    moved = results.parent / "published" / "repository" / "results" / "tiny"
    shutil.copytree(results, moved)
    for folder in (moved, moved.parent):
        assert verify(folder).folders == 7 and not verify(folder).damage


def test_a_part_of_an_experiment_knows_the_inputs_beside_it(results: Path) -> None:
    found = verify(results / "policies")
    assert found.folders == 2 and not found.damage


def test_a_part_is_verified_alike_by_whatever_name(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = Layout(results).world_model(*GENERATOR).parent
    (models / "seed-0").rename(models / "seed-9")
    for folder in (models, models / "seed-9"):
        monkeypatch.chdir(folder)
        (sentences,) = verify(Path()).damage.values()
        assert "expected the result of seed 9, found that of seed 0" in sentences[0]
        assert len(verify(folder).damage) == 1


def test_a_folder_of_data_sets_above_makes_no_experiment(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (results.parent / "datasets").mkdir()
    alone = shutil.copytree(Layout(results).policy(Run("hopper", "bc", "real", 1)), results.parent / "mine" / "policy")
    monkeypatch.chdir(alone.parent)
    for folder in (Path(), Path("policy"), alone):
        assert verify(folder).folders == 1 and not verify(folder).damage


def test_the_remedy_asks_for_what_makes_the_folder_again(results: Path) -> None:
    layout = Layout(results)
    layout.config.write_text(TINY.read_text())
    experiment = load_experiment(layout.config)
    (dataset,) = experiment.datasets
    for folder, target in (
        (layout.dataset(dataset), ""),
        (layout.inspection(dataset), " -- datasets"),
        (layout.overview, " -- datasets"),
        (layout.fidelity, " -- fidelity"),
        (layout.tables, ""),
    ):
        assert remedies({folder: ["altered"]})[-1] == f"snakemake --cores all --configfile {layout.config}{target}"


def test_what_belongs_to_no_experiment_may_lie_anywhere_and_gets_no_commands(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = shutil.copytree(Layout(results).policy(Run("hopper", "bc", "real", 1)), results.parent / "mine" / "policy")
    assert main(["verify", str(alone)]) == 0
    (alone / "metrics.csv").write_text("step\n")
    assert main(["verify", str(alone)]) == 1
    said = capsys.readouterr().out
    assert f"damaged: {alone / 'metrics.csv'}: " in said and "To make it again" not in said and "rm -" not in said


def test_each_command_is_told_once(results: Path) -> None:
    other = shutil.copytree(results, results.parent / "other")
    for root in (results, other):
        Layout(root).config.unlink()
    damage = {root / folder: ["altered"] for root in (results, other) for folder in ("datasets/hopper", "policies")}
    assert remedies(damage)[4:] == ["snakemake --cores all --configfile CONFIG"]


def test_a_folder_without_its_seal_is_unfinished_and_no_damage(results: Path) -> None:
    folder = Layout(results).policy(Run("hopper", "bc", "real", 1))
    (folder / PROVENANCE).unlink()
    found = verify(results)
    assert found.unfinished == [folder] and not found.damage


def test_the_remedy_takes_away_what_is_damaged_and_nothing_else(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(results)
    broken = layout.policy(Run("hopper", "bc", "real", 1))
    (broken / "metrics.csv").write_text("step\n")
    layout.report.write_text("<p>Everything went better.</p>\n")
    assert main(["verify", str(results)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("damaged: ") for line in lines) == 2
    assert lines[-4:] == [
        "To make it again:",
        f"    rm -f {layout.root / PROVENANCE} {layout.report}",
        f"    rm -r {broken}",
        f"    snakemake --cores all --configfile {layout.config}",
    ]
    assert [line.strip() for line in lines[-3:]] == remedies(verify(results).damage)
    before = set(stored(results))
    for command in remedies(verify(results).damage)[:-1]:
        for path in map(Path, command.split()[2:]):
            assert path.is_relative_to(results)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not verify(results).damage
    assert before - set(stored(results)) == {
        layout.root / PROVENANCE,
        layout.report,
        *(
            broken / name
            for name in (PROVENANCE, "metadata.json", "policy.safetensors", "metrics.csv", "evaluations.csv")
        ),
    }
    open_sealed(layout.dataset("hopper"), "dataset")


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_where_there_is_nothing_to_verify_one_sentence_says_so(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["verify", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.startswith(f"dawm verify: {tmp_path / name}: expected ")
