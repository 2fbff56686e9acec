"""Many requests in one HTTP exchange: what client and server say to each other.

POST /v1/multiplex      msgpack array of `Asked`
200, in pieces          for each, as soon as it is there: length u32 little-endian, msgpack `Answered`
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from atoll.errors import MalformedRequest, TooLarge
from atoll.schema.bounds import MULTIPLEX_BYTES

PATH = "/v1/multiplex"
CONTENT_TYPE = "application/vnd.atoll.client.multiplex"
MOST_REQUESTS = 256
MOST_BYTES = MULTIPLEX_BYTES
"""Of all requests of one exchange."""
_LENGTH = struct.Struct("<I")
_ARRAYS = {b"\xdc": 3, b"\xdd": 5}
"""First byte of an array of many → where its count ends (msgpack)."""


class Asked(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """One request, as it would be sent alone."""

    method: str
    path: str
    """Percent-encoded, starting with a slash."""
    query: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class Answered(msgspec.Struct, array_like=True, gc=False):
    """The answer to one of them."""

    number: int
    """Its place among those asked, from 0."""
    status: int
    headers: Mapping[str, str]
    body: bytes


_pack = msgspec.msgpack.Encoder().encode
_asked = msgspec.msgpack.Decoder(list[Asked]).decode
_answered = msgspec.msgpack.Decoder(Answered).decode


def encode_asked(requests: Sequence[Asked]) -> bytes:
    return _pack(requests)


def decode_asked(body: bytes) -> list[Asked]:
    """Raises MalformedRequest, TooLarge."""
    count = int.from_bytes(body[1 : _ARRAYS.get(body[:1], 1)], "big")
    if count > MOST_REQUESTS:  # before they are read: half a million of them would take long
        raise TooLarge(f"{count} requests at once; the limit is {MOST_REQUESTS}")
    try:
        found = _asked(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(f"the body holds no requests: {error}") from None
    return found


def encode_answered(answered: Answered) -> bytes:
    body = _pack(answered)
    return _LENGTH.pack(len(body)) + body


class AnswerReader:
    """Feed it pieces as they come, take answers out."""

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes`: of one answer."""
        self._buffer = bytearray()
        self._most_bytes = most_bytes

    def feed(self, chunk: bytes) -> Iterator[Answered]:
        """Raises MalformedRequest for what is no answer, TooLarge for one beyond the bound."""
        buffer = self._buffer
        buffer += chunk
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length > self._most_bytes:
                raise TooLarge(f"an answer has {length} bytes; the limit is {self._most_bytes}")
            end = at + _LENGTH.size + length
            if len(buffer) < end:
                break
            try:
                yield _answered(buffer[at + _LENGTH.size : end])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise MalformedRequest(f"the data received is not an answer: {error}") from None
            at = end
        del buffer[:at]
