from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from .cluster import Cluster

pytestmark = pytest.mark.xdist_group("shared")


def test_a_write_goes_to_the_document_s_home(shared: Cluster) -> None:
    tokyo = shared["tokyo"]
    answer = tokyo.put("order", "home", {"region": "frankfurt"})
    assert (answer.status, answer.headers["atoll-region"]) == (200, "frankfurt")
    again = tokyo.request("PATCH", "/v1/order/home", {"$set": {"quantity": 5}}, answer.token)
    assert again.headers["atoll-region"] == "frankfurt"
    assert tokyo.request("GET", "/v1/order/home", headers=again.token).value["quantity"] == 5
    shared.settled()
    assert tokyo.delete("order", "home").headers["atoll-region"] == "frankfurt"


def test_key_ranges_say_who_writes(shared: Cluster) -> None:
    for key, owner in (("apple", "frankfurt"), ("m", "tokyo"), ("zebra", "virginia"), ("東", "virginia")):
        for region in shared:
            assert region.put("shelf", key, {"label": "x"}).headers["atoll-region"] == owner


def test_a_forwarded_error_is_the_owner_s(shared: Cluster) -> None:
    answer = shared["tokyo"].put("order", "guarded", {"region": "virginia"}, If_Match='"never"')
    assert (answer.status, answer.problem) == (412, "version-mismatch")


def test_a_forwarded_retry_counts_once(shared: Cluster) -> None:
    for _ in range(3):
        answer = shared["tokyo"].put("order", "once", {"region": "virginia"}, Idempotency_Key="once-only")
    assert answer.headers["atoll-replayed"] == "true"
    shared.settled()


def test_a_write_cannot_move_a_document(shared: Cluster) -> None:
    tokyo = shared["tokyo"]
    tokyo.put("order", "settler", {"region": "tokyo"})
    answer = tokyo.put("order", "settler", {"region": "virginia"})
    assert (answer.status, answer.problem) == (409, "ownership-fixed")
    assert answer.json["owner"] == "tokyo"


def test_a_batch_has_one_owner(shared: Cluster) -> None:
    def put(key: str, region: str) -> dict[str, object]:
        return {"put": {"collection": "order", "key": key, "value": {"region": region}}}

    tokyo = shared["tokyo"]
    mixed = tokyo.post("/v1/batch", {"writes": [put("b1", "tokyo"), put("b2", "virginia")]})
    assert (mixed.status, mixed.problem) == (422, "invalid-operation")
    one = tokyo.post("/v1/batch", {"writes": [put("b1", "virginia"), put("b2", "virginia")]})
    assert (one.status, one.headers["atoll-region"]) == (200, "virginia")


def test_an_owner_out_of_reach_is_named(shared: Cluster) -> None:
    tokyo = shared["tokyo"]
    with shared.apart(("tokyo", "frankfurt")):
        answer = tokyo.put("order", "cut-off", {"region": "frankfurt"})
        assert (answer.status, answer.problem) == (503, "region-unreachable")
        assert answer.json["region"] == "frankfurt"
        assert answer.json["definite"] is True
        assert tokyo.put("order", "own", {"region": "tokyo"}).status == 200
    assert all(region.get("order", "cut-off").status == 404 for region in shared)


def test_strong_documents_have_one_order(shared: Cluster) -> None:
    shared["tokyo"].put("account", "race", {"balance": 0})

    def increment(name: str) -> int:
        won = 0
        for _ in range(15):
            seen = shared[name].get("account", "race")
            version = seen.headers["etag"]
            balance = seen.value["balance"]
            won += (
                shared[name].put("account", "race", {"balance": balance + 1}, If_Match=version).status == 200
            )
        return won

    with ThreadPoolExecutor() as threads:
        won = sum(threads.map(increment, shared.regions))
    assert won > 0
    shared.settled()
    assert [region.get("account", "race").value["balance"] for region in shared] == [won] * 3
