from __future__ import annotations

import pytest

from atoll.errors import InvalidOperation
from atoll.region.reading import (
    CAUSAL_LISTING,
    AtOwner,
    ByQuorum,
    Here,
    InTotal,
    ReadOptions,
    ReadPlan,
    WaitFor,
    plan_read,
)
from atoll.schema.application import CollectionSchema

from .world import APPLICATION

TOKEN = {"b": 7}


def schema(name: str) -> CollectionSchema:
    return APPLICATION.collection(name)


@pytest.mark.parametrize(
    ("collection", "options", "plan"),
    [
        ("like", ReadOptions(), Here()),
        ("like", ReadOptions(token=TOKEN), Here()),
        ("like", ReadOptions("causal", TOKEN), WaitFor(Here())),
        ("like", ReadOptions("session", {}), Here()),
        ("like", ReadOptions(max_staleness_s=2.0), Here(2.0)),
        ("note", ReadOptions(token=TOKEN), WaitFor(Here())),
        ("note", ReadOptions("eventual", TOKEN), Here()),
        ("price", ReadOptions(), Here(1.0)),
        ("price", ReadOptions(token=TOKEN), WaitFor(Here(1.0))),
        ("price", ReadOptions("eventual"), Here()),
        ("account", ReadOptions(), ByQuorum()),
        ("ledger", ReadOptions(), AtOwner()),
        ("account", ReadOptions("eventual"), Here()),
        ("stock", ReadOptions(), InTotal()),
        ("stock", ReadOptions(token=TOKEN), InTotal()),
        ("stock", ReadOptions("eventual"), Here()),
    ],
)
def test_a_read_is_planned_by_declaration_and_options(
    collection: str, options: ReadOptions, plan: ReadPlan
) -> None:
    assert plan_read(schema(collection), options) == plan


def test_a_listing_is_never_sent_to_an_owner() -> None:
    assert plan_read(schema("account"), ReadOptions(), listing=True) == Here(None, CAUSAL_LISTING)
    assert plan_read(schema("stock"), ReadOptions(), listing=True) == Here(None, CAUSAL_LISTING)
    plan = plan_read(schema("account"), ReadOptions(token=TOKEN), listing=True)
    assert plan == WaitFor(Here(None, CAUSAL_LISTING))


@pytest.mark.parametrize(
    ("options", "problem"),
    [(ReadOptions("strong"), "have no global order"), (ReadOptions("bounded"), "needs max_staleness")],
)
def test_a_level_that_a_collection_cannot_give_is_refused(options: ReadOptions, problem: str) -> None:
    with pytest.raises(InvalidOperation, match=problem):
        plan_read(schema("note"), options)


def test_the_commonest_read_allocates_no_plan() -> None:
    assert plan_read(schema("like"), ReadOptions()) is plan_read(schema("note"), ReadOptions())
