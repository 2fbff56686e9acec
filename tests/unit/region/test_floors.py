"""Incarnations that are over are folded away: see `atoll.causality.floor`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from atoll.causality.floor import floors_of, fold, origins_in
from atoll.causality.origin import incarnation_of, region_of
from atoll.documents.entry import decode_frames
from atoll.errors import CursorExpired, InvalidToken, Unavailable
from atoll.recovery.numbering import Numbering
from atoll.region.reading import ReadOptions
from atoll.store.memory.store import MemoryStore

from ..virtual_time import in_virtual_time
from .world import World


async def loses_its_disk(it: World, name: str = "a") -> None:
    await it[name].stop()
    it.stores[name] = MemoryStore()
    await it.create(name).start()


async def starts_again(it: World) -> None:
    """Nobody remembers what the others said of incarnations that are over."""
    for name in it.names:
        await it[name].stop()
    for name in it.names:
        await it.create(name).start()


async def is_folded(it: World, times: int = 1) -> None:
    """Region a loses its disk so often. All hear of it, and then each writes."""
    for number in range(times):
        await it.write("a", "note", f"k{number}", {"text": "before"})
        await it.settled()
        await loses_its_disk(it)
        await it.settled()
        await asyncio.sleep(5)
    await it.write("a", "note", "raises", {"text": "the floor"})
    await it.settled()


async def context_of(it: World, name: str) -> Mapping[str, int]:
    """Of an entry that the region writes now, which all get."""
    receipt = (await it.write(name, "note", f"by {name}", {"text": "now"})).receipt
    await it.settled()
    segments = [each.segment for each in await it.stores[name].journal(0)]
    entries = [each.entry for segment in segments for each in decode_frames(segment.body)]
    return next(entry.context for entry in entries if entry.dot == receipt.dot)


@in_virtual_time
async def test_contexts_and_tokens_stay_small_however_often_a_disk_is_lost() -> None:
    async with World() as it:
        await is_folded(it, times=8)
        for name in it.names:
            context = await context_of(it, name)
            token = fold(it[name].vector)
            assert len([each for each in origins_in(context) if region_of(each) == "a"]) == 1
            assert token.keys() <= {"a~", it["a"].origin, "b", "c"}
            assert floors_of(context) == {"a~": incarnation_of(it["a"].origin)}
        assert len(it["b"].vector) > 9, "a position says where each incarnation ended"


@in_virtual_time
async def test_nothing_is_folded_before_it_is_certain_what_is_still_to_come() -> None:
    async with World() as it:
        await it.write("a", "note", "k", {"text": "before"})
        await it.settled()
        it.partition("ac")  # c may hold more
        await loses_its_disk(it)
        await asyncio.sleep(20)
        await it.write("a", "note", "k2", {"text": "after"})
        await it.settled()
        assert not floors_of(it["b"].vector)
        it.partition()
        await it.settled()
        await asyncio.sleep(5)
        await it.write("a", "note", "k3", {"text": "later"})
        await it.settled()
        assert floors_of(it["b"].vector)


@in_virtual_time
async def test_a_region_that_begins_with_nothing_behind_it_has_no_floor() -> None:
    async with World() as it:
        await loses_its_disk(it)
        await it.settled()
        await asyncio.sleep(5)
        await it.write("a", "note", "k", {})
        await it.settled()
        assert incarnation_of(it["a"].origin)
        assert not floors_of(it["b"].vector)


@in_virtual_time
async def test_tokens_from_before_keep_their_meaning() -> None:
    async with World(max_wait_s=1.0) as it:
        kept = dict((await it.write("a", "note", "k", {"text": "kept"})).vector)
        await it.settled()
        it.partition("ab", "ac")
        lost = dict((await it.write("a", "note", "own", {"text": "lost"})).vector)
        await loses_its_disk(it)
        unknown = dict((await it.write("a", "note", "own", {"text": "lost, too"})).vector)
        await asyncio.sleep(1)  # incarnations count by the clock
        await loses_its_disk(it)
        it.partition()
        await it.settled()
        await asyncio.sleep(5)
        await it.write("a", "note", "raises", {"text": "the floor"})
        await it.settled()
        await starts_again(it)
        await it.settled()
        for name in it.names:
            await it[name].read("note", "k", ReadOptions(token=kept))
            await it[name].feed.check_cursor(kept)
            for token in (lost, unknown):
                with pytest.raises(InvalidToken) as caught:
                    await it[name].read("note", "own", ReadOptions(token=token))
                assert caught.value.details["reason"] == "lost"
                with pytest.raises(CursorExpired):
                    await it[name].feed.check_cursor(token)
                # Not even once it was answered with what is here, as collections without a session do.
                answered = fold({**it[name].vector, **token}, it[name].vector)
                with pytest.raises(InvalidToken):
                    await it[name].read("note", "own", ReadOptions(token=answered))


@in_virtual_time
async def test_a_folded_token_waits_for_what_it_stands_for() -> None:
    async with World(max_wait_s=1.0) as it:
        await is_folded(it)
        it.partition("ac", "bc")
        await it.write("a", "note", "k", {"text": "newer"})
        await loses_its_disk(it, "c")
        with pytest.raises(Unavailable):
            await it["c"].read("note", "k", ReadOptions(token=dict(fold(it["a"].vector))))
        it.partition()
        await it.settled()
        reading = await it["c"].read("note", "k", ReadOptions(token=dict(fold(it["a"].vector))))
        assert reading.value == b'{"text":"newer"}'


@in_virtual_time
async def test_a_folded_cursor_goes_on_in_any_region() -> None:
    async with World() as it:
        await it.write("a", "note", "first", {"text": "before"})
        await it.settled()
        old = dict(it["b"].vector)
        await is_folded(it)
        cursor = dict(fold(it["b"].vector))
        await it.write("a", "note", "next", {"text": "after"})
        await it.settled()
        for name in it.names:
            assert await shown_after(it, name, cursor) == ["next"]
            assert await shown_after(it, name, old) == ["k0", "raises", "next"]
            oldest = await it[name].cursor(None)
            assert await shown_after(it, name, oldest) == ["first", "k0", "raises", "next"]


async def shown_after(it: World, name: str, cursor: dict[str, int]) -> list[str]:
    stream = it[name].changes(cursor, idle_s=0.1)
    keys = []
    async for found in stream:
        if found is None:
            break
        keys += [change.key for change in found[0].changes]
    await stream.aclose()
    return keys


@in_virtual_time
async def test_a_region_that_joins_by_a_snapshot_has_the_floors() -> None:
    async with World(journal_s=0.0, journal_absent_s=0.0, journal_round_s=0.2) as it:
        await is_folded(it)
        await asyncio.sleep(5)
        await loses_its_disk(it, "c")
        await it.settled()
        assert it["c"].snapshot_install.state.completed
        assert floors_of(it["c"].vector) == floors_of(it["b"].vector) != {}
        assert fold(it["c"].vector).keys() == {"a~", it["a"].origin}


@in_virtual_time
async def test_a_node_that_missed_the_new_incarnation_numbers_nothing_below_the_floor() -> None:
    async with World() as it:
        await is_folded(it)
        state = it["a"].startup_check.state
        old = Numbering(incarnation_of(it["a"].origin) - 1, settled=True)
        it["a"].startup_check.state = replace(state, numbering=old)
        with pytest.raises(Unavailable, match="number its entries anew"):
            await it.write("a", "note", "k", {"text": "stray"})
