from __future__ import annotations

import time
from typing import Any

import pytest

from .cluster import Cluster, Region

pytestmark = pytest.mark.xdist_group("shared")

HOSTILE = ("raising", "endless", "sleepy", "rubbish")


def next_millisecond() -> None:
    now_ms = time.time_ns() // 10**6
    while time.time_ns() // 10**6 <= now_ms:
        pass


@pytest.fixture(scope="module")
def collided(shared: Cluster) -> Cluster:
    """Everything that two regions can write without seeing each other, after they met again."""
    frankfurt, tokyo, virginia = shared
    for key in ("updated", "edited-then-deleted", "deleted-then-edited", "both-deleted"):
        tokyo.put("profile", key, {"name": "Before"})
    for key in ("fields", "kept-alive"):
        tokyo.put("cart", key, {"note": "before", "items": ["bread"], "labels": {"a": 1}})
    shared.settled()
    with shared.apart():
        frankfurt.put("profile", "edited-then-deleted", {"name": "F"})
        tokyo.delete("profile", "deleted-then-edited")
        next_millisecond()  # two clocks may read the same one, and then the regions' names decide
        tokyo.delete("profile", "edited-then-deleted")
        frankfurt.put("profile", "deleted-then-edited", {"name": "F"})
        frankfurt.put("profile", "inserted", {"name": "F"})
        tokyo.put("profile", "inserted", {"name": "T"})
        virginia.put("profile", "inserted", {"name": "V"})
        frankfurt.put("profile", "same", {"name": "Same"})
        tokyo.put("profile", "same", {"name": "Same"})
        frankfurt.patch("profile", "updated", {"$set": {"name": "F"}})
        tokyo.patch("profile", "updated", {"$set": {"age": 7}})
        for region in (frankfurt, tokyo):
            region.delete("profile", "both-deleted")
        virginia.put("claim", "seat", {"owner": "V"})
        frankfurt.put("claim", "seat", {"owner": "F"})
        for region in shared:
            region.put("page", "front", {"title": region.name})
            region.put("chain", "links", {"text": region.name[0]})
            region.patch("views", "counted", {"$inc": {"seen": 5}})
        frankfurt.patch("cart", "fields", {"$set": {"note": "F", "labels.a": 2}, "$add": {"items": ["milk"]}})
        tokyo.patch("cart", "fields", {"$set": {"note": "T", "labels.b": 3}, "$remove": {"items": ["bread"]}})
        frankfurt.delete("cart", "kept-alive")
        tokyo.patch("cart", "kept-alive", {"$add": {"items": ["milk"]}})
        for collection in HOSTILE:
            frankfurt.put(collection, "k", {"text": "F"})
            tokyo.put(collection, "k", {"text": "T"})
    return shared


def records(region: Region, collection: str, key: str) -> list[dict[str, Any]]:
    return region.conflicts(collection=collection, key=key)


def one(region: Region, collection: str, key: str) -> dict[str, Any]:
    (record,) = records(region, collection, key)
    return record


def test_the_audit_is_the_same_in_every_region(collided: Cluster) -> None:
    audits = [sorted(region.conflicts(), key=lambda record: record["id"]) for region in collided]
    assert len(audits[0]) >= 14
    assert audits[0] == audits[1] == audits[2]
    assert len({record["id"] for record in audits[0]}) == len(audits[0])


def test_regions_agree_after_every_kind_of_conflict(collided: Cluster) -> None:
    frankfurt, tokyo, virginia = collided
    assert frankfurt.digest() == tokyo.digest() == virginia.digest()


def test_of_three_inserts_two_are_recorded_whole(collided: Cluster) -> None:
    found = records(collided["tokyo"], "profile", "inserted")
    assert {record["losing"]["value"]["name"] for record in found} == {"F", "T"}
    for record in found:
        assert (record["kind"], record["strategy"], record["outcome"]) == ("insert_exists", "lww", "dropped")
        assert record["winning"]["region"] == "virginia"
        assert record["winning"]["value"]["name"] == "V"
        assert record["losing"]["region"] in ("frankfurt", "tokyo")
        assert record["losing"]["stamp"] < record["winning"]["stamp"]
        assert record["losing"]["at"].endswith("Z") or "#" in record["losing"]["at"]
        assert isinstance(record["losing"]["context"], dict)
        assert isinstance(record["uncertain"], bool)
        assert record["reason"]
    assert collided["frankfurt"].get("profile", "inserted").value["name"] == "V"


def test_equal_values_lose_nothing(collided: Cluster) -> None:
    assert records(collided["tokyo"], "profile", "same") == []
    assert records(collided["tokyo"], "profile", "both-deleted") == []


