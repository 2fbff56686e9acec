"""A history: what clients asked for and what they were told, in the order in which it happened.

The form is that of Jepsen, so that checkers of others read it as well. As JSON Lines, each line is one event:

    {"process":0,"type":"invoke","f":"write","key":"x","value":1,"time_ns":10}
    {"process":0,"type":"ok","f":"write","key":"x","value":1,"time_ns":25}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple

import msgspec

from atoll.errors import InvalidHistory

LINE_BYTES = 1 << 20
EVENTS = 1_000_000
FILE_BYTES = 256 << 20
"""What a history that is read may have at most."""

_SHOWN_CHARACTERS = 160

Outcome = Literal["ok", "fail", "info"]
Verdict = Literal["valid", "invalid", "unknown"]
"""What a checker says of a history; `unknown` if its budget did not suffice."""
_Natural = Annotated[int, msgspec.Meta(ge=0)]


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a history: an operation begins (`invoke`), or its caller learns how it ended.

    After `ok` it happened, after `fail` it did not. After `info` it may have happened, or may happen later.
    """

    process: _Natural
    """A client that does one operation at a time."""
    type: Literal["invoke", "ok", "fail", "info"]
    f: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    """What is done, such as `read`, `write`, `cas` or `txn`."""
    key: str | int | None
    """None where an operation is about several keys."""
    value: Any
    """JSON: what is written, and in an `ok` what was read."""
    time_ns: _Natural
    """Never less than that of the event before."""


class Operation(NamedTuple):
    """An invocation with its outcome. Without any, the outcome is `info`."""

    process: int
    f: str
    key: str | int | None
    invoked: Any
    """The value of the invocation."""
    value: Any
    """The value of the outcome."""
    outcome: Outcome
    start: int
    """The position of the invocation in the history."""
    end: int | None
    """The position of the outcome; None for `info`, which may take effect at any later time."""
    start_ns: int
    end_ns: int | None

    def __str__(self) -> str:
        value = text_of(self.value)
        if len(value) > _SHOWN_CHARACTERS:
            value = f"{value[:_SHOWN_CHARACTERS]}…"
        what = " ".join(each for each in (self.f, _shown(self.key), value) if each)
        until = "…" if self.end_ns is None else f"{self.end_ns / 1e6:.3f}"
        return f"process {self.process}: {what} → {self.outcome} [{self.start_ns / 1e6:.3f} to {until} ms]"


class Recorder:
    """Records what clients of one Python process do. The order in which they call it is the order of the history."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._events: list[Event] = []
        self._processes = 0

    def client(self) -> Client:
        """A client that does one operation at a time."""
        return Client(self)

    def events(self) -> list[Event]:
        """The history until now."""
        found: list[Event] = []
        for event in list(self._events):
            # Two threads may append in another order than that in which they read the clock. The order of
            # appending is right: an outcome is appended before the next operation of anybody who knows of it.
            time_ns = max(event.time_ns, found[-1].time_ns) if found else event.time_ns
            found.append(msgspec.structs.replace(event, time_ns=time_ns))
        return found

    def process(self) -> int:
        """A number that no client has had."""
        self._processes += 1
        return self._processes - 1

    def append(self, process: int, type: Any, f: str, key: str | int | None, value: Any) -> None:
        self._events.append(Event(process, type, f, key, value, self._now_ns()))


class Client:
    """Call `invoke` before an operation is sent, and `ok`, `fail` or `info` once its outcome is known."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._process = recorder.process()
        self._open: tuple[str, str | int | None, Any] | None = None

    def invoke(self, f: str, key: str | int | None = None, value: Any = None) -> None:
        """Raises InvalidHistory if this client's last operation has no outcome yet."""
        if self._open is not None:
            raise InvalidHistory(f"process {self._process} begins {f!r} before the outcome of {self._open}")
        self._open = f, key, value
        self._recorder.append(self._process, "invoke", f, key, value)

    def ok(self, value: Any = msgspec.UNSET) -> None:
        """It happened. `value` is what was read; without it, what was invoked."""
        self._end("ok", value)

    def fail(self) -> None:
        """It certainly did not happen, and never will."""
        self._end("fail", msgspec.UNSET)

    def info(self) -> None:
        """It may have happened, or may happen later. The client goes on as another process."""
        self._end("info", msgspec.UNSET)
        self._process = self._recorder.process()

    def _end(self, outcome: Outcome, value: Any) -> None:
        if self._open is None:
            raise InvalidHistory(f"process {self._process} has no operation that could be {outcome}")
        f, key, invoked = self._open
        self._open = None
        self._recorder.append(self._process, outcome, f, key, invoked if value is msgspec.UNSET else value)


