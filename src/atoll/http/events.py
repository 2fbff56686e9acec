"""`/v1/events`: what happened to the deployment, in an order that extends causality and is the same in every region."""

from __future__ import annotations

from typing import Any

import msgspec

from atoll.causality.clock import format_stamp
from atoll.causality.place import place_of, since
from atoll.errors import InvalidCursor
from atoll.http.documents import decode_cursor, encode_cursor
from atoll.http.exchange import Exchange
from atoll.region.region import Region
from atoll.store.port import Condition


class Events:
    def __init__(self, region: Region) -> None:
        self._region = region

    async def list(self, exchange: Exchange) -> None:
        asked = exchange.arguments
        limit: int = asked["limit"]
        where = [Condition(name, "eq", asked[name]) for name in ("kind", "region") if asked[name] is not None]
        after = "" if asked["since"] is None else since(asked["since"])
        if asked["cursor"] is not None:
            after = max(after, _position(asked["cursor"]))
        rows = await self._region.list_events(after=after, limit=limit + 1, where=where)
        later = encode_cursor(rows[limit - 1][0]) if len(rows) > limit else None
        items = [_shown(key, value) for key, value in rows[:limit]]
        await exchange.answer_tagged(msgspec.json.encode({"items": items, "cursor": later}))


def _shown(key: str, value: bytes) -> dict[str, Any]:
    place = place_of(key)
    assert place is not None, "an event lies in its place"
    return {"id": key, "at": format_stamp(place.stamp), "seq": place.seq, **msgspec.json.decode(value)}


def _position(cursor: str) -> str:
    key = decode_cursor(cursor)
    if place_of(key) is None:
        raise InvalidCursor("the cursor is none that /v1/events gave; begin without one")
    return key
