from __future__ import annotations

import msgspec
import pytest

from atoll import errors
from atoll.client import ClientOptions
from atoll.client.feed import Feed

from .world import Inventory, World, refused

SSE = {"content-type": "text/event-stream"}


def event(cursor: str, seq: int = 1) -> bytes:
    change = {"collection": "inventory", "key": "k", "operation": "update", "value": {"stock": seq}}
    data = {"cursor": cursor, "origin": "tokyo", "seq": seq, "stamp": 5, "changes": [change]}
    return b"id: " + cursor.encode() + b"\nevent: change\ndata: " + msgspec.json.encode(data) + b"\n\n"


def test_changes_come_as_declared_classes() -> None:
    world = World("tokyo")
    feed = Feed(world.exchanges, None, ())
    request = feed.request()
    assert (request.method, request.path, request.query) == ("GET", "/v1/changes", "")
    feed.opened(SSE)
    (change,) = feed.received(event("c1", seq=4))
    assert (change.cursor, change.origin, change.seq) == ("c1", "tokyo", 4)
    assert change.changes[0].as_model(Inventory) == Inventory(key="k", stock=4)


def test_deleted_document_has_no_model() -> None:
    feed = Feed(World("tokyo").exchanges, None, ())
    feed.request()
    body = event("c1").replace(b'{"stock":1}', b"null")
    assert feed.received(body)[0].changes[0].as_model(Inventory) is None


def test_broken_stream_goes_on_elsewhere_after_the_last_change() -> None:
    world = World("tokyo", "frankfurt")
    feed = Feed(world.exchanges, "start", [Inventory])
    assert feed.request().query == "collection=inventory&cursor=start"
    feed.received(event("c1") + event("c2") + b"id: c3\nevent: change\nda")
    feed.failed(errors.Indefinite("reset"))
    assert feed.pause_s() < 0.1
    request = feed.request()
    assert (request.region, request.query) == ("frankfurt", "collection=inventory&cursor=c2")


def test_sign_of_life_with_a_place_is_where_to_go_on() -> None:
    feed = Feed(World("tokyo").exchanges, "now", ())
    feed.request()
    feed.received(b"id: c7\n: changes of tokyo\n\n")
    assert feed.request().query == "cursor=c7"


def test_every_region_is_tried_before_a_pause() -> None:
    world = World("tokyo", "frankfurt", "virginia")
    feed = Feed(world.exchanges, None, ())
    asked, pauses = [], []
    for _ in range(3):
        asked.append(feed.request().region)
        feed.failed(errors.RegionUnreachable("refused"))
        pauses.append(feed.pause_s())
    assert sorted(asked) == ["frankfurt", "tokyo", "virginia"]
    assert pauses[:2] == [0.0, 0.0]
    assert pauses[2] > 0.0


def test_feed_that_nobody_serves_ends() -> None:
    world = World("tokyo", options=ClientOptions(feed_timeout_s=10.0))
    feed = Feed(world.exchanges, "c1", ())
    for _ in range(10):
        feed.request()
        feed.failed(errors.RegionUnreachable("refused"))
        world.now_s += 1.0
        feed.pause_s()
    world.now_s += 1.0
    with pytest.raises(errors.RegionUnreachable, match=r"tokyo: refused.*cursor='c1'"):
        feed.pause_s()


def test_refused_cursor_is_told_at_once() -> None:
    feed = Feed(World("tokyo", "frankfurt").exchanges, "bad", ())
    feed.request()
    with pytest.raises(errors.InvalidCursor):
        feed.refused(refused(errors.InvalidCursor("signed by another deployment")))


def test_a_cursor_has_expired_when_no_region_has_kept_what_follows() -> None:
    feed = Feed(World("tokyo", "frankfurt").exchanges, "c1", ())
    asked = [feed.request().region]
    feed.refused(refused(errors.CursorExpired("cut", gone={"tokyo": 7})))
    assert feed.pause_s() == 0.0
    asked.append(feed.request().region)
    feed.refused(refused(errors.CursorExpired("cut", gone={"tokyo": 9})))
    with pytest.raises(errors.CursorExpired) as caught:
        feed.pause_s()
    assert sorted(asked) == ["frankfurt", "tokyo"]
    assert caught.value.details["gone"] == {"tokyo": 9}


def test_another_region_may_have_kept_what_follows() -> None:
    world = World("tokyo", "frankfurt")
    feed = Feed(world.exchanges, "c1", ())
    first = feed.request().region
    feed.refused(refused(errors.CursorExpired("cut", gone={"tokyo": 7})))
    assert feed.request().region != first
    feed.received(b": here\n\n")
    feed.failed(errors.RegionUnreachable("broke"))
    assert feed.pause_s() == 0.0


@pytest.mark.parametrize("headers", [{}, {"content-type": "text/html"}])
def test_other_streams_are_no_feed(headers: dict[str, str]) -> None:
    feed = Feed(World("tokyo").exchanges, None, ())
    feed.request()
    with pytest.raises(errors.ConfigError, match=r"tokyo \(http://tokyo\)"):
        feed.opened(headers)


def test_garbled_change_is_a_configuration_error() -> None:
    feed = Feed(World("tokyo").exchanges, None, ())
    feed.request()
    with pytest.raises(errors.ConfigError):
        feed.received(b"event: change\ndata: {}\n\n")


def test_busy_region_is_left_for_another() -> None:
    world = World("tokyo", "frankfurt")
    feed = Feed(world.exchanges, None, ())
    feed.request()
    feed.refused(refused(errors.Overloaded("full")))
    assert feed.request().region == "frankfurt"


def test_a_silent_stream_moves_the_feed_and_no_calls() -> None:
    world = World("tokyo", "frankfurt")
    feed = Feed(world.exchanges, "c1", ())
    for expected in ("tokyo", "frankfurt", "tokyo"):
        assert feed.request().region == expected
        feed.received(b": here\n\n")
        feed.failed(errors.Indefinite("no answer in time"))
        assert feed.pause_s() == 0.0
    assert world.router.order() == ("tokyo", "frankfurt")


def test_progress_is_a_change_of_nothing() -> None:
    feed = Feed(World("tokyo").exchanges, "c0", (), progress=True)
    feed.request()
    assert feed.received(b"id: c0\n\n") == []
    assert [(each.cursor, each.changes) for each in feed.received(b"id: c1\n: up to here\n\n")] == [
        ("c1", ())
    ]
    assert [each.seq for each in feed.received(event("c2", seq=2))] == [2]
    assert feed.received(b": still here\n\n") == []
    found = feed.received(event("c3", seq=3) + b"id: c4\n\n")
    assert [(each.cursor, len(each.changes)) for each in found] == [("c3", 1), ("c4", 0)]


def test_progress_is_told_on_request_only() -> None:
    feed = Feed(World("tokyo").exchanges, "c0", ())
    feed.request()
    assert feed.received(b"id: c1\n\n") == []
    assert feed.request().query == "cursor=c1"


def test_a_slow_consumer_is_not_held_against_the_region() -> None:
    world = World("tokyo", options=ClientOptions(feed_timeout_s=10.0))
    feed = Feed(world.exchanges, "c1", ())
    feed.request()
    feed.received(event("c2"))
    world.now_s += 100.0
    feed.failed(errors.Indefinite("reset"))
    feed.pause_s()
    assert feed.request().query == "cursor=c2"
