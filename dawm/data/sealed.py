"""Sealed folders: what a stage writes, with the SHA-256 of every file and the way back to config, seed and inputs."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dawm import __version__
from dawm.data.files import digest_of, read_bytes, sha256, write_json
from dawm.errors import InputError

METADATA, PROVENANCE = "metadata.json", "provenance.json"
_VERSIONED = ("torch", "numpy", "scipy", "pandas", "gymnasium", "mujoco", "pyarrow")


@dataclass(frozen=True)
class Sealed:
    """A folder whose seal was found whole. Its files are verified when they are read, not before."""

    folder: Path
    metadata: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Stands for everything in the folder."""
        return self.provenance["digest"]

    @property
    def files(self) -> list[str]:
        return sorted(name for name in self.provenance["files"] if name != METADATA)

    def read(self, name: str) -> bytes:
        """The content of one file, refused unless it is the one that was sealed."""
        path = self.folder / name
        if name not in self.provenance["files"]:
            raise InputError(f"{path}: not among the files sealed in {PROVENANCE}")
        content = read_bytes(path)
        expected, found = self.provenance["files"][name], sha256(content)
        if found != expected:
            raise InputError(
                f"{path}: expected SHA-256 {expected[:12]}… as sealed in {PROVENANCE}, found {found[:12]}…; "
                "the file was altered, cut or swapped: delete the folder and make it again"
            )
        return content


def seal(
    folder: Path,
    kind: str,
    *,
    files: Iterable[str],
    metadata: Mapping[str, Any],
    settings: Any,
    inputs: Mapping[str, Sealed] | None = None,
    seed: int | None = None,
    before: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> None:
    """Writes metadata.json and then, last, provenance.json, after which the folder counts as complete.

    kind: what the folder holds ("dataset", "policy", ...); readers ask for it by name. before: called with the content
    of provenance.json right before it is written.
    """
    write_json(folder / METADATA, {"kind": kind, **metadata})
    provenance: dict[str, Any] = {
        "kind": kind,
        "settings": settings,
        "seed": seed,
        "inputs": {name: sealed.digest for name, sealed in sorted((inputs or {}).items())},
        "versions": versions(),
        "files": {name: sha256(read_bytes(folder / name)) for name in sorted([*files, METADATA])},
    }
    provenance["digest"] = digest_of(provenance)
    before(provenance)
    write_json(folder / PROVENANCE, provenance)


def versions() -> dict[str, str]:
    """Of this package, Python and the libraries that results depend on."""
    libraries = {name: version(name) for name in _VERSIONED}
    return {"dawm": __version__, "python": platform.python_version(), **libraries}


def unseal(folder: Path, kind: str) -> None:
    """Takes the seal off before a stage rewrites the folder, so that no half-new folder carries an old seal. Refuses a
    folder of another kind."""
    refuse_other(folder, kind)
    (folder / PROVENANCE).unlink(missing_ok=True)


def refuse_other(folder: Path, kind: str) -> None:
    """InputError for a folder that holds what another stage wrote, sealed or not yet, so that nothing is written over
    it. What is damaged may be made again."""
    for name, state in ((PROVENANCE, "a sealed"), (METADATA, "an unfinished")):
        if (found := _told(folder / name, "kind")) not in (kind, None):
            raise InputError(f"{folder}: holds {state} {found}; expected an empty folder or one of kind {kind}")


def settings_in(folder: Path) -> Mapping[str, Any] | None:
    """That a seal tells; None where there is none, or none that can be read."""
    return _told(folder / PROVENANCE, "settings")


def _told(path: Path, key: str) -> Any:
    try:
        return _parse(path, read_bytes(path)).get(key) if path.is_file() else None
    except InputError:
        return None


def open_sealed(folder: Path, *kinds: str) -> Sealed:
    """The sealed folder, refused where the seal is missing, damaged or of none of the kinds, if any are given."""
    folder = Path(folder)
    path = folder / PROVENANCE
    if not path.is_file():
        raise InputError(f"{folder}: expected a sealed {' or '.join(kinds)} folder, found no {PROVENANCE} in it")
    provenance = _parse(path, read_bytes(path))
    stated = provenance.pop("digest", None)
    if stated != digest_of(provenance) or not isinstance(provenance.get("files"), dict):
        raise InputError(f"{path}: the seal was altered (its digest does not fit its content); make the folder again")
    for name in provenance["files"]:
        if name in ("", ".", "..") or Path(name).name != name:
            raise InputError(f"{path}: expected the name of a file in its folder, found {name!r}")
    provenance["digest"] = stated
    if kinds and provenance["kind"] not in kinds:
        raise InputError(f"{folder}: expected a folder of kind {' or '.join(kinds)}, found {provenance['kind']}")
    bare = Sealed(folder, {}, provenance)
    return Sealed(folder, _parse(folder / METADATA, bare.read(METADATA)), provenance)


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON, found: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value
