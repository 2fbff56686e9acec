"""`/admin/…`, `/health/…` and `/v1/ids/…`: what operators, load balancers and id users ask."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from atoll.config.version import VERSION
from atoll.errors import InvalidOperation, MalformedRequest
from atoll.http.bodies import Cut, Delay, Drain, Gone
from atoll.http.exchange import Exchange
from atoll.ids import IdService
from atoll.region.health import Check
from atoll.region.region import Region
from atoll.replication.emulation import Emulation

_SMALL_BODY = 4096


class Admin:
    def __init__(self, region: Region, emulation: Emulation, ids: IdService, *, test_topology: bool) -> None:
        self._region = region
        self._emulation = emulation
        self._ids = ids
        self._test_topology = test_topology

    async def health(self, exchange: Exchange, check: Check) -> None:
        reason = self._region.health_of(check)
        status = "ok" if reason is None else "unavailable"
        body = {"region": self._region.name, "status": status, "reason": reason}
        await exchange.answer_json(body, 200 if reason is None else 503)

    async def new_ids(self, exchange: Exchange, kind: str) -> None:
        await exchange.answer_json({"ids": await self._ids.generate(kind, exchange.arguments["count"])})

    async def statistics(self, exchange: Exchange) -> None:
        await exchange.answer_json(asdict(await self._region.contents()))

    async def parked(self, exchange: Exchange) -> None:
        items = [
            {"origin": p.origin, "seq": p.seq, "change": p.change, "cause": p.cause, "reason": p.reason}
            for p in await self._region.parked()
        ]
        await exchange.answer_json({"items": items})

    async def drain(self, exchange: Exchange) -> None:
        asked = await exchange.decode(Drain, _SMALL_BODY)
        self._region.drain(asked.draining)
        await exchange.answer_json({"draining": asked.draining})

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
        await exchange.answer_json({"one_way_s": self._one_way_s()})

    def status(self) -> dict[str, Any]:
        emulated = {"cut": self._emulation.cut, "one_way_s": self._one_way_s()}
        return {
            **self._region.status(),
            "version": VERSION,
            "pid": os.getpid(),
            "emulated": emulated if self._test_topology else None,
        }

    async def verify(self, exchange: Exchange) -> None:
        """Compare this region's digests with every peer's, and name the documents that differ."""
        found = await self._region.verify()
        await exchange.answer_json({"region": self._region.name, **found})

    async def digest(self, exchange: Exchange) -> None:
        found = await self._region.digest()
        await exchange.answer_json({"region": self._region.name, "collections": found})

    def _one_way_s(self) -> dict[str, float]:
        return {peer: self._emulation.one_way_s(peer) for peer in self._region.peers}

    def _check_peer(self, name: str) -> None:
        if name not in self._region.peers:
            raise MalformedRequest(f"there is no peer {name!r}; there are {', '.join(self._region.peers)}")

    def _only_on_test_topologies(self, what: str) -> None:
        if not self._test_topology:
            raise InvalidOperation(f"only a test topology may {what}; atoll.toml has no [emulate] section")
