"""`/v1/changes`: every change, as server-sent events, with nothing missed across a reconnect."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

from atoll.causality.origin import region_of
from atoll.documents.entry import Change as EntryChange
from atoll.documents.entry import Entry
from atoll.documents.register import Operation
from atoll.errors import (
    CursorExpired,
    InvalidCursor,
    InvalidToken,
    MalformedRequest,
    Unavailable,
    UnknownCollection,
)
from atoll.http.bodies import Schema
from atoll.http.common import REGION
from atoll.http.exchange import Exchange
from atoll.http.parameters import Parameter, Text
from atoll.http.route import Answer, Route, Serving
from atoll.region.status import Count
from atoll.schema.bounds import PAGE_BYTES

_KEEPALIVE_S = 10.0
"""A consumer hears something at least this often, be there nothing new or nothing of what it asked for."""
_OPERATIONS: dict[int, str] = {
    Operation.INSERT: "insert",
    Operation.UPDATE: "update",
    Operation.DELETE: "delete",
}


class ChangedDocument(msgspec.Struct):
    collection: str
    key: str
    operation: str
    value: msgspec.Raw | None


class Change(msgspec.Struct, omit_defaults=True):
    cursor: str
    """What the consumer has seen, signed like a session's token: any region can go on from it."""
    origin: str
    seq: Count
    stamp: Count
    changes: list[ChangedDocument]
    more: bool = False
    """Further documents of the same entry follow; the cursor still stands before all of it."""


_EVENT: Schema = {
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "format": "feed-cursor"},
        "event": {"const": "change"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/Change"},
        },
    },
}


async def _stream(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    region = on.region
    cursor = exchange.header(b"last-event-id") or exchange.arguments["cursor"]
    only: Sequence[str] = exchange.arguments["collection"]
    for collection in only:
        region.application.collection(collection)
    vector: dict[str, int] | None = None
    if cursor == "now":
        vector = region.vector
    elif cursor:
        try:
            vector = on.sessions.decode(cursor)
        except InvalidToken as error:
            raise InvalidCursor(f"the cursor cannot be used: {error.message}") from None
    vector = await region.cursor(vector)
    name = region.name.encode()
    # What stands in between is not to gather pieces until there are many.
    await exchange.begin_stream(b"text/event-stream", {b"atoll-region": name, b"x-accel-buffering": b"no"})
    if exchange.method == "HEAD":
        return await exchange.end()
    await exchange.chunk(b": changes of %b\n%b" % (name, _place(on, vector)))
    return await exchange.pump(_chunks(on, vector, only), on.closing)


async def _chunks(on: Serving, vector: dict[str, int], only: Sequence[str]) -> AsyncGenerator[bytes, None]:
    async with aclosing(on.region.changes(vector, idle_s=_KEEPALIVE_S)) as found:
        async for each in found:
            if each is None:
                yield b": up to here\n" + _place(on, vector)
                continue
            entry, after = each
            changes: list[ChangedDocument] = []
            size_bytes = 0
            for change in entry.changes:
                if change.collection not in on.region.rules or (only and change.collection not in only):
                    continue
                if size_bytes >= PAGE_BYTES:
                    event = _event(on, entry, changes, vector, more=True)
                    changes, size_bytes = [], 0  # not twice in memory while the consumer reads
                    yield event
                changed = await _changed(on, change)
                changes.append(changed)
                size_bytes += 0 if changed.value is None else len(memoryview(changed.value))
            vector = after
            if changes:
                event = _event(on, entry, changes, vector)
                changes.clear()
                yield event


def _event(
    on: Serving, entry: Entry, changes: list[ChangedDocument], vector: dict[str, int], *, more: bool = False
) -> bytes:
    cursor = on.sessions.encode(vector)
    data = msgspec.json.encode(Change(cursor, region_of(entry.origin), entry.seq, entry.stamp, changes, more))
    return b"id: %b\nevent: change\ndata: %b\n\n" % (cursor.encode(), data)


def _place(on: Serving, vector: dict[str, int]) -> bytes:
    """An id without an event: a consumer that loses the stream here goes on from here."""
    return b"id: %b\n\n" % on.sessions.encode(vector).encode()


async def _changed(on: Serving, change: EntryChange) -> ChangedDocument:
    """With the document as it is by now."""
    value = await on.region.shown(change.collection, change.key)
    operation = _OPERATIONS.get(change.operation, "update")
    return ChangedDocument(
        change.collection, change.key, operation, None if value is None else msgspec.Raw(value)
    )


ROUTES = (
    Route(
        method="GET",
        path="/v1/changes",
        name="changes",
        handler=_stream,
        access="read",
        meaning='server-sent events, for ever: `id` is the cursor, `data` `{"cursor", "origin", "seq", "stamp",'
        ' "changes": [{"collection", "key", "operation", "value"}]}`',
        parameters=(
            Parameter(
                "cursor",
                Text(format="feed-cursor"),
                "where to go on, in any region; `now` for what comes next; nothing for the beginning",
            ),
            Parameter("collection", Text(format="collection"), "only these", most=50),
            Parameter("Last-Event-ID", Text(format="feed-cursor"), "goes before `cursor`", "header"),
        ),
        answers=(Answer("the changes", _EVENT, media_type="text/event-stream", headers=(REGION,)),),
        problems=(MalformedRequest, InvalidCursor, CursorExpired, UnknownCollection, Unavailable),
    ),
)
