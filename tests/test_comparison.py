"""Arms against each other: numbers that can be recomputed by hand, paired replicates, refusals, figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dawm.analysis.comparison import STATISTICS, compare, panels
from dawm.analysis.comparison_figures import LEGIBLE, draw_profiles, intervals
from dawm.analysis.comparison_markdown import verdicts
from dawm.cli import main
from dawm.data.sealed import open_sealed

TASKS, SEEDS = ["hopper-medium", "walker2d-medium"], range(5)
NAME = "a name in one line, without |, ` and $"
Effect = Callable[[str, str, int], float]


def table(arms: dict[str, Effect], algorithm: str = "td3_bc", fraction: float = 1.0) -> pd.DataFrame:
    """Scores by arm: effect(task, arm, seed) on top of what a task's seed gives to every arm."""
    base = {(task, seed): 10 * len(task) + 7 * ((3 * seed) % 5) for task in TASKS for seed in SEEDS}
    return pd.DataFrame(
        {
            "experiment": "here",
            "dataset": task,
            "algorithm": algorithm,
            "augmentation": arm,
            "seed": seed,
            "world_model_seed": None if arm == "real" else seed % 3,
            "data_fraction": fraction,
            "episodes": 5,
            "normalized_score_mean10": base[task, seed] + effect(task, arm, seed),
            "whole": task,
        }
        for task in TASKS
        for arm, effect in arms.items()
        for seed in SEEDS
    )


def written(folder: Path, *tables: pd.DataFrame) -> dict[str, pd.DataFrame]:
    folder.mkdir(exist_ok=True)
    for place, rows in enumerate(tables):
        rows.to_csv(folder / "scores.csv", index=False, header=place == 0, mode="a" if place else "w")
    compare([folder / "scores.csv"], folder / "comparison")
    names = ("aggregates", "pairs", "differences", "profiles", "budgets")
    return {name: pd.read_csv(folder / "comparison" / f"{name}.csv") for name in names}


def nothing(task: str, arm: str, seed: int) -> float:
    return 0.0


def five(task: str, arm: str, seed: int) -> float:
    return 5.0


def noisy(task: str, arm: str, seed: int) -> float:
    return float(np.random.default_rng([len(task), len(arm), seed]).normal(3, 10))


def test_aggregates_are_those_of_all_runs(tmp_path: Path) -> None:
    scores = table({"real": nothing, "dawm": noisy})
    tables = written(tmp_path, scores)
    found = tables["aggregates"].set_index(["augmentation", "statistic"])
    for arm, rows in scores.groupby("augmentation"):
        values = rows["normalized_score_mean10"]
        expected = {
            "iqm": stats.trim_mean(values, 0.25),
            "mean": values.mean(),
            "median": rows.groupby("whole")["normalized_score_mean10"].mean().median(),
            "optimality_gap": (100 - values).clip(lower=0).mean(),
        }
        for name, value in expected.items():
            row = found.loc[arm, name]
            assert row["value"] == pytest.approx(value, rel=1e-5), (arm, name)
            assert (row["low"] <= row["value"] <= row["high"] and row["low"] < row["high"]) or name == "optimality_gap"
            assert (row["datasets"], row["seeds"]) == (2, 5)
    pair = tables["pairs"].set_index(["augmentation", "other"]).loc["dawm", "real"]
    for name in ("iqm", "mean"):
        apart = found.loc[("dawm", name), "value"] - found.loc[("real", name), "value"]
        assert pair[f"{name}_difference"] == pytest.approx(apart, abs=0.002)  # six digits are kept
        assert pair[f"{name}_low"] < pair[f"{name}_difference"] < pair[f"{name}_high"]


