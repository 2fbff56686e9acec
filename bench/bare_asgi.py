"""What uvicorn does without Atoll: a dictionary behind the barest ASGI application, and its request rate.

Run as `python -m bench.bare_asgi [REQUESTS]`. The server is `python -m bench.bare_asgi --serve`: it binds
a free port on loopback, prints its URL, and serves until it is terminated.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from atoll.errors import Unavailable
from bench.documents import document_body, document_key
from bench.load import LoadResult, get_document, load, put_document

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

KEYS = 1_000
_HEADERS = [(b"content-type", b"application/json")]
_STOP_SECONDS = 10

documents: dict[str, bytes] = {document_key(number): document_body(number) for number in range(KEYS)}


async def bare_asgi(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """GET answers a kilobyte from a dictionary, PUT puts one there; anything else has status 404."""
    key, status, answer = scope["path"][1:], 200, b"{}"
    if scope["method"] == "PUT":
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        documents[key] = b"".join(parts)
    elif key in documents:
        answer = documents[key]
    else:
        status = 404
    headers = [*_HEADERS, (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def serve() -> None:
    """Serve `bare_asgi` on a free loopback port and print its URL as soon as connections queue there."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(
            bare_asgi,
            loop="uvloop",
            http="httptools",
            lifespan="off",
            log_level="warning",
            access_log=False,
        )
        uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def serving() -> Iterator[str]:
    """A server process for the length of the block; yields its URL."""
    command = [sys.executable, "-m", "bench.bare_asgi", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise Unavailable(f"the bare server ended before it served: status {process.wait()}")
            yield url
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def raw_get_rate(requests: int = 20_000, connections: int = 64) -> LoadResult:
    """GETs of 1 kB documents."""
    with serving() as url:
        return load(url, get_document, requests=requests, connections=connections)


def raw_put_rate(requests: int = 20_000, connections: int = 64) -> LoadResult:
    """PUTs of 1 kB documents, kept in memory only."""
    with serving() as url:
        return load(url, put_document, requests=requests, connections=connections)


def main(requests: int) -> None:
    for name, measure in (("GET", raw_get_rate), ("PUT", raw_put_rate)):
        result = measure(requests)
        print(
            f"{name} {result.requests_per_second:9,.0f} requests/s   p50 {result.p50_ms:6.2f} ms   "
            f"p99 {result.p99_ms:6.2f} ms   {dict(result.statuses)}   "
            f"generator {result.generator_cpu:.0%} of a core"
        )


if __name__ == "__main__":
    if "--serve" in sys.argv:
        serve()
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
