from __future__ import annotations

import asyncio
from typing import Any

import pytest

from atoll.errors import InvalidOperation, RegionUnreachable, TokenNotReached
from atoll.region.reading import ReadOptions
from atoll.store.port import Scan

from ..virtual_time import in_virtual_time
from .world import World


@in_virtual_time
async def test_an_absent_document_has_no_version() -> None:
    async with World() as it:
        reading = await it["a"].read("note", "none")
        assert (reading.value, reading.version, reading.region) == (None, "", "a")


@in_virtual_time
async def test_a_session_reads_what_it_wrote_elsewhere() -> None:
    async with World() as it:
        it.partition("ab", "ac")
        token = (await it.write("a", "note", "k", {"text": "mine"})).vector
        answer = asyncio.ensure_future(it["b"].read("note", "k", ReadOptions(token=token)))
        await asyncio.sleep(0.5)
        it.partition()
        reading = await answer
        assert (reading.value, reading.region) == (b'{"text":"mine"}', "b")
        assert it["b"].statistics.token_waits == 1


@in_virtual_time
async def test_a_read_goes_where_the_sessions_past_is() -> None:
    async with World() as it:
        await it.settled()
        it.stores["b"].tables.refusal = "full"  # so that b applies nothing
        token = (await it.write("a", "note", "k", {"text": "mine"})).vector
        await asyncio.sleep(0.5)
        reading = await it["b"].read("note", "k", ReadOptions(token=token, max_wait_s=0.0))
        assert (reading.value, reading.region) == (b'{"text":"mine"}', "a")
        assert it["b"].statistics.forwarded == 1


@in_virtual_time
async def test_an_eventual_read_waits_for_nothing() -> None:
    async with World() as it:
        reading = await it["b"].read("like", "k", ReadOptions(token={"a": 9}))
        assert reading.value is None
        asked = ReadOptions("eventual", token={"a": 9})
        assert (await it["b"].read("note", "k", asked)).value is None


@in_virtual_time
async def test_an_eventual_collection_can_be_read_as_a_session() -> None:
    async with World() as it:
        it.partition("ab", "ac")
        token = (await it.write("a", "like", "k", {})).vector
        with pytest.raises(TokenNotReached):
            await it["b"].read("like", "k", ReadOptions("session", token, max_wait_s=0.1))


@in_virtual_time
async def test_a_listing_claims_only_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World("a") as it:
        scan = it.stores["a"].scan

        async def scan_and_commit(*args: Any, **asked: Any) -> Scan:
            found = await scan(*args, **asked)
            await it.write("a", "note", "late", {"text": "not shown"})
            return found

        before = (await it.write("a", "note", "early", {"text": "shown"})).vector
        monkeypatch.setattr(it.stores["a"], "scan", scan_and_commit)
        listing = await it["a"].list("note")
        assert [key for key, _ in listing.rows] == ["early"]
        assert listing.vector == before
        assert it["a"].vector != before


@in_virtual_time
async def test_a_strong_read_is_of_the_region_that_owns_the_document() -> None:
    async with World() as it:
        await it.write("a", "ledger", "pear", {"balance": 5})
        reading = await it["c"].read("ledger", "pear")
        assert (reading.value, reading.region) == (b'{"balance":5}', "b")
        it.partition("bc")
        with pytest.raises(RegionUnreachable, match="orders the writes"):
            await it["c"].read("ledger", "pear")
        assert (await it["c"].read("ledger", "pear", ReadOptions("eventual"))).region == "c"


@in_virtual_time
async def test_a_strong_read_needs_a_strong_collection() -> None:
    async with World() as it:
        with pytest.raises(InvalidOperation, match="declared causal"):
            await it["a"].read("note", "k", ReadOptions("strong"))
