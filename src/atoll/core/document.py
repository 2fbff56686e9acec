"""A document: named registers and lattice states, and the plain JSON that readers see.

registers[""]          the whole document (its plain fields as one JSON object);
                       under `merge`, only whether the document exists
registers[field]       one plain field, under `merge`
registers["map.name"]  one member of a `MapOf` field
registers["~"]         the last operations on lattice fields, see `rules.TOUCH`
lattices[field]        the state of a counter, set, list or text
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from atoll.core import register as registers
from atoll.core.entry import Change, Entry
from atoll.core.register import Operation, Register, Version
from atoll.core.rules import WHOLE, Rules
from atoll.errors import HostileEntry, StoreCorrupt
from atoll.store.port import Row

_ELSEWHERE = b""
"""Stands for a value that the row's JSON column already holds; it is no JSON, so it cannot be mistaken."""


class _Meta(msgspec.Struct, array_like=True, gc=False):
    registers: dict[str, tuple[Version, ...]]
    lattices: dict[str, bytes] = {}


class _Dot(msgspec.Struct, array_like=True, gc=False):
    """The first two members of a version; its others are left unread."""

    region: str
    seq: int


class _Dots(msgspec.Struct, array_like=True, gc=False):
    registers: dict[str, tuple[_Dot, ...]]


_encode_meta: Callable[[Any], bytes] = msgspec.msgpack.Encoder(order="sorted").encode
_decode_meta = msgspec.msgpack.Decoder(_Meta).decode
_OPERATIONS = frozenset(map(int, Operation))
_decode_dots = msgspec.msgpack.Decoder(_Dots).decode
_any_json = msgspec.json.Decoder(msgspec.Raw).decode


class Document:
    """Immutable by convention: `merge` and the mutations return new ones."""

    __slots__ = ("lattices", "registers")

    def __init__(self, registers: dict[str, Register], lattices: dict[str, Any]) -> None:
        self.registers = registers
        self.lattices = lattices

    def copy(self) -> Document:
        return Document(dict(self.registers), dict(self.lattices))

    @property
    def contested(self) -> bool:
        """Whether any register holds concurrent versions."""
        for versions in self.registers.values():  # noqa: SIM110 — a generator takes three times as long
            if len(versions) > 1:
                return True
        return False


def merge(rules: Rules, ours: Document, theirs: Document) -> Document:
    """The least upper bound of two states of one document."""
    if not (ours.registers or ours.lattices or theirs.lattices):
        return theirs
    merged = ours.copy()
    for name, versions in theirs.registers.items():
        merged.registers[name] = registers.merge(merged.registers.get(name, ()), versions)
    for field, state in theirs.lattices.items():
        lattice = rules.lattices[field]
        merged.lattices[field] = lattice.merge(merged.lattices.get(field, lattice.empty()), state)
    return merged


def delta_of(rules: Rules, entry: Entry, change: Change) -> Document:
    """A change as a state, ready to be merged.

    Raises HostileEntry where the change does not fit the collection, so that the caller can park it.
    """
    if change.operation not in _OPERATIONS:
        raise HostileEntry(f"the change of {rules.name}/{change.key} is no operation: {change.operation}")
    versions: dict[str, Register] = {}
    for name, value in change.registers.items():
        if name != WHOLE and not rules.knows(name):
            raise HostileEntry(
                f"collection {rules.name!r} has no register {name!r}; is this region's schema older?"
            )
        if value is not None:
            check_value(rules, change.key, name, value)
        versions[name] = (
            Version(
                entry.origin,
                entry.seq,
                entry.stamp,
                entry.uncertainty_ms,
                change.operation,
                entry.context,
                value,
            ),
        )
    lattices: dict[str, Any] = {}
    for field, delta in change.deltas.items():
        lattice = rules.lattices.get(field)
        if lattice is None:
            raise HostileEntry(
                f"collection {rules.name!r} has no mergeable field {field!r}; is its schema older here?"
            )
        lattices[field] = lattice.decode(delta)
    return Document(versions, lattices)


