"""The bytes of lattice states: MessagePack, with origins and counts checked while they are parsed."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from atoll.causality.origin import PATTERN
from atoll.errors import HostileEntry

Decoded = TypeVar("Decoded")

Origin = Annotated[str, msgspec.Meta(pattern=PATTERN)]
Total = Annotated[int, msgspec.Meta(ge=0)]
"""A sum that only grows. MessagePack ends at 64 bits, and so do the sums: see TOTAL_MAX."""
TOTAL_MAX = 2**64 - 1

SEQUENCE_MAX = 2**53
Sequence = Annotated[int, msgspec.Meta(ge=1, le=SEQUENCE_MAX)]

encode = msgspec.msgpack.Encoder(order="deterministic").encode


def decode(decoder: msgspec.msgpack.Decoder[Decoded], data: bytes, kind: str) -> Decoded:
    """Parse a state; HostileEntry for bytes of any other shape."""
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise HostileEntry(f"{kind} state of {len(data)} bytes is malformed: {error}", kind=kind) from None