def test_median_and_differences_are_over_means_by_data_set(tmp_path: Path) -> None:
    """Of three data sets, so that the median is no mean."""
    two = table({"real": nothing, "dawm": noisy})
    third = two[two["whole"] == TASKS[0]].assign(whole="halfcheetah", dataset="halfcheetah")
    third["normalized_score_mean10"] *= 3
    scores = pd.concat([two, third])
    found = written(tmp_path, scores)
    row = found["aggregates"].set_index(["augmentation", "statistic"]).loc[("dawm", "median")]
    means = scores[scores["augmentation"] == "dawm"].groupby("whole")["normalized_score_mean10"].mean()
    assert row["value"] == pytest.approx(means.median(), rel=1e-5) != pytest.approx(means.mean(), rel=1e-3)
    arms = scores.pivot(index=["whole", "seed"], columns="augmentation", values="normalized_score_mean10")
    apart = (arms["dawm"] - arms["real"]).groupby("whole").mean()
    for line in found["differences"].itertuples():
        assert line.difference == pytest.approx(apart[line.dataset], rel=1e-4)
    pair = found["pairs"].set_index(["augmentation", "other"]).loc["dawm", "real"]
    ends = pair["smallest_difference"], pair["largest_difference"]
    assert ends == (pytest.approx(apart.min(), rel=1e-4), pytest.approx(apart.max(), rel=1e-4))


def test_seeds_are_drawn_for_every_data_set_alone_and_each_statistic_has_its_own_interval(tmp_path: Path) -> None:
    scores = table({"real": nothing, "dawm": noisy}).assign(world_model_seed=np.nan)
    (panel,) = panels(scores)
    for draws in (panel.replicates, panel.others):
        one, other = draws[:, 0].ravel(), draws[:, 1].ravel()
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.05
    row = written(tmp_path, scores)["pairs"].set_index(["augmentation", "other"]).loc["dawm", "real"]
    for name in ("iqm", "mean"):
        apart = STATISTICS[name](panel.replicated("dawm")) - STATISTICS[name](panel.replicated("real"))
        np.testing.assert_allclose(
            [row[f"{name}_low"], row[f"{name}_high"]], np.percentile(apart, [2.5, 97.5]), rtol=1e-4
        )
    assert row["iqm_low"] != row["mean_low"]


def test_replicates_are_paired_by_seed(tmp_path: Path) -> None:
    """An arm that is better by five points for every seed is so in every replicate, however far seeds lie apart."""
    pairs = written(tmp_path, table({"real": nothing, "dawm": five}))["pairs"].set_index(["augmentation", "other"])
    row = pairs.loc["dawm", "real"]
    for statistic in ("iqm", "mean"):
        ends = (row[f"{statistic}_{name}"] for name in ("difference", "low", "high"))
        assert all(end == pytest.approx(5) for end in ends)
    assert (row["better"], row["datasets"], row["smallest_difference"], row["largest_difference"]) == (2, 2, 5, 5)
    assert pairs.loc["real", "dawm"]["iqm_difference"] == pytest.approx(-5)
    # seeds are seven apart: one of five points more beats itself and all below, 15 of 25 pairs
    assert row["probability_of_improvement"] == pytest.approx(0.6)
    assert row["probability_low"] < 0.6 < row["probability_high"]


def test_world_models_are_drawn_before_seeds(tmp_path: Path) -> None:
    """An effect that is the world model's is less sure than one that is the seed's own."""

    def of_world_model(task: str, arm: str, seed: int) -> float:
        return [0.0, 10.0, 20.0][seed % 3]

    one = written(tmp_path / "grouped", table({"real": nothing, "dawm": of_world_model}))["pairs"]
    ungrouped = table({"real": nothing, "dawm": of_world_model})
    ungrouped["world_model_seed"] = None
    other = written(tmp_path / "alone", ungrouped)["pairs"]
    widths = [(pairs["iqm_high"] - pairs["iqm_low"]).iloc[0] for pairs in (one, other)]
    assert widths[0] > 1.1 * widths[1]


def test_differences_are_by_data_set_and_profiles_count_runs(tmp_path: Path) -> None:
    def on_hopper(task: str, arm: str, seed: int) -> float:
        return 4.0 if "hopper" in task else -1.0

    scores = table({"real": nothing, "dawm": on_hopper})
    found = written(tmp_path, scores)
    rows = found["differences"].set_index(["augmentation", "dataset"])["difference"]
    assert rows.to_dict() == {("dawm", "hopper-medium"): 4, ("dawm", "walker2d-medium"): -1}
    values = scores.loc[scores["augmentation"] == "dawm", "normalized_score_mean10"]
    for row in found["profiles"].query("augmentation == 'dawm'").itertuples():
        assert row.share == pytest.approx((values > row.score).mean())
        assert row.low <= row.share <= row.high


