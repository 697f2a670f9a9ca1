"""Our own suite: fifteen data sets from policies that ship with the package, as good as their names say."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import contents

from dawm.cli import main
from dawm.config import ExportSettings
from dawm.data.export import export
from dawm.data.sealed import open_sealed
from dawm.data.sources.local import SUITE, behaviour_files, collect
from dawm.data.transitions import Transitions, read_transitions
from dawm.environments.behaviour import EXPLORATION_NOISE, SHIPPED, BehaviourPolicy
from dawm.environments.behaviour_training import choose_behaviour, choose_ladder, episode_returns
from dawm.environments.tasks import TASKS

MEDIUM = {"hopper": 1070, "halfcheetah": 4000, "walker2d": 1530}
EXPERT_SCORE = {"hopper": 90, "halfcheetah": 65, "walker2d": 75}


def made(folder: Path, name: str, rows: int, **chosen: int) -> tuple[Transitions, dict]:
    export(ExportSettings(source=f"local/{name}", transitions=rows, **chosen), folder)
    sealed = open_sealed(folder, "dataset")
    return read_transitions(sealed), dict(sealed.metadata)


def test_suite_has_every_task_and_kind() -> None:
    kinds = ("random", "medium", "medium-replay", "medium-expert", "expert")
    assert set(SUITE) == {f"{task}-{kind}" for task in TASKS for kind in kinds}
    assert all(sum(part.share for part in mixture.parts) == pytest.approx(1) for mixture in SUITE.values())


def test_shipped_policies_are_small_and_say_where_they_come_from() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 3e6
    for task in TASKS:
        with open(SHIPPED / task / "checkpoints.csv", newline="") as file:
            checkpoints = {int(row["step"]) for row in csv.DictReader(file)}
        ladder = [int(path.stem) for path in behaviour_files(task, "policies")]
        assert len(ladder) >= 5 and set(ladder) <= checkpoints


@pytest.mark.parametrize(("task", "episodes"), [("hopper", 60), ("halfcheetah", 4), ("walker2d", 60)])
def test_medium_policy_is_a_third_of_d4rl_s_expert(task: str, episodes: int) -> None:
    policy = BehaviourPolicy.load(behaviour_files(task, "medium")[0])
    returns = episode_returns(TASKS[task], policy, episodes, seed=1, noise=EXPLORATION_NOISE)
    assert np.mean(returns) == pytest.approx(MEDIUM[task], rel=0.2)


@pytest.mark.parametrize("task", TASKS)
def test_expert_policy_reaches_its_score(task: str) -> None:
    policy = BehaviourPolicy.load(behaviour_files(task, "expert")[0])
    returns = episode_returns(TASKS[task], policy, 5, seed=1, noise=EXPLORATION_NOISE)
    assert TASKS[task].normalized_score(np.mean(returns)) >= EXPERT_SCORE[task]


@pytest.mark.parametrize("task", TASKS)
def test_ladder_rises_from_early_to_medium(task: str) -> None:
    with open(SHIPPED / task / "checkpoints.csv", newline="") as file:
        known = {int(row["step"]): float(row["mean_return"]) for row in csv.DictReader(file)}
    returns = [known[int(path.stem)] for path in behaviour_files(task, "policies")]
    assert returns == sorted(returns) and returns[0] < 0.3 * MEDIUM[task]
    assert returns[-1] == pytest.approx(MEDIUM[task], rel=0.2)


def test_medium_expert_is_half_and_half_of_the_two_sets(tmp_path: Path) -> None:
    both, facts = made(tmp_path / "both", "hopper-medium-expert", 4000)
    medium, _ = made(tmp_path / "medium", "hopper-medium", 2000)
    expert, _ = made(tmp_path / "expert", "hopper-expert", 2000)
    assert facts["transitions_by_kind"] == {"medium": 2000, "expert": 2000}
    for name in ("observation", "action", "reward", "next_observation", "terminal", "timeout", "qpos"):
        halves = np.concatenate([getattr(medium, name), getattr(expert, name)])
        np.testing.assert_array_equal(getattr(both, name), halves, err_msg=name)
    assert both.timeout[1999] or both.terminal[1999]  # no episode crosses the seam
    assert both.step[2000] == 0


def test_replay_begins_at_random_and_then_climbs_the_ladder(tmp_path: Path) -> None:
    rows, facts = made(tmp_path, "walker2d-medium-replay", 20_000)
    first = facts["transitions_by_kind"]["random"]
    assert first == round(0.015 * 20_000)
    assert np.abs(rows.action[:first]).mean() == pytest.approx(0.5, abs=0.02)  # uniform
    policies = [BehaviourPolicy.load(path) for path in behaviour_files("walker2d", "policies")]
    later = np.arange(first, len(rows))
    turn = (rows.episode[later] - rows.episode[first]) % len(policies)
    for number, policy in enumerate(policies):
        chosen = later[turn == number][:200]
        expected = np.array([policy(observation) for observation in rows.observation[chosen].astype(np.float64)])
        noise = rows.action[chosen] - expected
        inside = np.abs(expected) < 0.7  # not clipped
        assert noise[inside].std() == pytest.approx(EXPLORATION_NOISE, rel=0.15)


def test_any_size_is_a_beginning_of_a_larger_one(tmp_path: Path) -> None:
    few, _ = made(tmp_path / "few", "halfcheetah-medium", 1500, rows_per_shard=400)
    many, _ = made(tmp_path / "many", "halfcheetah-medium", 3000)
    np.testing.assert_array_equal(few.next_observation, many.next_observation[:1500])
    assert few.timeout[1499] and not many.timeout[1499] and many.timeout[999]


def test_seed_decides_the_rows(tmp_path: Path) -> None:
    one, _ = made(tmp_path / "one", "hopper-medium", 1000)
    other, _ = made(tmp_path / "other", "hopper-medium", 1000, seed=1)
    assert not np.array_equal(one.observation[0], other.observation[0])


def test_memory_does_not_grow_with_the_number_of_rows() -> None:
    """Rows come in blocks of bounded size, however many are asked for."""
    policies = {"random": []}
    sizes = [len(block["reward"]) for block in collect(TASKS["halfcheetah"], policies, {"random": 40_000}, seed=0)]
    assert sum(sizes) == 40_000 and len(sizes) > 2 and max(sizes) <= 16_384 + 1000


def test_ladder_is_chosen_by_returns_evenly_spaced_up_to_medium() -> None:
    returns = {10: 0.0, 20: 90.0, 30: 55.0, 40: 210.0, 50: 160.0, 60: 290.0, 70: 900.0}
    assert choose_ladder(returns, 300, 4) == [10, 20, 40, 60]
    assert choose_ladder(returns, 80, 2) == [10, 20]  # nothing trained for longer than the medium


def trained(folder: Path) -> list[tuple[int, float]]:
    """The ladder's own files as a training; rows of its table, which claims too much for the first."""
    source = behaviour_files("hopper", "policies")
    rows = [(int(path.stem), 200.0 + 100 * number) for number, path in enumerate(source)]
    rows[0] = (rows[0][0], 5000.0)
    for path in source:
        shutil.copy(path, folder)
    with open(folder / "checkpoints.csv", "w", newline="") as file:
        csv.writer(file).writerows([("step", "mean_return"), *rows])
    return rows


