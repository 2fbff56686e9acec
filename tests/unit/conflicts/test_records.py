from __future__ import annotations

from typing import Any

import msgspec
import pytest

from atoll.conflicts import records
from atoll.conflicts.records import Record
from atoll.documents.document import decode_row
from atoll.documents.entry import LosingVersion
from atoll.documents.mutation import Delete, Mutation, patch_of, put_of
from atoll.store.port import AuditRow, Row

from ..commit.replica import Replica, rules_of, settle
from ..commit.shop import SHOP

RULES = rules_of(SHOP)


def shown(row: AuditRow) -> Any:
    return msgspec.json.decode(msgspec.json.encode(records.public(row)))


def put(collection: str, body: bytes) -> Mutation:
    return put_of(RULES[collection], "k", body)


def patch(collection: str, **operators: object) -> Mutation:
    return patch_of(RULES[collection], "k", {"$" + name: argument for name, argument in operators.items()})


def collide(one: Mutation, other: Mutation, *before: Mutation, apart_ms: int = 100) -> list[Record]:
    """What stands after two regions wrote without seeing each other, `other` so much later."""
    a, b = Replica("a", RULES), Replica("b", RULES)
    for mutation in before:
        a.write(mutation)
    settle([a, b])
    b.time_ms = a.time_ms + apart_ms
    a.write(one)
    b.write(other)
    settle([a, b])
    rules = RULES[one.collection]
    return list(records.open_records(rules, "k", decode_row(rules, a.rows[one.collection, "k"])).values())


ANN, BEN, CID = (put("profile", b'{"name":"%s"}' % name) for name in (b"Ann", b"Ben", b"Cid"))
GONE = Delete("profile", "k")


@pytest.mark.parametrize(
    ("one", "other", "before", "kind"),
    [
        (ANN, BEN, (), "insert_exists"),
        (ANN, BEN, (CID,), "update_origin_differs"),
        (ANN, GONE, (CID,), "update_deleted"),
        (GONE, ANN, (CID,), "delete_origin_differs"),
        (ANN, BEN, (CID, GONE), "insert_exists"),
    ],
)
def test_the_kind_says_what_collided(
    one: Mutation, other: Mutation, before: tuple[Mutation, ...], kind: str
) -> None:
    (record,) = collide(one, other, *before)
    assert (record.kind, record.losing.region, record.winning.region) == (kind, "a", "b")


def test_both_sides_are_there_in_full() -> None:
    (record,) = collide(ANN, GONE, CID)
    assert (record.collection, record.key, record.field, record.strategy) == ("profile", "k", "", "lww")
    assert (record.status, record.outcome, record.resolved_by) == ("open", "dropped", None)
    assert (record.losing.operation, bytes(record.losing.value)) == ("update", b'{"name":"Ann","age":0}')
    assert (record.winning.operation, bytes(record.winning.value)) == ("delete", b"null")
    assert (record.losing.seq, record.losing.context) == (2, {"a": 1})
    assert record.winning.stamp > record.losing.stamp


@pytest.mark.parametrize(("apart_ms", "uncertain"), [(0, True), (10, True), (11, False), (1000, False)])
def test_stamps_within_both_clocks_errors_are_uncertain(apart_ms: int, uncertain: bool) -> None:
    (record,) = collide(ANN, BEN, apart_ms=apart_ms)
    assert record.uncertain is uncertain


def test_an_equal_value_is_not_lost() -> None:
    assert collide(ANN, ANN) == []
    assert collide(GONE, GONE, CID) == []


def test_what_is_left_to_the_application_is_recorded_even_when_equal() -> None:
    (record,) = collide(put("page", b'{"title":"t"}'), put("page", b'{"title":"t"}'))
    assert (record.status, record.outcome) == ("manual", "kept")
    assert record.reason == "left to the application"


def test_the_first_write_may_win() -> None:
    (record,) = collide(put("claim", b'{"owner":"x"}'), put("claim", b'{"owner":"y"}'))
    assert (record.strategy, record.losing.region, record.winning.region) == ("fww", "b", "a")


def test_under_merge_a_field_loses_alone() -> None:
    (record,) = collide(
        patch("cart", set={"note": "x"}, add={"items": ["a"]}),
        patch("cart", set={"note": "y"}),
        patch("cart", set={"note": "before"}),
    )
    assert (record.field, record.strategy, record.outcome) == ("note", "merge", "dropped")
    assert bytes(record.losing.value) == b'"x"'


def test_objects_that_merged_are_recorded_as_merged() -> None:
    (record,) = collide(
        patch("cart", set={"address": {"a": 1}}),
        patch("cart", set={"address": {"b": 2}}),
        patch("cart", set={"note": "n"}),
    )
    assert (record.field, record.outcome) == ("address", "merged")


def test_fields_of_their_own_do_not_collide() -> None:
    first = put("cart", b'{"note":"before"}')
    assert collide(patch("cart", set={"note": "x"}), patch("cart", set={"labels.a": 1}), first) == []
    assert collide(patch("cart", set={"labels.a": 1}), patch("cart", set={"labels.b": 1}), first) == []


