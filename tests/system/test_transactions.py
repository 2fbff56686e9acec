"""Transactions on real processes: money is moved, and none is made or lost, whatever befalls a region."""

from __future__ import annotations

import pytest

from atoll import Collection, Counter, Decrement, Increment, connect, connect_sync
from atoll.client import SyncDatabase
from atoll.errors import InvalidOperation, VersionMismatch

from .cluster import Cluster, Region
from .conftest import MakeCluster

ACCOUNTS = ("t0", "t1", "t2", "t3")
EACH = 100


class Purse(Collection, consistency="strong"):
    amount: Counter


class Profile(Collection):
    name: str


def fund(cluster: Cluster) -> None:
    with connect_sync(cluster.urls) as db:
        for key in ACCOUNTS:
            db.put(Purse(key=key, amount=EACH))


def total(cluster: Cluster, near: str) -> int:
    with connect_sync(cluster.urls, near=near) as db:
        return sum(read.value.amount for read in db.snapshot(*((Purse, key) for key in ACCOUNTS)))


def test_no_money_is_made_or_lost_while_regions_are_killed(make_cluster: MakeCluster) -> None:
    cluster = make_cluster().start()
    fund(cluster)

    def transfer(db: SyncDatabase, client: int, count: int) -> None:
        source, target = ACCOUNTS[(client + count) % 4], ACCOUNTS[(client + count * 3 + 1) % 4]
        if source != target:
            with db.transaction() as t:
                t.update(Purse, source, amount=Decrement(1))
                t.update(Purse, target, amount=Increment(1))

    def nothing_is_lost(killed: Region) -> None:
        others = [other.name for other in cluster if other is not killed]
        assert total(cluster, others[0]) == total(cluster, others[1]) == 4 * EACH

    cluster.killed_in_turn(transfer, nothing_is_lost)
    for region in cluster:
        assert total(cluster, region.name) == 4 * EACH
        assert sum(region.get("purse", key).value["amount"] for key in ACCOUNTS) == 4 * EACH


def test_what_was_read_must_still_be_there(shared: Cluster) -> None:
    with connect_sync(shared.urls, near="tokyo") as db, connect_sync(shared.urls, near="virginia") as other:
        db.put(Purse(key="read", amount=1))
        with pytest.raises(VersionMismatch), db.transaction() as t:  # noqa: PT012
            assert t.get(Purse, "read") == Purse(key="read", amount=1)
            other.put(Purse(key="read", amount=5))
            t.put(Purse(key="written", amount=1))
        assert db.get(Purse, "written") is None
        runs = []

        def double(t: object) -> int:
            found = t.get(Purse, "read")  # type: ignore[attr-defined]
            if not runs:
                other.put(Purse(key="read", amount=7))
            runs.append(found.amount)
            t.put(Purse(key="written", amount=found.amount * 2))  # type: ignore[attr-defined]
            return int(found.amount)

        assert db.transact(double) == 7
        assert runs == [5, 7]
        with db.transaction() as t:
            t.put(Profile(key="with-it", name="n"))
            t.delete(Purse, "written")
        assert db.get(Purse, "written") is None
        assert db.get(Profile, "with-it") == Profile(key="with-it", name="n")


async def test_the_asynchronous_client_has_the_same(shared: Cluster) -> None:
    async with connect(shared.urls, near="frankfurt") as db:
        async with db.transaction() as t:
            t.put(Purse(key="a1", amount=3), create=True)
            t.put(Purse(key="a2", amount=4), create=True)
            assert (await t.get(Purse, "a1")) == Purse(key="a1", amount=3)
        with pytest.raises(VersionMismatch):  # noqa: PT012
            async with db.transaction() as t:
                t.put(Purse(key="a3", amount=3))
                t.put(Purse(key="a1", amount=9), create=True)
        found = await db.snapshot((Purse, "a1"), (Purse, "a2"), (Purse, "a3"))
        assert [None if each.value is None else each.value.amount for each in found] == [3, 4, None]
        with pytest.raises(InvalidOperation, match="outside of"):
            await db.snapshot((Profile, "p"))
        with pytest.raises(InvalidOperation, match="read it before"):  # noqa: PT012
            async with db.transaction() as t:
                t.update(Purse, "a1", amount=Increment(1))
                await t.get(Purse, "a1")
        assert (await db.get(Purse, "a1")) == Purse(key="a1", amount=3)


def test_a_repeated_transaction_is_told_apart_by_its_key(shared: Cluster) -> None:
    body = {
        "writes": [
            {"patch": {"collection": "purse", "key": key, "operators": {"$inc": {"amount": 1}}}}
            for key in ("k1", "k2")
        ]
    }
    for region, replayed in (("tokyo", None), ("tokyo", "true"), ("virginia", "true")):
        answer = shared[region].request("POST", "/v1/transactions", body, {"Idempotency-Key": "once-t"})
        assert (answer.status, answer.headers.get("atoll-replayed")) == (200, replayed)
    assert shared["frankfurt"].get("purse", "k2").value == {"amount": 1}


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 422, "1 to 1000 writes"),
        ([], 400, "a transaction is"),
        ({"reads": [{"collection": "purse", "key": "x"}], "writes": []}, 200, ""),
        (
            {
                "reads": [{"collection": "purse", "key": "x"}],
                "checks": [{"collection": "purse", "key": "x", "version": None}],
            },
            422,
            "read first",
        ),
        ({"reads": [{"collection": "profile", "key": "x"}]}, 422, "outside of the transaction"),
        ({"reads": [{"collection": "nothing", "key": "x"}]}, 404, "nothing"),
        ({"checks": [{"collection": "profile", "key": "x", "version": None}]}, 422, "read outside of it"),
        ({"checks": [{"collection": "purse", "key": "x"}]}, 400, "version"),
        (
            {
                "writes": [
                    {"delete": {"collection": "purse", "key": "none"}},
                    {"delete": {"collection": "purse", "key": "no"}},
                ]
            },
            404,
            "none",
        ),
        ({"reads": [{"collection": "purse", "key": f"k{n}"} for n in range(101)]}, 422, "1 to 100 documents"),
        (
            {"writes": [{"put": {"collection": "profile", "key": "x", "value": {"name": "n"}}}]},
            422,
            "needs a document of a strong",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_reason(
    shared: Cluster, body: object, status: int, says: str
) -> None:
    answer = shared["tokyo"].post("/v1/transactions", body)
    assert answer.status == status, answer.body
    assert says in answer.body.decode()
