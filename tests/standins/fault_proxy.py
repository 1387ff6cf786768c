"""A small HTTP proxy before an object store's server that makes faults, drawn by a seed.

    with FaultProxy(port_of_moto, Faults(rates={"503": 0.02, "truncate": 0.01}, seed=1)) as proxy:
        options = {"endpoint_url": proxy.url, ...}
        proxy.rule("/0/1/0/1", "403")          every request for keys with this end
        proxy.rule("/0/1/0/1", "404", times=1)  only the next request
        proxy.gate = wait                       called before a request goes to the store; may block
        proxy.witness = note                    called with every request that reached the store, and its answer
        proxy.dropped = {"if-none-match"}       headers that are removed: the store has no conditional writes

The fault of a request depends on the seed, the method, the key and how often that key was requested, never on the order
of threads: two runs with the same requests get the same faults.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "host", "keep-alive"}
_CODES = {"403": "AccessDenied", "404": "NoSuchKey", "500": "InternalError", "503": "SlowDown"}
# An error status; a reset connection in place of an answer, or after the store has done the request ("reset_after"); a
# truncated body; a slow answer.
KINDS = (*_CODES, "reset", "reset_after", "truncate", "latency")


@dataclass(frozen=True)
class Faults:
    """The faults to make.

    Attributes
    ----------
    rates : mapping of str to float
        Kind of fault -> share of the requests.
    seed : int
        Seed of the draws.
    in_a_row : int
        Maximum number of consecutive faults of one key, so that enough retries succeed.
    latency_seconds : float
        Delay of a slow answer.
    spare : tuple of str
        Methods without faults.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    in_a_row: int = 2
    latency_seconds: float = 0.2
    spare: tuple[str, ...] = ()


@dataclass
class _Rule:
    end: str
    kind: str
    times: int | None
    method: str | None


class FaultProxy:
    """A proxy on a free port of 127.0.0.1 that forwards requests to `port`."""

    def __init__(self, port: int, faults: Faults | None = None) -> None:
        self.port, self.faults = port, faults or Faults()
        self.requests: list[str] = []
        self.met: Counter[str] = Counter()
        # Called with (method, path); with (method, path, headers by lower-case name, body, status).
        self.gate: Callable[[str, str], None] = lambda *_: None
        self.witness: Callable[[str, str, Mapping[str, str], bytes, int], None] = lambda *_: None
        self.dropped: set[str] = set()
        self._rules: list[_Rule] = []
        self._asked: Counter[str] = Counter()
        self._in_a_row: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.proxy = self
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def rule(self, end: str, kind: str, *, times: int | None = None, method: str | None = None) -> None:
        """Make requests whose path ends in `end` fail with `kind`: all, or the next `times`."""
        assert kind in KINDS, kind
        with self._lock:
            self._rules.append(_Rule(end, kind, times, method))

    def calm(self) -> None:
        """Stop all faults and reset the counts."""
        with self._lock:
            self._rules.clear()
            self.requests.clear()
            self.met.clear()
            self.faults, self.dropped = Faults(), set()
            self.gate = self.witness = lambda *_: None

    def choose_fault(self, method: str, path: str) -> str | None:
        """Return the fault of a request, or None."""
        with self._lock:
            key = path.partition("?")[0]
            self.requests.append(f"{method} {key}")
            kind = self._fault_by_rule(method, key) or self._drawn_fault(method, path)
            if kind is not None:
                self.met[kind] += 1
            return kind

    def _fault_by_rule(self, method: str, key: str) -> str | None:
        for rule in self._rules:
            if key.endswith(rule.end) and rule.method in (None, method) and rule.times != 0:
                rule.times = None if rule.times is None else rule.times - 1
                return rule.kind
        return None

    def _drawn_fault(self, method: str, path: str) -> str | None:
        faults, what = self.faults, f"{method} {path}"
        self._asked[what] += 1
        if method in faults.spare:
            return None
        text = f"{faults.seed} {what} {self._asked[what]}".encode()
        drawn = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64
        for kind, rate in faults.rates.items():
            if drawn < rate:
                if kind != "latency" and self._in_a_row[what] >= faults.in_a_row:
                    break
                self._in_a_row[what] += kind != "latency"
                return kind
            drawn -= rate
        self._in_a_row[what] = 0
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    proxy: FaultProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that the proxy or the client has reset."""


class _Handler(BaseHTTPRequestHandler):
    """Answers one request: with a fault, or with the store's answer."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def answer(self) -> None:
        proxy = self.server.proxy
        body = self._body()
        kind = proxy.choose_fault(self.command, self.path)
        if kind == "latency":
            time.sleep(proxy.faults.latency_seconds)
        if kind == "reset":
            return self._reset()
        if kind in _CODES:
            content = f"<Error><Code>{_CODES[kind]}</Code><Message>fault</Message></Error>".encode()
            return self._send(int(kind), [("Content-Type", "application/xml")], content)
        proxy.gate(self.command, self.path)
        status, headers, content = self._forward(body)
        if kind == "reset_after":
            return self._reset()
        return self._send(status, headers, content, truncate=kind == "truncate")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(_chunks(self.rfile))
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        proxy = self.server.proxy
        upstream = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
        try:
            removed = _HOP_BY_HOP | proxy.dropped
            kept = {key: value for key, value in self.headers.items() if key.lower() not in removed}
            # Signatures cover the host that the client knows.
            upstream.request(self.command, self.path, body, {**kept, "Host": self.headers.get("Host", "")})
            answer = upstream.getresponse()
            content = answer.read()
            lower = {key.lower(): value for key, value in self.headers.items()}
            proxy.witness(self.command, self.path, lower, body, answer.status)
            return answer.status, answer.getheaders(), content
        finally:
            upstream.close()

    def _send(self, status: int, headers: list[tuple[str, str]], content: bytes, *, truncate: bool = False) -> None:
        self.send_response(status)
        length = next((v for k, v in headers if k.lower() == "content-length"), str(len(content)))
        for key, value in headers:
            if key.lower() not in _HOP_BY_HOP:
                self.send_header(key, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if truncate and len(content) > 1:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self._reset()
        else:
            self.wfile.write(content)

    def _reset(self) -> None:
        """Close the connection with RST."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()

    def log_message(self, *_: Any) -> None:
        pass


def _chunks(stream: Any) -> Iterator[bytes]:
    while size := int(stream.readline().split(b";")[0].strip() or b"0", 16):
        yield stream.read(size)
        stream.readline()
    stream.readline()
