"""`evaluate`: a saved policy in its environment, as numbers for people and, if wished, as a film."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from PIL import Image

from dawm.analysis.animation import write_gif
from dawm.analysis.statistics import bootstrap_interval
from dawm.environments.evaluation import Evaluator, Policy
from dawm.environments.tasks import Task, task_of_metadata
from dawm.errors import InputError
from dawm.offline_rl.policy import load_policy
from dawm.randomness import derived_seed

FRAMES_PER_SECOND, LONGEST, SIZE = 25, 250, 280  # of a film: frames, pixels in width and height
TOGETHER = 50  # episodes that run side by side


@dataclass(frozen=True)
class PolicyEvaluation:
    """Undiscounted returns of episodes, float64 [episodes], raw reward, in the task's simulator."""

    task: Task
    returns: np.ndarray

    def lines(self, seed: int) -> list[str]:
        returns, scores = self.returns, np.asarray(self.task.normalized_score(self.returns))
        low, high = bootstrap_interval(scores, np.mean, seed)
        return [
            f"{'environment':<18}{self.task.environment}",
            f"{'episodes':<18}{len(returns)}",
            f"{'return':<18}{returns.mean():.1f} ± {returns.std():.1f} ({returns.min():.1f} to {returns.max():.1f})",
            f"{'normalized score':<18}{scores.mean():.2f} of 100 (95 % interval {low:.2f} to {high:.2f})",
        ]


def evaluate_policy(folder: Path, episodes: int, seed: int) -> tuple[PolicyEvaluation, Policy]:
    """Runs a sealed policy without noise; the starts of episodes derive from the seed. Returns the policy too."""
    policy, sealed = load_policy(folder)
    task = task_of_metadata(sealed.metadata)
    returns = [
        Evaluator(task, min(TOGETHER, episodes - first)).returns(policy.act, seed, first)
        for first in range(0, episodes, TOGETHER)
    ]
    return PolicyEvaluation(task, np.concatenate(returns)), policy.act


def film(task: Task, policy: Policy, seed: int, path: Path) -> None:
    """Writes one episode, or its first ten seconds, as a GIF. Needs a renderer (`dawm.rendering`)."""
    simulator = task.make()
    if not isinstance(simulator.unwrapped, MujocoEnv):
        raise InputError(f"--video: expected a MuJoCo environment to draw, found {task.environment}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gif(path, [*frames(simulator, policy, seed)], FRAMES_PER_SECOND)


def frames(simulator: gymnasium.Env, policy: Policy, seed: int) -> Iterator[Image.Image]:
    """A picture every 1/25 s, at most 250."""
    import mujoco

    body = simulator.unwrapped
    assert isinstance(body, MujocoEnv)
    every = max(1, round(1 / (FRAMES_PER_SECOND * body.dt)))
    tracking = mujoco.mj_name2id(body.model, mujoco.mjtObj.mjOBJ_CAMERA, "track") >= 0
    renderer = mujoco.Renderer(body.model, SIZE, SIZE)
    try:
        observation, _ = simulator.reset(seed=derived_seed(seed, "evaluation", 0, 0))
        for step in range(LONGEST * every):
            if step % every == 0:
                renderer.update_scene(body.data, camera="track" if tracking else -1)
                yield Image.fromarray(renderer.render())
            observation, _, terminal, timeout, _ = simulator.step(policy(observation[None])[0])
            if terminal or timeout:
                break
    finally:
        renderer.close()
