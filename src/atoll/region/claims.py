"""Unique fields of strong collections: the claims that a transaction takes and frees with its documents."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, NamedTuple

from atoll.causality.types import Stamp
from atoll.commit import idempotency
from atoll.commit.identity import Address
from atoll.consensus.claims import (
    Claim,
    claims_between,
    may_move,
)
from atoll.consensus.decided import Memory, Placed, wanted
from atoll.consensus.references import (
    Beside,
    Cascade,
    Counted,
    Exists,
    Marked,
    Moves,
    counted_at,
    marks_of,
    needed,
)
from atoll.consensus.references import supposed as referring_after
from atoll.documents.mutation import Delete, Mutation, Patch, Put
from atoll.documents.references import counted, may_refer, targets_of, unknown
from atoll.documents.rules import Rules
from atoll.documents.unique import Value, supposed, values_of
from atoll.errors import ClaimsChanged, InvalidKey, InvalidOperation, RequestError
from atoll.region.concluding import Asked
from atoll.region.references import referring, shown
from atoll.region.registers import Registers
from atoll.schema.limits import ANY_KEY, validate_key
from atoll.store.port import Documents

MOST_REGISTERS: Final = 300
"""A transaction holds so many documents and claims at most: each of them names all others."""

Marks = Mapping[Address, Address | None]
"""Mark → where it says that a reference is counted."""


async def _whole(_: str) -> None:
    """Counts that nobody has to build."""


class Changed(NamedTuple):
    """What becomes of one document."""

    before: Mapping[str, Value]
    """Of unique fields."""
    after: Mapping[str, Value]
    moves: Moves
    """Of references."""


class Claims:
    """Of one node: what a transaction has to hold beside its documents."""

    def __init__(self, rules: Mapping[str, Rules], registers: Registers, store: Documents) -> None:
        self._rules = {
            name: each
            for name, each in rules.items()
            if each.schema.policy.by_quorum
            and (each.schema.unique or each.schema.references or counted(each))
        }
        self._registers = registers
        self._store = store
        self.whole: Callable[[str], Awaitable[None]] = _whole
        """Raises Unavailable while not all references to documents of a collection are counted."""

    def concern(self, mutation: Mutation | Claim | Beside) -> bool:
        """Whether it may need more than its document."""
        rules = self._rules.get(mutation.collection)
        if rules is None:
            return False
        goes = isinstance(mutation, Delete | Cascade) and bool(rules.schema.references or counted(rules))
        return goes or may_move(rules, mutation) or may_refer(rules, mutation)

    async def beside(self, asked: Asked, *, sure: bool) -> Asked:
        """The transaction with its claims, with what it refers to, and with the deletions that follow from it.

        Which these are depends on what the documents are. That is what this region shows of them; `sure`: what a
        majority has decided. Either may change until the documents are held: see `check`. Raises UniqueViolation
        where two of its documents have one value, and ReferenceViolation for a key that no document can have. Raises
        InvalidOperation where it has too many, and what `Registers.committed` and `whole` raise.
        """
        asked = await self._with_cascades(asked)
        for name in sorted({at[0] for at, mutations in asked.held.items() if _deletes(mutations)}):
            if name in self._rules and counted(self._rules[name]):
                await self.whole(name)
        found: dict[Address, Changed] = {}
        for address, mutations in asked.held.items():
            if any(map(self.concern, mutations)):
                change = self._decided if sure else self._shown
                found[address] = await change(self._rules[address[0]], address, asked)
        more = self._more(found, await self._marks(found, sure=sure))
        held = {at: (*asked.held.get(at, ()), *more.get(at, ())) for at in (*asked.held, *more)}
        if len(held) > MOST_REGISTERS:
            raise InvalidOperation(
                f"a transaction holds at most {MOST_REGISTERS} strong documents, values of unique fields and documents"
                f" that they refer to, this one {len(held)}"
            )
        return asked._replace(held=held)

    async def _marks(self, found: Mapping[Address, Changed], *, sure: bool) -> Marks:
        marks = [mark for at, each in found.items() for mark in marks_of(at, each.moves).values()]

        async def mark_at(at: Address) -> bytes | None:
            return (await self._registers.committed(at)).value if sure else shown(await self._store.get(*at))

        told = await asyncio.gather(*map(mark_at, marks))
        return dict(zip(marks, map(counted_at, told), strict=True))

    @staticmethod
    def _more(found: Mapping[Address, Changed], marks: Marks) -> dict[Address, tuple[Claim | Beside, ...]]:
        claims = claims_between((address, change.before, change.after) for address, change in found.items())
        besides = needed({address: change.moves for address, change in found.items()}, marks)
        for each in besides.values():
            if isinstance(each, Exists):
                try:
                    validate_key(each.key, ANY_KEY)
                except InvalidKey:
                    raise unknown(each.referrer, (each.collection, each.key)) from None
        return {at: (each,) for at, each in (claims | besides).items()}

    async def _with_cascades(self, asked: Asked) -> Asked:
        """Also deleting what refers to what is deleted, as far as this region shows it."""
        held = dict(asked.held)
        queue = [at for at, mutations in held.items() if isinstance(mutations[-1], Delete)]
        seen = set(queue)
        while queue:
            collection, key = queue.pop()
            rules = self._rules.get(collection)
            for referrer in () if rules is None else rules.schema.referrers:
                if referrer.on_delete != "cascade":
                    continue
                for other, _ in await referring(self._store, referrer, key, MOST_REGISTERS + 1):
                    at = (referrer.collection, other)
                    held[at] = (*held.get(at, ()), Cascade(*at, referrer.field, key))
                    if at not in seen:
                        seen.add(at)
                        queue.append(at)
                if len(held) > MOST_REGISTERS:
                    raise InvalidOperation(
                        f"{collection}/{key}: to delete it would delete more documents of {referrer.collection} that"
                        f" refer to it than a transaction holds, {MOST_REGISTERS}; delete some of them first"
                    )
        return asked._replace(held=held)

    async def _shown(self, rules: Rules, address: Address, asked: Asked) -> Changed:
        row, mutations = await self._store.get(*address), asked.held[address]
        text = None if row is None else row.value
        values, targets, there = values_of(rules, text), targets_of(rules, text), text is not None
        for mutation in mutations:
            there = not isinstance(mutation, Delete | Cascade) and (
                there or isinstance(mutation, Put | Patch)
            )
        plain = [Delete(*address) if isinstance(each, Cascade) else each for each in mutations]
        moves = Moves(
            rules, targets, referring_after(rules, targets, mutations), text is not None and not there
        )
        return Changed(values, supposed(rules, values, plain), moves)

    async def _decided(self, rules: Rules, address: Address, asked: Asked) -> Changed:
        value = await self._registers.committed(address)
        key, after = asked.write.idempotency_key, value
        made = key is not None and Memory(value).find(idempotency.identifier(key)) is not None
        if not made:
            with contextlib.suppress(
                RequestError
            ):  # what is refused takes nothing, and the register says why
                after = wanted(rules, value, asked.held[address], Stamp(value.stamp), None) or value
        return _between(rules, value.value, after.value)

    def check(self, asked: Asked, values: Mapping[Address, Placed]) -> None:
        """Raise ClaimsChanged unless it holds what the documents need, now that all are held."""
        if asked.alone:
            return
        found = {
            address: _between(
                self._rules[address[0]],
                placed.before.value,
                placed.before.value if placed.after is None else placed.after.value,
            )
            for address, placed in values.items()
            if address[0] in self._rules
        }
        held = {
            at: tuple(each for each in mutations if isinstance(each, Claim | Exists | Counted | Marked))
            for at, mutations in asked.held.items()
        }
        marks = {
            at: each.former for at, held_at in held.items() for each in held_at if isinstance(each, Marked)
        }
        if {at: each for at, each in held.items() if each} != self._more(found, marks):
            raise ClaimsChanged(
                "others have changed unique fields or references of these documents all the time; nothing was done:"
                " try again"
            )


def _between(rules: Rules, before: bytes | None, after: bytes | None) -> Changed:
    gone = before is not None and after is None
    moves = Moves(rules, targets_of(rules, before), targets_of(rules, after), gone)
    return Changed(values_of(rules, before), values_of(rules, after), moves)


def _deletes(mutations: Iterable[object]) -> bool:
    return any(isinstance(each, Delete | Cascade) for each in mutations)
