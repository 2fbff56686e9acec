"""Versions of a document that a consensus register has decided.

They are versions of the one register of the document, under an origin that no region has: its seqs are the revisions of
the document. Each has seen the one before. So `register.merge` keeps the latest revision, whichever region journals it,
and however often. What was written before the collection was strong is in the context, too.

In a journal entry, the delta `DECIDED` of a change says which revision it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Protocol

import msgspec

from atoll.causality.origin import Origin
from atoll.causality.types import Seq, Stamp
from atoll.documents.register import Version
from atoll.errors import HostileEntry

DECIDED: Final = Origin("=")
"""The origin of decided versions, and the name of the delta that carries a `Decision`."""

_Seen = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class Decision(msgspec.Struct, array_like=True, frozen=True):
    """What a change says of its version."""

    revision: Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
    stamp: Annotated[Stamp, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = Stamp(0)
    """When it was proposed; 0 where the change is an ordinary one, of a writer that had seen this revision."""
    base: dict[str, _Seen] = {}
    """What of ordinary origins it has seen."""


_encode = msgspec.msgpack.Encoder(order="sorted").encode
_decode = msgspec.msgpack.Decoder(Decision).decode


def version(decision: Decision, operation: int, value: bytes | None) -> Version:
    """The same in every region, whoever journals it."""
    context = {**decision.base, DECIDED: decision.revision - 1}
    return Version(DECIDED, Seq(decision.revision), Stamp(decision.stamp), 0, operation, context, value)


class Dotted(Protocol):
    """A version, or what is read of one."""

    @property
    def origin(self) -> Origin: ...
    @property
    def seq(self) -> int: ...


def revision_of(versions: Iterable[Dotted]) -> int:
    """The latest decided revision in a register; 0 where there is none."""
    return max((each.seq for each in versions if each.origin == DECIDED), default=0)


def seen_by(versions: Iterable[Version]) -> int:
    """The latest decided revision that a register holds, or that the writer of one of its versions had seen."""
    return max(
        (each.seq if each.origin == DECIDED else each.context.get(DECIDED, 0) for each in versions), default=0
    )


def encode(decision: Decision) -> bytes:
    return _encode(decision)


def decision_of(deltas: Mapping[str, bytes]) -> Decision:
    """What the deltas of a change say, among which `DECIDED` is. Raises HostileEntry."""
    try:
        return _decode(deltas[DECIDED])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HostileEntry(f"what a change says of its revision cannot be read: {error}") from None