def encode(events: Iterable[Event]) -> Iterator[bytes]:
    """The lines of a file. Raises InvalidHistory for a value that is not JSON."""
    for event in events:
        text_of(event.value)
        yield msgspec.json.encode(event) + b"\n"


def decode(file: BinaryIO) -> list[Event]:
    """The events of a file of JSON Lines. Raises InvalidHistory, which names the line."""
    decoder, events, size = msgspec.json.Decoder(Event), list[Event](), 0
    while line := file.readline(LINE_BYTES + 1):
        number = len(events) + 1
        size += len(line)
        if len(line) > LINE_BYTES or number > EVENTS or size > FILE_BYTES:
            raise InvalidHistory(
                f"line {number} is over a bound: {LINE_BYTES} bytes a line, {EVENTS} lines, {FILE_BYTES} bytes"
            )
        try:
            events.append(decoder.decode(line))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidHistory(f"line {number} is no event of a history: {error}") from error
    operations_of(events)
    return events


def operations_of(events: Sequence[Event]) -> list[Operation]:
    """The operations in the order of their invocations. Raises InvalidHistory if a process contradicts itself."""
    found: list[Operation | None] = []
    begun: dict[int, int] = {}
    ended: set[int] = set()
    for position, event in enumerate(events):
        where = f"event {position + 1}, of process {event.process},"
        if position and event.time_ns < events[position - 1].time_ns:
            raise InvalidHistory(f"{where} is earlier than the event before it")
        if event.type == "invoke":
            if event.process in begun or event.process in ended:
                raise InvalidHistory(f"{where} invokes again before the outcome of what it did last is known")
            begun[event.process] = position
            found.append(_operation(event, position, None))
            continue
        start = begun.pop(event.process, None)
        if start is None:
            raise InvalidHistory(f"{where} is an outcome without an invocation")
        invocation = events[start]
        if (event.f, event.key) != (invocation.f, invocation.key):
            raise InvalidHistory(f"{where} has another f or key than its invocation")
        if event.type == "info":
            ended.add(event.process)
        found.append(None)
        found[start] = _operation(invocation, start, (event, position))
    return [each for each in found if each is not None]


def _operation(invocation: Event, start: int, outcome: tuple[Event, int] | None) -> Operation:
    known: Outcome = "info"
    value, end, end_ns = invocation.value, None, None
    if outcome is not None and outcome[0].type in ("ok", "fail"):
        event, end = outcome
        known = "ok" if event.type == "ok" else "fail"
        value, end_ns = event.value, event.time_ns
    return Operation(
        invocation.process,
        invocation.f,
        invocation.key,
        invocation.value,
        value,
        known,
        start,
        end,
        invocation.time_ns,
        end_ns,
    )


def text_of(value: Any) -> str:
    """Canonical JSON: two values are the same if their texts are. Raises InvalidHistory if it is not JSON."""
    try:
        return _TEXT(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidHistory(f"a value of type {type(value).__name__} is not JSON: {error}") from error


_TEXT = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


def _shown(key: str | int | None) -> str:
    return "" if key is None else str(key)
