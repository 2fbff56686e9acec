"""`/admin/…`, `/health/…` and `/v1/ids/…`: what operators, load balancers and id users ask."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from atoll.config.version import VERSION
from atoll.errors import AtollError, InvalidOperation, MalformedRequest
from atoll.http.bodies import Cut, Delay, Drain, Gone
from atoll.http.exchange import Exchange
from atoll.ids import IdService
from atoll.region.health import Check
from atoll.region.region import Region
from atoll.replication.emulation import Emulation
from atoll.replication.messages import DigestCall, DigestReply

_SMALL_BODY = 4096


class Admin:
    def __init__(self, region: Region, emulation: Emulation, ids: IdService, *, test_topology: bool) -> None:
        self._region = region
        self._emulation = emulation
        self._ids = ids
        self._test_topology = test_topology

    async def health(self, exchange: Exchange, check: Check) -> None:
        reason = self._region.health.of(check)
        status = "ok" if reason is None else "unavailable"
        body = {"region": self._region.name, "status": status, "reason": reason}
        await exchange.answer_json(body, 200 if reason is None else 503)

    async def new_ids(self, exchange: Exchange, kind: str) -> None:
        await exchange.answer_json({"ids": await self._ids.generate(kind, exchange.arguments["count"])})

    async def statistics(self, exchange: Exchange) -> None:
        found = await self._region.store.statistics()
        await exchange.answer_json(
            {
                "documents": _declared(found.documents),
                "tombstones": _declared(found.tombstones),
                "conflicts": found.conflicts,
                "parked": found.parked,
                "size_bytes": found.size_bytes,
            }
        )

    async def parked(self, exchange: Exchange) -> None:
        items = [
            {"origin": p.origin, "seq": p.seq, "change": p.change, "cause": p.cause, "reason": p.reason}
            for p in await self._region.store.parked()
        ]
        await exchange.answer_json({"items": items})

    async def drain(self, exchange: Exchange) -> None:
        self._region.gates.draining = (await exchange.decode(Drain, _SMALL_BODY)).draining
        await exchange.answer_json({"draining": self._region.gates.draining})

    async def forget(self, exchange: Exchange) -> None:
        asked = await exchange.decode(Gone, _SMALL_BODY)
        self._check_peer(asked.peer)
        if not asked.gone:
            raise MalformedRequest(
                "gone accepts true only; a peer that is back is recognised without a request"
            )
        self._region.forget(asked.peer)
        await exchange.answer_json({"gone": asked.peer})

    async def partition(self, exchange: Exchange) -> None:
        self._only_on_test_topologies("cut links")
        asked = await exchange.decode(Cut, _SMALL_BODY)
        self._check_peer(asked.peer)
        self._emulation.partition(asked.peer, asked.cut)
        await exchange.answer_json({"cut": self._emulation.cut})

    async def delay(self, exchange: Exchange) -> None:
        self._only_on_test_topologies("change delays")
        asked = await exchange.decode(Delay, _SMALL_BODY)
        self._check_peer(asked.peer)
        self._emulation.delay(asked.peer, asked.rtt_ms / 2000)
        await exchange.answer_json({"one_way_s": self._emulation.one_way_s})

    def status(self) -> dict[str, Any]:
        region, now_ms = self._region, self._region.now_ms()
        links = {}
        for peer, link in sorted(region.links.items()):
            status = link.status
            offset = region.clocks.offsets.offset(peer, now_ms)
            links[peer] = {
                "connected": status.connected,
                "held": region.holds(peer),
                "since_ms": status.since_ms,
                "lag_s": region.freshness.lag_s(peer, now_ms),
                "propagation_p50_ms": region.statistics.propagation_p50_ms(peer),
                "received_entries": status.received_entries,
                "received_bytes": status.received_bytes,
                "relays": [origin for origin in status.relays if origin != region.name],
                "behind": max(0, status.advertised.get(peer, 0) - region.vector.get(peer, 0)),
                "round_trip_ms": None if offset is None else offset.round_trip_ms,
                "clock_offset_ms": None if offset is None else offset.offset_ms,
                "clock_error_ms": None if offset is None else offset.error_ms,
                "refused": status.refused,
                "last_error": status.last_error,
            }
        return {
            "region": region.name,
            "version": VERSION,
            "pid": os.getpid(),
            "regions": list(region.regions),
            "serving": region.gates.closed is None,
            "out_of_service": region.gates.closed,
            "warnings": [region.store.warning] if region.store.warning else [],
            "caught_up": region.health.caught_up,
            "position": region.vector,
            "uncertainty_ms": region.clocks.uncertainty_ms,
            "links": links,
            "inbox": {
                "entries": len(region.intake.inbox),
                "bytes": region.intake.inbox.size_bytes,
                "blocked_on": region.intake.inbox.blocked_on(region.vector),
                "held": None if region.intake.held is None else region.intake.held.message,
            },
            "journal": {
                "bytes": region.truncation.extent.size_bytes,
                "segments": region.truncation.extent.segments,
                "oldest_ms": region.truncation.oldest_ms,
                "truncated": region.truncation.truncated,
            },
            "counted": {
                "writes": region.statistics.writes,
                "commits": region.statistics.commits,
                "reads": region.statistics.reads,
                "applied": dict(region.statistics.entries_applied),
                "forwarded": region.statistics.forwarded,
                "parked": region.statistics.parked,
                "rights_requests": region.writer.escrow.requests,
                "token_waits": region.statistics.token_waits,
                "snapshots": region.snapshot_install.completed,
                "conflicts": {f"{c}/{k}": n for (c, k), n in sorted(region.statistics.conflicts.items())},
            },
            "emulated": {"cut": self._emulation.cut, "one_way_s": self._emulation.one_way_s}
            if self._test_topology
            else None,
        }

    async def verify(self, exchange: Exchange) -> None:
        """Compare this region's digests with every peer's, and name the documents that differ."""
        names = list(self._region.application.stored)
        found = await asyncio.gather(*(self._verify_collection(name) for name in names))
        collections = dict(zip(names, found, strict=True))
        equal = all(
            not peer["different"] and "error" not in peer
            for found in collections.values()
            for peer in found["peers"].values()
        )
        await exchange.answer_json({"region": self._region.name, "equal": equal, "collections": collections})

    async def _verify_collection(self, collection: str) -> dict[str, Any]:
        here = await self._region.digests.of(collection)
        peers: dict[str, Any] = {}
        for peer in self._region.links:
            try:
                there = await self._ask_digest(peer, collection)
                different = []
                for bucket in sorted(here.digests.keys() | there.digests.keys(), key=int):
                    if here.digests.get(bucket) != there.digests.get(bucket):
                        ours = (await self._region.digests.of(collection, int(bucket))).digests
                        theirs = (await self._ask_digest(peer, collection, int(bucket))).digests
                        different += sorted(
                            key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)
                        )
                peers[peer] = {"documents": there.count, "different": different}
            except AtollError as error:
                peers[peer] = {"error": error.message, "different": []}
        return {"documents": here.count, "digest": _folded(here), "peers": peers}

    async def _ask_digest(self, peer: str, collection: str, bucket: int | None = None) -> DigestReply:
        reply = await self._region.ask(peer, DigestCall(collection, bucket))
        if not isinstance(reply, DigestReply):
            raise AtollError(f"{peer} answered a digest with {type(reply).__name__}")
        return reply

    async def digest(self, exchange: Exchange) -> None:
        found = {}
        for collection in self._region.application.stored:
            reply = await self._region.digests.of(collection)
            found[collection] = {"documents": reply.count, "digest": _folded(reply)}
        await exchange.answer_json({"region": self._region.name, "collections": found})

    def _check_peer(self, name: str) -> None:
        if name not in self._region.links:
            raise MalformedRequest(f"there is no peer {name!r}; there are {', '.join(self._region.links)}")

    def _only_on_test_topologies(self, what: str) -> None:
        if not self._test_topology:
            raise InvalidOperation(f"only a test topology may {what}; atoll.toml has no [emulate] section")


def _declared(counts: Mapping[str, int]) -> dict[str, int]:
    """Without collections of the region's own, such as a snapshot's pages."""
    return {name: count for name, count in counts.items() if not name.startswith("_")}


def _folded(reply: DigestReply) -> str:
    folded = bytes(16)
    for digest in reply.digests.values():
        folded = bytes(a ^ b for a, b in zip(folded, digest, strict=True))
    return folded.hex()
