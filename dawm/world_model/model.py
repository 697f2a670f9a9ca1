"""The world model as one object: denoiser, schedule and normalizers; raw units in, raw units out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dawm.config import WorldModelSettings
from dawm.data.normalizers import ActionScaler, MinMaxScaler, Standardizer
from dawm.world_model.denoisers import ResidualDenoiser
from dawm.world_model.samplers import SAMPLERS
from dawm.world_model.schedule import cosine_schedule


@dataclass(frozen=True)
class Imagined:
    """Sampled windows, raw units: states [B, T, obs_dim] with the given s_t in row 0, rewards [B, T - 1],
    terminals [B, T - 1]: whether the episode had ended when state i + 1 was reached."""

    states: Tensor
    rewards: Tensor
    terminals: Tensor


class WorldModel(nn.Module):
    """p(r_t, s_{t+1}, …, s_{t+T-1} | s_t, a_t, g_t), with everything that is needed to sample from it."""

    def __init__(self, settings: WorldModelSettings, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.settings = settings
        self.observation_dim, self.channels = observation_dim, observation_dim + 2
        self.schedule = cosine_schedule(settings.diffusion_steps)
        self.states = Standardizer(observation_dim)
        self.rewards = MinMaxScaler()
        self.actions = ActionScaler(action_dim)
        self.register_buffer("return_scale", torch.tensor(1.0))
        self.denoiser = ResidualDenoiser(settings.window, self.channels, action_dim, settings.hidden, settings.blocks)

    return_scale: Tensor

    def predict_clean(self, noisy: Tensor, level: int, action: Tensor, return_to_go: Tensor, known: Tensor) -> Tensor:
        """x̂⁰ [B, T, C] from the denoiser's prediction, whichever it was trained for."""
        noise_level = torch.full((len(noisy),), level / self.schedule.levels, device=noisy.device)
        predicted = self.denoiser(noisy, noise_level, action, return_to_go, known)
        if self.settings.prediction == "noise":
            return self.schedule.clean_from_noise(noisy, predicted, level)
        return predicted

    @torch.inference_mode()
    def sample(
        self,
        state: Tensor,
        action: Tensor,
        return_to_go: Tensor,
        noise: Tensor,
        *,
        sampler: str,
        guidance: float,
        temperature: float,
    ) -> Imagined:
        """state [B, obs_dim], action [B, act_dim], return_to_go [B] (NaN: unconditional), noise [N, B, T, C].

        Classifier-free guidance, x̂⁰ = x̂⁰_∅ + ω (x̂⁰_g - x̂⁰_∅): linear, so the same as in ε (Ho & Salimans 2022,
        eq. 6). Predictions are kept in the data's range, as Diffuser's clip_denoised does.
        """
        given, action = self.states.encode(state), self.actions.encode(action)
        known = ~return_to_go.isnan()
        wanted = (return_to_go / self.return_scale).nan_to_num(0.0)
        low, high = self._range()

        def denoise(noisy: Tensor, level: int) -> Tensor:
            noisy = impose(noisy, given)
            both = self.predict_clean(
                noisy.repeat(2, 1, 1),
                level,
                action.repeat(2, 1),
                wanted.repeat(2),
                torch.cat([known, torch.zeros_like(known)]),
            )
            conditional, unconditional = both.chunk(2)
            clean = unconditional + guidance * (conditional - unconditional)
            return impose(torch.minimum(torch.maximum(clean, low), high), given)

        rows = SAMPLERS[sampler](denoise, noise, self.schedule, temperature)
        states = torch.cat([state[:, None], self.states.decode(rows[:, 1:, : self.observation_dim])], dim=1)
        return Imagined(states, self.rewards.decode(rows[:, :-1, -2]), rows[:, 1:, -1] > 0)

    def _range(self) -> tuple[Tensor, Tensor]:
        low, high = self.states.encoded_range()
        one = torch.ones(2, device=low.device)
        return torch.cat([low, -one]), torch.cat([high, one])

    def facts(self) -> dict[str, Any]:
        return {"observation_dim": self.observation_dim, "parameters": sum(p.numel() for p in self.parameters())}


def impose(rows: Tensor, state: Tensor) -> Tensor:
    """The window with s_t [B, obs_dim] back in row 0 (Ding et al. 2024, alg. 20)."""
    first = torch.cat([state, rows[:, 0, state.shape[1] :]], dim=1)
    return torch.cat([first[:, None], rows[:, 1:]], dim=1)
