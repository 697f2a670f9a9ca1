"""Acting by imagining: Decision Diffuser's planner (Ajay et al. 2023, alg. 1) from DAWM's own two models."""

from __future__ import annotations

import time

import numpy as np
import torch

from dawm.config import SynthesisSettings
from dawm.errors import InputError
from dawm.inverse_dynamics import InverseDynamics, infer
from dawm.randomness import generator
from dawm.synthesis import imagine
from dawm.world_model.model import WorldModel


class Planner:
    """A policy: at each step, a window from the current state with the return asked for and no action given; the
    inverse dynamics infers what leads to the first imagined state.

    The request stays as it is, as Decision Diffuser's: a discounted return-to-go hardly changes along an even gait.
    """

    def __init__(
        self,
        world_model: WorldModel,
        inverse_dynamics: InverseDynamics,
        settings: SynthesisSettings,
        return_to_go: float,
        seed: int,
    ) -> None:
        """return_to_go: what is asked for, raw reward, discounted as the model's. settings: how windows are sampled."""
        if not world_model.settings.plans:
            raise InputError("action_dropout: expected more than 0 in a world model that is to plan, found 0")
        self.world_model, self.inverse_dynamics, self.settings = world_model, inverse_dynamics, settings
        self.return_to_go, self.seed = return_to_go, seed
        self.decisions, self.cpu_seconds = 0, 0.0
        self._step = 0

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """observations [B, obs_dim], raw units → actions float32 [B, act_dim]; one call for each step of B episodes."""
        begun = time.process_time()
        count = len(observations)
        model = self.world_model
        state = torch.from_numpy(observations.astype(np.float32))
        unknown = torch.full((count, len(self.inverse_dynamics.actions.low)), torch.nan)
        wanted = torch.full((count,), self.return_to_go)
        shape = (self.settings.sampling_steps, count, model.settings.window, model.channels)
        noise = generator(self.seed, "planner", self._step).standard_normal(shape, dtype=np.float32)
        states = imagine(model, self.settings, state, unknown, wanted, torch.from_numpy(noise)).states
        actions = infer(self.inverse_dynamics, state, states[:, 1]).numpy()
        self._step += 1
        self.decisions += count
        self.cpu_seconds += time.process_time() - begun
        return actions
