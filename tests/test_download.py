"""Downloads against a real server that fails as it is told: whole and verified, resumed, or one sentence."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from folders import Killed
from loopback_server import Answer, LoopbackServer, Request, loopback_server

from dawm.download import BLOCK, PROGRESS, download
from dawm.errors import InputError

FILE = random.Random(0).randbytes(7 * BLOCK + 123)
NAME = "hopper_medium-v2.hdf5"
Refused = Callable[..., str]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with loopback_server() as running:
        running.file = FILE
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "datasets" / NAME


def get(server: LoopbackServer, path: Path, **chosen: object) -> None:
    """download with pauses that a test can wait for; accepts any content, save by `verify`."""
    options = {"verify": lambda part: None, "timeout": 5, "pause": 0.001, **chosen}
    download(f"{server.url}/{NAME}", path, **options)  # type: ignore[arg-type]


@pytest.fixture
def refused(server: LoopbackServer, path: Path) -> Refused:
    """Downloads; asserts one sentence with the URL and the way out, and nothing under the name; returns it."""

    def run(**chosen: object) -> str:
        with pytest.raises(InputError) as caught:
            get(server, path, **chosen)
        sentence = str(caught.value)
        assert sentence.startswith(f"{server.url}/{NAME}: ") and "\n" not in sentence
        assert sentence.endswith(f"; download it elsewhere and put it at {path}")
        assert not path.exists()
        return sentence

    return run


def only_left(path: Path) -> list[str]:
    """What lies beside the file and is not the lock of its hidden folder."""
    return sorted(str(p.relative_to(path.parent)) for p in path.parent.rglob("*") if p.is_file() and p.name != ".lock")


# --- what arrives -----------------------------------------------------------------------------------------------


def test_file_arrives_byte_for_byte_with_one_request(server, path):
    get(server, path)
    assert path.read_bytes() == FILE
    assert server.requests == [Request(f"/{NAME}", "identity", None, None, sent=len(FILE))]
    assert only_left(path) == [NAME]


def test_file_that_is_there_is_not_asked_for(server, path):
    path.parent.mkdir()
    path.write_bytes(b"mine")
    get(server, path)
    assert path.read_bytes() == b"mine" and server.requests == []


def test_file_has_its_name_only_after_verify(server, path):
    seen = []

    def verify(part: Path) -> None:
        seen.append((part.read_bytes() == FILE, path.exists()))

    get(server, path, verify=verify)
    assert seen == [(True, False)] and path.exists()


def test_new_file_is_readable_as_the_umask_says(server, path):
    before = os.umask(0o027)
    try:
        get(server, path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_nothing_is_printed_where_nobody_watches(server, path, capfd):
    server.answers = [Answer(send=BLOCK)]
    get(server, path)
    assert capfd.readouterr() == ("", "")


def test_file_without_a_promised_length_arrives(server, path):
    server.otherwise = Answer(headers={"Content-Length": None, "Connection": "close"})
    get(server, path)
    assert path.read_bytes() == FILE


# --- after a break ----------------------------------------------------------------------------------------------


def test_broken_off_file_is_continued_and_not_downloaded_twice(server, path):
    server.answers = [Answer(send=3 * BLOCK)]
    get(server, path)
    assert path.read_bytes() == FILE
    assert [request.range for request in server.requests] == [None, f"bytes={3 * BLOCK}-"]
    assert server.requests[1].if_range == server.etag
    assert server.sent == len(FILE)


def test_a_later_call_continues_where_the_first_one_gave_up(server, path, refused):
    server.answers = [Answer(send=2 * BLOCK)]
    sentence = refused(attempts=1)
    assert "a broken connection" in sentence and f"{2 * BLOCK} bytes, which the next attempt continues" in sentence
    get(server, path)
    assert path.read_bytes() == FILE
    assert [request.range for request in server.requests] == [None, f"bytes={2 * BLOCK}-"]
    assert server.sent == len(FILE)
    assert only_left(path) == [NAME]


def test_the_date_stands_in_for_a_missing_etag(server, path):
    date = "Sat, 01 Aug 2020 10:00:00 GMT"
    headers = {"ETag": None, "Last-Modified": date}
    server.answers = [Answer(send=BLOCK, headers=headers), Answer(if_range=False, headers=headers)]
    get(server, path)
    assert path.read_bytes() == FILE
    assert (server.requests[1].range, server.requests[1].if_range) == (f"bytes={BLOCK}-", date)


def test_file_of_another_length_and_the_same_date_is_started_anew(server, path):
    headers = {"ETag": None, "Last-Modified": "Sat, 01 Aug 2020 10:00:00 GMT"}
    longer = FILE[::-1] + b"longer"
    server.answers = [Answer(send=BLOCK, headers=headers), Answer(body=longer, if_range=False, headers=headers)]
    server.otherwise = Answer(body=longer, headers=headers)
    get(server, path)
    assert path.read_bytes() == longer
    assert [request.range for request in server.requests] == [None, f"bytes={BLOCK}-", None]


@pytest.mark.parametrize("etag", ['W/"weak"', None])
def test_what_cannot_be_told_from_another_file_is_not_continued(server, path, etag):
    server.otherwise = Answer(headers={"ETag": etag})
    server.answers = [Answer(send=BLOCK, headers={"ETag": etag})]
    get(server, path)
    assert path.read_bytes() == FILE
    assert [request.range for request in server.requests] == [None, None]


def test_server_without_ranges_starts_at_the_first_byte(server, path):
    server.otherwise = Answer(ranges=False)
    server.answers = [Answer(send=3 * BLOCK)]
    get(server, path)
    assert path.read_bytes() == FILE
    assert [request.sent for request in server.requests] == [3 * BLOCK, len(FILE)]


@pytest.mark.parametrize("heeds", [True, False])
@pytest.mark.parametrize("other", [FILE[::-1], FILE[::-1] + b"longer", FILE[: BLOCK // 2]])
def test_file_that_changed_on_the_server_is_started_anew(server, path, refused, heeds, other):
    """Also where If-Range is not heeded: the answer's own ETag tells."""
    server.answers = [Answer(send=3 * BLOCK)]
    refused(attempts=1)
    server.file, server.otherwise = other, Answer(if_range=heeds)
    get(server, path)
    assert path.read_bytes() == other
    assert server.requests[1].range == f"bytes={3 * BLOCK}-"


