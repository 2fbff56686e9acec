"""The network between regions over HTTP: sealed calls, and journals as long responses.

aiohttp is loaded at the first stream: a region on its own is spared 11 MB. Where there are peers, `Node` does it
before.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from atoll.errors import (
    HostileEntry,
    Indefinite,
    RegionUnreachable,
    ReplicationError,
)
from atoll.replication import seal
from atoll.replication.beside import beside_loop
from atoll.replication.emulation import Emulation
from atoll.replication.failure import Failure
from atoll.replication.messages import Call, Reply, StreamRequest
from atoll.replication.posting import NotConnected, Posting
from atoll.replication.seal import CALL_PATH, PROTOCOL_HEADER, STREAM_PATH
from atoll.replication.wire import PROTOCOL
from atoll.schema.bounds import BESIDE_BYTES, MAX_ROW_BYTES

if TYPE_CHECKING:
    import aiohttp

_pack = msgspec.msgpack.Encoder().encode
_reply: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)

_SEAL = seal.HEADER.encode()
_failure = msgspec.msgpack.Decoder(Failure)


class HttpPeers:
    """Implements `region.peers.Peers`. `close` it in the loop that used it."""

    def __init__(
        self,
        region: str,
        urls: Callable[[str], Sequence[str]],
        key: bytes,
        now_ms: Callable[[], int],
        emulation: Emulation,
    ) -> None:
        """`urls`: of a peer, one or several; those after the first are asked when it does not answer.

        None at all for what is no region of the deployment, or none any more.
        """
        self._region = region
        self._urls = urls
        self._preferred: dict[str, str] = {}
        """Peer → the node that is asked first."""
        self._key = key
        self._now_ms = now_ms
        self._emulation = emulation
        self._posting = Posting(MAX_ROW_BYTES)
        self._session: aiohttp.ClientSession | None = None

    async def call(self, region: str, call: Call, *, timeout_s: float) -> Reply:
        body = _pack(call)
        if len(body) <= BESIDE_BYTES:
            headers = self._headers(CALL_PATH, body)
        else:
            headers = await beside_loop(self._headers, CALL_PATH, body)
        await self._emulation.travel(region)
        status, sealed, answer = await self._asked(region, body, headers, timeout_s)
        try:
            await self._emulation.travel(region)
        except RegionUnreachable as error:
            raise Indefinite(
                f"{region} received the request, and its answer was lost: {error.message}", region=region
            ) from error
        target = seal.reply_target(headers[seal.HEADER], status)
        try:
            if len(answer) <= BESIDE_BYTES:
                reply = self._read(sealed, target, status, answer)
            else:
                reply = await beside_loop(self._read, sealed, target, status, answer)
        except (HostileEntry, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Indefinite(
                f"{region} received the request, and the answer (status {status}) is damaged or not its own: {error}; "
                "the request may have been executed: repeat it with the same idempotency key",
                region=region,
            ) from error
        if not isinstance(reply, Failure):
            return reply
        refusal = reply.error()
        if isinstance(refusal, ReplicationError):
            # The request was damaged on its way or the keys differ: nothing that a client could correct.
            raise RegionUnreachable(
                f"{region} refuses the request of {self._region}: {refusal.message}", region=region
            )
        raise refusal

    def _read(self, sealed: str, target: str, status: int, answer: bytes) -> Reply | Failure:
        """Raises HostileEntry, msgspec.DecodeError, UnicodeDecodeError."""
        seal.verify(self._key, sealed, target, None, answer)  # the request it answers dates it
        return _reply.decode(answer) if status == 200 else _failure.decode(answer)

    async def _asked(
        self, region: str, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[int, str, bytes]:
        """Status, seal and body of what the first node answers that can be connected to."""
        for left in reversed(range(len(self._urls(region)))):
            url = self._first(region)
            try:
                found = await self._posting.post(url, CALL_PATH, headers, body, timeout_s=timeout_s)
                return found.status, found.headers.get(_SEAL, b"").decode("latin-1"), found.body
            except NotConnected as error:
                self._leave(region, url)
                if not left:
                    raise RegionUnreachable(
                        f"{region} does not answer at {url}: {error}", region=region
                    ) from error
            except OSError as error:  # TimeoutError among them
                self._leave(region, url)
                raise Indefinite(
                    f"{region} received the request and did not answer it within {timeout_s} s "
                    f"({str(error) or type(error).__name__}); the request may have been executed: repeat it with the "
                    "same idempotency key",
                    region=region,
                ) from error
        raise self._stranger(region)

    def _first(self, region: str) -> str:
        """The url to ask first. Raises RegionUnreachable where there is none."""
        urls = self._urls(region)
        if not urls:
            raise self._stranger(region)
        preferred = self._preferred.get(region, "")
        return preferred if preferred in urls else urls[0]

    def _leave(self, region: str, url: str) -> None:
        """Ask another node of the region next, if there is one and nobody has turned to it meanwhile."""
        urls = self._urls(region)
        if url in urls and self._first(region) == url:
            self._preferred[region] = urls[(urls.index(url) + 1) % len(urls)]

    @staticmethod
    def _stranger(region: str) -> RegionUnreachable:
        return RegionUnreachable(f"{region} is not a region of this deployment", region=region)

    def stream(self, region: str, request: StreamRequest) -> AsyncGenerator[bytes, None]:
        self._emulation.check(region)
        return self._emulation.delayed(region, self._chunks(region, request))

    async def _chunks(self, region: str, request: StreamRequest) -> AsyncGenerator[bytes, None]:
        import aiohttp

        body = _pack(request)
        url = self._first(region)
        try:
            async with self._open().post(
                url + STREAM_PATH,
                data=body,
                headers=self._headers(STREAM_PATH, body),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=3.0),
            ) as response:
                if response.status != 200:
                    refusal = await response.content.read(1 << 16)
                    try:
                        raise _failure.decode(refusal).error()
                    except (msgspec.DecodeError, UnicodeDecodeError):
                        raise RegionUnreachable(
                            f"{region} answered {response.status}", region=region
                        ) from None
                async for chunk in response.content.iter_any():
                    yield chunk
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise RegionUnreachable(f"{region} does not answer at {url}: {error}", region=region) from error
        finally:
            self._leave(region, url)  # a stream that ended, however it did, goes on at another node

    async def close(self) -> None:
        await self._posting.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=256, limit_per_host=64)
            )
        return self._session

    def _headers(self, path: str, body: bytes) -> dict[str, str]:
        return {
            seal.HEADER: seal.sign(self._key, self._region, path, self._now_ms(), body),
            PROTOCOL_HEADER: str(PROTOCOL),
            "content-type": "application/vnd.atoll",
        }
