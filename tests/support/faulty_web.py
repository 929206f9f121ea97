"""A way to an HTTP server on which things go wrong as a test says."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_HOPS = {"connection", "transfer-encoding", "keep-alive"}


@dataclass
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Fault:
    """What becomes of requests with a method, the first `times` of them.

    `status`: this is the answer, with `headers` and `body`. `without`: headers of the request that
    are not handed on. `delay_seconds`: before the answer. `cut_answer`, `cut_request`: after so
    many bytes of the body the connection ends. `lose`: the server does it, and no answer comes.
    """

    method: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    without: tuple[str, ...] = ()
    delay_seconds: float = 0
    cut_answer: int | None = None
    cut_request: int | None = None
    lose: bool = False
    times: int = 1_000_000
    when: Callable[[Asked], bool] = lambda _: True


class FaultyWeb(ThreadingHTTPServer):
    """Hands on to `port` of this host what no fault is for."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = port
        self.faults: list[Fault] = []
        self.asked: list[Asked] = []
        self.ended = threading.Event()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def fault_for(self, asked: Asked) -> Fault:
        """What is to go wrong; nothing in most cases."""
        for fault in self.faults:
            if fault.method == asked.method and fault.times > 0 and fault.when(asked):
                fault.times -= 1
                return fault
        return Fault("")

    def handle_error(self, *_: object) -> None:
        """Connections that end are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyWeb

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def _serve(self) -> None:
        asked = Asked(self.command, self.path, dict(self.headers.items()))
        self.server.asked.append(asked)
        fault = self.server.fault_for(asked)
        if fault.cut_request is not None:
            self.rfile.read(fault.cut_request)
            self._end()
            return
        asked.body = self._body()
        if fault.delay_seconds:
            self.server.ended.wait(fault.delay_seconds)
        if fault.status is not None:
            self._answer(fault, fault.status, fault.headers, fault.body)
            return
        headers = {k: v for k, v in asked.headers.items() if k.lower() not in _HOPS}
        for name in (*fault.without, "Content-Length"):
            headers.pop(name, None)
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=30)
        # Servers compare it with what a Destination begins with.
        headers["Host"] = asked.headers.get("Host", "localhost")
        behind.request(asked.method, asked.path, asked.body, headers)
        told = behind.getresponse()
        body = told.read()
        behind.close()
        if fault.lose:
            self._end()
            return
        kept = {
            k: v for k, v in told.headers.items() if k.lower() not in {*_HOPS, "content-length"}
        }
        if asked.method == "HEAD":
            kept["Content-Length"] = told.headers.get("Content-Length", "0")
        self._answer(fault, told.status, kept, body)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, fault: Fault, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers and status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if fault.cut_answer is None else body[: fault.cut_answer])
        if fault.cut_answer is not None:
            self._end()

    def _end(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        # What is unread would turn the end into a reset.
        time.sleep(0.01)


@contextmanager
def in_front_of(port: int) -> Iterator[FaultyWeb]:
    """One until the end of the block."""
    server = FaultyWeb(port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        with suppress(OSError):
            server.shutdown()
        server.server_close()
        thread.join(5)
