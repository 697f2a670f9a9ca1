"""An experiment that takes longer than one machine is there: what is missing of it, and what is published.

    targets=$(python benchmarks/evidence.py missing config/evidence.yaml hopper-medium real dawm) &&
        snakemake … -- $targets
    python benchmarks/evidence.py publish config/evidence.yaml
    python benchmarks/evidence.py adopt config/evidence-2.yaml config/evidence.yaml hopper-medium real

Every run that has ended, wherever it did, lies in results/published/EXPERIMENT/runs.tar.xz, with the records of the
models but without weights and transitions. `missing` prints what neither that archive nor results/EXPERIMENT holds of a
data set's arms (left out: all), as targets for Snakemake; where that is nothing, its status is 1. `publish` adds what
ended here to the archive, and writes beside it the scores of all that has ended (ended.csv, ended.md), and tables,
comparison, figures, costs and report of the data sets that are complete, or where none is, the comparison of the arms
that have ended on every data set; documents quote them anew. Records of models that were made again with other bytes
are kept beside those of the first ones, so that the inputs that a run's seal names are found. `adopt` takes into the
archive what an earlier experiment's has of arms with the same settings, which then need not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import cut, quote_tables, refuse_unknown

from dawm.analysis.comparison import compare
from dawm.analysis.comparison_markdown import spread
from dawm.analysis.figures import draw_all
from dawm.analysis.report import cost_rows, write_report
from dawm.analysis.style import learner_name
from dawm.analysis.tables import read_csv, score_row, write_tables
from dawm.analysis.timings import write_timings
from dawm.config import Experiment, as_yaml, load_experiment
from dawm.data.files import whole_file, write_csv, write_text
from dawm.data.sealed import METADATA, PROVENANCE, open_sealed
from dawm.errors import InputError
from dawm.jobs import Job, jobs, refuse_made_otherwise
from dawm.layout import Layout, Run, animated_sets, filmed_runs, runs

ARCHIVE = "runs.tar.xz"
MOVING = ("films", "animations")
"""Lie beside the archive: large, and never changed, as the archive is with every run."""
EARLIER = "earlier"
LEFT_OUT = (".parquet", ".safetensors")
FOLDERS_LEFT_OUT = ("logs", "tables", "comparison", "figures", "timings", "inspections")


def needed(experiment: Experiment, dataset: str, arms: Sequence[str] = ()) -> Iterator[Path]:
    """Folders, below the results, that the tables need of one data set and of some arms, or of all."""
    for job in work(experiment, dataset, arms):
        if job.stage in ("train-policy", "assess", "steer"):
            yield from (file.parent for file in job.outputs)


def work(experiment: Experiment, dataset: str, arms: Sequence[str] = ()) -> Iterator[Job]:
    """The jobs behind those folders, with names below the results."""
    chosen = {name: arm for name, arm in experiment.matrix().augmentations.items() if name in arms or not arms}
    grown = {arm.generator for arm in chosen.values()}
    acting = tuple(name for name in experiment.planners if name in grown)
    learners = {name for arm in chosen.values() for name in arm.algorithms or experiment.algorithm_names}
    idle = dict.fromkeys(set(experiment.algorithm_names) - learners)
    left = dataclasses.replace(experiment.algorithms, **idle)
    cast = dataclasses.replace(cut(experiment, dataset), augmentations=chosen, algorithms=left, planners=acting)
    made = [job for job in jobs(Layout(Path()), cast) if job.stage not in ("film", "animate")]
    yield from (job for job in made if job.dataset == dataset or job.stage == "export")


def shown(experiment: Experiment) -> dict[Path, Path]:
    """Folders of what the report shows in motion, and of the tables' needs the one that is made with it."""
    layout = Layout(Path())
    films = {layout.film(run): layout.policy(run) for run in filmed_runs(experiment.matrix())}
    return films | {layout.animation(*key): layout.assessment(*key) for key in animated_sets(experiment)}


def sealed_in(published: Path) -> dict[Path, dict[str, Any]]:
    """Folders that are published, below the results, and the settings that each was made with."""
    found = {folder: settings for name in MOVING for folder, settings in sealed_below(published, name).items()}
    if (published / ARCHIVE).is_file():
        with tempfile.TemporaryDirectory() as temporary, tarfile.open(published / ARCHIVE) as opened:
            seals = [member for member in opened if Path(member.name).name == PROVENANCE]
            opened.extractall(temporary, seals, filter="data")
            found |= sealed_below(Path(temporary))
    return found


def sealed_below(root: Path, name: str = "") -> dict[Path, dict[str, Any]]:
    """The same of a folder, or of what it has by that name."""
    seals = (root / name).rglob(PROVENANCE)
    return {seal.parent.relative_to(root): json.loads(seal.read_bytes())["settings"] for seal in seals}


