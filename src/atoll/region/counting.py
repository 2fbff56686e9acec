"""Counts of references that were written before their field was one.

The reference of a document is counted where its mark says, and nowhere else. So the build makes each mark agree with
its document, in one transaction with the counts. Whoever has done so before, or wrote the document meanwhile, leaves
nothing to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar, Final

import msgspec

from atoll.commit.identity import Address
from atoll.consensus.decided import Decided
from atoll.consensus.references import Beside, Marked, count, counted_at, counted_by, mark_of
from atoll.documents.document import decode_row
from atoll.documents.mutation import Delete, Mutation, Put, Write
from atoll.documents.references import Met, met_of, place_of, shown_by, targets_of, text_of, wrote
from atoll.documents.rules import Rules
from atoll.errors import InvalidKey, Unavailable
from atoll.region.claiming import Means, Page, side_by_side, unchanged
from atoll.region.references import shown
from atoll.schema.limits import ANY_KEY, validate_key
from atoll.schema.references import Referring
from atoll.schema.system import DANGLING, MARKS, REFERRED

_TRIES: Final = 20
_SHOWN: Final = 200
"""A record shows so many characters of a key that no document can have."""
_REASON: Final = "it was written before it was a reference, and there is no such document"


class Counting:
    """Of one field."""

    PHASES: ClassVar[tuple[str, ...]] = ("documents", "marks")

    def __init__(self, rules: Rules, reference: Referring, means: Means) -> None:
        self.rules = rules
        self._reference = reference
        self._name = f"{rules.name}.{reference.field}"
        self._prefix = f"{rules.name}/{reference.field}/"
        self._means = means

    async def agrees(self) -> bool:
        """Whether documents and marks say the same here. Raises what the store raises."""
        after = None
        while rows := await self._means.page(self.rules.name, after):
            for key, row in rows:
                if self._target_in(row.value) != await self._counted_here(key):
                    return False
            after = rows[-1][0]
        after = None
        while rows := await self._means.page(MARKS, after, self._prefix):
            for _, row in rows:
                if not await self._is_marked_rightly(row.value):
                    return False
            after = rows[-1][0]
        return not await self._means.page(DANGLING, None, self._prefix)

    def _target_in(self, document: bytes | None) -> Address | None:
        return targets_of(self.rules, document).get(self._reference)

    def _mark(self, key: str) -> Address:
        return MARKS, place_of(self.rules.name, self._reference.field, key)

    async def _counted_here(self, key: str) -> Address | None:
        return counted_at(shown(await self._means.store.get(*self._mark(key))))

    async def _is_marked_rightly(self, mark: bytes | None) -> bool:
        said = mark_of(mark)
        if said is None:
            return True
        document = shown(await self._means.store.get(self.rules.name, said.referrer))
        return self._target_in(document) == said.target

    # -- building --------------------------------------------------------------------------------------

    async def look(self, phase: int, after: str | None) -> Page:
        """At some documents, or marks. Raises what a transaction raises."""
        if self.PHASES[phase] == "marks":
            rows = await self._means.page(MARKS, after, self._prefix)
            wrong = [row.value for _, row in rows if not await self._is_marked_rightly(row.value)]
            await self._count([said.referrer for said in map(mark_of, wrong) if said is not None])
            return Page(rows[-1][0] if rows else None)
        rows = await self._means.page(self.rules.name, after)
        alike: dict[Address | None, list[str]] = {}
        for key, row in rows:
            alike.setdefault(self._target_in(row.value), []).append(key)
        await side_by_side([lambda given=given: self._look(*given) for given in alike.items()])  # type: ignore[misc]
        return Page(rows[-1][0] if rows else None, len(rows))

    async def _look(self, target: Address | None, keys: Sequence[str]) -> None:
        """Count documents of which this region shows that they refer to the target, and say if that is not there."""
        late = [key for key in keys if await self._counted_here(key) != target]
        await self._count(late)
        # What was deleted by whoever does not count is shown here as deleted; others were refused, or counted.
        if late or (target is not None and shown(await self._means.store.get(*target)) is None):
            for key in keys:
                await self._find(key)

    async def _count(self, keys: Sequence[str]) -> None:
        """Have the marks of these documents say what they refer to, and the counts with them.

        Raises Unavailable, and what a transaction raises.
        """
        for tries in range(_TRIES):
            if not keys:
                return
            holding = await self._holding(keys)
            if not holding or await self._means.tried(holding, tries):
                return
            if len(keys) > 1:  # one of them may be changed all the time
                for key in keys:
                    await self._count([key])
                return
        raise Unavailable(f"{self.rules.name}/{keys[0]} is changed by others all the time")

    async def _holding(self, keys: Sequence[str]) -> dict[Address, tuple[Mutation | Beside, ...]]:
        """What a transaction has to change for them; empty if nothing."""
        holding: dict[Address, tuple[Mutation | Beside, ...]] = {}
        changes: dict[Address, dict[str, int]] = {}
        documents = await asyncio.gather(*(self._means.decided((self.rules.name, key)) for key in keys))
        marks = await asyncio.gather(*(self._means.decided(self._mark(key)) for key in keys))
        for key, document, mark in zip(keys, documents, marks, strict=True):
            now, former = self._target_in(document.value), counted_at(mark.value)
            if now != former:
                address, at = (self.rules.name, key), self._mark(key)
                holding[address] = unchanged(address, document)
                holding[at] = (Marked(*at, key, former, now),)
                count(changes, self._name, former, now)
        for target, by in changes.items():
            counted = counted_by(target, by)
            holding[REFERRED, counted.key] = (counted,)
        return holding

    # -- what dangles ----------------------------------------------------------------------------------

    async def _find(self, key: str) -> None:
        """Say so if the document refers to what is not there."""
        address = (self.rules.name, key)
        document = await self._means.decided(address)
        target = self._target_in(document.value)
        if target is not None and not await self._is_there(target):
            await self._say(address, document, target)

    async def _is_there(self, target: Address) -> bool:
        try:
            validate_key(target[1], ANY_KEY)
        except InvalidKey:
            return False
        return (await self._means.decided(target)).value is not None

    async def _say(self, address: Address, document: Decided, target: Address) -> None:
        await self._means.registers.show(address, document)
        row = await self._means.store.get(*address)
        registers = {} if row is None else decode_row(self.rules, row).registers
        version = shown_by(self.rules, registers, self._reference.field)
        if version is None or version.value is None:
            return  # deleted meanwhile
        field, _, on_delete = self._reference
        met = Met(*address, field, _shortened(target), on_delete, wrote(version), None, _REASON)
        place = place_of(self.rules.name, field, address[1])
        said = shown(await self._means.store.get(DANGLING, place))
        if said != text_of(met):
            await self._means.strike(Write((Put(DANGLING, place, text_of(met)),), brief=True))

    async def review(self) -> int:
        """What has become of references to nothing; how many are left. Raises what a transaction raises."""
        left, after = 0, None
        while rows := await self._means.page(DANGLING, after, self._prefix):
            for place, row in rows:
                if await self._dangles(row.value):
                    left += 1
                else:
                    await self._means.strike(Write((Delete(DANGLING, place),), brief=True))
            after = rows[-1][0]
        return left

    async def _dangles(self, said: bytes | None) -> bool:
        """Whether what was said of a document is so still."""
        try:
            met = met_of(said or b"")
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False  # no version of Atoll has written it
        target = self._target_in((await self._means.decided((self.rules.name, met.key_of))).value)
        if target is None or _shortened(target) != met.target:
            return False
        return not await self._is_there(target)


def _shortened(target: Address) -> Address:
    """As a record shows it."""
    return target[0], target[1][:_SHOWN] or "…"
