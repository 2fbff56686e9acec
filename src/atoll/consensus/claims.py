"""Claims: which document has a value of a unique field.

A claim is a strong document of the system collection `_unique`. It is taken and freed in the transaction that writes
the document. So of all regions that give one value to different documents at once, one succeeds. Whoever frees a value
frees it for everybody, at that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from atoll.commit.identity import Address
from atoll.consensus.references import Cascade, check_referred
from atoll.documents.mutation import Delete, Patch, Put
from atoll.documents.rules import Rules
from atoll.documents.unique import Value, place_of, values_of, violation
from atoll.errors import ClaimsChanged
from atoll.schema.system import CLAIMS

_holder = msgspec.json.Decoder(type=dict[str, str]).decode


def holder_of(claim: bytes | None) -> str | None:
    """The key of the document that has the value; None where it is free."""
    return None if claim is None else _holder(claim)["holder"]


class Claim(msgspec.Struct, frozen=True, array_like=True, tag="claim"):
    """What a transaction wants of one claim: one document gets it, or has had it, or both."""

    collection: str
    """Of the claim: `CLAIMS`."""
    key: str
    taker: str | None
    """The key of the document that has the value from now on."""
    giver: str | None
    """The key of the document that has it no longer."""
    where: tuple[str, str]
    """Collection and field of the value."""
    value: bytes
    """As JSON text."""

    def on(self, before: bytes | None) -> Put | Delete | None:
        """What it makes of the claim; None where nothing changes. Raises UniqueViolation."""
        holder = holder_of(before)
        if self.taker is None:
            return Delete(self.collection, self.key) if holder is not None and holder == self.giver else None
        if holder not in (None, self.taker, self.giver):
            raise violation(self.where, self.taker, self.value, holder)
        if holder == self.taker:
            return None
        return Put(self.collection, self.key, msgspec.json.encode({"holder": self.taker}))


def claim_of(collection: str, value: Value) -> Address:
    """Where the claim of a value is."""
    return CLAIMS, place_of(collection, value)


def check_claims(
    rules: Rules, key: str, before: bytes | None, after: bytes | None, held: Sequence[str] = ()
) -> None:
    """Raise ClaimsChanged where a unique field or a reference changes, and `held` lacks a register for it.

    Every change of a register passes here, whichever region asks for it.
    """
    check_referred(rules, key, before, after, held)
    if not rules.schema.unique or before == after:
        return
    either = set(values_of(rules, before).values()) ^ set(values_of(rules, after).values())
    for value in sorted(either):
        if "/".join(claim_of(rules.name, value)) not in held:
            raise ClaimsChanged(
                f"{rules.name}.{value.field} would change without its claim; repeat the write, once all regions have"
                " the same declarations"
            )


def may_move(rules: Rules, mutation: object) -> bool:
    """Whether a mutation may change what a document has in unique fields.

    A patch that does not name one does not, even where it creates the document: by default they are None.
    """
    unique = rules.schema.unique
    if not unique or not isinstance(mutation, Put | Patch | Delete | Cascade):
        return False
    if isinstance(mutation, Patch) and not rules.schema.has_rules:
        return any(step.field in unique for step in mutation.steps)
    return True


def claims_between(
    documents: Iterable[tuple[Address, Mapping[str, Value], Mapping[str, Value]]],
) -> dict[Address, Claim]:
    """The claims that a transaction takes and frees: address, values before, values after, of each document.

    Raises UniqueViolation where two of the documents would have one value.
    """
    givers: dict[Address, tuple[str, str, Value]] = {}
    takers: dict[Address, tuple[str, str, Value]] = {}
    for (collection, key), before, after in documents:
        for value in before.values():
            if after.get(value.field) != value:
                givers[claim_of(collection, value)] = (collection, key, value)
        for value in after.values():
            if before.get(value.field) == value:
                continue
            at = claim_of(collection, value)
            if at in takers:
                raise violation((collection, value.field), key, value.json, takers[at][1])
            takers[at] = (collection, key, value)
    claims = {}
    for at in sorted(givers.keys() | takers.keys()):
        collection, _, value = takers.get(at) or givers[at]
        taker, giver = takers.get(at), givers.get(at)
        claims[at] = Claim(*at, taker and taker[1], giver and giver[1], (collection, value.field), value.json)
    return claims
