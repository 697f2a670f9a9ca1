"""Value expansion: imagined rollouts written as n-step transitions from their real starts.

DWM (Ding et al. 2024, Diff-MVE) bootstraps a critic's target for a real (s, a) after n imagined steps. As rows of the
transitions table those targets need no learner of their own: reward Σ_{k<n} γ^k r̂_k, successor ŝ_n, discount γ^(n-1) (0
after a terminal), which a learner with the same γ multiplies by γ.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dawm.config import ExpansionSettings
from dawm.correction import Steps
from dawm.philox import WORD, noise_key, philox


def spans(settings: ExpansionSettings, seed: int, source_row: Tensor, draw: Tensor) -> Tensor:
    """How many steps each trajectory's transition spans, int64 [B]; source_row, draw [B] say which trajectory it is.

    With a weight λ, n is drawn so that the mean target is the λ-return up to N = `steps` (Sutton & Barto 2018, eq.
    12.9): P(n) = (1 - λ) λ^(n-1) for n < N, and λ^(N-1) for N.
    """
    if settings.weight is None:
        return torch.full_like(source_row, settings.steps)
    zero = torch.zeros_like(source_row)
    counter = (zero, source_row & WORD, source_row >> 32, draw)
    word = philox(counter, noise_key(seed, "expansion"))[0]
    reached = settings.weight ** torch.arange(1, settings.steps, device=word.device)  # P(n > 1), P(n > 2), …
    return 1 + ((word * 2.0**-32)[:, None] < reached).sum(1)


def expanded(steps: Steps, stay: Tensor, span: Tensor, discount: float) -> tuple[Steps, Tensor, np.ndarray]:
    """One transition per trajectory: over its first `span` steps, or as many as stay in a row from the first on.

    stay: bool [B, S]; span: [B]. Returns Steps of length 1, which of them there are [B, 1] (those whose first step
    stays), and γ^(n-1) of these, [rows].
    """
    unbroken = stay.long().cumprod(1)
    n = torch.minimum(unbroken.sum(1), span)
    place = torch.arange(stay.shape[1], device=stay.device)
    weights = torch.where(place < n[:, None], discount**place, 0.0)
    last = (n - 1).clamp_(min=0)
    rows = torch.arange(len(n), device=n.device)

    def first(values: Tensor) -> Tensor:
        return values[:, :1]

    def at_last(values: Tensor) -> Tensor:
        return values[rows, last][:, None]

    whole = Steps(
        first(steps.observation),
        first(steps.action),
        (weights * steps.reward).sum(1, keepdim=True).float(),
        at_last(steps.next_observation),
        at_last(steps.terminal),
        at_last(steps.ended),
        steps.padding,
    )
    there = n > 0
    return whole, there[:, None], (discount ** last[there]).cpu().numpy()
