from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from tests.unit.region.world import World
from tests.unit.virtual_time import in_virtual_time

from atoll import Saga, step
from atoll.region.region import Region
from atoll.region.saga_under_way import UnderWay
from atoll.sagas.protocol import Signalled
from atoll.schema import application_of
from atoll.store.memory.store import MemoryStore


class Later(Saga):
    @step(wait_s=20)
    def first(self) -> None:
        """Twenty seconds later."""

    @step(signal="told", within_s=20)
    def second(self) -> None:
        """Once it was told."""


APPLICATION = application_of(Later, name="later")


def text(home: str, status: str = "running") -> bytes:
    return msgspec.json.encode({"home": home, "status": status})


def test_commits_tell_what_is_under_way() -> None:
    it = UnderWay()
    it.note("s/1", text("a"))
    it.note("s/2", text("b", "waiting"))
    it.note("s/3", text("b"))
    assert sorted(it.homes) == ["a", "b"]
    it.note("s/1", text("a", "completed"))
    it.note("s/2", None)
    assert it.homes == ["b"]


def test_a_look_finds_what_no_commit_told() -> None:
    it = UnderWay()
    it.note("s/1", text("a"))
    it.begin()
    it.end({"s/2": "b"})
    assert it.homes == ["b"]


def test_what_commits_tell_during_a_look_counts() -> None:
    it = UnderWay()
    it.note("s/1", text("a"))
    it.begin()
    it.note("s/1", text("a", "compensated"))
    it.note("s/2", text("b"))
    it.end({"s/1": "a"})
    assert it.homes == ["b"]


@asynccontextmanager
async def nodes() -> AsyncIterator[tuple[Region, Region]]:
    """The node that runs sagas, and another one of its region."""
    async with World("a", application=APPLICATION, shares_store=True) as it:
        runs = it["a"]
        it.stores["a"] = MemoryStore(it.stores["a"].tables)
        other = it.create("a", founding=True)
        it.regions["a"] = runs
        await other.start()
        try:
            await asyncio.sleep(1)
            assert (runs.sagas.runner.running, other.sagas.runner.running) == (True, False)
            yield runs, other
        finally:
            await other.stop()


@in_virtual_time
async def test_what_waits_from_the_start_is_run_wherever_it_was_started() -> None:
    async with nodes() as (_, other):
        await other.start_saga("later", "1", b"{}")
        await asyncio.sleep(22)
        assert (await other.find_saga("later", "1")).step == "second"
        await asyncio.sleep(22)
        assert (await other.find_saga("later", "1")).cause == "too-late"


@in_virtual_time
async def test_what_another_node_was_told_counts() -> None:
    async with nodes() as (runs, other):
        await other.start_saga("later", "1", b"{}")
        await asyncio.sleep(30)
        assert runs.sagas.runner.all.homes == ["a"]
        await other.tell_saga("later", "1", Signalled("told", None), None)
        await asyncio.sleep(10)
        assert (await runs.find_saga("later", "1")).status == "completed"
        assert runs.sagas.runner.all.homes == []
