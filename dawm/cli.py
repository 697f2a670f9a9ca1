"""`python -m dawm STAGE`: one call per stage. Exit status 2 and one sentence for bad input."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dawm.errors import InputError

Stage = Callable[[argparse.Namespace], int | None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one stage; returns the exit status: 0, 1 for an inspection's alarm, 2 for bad input."""
    parsed = parser().parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        return parsed.stage(parsed) or 0
    except InputError as error:
        print(f"dawm {parsed.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that may not be written
        where = f"{error.filename}: " if error.filename else ""
        print(f"dawm {parsed.command}: {where}{error.strerror or error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="dawm", description="Diffusion action world models: synthetic transitions for offline RL."
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="STAGE")

    def command(name: str, stage: Stage, help: str, *names: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(stage=stage)
        for option in names:
            made.add_argument(f"--{option}", **_OPTIONS[option])
        return made

    made = command("export", _export, "make a sealed data set from a source", "settings", "output")
    made.add_argument("--parent", type=Path, help="folder of the data set that the source part/NAME is a part of")
    made = command("inspect", _inspect, "describe a data set and replay some of it in its simulator", "settings")
    made.add_argument("dataset", help="a sealed folder, an HDF5 file or a source such as d4rl/hopper-medium-v2")
    made.add_argument("--environment", metavar="ID", help="gymnasium's id, for a file that does not tell it")
    made.add_argument("--output", type=Path, help="where the figure goes; default: inspections/NAME")
    command("describe", _describe, "one table and figure of all inspected data sets", "results", "settings")
    made = command("export-to", _export_to, "write transitions for other people's learners", "output")
    made.add_argument("layout", choices=["d4rl-hdf5", "minari", "parquet"])
    made.add_argument("--dataset", type=Path, help="folder of a sealed data set: real transitions")
    made.add_argument(
        "--synthetic", type=Path, help="folder of synthetic transitions; with --dataset: both, real first"
    )
    made.add_argument("--id", help="of the new Minari data set, such as dawm/hopper-medium-v0")
    models = ("dataset", "settings", "output", "seed", "device", "precision", "compile")
    made = command(
        "train-world-model", _train_world_model, "train the diffusion world model", *models, "inverse-dynamics"
    )
    made.add_argument("--forward-dynamics", type=Path, help="folder of a trained forward model, for `consistency`")
    command("train-inverse-dynamics", _train_inverse_dynamics, "train a = f(s, s')", *models)
    command("train-forward-dynamics", _train_forward_dynamics, "train s', r = f(s, a)", *models)
    command("train-cloned-policy", _train_cloned_policy, "train a ~ π(s) for a one-step model's rollouts", *models)
    made = command(
        "synthesize",
        _synthesize,
        "sample synthetic transitions; without --shard and --seal: all shards, then the seal",
        *("dataset", "inverse-dynamics", "settings", "output", "device", "precision", "compile"),
    )
    maker = made.add_mutually_exclusive_group(required=True)
    maker.add_argument("--world-model", type=Path, help="folder of a trained world model")
    maker.add_argument("--cloned-policy", type=Path, help="folder of a cloned policy that acts in the forward model")
    made.add_argument(
        "--forward-dynamics", type=Path, help="folder of a trained forward model that corrects, filters, is rolled out"
    )
    made.add_argument("--shard", type=int, help="only this shard, from 0")
    made.add_argument("--seal", action="store_true", help="only seal the shards that are there")
    made = command(
        "train-policy",
        _train_policy,
        "train TD3+BC, IQL or behaviour cloning on real and synthetic transitions, for one seed or several at once",
        *("dataset", "settings", "device"),
    )
    made.add_argument("--seed", type=int, nargs="+", default=[0], help="those that share the process")
    made.add_argument("--output", type=Path, nargs="+", required=True, help="a folder for each seed")
    made.add_argument("--precision", choices=["float32", "tf32"], default="float32", help="of matrix products")
    made.add_argument(
        "--compile", choices=["none", "graphs"], default="none", help="CUDA graphs: one launch for each gradient step"
    )
    made.add_argument("--algorithm", required=True, choices=["td3_bc", "iql", "bc", "bc_10"])
    made.add_argument("--synthetic", type=Path, nargs="+", help="folder of synthetic transitions, or one for each seed")
    made.add_argument("--real-fraction", type=float, default=1.0, help="share of real transitions per batch")
    made = command("evaluate", _evaluate, "let a saved policy act in its environment", "seed")
    made.add_argument("policy", type=Path, help="folder of a trained policy")
    made.add_argument("--episodes", type=int, default=100)
    made.add_argument("--video", type=Path, metavar="FILE.gif", help="one episode, or its first ten seconds, as a GIF")
    made = command("film", _film, "draw an episode of a saved policy, for the report", "output", "seed")
    made.add_argument("--policy", type=Path, required=True, help="folder of a trained policy")
    made = command(
        "assess",
        _assess,
        "replay synthetic transitions in the true simulator",
        *("dataset", "inverse-dynamics", "settings", "output"),
    )
    made.add_argument("--synthetic", type=Path, required=True, help="folder of synthetic transitions")
    made.add_argument("--name", default="dawm", help="the arm's name in the table")
    command("fidelity", _fidelity, "set all recipes' assessments beside each other", "results", "settings")
    made = command(
        "animate", _animate, "draw imagined rollouts beside the simulator's", "dataset", "settings", "output"
    )
    made.add_argument("--synthetic", type=Path, required=True, help="folder of synthetic transitions")
    made.add_argument("--name", default="dawm", help="the recipe's name in the caption")
    made = command(
        "steer",
        _steer,
        "ask the models for other returns, and let them plan in the simulator",
        *("dataset", "inverse-dynamics", "settings", "output"),
    )
    made.add_argument("--world-model", type=Path, required=True, help="folder of a trained world model")
    made.add_argument("--forward-dynamics", type=Path, help="folder of a trained forward model, where it corrects")
    made.add_argument("--synthesis", required=True, metavar="SETTINGS", help="the recipe's settings of synthesis")
    command("steering", _steering, "set all recipes' steerings beside each other", "results", "settings")
    command("tables", _tables, "collect runs into tables/*.csv", "results", "settings")
    command("timings", _timings, "collect benchmark files into one table", "results", "settings", "output")
    made = command("compare", _compare, "arms against each other, from one or several tables of scores", "output")
    made.add_argument("scores", type=Path, nargs="+", help="tables scores.csv")
    command("figures", _figures, "draw all figures from the tables", "tables", "output")
    command("report", _report, "write the report page", "results", "settings")
    _add_upkeep(command)
    return root


def _add_upkeep(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Commands that are no stage: about configs, and the making of the behaviour policies."""
    made = command("check-config", _check_config, "validate an experiment's config and print it whole")
    made.add_argument("config", type=Path)
    made = command("report-path", _report_path, "print where the report of an experiment's config is")
    made.add_argument("config", type=Path)
    made = command("document-config", _document_config, "write the JSON schema and the table of keys")
    made.add_argument("--schema", type=Path, required=True)
    made.add_argument("--keys", type=Path, required=True)
    made = command("train-behaviour", _train_behaviour, "train a behaviour policy and keep its checkpoints", "seed")
    made.add_argument("--task", required=True, choices=["hopper", "halfcheetah", "walker2d"])
    made.add_argument("--algorithm", default="td3", choices=["td3", "sac"])
    made.add_argument("--steps", type=int, default=250_000)
    made.add_argument("--every", type=int, default=10_000, help="steps between two checkpoints")
    made.add_argument("--episodes", type=int, default=5, help="episodes of a checkpoint's evaluation")
    made.add_argument("--output", type=Path, required=True)
    made = command("choose-behaviour", _choose_behaviour, "choose the local suite's policies among checkpoints")
    made.add_argument("--task", required=True, choices=["hopper", "halfcheetah", "walker2d"])
    made.add_argument("--checkpoints", type=Path, required=True, help="folder that train-behaviour wrote")
    made.add_argument("--medium-return", type=float, required=True)
    made.add_argument("--rungs", type=int, default=6, help="checkpoints of the ladder from early to medium")
    made.add_argument("--episodes", type=int, default=50, help="episodes of a candidate's evaluation with noise")
    made.add_argument("--output", type=Path, required=True)


_OPTIONS: dict[str, dict[str, Any]] = {
    "settings": {"default": "{}", "help": "the stage's settings: a YAML file, or YAML or JSON text in braces"},
    "output": {"type": Path, "required": True, "help": "where the result goes"},
    "seed": {"type": int, "default": 0},
    "device": {"default": "auto", "help": "cpu, cuda, or auto: cuda where there is one"},
    "precision": {"choices": ["float32", "tf32", "bf16"], "default": "float32", "help": "of matrix products"},
    "compile": {
        "choices": ["none", "default", "graphs"],
        "default": "none",
        "help": "torch.compile of the networks, or with CUDA graphs too",
    },
    "dataset": {"type": Path, "required": True, "help": "folder of a sealed data set"},
    "inverse-dynamics": {"type": Path, "help": "folder of a trained inverse dynamics model, where one infers actions"},
    "results": {"type": Path, "required": True, "help": "folder results/<experiment>"},
    "tables": {"type": Path, "required": True, "help": "folder of sealed tables"},
}


def _settings(parsed: argparse.Namespace, cls: type[Any]) -> Any:
    return _read(parsed.settings, cls, "--settings")


def _read(text: str, cls: type[Any], option: str) -> Any:
    from dawm.config import load_yaml, parse_yaml, read

    if text.lstrip().startswith("{"):
        return read(cls, parse_yaml(text, option), option)
    return read(cls, load_yaml(Path(text)), text)


def _device(parsed: argparse.Namespace) -> str:
    """The device to train on; one thread per job, since more ran 10 to 40 times slower on busy cores."""
    import torch

    threads = os.environ["OMP_NUM_THREADS"]
    if not (threads.isascii() and threads.isdigit() and int(threads) > 0):
        raise InputError(f"OMP_NUM_THREADS: expected a whole number from 1, found {threads!r}")
    torch.set_num_threads(int(threads))
    wanted = getattr(parsed, "device", "cpu")
    available = torch.cuda.is_available()
    if wanted == "auto":
        return "cuda" if available else "cpu"
    if wanted not in ("cpu", "cuda"):
        raise InputError(f"--device: expected cpu, cuda or auto, found {wanted!r}")
    if wanted == "cuda" and not available:
        raise InputError("--device: expected a CUDA device for 'cuda', found none")
    return wanted


def _compute(parsed: argparse.Namespace) -> Any:
    from dawm.compute import Compute
    from dawm.config import ComputeSettings

    return Compute(_device(parsed), ComputeSettings(precision=parsed.precision, compile=parsed.compile))


def _export(parsed: argparse.Namespace) -> None:
    from dawm.config import ExportSettings
    from dawm.data.export import export

    export(_settings(parsed, ExportSettings), parsed.output, parsed.parent)


def _inspect(parsed: argparse.Namespace) -> int:
    from dawm.analysis.inspection import inspect, lines, save_inspection
    from dawm.config import InspectionSettings

    settings = _settings(parsed, InspectionSettings)
    found = inspect(parsed.dataset, settings, parsed.environment)
    slug = "-".join(re.findall("[a-z0-9]+", parsed.dataset.lower().removesuffix(".hdf5")))
    output = parsed.output or Path("inspections", slug)
    save_inspection(found, settings, output)
    print(*lines(found), f"{'figure':<22}{output / 'inspection.png'}", sep="\n")
    return 1 if found.physics.alarm else 0


def _describe(parsed: argparse.Namespace) -> None:
    from dawm.analysis.overview import describe
    from dawm.config import Matrix

    describe(parsed.results, _settings(parsed, Matrix))


def _export_to(parsed: argparse.Namespace) -> None:
    from dawm.data.export_to import export_to

    for sentence in export_to(parsed.layout, parsed.output, parsed.dataset, parsed.synthetic, parsed.id):
        print(sentence)


def _train_world_model(parsed: argparse.Namespace) -> None:
    from dawm.config import WorldModelSettings
    from dawm.world_model.training import train_world_model

    settings = _settings(parsed, WorldModelSettings)
    teachers = (parsed.inverse_dynamics, parsed.forward_dynamics)
    train_world_model(parsed.dataset, settings, parsed.output, parsed.seed, _compute(parsed), *teachers)


def _train_inverse_dynamics(parsed: argparse.Namespace) -> None:
    from dawm.config import InverseDynamicsSettings
    from dawm.inverse_dynamics import train_inverse_dynamics

    settings = _settings(parsed, InverseDynamicsSettings)
    train_inverse_dynamics(parsed.dataset, settings, parsed.output, parsed.seed, _compute(parsed))


def _train_forward_dynamics(parsed: argparse.Namespace) -> None:
    from dawm.config import ForwardDynamicsSettings
    from dawm.forward_dynamics import train_forward_dynamics

    settings = _settings(parsed, ForwardDynamicsSettings)
    train_forward_dynamics(parsed.dataset, settings, parsed.output, parsed.seed, _compute(parsed))


def _train_cloned_policy(parsed: argparse.Namespace) -> None:
    from dawm.cloned_policy import train_cloned_policy
    from dawm.config import ClonedPolicySettings

    settings = _settings(parsed, ClonedPolicySettings)
    train_cloned_policy(parsed.dataset, settings, parsed.output, parsed.seed, _compute(parsed))


def _synthesize(parsed: argparse.Namespace) -> None:
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


def _train_policy(parsed: argparse.Namespace) -> None:
    from dawm.offline_rl.training import LEARNERS, PolicyRun, train_policies

    settings = _settings(parsed, LEARNERS[parsed.algorithm][1])
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
    synthetic *= len(seeds) if len(synthetic) == 1 else 1
    runs = [PolicyRun(*values) for values in zip(seeds, synthetic, outputs, strict=True)]
    train_policies(parsed.algorithm, parsed.dataset, settings, parsed.real_fraction, runs, _compute(parsed))


def _evaluate(parsed: argparse.Namespace) -> None:
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


def _film(parsed: argparse.Namespace) -> None:
    from dawm.rendering import choose_renderer

    skip = choose_renderer()  # before anything imports MuJoCo
    from dawm.analysis.film import film_policy

    _device(parsed)
    film_policy(parsed.policy, parsed.output, parsed.seed, skip)


def _assess(parsed: argparse.Namespace) -> None:
    from dawm.analysis.fidelity import assess
    from dawm.config import AssessmentSettings

    settings = _settings(parsed, AssessmentSettings)
    _device(parsed)
    assess(parsed.dataset, parsed.synthetic, parsed.inverse_dynamics, settings, parsed.output, parsed.name)


def _fidelity(parsed: argparse.Namespace) -> None:
    from dawm.analysis.fidelity_page import write_fidelity
    from dawm.config import Experiment

    write_fidelity(parsed.results, _settings(parsed, Experiment))


def _animate(parsed: argparse.Namespace) -> None:
    from dawm.rendering import choose_renderer

    skip = choose_renderer()  # before anything imports MuJoCo
    from dawm.analysis.animation import animate
    from dawm.config import AnimationSettings

    animate(parsed.dataset, parsed.synthetic, _settings(parsed, AnimationSettings), parsed.output, parsed.name, skip)


def _steer(parsed: argparse.Namespace) -> None:
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


def _steering(parsed: argparse.Namespace) -> None:
    from dawm.analysis.steering_page import write_steering
    from dawm.config import Experiment

    write_steering(parsed.results, _settings(parsed, Experiment))


def _tables(parsed: argparse.Namespace) -> None:
    from dawm.analysis.tables import write_tables
    from dawm.config import Matrix

    write_tables(parsed.results, _settings(parsed, Matrix))


def _timings(parsed: argparse.Namespace) -> None:
    from dawm.analysis.timings import write_timings
    from dawm.config import Matrix

    write_timings(parsed.results, _settings(parsed, Matrix), parsed.output)


def _compare(parsed: argparse.Namespace) -> None:
    from dawm.analysis.comparison import compare

    compare(parsed.scores, parsed.output)


def _figures(parsed: argparse.Namespace) -> None:
    from dawm.analysis.figures import draw_all

    draw_all(parsed.tables, parsed.output)


def _report(parsed: argparse.Namespace) -> None:
    from dawm.analysis.report import write_report
    from dawm.config import Experiment

    write_report(parsed.results, _settings(parsed, Experiment))


def _check_config(parsed: argparse.Namespace) -> None:
    import yaml

    from dawm.config import as_mapping, load_experiment, plain

    print(yaml.safe_dump(plain(as_mapping(load_experiment(parsed.config))), sort_keys=False), end="")


def _report_path(parsed: argparse.Namespace) -> None:
    from dawm.config import load_experiment
    from dawm.layout import Layout

    print(f"The report: {Layout.of(load_experiment(parsed.config).experiment).report}")


def _document_config(parsed: argparse.Namespace) -> None:
    from dawm.config import Experiment, json_schema, key_table
    from dawm.data.files import write_json, write_text

    write_json(parsed.schema, {"$schema": "https://json-schema.org/draft/2020-12/schema", **json_schema(Experiment)})
    write_text(parsed.keys, key_table())


def _train_behaviour(parsed: argparse.Namespace) -> None:
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


def _choose_behaviour(parsed: argparse.Namespace) -> None:
    from dawm.environments.behaviour_training import choose_behaviour
    from dawm.environments.tasks import TASKS

    choose_behaviour(
        TASKS[parsed.task],
        parsed.checkpoints,
        parsed.output,
        medium_return=parsed.medium_return,
        rungs=parsed.rungs,
        episodes=parsed.episodes,
    )