def check_value(rules: Rules, key: str, register: str, value: bytes) -> None:
    """Raises HostileEntry for what no writer could have put into the register."""
    try:
        _any_json(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise HostileEntry(f"the value of {rules.name}/{key} is not JSON") from None
    if register == WHOLE and value[:1] != b"{":
        raise HostileEntry(f"the value of {rules.name}/{key} is not a JSON object")


def succeeded(row: Row | None, context: Mapping[str, int]) -> bool:
    """Whether a write of the whole document leaves nothing of this row, its writer having seen `context`.

    So it is with nearly every write; `row_of` then says what comes after it, without a `Document`.
    """
    if row is None:
        return True
    try:
        held = _decode_dots(row.meta).registers
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False  # for `decode_row` to report
    versions = held.get(WHOLE, ())
    return len(held) == len(versions) == 1 and context.get(versions[0].region, 0) >= versions[0].seq


def row_of(version: Version) -> Row:
    """The row of a document that is one register (`Rules.simple`) and holds this version alone."""
    kept = version if version.value is None else _valued(version, _ELSEWHERE)
    return Row(version.value, _encode_meta(_Meta({WHOLE: (kept,)})))


def decode_row(rules: Rules, row: Row) -> Document:
    """Raises StoreCorrupt."""
    try:
        meta = _decode_meta(row.meta)
        lattices = {field: rules.lattices[field].restore(data) for field, data in meta.lattices.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, HostileEntry, KeyError) as error:
        raise StoreCorrupt(
            f"the merge state of a document in {rules.name!r} cannot be read: {error}"
        ) from error
    whole = meta.registers.get(WHOLE)
    if whole is not None and len(whole) == 1 and whole[0].value == _ELSEWHERE:
        meta.registers[WHOLE] = (_valued(whole[0], row.value),)
    return Document(meta.registers, lattices)


def encode_row(rules: Rules, document: Document) -> Row:
    value = visible(rules, document)
    kept = document.registers
    if rules.simple and value is not None and len(kept[WHOLE]) == 1:
        return row_of(kept[WHOLE][0])
    lattices = {field: rules.lattices[field].encode(state) for field, state in document.lattices.items()}
    return Row(value, _encode_meta(_Meta(kept, lattices)))


def _valued(version: Version, value: bytes | None) -> Version:
    """The version with another value. (`msgspec.structs.replace` takes four times as long.)"""
    return Version(
        version.region,
        version.seq,
        version.stamp,
        version.uncertainty_ms,
        version.operation,
        version.context,
        value,
    )


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
    if rules.simple or plain is None:
        return plain
    members: list[bytes] = []
    if rules.per_field:
        for field in rules.plain:
            versions = document.registers.get(field)
            if versions:
                shown = versions[0].value if len(versions) == 1 else rules.strategy(field)(versions).value
                if shown is not None:
                    members.append(_member(field, shown))
    elif len(plain) > 2:
        members.append(plain[1:-1])
    for field, lattice in rules.lattices.items():
        state = document.lattices.get(field)
        members.append(
            _member(field, msgspec.json.encode(lattice.value(lattice.empty() if state is None else state)))
        )
    members.extend(_member(field, _map_value(rules, document, field)) for field in sorted(rules.maps))
    return b"{" + b",".join(members) + b"}"


def _member(name: str, value: bytes) -> bytes:
    return msgspec.json.encode(name) + b":" + value


def map_members(rules: Rules, document: Document, field: str) -> dict[str, bytes]:
    """The members of a map field that are shown: name → JSON text."""
    members: dict[str, bytes] = {}
    start = field + "."
    for name in sorted(document.registers):
        if name.startswith(start):
            value = rules.strategy(name)(document.registers[name]).value
            if value is not None:
                members[name[len(start) :]] = value
    return members


def _map_value(rules: Rules, document: Document, field: str) -> bytes:
    members = map_members(rules, document, field)
    return b"{" + b",".join(_member(name, value) for name, value in members.items()) + b"}"


def siblings(rules: Rules, document: Document) -> tuple[Version, ...]:
    """The concurrent versions that the application must choose from; empty when nothing is left to it."""
    whole = document.registers.get(WHOLE, ())
    if len(whole) < 2 or rules.strategy(WHOLE)(whole).outcome != "manual":
        return ()
    return whole


def digest(rules: Rules, key: str, document: Document) -> bytes:
    """16 bytes, equal in every region that has seen the same operations on this document."""
    hashed = blake2b(key.encode(), digest_size=16)
    for name in sorted(document.registers):
        hashed.update(_encode_meta((name, document.registers[name])))
    for field in sorted(document.lattices):
        hashed.update(_encode_meta((field, rules.lattices[field].canonical(document.lattices[field]))))
    return hashed.digest()


def bucket_of(key: str, buckets: int) -> int:
    """Which of `buckets` a key falls into: the same in every region."""
    return int.from_bytes(blake2b(key.encode(), digest_size=4).digest()) % buckets
