"""CUDA graphs: a gradient step of small networks is a hundred launches that cost more than their arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dawm.checkpoints import State

GradientStep = Callable[[Tensor, Tensor, int], Mapping[str, Tensor]]
"""(row numbers, noise, step) → metrics; changes the learner's state."""
WARM_UP = 3


class GraphedSteps:
    """A gradient step as one launch: recorded at the first call and replayed on the inputs of each.

    Steps differ by step modulo `period` alone. The metrics that are returned are overwritten by the next replay.
    """

    def __init__(self, gradient_step: GradientStep, state: State, period: int) -> None:
        self.gradient_step, self.state, self.period = gradient_step, state, period
        self.inputs: tuple[Tensor, Tensor] | None = None
        self.graphs: list[tuple[torch.cuda.CUDAGraph, Mapping[str, Tensor]]] = []

    def __call__(self, numbers: Tensor, noise: Tensor, step: int) -> Mapping[str, Tensor]:
        if self.inputs is None:
            self.inputs = numbers.clone(), noise.clone()
            self._record(*self.inputs)
        self.inputs[0].copy_(numbers)
        self.inputs[1].copy_(noise)
        graph, metrics = self.graphs[step % self.period]
        graph.replay()
        return metrics

    def _record(self, numbers: Tensor, noise: Tensor) -> None:
        """Records on warm libraries and gives the state back what the warm-up has changed."""
        before = {name: value.clone() for name, value in self.state.tensors().items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for phase in range(WARM_UP * self.period):
                self.gradient_step(numbers, noise, phase % self.period)
        torch.cuda.current_stream().wait_stream(side)
        for phase in range(self.period):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                metrics = self.gradient_step(numbers, noise, phase)
            self.graphs.append((graph, metrics))
        for name, value in self.state.tensors().items():
            value.copy_(before[name])
