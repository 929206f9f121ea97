"""A way to a server that breaks at a word."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Hands bytes on. At `word` from a client, but for the first `skips`, it breaks: the server
    gets it, and the client no answer; unless it `delivers`, not even the server gets it.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self.address = "{}:{}".format(*self._listener.getsockname())
        self.word: bytes | None = None
        self.skips = 0
        self.delivers = True
        self._spawn(self._accept)

    def _spawn(self, target: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                self._spawn(self._to_server, client, server)
                self._spawn(self._to_client, server, client)

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self.word and self.word in data and self._counts():
                    _end(client)
                    if self.delivers:
                        server.sendall(data)
                        # Its answer, which nobody gets, or the end of the connection.
                        continue
                    break
                server.sendall(data)
        _end(server)

    def _counts(self) -> bool:
        self.skips -= 1
        return self.skips < 0

    def _to_client(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        _end(client)

    def close(self) -> None:
        """End all of it."""
        for one in [self._listener, *self._sockets]:
            _end(one)
            one.close()
        for thread in self._threads:
            thread.join(5)


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(address: str) -> Iterator[Proxy]:
    """One in front of a server."""
    host, _, port = address.partition(":")
    found = Proxy((host, int(port)))
    try:
        yield found
    finally:
        found.close()
