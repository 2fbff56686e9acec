from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from .cluster import PATIENCE_S, Cluster, Region

pytestmark = pytest.mark.xdist_group("shared")

Event = tuple[str, dict[str, Any]]


@contextmanager
def feed(region: Region, query: str = "", **headers: str) -> Iterator[Iterator[Event]]:
    """(id, data) of each event."""
    with closing(http.client.HTTPConnection("127.0.0.1", region.port, timeout=PATIENCE_S)) as connection:
        connection.request(
            "GET", "/v1/changes" + query, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        response = connection.getresponse()
        assert response.status == 200
        assert response.getheader("content-type") == "text/event-stream"
        assert response.readline().startswith(b":")  # the feed stands, and what comes now is in it

        def events() -> Iterator[Event]:
            place = ""
            while line := response.readline():
                name, _, text = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    place = text
                elif name == "data":
                    yield place, json.loads(text)

        try:
            yield events()
        finally:
            response.close()


def keys_until(
    events: Iterator[Event], last: set[str], found: list[str] | None = None
) -> tuple[list[str], str]:
    """Keys in the order seen until all of `last` were, and the cursor there."""
    keys = [] if found is None else found
    for cursor, event in events:
        keys += [change["key"] for change in event["changes"]]
        if last <= set(keys):
            return keys, cursor
    raise AssertionError("the feed ended")


def test_nothing_is_missed_when_a_consumer_moves(shared: Cluster) -> None:
    frankfurt, tokyo, virginia = shared
    with feed(tokyo, "?cursor=now&collection=views") as events:
        for number in range(10):
            for region in shared:
                region.patch("views", f"feed-{region.name}-{number}", {"$inc": {"seen": 1}})
        first, cursor = keys_until(events, {"feed-tokyo-4"})
    for number in range(10, 20):
        frankfurt.patch("views", f"feed-frankfurt-{number}", {"$inc": {"seen": 1}})
    rest = {f"feed-{region.name}-{n}" for region in shared for n in range(10)}
    rest |= {f"feed-frankfurt-{n}" for n in range(10, 20)}
    with feed(virginia, "?collection=views", Last_Event_ID=cursor) as events:
        both, _ = keys_until(events, rest, list(first))
    own = [key for key in both if key.startswith("feed-")]
    assert len(own) == len(set(own)) == 40  # nothing twice either: the cursor says all that was seen


def test_each_region_s_changes_come_in_its_order(shared: Cluster) -> None:
    _, tokyo, virginia = shared
    with feed(virginia, "?cursor=now") as events:
        for number in range(15):
            tokyo.put("note", f"order-{number:02}", {})
        keys, _ = keys_until(events, {"order-14"})
    assert [key for key in keys if key.startswith("order-")] == [f"order-{n:02}" for n in range(15)]


def test_a_batch_is_one_event(shared: Cluster) -> None:
    writes = [{"put": {"collection": "note", "key": f"together-{n}", "value": {}}} for n in range(3)]
    shared.settled()  # so that nothing of an earlier test comes first
    with feed(shared["frankfurt"], "?cursor=now") as events:
        shared["tokyo"].post("/v1/batch", {"writes": writes})
        sizes = [len(event["changes"]) for _, event in (next(events),)]
    assert sizes == [3]


def test_an_event_says_what_happened(shared: Cluster) -> None:
    tokyo = shared["tokyo"]
    with feed(tokyo, "?cursor=now&collection=profile") as events:
        tokyo.put("profile", "told", {"name": "Ann"})
        tokyo.put("profile", "told", {"name": "Eve"})
        tokyo.delete("profile", "told")
        told = [next(events)[1] for _ in range(3)]
    changes = [event["changes"][0] for event in told]
    assert [change["operation"] for change in changes] == ["insert", "update", "delete"]
    assert {event["origin"] for event in told} == {"tokyo"}
    assert [event["seq"] for event in told] == list(range(told[0]["seq"], told[0]["seq"] + 3))


def test_the_past_can_be_read_from_the_start(shared: Cluster) -> None:
    shared["tokyo"].put("note", "archived", {})
    with feed(shared["tokyo"], "?collection=note") as events:
        keys, _ = keys_until(events, {"archived"})
    assert "archived" in keys
