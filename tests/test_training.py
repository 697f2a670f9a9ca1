"""What every training shares: above all that a run which was killed ends with the bytes of one that was not."""

from __future__ import annotations

import csv
import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from folders import Killed, contents
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import dawm.cloned_policy
import dawm.data.sealed
import dawm.forward_dynamics
import dawm.inverse_dynamics
import dawm.offline_rl.training
import dawm.training
import dawm.world_model.training
from dawm.checkpoints import CHECKPOINT, Member, State
from dawm.cli import main
from dawm.config import (
    BCSettings,
    ClonedPolicySettings,
    ForwardDynamicsSettings,
    InverseDynamicsSettings,
    IQLSettings,
    TD3BCSettings,
    WorldModelSettings,
)
from dawm.data.files import write_json
from dawm.data.sealed import PROVENANCE, open_sealed
from dawm.errors import DivergedError
from dawm.randomness import derived_seed, generator
from dawm.spent import spent_before
from dawm.training import FINISHED, adam, average_into, cosine_rate, ema_rate, refuse_diverged, train
from dawm.world_model.training import load_world_model, train_world_model

STEPS, CHECKPOINT_EVERY, KILLED_AT = 30, 10, 17
STAGES = (
    *("world_model", "unet_world_model", "inverse_dynamics", "inverse_dynamics_ensemble", "forward_dynamics"),
    *("gaussian_forward_dynamics", "cloned_policy", "td3_bc", "iql", "bc"),
)
Stage = Callable[..., None]


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, dataset: Path, synthetic: Path) -> tuple[ModuleType, Stage]:
    """The module of a stage, and the stage as a function of (output, seed)."""
    shared: dict[str, Any] = {"batch_size": 16, "gradient_steps": STEPS, "checkpoint_every": CHECKPOINT_EVERY}
    learner: dict[str, Any] = shared | {"hidden": 16, "evaluate_every": 7, "evaluation_episodes": 2}

    def world_model(output: Path, seed: int) -> None:
        settings = WorldModelSettings(window=3, hidden=16, blocks=1, ema_every=3, **shared)
        dawm.world_model.training.train_world_model(dataset, settings, output, seed)

    def unet_world_model(output: Path, seed: int) -> None:
        settings = WorldModelSettings(
            window=3,
            denoiser="unet",
            unet_channels=(8, 8),
            preconditioning="edm",
            normalizer="cdf",
            actions="joint",
            **shared,
        )
        dawm.world_model.training.train_world_model(dataset, settings, output, seed)

    def inverse_dynamics(output: Path, seed: int) -> None:
        settings = InverseDynamicsSettings(hidden=16, dropout=0.2, **shared)
        dawm.inverse_dynamics.train_inverse_dynamics(dataset, settings, output, seed)

    def inverse_dynamics_ensemble(output: Path, seed: int) -> None:
        settings = InverseDynamicsSettings(members=3, hidden=16, dropout=0.2, input_noise=0.1, **shared)
        dawm.inverse_dynamics.train_inverse_dynamics(dataset, settings, output, seed)

    def forward_dynamics(output: Path, seed: int) -> None:
        settings = ForwardDynamicsSettings(members=2, hidden=16, **shared)
        dawm.forward_dynamics.train_forward_dynamics(dataset, settings, output, seed)

    def gaussian_forward_dynamics(output: Path, seed: int) -> None:
        settings = ForwardDynamicsSettings(loss="likelihood", members=2, hidden=16, **shared)
        dawm.forward_dynamics.train_forward_dynamics(dataset, settings, output, seed)

    def cloned_policy(output: Path, seed: int) -> None:
        dawm.cloned_policy.train_cloned_policy(dataset, ClonedPolicySettings(hidden=16, **shared), output, seed)

    def td3_bc(output: Path, seed: int) -> None:
        settings = TD3BCSettings(**learner)
        dawm.offline_rl.training.train_policy("td3_bc", dataset, synthetic, settings, 0.5, output, seed)

    def iql(output: Path, seed: int) -> None:
        settings = IQLSettings(**learner)
        dawm.offline_rl.training.train_policy("iql", dataset, synthetic, settings, 0.5, output, seed)

    def bc(output: Path, seed: int) -> None:
        settings = BCSettings(best_episodes=0.5, **learner)
        dawm.offline_rl.training.train_policy("bc", dataset, None, settings, 1.0, output, seed)

    stages = {
        "world_model": (dawm.world_model.training, world_model),
        "unet_world_model": (dawm.world_model.training, unet_world_model),
        "inverse_dynamics": (dawm.inverse_dynamics, inverse_dynamics),
        "inverse_dynamics_ensemble": (dawm.inverse_dynamics, inverse_dynamics_ensemble),
        "forward_dynamics": (dawm.forward_dynamics, forward_dynamics),
        "gaussian_forward_dynamics": (dawm.forward_dynamics, gaussian_forward_dynamics),
        "cloned_policy": (dawm.cloned_policy, cloned_policy),
        "td3_bc": (dawm.offline_rl.training, td3_bc),
        "iql": (dawm.offline_rl.training, iql),
        "bc": (dawm.offline_rl.training, bc),
    }
    return stages[request.param]


