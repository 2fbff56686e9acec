"""A test in the place of a region: it holds the deployment's key and sends what it likes."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from atoll.causality.clock import pack
from atoll.documents.entry import Change, Entry, encode_frame
from atoll.replication.wire import FrameWriter, Heartbeat, derive_key

from .cluster import KEY

WRITER = FrameWriter(derive_key(KEY.encode(), "links"))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Impostor:
    """Serves journals under a region's name: each stream is all of `chunks`, then silence."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.seq = 0
        self.chunks: list[bytes] = []
        self._over = threading.Event()
        impostor = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                if self.path != "/replication/stream":
                    return self.send_error(503)
                self.send_response(200)
                self.end_headers()
                try:
                    sent = 0
                    while not impostor._over.wait(0.05):
                        waiting = impostor.chunks[sent:]
                        sent += len(waiting)
                        self.wfile.write(b"".join([impostor.heartbeat(), *waiting]))
                except OSError:
                    pass
                self.close_connection = True
                return None

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def heartbeat(self) -> bytes:
        return WRITER.heartbeat(Heartbeat(self.name, now_ms(), {self.name: self.seq}, {}))

    def send(self, *changes: Change, ahead_ms: int = 0, origin: str = "", damaged: bool = False) -> None:
        """The next entry of the journal, holding `changes`."""
        seq = 1 if origin else self.seq + 1
        stamp = pack(now_ms() + ahead_ms)
        who = origin or self.name
        entry = Entry(who, seq, stamp, 5, {who: seq - 1} if seq > 1 else {}, changes)
        frame = bytearray(encode_frame(entry))
        if damaged:
            frame[-1] ^= 1
        if not (origin or damaged):
            self.seq = seq
        self.chunks.append(WRITER.entries(bytes(frame)))

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
