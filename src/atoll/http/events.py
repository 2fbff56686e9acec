"""`/v1/events`: what happened to the deployment, in an order that extends causality and is the same in every region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import msgspec

from atoll.causality.clock import format_stamp
from atoll.causality.place import place_of, since
from atoll.errors import InvalidCursor
from atoll.http.common import LIMIT, answer_page, decode_cursor, page_route
from atoll.http.exchange import Exchange
from atoll.http.parameters import Choice, Moment, Parameter, Text
from atoll.http.route import Serving
from atoll.region.event_queue import Kind
from atoll.region.status import Count
from atoll.store.port import Condition


class Event(msgspec.Struct):
    """What happened to the deployment. A later version may know more kinds, and more members."""

    id: str
    """Its place in the timeline: ids sort as events do."""
    at: str
    """The stamp of its entry; `at_ms` is when it happened."""
    seq: Count
    kind: str
    region: str
    node: str
    peer: str
    at_ms: int
    detail: str
    count: Count
    left_out: Count


class EventPage(msgspec.Struct):
    items: list[Event]
    cursor: str | None


async def _list(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    on.region.check_whole()
    asked = exchange.arguments
    on.check_region("region", asked["region"])
    where = [Condition(name, "eq", asked[name]) for name in ("kind", "region") if asked[name] is not None]
    after = "" if asked["since"] is None else since(asked["since"])
    if asked["cursor"] is not None:
        after = max(after, _position(asked["cursor"]))
    limit: int = asked["limit"]
    rows = await on.region.list_events(after=after, limit=limit + 1, where=where)
    await answer_page(exchange, rows[:limit], _shown, lambda row: row[0], more=len(rows) > limit)


def _shown(row: tuple[str, bytes]) -> dict[str, Any]:
    key, value = row
    place = place_of(key)
    assert place is not None, "an event lies in its place"
    return {"id": key, "at": format_stamp(place.stamp), "seq": place.seq, **msgspec.json.decode(value)}


def _position(cursor: str) -> str:
    key = decode_cursor(cursor)
    if place_of(key) is None:
        raise InvalidCursor("the cursor is none that /v1/events gave; begin without one")
    return key


ROUTES = (
    page_route(
        path="/v1/events",
        name="events",
        handler=_list,
        access="observe",
        meaning="the [timeline](operations.md#the-timeline) of the deployment, in causal order, oldest first:"
        ' `{"items", "cursor"}`',
        parameters=(
            Parameter("kind", Choice(get_args(Kind)), "only of this kind"),
            Parameter("region", Text(format="region", min_length=1), "only what this region noticed"),
            Parameter("since", Moment(), "written then or later"),
            LIMIT,
            Parameter("cursor", Text(format="event-cursor"), "from the page before"),
        ),
        page=("a page of events", EventPage),
    ),
)
