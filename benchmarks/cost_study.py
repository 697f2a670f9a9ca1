"""What an error costs, for every denoiser, width, sampler and number of steps of config/cost-study.yaml.

    snakemake --cores 2 --configfile config/cost-study.yaml -- fidelity      # 40 minutes on one core
    python benchmarks/cost_study.py                                          # times the samplers, writes the study

Writes results/published/cost-study/{cost.csv, cost.md, cost.png}. The error is the pooled one of `fidelity`,
against the true simulator; the cost is the sampler's alone (no inverse dynamics, no writing), timed in turn in one run,
in the data set's dimensions. A recipe is on the frontier if none is both cheaper and as true.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.ticker import NullFormatter
from measuring import PUBLISHED, ROOT
from world_model import Case, measure_samplers

from dawm.analysis.fidelity_page import pooled
from dawm.analysis.style import COLORS, GREY, STYLE, save
from dawm.config import Experiment, GeneratorSettings, load_experiment
from dawm.data.files import write_csv
from dawm.data.sealed import open_sealed
from dawm.layout import Layout

COSTS = {
    "cpu_seconds_per_1000": "CPU-seconds per 1,000 transitions",
    "flops_per_transition": "FLOPs per transition",
}


def study(experiment: Experiment, results: Path) -> pd.DataFrame:
    """One row for each recipe: its settings, its error with the interval, its two costs, the cheapest first."""
    sealed = open_sealed(Layout(results).fidelity, "fidelity")
    judged = pooled(pd.read_csv(sealed.folder / "fidelity.csv")).set_index(["quantity", "augmentation"])
    errors, distances = judged.loc["state_error"], judged.loc["marginal_distance"]
    cases = {name: case_of(recipe) for name, recipe in experiment.generators.items()}
    timed = [row for row in measure_samplers("cpu", list(cases.values())) if row["what"] == "sampler"]
    rows = []
    for (name, case), cost in zip(cases.items(), timed, strict=True):
        rows.append(
            {
                "recipe": name,
                "denoiser": case.denoiser,
                "size": case.size,
                "predicts": case.settings.preconditioning,
                "rows": case.settings.successors,
                "sampler": case.sampler,
                "steps": case.steps,
                "state_error": errors.loc[name, "value"],
                "low": errors.loc[name, "low"],
                "high": errors.loc[name, "high"],
                "marginal_distance": distances.loc[name, "value"],
                "cpu_seconds_per_1000": 1000 / cost["transitions_per_second"],
                "flops_per_transition": cost["flops_per_transition"],
                "share_of_peak": cost["share_of_peak"],
            }
        )
    table = pd.DataFrame(rows).sort_values("cpu_seconds_per_1000", ignore_index=True)
    for cost in COSTS:
        table[f"frontier_{cost}"] = frontier(table[cost], table["state_error"])
    return table


def case_of(recipe: GeneratorSettings) -> Case:
    model, synthesis = recipe.world_model, recipe.synthesis
    size = f"{model.hidden} × {model.blocks}"
    if model.denoiser == "unet":
        size = " / ".join(map(str, model.unet_channels))
    return Case(model.denoiser, size, synthesis.sampler, synthesis.sampling_steps, synthesis.guidance, model)


def frontier(cost: pd.Series, error: pd.Series) -> list[bool]:
    """Whether no other point is at most as dear and at most as wrong (and not the same)."""
    points = list(zip(cost, error, strict=True))
    return [not any(c <= cost and e <= error and (c, e) != (cost, error) for c, e in points) for cost, error in points]


def markdown(table: pd.DataFrame) -> str:
    lines = [
        "| recipe | denoiser | predicts | rows | sampler | steps | state error | marginal distance | CPU-s per 1,000 "
        "| MFLOP each | frontier |",
        "|---|---|---|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in table.itertuples():
        on = [name for name, yes in zip(("time", "FLOPs"), row[-2:], strict=True) if yes]
        lines.append(
            f"| {row.recipe} | {row.denoiser} {row.size} | {row.predicts} | {row.rows} | {row.sampler} | {row.steps} | "
            f"{row.state_error:.4f} ({row.low:.4f} to {row.high:.4f}) | {row.marginal_distance:.3f} | "
            f"{row.cpu_seconds_per_1000:.4f} | {row.flops_per_transition / 1e6:.2f} | {', '.join(on) or '–'} |"
        )
    return "\n".join(lines) + "\n"


def draw(table: pd.DataFrame) -> plt.Figure:
    """Error against both costs; the frontier is joined by a line, with width and steps."""
    figure, panels = plt.subplots(1, 2, figsize=(12, 4.8), sharey=True, layout="constrained")
    kinds = dict(zip(table.groupby(["denoiser", "predicts", "rows"]).groups, COLORS, strict=False))
    for axes, (cost, label) in zip(panels, COSTS.items(), strict=True):
        best = table[table[f"frontier_{cost}"]].sort_values(cost)
        axes.plot(best[cost], best["state_error"], "-", color=GREY, linewidth=1, zorder=0)
        for kind, color in kinds.items():
            chosen = table[(table[["denoiser", "predicts", "rows"]] == kind).all(axis=1)]
            bars = [chosen["state_error"] - chosen["low"], chosen["high"] - chosen["state_error"]]
            name = ", ".join((kind[0], "ε" if kind[1] == "noise" else {"clean": "x⁰", "edm": "EDM"}[kind[1]], kind[2]))
            axes.errorbar(chosen[cost], chosen["state_error"], bars, fmt="o", color=color, markersize=5, label=name)
        for row in best.itertuples():
            place = (getattr(row, cost), row.state_error)
            name = f"{row.size.split()[0]}, N = {row.steps}"
            axes.annotate(
                name, place, xytext=(0, -7), textcoords="offset points", fontsize=7, ha="right", va="top", rotation=35
            )
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.margins(x=0.15, y=0.12)
        axes.xaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("median state error (one-step changes)")
    panels[0].legend(fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "config" / "cost-study.yaml")
    parser.add_argument("--results", type=Path, help="the experiment's folder, results/cost-study if not given")
    parser.add_argument("--output", type=Path, default=PUBLISHED.parent / "cost-study")
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    experiment = load_experiment(parsed.config)
    table = study(experiment, parsed.results or ROOT / "results" / experiment.experiment)
    parsed.output.mkdir(parents=True, exist_ok=True)
    write_csv(parsed.output / "cost.csv", table)
    (parsed.output / "cost.md").write_text(markdown(table))
    with plt.rc_context(STYLE):
        save(draw(table), parsed.output / "cost.png")
    sys.stdout.write(markdown(table))


if __name__ == "__main__":
    main()
