"""What each recipe costs to train and to act with, beside what it is worth: the paper's second claim, as a table.

    snakemake --cores 8 --configfile config/pilot.yaml -- all fidelity steering
    python benchmarks/efficiency.py

Reads the finished experiment; writes efficiency.csv, .md and costs.json to results/published/efficiency. Costs are
CPU-seconds on one core: those of a gradient step, measured here in processes of their own on one data set (250 steps
less 50, so that imports and reading do not count), times the config's steps. A decision is an action for one of ten
episodes that run side by side; the planner and a learned policy take turns. The planner has a row for the largest
return in the data, and one for whichever of all requests earned most: chosen by looking, in its favour.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from measuring import PUBLISHED, ROOT, child

from dawm.analysis.fidelity_page import pooled
from dawm.config import Experiment, as_mapping, load_experiment
from dawm.data.files import write_csv
from dawm.data.sealed import open_sealed
from dawm.data.transitions import read_transitions
from dawm.inverse_dynamics import load_inverse_dynamics
from dawm.layout import Layout, Run
from dawm.offline_rl.policy import load_policy
from dawm.planner import Planner
from dawm.world_model.training import load_world_model

FEW, MANY = 50, 250  # gradient steps
EPISODES, DECISIONS = 10, 200
REQUEST = 1.0  # of the planner whose decisions are timed; they cost the same whatever it asks for
PARTS = {
    "world_model": "world-model",
    "inverse_dynamics": "inverse-dynamics",
    "forward_dynamics": "forward-dynamics",
    "cloned_policy": "cloned-policy",
}


def training_costs(experiment: Experiment, layout: Layout, dataset: str) -> dict[tuple[str, str], float]:
    """CPU-seconds of the whole training of every model, by (recipe, part); equal ones are measured once."""
    costs: dict[tuple[str, str], float] = {}
    seed = experiment.world_model_seeds[0]
    with tempfile.TemporaryDirectory() as work:
        for name, recipe in experiment.generators.items():
            for part, stage in PARTS.items():
                settings = getattr(recipe, part)
                if settings is None:
                    continue
                owner = experiment.owner(name, part)
                if (owner, part) not in costs:
                    options = ["--dataset", str(layout.dataset(dataset)), "--device", "cpu"]
                    for teacher in recipe.taught_by(part):
                        folder = getattr(layout, teacher)(dataset, experiment.owner(name, teacher), seed)
                        options += [f"--{PARTS[teacher]}", str(folder)]
                    seconds = []
                    for steps in (FEW, MANY):
                        short = json.dumps(as_mapping(dataclasses.replace(settings, gradient_steps=steps)))
                        output = str(Path(work, f"{owner}-{part}-{steps}"))
                        command = (f"train-{stage}", *options, "--settings", short, "--output", output)
                        seconds.append(child("-m", "dawm", *command).cpu_seconds)
                    costs[owner, part] = (seconds[1] - seconds[0]) / (MANY - FEW) * settings.gradient_steps
                costs[name, part] = costs[owner, part]
    return costs


def decision_costs(experiment: Experiment, layout: Layout, dataset: str, recipe: str) -> dict[str, float]:
    """CPU-seconds of a decision by the planner of a recipe's models and by a learned policy."""
    seed, observed = experiment.world_model_seeds[0], read_transitions(open_sealed(layout.dataset(dataset), "dataset"))
    observations = observed.observation[:: len(observed) // EPISODES][:EPISODES].astype(np.float64)
    world_model, _ = load_world_model(layout.world_model(dataset, experiment.owner(recipe, "world_model"), seed))
    inverse, _ = load_inverse_dynamics(
        layout.inverse_dynamics(dataset, experiment.owner(recipe, "inverse_dynamics"), seed)
    )
    asked = REQUEST * float(world_model.return_scale)
    planner = Planner(world_model, inverse, experiment.generators[recipe].synthesis, asked, seed=0)
    run = Run(dataset, experiment.algorithm_names[0], next(iter(experiment.augmentations)), experiment.seeds[0])
    policy, _ = load_policy(layout.policy(run))
    times: dict[str, list[float]] = {"planner": [], "policy": []}
    for _ in range(DECISIONS):
        for name, act in (("planner", planner), ("policy", policy.act)):
            begun = time.process_time()
            act(observations)
            times[name].append((time.process_time() - begun) / EPISODES)
    return {name: statistics.median(values) for name, values in times.items()}


def planning_recipe(experiment: Experiment) -> str:
    """The first whose world model can plan."""
    models = {name: recipe.world_model for name, recipe in experiment.generators.items()}
    return next(name for name, model in models.items() if model is not None and model.action_dropout)


def measured_costs(experiment: Experiment, layout: Layout, dataset: str) -> dict[str, Any]:
    """training: CPU-seconds by recipe and part; decisions: CPU-seconds of one, by who decides."""
    training: dict[str, dict[str, float]] = {}
    for (name, part), seconds in training_costs(experiment, layout, dataset).items():
        training.setdefault(name, {})[part] = seconds
    return {
        "dataset": dataset,
        "training": training,
        "decisions": decision_costs(experiment, layout, dataset, planning_recipe(experiment)),
    }


def efficiency(experiment: Experiment, layout: Layout, costs: dict[str, Any]) -> pd.DataFrame:
    """One row for each recipe and data set, and for the planner; scores are TD3+BC's last ones, mean over seeds."""
    errors = pooled(pd.read_csv(open_sealed(layout.fidelity, "fidelity").folder / "fidelity.csv"))
    errors = errors[errors["quantity"] == "state_error"].set_index(["dataset", "augmentation"])["value"]
    scores = pd.read_csv(open_sealed(layout.tables, "tables").folder / "scores.csv")
    means = scores.groupby(["dataset", "augmentation"])["normalized_score_last"].mean()
    training, decisions, planning = costs["training"], costs["decisions"], planning_recipe(experiment)
    steering = pd.read_csv(open_sealed(layout.steering_page, "steering-page").folder / "steering.csv")
    chosen = steering[(steering["recipe"] == planning) & (steering["quantity"] == "normalized_score")]
    planned = chosen.pivot_table(index="dataset", columns="request", values="value")
    rows = []
    for place in experiment.datasets:
        for name in experiment.generators:
            arms = {
                arm.real_fraction: label
                for label, arm in experiment.augmentations.items()
                if (arm.generator or label) == name and arm.real_fraction < 1
            }
            rows.append(
                {
                    "dataset": place,
                    "recipe": name,
                    "training_cpu_seconds": sum(training[name].values()),
                    "state_error": errors[place, name],
                    **{f"score_{fraction:g}": means[place, label] for fraction, label in arms.items()},
                    "cpu_ms_per_decision": 1000 * decisions["policy"],
                }
            )
        models = sum(training[planning][part] for part in ("world_model", "inverse_dynamics"))
        for asked in dict.fromkeys(
            [min(planned, key=lambda request: abs(request - REQUEST)), planned.loc[place].idxmax()]
        ):
            rows.append(
                {
                    "dataset": place,
                    "recipe": f"planner, asked for {asked:g}",
                    "training_cpu_seconds": models,
                    "state_error": np.nan,
                    "score": planned.loc[place, asked],
                    "cpu_ms_per_decision": 1000 * decisions["planner"],
                }
            )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    fractions = [name for name in table if name.startswith("score_")]
    heads = [f"score, real fraction {name.removeprefix('score_')}" for name in fractions]
    lines = [
        f"| data set | recipe | training, CPU-s | state error | {' | '.join(heads)} | CPU-ms per decision |",
        "|---|---|---:|---:|" + "---:|" * (len(fractions) + 1),
    ]

    def cell(value: float, form: str) -> str:
        return "–" if np.isnan(value) else format(value, form)

    for row in table.to_dict("records"):
        found = [row[name] for name in fractions]
        scores = [cell(value, ".1f") for value in found]
        if not np.isnan(row["score"]):
            scores = [f"{row['score']:.1f} (no learner)", *["–"] * (len(fractions) - 1)]
        cells = [row["dataset"], row["recipe"], f"{row['training_cpu_seconds']:,.0f}", cell(row["state_error"], ".3f")]
        lines.append(f"| {' | '.join([*cells, *scores, format(row['cpu_ms_per_decision'], '.3f')])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "config" / "pilot.yaml")
    parser.add_argument("--results", type=Path, help="the experiment's folder, results/EXPERIMENT if not given")
    parser.add_argument("--dataset", default="hopper-medium-replay", help="on which the costs are measured")
    parser.add_argument("--costs", type=Path, help="costs.json of an earlier run, whose measurements count again")
    parser.add_argument("--output", type=Path, default=PUBLISHED.parent / "efficiency")
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    experiment = load_experiment(parsed.config)
    layout = Layout(parsed.results or ROOT / "results" / experiment.experiment)
    needed = {"tables": layout.tables, "fidelity": layout.fidelity, "steering-page": layout.steering_page}
    for kind, folder in needed.items():
        open_sealed(folder, kind)  # what is missing is missed before anything is measured
    costs = json.loads(parsed.costs.read_text()) if parsed.costs else measured_costs(experiment, layout, parsed.dataset)
    parsed.output.mkdir(parents=True, exist_ok=True)
    (parsed.output / "costs.json").write_text(json.dumps(costs, indent=1) + "\n")
    table = efficiency(experiment, layout, costs)
    write_csv(parsed.output / "efficiency.csv", table)
    (parsed.output / "efficiency.md").write_text(markdown(table))
    sys.stdout.write(markdown(table))


if __name__ == "__main__":
    main()
