"""Sagas that were over for long are removed, and what says where they were started.

Nobody may write to a saga that is removed, having seen less. So it goes only once every region has seen its end. The
claim goes first: as long as the saga is there, nobody starts it anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from atoll.causality.vector import VersionVector
from atoll.commit.batch import Batch
from atoll.commit.work import Gate, Wants
from atoll.documents.document import succeeded
from atoll.documents.mutation import Delete, Write
from atoll.errors import AtollError, NotFound
from atoll.region.local_writes import LocalWrites
from atoll.region.registers import Registers
from atoll.region.saga_under_way import home_of
from atoll.region.site import Site
from atoll.region.stability import Stability
from atoll.sagas.instance import OVER, decoded, effect_key
from atoll.schema.system import RIGHTS, SAGAS, STEPS
from atoll.store.port import Condition, Documents, Row, View

CLAIM = "claim/"
"""Begins the keys of claims: a saga is started in one region only."""
_AT_ONCE = 50


class Remove(NamedTuple):
    """A step of a group commit: one entry that deletes sagas which are as they were found."""

    found: tuple[tuple[str, Row], ...]
    gates: Sequence[Gate]

    def want(self, wants: Wants) -> None:
        wants.gates = self.gates
        for key, _ in self.found:
            wants.document(SAGAS, key)

    def perform(self, batch: Batch, view: View) -> None:
        """Raises what closes writes."""
        if batch.closed is not None:
            raise batch.closed
        rows = {key: batch.row((SAGAS, key)) for key, _ in self.found}
        same = [key for key, row in self.found if rows[key] == row]
        if same:
            batch.write(Write(tuple(Delete(SAGAS, key) for key in same), brief=True))


class SagaRetention:
    """Of one node. `run` it."""

    def __init__(self, site: Site, store: Documents, registers: Registers, stability: Stability) -> None:
        self._site = site
        self._store = store
        self._registers = registers
        self._stability = stability

    async def run(self, runs: Callable[[], bool], writes: LocalWrites) -> None:
        """For ever. `runs` says whether this node is the one of its region that runs sagas."""
        while True:
            await asyncio.sleep(self._site.options.sagas_round_s)
            with contextlib.suppress(AtollError):  # the next round does what this one could not
                seen = self._stability.look()
                if runs() and seen:
                    await self._round(seen, writes)

    async def _round(self, seen: VersionVector, writes: LocalWrites) -> None:
        """Remove what is over for long, and what every region has seen. Raises what the store and the gates raise."""
        until_ms = self._site.now_ms() - round(self._site.options.sagas_s * 1000)
        for status in sorted(OVER):
            where = [Condition("status", "eq", status), Condition("since_ms", "lt", until_ms)]
            after: str | None = None
            while rows := (await self._store.scan(SAGAS, where=where, after=after, limit=_AT_ONCE)).rows:
                after = rows[-1][0]
                found = [(key, row) for key, row in rows if succeeded(row, seen) and self._removes(row.value)]
                if found:
                    await asyncio.gather(*(self._free(key, row) for key, row in found))
                    await writes.group_commit.commit(Remove(tuple(found), writes.gates))

    def _removes(self, text: bytes | None) -> bool:
        """Whether it is for this region to do: one does, the home if there still is one."""
        home, regions = home_of(text, over=True), self._stability.regions
        return self._site.name == (home if home in regions else min(regions))

    async def _free(self, key: str, row: Row) -> None:
        """Raises as a strong write does."""
        claim = [(RIGHTS, CLAIM + key)] if len(self._stability.regions) > 1 else []
        for collection, name in (*claim, *((STEPS, mark) for mark in _marks(row))):
            with contextlib.suppress(NotFound):
                await self._registers.change(Write((Delete(collection, name),)), None)


def _marks(row: Row) -> list[str]:
    """Of its steps that are transactions, and of what undoes them: those that there may be."""
    instance = decoded(row.value or b"")
    found = []
    for name, *options in map(str.split, instance.plan):
        if "transaction" in options:
            undo = [each.partition("=")[2] for each in options if each.startswith("compensate=")]
            found += [effect_key(instance, method) for method in (name, *undo)]
    return found
