"""`verify`: every sealed folder below results against its seal, and every seal against those that it was made from."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dawm.config import load_experiment
from dawm.config.experiment import PUBLISHED
from dawm.data.sealed import PROVENANCE, Sealed, open_sealed
from dawm.errors import InputError
from dawm.jobs import REPORT, TARGETS, jobs
from dawm.layout import Layout

UNSEALED = ("logs", "benchmarks")
"""Folders of an experiment that carry no seal: what jobs said and cost."""


TRAINED = ("world-model", "inverse-dynamics", "forward-dynamics", "cloned-policy", "policy")
GROWN = ("synthetic", "assessment", "animation", "steering")
"""Kinds of folders below a data set's name and a seed: that of the training, or of the models."""


@dataclass(frozen=True)
class Verification:
    """Counts of sealed folders and of the files in them, complaints by folder, and the folders with files that no seal
    covers (yet): an unfinished run's, which the next one finishes."""

    folders: int
    files: int
    damage: Mapping[Path, list[str]]
    unfinished: list[Path]


def verify(results: Path) -> Verification:
    """Reads every byte under a seal below `results`. Hidden files (checkpoints, locks) carry none, and the copies that
    git keeps are passed over."""
    if not results.is_dir():
        raise InputError(f"{results}: expected a folder of results, found none")
    results = results if results.name not in ("", "..") else results.resolve()  # names of folders tell seeds
    copies = results / PUBLISHED
    folders = sorted(
        path
        for path in walk(results)
        if any(visible(path)) and copies not in (path, *path.parents) and not is_copy(path)
    )
    sealed_folders = [folder for folder in folders if (folder / PROVENANCE).is_file()]
    if not sealed_folders:
        copied = "copies without weights and transitions, kept by git"
        raise InputError(
            f"{results}: expected sealed folders below, found {copied if is_copy(results) else f'no {PROVENANCE}'}"
        )
    opened: list[Sealed] = []
    damage: dict[Path, list[str]] = {}
    for folder in sealed_folders:
        try:
            opened.append(open_sealed(folder))
        except InputError as error:
            damage[folder] = [str(error)]
    places: dict[str, list[Path]] = {}
    for sealed in [*opened, *others_of(results)]:
        places.setdefault(sealed.digest, []).append(sealed.folder)
    for sealed in opened:
        if found := [*altered(sealed), *strangers(sealed), *misplaced(sealed, places)]:
            damage[sealed.folder] = found
    files = sum(len(sealed.provenance["files"]) for sealed in opened)
    unsealed = [folder for folder in folders if folder not in sealed_folders]
    unfinished = [folder for folder in unsealed if root_of(folder) not in (None, folder)]
    return Verification(len(sealed_folders), files, damage, unfinished)


def walk(folder: Path, seen: set[Path] | None = None) -> Iterator[Path]:
    """The folder and those below, where seals may be; each once, whatever links lead to it."""
    seen = set() if seen is None else seen
    if (real := folder.resolve()) in seen:
        return
    seen.add(real)
    yield folder
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_symlink(), path)):
        if path.is_dir() and not path.name.startswith(".") and not (path.name in UNSEALED and is_root(folder)):
            yield from walk(path, seen)


def visible(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))


def is_root(folder: Path) -> bool:
    """Whether it is an experiment's, and not of somebody who keeps data sets of their own in a folder of that name."""
    datasets = folder / "datasets"
    return datasets.is_dir() and (Layout(folder).config.is_file() or any(datasets.glob(f"*/{PROVENANCE}")))


def root_of(folder: Path) -> Path | None:
    """The folder of the experiment that it is or belongs to."""
    return next((path for path in (folder, *folder.parents, *folder.absolute().parents) if is_root(path)), None)


def is_copy(folder: Path) -> bool:
    """Whether it is of no experiment, but among the copies that docs quote."""
    absolute = folder.absolute()
    return PUBLISHED in absolute.parts and root_of(absolute) is None


def others_of(results: Path) -> Iterator[Sealed]:
    """Where `results` is a part of an experiment: what of its other parts is whole, for inputs that are there."""
    root = root_of(results)
    if root is None or root.samefile(results):
        return
    for folder in walk(root):
        with suppress(InputError):
            yield open_sealed(folder)


def altered(sealed: Sealed) -> Iterator[str]:
    """Files that are not what was sealed."""
    for name in sealed.provenance["files"]:
        try:
            sealed.read(name)
        except InputError as error:
            yield str(error)


def strangers(sealed: Sealed) -> Iterator[str]:
    """Files beside the sealed ones."""
    known = {PROVENANCE, *sealed.provenance["files"], Layout(sealed.folder).config.name}
    yield from (
        f"{path}: not among the files sealed in {PROVENANCE}"
        for path in visible(sealed.folder)
        if path.name not in known
    )


def misplaced(sealed: Sealed, places: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    """Of an experiment: inputs that are not here, and folders in the place of another seed's or data set's. Equal
    settings make equal folders, so that an input may be in several places; one that fits is enough."""
    if root_of(sealed.folder) is None:
        return
    kind, folder, own = sealed.provenance["kind"], sealed.folder, seed_of(sealed.folder)
    if kind in TRAINED and sealed.provenance["seed"] != own:
        yield f"{folder}: expected the result of seed {own}, found that of seed {sealed.provenance['seed']}"
    for name, digest in sealed.provenance["inputs"].items():
        found = places.get(digest, [])
        if not found:
            yield f"{folder}: the {name} that it was made from is not here"
        elif kind in (*TRAINED, *GROWN) and all(is_dataset_of_others(place, folder) for place in found):
            yield f"{folder}: expected what was made from its own data set, found what was made from {found[0]}"
        elif kind in GROWN and all(seed_of(place) not in (None, own) for place in found):
            yield f"{folder}: expected what grew from models of seed {own}, found what grew from {found[0]}"


def is_dataset_of_others(place: Path, folder: Path) -> bool:
    """Whether `place` is a data set, and by its name not that of the folder's transitions or models."""
    return place.parent.name == "datasets" and place.name not in folder.parts


def seed_of(folder: Path) -> int | None:
    found = re.fullmatch(r"seed-(\d+)", folder.name)
    return int(found[1]) if found else None


def remedies(damage: Mapping[Path, list[str]]) -> list[str]:
    """Commands that take away what is damaged of experiments and make it again."""
    removals, runs = [], []
    for folder in damage:
        root = root_of(folder)
        if root is None:
            continue
        if folder == root:
            removals.append(f"rm -f {quoted(folder / PROVENANCE)} {quoted(Layout(folder).report)}")
        else:
            removals.append(f"rm -r {quoted(folder)}")
        config = Layout(root).config
        chosen = quoted(config) if config.is_file() else "CONFIG"
        runs.append(f"snakemake --cores all --configfile {chosen}{target_of(folder, root)}")
    return [*removals, *dict.fromkeys(runs)]


def target_of(folder: Path, root: Path) -> str:
    """What the workflow is asked for so that it makes the folder again, after its command; the report needs no word."""
    layout, folder = Layout(root.absolute()), folder.absolute()
    with suppress(InputError):
        experiment = load_experiment(layout.config)
        for target in TARGETS:
            if any(folder == path.parent for job in jobs(layout, experiment, [target]) for path in job.outputs):
                return "" if target in REPORT else f" -- {target}"
    return ""


def quoted(path: Path) -> str:
    return shlex.quote(str(path))