def test_same_name_from_another_address_is_started_anew(server, path, refused):
    server.answers = [Answer(send=3 * BLOCK)]
    refused(attempts=1)
    download(f"{server.url}/mirror/{NAME}", path, lambda part: None)
    assert path.read_bytes() == FILE and server.requests[1].range is None


@pytest.mark.parametrize("description", [b"", b"{", b"[]", b"7", b'{"url": 1}'])
def test_part_whose_description_is_damaged_is_started_anew(server, path, refused, description):
    server.answers = [Answer(send=3 * BLOCK)]
    refused(attempts=1)
    (path.parent / f".{NAME}.download" / "description.json").write_bytes(description)
    get(server, path)
    assert path.read_bytes() == FILE and server.requests[1].range is None


def test_range_that_the_server_refuses_starts_anew(server, path, refused):
    server.answers = [Answer(send=3 * BLOCK), Answer(status=416)]
    refused(attempts=1)
    get(server, path)
    assert path.read_bytes() == FILE
    assert [request.range for request in server.requests] == [None, f"bytes={3 * BLOCK}-", None]


@pytest.mark.parametrize("content_range", [f"bytes 0-{len(FILE) - 1}/{len(FILE)}", "bytes 5-9/10", "nonsense", None])
def test_another_range_than_asked_for_is_not_written(server, path, refused, content_range):
    server.answers = [Answer(send=3 * BLOCK), Answer(headers={"Content-Range": content_range})]
    refused(attempts=1)
    get(server, path)
    assert path.read_bytes() == FILE and server.requests[2].range is None


def test_an_attempt_that_brings_a_mebibyte_is_no_failure(server, path):
    server.file = random.Random(1).randbytes(4 * PROGRESS)
    server.otherwise = Answer(send=PROGRESS + BLOCK)
    get(server, path, attempts=2)
    assert path.read_bytes() == server.file and len(server.requests) == 4


