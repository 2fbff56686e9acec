"""A loopback TCP proxy that damages a journal stream on its way."""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Forwards to `target`; after `damage()`, flips one byte in the next large piece of a journal stream."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.damaged = 0
        self._armed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def damage(self) -> None:
        self._armed.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                self._open += [client, server]
                streams = threading.Event()
                for there, back, answers in ((client, server, False), (server, client, True)):
                    threading.Thread(
                        target=self._pump, args=(there, back, answers, streams), daemon=True
                    ).start()

    def _pump(
        self, there: socket.socket, back: socket.socket, answers: bool, streams: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := there.recv(1 << 16):
                if not answers and b"/replication/stream" in chunk:
                    streams.set()
                if answers and streams.is_set() and self._armed.is_set() and len(chunk) > 600:
                    self._armed.clear()
                    self.damaged += 1
                    chunk = chunk[:-40] + bytes([chunk[-40] ^ 1]) + chunk[-39:]
                back.sendall(chunk)
        for each in (there, back):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for each in (self._listener, *self._open):
            each.close()
