"""Adam on gradients that are handed over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam


class Adam(torch.optim.Adam):
    """torch's Adam (Kingma & Ba 2015) without what `step` does besides, which takes longer than the arithmetic."""

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float) -> None:
        parameters = list(parameters)
        # A tensor, since a number would be fixed in a CUDA graph for ever.
        super().__init__(parameters, lr=torch.tensor(rate, device=parameters[0].device), fused=True)
        for parameter in parameters:
            self.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    def set_rate(self, rate: float) -> None:
        self.param_groups[0]["lr"].fill_(rate)

    def descend(self, gradients: Sequence[Tensor]) -> None:
        """One step; `gradients` in the order of the parameters."""
        group = self.param_groups[0]
        slots = [self.state[parameter] for parameter in group["params"]]
        beta1, beta2 = group["betas"]
        adam(
            group["params"],
            list(gradients),
            [slot["exp_avg"] for slot in slots],
            [slot["exp_avg_sq"] for slot in slots],
            [],
            [slot["step"] for slot in slots],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )
