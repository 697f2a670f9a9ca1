"""Configs: what is shipped is valid, what is wrong is named by file and key, and the documents agree with the code."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import dawm.config
from dawm.cli import main
from dawm.config import (
    AlgorithmsSettings,
    AnimationSettings,
    AssessmentSettings,
    AugmentationSettings,
    BCSettings,
    BestBCSettings,
    BoundSettings,
    ClonedPolicySettings,
    ComputeSettings,
    CorrectionSettings,
    EnvironmentSettings,
    ExpansionSettings,
    Experiment,
    ExportSettings,
    ForwardDynamicsSettings,
    GeneratorSettings,
    InspectionSettings,
    InverseDynamicsSettings,
    IQLSettings,
    LearnerSettings,
    RequestSettings,
    SteeringSettings,
    SynthesisSettings,
    TD3BCSettings,
    TerminationSettings,
    ThresholdSettings,
    WorldModelSettings,
    as_mapping,
    decisive,
    json_schema,
    load_experiment,
    parse_yaml,
    read,
)
from dawm.config.reading import plain
from dawm.errors import InputError
from dawm.jobs import jobs
from dawm.layout import Layout, filmed_runs, runs, synthetic_sets

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = sorted((ROOT / "config").glob("*.yaml"))
STAGES = [
    ExportSettings,
    WorldModelSettings,
    InverseDynamicsSettings,
    ForwardDynamicsSettings,
    ClonedPolicySettings,
    SynthesisSettings,
    TD3BCSettings,
    IQLSettings,
    AugmentationSettings,
    AssessmentSettings,
]
MINIMAL: dict[str, Any] = {
    "experiment": "tiny",
    "seeds": [0, 1],
    "datasets": {"hopper": {"source": "local/hopper-medium-replay"}},
    "augmentations": {"real": {"real_fraction": 1.0}, "dawm": {"real_fraction": 0.5}},
    "algorithms": {"td3_bc": {}, "iql": {}},
}


def changed(key: str, value: Any) -> dict[str, Any]:
    """The minimal config with one key, given by its dotted path, set to a value."""
    config = copy.deepcopy(MINIMAL)
    *outer, last = key.split(".")
    section = config
    for name in outer:
        section = section.setdefault(name, {})
    section[last] = value
    return config


Refused = Callable[[Any], str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Checks a config (text, or values for YAML) through the command line: status 2 and one line, without the path."""

    def run(config: Any) -> str:
        path = tmp_path / "experiment.yaml"
        path.write_text(config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False))
        assert main(["check-config", str(path)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        start, line = f"dawm check-config: {path}: ", captured.err
        assert line.startswith(start) and line.count("\n") == 1
        return line.removeprefix(start).rstrip("\n")

    return run


# --- what is valid ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_config_is_valid(path):
    experiment = load_experiment(path)
    assert experiment.experiment == path.stem
    assert list(runs(experiment.matrix()))


def test_the_papers_config_labels_and_asks_as_dwm_does():
    recipe = load_experiment(ROOT / "config" / "paper.yaml").generators["dawm_paper"]
    assert recipe.world_model.truncated_return == "as_is"
    assert recipe.synthesis.request == RequestSettings(kind="value", amount=0.6)


@pytest.mark.parametrize("name", ["evidence", "pilot", "d4rl-locomotion", "local-locomotion"])
def test_dawm_is_the_recommended_recipe(name):
    """docs/method.md, section 4: one name, one recipe, lengths and widths of the world model apart."""
    dawm = load_experiment(ROOT / "config" / f"{name}.yaml").generators["dawm"]
    assert dawm.forward_dynamics == ForwardDynamicsSettings(hidden=512, gradient_steps=40_000)
    assert dawm.synthesis.correction == CorrectionSettings(mode="correct", terminals="function")


def test_there_are_shipped_configs():
    assert {path.name for path in SHIPPED} >= {"quickstart.yaml", "local-locomotion.yaml", "d4rl-locomotion.yaml"}


def test_notes_decide_nothing():
    plainly, noted = (read(Experiment, MINIMAL | more, "here") for more in ({}, {"notes": ["The data are old."]}))
    assert noted.notes == ("The data are old.",) and plainly.notes == ()
    assert decisive(noted) == decisive(plainly) and "notes" not in decisive(noted)
    assert noted.matrix() == plainly.matrix()
    made = [[(job, job.settings) for job in jobs(Layout(Path()), experiment)] for experiment in (plainly, noted)]
    assert made[0] == made[1]


def test_minimal_config_takes_every_default():
    experiment = read(Experiment, MINIMAL, "here")
    assert experiment.generators == {"dawm": GeneratorSettings()}
    assert experiment.generators["dawm"].world_model == WorldModelSettings()
    assert experiment.algorithms == AlgorithmsSettings(td3_bc=TD3BCSettings(), iql=IQLSettings())
    assert experiment.seeds == (0, 1) and experiment.world_model_seeds == (0,)
    assert experiment.algorithm_names == ["td3_bc", "iql"]


def test_given_values_replace_defaults_and_only_them():
    experiment = read(Experiment, changed("algorithms.iql", {"expectile": 0.9}), "here")
    assert experiment.algorithm("iql") == dataclasses.replace(IQLSettings(), expectile=0.9)


def test_whole_numbers_serve_as_numbers_and_whole_floats_as_whole_numbers():
    config = changed("generators.dawm.world_model", {"learning_rate": 1, "hidden": 64.0})
    settings = read(Experiment, config, "here").generators["dawm"].world_model
    assert (settings.learning_rate, settings.hidden) == (1.0, 64)
    assert isinstance(settings.learning_rate, float) and isinstance(settings.hidden, int)


@pytest.mark.parametrize("name", ["a", "0", "hopper-medium_v2", "x" * 64])
def test_good_name_is_accepted(name):
    assert read(Experiment, changed("experiment", name), "here").experiment == name
    assert list(read(Experiment, changed("datasets", {name: {"source": "local/hopper-medium"}}), "here").datasets) == [
        name
    ]


def test_matrix_names_every_run_once_and_pairs_world_models_in_turn():
    experiment = read(Experiment, MINIMAL | {"seeds": [3, 5, 9], "world_model_seeds": [7, 8]}, "here")
    matrix = experiment.matrix()
    assert [run.slug for run in runs(matrix)] == [
        f"hopper/{algorithm}/{arm}/seed-{seed}"
        for algorithm in ("td3_bc", "iql")
        for arm in ("real", "dawm")
        for seed in (3, 5, 9)
    ]
    assert [matrix.world_model_seed(seed) for seed in (3, 5, 9)] == [7, 8, 7]
    assert list(synthetic_sets(matrix)) == [("hopper", "dawm", 7), ("hopper", "dawm", 8)]


def test_real_data_alone_needs_no_world_model():
    config = changed("augmentations", {"real": {"real_fraction": 1.0}})
    assert list(synthetic_sets(read(Experiment, config, "here").matrix())) == []


def test_generators_share_models_of_equal_settings():
    """A second recipe that differs in its sampler alone trains nothing anew."""
    config = changed("generators", {"dawm": {}, "cold": {"synthesis": {"temperature": 0.1}}, "wide": {}})
    config["generators"]["wide"]["world_model"] = {"hidden": 512}
    experiment = read(Experiment, config, "here")
    owners = {
        (name, part): experiment.owner(name, part)
        for name in experiment.generators
        for part in ("world_model", "inverse_dynamics")
    }
    assert {key: owner for key, owner in owners.items() if owner != "dawm"} == {("wide", "world_model"): "wide"}


def test_arms_may_share_a_generator_and_only_used_ones_are_run():
    config = changed("generators", {"dawm": {}, "unused": {}})
    config["augmentations"]["synthetic_only"] = {"real_fraction": 0, "generator": "dawm"}
    matrix = read(Experiment, config, "here").matrix()
    assert [arm.generator for arm in matrix.augmentations.values()] == [None, "dawm", "dawm"]
    assert list(synthetic_sets(matrix)) == [("hopper", "dawm", 0)]


@pytest.mark.parametrize(
    ("recipe", "expected", "found"),
    [
        ({"synthesis": {"correction": {"mode": "correct"}}}, "settings", "null"),
        ({"forward_dynamics": {}}, "null", "settings"),
    ],
)
def test_forward_model_belongs_to_recipes_that_use_it(refused, recipe, expected, found):
    message = refused(changed("generators.dawm", recipe))
    assert message.startswith(f"generators.dawm.forward_dynamics: expected {expected} for synthesis.correction.mode ")
    assert message.endswith(f"found {found}")


ONE_STEP = {
    "world_model": None,
    "inverse_dynamics": None,
    "forward_dynamics": {"loss": "likelihood"},
    "cloned_policy": {},
    "synthesis": {"horizon": 7, "correction": {"terminals": "function"}},
}
WITHOUT_WORLD_MODEL = "where world_model is null"


def test_one_step_recipe_is_read_and_shares_no_model_with_a_diffusion():
    experiment = read(Experiment, changed("generators", {"dawm": {}, "one_step": ONE_STEP}), "here")
    recipe = experiment.generators["one_step"]
    assert recipe.world_model is None and recipe.inverse_dynamics is None and recipe.synthesis.horizon == 7
    assert (
        experiment.owner("one_step", "cloned_policy") == experiment.owner("one_step", "forward_dynamics") == "one_step"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"inverse_dynamics": {}}, f"inverse_dynamics: expected null {WITHOUT_WORLD_MODEL}, found settings"),
        ({"cloned_policy": None}, f"cloned_policy: expected settings {WITHOUT_WORLD_MODEL}, found null"),
        ({"forward_dynamics": None}, f"forward_dynamics.loss: expected 'likelihood' {WITHOUT_WORLD_MODEL}, found null"),
        (
            {"forward_dynamics": {}},
            f"forward_dynamics.loss: expected 'likelihood' {WITHOUT_WORLD_MODEL}, found absolute",
        ),
        (
            {"synthesis": {"correction": {"terminals": "function"}}},
            "synthesis.horizon: expected the length of a one-step model's rollouts, found null",
        ),
        (
            {"synthesis": {"horizon": 7}},
            "synthesis.correction.terminals: expected 'function' with a one-step model, which learns no terminals, "
            "found 'learned'",
        ),
        (
            {"synthesis": ONE_STEP["synthesis"] | {"guidance": 2.0}},
            "synthesis.guidance: makes no difference with a one-step model, expected no such key",
        ),
        (
            {"synthesis": ONE_STEP["synthesis"] | {"request": {"amount": 2.0}}},
            "synthesis.request: makes no difference with a one-step model, expected no such key",
        ),
        ({"world_model": {}}, "cloned_policy: expected null with a world_model, or world_model: null, found both"),
        (
            {"world_model": {}, "cloned_policy": None, "inverse_dynamics": {}, "forward_dynamics": None},
            "synthesis.horizon: expected null with a world model, whose window (8) tells it, found 7",
        ),
        (
            {"world_model": {}, "cloned_policy": None, "forward_dynamics": None, "synthesis": {}},
            "inverse_dynamics: expected settings for world_model.actions 'inferred', found null",
        ),
        (
            {
                "synthesis": {
                    "horizon": 7,
                    "correction": {"mode": "filter", "action_disagreement": {"value": 1}, "terminals": "function"},
                }
            },
            "inverse_dynamics: expected settings for correction.action_disagreement, found null",
        ),
        (
            {"synthesis": {"expansion": {"steps": 3}, "correction": {"oracle": "rows"}}},
            "synthesis.correction.oracle: judges single steps, expected 'none' with an expansion, found 'rows'",
        ),
    ],
)
def test_contradictory_recipe_is_refused(refused, change, sentence):
    assert refused(changed("generators.dawm", ONE_STEP | change)) == f"generators.dawm.{sentence}"


