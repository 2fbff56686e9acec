"""The ASGI application: finds the route, and turns every error into a problem document."""

from __future__ import annotations

import asyncio
import logging

from atoll.errors import AtollError, NotFound
from atoll.http import multiplexing
from atoll.http.admin import Admin
from atoll.http.audit import Audit
from atoll.http.documents import Documents, route
from atoll.http.exchange import ClientGone, Exchange, Receive, Scope, Send, text_of
from atoll.http.feed import Feed
from atoll.http.metrics import Metrics
from atoll.http.openapi import describe
from atoll.http.peering import Peering
from atoll.http.sessions import Sessions
from atoll.ids import IdService
from atoll.region.region import Region
from atoll.replication.emulation import Emulation

logger = logging.getLogger("atoll.http")

_RESERVED = frozenset({b"batch", b"changes", b"conflicts", b"ids", b"multiplex", b"transactions", b"sagas"})


class App:
    """One region over HTTP."""

    def __init__(
        self,
        region: Region,
        sessions: Sessions,
        emulation: Emulation,
        ids: IdService,
        *,
        link_key: bytes,
        url: str,
        test_topology: bool,
    ) -> None:
        self.closing = asyncio.Event()
        """Set when the server shuts down, so that streams end and do not hold it up."""
        self._region = region
        self._url = url
        self._documents = Documents(region, sessions)
        self._audit = Audit(region, sessions, self._documents)
        self._feed = Feed(region, sessions, self.closing)
        self._metrics = Metrics(region)
        self._admin = Admin(region, emulation, ids, test_topology=test_topology)
        self._peering = Peering(region, link_key, emulation, self.closing)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"Atoll serves HTTP, not {scope['type']}")
        exchange = Exchange(scope, receive, send)
        try:
            await self._dispatch(exchange)
        except AtollError as error:
            await exchange.refuse(error)
        except ClientGone:
            pass
        except Exception:
            logger.exception("a defect while answering %s /%s", exchange.method, b"/".join(exchange.segments))
            await exchange.refuse(AtollError("the region failed on this request; its log says why"))

    async def _dispatch(self, exchange: Exchange) -> None:
        segments = exchange.segments
        if segments[0] == b"v1" and len(segments) > 1:
            self._region.health.check_whole()
            if segments[1] not in _RESERVED:
                found = await route(self._documents, exchange, text_of(segments[1]), segments[2:])
            else:
                found = await self._special(exchange, segments[1:])
        else:
            found = await self._operations(exchange, segments)
        if not found:
            raise NotFound(
                f"there is no {exchange.method} /{b'/'.join(segments)[:200].decode('latin-1')}; see /openapi.json"
            )

    async def _special(self, exchange: Exchange, segments: list[bytes]) -> bool:
        match exchange.method, segments:
            case "POST", [b"batch"]:
                await self._documents.batch(exchange)
            case "POST", [b"multiplex"]:
                await multiplexing.answer(exchange, self)
            case "GET", [b"changes"]:
                await self._feed.stream(exchange)
            case "GET", [b"conflicts"]:
                await self._audit.list(exchange)
            case "POST", [b"conflicts", conflict_id, b"resolve"]:
                await self._audit.resolve(exchange, text_of(conflict_id))
            case "POST", [b"ids", kind]:
                await self._admin.new_ids(exchange, text_of(kind))
            case _:
                return False
        return True

    async def _operations(self, exchange: Exchange, segments: list[bytes]) -> bool:
        match exchange.method, segments:
            case "GET" | "HEAD", [b"health", name]:
                return await self._admin.health(exchange, name)
            case "GET", [b"metrics"]:
                await exchange.answer(
                    200, self._metrics.render(), content_type=(b"content-type", self._metrics.content_type)
                )
                return True
            case "GET", [b"openapi.json"]:
                await exchange.answer_json(describe(self._region.application, self._url))
                return True
            case _, [b"admin", name]:
                return await self._admin.handle(exchange, name)
            case _, [b"replication", name]:
                return await self._peering.handle(exchange, name)
        return False
