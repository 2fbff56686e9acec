"""Which incarnation a region numbers its entries under, as it is kept in the store."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from atoll.causality.origin import next_incarnation, of_region
from atoll.commit.batch import Batch
from atoll.commit.work import Wants
from atoll.errors import StoreCorrupt
from atoll.store.port import View

STATE = ("numbering", "own")
"""Space and key of the state."""


class Numbering(msgspec.Struct, frozen=True, array_like=True):
    """What the store records."""

    incarnation: int = 0
    restored_ms: int = 0
    """Of the restore from a backup that it takes into account; 0 for none (unix milliseconds)."""
    settled: bool = False
    """Whether nothing of former incarnations is still to come: every peer was heard, and what they had is here."""
    cause: str = ""
    """Why it began."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Numbering).decode


def numbering_of(stored: bytes | None) -> Numbering | None:
    """Raises StoreCorrupt."""
    try:
        return None if stored is None else _decode(stored)
    except msgspec.DecodeError as error:
        raise StoreCorrupt(f"the record of the region's numbering cannot be read: {error}") from None


class Renumber(NamedTuple):
    """A step of a group commit: begin a new incarnation, unless another node has."""

    region: str
    cause: str
    after: int | None = None
    """The incarnation that it ends, unless another node has. None: whichever it is, once for each cause."""
    restored_ms: int = 0
    known: Mapping[str, int] = MappingProxyType({})
    """Origins of the region that peers hold entries of."""

    def want(self, wants: Wants) -> None:
        wants.states.append(STATE)

    def perform(self, batch: Batch, view: View) -> None:
        recorded = numbering_of(view.states.get(STATE)) or Numbering()
        if recorded.cause == self.cause if self.after is None else recorded.incarnation > self.after:
            return
        known = (*of_region(batch.vector, self.region), *self.known)
        incarnation = max(next_incarnation(batch.now_ms, known), recorded.incarnation + 1)
        restored_ms = max(self.restored_ms, recorded.restored_ms)
        batch.pending.states[STATE] = _encode(Numbering(incarnation, restored_ms, cause=self.cause))


class Settle(NamedTuple):
    """A step of a group commit: nothing of what came before this incarnation is still to come."""

    incarnation: int

    def want(self, wants: Wants) -> None:
        wants.states.append(STATE)

    def perform(self, batch: Batch, view: View) -> None:
        recorded = numbering_of(view.states.get(STATE)) or Numbering()
        if recorded.incarnation == self.incarnation:
            batch.pending.states[STATE] = _encode(msgspec.structs.replace(recorded, settled=True))