def test_joint_recipe_needs_no_inverse_dynamics():
    recipe = {"world_model": {"actions": "joint"}, "inverse_dynamics": None}
    experiment = read(Experiment, changed("generators.dawm", recipe), "here")
    assert experiment.generators["dawm"].inverse_dynamics is None


def test_joint_recipe_trains_no_inverse_dynamics_for_nothing(refused):
    joint = {"world_model": {"actions": "joint"}, "inverse_dynamics": {}}
    assert refused(changed("generators.dawm", joint)) == (
        "generators.dawm.inverse_dynamics: expected null with world_model.actions 'joint', which infers no action, "
        "found settings"
    )
    judged = {"correction": {"mode": "filter", "action_disagreement": {"value": 1}}}
    recipe = joint | {"inverse_dynamics": {"members": 2}, "synthesis": judged}
    assert read(Experiment, changed("generators.dawm", recipe), "here").generators["dawm"].inverse_dynamics is not None


@pytest.mark.parametrize(
    ("model", "synthesis", "key", "reason"),
    [
        ({"preconditioning": "edm", "diffusion_steps": 9}, {}, "world_model.diffusion_steps", "preconditioning 'edm'"),
        ({"denoiser": "unet", "hidden": 64}, {}, "world_model.hidden", "denoiser 'unet'"),
        ({"denoiser": "unet", "blocks": 2}, {}, "world_model.blocks", "denoiser 'unet'"),
        ({"unet_channels": [32]}, {}, "world_model.unet_channels", "denoiser 'residual'"),
        (
            {"return_horizon": "window", "truncated_return": "as_is"},
            {},
            "world_model.truncated_return",
            "return_horizon 'window'",
        ),
        ({"conditional": False, "discount": 0.9}, {}, "world_model.discount", "conditional false"),
        ({"conditional": False, "return_scales": {"hopper": 4}}, {}, "world_model.return_scales", "conditional false"),
        ({"conditional": False, "condition_dropout": 0.1}, {}, "world_model.condition_dropout", "conditional false"),
        ({"conditional": False}, {"guidance": 2}, "synthesis.guidance", "world_model.conditional false"),
        ({"conditional": False}, {"request": {"amount": 2}}, "synthesis.request", "world_model.conditional false"),
        ({}, {"sigma_max": 50}, "synthesis.sigma_max", "world_model.preconditioning 'clean'"),
        ({"preconditioning": "noise"}, {"rho": 5}, "synthesis.rho", "world_model.preconditioning 'noise'"),
    ],
)
def test_setting_without_effect_is_refused(refused, model, synthesis, key, reason):
    recipe = {"world_model": model, "synthesis": synthesis}
    assert refused(changed("generators.dawm", recipe)) == (
        f"generators.dawm.{key}: makes no difference with {reason}, expected no such key"
    )


