"""How a device computes: in which precision, and whether networks are compiled. Flags of stages, no part of a recipe.

Parameters, optimizers, normalizers and losses stay float32 whatever is chosen; what changes is the arithmetic of matrix
products (and with bf16 of what lies between them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dawm.config import Compile, Precision


@dataclass(frozen=True)
class Compute:
    """A device and what it was asked for; part of a training's digest, since it decides the bits of its result."""

    device: str = "cpu"
    precision: Precision = "float32"
    compile: Compile = "none"

    def arithmetic(self) -> AbstractContextManager[object]:
        """Within it, products are computed as was asked for; TF32 is the process's own switch and stays."""
        tf32 = self.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    def prepare(self, networks: Iterable[nn.Module | None]) -> None:
        """Compiles them in place, so that their weights keep their names; nothing happens before their first call."""
        if self.compile == "none":
            return
        mode = "reduce-overhead" if self.compile == "graphs" and self.device == "cuda" else "default"
        for network in networks:
            if network is not None:
                compiled = torch.compile(network.forward, mode=mode, dynamic=False)
                network.forward = kept(compiled)  # type: ignore[method-assign]

    def seed(self, value: int) -> None:
        """For what torch draws on the device, dropout, at every step; `torch.manual_seed` would look for other devices
        each time."""
        torch.default_generator.manual_seed(value)
        if self.device == "cuda":
            torch.cuda.manual_seed(value)

    @property
    def identity(self) -> str:
        """For a training's digest; plain float32 is the device's name alone."""
        plain = self == Compute(self.device)
        return self.device if plain else "/".join([self.device, self.precision, self.compile])


def kept(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """The same, with outputs of its own: those of a CUDA graph are gone at the next call of any compiled network."""

    def own(found: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        return found.clone() if isinstance(found, Tensor) else tuple(one.clone() for one in found)

    return lambda *inputs: own(compiled(*inputs))


CPU = Compute()