def test_pauses_grow(server, refused, monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.otherwise = Answer(status=500)
    refused(pause=0.5)
    assert pauses == [0.5, 1, 2, 4] and len(server.requests) == 5


@pytest.mark.parametrize(("wish", "pause"), [("7", 7), ("86400", 60), ("Sat, 01 Aug 2020 10:00:00 GMT", 0.5)])
def test_pause_that_the_server_wishes_is_granted_within_limits(server, path, monkeypatch, wish, pause):
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.answers = [Answer(status=429, headers={"Retry-After": wish})]
    get(server, path, pause=0.5)
    assert pauses == [pause] and path.read_bytes() == FILE


# --- what passes by itself and what does not --------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_passing_status_is_tried_again(server, path, status):
    server.answers = [Answer(status=status), Answer(status=status)]
    get(server, path)
    assert path.read_bytes() == FILE and len(server.requests) == 3


@pytest.mark.parametrize("status", [429, 500])
def test_status_that_stays_is_refused_after_all_attempts(server, refused, status):
    server.otherwise = Answer(status=status)
    assert f"found HTTP status {status}" in refused(attempts=3)
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410, 204])
def test_final_status_is_refused_at_once(server, refused, status):
    server.otherwise = Answer(status=status, body=b"")
    assert f"expected HTTP status 200, found HTTP status {status}" in refused()
    assert len(server.requests) == 1


def test_server_that_always_breaks_off_is_refused(server, refused):
    server.otherwise = Answer(send=BLOCK, ranges=False)
    assert "a broken connection" in refused(attempts=3)
    assert len(server.requests) == 3


def test_longer_promise_than_body_is_refused(server, refused):
    server.otherwise = Answer(headers={"Content-Length": str(len(FILE) + 5), "ETag": None})
    assert "broken connection" in refused(attempts=2)


def test_shorter_promise_than_body_is_left_to_verify(server, refused):
    """HTTP itself cuts the body there: only the content can tell."""
    server.otherwise = Answer(headers={"Content-Length": str(BLOCK)})

    def verify(part: Path) -> None:
        if part.read_bytes() != FILE:
            raise InputError(f"{part}: cut off")

    assert "what the server sent is unusable: cut off;" in refused(verify=verify)


def test_body_that_ends_before_a_range_s_promised_end_is_not_taken_for_whole(server, path, refused):
    headers = {"Content-Length": str(BLOCK)}
    server.answers = [Answer(send=BLOCK), Answer(headers=headers), Answer(headers=headers)]
    assert f"{3 * BLOCK} of {len(FILE)} bytes" in refused(attempts=3)
    get(server, path)
    assert path.read_bytes() == FILE


def test_stalled_server_is_refused_after_the_timeout(server, refused):
    server.otherwise = Answer(send=2 * BLOCK, stall=True)
    began = time.monotonic()
    assert "a broken connection" in refused(timeout=0.2, attempts=2)
    assert time.monotonic() - began < 5 and len(server.requests) == 2


