"""An optional term of the denoiser's loss: imagined steps should be steps that some action leads through.

Only a model whose actions are inferred can have it: the action between two imagined states is asked of the inverse
dynamics, what that action does of a forward model, and the distance from there is the term (no paper's; ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dawm.blocks import check_inputs
from dawm.data.sealed import Sealed
from dawm.data.windows import WindowBatch
from dawm.errors import InputError
from dawm.forward_dynamics import ForwardDynamics, load_forward_dynamics
from dawm.inverse_dynamics import InverseDynamics, load_inverse_dynamics
from dawm.world_model.model import WorldModel

LARGEST_SIGMA = 1.0  # beyond it x̂⁰ is a mean over many futures, and a mean of trajectories is none


@dataclass(frozen=True)
class Physics:
    """The two models that judge an imagined step, frozen, with their seals."""

    inverse: InverseDynamics
    forward: ForwardDynamics
    inputs: dict[str, Sealed]

    @classmethod
    def load(cls, data: Sealed, inverse_dynamics: Path | None, forward_dynamics: Path | None, device: str) -> Physics:
        """Refuses models that are missing or were trained on another data set."""
        if inverse_dynamics is None or forward_dynamics is None:
            raise InputError(
                "consistency: needs an inverse and a forward model; give --inverse-dynamics and --forward-dynamics"
            )
        inverse, inverse_seal = load_inverse_dynamics(inverse_dynamics)
        forward, forward_seal = load_forward_dynamics(forward_dynamics)
        inputs = {"inverse_dynamics": inverse_seal, "forward_dynamics": forward_seal}
        check_inputs({"dataset": data, **inputs})
        return cls(inverse.requires_grad_(False).to(device), forward.requires_grad_(False).to(device), inputs)

    def residual(self, model: WorldModel, clean: Tensor, sigma: Tensor, batch: WindowBatch, action: Tensor) -> Tensor:
        """Mean of |ŝ_{i+1} - f(ŝ_i, â_i)| over the real steps of windows x̂⁰ [B, T, C] with σ [B] ≤ 1, in units of the
        data's one-step change; a scalar. â_0 is the action [B, act_dim] that the model was given; where that was hidden
        (NaN) it is inferred, as later ones are: no model can step by an action that it is not told. All on one device.

        f's answer counts as a constant: what is pulled is the successor, towards the step that its own action makes.
        """
        low = sigma <= LARGEST_SIGMA
        first = model.states.decode(batch.rows[low, 0, : model.observation_dim])
        states = model.decode_states(clean[low, :, : model.observation_dim], first)
        observation, successor = states[:, :-1], states[:, 1:]
        with torch.no_grad():
            actions = self.inverse(observation, successor)
            given = model.actions.decode(action[low])
            actions[:, 0] = torch.where(given.isnan(), actions[:, 0], given)
            expected, _ = self.forward(observation, actions)
        mask = batch.mask[low, 1:, : model.observation_dim]
        error = (successor - expected).abs() / self.forward.changes.std
        return (mask * error).sum() / mask.sum().clamp(min=1)
