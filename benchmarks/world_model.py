"""What synthetic transitions cost: samplers, then the whole stage `synthesize`, in Hopper's dimensions.

    python benchmarks/world_model.py                  # prints a table
    python benchmarks/world_model.py --device cuda    # the samplers on a GPU, in seconds instead of CPU-seconds
    python benchmarks/world_model.py --large          # also memory: one and five million transitions (minutes)

Writes results/published/benchmarks/world_model-DEVICE.json. Where dawm is not installed, set PYTHONPATH=. first.

Rates do not depend on weights, so the samplers' networks are untrained. A sampler's noise is made as in the stage, by
the counter-based generator. Every sampler takes its turn in every round, so that a busy machine slows all of them
alike; the median of the rounds is kept. FLOPs are counted by torch, two per multiply-add of matrix products and
convolutions; the peak is the best of square float32 products on the same core or GPU (TF32 ones there, too). On a GPU
each network is also sampled from in TF32, bf16 and with CUDA graphs; `deviation` is the largest difference of a state
from plain float32, in standard deviations.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from measuring import PUBLISHED, child, clock, matrix_peak, write_results
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dawm.compute import CPU, Compute
from dawm.config import WorldModelSettings
from dawm.world_model.model import WorldModel
from dawm.world_model.noise import trajectory_noise

OBSERVATION_DIM, ACTION_DIM, WINDOW = 11, 3, 8
BLOCK = {"cpu": 256, "cuda": 65_536}
ROUNDS = 7
RECIPE = {
    "world_model": {"diffusion_steps": 5, "hidden": 384, "blocks": 3, "gradient_steps": 500},
    "inverse_dynamics": {"hidden": 512, "gradient_steps": 500},
    "forward_dynamics": {"hidden": 384, "gradient_steps": 500},
    "synthesis": {"sampling_steps": 3, "correction": {"mode": "correct", "terminals": "function"}},
}  # config/pilot.yaml's `dawm`, trained just so long that windows do not end at once


@dataclass(frozen=True)
class Case:
    """One network and the way it is sampled from."""

    denoiser: str
    size: str
    sampler: str
    steps: int
    guidance: float
    settings: WorldModelSettings
    compute: Compute = CPU


def cases() -> Iterator[Case]:
    residual = {"128 × 3": (128, 3), "256 × 2": (256, 2), "384 × 3": (384, 3), "512 × 3": (512, 3)}
    for size, (hidden, blocks) in residual.items():
        settings = WorldModelSettings(window=WINDOW, diffusion_steps=5, hidden=hidden, blocks=blocks)
        for guidance in (1.0, 1.2):
            yield Case("residual", size, "ddpm", 3, guidance, settings)
        if size == "384 × 3":
            yield Case("residual", size, "ddpm", 5, 1.2, settings)
            yield Case("residual", size, "ddim", 3, 1.2, settings)
            edm = WorldModelSettings(window=WINDOW, preconditioning="edm", hidden=hidden, blocks=blocks)
            yield Case("residual", size, "dpmpp_2m", 20, 1.2, edm)
    for channels in ((32, 64), (64, 128)):
        settings = WorldModelSettings(window=WINDOW, diffusion_steps=5, denoiser="unet", unet_channels=channels)
        yield Case("unet", " / ".join(map(str, channels)), "ddpm", 3, 1.2, settings)


def cases_on_a_gpu() -> Iterator[Case]:
    """Every case in plain float32, and the networks of the recommended recipe and of the paper in all other ways."""
    for case in cases():
        ways = [("float32", "none")]
        if (case.size, case.sampler, case.steps, case.guidance) in (
            ("384 × 3", "ddpm", 3, 1.2),
            ("64 / 128", "ddpm", 3, 1.2),
        ):
            ways = [(precision, how) for precision in ("float32", "tf32", "bf16") for how in ("none", "graphs")]
        for precision, how in ways:
            compute = Compute("cuda", precision, how)  # type: ignore[arg-type]
            yield dataclasses.replace(case, compute=compute)


# --- samplers -----------------------------------------------------------------------------------------------------


def sampler_of(case: Case) -> Callable[[], Tensor]:
    """One block of windows, from starts that lie on the device."""
    torch.manual_seed(0)
    device = case.compute.device
    model = WorldModel(case.settings, OBSERVATION_DIM, ACTION_DIM).to(device).eval()
    case.compute.prepare([model.denoiser])
    block = BLOCK[device]
    state, action = torch.randn(block, OBSERVATION_DIM), torch.rand(block, ACTION_DIM)
    given = (state.to(device), action.to(device), torch.ones(block, device=device))
    rows, draws = torch.arange(block, device=device), torch.zeros(block, dtype=torch.int64, device=device)
    shape = (case.steps, WINDOW, model.channels)

    def sample() -> Tensor:
        with case.compute.arithmetic():
            noise = trajectory_noise(0, rows, draws, shape)
            found = model.sample(*given, noise, sampler=case.sampler, guidance=case.guidance, temperature=0.5)
        if device == "cuda":
            torch.cuda.synchronize()
        return found.states

    return sample


def measure_samplers(device: str, found: list[Case]) -> list[dict[str, Any]]:
    """A row for each case, in their order, then the machine's peak."""
    block = BLOCK[device]
    samplers = [sampler_of(case) for case in found]
    flops, deviations = [], []
    for case, sample in zip(found, samplers, strict=True):
        plain = sampler_of(dataclasses.replace(case, compute=Compute(device)))
        with FlopCounterMode(display=False) as counter:
            expected = plain()
        flops.append(counter.get_total_flops() / (block * (WINDOW - 1)))
        states = [sample() for _ in range(3)][-1]  # a warm-up too: graphs are recorded at the second call
        deviations.append(float((states - expected).abs().max()))
    seconds: list[list[float]] = [[] for _ in found]
    kinds = {case.compute.precision: dataclasses.replace(case.compute, device=device) for case in found}
    peaks: dict[str, list[float]] = {precision: [] for precision in kinds}
    for _ in range(ROUNDS):
        for precision, compute in kinds.items():
            peaks[precision].append(matrix_peak(compute))
        for times, sample in zip(seconds, samplers, strict=True):
            begun = clock(device)
            for _ in range(repeats := 4):
                sample()
            times.append((clock(device) - begun) / repeats)
    peak = {precision: statistics.median(values) for precision, values in peaks.items()}
    rows: list[dict[str, Any]] = []
    for case, cost, times, deviation in zip(found, flops, seconds, deviations, strict=True):
        rate = block * (WINDOW - 1) / statistics.median(times)
        facts = {key: value for key, value in asdict(case).items() if key not in ("settings", "compute")}
        rows.append(
            {
                "what": "sampler",
                **facts,
                "preconditioning": case.settings.preconditioning,
                "precision": case.compute.precision,
                "compile": case.compute.compile,
                "deviation": deviation,
                "transitions_per_second": rate,
                "flops_per_transition": cost,
                "share_of_peak": rate * cost / peak[case.compute.precision],
            }
        )
    return [*rows, *({"what": "peak", "precision": name, "flops_per_second": value} for name, value in peak.items())]