def test_unconditional_models_expand_no_real_rows(refused):
    recipe = {"world_model": {"conditional": False}, "synthesis": {"expansion": {"steps": 3}}}
    assert refused(changed("generators.dawm", recipe)) == (
        "generators.dawm.synthesis.expansion: expected null with world_model.conditional false, which grows from no "
        "real row"
    )


def test_arm_of_an_unknown_generator_is_refused(refused):
    message = refused(changed("augmentations.joint", {"real_fraction": 0.5}))
    assert message == "augmentations.joint.generator: expected one of dawm, found joint"


def test_only_models_that_learned_without_a_given_action_plan(refused: Refused) -> None:
    plain = {"world_model": {"action_dropout": 0.0}}
    planning = {"world_model": {"action_dropout": 0.2}}
    message = refused({**MINIMAL, "generators": {"dawm": plain}, "planners": ["dawm"]})
    assert message.startswith("planners: expected some of a generator whose world model has an action_dropout above 0")
    values = {**MINIMAL, "generators": {"dawm": plain, "acting": planning}}
    assert refused({**values, "planners": ["dawm"]}) == "planners: expected some of acting, found dawm"
    assert read(Experiment, {**values, "planners": ["acting"]}, "here").matrix().planners == ("acting",)


def test_parts_are_of_whole_data_sets_of_the_same_config(refused: Refused) -> None:
    whole = {"source": "local/hopper-medium"}
    for name, source in (("it is not there", "part/other"), ("it is a part", "part/tenth")):
        sets = {"hopper": whole, "tenth": {"source": "part/hopper", "fraction": 0.1}}
        message = refused(changed("datasets", sets | {"small": {"source": source, "fraction": 0.1}}))
        assert message == f"datasets.small.source: expected part/ and one of hopper, found {source}", name