def test_learners_and_fractions_are_kept_apart(tmp_path: Path) -> None:
    arms: dict[str, Effect] = {"real": nothing, "dawm": noisy}
    tables = [table(arms), table(arms, "iql"), table(arms, "td3_bc", 0.1), table({"real": nothing}, "bc")]
    found = written(tmp_path, *tables)
    keys = found["aggregates"][["algorithm", "data_fraction"]].drop_duplicates().to_numpy().tolist()
    assert keys == [["td3_bc", 1.0], ["iql", 1.0], ["td3_bc", 0.1], ["bc", 1.0]]
    assert set(found["pairs"]["algorithm"]) == {"td3_bc", "iql"}
    text = (tmp_path / "comparison" / "comparison.md").read_text()
    assert text.count("\n") == 2 + 2 * 3 + 1 and "| TD3+BC | 10% | `dawm` | 2 × 5 |" in text


def test_arms_are_compared_on_the_data_sets_that_they_share(tmp_path: Path) -> None:
    scores = table({"real": nothing, "dawm": five})
    gone = (scores["augmentation"] == "dawm") & (scores["whole"] == TASKS[1])
    found = written(tmp_path, scores[~gone])
    assert set(found["aggregates"]["datasets"]) == {1}
    assert set(found["differences"]["dataset"]) == {"hopper-medium"}
    note = f"TD3+BC: {TASKS[1]} is in no IQM and no comparison, since `dawm` has no score with seed 0, 1, 2, 3, 4."
    for page in ("comparison.md", "iqm.md", "scores.md"):
        assert (tmp_path / "comparison" / page).read_text().splitlines()[-1] == note
    assert open_sealed(tmp_path / "comparison", "comparison").metadata["notes"] == [note]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_one_run_without_a_score_takes_away_is_said(tmp_path: Path, value: float) -> None:
    scores = table({"real": nothing, "dawm": five})
    lost = (scores["augmentation"] == "dawm") & (scores["seed"] == 2)
    scores.loc[lost & (scores["whole"] == TASKS[0]), "normalized_score_mean10"] = value
    written(tmp_path / "one", scores)
    scores.loc[lost, "normalized_score_mean10"] = value
    both = written(tmp_path / "both", scores)
    said = [open_sealed(tmp_path / name / "comparison", "comparison").metadata["notes"] for name in ("one", "both")]
    why = "in no IQM and no comparison, since `dawm` has no score with seed 2."
    paired = "in no IQM and no comparison, since other data sets have fewer seeds."
    assert said == [
        [f"TD3+BC: seed 2 of {TASKS[0]} is {why}", f"TD3+BC: seed 2 of {TASKS[1]} is {paired}"],
        [f"TD3+BC: seed 2 of {task} is {why}" for task in TASKS],
    ]
    assert set(both["aggregates"]["seeds"]) == {4} and set(both["pairs"]["datasets"]) == {2}


def test_one_seed_has_no_interval_and_one_world_model_is_said(tmp_path: Path) -> None:
    scores = table({"real": nothing, "dawm": five})
    single = written(tmp_path / "single", scores[scores["seed"] == 3])
    ends = pd.concat([single["aggregates"][["low", "high"]], single["pairs"].filter(regex="_(low|high)$")])
    assert len(ends) and ends.isna().all(axis=None)
    assert "| `dawm` | " in (page := (tmp_path / "single" / "comparison" / "iqm.md").read_text())
    assert "nan" not in page and " to " not in page
    scores.loc[scores["augmentation"] == "dawm", "world_model_seed"] = 0
    written(tmp_path / "shared", scores)
    notes = open_sealed(tmp_path / "shared" / "comparison", "comparison").metadata["notes"]
    assert [note.split(",")[0] for note in notes] == ["TD3+BC: all seeds share one world model"]


