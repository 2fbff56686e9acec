"""`/v1/changes`: every change, as server-sent events, with nothing missed across a reconnect."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from atoll.documents.entry import Entry
from atoll.documents.register import Operation
from atoll.errors import CursorExpired, InvalidCursor, InvalidToken, Unavailable
from atoll.http.exchange import Exchange
from atoll.http.sessions import Sessions
from atoll.region.region import Region

logger = logging.getLogger("atoll.http")

_KEEPALIVE_S = 10.0
_OPERATIONS: dict[int, str] = {
    Operation.INSERT: "insert",
    Operation.UPDATE: "update",
    Operation.DELETE: "delete",
}


class Feed:
    """The cursor is what the consumer has seen, signed like a session's token: any region can go on from it."""

    def __init__(self, region: Region, sessions: Sessions, closing: asyncio.Event) -> None:
        self._region = region
        self._sessions = sessions
        self._closing = closing

    async def stream(self, exchange: Exchange) -> None:
        cursor = exchange.header(b"last-event-id") or exchange.arguments["cursor"]
        only: Sequence[str] = exchange.arguments["collection"]
        for collection in only:
            self._region.application.collection(collection)
        vector: dict[str, int] | None = None
        if cursor == "now":
            vector = self._region.vector
        elif cursor:
            try:
                vector = self._sessions.decode(cursor)
            except InvalidToken as error:
                raise InvalidCursor(f"the cursor cannot be used: {error.message}") from None
        vector = await self._region.cursor(vector)
        await exchange.begin_stream(b"text/event-stream", {b"atoll-region": self._region.name.encode()})
        if exchange.method == "HEAD":
            return await exchange.end()
        await exchange.chunk(b": changes of " + self._region.name.encode() + b"\n" + self._place(vector))
        over = [asyncio.ensure_future(exchange.gone()), asyncio.ensure_future(self._closing.wait())]
        pump = asyncio.ensure_future(self._pump(exchange, vector, only))
        try:
            await asyncio.wait({*over, pump}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*over, pump):
                task.cancel()
            outcome = (await asyncio.gather(pump, *over, return_exceptions=True))[0]
        # A consumer so slow that the journal was cut before, or cut off by a closed gate, comes back and is told.
        if isinstance(outcome, Exception) and not isinstance(outcome, CursorExpired | Unavailable):
            logger.error("a change feed ended", exc_info=outcome)
        return await exchange.end()

    async def _pump(self, exchange: Exchange, vector: dict[str, int], only: Sequence[str]) -> None:
        async for found in self._region.changes(vector, idle_s=_KEEPALIVE_S):
            if found is None:
                await exchange.chunk(b": nothing new\n" + self._place(vector))
                continue
            entry, vector = found
            changes = await self._changes(entry, only)
            if changes:
                cursor = self._sessions.encode(vector)
                event = {
                    "cursor": cursor,
                    "origin": entry.origin,
                    "seq": entry.seq,
                    "stamp": entry.stamp,
                    "changes": changes,
                }
                await exchange.chunk(
                    b"id: "
                    + cursor.encode()
                    + b"\nevent: change\ndata: "
                    + msgspec.json.encode(event)
                    + b"\n\n"
                )

    def _place(self, vector: dict[str, int]) -> bytes:
        """An id without an event: a consumer that loses the stream here goes on from here."""
        return b"id: " + self._sessions.encode(vector).encode() + b"\n\n"

    async def _changes(self, entry: Entry, only: Sequence[str]) -> list[dict[str, Any]]:
        changes: list[dict[str, Any]] = []
        for change in entry.changes:
            if change.collection not in self._region.rules or (only and change.collection not in only):
                continue
            value = await self._region.shown(change.collection, change.key)
            changes.append(
                {
                    "collection": change.collection,
                    "key": change.key,
                    "operation": _OPERATIONS.get(change.operation, "update"),
                    "value": None if value is None else msgspec.Raw(value),
                }
            )
        return changes