def test_parts_of_one_data_set_differ_in_their_fraction(refused: Refused) -> None:
    """By which tables tell them apart, whatever their names and seeds are."""
    whole, tenth = {"source": "local/hopper-medium"}, {"source": "part/hopper", "fraction": 0.1}
    same = refused(changed("datasets", {"hopper": whole, "tenth": tenth, "again": {**tenth, "seed": 1}}))
    assert same.startswith("datasets.again.fraction: expected another than that of tenth, ")
    everything = refused(changed("datasets", {"hopper": whole, "all": {**tenth, "fraction": 1.0}}))
    assert everything.startswith("datasets.all.fraction: expected another than that of hopper, ")


@pytest.mark.parametrize(
    ("source", "expected", "hint"),
    [
        ("local/hoper-medium", "one of local/hopper-random, ", "; did you mean local/hopper-medium?"),
        ("d4rl/hopper-medium-v0", "one of d4rl/hopper-random-v2, ", "; did you mean d4rl/hopper-medium-v2?"),
        ("d4rl/antmaze", "one of d4rl/hopper-random-v2, ", ""),
        ("randomly", "local/NAME, d4rl/NAME, minari/ID, hdf5:PATH, part/NAME or random", None),
    ],
)
def test_unknown_source_is_refused_before_anything_runs(refused: Refused, source: str, expected: str, hint) -> None:
    message = refused(changed("datasets", {"hopper": {"source": source}}))
    assert message.startswith(f"datasets.hopper.source: expected {expected}")
    assert message.endswith(f"found {source!r}" if hint is None else f"found {source}{hint}")


def test_file_of_a_source_may_be_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ExportSettings(source="hdf5:~/mine.hdf5").file == tmp_path / "mine.hdf5"
    assert ExportSettings(source="hdf5:data/mine.hdf5").file == Path("data/mine.hdf5")
    assert ExportSettings(source="local/hopper-medium").file is None


def test_arms_name_learners_that_there_are(refused: Refused) -> None:
    config = changed("augmentations.dawm", {"real_fraction": 0.5, "algorithms": ["iql", "bc"]})
    assert refused(config) == "augmentations.dawm.algorithms: expected some of td3_bc, iql, found bc"


def test_a_learner_has_an_arm(refused: Refused) -> None:
    config = changed("augmentations", {"real": {"real_fraction": 1.0, "algorithms": ["td3_bc"]}})
    assert refused(config) == "algorithms.iql: expected null, since no arm of `augmentations` has it"


def test_arms_may_be_of_some_learners_alone() -> None:
    config = changed("augmentations.dawm", {"real_fraction": 0.5, "algorithms": ["iql"]})
    matrix = read(Experiment, config, "here").matrix()
    found = [(run.algorithm, run.augmentation) for run in runs(matrix) if run.seed == 0]
    assert found == [("td3_bc", "real"), ("iql", "real"), ("iql", "dawm")]
    assert [(run.algorithm, run.augmentation) for run in filmed_runs(matrix)] == [("td3_bc", "real"), ("iql", "dawm")]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_experiments_survive_json(path):
    experiment = load_experiment(path)
    assert read(Experiment, json.loads(json.dumps(as_mapping(experiment))), "here") == experiment


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_settings_survive_json(stage):
    needed = {"source": "hdf5:x"} if stage is ExportSettings else {}
    needed |= {"real_fraction": 0.1} if stage is AugmentationSettings else {}
    settings = stage(**needed)
    assert read(stage, json.loads(json.dumps(as_mapping(settings))), "here") == settings


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_check_config_prints_a_config_that_means_the_same(path, tmp_path, capsys):
    assert main(["check-config", str(path)]) == 0
    printed = capsys.readouterr().out
    (tmp_path / "printed.yaml").write_text(printed)
    assert load_experiment(tmp_path / "printed.yaml") == load_experiment(path)
    defaults = {"rows": 1000, "best_action_rows": 200, "seed": 0}  # spelled out
    own = yaml.safe_load(path.read_text()).get("assessment", {})
    assert yaml.safe_load(printed)["assessment"] == defaults | own


