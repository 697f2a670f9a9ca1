"""One file from the web: resumed where it broke off, and there under its name only once it is whole and verified."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import requests
from requests.exceptions import ChunkedEncodingError
from tqdm import tqdm

from dawm.data.files import only_writer, write_json
from dawm.errors import InputError, one_line

BLOCK = 1 << 16  # bytes read at a time: what a break can lose
PROGRESS = 1 << 20  # bytes; an attempt that brought as many is no failure
CONNECT_TIMEOUT = 10.0  # seconds: a firewall that drops packets never answers
UNREACHED_ATTEMPTS = 2  # as long as no server has answered
LARGEST = 1 << 34  # bytes that are taken from a server: the largest data set of the field has a tenth of them
LONGEST_WISH = 60.0  # seconds of a server's Retry-After that are granted


def download(
    url: str,
    path: Path,
    verify: Callable[[Path], None],
    *,
    timeout: float = 30,
    attempts: int = 5,
    pause: float = 1.0,
) -> None:
    """Downloads `url` to `path`; returns at once where `path` exists.

    What has come lies in the hidden folder `.NAME.download` beside `path`, which one process at a time writes. After
    a break it is continued, in this call or a later one, unless the file on the server has changed (RFC 9110, §13.1.5
    If-Range, §14.2 Range).

    verify: is given the complete file before it takes its name; raises InputError for damaged content.
    timeout: seconds without a byte after which the connection counts as broken.
    attempts: how many may fail in a row; one that brought a mebibyte starts the count anew.
    pause: seconds before the second attempt, doubled before every further one.
    Raises InputError with the URL, what was found and where to put the file by hand; OSError for a full disk.
    """
    folder = path.with_name(f".{path.name}.download")
    with only_writer(folder):
        if path.exists():
            return
        transfer = _Transfer(url, path, folder, timeout)
        transfer.complete(attempts, pause)
        try:
            _refuse_empty_or_page(transfer.part)
            verify(transfer.part)
        except InputError as error:
            transfer.forget()
            transfer.refuse(f"what the server sent is unusable: {str(error).removeprefix(f'{transfer.part}: ')}", error)
        transfer.part.replace(path)
        transfer.forget()


class _TryAgain(Exception):
    """A failure that may pass, and the seconds that the server wishes to be left alone."""

    def __init__(self, reason: str, wish: float = 0.0) -> None:
        super().__init__(reason)
        self.wish = wish


class _Transfer:
    """What has come of one file, and how the server described the file when its first byte came."""

    def __init__(self, url: str, path: Path, folder: Path, timeout: float) -> None:
        self.url, self.path, self.timeout = url, path, timeout
        self.part, self.description = folder / "part", folder / "description.json"
        self.reached = False

    def complete(self, attempts: int, pause: float) -> None:
        failures = 0
        while True:
            size = self.size()
            try:
                return self.attempt()
            except (_TryAgain, requests.ConnectionError, requests.Timeout, ChunkedEncodingError) as error:
                failures = 1 if self.size() - size >= PROGRESS else failures + 1
                if failures >= (attempts if self.reached else min(attempts, UNREACHED_ATTEMPTS)):
                    kept = f", {self.size()} bytes, which the next attempt continues" if self.size() else ""
                    self.refuse(f"expected the complete file, found {self.found(error)}{kept}", error)
                wish = error.wish if isinstance(error, _TryAgain) else 0.0
                time.sleep(max(pause * 2 ** (failures - 1), min(wish, LONGEST_WISH)))
            except requests.RequestException as error:  # no URL, redirections without end
                self.refuse(f"expected a file that can be downloaded, found {_innermost(error)}", error)

    def attempt(self) -> None:
        """Continues the part, or begins it where nothing can be continued."""
        size, (validator, total) = self.size(), self.described()
        if size and size == total:  # killed between the last byte and the new name
            return
        headers = {"Accept-Encoding": "identity"}
        if size and validator:
            headers |= {"Range": f"bytes={size}-", "If-Range": validator}
        limits = (min(self.timeout, CONNECT_TIMEOUT), self.timeout)
        with requests.get(self.url, headers=headers, stream=True, timeout=limits) as answer:
            self.reached = True
            self.judge(answer)
            if answer.status_code == 206:
                first, whole = _content_range(answer)
                if (first, _validator(answer)) != (size, validator) or total not in (None, whole):
                    self.forget()
                    raise _TryAgain(f"a part of another file ({answer.headers.get('Content-Range')})")
                self.write(answer, "ab", whole)
            else:
                length = answer.headers.get("Content-Length", "")
                self.write(answer, "wb", int(length) if length.isdecimal() else None)

    def judge(self, answer: requests.Response) -> None:
        """Returns if the body is one to be written."""
        status, kind = f"HTTP status {answer.status_code} {answer.reason}", answer.headers.get("Content-Type", "")
        if answer.status_code == 416:
            self.forget()
        if answer.status_code in (416, 429) or answer.status_code >= 500:
            wish = answer.headers.get("Retry-After", "")
            raise _TryAgain(status, float(wish) if wish.isdecimal() else 0.0)
        if answer.status_code not in (200, 206):
            self.refuse(f"expected HTTP status 200, found {status}")
        if kind.startswith("text/html"):
            self.refuse("expected a data file, found an HTML page")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            self.refuse(f"expected the file as it is, found Content-Encoding {answer.headers['Content-Encoding']}")

    def write(self, answer: requests.Response, mode: str, total: int | None) -> None:
        """The body at the end of the part (mode "ab") or as its beginning ("wb"); total: bytes of the whole file."""
        size = self.size() if mode == "ab" else 0
        if total is not None and total > LARGEST:
            self.refuse(f"expected at most {LARGEST:,} bytes, found a file of {total:,}")
        with (
            self.part.open(mode) as file,
            tqdm(desc=self.path.name, total=total, initial=size, unit="B", unit_scale=True, disable=None) as bar,
        ):
            if mode == "wb":  # once the old bytes are gone: a description never belongs to the bytes of another file
                write_json(self.description, {"url": self.url, "validator": _validator(answer), "bytes": total})
            for block in answer.iter_content(BLOCK):
                file.write(block)
                bar.update(len(block))
                size += len(block)
                if size > LARGEST:
                    self.forget()
                    self.refuse(f"expected at most {LARGEST:,} bytes, found more")
            file.flush()
            os.fsync(file.fileno())
        if total is not None and self.size() != total:
            raise _TryAgain(f"{self.size()} of {total} bytes")

    def found(self, error: Exception) -> str:
        if isinstance(error, _TryAgain):
            return str(error)
        return f"{'a broken connection' if self.reached else 'no connection'} ({_innermost(error)})"

    def size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def described(self) -> tuple[str | None, int | None]:
        """(ETag or Last-Modified, bytes of the whole file) of what the part belongs to; None for what is unknown."""
        try:
            description = json.loads(self.description.read_bytes())
            return (description["validator"], description["bytes"]) if description["url"] == self.url else (None, None)
        except (OSError, ValueError, TypeError, KeyError):
            return None, None

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.description.unlink(missing_ok=True)

    def refuse(self, reason: str, cause: Exception | None = None) -> NoReturn:
        raise InputError(f"{self.url}: {reason}; download it elsewhere and put it at {self.path}") from cause


def _validator(answer: requests.Response) -> str | None:
    """What If-Range may carry: an ETag, unless it is a weak one, or the date."""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified")


def _content_range(answer: requests.Response) -> tuple[int | None, int | None]:
    """(first byte, bytes of the whole file) of a 206 answer; None for what it does not tell."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if found is None:
        return None, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _innermost(error: BaseException) -> str:
    """The sentence of the error that the others were raised from: "Connection refused", not its three wrappings."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return one_line(error) or type(error).__name__


def _refuse_empty_or_page(part: Path) -> None:
    with part.open("rb") as file:
        start = file.read(256)
    if not start:
        raise InputError(f"{part}: expected a data file, found an empty one")
    if start.lstrip().startswith(b"<"):
        raise InputError(f"{part}: expected a data file, found an HTML page")
