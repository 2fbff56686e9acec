from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
import pytest

from atoll.client.transport import Request
from atoll.documents.entry import Change, Entry, decode_frames, encode_frame

from ..region.world import APPLICATION
from ..virtual_time import in_virtual_time
from .served import CODEC, Served


class Events:
    """Server-sent events, one field set after the other."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._text = ""

    async def block(self) -> dict[str, str]:
        while "\n\n" not in self._text:
            self._text += (await anext(self._chunks)).decode()
        block, _, self._text = self._text.partition("\n\n")
        return dict(line.split(": ", 1) for line in block.split("\n"))

    async def change(self) -> Any:
        while "data" not in (block := await self.block()):
            pass
        data = msgspec.json.decode(block["data"])
        assert (block["event"], block["id"]) == ("change", data["cursor"])
        return data


@asynccontextmanager
async def following(it: Served, query: str = "", region: str = "a", **headers: str) -> AsyncIterator[Events]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = Request(region, "GET", "/v1/changes", query, named, b"", 30.0)
    async with it.transport(region).stream(request) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["atoll-region"] == region
        yield Events(stream.chunks)


@in_virtual_time
async def test_every_change_comes_with_what_the_document_is_now() -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/k", {"name": "one"})
        async with following(it) as events:
            change = await events.change()
            await it.ask("PATCH", "/v1/profile/k", {"$set": {"age": 7}})
            await it.ask("DELETE", "/v1/profile/k")
            second, third = await events.change(), await events.change()
    assert (change["origin"], change["seq"]) == ("a", 1)
    assert change["changes"] == [
        {"collection": "profile", "key": "k", "operation": "insert", "value": {"name": "one", "age": 0}}
    ]
    assert [each["changes"][0]["operation"] for each in (second, third)] == ["update", "delete"]
    assert third["changes"][0]["value"] is None


@in_virtual_time
async def test_a_batch_is_one_event() -> None:
    async with Served() as it:
        writes = [{"put": {"collection": "profile", "key": k, "value": {"name": k}}} for k in "xy"]
        await it.ask("POST", "/v1/batch", {"writes": writes})
        async with following(it) as events:
            change = await events.change()
    assert [each["key"] for each in change["changes"]] == ["x", "y"]


@in_virtual_time
async def test_a_consumer_goes_on_where_it_was() -> None:
    async with Served() as it:
        for name in ("one", "two", "three"):
            await it.ask("PUT", "/v1/profile/k", {"name": name})
        async with following(it) as events:
            cursor = (await events.change())["cursor"]
        async with following(it, f"cursor={cursor}") as events:
            assert [(await events.change())["seq"] for _ in range(2)] == [2, 3]
        async with following(it, "cursor=now", last_event_id=cursor) as events:
            assert (await events.change())["seq"] == 2


@in_virtual_time
async def test_a_consumer_can_go_on_in_another_region() -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        for n in range(4):
            await it.write("ab"[n % 2], "note", "k", {"text": str(n)})
        await it.settled()
        async with following(it) as events:
            cursor = (await events.change())["cursor"]
            seen = {("a", 1)} if CODEC.decode(cursor) == {"a": 1} else {("b", 1)}
        async with following(it, f"cursor={cursor}", "b") as events:
            rest = [await events.change() for _ in range(3)]
    assert seen | {(each["origin"], each["seq"]) for each in rest} == {("a", 1), ("a", 2), ("b", 1), ("b", 2)}


@in_virtual_time
async def test_from_now_on_nothing_old_comes() -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/k", {"name": "old"})
        async with following(it, "cursor=now") as events:
            assert CODEC.decode((await events.block())["id"]) == {"a": 1}
            await it.ask("PUT", "/v1/profile/k", {"name": "new"})
            assert (await events.change())["seq"] == 2


@in_virtual_time
async def test_the_stream_says_where_it_stands_before_the_first_event() -> None:
    async with Served() as it, following(it) as events:
        assert CODEC.decode((await events.block())["id"]) == {}


@in_virtual_time
async def test_a_quiet_stream_keeps_saying_where_it_stands() -> None:
    async with Served() as it, following(it, "cursor=now") as events:
        began = asyncio.get_running_loop().time()
        for _ in range(3):
            assert set(await events.block()) >= {"id"}
        assert asyncio.get_running_loop().time() - began == pytest.approx(20)


@in_virtual_time
async def test_only_the_collections_asked_for_come() -> None:
    async with Served() as it, following(it, "collection=page&collection=claim") as events:
        await it.ask("PUT", "/v1/profile/k", {"name": "x"})
        await it.ask("PUT", "/v1/page/k", {"title": "x"})
        await it.ask("PUT", "/v1/claim/k", {"owner": "x"})
        assert [(await events.change())["seq"] for _ in range(2)] == [2, 3]


@pytest.mark.parametrize("seed", range(5))
@in_virtual_time
async def test_a_filtered_stream_speaks_and_moves_by_time(seed: int) -> None:
    """Whatever others write, and how often: no silence is longer than 10 s, and each place is one to go on from."""
    random = Random(seed)
    asked = random.sample(["page", "profile", "claim"], 1)[0]
    pause_s = random.choice([0.5, 3.0, 9.0, 20.0])
    others = {"page": {"title": "x"}, "profile": {"name": "x"}, "claim": {"owner": "x"}}
    wanted = {asked: others.pop(asked)}
    now_s = asyncio.get_running_loop().time

    async def traffic(it: Served, mine: list[int]) -> None:
        seq = 0
        while now_s() < 100:
            hit = random.random() < 0.1
            collection, value = random.choice(list((wanted if hit else others).items()))
            await it.ask("PUT", f"/v1/{collection}/{seq}", value)
            seq += 1
            if hit:
                mine.append(seq)
            await asyncio.sleep(random.uniform(0, 2 * pause_s))

    async with Served() as it:
        mine: list[int] = []
        writing = asyncio.ensure_future(traffic(it, mine))
        seen: list[int] = []
        cursor, heard_s = "", now_s()
        while now_s() < 130:
            async with following(it, f"collection={asked}&cursor={cursor}") as events:
                for _ in range(random.randint(2, 6)):
                    block = await events.block()
                    assert now_s() - heard_s <= 10.001
                    heard_s, cursor = now_s(), block["id"]
                    if "data" in block:
                        seen.append(msgspec.json.decode(block["data"])["seq"])
        await writing
        assert seen == mine
        assert CODEC.decode(cursor) == it["a"].vector


@in_virtual_time
async def test_a_consumer_that_is_connected_is_never_away() -> None:
    """What it was told last stays a place to go on from, though nothing that it asked for is written."""
    async with Served(journal_s=0.0, journal_round_s=1.0, housekeeping_s=1.0) as it:
        async with following(it, "collection=page") as events:
            cursor = (await events.block())["id"]
            for n in range(60):
                await it.ask("PUT", f"/v1/profile/{n}", {"name": "x"})
                await asyncio.sleep(1)
                assert (await it.ask("HEAD", "/v1/changes", query={"cursor": cursor})).status == 200
                if n % 10 == 9:
                    cursor = (await events.block())["id"]
        assert it["a"].truncation.truncated > 40
        await asyncio.sleep(5)
        assert it["a"].truncation.truncated >= 59


async def brought(it: Served, *entries: tuple[Change, ...]) -> None:
    """Region a was brought these entries of b's."""
    it.partition("ab")
    for seq, changes in enumerate(entries, 1):
        entry = Entry("b", seq, 7, 5, {"b": seq - 1} if seq > 1 else {}, changes)
        it["a"].deliver(list(decode_frames(encode_frame(entry))), "b")
    await it["a"].group_commit.progress.covered({"b": len(entries)})


