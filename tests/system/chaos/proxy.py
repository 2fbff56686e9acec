"""A TCP proxy on loopback that can be made to behave like a bad network."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from random import Random

_CHUNK_BYTES = 16_384
_FROZEN_POLL_S = 0.05


@dataclass(slots=True)
class Wire:
    """What befalls bytes on the way; all at rest by default."""

    refuse: bool = False
    """Break what is open, and whatever is opened, at once."""
    break_after_bytes: int = 0
    """Break each connection somewhere within so many bytes; 0 never."""
    frozen: bool = False
    """Take bytes and pass none on, as a network does that drops packets."""
    bytes_per_s: int = 0
    """How much passes each way on each connection; 0 is everything."""
    corrupt_every_bytes: int = 0
    """Change one byte in about so many; 0 none."""


class Proxy:
    """Listens on a port of its own and passes everything on to `target`."""

    def __init__(self, target: int, random: Random) -> None:
        self.port = 0
        self.wire = Wire()
        self.broken = 0
        """Connections that were broken on purpose."""
        self.corrupted = 0
        """Bytes that were changed."""
        self._target = target
        self._random = random
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def behave(self, wire: Wire) -> None:
        """From now on, also on what is open."""
        self.wire = wire
        if wire.refuse:
            for writer in list(self._open):
                _reset(writer)
                self.broken += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        opened = [writer]
        end = _reset
        try:
            if self.wire.refuse:
                return
            there, upstream = await asyncio.open_connection("127.0.0.1", self._target)
            opened.append(upstream)
            self._open |= set(opened)
            ways = [
                asyncio.create_task(self._pass(reader, upstream)),
                asyncio.create_task(self._pass(there, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                ended = await asyncio.gather(*ways, return_exceptions=True)
            end = _close if True in ended else _reset
        except (OSError, asyncio.CancelledError):
            pass  # not there, or `stop`, which nobody else has to be told of
        finally:
            self._open -= set(opened)
            for each in opened:
                end(each)
            self._serving.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Until the sender ends (True), or the connection is to break."""
        left: int | None = None
        until_corrupt = 0
        while data := await reader.read(_CHUNK_BYTES):
            while self.wire.frozen:  # noqa: ASYNC110  # a test's proxy may look now and then
                await asyncio.sleep(_FROZEN_POLL_S)
            wire = self.wire
            if wire.corrupt_every_bytes:
                until_corrupt = until_corrupt or self._random.randrange(1, 2 * wire.corrupt_every_bytes)
                if until_corrupt <= len(data):
                    data = self._corrupt(data, until_corrupt - 1)
                    until_corrupt = 0
                else:
                    until_corrupt -= len(data)
            if wire.break_after_bytes:
                left = self._random.randrange(wire.break_after_bytes) if left is None else left
                if len(data) > left:
                    self.broken += 1
                    writer.write(data[:left])
                    await writer.drain()
                    await asyncio.sleep(0.01)  # let them arrive: a reset overtakes what is not sent yet
                    return False
                left -= len(data)
            else:
                left = None
            if wire.bytes_per_s:
                await self._trickle(data, writer, wire.bytes_per_s)
            else:
                writer.write(data)
                await writer.drain()
        return True

    def _corrupt(self, data: bytes, at: int) -> bytes:
        self.corrupted += 1
        changed = bytearray(data)
        changed[at] ^= 1 << self._random.randrange(8)
        return bytes(changed)

    async def _trickle(self, data: bytes, writer: asyncio.StreamWriter, bytes_per_s: int) -> None:
        size = max(1, bytes_per_s // 20)
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await writer.drain()
            if not self.wire.bytes_per_s:
                writer.write(data[start + size :])
                return
            await asyncio.sleep(size / bytes_per_s)


def _close(writer: asyncio.StreamWriter) -> None:
    """Orderly: what was written still arrives."""
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once; an abort rather than an orderly end, as a crashed machine would."""
    with contextlib.suppress(OSError, RuntimeError):
        connection: socket.socket | None = writer.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        writer.transport.abort()
