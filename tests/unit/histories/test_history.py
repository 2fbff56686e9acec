from __future__ import annotations

import io
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import InvalidHistory
from atoll.histories import history
from atoll.histories.history import Event, Recorder, decode, encode, operations_of

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def ticking() -> Recorder:
    return Recorder(count(10, 10).__next__)


def file_of(*lines: str) -> io.BytesIO:
    return io.BytesIO("".join(f"{line}\n" for line in lines).encode())


def line(**changed: Any) -> str:
    event = {"process": 0, "type": "invoke", "f": "read", "key": "x", "value": None, "time_ns": 1}
    return msgspec.json.encode({**event, **changed}).decode()


def test_a_line_has_exactly_the_fields_that_others_read() -> None:
    recorder = ticking()
    client = recorder.client()
    client.invoke("write", "x", 1)
    client.ok()
    assert b"".join(encode(recorder.events())).decode().splitlines() == [
        '{"process":0,"type":"invoke","f":"write","key":"x","value":1,"time_ns":10}',
        '{"process":0,"type":"ok","f":"write","key":"x","value":1,"time_ns":20}',
    ]


@given(st.lists(VALUES, max_size=4), st.none() | st.integers() | st.text(max_size=3))
def test_what_was_exported_is_read(values: list[Any], key: str | int | None) -> None:
    recorder = ticking()
    client = recorder.client()
    for value in values:
        client.invoke("write", key, value)
        client.info()
    written = b"".join(encode(recorder.events()))
    assert decode(io.BytesIO(written)) == recorder.events()


def test_operations_have_what_was_learned() -> None:
    recorder = ticking()
    one, other = recorder.client(), recorder.client()
    one.invoke("read", "x")
    other.invoke("write", "x", 1)
    one.ok(5)
    other.info()
    other.invoke("write", "x", 2)
    other.fail()
    one.invoke("read", "x")
    found = operations_of(recorder.events())
    assert [(each.process, each.value, each.outcome, each.start, each.end) for each in found] == [
        (0, 5, "ok", 0, 2),
        (1, 1, "info", 1, None),
        (2, 2, "fail", 4, 5),  # whose last outcome is unknown goes on as another process
        (0, None, "info", 6, None),
    ]


def test_times_never_fall_behind() -> None:
    recorder = Recorder(iter([5, 9, 7]).__next__)
    for client in (recorder.client(), recorder.client(), recorder.client()):
        client.invoke("read", "x")
    assert [each.time_ns for each in recorder.events()] == [5, 9, 9]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([line(more=1)], "line 1 is no event"),
        (['{"process":0}'], "line 1 is no event"),
        ([line(type="done")], "line 1 is no event"),
        ([line(process=-1)], "line 1 is no event"),
        ([line(process=True)], "line 1 is no event"),
        ([line(f="")], "line 1 is no event"),
        ([line(key=1.5)], "line 1 is no event"),
        ([line(time_ns=-1)], "line 1 is no event"),
        ([line(), "[" * 100_000], "line 2 is no event"),
        ([line(), ""], "line 2 is no event"),
        ([line(), line(value="\x00" * history.LINE_BYTES)], "line 2 is over a bound"),
        ([line(type="ok")], "an outcome without an invocation"),
        ([line(), line()], "event 2, of process 0, invokes again"),
        ([line(), line(type="info"), line()], "event 3, of process 0, invokes again"),
        ([line(), line(type="ok", key="y")], "another f or key"),
        ([line(), line(type="ok", f="write")], "another f or key"),
        ([line(), line(type="ok", time_ns=0)], "earlier than the event before"),
    ],
)
def test_what_is_no_history_is_refused(lines: list[str], why: str) -> None:
    with pytest.raises(InvalidHistory, match=why):
        decode(file_of(*lines))


@pytest.mark.parametrize("bound", ["EVENTS", "FILE_BYTES"])
def test_a_file_has_a_bound(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    lines = [line(), line(type="ok")]
    monkeypatch.setattr(history, bound, {"EVENTS": 1, "FILE_BYTES": len(lines[0]) + 2}[bound])
    with pytest.raises(InvalidHistory, match="line 2 is over a bound"):
        decode(file_of(*lines))


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"x"])
def test_only_json_is_exported(value: Any) -> None:
    with pytest.raises(InvalidHistory, match="not JSON"):
        list(encode([Event(0, "invoke", "write", "x", value, 0)]))


def test_a_client_does_one_operation_at_a_time() -> None:
    client = ticking().client()
    with pytest.raises(InvalidHistory, match="no operation"):
        client.ok()
    client.invoke("read", "x")
    with pytest.raises(InvalidHistory, match="before the outcome"):
        client.invoke("read", "x")