@pytest.fixture
def short_run(dataset: Path) -> Stage:
    """A stage whose checkpoints are looked at: a function of (output, seed, checkpoint_every)."""

    def run(output: Path, seed: int, every: int = CHECKPOINT_EVERY) -> None:
        settings = InverseDynamicsSettings(hidden=16, gradient_steps=STEPS, checkpoint_every=every)
        dawm.inverse_dynamics.train_inverse_dynamics(dataset, settings, output, seed)

    return run


class Watch:
    """Stands before a stage's updates: notes every step, and kills the training at one of them."""

    def __init__(self, module: ModuleType, patch: pytest.MonkeyPatch) -> None:
        self.steps: list[int] = []
        self.kill_at: int | None = None
        for place in (module, dawm.training):  # wherever the stage finds it
            patch.setattr(place, "train", self.train, raising=False)

    def train(self, members: Any, update: Callable[[int], Mapping[str, Tensor]], state: State, **options: Any) -> None:
        def watched(step: int) -> Mapping[str, Tensor]:
            if step == self.kill_at:
                raise Killed
            self.steps.append(step)
            return update(step)

        train(members, watched, state, **options)

    def killed(self, run: Stage, output: Path, seed: int) -> None:
        self.kill_at = KILLED_AT
        with pytest.raises(Killed):
            run(output, seed)
        self.kill_at, self.steps = None, []
        assert (output / CHECKPOINT).is_file()
        assert not (output / "provenance.json").exists()


