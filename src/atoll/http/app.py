"""The ASGI application: finds the route, and turns every error into a problem document."""

from __future__ import annotations

import asyncio
import logging
from functools import cache

import msgspec

from atoll.errors import AtollError, MalformedRequest, MethodNotAllowed, UnsupportedMediaType
from atoll.http.exchange import ClientGone, Exchange, Receive, Scope, Send
from atoll.http.openapi import describe
from atoll.http.parameters import read_query
from atoll.http.route import Bound, Place, Serving
from atoll.http.routes import TABLE
from atoll.http.sessions import Sessions
from atoll.ids import IdService
from atoll.region.region import Region
from atoll.replication.emulation import Emulation

logger = logging.getLogger("atoll.http")

_CONDITIONS = (b"if-match", b"if-none-match")


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
        self._serving = Serving(
            app=self,
            region=region,
            sessions=sessions,
            emulation=emulation,
            ids=ids,
            link_key=link_key,
            test_topology=test_topology,
            closing=self.closing,
            description=cache(lambda: msgspec.json.encode(describe(TABLE.routes, region.application, url))),
        )

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
            logger.exception("a defect while answering %s", exchange.shown)
            await exchange.refuse(AtollError("the region failed on this request; its log says why"))

    async def _dispatch(self, exchange: Exchange) -> None:
        place, values = TABLE.find(exchange.segments)
        bound = place.methods.get(exchange.method)
        if bound is None:
            return await self._other_method(exchange, place, values)
        if exchange.multiplexed and not bound.multiplexed:
            raise MalformedRequest(f"{exchange.shown} cannot be asked with others")
        _check_head(exchange, bound)
        query = exchange.query_string
        exchange.arguments = read_query(query, bound.query, bound.defaults) if query else bound.defaults
        return await bound.handler(self._serving, exchange, values)

    async def _other_method(self, exchange: Exchange, place: Place, values: list[str]) -> None:
        """OPTIONS, and what the path does not take. Raises MethodNotAllowed, UnknownCollection."""
        if values and place.takes in ("collection", "key"):
            self._serving.region.application.collection(values[0])
        if exchange.method != "OPTIONS":
            raise MethodNotAllowed(
                f"there is no {exchange.shown}; the path takes {', '.join(place.allow)}", allow=place.allow
            )
        await exchange.answer_nothing(204, [(b"allow", ", ".join(place.allow).encode())])


def _check_head(exchange: Exchange, bound: Bound) -> None:
    """Raises MalformedRequest for a condition that the call does not take, UnsupportedMediaType."""
    exchange.join_headers()
    headers = exchange.headers
    if b"if-match" in headers or b"if-none-match" in headers:
        for name in _CONDITIONS:
            if name in headers and name not in bound.conditions:
                raise MalformedRequest(f"{exchange.shown} takes no {name.decode()}; leave it out")
    if bound.media_type is None:
        return
    given = headers.get(b"content-type", b"")
    if given != bound.media_type and not _is_type(given, bound.media_type):
        told = given[:64].decode("latin-1") or "none"
        raise UnsupportedMediaType(
            f"{exchange.shown} takes a body of content-type {bound.media_type.decode()}, not {told}"
        )
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding != b"identity":
        raise UnsupportedMediaType(
            f"the body's content-encoding is {encoding[:64].decode('latin-1')}; send it as it is"
        )


def _is_type(given: bytes, wanted: bytes) -> bool:
    """Whether a content type with parameters is the one that is wanted, in UTF-8 if it says so."""
    essence, *parameters = (part.strip().lower() for part in given.split(b";"))
    charsets = [each for each in parameters if each.startswith(b"charset=")]
    return essence == wanted and all(
        each.removeprefix(b"charset=").strip(b'"') == b"utf-8" for each in charsets
    )