# --- what is refused --------------------------------------------------------------------------------------------

UNKNOWN = [
    "seed",
    "datasets.hopper.sources",
    "generators.dawm.world_model.guidance",
    "generators.dawm.inverse_dynamics.dropouts",
    "generators.dawm.synthesis.window",
    "augmentations.dawm.fraction",
    "algorithms.ppo",
    "algorithms.td3_bc.expectile",
    "algorithms.iql.alpha",
    "assessment.row",
]


@pytest.mark.parametrize("key", UNKNOWN)
def test_unknown_key_is_refused_at_every_level(refused, key):
    assert refused(changed(key, 1)).startswith(f"{key}: unknown key; expected one of ")


# key, value, what the sentence says was expected, and found
WRONG = [
    ("experiment", 3, "a text", "3"),
    ("experiment", None, "a text", "None"),
    ("seeds", 3, "a list", "3"),
    ("seeds", "0", "a list", "'0'"),
    ("seeds", [], "at least 1 entries", "[]"),
    ("world_model_seeds", [], "at least 1 entries", "[]"),
    ("datasets", [], "a mapping", "[]"),
    ("datasets", {}, "at least 1 entries", "{}"),
    ("datasets.hopper", None, "a mapping", "None"),
    ("datasets.hopper.source", 5, "a text", "5"),
    ("datasets.hopper.source", "", "at least 1 characters", "''"),
    ("datasets.hopper.transitions", 999, "at least 1000", "999"),
    ("datasets.hopper.transitions", "many", "a whole number", "'many'"),
    ("datasets.hopper.environment", 4, "a mapping", "4"),
    ("datasets.hopper.rows_per_shard", 0, "at least 1", "0"),
    ("datasets.hopper.held_out_fraction", 0, "more than 0", "0"),
    ("datasets.hopper.held_out_fraction", 0.6, "at most 0.5", "0.6"),
    ("datasets.hopper.seed", -1, "at least 0", "-1"),
    ("generators.dawm.world_model", "big", "a mapping", "'big'"),
    ("generators.dawm.world_model.window", 1, "at least 2", "1"),
    ("generators.dawm.world_model.window", 33, "at most 32", "33"),
    ("generators.dawm.world_model.window", 4.5, "a whole number", "4.5"),
    ("generators.dawm.world_model.window", True, "a whole number", "True"),
    ("generators.dawm.world_model.unet_channels", [], "at least 1 entries", "[]"),
    ("generators.dawm.world_model.unet_channels", [8, 8, 8, 8, 8, 8], "at most 5 entries", "[8, 8, 8, 8, 8, 8]"),
    ("generators.dawm.world_model.actions", "none", "one of ['inferred', 'joint']", "'none'"),
    ("generators.dawm.world_model.conditional", "no", "true or false", "'no'"),
    ("generators.dawm.world_model.preconditioning", "velocity", "one of ['clean', 'noise', 'edm']", "'velocity'"),
    ("generators.dawm.world_model.return_scales.hopper", 0, "more than 0", "0"),
    ("generators.dawm.world_model.return_scales", 400, "a mapping", "400"),
    ("generators.dawm.world_model.learning_rate", 0, "more than 0", "0"),
    ("generators.dawm.world_model.learning_rate", True, "a number", "True"),
    ("generators.dawm.world_model.learning_rate", [0.1], "a number", "[0.1]"),
    ("generators.dawm.world_model.discount", 1.01, "at most 1", "1.01"),
    ("generators.dawm.inverse_dynamics.layers", 0, "at least 1", "0"),
    ("generators.dawm.inverse_dynamics.dropout", 1, "at most 0.9", "1"),
    ("generators.dawm.synthesis.sampler", "euler", "one of ['ddpm', 'ddim', 'dpmpp_2m']", "'euler'"),
    ("generators.dawm.synthesis.shards", 0, "at least 1", "0"),
    ("generators.dawm.synthesis.guidance", -0.1, "at least 0", "-0.1"),
    ("augmentations", {}, "at least 1 entries", "{}"),
    ("augmentations.dawm.real_fraction", 1.5, "at most 1", "1.5"),
    ("augmentations.dawm.real_fraction", -0.5, "at least 0", "-0.5"),
    ("augmentations.dawm.real_fraction", "half", "a number", "'half'"),
    ("algorithms", {}, "at least 1 entries", "{}"),
    ("algorithms.td3_bc", 5, "a mapping", "5"),
    ("algorithms.td3_bc.gradient_steps", 0, "at least 1", "0"),
    ("algorithms.td3_bc.normalize_rewards", "no", "true or false", "'no'"),
    ("algorithms.td3_bc.normalize_rewards", 1, "true or false", "1"),
    ("algorithms.iql.expectile", 1, "less than 1", "1"),
    ("algorithms.iql.expectile", 0, "more than 0", "0"),
    ("assessment.rows", 9, "at least 10", "9"),
]


