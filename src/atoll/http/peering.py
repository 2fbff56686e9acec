"""`/replication/…`: sealed requests of the other regions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

import msgspec

from atoll.errors import AtollError, HostileEntry, ProtocolMismatch
from atoll.http import bodies
from atoll.http.common import BODY
from atoll.http.exchange import Exchange
from atoll.http.parameters import Parameter, Text
from atoll.http.route import AT_ONCE_BYTES, Answer, Body, Route, Serving
from atoll.replication import seal
from atoll.replication.failure import Failure
from atoll.replication.messages import Call, PingCall, StreamRequest
from atoll.replication.seal import CALL_PATH, PROTOCOL_HEADER, STREAM_PATH
from atoll.replication.seal import HEADER as SEAL
from atoll.replication.wire import PROTOCOL, protocol_mismatch
from atoll.schema.bounds import BESIDE_BYTES

T = TypeVar("T")

_OCTETS = "application/vnd.atoll"

_pack = msgspec.msgpack.Encoder().encode
_PING = _pack(PingCall())
_call: Callable[[bytes], Call] = msgspec.msgpack.Decoder(Call).decode
_request = msgspec.msgpack.Decoder(StreamRequest).decode


async def _answer(on: Serving, exchange: Exchange, path: str) -> None:
    region = on.region
    try:
        body = await exchange.body(region.bounds.call_bytes)
        # A node whose clock is far off could never find out if nobody told it the time.
        now_ms = None if body == _PING and path == CALL_PATH else region.now_ms()
        sealed = (on.link_key, exchange.header(SEAL.encode()) or "", path, now_ms, body)
        large = len(body) > AT_ONCE_BYTES
        peer = await on.beside(seal.verify, *sealed) if large else seal.verify(*sealed)
        region.check_peer(peer)
        version = exchange.header(PROTOCOL_HEADER.encode()) or "1"
        if version != str(PROTOCOL):
            error = protocol_mismatch(f"version {version!r}")
            region.refused(peer, error)
            raise error
        on.emulation.check(peer)
        if path == CALL_PATH:
            call = await on.beside(_read, _call, body) if large else _read(_call, body)
            return await _reply(on, exchange, 200, _pack(await region.answer(call)))
        request = _read(_request, body)
        if request.region != peer:
            raise HostileEntry(f"{peer!r} sends a request in the name of {request.region!r}")
    except AtollError as error:
        return await _reply(on, exchange, type(error).status, _pack(Failure.of(error)))
    await exchange.begin_stream(_OCTETS.encode())
    return await exchange.pump(_chunks(on, peer, region.stream(request)), on.closing)


async def _reply(on: Serving, exchange: Exchange, status: int, body: bytes) -> None:
    """Sealed, as requests are: a reply that was damaged on the way must not reach a client."""
    target = seal.reply_target(exchange.header(SEAL.encode()) or "", status)
    told = (on.link_key, on.region.name, target, on.region.now_ms(), body)
    sealed = await on.beside(seal.sign, *told) if len(body) > BESIDE_BYTES else seal.sign(*told)
    await exchange.answer(
        status, body, [(SEAL.encode(), sealed.encode())], (b"content-type", _OCTETS.encode())
    )


def _read(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HostileEntry(f"what another region asks cannot be read: {error}") from None


async def _chunks(on: Serving, peer: str, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        async for chunk in chunks:
            on.emulation.check(peer)
            yield chunk


def _route(path: str, name: str, meaning: str) -> Route:
    return Route(
        method="POST",
        path=path,
        name=f"replication_{name}",
        handler=lambda on, exchange, at: _answer(on, exchange, path),
        access="peer",
        meaning=meaning,
        parameters=(
            Parameter(SEAL, Text(), "of the deployment's key", "header", required=True),
            Parameter(
                PROTOCOL_HEADER, Text(), "version of the wire that the asker speaks", "header", required=True
            ),
        ),
        body=Body(bodies.BINARY, _OCTETS),
        answers=(
            Answer(meaning, bodies.BINARY, media_type=_OCTETS),
            *(
                Answer("sealed, as the answer is", bodies.BINARY, status=status, media_type=_OCTETS)
                for status in (400, 503)
            ),
        ),
        problems=(ProtocolMismatch, *BODY),
    )


ROUTES = (
    _route(CALL_PATH, "call", "a question and its answer"),
    _route(STREAM_PATH, "stream", "entries and heartbeats, for ever"),
)
