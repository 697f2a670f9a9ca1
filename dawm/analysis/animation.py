"""Stage `animate`: an imagined and the true rollout side by side, from the same start and with the same actions.

The left half is the simulator, stepped by the trajectory's actions from the state of its start; the right half is what
the models imagined, put into the simulator's body without stepping it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dawm.analysis.fidelity import held_out_rows_of_sources
from dawm.analysis.replaying import one_step_change, state_error
from dawm.config import AnimationSettings, as_mapping
from dawm.data.files import only_writer, whole_file
from dawm.data.sealed import Sealed, open_sealed, refuse_other, seal, unseal
from dawm.data.transitions import Transitions, held_out_rows, read_transitions, usable_pairs
from dawm.environments.oracle import Oracle
from dawm.environments.tasks import task_of_metadata
from dawm.errors import InputError
from dawm.randomness import generator

GIF = "rollouts.gif"
PAUSE = 3  # times a start's last frame is shown
CAPTION = 44  # pixels below the pictures


@dataclass(frozen=True)
class Rollout:
    """One trajectory of S steps: states [S + 1, obs_dim] in the simulator and as imagined, and their distance [S + 1]
    in units of the data's one-step change."""

    true: np.ndarray
    imagined: np.ndarray
    error: np.ndarray


def animate(
    dataset: Path, synthetic: Path, settings: AnimationSettings, output: Path, name: str, skip: str | None
) -> None:
    """Writes `output`/rollouts.gif, sealed; where nothing can be drawn, metadata.json says why. `name` is the recipe's,
    for the caption; `skip`: why there is no renderer (see `dawm.rendering`)."""
    refuse_other(output, "animation")
    data, grown_seal = open_sealed(dataset, "dataset"), open_sealed(synthetic, "synthetic")
    if grown_seal.provenance["inputs"]["dataset"] != data.digest:
        raise InputError(f"{synthetic}: was not made from {dataset}; synthesize again")
    oracle = Oracle(task_of_metadata(data.metadata))
    reason = skip or obstacle(oracle, grown_seal)
    chosen = [] if reason else rollouts(oracle, data, read_transitions(grown_seal), settings)
    if not reason and not chosen:
        reason = "no held-out trajectory goes on to its end from a state that its observation tells"
    with only_writer(output):
        unseal(output, "animation")
        (output / GIF).unlink(missing_ok=True)
        if reason:
            print(f"animate: no animation: {reason}", file=sys.stderr)
        else:
            write_gif(output / GIF, [*frames(oracle, chosen, settings, name)], settings.frames_per_second)
        seal(
            output,
            "animation",
            files=[] if reason else [GIF],
            settings=as_mapping(settings),
            seed=settings.seed,
            inputs={"dataset": data, "synthetic": grown_seal},
            metadata={"recipe": name, "starts": len(chosen), "skipped": reason},
        )


def obstacle(oracle: Oracle, synthetic: Sealed) -> str | None:
    """Why nothing can be drawn, in a sentence."""
    if oracle.task.layout is None or not oracle.takes_states:
        return f"{oracle.task.environment}: the simulator's state does not follow from its observations"
    if not synthetic.metadata.get("conditional", True):
        return "single transitions from nowhere make no rollout"
    if synthetic.metadata.get("expansion") is not None:
        return "an n-step transition does not tell what is between its ends"
    return None


def rollouts(oracle: Oracle, data: Sealed, grown: Transitions, settings: AnimationSettings) -> list[Rollout]:
    """Whole trajectories from held-out starts, drawn by the settings' seed."""
    real = read_transitions(data, states=False)
    grown = grown.take(held_out_rows_of_sources(grown, held_out_rows(data, real)))
    change, length = one_step_change(real.take(usable_pairs(data, real))), int(grown.horizon_step.max(initial=0))
    firsts = np.flatnonzero(grown.horizon_step == 1)
    whole = firsts[firsts + length <= len(grown)]
    last = whole + length - 1
    whole = whole[(grown.horizon_step[last] == length) & (grown.source_row[last] == grown.source_row[whole])]
    found: list[Rollout] = []
    for first in generator(settings.seed, "animate").permutation(whole):
        if len(found) == settings.starts:
            break
        rollout = replayed(oracle, grown.take(slice(first, first + length)), change)
        if rollout is not None:
            found.append(rollout)
    return found


