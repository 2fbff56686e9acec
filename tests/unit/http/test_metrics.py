from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from atoll.documents.entry import decode_frames
from atoll.documents.mutation import put_of
from atoll.schema import application_of

from ..region.world import APPLICATION, Like
from ..virtual_time import in_virtual_time
from .served import RULES, Served

Samples = dict[tuple[str, str], float]


async def scrape(it: Served, region: str = "a") -> Samples:
    """(name, label values) → value"""
    answer = await it.ask("GET", "/metrics", region=region)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.body.decode())
    return {
        (sample.name, "/".join(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


async def test_writes_and_reads_are_counted() -> None:
    async with Served() as it:
        before = await scrape(it)
        for key in ("k", "l"):
            await it.ask("PUT", f"/v1/profile/{key}", {"name": "x"})
            await it.ask("GET", f"/v1/profile/{key}")
        after = await scrape(it)
    assert (before["atoll_writes_total", ""], after["atoll_writes_total", ""]) == (0, 2)
    assert after["atoll_reads_total", ""] == 2
    assert after["atoll_commits_total", ""] == 2
    assert after["atoll_position", "a"] == 2


async def test_a_refused_write_is_not_counted() -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/k", {"name": 3})
        await it.ask("DELETE", "/v1/profile/k")
        assert (await scrape(it))["atoll_writes_total", ""] == 0


async def test_conflicts_are_counted_by_collection_and_kind() -> None:
    async with Served() as it:
        await it.ask("PUT", "/v1/profile/k", {"name": "x"})
        await it.arrived(put_of(RULES["profile"], "k", b'{"name":"y"}'))
        found = await scrape(it)
    assert found["atoll_conflicts_total", "profile/insert_exists"] == 1
    assert found["atoll_entries_applied_total", "b"] == 1


@in_virtual_time
async def test_links_and_lag_are_told_by_peer() -> None:
    async with Served("a", "b", "c", application=APPLICATION) as it:
        await asyncio.sleep(1)
        found = await scrape(it)
        assert (found["atoll_link_up", "b"], found["atoll_link_up", "c"]) == (1, 1)
        assert 0 <= found["atoll_lag_seconds", "b"] < 1
        it.partition("ab", "bc")
        await asyncio.sleep(10)
        found = await scrape(it)
        assert (found["atoll_link_up", "b"], found["atoll_link_up", "c"]) == (0, 1)
        assert found["atoll_lag_seconds", "b"] > 9


@in_virtual_time
async def test_a_peer_that_was_never_heard_has_no_lag() -> None:
    async with Served("a", "b", application=APPLICATION) as it:
        it.partition("ab")
        found = await scrape(it)
        assert ("atoll_lag_seconds", "b") not in found
        assert found["atoll_link_up", "b"] == 0


@in_virtual_time
async def test_proposals_of_strong_documents_are_counted() -> None:
    async with Served("a", "b", "c", application=APPLICATION) as it:
        await asyncio.sleep(1)
        await it.ask("PUT", "/v1/account/k", {"balance": 1})
        found = await scrape(it)
        assert found["atoll_proposals_total", ""] == 1
        assert found["atoll_proposals_lost_total", ""] == 0
        assert found["atoll_changes_combined_total", ""] == 0
        assert found["atoll_acceptors_voting", ""] == 1


async def test_nothing_is_told_of_votes_where_no_majority_decides() -> None:
    async with Served(application=application_of(Like)) as it:
        assert ("atoll_acceptors_voting", "") not in await scrape(it)


async def test_whether_it_serves_is_a_number() -> None:
    async with Served() as it:
        assert (await scrape(it))["atoll_serving", ""] == 1
        it["a"].gates.draining = True
        assert (await scrape(it))["atoll_serving", ""] == 0


async def test_every_metric_has_help_and_one_type() -> None:
    async with Served() as it:
        text = (await it.ask("GET", "/metrics")).body.decode()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation and family.name.startswith("atoll_") for family in families)
    assert {family.type for family in families} == {"counter", "gauge"}


async def test_two_regions_in_one_process_count_apart() -> None:
    async with Served("a") as one, Served("b") as other:
        await one.ask("PUT", "/v1/profile/k", {"name": "x"})
        assert (await scrape(one))["atoll_writes_total", ""] == 1
        assert (await scrape(other, "b"))["atoll_writes_total", ""] == 0


async def test_a_malformed_trace_context_is_dropped_and_counted() -> None:
    well_formed = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with Served() as it:
        for header in (well_formed, "00-" + "0" * 32 + well_formed[35:], "ünformed", well_formed + "-more"):
            await it.ask("PUT", "/v1/profile/k", {"name": header}, traceparent=header)
        found = await scrape(it)
        stored = [
            encoded.entry.trace
            for _, segment in await it["a"].store.journal(0)
            for encoded in decode_frames(segment.body)
        ]
    assert stored == [bytes.fromhex(well_formed.replace("-", "")), None, None, None]
    assert found["atoll_traceparent_invalid_total", ""] == 3


@pytest.mark.parametrize(("kernel_ms", "error_s"), [(None, 0.5), (20, 0.02)])
async def test_how_far_off_the_clock_may_be_is_told(kernel_ms: int | None, error_s: float) -> None:
    world = Served("a")
    world.kernel_uncertainty_ms = kernel_ms
    async with world as it:
        found = await scrape(it)
    assert found["atoll_clock_uncertainty_seconds", ""] == error_s
    assert found["atoll_clock_synchronised", ""] == (kernel_ms is not None)
