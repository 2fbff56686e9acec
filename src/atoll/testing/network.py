"""The network between simulated regions: `region.peers.Peers` with delays, cuts, losses and damage.

Calls and streams behave as they do over TCP. What was sent while a direction is cut arrives when it is
whole again, unless one side gave up before. A call of which nobody knows whether it was carried out raises
Indefinite, one that surely did not arrive RegionUnreachable. Every message is encoded, so that no object is
shared between two nodes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from random import Random

import msgspec

from atoll.errors import AtollError, Indefinite, RegionUnreachable
from atoll.region.region import Region
from atoll.replication.failure import Failure
from atoll.replication.messages import Call, Reply, StreamRequest
from atoll.testing.virtual_time import Life

_QUEUED_CHUNKS = 64
_ELSEWHERE = 0.1
"""Probability that a call or a stream goes to another node of its region than the one before."""
_CONNECT_S = 1.0
"""How long it takes to notice that nobody answers at the other end."""

_pack = msgspec.msgpack.Encoder().encode
_call: msgspec.msgpack.Decoder[Call] = msgspec.msgpack.Decoder(Call)
_reply: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
_failure = msgspec.msgpack.Decoder(Failure)


class Pulse(asyncio.Event):
    """Wakes whoever waits just now."""

    def wake(self) -> None:
        self.set()
        self.clear()


@dataclass(slots=True)
class Path:
    """One direction between two regions."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Up to so much is added at random; within one stream the order is kept."""
    loss: float = 0.0
    """Probability that a message is lost for good, and with it its connection."""
    duplicate: float = 0.0
    """Probability that a piece of a stream arrives twice."""
    reorder: float = 0.0
    """Probability that a piece of a stream is overtaken by the next one."""
    corrupt: float = 0.0
    """Probability that a byte of a piece is changed on the way."""
    cut: bool = False


class SimulatedNetwork:
    """All directions between all regions."""

    def __init__(self, loop: asyncio.AbstractEventLoop, random: Random) -> None:
        self.random = random
        self.paths: dict[tuple[str, str], Path] = {}
        self.messages = 0
        """Requests, answers and pieces of streams that were sent."""
        self.size_bytes = 0
        """What they held, without what HTTP, TLS and TCP add."""
        self._loop = loop
        self._nodes: dict[str, list[tuple[Life, Region]]] = {}
        self._pipes: list[_Pipe] = []
        self._calls: dict[asyncio.Future[bytes], Life] = {}
        self._healed = Pulse()

    def path(self, source: str, target: str) -> Path:
        found = self.paths.get((source, target))
        if found is None:
            found = self.paths[(source, target)] = Path()
        return found

    def peers(self, life: Life) -> SimulatedPeers:
        """What a node on this run is given as its network."""
        return SimulatedPeers(self, life)

    def attach(self, life: Life, node: Region) -> None:
        nodes = self._nodes.setdefault(life.region, [])
        nodes.append((life, node))
        nodes.sort(key=lambda each: each[0].name)

    def detach(self, life: Life) -> None:
        """The node's process is gone: its connections break."""
        nodes = self._nodes.get(life.region, [])
        nodes[:] = [each for each in nodes if each[0] is not life]
        for pipe in list(self._pipes):
            if life in (pipe.reader, pipe.writer):
                pipe.break_off()
        for future, server in list(self._calls.items()):
            if server is life and not future.done():
                future.set_exception(ConnectionResetError(f"{life.name} died"))

    def cut(self, source: str, target: str) -> None:
        self.path(source, target).cut = True

    def heal(self, source: str, target: str) -> None:
        self.path(source, target).cut = False
        self._healed.wake()

    def heal_all(self) -> None:
        """Whole again and healthy; the delays stay."""
        for (source, target), path in sorted(self.paths.items()):
            self.paths[(source, target)] = Path(path.delay_s, path.jitter_s)
            self.heal(source, target)

    def reset(self, one: str, other: str) -> None:
        """Break the connections between two regions; new ones can be opened at once."""
        for pipe in list(self._pipes):
            if {pipe.reader.region, pipe.writer.region} == {one, other}:
                pipe.break_off()

    @property
    def streams(self) -> int:
        """How many are open."""
        return len(self._pipes)

    def send(self, path: Path, message: bytes) -> float:
        """Count a message, and say how long it is on its way."""
        self.messages += 1
        self.size_bytes += len(message)
        return path.delay_s + (self.random.random() * path.jitter_s if path.jitter_s else 0.0)

    def nodes(self, region: str) -> list[tuple[Life, Region]]:
        """Those of a region that run."""
        return self._nodes.get(region, [])

    async def whole(self, path_of: Callable[[], Path]) -> None:
        """Wait until a direction is not cut."""
        while path_of().cut:
            await self._healed.wait()

    def open_pipe(self, reader: Life, writer: Life) -> _Pipe:
        pipe = _Pipe(self, reader, writer)
        self._pipes.append(pipe)
        return pipe

    def close_pipe(self, pipe: _Pipe) -> None:
        if pipe in self._pipes:
            self._pipes.remove(pipe)

    def serve(self, server: Life, node: Region, peer: str, body: bytes) -> asyncio.Future[bytes]:
        """Run a call in its server; the future breaks when the server dies."""
        future: asyncio.Future[bytes] = self._loop.create_future()

        async def run() -> None:
            answer = await _answered(node, peer, body)
            if not future.done():
                future.set_result(answer)

        self._calls[future] = server
        future.add_done_callback(self._served)
        server.spawn(run(), f"{server.name}: serves a call")
        return future

    def _served(self, future: asyncio.Future[bytes]) -> None:
        self._calls.pop(future, None)
        if not future.cancelled():
            future.exception()  # whoever asked may have given up