def test_choice_among_checkpoints_is_made_under_exploration_noise(tmp_path: Path) -> None:
    """The noiseless table lies about the first one, the noisy choice does not."""
    rows = trained(tmp_path)
    output = tmp_path / "chosen"
    choose_behaviour(TASKS["hopper"], tmp_path, output, medium_return=500, rungs=3, episodes=3)
    with open(output / "candidates.csv", newline="") as file:
        noisy = {int(row["step"]): float(row["mean_noisy_return"]) for row in csv.DictReader(file)}
    best = max(noisy, key=noisy.__getitem__)
    assert best != rows[0][0]
    assert (output / "expert.safetensors").read_bytes() == (tmp_path / f"{best:08d}.safetensors").read_bytes()
    nearest = min(noisy, key=lambda step: abs(noisy[step] - 500))
    assert (output / "medium.safetensors").read_bytes() == (tmp_path / f"{nearest:08d}.safetensors").read_bytes()


TABLES = {
    "other columns": "a,b\n1,2\n",
    "words": "step,mean_return\n1,good\n",
    "a short row": "step,mean_return\n1\n",
    "no number": "step,mean_return\n10000,nan\n",
    "no row": "step,mean_return\n",
}


@pytest.mark.parametrize("spoiled", ["--output", "a training's", "missing", "cut", "another task's", *TABLES])
def test_choice_that_cannot_be_made_loses_nothing(
    spoiled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "trained", tmp_path / "chosen"
    for each in (folder, output):
        each.mkdir()
        trained(each)
    if spoiled != "a training's":
        (output / "candidates.csv").write_text("for,step\n")
    checkpoint = folder / "00010000.safetensors"
    named = {"--output": folder, "a training's": output}.get(spoiled, checkpoint)
    if spoiled in TABLES:
        named = folder / "checkpoints.csv"
        named.write_text(TABLES[spoiled])
    elif spoiled == "missing":
        checkpoint.unlink()
    elif spoiled == "cut":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    elif spoiled == "another task's":
        shutil.copy(behaviour_files("walker2d", "medium")[0], checkpoint)
    before = contents(tmp_path)
    arguments = ["--task", "hopper", "--checkpoints", str(folder), "--medium-return", "500", "--episodes", "1"]
    chosen = folder if spoiled == "--output" else output
    assert main(["choose-behaviour", *arguments, "--output", str(chosen)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dawm choose-behaviour: {named}: ") and error.count("\n") == 1
    assert "expected" in error and contents(tmp_path) == before


def test_a_choice_takes_the_place_of_a_former_one(tmp_path: Path) -> None:
    trained(tmp_path)
    output = tmp_path / "chosen"
    for medium in (500, 400):
        choose_behaviour(TASKS["hopper"], tmp_path, output, medium_return=medium, rungs=1, episodes=1)
    policies = {path.stem for path in output.glob("*.safetensors")}
    assert {"medium", "expert"} < policies and len(policies) == 3
