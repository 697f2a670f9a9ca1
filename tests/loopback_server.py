"""A real HTTP server on 127.0.0.1 that serves one file and fails as it is told, and remembers what it was asked for."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """How one request is answered; the default is a good server's answer.

    body: other bytes than the server's file. ranges: whether Range is heeded; if_range: whether If-Range is.
    send: bytes of the body that are sent before the connection breaks off (or, with stall, falls silent).
    headers: added, or put in place of the usual ones; None leaves a header out.
    """

    status: int = 200
    body: bytes | None = None
    ranges: bool = True
    if_range: bool = True
    send: int | None = None
    stall: bool = False
    headers: Mapping[str, str | None] = field(default_factory=dict)


@dataclass
class Request:
    path: str
    accept_encoding: str | None
    range: str | None
    if_range: str | None
    sent: int = 0


class LoopbackServer:
    """file: the bytes served under any path. answers: for the next requests, in order; then `otherwise` for ever."""

    def __init__(self, file: bytes = b"") -> None:
        self.file = file
        self.answers: list[Answer] = []
        self.otherwise = Answer()
        self.requests: list[Request] = []
        self.released = threading.Event()  # ends what stalls
        self.http = _HTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.file).hexdigest()[:16]}"'

    @property
    def sent(self) -> int:
        """Bytes of bodies sent so far."""
        return sum(request.sent for request in self.requests)


class _HTTPServer(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


@contextmanager
def loopback_server() -> Iterator[LoopbackServer]:
    server = LoopbackServer()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.http.shutdown()
        server.http.server_close()
        thread.join()


def _handler(server: LoopbackServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = server.answers.pop(0) if server.answers else server.otherwise
            encoding, part, condition = map(self.headers.get, ("Accept-Encoding", "Range", "If-Range"))
            request = Request(self.path, encoding, part, condition)
            server.requests.append(request)
            body = server.file if answer.body is None else answer.body
            status, start = self.part(answer, request, body)
            headers: dict[str, str | None] = {
                "Content-Type": "application/octet-stream",
                "ETag": server.etag,
                "Content-Length": str(len(body) - start),
            }
            if status == 206:
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            if status == 416:
                headers |= {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"}
            self.send_response(status)
            for name, value in {**headers, **answer.headers}.items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            if status == 416:
                return
            rest = body[start:] if answer.send is None else body[start : start + answer.send]
            request.sent = len(rest)
            self.wfile.write(rest)
            if answer.stall:
                server.released.wait(30)
            if answer.send is not None or answer.stall or "Content-Length" in answer.headers:
                self.close_connection = True

        def part(self, answer: Answer, request: Request, body: bytes) -> tuple[int, int]:
            """(status, first byte) of the answer."""
            if answer.status != 200 or request.range is None or not answer.ranges:
                return answer.status, 0
            if answer.if_range and request.if_range not in (None, server.etag):
                return 200, 0
            start = int(request.range.removeprefix("bytes=").removesuffix("-"))
            return (206, start) if start < len(body) else (416, len(body))

        def log_message(self, *args: object) -> None:
            pass  # not among the test's own output

    return Handler
