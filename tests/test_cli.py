"""The command line: good input runs each stage, bad input gets one sentence, status 2 and nothing written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import contents
from hdf5_files import hopper_columns, without, write_hdf5

from dawm.cli import main, parser
from dawm.data.sealed import open_sealed
from dawm.data.transitions import read_transitions
from dawm.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
STAGES = next(list(action.choices) for action in parser()._actions if isinstance(action.choices, dict))
WORLD_MODEL = json.dumps({"window": 3, "hidden": 8, "blocks": 1, "batch_size": 8, "gradient_steps": 4})
INVERSE_DYNAMICS = json.dumps({"hidden": 8, "batch_size": 8, "gradient_steps": 4})
SYNTHESIS = json.dumps({"trajectories": 300, "shards": 2, "sampling_steps": 3})
LEARNER = json.dumps({"gradient_steps": 4, "hidden": 8, "batch_size": 8, "evaluate_every": 4, "evaluation_episodes": 1})
EPISODES = ((8, "terminal"), (9, "timeout"), (8, "terminal"), (9, "unfinished"))
Refused = Callable[..., str]


def call(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where a stage is told to write; refused input must leave it empty."""
    return tmp_path / "output"


@pytest.fixture
def refused(output: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Calls a stage; asserts status 2, one line on standard error and no new file; returns the sentence."""

    def run(stage: str, *arguments: object) -> str:
        capsys.readouterr()
        assert call(stage, *arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"dawm {stage}: ") and captured.err.count("\n") == 1, captured.err
        assert not [path for path in output.rglob("*") if path.is_file() and path.name != ".lock"]
        return captured.err.rstrip("\n")

    return run


def shell(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m dawm` as a user calls it."""
    return subprocess.run(
        [sys.executable, "-m", "dawm", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


# --- as a process of its own ------------------------------------------------------------------------------------


def is_one_sentence(result: subprocess.CompletedProcess[str], *words: object) -> bool:
    sentence = result.stderr
    return (result.returncode, result.stdout, sentence.count("\n")) == (2, "", 1) and all(
        str(word) in sentence for word in words
    )


def test_missing_hdf5_file_is_one_sentence(tmp_path, output):
    missing = tmp_path / "hopper_medium-v2.hdf5"
    result = shell("export", "--settings", json.dumps({"source": f"hdf5:{missing}"}), "--output", output)
    assert is_one_sentence(result, "dawm export: ", missing), result.stderr
    assert not output.exists()


def test_bad_config_is_one_sentence(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("experiment: Bad\n")
    result = shell("check-config", path)
    assert is_one_sentence(result, "dawm check-config: ", path), result.stderr


def test_augmented_arm_without_synthetic_data_is_one_sentence(dataset, output):
    options = ["--dataset", dataset, "--real-fraction", 0.5, "--output", output, "--settings", LEARNER]
    result = shell("train-policy", "--algorithm", "td3_bc", *options)
    assert is_one_sentence(result, "dawm train-policy: ", "--synthetic: ", "a real fraction of 0.5, found none"), (
        result.stderr
    )
    assert not output.exists()


def test_good_config_is_printed_with_status_0():
    result = shell("check-config", "config/quickstart.yaml")
    assert (result.returncode, result.stderr) == (0, "")
    assert "experiment: quickstart\n" in result.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_ends_a_stage_in_silence(unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "dawm", "check-config", "config/quickstart.yaml"],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, b"")


def test_help_comes_without_loading_heavy_modules():
    program = (
        "import contextlib, io, sys\n"
        "from dawm.cli import main\n"
        "for stage in sys.argv[1:]:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):\n"
        "        main([stage, '--help'] if stage else ['--help'])\n"
        "    assert 'usage: python -m dawm' in text.getvalue()\n"
        "print(*sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "", *STAGES], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.split())
    assert "dawm.cli" in loaded
    assert not loaded & {"torch", "numpy", "pandas", "pyarrow", "mujoco", "gymnasium", "matplotlib", "h5py"}


def test_help_names_every_stage():
    result = shell("--help")
    assert result.returncode == 0
    assert set(STAGES) <= set(re.findall(r"[a-z]+(?:-[a-z]+)*", result.stdout))


@pytest.mark.parametrize("arguments", [[], ["no-such-stage"], ["export"], ["train-policy", "--algorithm", "ppo"]])
def test_wrong_usage_has_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m dawm" in capsys.readouterr().err


def test_documents_are_the_same_whatever_the_locale(tmp_path):
    """A locale with another encoding than UTF-8 (here ASCII, on a cluster perhaps Latin-1) changes no byte."""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = shell("document-config", "--schema", tmp_path / "schema", "--keys", tmp_path / "keys", **plain)
    assert result.returncode == 0, result.stderr.splitlines()[-1]
    assert (tmp_path / "keys").read_bytes() == (ROOT / "config/README.md").read_bytes()


# --- good input -------------------------------------------------------------------------------------------------


def run_all(root: Path, episodes: tuple, *left_out: str, seed: int = 0) -> dict[str, Path]:
    """Export, both models and synthetic data from a file of these episodes, through the command line."""
    source = write_hdf5(root / "hopper_x.hdf5", without(hopper_columns(episodes), *left_out))
    made = {name: root / name for name in ("dataset", "world-model", "inverse-dynamics", "synthetic")}
    data = ["--dataset", made["dataset"]]
    trained = ["--seed", seed, "--device", "cpu"]
    models = ["--world-model", made["world-model"], "--inverse-dynamics", made["inverse-dynamics"]]
    calls = {
        "export": ["--settings", json.dumps({"source": f"hdf5:{source}"}), "--output", made["dataset"]],
        "train-world-model": [*data, *trained, "--settings", WORLD_MODEL, "--output", made["world-model"]],
        "train-inverse-dynamics": [
            *data,
            *trained,
            *("--settings", INVERSE_DYNAMICS, "--output", made["inverse-dynamics"]),
        ],
        "synthesize": [*data, *models, "--settings", SYNTHESIS, "--output", made["synthetic"]],
    }
    for stage, arguments in calls.items():
        assert call(stage, *arguments) == 0, stage
    return made


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of a run over a small HDF5 file, seed 5. Another data set than the fixture `dataset`."""
    return run_all(tmp_path_factory.mktemp("small"), EPISODES, seed=5)


def test_every_stage_seals_its_folder_with_its_kind_and_seed(small):
    for kind, folder in small.items():
        sealed = open_sealed(folder, kind)
        if kind in ("world-model", "inverse-dynamics"):
            assert sealed.provenance["seed"] == 5
        if kind != "dataset":
            assert sealed.provenance["inputs"]["dataset"] == open_sealed(small["dataset"], "dataset").digest
        assert {path.name for path in folder.glob(".*")} <= {
            ".lock",
            ".finished.json",
            ".spent.json",
        }  # neither checkpoints nor parts


@pytest.mark.parametrize("algorithm", ["td3_bc", "iql"])
def test_train_policy_keeps_what_it_was_told(small, output, algorithm):
    options = ["--dataset", small["dataset"], "--synthetic", small["synthetic"], "--real-fraction", 0.25]
    common = ["--settings", LEARNER, "--seed", 3, "--device", "cpu", "--output", output]
    assert call("train-policy", "--algorithm", algorithm, *options, *common) == 0
    sealed = open_sealed(output, "policy")
    assert (sealed.metadata["algorithm"], sealed.metadata["real_fraction"]) == (algorithm, 0.25)
    assert (sealed.provenance["seed"], sealed.provenance["settings"]["gradient_steps"]) == (3, 4)
    assert set(sealed.provenance["inputs"]) == {"dataset", "synthetic"}


def test_shards_one_by_one_and_then_the_seal_make_the_same_folder(small, output):
    options = ["--dataset", small["dataset"], "--world-model", small["world-model"]]
    options += ["--inverse-dynamics", small["inverse-dynamics"], "--settings", SYNTHESIS, "--output", output]
    for more in (["--shard", 1], ["--shard", 0], ["--seal"]):
        assert call("synthesize", *options, *more) == 0
    for path in small["synthetic"].iterdir():
        assert (output / path.name).read_bytes() == path.read_bytes(), path.name


def test_settings_may_come_from_a_file(tmp_path, output):
    source = write_hdf5(tmp_path / "mine.hdf5", hopper_columns())
    settings = tmp_path / "export.yaml"
    settings.write_text(f"source: 'hdf5:{source}'\nenvironment: {{id: Hopper-v4}}\n")
    assert call("export", "--settings", settings, "--output", output) == 0
    assert open_sealed(output, "dataset").metadata["rows"] == 16


# --- bad settings and options -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["local/hopper-full-replay", "local/", "local/../x"])
def test_unknown_local_data_set_is_refused_with_the_known_ones(refused, output, name):
    message = refused("export", "--settings", json.dumps({"source": name}), "--output", output)
    assert message.startswith("dawm export: source: expected one of local/hopper-random, local/hopper-medium, ")
    assert f"found {name}" in message


@pytest.mark.parametrize("name", ["hopper", "hdf5:", "HDF5:x", "/data/hopper_medium-v2.hdf5", "random:Pendulum-v1"])
def test_unknown_kind_of_source_is_refused(refused, output, name):
    message = refused("export", "--settings", json.dumps({"source": name}), "--output", output)
    known = "local/NAME, d4rl/NAME, minari/ID, hdf5:PATH, part/NAME or random (with `environment`)"
    assert message == f"dawm export: source: expected {known}, found {name!r}"


def test_environment_that_does_not_fit_a_local_source_is_refused(refused, output):
    settings = json.dumps({"source": "local/hopper-medium-replay", "environment": {"id": "Walker2d-v4"}})
    message = refused("export", "--settings", settings, "--output", output)
    assert "environment: expected null for local/hopper-medium-replay, which is made in Hopper-v4" in message


SETTINGS = {
    "{source: [": "expected YAML or JSON",
    "{source: !!python/name:os.system }": "expected YAML or JSON",
    "{}": "the key 'source' is missing",
    "{source: x, sources: y}": "sources: unknown key",
    "{source: x, seed: 1e2}": "seed: expected a whole number, found '1e2' (YAML reads this as text; write it in digits "
    "alone, without quotes)",
    "{source: x, seed: -1}": "seed: expected at least 0, found -1",
    "{source: x, seed: 2024-13-45}": "expected",
    "{source: x, seed: 0x_}": "expected",
}


@pytest.mark.parametrize("text", SETTINGS)
def test_bad_settings_text_is_refused(refused, output, text):
    message = refused("export", "--settings", text, "--output", output)
    assert "--settings: " in message and SETTINGS[text] in message


def test_bad_settings_file_is_refused_by_name(refused, output, tmp_path):
    path = tmp_path / "export.yaml"
    path.write_text("source: x\nseed: first\n")
    message = refused("export", "--settings", path, "--output", output)
    assert message == f"dawm export: {path}: seed: expected a whole number, found 'first'"


@pytest.mark.parametrize("text", ["", "missing.yaml", "source: x"])
def test_settings_that_are_no_file_are_refused(refused, output, text):
    assert "expected a readable YAML file" in refused("export", "--settings", text, "--output", output)


@pytest.mark.parametrize("fraction", ["nan", "-0.1", "1.1", "inf"])
def test_real_fraction_outside_0_to_1_is_refused(refused, dataset, output, fraction):
    options = ["--dataset", dataset, "--output", output, "--settings", LEARNER, f"--real-fraction={fraction}"]
    message = refused("train-policy", "--algorithm", "td3_bc", *options)
    assert "--real-fraction: expected a number from 0 to 1" in message and message.endswith(fraction)


def tiny(dataset: Path, **changes: int) -> list[object]:
    """Options of a world model that trains in no time, should it not be refused."""
    return ["--dataset", dataset, "--settings", json.dumps(json.loads(WORLD_MODEL) | changes)]


MODELS = ["train-world-model", "train-inverse-dynamics", "train-forward-dynamics", "train-cloned-policy"]
SEEDED = {
    **{stage: ["--dataset", "missing", "--output"] for stage in MODELS},
    "train-policy": ["--algorithm", "iql", "--dataset", "missing", "--output"],
    "train-behaviour": ["--task", "hopper", "--steps", 1, "--output"],
    "evaluate": [],
    "film": ["--policy", "missing", "--output"],
}
"""Stages with a seed, and what they need before a folder."""


def test_every_stage_with_a_seed_is_tried_with_a_bad_one():
    made = next(action.choices for action in parser()._actions if isinstance(action.choices, dict))
    assert {name for name, stage in made.items() if "--seed" in stage._option_string_actions} == SEEDED.keys()


@pytest.mark.parametrize("stage", SEEDED)
def test_negative_seed_is_refused(refused, output, stage):
    message = refused(stage, *SEEDED[stage], output, "--seed", -1)
    assert message == f"dawm {stage}: --seed: expected a whole number from 0, found -1"


def test_negative_seed_among_others_is_refused(refused, output):
    message = refused("train-policy", *SEEDED["train-policy"], output / "0", output / "1", "--seed", 0, -2)
    assert message == "dawm train-policy: --seed: expected a whole number from 0, found -2"


def test_options_that_may_come_again_leave_the_positional_argument_alone(tmp_path, capsys):
    results = tmp_path / "results"
    results.mkdir()
    (results / "config.yaml").write_text((ROOT / "tests" / "tiny.yaml").read_text())
    assert main(["status", "--target", "datasets", "--target", "fidelity", str(results)]) == 0
    assert "inspect" in capsys.readouterr().out


def test_a_shard_is_made_or_all_are_sealed(capsys):
    with pytest.raises(SystemExit):
        main(["synthesize", "--world-model", "w", "--dataset", "d", "--output", "o", "--shard", "0", "--seal"])
    assert "argument --seal: not allowed with argument --shard" in capsys.readouterr().err


def test_unknown_device_is_refused(refused, dataset, output):
    message = refused("train-world-model", *tiny(dataset), "--output", output, "--device", "tpu")
    assert "--device: expected cpu, cuda or auto, found 'tpu'" in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused(refused, dataset, output):
    message = refused("train-world-model", *tiny(dataset), "--output", output, "--device", "cuda")
    assert "--device: expected a CUDA device" in message


def test_bad_number_of_threads_is_refused(refused, dataset, output, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert "OMP_NUM_THREADS" in refused("train-world-model", *tiny(dataset), "--output", output)


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_output_that_cannot_be_a_folder_is_refused(tmp_path, capsys, place):
    source = write_hdf5(tmp_path / "hopper_x.hdf5", hopper_columns())
    (tmp_path / "taken").write_text("mine")
    chosen = tmp_path / "taken" / ("below" if place == "below a file" else "")
    assert call("export", "--settings", json.dumps({"source": f"hdf5:{source}"}), "--output", chosen) == 2
    error = capsys.readouterr().err
    assert error.startswith("dawm export: ") and str(tmp_path / "taken") in error and error.count("\n") == 1
    assert (tmp_path / "taken").read_text() == "mine"


def test_export_over_a_data_set_of_other_settings_says_so(tmp_path, capsys):
    source = write_hdf5(tmp_path / "hopper_x.hdf5", hopper_columns())
    said = []
    for held_out in (0.1, 0.1, 0.2):
        environment = {"id": "Hopper-v4", "termination": {"alive": [{"dimension": 0, "above": -100.0}]}}
        values = {"source": f"hdf5:{source}", "environment": environment, "held_out_fraction": held_out}
        settings = json.dumps(values)
        assert call("export", "--settings", settings, "--output", tmp_path / "dataset") == 0
        said.append(capsys.readouterr().err)
    assert said == ["", "", f"export: {tmp_path / 'dataset'}: replacing a data set of other settings\n"]


def test_refused_export_leaves_the_former_data_set_whole(tmp_path, capsys):
    source = write_hdf5(tmp_path / "hopper_x.hdf5", hopper_columns())
    arguments = ["--settings", json.dumps({"source": f"hdf5:{source}"}), "--output", tmp_path / "dataset"]
    assert call("export", *arguments) == 0
    before = open_sealed(tmp_path / "dataset", "dataset").digest
    write_hdf5(source, hopper_columns() | {"rewards": np.full(16, np.nan)})
    assert call("export", *arguments) == 2
    sealed = open_sealed(tmp_path / "dataset", "dataset")
    assert sealed.digest == before and len(read_transitions(sealed)) == 16


# --- bad folders ------------------------------------------------------------------------------------------------


@pytest.fixture
def reading(small: dict[str, Path], output: Path) -> Callable[..., list[object]]:
    """A stage's arguments to read the small run, with some folders replaced: reading("assess", dataset=...)."""

    def arguments(stage: str, **replaced: Path) -> list[object]:
        paths = small | {name.replace("_", "-"): path for name, path in replaced.items()}
        named = {name: [f"--{name}", path] for name, path in paths.items()}
        models = named["world-model"] + named["inverse-dynamics"]
        further: dict[str, list[object]] = {
            "train-world-model": ["--settings", WORLD_MODEL],
            "train-inverse-dynamics": ["--settings", INVERSE_DYNAMICS],
            "synthesize": [*models, "--settings", SYNTHESIS],
            "train-policy": [*named["synthetic"], "--algorithm=iql", "--real-fraction=0.5", "--settings", LEARNER],
            "assess": [*named["synthetic"], *named["inverse-dynamics"], "--settings", "{rows: 10}"],
        }
        return [stage, *named["dataset"], *further[stage], "--output", output]

    return arguments


READERS = ["train-world-model", "train-inverse-dynamics", "synthesize", "train-policy", "assess"]


@pytest.mark.parametrize("stage", READERS)
def test_data_set_without_a_seal_is_refused(refused, reading, small, tmp_path, stage):
    folder = Path(shutil.copytree(small["dataset"], tmp_path / "copy"))
    (folder / "provenance.json").unlink()
    message = refused(*reading(stage, dataset=folder))
    assert f"{folder}: expected a sealed dataset folder" in message


@pytest.mark.parametrize("stage", READERS)
def test_tampered_shard_is_refused_by_name(refused, reading, small, tmp_path, stage):
    folder = Path(shutil.copytree(small["dataset"], tmp_path / "copy"))
    path = folder / "shard-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert f"{path}: expected SHA-256" in refused(*reading(stage, dataset=folder))


@pytest.mark.parametrize("stage", READERS)
def test_missing_folder_is_refused_by_name(refused, reading, tmp_path, stage):
    assert str(tmp_path / "nowhere") in refused(*reading(stage, dataset=tmp_path / "nowhere"))


@pytest.mark.parametrize("stage", READERS)
def test_folder_of_another_kind_is_refused(refused, reading, small, stage):
    message = refused(*reading(stage, dataset=small["synthetic"]))
    assert f"{small['synthetic']}: expected a folder of kind dataset, found synthetic" in message


@pytest.mark.parametrize("part", ["world_model", "inverse_dynamics"])
def test_synthesis_refuses_models_of_another_data_set(refused, reading, request, part):
    folder = request.getfixturevalue(part)
    message = refused(*reading("synthesize", **{part: folder}))
    assert str(folder) in message and "another data set" in message


@pytest.mark.parametrize("part", ["world_model", "inverse_dynamics"])
def test_synthesis_refuses_tampered_weights(refused, reading, small, tmp_path, part):
    folder = Path(shutil.copytree(small[part.replace("_", "-")], tmp_path / "copy"))
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert str(folder / "model.safetensors") in refused(*reading("synthesize", **{part: folder}))


@pytest.mark.parametrize("stage", ["train-policy", "assess"])
def test_synthetic_data_of_another_data_set_is_refused(refused, reading, synthetic, stage):
    assert str(synthetic) in refused(*reading(stage, synthetic=synthetic))


def test_assessment_refuses_another_inverse_dynamics_than_that_of_the_synthetic_data(refused, reading, small, tmp_path):
    folder, data = tmp_path / "other", ["--dataset", small["dataset"]]
    trained = ["--seed", 6, "--device", "cpu", "--settings", INVERSE_DYNAMICS, "--output", folder]
    assert call("train-inverse-dynamics", *data, *trained) == 0
    assert str(folder) in refused(*reading("assess", inverse_dynamics=folder))


@pytest.mark.parametrize("shard", [-1, 2, 1000])
def test_shard_out_of_range_is_refused(refused, reading, shard):
    message = refused(*reading("synthesize"), f"--shard={shard}")
    assert message.endswith(f"shard: expected 0 to 1, found {shard}")


def test_more_sampling_steps_than_the_world_model_s_are_refused(refused, reading):
    arguments = reading("synthesize")
    arguments[arguments.index(SYNTHESIS)] = json.dumps({"trajectories": 10, "sampling_steps": 11})
    message = refused(*arguments)
    assert "sampling_steps" in message and "5" in message and "11" in message


def test_seal_with_a_missing_shard_says_how_to_write_it(refused, reading):
    assert "synthesize --shard 0" in refused(*reading("synthesize"), "--seal")


def test_seal_refuses_shards_of_other_settings(reading, small, output, capsys):
    shutil.copytree(small["synthetic"], output)
    arguments = reading("synthesize")
    other = json.dumps(json.loads(SYNTHESIS) | {"seed": 1})
    arguments[arguments.index(SYNTHESIS)] = other
    assert call(*arguments, "--seal") == 2
    error = capsys.readouterr().err
    assert str(output / "shard-00000-of-00002.parquet") in error and error.count("\n") == 1


def test_seal_refuses_a_damaged_shard_by_name(reading, small, output, capsys):
    shutil.copytree(small["synthetic"], output)
    path = output / "shard-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert call(*reading("synthesize"), "--seal") == 2
    error = capsys.readouterr().err
    assert str(path) in error and error.count("\n") == 1
    with pytest.raises(InputError, match=path.name):  # the former seal stays, and does not cover the damage
        read_transitions(open_sealed(output, "synthetic"))


# --- folders that hold something else ---------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [*READERS, "export", "inspect", "compare"])
def test_what_another_stage_sealed_is_not_written_over(reading, small, output, tmp_path, stage, capsys):
    kind = "inverse-dynamics" if stage in ("export", "train-world-model") else "dataset"
    kept = contents(shutil.copytree(small[kind], output))
    arguments = {
        "export": ["--settings", json.dumps({"source": f"hdf5:{small['dataset'].parent / 'hopper_x.hdf5'}"})],
        "inspect": [small["dataset"]],
        "compare": [tmp_path / "scores.csv"],
    }
    known = [stage, *arguments[stage], "--output", output] if stage in arguments else reading(stage)
    assert call(*known) == 2
    error = capsys.readouterr().err
    assert f"{output}: holds a sealed {kind}; expected an empty folder or one of kind " in error
    assert error.count("\n") == 1 and contents(output) == kept


def test_no_seed_loses_its_seal_where_another_s_folder_is_refused(reading, small, output, tmp_path):
    first = tmp_path / "first"
    arguments = reading("train-policy")[:-2]
    assert call(*arguments, "--output", first) == 0
    kept = contents(first)
    shutil.copytree(small["synthetic"], output)
    (first / ".finished.json").unlink()
    kept.pop(".finished.json")
    assert call(*arguments, "--seed", 0, 1, "--output", first, output) == 2
    assert contents(first) == kept


def test_what_another_stage_did_not_finish_is_not_written_over(reading, small, output, capsys):
    shutil.copytree(small["dataset"], output)
    (output / "provenance.json").unlink()
    kept = contents(output)
    assert call(*reading("synthesize")) == 2
    assert f"{output}: holds an unfinished dataset; expected an empty folder or one" in capsys.readouterr().err
    assert contents(output) == kept


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_folder_whose_seal_is_damaged_is_made_again(reading, small, output, content):
    shutil.copytree(small["synthetic"], output)
    (output / "provenance.json").write_text(content)
    assert call(*reading("synthesize")) == 0
    assert contents(output) == contents(small["synthetic"])


# --- data that cannot serve -------------------------------------------------------------------------------------


def test_window_that_fits_into_no_episode_is_refused(refused, tmp_path, output):
    source = write_hdf5(tmp_path / "hopper_x.hdf5", hopper_columns([(5, "timeout"), (5, "timeout")]))
    settings = json.dumps({"source": f"hdf5:{source}"})
    assert call("export", "--settings", settings, "--output", tmp_path / "data") == 0
    arguments = tiny(tmp_path / "data", window=8)
    message = refused("train-world-model", *arguments, "--output", output)
    assert str(tmp_path / "data") in message and "window" in message


# Neither has a pair to learn from and a held-out one to judge by: one episode, and rows that all end an episode.
TOO_LITTLE = {
    "one episode": hopper_columns([(20, "terminal")]),
    "no known successor": without(hopper_columns([(1, "terminal")] * 6), "next_observations"),
}


@pytest.mark.parametrize("kind", TOO_LITTLE)
def test_data_without_pairs_to_learn_from_and_to_judge_by_is_refused(refused, tmp_path, output, kind):
    source = write_hdf5(tmp_path / "hopper_x.hdf5", TOO_LITTLE[kind])
    settings = json.dumps({"source": f"hdf5:{source}"})
    assert call("export", "--settings", settings, "--output", tmp_path / "data") == 0
    arguments = ["--dataset", tmp_path / "data", "--settings", INVERSE_DYNAMICS, "--output", output]
    message = refused("train-inverse-dynamics", *arguments)
    assert str(tmp_path / "data") in message and "held-out" in message


EXPERIMENT = {
    "experiment": "e",
    "datasets": {"hopper": {"source": "local/hopper-medium"}},
    "algorithms": {"td3_bc": {}},
    "augmentations": {"real": {"real_fraction": 1.0}},
    "seeds": [0],
    "world_model_seeds": [0],
}


def test_tables_name_the_run_that_is_missing(refused, output):
    message = refused("tables", "--results", output, "--settings", json.dumps(EXPERIMENT))
    assert str(output / "policies/hopper/td3_bc/real/seed-0") in message


@pytest.mark.parametrize("key", ["datasets", "algorithms", "augmentations", "seeds", "world_model_seeds"])
def test_experiments_of_nothing_are_refused_by_key(refused, output, key):
    settings = json.dumps(EXPERIMENT | {key: type(EXPERIMENT[key])()})
    assert f"--settings: {key}: expected at least 1 entries" in refused(
        "tables", "--results", output, "--settings", settings
    )


def test_figures_of_a_folder_without_tables_are_refused(refused, small, tmp_path, output):
    assert str(tmp_path) in refused("figures", "--tables", tmp_path, "--output", output)
    assert "expected a folder of kind tables" in refused("figures", "--tables", small["dataset"], "--output", output)


def test_report_without_tables_is_refused(refused, output):
    message = refused("report", "--results", output, "--settings", ROOT / "config/quickstart.yaml")
    assert str(output / "tables") in message
