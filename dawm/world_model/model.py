"""The world model as one object: denoiser, preconditioning and normalizers; raw units in, raw units out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dawm.config import WorldModelSettings
from dawm.data.cdf_normalizer import CDFNormalizer
from dawm.data.normalizers import ActionScaler, MinMaxScaler, Standardizer
from dawm.world_model.denoisers import make_denoiser
from dawm.world_model.preconditioning import PRECONDITIONINGS, Coefficients
from dawm.world_model.samplers import SAMPLERS
from dawm.world_model.schedule import cosine_sigmas, karras_sigmas

NORMALIZERS: dict[str, type[Standardizer] | type[CDFNormalizer]] = {"standard": Standardizer, "cdf": CDFNormalizer}


@dataclass(frozen=True)
class Imagined:
    """Sampled windows, raw units: states [B, T, obs_dim], with the given s_t in row 0 if the model is conditional,
    rewards [B, T - 1], terminals [B, T - 1]: whether the episode had ended when state i + 1 was reached; actions
    [B, T - 1, act_dim] of a joint model, with the given a_t first if it is conditional, else None."""

    states: Tensor
    rewards: Tensor
    terminals: Tensor
    actions: Tensor | None = None


@dataclass(frozen=True)
class Condition:
    """What B windows are conditioned on, in the model's units.

    first [B, G]: the clean leading channels of row 0, G = 0 for an unconditional model; action [B, act_dim];
    return_to_go [B], read where known [B].
    """

    first: Tensor
    action: Tensor
    return_to_go: Tensor
    known: Tensor

    def with_and_without_return(self) -> Condition:
        """2 B windows: as they are, then with the return-to-go hidden."""
        return Condition(
            self.first.repeat(2, 1),
            self.action.repeat(2, 1),
            self.return_to_go.repeat(2),
            torch.cat([self.known, torch.zeros_like(self.known)]),
        )


class WorldModel(nn.Module):
    """p(r_t, s_{t+1}, …, s_{t+T-1} | s_t, a_t, g_t), with everything that is needed to sample from it.

    `actions: joint` generates a_{t+1}, … too; `conditional: false` generates all of it, s_t and a_t included. Channels
    of a row are [state, action (joint), reward, terminal]; `successors: changes` puts s_i - s_{i-1} in place of the
    state into every row but the first.
    """

    def __init__(self, settings: WorldModelSettings, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.settings = settings
        self.observation_dim = observation_dim
        self.joint = settings.joint
        self.leading = observation_dim + (action_dim if self.joint else 0)  # states, and actions if joint
        self.channels = self.leading + 2
        self.given = self.leading if settings.conditional else 0  # channels of row 0 that are imposed
        self.register_buffer("shown", self.shown_channels(), persistent=False)
        self.states = NORMALIZERS[settings.normalizer](observation_dim)
        changes = settings.successors == "changes"
        self.changes = NORMALIZERS[settings.normalizer](observation_dim) if changes else None
        self.rewards = MinMaxScaler()
        self.actions = ActionScaler(action_dim)
        self.register_buffer("return_scale", torch.tensor(1.0))
        self.denoiser = make_denoiser(settings, self.channels, action_dim)

    return_scale: Tensor
    shown: Tensor

    def shown_channels(self) -> Tensor:
        """What the network sees, 0 or 1, [T, C]. Some channels are no target: row 0's terminal, the last row's reward
        and action. In training they hold data, in sampling whatever the network makes of them. An unconditional model,
        of whose few rows they tell much, does not see them; for others it makes no difference (docs/decisions.md).
        """
        shown = torch.ones(self.settings.window, self.channels)
        if not self.settings.conditional:
            shown[0, -1] = 0
            shown[-1, self.observation_dim : -1] = 0
        return shown

    def sigmas(self, steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
        """The noise levels of sampling that belong to the training's: EDM's, or N ≤ K of the cosine schedule's."""
        if self.settings.preconditioning == "edm":
            return karras_sigmas(steps, sigma_min, sigma_max, rho)
        return cosine_sigmas(self.settings.diffusion_steps, steps)

    def network(self, noisy: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Coefficients]:
        """F(c_in x; c_noise) [B, T, C] and the coefficients [B, 1, 1]; noisy x [B, T, C], sigma [B]."""
        coefficients = PRECONDITIONINGS[self.settings.preconditioning](sigma[:, None, None], self.states.SPREAD)
        rows = impose(coefficients.c_in * noisy * self.shown, condition.first)
        level = coefficients.c_noise.flatten()
        return self.denoiser(rows, level, condition.action, condition.return_to_go, condition.known), coefficients

    def denoise(
        self, noisy: Tensor, sigma: float, condition: Condition, guidance: float, bounds: tuple[Tensor, Tensor]
    ) -> Tensor:
        """x̂⁰ [B, T, C] from x [B, T, C] at noise level σ, kept within bounds [T, C], with what is given put back.

        Classifier-free guidance, x̂⁰ = x̂⁰_∅ + ω (x̂⁰_g - x̂⁰_∅): linear, so the same as in ε (Ajay et al. 2023, alg. 1).
        Ho & Salimans (2022, eq. 6) count from x̂⁰_g: their w is ω - 1. ω = 1 needs x̂⁰_g alone, at half the cost.
        """
        guided = self.settings.conditional and guidance != 1
        if guided:
            noisy, condition_of_both = noisy.repeat(2, 1, 1), condition.with_and_without_return()
        else:
            condition_of_both = condition
        output, coefficients = self.network(noisy, noisy.new_full((len(noisy),), sigma), condition_of_both)
        clean = coefficients.denoised(noisy, output)
        if guided:
            conditional, unconditional = clean.chunk(2)
            clean = unconditional + guidance * (conditional - unconditional)
        low, high = bounds
        return impose(torch.minimum(torch.maximum(clean, low), high), condition.first)

    def condition(self, first: Tensor, action: Tensor, return_to_go: Tensor, known: Tensor) -> Condition:
        """From row 0 [B, ≥ given channels] and action in the model's units, return_to_go [B] in raw reward."""
        if not self.settings.conditional:
            action, known = torch.zeros_like(action), torch.zeros_like(known)
        return Condition(first[:, : self.given], action, return_to_go / self.return_scale, known)

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
        sigmas: Tensor | None = None,
    ) -> Imagined:
        """state [B, obs_dim], action [B, act_dim] (NaN: not given), return_to_go [B] (NaN: unknown),
        noise [N, B, T, C], sigmas [N + 1].

        Predictions are kept in the data's range, as Diffuser's clip_denoised does. An unconditional model does not
        look at state, action and return_to_go.
        """
        scaled = self.actions.encode(action)
        first = torch.cat([self.states.encode(state), scaled], dim=1)
        condition = self.condition(first, scaled, return_to_go.nan_to_num(0.0), ~return_to_go.isnan())
        bounds = self.encoded_range()
        rows = SAMPLERS[sampler](
            lambda noisy, sigma: self.denoise(noisy, sigma, condition, guidance, bounds),
            noise,
            self.sigmas(len(noise)) if sigmas is None else sigmas,
            temperature,
        )
        states = self.decode_states(rows[..., : self.observation_dim], state)
        actions = self.actions.decode(rows[:, :-1, self.observation_dim : self.leading]) if self.joint else None
        if self.settings.conditional and actions is not None:  # exactly as given
            actions = torch.cat([action[:, None], actions[:, 1:]], dim=1)
        return Imagined(states, self.rewards.decode(rows[:, :-1, -2]), rows[:, 1:, -1] > 0, actions)

    def decode_states(self, rows: Tensor, state: Tensor) -> Tensor:
        """rows [B, T, obs_dim] in the model's units → raw states; row 0 as given if the model is conditional."""
        first = state[:, None] if self.settings.conditional else self.states.decode(rows[:, :1])
        if self.changes is None:
            return torch.cat([first, self.states.decode(rows[:, 1:])], dim=1)
        return torch.cat([first, self.changes.decode(rows[:, 1:])], dim=1).cumsum(1)

    def encoded_range(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of the data in the model's units, each [T, C]."""
        later = self.states if self.changes is None else self.changes
        one = torch.ones(self.settings.window, self.channels - self.observation_dim, device=self.return_scale.device)
        low, high = (
            torch.stack([first] + (self.settings.window - 1) * [after])
            for first, after in zip(self.states.encoded_range(), later.encoded_range(), strict=True)
        )
        return torch.cat([low, -one], dim=1), torch.cat([high, one], dim=1)

    def facts(self) -> dict[str, Any]:
        facts = {"observation_dim": self.observation_dim, "parameters": sum(p.numel() for p in self.parameters())}
        return facts if self.settings.conditional else {**facts, "hidden_channels": int((self.shown == 0).sum())}


def impose(rows: Tensor, given: Tensor) -> Tensor:
    """The window with what is given [B, G] back in row 0's first channels (Ding et al. 2024, alg. 20)."""
    first = torch.cat([given, rows[:, 0, given.shape[1] :]], dim=1)
    return torch.cat([first[:, None], rows[:, 1:]], dim=1)
