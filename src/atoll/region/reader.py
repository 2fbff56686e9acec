"""Reads of one document, by level of consistency."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

from atoll.causality import vector as vectors
from atoll.documents import document as documents
from atoll.documents.rules import Rules
from atoll.errors import AtollError, InvalidOperation, RegionUnreachable, Unavailable
from atoll.ownership.ownership import Ownership
from atoll.region.gates import Gates
from atoll.region.group_commit import GroupCommit
from atoll.region.reading import Reading, ReadOptions
from atoll.region.statistics import Statistics
from atoll.region.waits import Waits
from atoll.replication.link import Link
from atoll.replication.messages import Call, ReadCall, ReadReply, Reply
from atoll.store.port import Store


class Reader:
    """Of one node: it reads here, or where the level wants it."""

    def __init__(
        self,
        region: str,
        rules: Mapping[str, Rules],
        links: Mapping[str, Link],
        store: Store,
        group_commit: GroupCommit,
        *,
        ask: Callable[[str, Call], Awaitable[Reply]],
        ownership: Ownership,
        gates: Gates,
        waits: Waits,
        statistics: Statistics,
    ) -> None:
        self._region = region
        self._rules = rules
        self._store = store
        self._group_commit = group_commit
        self._ownership = ownership
        self._links = links
        self._gates = gates
        self._waits = waits
        self._statistics = statistics
        self._ask = ask

    async def read(self, collection: str, key: str, options: ReadOptions) -> Reading:
        """Under the collection's consistency, or the one asked for; raises what `Region.read` does."""
        self._statistics.reads += 1
        policy = self._rules[collection].schema.policy
        level = options.consistency or policy.consistency
        if level == "strong":
            return await self._read_strong(collection, key, options)
        if (
            level != "eventual"
            and options.token
            and not vectors.descends(self._group_commit.vector, options.token)
        ):
            elsewhere = await self._reach(collection, key, options)
            if elsewhere is not None:
                return elsewhere
        degraded = await self._waits.fresh_enough(collection, options)
        reading = await self.read_here(collection, key)
        if level != "eventual" and options.token and not vectors.descends(reading.vector, options.token):
            # A database that lost commits has just taken the other's place.
            await self._group_commit.rewind()
            elsewhere = await self._reach(collection, key, options)
            reading = elsewhere or await self.read_here(collection, key)
        return reading if degraded is None else reading._replace(degraded=degraded)

    async def read_here(self, collection: str, key: str) -> Reading:
        """What this region has, and what it had seen at that very moment."""
        entered = self._gates.enter()
        row, vector = await self._store.read(collection, key)
        self._gates.leave(entered)
        if row is None or row.value is None:
            return Reading(None, "", self._region, vector)
        return Reading(row.value, documents.version_tag(row), self._region, vector)

    async def _reach(self, collection: str, key: str, options: ReadOptions) -> Reading | None:
        """Wait for the session's token here, or read in a region that has it."""
        self._gates.enter()
        token = dict(options.token or {})
        if await self._waits.wait_for(token, options.max_wait_s):
            return None
        for peer, link in sorted(self._links.items()):
            if link.status.connected and vectors.descends(link.status.advertised, token):
                with contextlib.suppress(Unavailable):
                    return await self._read_at(peer, ReadCall(collection, key, token))
        raise self._waits.not_reached(token)

    async def _read_at(self, peer: str, call: ReadCall) -> Reading:
        self._statistics.forwarded += 1
        reply = await self._ask(peer, call)
        if not isinstance(reply, ReadReply):
            raise AtollError(f"{peer} answered a read with {type(reply).__name__}")
        return Reading(reply.value, reply.version, peer, reply.vector)

    async def _read_strong(self, collection: str, key: str, options: ReadOptions) -> Reading:
        policy = self._rules[collection].schema.policy
        if policy.consistency != "strong":
            raise InvalidOperation(
                f"collection {collection!r} is declared {policy.consistency}: its writes have no global order that a "
                'strong read could see; declare it with consistency="strong"',
                collection=collection,
            )
        if policy.fallback is not None:
            weaker = await self.read(collection, key, options._replace(consistency="causal"))
            return weaker._replace(degraded=policy.fallback)
        self._gates.enter()
        owner = self._ownership.of_document(collection, key, await self._store.get(collection, key))
        if owner is None:
            return await self._read_somewhere(collection, key)
        if owner == self._region:
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