def test_scores_stand_by_learner_arm_and_data_set(tmp_path: Path) -> None:
    scores = table({"real": nothing, "dawm": five})
    gone = (scores["augmentation"] == "dawm") & (scores["whole"] == TASKS[1])
    single = table({"real": nothing}, "bc").query("seed == 2")
    written(tmp_path, scores[~gone], single)
    lines = (tmp_path / "comparison" / "scores.md").read_text().splitlines()[:5]
    base = 7 * np.array([0, 3, 1, 4, 2])
    means, std = (10 * len(TASKS[0]) + base.mean(), 10 * len(TASKS[1]) + base.mean()), base.std(ddof=1)
    assert lines == [
        f"| learner | arm | {TASKS[0]} | {TASKS[1]} | ΔIQM vs `real` | Δmean vs `real` |",
        "|---|---|---:|---:|---:|---:|",
        f"| TD3+BC | `real` | {means[0]:.1f} ± {std:.1f} | {means[1]:.1f} ± {std:.1f} | – | – |",
        f"| TD3+BC | `dawm` | {means[0] + 5:.1f} ± {std:.1f} | – | +5.0 (+5.0 to +5.0) | +5.0 (+5.0 to +5.0) |",
        f"| BC | `real` | {10 * len(TASKS[0]) + 7:.1f} | {10 * len(TASKS[1]) + 7:.1f} | – | – |",
    ]


def test_iqms_stand_by_arm_and_reference_learners_below_every_other(tmp_path: Path) -> None:
    arms: dict[str, Effect] = {"real": nothing, "dawm": five}
    found = written(tmp_path, table(arms), table({"real": five}, "iql"), table(arms, fraction=0.1), table(arms, "bc"))
    lines = (tmp_path / "comparison" / "iqm.md").read_text().splitlines()
    heads, _, real, dawm, cloned, other = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    above, apart = ["ΔIQM vs `real`", "Δmean vs `real`"], "+5.0 (+5.0 to +5.0)"
    assert heads == ["arm", "TD3+BC", *above, "TD3+BC, 10%", *above, "IQL", *above]
    assert real[0] == "`real`" and real[2::3] == real[3::3] == ["–", "–", "–"]
    assert dawm[0] == "`dawm`" and dawm[2::3] == dawm[3::3] == [apart, apart, "–"]
    assert other[0] == "BC, `dawm`" and cloned[0] == "BC" and cloned[1] == cloned[7] != "–" and cloned[4] == "–"
    figure = intervals(found["aggregates"])
    labels = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes]
    plt.close(figure)
    assert labels == [["real", "dawm", "BC", "BC, dawm"], ["real", "BC", "BC, dawm"]]
    iqm = found["aggregates"].query("statistic == 'iqm' and algorithm == 'iql'").iloc[0]
    assert real[7] == f"{iqm['value']:.1f} ({iqm['low']:.1f} to {iqm['high']:.1f})"


def test_verdict_is_that_of_the_pairs(tmp_path: Path) -> None:
    def worse_on_one(task: str, arm: str, seed: int) -> float:
        return 12.0 if task == TASKS[0] else -2.0

    found = written(tmp_path, table({"real": nothing, "dawm": worse_on_one, "dwm": five}))
    (pair,) = found["pairs"].query("augmentation == 'dawm' and other == 'real'").to_dict("records")
    (said,) = verdicts(found["pairs"], found["differences"])
    assert said.startswith(f"TD3+BC: `dawm` minus `real` is {pair['iqm_difference']:+z.1f} (")
    assert f"({pair['iqm_low']:+z.1f} to {pair['iqm_high']:+z.1f}) in IQM and" in said
    assert "+5.0 (+5.0 to +5.0) in the mean;" in said
    assert said.endswith("better on 1 of 2 data sets, worst on walker2d-medium (-2.0).")


def test_verdict_is_of_the_first_other_arm_where_the_method_is_none_and_of_each_learner(tmp_path: Path) -> None:
    scores = [table({"real": nothing, "dwm": five, "joint": nothing}, learner) for learner in ("td3_bc", "iql")]
    single = [rows[rows["seed"] == 3] for rows in scores]
    found = written(tmp_path, *single)
    said = verdicts(found["pairs"], found["differences"])
    assert [words.split(" is ")[0] for words in said] == ["TD3+BC: `dwm` minus `real`", "IQL: `dwm` minus `real`"]
    assert "+5.0 (one seed: no interval) in IQM" in said[0]
    alone = written(tmp_path / "alone", table({"real": nothing}))
    assert verdicts(alone["pairs"], alone["differences"]) == []


