"""`/v1/conflicts`: the audit, with every losing version, and the way to resolve a manual conflict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from atoll import errors
from atoll.causality.clock import format_stamp
from atoll.client.answers import DocumentAnswer
from atoll.conflicts import records
from atoll.conflicts.records import STATUSES, Record
from atoll.documents.strategies import KINDS
from atoll.errors import InvalidCursor
from atoll.http.common import (
    BODY,
    LIMIT,
    TOKEN,
    WRITE,
    WRITING,
    answer_page,
    decode_cursor,
    idempotency_key_of,
    page_route,
)
from atoll.http.exchange import Exchange
from atoll.http.parameters import Choice, Moment, Parameter, Text
from atoll.http.route import Answer, Body, Route, Serving
from atoll.http.sessions import HEADER
from atoll.store.pages import cut_short
from atoll.store.port import AuditFilter, AuditRow


class Resolution(msgspec.Struct, forbid_unknown_fields=True):
    value: msgspec.Raw


class AuditPage(msgspec.Struct):
    items: list[Record]
    cursor: str | None


async def _list(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    asked = dict(exchange.arguments)
    limit, cursor = asked.pop("limit"), asked.pop("cursor")
    wanted = AuditFilter(since_ms=asked.pop("since"), until_ms=asked.pop("until"), **asked)
    after = None if cursor is None else _position(cursor)
    on.check_region("origin", wanted.origin)
    rows = await on.region.list_conflicts(wanted, after=after, limit=limit + 1)
    if not rows and wanted.collection is not None:  # of one that is declared no more, records may be left
        on.rules(wanted.collection)
    more = cut_short(rows, limit + 1)
    await answer_page(exchange, rows[:limit], _shown, lambda row: f"{row.stamp_ms} {row.id}", more=more)


async def _resolve(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    """Write the value that the application chose. The write has seen all siblings, so it resolves the conflict."""
    asked = await exchange.decode(Resolution, on.region.bounds.body_bytes)
    idempotency_key = idempotency_key_of(exchange)
    token = await on.sessions.of(exchange)
    reply = await on.region.resolve(at[0], bytes(asked.value), idempotency_key=idempotency_key, token=token)
    written = reply.receipt.written[0]
    value = None if written.value is None else msgspec.Raw(written.value)
    await exchange.answer_json(
        {"key": written.key, "value": value, "version": written.version},
        headers=[(HEADER, on.sessions.after(reply.vector, token))],
    )


def _shown(row: AuditRow) -> dict[str, Any]:
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


ROUTES = (
    page_route(
        path="/v1/conflicts",
        name="conflicts",
        handler=_list,
        access="audit",
        meaning='the [audit](conflicts.md#the-audit), newest first: `{"items", "cursor"}`',
        parameters=(
            Parameter("collection", Text(format="collection"), "only this one"),
            Parameter("key", Text(format="key", min_length=1), "only this document's"),
            Parameter("kind", Choice(KINDS), "only of this kind"),
            Parameter("status", Choice(STATUSES), "only of this status"),
            Parameter(
                "origin", Text(format="region", min_length=1), "only where this region wrote either side"
            ),
            Parameter("since", Moment(), "the losing value was written then or later"),
            Parameter("until", Moment(), "the losing value was written before"),
            LIMIT,
            Parameter("cursor", Text(format="record-cursor"), "from the page before"),
        ),
        page=("a page of records", AuditPage),
        problems=(errors.UnknownCollection, errors.InvalidKey),
    ),
    Route(
        method="POST",
        path="/v1/conflicts/{id}/resolve",
        name="resolve",
        handler=_resolve,
        access="write",
        meaning='resolves a conflict with `{"value": {…}}`, the document as it should be',
        parameters=(Parameter("id", Text(), "of the record", "path"), *WRITE),
        body=Body(Resolution),
        answers=(Answer("the document as it is now", DocumentAnswer, headers=(TOKEN,)),),
        problems=(
            errors.NotFound,
            errors.Conflict,
            errors.InvalidDocument,
            errors.UnknownField,
            errors.UnknownCollection,
            *WRITING,
            *BODY,
        ),
        multiplexed=True,
    ),
)
