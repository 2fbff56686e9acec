"""A document: named registers and lattice states, and the plain JSON that readers see.

    registers[""]          the whole document (its plain fields as one JSON object);
                           under `merge`, only whether the document exists
    registers[field]       one plain field, under `merge`
    registers["map.name"]  one member of a `MapOf` field
    registers["~"]         that there were operations on mergeable fields, see `rules.TOUCH`
    lattices[field]        the state of a counter, set, list or text; its bytes where the field is not declared here

Once a document was created anew after a deletion, `~`, mergeable fields and maps have other names: see `rules.in_life`.
Another version of the declarations may have more: what is not known here is kept, and not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from atoll.causality.origin import Origin
from atoll.causality.place import place_of
from atoll.causality.types import Order, Seq
from atoll.causality.vector import covers, folds
from atoll.documents import decided, purging
from atoll.documents import register as registers
from atoll.documents.decided import DECIDED
from atoll.documents.entry import Change, Entry
from atoll.documents.raw import raw_members
from atoll.documents.register import Operation, Register, Version
from atoll.documents.registers import MANY, Registers, encode, member, shown_value
from atoll.documents.rules import PURGED, TOUCH, WHOLE, Rules, in_life, is_touch, well_named
from atoll.errors import HostileEntry, InvalidDocument, StoreCorrupt, Unavailable
from atoll.schema.limits import Limits, check_text, count_of
from atoll.store.port import Row

ELSEWHERE = b""
"""Stands for a value that the row's JSON column already holds; it is no JSON, so it cannot be mistaken."""


class _Meta(msgspec.Struct, array_like=True, gc=False):
    registers: dict[str, tuple[Version, ...]]
    lattices: dict[str, bytes] = {}


class _Written(msgspec.Struct, array_like=True, gc=False):
    """The first two members of a version, its dot; the others are left unread."""

    origin: Origin
    seq: Seq


class _Dots(msgspec.Struct, array_like=True, gc=False):
    registers: dict[str, tuple[_Written, ...]]
    lattices: dict[str, msgspec.Raw] = {}


_decode_meta = msgspec.msgpack.Decoder(_Meta).decode
_PAIR = b"\x92"
"""Begins an array of two in msgpack, as `_Meta` is."""
_SHOWN = encode(ELSEWHERE) + encode({})
"""Ends the merge state of a row whose one version has its value in the JSON column, and which has no lattices."""
_DECIDED = b"\xa1" + DECIDED.encode()
"""As a name in msgpack."""
_OPERATIONS = frozenset(map(int, Operation))
_decode_dots = msgspec.msgpack.Decoder(_Dots).decode
_any_json = msgspec.json.Decoder().decode
_MOST_SEQ = 1 << 53
_DEEPEST = Limits(depth=160)
"""For values from peers: what a document may be, and some more for what wraps it."""


class Document:
    """Immutable by convention: `merge` and the mutations return new ones."""

    __slots__ = ("lattices", "registers")

    def __init__(self, registers: Mapping[str, Register], lattices: dict[str, Any]) -> None:
        self.registers = registers if isinstance(registers, Registers) else Registers(registers)
        self.lattices = lattices

    def copy(self) -> Document:
        return Document(self.registers.copy(), dict(self.lattices))

    @property
    def costly(self) -> bool:
        """Whether it takes long to decode."""
        return bool(self.lattices) or len(self.registers) > MANY

    @property
    def contested(self) -> bool:
        """Whether the audit may have open records of it."""
        if self.registers.several:
            return True
        if not self.registers.touches:
            return False  # nearly every document
        if len(touches(self, in_life(TOUCH, self.life))) > 1:
            return True
        return bool(purging.unseen_touches(self.registers))

    @property
    def life(self) -> int:
        """How often it was created anew."""
        return purging.life_of(self.registers)


def followed(rules: Rules, document: Document) -> bool:
    """Whether another edit of this very object takes little time, however large it is."""
    return all(
        (lattice := rules.lattice(name)) is None or lattice.followed(state)
        for name, state in document.lattices.items()
    )


