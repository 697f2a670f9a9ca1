"""Diagonal Gaussians with learned deviations: soft bounds of these, and likelihoods, plain and censored."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

LOG_STD = (-5.0, 1.0)
"""Of standardised values: under a deterministic simulator the likelihood has no maximum, σ would go to 0."""
EDGE = 0.999
"""Actions scaled to ±1 count as clipped from here on."""


def bounded_log_std(raw: Tensor) -> Tensor:
    """A network's output, any real number, as log σ within LOG_STD; soft, so that gradients do not end at a bound
    (Chua et al. 2018, appendix A.1; their bounds are learned, these are fixed)."""
    low, high = LOG_STD
    return low + softplus(high - softplus(high - raw) - low)


def negative_log_likelihood(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """-log N(value; mean, σ²), elementwise, in nats."""
    return 0.5 * ((value - mean) / log_std.exp()).square() + log_std + 0.5 * math.log(2 * math.pi)


def censored_negative_log_likelihood(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """The same for a Gaussian that was clipped to [-1, 1]: at a bound counts the mass beyond it (Tobin 1958).

    That is how exploration noise makes actions: a clip leaves a share of them on the bounds, which no density has.
    """
    std = log_std.exp()
    above, below = -torch.special.log_ndtr((mean - 1) / std), -torch.special.log_ndtr((-1 - mean) / std)
    inside = negative_log_likelihood(value, mean, log_std)
    return torch.where(value >= EDGE, above, torch.where(value <= -EDGE, below, inside))
