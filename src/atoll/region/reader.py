"""Reads of one document, by level of consistency."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Protocol, assert_never

from atoll.causality import vector as vectors
from atoll.documents import document as documents
from atoll.documents.register import Version
from atoll.documents.rules import Rules
from atoll.errors import Indefinite, InvalidToken, RegionUnreachable, Unavailable
from atoll.region.group_commit import GroupCommit
from atoll.region.reading import (
    AT_ONCE,
    FIRST_PAGE,
    ONCE_SEEN,
    PLAIN_READ,
    AtOwner,
    ByQuorum,
    Here,
    InTotal,
    Listing,
    ListOptions,
    Reading,
    ReadOptions,
    ReadPlan,
    WaitFor,
    plan_read,
)
from atoll.region.registers import Registers
from atoll.region.site import Site
from atoll.region.waits import Admission
from atoll.replication.link import Link
from atoll.replication.messages import ReadCall, ReadReply
from atoll.schema.limits import check_spelling
from atoll.store.pages import cut_short
from atoll.store.port import Documents, Journal


class Stored(Documents, Journal, Protocol):
    """The ports of the store that are needed here."""


class Reader:
    """Of one node: it reads here, or where the level wants it."""

    def __init__(
        self,
        site: Site,
        rules: Mapping[str, Rules],
        links: Mapping[str, Link],
        store: Stored,
        *,
        group_commit: GroupCommit,
        admission: Admission,
        registers: Registers,
    ) -> None:
        self._region = site.name
        self._rules = rules
        self._store = store
        self._group_commit = group_commit
        self._links = links
        self._plans: dict[tuple[str, str | None, bool], ReadPlan] = {}
        """(collection, level asked for, whether there is no token) → the plan, where no staleness is asked for."""
        self._ownership, self._gates, self._waits, self._statistics = admission
        self._ask = site.ask
        self._registers = registers
        self._silent: set[str] = set()
        """Peers that did not answer when they were asked last, and whose link has not been open since."""

    async def read(self, collection: str, key: str, options: ReadOptions = PLAIN_READ) -> Reading:
        """Under the collection's consistency, or the one asked for.

        Raises TokenNotReached, TooStale, RegionUnreachable, InvalidOperation.
        """
        self._statistics.reads += 1
        level, token, staleness_s, _ = options
        plan = self._plans.get((collection, level, not token)) if staleness_s is None else None
        if plan is None:
            plan = plan_read(self._rules[collection].schema, options)
            if staleness_s is None:
                self._plans[collection, level, not token] = plan
        if plan is AT_ONCE:
            return await self.read_here(collection, key)
        if plan is ONCE_SEEN and token:
            # As a rule the region has seen it. One look at the store then answers both questions.
            reading = await self.read_here(collection, key)
            if vectors.descends(reading.vector, token):
                return reading
        match plan:
            case Here() as here:
                return await self._read_once_fresh(collection, key, here, options)
            case WaitFor(here):
                return await self._read_after(collection, key, token or {}, here, options)
            case AtOwner():
                return await self._read_strong(collection, key)
            case ByQuorum():
                return await self._read_decided(collection, key, options)
            case InTotal():
                return await self._read_total(collection, key, options)
            case unreachable:
                assert_never(unreachable)

    async def _read_once_fresh(self, collection: str, key: str, here: Here, options: ReadOptions) -> Reading:
        stale = None if here.bound_s is None else await self._waits.fresh_enough(here, options.max_wait_s)
        reading = await self.read_here(collection, key)
        degraded = stale or here.degraded
        return reading if degraded is None else reading._replace(degraded=degraded)

    async def _read_after(
        self, collection: str, key: str, token: Mapping[str, int], here: Here, options: ReadOptions
    ) -> Reading:
        if not vectors.descends(self._group_commit.progress.vector, token):
            elsewhere = await self._reach(collection, key, token, options.max_wait_s)
            if elsewhere is not None:
                return elsewhere._replace(degraded=here.degraded)
        reading = await self._read_once_fresh(collection, key, here, options)
        if vectors.descends(reading.vector, token):
            return reading
        # A database that lost commits has just taken the other's place.
        await self._group_commit.progress.rewind()
        elsewhere = await self._reach(collection, key, token, options.max_wait_s)
        return (elsewhere or await self.read_here(collection, key))._replace(degraded=reading.degraded)

    async def list(
        self, collection: str, wanted: ListOptions = FIRST_PAGE, options: ReadOptions = PLAIN_READ
    ) -> Listing:
        """A page of a collection, under the same plan as a read. Raises what `read` raises."""
        plan = plan_read(self._rules[collection].schema, options, listing=True)
        assert isinstance(plan, Here | WaitFor), "no region orders the writes of a whole collection"
        check_spelling(wanted.prefix, "prefix")
        here = plan.here if isinstance(plan, WaitFor) else plan
        if isinstance(plan, WaitFor):
            await self._waits.require(options.token or {}, options.max_wait_s)
        stale = None if here.bound_s is None else await self._waits.fresh_enough(here, options.max_wait_s)
        entered = self._gates.enter()
        rows, vector = await self._store.scan(
            collection,
            prefix=wanted.prefix,
            after=wanted.after,
            limit=wanted.limit + 1,
            where=wanted.where,
        )
        self._gates.leave(entered)
        more = cut_short([row for _, row in rows], wanted.limit + 1)
        return Listing(rows[: wanted.limit], more, vector, stale or here.degraded)

    async def siblings(self, collection: str, key: str) -> Sequence[Version]:
        """The concurrent versions of a document, as the region holds them; empty when there is one."""
        entered = self._gates.enter()
        row = await self._store.get(collection, key)
        self._gates.leave(entered)
        if row is None:
            return ()
        rules = self._rules[collection]
        return documents.siblings(rules, documents.decode_row(rules, row))

    async def read_here(self, collection: str, key: str) -> Reading:
        """What this region has, and what it had seen at that very moment."""
        entered = self._gates.enter()
        row, vector = await self._store.read(collection, key)
        self._gates.leave(entered)
        if row is None or row.value is None:
            return Reading(None, "", self._region, vector)
        return Reading(row.value, documents.version_tag(row), self._region, vector)

    async def _reach(
        self, collection: str, key: str, token: Mapping[str, int], max_wait_s: float | None
    ) -> Reading | None:
        """Wait for the session's token here, or read in a region that has it."""
        self._gates.enter()
        if await self._waits.wait_for(token, max_wait_s):
            return None
        call = ReadCall(collection, key, dict(token))
        for peer, link in sorted(self._links.items()):
            if link.status.connected and vectors.descends(link.status.advertised, token):
                with contextlib.suppress(Unavailable):
                    return await self._read_at(peer, call)
        raise self._waits.not_reached(token)

    async def _read_at(self, peer: str, call: ReadCall) -> Reading:
        self._statistics.forwarded += 1
        reply = await self._ask(peer, call, ReadReply)
        return Reading(reply.value, reply.version, peer, reply.vector)

    async def _read_decided(self, collection: str, key: str, options: ReadOptions) -> Reading:
        """By a majority; here, and marked, where none answers and the collection says so."""
        policy, registers = self._rules[collection].schema.policy, self._registers
        if not (policy.reads_when_cut_off and registers.cut_off):
            try:
                if policy.writes_when_cut_off and options.token:
                    await self._waits.require(options.token, options.max_wait_s)
                return await registers.read(collection, key)
            except RegionUnreachable:
                if not policy.reads_when_cut_off:
                    raise
                registers.note_cut_off()
        self._statistics.degraded[f"read/{policy.fallback}"] += 1
        here = Here(None, policy.fallback)
        return await self._read_after(collection, key, options.token or {}, here, options)

    async def _read_total(self, collection: str, key: str, options: ReadOptions) -> Reading:
        """With all that any region had committed before; marked where one is not heard."""
        self._gates.enter()
        if options.token:
            await self._waits.require(options.token, options.max_wait_s)
        self._silent -= {peer for peer, link in self._links.items() if link.status.connected}
        asked = sorted(self._links.keys() - self._silent)
        found = await asyncio.gather(*(self._positions(peer, collection, key) for peer in asked))
        self._silent |= {peer for peer, seen in zip(asked, found, strict=True) if seen is None}
        silent = self._silent & self._links.keys()
        for peer, seen in zip(asked, found, strict=True):
            if seen is not None and not await self._came(seen, options.max_wait_s):
                silent.add(peer)
        reading = await self.read_here(collection, key)
        if not silent:
            return reading
        self._statistics.degraded["read/escrow"] += 1
        return reading._replace(degraded=f"escrow; not heard: {', '.join(sorted(silent))}")

    async def _positions(self, peer: str, collection: str, key: str) -> Mapping[str, int] | None:
        """What a peer has; None where it does not answer."""
        try:
            return (await self._ask(peer, ReadCall(collection, key, {}), ReadReply)).vector
        except (Unavailable, Indefinite):
            return None

    async def _came(self, seen: Mapping[str, int], max_wait_s: float | None) -> bool:
        """Wait until this region has seen that, too; False when it did not in time."""
        try:
            return await self._waits.wait_for(seen, max_wait_s)
        except InvalidToken:
            return False  # some of it is lost

    async def _read_strong(self, collection: str, key: str) -> Reading:
        self._gates.enter()
        owner = self._ownership.of_document(collection, key, await self._store.get(collection, key))
        if owner is None:
            return await self._read_somewhere(collection, key)
        if owner == self._region:
            await self._gates.ordered()
            return await self.read_here(collection, key)
        try:
            return await self._read_at(owner, ReadCall(collection, key, {}))
        except RegionUnreachable as error:
            raise RegionUnreachable(
                f"{owner} orders the writes of {collection}/{key} and cannot be reached: {error.message}",
                region=owner,
            ) from error

    async def _read_somewhere(self, collection: str, key: str) -> Reading:
        """Only the document itself says whose it is, and it is not here: it is absent if it is nowhere."""
        calls = (self._read_at(peer, ReadCall(collection, key, {})) for peer in self._links)
        for reading in await asyncio.gather(*calls):
            if reading.value is not None:
                return reading
        return await self.read_here(collection, key)