class SimulatedPeers:
    """`Peers` of one node on one run.

    Of a region with several nodes it asks the next one when one does not answer, or when a stream has ended. At times
    it does so without a reason.
    """

    def __init__(self, network: SimulatedNetwork, life: Life) -> None:
        self._network = network
        self._life = life
        self._asked: dict[str, int] = {}
        """region → how often it was left for another node of it"""

    def _node(self, region: str) -> tuple[Life, Region] | None:
        nodes = self._network.nodes(region)
        if len(nodes) < 2:
            return nodes[0] if nodes else None
        if self._network.random.random() < _ELSEWHERE:
            self._leave(region)
        return nodes[self._asked.get(region, 0) % len(nodes)]

    def _leave(self, region: str) -> None:
        self._asked[region] = self._asked.get(region, 0) + 1

    async def call(self, region: str, call: Call, *, timeout_s: float) -> Reply:
        body = _pack(call)
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._exchange(region, body)
        except (TimeoutError, ConnectionResetError) as error:
            self._leave(region)
            raise Indefinite(f"{region} did not answer ({error!r})", region=region) from None
        if answer[:1] == b"\0":
            raise _failure.decode(answer[1:]).error()
        return _reply.decode(answer[1:])

    async def _exchange(self, region: str, body: bytes) -> bytes:
        network, own = self._network, self._life.region
        there, back = network.path(own, region), network.path(region, own)
        found = self._node(region)
        # A pooled connection may still be open: then nobody learns whether the request went through.
        pooled = network.random.random() < 0.3
        if self._life.over or found is None or there.cut or back.cut:
            if not pooled or found is None or self._life.over:
                await asyncio.sleep(_CONNECT_S if there.cut or back.cut else there.delay_s)
                raise RegionUnreachable(f"{region} does not answer", region=region)
            if there.cut:
                await asyncio.sleep(3600)
        await asyncio.sleep(network.send(there, body))
        if there.loss and network.random.random() < there.loss:
            raise ConnectionResetError(f"the connection to {region} broke")
        if found not in network.nodes(region):
            found = self._node(region)
        if found is None:
            raise ConnectionResetError(f"{region} is gone")
        life, node = found
        answer = await network.serve(life, node, own, body)
        await asyncio.sleep(network.send(back, answer))
        if network.path(region, own).cut:
            await asyncio.sleep(3600)
        if back.loss and network.random.random() < back.loss:
            raise ConnectionResetError(f"the answer of {region} was lost")
        return answer

    def stream(self, region: str, request: StreamRequest) -> AsyncGenerator[bytes, None]:
        return self._chunks(region, _pack(request))

    async def _chunks(self, region: str, body: bytes) -> AsyncGenerator[bytes, None]:
        network, own = self._network, self._life.region
        there, back = network.path(own, region), network.path(region, own)
        await asyncio.sleep(there.delay_s + back.delay_s)
        found = self._node(region)
        if self._life.over or found is None or there.cut or back.cut:
            raise RegionUnreachable(f"{region} does not answer", region=region)
        writer, node = found
        node.check_peer(own)
        pipe = network.open_pipe(self._life, writer)
        request = msgspec.msgpack.decode(body, type=StreamRequest)
        writer.spawn(pipe.pump(node.stream(request)), f"{region}: streams to {own}")
        try:
            while True:
                yield await pipe.take()
        finally:
            self._leave(region)
            pipe.break_off()


