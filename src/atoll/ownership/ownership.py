"""Which region may take a write.

The one seam for moving ownership later: everything asks `Ownership`, nothing asks a placement directly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from atoll.commit.identity import Address
from atoll.documents.mutation import Delete, Mutation, Patch, Put, Transfer, Write
from atoll.documents.raw import raw_members
from atoll.documents.rules import Rules
from atoll.errors import InvalidDocument, InvalidOperation, OwnershipFixed, RegionUnreachable
from atoll.membership.heirs import Heirs
from atoll.membership.members import Members
from atoll.schema.application import CollectionSchema
from atoll.schema.placement import Everywhere, HomeRegion
from atoll.store.port import Row

Stored = Callable[[Address], Row | None]
"""What the store holds of a document."""
Seen = Mapping[str, Any] | None
"""What a placement looks at of a document; None where there is none."""


class Ownership:
    """Pure decisions over what the store holds: made before a write is queued, and once more in its transaction."""

    def __init__(self, region: str, members: Members, rules: Mapping[str, Rules]) -> None:
        self._region = region
        self._members = members
        self._rules = rules
        self._owned = frozenset(
            name for name, each in rules.items() if not isinstance(each.schema.policy.placement, Everywhere)
        )

    @property
    def heirs(self) -> Heirs:
        """Who has the rights of regions that have left."""
        return self._members.heirs

    def concerns(self, write: Write) -> bool:
        """Whether any of its documents may have an owner at all."""
        return bool(self._owned) and any(mutation.collection in self._owned for mutation in write.mutations)

    def concerns_reads(self, collection: str) -> bool:
        """Whether a read that a peer asks for may be one of the owner's."""
        return collection in self._owned

    def concerned(self, write: Write) -> list[Address]:
        """The documents that must be looked at before `of_write` can say whose the write is."""
        return [
            (mutation.collection, mutation.key)
            for mutation in write.mutations
            if mutation.collection in self._owned
            and not isinstance(mutation, Transfer)
            and isinstance(self._rules[mutation.collection].schema.policy.placement, HomeRegion)
        ]

    def seen(self, collection: str, row: Row | None) -> Seen:
        """What `of_write` needs of a document that is stored so."""
        return None if row is None else _seen(self._rules[collection].schema, row.value)

    def of_write(self, write: Write, stored: Callable[[Address], Seen]) -> str | None:
        """The region that must commit it; None when any may.

        Raises OwnershipFixed, and InvalidOperation for a batch over several owners.
        """
        if not self.concerns(write):
            return None
        owners = {self._of_mutation(mutation, stored) for mutation in write.mutations} - {None}
        if len(owners) > 1:
            raise InvalidOperation(
                f"one batch cannot write documents of several owners ({', '.join(sorted(map(str, owners)))}); "
                "send one batch to each"
            )
        return owners.pop() if owners else None

    def admit(self, write: Write, stored: Stored) -> None:
        """In the write's transaction. Raises RegionUnreachable if another region has become the owner meanwhile."""
        owner = self.of_write(write, lambda address: self.seen(address[0], stored(address)))
        if owner not in (None, self._region):
            raise RegionUnreachable(
                f"{owner} became the owner of this document just now; send the write again", region=owner
            )

    def of_document(self, collection: str, key: str, row: Row | None) -> str | None:
        """The owner of a document that is stored as `row`, as far as this region knows."""
        if collection not in self._owned:
            return None
        schema = self._rules[collection].schema
        return self._taker(schema, key, _home(schema, self._members.regions, key, self.seen(collection, row)))

    def _of_mutation(self, mutation: Mutation, stored: Callable[[Address], Seen]) -> str | None:
        if mutation.collection not in self._owned or isinstance(mutation, Transfer):
            return None
        schema, regions, key = self._rules[mutation.collection].schema, self._members.regions, mutation.key
        document = before = stored((mutation.collection, key))
        match mutation:
            case Put():
                document = mutation.fields or _seen(schema, mutation.plain)
            case Patch():
                given = {
                    s.field: s.argument for s in mutation.steps if s.operator == "$set" and s.member is None
                }
                document = {**(before or {}), **given}
            case Delete():
                pass
        wanted = _home(schema, regions, key, document)
        current = None if before is None else _home(schema, regions, key, before)
        if wanted != current:
            _check_member(schema, regions, key, wanted)
        if wanted != current and current in regions:
            raise OwnershipFixed(
                f"{mutation.collection}/{key} belongs to {current}, and a write cannot move it to {wanted}; "
                "delete it and create it again",
                owner=current,
            )
        return self._taker(schema, key, wanted if current is None else current)

    def _taker(self, schema: CollectionSchema, key: str, home: str | None) -> str | None:
        """Whoever takes writes for a document's home. Each document of one that has left falls to one of the others."""
        regions = self._members.regions
        return home if home is None or home in regions else rendezvous(regions, f"{schema.name}\x00{key}")


def _seen(schema: CollectionSchema, text: bytes | None) -> Seen:
    """Large documents are only passed over: decoding one could stop the event loop."""
    placement = schema.policy.placement
    if text is None or not isinstance(placement, HomeRegion):
        return None if text is None else {}
    home = raw_members(text).get(placement.field)
    return {} if home is None else {placement.field: msgspec.json.decode(home)}


def owner_by_declaration(
    schema: CollectionSchema, regions: tuple[str, ...], key: str, document: Mapping[str, Any] | None
) -> str | None:
    """Who takes a document that is new, going by what the collection declares; None when any region may.

    Raises InvalidDocument for a region that is not there.
    """
    home = _home(schema, regions, key, document)
    _check_member(schema, regions, key, home)
    return home


def _home(
    schema: CollectionSchema, regions: tuple[str, ...], key: str, document: Mapping[str, Any] | None
) -> str | None:
    """None when any region takes writes, or only the stored document could tell. It need not be a member."""
    if isinstance(schema.policy.placement, Everywhere):
        return None
    return schema.policy.placement.owner(key, document)


def _check_member(schema: CollectionSchema, regions: tuple[str, ...], key: str, home: str | None) -> None:
    if home is not None and home not in regions:
        raise InvalidDocument(
            f"{schema.name}/{key} names {home!r} as its region; the regions are {', '.join(regions)}",
            region=home,
        )


def rendezvous(regions: tuple[str, ...], name: str) -> str:
    """Highest random weight (Thaler and Ravishankar, 1998): a region that leaves moves only what it owned."""
    return max(regions, key=lambda region: blake2b(f"{region}\x00{name}".encode(), digest_size=8).digest())
