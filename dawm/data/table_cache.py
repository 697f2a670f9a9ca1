"""A cache of decoded tables that all processes of a machine map.

Parquet's pages cannot be mapped: each of many learners would decode a data set and hold a copy of its own. The first
one that opens a sealed folder writes its table here, and the machine holds that file's pages once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from dawm.data.files import digest_of
from dawm.data.sealed import Sealed
from dawm.data.table import Table, episode_starts, rows_of
from dawm.data.transitions import read_shards, shard_names

VARIABLE = "DAWM_CACHE"
FORMAT = 1
LARGEST = 16 << 30
"""Bytes in the cache, or half the disk; beyond them the tables go that were not opened for longest."""
ABANDONED = 86_400.0
"""Seconds after which what is not whole is no writer's any more."""


def open_table(sealed: Sealed) -> Table:
    """The transitions of a sealed folder, mapped where the cache can hold them, else in memory.

    What is in the cache came from verified shards, and is verified again by a SHA-256 of its own. Shards that were
    touched since are read again, and refused if they are not what was sealed.
    """
    place = cache_folder()
    if place is None:
        return decoded(sealed)
    path = place / f"{key_of(sealed)}.float32"
    try:
        found = mapped(path)
        if found is None:
            largest = min(LARGEST, shutil.disk_usage(place).total // 2)
            try:
                write_table(path, sealed)
            except OSError:  # of a full disk
                make_room(place, keep=path, largest=0)
                write_table(path, sealed)
            make_room(place, keep=path, largest=largest)
            found = mapped(path)
    except OSError:  # of the cache: an unreadable shard is an InputError
        found = None
    return decoded(sealed) if found is None else found


def cache_folder() -> Path | None:
    """`DAWM_CACHE`, or a folder of this user's among the machine's temporary ones; none where it cannot be had."""
    named = os.environ.get(VARIABLE)
    folder = Path(named) if named else Path(tempfile.gettempdir()) / f"dawm-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.lstat()
    except OSError:
        return None
    safe = named or (about.st_uid == os.getuid() and not about.st_mode & 0o022)  # nobody else put it there
    return folder if folder.is_dir() and safe else None


def key_of(sealed: Sealed) -> str:
    """Stands for the folder's seal, and for its shards as they lie there now."""
    stats = [(sealed.folder / name).stat() for name in shard_names(sealed) if (sealed.folder / name).is_file()]
    return digest_of([FORMAT, sealed.digest, [(stat.st_size, stat.st_mtime_ns) for stat in stats]])


def decoded(sealed: Sealed) -> Table:
    """From the verified shards, in this process's memory."""
    rows, episodes = zip(*((rows_of(part), part.episode) for part in read_shards(sealed, states=False)), strict=True)
    return Table(np.concatenate(rows), *dimensions(sealed), episode_starts(episodes))


def dimensions(sealed: Sealed) -> tuple[int, int]:
    return sealed.metadata["observation_dim"], sealed.metadata["action_dim"]


def write_table(path: Path, sealed: Sealed) -> None:
    """Decodes shard by shard into `path`, and writes what is needed to read it beside it, last.

    Not synced to the disk: what a power cut leaves does not have its SHA-256.
    """
    digest, episodes = hashlib.sha256(), []
    part, about = path.with_suffix(f".{os.getpid()}.part"), path.with_suffix(".json")
    try:
        with open(part, "wb") as file:
            for shard in read_shards(sealed, states=False):
                content = rows_of(shard).tobytes()
                digest.update(content)
                file.write(content)
                episodes.append(shard.episode)
        part.replace(path)
        facts = {
            "sha256": digest.hexdigest(),
            "dimensions": dimensions(sealed),
            "episode_starts": episode_starts(episodes).tolist(),
        }
        part.write_text(json.dumps({"facts": facts, "digest": digest_of(facts)}))
        part.replace(about)
    finally:
        part.unlink(missing_ok=True)


def mapped(path: Path) -> Table | None:
    """The table at `path`, or none where it is not there whole. Its pages are this process's own only once written."""
    about = path.with_suffix(".json")
    try:
        content = json.loads(about.read_text())
        facts = content["facts"]
        if content["digest"] != digest_of(facts):
            return None
        (observation_dim, action_dim), starts = facts["dimensions"], np.array(facts["episode_starts"])
        rows = np.memmap(path, np.float32, mode="c").reshape(-1, 2 * observation_dim + action_dim + 2)
        if hashlib.sha256(rows.data).hexdigest() != facts["sha256"]:
            return None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    os.utime(about)
    return Table(np.asarray(rows), observation_dim, action_dim, starts)


def make_room(place: Path, keep: Path, largest: int) -> None:
    """Removes what was left half-written, and the tables that were opened longest ago; who has mapped one keeps it."""
    for path in place.iterdir():
        whole = path.suffix in (".json", ".float32") and path.with_suffix(".json").is_file()
        if not whole and path.suffix in (".part", ".float32") and time.time() - path.stat().st_mtime > ABANDONED:
            path.unlink(missing_ok=True)
    entries = sorted(place.glob("*.json"), key=lambda about: about.stat().st_mtime, reverse=True)
    held = 0
    for about in entries:
        table = about.with_suffix(".float32")
        held += table.stat().st_size if table.is_file() else 0
        if held > largest and table != keep:
            about.unlink(missing_ok=True)
            table.unlink(missing_ok=True)