KNOWN = Change("profile", "k", 1, {"": b'{"name":"x","age":0}'})


@in_virtual_time
async def test_changes_that_this_region_does_not_know_are_left_out() -> None:
    async with Served("a", "b") as it:
        unheard = Change("unheard", "k", 0, {"": b"{}"})
        await brought(it, (unheard,), (unheard, KNOWN))
        async with following(it) as events:
            change = await events.change()
    assert (change["seq"], [each["collection"] for each in change["changes"]]) == (2, ["profile"])


@in_virtual_time
async def test_a_change_that_was_parked_does_not_end_the_stream() -> None:
    """Its entry is in the journal all the same."""
    async with Served("a", "b") as it:
        await brought(it, (Change("profile", "k", 99, {"": b"{}"}),), (KNOWN,))
        async with following(it) as events:
            changes = [await events.change(), await events.change()]
    assert [each["changes"][0]["operation"] for each in changes] == ["update", "update"]


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("cursor=nonsense", "invalid-cursor"),
        ("collection=unheard", "unknown-collection"),
        ("since=now", "malformed-request"),
    ],
)
async def test_a_stream_that_cannot_begin_is_refused(query: str, problem: str) -> None:
    async with Served() as it:
        assert (await it.ask("GET", "/v1/changes", query=query)).problem == problem


@in_virtual_time
async def test_a_consumer_that_leaves_leaves_nothing_behind() -> None:
    async with Served() as it:
        await asyncio.sleep(0.1)  # virtual: the region's own tasks have begun theirs
        before = asyncio.all_tasks()
        async with following(it) as events:
            await events.block()
        assert asyncio.all_tasks() <= before


@in_virtual_time
async def test_a_cursor_before_the_journal_is_gone() -> None:
    async with Served() as it:
        for name in ("one", "two", "three"):
            await it.ask("PUT", "/v1/profile/k", {"name": name})
        await it.stores["a"].truncate(2)
        answer = await it.ask("GET", "/v1/changes", query={"cursor": CODEC.encode({"a": 1})})
        assert (answer.status, answer.problem) == (410, "cursor-expired")
        assert answer.json["gone"] == {"a": 2}
        assert "cursor=now" in answer.json["detail"]
        async with following(it, f"cursor={CODEC.encode({'a': 2})}") as events:
            assert (await events.change())["seq"] == 3


@in_virtual_time
async def test_without_a_cursor_it_begins_with_the_oldest_change_that_is_kept() -> None:
    async with Served() as it:
        for name in ("one", "two", "three", "four"):
            await it.ask("PUT", "/v1/profile/k", {"name": name})
        for kept in (2, 3):
            await it.stores["a"].truncate(kept - 1)
            async with following(it) as events:
                assert [(await events.change())["seq"] for _ in range(5 - kept)] == list(range(kept, 5))
