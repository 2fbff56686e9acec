from __future__ import annotations

from urllib.parse import parse_qs, unquote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll import errors
from atoll.client import Delete, Patch, Put, Read, Response, Sibling, Update
from atoll.client.answers import AnotherAnswer
from atoll.client.calls import Asked, Calls
from atoll.schema import Increment

from .world import Account, Inventory, shown

CALLS = Calls(None)
IN_SESSION = Calls(None, in_session=True)
MODEL = Inventory(key="k", title="x", stock=3, tags={"b", "a"})


def test_put_sends_the_document_without_its_key() -> None:
    call = CALLS.put(MODEL, None, create=False)
    assert (call.method, call.path, call.writes) == ("PUT", "/v1/inventory/k", True)
    assert msgspec.json.decode(call.body) == {"title": "x", "stock": 3, "tags": ["a", "b"], "labels": {}}


def test_preconditions_become_headers() -> None:
    assert CALLS.put(MODEL, "v1", create=False).headers["if-match"] == '"v1"'
    assert CALLS.put(MODEL, "*", create=False).headers["if-match"] == "*"
    assert CALLS.put(MODEL, None, create=True).headers["if-none-match"] == "*"
    assert CALLS.delete(Inventory, "k", "v1").headers == {"if-match": '"v1"'}


@pytest.mark.parametrize("version", ['a"b', "a\r\nX: y", "é"])
def test_version_that_breaks_out_of_its_header_is_refused(version: str) -> None:
    with pytest.raises(errors.InvalidOperation):
        CALLS.put(MODEL, version, create=False)


def test_create_and_if_match_contradict() -> None:
    with pytest.raises(errors.InvalidOperation, match="contradict"):
        CALLS.put(MODEL, "v1", create=True)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20))
def test_key_stays_one_segment_and_comes_back(key: str) -> None:
    try:
        path = CALLS.get(Inventory, key).path
    except errors.InvalidKey:
        return
    head, found = path.rsplit("/", 1)
    assert head == "/v1/inventory"
    assert found.isascii()
    assert unquote(found) == key


@pytest.mark.parametrize("key", ["", "..", "a\x00", "a/../b"])
def test_impossible_key_is_refused_before_anything_is_sent(key: str) -> None:
    for call in (CALLS.get, CALLS.read):
        with pytest.raises(errors.InvalidKey):
            call(Inventory, key)
    with pytest.raises(errors.InvalidKey):
        CALLS.delete(Inventory, key, None)


def test_read_options_become_a_query() -> None:
    call = CALLS.get(Inventory, "k", Asked("bounded", 1.5, 2))
    assert parse_qs(call.query) == {"consistency": ["bounded"], "max_staleness": ["1.5"], "max_wait": ["2"]}
    assert CALLS.get(Inventory, "k").query == ""


def test_session_reads_eventual_collections_as_a_session() -> None:
    assert IN_SESSION.get(Inventory, "k").query == "consistency=session"
    assert IN_SESSION.get(Inventory, "k", Asked("eventual")).query == "consistency=eventual"
    assert IN_SESSION.get(Account, "k").query == ""


def test_conditions_keep_their_type() -> None:
    where = [("stock", "ge", 5), ("title", "eq", "5"), ("title", "ne", None), ("tags", "contains", "a&b:c")]
    query = parse_qs(CALLS.page(Inventory, "a/", where, 10, "c").query)
    assert query["where"] == ["stock:ge:5", 'title:eq:"5"', "title:ne:null", 'tags:contains:"a&b:c"']
    assert (query["prefix"], query["limit"], query["cursor"]) == (["a/"], ["10"], ["c"])


def test_page_holds_models_and_the_cursor() -> None:
    item = {"key": "a/é", "value": {"stock": 2}, "version": "v"}
    body = msgspec.json.encode({"items": [item], "cursor": "next"})
    page = CALLS.page(Inventory, "", [], 10, None).read(Response(200, {}, body), "tokyo")
    assert page.items == [Inventory(key="a/é", stock=2)]
    assert page.cursor == "next"


def test_read_tells_everything_known() -> None:
    siblings = [{"value": None, "region": "a", "stamp": 5, "seq": 7}]
    siblings.append({"value": {"stock": 1}, "region": "b", "stamp": 6, "seq": 8})
    body = msgspec.json.encode({"key": "k", "value": {"stock": 1}, "version": "v", "siblings": siblings})
    headers = {"atoll-region": "frankfurt", "atoll-degraded": "cut off"}
    found = CALLS.read(Inventory, "k").read(Response(200, headers, body), "tokyo")
    one = Inventory(key="k", stock=1)
    both = (Sibling(None, "a", 5, 7), Sibling(one, "b", 6, 8))
    assert found == Read("k", one, "v", "frankfurt", "cut off", both)


