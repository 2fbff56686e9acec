"""References between strong documents: what a transaction needs besides, so that none ever dangles.

A transaction that makes a document refer also holds the document that it refers to, which must be there. It counts the
reference in a strong document of the system collection `_referred`. A transaction that deletes a document holds that
count, which must be nothing. So of a reference and a deletion at once, whichever region asks for them, one succeeds.

A mark in the system collection `_counted` says where the reference of a document is counted. The same transaction
changes it. So each count is the number of its marks, and each reference is counted once, whatever became of documents
while their field was no reference. See `region.counting` for how they get their marks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from atoll.commit.identity import Address
from atoll.documents.mutation import Delete, Patch, Put
from atoll.documents.references import (
    counted,
    kept_at,
    place_of,
    referred_by,
    targets_in,
    targets_of,
    unknown,
)
from atoll.documents.rules import Rules
from atoll.errors import ClaimsChanged
from atoll.schema.references import Referring
from atoll.schema.system import MARKS, REFERRED


class Mark(msgspec.Struct, frozen=True):
    """What `_counted` says of a reference."""

    referrer: str
    """The document's key."""
    target: tuple[str, str]
    """Collection and key of what it is counted at."""


_mark = msgspec.json.Decoder(Mark).decode
_counts = msgspec.json.Decoder(type=dict[str, dict[str, int]]).decode


class Exists(msgspec.Struct, frozen=True, array_like=True, tag="exists"):
    """The document must be there: another one refers to it."""

    collection: str
    key: str
    referrer: tuple[str, str, str]
    """Collection, key and field."""

    def on(self, before: bytes | None) -> Put | Delete | None:
        """Raises ReferenceViolation."""
        if before is None:
            raise unknown(self.referrer, (self.collection, self.key))
        return None


class Counted(msgspec.Struct, frozen=True, array_like=True, tag="counted"):
    """What a transaction changes of the number of references to a document."""

    collection: str
    """Of the count: `REFERRED`."""
    key: str
    target: tuple[str, str]
    changes: dict[str, int]
    """`collection.field` → by how many."""
    cascades: tuple[str, ...] | None
    """The document is deleted. Those that refer to it by these fields are deleted with it."""
    restricts: tuple[str, ...] = ()
    """Then no reference by these fields may be left."""

    def on(self, before: bytes | None) -> Put | Delete | None:
        """What it makes of the count; None where nothing changes. Raises ReferenceViolation, ClaimsChanged."""
        former = counts_of(before)
        after = {name: former.get(name, 0) + self.changes.get(name, 0) for name in former | self.changes}
        after = {name: count for name, count in sorted(after.items()) if count}
        if self.cascades is not None:
            for name, count in after.items():
                if name in self.restricts and count > 0:
                    raise referred_by(name, count, self.target)
                if name in (*self.cascades, *self.restricts):
                    raise ClaimsChanged(
                        f"{'/'.join(self.target)}: documents of which this region does not know yet refer to it by"
                        f" {name}; nothing was done: try again"
                    )
        if after == former:
            return None
        if not after:
            return Delete(self.collection, self.key) if before is not None else None
        return Put(self.collection, self.key, msgspec.json.encode({"counts": after}))


class Marked(msgspec.Struct, frozen=True, array_like=True, tag="marked"):
    """The reference of a document is counted elsewhere from now on."""

    collection: str
    """Of the mark: `MARKS`."""
    key: str
    referrer: str
    """The document's key."""
    former: tuple[str, str] | None
    """Where it was counted, as the transaction goes by."""
    target: tuple[str, str] | None

    def on(self, before: bytes | None) -> Put | Delete | None:
        """What it makes of the mark; None where nothing changes. Raises ClaimsChanged."""
        if counted_at(before) != self.former:
            raise ClaimsChanged(f"{self.key} is counted elsewhere by now; nothing was done: try again")
        if self.target == self.former:
            return None
        if self.target is None:
            return Delete(self.collection, self.key)
        return Put(self.collection, self.key, msgspec.json.encode(Mark(self.referrer, self.target)))


class Cascade(msgspec.Struct, frozen=True, array_like=True, tag="cascade"):
    """The document is deleted, if it still refers to what is."""

    collection: str
    key: str
    field: str
    target: str
    """The key."""

    def on(self, before: bytes | None) -> Put | Delete | None:
        refers = before is not None and msgspec.json.decode(before).get(self.field) == self.target
        return Delete(self.collection, self.key) if refers else None


Beside = Exists | Counted | Marked | Cascade


