"""The value of a consensus register: one document, and the answers to its latest writers.

A value is what readers see, as JSON: mergeable fields have no concurrent operations here. Each change makes the next
revision. The register also remembers its latest changes by their identifiers. So a change that is proposed again,
in this region or in another one, is made once.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any, Final

import msgspec

from atoll.causality.clock import stamp_ms
from atoll.causality.origin import Origin
from atoll.causality.types import RegionName, Seq, Stamp
from atoll.commit.draft import Draft, written_of
from atoll.commit.identity import Address
from atoll.consensus.claims import Claim
from atoll.consensus.outcome import Outcome
from atoll.consensus.references import Beside
from atoll.documents import decided
from atoll.documents.decided import DECIDED, Decision, Dotted
from atoll.documents.document import (
    ELSEWHERE,
    Document,
    carried_over,
    decode_row,
    dots_in,
    row_of,
    version_of,
    visible,
)
from atoll.documents.entry import Change, LosingVersion
from atoll.documents.mutation import Mutation, Put, Written
from atoll.documents.register import Operation, Version
from atoll.documents.rules import WHOLE, Rules
from atoll.lattices.base import Actor
from atoll.store.port import Row

MOST_REMEMBERED: Final = 256
"""Changes; and as many that are doubted."""
REMEMBERED_MS: Final = 300_000
_CARRIED_BYTES: Final = 16 << 10
"""Of records for the audit, at most; and the newest one."""
_ALONE: Final = Actor(Origin("alone"), (RegionName("alone"),), ())
"""Who operates on mergeable fields: the register orders all operations, so there is one."""


class Made(msgspec.Struct, array_like=True, frozen=True):
    """A change that the register has made."""

    id: bytes
    fingerprint: bytes
    """Of the write: an identifier that comes back with another one is refused."""
    revision: int
    stamp: int
    doubted: bool = False
    """Whether another region may propose it later, too. So it is remembered for the whole time."""
    refused: tuple[str, str] | None = None
    """Of a doubted one that was refused, and must not be made later: type and message of the error."""


class Intent(msgspec.Struct, array_like=True, frozen=True):
    """What a transaction wants of a register, which it holds until its outcome is known: see `consensus.outcome`."""

    transaction: str
    region: str
    """Where its coordinator is."""
    age: int
    """The stamp of its first attempt."""
    participants: tuple[str, ...] = ()
    """All registers that the transaction holds."""
    after: Decided | None = None
    """The register if the transaction commits; None where it only has to stay as it is."""
    made: Made | None = None
    """The change that the register then remembers."""

    @property
    def rank(self) -> tuple[int, str, str]:
        """The older of two transactions goes on. Regions may give one stamp to two: then neither would."""
        return self.age, self.region, self.transaction


class Lost(msgspec.Struct, array_like=True, frozen=True):
    """A version that was dropped when it, or what it lost to, was folded in: see `consensus.folding`."""

    stamp: int
    """Of the revision that dropped it."""
    record: LosingVersion


class Decided(msgspec.Struct, array_like=True, frozen=True):
    """The value of a register."""

    revision: int = 0
    """0 for a document that no quorum has decided yet."""
    stamp: int = 0
    operation: int = 0
    value: bytes | None = None
    """The document as JSON text; None when absent."""
    base: dict[str, int] = {}
    """What of ordinary origins it has seen: see `documents.decided`."""
    made: tuple[Made, ...] = ()
    """The latest changes, the newest last."""
    intent: Intent | None = None
    """Of an unfinished transaction: until its outcome is known nothing else may change the register."""
    lost: tuple[Lost, ...] = ()
    """What was dropped lately, for the audit of every region."""

    @property
    def over(self) -> bool:
        """Whether the document is absent, and nobody waits for anything. What it remembers may be needed yet."""
        return self.value is None and self.intent is None


class Placed(msgspec.Struct, array_like=True, frozen=True):
    """A register holds the intent of a transaction."""

    before: Decided
    """Without what it remembers."""
    after: Decided | None = None
    made: bytes | None = None
    """There is no intent: an earlier attempt with the same identifier has made a change, of this fingerprint."""


_encode = msgspec.msgpack.Encoder(order="sorted").encode
_decode = msgspec.msgpack.Decoder(Decided).decode


def encoded(value: Decided) -> bytes:
    """As acceptors keep it."""
    return _encode(value)


def decoded(data: bytes | None) -> Decided:
    """Raises msgspec.DecodeError."""
    return _decode(data) if data else Decided()


class _Revision(msgspec.Struct, array_like=True, frozen=True):
    """The beginning of a `Decided`: what follows is left unread."""

    revision: int = 0


_decode_revision = msgspec.msgpack.Decoder(_Revision).decode


def revision_of(data: bytes) -> int:
    """Of an encoded value. Raises msgspec.DecodeError."""
    return _decode_revision(data).revision if data else 0


def initial(rules: Rules, row: Row | None) -> Decided:
    """The value of a register that no quorum has decided yet: the document as it was written before."""
    if row is None:
        return Decided()
    document, tentative = decode_row(rules, row), rules.schema.policy.writes_when_cut_off
    value, base = visible(rules, document), _ordinary({}, document.registers.get(WHOLE, ()))
    for version in document.registers.get(WHOLE, ()):
        if version.origin == DECIDED:  # acceptors have dropped it
            if tentative:
                value, base = version.value, {k: seq for k, seq in version.context.items() if k != DECIDED}
            return Decided(version.seq, version.stamp, version.operation, value, base)
    return Decided() if tentative else Decided(value=value, base=base)  # what is tentative is folded in


def _ordinary(base: dict[str, int], versions: Iterable[Dotted]) -> dict[str, int]:
    """What of ordinary origins is seen by whoever has seen `base` and these versions."""
    if all(version.origin == DECIDED for version in versions):
        return base
    seen = dict(base)
    for version in versions:
        if version.origin != DECIDED:
            seen[version.origin] = max(version.seq, seen.get(version.origin, 0))
    return seen


def changed(rules: Rules, before: Decided, mutation: Mutation, stamp: Stamp, row: Row | None) -> Decided:
    """The register after one more change; `before` itself where there is nothing to change.

    A document that is created gets a revision by its time, in milliseconds. So it is above all revisions of former
    documents of that key. Acceptors may have dropped those, and this region may have lost its disk since.

    `row` is the document as it is stored here. Raises NotFound, VersionMismatch, BoundExceeded, InvalidOperation.
    """
    if rules.simple and type(mutation) is Put and mutation.if_match is None and not mutation.if_absent:
        value: bytes | None = carried_over(rules, before.value, mutation.plain)  # nearly every write
    else:
        document = _as_document(rules, mutation.key, before)
        draft = Draft(rules, mutation.key, document, row_for(before), dot=_dot(before), actor=_ALONE)
        draft.mutate(mutation)
        if draft.empty:
            return before
        value = visible(rules, draft.document)
    base = before.base
    if row is not None and not rules.schema.policy.writes_when_cut_off:
        base = _ordinary(base, dots_in(row))
    operation = Operation.INSERT if before.value is None else Operation.UPDATE
    return Decided(
        max(before.revision + 1, stamp_ms(stamp) if before.value is None else 0),
        max(stamp, before.stamp + 1),
        Operation.DELETE if value is None else operation,
        value,
        base,
        before.made,
        lost=carried(before.lost, stamp),
    )


def carried(lost: Sequence[Lost], stamp: int) -> tuple[Lost, ...]:
    """Those that the next revision carries, too: the latest ones, for a few minutes."""
    kept: list[Lost] = []
    room, since_ms = _CARRIED_BYTES, (stamp >> 16) - REMEMBERED_MS
    for each in reversed(lost):
        room -= len(each.record.body)
        if (kept and room < 0) or each.stamp >> 16 <= since_ms:
            break
        kept.append(each)
    return tuple(reversed(kept))


def wanted(
    rules: Rules,
    before: Decided,
    mutations: Sequence[Mutation | Claim | Beside],
    stamp: Stamp,
    row: Row | None,
) -> Decided | None:
    """What the mutations of one transaction make of a register: one more revision, or None where nothing changes.

    Raises what `changed` raises, and UniqueViolation.
    """
    after = before
    for each in mutations:
        mutation = each.on(after.value) if isinstance(each, Claim | Beside) else each
        if mutation is not None:
            after = changed(rules, after, mutation, stamp, row)
    if after is before:
        return None
    first = max(before.revision + 1, stamp_ms(stamp) if before.value is None else 0)
    return msgspec.structs.replace(after, revision=first, made=(), intent=None)


def resolved(register: str, value: Decided, outcome: Outcome) -> Decided:
    """The register without its intent.

    A message that comes late may put the intent of a transaction that is over on a register again. So what it wants
    is done only on the revision that the outcome names.
    """
    intent = value.intent
    assert intent is not None
    after = intent.after
    if after is None or not outcome.committed or outcome.revisions.get(register) != value.revision:
        return msgspec.structs.replace(value, intent=None)
    after = msgspec.structs.replace(after, made=value.made)
    return after if intent.made is None else remembering(after, intent.made)


def remembering(value: Decided, made: Made) -> Decided:
    """With one more change that was made."""
    memory = Memory(value)
    memory.add(made)
    return memory.kept_in(value)


def forgetting(value: Decided, over: Container[bytes]) -> Decided:
    """Without changes that nobody will propose again: it would be for nothing to remember them.

    Not while so many are remembered that others may have been dropped: `Memory.since` tells that by their number.
    """
    if sum(not each.doubted for each in value.made) >= MOST_REMEMBERED:
        return value
    kept = tuple(each for each in value.made if each.id not in over)
    return value if len(kept) == len(value.made) else msgspec.structs.replace(value, made=kept)


class Memory:
    """The changes that a register has made lately, while more are made."""

    def __init__(self, value: Decided) -> None:
        self._before = value.made
        self._made = list(value.made)
        self._found = {each.id: each for each in reversed(self._made)}

    def find(self, id: bytes) -> Made | None:
        """What became of a change, as far as that is remembered."""
        return self._found.get(id)

    def add(self, made: Made) -> None:
        self._made.append(made)
        self._found.setdefault(made.id, made)

    def kept_in(self, value: Decided) -> Decided:
        """The value, with what is remembered of all changes up to it."""
        made = self.made
        return value if made is value.made else msgspec.structs.replace(value, made=made)

    @property
    def made(self) -> tuple[Made, ...]:
        """Those that are kept from now on."""
        if len(self._made) == len(self._before):
            return self._before
        *earlier, newest = self._made
        kept = [newest]
        room, since_ms = MOST_REMEMBERED - (not newest.doubted), (newest.stamp >> 16) - REMEMBERED_MS
        for each in reversed(earlier):
            if each.stamp >> 16 <= since_ms:
                break
            if each.doubted or room > 0:
                kept.append(each)
            room -= not each.doubted
        return tuple(reversed(kept))

    def since(self, revision: int) -> bool:
        """Whether all changes after a revision are remembered, and one more that is doubted would be."""
        made = self.made
        certain = [each.revision for each in made if not each.doubted]
        complete = len(certain) < MOST_REMEMBERED or certain[0] <= revision + 1
        return complete and len(made) - len(certain) < MOST_REMEMBERED


def row_for(value: Decided) -> Row | None:
    """How the document is stored once it is learned; None for one that was never written."""
    if not value.revision:
        return None
    version = version_in(value)
    return row_of(
        value.value, version if value.value is None else version_of(version, version.operation, ELSEWHERE)
    )


def written(address: Address, value: Decided) -> Written:
    """What a client is told of the document."""
    return written_of(address, row_for(value))


def change_of(address: Address, value: Decided) -> Change:
    """The change of a journal entry that brings the value to every region."""
    decision = Decision(value.revision, Stamp(value.stamp), value.base)
    lost = tuple(each.record for each in value.lost)
    return Change(*address, value.operation, {WHOLE: value.value}, {DECIDED: decided.encode(decision)}, lost)


def version_in(value: Decided) -> Version:
    """The register's value as a version of the document."""
    return decided.version(
        Decision(value.revision, Stamp(value.stamp), value.base), value.operation, value.value
    )


def _dot(value: Decided) -> Version:
    return Version(Origin("alone"), Seq(value.revision + 1), Stamp(value.stamp + 1), 0, 0, {}, None)


def _as_document(rules: Rules, key: str, value: Decided) -> Document:
    """The parts that mutations work on, made of what readers see."""
    if value.value is None:
        return Document({}, {})
    if rules.simple:
        return Document({WHOLE: (version_of(_dot(Decided()), 0, value.value),)}, {})
    fields: dict[str, Any] = msgspec.json.decode(value.value)
    others = rules.lattices.keys() | rules.maps
    plain = msgspec.json.encode({name: value for name, value in fields.items() if name not in others})
    draft = Draft(rules, key, Document({}, {}), None, dot=_dot(Decided()), actor=_ALONE)
    draft.mutate(Put(rules.name, key, plain, fields))
    return draft.document
