"""The benchmarks run and count what they say; their numbers are the machine's."""

from __future__ import annotations

import dataclasses
import runpy
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from benchmark_modules import load

from dawm.compute import Compute
from dawm.config import Experiment, TD3BCSettings, load_experiment, read
from dawm.data.sealed import Sealed, open_sealed, seal
from dawm.data.transitions import Transitions
from dawm.environments.tasks import TASKS
from dawm.errors import InputError
from dawm.layout import Layout
from dawm.offline_rl.training import train_policy

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def world_model() -> ModuleType:
    return load("world_model")


def test_samplers_are_counted_in_transitions_flops_and_share_of_peak(
    world_model: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world_model, "ROUNDS", 1)
    monkeypatch.setitem(world_model.BLOCK, "cpu", 32)
    bf16 = Compute("cpu", precision="bf16")
    plain, guided = list(world_model.cases())[:2]
    rows = world_model.measure_samplers("cpu", [plain, guided, dataclasses.replace(guided, compute=bf16)])
    samplers, peaks = rows[:3], rows[3:]
    assert [row["what"] for row in rows] == 3 * ["sampler"] + 2 * ["peak"]
    assert guided.guidance != 1 == plain.guidance
    assert samplers[1]["flops_per_transition"] == pytest.approx(2 * samplers[0]["flops_per_transition"], rel=1e-6)
    window, channels, hidden = 8, 13, 128
    inputs = window * channels + 96
    network = 2 * (inputs * hidden + 3 * 2 * hidden**2 + hidden * window * channels)
    embeddings = 2 * (3 * 32 * 32 + 1 * 32 + 32 * 32 + 3 * 32)
    assert samplers[0]["flops_per_transition"] == pytest.approx(3 * (network + embeddings) / (window - 1), rel=0.02)
    for row in samplers:
        peak = next(found for found in peaks if found["precision"] == row["precision"])["flops_per_second"]
        assert row["share_of_peak"] == pytest.approx(row["transitions_per_second"] * row["flops_per_transition"] / peak)
    assert samplers[0]["deviation"] == samplers[1]["deviation"] == 0 < samplers[2]["deviation"] < 1
    assert world_model.table(rows, "CPU-second").count("\n| residual") == 3


def test_a_gpu_is_asked_for_every_case_and_for_each_arithmetic(world_model: ModuleType) -> None:
    found = list(world_model.cases_on_a_gpu())
    assert {case.compute.device for case in found} == {"cuda"}
    ways = {(case.denoiser, case.compute.precision, case.compute.compile) for case in found}
    assert len(ways) == 12
    plain = [dataclasses.replace(case, compute=Compute()) for case in found if case.compute.identity == "cuda"]
    assert plain == list(world_model.cases())


needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@needs_no_gpu
def test_without_a_gpu_their_script_says_so() -> None:
    run = subprocess.run(["sh", "benchmarks/gpu.sh"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2 and "torch sees no GPU here" in run.stderr


@needs_no_gpu
@pytest.mark.parametrize("name", ["world_model", "offline_rl"])
def test_without_a_gpu_the_gpu_benchmarks_say_so(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--device", "cuda"])
    with pytest.raises(SystemExit) as ended:
        load(name).main()
    assert ended.value.code == 2 and "torch sees no GPU here" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dag", "evaluation", "reproduced"])
def test_help_starts_nothing(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert ended.value.code == 0 and said.startswith(f"usage: {name}.py [-h]")
    assert f"python benchmarks/{name}.py" in said


def test_a_child_is_measured_alone_and_fails_with_its_last_line() -> None:
    measuring = load("measuring")
    large = measuring.child("-c", "held = bytearray(300 << 20); print('held')")
    small = measuring.child("-c", "import os; print(os.environ['OMP_NUM_THREADS'])")
    assert (large.said, small.said) == ("held\n", "1\n")
    assert large.largest_memory_mib > 300 > small.largest_memory_mib > 0 < small.cpu_seconds < 5
    with pytest.raises(SystemExit, match=r"^the last line$"):
        measuring.child("-c", "import sys; print('first'); sys.exit('the last line')")


def test_evaluations_are_measured_by_task_and_by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = load("evaluation")
    monkeypatch.setattr(evaluation, "ROUNDS", 2)
    monkeypatch.setattr(evaluation, "EPISODES", 1)
    monkeypatch.setattr(evaluation, "POLICIES", 2)
    monkeypatch.setattr(evaluation, "TASKS", {"halfcheetah": TASKS["halfcheetah"]})
    rows = [*evaluation.measured_tasks(), *evaluation.measured_processes([1])]
    assert [row["what"] for row in rows] == ["task", "processes"]
    times = [(row["lowest"], row.get("cpu_seconds", row.get("seconds")), row["highest"]) for row in rows]
    assert all(0 < lowest <= middle <= highest for lowest, middle, highest in times)


def test_frontier_is_what_nothing_beats_in_both() -> None:
    load("world_model")
    study = load("cost_study")
    cost, error = pd.Series([1.0, 2.0, 3.0, 4.0, 2.0]), pd.Series([4.0, 2.0, 2.5, 1.0, 2.0])
    assert study.frontier(cost, error) == [True, True, False, True, True]


def test_folders_that_are_no_longer_the_same_are_named(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reproduced = load("reproduced")
    for results in ("here", "there"):
        shutil.copytree(dataset, tmp_path / results / "datasets/hopper")
    with tarfile.open(tmp_path / "there.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "there", arcname=".")
    assert reproduced.main([str(tmp_path / "here"), str(tmp_path / "there.tar.xz")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["dataset", "1", "1"]
    seal = tmp_path / "here/datasets/hopper/provenance.json"
    seal.write_text(seal.read_text().replace('"digest": "', '"digest": "0', 1))
    assert reproduced.main([str(tmp_path / "here"), str(tmp_path / "there.tar.xz")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "differs: datasets/hopper"


def test_spread_of_actions_is_that_of_other_trajectories_at_the_same_state() -> None:
    measured = load("action_spread")
    rng, rows = np.random.default_rng(0), measured.ROWS
    state, noise = rng.random((rows, 2)), rng.normal(size=(rows, 1))

    def spread(action: np.ndarray, ends: np.ndarray) -> float:
        real = Transitions.real(
            observation=state,
            action=action,
            reward=np.zeros(rows),
            next_observation=state,
            terminal=np.zeros(rows, dtype=bool),
            timeout=ends,
        )
        return measured.Pool.of(real, (np.zeros(2), np.ones(2))).spread()

    alone, halves = np.ones(rows, dtype=bool), np.arange(rows) == rows // 2 - 1
    assert spread(state[:, :1] + 0.5 * noise, alone) == pytest.approx(0.25, rel=0.05)
    assert spread(state[:, :1], alone) < 1e-3
    two_policies = (np.arange(rows) < rows // 2)[:, None].astype(float)
    assert spread(two_policies, alone) > 0.2
    assert spread(two_policies, halves) == 0  # of an episode the other one's rows alone are neighbours


def test_spread_of_a_batch_is_that_around_real_states() -> None:
    """Synthetic rows lie elsewhere, or at the same states with another action."""
    measured = load("action_spread")
    state, rows = torch.rand(measured.ROWS // 2, 2), torch.arange(measured.ROWS // 2)
    real = measured.Pool(state, torch.zeros(len(rows), 1), rows)
    elsewhere = measured.Pool(state + 100, torch.randn(len(rows), 1), rows)
    here = measured.Pool(state, torch.ones(len(rows), 1), rows)
    assert real.beside(elsewhere).spread() == 0
    assert real.beside(here).spread() == pytest.approx(0.25, rel=0.15)  # half of the neighbours


def test_spread_is_measured_by_steps_of_a_rollout() -> None:
    measured = load("action_spread")
    rng, rows = np.random.default_rng(0), measured.ROWS
    steps = np.repeat([1, 2], rows)
    real = Transitions.real(
        observation=rng.random((2 * rows, 2)),
        action=rng.normal(size=(2 * rows, 1)) / steps[:, None],
        reward=np.zeros(2 * rows),
        next_observation=np.zeros((2 * rows, 2)),
        terminal=np.ones(2 * rows, dtype=bool),
        timeout=np.zeros(2 * rows, dtype=bool),
    )
    scale = np.zeros(2), np.ones(2)
    found = dataclasses.replace(real, horizon_step=steps.astype(np.int16))
    np.testing.assert_allclose(measured.of_steps(found, scale), [1, 0.25], rtol=0.05)
    assert np.isnan(measured.of_steps(real, scale)).all()


def test_spreads_measured_anew_stand_where_they_stood() -> None:
    """The real one, which has no world model, before its data set's recipes, and what is new after them."""
    measured = load("action_spread")

    def table(*rows: tuple[str, str, int | None, float]) -> pd.DataFrame:
        columns = [*measured.SET, "action_spread"]
        return pd.DataFrame(rows, columns=columns).astype({"world_model_seed": "Int64"})

    before = table(("a", "real", None, 1), ("a", "dawm", 0, 2), ("b", "real", None, 3), ("b", "dawm", 0, 4))
    found = measured.merged(before, table(("a", "real", None, 5), ("a", "joint", 0, 6), ("b", "dawm", 0, 7)))
    expected = table(
        ("a", "real", None, 5), ("a", "dawm", 0, 2), ("a", "joint", 0, 6), ("b", "real", None, 3), ("b", "dawm", 0, 7)
    )
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected)


def test_spread_needs_a_data_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("action_spread").main([str(ROOT / "config/sweeps.yaml")]) == 2
    assert capsys.readouterr().err == "results/sweeps: expected a data set, found none\n"


def test_variance_within_world_models_is_small_where_they_differ_and_all_of_it_where_they_do_not() -> None:
    measured = load("intervals")
    rng, cells, seeds = np.random.default_rng(0), 400, np.arange(5)
    own, models = rng.standard_normal((2, cells, 5))
    rows = [
        {
            "algorithm": "iql",
            "dataset": f"number {cell}",
            "augmentation": arm,
            "seed": seed,
            "world_model_seed": None if arm == "real" else seed % 3,
            measured.SCORE: own[cell, seed] + weight * models[cell, seed % 3],
        }
        for cell in range(cells)
        for arm, weight in (("real", 0), ("alike", 0), ("apart", 10))
        for seed in seeds
    ]
    within = measured.between_world_models(pd.DataFrame(rows)).groupby("augmentation")["within"].mean()
    assert within["real"] == within["alike"] == pytest.approx(1, abs=0.15)
    assert within["apart"] < 0.1


def test_simulated_intervals_hold_the_truth_nearly_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = load("intervals")
    monkeypatch.setattr(measured, "SIMULATIONS", 200)
    many, few = (
        {row["statistic"]: row for row in measured.simulated(4, *design)} for design in ((10, 10, 0.0), (5, 3, 0.9))
    )
    for name in ("iqm", "mean"):
        assert 0.88 < many[name]["coverage"] < 0.99
        assert few[name]["coverage"] < many[name]["coverage"]
        assert 1 < many[name]["half_length"] < 4  # of a deviation of 5 in forty runs of each arm


def test_documents_quote_the_published_tables_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring = load("measuring")
    monkeypatch.chdir(ROOT)
    for document in measuring.DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert measuring.quoted(text) == text, f"{document}: benchmarks/evidence.py publish writes its tables"
        spoilt = text.replace("| TD3+BC |", "| TD3+BC | 1 ")
        assert spoilt != text and measuring.quoted(spoilt) != spoilt


# --- learners -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def offline_rl(world_model: ModuleType) -> ModuleType:
    return load("offline_rl")


def test_a_gradient_step_is_counted_in_flops_of_its_products(offline_rl: ModuleType) -> None:
    """TD3+BC, Hopper: critic's targets, three products per layer of both critics, and every second step the actor's."""
    b, h, o, a = 256, 256, 11, 3

    def forward(inputs: int, outputs: int) -> float:
        return 2 * b * (inputs * h + h * h + h * outputs)

    critic, actor = forward(o + a, 1), forward(o, a)
    first = 2 * b * (o + a) * h  # no gradient by a critic's inputs where its weights are learned
    targets = actor + 2 * critic
    critics = 2 * (critic + 2 * critic - first)
    actors = actor + critic + (critic - first + 2 * b * a * h) + (2 * actor - 2 * b * o * h)
    found = offline_rl.Steps(offline_rl.Case("td3_bc", rows=1000)).flops()
    assert found == pytest.approx(targets + critics + actors / 2, rel=1e-3)


@pytest.mark.parametrize("learner", ["td3_bc", "iql"])
def test_timed_steps_are_gradient_steps_of_all_seeds(offline_rl: ModuleType, learner: str) -> None:
    case = offline_rl.Case(learner, hidden=8, batch_size=16, rows=100, seeds=3)
    steps = offline_rl.Steps(case)
    before = [value.clone() for value in steps.learner.critic.layers]
    steps.run(2)
    assert len(before[0]) == 6
    for old, new in zip(before, steps.learner.critic.layers, strict=True):
        assert (old != new).flatten(1).any(1).all()
    (row,) = offline_rl.measure_scaling([case], "cpu", 3)
    assert row["seed_steps_per_cpu_second"] == 3 * row["steps_per_cpu_second"] > 0 and row["seeds"] == 3


def test_opening_is_measured_from_files_of_its_own(offline_rl: ModuleType) -> None:
    first, again, both = offline_rl.measure_opening(20_000)
    assert first["seconds"] > 0 and again["processes"] == 1 and both["processes"] == 2
    assert both["share_of_float32"] == pytest.approx(1, abs=0.05)


# --- against d3rlpy -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def agreement() -> ModuleType:
    return load("agreement")


def their_snapshot(path: Path, seed: int) -> list[np.ndarray]:
    """As benchmarks/d3rlpy_training.py writes it, for Hopper."""
    rng = np.random.default_rng(seed)
    shapes = [(8, 11), (8,), (8, 8), (8,), (3, 8), (3,)]
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, *weights, mean=np.arange(11.0), std=np.arange(1.0, 12.0))
    return weights


def test_d3rlpys_actor_acts_in_our_layers_as_in_its_own(agreement: ModuleType, tmp_path: Path) -> None:
    w = their_snapshot(tmp_path / "0000010.npz", 0)
    observation = np.random.default_rng(1).standard_normal((5, 11)) * 10
    x = (observation - np.arange(11)) / np.arange(1, 12)
    for weight, bias in zip(w[:4:2], w[1:4:2], strict=True):
        x = np.maximum(x @ weight.T + bias, 0)
    found = agreement.their_policy(tmp_path / "0000010.npz", TASKS["hopper"]).act(observation)
    np.testing.assert_allclose(found, np.tanh(x @ w[4].T + w[5]), rtol=1e-4, atol=1e-5)


def test_a_part_of_an_experiment_is_compared(agreement: ModuleType) -> None:
    evidence = load_experiment(ROOT / "config" / "evidence.yaml")
    found = agreement.runs_of(agreement.part(evidence, ["hopper-medium"], ["td3_bc"]))
    assert [run.slug for run in found] == [f"hopper-medium/td3_bc/real/seed-{seed}" for seed in evidence.seeds]
    assert len(agreement.runs_of(agreement.part(evidence, [], []))) == 4 * 4 * 5
    with pytest.raises(InputError, match=r"^datasets: expected some of hopper-medium-replay, .*, found walker$"):
        agreement.part(evidence, ["walker"], [])
    with pytest.raises(InputError, match=r"^algorithms: expected some of td3_bc, .*, found sac$"):
        agreement.part(evidence, [], ["sac"])


def test_what_an_arm_of_some_learners_needs_is_told_without_the_other_learners() -> None:
    evidence, experiment = load("evidence"), load_experiment(ROOT / "config" / "evidence.yaml")
    found = [str(folder) for folder in evidence.needed(experiment, "hopper-medium", ["dwm_1"])]
    policies = [f"policies/hopper-medium/td3_bc/dwm_1/seed-{seed}" for seed in experiment.seeds]
    assessed = [f"assessments/hopper-medium/dwm_1/seed-{seed}" for seed in experiment.world_model_seeds]
    assert found == assessed + policies


def test_where_nothing_is_missing_no_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Snakemake without targets would make the whole experiment."""
    evidence, command = load("evidence"), ["missing", str(ROOT / "config" / "evidence.yaml"), "hopper-medium", "real"]
    monkeypatch.chdir(tmp_path)
    assert evidence.main(command) == 0
    assert "policies/hopper-medium/td3_bc/real/seed-10/provenance.json" in capsys.readouterr().out
    monkeypatch.chdir(ROOT)
    assert evidence.main(command) == 1
    assert capsys.readouterr() == ("", "hopper-medium: nothing is missing\n")


def test_a_model_made_again_with_other_bytes_does_not_lose_the_records_of_the_first(tmp_path: Path) -> None:
    """Another kind of CPU rounds otherwise; learners that are published grew from the first one's transitions."""
    evidence = load("evidence")
    published, place = tmp_path / "published", "world-models/hopper/dawm/seed-0"

    def train(machine: str, loss: str) -> Sealed:
        folder = tmp_path / machine / place
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(loss)
        seal(folder, "world-model", files=["metrics.csv"], metadata={}, settings={}, seed=0)
        return open_sealed(folder)

    def publish(machine: str, number: int) -> Path:
        merged: Path = tmp_path / f"merged-{number}"
        merged.mkdir()
        evidence.merge(published, tmp_path / machine, merged)
        published.mkdir(exist_ok=True)
        evidence.pack(merged, published)
        return merged

    first, again, other = train("one", "0.5"), train("alike", "0.5"), train("other", "0.4")
    assert first.digest == again.digest != other.digest
    earlier: dict[str, Sealed] = {}
    for number, machine in enumerate(("one", "alike", "other", "other", "one", "other", "one")):  # they take turns
        merged, now = publish(machine, number), other if machine == "other" else first
        if number > 1:
            earlier |= {before.digest: before for before in (first, other) if before is not now or number > 3}
        found = {path.parent: open_sealed(path.parent).digest for path in merged.rglob("provenance.json")}
        kept = {merged / "earlier" / digest[:12] / place: digest for digest in earlier}
        assert found == {merged / place: now.digest, **kept}


def published(table: pd.DataFrame) -> pd.DataFrame:
    """Our side of it as an experiment's scores.csv, and an arm that is not to be compared."""
    names = {"last": "normalized_score_last", "mean10": "normalized_score_mean10"}
    ours = table[table["code"] == "dawm"].rename(columns=names)
    return pd.concat([ours.assign(augmentation="dawm", normalized_score_last=-1.0), ours.assign(augmentation="real")])


def test_both_sides_stand_in_one_table_and_finished_rows_are_kept(
    agreement: ModuleType, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = {"hidden": 8, "batch_size": 8, "gradient_steps": 4, "evaluate_every": 2, "evaluation_episodes": 2}
    values = {
        "experiment": "both",
        "seeds": [0, 1],
        "datasets": {"hopper": {"source": "local/hopper-medium-replay"}},
        "augmentations": {"real": {"real_fraction": 1.0}},
        "algorithms": {"td3_bc": learner},
    }
    experiment, layout = read(Experiment, values, "here"), Layout(tmp_path)
    shutil.copytree(dataset, layout.dataset("hopper"))
    for run in agreement.runs_of(experiment):
        train_policy("td3_bc", dataset, None, TD3BCSettings(**learner), 1.0, layout.policy(run), run.seed)
    first = next(iter(agreement.runs_of(experiment)))
    for step in (2, 4):
        their_snapshot(agreement.folder_of(layout, first) / f"{step:07d}.npz", step)
    nothing = pd.DataFrame()
    assert set(agreement.scores(experiment, layout, nothing)["code"]) == {"dawm"}  # d3rlpy's run is not finished
    (agreement.folder_of(layout, first) / "seconds.json").write_text("{}")
    table = agreement.scores(experiment, layout, nothing)
    assert table[["seed", "code"]].to_numpy().tolist() == [[0, "dawm"], [0, "d3rlpy"], [1, "dawm"]]
    ours = pd.read_csv(layout.policy(first) / "evaluations.csv")["normalized_score"]
    assert table["last"][0] == ours.iloc[-1] and table["mean10"][0] == pytest.approx(ours.mean())
    monkeypatch.setattr(agreement, "their_scores", None)  # not called for a row that is known
    again = agreement.scores(experiment, layout, table)
    pd.testing.assert_frame_equal(again, table)
    elsewhere = agreement.scores(experiment, Layout(tmp_path / "another machine"), table, published(table))
    pd.testing.assert_frame_equal(elsewhere, table)
    pd.testing.assert_frame_equal(agreement.scores(experiment, Layout(tmp_path / "another machine"), table), table)
    other = dataclasses.replace(experiment, seeds=(7,))
    pd.testing.assert_frame_equal(agreement.scores(other, layout, table), table)  # another part of it
    line = agreement.markdown(table).splitlines()[-1]
    assert line.startswith("| hopper | TD3+BC | 2 and 1 | ") and f"{table['mean10'][1]:.1f} | – | " in line


def test_agreement_is_told_by_the_difference_and_its_interval(agreement: ModuleType) -> None:
    table = pd.DataFrame({"dataset": "hopper", "algorithm": "iql", "code": ["dawm"] * 3 + ["d3rlpy"] * 3})
    table["mean10"] = table["last"] = [11.0, 12, 13, 8, 10, 12]
    # standard error √(1/3 + 4/3), Welch's degrees of freedom 2.94, t 3.22
    assert agreement.markdown(table).splitlines()[-1].split(" | ")[5] == "+2.0 (-2.2 to +6.2)"
