"""The ASGI application: finds the route, and turns every error into a problem document."""

from __future__ import annotations

import asyncio
import logging
import re
from functools import cache, lru_cache

import msgspec

from atoll.errors import (
    AtollError,
    ExpectationFailed,
    MalformedRequest,
    MethodNotAllowed,
    NotAcceptable,
    Unavailable,
    UnsupportedMediaType,
)
from atoll.http.exchange import ClientGone, Exchange, Receive, Scope, Send
from atoll.http.guard import Guard
from atoll.http.openapi import describe
from atoll.http.parameters import read_query
from atoll.http.route import Bound, Place, Serving
from atoll.http.routes import TABLE
from atoll.http.sessions import Sessions
from atoll.ids import IdService
from atoll.region.region import Region
from atoll.replication.emulation import Emulation

logger = logging.getLogger("atoll.http")

_OF_WRITES = frozenset({b"content-range", b"if-unmodified-since"})
"""What would change the meaning of a write. A read may ignore it (RFC 9110: no document has a date)."""
_NEVER = re.compile(r"q=0(\.0*)?")
_CONDITIONS = frozenset({b"if-match", b"if-none-match"}) | _OF_WRITES
_UNCHECKED = frozenset(
    b"accept accept-encoding atoll-session connection content-length content-type host idempotency-key traceparent"
    b" user-agent".split()
)
"""Headers that a repeatable write with content of the right type may have, whatever they say."""
_ASKED = {each.name for route in TABLE.routes for each in route.parameters if each.place == "header"}
_TOLD = ", ".join(
    sorted(
        {"Allow", "Retry-After"}
        | {each.name for route in TABLE.routes for answer in route.answers for each in answer.headers}
    )
).encode()
_PREFLIGHT = [
    (b"access-control-allow-headers", ", ".join(sorted({"Content-Type"} | _ASKED)).encode()),
    (b"access-control-max-age", b"600"),
]


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
        guard: Guard | None = None,
    ) -> None:
        """`guard`: without it, only the host and the origin of `url` are served."""
        self.guard = guard or Guard((url,))
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
            exchange.join_headers()
            self._admit(exchange)
            await self._dispatch(exchange)
        except AtollError as error:
            await exchange.refuse(error)
        except ClientGone:
            pass
        except Exception:
            logger.exception("a defect while answering %s", exchange.shown)
            await exchange.refuse(AtollError("the region failed on this request; its log says why"))

    def _admit(self, exchange: Exchange) -> None:
        """Raises MalformedRequest, Misdirected, ForeignOrigin."""
        headers = exchange.headers
        host = headers.get(b"host")
        if host not in self.guard.own:
            if host is not None:
                self.guard.check_host(host)
            elif exchange.http_version == "1.1":
                raise MalformedRequest("the header host is missing")
        if (b"origin" in headers or b"sec-fetch-site" in headers) and self.guard.check_origin(
            headers, exchange.method
        ):
            exchange.common = _readable_by(headers[b"origin"])

    async def _dispatch(self, exchange: Exchange) -> None:
        place, values = TABLE.find(exchange.segments)
        bound = place.methods.get(exchange.method)
        if bound is None:
            return await self._other_method(exchange, place, values)
        if exchange.multiplexed and not bound.multiplexed:
            raise MalformedRequest(f"{exchange.shown} cannot be asked with others")
        if bound.of_documents and (reason := self._serving.region.role()) is not None:
            raise Unavailable(reason, region=self._serving.region.name)
        _check_head(exchange, bound)
        query = exchange.query_string
        exchange.arguments = read_query(query, bound.query, bound.defaults) if query else bound.defaults
        return await bound.handler(self._serving, exchange, values)

    async def _other_method(self, exchange: Exchange, place: Place, values: list[str]) -> None:
        """OPTIONS, and what the path does not take. Raises MethodNotAllowed, UnknownCollection."""
        if place.of_collection:
            self._serving.region.application.collection(values[0])
        if exchange.method != "OPTIONS":
            raise MethodNotAllowed(
                f"there is no {exchange.shown}; the path takes {', '.join(place.allow)}", allow=place.allow
            )
        allow = ", ".join(place.allow).encode()
        told = [(b"allow", allow)]
        if b"access-control-request-method" in exchange.headers and exchange.common:
            told += [(b"access-control-allow-methods", allow), *_PREFLIGHT]
        await exchange.answer_nothing(204, told)


