from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.client.events import Event, EventParser
from atoll.errors import TooLarge

STREAM = (
    b": hello\n\n"
    b'id: c1\nevent: change\ndata: {"a":1}\n\n'
    b": nothing new\n\n"
    b"id: c2\r\nevent: change\r\ndata: two\r\ndata:lines\r\n\r\n"
    b"id: c3\n\n"
    b"data: plain\nretry: 5\nunknown\n\n"
)
EVENTS = [Event("change", b'{"a":1}'), Event("change", b"two\nlines"), Event("message", b"plain")]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_do_not_depend_on_where_the_stream_is_cut(cuts: list[int]) -> None:
    parser, found = EventParser(1000), []
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(edges):
        found += parser.feed(STREAM[start:end])
    assert found == EVENTS
    assert parser.last_id == "c3"


def test_event_cut_off_in_the_middle_does_not_move_the_place() -> None:
    parser = EventParser(1000)
    parser.feed(b"id: c1\ndata: x\n\nid: c2\ndata: y\n")
    assert parser.last_id == "c1"


def test_place_moves_without_an_event() -> None:
    parser = EventParser(1000)
    assert parser.feed(b"id: c9\n\n") == []
    assert parser.last_id == "c9"


@pytest.mark.parametrize("chunk", [b"x" * 30, b"data: " + b"x" * 20 + b"\n"])
def test_endless_event_is_refused(chunk: bytes) -> None:
    parser = EventParser(100)
    for _ in range(3):
        parser.feed(chunk)
    with pytest.raises(TooLarge):
        parser.feed(chunk * 3)


def test_long_streams_of_short_events_are_no_matter() -> None:
    parser = EventParser(100)
    assert sum(len(parser.feed(b"data: " + b"x" * 40 + b"\n\n: tick\n")) for _ in range(100)) == 100


@given(st.binary(max_size=80))
def test_any_bytes_are_taken(chunk: bytes) -> None:
    EventParser(1000).feed(chunk)
