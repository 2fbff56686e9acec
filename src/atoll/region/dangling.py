"""What becomes of deletions that met a reference: each region looks at what peers' entries have changed.

A reference to what is not here is written down in `_dangling`, from which the record of the conflict follows. Then the
policy of the reference is carried out, by ordinary writes. One region does so, another one if it is away. What
`_dangling` says is struck once the reference dangles no more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from atoll.causality.origin import region_of
from atoll.causality.vector import VersionVector
from atoll.commit.batch import Batch
from atoll.commit.identity import Address
from atoll.documents.document import Document, decode_row, succeeded, version_tag
from atoll.documents.mutation import Delete, Put, Receipt, Write
from atoll.documents.references import (
    Met,
    kept_at,
    met_at_once,
    met_of,
    place_of,
    shown_by,
    targets_of,
    text_of,
    wrote,
)
from atoll.documents.register import Operation, Version
from atoll.documents.rules import WHOLE, Rules
from atoll.errors import AtollError, RequestError, VersionMismatch
from atoll.region.references import References, shown
from atoll.region.site import Site
from atoll.region.snapshot_install import SnapshotInstall
from atoll.region.stability import Stability
from atoll.replication.messages import WriteReply
from atoll.schema.references import Referrer
from atoll.schema.system import DANGLING, DELETED, system_collections
from atoll.store.port import Row, Store

_EVERY_S: Final = 30.0
"""So often a region looks at all that dangles, and at what it keeps of deleted documents."""
_OTHERS_S: Final = 5.0
"""The region whose write is lost carries the policy out; after so long any region does."""
_SOON_S: Final = 0.5
_GATHER_S: Final = 0.05
_PAGE: Final = 100
_MOST_MERGED: Final = 10_000

_KEPT: Final = Rules(system_collections()[DELETED])

Writes = Callable[[Write], Awaitable[WriteReply]]
Strikes = Callable[[Write], Awaitable[Receipt]]


class Means(NamedTuple):
    """How it writes."""

    write: Writes
    """Documents, wherever they belong."""
    strike: Strikes
    """What this region says in system collections."""
    install: SnapshotInstall


class Dangling:
    """Of one node. `run` it."""

    def __init__(
        self,
        site: Site,
        references: References,
        store: Store,
        stability: Stability,
        means: Means,
    ) -> None:
        self._means = means
        self._site = site
        self._references = references
        self._rules: Mapping[str, Rules] = references.rules
        self._store = store
        self._stability = stability
        self._found = asyncio.Event()
        self._merged: dict[Address, None] = {}
        """Documents that were changed, in the order in which they were."""
        self._all = True
        """Whether any document may be one of these: what an earlier run had heard of is not known."""
        self._installed = 0
        self._since: dict[str, float] = {}
        """Place in `_dangling` → when this node saw it first."""

    # -- finding ---------------------------------------------------------------------------------------

    def committed(self, batch: Batch) -> None:
        """After each commit of this node."""
        for entry in batch.applied:
            for change in entry.changes:
                self._note(change.collection, change.key)
        for entry in batch.written:
            for change in entry.changes:
                # Other local writes were checked. What dangled may do so no more.
                if change.operation == Operation.DELETE or self._since:
                    self._note(change.collection, change.key)
        if len(self._merged) > _MOST_MERGED:
            self._merged.clear()
            self._all = True
        if self._merged or self._all:
            self._found.set()

    def _note(self, collection: str, key: str) -> None:
        if collection in self._rules:
            self._merged[collection, key] = None
        elif collection == DANGLING:
            self._found.set()

    async def run(self) -> None:
        """For ever."""
        rounds, means = 0, self._means
        while True:
            self._found.clear()
            left = True
            with contextlib.suppress(AtollError):  # the store fails, or writes are closed: once more, later
                seen = self._stability.look()  # before all that it has heard of is reviewed
                await self._review(means.strike)
                left = await self.settle(means)
                if seen and not (left or self._merged):
                    await self._let_go(seen, means.strike)
            rounds = rounds + 1 if left else 0
            every_s = min(_EVERY_S, _SOON_S * 2 ** min(rounds, 10)) if left else _EVERY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s * (0.5 + self._site.random.random())):
                    await self._found.wait()
            await asyncio.sleep(_GATHER_S)

    async def _review(self, strike: Strikes) -> None:
        """Raises what the store raises, and what closes writes."""
        installed = self._means.install.state.completed
        if installed != self._installed:
            self._installed, self._all = installed, True
        if self._all:
            self._all = False
            try:
                for name, rules in self._rules.items():
                    if rules.schema.references:
                        async for key, _ in self._documents(name):
                            await self._look((name, key), strike)
            except AtollError:
                self._all = True
                raise
        while self._merged:
            address = next(iter(self._merged))
            del self._merged[address]  # it may be changed once more meanwhile
            try:
                await self._look(address, strike)
            except AtollError:
                self._merged[address] = None
                raise

    async def _documents(self, collection: str) -> AsyncIterator[tuple[str, Row]]:
        after: str | None = None
        while rows := (await self._store.scan(collection, after=after, limit=_PAGE)).rows:
            for key, row in rows:
                yield key, row
            after = rows[-1][0]
            await asyncio.sleep(0)

    async def _look(self, address: Address, strike: Strikes) -> None:
        """Whether what the document refers to is there; if the document is gone, what refers to it."""
        rules, row = self._rules[address[0]], await self._store.get(*address)
        for each, target in targets_of(rules, shown(row)).items():
            await self._find(Referrer(rules.name, each.field, each.on_delete), address[1], target, strike)
        if shown(row) is None:
            for referrer in rules.schema.referrers:
                for key in await self._referring(referrer, address[1]):
                    await self._find(referrer, key, address, strike)

    async def _referring(self, referrer: Referrer, key: str) -> list[str]:
        return [found for found, _ in await self._references.referring(referrer, key, _MOST_MERGED)]

    async def _find(self, referrer: Referrer, key: str, target: Address, strike: Strikes) -> None:
        """Say so, where a reference dangles. Raises what the store raises, and what closes writes."""
        met = await self._met(referrer, key, target)
        if met is None:
            return
        place = place_of(met.collection, met.field, met.key_of)
        row = await self._store.get(DANGLING, place)
        said = shown(row)
        before = None if row is None else _read(row)
        if before is not None and msgspec.structs.replace(before, reason=met.reason) == met:
            return
        tag = None if row is None or said is None else version_tag(row)
        write = Put(DANGLING, place, text_of(met), None, tag, if_absent=said is None)
        with contextlib.suppress(RequestError):  # another node has just said so
            await strike(Write((write,), brief=True))

    async def _met(self, referrer: Referrer, key: str, target: Address) -> Met | None:
        """What there is to say of a reference; None where it does not dangle, or rightly does."""
        collection, field, on_delete = referrer
        rules, row = self._rules[collection], await self._store.get(collection, key)
        if target not in [to for each, to in targets_of(rules, shown(row)).items() if each.field == field]:
            return None
        gone = await self._store.get(*target)
        if row is None or shown(gone) is not None:
            return None
        reference = shown_by(rules, decode_row(rules, row).registers, field)
        deletion = None if gone is None else self._deletion(target, gone)
        if reference is None:
            return None
        if on_delete == "dangling" and (deletion is None or not met_at_once(reference, deletion)):
            return None
        reason = (
            "" if deletion is not None else "there is no such document, and nothing says that there was one"
        )
        said = None if deletion is None else wrote(deletion)
        return Met(collection, key, field, target, on_delete, wrote(reference), said, reason)

    def _deletion(self, target: Address, gone: Row) -> Version | None:
        rules = self._rules[target[0]]
        return shown_by(rules, decode_row(rules, gone).registers, "")

    # -- settling --------------------------------------------------------------------------------------

    async def settle(self, means: Means) -> bool:
        """Go over all that dangles once; whether some is left that needs no person. Raises what the store raises."""
        left, places = False, set[str]()
        async for place, row in self._documents(DANGLING):
            places.add(place)
            met = _read(row)
            if met is not None and met.collection in self._rules and met.target[0] in self._rules:
                left |= await self._settle(place, row, met, means)
        self._since = {place: since for place, since in self._since.items() if place in places}
        return left

    async def _settle(self, place: str, row: Row, met: Met, means: Means) -> bool:
        """Whether something is left to do."""
        now_s = asyncio.get_running_loop().time()
        since_s = self._since.setdefault(place, now_s)
        referrer = self._referrer(met)
        now = None if referrer is None else await self._met(referrer, met.key_of, met.target)
        if now is None:
            with contextlib.suppress(RequestError):  # another node has, or it says something else by now
                await means.strike(Write((Delete(DANGLING, place, version_tag(row)),), brief=True))
            return False
        if met.on_delete == "dangling" or met.reason or now.deletion is None:
            return False
        lost = now.deletion if met.on_delete == "restrict" else now.reference
        mine = region_of(lost.version.origin) == self._site.name
        try:
            if met.on_delete == "restrict":
                await self._restore(now, means, mine=mine, late=now_s - since_s > _OTHERS_S)
            elif mine or now_s - since_s > _OTHERS_S:
                await self._cascade(now, means)
        except VersionMismatch:
            return True  # it has changed meanwhile
        except RequestError as error:
            await self._give_up(place, row, met, str(error.message), means.strike)
            return False
        except AtollError:
            return True  # once more, later
        return True

    def _referrer(self, met: Met) -> Referrer | None:
        """As it is declared now."""
        for each in self._rules[met.target[0]].schema.referrers:
            if (each.collection, each.field) == (met.collection, met.field):
                return each
        return None

    async def _restore(self, met: Met, means: Means, *, mine: bool, late: bool) -> None:
        """Undo the deletion. Raises RequestError where that is not possible, and what the write raises."""
        rules, (collection, key) = self._rules[met.target[0]], met.target
        if not (mine or (late and rules.simple) or self._alone(met)):
            return  # several regions at once would count what merges several times
        gone = await self._store.get(collection, key)
        text = None if gone is None else _undone(rules, decode_row(rules, gone))
        if text is None:
            text = shown(await self._store.get(DELETED, kept_at(met.target)))
        if text is None:
            raise RequestError("what was deleted is not kept any more, so the deletion cannot be undone")
        fields: dict[str, Any] | None = None
        if not rules.simple:
            known = msgspec.json.decode(text)
            fields = {name: value for name, value in known.items() if name in rules.known}
            text = msgspec.json.encode({name: fields[name] for name in rules.plain if name in fields})
        await means.write(
            Write((Put(collection, key, text, fields, if_absent=True),), brief=True, restores=True)
        )

    def _alone(self, met: Met) -> bool:
        """Whether this region stands in for one that has left."""
        assert met.deletion is not None
        regions = self._stability.regions
        return region_of(met.deletion.version.origin) not in regions and self._site.name == min(regions)

    async def _cascade(self, met: Met, means: Means) -> None:
        """Delete the document that refers. Raises RequestErrors, and what else the write raises."""
        for each in self._rules[met.target[0]].schema.referrers:
            if each.on_delete == "restrict" and await self._references.referring(each, met.target[1], 1):
                return  # the deletion is undone
        row = await self._store.get(met.collection, met.key_of)
        if row is not None and row.value is not None:
            await means.write(Write((Delete(met.collection, met.key_of, version_tag(row)),), brief=True))

    async def _give_up(self, place: str, row: Row, met: Met, reason: str, strike: Strikes) -> None:
        """Leave it to a person."""
        text = text_of(msgspec.structs.replace(met, reason=reason))
        with contextlib.suppress(AtollError):  # it is tried again
            await strike(Write((Put(DANGLING, place, text, None, version_tag(row)),), brief=True))

    # -- what is kept ----------------------------------------------------------------------------------

    async def _let_go(self, seen: VersionVector, strike: Strikes) -> None:
        """Keep no longer what was deleted, and every region has seen that. Raises what the store raises."""
        regions = self._stability.regions
        async for place, row in self._documents(DELETED):
            region = region_of(decode_row(_KEPT, row).registers[WHOLE][0].origin)
            home = region if region in regions else min(regions)
            if home == self._site.name and succeeded(row, seen):
                with contextlib.suppress(RequestError):
                    await strike(Write((Delete(DELETED, place, version_tag(row)),), brief=True))


def _read(row: Row) -> Met | None:
    """None for what no version of Atoll has written."""
    try:
        return None if row.value is None else met_of(row.value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _undone(rules: Rules, document: Document) -> bytes | None:
    """What a document shows without its deletions; None where nothing is left of it."""
    alive = tuple(each for each in document.registers.get(WHOLE, ()) if each.value is not None)
    return rules.strategy(WHOLE)(alive).value if alive and rules.simple else None
