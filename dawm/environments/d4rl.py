"""d4rl's own API on today's MuJoCo: its names, its data files and gym environments that run.

Importing this module imports d4rl, whatever else is installed, and registers the names anew:

    import dawm.environments.d4rl   # before d4rl and gym, which it imports without their notices and errors
    import d4rl, gym

    env = gym.make("hopper-medium-v2")
    env.get_dataset()               # downloaded once, verified, kept in d4rl's folder
    env.get_normalized_score(3000)  # 0 at the random policy's return, 1 at the expert's
    d4rl.qlearning_dataset(env)     # at a terminal its next_observations are those of another episode
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, SupportsFloat

import h5py
import numpy as np

from dawm.config import LOCOMOTION
from dawm.data.sources.hdf5 import check_layout, damaged, opened
from dawm.download import download
from dawm.environments.tasks import TASKS, Task
from dawm.errors import InputError
from dawm.variables import environment_variable

# d4rl imports these for its other environments and survives only an ImportError. Installed they can raise anything:
# mujoco_py a bare Exception (no MuJoCo 2.1), pybullet_envs an AttributeError (gym 0.26). Whoever wants d4rl's other
# environments imports d4rl before this module.
OTHER_SIMULATORS = ("mujoco_py", "flow", "dm_control", "carla", "pybullet_envs")
GYM_NOTICE = "gym_notices"  # prints that gym is unmaintained; it is used because d4rl is written for it
BLOCK_BYTES = 1 << 24  # of what is read through


@contextmanager
def _not_importable(*modules: str) -> Iterator[None]:
    """While it lasts, importing them is an ImportError, except for what is imported already."""
    blocked = [module for module in modules if module not in sys.modules]
    sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]  # None is how Python marks it
    try:
        yield
    finally:
        for module in blocked:
            del sys.modules[module]


try:
    with _not_importable(*OTHER_SIMULATORS, GYM_NOTICE), environment_variable("D4RL_SUPPRESS_IMPORT_ERROR", "1"):
        import d4rl
        import d4rl.gym_mujoco  # `import d4rl` drops it with all MuJoCo environments at the first ImportError
        import gym
except ModuleNotFoundError as error:
    raise InputError(f"expected d4rl and gym ({error}); pip install --no-deps d4rl==1.1 gym==0.26.2") from error
except OSError as error:  # importing d4rl makes its folder
    raise InputError(
        f"{error.filename}: expected a folder for D4RL's files ({error.strerror}); name another in D4RL_DATASET_DIR"
    ) from error

NAMES = tuple(f"{name}-v2" for name in LOCOMOTION)
_DEFAULT_FOLDER = os.path.expanduser("~/.d4rl/datasets")  # as in d4rl.offline_env
# The value of D4RL_DATASET_DIR that d4rl has followed; none if it was imported before the variable was set.
_followed = None if d4rl.offline_env.DATASET_PATH == _DEFAULT_FOLDER else os.environ.get("D4RL_DATASET_DIR")


def dataset_url(name: str, base_url: str | None = None) -> str:
    """Where D4RL publishes the file, or the same file below another base URL, `BASE/gym_mujoco_v2/FILE`."""
    _task(name)
    url: str = d4rl.infos.DATASET_URLS[name]
    if base_url is None:
        return url
    return f"{base_url.rstrip('/')}/{url[url.index('gym_mujoco_v2/') :]}"


def dataset_path(name: str) -> Path:
    """The file's place in d4rl's folder, named as in its URL.

    d4rl reads D4RL_DATASET_DIR only when it is imported. Here a later change of it is passed on to d4rl, so that the
    variable and `d4rl.set_dataset_path` agree: the one that was set last counts.
    """
    global _followed
    wanted = os.environ.get("D4RL_DATASET_DIR")
    if wanted != _followed:
        d4rl.set_dataset_path(wanted or _DEFAULT_FOLDER)
        _followed = wanted
    return Path(d4rl.offline_env.filepath_from_url(dataset_url(name)))


def fetch(name: str, base_url: str | None = None) -> Path:
    """The file's path, downloaded and read through before unless it is there. InputError says what is wrong with it."""
    task, path = _task(name), dataset_path(name)
    if path.exists() and not os.access(path, os.R_OK):
        raise InputError(f"{path}: expected a file that can be read, found: permission denied")
    if not path.exists():
        download(dataset_url(name, base_url), path, partial(_verify, task=task))
        return path
    try:
        _verify(path, task, read_through=False)  # d4rl's own download leaves a broken-off file under its final name
    except InputError as error:
        raise InputError(f"{error}; remove it, and it is downloaded again") from error
    return path


