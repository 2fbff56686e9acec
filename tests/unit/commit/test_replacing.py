"""Nearly every write takes a short way through the core; here it is held to the general one."""

from __future__ import annotations

import contextlib
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from atoll.consensus.decided import Decided, change_of, changed, initial
from atoll.documents import document as documents
from atoll.documents.mutation import Delete, Mutation, put_of
from atoll.errors import NotFound

from .replica import REGIONS, Replica, rules_of
from .shop import SHOP

RULES = rules_of(SHOP)

Step = tuple[str, str, str, int]
"""(region, what it does, the document or the peer it is done to, a number to write)"""

steps = st.lists(
    st.tuples(
        st.sampled_from(REGIONS),
        st.sampled_from(["put", "put", "delete", "receive", "receive", "decide", "learn", "learn"]),
        st.sampled_from(["profile", "claim", "page"]),
        st.integers(0, 3),
    ),
    max_size=40,
)


def run(script: list[Step]) -> list[Replica]:
    replicas = {name: Replica(name, RULES) for name in REGIONS}
    decided: dict[str, list[Decided]] = {}
    """collection → the revisions of its document that a quorum has decided"""
    for name, what, collection, number in script:
        here, known = replicas[name], decided.setdefault(collection, [])
        if what == "receive":
            encoded = here.ready_from(replicas[REGIONS[number % len(REGIONS)]])
            here.receive([encoded] if encoded is not None else [])
        elif what == "decide":
            row = here.rows.get((collection, "k"))
            before = known[-1] if known else initial(RULES[collection], row)
            put = mutation("put", collection, number)
            known.append(changed(RULES[collection], before, put, here.clock.now(), row))
        elif what == "learn":
            if known:
                here.learn(change_of((collection, "k"), known[number % len(known)]))
        else:
            with contextlib.suppress(NotFound):
                here.write(mutation(what, collection, number))
    return list(replicas.values())


def mutation(what: str, collection: str, number: int) -> Mutation:
    if what == "delete":
        return Delete(collection, "k")
    field = {"profile": "name", "claim": "owner", "page": "title"}[collection]
    return put_of(RULES[collection], "k", b'{"%b":"%d"}' % (field.encode(), number))


@given(steps)
def test_the_short_way_changes_nothing(script: list[Step]) -> None:
    short = run(script)
    with patch.object(documents, "succeeded", lambda row, context: False):
        general = run(script)
    for one, other in zip(short, general, strict=True):
        assert one.rows == other.rows
        assert one.audit == other.audit
        assert one.journal == other.journal
        assert one.vector == other.vector


def test_a_row_is_succeeded_only_by_a_writer_who_had_seen_it() -> None:
    a = Replica("a", RULES)
    a.write(mutation("put", "profile", 1))
    row = a.rows[("profile", "k")]
    assert documents.succeeded(row, {"a": 1})
    assert not documents.succeeded(row, {"b": 9})
    assert documents.succeeded(None, {})


def test_concurrent_versions_take_the_general_way() -> None:
    a, b = Replica("a", RULES), Replica("b", RULES)
    a.write(mutation("put", "profile", 1))
    b.write(mutation("put", "profile", 2))
    a.receive(b.journal)
    assert not documents.succeeded(a.rows[("profile", "k")], a.vector)
    a.write(mutation("put", "profile", 3))
    assert [record.status for record in a.audit.values()] == ["resolved"]


def test_a_row_that_cannot_be_read_is_left_to_the_general_way_to_report() -> None:
    assert not documents.succeeded(documents.Row(b"{}", b"\xc1"), {"a": 1})