def touches(document: Document, name: str) -> Register:
    """A touch register; the present one with the deletions that had not seen it.

    A region without mergeable fields in its declaration deletes a document without writing this register.
    """
    touch = document.registers.get(name, ())
    deletions = [version for version in document.registers.get(WHOLE, ()) if version.value is None]
    if not deletions or name != in_life(TOUCH, document.life):
        return touch
    known = {version.dot for version in touch}
    unseen = [
        deletion
        for deletion in deletions
        if deletion.dot not in known
        and any(t.value is not None and not covers(deletion.context, t.origin, t.seq) for t in touch)
    ]
    return tuple(sorted((*touch, *unseen), key=registers.canonical_order)) if unseen else touch


def merge(rules: Rules, ours: Document, theirs: Document, *, whole: bool = False) -> Document:
    """The least upper bound of two states of one document. `whole`: `theirs` is all that a region has of it.

    Raises Unavailable where both hold another state of a field that is not declared here: its kind is unknown.
    """
    if not (ours.registers or ours.lattices or theirs.lattices or PURGED in theirs.registers):
        return theirs
    merged = ours.copy()
    if whole and (PURGED in ours.registers or PURGED in theirs.registers):
        # Not the other way round: while a snapshot is installed, a purge here may cover what was never here.
        purging.unseen(merged.registers, theirs.registers)
    for name, versions in theirs.registers.items():
        merged.registers[name] = registers.merge(merged.registers.get(name, ()), versions)
    for field, state in theirs.lattices.items():
        lattice = rules.lattice(field)
        if lattice is None:  # bytes of another version of the declarations
            if merged.lattices.setdefault(field, state) != state:
                raise Unavailable(
                    f"{rules.name}.{field} cannot be merged while it is not declared: upgrade this region"
                )
            continue
        merged.lattices[field] = lattice.merge(merged.lattices.get(field, lattice.empty()), state)
    if PURGED in merged.registers:
        purged_here = PURGED in ours.registers and PURGED not in theirs.registers
        purging.drop(merged.registers, merged.lattices, theirs.registers if purged_here else None)
    return merged


def received(rules: Rules, key: str, row: Row, stamp: int) -> Document:
    """A peer's whole state of a document, checked as its changes are. `stamp` is the highest that the peer has seen.

    Raises HostileEntry for what no region could have come to hold.
    """
    try:
        meta = _decode_meta(row.meta)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HostileEntry(f"the merge state of {rules.name}/{key} cannot be read: {error}") from None
    whole = meta.registers.get(WHOLE)
    if whole is not None and len(whole) == 1 and whole[0].value == ELSEWHERE:
        meta.registers[WHOLE] = (version_of(whole[0], whole[0].operation, row.value),)
    for name, versions in meta.registers.items():
        if not well_named(name):
            raise HostileEntry(f"no collection has a register {name[:64]!r}")
        dots = {version.dot for version in versions}
        if not versions or len(dots) < len(versions) or not all(_sane(each, stamp) for each in versions):
            raise HostileEntry(f"the versions of {rules.name}/{key} in {name[:64]!r} are not possible")
        if list(versions) != sorted(versions, key=registers.canonical_order):
            raise HostileEntry(f"the versions of {rules.name}/{key} in {name[:64]!r} are out of order")
        for version in versions:
            if version.value is not None:
                check_value(rules, key, name, version.value)
    if rules.appended:
        written = {name: versions[0].value for name, versions in meta.registers.items()}
        for only in meta.registers.get(WHOLE, ()):
            _check_appended(rules, key, written, registers.canonical_order(only))
    lattices: dict[str, Any] = {}
    for field, data in meta.lattices.items():
        if is_touch(field) or not well_named(field):
            raise HostileEntry(f"no collection has a field {field[:64]!r}")
        lattice = rules.lattice(field)
        lattices[field] = data if lattice is None else lattice.decode(data)
    return Document(meta.registers, lattices)