async def _answered(node: Region, peer: str, body: bytes) -> bytes:
    try:
        node.check_peer(peer)
        return b"\1" + _pack(await node.answer(_call.decode(body)))
    except AtollError as error:
        return b"\0" + _pack(Failure.of(error))


class _Pipe:
    """A stream from one node to another: bounded, in order, and broken once either side is gone."""

    def __init__(self, network: SimulatedNetwork, reader: Life, writer: Life) -> None:
        self.reader = reader
        self.writer = writer
        self._network = network
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._broken = False
        self._moved = Pulse()

    def break_off(self) -> None:
        self._broken = True
        self._network.close_pipe(self)
        self._moved.wake()

    async def pump(self, source: AsyncGenerator[bytes, None]) -> None:
        """The writer's side."""
        loop = asyncio.get_running_loop()
        try:
            async for chunk in source:
                path = self._path()
                if self._broken:
                    return
                for each in self._suffered(path, chunk):
                    self._chunks.append((loop.time() + self._network.send(path, each), each))
                self._moved.wake()
                while len(self._chunks) >= _QUEUED_CHUNKS and not self._broken:
                    await self._moved.wait()
        except AtollError:
            pass  # its store does not answer: all that the reader sees is a stream that ends
        finally:
            await source.aclose()
            self.break_off()

    async def take(self) -> bytes:
        """The reader's side. Raises RegionUnreachable once broken."""
        loop = asyncio.get_running_loop()
        while True:
            if self._broken or self.reader.over:
                raise RegionUnreachable(
                    f"the stream from {self.writer.region} broke", region=self.writer.region
                )
            if not self._chunks:
                await self._moved.wait()
                continue
            due, chunk = self._chunks[0]
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
                continue
            if self._path().cut:
                await self._network.whole(self._path)
                continue
            self._chunks.popleft()
            self._moved.wake()
            return chunk

    def _path(self) -> Path:
        return self._network.path(self.writer.region, self.reader.region)

    def _suffered(self, path: Path, chunk: bytes) -> list[bytes]:
        draw = self._network.random
        if path.loss and draw.random() < path.loss:
            self.break_off()
            return []
        if path.corrupt and draw.random() < path.corrupt:
            # Half of the time in the first bytes: a header is where a single bit does most.
            at = draw.randrange(min(len(chunk), draw.choice((8, len(chunk)))))
            chunk = chunk[:at] + bytes([chunk[at] ^ (1 << draw.randrange(8))]) + chunk[at + 1 :]
        if path.duplicate and draw.random() < path.duplicate:
            return [chunk, chunk]
        if path.reorder and self._chunks and draw.random() < path.reorder:
            _, last = self._chunks.pop()
            return [chunk, last]
        return [chunk]
