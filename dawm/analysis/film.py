"""Stage `film`: what a trained policy does, as a picture that moves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
from gymnasium.envs.mujoco import MujocoEnv
from PIL import Image

from dawm.analysis.animation import write_gif
from dawm.data.files import only_writer
from dawm.data.sealed import seal, unseal
from dawm.environments.evaluation import Policy
from dawm.environments.tasks import Task, task_of_metadata
from dawm.errors import InputError
from dawm.offline_rl.policy import load_policy
from dawm.randomness import derived_seed

FILM = "episode.gif"
FRAMES_PER_SECOND, LONGEST, SIZE = 25, 250, 280  # frames at most; pixels in width and height


def film_policy(folder: Path, output: Path, seed: int, skip: str | None) -> None:
    """Writes `output`/episode.gif, sealed; where nothing can be drawn, metadata.json says why. `skip`: why there is no
    renderer (see `dawm.rendering`)."""
    policy, sealed = load_policy(folder)
    task = task_of_metadata(sealed.metadata)
    reason = skip or (None if drawable(task) else f"{task.environment} is not drawn by MuJoCo")
    with only_writer(output):
        unseal(output, "film")
        (output / FILM).unlink(missing_ok=True)
        if reason:
            print(f"film: no film: {reason}", file=sys.stderr)
        else:
            film(task, policy.act, seed, output / FILM)
        seal(
            output,
            "film",
            files=[] if reason else [FILM],
            settings={},
            seed=seed,
            inputs={"policy": sealed},
            metadata={"environment": task.environment, "skipped": reason},
        )


def drawable(task: Task) -> bool:
    return isinstance(task.make().unwrapped, MujocoEnv)


def film(task: Task, policy: Policy, seed: int, path: Path) -> None:
    """Writes one episode, or its first ten seconds, as a GIF. Needs a renderer (`dawm.rendering`)."""
    simulator = task.make()
    body = simulator.unwrapped
    if not isinstance(body, MujocoEnv):
        raise InputError(f"--video: expected a MuJoCo environment to draw, found {task.environment}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gif(path, [*frames(simulator, body, policy, seed)], FRAMES_PER_SECOND)


def frames(simulator: gymnasium.Env, body: MujocoEnv, policy: Policy, seed: int) -> Iterator[Image.Image]:
    """A picture every 1/25 s, at most 250; body: what is within the simulator's wrappers."""
    import mujoco

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
