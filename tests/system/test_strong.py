"""Strong documents on real processes: a majority of regions decides, whatever befalls the others."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3

from atoll import Collection, connect
from atoll.errors import VersionMismatch

from .cluster import REGIONS, Cluster, Region, until
from .conftest import MakeCluster
from .test_members import follow, without

pytestmark = pytest.mark.xdist_group("strong")
_SHARED = 4
_MORE = 5
"""Writes of each client that show that it goes on."""


class Account(Collection, consistency="strong"):
    balance: int = 0


class Writer:
    """Sends one write after the other, in another region when one does not take it, until it is acknowledged."""

    def __init__(self, number: int, regions: Sequence[Region], over: threading.Event) -> None:
        """`regions`: its own comes first."""
        self.regions = regions
        self.number = number
        self.over = over
        self.acknowledged = 0
        self.at_home = 0
        """Writes that its own region took."""

    def run(self) -> None:
        while not self.over.is_set():
            number = self.acknowledged
            self._acknowledged("PUT", f"w{self.number}-{number}", {"amount": number})
            self._acknowledged("PATCH", f"shared-{number % _SHARED}", {"$inc": {"amount": 1}})
            self.acknowledged += 1

    def _acknowledged(self, method: str, key: str, body: object) -> None:
        headers = {"Idempotency-Key": f"{self.number}-{self.acknowledged}-{method}"}
        regions = itertools.cycle(self.regions)

        def sent() -> bool:
            region = next(regions)
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                answer = region.request(method, f"/v1/purse/{key}", body, headers)
                assert answer.status in (200, 503, 504), answer.body
                self.at_home += answer.status == 200 and region is self.regions[0]
                return answer.status == 200
            return False

        until(sent, f"{method} {key}")


@contextlib.contextmanager
def load(among: Iterable[Region]) -> Iterator[list[Writer]]:
    """Two writers in each region, until the block ends."""
    over, regions = threading.Event(), list(among)
    writers = [
        Writer(2 * at + n, [*regions[at:], *regions[:at]], over)
        for at in range(len(regions))
        for n in range(2)
    ]
    with ThreadPoolExecutor(len(writers)) as threads:
        running = [threads.submit(writer.run) for writer in writers]
        try:
            yield writers
        finally:
            over.set()
        for each in running:
            each.result()


def all_go_on(writers: Sequence[Writer], *, at_home: bool = False) -> None:
    def count(writer: Writer) -> int:
        return writer.at_home if at_home else writer.acknowledged

    before = [count(writer) for writer in writers]
    until(
        lambda: all(count(writer) >= was + _MORE for writer, was in zip(writers, before, strict=True)),
        "all clients have written more",
    )


def everything_is_there(regions: Sequence[Region], writers: Sequence[Writer]) -> None:
    total = sum(writer.acknowledged for writer in writers)
    for region in regions:
        shared = [region.get("purse", f"shared-{n}") for n in range(_SHARED)]
        assert sum(answer.value["amount"] for answer in shared) == total
        for writer in writers:
            found = region.request("GET", f"/v1/purse?prefix=w{writer.number}-&limit=1000").json
            amounts = sorted(item["value"]["amount"] for item in found["items"])
            assert amounts == list(range(writer.acknowledged))


def test_any_region_may_be_killed_under_load(make_cluster: MakeCluster) -> None:
    cluster = make_cluster().start()
    with load(cluster) as writers:
        for at, region in enumerate(cluster):
            all_go_on(writers)
            region.kill()
            all_go_on(writers)
            region.start()
            region.wait()
            all_go_on(writers[2 * at : 2 * at + 2], at_home=True)
    cluster.linked()
    cluster.settled()
    everything_is_there(list(cluster), writers)
    assert len({str(region.digest()) for region in cluster}) == 1


def test_a_region_replaces_another_under_load(make_cluster: MakeCluster) -> None:
    """It is added to the files in the other one's place. Then the other one is lost, and one of the rest, in turn."""
    cluster = make_cluster(("frankfurt", "tokyo", "vienna", "york"))
    frankfurt, tokyo, vienna, york = cluster
    files = {region.name: region.config.read_text() for region in cluster}
    for region in cluster:
        region.config.write_text(without(files[region.name], "vienna" if region is york else "york"))
    first = [frankfurt, tokyo, vienna]
    for region in first:
        region.start()
    for region in first:
        region.wait()
    until(lambda: all(decides(first, each) for each in first), "the first three decide")
    with load(first[:2]) as writers:
        all_go_on(writers)
        for region in first[:2]:
            follow(region, without(files[region.name], "vienna"))
        york.start()
        york.wait()
        rest = [frankfurt, tokyo, york]
        until(lambda: all(decides(rest, each) for each in rest), "york has replaced vienna")
        vienna.kill()
        all_go_on(writers)
        frankfurt.kill()
        all_go_on(writers)
        frankfurt.start()
        frankfurt.wait()
        tokyo.kill()
        all_go_on(writers)
        tokyo.start()
        tokyo.wait()
        all_go_on(writers, at_home=True)
    until(lambda: york.position() == frankfurt.position() == tokyo.position(), "all are at one position")
    everything_is_there(rest, writers)