def refuse_others(
    experiment: Experiment, dataset: str, arms: Sequence[str], there: Mapping[Path, dict[str, Any]]
) -> None:
    """Refuses folders that were made with settings which are not the config's."""
    remedy = "give what is new a name of its own"
    refuse_made_otherwise(experiment, work(experiment, dataset, arms), there.get, remedy)


def missing(experiment: Experiment, published: Path, dataset: str, arms: Sequence[str]) -> list[Path]:
    """Seals that neither what is published nor the results have. Of pictures that move only the first data set's, and
    only those of runs that are trained here."""
    refuse_unknown("datasets", [dataset], experiment.datasets)
    refuse_unknown("arms", arms, experiment.augmentations)
    root, there = Layout.of(experiment.experiment).root, sealed_in(published)
    refuse_others(experiment, dataset, arms, there)
    lacking = [folder for folder in needed(experiment, dataset, arms) if folder not in there]
    if not any(folder.parts[0] in MOVING for folder in there):
        lacking += [folder for folder, other in shown(cut(experiment, dataset)).items() if other in lacking]
    return [seal for folder in lacking if not (seal := root / folder / PROVENANCE).is_file()]


def merge(published: Path, results: Path, output: Path) -> None:
    """Writes what is published to `output`, and over it whatever the results have sealed. What was made again with
    other bytes, as another kind of CPU makes them, does not take the place of the earlier records, from which published
    runs grew: those stay, below EARLIER and the start of their digest."""
    if (published / ARCHIVE).is_file():
        with tarfile.open(published / ARCHIVE) as opened:
            opened.extractall(output, filter="data")
    for folder in MOVING:
        if (published / folder).is_dir():
            shutil.copytree(published / folder, output / folder)
    for seal in sorted(results.rglob(PROVENANCE)):
        place = seal.parent.relative_to(results)
        if kept(place / PROVENANCE) and (output / place / PROVENANCE).is_file():
            digest = open_sealed(output / place).digest
            if digest != open_sealed(seal.parent).digest:
                before = output / EARLIER / digest[:12] / place
                if before.exists():  # the same records, from an earlier turn
                    shutil.rmtree(output / place)
                else:
                    shutil.move(output / place, before)
    for source in sorted(results.rglob("*")):
        place = source.relative_to(results)
        if kept(place) and source.is_file() and finished(source, results):
            (output / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, output / place)


def kept(place: Path) -> bool:
    """Whether a file at this place below the results is worth its bytes."""
    if len(place.parts) == 1 or place.parts[0] in FOLDERS_LEFT_OUT:
        return False
    return place.suffix not in LEFT_OUT and not any(part.startswith(".") for part in place.parts)


def finished(file: Path, results: Path) -> bool:
    """Of a sealed folder, or how long a job took."""
    return (file.parent / PROVENANCE).is_file() or file.relative_to(results).parts[0] == "benchmarks"


