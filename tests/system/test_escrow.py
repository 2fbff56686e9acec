from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from .cluster import Cluster, Region

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


def test_a_weaker_guarantee_is_told(shared: Cluster) -> None:
    stocked(shared, "told", 3)
    assert shared["tokyo"].get("inventory", "told").headers["atoll-degraded"] == "escrow"
    assert (
        shared["tokyo"].patch("inventory", "told", {"$inc": {"stock": 1}}).headers["atoll-degraded"]
        == "escrow"
    )


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
