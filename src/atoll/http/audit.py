"""`/v1/conflicts`: the audit, with every losing version, and the way to resolve a manual conflict."""

from __future__ import annotations

from typing import Any

import msgspec

from atoll.causality.clock import format_stamp
from atoll.conflicts import records
from atoll.errors import InvalidCursor
from atoll.http.bodies import Resolution
from atoll.http.documents import decode_cursor, encode_cursor, idempotency_key_of
from atoll.http.exchange import Exchange
from atoll.http.sessions import HEADER, Sessions
from atoll.region.region import Region
from atoll.store.port import AuditFilter, AuditRow


class Audit:
    def __init__(self, region: Region, sessions: Sessions) -> None:
        self._region = region
        self._sessions = sessions

    async def list(self, exchange: Exchange) -> None:
        asked = dict(exchange.arguments)
        limit: int = asked.pop("limit")
        cursor = asked.pop("cursor")
        wanted = AuditFilter(since_ms=asked.pop("since"), until_ms=asked.pop("until"), **asked)
        after = None if cursor is None else _position(cursor)
        rows = await self._region.list_conflicts(wanted, after=after, limit=limit + 1)
        more = len(rows) > limit
        later = encode_cursor(f"{rows[limit - 1].stamp_ms} {rows[limit - 1].id}") if more else None
        answer = msgspec.json.encode({"items": [shown(row) for row in rows[:limit]], "cursor": later})
        await exchange.answer_tagged(answer)

    async def resolve(self, exchange: Exchange, conflict_id: str) -> None:
        """Write the value that the application chose. The write has seen all siblings, so it resolves the conflict."""
        asked = await exchange.decode(Resolution, self._region.options.document_bytes)
        idempotency_key = idempotency_key_of(exchange)
        token = await self._sessions.of(exchange)
        reply = await self._region.resolve(
            conflict_id, bytes(asked.value), idempotency_key=idempotency_key, token=token
        )
        written = reply.receipt.written[0]
        value = None if written.value is None else msgspec.Raw(written.value)
        await exchange.answer_json(
            {"key": written.key, "value": value, "version": written.version},
            headers=[(HEADER, self._sessions.after(reply.vector, token))],
        )


def shown(row: AuditRow) -> dict[str, Any]:
    """A record with its stamps readable."""
    record = records.public(row)
    for side in (record["losing"], record["winning"]):
        side["at"] = format_stamp(side["stamp"])
    return record


def _position(cursor: str) -> tuple[int, str]:
    stamp, _, record_id = decode_cursor(cursor).partition(" ")
    if not stamp.isdecimal() or len(stamp) > 16 or not record_id:
        raise InvalidCursor("the cursor is none that /v1/conflicts gave; begin without one")
    return int(stamp), record_id