def test_server_that_does_not_answer_is_refused_after_the_timeout(path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(InputError, match=rf"^{url}: .* no connection \(timed out\); .* put it at {path}$"):
            download(url, path, lambda part: None, timeout=0.2, pause=0.001)


def test_no_network_is_one_sentence_soon(path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        download(url, path, lambda part: None)
    assert time.monotonic() - began < 4
    sentence = str(caught.value)
    assert sentence.startswith(f"{url}: expected the complete file, found no connection (") and "refused" in sentence
    assert sentence.endswith(f"download it elsewhere and put it at {path}") and only_left(path) == []


def test_unknown_host_is_one_sentence_soon(path):
    began = time.monotonic()
    with pytest.raises(InputError, match=r"^http://no-such-host\.invalid/x: .*no connection") as caught:
        download("http://no-such-host.invalid/x", path, lambda part: None)
    assert time.monotonic() - began < 15 and "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    "url", ["nonsense", "ftp://127.0.0.1/x", "http://", "http://[::1/x", "http://.a/", "file:///x"]
)
def test_address_that_is_none_is_refused(path, url):
    with pytest.raises(InputError, match=f"^{re.escape(url)}: .*put it at {re.escape(str(path))}$"):
        download(url, path, lambda part: None)


def test_redirections_without_end_are_refused(server, refused):
    server.otherwise = Answer(status=302, headers={"Location": "/again"})
    assert "redirects" in refused()


def test_redirection_is_followed(server, path):
    server.answers = [Answer(status=302, headers={"Location": "/elsewhere"})]
    get(server, path)
    assert path.read_bytes() == FILE


# --- content that cannot be used --------------------------------------------------------------------------------

PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


@pytest.mark.parametrize("page", [PAGE, b"Please log in"])
def test_page_instead_of_the_file_is_refused_at_once(server, path, refused, page):
    server.otherwise = Answer(body=page, headers={"Content-Type": "text/html; charset=utf-8"})
    assert "found an HTML page" in refused()
    assert len(server.requests) == 1 and only_left(path) == []


@pytest.mark.parametrize("page", [PAGE, b"\n  " + PAGE])
def test_page_that_calls_itself_data_is_refused(server, path, refused, page):
    server.otherwise = Answer(body=page)
    assert "what the server sent is unusable" in (sentence := refused()) and "found an HTML page" in sentence
    assert only_left(path) == []


@pytest.mark.parametrize("headers", [{}, {"Content-Length": None, "Connection": "close"}])
def test_empty_body_is_refused(server, path, refused, headers):
    server.otherwise = Answer(body=b"", headers=headers)
    assert "found an empty one" in refused()
    assert only_left(path) == []


def test_compressed_body_is_refused(server, refused):
    server.otherwise = Answer(headers={"Content-Encoding": "gzip"})
    assert "Content-Encoding gzip" in refused()


def test_content_that_verify_refuses_is_deleted_and_told(server, path, refused):
    def verify(part: Path) -> None:
        raise InputError(f"{part}: key 'rewards' is missing")

    assert "what the server sent is unusable: key 'rewards' is missing;" in refused(verify=verify)
    assert only_left(path) == []
    get(server, path)
    assert path.read_bytes() == FILE and server.requests[1].range is None


# --- other processes, killed processes, full disks --------------------------------------------------------------


def test_two_at_once_download_once(server, path, capfd):
    server.answers = [Answer(send=len(FILE), stall=True, headers={"Content-Length": None, "Connection": "close"})]
    first, second = (threading.Thread(target=get, args=(server, path)) for _ in range(2))
    first.start()
    wait_until(lambda: server.requests)
    second.start()
    wait_until(lambda: "another process writes here" in capfd.readouterr().err)
    server.released.set()
    first.join(20)
    second.join(20)
    assert path.read_bytes() == FILE and len(server.requests) == 1


def wait_until(holds: Callable[[], object]) -> None:
    for _ in range(2000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def start(server: LoopbackServer, path: Path, before: str = "") -> subprocess.Popen[str]:
    program = f"""
        from pathlib import Path
        from dawm.download import download
        {before}
        download({f"{server.url}/{NAME}"!r}, Path({str(path)!r}), lambda part: None)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=Path(__file__).parents[1],
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_process_is_continued(server, path):
    server.answers = [Answer(send=3 * BLOCK, stall=True)]
    process = start(server, path)
    wait_until(
        lambda: list(path.parent.glob(".*/part")) and next(path.parent.glob(".*/part")).stat().st_size >= 2 * BLOCK
    )
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not path.exists()
    get(server, path)
    assert path.read_bytes() == FILE
    assert server.requests[1].range in (f"bytes={2 * BLOCK}-", f"bytes={3 * BLOCK}-")
    assert len(server.requests) == 2


def test_process_killed_before_the_name_was_given_downloads_nothing_again(server, path):
    def killed(part: Path) -> None:
        raise Killed

    with pytest.raises(Killed):
        get(server, path, verify=killed)
    assert not path.exists()
    get(server, path)
    assert path.read_bytes() == FILE and len(server.requests) == 1


def test_full_disk_is_told_and_what_came_is_kept(server, path):
    """A limit on the size of files, which a write meets just like a full disk."""
    process = start(server, path, f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({2 * BLOCK},) * 2)")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and error.splitlines()[-1].startswith("OSError: [Errno 27]")
    assert not path.exists()
    get(server, path)
    assert path.read_bytes() == FILE and server.sent < 2 * len(FILE)
    assert server.requests[1].range == f"bytes={2 * BLOCK}-"


# --- more than anybody asked for --------------------------------------------------------------------------------


def test_file_that_promises_too_much_is_refused_before_it_comes(server, path, refused, monkeypatch):
    monkeypatch.setattr("dawm.download.LARGEST", 1000)
    assert "expected at most 1,000 bytes, found a file of" in refused()
    assert only_left(path) == []


def test_body_without_end_is_cut_off(server, path, refused, monkeypatch):
    monkeypatch.setattr("dawm.download.LARGEST", BLOCK)
    server.otherwise = Answer(headers={"Content-Length": None, "Connection": "close"})
    assert f"expected at most {BLOCK:,} bytes, found more" in refused()
    assert only_left(path) == []