@pytest.mark.parametrize(("key", "value", "expected", "found"), WRONG)
def test_wrong_value_is_refused_with_key_expectation_and_finding(refused, key, value, expected, found):
    assert refused(changed(key, value)) == f"{key}: expected {expected}, found {found}"


@pytest.mark.parametrize("key", ["seeds", "world_model_seeds"])
def test_seed_given_twice_is_refused(refused, key):
    assert refused(changed(key, [4, 2, 4])) == f"{key}: expected every entry once, found 4 twice"


@pytest.mark.parametrize("key", ["seeds", "world_model_seeds"])
def test_negative_seed_is_refused_with_its_place(refused, key):
    assert refused(changed(key, [0, -2])) == f"{key}.1: expected at least 0, found -2"


@pytest.mark.parametrize("text", ["1e-3", "3e4", "1.e+3x"])
def test_number_that_yaml_reads_as_text_is_refused_with_the_way_out(refused, text):
    config = yaml.safe_dump(MINIMAL) + f"generators: {{dawm: {{world_model: {{learning_rate: {text}}}}}}}\n"
    message = refused(config)
    assert message.startswith(f"generators.dawm.world_model.learning_rate: expected a number, found {text!r}")
    assert ("3.0e-4" in message) == (text != "1.e+3x")


BAD_NAMES = ["", "Hopper", "a b", "../x", "a/b", ".", "-a", "_a", "ä", "x" * 65, "x" * 80, "a.b", "a\n"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_name_of_an_experiment_is_refused(refused, name):
    message = refused(changed("experiment", name))
    assert message.startswith("experiment: expected a name that matches ") and message.endswith(f"found {name!r}")


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize(("key", "value"), [("datasets", {"source": "x"}), ("augmentations", {"real_fraction": 1})])
def test_bad_name_of_a_data_set_or_arm_is_refused(refused, key, value, name):
    message = refused(changed(key, {name: value}))
    assert message.startswith(f"{key}: expected a name that matches ") and message.endswith(f"found {name!r}")


@pytest.mark.parametrize(("key", "name"), [("datasets", "2024"), ("datasets", "null"), ("augmentations", "yes")])
def test_name_that_yaml_does_not_read_as_text_is_refused(refused, key, name):
    value = {"datasets": "{source: x}", "augmentations": "{real_fraction: 1}"}[key]
    config = yaml.safe_dump({k: v for k, v in MINIMAL.items() if k != key}) + f"{key}: {{{name}: {value}}}\n"
    assert refused(config).startswith(f"{key}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("augmentations.dawm.real_fraction", math.nan),
        ("generators.dawm.world_model.learning_rate", math.inf),
        ("generators.dawm.world_model.return_scales.hopper", math.nan),
        ("generators.dawm.synthesis.request.amount", -math.inf),
        ("generators.dawm.synthesis.request.amount", 10**400),  # no float is that large
    ],
    ids=lambda value: str(value)[:40],
)
def test_number_that_is_not_finite_is_refused(refused, key, value):
    assert refused(changed(key, value)).startswith(f"{key}: expected ")


@pytest.mark.parametrize("key", ["experiment", "seeds", "datasets", "augmentations", "algorithms"])
def test_missing_key_is_refused_by_name(refused, key):
    config = {name: value for name, value in MINIMAL.items() if name != key}
    assert refused(config) == f"the key {key!r} is missing"


def test_missing_key_of_a_section_is_refused_by_name(refused):
    assert refused(changed("datasets.hopper", {})) == "datasets.hopper: the key 'source' is missing"
    assert refused(changed("augmentations.dawm", {})) == "augmentations.dawm: the key 'real_fraction' is missing"


def test_misspelled_key_that_is_needed_is_named(refused):
    missing = "augmentations.dawm: the key 'real_fraction' is missing; found the unknown key 'real_fractn'"
    assert refused(changed("augmentations.dawm", {"real_fractn": 0.5})) == missing
    config = {"experimnt" if name == "experiment" else name: value for name, value in MINIMAL.items()}
    assert refused(config) == "the key 'experiment' is missing; found the unknown key 'experimnt'"


def test_experiment_without_any_learner_is_refused(refused):
    assert refused(changed("algorithms", {"td3_bc": None})).startswith("algorithms")


def test_more_sampling_steps_than_diffusion_steps_are_refused(refused):
    message = refused(changed("generators.dawm.synthesis.sampling_steps", 11))
    bound = "expected at most world_model.diffusion_steps (5), found 11"
    assert message == f"generators.dawm.synthesis.sampling_steps: {bound}"
    as_many = read(Experiment, changed("generators.dawm.synthesis.sampling_steps", 5), "here")
    assert as_many.generators["dawm"].synthesis.sampling_steps == 5


def test_edm_has_no_number_of_levels_that_limits_the_sampling_steps():
    values = changed("generators.dawm.synthesis.sampling_steps", 11)
    values["generators"]["dawm"]["world_model"] = {"preconditioning": "edm"}
    assert read(Experiment, values, "here").generators["dawm"].synthesis.sampling_steps == 11


