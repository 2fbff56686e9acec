"""References between strong documents: what a transaction needs besides, so that none ever dangles.

A transaction that makes a document refer also holds the document that it refers to, which must be there. It counts the
reference in a strong document of the system collection `_referred`. A transaction that deletes a document holds that
count, which must be nothing. So of a reference and a deletion at once, whichever region asks for them, one succeeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from atoll.commit.identity import Address
from atoll.documents.mutation import Delete, Patch, Put
from atoll.documents.references import counted, kept_at, referred_by, targets_in, targets_of, unknown
from atoll.documents.rules import Rules
from atoll.errors import ClaimsChanged
from atoll.schema.references import Referring
from atoll.schema.system import REFERRED

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
    """The document is deleted: no reference may be left. Those by these fields are deleted with it."""

    def on(self, before: bytes | None) -> Put | Delete | None:
        """What it makes of the count; None where nothing changes. Raises ReferenceViolation, ClaimsChanged."""
        former = counts_of(before)
        after = {name: former.get(name, 0) + self.changes.get(name, 0) for name in former | self.changes}
        after = {name: count for name, count in sorted(after.items()) if count}
        if self.cascades is not None:
            for name, count in after.items():
                if name in self.cascades or count < 0:
                    raise ClaimsChanged(
                        f"{'/'.join(self.target)}: documents of which this region does not know yet refer to it by"
                        f" {name}; nothing was done: try again"
                    )
                raise referred_by(name, count, self.target)
        if after == former:
            return None
        if not after:
            return Delete(self.collection, self.key) if before is not None else None
        return Put(self.collection, self.key, msgspec.json.encode({"counts": after}))


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


Beside = Exists | Counted | Cascade


def counts_of(count: bytes | None) -> dict[str, int]:
    """`collection.field` → number of references."""
    return {} if count is None else _counts(count)["counts"]


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


def needed(documents: Mapping[Address, Moves]) -> dict[Address, Exists | Counted]:
    """What a transaction over these documents needs besides, by where it belongs."""
    exist: dict[Address, Exists] = {}
    changes: dict[Address, dict[str, int]] = {}
    gone: dict[Address, tuple[str, ...]] = {}
    for (collection, key), (rules, before, after, deleted) in sorted(
        documents.items(), key=lambda item: item[0]
    ):
        for each in rules.schema.references:
            former, now = before.get(each), after.get(each)
            if former == now:
                continue
            if now is not None:
                exist.setdefault(now, Exists(*now, (collection, key, each.field)))
            for target, by in ((former, -1), (now, 1)):
                if target is not None and each.on_delete != "dangling":
                    of, name = changes.setdefault(target, {}), f"{collection}.{each.field}"
                    of[name] = of.get(name, 0) + by
        if deleted and counted(rules):
            cascades = [each for each in rules.schema.referrers if each.on_delete == "cascade"]
            gone[collection, key] = tuple(f"{each.collection}.{each.field}" for each in cascades)
    found: dict[Address, Exists | Counted] = dict(exist)
    for target in sorted(changes.keys() | gone.keys()):
        place = kept_at(target)
        found[REFERRED, place] = Counted(
            REFERRED, place, target, dict(sorted(changes.get(target, {}).items())), gone.get(target)
        )
    return found


def check_referred(
    rules: Rules, key: str, before: bytes | None, after: bytes | None, held: Iterable[str]
) -> None:
    """Raise ClaimsChanged where references change, and `held` lacks a register that has to be held with them.

    Every change of a register passes here, whichever region asks for it.
    """
    schema = rules.schema
    if not (schema.references or schema.referrers) or before == after:
        return
    gone = before is not None and after is None
    moves = Moves(rules, targets_of(rules, before), targets_of(rules, after), gone)
    if missing := {"/".join(at) for at in needed({(rules.name, key): moves})} - {*held}:
        raise ClaimsChanged(
            f"{rules.name}/{key} would change without {min(missing)}; repeat the write, once all regions have the same"
            " declarations"
        )
