"""Small behaviour policies that ship with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

EXPLORATION_NOISE = 0.1  # standard deviation, of TD3's training and of all collection; actions are in [-1, 1]
SHIPPED = Path(__file__).parent / "behaviour_policies"


@dataclass(frozen=True)
class BehaviourPolicy:
    """A deterministic tanh policy: ReLU layers given as (weight [out, in], bias [out]), actions in [-1, 1]."""

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """observation [obs_dim] in raw units; returns an action [act_dim]."""
        hidden = observation
        for weight, bias in self.layers[:-1]:
            hidden = np.maximum(weight @ hidden + bias, 0.0)
        weight, bias = self.layers[-1]
        return np.tanh(weight @ hidden + bias)

    def save(self, path: Path, facts: dict[str, str]) -> None:
        """Writes the layers in order; `facts` (environment, training steps, mean return) go into the header."""
        tensors = {}
        for number, (weight, bias) in enumerate(self.layers):
            tensors[f"layers.{number}.weight"] = np.ascontiguousarray(weight, dtype=np.float32)
            tensors[f"layers.{number}.bias"] = np.ascontiguousarray(bias, dtype=np.float32)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata=facts)

    @classmethod
    def load(cls, path: Path) -> BehaviourPolicy:
        # float64, as observations are: a product of both kinds would convert the matrix at every step.
        tensors = {name: value.astype(np.float64) for name, value in load_file(path).items()}
        count = len(tensors) // 2
        return cls(tuple((tensors[f"layers.{n}.weight"], tensors[f"layers.{n}.bias"]) for n in range(count)))
