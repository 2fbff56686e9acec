"""Regions join, leave and are replaced while strong documents are written, under faults: nothing decided is lost.

Rarer schedules are those of the model, in `tests/unit/consensus/test_acceptor_set_model.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from random import Random
from typing import Any

import pytest

from atoll.consensus import round
from atoll.consensus.acceptor_set import AcceptorSet
from atoll.documents.mutation import Write, patch_of
from atoll.errors import AtollError, Indefinite
from atoll.schema import Collection, SetOf
from atoll.schema.application import application_of
from atoll.store.memory.store import MemoryStore

from ..unit.region.world import World
from ..unit.virtual_time import VirtualLoop, in_virtual_time

NAMES = ("a", "b", "c", "d", "e")
KEYS = ("one", "two", "three")


class Ledger(Collection, consistency="strong"):
    entries: SetOf[int]


APPLICATION = application_of(Ledger)


class Changing(World):
    """Regions that come and go. What they were told is decided must be in everything that is read afterwards."""

    def __init__(self, seed: int, *, forget_s: float = 5.0) -> None:
        super().__init__(*NAMES[:3], application=APPLICATION, forget_s=forget_s)
        self.random = Random(seed)
        self.wanted = frozenset(self.names)
        self.acknowledged: dict[str, set[int]] = {key: set() for key in KEYS}
        self.begun: dict[str, set[int]] = {key: set() for key in KEYS}
        self.number = 0
        self.counts = {"written": 0, "read": 0, "changes": 0, "lost": 0}
        self.stopping: set[str] = set()

    # -- clients ---------------------------------------------------------------------------------------

    async def write_one(self) -> None:
        name, key = self.some(), self.random.choice(KEYS)
        self.number += 1
        number = self.number
        patch = patch_of(self[name].rules["ledger"], key, {"$add": {"entries": [number]}})
        self.begun[key].add(number)
        try:
            await self[name].write(Write((patch,)))
        except AtollError as error:
            if error.definite and not isinstance(error, Indefinite):
                self.begun[key].discard(number)
            return
        self.acknowledged[key].add(number)
        self.counts["written"] += 1

    async def read_one(self) -> None:
        name, key = self.some(), self.random.choice(KEYS)
        before = set(self.acknowledged[key])
        try:
            found = (await self[name].read("ledger", key)).value
        except AtollError:
            return
        self.counts["read"] += 1
        self.compare(name, key, before, found)

    def compare(self, name: str, key: str, before: set[int], found: bytes | None) -> None:
        shown = set() if found is None else set(json.loads(found)["entries"])
        assert before <= shown, f"{name} shows {key} without {sorted(before - shown)}: {self.sets()}"
        assert shown <= self.begun[key], f"{name} shows {key} with {sorted(shown - self.begun[key])}"

    def some(self) -> str:
        return self.random.choice(sorted(self.regions.keys() - self.stopping))

    def sets(self) -> dict[str, AcceptorSet | None]:
        return {name: region.voting.set for name, region in self.regions.items()}

    # -- regions ---------------------------------------------------------------------------------------

    def latest(self) -> AcceptorSet:
        found = [each for each in self.sets().values() if each is not None]
        return max(found, key=lambda each: each.epoch, default=AcceptorSet(0, ()))

    async def change(self) -> None:
        """The files of all regions, one after the other, and processes of those that come and have left."""
        self.counts["changes"] += 1
        out = [name for name in NAMES if name not in self.wanted]
        into = list(self.wanted)
        kind = self.random.choice(("add", "remove", "replace", "replace"))
        wanted = set(self.wanted)
        if out and kind != "remove":
            wanted.add(self.random.choice(out))
        if len(into) > 2 and kind != "add":
            wanted.discard(self.random.choice(sorted(into)))
        self.wanted = frozenset(wanted)
        for name in sorted(self.wanted - self.regions.keys()):
            founding = name not in self.stores
            if founding or self.random.random() < 0.5:
                self.stores[name] = MemoryStore()  # else it comes back with its disk of then
            self.names = tuple(sorted(self.wanted))
            await self.create(name, founding=founding).start()
        for name in self.random.sample(sorted(self.regions), len(self.regions)):
            if name in self.regions:
                await self.follow(name)
                await asyncio.sleep(self.random.random() * self.random.choice((0.1, 2)))

    async def follow(self, name: str) -> None:
        """A region takes up the file that is wanted now. One that has to leave learns it, too, and stays a while."""
        region = self[name]
        to = self.wanted | {name}
        if frozenset(region.members.regions) != to:
            await region.change_members(region.members.current.of_regions(to))

    async def leave(self) -> None:
        """Processes of regions that decide nothing any more end."""
        latest = self.latest()
        for name in sorted(self.regions.keys() - self.wanted - self.stopping):
            if latest.settled and name not in latest.members and len(self.regions) > 1:
                await self.end(name)

    async def end(self, name: str) -> None:
        self.stopping.add(name)
        region = self[name]
        await region.stop()
        del self.regions[name]
        self.stopping.discard(name)

    # -- faults ----------------------------------------------------------------------------------------

    def cut_some(self) -> None:
        names = sorted(self.regions)
        pairs = [one + other for one in names for other in names if one < other]
        self.partition(*self.random.sample(pairs, min(len(pairs), self.random.choice((0, 0, 1, 2, 3)))))

    async def restart(self) -> None:
        """With its disk, or with a new one if that is what a majority of disks bears."""
        latest = self.latest()
        name = self.some()
        concerned = {*latest.members, *latest.before}
        waiting = any(not self[each].voting.votes for each in concerned if each in self.regions)
        loses = self.random.random() < 0.5 and not waiting and concerned <= self.regions.keys()
        if loses and (len(latest.members) < 3 or len(latest.before) in (1, 2)):
            loses = False
        if name not in self.wanted:
            return
        await self.end(name)
        await asyncio.sleep(self.random.random() * 2)
        if loses:
            self.counts["lost"] += 1
            self.stores[name] = MemoryStore()
        self.names = tuple(sorted(self.wanted | {name}))
        await self.create(name, founding=False).start()

    # -- the run ---------------------------------------------------------------------------------------

    async def run(self, duration_s: float) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + duration_s
        clients = [asyncio.create_task(self.client(until_s)) for _ in range(4)]
        while loop.time() < until_s:
            await asyncio.sleep(self.random.random() * 3)
            acts = (self.change, self.restart, self.leave)
            if self.random.random() < 0.5:
                self.cut_some()
            else:
                await self.random.choice(acts)()
        self.partition()
        await asyncio.gather(*clients)
        await self.finish()

    async def client(self, until_s: float) -> None:
        while asyncio.get_running_loop().time() < until_s:
            await asyncio.sleep(self.random.random() * 0.5)
            with contextlib.suppress(TimeoutError):  # the region was stopped meanwhile
                async with asyncio.timeout(30):
                    await self.random.choice((self.write_one, self.write_one, self.read_one))()

    async def finish(self) -> None:
        """All that is wanted comes about, and all show the same."""
        self.partition()
        for name in sorted(self.wanted - self.regions.keys()):
            self.names = tuple(sorted(self.wanted))
            await self.create(name, founding=False).start()
        for name in sorted(self.regions):
            await self.follow(name)
        async with asyncio.timeout(300):
            while not self.done():  # noqa: ASYNC110 — virtual time
                await asyncio.sleep(0.5)
        for key in KEYS:
            shown = {name: (await self[name].read("ledger", key)).value for name in sorted(self.wanted)}
            assert len(set(shown.values())) == 1, shown
            self.compare("each", key, self.acknowledged[key], next(iter(shown.values())))

    def done(self) -> bool:
        sets = {self[name].voting.set for name in self.wanted}
        latest = self.latest()
        votes = all(self[name].voting.votes for name in self.wanted)
        return sets == {latest} and latest.settled and frozenset(latest.members) == self.wanted and votes


async def history(seed: int, duration_s: float = 100.0) -> dict[str, Any]:
    async with Changing(seed) as it:
        await it.run(duration_s)
        return {**it.counts, "epoch": it.latest().epoch}


@in_virtual_time
async def test_nothing_decided_is_lost_while_regions_come_and_go() -> None:
    total: dict[str, int] = {}
    for seed in range(4):
        for name, count in (await history(seed)).items():
            total[name] = total.get(name, 0) + count
    assert total["written"] > 300
    assert total["read"] > 100
    assert total["epoch"] > 40
    assert total["lost"] > 3


def test_a_value_that_one_acceptor_alone_decides_is_found_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks can fail. Each rule of changes left out is found by the model, where schedules are denser."""
    monkeypatch.setattr(round, "majority", lambda counted: 1)
    for seed in range(12):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            try:
                runner.run(history(seed, 60.0))
            except (TimeoutError, AtollError):
                continue  # that it does not go on is no proof
            except AssertionError as error:
                if "shows" in str(error):
                    return
                raise
    pytest.fail("it was not found")
