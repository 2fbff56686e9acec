"""Heirs of regions that have left, as one node of a region brings them about: see `membership.heirs`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from typing import Final, NamedTuple

import msgspec

from atoll.causality.origin import (
    Origin,
    next_incarnation,
    of_region,
    region_of,
)
from atoll.causality.vector import merge
from atoll.commit.batch import Batch
from atoll.commit.work import Wants
from atoll.documents.mutation import Put, Write
from atoll.documents.rules import Rules
from atoll.errors import AtollError
from atoll.membership.heirs import Heirs, due, next_spans
from atoll.membership.members import Members
from atoll.ownership.ownership import rendezvous
from atoll.recovery.startup_check import Ended, StartupState
from atoll.region.fence import Fence
from atoll.region.heir_documents import SealRegion, read_heirs, spans_of, text_of
from atoll.region.intake import Intake
from atoll.region.local_writes import LocalWrites
from atoll.region.recovery import StartupCheck
from atoll.region.registers import Registers
from atoll.region.site import Site
from atoll.region.snapshot_install import SnapshotInstall
from atoll.region.tasks import Background, ended
from atoll.replication.link import Link
from atoll.replication.signal import Signal
from atoll.schema.system import HEIRS, SEALS
from atoll.store.port import Store, View

_SPACE: Final = "inheritance"
_MEMBERS: Final = (_SPACE, "members")
"""The state that names all regions that this one has counted as members."""
_READ: Final = (_SPACE, "read")
"""The state that says under which incarnation the region last had all that its peers had."""
_EVERY_S: Final = 5.0
_RETRY_S: Final = 1.0


class _Remember(NamedTuple):
    """A step: a state of this part."""

    place: tuple[str, str]
    value: bytes

    def want(self, wants: Wants) -> None:
        pass

    def perform(self, batch: Batch, view: View) -> None:
        batch.pending.states[self.place] = self.value


class Means(NamedTuple):
    """What is asked for it."""

    registers: Registers
    writes: LocalWrites
    intake: Intake
    startup_check: StartupCheck
    links: Mapping[str, Link]
    snapshot_install: SnapshotInstall


class Inheritance:
    """Of one node. `open` it, `run` it."""

    def __init__(
        self, site: Site, members: Members, rules: Mapping[str, Rules], store: Store, means: Means
    ) -> None:
        self.any = any(each.schema.escrowed for each in rules.values())
        """Whether there are rights that could be inherited."""
        self._site = site
        self._members = members
        self._store = store
        self._means = means
        self._changed = Signal()
        self._stale = True
        """Whether documents may say more than was read of them."""
        self._waiting = False
        """Whether a region has left that has no heir yet."""
        self._under: int | None = None
        """The region's incarnation when the documents were read."""
        self.fence = Fence(site.name, members)
        self._once: frozenset[str] = frozenset()
        """All regions that were members, as the store says."""
        self._since_s: dict[str, float] = {}
        """Regions that were members and are none, and when that was noticed."""
        self._read: int | None = None
        """Under which incarnation this region last had all that its peers had."""

    # -- what commits ask ------------------------------------------------------------------------------

    @property
    def heirs(self) -> Heirs:
        """As far as this node has read the documents that say so."""
        return self._members.heirs

    @property
    def inherits(self) -> bool:
        """Whether this region may spend what it has inherited.

        What its former incarnations spent of that is counted in their rows, so it must have those, too.
        """
        state = self._means.startup_check.state
        return state.settled and self._under == state.incarnation and self._caught_up

    @property
    def former(self) -> tuple[Origin, ...]:
        """The former incarnations whose rights the present one may spend.

        Not before all is here that peers had: the region may have been taken out, and its rights have an heir.
        """
        check = self._means.startup_check
        if not self.any:
            return check.former
        if not check.former or not self._caught_up:
            return ()
        address = self.heirs.address(self._site.name)
        return check.former if address in (*check.former, check.state.origin) else (*check.former, address)

    @property
    def _caught_up(self) -> bool:
        """Whether all that peers had when this incarnation began is here, so that documents say who has what."""
        return self._means.startup_check.state.incarnation in (0, self._read)

    def ends(self) -> dict[str, int]:
        """Where regions that have left ended, as far as nothing is still to come of them."""
        return self.heirs.ends()

    def ended(self) -> dict[str, str]:
        """Regions that have left and of which nothing is still to come → the region that has their rights."""
        return {region: self.heirs.holder_of(region)[0] for region in self.heirs.cleared}

    def waits_for(self, region: str) -> list[str]:
        """The members that have yet to say how far they have come of a region that has left."""
        return self.heirs.unsealed(region, self._members.regions)

    def warnings(self) -> list[str]:
        """What keeps rights of regions that have left from being spent."""
        waiting = {region: self.waits_for(region) for region in self.heirs.spans}
        return [
            f"rights of {region}, which has left, can be spent once {', '.join(names)} can be asked"
            for region, names in sorted(waiting.items())
            if names and self.heirs.cleared.get(region, -1) < self.heirs.upto(region)
        ]

    def over(self) -> str | None:
        """Why this region writes nothing: it was taken out of the deployment."""
        for link in self._means.links.values():
            if link.status.left:
                return f"{link.status.left}: nobody gets what it writes"
        origin = self._means.startup_check.state.origin
        heir = self.heirs.heir_of(origin)
        if heir is None:
            return None
        return f"{self._site.name} was taken out of the deployment, and {region_of(heir)} has its rights"

    def committed(self, batch: Batch) -> None:
        """Take note of a commit that says more."""
        for entry in (*batch.written, *batch.applied):
            if any(change.collection in (HEIRS, SEALS) for change in entry.changes):
                self._stale = True
                self._changed.notify()

    def background(self) -> Background:
        """What `open` and `run` are to a region."""
        return Background("heirs of regions that left", self.run, self.open)

    # -- beside requests -------------------------------------------------------------------------------

    async def open(self) -> None:
        """Raises what the store raises."""
        once, read = await self._store.state(*_MEMBERS), await self._store.state(*_READ)
        if once:
            self._once = frozenset(msgspec.json.decode(once))
        self._members.once |= self._once if once else self._members.origins
        self._read = int(read) if read else None
        await self._load()

    async def run(self) -> None:
        """For ever."""
        while True:
            since, installed = self._changed.count, self._means.snapshot_install.state.completed
            try:
                await self.round()
            except (AtollError, TimeoutError):  # the store fails, or regions cannot be asked
                await asyncio.sleep(_RETRY_S)
            await self._wait(since, installed)

    async def _wait(self, since: int, installed: int) -> None:
        """Until there may be something to do, as of when the last round began."""
        check, snapshots = self._means.startup_check, self._means.snapshot_install
        shares, under = self._site.options.shares_store, self._under
        behind = self._behind(check.state)
        waits = [
            self._noticed(since),
            snapshots.until(lambda state: state.completed != installed),
            check.until(lambda state: state.incarnation != under or (self._behind(state) and not behind)),
        ]
        tasks = [asyncio.ensure_future(each) for each in waits]
        try:
            wait_s = _RETRY_S if behind or self._waiting else _EVERY_S if shares else None
            await asyncio.wait(tasks, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await ended(tasks)
        # Other nodes commit, too, and snapshots bring documents without entries.
        self._stale |= shares or snapshots.state.completed != installed

    async def _noticed(self, since: int) -> None:
        while self._changed.count == since:
            await self._changed.wait()

    def wake(self) -> None:
        """The members have changed."""
        self._changed.notify()

    def _behind(self, state: StartupState) -> bool:
        """Whether former incarnations are settled, and peers may know of an heir that is not known here."""
        return state.settled and state.incarnation not in (None, 0, self._read)

    async def round(self) -> None:
        """Look what is to be done, and do it. Raises what the store and the registers raise."""
        await self._load()
        await self._remember_members()
        vector = self._means.writes.group_commit.progress.vector
        orphans, unsealed = due(self.heirs, self._site.name, self._left(), vector)
        self._waiting = bool(due(self.heirs, self._site.name, self._since_s, vector)[0])
        for region in unsealed:
            await self._seal(region)
        await self._renew()
        for region in orphans:
            await self._propose(region)

    async def _load(self) -> None:
        incarnation = self._means.startup_check.state.incarnation
        same = incarnation is not None and incarnation == self._under
        if self._stale or not same:
            self._stale = False
            try:
                found = await read_heirs(self._store)
            except BaseException:
                self._stale = True
                raise
            self._members.heirs = replace(found, cleared=self.heirs.cleared if same else {})
        self._members.heirs, self._under = self.heirs.clear(self._members.regions), incarnation

    async def _remember_members(self) -> None:
        once, now_s = self._members.once, asyncio.get_running_loop().time()
        left = sorted(once - {*self._members.regions})
        self._since_s = {region: self._since_s.get(region, now_s) for region in left}
        if once != self._once:
            await self._means.writes.group_commit.commit(
                _Remember(_MEMBERS, msgspec.json.encode(sorted(once)))
            )
            self._once = once

    def _left(self) -> list[str]:
        """Regions that were members, and have been none for long enough: a mistake in atoll.toml may be put right."""
        until_s = asyncio.get_running_loop().time() - self._site.options.inherit_s
        return [region for region, since_s in self._since_s.items() if since_s <= until_s]

    async def _renew(self) -> None:
        """Find out who has this region's own rights."""
        means, own = self._means, self._site.name
        progress, state = means.writes.group_commit.progress, means.startup_check.state
        others = [region for region in self._members.regions if region != own]
        if self.heirs.heir_of(state.origin) is not None and not self.heirs.unsealed(own, others):
            ends = replace(self.heirs, cleared={own: self.heirs.upto(own)}).ends()
            means.startup_check.post(Ended(ends, progress.vector))
        links = [link.status for link in means.links.values()]
        if self._behind(state) and all(link.connected and link.whole for link in links):
            async with asyncio.timeout(_RETRY_S):
                await progress.covered(reduce(merge, (link.advertised for link in links), {}))
            self._stale = True
            await self._load()
            await means.writes.group_commit.commit(_Remember(_READ, b"%d" % (state.incarnation or 0)))
            self._read = state.incarnation

    async def _propose(self, region: str) -> None:
        """Become the heir, if that falls to this region."""
        own, state = self._site.name, self._means.startup_check.state
        if rendezvous(self._members.regions, region) != own or state.incarnation is None or self.over():
            return
        voting = self._means.registers.proposer.voting
        if voting.set is None or not voting.set.settled or {*voting.members} != {*self._members.voters}:
            return  # a majority has not followed: this region's file may be the mistaken one
        reading = await self._means.registers.read(HEIRS, region)
        if spans_of(reading.value) != self.heirs.spans.get(region, ()):
            self._stale = True
            return
        known = of_region(self._means.writes.group_commit.progress.vector, region)
        upto = next_incarnation(self._site.now_ms(), known) - 1
        spans = next_spans(self.heirs, region, upto, state.origin)
        version = reading.version or None
        put = Put(HEIRS, region, text_of(spans), None, version, version is None)
        await self._means.registers.change(Write((put,)), None)

    async def _seal(self, region: str) -> None:
        """Take nothing more of a region, and say so."""
        means, upto = self._means, self.heirs.upto(region)
        if region == self._site.name and self.over() is not None:
            return  # once it numbers anew
        self.fence.closing[region] = upto
        progress = means.writes.group_commit.progress
        while means.intake.in_flight(region, progress.vector):
            await means.intake.await_commit()
        if means.intake.discard_pending(region, progress.vector):
            for link in means.links.values():
                link.reopen()  # what a peer has of it is to come again
        await self._means.writes.group_commit.commit(
            SealRegion(region, self._site.name, upto, means.writes.gates)
        )
        self._stale = True
        await self._load()
        del self.fence.closing[region]