def _check_appended(rules: Rules, key: str, registers: Mapping[str, bytes | None], by: Order) -> None:
    """Raises HostileEntry where the write `by` (stamp, origin, seq) is not the one that the document's place names."""
    place = place_of(key)
    if place is None or place[:3] != by or registers.get(WHOLE) is None or len(registers) > 1:
        raise HostileEntry(f"{by[1]}:{by[2]} cannot have written {rules.name}/{key[:64]}")


def _sane(version: Version, stamp: int) -> bool:
    return (
        bool(version.origin)
        and 1 <= version.seq < _MOST_SEQ
        and 0 <= version.stamp <= stamp
        and 0 <= version.uncertainty_ms < _MOST_SEQ
        and version.operation in _OPERATIONS
        and all(0 <= seq < _MOST_SEQ for seq in version.context.values())
    )


def delta_of(rules: Rules, entry: Entry, change: Change) -> Document:
    """A change as a state, ready to be merged. Lattice deltas of fields that are not declared here are left out:
    see `unknown_part`.

    Raises HostileEntry where no writer could have made the change, so that the caller can park it. Whether it
    does depends on the change alone, never on the document, or regions would come to differ.
    """
    if change.operation not in _OPERATIONS:
        raise HostileEntry(
            f"the change of {rules.name}/{change.key} has an unknown operation: {change.operation}"
        )
    if rules.appended:
        _check_appended(rules, change.key, change.registers, entry.order)
    writer = writer_of(rules, entry, change)
    versions: dict[str, Register] = {}
    for name, value in change.registers.items():
        if not well_named(name):
            raise HostileEntry(f"no collection has a register {name[:64]!r}")
        if value is not None:
            check_value(rules, change.key, name, value)
        versions[name] = (version_of(writer, change.operation, value),)
    lattices: dict[str, Any] = {}
    for field, delta in change.deltas.items():
        lattice = rules.lattice(field)  # none for DECIDED
        if lattice is not None:
            if not well_named(field):
                raise HostileEntry(f"no collection has a field {field[:64]!r}")
            lattices[field] = state = lattice.decode(delta)
            if not lattice.written_by(state, entry.origin):
                raise HostileEntry(
                    f"{entry.origin} changed another region's part of {rules.name}/{change.key}.{field}"
                )
    return Document(versions, lattices)


def writer_of(rules: Rules, entry: Entry, change: Change) -> Entry | Version:
    """Whose dot, stamp and context the versions of a change have: its entry's, or those of a decided revision."""
    if DECIDED not in change.deltas:
        return entry
    decision = decided.decision_of(change.deltas)
    if not decision.stamp:
        context = {**entry.context, DECIDED: decision.revision}
        return Version(entry.origin, entry.seq, entry.stamp, entry.uncertainty_ms, 0, context, None)
    if decision.stamp > entry.stamp or change.registers.keys() != {WHOLE} or len(change.deltas) > 1:
        raise HostileEntry(f"no quorum has decided the change of {rules.name}/{change.key} in {entry.dot}")
    return decided.version(decision, change.operation, None)


def unknown_part(rules: Rules, change: Change) -> Change | None:
    """What of a change this region's declarations have no place for yet: deltas of fields that they lack."""
    deltas = {
        field: delta
        for field, delta in change.deltas.items()
        if field != DECIDED and rules.lattice(field) is None
    }
    return Change(change.collection, change.key, change.operation, {}, deltas) if deltas else None


def check_value(rules: Rules, key: str, register: str, value: bytes) -> None:
    """Raises HostileEntry for what no writer could have put into the register."""
    try:
        _any_json(value)  # in full: what can only be skipped could fail later, where values are folded
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        raise HostileEntry(f"the value of {rules.name}/{key} is not JSON") from None
    if len(value) > _DEEPEST.depth and count_of(b"[", value) + count_of(b"{", value) > _DEEPEST.depth:
        try:
            check_text(value, _DEEPEST, rules.name)
        except InvalidDocument as error:
            raise HostileEntry(f"the value of {rules.name}/{key}: {error.message}") from None
    if register == PURGED:
        purging.check(value)
    if register == WHOLE and value[:1] != b"{":
        raise HostileEntry(f"the value of {rules.name}/{key} is not a JSON object")


