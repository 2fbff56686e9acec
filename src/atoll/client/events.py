"""Server-sent events, as bytes arrive (WHATWG HTML, section 9.2.6; lines end with LF or CRLF)."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.errors import TooLarge


@dataclass(frozen=True, slots=True)
class Event:
    """One event that carries data."""

    kind: str
    data: bytes


class EventParser:
    """Fed with pieces of a stream, returns the events that they complete. Comments are dropped."""

    def __init__(self, bound_bytes: int) -> None:
        self._bound_bytes = bound_bytes
        self._partial: list[bytes] = []
        self._held_bytes = 0
        self._data: list[bytes] = []
        self._kind = ""
        self._id = ""
        self.last_id = ""
        """Where to go on after everything that `feed` has returned; empty before the stream has said."""

    def feed(self, chunk: bytes) -> list[Event]:
        """Raises TooLarge when an event does not end within the bound."""
        events: list[Event] = []
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            self._partial.append(line)
            event = self._line(b"".join(self._partial).removesuffix(b"\r"))
            self._partial.clear()
            if event is not None:
                events.append(event)
        self._held_bytes = len(rest) if whole else self._held_bytes + len(chunk)
        if rest:
            self._partial.append(rest)
        held = self._held_bytes + sum(map(len, self._data))
        if held > self._bound_bytes:
            raise TooLarge(
                f"an event of the change feed has more than {self._bound_bytes} bytes;"
                " raise response_bytes in ClientOptions",
                limit_bytes=self._bound_bytes,
            )
        return events

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._finish()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data.append(value)
            case b"event":
                self._kind = value.decode("utf-8", "replace")
            case b"id" if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        return None

    def _finish(self) -> Event | None:
        data, kind = b"\n".join(self._data), self._kind
        self._data.clear()
        self._kind = ""
        self.last_id = self._id  # only now: an event cut off in the middle has not been seen
        return Event(kind or "message", data) if data else None
