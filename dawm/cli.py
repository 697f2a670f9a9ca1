"""`python -m dawm STAGE`: one call per stage. Exit status 2 and one sentence for bad input."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dawm import stages
from dawm.config import LEARNER_SETTINGS
from dawm.errors import InputError, StoppedError, one_line

Stage = Callable[[argparse.Namespace], int | None]
Command = Callable[..., argparse.ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one stage; returns the exit status: 0, 1 for damage that `verify` found, 2 for bad input, 3 for an alarm of
    `inspect`, 143 for a training that was told to stop, 130 for whatever was interrupted, 141 where nobody reads the
    output any more."""
    parsed = parser().parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        _check_seeds(parsed)
        status = parsed.stage(parsed) or 0
        sys.stdout.flush()
        return status
    except InputError as error:
        print(f"dawm {parsed.command}: {error}", file=sys.stderr)
        return 2
    except StoppedError as stop:
        print(f"dawm {parsed.command}: {stop}", file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's last flush would complain
        return 128 + signal.SIGPIPE
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        print(f"dawm {parsed.command}: not enough memory ({one_line(error):.200})", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that may not be written
        where = f"{error.filename}: " if error.filename else ""
        print(f"dawm {parsed.command}: {where}{error.strerror or error}", file=sys.stderr)
        return 2


def _check_seeds(parsed: argparse.Namespace) -> None:
    """Every stage's --seed, one or several."""
    given = getattr(parsed, "seed", [])
    for seed in given if isinstance(given, list) else [given]:
        if seed < 0:
            raise InputError(f"--seed: expected a whole number from 0, found {seed}")


def ran_out_of_memory(error: Exception) -> bool:
    """Torch's CPU allocator and CUDA's raise RuntimeErrors."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="python -m dawm", description="Diffusion action world models: synthetic transitions for offline RL."
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="STAGE")

    def command(name: str, stage: Stage, help: str, *names: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(stage=stage)
        for option in names:
            made.add_argument(_FLAGS.get(option, f"--{option}"), **_OPTIONS[option])
        return made

    for add in (_add_data, _add_models, _add_learners, _add_fidelity, _add_collecting, _add_upkeep):
        add(command)
    return root


def _add_data(command: Command) -> None:
    """Data sets, in and out."""
    made = command("export", stages.export, "make a sealed data set from a source", "settings", "output")
    made.add_argument("--parent", type=Path, help="folder of the data set that the source part/NAME is a part of")
    made = command("inspect", stages.inspect, "describe a data set and replay some of it in its simulator", "settings")
    made.add_argument(
        "dataset",
        help="a sealed folder, an HDF5 file, or a source such as d4rl/hopper-medium-v2, made first",
    )
    made.add_argument("--environment", metavar="ID", help="gymnasium's id, for a file that does not tell it")
    made.add_argument("--output", type=Path, help="where the figure goes; default: inspections/NAME")
    made = command("describe", stages.describe, "one table and figure of all inspected data sets", "results")
    made.add_argument("--datasets", nargs="+", required=True, metavar="NAME", help="the data sets, in their order")
    made = command("export-to", stages.export_to, "write transitions for other people's learners", "output")
    made.add_argument("layout", choices=["d4rl-hdf5", "minari", "parquet"])
    made.add_argument("--dataset", type=Path, help="folder of a sealed data set: real transitions")
    made.add_argument(
        "--synthetic", type=Path, help="folder of synthetic transitions; with --dataset: both, real first"
    )
    made.add_argument("--id", help="of the new Minari data set, such as dawm/hopper-medium-v0")


def _add_models(command: Command) -> None:
    """The models, and the transitions that grow from them."""
    models = ("dataset", "settings", "output", "seed", "device", "precision", "compile")
    made = command(
        "train-world-model", stages.train_world_model, "train the diffusion world model", *models, "inverse-dynamics"
    )
    made.add_argument("--forward-dynamics", type=Path, help="folder of a trained forward model, for `consistency`")
    command("train-inverse-dynamics", stages.train_inverse_dynamics, "train a = f(s, s')", *models)
    command("train-forward-dynamics", stages.train_forward_dynamics, "train s', r = f(s, a)", *models)
    command(
        "train-cloned-policy", stages.train_cloned_policy, "train a ~ π(s) for a one-step model's rollouts", *models
    )
    made = command(
        "synthesize",
        stages.synthesize,
        "sample synthetic transitions; without --shard and --seal: all shards, then the seal",
        *("dataset", "inverse-dynamics", "settings", "output", "device", "precision", "compile"),
    )
    maker = made.add_mutually_exclusive_group(required=True)
    maker.add_argument("--world-model", type=Path, help="folder of a trained world model")
    maker.add_argument("--cloned-policy", type=Path, help="folder of a cloned policy that acts in the forward model")
    made.add_argument(
        "--forward-dynamics", type=Path, help="folder of a trained forward model that corrects, filters, is rolled out"
    )
    part = made.add_mutually_exclusive_group()
    part.add_argument("--shard", type=int, help="only this shard, from 0")
    part.add_argument("--seal", action="store_true", help="only seal the shards that are there")


def _add_learners(command: Command) -> None:
    """Policies: their training, and what they do in the simulator."""
    made = command(
        "train-policy",
        stages.train_policy,
        "train TD3+BC, IQL or behaviour cloning on real and synthetic transitions, for one seed or several at once",
        *("dataset", "settings", "device"),
    )
    made.add_argument("--seed", type=int, nargs="+", default=[0], help="those that share the process; default: 0")
    made.add_argument("--output", type=Path, nargs="+", required=True, help="a folder for each seed")
    made.add_argument(
        "--precision", choices=["float32", "tf32"], default="float32", help="of matrix products; default: %(default)s"
    )
    made.add_argument(
        "--compile",
        choices=["none", "graphs"],
        default="none",
        help="CUDA graphs: one launch for each gradient step; default: %(default)s",
    )
    made.add_argument("--algorithm", required=True, choices=list(LEARNER_SETTINGS))
    made.add_argument("--synthetic", type=Path, nargs="+", help="folder of synthetic transitions, or one for each seed")
    made.add_argument(
        "--real-fraction", type=float, default=1.0, help="share of real transitions per batch; default: %(default)s"
    )
    made.add_argument(
        "--evaluation-processes",
        type=int,
        default=1,
        help="in which the seeds' policies are evaluated side by side; default: %(default)s",
    )
    made = command("evaluate", stages.evaluate, "let a saved policy act in its environment", "seed")
    made.add_argument("policy", type=Path, help="folder of a trained policy")
    made.add_argument("--episodes", type=int, default=100, help="how many; default: %(default)s")
    made.add_argument("--video", type=Path, metavar="FILE.gif", help="one episode, or its first ten seconds, as a GIF")
    made = command("film", stages.film, "draw an episode of a saved policy, for the report", "output", "seed")
    made.add_argument("--policy", type=Path, required=True, help="folder of a trained policy")


def _add_fidelity(command: Command) -> None:
    """How true synthetic transitions are, and how models obey."""
    made = command(
        "assess",
        stages.assess,
        "replay synthetic transitions in the true simulator",
        *("dataset", "inverse-dynamics", "settings", "output"),
    )
    made.add_argument("--synthetic", type=Path, required=True, help="folder of synthetic transitions")
    made.add_argument("--name", default="dawm", help="the arm's name in the table; default: %(default)s")
    command("fidelity", stages.fidelity, "set all recipes' assessments beside each other", "results", "experiment")
    made = command(
        "animate", stages.animate, "draw imagined rollouts beside the simulator's", "dataset", "settings", "output"
    )
    made.add_argument("--synthetic", type=Path, required=True, help="folder of synthetic transitions")
    made.add_argument("--name", default="dawm", help="the recipe's name in the caption; default: %(default)s")
    made = command(
        "steer",
        stages.steer,
        "ask the models for other returns, and let them plan in the simulator",
        *("dataset", "inverse-dynamics", "settings", "output"),
    )
    made.add_argument("--world-model", type=Path, required=True, help="folder of a trained world model")
    made.add_argument("--forward-dynamics", type=Path, help="folder of a trained forward model, where it corrects")
    made.add_argument("--synthesis", required=True, metavar="SETTINGS", help="the recipe's settings of synthesis")
    command("steering", stages.steering, "set all recipes' steerings beside each other", "results", "experiment")


def _add_collecting(command: Command) -> None:
    """What is collected from all of an experiment's runs."""
    command("tables", stages.tables, "collect runs into tables/*.csv", "results", "experiment")
    command("timings", stages.timings, "collect benchmark files into one table", "results", "experiment", "output")
    made = command("compare", stages.compare, "arms against each other, from one or several tables of scores", "output")
    made.add_argument("scores", type=Path, nargs="+", help="tables scores.csv")
    command("figures", stages.figures, "draw all figures from the tables", "tables", "output")
    command("report", stages.report, "write the report page", "results", "experiment")


def _add_upkeep(command: Command) -> None:
    """Commands that are no stage: about configs, and the making of the behaviour policies."""
    made = command("verify", stages.verify, "hold every stored file against its seal; status 1: damage")
    made.add_argument("results", type=Path, help="results, one experiment of them, or any folder below")
    made = command("status", stages.status, "what of an experiment is complete, running, stopped and waiting", "target")
    made.add_argument("results", type=Path, help="folder results/<experiment>")
    made.add_argument("--watch", type=float, metavar="SECONDS", help="show it again and again until all is complete")
    made = command("plan", stages.plan, "hours, disk and jobs of an experiment, from measured ones", "target")
    made.add_argument("config", type=Path, help="the experiment's config")
    made.add_argument("--gpus", type=int, default=0, help="default: none, everything runs on cores")
    made.add_argument("--cores", type=int, default=8, help="default: %(default)s")
    made.add_argument(
        "--measured",
        type=Path,
        action="append",
        metavar="FOLDER",
        help="an experiment with config.yaml and timings/timings.csv; may come again; default: all below results",
    )
    made = command("check-config", stages.check_config, "validate an experiment's config and print it whole")
    made.add_argument("config", type=Path, help="a YAML file; files and environments that it names are not looked for")
    made = command("report-path", stages.report_path, "print where the report of an experiment's config is")
    made.add_argument("config", type=Path, help="a YAML file")
    made = command("document-config", stages.document_config, "write the JSON schema and the table of keys")
    made.add_argument("--schema", type=Path, required=True)
    made.add_argument("--keys", type=Path, required=True)
    made = command(
        "train-behaviour", stages.train_behaviour, "train a behaviour policy and keep its checkpoints", "seed"
    )
    made.add_argument("--task", required=True, choices=["hopper", "halfcheetah", "walker2d"])
    made.add_argument("--algorithm", default="td3", choices=["td3", "sac"])
    made.add_argument("--steps", type=int, default=250_000)
    made.add_argument("--every", type=int, default=10_000, help="steps between two checkpoints")
    made.add_argument("--episodes", type=int, default=5, help="episodes of a checkpoint's evaluation")
    made.add_argument("--output", type=Path, required=True)
    made = command("choose-behaviour", stages.choose_behaviour, "choose the local suite's policies among checkpoints")
    made.add_argument("--task", required=True, choices=["hopper", "halfcheetah", "walker2d"])
    made.add_argument("--checkpoints", type=Path, required=True, help="folder that train-behaviour wrote")
    made.add_argument("--medium-return", type=float, required=True)
    made.add_argument("--rungs", type=int, default=6, help="checkpoints of the ladder from early to medium")
    made.add_argument("--episodes", type=int, default=50, help="episodes of a candidate's evaluation with noise")
    made.add_argument("--output", type=Path, required=True)


_FLAGS = {"experiment": "--settings"}
"""Of options that are not called by their names."""
_OPTIONS: dict[str, dict[str, Any]] = {
    "settings": {
        "default": "{}",
        "help": "the stage's settings: a YAML file, or YAML or JSON text in braces; default: all defaults",
    },
    "experiment": {
        "required": True,
        "metavar": "CONFIG",
        "help": "the experiment's config: a YAML file, or YAML or JSON text in braces",
    },
    "output": {"type": Path, "required": True, "help": "where the result goes"},
    "seed": {"type": int, "default": 0, "help": "default: %(default)s"},
    "device": {"default": "auto", "help": "cpu, cuda, or auto: cuda where there is one; default: %(default)s"},
    "precision": {
        "choices": ["float32", "tf32", "bf16"],
        "default": "float32",
        "help": "of matrix products; default: %(default)s",
    },
    "compile": {
        "choices": ["none", "default", "graphs"],
        "default": "none",
        "help": "torch.compile of the networks, or with CUDA graphs too; default: %(default)s",
    },
    "dataset": {"type": Path, "required": True, "help": "folder of a sealed data set"},
    "inverse-dynamics": {"type": Path, "help": "folder of a trained inverse dynamics model, where one infers actions"},
    "results": {"type": Path, "required": True, "help": "folder results/<experiment>"},
    "tables": {"type": Path, "required": True, "help": "folder of sealed tables"},
    "target": {
        "action": "append",
        "metavar": "TARGET",
        "help": "what the workflow is asked for: report, datasets, fidelity, steering, animations; may come again; "
        "default: report",
    },
}
