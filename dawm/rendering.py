"""Whether MuJoCo can draw here, without a screen."""

from __future__ import annotations

import os
import subprocess
import sys

PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
renderer = mujoco.Renderer(model, 8, 8)
renderer.update_scene(mujoco.MjData(model))
renderer.render()
renderer.close()
"""


def choose_renderer() -> str | None:
    """Sets MUJOCO_GL, which MuJoCo reads when it is imported: as it is, else to EGL, or off where that cannot draw.

    Returns why it cannot, in a sentence, or None. A process of its own tries, since a broken driver may end it.
    """
    backend = os.environ.setdefault("MUJOCO_GL", "egl")
    tried = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    if tried.returncode == 0:
        return None
    os.environ["MUJOCO_GL"] = "off"
    last = (tried.stderr.strip().splitlines() or [f"exit status {tried.returncode}"])[-1]
    return f"MuJoCo cannot draw here (MUJOCO_GL={backend}): {last}"
