"""What the routes of several resources share: parameters, headers, problems, pages."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from atoll import errors
from atoll.errors import InvalidCursor, MalformedRequest
from atoll.http.bodies import Described
from atoll.http.exchange import Exchange
from atoll.http.parameters import Parameter, Text, Whole
from atoll.http.route import Access, Answer, Handler, Route
from atoll.schema.limits import IDEMPOTENCY_KEY_CHARACTERS, may_repeat

T = TypeVar("T")

MAX_PAGE = 1000

STORE = (errors.StoreUnreachable, errors.StoreUnwritable)
BODY = (errors.UnsupportedMediaType, errors.TooLarge)
WRITING = (
    errors.MalformedRequest,
    errors.InvalidToken,
    errors.TooLarge,
    errors.InvalidOperation,
    errors.IdempotencyKeyReused,
    errors.BoundExceeded,
    errors.UniqueViolation,
    errors.ClaimsChanged,
    errors.ReferenceViolation,
    errors.ReferencesChanged,
    errors.OwnershipFixed,
    errors.VersionMismatch,
    errors.Unavailable,
    errors.RegionUnreachable,
    errors.TokenNotReached,
    errors.Overloaded,
    errors.SerializationConflict,
    errors.ClockUnsafe,
    errors.Indefinite,
    errors.OrderUncertain,
    *STORE,
)

LIMIT = Parameter("limit", Whole(1, MAX_PAGE), "results of a page", default=100)
IF_CHANGED = Parameter(
    "If-None-Match", Text(format="etag"), "versions that the caller has: 304 where one is shown", "header"
)
ETAG = Parameter(
    "ETag",
    Text(),
    "the version, in quotes; equal in regions that hold the same state",
    "header",
    required=True,
)
SESSION = Parameter(
    "Atoll-Session", Text(format="session"), "the session's token: what it has seen", "header"
)
_IDEMPOTENCY = Parameter(
    "Idempotency-Key",
    Text(pattern="^[!-~]([ -~]*[!-~])?$", max_length=IDEMPOTENCY_KEY_CHARACTERS),
    "1 to 255 printable ASCII characters; the same write with the same key counts once in the region that took it",
    "header",
)
_TRACE = Parameter(
    "traceparent",
    Text(format="traceparent"),
    "W3C trace context of version 00; it travels with the journal entry. Any other form is dropped, and counted in"
    " `atoll_traceparent_invalid_total`",
    "header",
)
WRITE = (SESSION, _IDEMPOTENCY, _TRACE)

TOKEN = Parameter("Atoll-Session", Text(), "the token to send next", "header", required=True)
REGION = Parameter("Atoll-Region", Text(), "who answered", "header", required=True)


def tagged(meaning: str, schema: Described, headers: Sequence[Parameter] = (ETAG,)) -> tuple[Answer, Answer]:
    """The answers of a GET that takes `If-None-Match`."""
    return (
        Answer(meaning, schema, headers=tuple(headers)),
        Answer("the caller has it", status=304, headers=tuple(headers)),
    )


def page_route(
    *,
    path: str,
    name: str,
    handler: Handler,
    access: Access,
    meaning: str,
    parameters: tuple[Parameter, ...],
    page: tuple[str, Described],
    problems: tuple[type[errors.AtollError], ...] = (),
) -> Route:
    """A listing whose pages come from `answer_page`; `page` is its meaning and type."""
    return Route(
        method="GET",
        path=path,
        name=name,
        handler=handler,
        access=access,
        meaning=meaning,
        parameters=(*parameters, IF_CHANGED),
        answers=tagged(*page),
        problems=(errors.MalformedRequest, errors.InvalidCursor, errors.Unavailable, *problems),
        multiplexed=True,
    )


async def answer_page(
    exchange: Exchange,
    rows: Sequence[T],
    shown: Callable[[T], Any],
    cursor: Callable[[T], str],
    *,
    more: bool,
) -> None:
    """Answer with a page, and where the next one begins if there is `more`."""
    later = encode_cursor(cursor(rows[-1])) if more else None
    items = [shown(row) for row in rows]
    await exchange.answer_tagged(msgspec.json.encode({"items": items, "cursor": later}))


def idempotency_key_of(exchange: Exchange) -> str | None:
    key = exchange.header(b"idempotency-key")
    if key is not None and not may_repeat(key):
        raise MalformedRequest(
            f"Idempotency-Key takes 1 to {IDEMPOTENCY_KEY_CHARACTERS} printable ASCII characters"
        )
    return key


def encode_cursor(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).rstrip(b"=").decode()


def decode_cursor(text: str) -> str:
    try:
        if not text:
            raise ValueError
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise InvalidCursor("the cursor is not one of this interface; start without a cursor") from None