def carried_over(rules: Rules, shown: bytes | None, plain: bytes) -> bytes:
    """The document `plain` that replaces `shown`, with those members of it that this region's declarations lack.

    A write of the whole document states the fields that its region knows, and not those of another version.
    """
    if shown is None or (found := raw_members(shown)).keys() <= rules.known:
        return plain
    rest = b",".join(member(name, bytes(found[name])) for name in sorted(found.keys() - rules.known))
    return plain[:-1] + (b"," if len(plain) > 2 else b"") + rest + b"}"


def succeeded(row: Row | None, context: Mapping[str, int]) -> bool:
    """Whether a write of the whole document leaves nothing of this row, its writer having seen `context`.

    So it is with nearly every write; `row_of` then says what comes after it, without a `Document`.
    """
    if row is None:
        return True
    try:
        meta = _decode_dots(row.meta)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False  # for `decode_row` to report
    held, versions = meta.registers, meta.registers.get(WHOLE, ())
    return (
        not meta.lattices
        and len(held) == len(versions) == 1
        and (context.get(versions[0].origin, 0) >= versions[0].seq or folds(context, versions[0].origin))
    )


def follows_decided(row: Row | None) -> bool:
    """Whether a writer of the document may have seen a decided revision: what comes next has to say so, too."""
    return row is not None and _DECIDED in row.meta


def dots_in(row: Row) -> Sequence[decided.Dotted]:
    """Origin and seq of each version of the whole document, without reading more of a row. Raises StoreCorrupt."""
    try:
        return _decode_dots(row.meta).registers.get(WHOLE, ())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StoreCorrupt(f"the merge state of a document cannot be read: {error}") from error


def revision_in(row: Row | None) -> int:
    """The latest decided revision that a row holds; 0 where there is none."""
    return 0 if row is None else decided.revision_of(dots_in(row))


def shows_register(row: Row) -> bool:
    """Whether a row's JSON column holds the one register of the document, as `row_of` leaves it.

    A node with other declarations may show more than that: its mergeable fields. Only for a row that is `succeeded`.
    """
    return row.meta.endswith(_SHOWN)


def row_of(value: bytes | None, version: Version) -> Row:
    """The row of a document that is one register (`Rules.simple`) and holds this version alone.

    The value has a column of its own, so `version` comes with `ELSEWHERE` in its place, or with None if that is it.
    """
    return Row(value, encode(_Meta({WHOLE: (version,)})))


def decode_row(rules: Rules, row: Row) -> Document:
    """Raises StoreCorrupt."""
    try:
        meta = _decode_meta(row.meta)
        lattices: dict[str, Any] = {
            field: data if (lattice := rules.lattice(field)) is None else lattice.restore(data)
            for field, data in meta.lattices.items()
        }
    except (msgspec.DecodeError, UnicodeDecodeError, HostileEntry) as error:
        raise StoreCorrupt(
            f"the merge state of a document in {rules.name!r} cannot be read: {error}"
        ) from error
    whole = meta.registers.get(WHOLE)
    if whole is not None and len(whole) == 1 and whole[0].value == ELSEWHERE:
        meta.registers[WHOLE] = (version_of(whole[0], whole[0].operation, row.value),)
    return Document(meta.registers, lattices)


def encode_row(rules: Rules, document: Document) -> Row:
    value = visible(rules, document)
    kept = document.registers
    whole = kept.get(WHOLE, ())
    if len(kept) == len(whole) == 1 and not document.lattices and (rules.simple or _is_whole(whole)):
        (sole,) = whole
        return row_of(sole.value, sole if sole.value is None else version_of(sole, sole.operation, ELSEWHERE))
    lattices = {
        field: state if (lattice := rules.lattice(field)) is None else lattice.encode(state)
        for field, state in document.lattices.items()
    }
    return Row(value, _PAIR + kept.state(rules) + encode(lattices))


