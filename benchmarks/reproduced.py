"""Did another machine make the same bytes? The seals of two results, folders or archives of such, beside each other.

    python benchmarks/reproduced.py results/evidence results/published/evidence/runs.tar.xz

A seal's digest stands for its folder's content, settings, seed, inputs and versions. Prints how many folders of each
kind are sealed in both and how many of them are equal; names the others, and ends with 1 where there are any.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from dawm.data.sealed import PROVENANCE

Seals = dict[str, Any]


def seals_of(results: Path) -> Seals:
    """Content of every seal by its folder's place in the results."""
    return {str(PurePosixPath(name).parent): json.loads(content) for name, content in contents(results)}


def contents(results: Path) -> Iterator[tuple[str, bytes]]:
    if results.is_dir():
        for path in results.rglob(PROVENANCE):
            yield path.relative_to(results).as_posix(), path.read_bytes()
        return
    with tarfile.open(results) as archive:
        for member in archive:
            file = archive.extractfile(member) if PurePosixPath(member.name).name == PROVENANCE else None
            if file is not None:
                yield member.name, file.read()


def compare(here: Seals, there: Seals) -> pd.DataFrame:
    """A row for each folder that both have sealed: folder, kind, equal."""
    rows = [
        {"folder": folder, "kind": here[folder]["kind"], "equal": here[folder]["digest"] == there[folder]["digest"]}
        for folder in sorted(here.keys() & there.keys())
    ]
    return pd.DataFrame(rows, columns=["folder", "kind", "equal"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs=2, help="a folder of results, or an archive of one")
    here, there = parser.parse_args(arguments).results
    table = compare(seals_of(here), seals_of(there))
    print(table.groupby("kind").agg(sealed_in_both=("equal", "size"), equal=("equal", "sum")).to_string())
    for folder in table.folder[~table.equal.astype(bool)]:
        print(f"differs: {folder}")
    return int(not table.equal.all())


if __name__ == "__main__":
    sys.exit(main())