class LocomotionEnv(d4rl.offline_env.OfflineEnv):
    """d4rl's OfflineEnv for one of NAMES over gymnasium's simulator, with gym 0.26's API.

    reset(seed=) seeds it; step returns (observation, reward, terminated, truncated, info). The limit of 1000 steps is
    gym's TimeLimit, which `register` asks for. `simulator` is the gymnasium environment.
    """

    def __init__(self, name: str, base_url: str | None = None) -> None:
        super().__init__(
            dataset_url=dataset_url(name, base_url),
            ref_min_score=d4rl.infos.REF_MIN_SCORE[name],
            ref_max_score=d4rl.infos.REF_MAX_SCORE[name],
        )
        self.name, self.base_url = name, base_url
        self.simulator = _task(name).make().unwrapped
        self.observation_space = _gym_box(self.simulator.observation_space)
        self.action_space = _gym_box(self.simulator.action_space)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        return self.simulator.reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict]:
        """Actions outside [-1, 1] are clipped, as by the NormalizedBoxEnv around d4rl's own environments."""
        return self.simulator.step(np.clip(action, self.action_space.low, self.action_space.high))

    def get_dataset(self, h5path: str | os.PathLike | None = None) -> dict[str, Any]:
        """d4rl's arrays by key, of `h5path` or of the file that `fetch` finds or downloads."""
        return super().get_dataset(h5path=str(h5path or fetch(self.name, self.base_url)))

    def close(self) -> None:
        self.simulator.close()


def register() -> None:
    """Registers NAMES with gym in place of d4rl's own entries, which need mujoco_py."""
    for name in NAMES:
        gym.envs.registration.registry.pop(name, None)  # gym warns of a name that it knows
        gym.register(
            id=name,
            entry_point=f"{__name__}:{LocomotionEnv.__name__}",
            max_episode_steps=1000,
            disable_env_checker=True,  # it uses np.bool8, which NumPy 2 has not
            kwargs={"name": name},
        )


def _task(name: str) -> Task:
    if name not in NAMES:
        raise InputError(f"{name}: expected one of D4RL's names {', '.join(NAMES)}")
    return TASKS[name.split("-")[0]]


def _gym_box(space: Any) -> gym.spaces.Box:
    return gym.spaces.Box(space.low, space.high, dtype=space.dtype)


def _verify(path: Path, task: Task, read_through: bool = True) -> None:
    """Refuses what is no HDF5 file of the task in D4RL's layout, or, read through, has a part that cannot be read."""
    try:
        with opened(path) as file:
            check_layout(file, path, task)
            for key in d4rl.get_keys(file) if read_through else ():
                _read(file[key])
    except (ValueError, TypeError, MemoryError) as error:
        raise damaged(path, error) from error


def _read(item: h5py.Dataset) -> None:
    """Reads all of it in blocks, so that a damaged chunk shows, and keeps nothing.

    Texts are left alone: the HDF5 library can be caught in an endless loop by a damaged one.
    """
    if item.dtype.kind != "O" and item.ndim and item.size:
        rows = max(1, BLOCK_BYTES * len(item) // item.nbytes)
        for start in range(0, len(item), rows):
            item[start : start + rows]


register()
