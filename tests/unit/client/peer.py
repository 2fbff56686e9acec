"""A server on a socket that answers exactly the bytes a test says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

HANG = b""
"""Instead of an answer: say nothing until the test is over."""
Answering = Callable[[bytes], bytes]
"""Instead of an answer: makes it of the request."""
BREAK = None
"""Instead of an answer: close the connection."""


@dataclass
class Peer:
    url: str
    answers: list[bytes | Answering | None]
    """For one request after another; the last one stays."""
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    over: threading.Event = field(default_factory=threading.Event)


def http(status: int, body: bytes, *headers: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status} X",
        f"Content-Length: {len(body)}",
        "Content-Type: application/json",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(*chunks: bytes, end: bool = True) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + body + (b"0\r\n\r\n" if end else b"")


@contextlib.contextmanager
def peer(*answers: bytes | Answering | None) -> Iterator[Peer]:
    listener = socket.create_server(("127.0.0.1", 0))
    one = Peer(f"http://127.0.0.1:{listener.getsockname()[1]}", list(answers))
    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                opened.append(connection)
                one.connections += 1
                threads.append(threading.Thread(target=_serve, args=(one, connection)))
                threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield one
    finally:
        one.over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for connection in opened:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def _serve(one: Peer, connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while request := _request(connection):
            one.requests.append(request)
            answer = one.answers.pop(0) if len(one.answers) > 1 else one.answers[0]
            if answer is BREAK:
                return
            if answer == HANG:
                one.over.wait()
                return
            connection.sendall(answer if isinstance(answer, bytes) else answer(request))


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def closed_port() -> str:
    """The url of a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"
