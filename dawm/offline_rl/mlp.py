"""MLPs with two hidden layers, as both papers have them, with their gradients in closed form.

Networks this small spend a third of a gradient step on autograd's bookkeeping and on strides that it leaves behind;
the chain rule of three layers fits below and is tested against it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Trace(NamedTuple):
    """What a forward pass leaves behind. Outputs lie feature-major: BLAS is slow where a product has few columns."""

    inputs: Tensor  # [members, B, in]
    first: Tensor  # [members, B, hidden], after the ReLU
    second: Tensor
    output: Tensor  # [members, out, B]


class Layers(NamedTuple):
    """Weights of `members` MLPs of one shape, which see the same rows; their gradients come in the same form."""

    weight1: Tensor  # [members, in, hidden]
    bias1: Tensor  # [members, 1, hidden]
    weight2: Tensor  # [members, hidden, hidden]
    bias2: Tensor  # [members, 1, hidden]
    weight3: Tensor  # [members, out, hidden]: transposed, as the output is
    bias3: Tensor  # [members, out, 1]

    def member(self, number: int) -> Layers:
        """One MLP alone: views of its weights."""
        return Layers(*(values[number : number + 1] for values in self))

    def forward(self, x: Tensor) -> Trace:
        """x: [B, in]."""
        inputs = x.expand(len(self.weight1), -1, -1)
        first = torch.baddbmm(self.bias1, inputs, self.weight1).relu_()
        second = torch.baddbmm(self.bias2, first, self.weight2).relu_()
        return Trace(inputs, first, second, torch.baddbmm(self.bias3, self.weight3, second.mT))

    def gradient(self, trace: Trace, by_output: Tensor) -> Layers:
        """Derivative of a loss by the weights; by_output: its derivative by the output, [members, out, B]."""
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
        """Derivative of a loss by the inputs from column `start` on, [members, in - start, B]."""
        by_first, _ = self._by_hidden(trace, by_output)
        return torch.bmm(self.weight1[:, start:], by_first.mT)

    def _by_hidden(self, trace: Trace, by_output: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives by the two hidden layers before their ReLUs, [members, B, hidden] each."""
        by_second = _through_relu(torch.bmm(by_output.mT, self.weight3), trace.second)
        return _through_relu(torch.bmm(by_second, self.weight2.mT), trace.first), by_second


def _through_relu(gradient: Tensor, activation: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(gradient, activation, 0)


class MLPs(nn.Module):
    """Holds `Layers` as parameters, drawn as torch.nn.Linear draws them; autograd never sees them."""

    def __init__(self, members: int, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()

        def drawn(fan_in: int, *shape: int) -> nn.Parameter:
            bound = 1 / math.sqrt(fan_in)
            return nn.Parameter(torch.empty(members, *shape).uniform_(-bound, bound), requires_grad=False)

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
        """x: [B, in]; returns [members, out, B]."""
        return self.layers.forward(x).output