def decides(regions: Sequence[Region], region: Region) -> bool:
    """Whether a region counts all of these, and votes."""
    found = region.status()["registers"]
    names = sorted(each.name for each in regions)
    return bool(found["voting"] and not found["changing"] and found["acceptors"] == names)


def test_a_lost_disk_votes_only_after_it_has_joined_anew(make_cluster: MakeCluster) -> None:
    cluster = make_cluster().start()
    frankfurt, tokyo, virginia = cluster
    with load(cluster) as writers:
        all_go_on(writers)
        tokyo.kill()
        shutil.rmtree(tokyo.data)
        all_go_on(writers)
    virginia.kill()
    tokyo.start()
    tokyo.wait()
    until(lambda: tokyo.status()["registers"]["waits_for"] == ["virginia"], "tokyo has heard frankfurt")
    assert tokyo.status()["registers"]["voting"] is False
    assert "atoll_acceptors_voting 0.0" in tokyo.request("GET", "/metrics").body.decode()
    for region in (frankfurt, tokyo):
        assert region.patch("purse", "refused", {"$inc": {"amount": 1}}).status in (503, 504)
    virginia.start()
    virginia.wait()
    until(lambda: tokyo.status()["registers"]["voting"], "tokyo's acceptors have joined")
    frankfurt.kill()
    until(lambda: takes(tokyo, "without-frankfurt"), "tokyo and virginia go on")
    everything_is_there((tokyo, virginia), writers)


def takes(region: Region, key: str) -> bool:
    return region.put("account", key, {"balance": 1}).status == 200


def test_a_region_without_a_majority_never_reads_stale(shared: Cluster) -> None:
    frankfurt, tokyo, virginia = shared
    tokyo.put("account", "minority", {"balance": 1})
    shared.settled()
    with shared.apart(("tokyo", "frankfurt"), ("tokyo", "virginia")):
        until(lambda: takes(frankfurt, "elsewhere"), "the others go on")
        assert frankfurt.put("account", "minority", {"balance": 2}).status == 200
        assert virginia.get("account", "minority").value == {"balance": 2}
        for answer in (
            tokyo.get("account", "minority"),
            tokyo.patch("account", "minority", {"$set": {"balance": 3}}),
            tokyo.put("account", "minority-new", {"balance": 3}),
        ):
            assert (answer.status, answer.problem) in (
                (503, "region-unreachable"),
                (503, "unavailable"),
                (504, "indefinite"),
            )
        assert tokyo.get("account", "minority", "?consistency=eventual").value == {"balance": 1}
    assert tokyo.get("account", "minority").value["balance"] in (2, 3)


async def test_one_of_many_creators_succeeds(shared: Cluster) -> None:
    keys = [f"claim-{number}" for number in range(8)]
    async with contextlib.AsyncExitStack() as stack:
        databases = [await stack.enter_async_context(connect(shared.urls, near=near)) for near in REGIONS]

        async def claim(key: str, number: int) -> int | None:
            try:
                await databases[number % 3].put(Account(key=key, balance=number), create=True)
            except VersionMismatch:
                return None
            return number

        claims = await asyncio.gather(*(claim(key, number) for key in keys for number in range(9)))
        for at, key in enumerate(keys):
            (winner,) = (each for each in claims[9 * at : 9 * at + 9] if each is not None)
            for database in databases:
                found = await database.get(Account, key)
                assert found is not None
                assert found.balance == winner