@pytest.mark.parametrize(
    ("key", "kind", "shown"),
    [
        ("updated", "update_origin_differs", 200),
        ("edited-then-deleted", "update_deleted", 404),
        ("deleted-then-edited", "delete_origin_differs", 200),
    ],
)
def test_each_kind_has_its_name(collided: Cluster, key: str, kind: str, shown: int) -> None:
    record = one(collided["virginia"], "profile", key)
    assert record["kind"] == kind
    assert collided["virginia"].get("profile", key).status == shown


def test_the_first_claim_stands(collided: Cluster) -> None:
    assert [region.get("claim", "seat").value["owner"] for region in collided] == ["V"] * 3
    record = one(collided["tokyo"], "claim", "seat")
    assert (record["strategy"], record["losing"]["value"]) == ("fww", {"owner": "F"})


def test_an_order_sensitive_function_converges(collided: Cluster) -> None:
    texts = [region.get("chain", "links").value["text"] for region in collided]
    assert texts == ["f+t+v"] * 3
    assert {record["strategy"] for record in records(collided["tokyo"], "chain", "links")} == {"custom"}
    assert {record["outcome"] for record in records(collided["tokyo"], "chain", "links")} == {"merged"}


def test_merged_fields_keep_both_sides(collided: Cluster) -> None:
    for region in collided:
        assert region.get("cart", "fields").value == {
            "note": "T", "items": ["milk"], "labels": {"a": 2, "b": 3},
        }  # fmt: skip
    record = one(collided["virginia"], "cart", "fields")
    assert (record["field"], record["losing"]["value"]) == ("note", "F")


def test_an_edit_keeps_a_merged_document_alive(collided: Cluster) -> None:
    assert "milk" in collided["virginia"].get("cart", "kept-alive").value["items"]
    assert one(collided["virginia"], "cart", "kept-alive")["kind"] == "delete_origin_differs"


def test_counters_never_conflict(collided: Cluster) -> None:
    assert collided["virginia"].get("views", "counted").value["seen"] == 15
    assert [r for r in records(collided["virginia"], "views", "counted") if r["outcome"] == "dropped"] == []


@pytest.mark.parametrize("collection", HOSTILE)
def test_a_function_that_fails_leaves_it_to_a_person(collided: Cluster, collection: str) -> None:
    for region in collided:
        record = one(region, collection, "k")
        assert (record["status"], record["outcome"]) == ("manual", "kept")
        assert "custom function failed" in record["reason"]
        siblings = region.get(collection, "k").json["siblings"]
        assert [sibling["value"]["text"] for sibling in siblings] == ["F", "T"]


def test_a_function_that_hangs_does_not_hold_a_region_up(collided: Cluster) -> None:
    """Once a function overran its bound on some versions, it is not tried on them again and again."""
    started = time.monotonic()
    for _ in range(10):
        assert collided["tokyo"].get("sleepy", "k").status == 200
    assert time.monotonic() - started < 2.0 * 3


def test_a_person_resolves_a_manual_conflict(collided: Cluster) -> None:
    frankfurt, tokyo, _ = collided
    waiting = records(tokyo, "page", "front")
    assert {record["status"] for record in waiting} == {"manual"}
    assert len(tokyo.get("page", "front").json["siblings"]) == 3
    answer = tokyo.post(f"/v1/conflicts/{waiting[0]['id']}/resolve", {"value": {"title": "resolved"}})
    assert answer.status == 200
    collided.settled()
    for region in collided:
        page = region.get("page", "front").json
        assert page["value"] == {"title": "resolved"}
        assert "siblings" not in page
        assert {record["status"] for record in records(region, "page", "front")} == {"resolved"}
    assert frankfurt.conflicts(status="manual", collection="page") == []


def test_filters_find_what_they_name(collided: Cluster) -> None:
    tokyo = collided["tokyo"]
    everything = tokyo.conflicts()
    for name, value in (("kind", "insert_exists"), ("status", "manual"), ("collection", "cart")):
        found = tokyo.conflicts(**{name: value})
        assert found == [record for record in everything if record[name] == value]
        assert found
    of_virginia = tokyo.conflicts(origin="virginia")
    assert of_virginia == [
        r for r in everything if "virginia" in (r["losing"]["region"], r["winning"]["region"])
    ]
    stamps = sorted(record["losing"]["stamp"] >> 16 for record in everything)
    assert len(tokyo.conflicts(since=str(stamps[3]))) == sum(stamp >= stamps[3] for stamp in stamps)
    assert len(tokyo.conflicts(until=str(stamps[3]))) == sum(stamp <= stamps[3] for stamp in stamps)
    assert tokyo.conflicts(until="2001-01-01T00:00:00Z") == []


def test_metrics_count_by_collection_and_kind(collided: Cluster) -> None:
    for region in collided:
        metrics = region.request("GET", "/metrics").body.decode()
        assert 'atoll_conflicts_total{collection="profile",kind="insert_exists"}' in metrics
        assert 'atoll_conflicts_total{collection="cart",kind="delete_origin_differs"}' in metrics
