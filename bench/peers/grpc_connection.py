"""A bare gRPC caller: unary calls over HTTP/2, one at a time on a connection, as little work as `bench.load`'s HTTP.

Requests are a kilobyte and wait for each other, so no window of HTTP/2 can be exhausted by them; for answers the
windows are opened as far as they go. Headers of answers are not decoded: a unary call has an answer exactly if it
was carried out, and only a status otherwise.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from bench.load import Connection

OK: Final = 200
FAILED: Final = 500
"""As statuses of HTTP, which is what loads count."""

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_HEAD_BYTES = 9
_STREAM_AT = slice(5, 9)
_WINDOW = 1 << 30
_INITIAL_WINDOW_SIZE = 4


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


_PREFACE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _frame(_SETTINGS, 0, 0, _INITIAL_WINDOW_SIZE.to_bytes(2) + _WINDOW.to_bytes(4))
    + _frame(_WINDOW_UPDATE, 0, 0, _WINDOW.to_bytes(4))
)


@dataclass(frozen=True, slots=True)
class Unary:
    """One call: `path` as `/package.Service/Method`, `message` as protobuf."""

    path: str
    message: bytes

    def encode(self, host: str) -> bytes:
        """Both of its frames, on stream 0."""
        text = (
            (b"\x04", self.path),
            (b"\x01", host),
            (b"\x0f\x10", "application/grpc"),
            (b"\x00\x02te", "trailers"),
        )
        headers = b"\x83\x86" + b"".join(name + bytes((len(value),)) + value.encode() for name, value in text)
        body = b"\x00" + len(self.message).to_bytes(4) + self.message
        return _frame(_HEADERS, _END_HEADERS, 0, headers) + _frame(_DATA, _END_STREAM, 0, body)


class GrpcConnection(Connection):
    """Sends what `Unary.encode` made."""

    def __init__(self) -> None:
        super().__init__()
        self._stream = -1
        self._received = bytearray()
        self._carried_out = False
        self.answer = b""
        """The last one, as protobuf."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._transport.write(_PREFACE)

    def send(self, request: bytes) -> None:
        self._stream += 2
        self._carried_out = False
        frames, number = bytearray(request), self._stream.to_bytes(4)
        frames[_STREAM_AT] = number
        second = _HEAD_BYTES + int.from_bytes(frames[:3])
        frames[second + _STREAM_AT.start : second + _STREAM_AT.stop] = number
        self._transport.write(frames)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= _HEAD_BYTES:
            end = _HEAD_BYTES + int.from_bytes(received[:3])
            if len(received) < end:
                return
            kind, flags, stream = received[3], received[4], int.from_bytes(received[_STREAM_AT])
            payload = bytes(received[_HEAD_BYTES:end])
            del received[:end]
            self._frame(kind, flags, stream, payload)

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._transport.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _GOAWAY:
            self.garbled("the server ends the connection")
        elif kind == _RST_STREAM and stream == self._stream:
            self.answered(FAILED)
        elif kind == _DATA:
            self._carried_out, self.answer = True, payload[5:]
        elif kind == _HEADERS and flags & _END_STREAM:
            self.answered(OK if self._carried_out else FAILED)