def replayed(oracle: Oracle, trajectory: Transitions, change: np.ndarray) -> Rollout | None:
    """None where a state of the way does not follow from its observation, or the true episode ends before."""
    states = [trajectory.observation[:1].astype(np.float64)]
    imagined = np.concatenate([trajectory.observation[:1], trajectory.next_observation]).astype(np.float64)
    if not oracle.checkable(imagined).all():
        return None
    for number, action in enumerate(trajectory.action.astype(np.float64)):
        step = oracle.step(states[-1], action[None])
        ended = step.terminal[0] and number < len(trajectory) - 1
        if ended or not oracle.checkable(step.next_observation).all():
            return None
        states.append(step.next_observation)
    true = np.concatenate(states)
    return Rollout(true, imagined, state_error(imagined, true, change))


def frames(oracle: Oracle, chosen: list[Rollout], settings: AnimationSettings, name: str) -> Iterator[Image.Image]:
    """Both halves and the caption, a frame for each state; the last one of a start stays a while."""
    model = oracle.environment.model  # type: ignore[attr-defined]
    renderer = mujoco.Renderer(model, settings.size, settings.size)
    try:
        for number, rollout in enumerate(chosen, start=1):
            ways = [travelled(oracle, states) for states in (rollout.true, rollout.imagined)]
            for step, error in enumerate(rollout.error):
                pictures = [pose(renderer, model, way[step]) for way in ways]
                heading = f"{oracle.task.environment}, {name}: start {number} of {len(chosen)}, step {step}"
                frame = composed(pictures, heading, f"distance: {error:.3f} one-step changes")
                yield from [frame] * (PAUSE if step == len(rollout.error) - 1 else 1)
    finally:
        renderer.close()


def travelled(oracle: Oracle, states: np.ndarray) -> np.ndarray:
    """qpos [S + 1, nq] of states [S + 1, obs_dim]; what is not observed of the place is the sum of its velocity."""
    layout = oracle.task.layout
    if layout is None:
        raise InputError(f"{oracle.task.environment}: the simulator's state does not follow from its observations")
    qpos, qvel = layout.state(states)
    moved = np.cumsum(qvel[1:, : layout.hidden], axis=0) * oracle.environment.dt  # type: ignore[attr-defined]
    qpos[1:, : layout.hidden] = moved
    return qpos


def pose(renderer: mujoco.Renderer, model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    """Picture of a body in a position, uint8 [size, size, 3]; the camera goes with it where the model has such one."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    tracking = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "track") >= 0
    renderer.update_scene(data, camera="track" if tracking else -1)
    return renderer.render()


def composed(pictures: list[np.ndarray], heading: str, line: str) -> Image.Image:
    """The simulator's picture and the imagined one beside each other, over two lines of text."""
    height, width = pictures[0].shape[:2]
    image = Image.new("RGB", (2 * width, height + CAPTION), "white")
    draw = ImageDraw.Draw(image)
    font, small = (ImageFont.load_default(size) for size in (max(10, width // 20), max(8, width // 24)))
    for place, (picture, label) in enumerate(zip(pictures, ("simulator", "imagined"), strict=True)):
        image.paste(Image.fromarray(picture), (place * width, 0))
        draw.text((place * width + 8, 6), label, fill="white", font=font, stroke_width=1, stroke_fill="black")
    draw.line([(width, 0), (width, height)], fill="white", width=2)
    draw.text((8, height + 4), heading, fill="black", font=font)
    draw.text((8, height + 24), line, fill="#444444", font=small)
    return image


def write_gif(path: Path, images: list[Image.Image], frames_per_second: float) -> None:
    """All frames with one palette, over and over."""
    palette = images[0].quantize(128, method=Image.Quantize.MEDIANCUT)
    reduced = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    duration = round(1000 / frames_per_second)
    with whole_file(path) as part:
        reduced[0].save(part, format="GIF", save_all=True, append_images=reduced[1:], duration=duration, loop=0)
