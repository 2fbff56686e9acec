from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
import urllib3

from .cluster import Cluster, Region, until
from .conftest import MakeCluster

pytestmark = pytest.mark.xdist_group("crashes")


class Writer:
    """Writes one after the other, each until it is acknowledged, as a client with idempotency keys does."""

    def __init__(self, region: Region, name: int, over: threading.Event) -> None:
        self.region = region
        self.name = name
        self.over = over
        self.acknowledged = 0

    def run(self) -> None:
        while not self.over.is_set():
            number = self.acknowledged
            self._until_done(
                "PUT", f"/v1/profile/w{self.name}-{number}", {"name": f"n{number}"}, f"p{number}"
            )
            self._until_done("PATCH", "/v1/views/total", {"$inc": {"seen": 1}}, f"i{number}")
            self.acknowledged += 1

    def _until_done(self, method: str, path: str, body: object, once: str) -> None:
        headers = {"Idempotency-Key": f"{self.name}-{once}"}

        def done() -> bool:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                return self.region.request(method, path, body, headers).status == 200
            return False

        until(done, f"{method} {path}")


def count(region: Region, prefix: str) -> int:
    found, query = 0, f"?prefix={prefix}&limit=1000"
    page = region.request("GET", f"/v1/profile{query}").json
    while True:
        found += len(page["items"])
        if not page["cursor"]:
            return found
        page = region.request("GET", f"/v1/profile{query}&cursor={page['cursor']}").json


def crashed_under_load(cluster: Cluster, random: Random, crashes: int) -> list[Writer]:
    tokyo = cluster["tokyo"]
    over = threading.Event()
    writers = [Writer(tokyo, name, over) for name in range(6)]
    with ThreadPoolExecutor(6) as threads:
        running = [threads.submit(writer.run) for writer in writers]
        try:
            for _ in range(crashes):
                over.wait(random.uniform(0.05, 0.6))
                tokyo.kill()
                tokyo.start()
                tokyo.wait()
            over.wait(0.2)
        finally:
            over.set()
        for each in running:
            each.result()
    return writers


def test_what_was_acknowledged_is_there_once(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(("frankfurt", "tokyo")).start()
    writers = crashed_under_load(cluster, Random(20), crashes=4)
    cluster.linked()
    cluster.settled()
    total = sum(writer.acknowledged for writer in writers)
    assert total > 0
    for region in cluster:
        assert region.get("views", "total").value["seen"] == total
        assert count(region, "w") == total
    assert cluster["tokyo"].digest() == cluster["frankfurt"].digest()


def test_the_receiver_of_a_stream_may_crash_too(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(("frankfurt", "tokyo")).start()
    frankfurt, tokyo = cluster
    random = Random(7)
    for crash in range(3):
        for number in range(40):
            tokyo.patch("views", "received", {"$inc": {"seen": 1}})
            if number == random.randrange(40):
                frankfurt.kill()
        frankfurt.kill()
        frankfurt.start()
        frankfurt.wait()
        assert tokyo.get("views", "received").value["seen"] == 40 * (crash + 1)
    cluster.linked()
    cluster.settled()
    assert frankfurt.get("views", "received").value["seen"] == 120


def test_a_region_that_lost_its_disk_gets_everything_back(make_cluster: MakeCluster) -> None:
    import shutil

    cluster = make_cluster(("frankfurt", "tokyo")).start()
    frankfurt, tokyo = cluster
    for number in range(30):
        tokyo.patch("views", "lost", {"$inc": {"seen": 1}})
        frankfurt.put("profile", f"f{number}", {"name": "F"})
    cluster.settled()
    tokyo.kill()
    shutil.rmtree(tokyo.data)
    tokyo.start()
    tokyo.wait()
    cluster.settled()
    assert tokyo.patch("views", "lost", {"$inc": {"seen": 1}}).value["seen"] == 31
    cluster.settled()
    assert tokyo.digest() == frankfurt.digest()


def test_a_region_ends_when_it_is_told_to(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(("tokyo",)).start()
    tokyo = cluster["tokyo"]
    tokyo.put("profile", "kept", {"name": "Ann"})
    assert tokyo.stop() in (0, -15)
    tokyo.start()
    tokyo.wait()
    assert tokyo.get("profile", "kept").status == 200
    assert "Traceback" not in cluster.logs()