def test_lead_is_that_of_the_arm_that_stands_for_the_method(tmp_path: Path) -> None:
    written(tmp_path, table({"real": nothing, "dawm_paper": five}))
    head, _, real, *_ = (tmp_path / "comparison" / "comparison.md").read_text().splitlines()
    assert head.endswith("| ΔIQM of `dawm_paper` vs it | P(`dawm_paper` is better) |")
    assert "`real`" in real and "+5.0 (+5.0 to +5.0)" in real


def test_tables_of_several_experiments_are_read_together(tmp_path: Path) -> None:
    both = table({"real": nothing, "dawm": noisy})
    for arm, rows in both.groupby("augmentation"):
        rows.to_csv(tmp_path / f"{arm}.csv", index=False)
    files = [str(tmp_path / f"{arm}.csv") for arm in ("real", "dawm")]
    assert main(["compare", *files, "--output", str(tmp_path / "apart")]) == 0
    written(tmp_path, both)
    for name in ("aggregates", "pairs"):
        apart, together = (pd.read_csv(tmp_path / place / f"{name}.csv") for place in ("apart", "comparison"))
        assert len(apart) == len(together)
    assert set(open_sealed(tmp_path / "apart", "comparison").metadata["scores"]) == set(files)


def test_one_seed_has_no_interval_wherever_it_stands(tmp_path: Path) -> None:
    scores = [table({"real": nothing, "dawm": noisy}, fraction=fraction) for fraction in (1.0, 0.1, 0.004)]
    found = written(tmp_path, *(rows[rows["seed"] == 3] for rows in scores))
    for name, ends in (("aggregates", ["low", "high"]), ("pairs", ["iqm_low", "probability_low", "probability_high"])):
        assert found[name][ends].isna().all(axis=None)
    head = (tmp_path / "comparison" / "iqm.md").read_text().splitlines()[0]
    assert "| TD3+BC |" in head and "| TD3+BC, 10% |" in head and "| TD3+BC, 0.4% |" in head


def test_a_learner_with_one_seed_leaves_the_numbers_of_another_rounded(tmp_path: Path) -> None:
    several, single = (table({"real": nothing, "dawm": noisy}, learner) for learner in ("td3_bc", "iql"))
    written(tmp_path, several, single[single["seed"] == 3])
    for line in (tmp_path / "comparison" / "aggregates.csv").read_text().splitlines()[1:]:
        assert "nan" not in line and all(len(cell.lstrip("-").replace(".", "")) <= 7 for cell in line.split(",")[4:])


def test_intervals_are_drawn_by_the_fewest_world_models_and_it_is_said(tmp_path: Path) -> None:
    scores = table({"real": nothing, "dawm": noisy, "joint": five})
    of_joint = scores["augmentation"] == "joint"
    scores.loc[of_joint, "world_model_seed"] = scores.loc[of_joint, "seed"]  # one each, where `dawm` has three
    (mixed,) = panels(scores)
    (alone,) = panels(scores[~of_joint])
    np.testing.assert_array_equal(mixed.replicates, alone.replicates)
    assert mixed.notes == [
        "TD3+BC: arms have world models of different seeds; intervals are drawn by those of the arm with the fewest."
    ]
    assert not alone.notes


def test_of_few_seeds_it_is_said_that_intervals_are_too_short() -> None:
    scores = table({"real": nothing, "dawm": noisy})
    (few,) = panels(scores[scores["seed"] < 3])
    assert few.notes == [
        "TD3+BC: a 95 % interval of 3 seeds is too short: it misses the truth in far more than 5 cases of 100."
    ]


def test_more_data_sets_are_compared_where_as_many_runs_are() -> None:
    scores = table({"real": nothing, "dawm": noisy})
    (panel,) = panels(scores[(scores["whole"] == TASKS[0]) & (scores["seed"] < 4) | (scores["seed"] < 2)])
    assert (len(panel.tasks), panel.seeds) == (2, 2)


def test_same_scores_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        written(tmp_path / name, table({"real": nothing, "dawm": noisy, "joint": five}))
    one, two = (open_sealed(tmp_path / name / "comparison", "comparison") for name in ("one", "two"))
    assert one.files == two.files and len(one.files) == 5 + 3 + 2 * 4


