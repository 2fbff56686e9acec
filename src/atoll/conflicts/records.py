"""The audit: one record for each value that a resolution did not show, the same in every region.

A record *stands* while the losing value is still beside the winner in its register, and is *settled* by
the next write whose author had seen both; that write carries the record in its own journal entry, so
all regions settle alike. When a write that had seen only the loser replaces it, nothing is lost (the
loser's own line went on) and the standing record is withdrawn, in every region, for the same reason.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from atoll.documents.document import Document, shown_plain, touches
from atoll.documents.entry import Change, Entry, LosingVersion
from atoll.documents.register import Operation, Version
from atoll.documents.rules import TOUCH, Rules
from atoll.documents.strategies import kind_of, within_uncertainty
from atoll.errors import HostileEntry
from atoll.store.port import AuditRow

_OPERATIONS = {Operation.INSERT: "insert", Operation.UPDATE: "update", Operation.DELETE: "delete"}


class Side(msgspec.Struct, frozen=True):
    """One of the two writes."""

    region: str
    seq: int
    stamp: int
    operation: str
    context: dict[str, int]
    value: msgspec.Raw


class Record(msgspec.Struct, frozen=True):
    """What `GET /v1/conflicts` shows."""

    id: str
    collection: str
    key: str
    field: str
    kind: str
    status: str
    strategy: str
    outcome: str
    reason: str
    uncertain: bool
    loser: Side
    winner: Side
    settled_by: tuple[int, str, int] | None = None
    """(stamp, region, seq) of the write that replaced both."""


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Record).decode


def standing(
    rules: Rules, key: str, document: Document, only: Container[str] | None = None
) -> dict[str, Record]:
    """The records that a document's present state implies: a pure function of it.

    `only` restricts it to some registers.
    """
    found: dict[str, Record] = {}
    for name in sorted(document.registers):
        versions = touches(document) if name == TOUCH else document.registers[name]
        if len(versions) < 2 or (only is not None and name not in only):
            continue
        if name == TOUCH and (
            all(version.value is not None for version in versions) or shown_plain(rules, document) is not None
        ):
            continue  # operations on lattices are lost only where a concurrent deletion hides them
        fold = rules.strategy(name)(versions)
        for loser in versions:
            if loser is fold.winner or (loser.value == fold.winner.value and fold.outcome != "manual"):
                continue  # an equal value is not lost
            if name == TOUCH and loser.value is None:
                continue
            record = Record(
                id=record_id(rules.name, key, name, loser),
                collection=rules.name,
                key=key,
                field="" if name == TOUCH else name,
                kind=kind_of(loser, fold.winner),
                status="manual" if fold.outcome == "manual" else "standing",
                strategy=rules.strategy_name(name),
                outcome={"picked": "dropped", "merged": "merged", "manual": "kept"}[fold.outcome],
                reason=fold.reason,
                uncertain=within_uncertainty(loser, fold.winner),
                loser=_side(loser),
                winner=_side(fold.winner),
            )
            found[record.id] = record
    return found


def record_id(collection: str, key: str, register: str, loser: Version | Side) -> str:
    """Names the losing write, so that every region gives the same record the same name."""
    name = "\x00".join((collection, key, register, loser.region, str(loser.seq)))
    return blake2b(name.encode(), digest_size=12).hexdigest()


def _side(version: Version) -> Side:
    return Side(
        region=version.region,
        seq=version.seq,
        stamp=version.stamp,
        operation=_OPERATIONS[Operation(version.operation)],
        context=dict(sorted(version.context.items())),
        value=msgspec.Raw(b"null" if version.value is None else version.value),
    )


def settle(record: Record, by: tuple[int, str, int]) -> LosingVersion:
    """The record as the entry of the write `by` (stamp, region, seq) carries it."""
    reason = "chosen by the application" if record.status == "manual" else record.reason
    settled = msgspec.structs.replace(record, status="settled", settled_by=by, reason=reason)
    return LosingVersion(record.id, "settled", _encode(settled))


def row_of(record: Record) -> AuditRow:
    return AuditRow(
        id=record.id,
        collection=record.collection,
        key=record.key,
        field=record.field,
        kind=record.kind,
        status=record.status,
        stamp_ms=record.loser.stamp >> 16,
        loser_origin=record.loser.region,
        winner_origin=record.winner.region,
        strategy=record.strategy,
        uncertain=record.uncertain,
        body=_encode(record),
    )


def settled_row(loser: LosingVersion, known: Mapping[str, AuditRow]) -> AuditRow | None:
    """The row for a record that an entry carries; None when an earlier write had settled it already.

    Two regions may settle one loser at the same time; the smaller (stamp, region, seq) is kept by all.
    Raises msgspec.DecodeError for a body that is no record.
    """
    record = _decode(loser.body)
    existing = known.get(loser.id)
    if existing is not None and existing.status == "settled":
        before = _decode(existing.body).settled_by
        if before is not None and record.settled_by is not None and before <= record.settled_by:
            return None
    return row_of(record)


def check_settled(loser: LosingVersion, entry: Entry, change: Change) -> None:
    """Raises HostileEntry for a record that the entry could not have settled.

    It must have seen the losing write and have replaced it; else regions that know of the conflict and those that
    do not yet would come to different audits.
    """
    try:
        record = _decode(loser.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HostileEntry(f"a settled record cannot be read: {error}") from None
    registers = [
        name for name in (record.field, *([] if record.field else [TOUCH])) if name in change.registers
    ]
    lost = record.loser
    if (
        (record.collection, record.key, record.id) != (change.collection, change.key, loser.id)
        or (record.status, loser.status) != ("settled", "settled")
        or record.settled_by != (entry.stamp, entry.origin, entry.seq)
        or not 0 < lost.seq <= entry.context.get(lost.region, 0)
        or not 0 <= lost.stamp < 1 << 63
        or loser.id not in [record_id(change.collection, change.key, name, lost) for name in registers]
    ):
        raise HostileEntry(f"{entry.origin}:{entry.seq} settles a conflict that it cannot have seen")


def check_recorded(loser: LosingVersion) -> None:
    """Raises HostileEntry for what is no settled record, or bears another's name."""
    try:
        record = _decode(loser.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HostileEntry(f"a settled record cannot be read: {error}") from None
    lost = record.loser
    names = [
        record_id(record.collection, record.key, name, lost) for name in {record.field, record.field or TOUCH}
    ]
    if (
        record.status != "settled"
        or record.settled_by is None
        or not 0 <= lost.stamp < 1 << 63
        or record.id != loser.id
        or loser.id not in names
    ):
        raise HostileEntry(f"a settled record of {record.collection}/{record.key} contradicts itself")


def public(row: AuditRow) -> dict[str, Any]:
    """A record as plain JSON data."""
    shown: dict[str, Any] = msgspec.json.decode(row.body)
    return shown
