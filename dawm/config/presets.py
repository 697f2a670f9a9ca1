"""Named presets of learners: what others changed for single data sets, so that their tables can be repeated."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from dawm.config.learners import IQLSettings, LearnerSettings

CORL_IQL: dict[str, Any] = {
    "normalize_observations": True,
    "normalize_rewards": False,
    "target_rate": 0.005,
    "expectile": 0.7,
    "inverse_temperature": 3.0,
    "actor": "gaussian",
}
"""CORL's configs of IQL for locomotion (Tarasov et al. 2023, configs/offline/iql)."""
_SMALL_STEPS = {"actor": "deterministic", "target_rate": 0.001, "normalize_rewards": True}
CORL_IQL_EXCEPTIONS: dict[str, dict[str, Any]] = {
    "hopper-medium": _SMALL_STEPS,
    "hopper-medium-replay": _SMALL_STEPS,
    "hopper-medium-expert": {"inverse_temperature": 6.0, "expectile": 0.5},
}


def with_preset(settings: LearnerSettings, source: str) -> LearnerSettings:
    """The settings with what their preset says for a data set's source: `d4rl/hopper-medium-v2`, or that file."""
    if not isinstance(settings, IQLSettings) or settings.preset == "none":
        return settings
    file = re.split("[/:]", source)[-1]
    name = re.sub(r"-v\d+$", "", file.removesuffix(".hdf5").replace("_", "-"))
    return dataclasses.replace(settings, **(CORL_IQL | CORL_IQL_EXCEPTIONS.get(name, {})))
