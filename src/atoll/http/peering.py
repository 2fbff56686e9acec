"""`/replication/…`: sealed requests of the other regions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from atoll.errors import AtollError, HostileEntry, RegionUnreachable
from atoll.http.exchange import Exchange
from atoll.region.region import Region
from atoll.replication import seal
from atoll.replication.emulation import Emulation
from atoll.replication.failure import Failure
from atoll.replication.messages import Call, PingCall, StreamRequest
from atoll.replication.seal import CALL_PATH, PROTOCOL_HEADER
from atoll.replication.wire import PROTOCOL, protocol_mismatch

_OCTETS = (b"content-type", b"application/vnd.atoll")
_MAX_CALL_BYTES = 32 << 20

_pack = msgspec.msgpack.Encoder().encode
_PING = _pack(PingCall())
_call: msgspec.msgpack.Decoder[Call] = msgspec.msgpack.Decoder(Call)
_stream = msgspec.msgpack.Decoder(StreamRequest)


class Peering:
    def __init__(self, region: Region, key: bytes, emulation: Emulation, closing: asyncio.Event) -> None:
        self._region = region
        self._key = key
        self._emulation = emulation
        self._closing = closing

    async def answer(self, exchange: Exchange, path: str) -> None:
        try:
            body = await exchange.body(_MAX_CALL_BYTES)
            # A node whose clock is far off could never find out if nobody told it the time.
            now_ms = None if body == _PING and path == CALL_PATH else self._region.now_ms()
            peer = seal.verify(self._key, exchange.header(seal.HEADER.encode()) or "", path, now_ms, body)
            if peer not in self._region.peers:
                raise HostileEntry(f"{peer!r} is not another region of this deployment")
            version = exchange.header(PROTOCOL_HEADER.encode()) or "1"
            if version != str(PROTOCOL):
                error = protocol_mismatch(f"version {version!r}")
                self._region.refused(peer, error)
                raise error
            self._emulation.check(peer)
            if path == CALL_PATH:
                await self._answer(exchange, body)
            else:
                await self._stream(exchange, peer, body)
        except AtollError as error:
            await self._reply(exchange, type(error).status, _pack(Failure.of(error)))

    async def _reply(self, exchange: Exchange, status: int, body: bytes) -> None:
        """Sealed, as requests are: a reply that was damaged on the way must not reach a client."""
        asked = exchange.header(seal.HEADER.encode()) or ""
        target = seal.reply_target(asked, status)
        sealed = seal.sign(self._key, self._region.name, target, self._region.now_ms(), body)
        headers = [(seal.HEADER.encode(), sealed.encode())]
        await exchange.answer(status, body, headers, content_type=_OCTETS)

    async def _answer(self, exchange: Exchange, body: bytes) -> None:
        try:
            call = _call.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise HostileEntry(f"a call between regions cannot be read: {error}") from None
        await self._reply(exchange, 200, _pack(await self._region.answer(call)))

    async def _stream(self, exchange: Exchange, peer: str, body: bytes) -> None:
        try:
            request = _stream.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise HostileEntry(f"a request for a stream cannot be read: {error}") from None
        if request.region != peer:
            raise HostileEntry(f"{peer!r} sends a request in the name of {request.region!r}")
        await exchange.begin_stream(_OCTETS[1])
        over = [asyncio.ensure_future(exchange.gone()), asyncio.ensure_future(self._closing.wait())]
        pump = asyncio.ensure_future(self._pump(exchange, peer, self._region.stream(request)))
        try:
            await asyncio.wait({*over, pump}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*over, pump):
                task.cancel()
            await asyncio.gather(*over, pump, return_exceptions=True)
        await exchange.end()

    async def _pump(self, exchange: Exchange, peer: str, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            try:
                self._emulation.check(peer)
            except RegionUnreachable:
                return
            await exchange.chunk(chunk)
