from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from .cluster import Cluster, Region, until

pytestmark = pytest.mark.xdist_group("shared")


def stocked(shared: Cluster, key: str, stock: int) -> None:
    assert shared["tokyo"].put("inventory", key, {"stock": stock}).status == 200
    shared.settled()


def sell(region: Region, key: str, quantity: int = 1) -> bool:
    answer = region.patch("inventory", key, {"$inc": {"stock": -quantity}})
    if answer.status == 200:
        return True
    assert (answer.status, answer.problem) == (409, "bound-exceeded"), answer.body
    return False


def test_a_region_sells_all_there_is(shared: Cluster) -> None:
    stocked(shared, "all", 90)
    assert sell(shared["frankfurt"], "all", 90)
    assert not sell(shared["tokyo"], "all")
    shared.settled()
    assert [region.get("inventory", "all").value["stock"] for region in shared] == [0, 0, 0]
    assert shared["frankfurt"].status()["counted"]["rights_requests"] >= 2


TOKYO = (("tokyo", "frankfurt"), ("tokyo", "virginia"))
"""Its links."""


def cut_off(region: Region) -> None:
    until(lambda: region.status()["registers"]["cut_off"], f"{region.name} knows that it is cut off")


def test_a_region_that_is_cut_off_sells_from_its_rights_and_says_so(shared: Cluster) -> None:
    frankfurt, tokyo, virginia = shared
    stocked(shared, "told", 90)
    for region in shared:
        answer = region.get("inventory", "told")
        assert (answer.value["stock"], answer.headers.get("atoll-degraded")) == (90, None)
    with shared.apart(*TOKYO):
        cut_off(tokyo)
        sale = tokyo.patch("inventory", "told", {"$inc": {"stock": -20}})
        assert (sale.status, sale.headers["atoll-degraded"]) == (200, "escrow")
        refused = tokyo.patch("inventory", "told", {"$inc": {"stock": -11}})
        assert (refused.status, refused.problem, refused.json["left_here"]) == (409, "bound-exceeded", 10)
        counted = tokyo.get("inventory", "told")
        assert counted.value["stock"] == 70
        assert counted.headers["atoll-degraded"] == "escrow; not heard: frankfurt, virginia"
        sale = frankfurt.patch("inventory", "told", {"$inc": {"stock": -5}})
        assert (sale.status, sale.headers.get("atoll-degraded")) == (200, None)
        counted = virginia.get("inventory", "told")
        assert (counted.value["stock"], counted.headers["atoll-degraded"]) == (85, "escrow; not heard: tokyo")
    for region in shared:
        answer = region.get("inventory", "told")
        assert (answer.value["stock"], answer.headers.get("atoll-degraded")) == (65, None)
    assert (
        'atoll_degraded_total{fallback="escrow",request="write"}'
        in tokyo.request("GET", "/metrics").body.decode()
    )


def test_every_region_tells_who_holds_which_rights(shared: Cluster) -> None:
    stocked(shared, "shown", 9)

    def shown() -> bool:
        counters = [
            [each for each in region.status()["rights"]["scarcest"] if each["key"] == "shown"]
            for region in shared
        ]
        return all(
            each and each[0]["held"] == {"frankfurt": 3, "tokyo": 3, "virginia": 3} for each in counters
        )

    until(shown, "all regions tell the rights of all")


def test_what_was_written_while_cut_off_is_decided_afterwards(shared: Cluster) -> None:
    """By one region, and while the majority decided something else: one stays, and the audit has the other."""
    frankfurt, tokyo, _ = shared
    assert tokyo.put("booking", "gala", {"guest": "first"}).headers.get("atoll-degraded") is None
    shared.settled()
    with shared.apart(*TOKYO):
        cut_off(tokyo)
        until(lambda: frankfurt.put("booking", "gala", {"guest": "majority"}).status == 200, "they go on")
        written = tokyo.put("booking", "gala", {"guest": "cut off"})
        assert (written.status, written.headers["atoll-degraded"]) == (200, "eventual")
        alone = tokyo.get("booking", "gala")
        assert (alone.value, alone.headers["atoll-degraded"]) == ({"guest": "cut off"}, "eventual")
        assert frankfurt.get("booking", "gala").value == {"guest": "majority"}
    until(lambda: tokyo.status()["registers"]["undecided"] == 0, "all is decided")
    shared.settled()
    for region in shared:
        answer = region.get("booking", "gala")
        assert (answer.value, answer.headers.get("atoll-degraded")) == ({"guest": "cut off"}, None)
        (record,) = region.conflicts(collection="booking", key="gala")
        assert (record["status"], record["losing"]["value"]) == ("resolved", {"guest": "majority"})


def test_several_counters_in_one_batch_get_their_rights(shared: Cluster) -> None:
    """The first peer has spent out of one, and still has what the other needs."""
    stocked(shared, "one", 9)
    stocked(shared, "two", 9)
    assert sell(shared["frankfurt"], "one", 3)
    shared.settled()
    writes = [
        {"patch": {"collection": "inventory", "key": key, "operators": {"$inc": {"stock": -6}}}}
        for key in ("one", "two")
    ]
    assert shared["tokyo"].post("/v1/batch", {"writes": writes}).status == 200


def test_cut_off_regions_sell_what_they_hold(shared: Cluster) -> None:
    stocked(shared, "alone", 30)
    with shared.apart():
        for region in shared:
            assert sell(region, "alone", 10)
            assert not sell(region, "alone")
    assert [region.get("inventory", "alone").value["stock"] for region in shared] == [0, 0, 0]


def test_nothing_is_oversold_under_load_while_links_come_and_go(shared: Cluster) -> None:
    stocked(shared, "rush", 200)

    def shopper(number: int) -> int:
        region = shared[list(shared.regions)[number % 3]]
        return sum(quantity for quantity in (1, 2, 3) * 6 if sell(region, "rush", quantity))

    with ThreadPoolExecutor(9) as threads:
        first = list(threads.map(shopper, range(6)))
        with shared.apart(("tokyo", "frankfurt")):
            second = list(threads.map(shopper, range(6)))
        with shared.apart():
            third = list(threads.map(shopper, range(9)))
    sold = sum(first + second + third)
    assert 0 < sold <= 200
    assert [region.get("inventory", "rush").value["stock"] for region in shared] == [200 - sold] * 3
    assert sold + sum(sell(shared["virginia"], "rush") for _ in range(201 - sold)) == 200


def test_a_stock_never_passes_64_bits(shared: Cluster) -> None:
    stocked(shared, "full", (1 << 63) - 10)
    refused = shared["tokyo"].patch("inventory", "full", {"$inc": {"stock": 10}})
    assert (refused.status, refused.problem) == (422, "invalid-operation")
    assert "64 bits" in refused.json["detail"]
    assert shared["tokyo"].get("inventory", "full").value["stock"] == (1 << 63) - 10
