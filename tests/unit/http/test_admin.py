from __future__ import annotations

import asyncio
import os

import pytest

from atoll import __version__
from atoll.documents.entry import Change, Entry, decode_frames, encode_frame
from atoll.documents.mutation import put_of

from ..region.world import APPLICATION
from ..virtual_time import in_virtual_time
from .served import RULES, Served

# -- health --------------------------------------------------------------------------------------------


async def test_a_region_that_is_well_says_so() -> None:
    async with Served() as it:
        for check in ("live", "ready", "serving", "reading"):
            answer = await it.ask("GET", f"/health/{check}")
            assert answer.status == 200
            assert answer.json == {"region": "a", "status": "ok", "reason": None}
            assert (await it.ask("HEAD", f"/health/{check}")).body == b""


async def test_a_draining_region_gets_no_traffic_and_lives() -> None:
    async with Served() as it:
        drained = await it.ask("POST", "/admin/drain", {"draining": True})
        assert drained.json == {"draining": True}
        serving = await it.ask("GET", "/health/serving")
        assert (serving.status, serving.json["reason"]) == (503, "draining")
        assert (await it.ask("GET", "/health/live")).status == 200
        assert (await it.ask("PUT", "/v1/profile/k", {"name": "x"})).status == 200
        await it.ask("POST", "/admin/drain", {"draining": False})
        assert (await it.ask("GET", "/health/serving")).status == 200


@in_virtual_time
async def test_a_region_is_ready_once_it_has_heard_its_peers() -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        early = await it.ask("GET", "/health/ready")
        assert (early.status, early.json["status"]) == (503, "unavailable")
        await asyncio.sleep(1)
        assert (await it.ask("GET", "/health/ready")).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/health/well"),
        ("GET", "/admin/unheard"),
        ("GET", "/admin/status/more"),
        ("POST", "/replication/unheard"),
    ],
)
async def test_what_there_is_not_is_not_found(method: str, path: str) -> None:
    async with Served() as it:
        assert (await it.ask(method, path)).problem == "not-found"


# -- state ---------------------------------------------------------------------------------------------


async def test_the_status_says_where_the_region_stands() -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/k", {"name": "x"})
        await it.arrived(put_of(RULES["profile"], "k", b'{"name":"y"}'))
        status = (await it.ask("GET", "/admin/status")).json
    assert (status["region"], status["version"], status["pid"]) == ("a", __version__, os.getpid())
    assert (status["serving"], status["out_of_service"], status["caught_up"]) == (True, None, True)
    assert status["position"] == {"a": 1, "b": 1}
    assert status["counted"]["writes"] == 1
    assert status["counted"]["applied"] == {"b": 1}
    assert status["counted"]["conflicts"] == {"profile/insert_exists": 1}
    assert status["inbox"] == {"entries": 0, "bytes": 0, "blocked_on": {}, "held": None}


@in_virtual_time
async def test_the_status_of_a_link() -> None:
    async with Served("a", "b", "c", application=APPLICATION) as it:
        await it.write("b", "note", "k", {})
        await asyncio.sleep(3)
        links = (await it.ask("GET", "/admin/status")).json["links"]
        assert set(links) == {"b", "c"}
        assert (links["b"]["connected"], links["b"]["behind"], links["b"]["last_error"]) == (True, 0, None)
        assert links["b"]["received_entries"] == 1
        assert abs(links["b"]["clock_offset_ms"]) <= links["b"]["clock_error_ms"] + 2
        it.partition("ab")
        await asyncio.sleep(5)
        links = (await it.ask("GET", "/admin/status")).json["links"]
        assert (links["b"]["connected"], links["c"]["relays"]) == (False, ["b"])
        assert "cut off" in links["b"]["last_error"]


async def test_entries_that_wait_say_for_what() -> None:
    async with Served() as it:
        change = Change("profile", "k", 0, {"": b'{"name":"y","age":0}'})
        it["a"].deliver(list(decode_frames(encode_frame(Entry("b", 1, 7, 5, {"c": 4}, (change,))))), "b")
        await asyncio.sleep(0)
        inbox = (await it.ask("GET", "/admin/status")).json["inbox"]
    assert (inbox["entries"], inbox["blocked_on"]) == (1, {"b": {"c": 4}})


async def test_the_statistics_count_what_is_stored() -> None:
    async with Served() as it:
        for key in ("k", "l"):
            await it.ask("PUT", f"/v1/profile/{key}", {"name": "x"})
        await it.ask("DELETE", "/v1/profile/l")
        found = (await it.ask("GET", "/admin/statistics")).json
    assert (found["documents"]["profile"], found["tombstones"]["profile"]) == (1, 1)
    assert (found["conflicts"], found["parked"]) == (0, 0)
    assert found["size_bytes"] > 0


