"""Settings of arithmetic on a device; no part of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dawm.config.fields import setting

Precision = Literal["float32", "tf32", "bf16"]
Compile = Literal["none", "default", "graphs"]


@dataclass(frozen=True, kw_only=True)
class ComputeSettings:
    """How models are trained and sampled from, where a GPU could do better than plain float32."""

    precision: Precision = setting(
        "of matrix products: `tf32` on a GPU with tensor cores, `bf16` mixed precision on either device", "float32"
    )
    compile: Compile = setting(
        "`torch.compile` of the models' networks in training, which needs a C compiler; `graphs`: with CUDA graphs, "
        "which spare a GPU's launches",
        "none",
    )
    learner_graphs: bool = setting("each of a learner's gradient steps on a GPU as one CUDA graph", False)
    device: Literal["auto", "cpu", "cuda"] = setting(
        "where models are trained and sampled from and learners are trained; `auto`: on a GPU where there is one; "
        "`cuda`: a job that finds none fails at once",
        "auto",
    )
    seeds_per_job: int = setting(
        "RL seeds that one process trains side by side; on a GPU as many as there are, on a CPU 1", 1, minimum=1
    )
    evaluation_processes: int = setting(
        "processes, and cores, in which a job's policies are evaluated side by side, at most one for each of its "
        "seeds; for a GPU's job, which would wait for a single core",
        1,
        minimum=1,
    )
