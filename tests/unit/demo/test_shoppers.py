from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from atoll.demo.purchases import Sample, assign_region, load_sample
from atoll.demo.shoppers import Plan, plan
from atoll.demo.topology import REGIONS


@pytest.fixture(scope="module")
def sample() -> Sample:
    return load_sample()


@pytest.fixture(scope="module")
def planned(sample: Sample) -> Plan:
    return plan(sample, REGIONS, lines=3000, random=Random(1))


def test_plan_has_about_the_lines_that_were_asked_for(planned: Plan) -> None:
    assert 3000 <= planned.lines <= 3100


def test_plan_is_the_seeds(sample: Sample, planned: Plan) -> None:
    assert plan(sample, REGIONS, lines=3000, random=Random(1)) == planned
    assert plan(sample, REGIONS, lines=3000, random=Random(2)) != planned


def test_households_shop_at_home_but_for_a_few(planned: Plan) -> None:
    assert all(
        basket.region == assign_region(basket.lines[0].household, REGIONS) for basket in planned.baskets
    )
    away = [basket for basket in planned.baskets if basket.via != basket.region]
    assert 0 < len(away) < len(planned.baskets) / 10


def test_baskets_come_in_order_over_the_opening_hours(planned: Plan) -> None:
    dues = [basket.due for basket in planned.baskets]
    assert dues == sorted(dues)
    assert dues[0] == 0.0
    assert 0.99 < dues[-1] <= 1.0


def test_popular_products_are_scarce_and_others_are_not(planned: Plan) -> None:
    wanted: Counter[str] = Counter()
    for basket in planned.baskets:
        for line in basket.lines:
            wanted[str(line.product)] += line.quantity
    assert planned.stock.keys() == wanted.keys() == planned.titles.keys()
    scarce = [sku for sku, units in wanted.items() if planned.stock[sku] < units]
    assert len(scarce) >= 30
    assert all(planned.stock[sku] > 0 for sku in scarce)
    assert sum(1 for sku, units in wanted.items() if planned.stock[sku] >= 2 * units) > 500


def test_household_keeps_to_one_queue_in_a_region(planned: Plan) -> None:
    queues = planned.queues()
    assert sum(len(queue) for queue in queues) == len(planned.baskets)
    owner: dict[tuple[int, str], int] = {}
    for number, queue in enumerate(queues):
        assert [basket.due for basket in queue] == sorted(basket.due for basket in queue)
        for basket in queue:
            assert owner.setdefault((basket.lines[0].household, basket.via), number) == number


def test_more_lines_than_there_are_means_all(sample: Sample) -> None:
    assert plan(sample, REGIONS, lines=10**6, random=Random(1)).lines == len(sample.lines)
