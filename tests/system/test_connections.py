"""A region that may have few descriptors, and clients that take all they can get."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from .cluster import Cluster, until

HALF = b"PUT /v1/profile/k HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 9\r\n"


def test_half_sent_requests_lock_nobody_out(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, ("frankfurt", "tokyo"))
    tokyo = cluster["tokyo"]
    tokyo.descriptors = 256
    with contextlib.ExitStack() as held:
        held.callback(cluster.close)
        cluster.start()
        for _ in range(1100):
            connection = held.enter_context(socket.create_connection(("127.0.0.1", tokyo.port), 20))
            with contextlib.suppress(ConnectionError):
                connection.sendall(HALF)
        live = b"GET /health/live HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nconnection: close\r\n\r\n"
        assert b" 200 OK\r\n" in tokyo.raw(live % tokyo.port)
        until(lambda: tokyo.put("profile", "ann", {"name": "Ann"}).status == 200, "tokyo takes a write")
        cluster["frankfurt"].kill()  # a peer that comes anew finds a place, too
        cluster["frankfurt"].start()
        cluster["frankfurt"].wait()
        cluster.linked()
        cluster.settled()
        assert cluster["frankfurt"].get("profile", "ann").value["name"] == "Ann"