def test_noise_levels_of_sampling_that_do_not_decrease_are_refused(refused):
    message = refused(changed("generators.dawm.synthesis.sigma_max", 0.001))
    assert message == "generators.dawm.synthesis.sigma_max: expected more than sigma_min (0.002), found 0.001"


NO_CONFIGS = {
    "empty": "",
    "list": "- 1\n- 2\n",
    "text": "just a text",
    "number": "3",
    "set": "!!set {a, b}",
    "unclosed": "seeds: [0, 1",
    "tab": "seeds:\n\t- 0",
    "control character": "seeds: \x00",
    "two documents": "a: 1\n---\nb: 2\n",
    "undefined alias": "seeds: *nothing",
    "no date": "seeds: 2024-13-45",
    "no number": "seeds: !!int x",
    "no octal": "seeds: 0x_",
    "no truth": "seeds: !!bool x",
    "no time": "seeds: !!timestamp x",
    "too long a number": "seeds: " + "9" * 5000,
    "too deep": "seeds: " + "[" * 500,
    "unhashable key": "? [1]\n: 2",
}


@pytest.mark.parametrize("kind", NO_CONFIGS)
def test_file_that_is_no_yaml_mapping_is_refused(refused, kind):
    assert "expected" in refused(NO_CONFIGS[kind])


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch ran']",
        "!!python/object/new:os.system ['touch ran']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple [1, 2]",
    ],
)
def test_yaml_that_would_run_code_is_refused_and_does_not_run(refused, tmp_path, monkeypatch, tag):
    monkeypatch.chdir(tmp_path)
    assert "expected YAML" in refused(f"experiment: {tag}\n")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_file_that_cannot_be_read_is_refused_by_name(tmp_path, capsys, kind):
    path = tmp_path / "experiment.yaml"
    if kind == "folder":
        path.mkdir()
    if kind == "binary":
        path.write_bytes(b"\xff\xfe\x00\x80\x81")
    assert main(["check-config", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dawm check-config: {path}: expected ") and error.count("\n") == 1


def test_values_that_are_no_mapping_are_refused_with_their_origin():
    with pytest.raises(InputError, match=r"^here: the file: expected a mapping, found \[1\]$"):
        read(Experiment, [1], "here")


# --- the schema and the table of keys ---------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [*STAGES, AlgorithmsSettings, Experiment], ids=lambda cls: cls.__name__)
def test_schema_is_a_valid_json_schema(settings):
    schema = json_schema(settings)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    assert all(part["description"] for part in schema["properties"].values())


@pytest.mark.parametrize("stage", [*STAGES, Experiment], ids=lambda stage: stage.__name__)
def test_every_default_is_within_its_own_bounds(stage):
    properties, checked = json_schema(stage)["properties"], 0
    for item in dataclasses.fields(stage):
        if item.default is not dataclasses.MISSING:
            jsonschema.Draft202012Validator(properties[item.name]).validate(plain(item.default))
            checked += 1
    assert checked or stage is AugmentationSettings


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    arguments = ["--schema", str(folder / "config.schema.json"), "--keys", str(folder / "README.md")]
    assert main(["document-config", *arguments]) == 0
    return folder


@pytest.mark.parametrize("path", ["workflow/schemas/config.schema.json", "config/README.md"])
def test_committed_document_is_what_the_code_writes(documents, path):
    assert (ROOT / path).read_bytes() == (documents / Path(path).name).read_bytes(), "run: make config-reference"


def test_committed_schema_judges_as_the_code_does():
    schema = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for path in SHIPPED:
        assert validator.is_valid(yaml.safe_load(path.read_text())), path
    for key, value, _, _ in WRONG:
        assert not validator.is_valid(changed(key, value)), key


def test_table_of_keys_holds_every_key_of_every_section(documents):
    text = (documents / "README.md").read_text()
    sections = {part.splitlines()[0].strip("`"): part for part in text.split("\n## ")[1:]}
    expected = {
        "The file": Experiment,
        "datasets.NAME": ExportSettings,
        "datasets.NAME.environment": EnvironmentSettings,
        "datasets.NAME.environment.termination": TerminationSettings,
        "datasets.NAME.environment.termination.alive, goal": BoundSettings,
        "inspection": InspectionSettings,
        "generators.NAME": GeneratorSettings,
        "generators.NAME.world_model": WorldModelSettings,
        "generators.NAME.inverse_dynamics": InverseDynamicsSettings,
        "generators.NAME.forward_dynamics": ForwardDynamicsSettings,
        "generators.NAME.cloned_policy": ClonedPolicySettings,
        "generators.NAME.synthesis": SynthesisSettings,
        "generators.NAME.synthesis.correction": CorrectionSettings,
        "generators.NAME.synthesis.correction.residual, forward_disagreement, action_disagreement": ThresholdSettings,
        "augmentations.NAME": AugmentationSettings,
        "algorithms.td3_bc": TD3BCSettings,
        "generators.NAME.synthesis.request": RequestSettings,
        "generators.NAME.synthesis.expansion": ExpansionSettings,
        "algorithms.iql": IQLSettings,
        "algorithms.bc": BCSettings,
        "algorithms.bc_10": BestBCSettings,
        "assessment": AssessmentSettings,
        "animation": AnimationSettings,
        "steering": SteeringSettings,
        "compute": ComputeSettings,
    }
    every = {getattr(dawm.config, name) for name in dawm.config.__all__ if name.endswith("Settings")}
    assert every - {LearnerSettings, AlgorithmsSettings} == set(expected.values()) - {Experiment}
    assert sections.keys() == expected.keys()
    for title, stage in expected.items():
        for item in dataclasses.fields(stage):
            assert f"| `{item.name}` |" in sections[title], (title, item.name)


# --- hostile files ----------------------------------------------------------------------------------------------


def test_aliases_that_stand_for_billions_of_values_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]" for n in range(1, 10)]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines))
    begun = time.monotonic()
    with pytest.raises(
        InputError, match=r"bomb\.yaml: expected at most 100,000 values, found [\d,]+ behind its aliases"
    ):
        load_experiment(path)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    "text", ["&a [*a]", "a: &a {b: *a}", "[" * 5000 + "]" * 5000, "!!python/object/apply:os.getcwd []"]
)
def test_strange_yaml_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "strange.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_experiment(path)
    assert str(caught.value).startswith(f"{path}: expected ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["../up", "/root", "", "a" * 65, "a/b", "Ä", "a b", "$(touch x)", "a;b", "-rf", ".", "a\n"]
)
def test_names_that_would_end_up_in_paths_and_commands_are_refused(name: str) -> None:
    values = {**MINIMAL, "experiment": name}
    with pytest.raises(InputError, match="experiment: expected a name that matches"):
        read(Experiment, values, "here")
    for key in ("datasets", "augmentations", "generators"):
        values = copy.deepcopy(MINIMAL)
        content = {"source": "local/hopper-medium"} if key == "datasets" else {}
        if key == "augmentations":
            content = {"real_fraction": 1.0}
        values[key] = {**values.get(key, {}), name: content}
        with pytest.raises(InputError):
            read(Experiment, values, "here")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"experiment": "published"}, "experiment: 'published' holds what the docs quote; expected another name"),
        (
            {"augmentations": {"real": {"real_fraction": 1.0, "generator": "dawm"}}},
            "augmentations.real.generator: expected null with real_fraction 1, found dawm",
        ),
        (
            {"datasets": {"mine": {"source": "random"}}},
            "datasets.mine.environment: expected one for the source `random`, such as {id: Pendulum-v1}, found null",
        ),
        (
            {"datasets": {"mine": {"source": "d4rl/hopper-medium-v2", "transitions": 5000}}},
            "datasets.mine.transitions: expected null for the source d4rl/hopper-medium-v2, found 5000",
        ),
        (
            {
                "datasets": {
                    "whole": {"source": "local/hopper-medium"},
                    "part": {"source": "part/whole", "fraction": 0.5, "environment": {"id": "Pendulum-v1"}},
                }
            },
            "datasets.part.environment: expected null for the source part/whole, which has its whole's, found one",
        ),
        (
            {"generators": {"dawm": {"synthesis": {"expansion": {"steps": 3, "discount": 0.9}}}}},
            "generators.dawm.synthesis.expansion.discount: expected algorithms.td3_bc.discount (0.99), found 0.9",
        ),
        (
            {"generators": {"dawm": {"world_model": {"window": 8}, "synthesis": {"expansion": {"steps": 8}}}}},
            "generators.dawm.synthesis.expansion.steps: expected at most 7, the steps of a window of 8 rows, found 8",
        ),
        (
            {
                "generators": {
                    "dawm": {
                        "synthesis": {"correction": {"mode": "filter", "action_disagreement": {"value": 0.1}}},
                    }
                }
            },
            "generators.dawm.inverse_dynamics.members: expected at least 2 for "
            "synthesis.correction.action_disagreement, found 1",
        ),
        (
            {"generators": {"dawm": {"world_model": {"condition_dropout": 0}}}},
            "generators.dawm.synthesis.guidance: expected 1 with world_model.condition_dropout 0, which never learns "
            "what guidance counts from, found 1.2",
        ),
    ],
)
def test_what_only_a_later_stage_would_refuse_or_nobody_would_heed_is_refused(
    changes: dict[str, object], sentence: str
) -> None:
    values = {
        "experiment": "x",
        "seeds": [0],
        "datasets": {"hopper": {"source": "local/hopper-medium"}},
        "augmentations": {"dawm": {"real_fraction": 0.5}},
        "algorithms": {"td3_bc": {}},
    }
    with pytest.raises(InputError) as refused:
        read(Experiment, values | changes, "the file")
    assert str(refused.value) == f"the file: {sentence}"


def test_a_key_that_is_there_twice_is_refused() -> None:
    with pytest.raises(InputError, match="the key 'dawm' twice in the mapping of line 2"):
        parse_yaml("generators:\n  dawm: {}\n  dawm: {}\n", "the file")
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, x: 2}\n", "the file") == {"a": {"x": 1}, "b": {"x": 2}}
