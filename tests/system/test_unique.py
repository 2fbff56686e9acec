"""Unique fields on real processes: of all regions that give one value to different documents, one succeeds."""

from __future__ import annotations

import asyncio
import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from atoll import Collection, connect, connect_sync, field
from atoll.client import SyncDatabase
from atoll.errors import NotFound, UniqueViolation

from .cluster import Cluster, Region, until
from .conftest import MakeCluster
from .processes import atoll


class Login(Collection, consistency="strong"):
    email: str = field(unique=True)
    phone: str | None = field(None, unique=True)


def test_of_three_regions_one_gets_a_value(shared: Cluster) -> None:
    def take(near: str, number: int) -> str | None:
        with connect_sync(shared.urls, near=near) as db:
            try:
                db.put(Login(key=f"race-{number}-{near}", email=f"race{number}@x"))
            except UniqueViolation as error:
                return str(error.details["holder"])
            return None

    with ThreadPoolExecutor(9) as threads:
        for number in range(10):
            names = [region.name for region in shared]
            told = list(threads.map(take, names, [number] * 3))
            assert told.count(None) == 1, told
            winner = f"race-{number}-{names[told.index(None)]}"
            assert {each for each in told if each is not None} == {winner}


def test_the_refusal_names_field_value_and_holder(shared: Cluster) -> None:
    shared["tokyo"].put("login", "told-1", {"email": "told@x"})
    answer = shared["virginia"].request("PUT", "/v1/login/told-2", {"email": "told@x"})
    assert answer.status == 409
    problem = answer.json
    assert problem["type"] == "urn:atoll:problem:unique-violation"
    assert problem["definite"] is True
    assert [problem[name] for name in ("collection", "key", "field", "value", "holder")] == [
        "login",
        "told-2",
        "email",
        "told@x",
        "told-1",
    ]
    batch = {
        "writes": [
            {"put": {"collection": "login", "key": f"told-{n}", "value": {"email": "both@x"}}} for n in (3, 4)
        ]
    }
    for path in ("/v1/batch", "/v1/transactions"):
        assert shared["frankfurt"].post(path, batch).json["type"] == problem["type"]


async def test_every_verb_of_the_asynchronous_client_keeps_it(shared: Cluster) -> None:
    async with (
        connect(shared.urls, near="tokyo") as tokyo,
        connect(shared.urls, near="frankfurt") as frankfurt,
    ):
        await tokyo.put(Login(key="verb-1", email="verb1@x", phone="1"))
        with pytest.raises(UniqueViolation):
            await frankfurt.put_many(Login, [("verb-2", b'{"email": "verb1@x"}')])
        with pytest.raises(UniqueViolation):
            async with frankfurt.transaction() as t:
                t.put(Login(key="verb-2", email="verb2@x", phone="1"))
        await frankfurt.put(Login(key="verb-2", email="verb2@x"))
        with pytest.raises(UniqueViolation):
            await tokyo.update(Login, "verb-2", phone="1")
        async with frankfurt.transaction() as t:
            t.update(Login, "verb-1", phone=None)
            t.update(Login, "verb-2", phone="1")
        await tokyo.delete(Login, "verb-2")
        done = await asyncio.gather(
            *(
                db.put(Login(key=f"verb-{n}", email="verb2@x", phone="1"))
                for n, db in enumerate((tokyo, frankfurt) * 3)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(each, Login) for each in done) == 1, done


def test_an_import_keeps_it(shared: Cluster) -> None:
    path = shared.folder / "logins.jsonl"
    rows = [{"key": f"import-{n}", "email": f"import{n % 6}@x"} for n in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--on-error", "skip", "--config", "tokyo.toml", "--json")
    done = atoll(shared.folder, "import", "login", path, *options)
    assert json.loads(done.stdout)["rejected"] == 2, done.stderr + done.stdout
    with connect_sync(shared.urls, near="tokyo") as db:
        found = [each.email for each in db.list(Login, prefix="import-")]
    assert sorted(found) == [f"import{n}@x" for n in range(6)]


def test_it_is_kept_while_regions_are_killed(make_cluster: MakeCluster) -> None:
    cluster = make_cluster().start()

    def change(db: SyncDatabase, client: int, count: int) -> None:
        key, email = f"k{(count * 7 + client) % 4}", f"{(count + client) % 5}@x"
        if count % 5 == 4:
            db.delete(Login, key)
        else:
            db.put(Login(key=key, email=email))

    cluster.killed_in_turn(change)
    with connect_sync(cluster.urls, near="tokyo") as db:
        read = db.snapshot(*((Login, f"k{n}") for n in range(4)))
        emails = [each.value.email for each in read if each.value is not None]
        assert len(set(emails)) == len(emails)
        for each in range(4):
            with contextlib.suppress(NotFound):
                db.delete(Login, f"k{each}")
        for number in range(5):
            db.put(Login(key=f"fresh{number}", email=f"{number}@x"))


def test_duplicates_are_found_and_settled_alike_in_every_region(shared: Cluster) -> None:
    with shared.apart():
        for region in shared:
            region.put("seat", f"seat-{region.name}", {"number": 77, "guest": region.name})
            region.put("desk", f"desk-{region.name}", {"name": "same"})
    shared.settled()

    def seats(region: Region) -> list[int | None]:
        return [region.get("seat", f"seat-{other.name}").value["number"] for other in shared]

    def records(region: Region, collection: str) -> list[dict[str, Any]]:
        found = region.conflicts(kind="multiple_unique_conflicts", collection=collection)
        return sorted(found, key=lambda record: record["id"])

    until(lambda: all(seats(region).count(77) == 1 for region in shared), "duplicates are cleared")
    until(
        lambda: all(
            [each["status"] for each in records(region, "seat")] == ["resolved"] * 2 for region in shared
        ),
        "all regions know that they are",
    )
    first = list(shared)[seats(shared["tokyo"]).index(77)].name
    for region in shared:
        assert records(region, "seat") == records(shared["tokyo"], "seat")
        # One may have lost to another before the first was heard of, which that one then lost to.
        lost_to = {each["key"]: each["winning"]["value"]["key"] for each in records(region, "seat")}
        assert {lost_to.get(winner, winner) for winner in lost_to.values()} == {f"seat-{first}"}
        assert f"seat-{first}" not in lost_to
        waiting = records(region, "desk")
        assert waiting == records(shared["tokyo"], "desk")
        assert [each["status"] for each in waiting] == ["manual"] * 2
        assert region.request("PUT", "/v1/seat/seat-more", {"number": 77}).status == 409
    for record in records(shared["virginia"], "desk"):
        shared["virginia"].delete("desk", record["key"])
    shared.settled()
    assert {each["status"] for each in records(shared["tokyo"], "desk")} == {"resolved"}