def version_of(of: Entry | Version, operation: int, value: bytes | None) -> Version:
    """With dot, stamp and context of an entry or version. (`msgspec.structs.replace` takes four times as long.)"""
    return Version(of.origin, of.seq, of.stamp, of.uncertainty_ms, operation, of.context, value)


def version_tag(row: Row) -> str:
    """The document's version as clients see it (`ETag`): equal tags mean the same state in this region."""
    return blake2b(row.meta, digest_size=9).hexdigest()


def shown_plain(rules: Rules, document: Document) -> bytes | None:
    """The whole-document register as its strategy shows it; None when absent."""
    whole = document.registers.get(WHOLE)
    if not whole:
        return None
    return whole[0].value if len(whole) == 1 else rules.strategy(WHOLE)(whole).value


def visible(rules: Rules, document: Document) -> bytes | None:
    """What readers see: one JSON object in UTF-8, or None when the document is absent or deleted."""
    plain = shown_plain(rules, document)
    if rules.simple or plain is None or _is_whole(document.registers[WHOLE], plain):
        return plain
    members: list[bytes] = []
    if rules.per_field:
        for field in rules.plain:
            versions = document.registers.get(field)
            if versions:
                shown = shown_value(rules, field, versions)
                if shown is not None:
                    members.append(member(field, shown))
    elif len(plain) > 2:
        members.append(plain[1:-1])
    members.extend(_mergeable(rules, document, document.life))
    return b"{" + b",".join(members) + b"}"


def _is_whole(whole: Register, shown: bytes | None = None) -> bool:
    """Whether a decided version is shown: it holds mergeable fields and maps, too."""
    if len(whole) == 1:
        return whole[0].origin == DECIDED
    return any(version.origin == DECIDED and version.value is shown for version in whole)


def mergeable(rules: Rules, document: Document, touch: str) -> bytes:
    """The mergeable fields and maps as the document would show them in the life of this touch register."""
    return b"{" + b",".join(_mergeable(rules, document, int(touch[1:] or "0"))) + b"}"


def _mergeable(rules: Rules, document: Document, life: int) -> Iterator[bytes]:
    for field, lattice in rules.lattices.items():
        state = document.lattices.get(in_life(field, life))
        yield member(field, lattice.text(lattice.empty() if state is None else state))
    for field in sorted(rules.maps):
        yield member(field, document.registers.members(rules, in_life(field, life)))


def map_members(rules: Rules, document: Document, field: str) -> dict[str, bytes]:
    """The members of a map that are shown, by its name in a life of the document: name → JSON text."""
    members: dict[str, bytes] = {}
    start = field + "."
    for name in sorted([name for name in document.registers if name.startswith(start)]):
        value = shown_value(rules, name, document.registers[name])
        if value is not None:
            members[name[len(start) :]] = value
    return members


def siblings(rules: Rules, document: Document) -> tuple[Version, ...]:
    """The concurrent versions that the application must choose from; empty when nothing is left to it."""
    whole = document.registers.get(WHOLE, ())
    if len(whole) < 2 or rules.strategy(WHOLE)(whole).outcome != "manual":
        return ()
    return whole


def digest(rules: Rules, key: str, document: Document) -> bytes:
    """16 bytes, equal in regions that have seen the same operations on this document and have the same
    declarations. Undeclared parts are left out.
    """
    hashed = blake2b(key.encode(), digest_size=16)
    for name in sorted(document.registers):
        hashed.update(encode((name, document.registers[name])))
    for field in sorted(document.lattices):
        lattice = rules.lattice(field)
        if lattice is not None:
            hashed.update(encode((field, lattice.canonical(document.lattices[field]))))
    return hashed.digest()


def bucket_of(key: str, buckets: int) -> int:
    """Which of `buckets` a key falls into: the same in every region."""
    return int.from_bytes(blake2b(key.encode(), digest_size=4).digest()) % buckets
