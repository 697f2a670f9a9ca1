"""The stages of `python -m dawm`: each takes the parsed arguments and calls one function of the package.

Imports are lazy, so that a stage starts with only what it needs.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dawm.errors import InputError

A_DAY = 86_400
ALARM = 3
"""Exit status of an inspection that found something wrong: 1 is that of any crash."""


def _settings(parsed: argparse.Namespace, cls: type[Any]) -> Any:
    return _read(parsed.settings, cls, "--settings")


def _read(text: str, cls: type[Any], option: str) -> Any:
    from dawm.config import load_yaml, parse_yaml, read

    if text.lstrip().startswith("{"):
        return read(cls, parse_yaml(text, option), option)
    return read(cls, load_yaml(Path(text)), text)


def _device(parsed: argparse.Namespace, sharing: int = 1) -> str:
    """The device to train on; one thread per job, since more ran 10 to 40 times slower on busy cores.

    sharing: how many processes of the job, this one or its evaluators, divide the threads that it was given among them.
    """
    import torch

    threads = os.environ["OMP_NUM_THREADS"]
    if not (threads.isascii() and threads.isdigit() and int(threads) > 0):
        raise InputError(f"OMP_NUM_THREADS: expected a whole number from 1, found {threads!r}")
    torch.set_num_threads(max(1, int(threads) // sharing))
    wanted = getattr(parsed, "device", "cpu")
    available = torch.cuda.is_available()
    if wanted == "auto":
        return "cuda" if available else "cpu"
    if wanted not in ("cpu", "cuda"):
        raise InputError(f"--device: expected cpu, cuda or auto, found {wanted!r}")
    if wanted == "cuda" and not available:
        raise InputError("--device: expected a CUDA device for 'cuda', found none")
    return wanted


def _compute(parsed: argparse.Namespace, sharing: int = 1) -> Any:
    from dawm.compute import Compute

    return Compute(_device(parsed, sharing), parsed.precision, parsed.compile)


def export(parsed: argparse.Namespace) -> None:
    from dawm.config import ExportSettings
    from dawm.data.export import export

    export(_settings(parsed, ExportSettings), parsed.output, parsed.parent)


def inspect(parsed: argparse.Namespace) -> int:
    from dawm.analysis.inspection import inspect, lines, save_inspection
    from dawm.config import InspectionSettings
    from dawm.data.sealed import refuse_other

    settings = _settings(parsed, InspectionSettings)
    slug = "-".join(re.findall(r"[^\W_]+", parsed.dataset.lower().removesuffix(".hdf5")))
    output = parsed.output or Path("inspections", slug)
    refuse_other(output, "inspection")
    found = inspect(parsed.dataset, settings, parsed.environment)
    save_inspection(found, settings, output)
    print(*lines(found), f"{'figure':<22}{output / 'inspection.png'}", sep="\n")
    return ALARM if found.physics.alarm else 0


def describe(parsed: argparse.Namespace) -> None:
    from dawm.analysis.overview import describe

    describe(parsed.results, parsed.datasets)


def export_to(parsed: argparse.Namespace) -> None:
    from dawm.data.export_to import export_to

    for sentence in export_to(parsed.layout, parsed.output, parsed.dataset, parsed.synthetic, parsed.id):
        print(sentence)


def train_world_model(parsed: argparse.Namespace) -> None:
    from dawm.config import WorldModelSettings
    from dawm.world_model.training import train_world_model

    settings = _settings(parsed, WorldModelSettings)
    teachers = (parsed.inverse_dynamics, parsed.forward_dynamics)
    train_world_model(parsed.dataset, settings, parsed.output, parsed.seed, _compute(parsed), *teachers)


def train_inverse_dynamics(parsed: argparse.Namespace) -> None:
    from dawm.config import InverseDynamicsSettings
    from dawm.inverse_dynamics import train_inverse_dynamics

    settings = _settings(parsed, InverseDynamicsSettings)
    train_inverse_dynamics(parsed.dataset, settings, parsed.output, parsed.seed, _compute(parsed))


def train_forward_dynamics(parsed: argparse.Namespace) -> None:
    from dawm.config import ForwardDynamicsSettings
    from dawm.forward_dynamics import train_forward_dynamics

    settings = _settings(parsed, ForwardDynamicsSettings)
    train_forward_dynamics(parsed.dataset, settings, parsed.output, parsed.seed, _compute(parsed))


def train_cloned_policy(parsed: argparse.Namespace) -> None:
    from dawm.cloned_policy import train_cloned_policy
    from dawm.config import ClonedPolicySettings

    settings = _settings(parsed, ClonedPolicySettings)
    train_cloned_policy(parsed.dataset, settings, parsed.output, parsed.seed, _compute(parsed))


def synthesize(parsed: argparse.Namespace) -> None:
    from dawm.config import SynthesisSettings

    settings, compute = _settings(parsed, SynthesisSettings), _compute(parsed)
    write, seal = _rollouts(parsed, settings, compute) if parsed.cloned_policy else _samples(parsed, settings, compute)
    if not parsed.seal:
        for shard in range(settings.shards) if parsed.shard is None else [parsed.shard]:
            write(shard)
    if parsed.seal or parsed.shard is None:
        seal()


def _samples(
    parsed: argparse.Namespace, settings: Any, compute: Any
) -> tuple[Callable[[int], None], Callable[[], None]]:
    """Of a diffusion world model: what writes a shard, and what seals them."""
    from dawm.synthesis import seal_synthetic, synthesize_shard

    inputs = (parsed.dataset, parsed.world_model, parsed.inverse_dynamics, settings, parsed.output)
    return (
        lambda shard: synthesize_shard(*inputs, shard, parsed.forward_dynamics, compute),
        lambda: seal_synthetic(*inputs, parsed.forward_dynamics),
    )


def _rollouts(
    parsed: argparse.Namespace, settings: Any, compute: Any
) -> tuple[Callable[[int], None], Callable[[], None]]:
    """The same of a one-step model."""
    from dawm.rollouts import roll_out_shard, seal_rollouts

    if parsed.forward_dynamics is None:
        raise InputError("--forward-dynamics: expected a forward model for the cloned policy to act in, found none")
    if parsed.inverse_dynamics is not None:
        raise InputError("--inverse-dynamics: expected none with --cloned-policy, whose actions need no inferring")
    inputs = (parsed.dataset, parsed.forward_dynamics, parsed.cloned_policy, settings, parsed.output)
    return lambda shard: roll_out_shard(*inputs, shard, compute), lambda: seal_rollouts(*inputs)


def train_policy(parsed: argparse.Namespace) -> None:
    from dawm.config import LEARNER_SETTINGS
    from dawm.offline_rl.training import PolicyRun, train_policies

    settings = _settings(parsed, LEARNER_SETTINGS[parsed.algorithm])
    if not 0 <= parsed.real_fraction <= 1:
        raise InputError(f"--real-fraction: expected a number from 0 to 1, found {parsed.real_fraction}")
    seeds, outputs, synthetic = parsed.seed, parsed.output, parsed.synthetic or [None]
    if len(outputs) != len(seeds):
        raise InputError(f"--output: expected a folder for each of {len(seeds)} seeds, found {len(outputs)}")
    if len(synthetic) not in (1, len(seeds)):
        raise InputError(
            f"--synthetic: expected one folder, or {len(seeds)} as there are seeds, found {len(synthetic)}"
        )
    for name, values in (("--seed", seeds), ("--output", outputs)):
        if len(set(values)) < len(values):
            raise InputError(f"{name}: expected each one once, found {' '.join(map(str, values))}")
    if parsed.evaluation_processes < 1:
        raise InputError(f"--evaluation-processes: expected at least 1, found {parsed.evaluation_processes}")
    synthetic *= len(seeds) if len(synthetic) == 1 else 1
    runs = [PolicyRun(*values) for values in zip(seeds, synthetic, outputs, strict=True)]
    how = _compute(parsed, parsed.evaluation_processes), parsed.evaluation_processes
    train_policies(parsed.algorithm, parsed.dataset, settings, parsed.real_fraction, runs, *how)


def evaluate(parsed: argparse.Namespace) -> None:
    skip = None
    if parsed.video is not None:
        from dawm.rendering import choose_renderer

        skip = choose_renderer()  # before anything imports MuJoCo
    from dawm.analysis.film import film
    from dawm.analysis.policy_evaluation import evaluate_policy

    _device(parsed)
    if parsed.episodes < 1:
        raise InputError(f"--episodes: expected at least 1, found {parsed.episodes}")
    found, policy = evaluate_policy(parsed.policy, parsed.episodes, parsed.seed)
    print(*found.lines(parsed.seed), sep="\n")
    if skip:
        print(f"evaluate: no video: {skip}", file=sys.stderr)
    elif parsed.video is not None:
        film(found.task, policy, parsed.seed, parsed.video)
        print(f"{'video':<18}{parsed.video}")


def film(parsed: argparse.Namespace) -> None:
    from dawm.rendering import choose_renderer

    skip = choose_renderer()  # before anything imports MuJoCo
    from dawm.analysis.film import film_policy

    _device(parsed)
    film_policy(parsed.policy, parsed.output, parsed.seed, skip)


def assess(parsed: argparse.Namespace) -> None:
    from dawm.analysis.fidelity import assess
    from dawm.config import AssessmentSettings

    settings = _settings(parsed, AssessmentSettings)
    _device(parsed)
    assess(parsed.dataset, parsed.synthetic, parsed.inverse_dynamics, settings, parsed.output, parsed.name)


def fidelity(parsed: argparse.Namespace) -> None:
    from dawm.analysis.fidelity_page import write_fidelity
    from dawm.config import Experiment

    write_fidelity(parsed.results, _settings(parsed, Experiment))


def animate(parsed: argparse.Namespace) -> None:
    from dawm.rendering import choose_renderer

    skip = choose_renderer()  # before anything imports MuJoCo
    from dawm.analysis.animation import animate
    from dawm.config import AnimationSettings

    animate(parsed.dataset, parsed.synthetic, _settings(parsed, AnimationSettings), parsed.output, parsed.name, skip)


def steer(parsed: argparse.Namespace) -> None:
    from dawm.analysis.steering import steer
    from dawm.config import SteeringSettings, SynthesisSettings

    settings = _settings(parsed, SteeringSettings)
    synthesis = _read(parsed.synthesis, SynthesisSettings, "--synthesis")
    _device(parsed)
    steer(
        parsed.dataset,
        parsed.world_model,
        parsed.inverse_dynamics,
        settings,
        synthesis,
        parsed.output,
        parsed.forward_dynamics,
    )


def steering(parsed: argparse.Namespace) -> None:
    from dawm.analysis.steering_page import write_steering
    from dawm.config import Experiment

    write_steering(parsed.results, _settings(parsed, Experiment))


def tables(parsed: argparse.Namespace) -> None:
    from dawm.analysis.tables import write_tables
    from dawm.config import Experiment

    write_tables(parsed.results, _settings(parsed, Experiment))


def timings(parsed: argparse.Namespace) -> None:
    from dawm.analysis.timings import write_timings
    from dawm.config import Experiment

    write_timings(parsed.results, _settings(parsed, Experiment), parsed.output)


def compare(parsed: argparse.Namespace) -> None:
    from dawm.analysis.comparison import compare

    print(compare(parsed.scores, parsed.output))


def figures(parsed: argparse.Namespace) -> None:
    from dawm.analysis.figures import draw_all

    draw_all(parsed.tables, parsed.output)


def report(parsed: argparse.Namespace) -> None:
    from dawm.analysis.report import write_report
    from dawm.config import Experiment

    write_report(parsed.results, _settings(parsed, Experiment))


def verify(parsed: argparse.Namespace) -> int:
    from dawm.verification import remedies, verify

    found = verify(parsed.results)
    print(f"{parsed.results}: {found.folders:,} sealed folders with {found.files:,} files read")
    for folder in found.unfinished:
        print(f"not sealed yet: {folder}")
    if not found.damage:
        return 0
    print(*(f"damaged: {sentence}" for sentences in found.damage.values() for sentence in sentences), sep="\n")
    if commands := remedies(found.damage):
        print("To make it again:", *(f"    {command}" for command in commands), sep="\n")
    return 1


def status(parsed: argparse.Namespace) -> None:
    import time

    from dawm.jobs import REPORT
    from dawm.status import status

    if parsed.watch is not None and not 0 < parsed.watch <= A_DAY:
        raise InputError(f"--watch: expected a number of seconds above 0, {A_DAY:,} at most, found {parsed.watch:g}")
    while True:
        found = status(parsed.results, parsed.target or REPORT)
        if parsed.watch is not None and sys.stdout.isatty():
            print("\033[2J\033[H", end="")
        print(*found.lines(), sep="\n", flush=True)
        if parsed.watch is None or found.complete:
            return
        time.sleep(parsed.watch)


def plan(parsed: argparse.Namespace) -> None:
    from dawm.job_estimates import measured_below, plan
    from dawm.jobs import REPORT

    if parsed.gpus < 0 or parsed.cores < 1:
        raise InputError(f"expected --gpus from 0 and --cores from 1, found {parsed.gpus} and {parsed.cores}")
    measured = measured_below(Path("results")) if parsed.measured is None else parsed.measured
    print(*plan(parsed.config, measured, parsed.gpus, parsed.cores, parsed.target or REPORT).lines(), sep="\n")


def check_config(parsed: argparse.Namespace) -> None:
    from dawm.config import as_yaml, load_experiment

    print(as_yaml(load_experiment(parsed.config)), end="")


def report_path(parsed: argparse.Namespace) -> None:
    from dawm.config import load_experiment
    from dawm.layout import Layout

    print(f"The report: {Layout.of(load_experiment(parsed.config).experiment).report}")


def document_config(parsed: argparse.Namespace) -> None:
    from dawm.config import Experiment, json_schema, key_table
    from dawm.data.files import write_json, write_text

    write_json(parsed.schema, {"$schema": "https://json-schema.org/draft/2020-12/schema", **json_schema(Experiment)})
    write_text(parsed.keys, key_table())


def train_behaviour(parsed: argparse.Namespace) -> None:
    from dawm.environments.behaviour_training import train_behaviour_policy
    from dawm.environments.tasks import TASKS

    train_behaviour_policy(
        TASKS[parsed.task],
        parsed.output,
        algorithm=parsed.algorithm,
        steps=parsed.steps,
        every=parsed.every,
        episodes=parsed.episodes,
        seed=parsed.seed,
    )


def choose_behaviour(parsed: argparse.Namespace) -> None:
    from dawm.environments.behaviour_training import choose_behaviour
    from dawm.environments.tasks import TASKS

    for option in ("rungs", "episodes"):
        if getattr(parsed, option) < 1:
            raise InputError(f"--{option}: expected at least 1, found {getattr(parsed, option)}")
    choose_behaviour(
        TASKS[parsed.task],
        parsed.checkpoints,
        parsed.output,
        medium_return=parsed.medium_return,
        rungs=parsed.rungs,
        episodes=parsed.episodes,
    )
