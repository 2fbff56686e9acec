"""Claims for documents that were written before their field was unique."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import ClassVar, Final, NamedTuple

import msgspec

from atoll.commit.identity import Address
from atoll.consensus.claims import Claim, claim_of, holder_of
from atoll.consensus.decided import Decided, written
from atoll.consensus.references import Beside
from atoll.documents.mutation import Check, Mutation, Patch, Receipt, Step, Write
from atoll.documents.rules import Rules
from atoll.documents.unique import Held, Value, member_of, members_of, place_of, values_of
from atoll.errors import ClaimsChanged, ReferenceViolation, Unavailable, UniqueViolation, VersionMismatch
from atoll.region.references import shown
from atoll.region.registers import Registers
from atoll.schema.system import CLAIMS, HOLDERS
from atoll.store.port import Row, Store

_PAGE: Final = 64
_AT_ONCE: Final = 16
_TRIES: Final = 20
_BACK_OFF_S: Final = 0.05

Holding = Mapping[Address, tuple[Mutation | Claim | Beside, ...]]


class Means(NamedTuple):
    """What it takes to look at documents, and to change what they need."""

    store: Store
    registers: Registers
    hold: Callable[[Holding], Awaitable[bool]]
    """A transaction; whether it happened."""
    strike: Callable[[Write], Awaitable[Receipt]]
    """Writes what this region says of documents."""

    async def decided(self, address: Address) -> Decided:
        """Raises what `Registers.committed` raises."""
        return await self.registers.committed(address)

    async def tried(self, holding: Holding, tries: int) -> bool:
        """Whether it happened; if not, waits a moment. Raises what `hold` raises, but for what others have changed."""
        try:
            if await self.hold(holding):
                return True
        except (VersionMismatch, UniqueViolation, ReferenceViolation, ClaimsChanged):
            pass
        await asyncio.sleep(_BACK_OFF_S * (1 + tries))
        return False

    async def page(self, collection: str, after: str | None, prefix: str = "") -> Sequence[tuple[str, Row]]:
        return (await self.store.scan(collection, prefix=prefix, after=after, limit=_PAGE)).rows


def unchanged(address: Address, value: Decided) -> tuple[Check]:
    """A transaction requires that the document is still so."""
    version = None if value.value is None else written(address, value).version
    return (Check(*address, version or None, value.value is None),)


class Page(NamedTuple):
    """What was looked at."""

    after: str | None
    """The last of it; None at the end."""
    looked: int = 0


async def side_by_side(works: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """So many at once. Raises what one of them raises."""
    left = list(reversed(works))

    async def some() -> None:
        while left:
            await left.pop()()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(_AT_ONCE, len(left))):
            group.create_task(some())


class Claiming:
    """Of one unique field. The first document by key that has a value gets its claim; a claim that is taken stays."""

    PHASES: ClassVar[tuple[str, ...]] = ("documents", "claims")

    def __init__(self, rules: Rules, field: str, means: Means) -> None:
        self.rules = rules
        self.field = field
        self._means = means

    async def agrees(self) -> bool:
        """Whether documents and claims say the same here. Raises what the store raises."""
        name, store, after = self.rules.name, self._means.store, None
        while rows := await self._means.page(name, after):
            for key, row in rows:
                value = values_of(self.rules, row.value).get(self.field)
                if value is not None and await self._claimed_here(value) != key:
                    return False
            after = rows[-1][0]
        after = None
        while rows := await self._means.page(CLAIMS, after, self._prefix):
            for at, row in rows:
                holder = holder_of(row.value)
                value = await self._value_here(holder or "")
                if value is None or claim_of(name, value) != (CLAIMS, at):
                    return False
            after = rows[-1][0]
        return (await store.scan(HOLDERS, prefix=self._prefix, limit=1)).rows == []

    @property
    def _prefix(self) -> str:
        return f"{self.rules.name}/{self.field}/"

    async def _claimed_here(self, value: Value) -> str | None:
        return holder_of(shown(await self._means.store.get(*claim_of(self.rules.name, value))))

    async def _value_here(self, key: str) -> Value | None:
        return values_of(self.rules, shown(await self._means.store.get(self.rules.name, key))).get(self.field)

    async def look(self, phase: int, after: str | None) -> Page:
        """At some documents, or claims. Raises what a transaction raises."""
        if self.PHASES[phase] == "claims":
            rows = await self._means.page(CLAIMS, after, self._prefix)
            await side_by_side([lambda at=at: self._free(at) for at, _ in rows])  # type: ignore[misc]
            return Page(rows[-1][0] if rows else None)
        rows = await self._means.page(self.rules.name, after)
        equal: dict[Value, list[str]] = {}
        for key, row in rows:
            value = values_of(self.rules, row.value).get(self.field)
            if value is not None and await self._claimed_here(value) != key:
                equal.setdefault(value, []).append(key)
        await side_by_side([lambda keys=keys: self._claim_all(keys) for keys in equal.values()])  # type: ignore[misc]
        return Page(rows[-1][0] if rows else None, len(rows))

    async def _claim_all(self, keys: Sequence[str]) -> None:
        """One after the other, since they have one value."""
        for key in keys:
            await self._claim(key)

    async def _claim(self, key: str) -> None:
        """Of a document's value; or say which document has that. Raises Unavailable, and what a transaction raises."""
        name, decided = self.rules.name, self._means.decided
        for tries in range(_TRIES):
            document = await decided((name, key))
            value = values_of(self.rules, document.value).get(self.field)
            if value is None:
                return None
            at = claim_of(name, value)
            holder = holder_of((await decided(at)).value)
            if holder == key:
                return None
            holding: dict[Address, tuple[Mutation | Claim | Beside, ...]] = {
                (name, key): unchanged((name, key), document)
            }
            if holder is not None:
                other = await decided((name, holder))
                if values_of(self.rules, other.value).get(self.field) == value:
                    return await self._say(value, {holder, key})
                holding[name, holder] = unchanged((name, holder), other)
            holding[at] = (Claim(*at, key, holder, (name, self.field), value.json),)
            if await self._means.tried(holding, tries):
                return None
        raise Unavailable(f"{name}/{key} is changed by others all the time")

    async def _free(self, at: str) -> None:
        """A claim whose document has another value."""
        name, decided = self.rules.name, self._means.decided
        for tries in range(_TRIES):
            holder = holder_of((await decided((CLAIMS, at))).value)
            if holder is None:
                return
            document = await decided((name, holder))
            value = values_of(self.rules, document.value).get(self.field)
            if value is not None and claim_of(name, value) == (CLAIMS, at):
                return
            free = Claim(CLAIMS, at, None, holder, (name, self.field), b"null")
            holding: Holding = {(name, holder): unchanged((name, holder), document), (CLAIMS, at): (free,)}
            if await self._means.tried(holding, tries):
                return
        raise Unavailable(f"the claim {at} is changed by others all the time")

    # -- duplicates ------------------------------------------------------------------------------------

    async def _say(self, value: Value, keys: set[str]) -> None:
        """That these documents have one value, among others that are known to."""
        place = place_of(self.rules.name, value)
        known = members_of(shown(await self._means.store.get(HOLDERS, place)))
        await self._put(place, value, known, keys | known.keys())

    async def _put(self, place: str, value: Value, known: Mapping[str, Held], keys: set[str]) -> None:
        """Have exactly these documents as holders, the one with the claim first. Raises what `strike` raises."""
        claimed = holder_of((await self._means.decided(claim_of(self.rules.name, value))).value)
        wanted = {key: Held("0" if key == claimed else "1", msgspec.Raw(value.json), True) for key in keys}
        steps = [Step("$unset", "holders", key, None) for key in sorted(known.keys() - keys)]
        for key, held in sorted(wanted.items()):
            if key not in known or known[key].since != held.since:
                steps.append(Step("$set", "holders", key, member_of(held)))
        if steps:
            await self._means.strike(Write((Patch(HOLDERS, place, tuple(steps)),), brief=True))

    async def review(self) -> int:
        """What has become of duplicates; how many are left. Raises what a transaction raises."""
        left, after = 0, None
        while rows := await self._means.page(HOLDERS, after, self._prefix):
            for place, row in rows:
                left += await self._review(place, members_of(row.value))
            after = rows[-1][0]
        return left

    async def _review(self, place: str, known: Mapping[str, Held]) -> int:
        if not known:
            return 0
        value, alike = Value(self.field, bytes(next(iter(known.values())).value)), set()
        for key in sorted(known):
            await self._claim(key)  # the former holder may have freed it
            document = await self._means.decided((self.rules.name, key))
            if values_of(self.rules, document.value).get(self.field) == value:
                alike.add(key)
        keys = alike if len(alike) > 1 else set()
        known = members_of(shown(await self._means.store.get(HOLDERS, place)))
        await self._put(place, value, known, keys)
        return max(0, len(keys) - 1)
