"""Fields that become references when there are documents already: these are counted beside the writers."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from atoll.consensus.references import counts_of
from atoll.documents.references import kept_at
from atoll.documents.strategies import DELETE_REFERENCED
from atoll.errors import AtollError, ReferenceViolation, Unavailable
from atoll.region.counting import Counting
from atoll.schema import Collection, Ref, field
from atoll.schema.application import Application, application_of
from atoll.schema.system import REFERRED
from atoll.store.port import AuditFilter

from ..virtual_time import in_virtual_time
from .test_building import declared, reports, restarted, until, whole, without_builder
from .test_strong_references import APPLICATION, Account, Folder, Link, Order, alike, consistent, dangling
from .test_transactions import no_intents
from .world import World


class Loose(Collection, name="order", consistency="strong"):
    """The former declaration: nothing refers."""

    owner: str
    payer: str | None = None
    note: str = ""


class Sheet(Collection, name="folder", consistency="strong"):
    parent: str | None = None
    code: str | None = field(None, unique=True)


FORMER = application_of(Account, Loose, Sheet, Link)


async def counted(it: World, *fields: str) -> None:
    for each in fields or ("order.owner", "order.payer", "folder.parent"):
        await whole(it, each)


def records(it: World, name: str, status: str = "manual") -> list[tuple[str, str, str]]:
    """Documents that wait for a person: key, field, what becomes of deletions."""
    wanted = AuditFilter(kind=DELETE_REFERENCED, status=status)
    rows = it.stores[name].tables.conflicts(wanted, limit=100)
    return sorted((row.key, row.field, row.strategy) for row in rows)


def counts(it: World, key: str, name: str = "a") -> dict[str, int]:
    row = it.stores[name].tables.get(REFERRED, kept_at(("account", key)))
    return counts_of(None if row is None else row.value)


@in_virtual_time
async def test_documents_that_exist_are_counted() -> None:
    async with World(application=FORMER) as it:
        for number in range(5):
            await it.write("a", "account", f"u{number}", {})
        await it.write("a", "folder", "top", {})
        for number in range(100):
            name, payer = "abc"[number % 3], f"u{number % 3}" if number % 2 else None
            await it.write(name, "order", f"k{number}", {"owner": f"u{number % 4}", "payer": payer})
            if number < 20:
                await it.write(name, "folder", f"f{number}", {"parent": "top", "code": str(number)})
        await it.settled()
        await declared(it, APPLICATION)
        await counted(it)
        await consistent(it)
        report = reports(it)["order.owner"]
        assert (report.kind, report.waits_for, report.looked, report.conflicts) == ("references", [], 100, 0)
        with pytest.raises(ReferenceViolation, match="25 of order refer to it by owner"):
            await it.write("b", "account", "u3", None)
        await it.write("b", "account", "u4", None)
        await it.write("c", "folder", "top", None)
        await consistent(it)
        assert [key for key, row in it.stores["c"].tables.scan_all("folder", limit=99) if row.value] == []


@in_virtual_time
async def test_nothing_is_deleted_before_all_is_counted() -> None:
    async with World(application=FORMER) as it:
        await it.write("a", "account", "ann", {})
        await it.write("a", "account", "bob", {})
        await it.write("a", "order", "x", {"owner": "ann"})
        await it.settled()
        for name in "ab":
            await restarted(it, name, APPLICATION)
            for key in ("ann", "bob"):
                with pytest.raises(Unavailable, match=r"references by order\.owner are being counted"):
                    await it.write(name, "account", key, None)
        await until(lambda: "order.owner" in reports(it) and reports(it)["order.owner"].waits_for == ["c"])
        with pytest.raises(Unavailable, match="waits for c; until that is over"):
            await it.write("a", "account", "bob", None)
        await it.write("a", "order", "y", {"owner": "bob"})
        await it.write("a", "order", "y", None)
        await restarted(it, "c", APPLICATION)
        await counted(it)
        await it.write("c", "account", "bob", None)
        with pytest.raises(ReferenceViolation):
            await it.write("b", "account", "ann", None)
        await consistent(it)


@in_virtual_time
async def test_a_new_deployment_deletes_at_once() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "account", "ann", {})
        await it.write("b", "account", "ann", None)
        await restarted(it, "b", APPLICATION)
        await it.write("b", "account", "ann", {})
        await it.write("b", "account", "ann", None)
        assert reports(it) == {}


@in_virtual_time
async def test_what_refers_to_nothing_waits_for_a_person() -> None:
    async with World(application=FORMER) as it:
        await it.write("a", "account", "ann", {})
        await it.write("a", "order", "x", {"owner": "ann", "payer": "eve"})
        await it.write("b", "order", "y", {"owner": "eve"})
        await it.write("b", "order", "z", {"owner": "k" * 5000})
        await it.write("c", "folder", "f", {"parent": ""})
        await it.settled()
        await declared(it, APPLICATION)
        await counted(it)
        await it.settled()
        waiting = [
            ("f", "parent", "cascade"),
            ("x", "payer", "restrict"),
            ("y", "owner", "restrict"),
            ("z", "owner", "restrict"),
        ]
        assert all(records(it, name) == waiting for name in it.names)
        assert reports(it)["order.owner"].conflicts == 2
        await consistent(it, dangles=4)
        with pytest.raises(ReferenceViolation):
            await it.write("a", "order", "v", {"owner": "eve"})
        await it.write("a", "order", "y", {"$set": {"note": "it may be changed otherwise"}})
        await it.write("a", "account", "eve", {})
        await it.write("b", "order", "z", {"owner": "ann"})
        await it.write("c", "folder", "f", None)
        await until(lambda: all(records(it, name) == [] for name in it.names))
        await until(lambda: all(each.conflicts == 0 for each in reports(it).values()))
        with pytest.raises(ReferenceViolation, match="1 of order refer to it by owner"):
            await it.write("a", "account", "eve", None)
        await consistent(it)


@in_virtual_time
async def test_what_was_written_without_being_counted_is_counted_when_the_field_refers_again() -> None:
    async with World(application=APPLICATION) as it:
        for key in ("ann", "bob", "cem", "dan"):
            await it.write("a", "account", key, {})
        for key, owner in (("x", "ann"), ("y", "ann"), ("z", "bob"), ("w", "dan")):
            await it.write("a", "order", key, {"owner": owner})
        await it.settled()
        await declared(it, FORMER)
        await it.write("b", "order", "x", {"owner": "cem"})
        await it.write("b", "order", "y", None)
        await it.write("c", "order", "v", {"owner": "bob", "payer": "ann"})
        await it.write("c", "account", "dan", None)
        await it.settled()
        assert counts(it, "ann") == {"order.owner": 2}
        await declared(it, APPLICATION)
        await counted(it, "order.owner", "order.payer")
        assert counts(it, "ann") == {"order.payer": 1}
        assert records(it, "a") == [("w", "owner", "restrict")]
        await consistent(it, dangles=1)


class Customer(Collection, consistency="strong"):
    name: str = ""


class Owned(Collection, name="order", consistency="strong"):
    owner: Ref[Customer]
    payer: str | None = None
    note: str = ""


@in_virtual_time
async def test_a_field_may_refer_to_another_collection() -> None:
    before = application_of(Account, Customer, Folder, Link, Order)
    async with World(application=before) as it:
        for collection in ("account", "customer"):
            await it.write("a", collection, "ann", {})
        await it.write("a", "order", "x", {"owner": "ann", "payer": "ann"})
        await it.settled()
        await declared(it, application_of(Account, Customer, Folder, Link, Owned))
        await counted(it, "order.owner")
        assert counts(it, "ann") == {"order.payer": 1}
        with pytest.raises(ReferenceViolation):
            await it.write("b", "customer", "ann", None)
        await it.write(
            "b", "account", "ann", None
        )  # the count of what is no reference any more keeps nothing


def weak() -> Application:
    """The same documents, before a majority decided them."""

    class Account(Collection):
        name: str = ""

    class Order(Collection):
        owner: Ref[Account]
        payer: Ref[Account] | None = None
        note: str = ""

    return application_of(Account, Order, Folder)


@in_virtual_time
async def test_documents_that_no_majority_has_decided_are_counted() -> None:
    async with World(application=weak()) as it:
        await it.write("a", "account", "ann", {})
        for number in range(10):
            await it.write("abc"[number % 3], "account", f"u{number}", {})
            await it.write("abc"[number % 3], "order", f"k{number}", {"owner": f"u{number}"})
        await it.settled()
        await declared(it, APPLICATION)
        await counted(it, "order.owner", "order.payer")
        with pytest.raises(ReferenceViolation):
            await it.write("b", "account", "u7", None)
        await it.write("b", "account", "ann", None)
        await consistent(it)


@in_virtual_time
async def test_another_region_goes_on_when_the_builder_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World(application=FORMER) as it:
        for number in range(3):
            await it.write("a", "account", f"u{number}", {})
        for number in range(200):
            await it.write("abc"[number % 3], "order", f"k{number:03}", {"owner": f"u{number % 3}"})
        await it.settled()
        honest, looked = Counting._count, asyncio.Event()

        async def count(self: Counting, keys: Any) -> None:
            """What is counted dies before it is said that it was looked at."""
            await honest(self, keys)
            if "k150" in keys and not looked.is_set():
                looked.set()
                await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(Counting, "_count", count)
        await declared(it, APPLICATION)
        await looked.wait()
        async with without_builder(it, "references/order/owner/account"):
            await counted(it)
        await counted(it)
        await asyncio.sleep(60)
        await alike(it)  # an acceptor that was away has intents that are over elsewhere
        assert sum(counts(it, f"u{number}")["order.owner"] for number in range(3)) == 200


@in_virtual_time
async def test_references_are_counted_beside_writers() -> None:
    async with World(application=FORMER, distance_s=0.05) as it:
        for number in range(6):
            await it.write("a", "account", f"u{number}", {})
        for number in range(40):
            await it.write("abc"[number % 3], "order", f"k{number:02}", {"owner": f"u{number % 6}"})
        await it.settled()
        stopped = asyncio.Event()

        async def change(name: str, number: int) -> None:
            while not stopped.is_set():
                number += 7
                made = {"owner": f"u{number % 5}", "payer": f"u{number % 6}"} if number % 3 else None
                with contextlib.suppress(AtollError):
                    await it.write(name, "order", f"k{number % 40:02}", made)
                with contextlib.suppress(AtollError):
                    await it.write(name, "account", f"u{number % 6}", None if number % 2 else {})
                await asyncio.sleep(0.05)

        writers = [asyncio.create_task(change(name, at)) for at, name in enumerate("abc")]
        await declared(it, APPLICATION)
        await counted(it, "order.owner", "order.payer")
        stopped.set()
        await asyncio.gather(*writers)
        await no_intents(it)
        await asyncio.sleep(60)
        await it.settled()
        waiting = [f"order/{key}.{name}" for key, name, _ in records(it, "a")]
        assert sorted(each.partition(" ")[0] for each in dangling(it, "b")) == waiting
        await consistent(it, dangles=len(waiting))