def test_killed_and_resumed_run_ends_with_the_same_bytes(
    stage: tuple[ModuleType, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, run = stage
    watch = Watch(module, monkeypatch)
    run(tmp_path / "undisturbed", 3)
    watch.killed(run, tmp_path / "killed", 3)
    run(tmp_path / "killed", 3)
    assert watch.steps == list(range(CHECKPOINT_EVERY, STEPS))
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")
    assert CHECKPOINT not in contents(tmp_path / "killed")


def test_what_earlier_attempts_spent_is_told_until_another_run_begins(
    stage: tuple[ModuleType, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt is a process; what it did after its last checkpoint was in vain, and nobody knows it."""
    module, run = stage
    watch = Watch(module, monkeypatch)

    def before(attempt: str, run: Stage, seed: int = 3) -> tuple[float, float]:
        monkeypatch.setattr("dawm.spent._ATTEMPT", attempt)
        run(tmp_path, seed)
        return spent_before(tmp_path)

    assert before("first", functools.partial(watch.killed, run)) == (0, 0)
    wall, cpu = before("second", run)
    assert wall > 0 and cpu > 0
    more_wall, more_cpu = before("third", run)  # finds it finished
    assert more_wall > wall and more_cpu > cpu
    assert before("fourth", run, seed=4) == (0, 0)


@pytest.mark.parametrize("place", ["note", "seal"])
def test_run_killed_while_it_seals_ends_with_the_same_bytes(
    stage: tuple[ModuleType, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    module, run = stage
    run(tmp_path / "undisturbed", 3)
    name = {"note": FINISHED, "seal": PROVENANCE}[place]

    def killed(path: Path, value: object) -> None:
        if path.name == name:
            raise Killed
        write_json(path, value)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        for holder in ("dawm.training.write_json", "dawm.data.sealed.write_json"):
            patch.setattr(holder, killed)
        run(tmp_path / "killed", 3)
    assert not (tmp_path / "killed" / PROVENANCE).exists()
    watch = Watch(module, monkeypatch)
    run(tmp_path / "killed", 3)
    assert watch.steps == ([] if place == "seal" else list(range(STEPS - CHECKPOINT_EVERY, STEPS)))
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


def test_run_killed_twice_ends_with_the_same_bytes(
    stage: tuple[ModuleType, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, run = stage
    watch = Watch(module, monkeypatch)
    run(tmp_path / "undisturbed", 3)
    watch.killed(run, tmp_path / "killed", 3)
    watch.killed(run, tmp_path / "killed", 3)
    watch.kill_at = STEPS - 1
    with pytest.raises(Killed):
        run(tmp_path / "killed", 3)
    watch.kill_at = None
    run(tmp_path / "killed", 3)
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize(("value", "found"), [(float("nan"), "nan"), (float("inf"), "inf"), (-60.0, "-")])
def test_diverging_run_stops_with_a_sentence_and_its_last_good_checkpoint(
    tmp_path: Path, value: float, found: str
) -> None:
    weight = torch.nn.Linear(1, 1, bias=False)
    options: dict[str, Any] = {"steps": 40, "checkpoint_every": 10, "log_every": 4}

    def training(bad_from: int) -> None:
        def update(step: int) -> dict[str, Tensor]:
            bad = step >= bad_from
            weight.weight.data.fill_(value if bad else step)
            return {"loss": torch.tensor(1.0), "q": torch.tensor(value if bad else 2.0)}

        members = [Member("policy seed 3", tmp_path, "run")]
        train(members, update, State({"weight": weight}, {}), limits={"q": 20.0}, **options)
        refuse_diverged(members)

    checkpoint = tmp_path / CHECKPOINT
    with pytest.raises(
        DivergedError, match=r"policy seed 3: diverged; expected q to be .* found -?(nan|inf|\d)"
    ) as raised:
        training(bad_from=18)
    assert found in str(raised.value) and f"the last good checkpoint is {checkpoint}" in str(raised.value)
    kept = load_file(checkpoint)["weight/weight"]
    assert float(kept) == 9  # of step 10: those of steps 18 to 20 are not kept
    training(bad_from=99)
    assert float(weight.weight.detach()) == 39 and len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 10


def test_exploding_values_end_a_learner(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = (
        '{"hidden": 16, "batch_size": 16, "gradient_steps": 3000, "learning_rate": 100.0, "evaluate_every": 9000}'
    )
    options = ["--algorithm", "td3_bc", "--dataset", str(dataset), "--settings", settings, "--device", "cpu"]
    assert main(["train-policy", *options, "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        said.startswith("dawm train-policy: policy seed 0: diverged; expected ")
        and "there is no checkpoint yet" in said
    )
    assert not (tmp_path / "provenance.json").exists()


def test_exploding_values_may_be_followed_to_the_end(dataset: Path, tmp_path: Path) -> None:
    settings = {"hidden": 16, "batch_size": 16, "gradient_steps": 1280, "learning_rate": 30.0, "evaluate_every": 640}
    options = ["--algorithm", "td3_bc", "--dataset", str(dataset), "--device", "cpu"]
    assert main(["train-policy", *options, "--settings", json.dumps(settings), "--output", str(tmp_path / "a")]) == 2
    followed = json.dumps(settings | {"largest_q": None, "evaluation_episodes": 1})
    assert main(["train-policy", *options, "--settings", followed, "--output", str(tmp_path / "b")]) == 0
    sealed = open_sealed(tmp_path / "b", "policy")
    metrics, evaluations = (
        list(csv.DictReader(sealed.read(f"{name}.csv").decode().splitlines())) for name in ("metrics", "evaluations")
    )
    assert max(abs(float(row["q"])) for row in metrics) > 1e4
    assert [row["step"] for row in evaluations] == ["640", "1280"]
    assert not (tmp_path / "a" / "provenance.json").exists()


def test_checkpoint_of_another_run_is_not_used(
    stage: tuple[ModuleType, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, run = stage
    watch = Watch(module, monkeypatch)
    run(tmp_path / "undisturbed", 4)
    watch.killed(run, tmp_path / "killed", 3)
    run(tmp_path / "killed", 4)
    assert watch.steps == list(range(STEPS))
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


def test_checkpoint_of_another_torch_is_not_used(
    short_run: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a run taken up that another one finished."""
    installed = {"torch": "0.0.1"}
    monkeypatch.setattr(dawm.data.sealed, "version", lambda name: installed.get(name) or version(name))
    watch = Watch(dawm.inverse_dynamics, monkeypatch)
    watch.killed(short_run, tmp_path, 3)
    for other in ("0.0.2", "0.0.3"):  # finds a checkpoint; finds a finished run
        installed["torch"], watch.steps = other, []
        short_run(tmp_path, 3)
        assert watch.steps == list(range(STEPS))


def test_how_often_checkpoints_are_kept_is_no_part_of_a_run(
    short_run: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is pre-empted too often keeps them more often, and goes on from the last one."""
    watch = Watch(dawm.inverse_dynamics, monkeypatch)
    watch.killed(short_run, tmp_path, 3)
    for steps in (list(range(CHECKPOINT_EVERY, STEPS)), []):  # finds a checkpoint; finds a finished run
        watch.steps = []
        short_run(tmp_path, 3, CHECKPOINT_EVERY - 1)
        assert watch.steps == steps


@pytest.mark.parametrize("damage", [0, 4, 0.5, -1, "flipped"])
def test_damaged_checkpoint_is_not_used(
    short_run: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: float | str,
) -> None:
    """Cut after bytes or a share of them, or with another bit in a weight, where only a digest can see it."""
    watch = Watch(dawm.inverse_dynamics, monkeypatch)
    short_run(tmp_path / "undisturbed", 3)
    watch.killed(short_run, tmp_path / "killed", 3)
    path = tmp_path / "killed" / CHECKPOINT
    whole = path.read_bytes()
    if isinstance(damage, str):
        path.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    else:
        path.write_bytes(whole[: int(damage * len(whole)) if isinstance(damage, float) else damage])
    short_run(tmp_path / "killed", 3)
    assert (f"{path}: damaged, and left aside" in capsys.readouterr().err) == (damage == "flipped")
    assert watch.steps == list(range(STEPS))
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


def test_finished_run_is_taken_up_and_not_made_again(
    stage: tuple[ModuleType, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the scheduler took its seal away: it does so before it starts a job that it takes for unfinished."""
    module, run = stage
    watch = Watch(module, monkeypatch)
    run(tmp_path / "run", 3)
    first = contents(tmp_path / "run")
    (tmp_path / "run" / "provenance.json").unlink()
    run(tmp_path / "run", 3)
    assert contents(tmp_path / "run") == first
    assert watch.steps == list(range(STEPS))


def test_finished_run_that_was_altered_is_made_again(
    stage: tuple[ModuleType, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, run = stage
    watch = Watch(module, monkeypatch)
    run(tmp_path / "run", 3)
    first = contents(tmp_path / "run")
    (tmp_path / "run" / "metrics.csv").write_text("step\n")
    run(tmp_path / "run", 3)
    assert contents(tmp_path / "run") == first
    assert watch.steps == 2 * list(range(STEPS))


# --- metrics and evaluations ------------------------------------------------------------------------------------


def counting_run(folder: Path, steps: int, log_every: int, kill_at: int | None = None, **options: Any) -> None:
    """A training whose only state counts its steps, and whose metric is the count's square."""
    module = nn.Module()
    module.register_buffer("count", torch.zeros(()))

    def update(step: int) -> dict[str, Tensor]:
        if step == kill_at:
            raise Killed
        module.count += 1
        return {"square": module.count**2}

    train(
        [Member("count", folder, "this")],
        update,
        State({"module": module}, {}),
        steps=steps,
        checkpoint_every=5,
        log_every=log_every,
        evaluate=lambda step: [{"count": float(module.count), "third": 1 / 3}],
        evaluate_every=options.get("evaluate_every", 4),
    )


def table(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("kill_at", [None, 1, 6, 11])
def test_metrics_are_means_since_the_last_row_also_across_a_kill(tmp_path: Path, kill_at: int | None) -> None:
    if kill_at is not None:
        with pytest.raises(Killed):
            counting_run(tmp_path, 11 + 1, 4, kill_at)
    counting_run(tmp_path, 12, 4)
    expected = [{"step": end, "square": sum(n**2 for n in range(end - 3, end + 1)) / 4} for end in (4, 8, 12)]
    assert table(tmp_path / "metrics.csv") == expected


def test_metrics_keep_their_columns_across_a_kill(tmp_path: Path) -> None:
    def run(kill_at: int | None) -> None:
        def update(step: int) -> dict[str, Tensor]:
            if step == kill_at:
                raise Killed
            return {"zebra": torch.tensor(1.0), "ant": torch.tensor(2.0)}

        train([Member("columns", tmp_path, "this")], update, State({}, {}), steps=8, checkpoint_every=5, log_every=4)

    with pytest.raises(Killed):
        run(6)
    run(None)
    assert table(tmp_path / "metrics.csv") == [{"step": end, "zebra": 1, "ant": 2} for end in (4, 8)]


def test_sums_of_a_checkpoint_go_on_where_the_metrics_are(tmp_path: Path) -> None:
    """Killed between two rows of metrics. PyTorch's `meta` stands for a GPU: it adds to no CPU tensor either."""

    def run(kill_at: int, device: str) -> None:
        def update(step: int) -> dict[str, Tensor]:
            if step == kill_at:
                raise Killed
            return {"loss": torch.ones((), device=device)}

        train([Member("device", tmp_path, "this")], update, State({}, {}), steps=20, checkpoint_every=5, log_every=20)

    with pytest.raises(Killed):
        run(7, "cpu")
    with pytest.raises(Killed):
        run(9, "meta")


def test_last_metrics_row_is_the_mean_of_the_steps_that_are_left(tmp_path: Path) -> None:
    counting_run(tmp_path, 6, 4)
    assert table(tmp_path / "metrics.csv")[-1] == {"step": 6, "square": (25 + 36) / 2}


@pytest.mark.parametrize("kill_at", [None, 9])
def test_evaluations_come_at_their_steps_and_at_the_end_once_each(tmp_path: Path, kill_at: int | None) -> None:
    if kill_at is not None:
        with pytest.raises(Killed):
            counting_run(tmp_path, 10, 4, kill_at)
    counting_run(tmp_path, 10, 4)
    rows = table(tmp_path / "evaluations.csv")
    assert [(row["step"], row["count"]) for row in rows] == [(4, 4), (8, 8), (10, 10)]


def test_metrics_are_on_the_disk_before_the_training_ends(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        counting_run(tmp_path, 100, 4, kill_at=9)
    assert [row["step"] for row in table(tmp_path / "metrics.csv")] == [4, 8]


def test_state_comes_back_into_fresh_networks_and_optimizers() -> None:
    def fresh(seed: int) -> tuple[nn.Linear, torch.optim.Adam, State]:
        torch.manual_seed(seed)
        network = nn.Linear(3, 2)
        optimizer = adam(network.parameters(), 0.1)
        return network, optimizer, State({"network": network}, {"optimizer": optimizer})

    def step(network: nn.Linear, optimizer: torch.optim.Adam) -> None:
        optimizer.zero_grad()
        network(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()

    first, second = fresh(0), fresh(1)
    for _ in range(3):
        step(*first[:2])
    second[2].load([{key: value.clone() for key, value in part.items()} for part in first[2].parts()])
    for network, optimizer, _ in (first, second):
        step(network, optimizer)
    assert torch.equal(first[0].weight, second[0].weight)
    assert torch.equal(first[0].bias, second[0].bias)


# --- rates and averages -----------------------------------------------------------------------------------------


def test_cosine_rate_falls_from_its_start_to_zero() -> None:
    assert cosine_rate(0, 100, 0.3) == 0.3
    np.testing.assert_allclose(cosine_rate(50, 100, 0.3), 0.15)
    np.testing.assert_allclose(cosine_rate(25, 100, 0.3), 0.15 * (1 + math.sqrt(0.5)))
    np.testing.assert_allclose(cosine_rate(100, 100, 0.3), 0, atol=1e-12)


def test_average_moves_by_its_rate_towards_the_online_weights() -> None:
    torch.manual_seed(0)
    averaged, online = nn.Linear(3, 2), nn.Linear(3, 2)
    old = [value.detach().double().numpy() for value in averaged.parameters()]
    new = [value.detach().double().numpy() for value in online.parameters()]
    average_into(averaged, online, 0.005)
    for found, before, target in zip(averaged.parameters(), old, new, strict=True):
        np.testing.assert_allclose(found.detach(), 0.995 * before + 0.005 * target, rtol=1e-5, atol=1e-7)
    for unchanged, target in zip(online.parameters(), new, strict=True):
        np.testing.assert_array_equal(unchanged.detach(), target)


def test_average_soon_forgets_the_start_and_then_keeps_its_decay() -> None:
    assert [ema_rate(n, 0.995) for n in (0, 1)] == [1 - 1 / 10, 1 - 2 / 11]
    assert ema_rate(10**6, 0.995) == 1 - 0.995


# --- randomness -------------------------------------------------------------------------------------------------


def test_draws_depend_on_seed_and_purpose_alone() -> None:
    first = generator(0, "noise", 3, 1).standard_normal(4)
    generator(0, "noise", 3, 2).standard_normal(100)
    assert first.tolist() == generator(0, "noise", 3, 1).standard_normal(4).tolist()


def test_other_seeds_and_purposes_draw_other_numbers() -> None:
    keys: list[tuple] = [(0, "noise", 3, 1), (1, "noise", 3, 1), (0, "starts", 3, 1), (0, "noise", 31), (0, "noise", 3)]
    draws = {tuple(generator(seed, *purpose).standard_normal(4)) for seed, *purpose in keys}
    assert len(draws) == len(keys)
    assert len({derived_seed(0, "evaluation", step, episode) for step in range(30) for episode in range(30)}) == 900


def test_numbers_of_a_seed_stay_what_they_are() -> None:
    """Published results depend on them: a change here changes every result."""
    assert generator(0, "noise", 7, 0).integers(10**6, size=4).tolist() == [504220, 235484, 411301, 363412]
    assert derived_seed(0, "reset", "hopper") == 1666276453


# --- told to stop -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "processes"), [(("3",), 1), (("3", "4"), 1), (("3", "4"), 2)], ids=["alone", "side by side", "evaluators"]
)
def test_training_that_is_told_to_stop_goes_on_where_it_was(
    dataset: Path, tmp_path: Path, seeds: tuple[str], processes: int
) -> None:
    """SIGTERM to all processes of the job, as at a time limit or pre-emption: a checkpoint in time, and then the
    undisturbed run's bytes, which evaluated in its own process."""
    settings = {"gradient_steps": 6000, "hidden": 8, "batch_size": 8, "evaluate_every": 1000, "evaluation_episodes": 1}

    def begin(folder: str, processes: int) -> subprocess.Popen[str]:
        outputs = [str(tmp_path / folder / seed) for seed in seeds]
        command = [sys.executable, "-m", "dawm", "train-policy", "--algorithm", "td3_bc", "--dataset", str(dataset)]
        command += ["--settings", json.dumps(settings), "--seed", *seeds, "--output", *outputs]
        command += ["--evaluation-processes", str(processes)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)

    undisturbed = begin("undisturbed", 1)
    assert undisturbed.communicate()[1] and undisturbed.returncode == 0
    process = begin("stopped", processes)
    rows = tmp_path / "stopped" / seeds[0] / "metrics.csv"
    while not (rows.is_file() and len(rows.read_text().splitlines()) > 2):  # two thousand steps or so
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=20)[1].splitlines()[-1]
    assert process.returncode == 128 + signal.SIGTERM
    sentence = r"dawm train-policy: .* told to stop; the same command goes on from step (\d+) of 6000"
    expected = re.fullmatch(sentence, said)
    assert expected, said
    first = tmp_path / "stopped" / seeds[0]
    assert not (first / "provenance.json").exists()
    with safe_open(first / CHECKPOINT, "pt") as file:
        assert file.metadata()["step"] == expected[1] and 1000 <= int(expected[1]) < 6000
    again = begin("stopped", processes)
    shown = again.communicate()[1]
    assert again.returncode == 0
    assert int(re.findall(r": (\d+)/6000", shown)[0]) > int(expected[1])
    for seed in seeds:
        assert contents(tmp_path / "stopped" / seed) == contents(tmp_path / "undisturbed" / seed)


def test_training_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=counting_run, args=(tmp_path, 8, 4))
    thread.start()
    thread.join()
    assert (tmp_path / "metrics.csv").is_file() and signal.getsignal(signal.SIGTERM) is before


def test_kept_weights_are_averages_of_trained_ones_however_seldom_they_are_averaged(
    dataset: Path, tmp_path: Path
) -> None:
    for name, every in (("seldom", 50), ("each", 1)):
        settings = WorldModelSettings(
            window=4, hidden=8, blocks=1, batch_size=16, gradient_steps=5, ema_every=every, ema_decay=0.0
        )
        train_world_model(dataset, settings, tmp_path / name, seed=0)
    seldom, each = (load_world_model(tmp_path / name)[0].denoiser.state_dict() for name in ("seldom", "each"))
    assert all(torch.equal(seldom[name], each[name]) for name in each)