def _readable_by(origin: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of every answer to a page of this origin (Fetch standard, CORS protocol)."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _TOLD),
        (b"vary", b"Origin"),
    ]


def _check_head(exchange: Exchange, bound: Bound) -> None:
    """Raises MalformedRequest for a condition that the call does not take, and what the headers of content raise."""
    headers = exchange.headers
    accept = headers.get(b"accept", b"*/*")
    if (
        accept == b"*/*"
        and _UNCHECKED.issuperset(headers)
        and bound.repeatable
        and headers.get(b"content-type", b"") == bound.media_type
    ):
        return  # nearly every write
    if accept != b"*/*" and not _accepts(accept, bound.answers_with):
        raise NotAcceptable(
            f"{exchange.shown} answers with {', '.join(sorted(bound.answers_with))}, not with"
            f" {accept[:64].decode('latin-1')}"
        )
    if headers.get(b"expect", b"100-continue").lower() != b"100-continue":
        raise ExpectationFailed("of what a request may expect, there is only 100-continue here")
    if not _CONDITIONS.isdisjoint(headers):
        unknown = (_CONDITIONS & headers.keys()) - bound.conditions
        if exchange.method in ("GET", "HEAD"):
            unknown -= _OF_WRITES
        for name in sorted(unknown):
            raise MalformedRequest(f"{exchange.shown} takes no {name.decode()}; leave it out")
    if b"idempotency-key" in headers and not bound.repeatable and exchange.method not in ("GET", "HEAD"):
        raise MalformedRequest(f"{exchange.shown} takes no idempotency-key; each call counts")
    if bound.media_type is None:
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            raise MalformedRequest(f"{exchange.shown} takes no body; leave it out")
        return
    if b"transfer-encoding" in headers and (
        headers[b"transfer-encoding"].strip().lower() != b"chunked" or exchange.http_version == "1.0"
    ):
        raise MalformedRequest(
            "a body may come in chunks, with HTTP/1.1; it takes no other transfer-encoding"
        )
    given = headers.get(b"content-type", b"")
    if given != bound.media_type and not _is_type(given, bound.media_type):
        told = given[:64].decode("latin-1") or "none"
        raise UnsupportedMediaType(
            f"{exchange.shown} takes a body of content-type {bound.media_type.decode()}, not {told}",
            accept=bound.media_type.decode(),
        )
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding.lower() != b"identity":
        raise UnsupportedMediaType(
            f"the body's content-encoding is {encoding[:64].decode('latin-1')}; send it as it is",
            accept_encoding="identity",
        )


@lru_cache(256)
def _accepts(accept: bytes, types: frozenset[str]) -> bool:
    """Whether `Accept` leaves one of the types: of its ranges, the most specific counts (RFC 9110, section 12.5.1)."""
    weights: dict[str, bool] = {}
    for each in accept.decode("latin-1").lower().split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        weights[name] = not any(_NEVER.fullmatch(part) for part in parameters)
    if weights.keys() <= {""}:
        return True
    ranges = ((each, f"{each.partition('/')[0]}/*", "*/*") for each in types)
    return any(next((weights[name] for name in names if name in weights), False) for names in ranges)


def _is_type(given: bytes, wanted: bytes) -> bool:
    """Whether a content type with parameters is the one that is wanted, in UTF-8 if it says so."""
    essence, *parameters = (part.strip().lower() for part in given.split(b";"))
    charsets = [each for each in parameters if each.startswith(b"charset=")]
    return essence == wanted and all(
        each.removeprefix(b"charset=").strip(b'"') == b"utf-8" for each in charsets
    )
