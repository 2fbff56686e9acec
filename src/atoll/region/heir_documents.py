"""Who has the rights of regions that have left, as documents of Atoll's own say: see `membership.heirs`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from atoll.causality.origin import Origin, incarnation_of, of_region
from atoll.commit.batch import Batch
from atoll.commit.work import Gate, Wants
from atoll.documents.mutation import Put, Write
from atoll.membership.heirs import Heirs, Seal, Span
from atoll.schema.system import HEIRS, SEALS
from atoll.store.port import Documents, Row, View

_PAGE = 1000


class _Heir(msgspec.Struct):
    """A document of `_heirs`."""

    uptos: list[int]
    heirs: list[str]


class _Seal(msgspec.Struct):
    """A document of `_seals`."""

    upto: int
    ends: dict[str, int]


_heir = msgspec.json.Decoder(_Heir).decode
_seal = msgspec.json.Decoder(_Seal).decode


async def read_heirs(store: Documents) -> Heirs:
    """What the documents here say. Raises what the store raises."""
    spans = {key: spans_of(row.value) for key, row in await _rows(store, HEIRS)}
    seals: dict[str, dict[str, Seal]] = {}
    for key, row in await _rows(store, SEALS):
        region, _, member = key.partition("/")
        if (seal := _sealed(row)) is not None:
            seals.setdefault(region, {})[member] = seal
    return Heirs(spans, seals)


async def _rows(store: Documents, collection: str) -> list[tuple[str, Row]]:
    found: list[tuple[str, Row]] = []
    while True:
        after = found[-1][0] if found else None
        rows = (await store.scan(collection, after=after, limit=_PAGE)).rows
        if not rows:
            return found
        found += rows


def text_of(spans: Sequence[Span]) -> bytes:
    """A document of `_heirs`."""
    return msgspec.json.encode(_Heir([each.upto for each in spans], [each.heir for each in spans]))


def spans_of(text: bytes | None) -> tuple[Span, ...]:
    """What a document of `_heirs` says."""
    if text is None:
        return ()
    found = _heir(text)
    return tuple(Span(upto, Origin(heir)) for upto, heir in zip(found.uptos, found.heirs, strict=True))


def _sealed(row: Row | None) -> Seal | None:
    """What a document of `_seals` says."""
    if row is None or row.value is None:
        return None
    found = _seal(row.value)
    return Seal(found.upto, found.ends)


class SealRegion(NamedTuple):
    """A step: say how far this region has come of one that has left."""

    region: str
    member: str
    upto: int
    gates: Sequence[Gate]

    @property
    def key(self) -> str:
        return f"{self.region}/{self.member}"

    def want(self, wants: Wants) -> None:
        wants.gates = self.gates
        wants.document(SEALS, self.key)

    def perform(self, batch: Batch, view: View) -> None:
        """Raises what closes writes."""
        if batch.closed is not None:
            raise batch.closed
        known = _sealed(batch.row((SEALS, self.key)))
        if known is not None and known.upto >= self.upto:
            return
        held = of_region(batch.vector, self.region)
        ends = {origin: seq for origin, seq in held.items() if incarnation_of(origin) <= self.upto}
        text = msgspec.json.encode(_Seal(self.upto, ends))
        batch.write(Write((Put(SEALS, self.key, text),), brief=True))
