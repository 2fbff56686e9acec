"""The audit: one record for each value that a resolution did not show, the same in every region.

A record is *open* while the losing version is still beside the winning one in its register. The next write
whose author had seen both *resolves* it. That write carries the record in its own journal entry, so all
regions resolve alike. If a write that had seen only the losing version replaces that version, then nothing is
lost. The open record is then withdrawn in every region, because it follows from the state.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from atoll.causality.clock import stamp_ms
from atoll.causality.origin import Origin, region_of
from atoll.causality.types import Dot, Order, Seq, Stamp
from atoll.causality.vector import covers
from atoll.documents.decided import DECIDED, decision_of
from atoll.documents.document import Document, mergeable, shown_plain, touches, version_of
from atoll.documents.entry import Change, Entry, LosingVersion
from atoll.documents.purging import unseen_touches
from atoll.documents.raw import raw_members
from atoll.documents.references import Met, met_of
from atoll.documents.references import place_of as dangling_at
from atoll.documents.register import Operation, Register, Version, canonical_order
from atoll.documents.rules import PURGED, TOUCH, WHOLE, Rules, field_of, in_life, is_touch
from atoll.documents.strategies import DELETE_REFERENCED, MULTIPLE_UNIQUE, kind_of, within_uncertainty
from atoll.documents.unique import Holder, Value, holders_in, place_of, register_of
from atoll.errors import HostileEntry
from atoll.schema.system import DANGLING, HOLDERS
from atoll.store.port import AuditRow

_OPERATIONS = {Operation.INSERT: "insert", Operation.UPDATE: "update", Operation.DELETE: "delete"}


class Side(msgspec.Struct, frozen=True):
    """One of the two writes."""

    region: Origin
    seq: Seq
    stamp: Stamp
    operation: str
    context: dict[str, int]
    value: msgspec.Raw

    @property
    def dot(self) -> Dot:
        return Dot(self.region, self.seq)


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
    losing: Side
    winning: Side
    resolved_by: Order | None = None
    """(stamp, origin, seq) of the write that replaced both."""


STATUSES = ("open", "manual", "resolved")


class _Holding(msgspec.Struct):
    """What either side of a record of a unique value has as its value."""

    key: str
    value: msgspec.Raw


class _Deleting(msgspec.Struct):
    """What the deletion has as its value, in a record of a reference to what was deleted."""

    target: str
    found: str
    """Which write said so."""


class _Referring(msgspec.Struct):
    """The same of the reference."""

    key: str
    target: str
    found: str


_SAID = frozenset({MULTIPLE_UNIQUE, DELETE_REFERENCED})
"""Kinds of conflicts between documents that another one tells of."""
_decode_holding = msgspec.json.Decoder(_Holding).decode
_decode_deleting = msgspec.json.Decoder(_Deleting).decode
_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Record).decode


def open_records(
    rules: Rules, key: str, document: Document, only: Container[str] | None = None
) -> dict[str, Record]:
    """The records that a document's present state implies: a pure function of it.

    `only` restricts it to some registers.
    """
    if rules.holders:
        return _duplicates(key, document, only)
    if rules.dangling:
        return _dangling(key, document, only)
    if rules.unrecorded:
        return {}
    late = unseen_touches(document.registers)
    found = _late(rules, key, document, {name: late[name] for name in late if only is None or name in only})
    present = in_life(TOUCH, document.life)
    for name in sorted((document.registers.several | document.registers.touches) - late.keys()):
        touch = is_touch(name)
        versions = touches(document, name) if touch else document.registers[name]
        if len(versions) < 2 or (only is not None and name not in only) or name == PURGED:
            continue
        if touch and (
            all(version.value is not None for version in versions)
            or (name == present and shown_plain(rules, document) is not None)
        ):
            continue  # operations on lattices are lost only where a concurrent deletion hides them
        fold = rules.strategy(name)(versions)
        for losing in versions:
            if losing is fold.winner or (losing.value == fold.winner.value and fold.outcome != "manual"):
                continue  # an equal value is not lost
            if touch and losing.value is None:
                continue
            record = Record(
                id=record_id(rules.name, key, TOUCH if touch else field_of(name), losing.dot),
                collection=rules.name,
                key=key,
                field=field_of(name),
                kind="update_deleted" if touch else kind_of(losing, fold.winner),
                status="manual" if fold.outcome == "manual" else "open",
                strategy=rules.strategy_name(name),
                outcome={"picked": "dropped", "merged": "merged", "manual": "kept"}[fold.outcome],
                reason=fold.reason,
                uncertain=within_uncertainty(losing, fold.winner),
                losing=_side(losing, mergeable(rules, document, name) if touch else losing.value),
                winning=_side(fold.winner, fold.winner.value),
            )
            found[record.id] = record
    return found


def _duplicates(place: str, document: Document, only: Container[str] | None) -> dict[str, Record]:
    """The records of all documents but the first that have one value of a unique field."""
    holders = holders_in(document)
    found: dict[str, Record] = {}
    collection, _, rest = place.partition("/")
    for holder in holders[1:]:
        first = holders[0]
        if only is not None and register_of(holder.key) not in only:
            continue
        manual = holder.held.manual
        record = Record(
            id=record_id(HOLDERS, place, holder.key, holder.version.dot),
            collection=collection,
            key=holder.key,
            field=rest.partition("/")[0],
            kind=MULTIPLE_UNIQUE,
            status="manual" if manual else "open",
            strategy="manual" if manual else "first_keeps",
            outcome="kept" if manual else "dropped",
            reason="left to the application" if manual else "another document had the value first",
            uncertain=within_uncertainty(holder.version, first.version),
            losing=_side(holder.version, _holding(holder)),
            winning=_side(first.version, _holding(first)),
        )
        found[record.id] = record
    return found


_REASONS = {
    "restrict": "the deletion is undone: a document referred to what was deleted",
    "cascade": "what it referred to was deleted",
    "dangling": "left to the application",
}


def _dangling(place: str, document: Document, only: Container[str] | None) -> dict[str, Record]:
    """The record of a reference to what was deleted: the deletion is lost, or the document that refers."""
    if (only is not None and WHOLE not in only) or not document.registers.get(WHOLE):
        return {}
    found = max(document.registers[WHOLE], key=canonical_order)
    try:
        met = None if found.value is None else met_of(found.value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        met = None  # no version of Atoll has written it
    if met is None or met.on_delete not in _REASONS or place != dangling_at(*_referrer(met)):
        return {}
    reference = met.reference.version
    deletion = met.deletion.version if met.deletion else version_of(reference, Operation.DELETE, None)
    target, dot = "/".join(met.target), str(found.dot)
    value = msgspec.json.encode(_Referring(met.key_of, target, dot))
    sides = [(reference, value), (deletion, msgspec.json.encode(_Deleting(target, dot)))]
    (losing, lost), (winning, won) = reversed(sides) if met.on_delete == "restrict" else sides
    manual = met.on_delete == "dangling" or bool(met.reason)
    record = Record(
        id=record_id(DANGLING, place, dot, losing.dot),
        collection=met.collection,
        key=met.key_of,
        field=met.field,
        kind=DELETE_REFERENCED,
        status="manual" if manual else "open",
        strategy=met.on_delete,
        outcome="kept" if manual else "dropped",
        reason=met.reason or _REASONS[met.on_delete],
        uncertain=within_uncertainty(reference, deletion),
        losing=_side(losing, lost),
        winning=_side(winning, won),
    )
    return {record.id: record}


def _referrer(met: Met) -> tuple[str, str, str]:
    return met.collection, met.field, met.key_of


def _holding(holder: Holder) -> bytes:
    return msgspec.json.encode({"key": holder.key, "value": holder.held.value})


def duplicate_of(row: AuditRow) -> Value:
    """The value that several documents have, by the record of one. Raises msgspec.DecodeError."""
    record = _decode(row.body)
    return Value(record.field, bytes(_decode_holding(record.losing.value).value))


def _place(record: Record) -> str:
    """The key of the document that says who has the value. Raises msgspec.DecodeError."""
    value = _decode_holding(record.losing.value).value
    return place_of(record.collection, Value(record.field, bytes(value)))


def _said(record: Record) -> tuple[str, str, str]:
    """Collection, key and register of the document that says so of others. Raises HostileEntry."""
    try:
        if record.kind == MULTIPLE_UNIQUE:
            return HOLDERS, _place(record), record.key
        found = _decode_deleting(record.losing.value).found
    except msgspec.DecodeError as error:
        raise HostileEntry(f"a record of kind {record.kind} cannot be read: {error}") from None
    return DANGLING, dangling_at(record.collection, record.field, record.key), found


def _late(rules: Rules, key: str, document: Document, late: Mapping[str, Register]) -> dict[str, Record]:
    """The records of operations on what is purged: their values are gone."""
    found: dict[str, Record] = {}
    for name, versions in late.items():
        purge = document.registers[PURGED][-1]
        winning = _side(version_of(purge, Operation.DELETE, None), None)
        for losing in versions:
            record = Record(
                id=record_id(rules.name, key, TOUCH, losing.dot),
                collection=rules.name,
                key=key,
                field="",
                kind="update_deleted",
                status="open",
                strategy=rules.strategy_name(name),
                outcome="dropped",
                reason="what it changed was deleted and purged",
                uncertain=within_uncertainty(losing, purge),
                losing=_side(losing, losing.value),
                winning=winning,
            )
            found[record.id] = record
    return found


def record_id(collection: str, key: str, register: str, losing: Dot) -> str:
    """Names the losing version, so that every region gives the same record the same name."""
    name = "\x00".join((collection, key, register, losing.origin, str(losing.seq)))
    return blake2b(name.encode(), digest_size=12).hexdigest()


def _side(version: Version, value: bytes | None) -> Side:
    return Side(
        region=version.origin,
        seq=version.seq,
        stamp=version.stamp,
        operation=_OPERATIONS[Operation(version.operation)],
        context=dict(sorted(version.context.items())),
        value=msgspec.Raw(b"null" if value is None else value),
    )


def resolve(record: Record, by: Order) -> LosingVersion:
    """The record as the entry of the write `by` (stamp, origin, seq) carries it."""
    reason = "chosen by the application" if record.status == "manual" else record.reason
    resolved = msgspec.structs.replace(record, status="resolved", resolved_by=by, reason=reason)
    return LosingVersion(record.id, "resolved", _encode(resolved))


def row_of(record: Record) -> AuditRow:
    return AuditRow(
        id=record.id,
        collection=record.collection,
        key=record.key,
        field=record.field,
        kind=record.kind,
        status=record.status,
        stamp_ms=stamp_ms(record.losing.stamp),
        losing_origin=region_of(record.losing.region),
        winning_origin=region_of(record.winning.region),
        strategy=record.strategy,
        uncertain=record.uncertain,
        body=_encode(record),
    )


def resolved_row(losing: LosingVersion, known: Mapping[str, AuditRow]) -> AuditRow | None:
    """The row for a record that an entry carries; None if an earlier write resolved it already.

    Two regions may resolve one record at the same time. All regions keep the smaller (stamp, origin, seq).
    Raises msgspec.DecodeError for a body that is no record.
    """
    record = _decode(losing.body)
    existing = known.get(losing.id)
    if existing is not None and existing.status == "resolved":
        before = _decode(existing.body).resolved_by
        if before is not None and record.resolved_by is not None and before <= record.resolved_by:
            return None
    return row_of(record)


def check_resolved(losing: LosingVersion, entry: Entry, change: Change) -> None:
    """Raises HostileEntry for a record that the entry could not have resolved.

    Its writer must have seen the losing version and have replaced it. Otherwise the audits of regions that know of
    the conflict and of those that do not would differ.
    """
    record = _read(losing)
    written = change.registers
    address = (record.collection, record.key)
    registers = [
        TOUCH if is_touch(name) else record.field for name in written if field_of(name) == record.field
    ]
    if PURGED in written:
        registers.append(record.field or TOUCH)
    lost, (by, seen) = record.losing, _resolving(entry, change, record)
    if record.kind in _SAID:
        *place, register = _said(record)
        address, registers = (place[0], place[1]), [register]
    if (
        (*address, record.id) != (change.collection, change.key, losing.id)
        or (record.status, losing.status) != ("resolved", "resolved")
        or record.resolved_by != by
        or not (lost.region == DECIDED or (lost.seq > 0 and covers(seen, lost.region, lost.seq)))
        or not 0 <= lost.stamp < 1 << 63
        or losing.id not in [record_id(change.collection, change.key, name, lost.dot) for name in registers]
    ):
        raise HostileEntry(f"{entry.origin}:{entry.seq} resolves a conflict that its writer cannot have seen")


def _resolving(entry: Entry, change: Change, record: Record) -> tuple[Order | None, Mapping[str, int]]:
    """By what a change may resolve a record, and what that had seen.

    A decided revision carries the records of earlier ones, too. Raises HostileEntry.
    """
    if DECIDED not in change.deltas:
        return entry.order, entry.context
    decision = decision_of(change.deltas)
    by = record.resolved_by
    if not decision.stamp or by is None:
        return entry.order, entry.context
    possible = by[0] <= decision.stamp and by[1] == DECIDED and by[2] <= decision.revision
    return by if possible else None, decision.base


def _read(losing: LosingVersion) -> Record:
    try:
        return _decode(losing.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HostileEntry(f"a resolved record cannot be read: {error}") from None


def check_recorded(losing: LosingVersion) -> None:
    """Raises HostileEntry for what is no resolved record, or bears another's name."""
    record = _read(losing)
    lost = record.losing
    names = [
        record_id(record.collection, record.key, name, lost.dot)
        for name in {record.field, record.field or TOUCH}
    ]
    if record.kind in _SAID:
        names = [record_id(*_said(record), lost.dot)]
    if (
        record.status != "resolved"
        or record.resolved_by is None
        or not 0 <= lost.stamp < 1 << 63
        or record.id != losing.id
        or losing.id not in names
    ):
        raise HostileEntry(f"a resolved record of {record.collection}/{record.key} contradicts itself")


def following(recorded: Iterable[AuditRow]) -> list[AuditRow]:
    """Those of the records of a document that follow from its state. Others follow from what another one says."""
    return [row for row in recorded if row.status != "resolved" and row.kind not in _SAID]


def public(row: AuditRow) -> dict[str, Any]:
    """A record as plain JSON data; its values as the texts that they are, since decoding large ones takes long."""
    shown: dict[str, Any] = dict(raw_members(row.body))
    for side in ("losing", "winning"):
        given: dict[str, Any] = dict(raw_members(shown[side]))
        given["region"] = region_of(msgspec.json.decode(given["region"]))
        given["stamp"] = msgspec.json.decode(given["stamp"])
        shown[side] = given
    return shown