def test_a_member_of_a_map_has_a_record_of_its_own() -> None:
    first = put("cart", b'{"note":"before"}')
    (record,) = collide(patch("cart", set={"labels.a": 1}), patch("cart", set={"labels.a": 2}), first)
    assert (record.field, record.strategy) == ("labels.a", "update_wins")


def test_operations_that_add_up_leave_no_record() -> None:
    first = put("views", b'{"seen":1}')
    assert collide(patch("views", inc={"seen": 1}), patch("views", inc={"seen": 1}), first) == []


def test_operations_under_a_deletion_are_recorded() -> None:
    first = put("views", b'{"seen":1}')
    (record,) = collide(patch("views", inc={"seen": 5}), Delete("views", "k"), first)
    assert (record.kind, record.field, record.strategy) == ("update_deleted", "", "delete_wins")
    assert bytes(record.losing.value) == b'{"seen":6}'


def test_a_record_is_named_alike_everywhere() -> None:
    (record,) = collide(ANN, BEN)
    version = decode_row(RULES["profile"], _row(ANN)).registers[""][0]
    assert record.id == records.record_id("profile", "k", "", version.dot)
    others = {
        records.record_id("profile", "l", "", version.dot),
        records.record_id("claim", "k", "", version.dot),
        records.record_id("profile", "k", "x", version.dot),
        records.record_id("profile", "k", "", version.dot._replace(seq=2)),
        records.record_id("profile", "k", "", version.dot._replace(origin="b")),
    }
    assert len(others | {record.id}) == 6


def _row(mutation: Mutation) -> Row:
    replica = Replica("a", RULES)
    replica.write(mutation)
    return replica.rows[mutation.collection, "k"]


def test_only_the_registers_asked_for_are_looked_at() -> None:
    a, b = Replica("a", RULES), Replica("b", RULES)
    for replica, word in ((a, "x"), (b, "y")):
        replica.write(patch("cart", set={"note": word, "labels.l": len(replica.name + word)}))
    a.write(patch("cart", set={"labels.l": 9}))
    settle([a, b])
    document = decode_row(RULES["cart"], a.rows["cart", "k"])
    fields = {record.field for record in records.open_records(RULES["cart"], "k", document).values()}
    assert fields == {"note", "labels.l"}
    assert [r.field for r in records.open_records(RULES["cart"], "k", document, {"note"}).values()] == [
        "note"
    ]


# -- resolved -------------------------------------------------------------------------------------------


def resolved(record: Record, *by: tuple[int, str, int]) -> list[AuditRow | None]:
    """What each resolution makes of the record, on top of those before it."""
    known: dict[str, AuditRow] = {}
    found = []
    for each in by:
        row = records.resolved_row(records.resolve(record, each), known)
        found.append(row)
        if row is not None:
            known[row.id] = row
    return found


def test_a_resolved_record_names_the_write() -> None:
    (record,) = collide(ANN, BEN)
    (row,) = resolved(record, (77, "c", 3))
    assert row is not None
    assert (row.id, row.status, row.kind) == (record.id, "resolved", record.kind)
    assert shown(row)["resolved_by"] == [77, "c", 3]
    assert shown(row)["reason"] == record.reason


def test_a_manual_record_is_resolved_by_the_application() -> None:
    (record,) = collide(put("page", b'{"title":"x"}'), put("page", b'{"title":"y"}'))
    (row,) = resolved(record, (77, "c", 3))
    assert row is not None
    assert shown(row)["reason"] == "chosen by the application"


@pytest.mark.parametrize("later", [(78, "a", 1), (77, "d", 1), (77, "c", 4), (77, "c", 3)])
def test_the_smaller_resolution_is_kept(later: tuple[int, str, int]) -> None:
    (record,) = collide(ANN, BEN)
    kept, ignored = resolved(record, (77, "c", 3), later)
    assert kept is not None
    assert ignored is None
    if later != (77, "c", 3):
        first, second = resolved(record, later, (77, "c", 3))
        assert first is not None
        assert second == kept


def test_a_resolved_record_replaces_an_open_one() -> None:
    (record,) = collide(ANN, BEN)
    losing = records.resolve(record, (1 << 62, "c", 3))
    row = records.resolved_row(losing, {record.id: records.row_of(record)})
    assert row is not None
    assert row.status == "resolved"


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"\xff", b'{"id":"x"}'])
def test_a_resolution_that_is_no_record_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        records.resolved_row(LosingVersion("id", "resolved", body), {})


def test_a_row_tells_its_record() -> None:
    (record,) = collide(ANN, BEN)
    row = records.row_of(record)
    assert (row.losing_origin, row.winning_origin, row.uncertain) == ("a", "b", False)
    assert row.stamp_ms == record.losing.stamp >> 16
    assert msgspec.json.decode(row.body, type=Record) == record
    assert shown(row)["losing"]["value"] == {"name": "Ann", "age": 0}