def counts_of(count: bytes | None) -> dict[str, int]:
    """`collection.field` → number of references."""
    return {} if count is None else _counts(count)["counts"]


def mark_of(mark: bytes | None) -> Mark | None:
    return None if mark is None else _mark(mark)


def counted_at(mark: bytes | None) -> Address | None:
    """Where a reference is counted; None for nowhere."""
    return None if mark is None else _mark(mark).target


class Moves(NamedTuple):
    """One document of a transaction."""

    rules: Rules
    before: Mapping[Referring, Address]
    after: Mapping[Referring, Address]
    deleted: bool


def supposed(
    rules: Rules, before: Mapping[Referring, Address], mutations: Iterable[object]
) -> dict[Referring, Address]:
    """What a document will refer to, going by the mutations alone."""
    after = dict(before)
    for mutation in mutations:
        if isinstance(mutation, Delete | Cascade):
            after = {}
        elif isinstance(mutation, Put):
            after = targets_in(rules, msgspec.json.decode(mutation.plain))
        elif isinstance(mutation, Patch):
            named = {step.field: step.argument for step in mutation.steps}
            kept = {each: target for each, target in after.items() if each.field not in named}
            after = kept | targets_in(rules, named)
    return after


def marks_of(address: Address, moves: Moves) -> dict[Referring, Address]:
    """The marks of those of its references that change, and are counted."""
    return {
        each: (MARKS, place_of(address[0], each.field, address[1]))
        for each in moves.rules.schema.references
        if each.on_delete != "dangling" and moves.before.get(each) != moves.after.get(each)
    }


def needed(
    documents: Mapping[Address, Moves], marks: Mapping[Address, Address | None]
) -> dict[Address, Exists | Counted | Marked]:
    """What a transaction over these documents needs besides, by where it belongs.

    `marks`: where their references are counted.
    """
    found: dict[Address, Exists | Counted | Marked] = {}
    changes: dict[Address, dict[str, int]] = {}
    gone: dict[Address, Rules] = {}
    for (collection, key), moves in sorted(documents.items(), key=lambda item: item[0]):
        rules, before, after, deleted = moves
        for each in rules.schema.references:
            if (now := after.get(each)) is not None and before.get(each) != now:
                found.setdefault(now, Exists(*now, (collection, key, each.field)))
        for each, mark in marks_of((collection, key), moves).items():
            former, now = marks.get(mark), after.get(each)
            found[mark] = Marked(*mark, key, former, now)
            count(changes, f"{collection}.{each.field}", former, now)
        if deleted and counted(rules):
            gone[collection, key] = rules
    for target in sorted(changes.keys() | gone.keys()):
        found[REFERRED, kept_at(target)] = counted_by(target, changes.get(target, {}), gone.get(target))
    return found


def count(
    changes: dict[Address, dict[str, int]], name: str, former: Address | None, now: Address | None
) -> None:
    """Note that a reference by `name`, which is `collection.field`, is counted elsewhere."""
    for target, by in ((former, -1), (now, 1)):
        if target is not None and former != now:
            of = changes.setdefault(target, {})
            of[name] = of.get(name, 0) + by


def counted_by(target: Address, changes: Mapping[str, int], gone: Rules | None = None) -> Counted:
    """`gone`: of the collection, if the document is deleted."""
    place, by = kept_at(target), dict(sorted(changes.items()))
    if gone is None:
        return Counted(REFERRED, place, target, by, None)
    cascades, restricts = (
        tuple(f"{each.collection}.{each.field}" for each in gone.schema.referrers if each.on_delete == policy)
        for policy in ("cascade", "restrict")
    )
    return Counted(REFERRED, place, target, by, cascades, restricts)


def check_referred(
    rules: Rules, key: str, before: bytes | None, after: bytes | None, held: Iterable[str]
) -> None:
    """Raise ClaimsChanged where references change, and `held` lacks a register that has to be held with them.

    Every change of a register passes here, whichever region asks for it. What the marks say is not known here: they
    have to be held, and refuse what goes by something else.
    """
    schema = rules.schema
    if not (schema.references or schema.referrers) or before == after:
        return
    gone = before is not None and after is None
    moves = Moves(rules, targets_of(rules, before), targets_of(rules, after), gone)
    if missing := {"/".join(at) for at in needed({(rules.name, key): moves}, {})} - {*held}:
        raise ClaimsChanged(
            f"{rules.name}/{key} would change without {min(missing)}; repeat the write, once all regions have the same"
            " declarations"
        )