def test_write_that_a_concurrent_deletion_hides_says_so() -> None:
    answer = Response(200, {}, b'{"key":"k","value":null,"version":"v"}')
    with pytest.raises(errors.NotFound, match="concurrent deletion is shown"):
        CALLS.put(MODEL, None, create=False).read(answer, "tokyo")


def test_batch_sends_each_write_in_its_form() -> None:
    writes = [
        Put(MODEL, if_match="v1"),
        Update(Inventory, "u", stock=Increment(2), title="t"),
        Patch(Inventory, "p", {"$unset": ["title"]}),
        Delete(Account, "d"),
    ]
    sent = msgspec.json.decode(CALLS.batch(writes).body)["writes"]
    assert [next(iter(write)) for write in sent] == ["put", "patch", "patch", "delete"]
    assert sent[0]["put"]["if_match"] == "v1"
    assert sent[1]["patch"]["operators"] == {"$inc": {"stock": 2}, "$set": {"title": "t"}}
    assert sent[2]["patch"]["operators"] == {"$unset": ["title"]}
    assert sent[3]["delete"] == {"collection": "account", "key": "d"}


def test_batch_returns_what_each_became() -> None:
    written = [
        {"collection": "inventory", "key": "k", "value": {"stock": 3}, "version": "v1"},
        {"collection": "account", "key": "d", "value": None, "version": "v2"},
    ]
    answer = Response(200, {"atoll-region": "tokyo"}, msgspec.json.encode({"written": written}))
    first, second = CALLS.batch([Put(MODEL), Delete(Account, "d")]).read(answer, "tokyo")
    assert first.value == Inventory(key="k", stock=3)
    assert (second.value, second.version) == (None, "v2")


def test_batch_without_writes_is_refused() -> None:
    with pytest.raises(errors.InvalidOperation):
        CALLS.batch([])


@pytest.mark.parametrize(
    "written", ["", '{"collection":"inventory","key":"other","value":{"stock":1},"version":"v"}']
)
def test_batch_answer_about_other_documents_is_not_believed(written: str) -> None:
    with pytest.raises(AnotherAnswer):
        CALLS.batch([Put(MODEL)]).read(Response(200, {}, f'{{"written":[{written}]}}'.encode()), "tokyo")


def test_model_that_an_assignment_has_spoilt_is_refused() -> None:
    model = Inventory(key="k")
    model.stock = "many"  # type: ignore[assignment]
    with pytest.raises(errors.InvalidDocument):
        CALLS.put(model, None, create=False)


def test_resolve_takes_a_model_or_plain_data() -> None:
    call = CALLS.resolve("c/1", Account(key="a", balance=2))
    assert call.path == "/v1/conflicts/c%2F1/resolve"
    assert call.body == CALLS.resolve("c/1", {"balance": 2}).body == b'{"value":{"balance":2}}'
    assert call.read(shown(balance=2), "tokyo") == {"balance": 2}


def test_identifiers_are_asked_for_by_kind() -> None:
    call = CALLS.ids("ulid", 2)
    assert (call.method, call.path, call.query, call.writes) == ("POST", "/v1/ids/ulid", "count=2", False)
    assert call.read(Response(200, {}, b'{"ids":["a","b"]}'), "tokyo") == ["a", "b"]


def test_many_documents_go_as_the_text_that_they_are() -> None:
    call = CALLS.put_many(Inventory, [("k", b'{"title":"x"}'), ('a"b', b"{}")])
    assert (call.method, call.path, call.writes) == ("POST", "/v1/batch", True)
    assert call.headers["prefer"] == "return=minimal"
    assert msgspec.json.decode(call.body) == {
        "writes": [
            {"put": {"collection": "inventory", "key": "k", "value": {"title": "x"}}},
            {"put": {"collection": "inventory", "key": 'a"b', "value": {}}},
        ]
    }
    with pytest.raises(errors.InvalidOperation):
        CALLS.put_many(Inventory, [])
    with pytest.raises(errors.InvalidKey):
        CALLS.put_many(Inventory, [("", b"{}")])


def test_a_page_of_texts_is_read_as_it_is_stored() -> None:
    call = IN_SESSION.texts(Inventory, "p", [("stock", "lt", 3)], 10, "c")
    assert "prefix=p" in call.query
    body = b'{"items":[{"key":"k","value":{"title":  "x"},"version":"v"}],"cursor":null}'
    page = call.read(Response(200, {}, body), "tokyo")
    assert (page.items, page.cursor) == ([("k", b'{"title":  "x"}')], None)
