"""Seeds that share a process: each one's folder is its own, and no seed pays for what happens to another."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders import Killed, contents
from safetensors.torch import load_file
from torch import Tensor

import dawm.offline_rl.training
from dawm.checkpoints import CHECKPOINT, checkpoint_step
from dawm.cli import main
from dawm.compute import CPU
from dawm.config import IQLSettings, SynthesisSettings, TD3BCSettings
from dawm.data.sealed import open_sealed
from dawm.data.table import Table
from dawm.errors import DivergedError
from dawm.offline_rl.batches import Mixture
from dawm.offline_rl.graphs import GraphedSteps
from dawm.offline_rl.policy import load_policy
from dawm.offline_rl.td3_bc import TD3BC
from dawm.offline_rl.training import PolicyRun, PolicyTraining, of_one_step, train_policies, train_policy
from dawm.synthesis import seal_synthetic, synthesize_shard
from dawm.training import FINISHED, TrainingRun

SHARED: dict[str, Any] = {
    "hidden": 16,
    "batch_size": 16,
    "gradient_steps": 30,
    "checkpoint_every": 10,
    "evaluate_every": 15,
    "evaluation_episodes": 2,
}
SETTINGS = {"td3_bc": TD3BCSettings(**SHARED), "iql": IQLSettings(**SHARED)}


def numbers(path: Path) -> np.ndarray:
    return np.array([[float(value) for value in row.values()] for row in csv.DictReader(path.open())])


@pytest.fixture
def run(dataset: Path, synthetic: Path) -> Callable[..., None]:
    def run(folder: Path, seeds: Sequence[int], algorithm: str = "td3_bc") -> None:
        runs = [PolicyRun(seed, synthetic, folder / str(seed)) for seed in seeds]
        train_policies(algorithm, dataset, SETTINGS[algorithm], 0.5, runs)

    return run


def kill_at(step: int, patch: pytest.MonkeyPatch) -> None:
    whole = PolicyTraining.update

    def update(self: PolicyTraining, number: int) -> Any:
        if number == step:
            raise Killed
        return whole(self, number)

    patch.setattr(PolicyTraining, "update", update)


def noted_trainings(patch: pytest.MonkeyPatch) -> list[list[int]]:
    """The seeds of each training, as they come."""
    trained: list[list[int]] = []
    whole = PolicyTraining.run

    def noted(self: PolicyTraining) -> Any:
        trained.append([run.seed for run in self.runs])
        return whole(self)

    patch.setattr(PolicyTraining, "run", noted)
    return trained


@pytest.mark.parametrize("algorithm", SETTINGS)
def test_seeds_end_as_they_would_alone(
    run: Callable[..., None], dataset: Path, synthetic: Path, tmp_path: Path, algorithm: str
) -> None:
    run(tmp_path, [5, 3, 2**33], algorithm)
    train_policy(algorithm, dataset, synthetic, SETTINGS[algorithm], 0.5, tmp_path / "alone", seed=3)
    together, alone = (load_file(tmp_path / name / "policy.safetensors") for name in ("3", "alone"))
    assert set(together) == set(alone)
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=1e-4, atol=1e-5)
    for table in ("metrics.csv", "evaluations.csv"):
        found, expected = numbers(tmp_path / "3" / table), numbers(tmp_path / "alone" / table)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=2e-2, atol=1e-4)
    scores = {seed: (tmp_path / seed / "evaluations.csv").read_bytes() for seed in ("3", "5", str(2**33))}
    assert len(set(scores.values())) == 3
    for seed in scores:
        policy, sealed = load_policy(tmp_path / seed)
        assert sealed.provenance["seed"] == int(seed) and policy.act(np.zeros((1, 11))).shape == (1, 3)
    own, shared = (open_sealed(tmp_path / name, "policy").provenance for name in ("alone", "3"))
    assert own["settings"] == shared["settings"] and own["inputs"] == shared["inputs"]


@pytest.fixture(scope="module")
def other_synthetic(
    dataset: Path,
    world_model: Path,
    inverse_dynamics: Path,
    synthesis_settings: SynthesisSettings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    inputs, folder = (dataset, world_model, inverse_dynamics), tmp_path_factory.mktemp("other")
    settings = dataclasses.replace(synthesis_settings, seed=1, trajectories=300, shards=1)
    synthesize_shard(*inputs, settings, folder, 0)
    seal_synthetic(*inputs, settings, folder)
    return folder


def test_each_seed_learns_from_its_own_transitions(
    dataset: Path, synthetic: Path, other_synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, made = [], dawm.offline_rl.training.Mixture

    def spied(real: Table, tables: Sequence[Table], *rest: Any) -> Mixture:
        seen.append([len(table) for table in tables])
        return made(real, tables, *rest)

    monkeypatch.setattr(dawm.offline_rl.training, "Mixture", spied)
    folders = [synthetic, other_synthetic, synthetic]
    runs = [PolicyRun(seed, folder, tmp_path / str(seed)) for seed, folder in enumerate(folders)]
    train_policies("td3_bc", dataset, SETTINGS["td3_bc"], 0.5, runs)
    sizes = [open_sealed(folder, "synthetic").metadata["rows"] for folder in folders]
    assert seen == [sizes] and sizes[0] != sizes[1]


def test_killed_seeds_end_with_the_same_bytes(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "undisturbed", [0, 1])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(17, patch)
        run(tmp_path / "killed", [0, 1])
    assert (tmp_path / "killed" / "0" / CHECKPOINT).is_file()
    run(tmp_path / "killed", [0, 1])
    for seed in ("0", "1"):
        assert contents(tmp_path / "killed" / seed) == contents(tmp_path / "undisturbed" / seed)


def test_kill_between_two_checkpoints_parts_the_seeds_and_costs_nothing(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One seed's checkpoint is of step 20, the other's still of step 10: both go on from where they are."""
    run(tmp_path / "undisturbed", [0, 1])
    for step, seeds in ((27, [0, 1]), (17, [1])):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(step, patch)
            run(tmp_path / f"until-{step}", seeds)
    (tmp_path / "until-27" / "1" / CHECKPOINT).write_bytes((tmp_path / "until-17" / "1" / CHECKPOINT).read_bytes())
    steps: list[tuple[int, int]] = []
    whole = PolicyTraining.update

    def update(self: PolicyTraining, step: int) -> Any:
        steps.append((step, len(self.runs)))
        return whole(self, step)

    monkeypatch.setattr(PolicyTraining, "update", update)
    run(tmp_path / "until-27", [0, 1])
    assert steps == [(step, 1) for step in (*range(10, 30), *range(20, 30))]
    for seed in ("0", "1"):
        found, expected = (load_file(tmp_path / k / seed / "policy.safetensors") for k in ("until-27", "undisturbed"))
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


