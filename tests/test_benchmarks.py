"""The benchmarks run and count what they say; their numbers are the machine's."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch

from dawm.compute import Compute
from dawm.config import ComputeSettings

ROOT = Path(__file__).resolve().parents[1]


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def world_model() -> ModuleType:
    return load("world_model")


def test_samplers_are_counted_in_transitions_flops_and_share_of_peak(
    world_model: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world_model, "ROUNDS", 1)
    monkeypatch.setitem(world_model.BLOCK, "cpu", 32)
    bf16 = Compute("cpu", ComputeSettings(precision="bf16"))
    plain, guided = list(world_model.cases())[:2]
    rows = world_model.measure_samplers("cpu", [plain, guided, dataclasses.replace(guided, compute=bf16)])
    samplers, peaks = rows[:3], rows[3:]
    assert [row["what"] for row in rows] == 3 * ["sampler"] + 2 * ["peak"]
    assert guided.guidance != 1 == plain.guidance
    assert samplers[1]["flops_per_transition"] == pytest.approx(2 * samplers[0]["flops_per_transition"], rel=1e-6)
    window, channels, hidden = 8, 13, 128
    inputs = window * channels + 96
    network = 2 * (inputs * hidden + 3 * 2 * hidden**2 + hidden * window * channels)
    embeddings = 2 * (3 * 32 * 32 + 1 * 32 + 32 * 32 + 3 * 32)
    assert samplers[0]["flops_per_transition"] == pytest.approx(3 * (network + embeddings) / (window - 1), rel=0.02)
    for row in samplers:
        peak = next(found for found in peaks if found["precision"] == row["precision"])["flops_per_second"]
        assert row["share_of_peak"] == pytest.approx(row["transitions_per_second"] * row["flops_per_transition"] / peak)
    assert samplers[0]["deviation"] == samplers[1]["deviation"] == 0 < samplers[2]["deviation"] < 1
    assert world_model.table(rows, "CPU-second").count("\n| residual") == 3


def test_a_gpu_is_asked_for_every_case_and_for_each_arithmetic(world_model: ModuleType) -> None:
    found = list(world_model.cases_on_a_gpu())
    assert {case.compute.device for case in found} == {"cuda"}
    ways = {(case.denoiser, case.compute.settings.precision, case.compute.settings.compile) for case in found}
    assert len(ways) == 12
    plain = [dataclasses.replace(case, compute=Compute()) for case in found if case.compute.identity == "cuda"]
    assert plain == list(world_model.cases())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "command", [["sh", "benchmarks/gpu.sh"], [sys.executable, "benchmarks/world_model.py", "--device", "cuda"]]
)
def test_without_a_gpu_the_gpu_benchmarks_say_so(command: list[str]) -> None:
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2 and "torch sees no GPU here" in run.stderr


def test_frontier_is_what_nothing_beats_in_both() -> None:
    load("world_model")
    study = load("cost_study")
    cost, error = pd.Series([1.0, 2.0, 3.0, 4.0, 2.0]), pd.Series([4.0, 2.0, 2.5, 1.0, 2.0])
    assert study.frontier(cost, error) == [True, True, False, True, True]