def pack(merged: Path, published: Path) -> None:
    """Writes the archive, and beside it what moves. Equal folders give equal archives: files in the order of their
    names, of nobody and no time."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        member.mode = 0o644
        return member

    with whole_file(published / ARCHIVE) as part, tarfile.open(part, "w:xz") as opened:
        for path in sorted(merged.rglob("*")):
            if path.is_file() and path.relative_to(merged).parts[0] not in MOVING:
                opened.add(path, path.relative_to(merged).as_posix(), filter=anonymous)
    for folder in MOVING:
        if (merged / folder).is_dir():
            shutil.copytree(merged / folder, published / folder, dirs_exist_ok=True)


def adopt(experiment: Experiment, earlier: Experiment, published: Path, dataset: str, arms: Sequence[str]) -> int:
    """Takes into the archive what an earlier experiment's has of some arms on a data set; says how many runs.

    Raises:
        InputError: an arm is not in both configs, or with other settings, or some of its runs are not there.
    """
    for config in (experiment, earlier):
        refuse_unknown("datasets", [dataset], config.datasets)
        refuse_unknown("arms", arms, config.augmentations)
    for arm in arms:
        if behind(experiment, dataset, arm) != behind(earlier, dataset, arm):
            raise InputError(f"{arm}: expected {earlier.experiment}'s settings on {dataset}, found others")
    source, done = published.parent / earlier.experiment / ARCHIVE, [*work(experiment, dataset, arms)]
    there = sealed_in(source.parent)
    if lacking := [folder for folder in needed(experiment, dataset, arms) if folder not in there]:
        raise InputError(f"{lacking[0]}: expected in {source}, did not find it")
    with tempfile.TemporaryDirectory() as temporary:
        merged = Path(temporary)
        with tarfile.open(source) as opened:
            folders = {str(file.parent) for job in done for file in job.outputs}
            times = {f"benchmarks/{job.slug}.tsv" for job in done}
            members = [member for member in opened if {member.name, str(Path(member.name).parent)} & (folders | times)]
            opened.extractall(merged, members, filter="data")
        merge(published, Layout.of(experiment.experiment).root, merged)
        pack(merged, published)
    return sum(len(job.outputs) for job in done if job.stage == "train-policy")


def behind(experiment: Experiment, dataset: str, arm: str) -> list[Any]:
    """What the runs of an arm on a data set are made by: jobs and their settings."""
    return [experiment.augmentations[arm], [(job, job.settings) for job in work(experiment, dataset, [arm])]]


def ended_runs(experiment: Experiment, merged: Layout) -> pd.DataFrame:
    """The scores of every run that has ended, whatever else is missing: in the order of the tables, and after them
    those that the config does not have."""
    matrix, rows = experiment.matrix(), []
    order = {merged.policy(run): number for number, run in enumerate(runs(matrix))}
    folders = [seal.parent for seal in sorted((merged.root / "policies").rglob(PROVENANCE))]
    for folder in sorted(folders, key=lambda folder: order.get(folder, len(order))):
        sealed = open_sealed(folder, "policy")
        dataset, algorithm, augmentation, _ = folder.relative_to(merged.root / "policies").parts
        run = Run(dataset, algorithm, augmentation, sealed.provenance["seed"])
        if run.seed not in experiment.seeds:
            raise InputError(f"policies/{run.slug}: expected a seed of the config, found {run.seed} in what has ended")
        source = open_sealed(merged.dataset(dataset), "dataset")
        rows.append(score_row(matrix, run, sealed, read_csv(sealed, "evaluations.csv"), source))
    return pd.DataFrame(rows).astype({"world_model_seed": "Int64"}) if rows else pd.DataFrame()


def ended_everywhere(experiment: Experiment, ended: pd.DataFrame) -> pd.DataFrame:
    """The scores of the arms that have ended on every data set with every seed, of learners that have two of them."""
    matrix = {"dataset": experiment.datasets, "augmentation": experiment.augmentations, "seed": experiment.seeds}
    known = ended[ended[list(matrix)].isin({name: list(values) for name, values in matrix.items()}).all(axis=1)]
    size = known.groupby(["algorithm", "augmentation"])["seed"].transform("size")
    whole = known[size == len(experiment.datasets) * len(experiment.seeds)]
    return whole[whole.groupby("algorithm")["augmentation"].transform("nunique") > 1]


def ended_markdown(experiment: Experiment, ended: pd.DataFrame) -> str:
    """Mean ± standard deviation over the seeds of what has ended, a line for each learner and arm; of fewer than most
    have, how many."""
    datasets = list(ended["dataset"].unique())
    score, most = "normalized_score_mean10", ended.groupby(["dataset", "algorithm", "augmentation"]).size().max()
    lines = [
        f"| learner | real fraction | arm | {' | '.join(datasets)} |",
        f"|---|---:|---|{'---:|' * len(datasets)}",
    ]
    matrix = experiment.matrix()
    order = [*matrix.algorithms, *matrix.augmentations]
    order += sorted({*ended["algorithm"], *ended["augmentation"]}.difference(order))
    by = ["algorithm", "augmentation"]
    ranked = ended.sort_values(by, key=lambda names: names.map(order.index), kind="stable")
    for (algorithm, arm), rows in ranked.groupby(by, sort=False):
        cells = [learner_name(algorithm), f"{rows['real_fraction'].iloc[0]:g}", f"`{arm}`"]
        for dataset in datasets:
            scores = rows.loc[rows["dataset"] == dataset, score]
            few = f" ({len(scores)} of {most})" if 0 < len(scores) < most else ""
            cells.append(spread(scores) + few if len(scores) else "–")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def costs_markdown(experiment: Experiment, times: pd.DataFrame) -> str:
    """CPU-seconds of an arm's models and transitions, for one data set and world-model seed, and of a run of each
    learner on them."""
    costs = pd.DataFrame(cost_rows(experiment, times))
    names = [name for name in experiment.matrix().algorithms if name in set(costs["algorithm"])]
    lines = [
        f"| arm | models and transitions, CPU-s | {' | '.join(f'run of {learner_name(name)}' for name in names)} |",
        f"|---|---:|{'---:|' * len(names)}",
    ]
    for arm, rows in costs.groupby("arm", sort=False):
        run = rows.set_index("algorithm")["run"]
        numbers = [rows["models"].max(), *run.reindex(names)]
        cells = ["–" if np.isnan(number) else f"{number:,.0f}" for number in numbers]
        lines.append(f"| `{arm}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def complete(experiment: Experiment, merged: Path) -> Experiment | None:
    """The experiment, of the data sets alone that are whole; first those that can be shown in motion."""
    whole = {name for name in experiment.datasets if all_sealed(merged, needed(experiment, name))}
    names = [name for name in experiment.datasets if {name, experiment.datasets[name].parent} <= {*whole, None}]
    names.sort(key=lambda name: not all_sealed(merged, shown(cut(experiment, name))))
    return cut(experiment, *names) if names else None


def all_sealed(merged: Path, folders: Iterable[Path]) -> bool:
    return all((merged / folder / PROVENANCE).is_file() for folder in folders)


def publish(experiment: Experiment, published: Path) -> str:
    """Writes all of `published`; says what it is of."""
    results = Layout.of(experiment.experiment).root
    if not results.is_dir() and not (published / ARCHIVE).is_file():
        raise InputError(f"{experiment.experiment}: expected runs in {results} or {published}, found neither")
    with tempfile.TemporaryDirectory() as temporary:
        merged = Layout(Path(temporary))
        merge(published, results, merged.root)
        there = sealed_below(merged.root)
        for dataset in experiment.datasets:
            refuse_others(experiment, dataset, (), there)
        pack(merged.root, published)
        ended = ended_runs(experiment, merged)
        if ended.empty:
            raise InputError(f"{experiment.experiment}: expected a run that has ended, found none")
        write_csv(published / "ended.csv", ended)
        write_text(published / "ended.md", ended_markdown(experiment, ended))
        whole, everywhere = complete(experiment, merged.root), ended_everywhere(experiment, ended)
        if whole is not None:
            publish_complete(whole, merged, published)
        elif len(everywhere):
            write_csv(published / "scores.csv", everywhere)
            publish_comparison(merged, published)
    quote_tables()
    return f"{len(ended)} runs have ended; complete: {', '.join(whole.datasets) if whole else 'no data set'}"


def publish_complete(whole: Experiment, merged: Layout, published: Path) -> None:
    """Tables, comparison, figures, times, and the report if there are films for it."""
    write_text(published / "config.yaml", as_yaml(whole))
    write_tables(merged.root, whole)
    copy(merged.tables, published, [*(path.name for path in merged.table_files), METADATA, PROVENANCE])
    publish_comparison(merged, published)
    draw_all(merged.tables, merged.figures)
    copy(merged.figures, published / merged.figures.name)
    write_timings(merged.root, whole, merged.timings)
    times = pd.read_csv(merged.timings / "timings.csv").drop(columns="disk_mib")  # of what is left of the folders
    write_csv(published / "timings" / "timings.csv", times)
    write_text(published / "costs.md", costs_markdown(whole, times))
    if all_sealed(merged.root, shown(whole)):
        write_report(merged.root, whole)
        copy(merged.root, published, [merged.report.name])


def publish_comparison(merged: Layout, published: Path) -> None:
    """Of the scores that are published."""
    compare([published / "scores.csv"], merged.comparison)
    copy(merged.comparison, published / merged.comparison.name)


def copy(source: Path, target: Path, names: Sequence[str] = ()) -> None:
    """Files of these names, or all that are not hidden."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names or [path.name for path in source.glob("[!.]*")]:
        shutil.copyfile(source / name, target / name)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("missing", help="print the targets that have not ended anywhere")
    commands.add_parser("publish", help="write archive, tables, comparison, figures and report")
    adopting = commands.add_parser("adopt", help="take runs from an earlier experiment's archive")
    for command in commands.choices.values():
        command.add_argument("config", type=Path)
    adopting.add_argument("earlier", type=Path, help="its config")
    for command, count in ((asking, "*"), (adopting, "+")):
        command.add_argument("dataset")
        command.add_argument("arm", nargs=count)
    parsed = parser.parse_args(arguments)
    try:
        experiment = load_experiment(parsed.config)
        published = Path("results/published") / experiment.experiment
        if parsed.command == "missing":
            targets = missing(experiment, published, parsed.dataset, parsed.arm)
            if not targets:  # without targets Snakemake would make everything
                print(f"{parsed.dataset}: nothing is missing", file=sys.stderr)
                return 1
            print(*targets)
        elif parsed.command == "adopt":
            earlier = load_experiment(parsed.earlier)
            count = adopt(experiment, earlier, published, parsed.dataset, parsed.arm)
            print(f"{published}: {count} runs of {earlier.experiment}")
        else:
            print(f"{published}: {publish(experiment, published)}")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