def test_finished_seeds_are_kept_although_the_scheduler_took_their_seals(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, [0, 1])
    first = {seed: contents(tmp_path / seed) for seed in ("0", "1")}
    (tmp_path / "0" / "provenance.json").unlink()
    trained = noted_trainings(monkeypatch)
    run(tmp_path, [0, 1, 2])
    assert trained == [[2]]
    assert {seed: contents(tmp_path / seed) for seed in first} == first
    open_sealed(tmp_path / "2", "policy")


def test_every_checkpoint_is_read_once_to_put_equally_far_ones_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, read = {"a": 20, "b": 0, "c": 20, "d": 10}, []

    def step(folder: Path, _: str) -> int:
        read.append(folder.name)
        return steps[folder.name]

    monkeypatch.setattr("dawm.offline_rl.training.checkpoint_step", step)
    runs = [TrainingRun("policy", tmp_path / name, {}, 0, CPU, {}) for name in steps]
    assert [[run.output.name for run in together] for together in of_one_step(runs)] == [["b"], ["d"], ["a", "c"]]
    assert sorted(read) == sorted(steps)


@pytest.mark.parametrize("what", ["policy.safetensors", "evaluations.csv", FINISHED, "removed", "other code"])
def test_what_is_not_whole_or_of_other_code_is_trained_again(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    run(tmp_path, [0, 1])
    first = {seed: contents(tmp_path / seed) for seed in ("0", "1")}
    if what == "other code":
        monkeypatch.setattr("dawm.training.code_digest", lambda: "another")
    elif what == "removed":
        (tmp_path / "0" / "policy.safetensors").unlink()
    else:
        content = bytearray((tmp_path / "0" / what).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "0" / what).write_bytes(content)
    trained = noted_trainings(monkeypatch)
    run(tmp_path, [0, 1])
    assert trained == ([[0, 1]] if what == "other code" else [[0]])
    for seed in first:
        load_policy(tmp_path / seed)
    assert (contents(tmp_path / "1") == first["1"]) == (what != "other code")


def test_a_seed_that_diverges_costs_the_others_nothing(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "undisturbed", [0, 1, 2])
    whole = TD3BC.update

    def update(self: TD3BC, batch: Any, noise: Tensor, step: int, settings: Any) -> dict[str, Tensor]:
        if step == 14 and self.actor.seeds == 3:
            for values in self.critic.layers:
                values[2:4] = torch.nan
        return whole(self, batch, noise, step, settings)

    with monkeypatch.context() as patch:
        patch.setattr(TD3BC, "update", update)
        with pytest.raises(DivergedError, match=r"^policy seed 1: diverged; .* found nan; the last good checkpoint is"):
            run(tmp_path / "one", [0, 1, 2])
    assert not (tmp_path / "one" / "1" / "provenance.json").exists()
    for seed in ("0", "2"):
        assert contents(tmp_path / "one" / seed) == contents(tmp_path / "undisturbed" / seed)
    run(tmp_path / "one", [0, 1, 2])  # now without the cause
    load_policy(tmp_path / "one" / "1")


def test_process_ends_where_all_its_seeds_have_diverged(dataset: Path, tmp_path: Path) -> None:
    settings = TD3BCSettings(**SHARED | {"gradient_steps": 3000, "evaluate_every": 9000}, learning_rate=100.0)
    runs = [PolicyRun(seed, None, tmp_path / str(seed)) for seed in (0, 1)]
    with pytest.raises(DivergedError, match=r"policy seed 0: diverged; .*; policy seed 1: diverged; "):
        train_policies("td3_bc", dataset, settings, 1.0, runs)
    assert checkpoint_step(tmp_path / "0", "") == 0


def test_command_trains_several_seeds(dataset: Path, synthetic: Path, other_synthetic: Path, tmp_path: Path) -> None:
    settings = json.dumps(SHARED | {"gradient_steps": 4})
    options = ["--algorithm", "iql", "--dataset", str(dataset), "--settings", settings, "--real-fraction", "0.5"]
    grown, outputs = [synthetic, other_synthetic], [tmp_path / "a", tmp_path / "b"]
    command = ["train-policy", *options, "--seed", "4", "7", "--synthetic", *map(str, grown), "--output"]
    assert main([*command, *map(str, outputs), "--device", "cpu"]) == 0
    for seed, folder, source in zip((4, 7), outputs, grown, strict=True):
        provenance = open_sealed(folder, "policy").provenance
        assert provenance["seed"] == seed
        assert provenance["inputs"]["synthetic"] == open_sealed(source, "synthetic").digest


def test_noise_of_targets_is_not_made_of_what_draws_the_batches(dataset: Path, tmp_path: Path) -> None:
    sealed = {"dataset": open_sealed(dataset, "dataset")}
    run = TrainingRun("policy", tmp_path, {}, 3, CPU, sealed)
    training = PolicyTraining("td3_bc", SETTINGS["td3_bc"], 1.0, [run])
    keys = [[int(word) for word in draws.key] for draws in (training.noise, training.mixture.draws)]
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seed", "0", "1", "--output", "a"], "--output: expected a folder for each of 2 seeds, found 1"),
        (["--output", "a", "--evaluation-processes", "0"], "--evaluation-processes: expected at least 1, found 0"),
        (["--seed", "1", "1", "--output", "a", "b"], "--seed: expected each one once, found 1 1"),
        (["--seed", "0", "1", "--output", "a", "a"], "--output: expected each one once, found a a"),
        (
            ["--seed", "0", "1", "2", "--output", "a", "b", "c", "--synthetic", "x", "y"],
            "--synthetic: expected one folder, or 3 as there are seeds, found 2",
        ),
    ],
)
def test_seeds_outputs_and_synthetic_sets_must_fit(
    dataset: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main(["train-policy", "--algorithm", "td3_bc", "--dataset", str(dataset), *options]) == 2
    assert capsys.readouterr().err == f"dawm train-policy: {said}\n"


@pytest.mark.parametrize(("given", "processes", "each"), [(4, 4, 1), (4, 2, 2), (1, 3, 1), (2, 1, 2)])
def test_threads_of_a_job_are_divided_among_its_evaluators(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: int, processes: int, each: int
) -> None:
    """Snakemake gives a job as many threads as it asks for cores, and each evaluator computes with the job's number."""
    found = []
    monkeypatch.setenv("OMP_NUM_THREADS", str(given))
    monkeypatch.setattr(dawm.offline_rl.training, "train_policies", lambda *_: found.append(torch.get_num_threads()))
    command = ["train-policy", "--algorithm", "iql", "--dataset", str(dataset), "--output", str(tmp_path / "policy")]
    try:
        assert main([*command, "--real-fraction", "1", "--evaluation-processes", str(processes)]) == 0
    finally:
        torch.set_num_threads(1)
    assert found == [each]


# --- on a GPU -----------------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
@pytest.mark.parametrize("algorithm", SETTINGS)
@pytest.mark.parametrize("compile", ["none", "graphs"])
def test_gpu_trains_as_the_cpu_does(
    dataset: Path, synthetic: Path, tmp_path: Path, algorithm: str, compile: Any
) -> None:
    from dawm.compute import Compute

    for name, compute in (("cpu", Compute()), ("gpu", Compute("cuda", compile=compile))):
        runs = [PolicyRun(seed, synthetic, tmp_path / name / str(seed)) for seed in (0, 1)]
        train_policies(algorithm, dataset, SETTINGS[algorithm], 0.5, runs, compute)
    for seed in ("0", "1"):
        found, expected = (load_file(tmp_path / name / seed / "policy.safetensors") for name in ("gpu", "cpu"))
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-2, atol=1e-3)


@needs_gpu
def test_recording_a_graph_leaves_the_state_alone() -> None:
    from dawm.checkpoints import State

    module = torch.nn.Linear(2, 2).cuda()
    before = module.weight.detach().clone()

    def step(numbers: Tensor, noise: Tensor, phase: int) -> dict[str, Tensor]:
        module.weight.data += noise + phase
        return {"sum": module.weight.sum()}

    graphed = GraphedSteps(step, State({"module": module}, {}), period=2)
    for number in range(4):
        graphed(torch.zeros(1, device="cuda"), torch.ones((), device="cuda"), number)
    torch.testing.assert_close(module.weight.detach(), before + 4 + 2)
