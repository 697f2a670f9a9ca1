"""MLPs with two hidden layers, as both papers have them, with their gradients in closed form.

Networks this small spend a third of a gradient step on autograd's bookkeeping and on strides that it leaves behind;
the chain rule of three layers fits below and is tested against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Trace(NamedTuple):
    """What a forward pass leaves behind. Outputs lie feature-major: BLAS is slow where a product has few columns."""

    inputs: Tensor  # [S·m, B, in]
    first: Tensor  # [S·m, B, hidden], after the ReLU
    second: Tensor
    output: Tensor  # [S·m, out, B]


class Layers(NamedTuple):
    """Weights of m MLPs of one shape for each of S seeds; their gradients come in the same form.

    The m networks of a seed lie next to each other and see the same rows.
    """

    weight1: Tensor  # [S·m, in, hidden]
    bias1: Tensor  # [S·m, 1, hidden]
    weight2: Tensor  # [S·m, hidden, hidden]
    bias2: Tensor  # [S·m, 1, hidden]
    weight3: Tensor  # [S·m, out, hidden]: transposed, as the output is
    bias3: Tensor  # [S·m, out, 1]

    def first_of(self, members: int) -> Layers:
        """The first of each seed's `members` MLPs: views of its weights."""
        return Layers(*(values[::members] for values in self))

    def forward(self, x: Tensor) -> Trace:
        """x: [S, B, in]."""
        members = len(self.weight1) // len(x)
        inputs = x[:, None].expand(-1, members, -1, -1).flatten(0, 1)
        first = torch.baddbmm(self.bias1, inputs, self.weight1).relu_()
        second = torch.baddbmm(self.bias2, first, self.weight2).relu_()
        return Trace(inputs, first, second, torch.baddbmm(self.bias3, self.weight3, second.mT))

    def gradient(self, trace: Trace, by_output: Tensor) -> Layers:
        """Derivative of a loss by the weights; by_output: its derivative by the output, [S·m, out, B]."""
        by_first, by_second = self._by_hidden(trace, by_output)
        return Layers(
            torch.bmm(trace.inputs.mT, by_first),
            by_first.sum(1, keepdim=True),
            torch.bmm(trace.first.mT, by_second),
            by_second.sum(1, keepdim=True),
            torch.bmm(by_output, trace.second),
            by_output.sum(2, keepdim=True),
        )

    def input_gradient(self, trace: Trace, by_output: Tensor, start: int) -> Tensor:
        """Derivative of a loss by the inputs from column `start` on, [S·m, in - start, B]."""
        by_first, _ = self._by_hidden(trace, by_output)
        return torch.bmm(self.weight1[:, start:], by_first.mT)

    def _by_hidden(self, trace: Trace, by_output: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives by the two hidden layers before their ReLUs, [S·m, B, hidden] each."""
        by_second = _through_relu(torch.bmm(by_output.mT, self.weight3), trace.second)
        return _through_relu(torch.bmm(by_second, self.weight2.mT), trace.first), by_second


def _through_relu(gradient: Tensor, activation: Tensor) -> Tensor:
    """In place: fresh memory for a product as large as this one costs more than the masking."""
    return torch.ops.aten.threshold_backward.grad_input(gradient, activation, 0, grad_input=gradient)


class MLPs(nn.Module):
    """Holds `Layers` as parameters, drawn as torch.nn.Linear draws them; autograd never sees them."""

    def __init__(self, chance: Sequence[torch.Generator], members: int, inputs: int, hidden: int, outputs: int) -> None:
        """chance: a generator for each seed, so that its weights do not depend on who learns beside it."""
        super().__init__()
        self.seeds = len(chance)

        def drawn(fan_in: int, *shape: int) -> nn.Parameter:
            bound = 1 / math.sqrt(fan_in)
            parts = [torch.empty(members, *shape).uniform_(-bound, bound, generator=one) for one in chance]
            return nn.Parameter(torch.cat(parts), requires_grad=False)

        self.layers = Layers(
            drawn(inputs, inputs, hidden),
            drawn(inputs, 1, hidden),
            drawn(hidden, hidden, hidden),
            drawn(hidden, 1, hidden),
            drawn(hidden, outputs, hidden),
            drawn(hidden, outputs, 1),
        )
        for name, values in self.layers._asdict().items():
            self.register_parameter(name, values)

    def forward(self, x: Tensor) -> Tensor:
        """x: [S, B, in]; returns [S·m, out, B]."""
        return self.layers.forward(x).output