def test_figures_are_those_that_there_are_data_for(tmp_path: Path) -> None:
    def drawn(name: str, *tables: pd.DataFrame) -> set[str]:
        written(tmp_path / name, *tables)
        return {path.stem for path in (tmp_path / name / "comparison").glob("*.pdf")}

    arms: dict[str, Effect] = {"real": nothing, "dawm": noisy}
    both = {"iqm", "improvement", "profiles", "differences"}
    assert drawn("both", table(arms)) == both
    assert drawn("alone", table({"real": nothing})) == {"iqm"}
    assert drawn("fractions", table(arms), table(arms, fraction=0.1)) == both | {"small-data"}


def test_of_more_arms_than_a_legend_names_the_others_are_grey() -> None:
    arms = ["real", "dawm", *(f"other_{number}" for number in range(LEGIBLE))]
    rows = [
        {"algorithm": "iql", "augmentation": arm, "score": score, "share": 0.5, "low": 0.4, "high": 0.6}
        for arm in arms
        for score in (0.0, 10.0)
    ]
    named = []
    for count in (LEGIBLE, len(arms)):
        figure = draw_profiles(pd.DataFrame(rows[: 2 * count]))
        named.append([text.get_text() for text in figure.axes[0].get_legend().get_texts()])
        plt.close(figure)
    assert named == [arms[:LEGIBLE], ["real", "dawm", "other arms"]]


