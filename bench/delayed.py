"""A network with distances, for servers that know none: loopback ports whose bytes arrive later.

`python -m bench.delayed` reads a line of JSON from its standard input: `Links`. It says `ready` once it listens, and
reads again: whoever asks for other delays writes another line. It ends with its standard input.

What a connection comes from is told by a header of its first request, as etcd's members send it: loopback addresses
tell nothing. A connection whose origin is not known is not delayed.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import msgspec
import uvloop

from bench.peers import STOP_S

_FROM = re.compile(rb"\r\nX-Server-From: *([^\r]+)\r\n", re.IGNORECASE)
_HEAD_BYTES = 8192


class Links(msgspec.Struct, frozen=True):
    """Ports, and how far apart what they belong to is."""

    ports: Mapping[int, tuple[str, int]]
    """Port to listen on → name and port of the server behind it."""
    origins: Mapping[str, str]
    """As the header says it → name."""
    one_way_ms: Mapping[str, float]
    """`from>to` → one way."""

    def delay_s(self, origin: str, target: str) -> float:
        return self.one_way_ms.get(f"{self.origins.get(origin, '')}>{target}", 0.0) / 1000


class Network:
    """A process that delays; `set` before anything is sent through it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def set(self, links: Links) -> None:
        """In force on return."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(links) + b"\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        assert said == b"ready\n", said


@contextmanager
def network() -> Iterator[Network]:
    command = [sys.executable, "-m", "bench.delayed"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Network(process)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


class _Side(asyncio.Protocol):
    """One connection of two; what it receives leaves on the other one, later, in order."""

    def __init__(self, way: _Way) -> None:
        self._way = way
        self._due: deque[bytes | None] = deque()
        """In the order in which they were received; None for the end."""
        self._arrived: list[bytes | None] = []
        """Before there was another side."""
        self.other: _Side | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._way.opened(self)

    def data_received(self, data: bytes) -> None:
        self._way.look(self, data)
        self._later(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._later(None)

    def _later(self, data: bytes | None) -> None:
        self._due.append(data)
        asyncio.get_running_loop().call_later(self._way.delay_s, self._arrive)

    def meet(self, other: _Side) -> None:
        """What has arrived by now leaves."""
        self.other = other
        arrived, self._arrived = self._arrived, []
        for data in arrived:
            self._leave(other, data)

    def _arrive(self) -> None:
        data = self._due.popleft()
        if self.other is None:
            self._arrived.append(data)
        else:
            self._leave(self.other, data)

    @staticmethod
    def _leave(other: _Side, data: bytes | None) -> None:
        if data is None:
            other.transport.close()
        elif not other.transport.is_closing():
            other.transport.write(data)


class _Way:
    """From a connection's origin to its server and back."""

    def __init__(self, links: list[Links], target: str, port: int) -> None:
        self._links = links
        self._target, self._port = target, port
        self._head: bytes | None = b""
        self._origin = ""
        self._asking: _Side | None = None

    @property
    def delay_s(self) -> float:
        return self._links[-1].delay_s(self._origin, self._target)

    def look(self, side: _Side, data: bytes) -> None:
        """For the header, at the beginning of what is asked."""
        if self._head is None or side is not self._asking:
            return
        self._head += data
        found = _FROM.search(self._head)
        if found is not None:
            self._origin = found[1].decode()
        if found is not None or len(self._head) > _HEAD_BYTES:
            self._head = None

    def opened(self, side: _Side) -> None:
        if self._asking is None:
            self._asking = side
            task = asyncio.ensure_future(self._connect(side))
            _connecting.add(task)
            task.add_done_callback(_connecting.discard)

    async def _connect(self, side: _Side) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, other = await loop.create_connection(lambda: _Side(self), "127.0.0.1", self._port)
        except OSError:
            side.transport.abort()
            return
        side.meet(other)
        other.meet(side)


_connecting: set[asyncio.Task[None]] = set()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    links: list[Links] = []
    listening: set[int] = set()
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        links[:] = [msgspec.json.decode(line, type=Links)]
        for port, (target, behind) in links[-1].ports.items():
            if port not in listening:
                listening.add(port)
                await loop.create_server(
                    lambda target=target, behind=behind: _Side(_Way(links, target, behind)),  # type: ignore[misc]
                    "127.0.0.1",
                    port,
                )
        print("ready", flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())
