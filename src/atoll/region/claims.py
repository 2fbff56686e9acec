"""Unique fields of strong collections: the claims that a transaction takes and frees with its documents."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from atoll.causality.types import Stamp
from atoll.commit import idempotency
from atoll.commit.identity import Address
from atoll.consensus.claims import (
    Claim,
    claim_of,
    claims_between,
    holder_of,
    may_move,
)
from atoll.consensus.decided import Memory, Placed, wanted
from atoll.documents.mutation import Mutation
from atoll.documents.rules import Rules
from atoll.documents.unique import Value, supposed, values_of
from atoll.errors import ClaimsChanged, DeclarationError, InvalidOperation, RequestError
from atoll.region.concluding import Asked
from atoll.region.holders import check_held
from atoll.region.registers import Registers
from atoll.schema.system import CLAIMS
from atoll.store.port import Documents, Store

MOST_REGISTERS: Final = 300
"""A transaction holds so many documents and claims at most: each of them names all others."""
_AT_ONCE: Final = 1000

_Moves = tuple[Mapping[str, Value], Mapping[str, Value]]


class Claims:
    """Of one node."""

    def __init__(self, rules: Mapping[str, Rules], registers: Registers, store: Documents) -> None:
        self._rules = {name: each for name, each in rules.items() if each.schema.unique}
        self._registers = registers
        self._store = store

    def concern(self, mutation: Mutation) -> bool:
        """Whether it may take or free a claim."""
        rules = self._rules.get(mutation.collection)
        return rules is not None and may_move(rules, mutation)

    async def beside(self, asked: Asked, *, sure: bool) -> Asked:
        """The transaction with its claims.

        Which these are depends on what the documents are. That is what this region shows of them; `sure`: what a
        majority has decided. Either may change until the documents are held: see `check`. Raises UniqueViolation
        where two of its documents have one value, InvalidOperation where it has too many. Raises what
        `Registers.committed` raises.
        """
        found: dict[Address, _Moves] = {}
        for address, mutations in asked.held.items():
            rules = self._rules.get(address[0])
            if rules is not None and any(may_move(rules, each) for each in mutations):
                moves = self._decided if sure else self._shown
                found[address] = await moves(rules, address, asked)
        claims = claims_between((address, *moves) for address, moves in found.items())
        if len(asked.held) + len(claims) > MOST_REGISTERS:
            raise InvalidOperation(
                f"a transaction holds at most {MOST_REGISTERS} strong documents and values of unique fields, this one"
                f" {len(asked.held) + len(claims)}"
            )
        return asked._replace(held={**asked.held, **{at: (claim,) for at, claim in claims.items()}})

    async def _shown(self, rules: Rules, address: Address, asked: Asked) -> _Moves:
        row = await self._store.get(*address)
        before = values_of(rules, None if row is None else row.value)
        return before, supposed(rules, before, asked.held[address])

    async def _decided(self, rules: Rules, address: Address, asked: Asked) -> _Moves:
        value = await self._registers.committed(address)
        before, after = values_of(rules, value.value), value
        key = asked.write.idempotency_key
        made = key is not None and Memory(value).find(idempotency.identifier(key)) is not None
        with contextlib.suppress(RequestError):  # what is refused takes nothing, and the register says why
            after = wanted(rules, value, asked.held[address], Stamp(value.stamp), None) or value
        return before, before if made else values_of(rules, after.value)

    def check(self, asked: Asked, values: Mapping[Address, Placed]) -> None:
        """Raise ClaimsChanged unless the claims are those that the documents need, now that all are held."""
        needed = claims_between(
            (address, *self._held(address[0], placed))
            for address, placed in values.items()
            if address[0] in self._rules
        )
        held: dict[Address, Sequence[Mutation | Claim]] = {
            at: mutations for at, mutations in asked.held.items() if at[0] == CLAIMS
        }
        if held != {at: (claim,) for at, claim in needed.items()}:
            raise ClaimsChanged(
                "others have changed unique fields of these documents all the time; nothing was done: try again"
            )

    def _held(self, collection: str, placed: Placed) -> _Moves:
        rules = self._rules[collection]
        before = values_of(rules, placed.before.value)
        return before, before if placed.after is None else values_of(rules, placed.after.value)


async def check_unique(due: Iterable[Rules], store: Store) -> None:
    """Raise DeclarationError where a field of documents that are stored was declared unique afterwards.

    `due`: collections whose declaration is another than that of their documents. Raises what the store raises.
    """
    for rules in due:
        await (_check_claimed if rules.schema.policy.by_quorum else check_held)(rules, store)


async def _check_claimed(rules: Rules, store: Store) -> None:
    """Raise DeclarationError where a collection has documents that were written without their claims, or the reverse.

    So it is where `unique=True` was declared after they were written. Raises what the store raises.
    """
    name = rules.name
    after: str | None = None
    while rows := (await store.scan(name, after=after, limit=_AT_ONCE)).rows:
        for key, row in rows:
            for value in values_of(rules, row.value).values():
                claim = await store.get(*claim_of(name, value))
                if claim is None or holder_of(claim.value) != key:
                    raise _unclaimed(f"{name}/{key} has the value {value.json.decode()[:200]}", value.field)
        after = rows[-1][0]
    for field in rules.schema.unique:
        prefix, after = f"{name}/{field}/", None
        while rows := (await store.scan(CLAIMS, prefix=prefix, after=after, limit=_AT_ONCE)).rows:
            for at, row in rows:
                key = holder_of(row.value) or ""
                document = await store.get(name, key)
                shown = values_of(rules, None if document is None else document.value).get(field)
                if shown is None or claim_of(name, shown) != (CLAIMS, at):
                    raise _unclaimed(f"{name}/{key} has another value than it had", field)
            after = rows[-1][0]


def _unclaimed(what: str, field: str) -> DeclarationError:
    return DeclarationError(
        f"{what}, and was written when {field} was not unique; a field of documents that exist cannot become unique:"
        " declare the former collection again, export it, and import it into a new one"
    )