def test_families_of_arms_show_what_choosing_among_them_costs(tmp_path: Path) -> None:
    arms: dict[str, Effect] = {
        "real": nothing,
        "dawm": five,
        "dawm__far": lambda task, arm, seed: 9.0,
        "dawm__near": lambda task, arm, seed: 1.0,
    }
    scores = table(arms)
    found = written(tmp_path, scores)["budgets"]
    base = scores.loc[scores["augmentation"] == "real", "normalized_score_mean10"].mean()
    assert set(found["family"]) == {"dawm"} and found["configurations"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(found["fixed"], base + 5, rtol=1e-5)
    np.testing.assert_allclose(
        found["value"] - base, [5, (1 + 3 * 5 + 5 * 9) / 9, (1 + 7 * 5 + 19 * 9) / 27], rtol=1e-4
    )
    assert (found["least"] < found["value"]).all() and (found["value"] < found["largest"]).all()
    assert found["episodes"].tolist() == [k * 2 * 4 * 50 for k in (1, 2, 3)]  # data sets, seeds, episodes of a score
    assert (tmp_path / "comparison" / "budget.png").is_file()


def test_the_seed_that_judges_a_choice_has_no_part_in_it(tmp_path: Path) -> None:
    """Two configurations that are alike but for one lucky seed each: who chose by all seeds would gain by it."""
    arms: dict[str, Effect] = {
        "dawm": lambda task, arm, seed: 30.0 * (seed == 0),
        "dawm__far": lambda task, arm, seed: 30.0 * (seed == 1),
    }
    found = written(tmp_path, table(arms))["budgets"]
    base = table({"real": nothing})["normalized_score_mean10"].mean()
    # without seed 0 the other one is chosen, and the other way round; without any other both are alike
    assert found["value"].iloc[0] == pytest.approx(base + 6) and found["value"].iloc[1] < base + 6


def test_runs_without_a_score_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = table({"real": nothing, "dawm": five})
    scores.to_csv(tmp_path / "all.csv", index=False)
    scores.loc[scores["seed"] == 2, "normalized_score_mean10"] = np.nan
    scores.to_csv(tmp_path / "some.csv", index=False)
    for name, numbers in (("all", "20 runs compared, 0"), ("some", "16 runs compared, 4")):
        assert main(["compare", str(tmp_path / f"{name}.csv"), "--output", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}: {numbers} without a score left out\n"
    scores["normalized_score_mean10"] = np.nan
    found = written(tmp_path, scores)
    assert all(rows.empty for rows in found.values())
    facts = open_sealed(tmp_path / "comparison", "comparison").metadata
    assert (facts["runs"], facts["runs_without_score"]) == (0, 20)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        *((name, "", NAME) for name in ("whole", "algorithm", "augmentation")),
        *(("augmentation", value, NAME) for value in ("a|b", "a`b", "a\nb", "$a^$")),
        *(("seed", value, "a whole number from 0") for value in ("", "nan", "inf", "-1", "0.5", "1e300")),
        *(("data_fraction", value, "a number above 0 and at most 1") for value in ("", "0", "1.5", "nan", "-inf")),
        *(("episodes", value, "a whole number from 1") for value in ("", "inf", "0", "2.5", "many")),
        *(("world_model_seed", value, "a whole number from 0, or nothing") for value in ("inf", "0.5", "first")),
        ("normalized_score_mean10", "good", "a number, or nothing"),
    ],
)
def test_a_value_that_is_no_run_s_is_refused_with_its_place(
    column: str, value: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = table({"real": nothing, "dawm": five}).astype({column: object})
    scores.loc[6, column] = value
    path = tmp_path / "scores.csv"
    scores.to_csv(path, index=False)
    assert main(["compare", str(path), "--output", str(tmp_path / "output")]) == 2
    sentence = f"dawm compare: {path}: column '{column}', row 7: expected {expected}, found {value!r}\n"
    assert capsys.readouterr().err == sentence
    assert not (tmp_path / "output").exists()


def test_an_arm_may_have_any_name(tmp_path: Path) -> None:
    compare_to = tmp_path / "scores.csv"
    table({"real": nothing, "None": five, "1": five, "x^_": five}).to_csv(compare_to, index=False)
    assert main(["compare", str(compare_to), "--output", str(tmp_path / "output")]) == 0
    cells = {line[: line.find("|", 2) + 1] for line in (tmp_path / "output/iqm.md").open()}
    assert {"| `None` |", "| `1` |", "| `x^_` |"} <= cells


def test_pages_round_what_the_tables_say(tmp_path: Path) -> None:
    scores = table({"real": nothing})
    scores["normalized_score_mean10"] = 35.3499999
    found = written(tmp_path, scores)["aggregates"]
    assert set(found["value"][found["statistic"] != "optimality_gap"]) == {35.35}
    for name in ("iqm", "comparison"):
        assert f"| {35.35:.1f} (35.4 to 35.4) |" in (tmp_path / "comparison" / f"{name}.md").read_text()


@pytest.mark.parametrize("score", [0.0, -3.0])
def test_scores_may_all_lie_below_the_profiles(score: float, tmp_path: Path) -> None:
    """As those of an environment that nothing has learned in."""
    scores = table({"real": nothing, "dawm": nothing})
    scores["normalized_score_mean10"] = score
    assert (written(tmp_path, scores)["profiles"]["share"] == 0).all()
    assert open_sealed(tmp_path / "comparison", "comparison").read("profiles.png")


def test_a_comparison_stays_whole_where_the_next_cannot_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, table({"real": nothing, "dawm": five}))
    before = open_sealed(tmp_path / "comparison", "comparison").digest
    monkeypatch.setattr("dawm.analysis.comparison_figures.draw_profiles", lambda profiles: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        written(tmp_path, table({"real": nothing, "dawm": noisy}))
    assert open_sealed(tmp_path / "comparison", "comparison").digest == before


def test_both_orders_of_a_pair_say_the_same(tmp_path: Path) -> None:
    pairs = written(tmp_path, table({"real": noisy, "dawm": noisy, "joint": five}))["pairs"]
    rows = {(row.augmentation, row.other): row for row in pairs.itertuples()}
    assert len(rows) == 6
    for (arm, other), row in rows.items():
        mirrored = rows[other, arm]
        for name in ("iqm", "mean"):
            found = [getattr(row, f"{name}_{end}") for end in ("difference", "low", "high")]
            expected = [-getattr(mirrored, f"{name}_{end}") for end in ("difference", "high", "low")]
            assert found == pytest.approx(expected, abs=1e-4)
        found = np.array([row.probability_of_improvement, row.probability_low, row.probability_high])
        other_way = [mirrored.probability_of_improvement, mirrored.probability_high, mirrored.probability_low]
        np.testing.assert_allclose(found, 1 - np.array(other_way), atol=1e-5)


def test_a_data_set_with_more_seeds_does_not_cost_the_others(tmp_path: Path) -> None:
    scores = table({"real": nothing, "dawm": five})
    more = scores[(scores["whole"] == TASKS[1]) & (scores["seed"] == 0)].assign(seed=5)
    found = written(tmp_path, scores, more)["aggregates"]
    assert (found["datasets"] == 2).all() and (found["seeds"] == 5).all()
    notes = open_sealed(tmp_path / "comparison", "comparison").metadata["notes"]
    why = "since other data sets have fewer seeds"
    assert notes == [f"TD3+BC: seed 5 of {TASKS[1]} is in no IQM and no comparison, {why}."]


def test_as_many_runs_as_can_be_are_compared(tmp_path: Path) -> None:
    """One seed of both data sets are two runs, the five of one are five."""
    scores = table({"real": nothing, "dawm": five})
    found = written(tmp_path, scores[(scores["whole"] == TASKS[0]) | (scores["seed"] == 0)])["aggregates"]
    assert (found["datasets"] == 1).all() and (found["seeds"] == 5).all()
    notes = open_sealed(tmp_path / "comparison", "comparison").metadata["notes"]
    assert notes[0] == f"TD3+BC: {TASKS[1]} is in no IQM and no comparison, since other data sets have more seeds."


def test_each_arm_is_told_with_the_seeds_that_it_lacks(tmp_path: Path) -> None:
    scores = table({"real": nothing, "dawm": five, "joint": noisy})
    for arm, seed in (("dawm", 2), ("joint", 3), ("joint", 4)):
        lost = (scores["augmentation"] == arm) & (scores["seed"] == seed) & (scores["whole"] == TASKS[0])
        scores.loc[lost, "normalized_score_mean10"] = np.nan
    written(tmp_path, scores)
    why = "since `dawm` has no score with seed 2, and `joint` has no score with seed 3, 4"
    assert open_sealed(tmp_path / "comparison", "comparison").metadata["notes"] == [
        f"TD3+BC: {TASKS[0]} is in no IQM and no comparison, {why}."
    ]


def test_bad_tables_are_refused_with_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = table({"real": nothing, "dawm": five})
    apart = scores[(scores["augmentation"] == "real") == (scores["whole"] == TASKS[0])]
    cases = {
        "twice": (
            pd.concat([scores, scores.iloc[:1]]),
            "expected every run once, found hopper-medium/1.0/",
        ),
        "column": (scores.drop(columns="whole"), "found no column 'whole'"),
        "text": (
            scores.astype({"seed": str}).replace({"seed": {"1": "first"}}),
            "column 'seed', row 2: expected a whole number from 0, found 'first'",
        ),
        "header": (scores.iloc[:0], "expected at least one run, found none"),
        "apart": (apart, "td3_bc: expected arms with data sets and seeds in common, found none"),
    }
    for name, (rows, sentence) in cases.items():
        path = tmp_path / f"{name}.csv"
        rows.to_csv(path, index=False)
        assert main(["compare", str(path), "--output", str(tmp_path / "output")]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.csv", None, "expected a table scores.csv, found: No such file or directory"),
        ("folder.csv", "folder", "expected a table scores.csv, found: Is a directory"),
        ("scores.csv.gz", b"\x1f\x8b\x08\x00 and not a word of gzip", "expected a table scores.csv, found: "),
        ("long.csv", b"a,b\n" + b"1," * 10_000 + b'"\n', "expected a table scores.csv, found: "),
        ("header.csv", b"whole,data_fraction\n", "expected a table scores.csv, found no column 'algorithm'"),
        ("value.csv", None, "column 'seed', row 1: expected a whole number from 0, found 'xxx"),
    ],
)
def test_what_is_no_table_is_told_in_a_short_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | str | None, sentence: str
) -> None:
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif name == "value.csv":
        scores = table({"real": nothing, "dawm": five})
        scores.astype({"seed": str}).replace({"seed": {"0": "x" * 10_000}}).to_csv(path, index=False)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    assert main(["compare", str(path), "--output", str(tmp_path / "output")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dawm compare: {path}: {sentence}") and error.count("\n") == 1
    assert len(error) < len(str(path)) + 300
    assert not (tmp_path / "output").exists()