# --- the whole stage ----------------------------------------------------------------------------------------------


def measure_stage(work: Path, sizes: list[int]) -> Iterator[dict[str, Any]]:
    """`synthesize` from the models of config/pilot.yaml's recommended recipe, 500 gradient steps old."""
    from dawm.config import ExportSettings
    from dawm.data.export import export

    data = work / "dataset"
    export(ExportSettings(source="local/hopper-medium-replay", transitions=20_000), data)
    for part in ("world-model", "inverse-dynamics", "forward-dynamics"):
        settings = json.dumps(RECIPE[part.replace("-", "_")])
        child("-m", "dawm", f"train-{part}", "--dataset", data, "--settings", settings, "--output", work / part)
    for size in sizes:
        trajectories = -(-size // (WINDOW - 1))
        shards = max(1, size // 250_000)
        settings = json.dumps(RECIPE["synthesis"] | {"trajectories": trajectories, "shards": shards})
        output = work / f"synthetic-{size}"
        options = ["--dataset", data, "--settings", settings, "--output", output]
        for part in ("world-model", "inverse-dynamics", "forward-dynamics"):
            options += [f"--{part}", work / part]
        found = child("-m", "dawm", "synthesize", *options)
        rows = json.loads((output / "metadata.json").read_text())["rows"]
        yield {
            "what": "stage",
            "transitions": rows,
            "shards": shards,
            "cpu_seconds": found.cpu_seconds,
            "transitions_per_second": rows / found.cpu_seconds,
            "largest_memory_mib": found.largest_memory_mib,
        }


# --- the run ------------------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]], unit: str) -> str:
    lines = [
        f"| denoiser | size | sampler | steps | ω | arithmetic | transitions per {unit} | FLOPs per transition "
        "| share of peak |",
        "|---|---|---|---:|---:|---|---:|---:|---:|",
    ]
    for row in rows:
        if row["what"] == "sampler":
            kind = f"{row['denoiser']}, EDM" if row["preconditioning"] == "edm" else row["denoiser"]
            lines.append(
                f"| {kind} | {row['size']} | {row['sampler']} | {row['steps']} | {row['guidance']} | "
                f"{row['precision']}{', graphs' if row['compile'] == 'graphs' else ''} | "
                f"{row['transitions_per_second']:,.0f} | {row['flops_per_transition']:,.0f} | "
                f"{row['share_of_peak']:.0%} |"
            )
    for row in rows:
        if row["what"] == "peak":
            lines += [
                "",
                f"Matrix products, {row['precision']}: {row['flops_per_second'] / 1e9:,.0f} GFLOP per {unit}.",
            ]
        elif row["what"] == "stage":
            lines.append(
                f"Whole stage: {row['transitions']:,} transitions in {row['shards']} shards, "
                f"{row['transitions_per_second']:,.0f} per {unit}, at most {row['largest_memory_mib']:,.0f} MiB."
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--output", type=Path)
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    if parsed.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    rows = measure_samplers(parsed.device, [*(cases_on_a_gpu() if parsed.device == "cuda" else cases())])
    if parsed.device == "cpu":
        with tempfile.TemporaryDirectory() as work:
            rows += measure_stage(Path(work), [250_000, 1_000_000, 5_000_000] if parsed.large else [250_000])
    command = f"python benchmarks/world_model.py{' --large' if parsed.large else ''}"
    write_results(parsed.output or PUBLISHED / f"world_model-{parsed.device}.json", command, parsed.device, rows)
    print(table(rows, "CPU-second" if parsed.device == "cpu" else "second"))


if __name__ == "__main__":
    main()