async def test_parked_changes_are_listed_with_their_reason() -> None:
    async with Served() as it:
        entry = Entry("b", 1, 7, 5, {}, (Change("unheard", "k", 0, {"": b"{}"}),))
        it["a"].deliver(list(decode_frames(encode_frame(entry))), "b")
        await it["a"].group_commit.progress.covered({"b": 1})
        (item,) = (await it.ask("GET", "/admin/parked")).json["items"]
    assert (item["origin"], item["seq"], item["change"]) == ("b", 1, 0)
    assert "unheard" in item["reason"]


# -- verify --------------------------------------------------------------------------------------------


@in_virtual_time
async def test_regions_that_agree_are_equal() -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        for n in range(4):
            await it.write("ab"[n % 2], "note", f"k{n}", {"text": str(n)})
        await it.settled()
        found = (await it.ask("GET", "/admin/verify")).json
        assert found["equal"]
        assert found["collections"]["note"]["documents"] == 4
        digests = [(await it.ask("GET", "/admin/digest", region=name)).json["collections"] for name in "ab"]
        assert digests[0] == digests[1]
        assert digests[0]["note"]["digest"] == found["collections"]["note"]["digest"]


@in_virtual_time
async def test_documents_that_differ_are_named() -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        for n in range(4):
            await it.write("a", "note", f"k{n}", {"text": str(n)})
        await it.settled()
        rows = it.stores["b"].tables._documents["note"]
        rows["k2"], rows["lost"] = rows["k1"], rows["k3"]
        it.stores["b"].tables._keys["note"].append("lost")
        found = (await it.ask("GET", "/admin/verify")).json
        assert not found["equal"]
        note = found["collections"]["note"]["peers"]["b"]
        assert (note["documents"], set(note["different"])) == (5, {"k2", "lost"})
        assert found["collections"]["price"]["peers"]["b"]["different"] == []


@in_virtual_time
async def test_what_cannot_be_compared_is_not_equal() -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        it.partition("ab")
        found = (await it.ask("GET", "/admin/verify")).json
        assert not found["equal"]
        assert "cut off" in found["collections"]["note"]["peers"]["b"]["error"]


# -- test topologies -----------------------------------------------------------------------------------


@in_virtual_time
async def test_links_can_be_cut_and_slowed() -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        cut = await it.ask("POST", "/admin/partition", {"peer": "b", "cut": True})
        assert cut.json == {"cut": ["b"]}
        slow = await it.ask("POST", "/admin/delay", {"peer": "b", "rtt_ms": 90})
        assert slow.json == {"one_way_s": {"b": 0.045}}
        emulated = (await it.ask("GET", "/admin/status")).json["emulated"]
        assert emulated == {"cut": ["b"], "one_way_s": {"b": 0.045}}
        healed = await it.ask("POST", "/admin/partition", {"peer": "b", "cut": False})
        assert healed.json == {"cut": []}


@pytest.mark.parametrize(
    ("path", "body"),
    [("/admin/partition", {"peer": "b", "cut": True}), ("/admin/delay", {"peer": "b", "rtt_ms": 9})],
)
@in_virtual_time
async def test_only_a_test_topology_may_be_disturbed(path: str, body: object) -> None:
    async with Served("a", "b", application=APPLICATION, test_topology=False) as it:
        answer = await it.ask("POST", path, body)
        assert (answer.status, answer.problem) == (422, "invalid-operation")
        assert (await it.ask("GET", "/admin/status")).json["emulated"] is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("drain", {}),
        ("drain", {"draining": 1}),
        ("drain", {"draining": True, "more": 1}),
        ("drain", []),
        ("partition", {"peer": "b"}),
        ("partition", {"peer": "b", "cut": 1}),
        ("partition", {"peer": "mars", "cut": True}),
        ("partition", {"peer": ["b"], "cut": True}),
        ("partition", {"peer": "a", "cut": True}),
        ("delay", {"peer": "b", "rtt_ms": -1}),
        ("delay", {"peer": "b", "rtt_ms": 60_001}),
        ("delay", {"peer": "b", "rtt_ms": "9"}),
    ],
)
@in_virtual_time
async def test_an_order_that_cannot_be_read_is_refused(path: str, body: object) -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        assert (await it.ask("POST", f"/admin/{path}", body)).problem == "malformed-request"


# -- identifiers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uuid4", "uuid7", "ulid", "snowflake", "prefixed"])
async def test_identifiers_are_given_out(kind: str) -> None:
    async with Served() as it:
        (one,) = (await it.ask("POST", f"/v1/ids/{kind}")).json["ids"]
        more = (await it.ask("POST", f"/v1/ids/{kind}", query="count=50")).json["ids"]
    assert len({one, *more}) == 51
    assert all(isinstance(each, str) for each in more)


@pytest.mark.parametrize(
    "query", ["count=0", "count=-1", "count=x", "count=10001", "count=9999999999", "n=1"]
)
async def test_a_count_that_makes_no_sense_is_refused(query: str) -> None:
    async with Served() as it:
        assert (await it.ask("POST", "/v1/ids/uuid7", query=query)).status in (400, 422)
        assert (await it.ask("POST", "/v1/ids/unheard")).problem == "invalid-operation"
