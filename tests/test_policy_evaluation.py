"""`python -m dawm evaluate`: what a saved policy earns, again and again the same, and a film of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dawm.analysis import policy_evaluation
from dawm.analysis.policy_evaluation import evaluate_policy
from dawm.cli import main
from dawm.config import TD3BCSettings
from dawm.environments.evaluation import Evaluator
from dawm.environments.tasks import TASKS
from dawm.offline_rl.policy import load_policy
from dawm.offline_rl.training import train_policy
from dawm.rendering import choose_renderer


@pytest.fixture(scope="module")
def policy(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "policy"
    settings = TD3BCSettings(hidden=16, batch_size=16, gradient_steps=20, evaluation_episodes=1)
    train_policy("td3_bc", dataset, None, settings, 1.0, folder, seed=0)
    return folder


def test_episodes_are_those_of_the_vectorised_evaluation(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_evaluation, "TOGETHER", 3)  # 5 episodes: three, then two
    found, _act = evaluate_policy(policy, 5, seed=7)
    loaded, _ = load_policy(policy)
    expected = [Evaluator(TASKS["hopper"], count).returns(loaded.act, 7, first) for first, count in ((0, 3), (3, 2))]
    np.testing.assert_array_equal(found.returns, np.concatenate(expected))
    assert len(np.unique(found.returns)) == 5
    np.testing.assert_array_equal(evaluate_policy(policy, 5, seed=7)[0].returns, found.returns)
    assert not np.array_equal(evaluate_policy(policy, 5, seed=8)[0].returns, found.returns)


def test_command_says_return_and_score_in_their_units(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(policy), "--episodes", "4", "--seed", "3"]) == 0
    said = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.replace("normalized score", "score").splitlines()
    )
    found, _ = evaluate_policy(policy, 4, 3)
    assert said["environment"] == "Hopper-v4" and said["episodes"] == "4"
    assert said["return"].startswith(f"{found.returns.mean():.1f} ± {found.returns.std(ddof=1):.1f} (")
    score = 100 * (found.returns.mean() + 20.272305) / (3234.3 + 20.272305)
    assert said["score"].startswith(f"{score:.2f} of 100 (95 % interval ")


def test_one_episode_has_neither_a_spread_nor_an_interval(policy: Path) -> None:
    found, _ = evaluate_policy(policy, 1, 3)
    *_, returned, score = found.lines(3)
    assert returned == f"{'return':<18}{found.returns[0]:.1f}" and score.endswith(" of 100")


def test_policy_says_in_which_environment_it_acts(policy: Path) -> None:
    facts = json.loads((policy / "metadata.json").read_text())
    assert facts["environment"] == "Hopper-v4" and facts["environment_settings"]["id"] == "Hopper-v4"


def test_video_shows_one_episode(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    if reason := choose_renderer():
        pytest.skip(reason)
    path = tmp_path / "made" / "episode.gif"
    command = [sys.executable, "-m", "dawm", "evaluate", str(policy), "--episodes", "1", "--video", str(path)]
    run = subprocess.run(command, capture_output=True, text=True)  # MuJoCo chooses how to draw when it is imported
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].split() == ["video", str(path)]
    with Image.open(path) as film:
        assert film.size == (280, 280) and 1 < film.n_frames <= 250
        pictures = []
        for frame in (0, film.n_frames - 1):
            film.seek(frame)
            pictures.append(np.asarray(film.convert("L"), dtype=float))
    assert pictures[0].std() > 5 and np.abs(pictures[0] - pictures[1]).max() > 20  # something is seen, and moves


def test_without_a_renderer_the_numbers_come_all_the_same(policy: Path, tmp_path: Path) -> None:
    path = tmp_path / "episode.gif"
    command = [sys.executable, "-m", "dawm", "evaluate", str(policy), "--episodes", "1", "--video", str(path)]
    run = subprocess.run(["env", "MUJOCO_GL=off", *command], capture_output=True, text=True)
    assert run.returncode == 0 and "normalized score" in run.stdout and not path.exists()
    assert "evaluate: no video: MuJoCo cannot draw here" in run.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--episodes", "0"], "--episodes: expected at least 1, found 0"),
        ([], "expected a folder of kind policy, found dataset"),
    ],
)
def test_bad_input_is_refused(
    policy: Path, dataset: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    folder = policy if options else dataset
    assert main(["evaluate", str(folder), *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dawm evaluate: ") and sentence in said
