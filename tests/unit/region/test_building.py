"""Fields that become unique when there are documents already: claims are built beside the writers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from atoll.documents.mutation import Write
from atoll.documents.strategies import MULTIPLE_UNIQUE
from atoll.errors import AtollError, UniqueViolation, VersionMismatch
from atoll.region.building import Report
from atoll.region.claiming import Claiming
from atoll.region.registers import Registers
from atoll.region.showing import Showing
from atoll.schema import Collection, Counter
from atoll.schema.application import Application, application_of
from atoll.schema.system import BUILDS
from atoll.store.port import AuditFilter

from ..virtual_time import in_virtual_time
from .test_claims import APPLICATION, FORMER, alike, consistent, put
from .test_transactions import no_intents
from .world import World


async def restarted(it: World, name: str, application: Application) -> None:
    await it[name].stop()
    it.application = application
    await it.create(name).start()


async def declared(it: World, application: Application = APPLICATION) -> None:
    """One region after the other."""
    for name in it.names:
        await restarted(it, name, application)


def reports(it: World, name: str = "a") -> dict[str, Report]:
    return {each.field: each for each in it[name].building.report()}


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not look():  # noqa: ASYNC110 — virtual time
            await asyncio.sleep(0.1)


async def whole(it: World, field: str = "account.email") -> None:
    await until(
        lambda: all(field in reports(it, n) and reports(it, n)[field].state == "whole" for n in it.names)
    )


@asynccontextmanager
async def without_builder(it: World, build: str) -> AsyncIterator[None]:
    """The region that builds dies, and is back at the end."""
    names = it.names
    builder = it.shown("a", BUILDS, build)["builder"].partition("/")[0]
    await it.regions.pop(builder).stop()
    it.names = tuple(name for name in names if name != builder)
    yield
    it.names = names
    await it.create(builder).start()


def records(it: World, name: str, status: str = "manual") -> list[str]:
    """Keys of documents that wait for a person."""
    wanted = AuditFilter("account", kind=MULTIPLE_UNIQUE, status=status)
    return sorted(row.key for row in it.stores[name].tables.conflicts(wanted, limit=100))


@in_virtual_time
async def test_documents_that_exist_get_their_claims() -> None:
    async with World(application=FORMER) as it:
        for number in range(100):
            await put(it, "abc"[number % 3], f"k{number}", f"{number}@x", phone=number)
        await it.settled()
        await declared(it)
        await whole(it)
        await whole(it, "account.phone")
        assert len(await consistent(it)) == 200
        with pytest.raises(UniqueViolation):
            await put(it, "c", "more", "7@x")
        report = reports(it)["account.email"]
        assert (report.kind, report.waits_for, report.looked, report.conflicts) == ("unique", [], 100, 0)


@in_virtual_time
async def test_nothing_is_built_before_all_regions_know() -> None:
    async with World(application=FORMER) as it:
        await put(it, "a", "ann", "x@x")
        await it.settled()
        for name in "ab":
            await restarted(it, name, APPLICATION)
        await until(
            lambda: "account.email" in reports(it) and reports(it)["account.email"].waits_for == ["c"]
        )
        it.application = FORMER
        await put(it, "c", "bob", "x@x")  # who does not know the declaration takes no claim
        await asyncio.sleep(30)
        assert reports(it)["account.email"].state == "waiting"
        await restarted(it, "c", APPLICATION)
        await whole(it)
        assert records(it, "a") == records(it, "c") == ["bob"]


@in_virtual_time
async def test_a_region_that_shows_no_document_yet_asks_all_the_same() -> None:
    async with World(application=FORMER) as it:
        await it.write("a", "handle", "h", {"name": "x"})
        await it.settled()
        await restarted(it, "a", APPLICATION)
        await until(
            lambda: "account.email" in reports(it) and reports(it)["account.email"].waits_for == ["b", "c"]
        )


def weak() -> Application:
    """The same documents, before a majority decided them."""

    class Account(Collection):
        email: str | None = None
        phone: int | None = None
        name: str = ""
        visits: Counter

    return application_of(Account)


@in_virtual_time
async def test_documents_that_no_majority_has_decided_get_their_claims() -> None:
    async with World(application=weak()) as it:
        for number in range(10):
            await put(it, "abc"[number % 3], f"k{number}", f"{number % 9}@x")
        await it.settled()
        await declared(it)
        await whole(it)
        assert records(it, "a") == records(it, "c") == ["k9"]
        await it.write("b", "account", "k9", {"$set": {"email": "9@x"}})
        assert len(await consistent(it)) == 10


@in_virtual_time
async def test_duplicates_wait_for_a_person_and_are_mended_by_writes() -> None:
    async with World(application=FORMER) as it:
        for key in ("ann", "bob", "cem", "dan"):
            await put(it, "a", key, "x@x" if key != "dan" else "d@x")
        await it.settled()
        await declared(it)
        await whole(it)
        await it.settled()
        assert all(records(it, name) == ["bob", "cem"] for name in it.names)
        assert reports(it)["account.email"].conflicts == 2
        assert it.shown("b", "account", "cem")["email"] == "x@x"
        with pytest.raises(UniqueViolation) as refused:
            await put(it, "b", "dan", "x@x")
        assert refused.value.details["holder"] == "ann"
        await put(it, "b", "ann", "ann@x")  # the next one gets the claim
        await until(lambda: all(records(it, name) == ["cem"] for name in it.names))
        with pytest.raises(UniqueViolation) as refused:
            await put(it, "b", "dan", "x@x")
        assert refused.value.details["holder"] == "bob"
        await it.write("c", "account", "cem", None)
        await until(lambda: reports(it)["account.email"].conflicts == 0)
        await until(lambda: all(records(it, name) == [] for name in it.names))
        assert len(await consistent(it)) == 3


@in_virtual_time
async def test_a_claim_that_nobody_has_is_freed() -> None:
    async with World(application=APPLICATION) as it:
        await put(it, "a", "ann", "x@x", phone=5)
        await put(it, "a", "dan", "z@x")
        await it.settled()
        await declared(it, FORMER)
        await put(it, "a", "eve", "z@x")
        await put(it, "a", "ann", "y@x")
        await it.write("a", "account", "dan", None)
        await it.settled()
        await declared(it)
        await whole(it)
        await until(lambda: reports(it)["account.phone"].state == "whole")
        await put(it, "b", "bob", "x@x", phone=5)
        assert set(await alike(it)) == {"x@x", "y@x", "z@x", "5"}


@in_virtual_time
async def test_another_region_goes_on_when_the_builder_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World(application=FORMER) as it:
        for number in range(200):
            await put(it, "abc"[number % 3], f"k{number:03}", f"{number}@x")
        await it.settled()
        honest, looked = Claiming.look, asyncio.Event()

        async def look(self: Claiming, phase: int, after: str | None) -> Any:
            if after is not None and not looked.is_set():
                looked.set()
                await asyncio.get_running_loop().create_future()
            return await honest(self, phase, after)

        monkeypatch.setattr(Claiming, "look", look)
        await declared(it)
        await looked.wait()
        async with without_builder(it, "unique/account/email"):
            await whole(it)
        await whole(it)
        assert len(await consistent(it)) == 200


@in_virtual_time
async def test_claims_are_built_beside_writers() -> None:
    async with World(application=FORMER, distance_s=0.05) as it:
        for number in range(40):
            await put(it, "abc"[number % 3], f"k{number:02}", f"{number % 30}@x")
        await it.settled()
        stopped = asyncio.Event()

        async def change(name: str, number: int) -> None:
            while not stopped.is_set():
                number += 7
                with contextlib.suppress(AtollError):
                    await put(it, name, f"k{number % 40:02}", f"{number % 43}@x")
                await asyncio.sleep(0.05)

        writers = [asyncio.create_task(change(name, at)) for at, name in enumerate("abc")]
        await declared(it)
        await whole(it)
        stopped.set()
        await asyncio.gather(*writers)
        await no_intents(it)
        await asyncio.sleep(60)
        waiting = set(records(it, "a"))
        for key in waiting:
            await it.write("a", "account", key, None)
        await until(lambda: reports(it)["account.email"].conflicts == 0)
        await consistent(it)


@in_virtual_time
async def test_what_was_shown_before_a_region_went_back_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with World(application=FORMER) as it:
        await put(it, "a", "ann", "x@x")
        await it.settled()
        honest = Showing.shows
        monkeypatch.setattr(Showing, "shows", lambda *_: False)
        await declared(it)
        await until(lambda: [each.waits_for for each in reports(it).values()] == [[], []])
        await asyncio.sleep(60)
        await restarted(it, "c", FORMER)
        await asyncio.sleep(60)
        back_s, since_s = asyncio.get_running_loop().time(), []

        def shows(self: Showing, since: float) -> bool:
            since_s.append(since)
            return honest(self, since)

        await restarted(it, "c", APPLICATION)
        await until(lambda: reports(it, "a")["account.email"].state == "waiting")
        await asyncio.sleep(10)
        monkeypatch.setattr(Showing, "shows", shows)
        await whole(it)
        assert min(since_s) >= back_s


@in_virtual_time
async def test_a_region_asks_until_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World(application=FORMER) as it:
        await put(it, "a", "ann", "x@x")
        await it.settled()
        await declared(it)
        await whole(it)
        await declared(it, FORMER)
        await put(it, "b", "bob", "x@x")
        await it.settled()
        honest, faster = Registers.change, {"a": 3, "b": 3, "c": 3}

        async def change(self: Registers, write: Write, *given: Any) -> Any:
            name = self._site.name
            if write.mutations[0].collection == BUILDS and faster[name]:
                faster[name] -= 1
                raise VersionMismatch("others were faster")
            return await honest(self, write, *given)

        monkeypatch.setattr(Registers, "change", change)
        await declared(it)
        await until(lambda: all(records(it, name) == ["bob"] for name in it.names))
