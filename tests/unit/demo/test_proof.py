"""Each proof holds for a right outcome, and fails for each way in which an outcome can be wrong."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from atoll.demo import proof
from atoll.demo.findings import Findings
from atoll.demo.ledger import Collision, Ledger

ORDER = {"region": "tokyo", "sku": "7", "quantity": 2}


def record(id_: str, key: str, losing: Any, winning: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "collection": "profile",
        "key": key,
        "field": "",
        "kind": "update_origin_differs",
        "strategy": "lww",
        "outcome": "dropped",
        "status": "open",
        "uncertain": True,
        "losing": {"value": losing},
        "winning": {"value": winning},
        **more,
    }


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger(given={"7": 5, "8": 3})
    made.order("b-0", ORDER)
    made.sold["7"] = 2
    made.views["7"] = 4
    made.notes["n"] = ["rota", "<head>"]
    made.items["c"] = {"bread", "milk"}
    made.wallets, made.deliveries, made.killed_ms = {"ann": 9000}, {"d1": "ann", "d2": "ann"}, 15
    made.collisions = [Collision("profile", "ann", "", ({"v": 1}, {"v": 2}), "update_origin_differs", True)]
    return made


def region(name: str) -> Findings:
    documents: dict[str, dict[str, Any]] = {
        "order": {"b-0": dict(ORDER)},
        "inventory": {"7": {"stock": 3}, "8": {"stock": 3}},
        "page_view": {"7": {"views": 4}},
        "note": {"n": {"body": "<head> rota"}},
        "cart": {"c": {"items": ["bread", "milk"], "delivery": "door"}},
        "profile": {"ann": {"v": 2}},
        "wallet": {"ann": {"cents": 6500}},
        "parcel": {"d1": {"sku": "hamper"}},
    }
    return Findings(
        name,
        position={"tokyo": 9},
        digests={each: {"documents": len(held), "digest": f"d-{each}"} for each, held in documents.items()},
        documents=documents,
        conflicts=[record("r1", "ann", {"v": 1}, {"v": 2})],
        sagas={"d1": delivery("completed"), "d2": delivery("compensated")},
    )


def delivery(status: str) -> dict[str, Any]:
    done = [{"step": "reserve", "at_ms": 12}, {"step": "pay", "at_ms": 20}]
    return {
        "status": status,
        "step": "",
        "error": "",
        "home": "virginia",
        "started_ms": 10,
        "done": done,
        "fields": {"wallet": "ann"},
    }


@pytest.fixture
def found() -> list[Findings]:
    return [region("tokyo"), region("frankfurt"), region("virginia")]


def failed(ledger: Ledger, found: list[Findings]) -> dict[str, str]:
    """name of each check that fails → its first contradiction."""
    return {check.name: check.wrong[0] for check in proof.prove(ledger, found) if not check.ok}


def test_right_outcome_passes_every_check(ledger: Ledger, found: list[Findings]) -> None:
    checks = proof.prove(ledger, found)
    assert len(checks) == 11
    assert all(check.ok and check.told for check in checks)


def test_region_that_lags_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    found[2].position = {"tokyo": 8}
    assert failed(ledger, found) == {
        "all regions have seen the same entries": "virginia is at {'tokyo': 8}, tokyo at {'tokyo': 9}"
    }


def test_digest_that_differs_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    found[1].digests["cart"]["digest"] = "other"
    assert "frankfurt" in failed(ledger, found)["all regions hold the same documents"]


def test_document_that_differs_under_equal_digests_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    found[1].documents["profile"]["ann"] = {"v": 1}
    assert "profile/ann" in failed(ledger, found)["all regions hold the same documents"]


def test_document_that_pages_skip_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    for each in found:
        each.digests["cart"]["documents"] = 2
    assert "counts 2 in cart and lists 1" in failed(ledger, found)["all regions hold the same documents"]


def test_document_listed_twice_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    found[0].listed_twice.append("order/b-0")
    assert failed(ledger, found)["all regions hold the same documents"] == "tokyo lists order/b-0 twice"


ORDERS = "no order lost, none doubled"


def test_lost_order_is_noticed_in_the_region_that_lost_it(ledger: Ledger, found: list[Findings]) -> None:
    del found[1].documents["order"]["b-0"]
    assert failed(ledger, found)[ORDERS] == "order b-0 is lost in frankfurt"


def test_order_that_nobody_placed_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    for each in found:
        each.documents["order"]["b-0-again"] = dict(ORDER)
    assert failed(ledger, found)[ORDERS] == "order b-0-again is in frankfurt, and nobody placed it"


def test_order_with_other_content_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    for each in found:
        each.documents["order"]["b-0"]["quantity"] = 3
    assert "was acknowledged as" in failed(ledger, found)[ORDERS]


STOCK = "never oversold, not a unit astray"


@pytest.mark.parametrize("left", [2, 4])
def test_unit_that_went_astray_is_noticed(ledger: Ledger, found: list[Findings], left: int) -> None:
    for each in found:
        each.documents["inventory"]["7"]["stock"] = left
    assert failed(ledger, found) == {STOCK: f"7: 5 given, 2 sold, {left} left in tokyo"}


def test_missing_product_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    del found[0].documents["inventory"]["8"]
    assert failed(ledger, found)[STOCK] == "8: 3 given, 0 sold, None left in tokyo"


def test_overselling_is_noticed_though_the_books_agree(ledger: Ledger, found: list[Findings]) -> None:
    ledger.sold["7"] = 6
    for each in found:
        each.documents["inventory"]["7"]["stock"] = -1
    assert failed(ledger, found) == {STOCK: "7: oversold, -1 left in tokyo"}


def test_ordering_more_than_was_given_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    more = {**ORDER, "quantity": 4}
    ledger.order("b-1", more)
    for each in found:
        each.documents["order"]["b-1"] = dict(more)
        each.digests["order"]["documents"] = 2
    assert failed(ledger, found) == {STOCK: "7: 6 ordered, 5 given"}


@pytest.mark.parametrize("views", [3, 5])
def test_view_lost_or_doubled_is_noticed(ledger: Ledger, found: list[Findings], views: int) -> None:
    for each in found:
        each.documents["page_view"]["7"]["views"] = views
    assert failed(ledger, found) == {
        "page views counted once each": f"7: 4 views acknowledged, {views} in tokyo"
    }


@pytest.mark.parametrize("body", ["rota", "<head> <head> rota"])
def test_text_lost_or_doubled_is_noticed(ledger: Ledger, found: list[Findings], body: str) -> None:
    for each in found:
        each.documents["note"]["n"]["body"] = body
    assert "'<head>'" in failed(ledger, found)["concurrent edits merged"]


def test_item_lost_from_a_cart_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    for each in found:
        each.documents["cart"]["c"]["items"] = ["bread"]
    assert failed(ledger, found) == {"concurrent edits merged": "cart c in tokyo lacks 'milk'"}


AUDIT = "every region has the same audit"


def test_record_missing_in_one_region_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    found[2].conflicts.clear()
    assert failed(ledger, found) == {
        AUDIT: "record r1 (profile/ann, update_origin_differs) is missing in virginia"
    }


def test_record_that_only_a_later_region_has_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    found[2].conflicts.append(record("r2", "bob", 1, 2))
    assert failed(ledger, found)[AUDIT].endswith("is missing in tokyo")


def test_record_held_twice_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    found[1].conflicts *= 2
    assert failed(ledger, found) == {AUDIT: "frankfurt has record r1 2 times"}


def test_record_that_differs_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    found[1].conflicts = copy.deepcopy(found[1].conflicts)
    found[1].conflicts[0]["status"] = "resolved"
    assert failed(ledger, found)[AUDIT].endswith("differs in tokyo and frankfurt")


LOSERS = "every dropped value audited"


def test_value_dropped_without_record_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    for each in found:
        each.conflicts = []
    wrong = next(check.wrong for check in proof.prove(ledger, found) if check.name == LOSERS)
    assert wrong == (
        "profile/ann: 2 concurrent writes, 0 records",
        "profile/ann: {'v': 1} is neither shown nor on record",
    )


def test_record_of_another_value_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    for each in found:
        each.conflicts = [record("r1", "ann", {"v": 0}, {"v": 2})]
    assert failed(ledger, found) == {LOSERS: "profile/ann: {'v': 1} is neither shown nor on record"}


def test_conflict_filed_under_another_kind_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    for each in found:
        each.conflicts = [record("r1", "ann", {"v": 1}, {"v": 2}, kind="insert_exists")]
    assert failed(ledger, found)[LOSERS].startswith("profile/ann: filed as insert_exists")


def test_resolved_conflict_keeps_both_values_on_record(ledger: Ledger, found: list[Findings]) -> None:
    for each in found:
        each.documents["profile"]["ann"] = {"v": 3}
    assert failed(ledger, found) == {}


def test_collision_in_one_field_is_looked_for_in_that_field(ledger: Ledger, found: list[Findings]) -> None:
    ledger.collisions = [Collision("cart", "c", "delivery", ("door", "shop"), "update_origin_differs", True)]
    for each in found:
        each.conflicts = [record("r1", "c", "shop", "door", collection="cart", field="delivery")]
    assert failed(ledger, found) == {}
    for each in found:
        each.conflicts[0]["field"] = ""
    assert LOSERS in failed(ledger, found)


def test_collision_that_may_not_have_been_one_is_not_held_against_the_regions(
    ledger: Ledger, found: list[Findings]
) -> None:
    ledger.collisions = [Collision("profile", "bob", "", (1, 2), "insert_exists", False)]
    assert failed(ledger, found) == {}


def test_old_state_shown_to_a_session_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    ledger.sessions_broken.append("order/b-0, read in frankfurt: 404")
    assert failed(ledger, found) == {
        "customers see their own orders, wherever they look": "order/b-0, read in frankfurt: 404"
    }


ANSWERS = "every write answered, and done once"


def test_write_without_answer_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    ledger.unanswered.append("PUT /v1/order/b-1 in tokyo")
    assert failed(ledger, found) == {ANSWERS: "never answered: PUT /v1/order/b-1 in tokyo"}


def test_repetition_that_was_not_recognised_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    ledger.pressed_twice, ledger.replayed = 2, 1
    assert failed(ledger, found) == {ANSWERS: "2 writes were sent twice, and only 1 recognised"}


def test_parked_changes_are_noticed(ledger: Ledger, found: list[Findings]) -> None:
    found[1].parked = 1
    assert failed(ledger, found) == {ANSWERS: "frankfurt parked 1 changes"}


def test_conflicts_are_counted_by_what_became_of_them() -> None:
    records = [record("r1", "a", 1, 2), record("r2", "b", 1, 2), record("r3", "c", 1, 2, status="resolved")]
    records[0]["uncertain"] = False
    counted = [
        (group["status"], group["count"], group["within_clock_uncertainty"])
        for group in proof.conflict_counts(records)
    ]
    assert counted == [("open", 2, 1), ("resolved", 1, 1)]


NAME = "each delivery is whole: stock, money and parcel"


def test_a_delivery_that_is_not_whole_is_noticed(ledger: Ledger, found: list[Findings]) -> None:
    told = {check.name: check.told for check in proof.prove(ledger, found)}[NAME]
    assert (
        told == "1 delivered, 1 undone for want of money; 2 were between two steps when virginia was killed"
    )

    def first(wrong: list[Findings]) -> str:
        return failed(ledger, wrong)[NAME]

    for change, expected in (
        (lambda each: each.sagas.pop("d2"), "delivery d2 is lost in frankfurt"),
        (
            lambda each: each.sagas["d2"].update(status="stuck", step="pay", error="no"),
            "delivery d2 is stuck at 'pay' in frankfurt: no",
        ),
        (lambda each: each.documents["parcel"].clear(), "delivery d1 and its parcel differ in frankfurt"),
        (
            lambda each: each.documents["wallet"].update(ann={"cents": 4000}),
            "1 deliveries were paid from 9000 of ann; 4000 left in frankfurt",
        ),
    ):
        wrong = copy.deepcopy(found)
        change(wrong[1])
        assert first(wrong) == expected
