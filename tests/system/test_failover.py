"""The PostgreSQL of a region fails over to a standby while the region's nodes run: real servers, really killed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from atoll.testing.postgres_server import PostgresServer

from .cluster import Region, until
from .nodes import Nodes, load, nothing_is_lost
from .test_backup import atoll
from .test_feed import feed, keys_until

pytestmark = [pytest.mark.xdist_group("failover"), pytest.mark.timeout(300)]


class WithStandby(Nodes):
    """Tokyo's PostgreSQL has a standby, and its nodes know both by one URL."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.primary = self.servers["tokyo"]
        self.primary.start()
        self.standby = self.primary.standby(folder / "standby", name="second")
        self.standby.start()

    def store_url(self, name: str) -> str:
        if name != "tokyo":
            return super().store_url(name)
        ports = f"127.0.0.1:{self.primary.port},127.0.0.1:{self.standby.port}"
        return f"postgresql://shop@{ports}/shop?target_session_attrs=read-write"

    def fail_over(self) -> None:
        self.primary.kill()
        self.standby.promote()
        self.servers["tokyo"] = self.standby

    def cut_standby(self) -> None:
        """It receives nothing any more, as when it lags."""
        self.standby.reconfigure("primary_conninfo", "")
        until(
            lambda: self.standby.sql("SELECT count(*) FROM pg_stat_wal_receiver").strip() == "0", "it is cut"
        )

    def close(self) -> None:
        super().close()
        self.primary.close()
        self.standby.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[], WithStandby]]:
    made: list[WithStandby] = []

    def start() -> WithStandby:
        made.append(WithStandby(tmp_path))
        made[0].start()
        return made[0]

    yield start
    for cluster in made:
        cluster.close()


def write(node: Region, key: str, **once: str) -> bool:
    with contextlib.suppress(urllib3.exceptions.HTTPError):
        return node.put("profile", key, {"name": "n"}, **once).status == 200
    return False


def written(node: Region, key: str) -> None:
    until(
        lambda: write(node, key, Idempotency_Key=f"once-{key}"), f"{key} is written at node {node.node}", 30
    )


def test_a_synchronous_standby_takes_over_and_nothing_is_lost(make: Callable[[], WithStandby]) -> None:
    cluster = make()
    cluster.primary.reconfigure("synchronous_standby_names", "second")
    one, other = cluster.of["tokyo"]
    with feed(cluster.of["frankfurt"][0], "?cursor=now&collection=profile") as events:
        with load(cluster, "sync") as writers:
            until(lambda: all(writer.acknowledged > 2 for writer in writers), "the load runs")
            before = one.put("profile", "session", {"name": "before"})
            cluster.fail_over()
            for node in (one, other):
                written(node, f"after-{node.node}")
                again = node.get("profile", "session", **before.token)
                assert (again.status, again.value["name"]) == (200, "before")
            marks = [writer.acknowledged for writer in writers]
            until(
                lambda: all(w.acknowledged > mark + 1 for w, mark in zip(writers, marks, strict=True)),
                "all writers go on",
                60,
            )
        nothing_is_lost(cluster, "sync", writers)
        written(one, "last")
        keys, _ = keys_until(events, {"last"})
        wanted = {f"sync{w.number}-{n}" for w in writers for n in range(w.acknowledged)}
        assert wanted <= set(keys)


def test_an_asynchronous_standby_that_lacks_commits_takes_over(make: Callable[[], WithStandby]) -> None:
    """What the other region has of them comes back, under its old numbers, before anything new is written."""
    cluster = make()
    one, other = cluster.of["tokyo"]
    kept = [one.put("profile", f"kept{n}", {"name": "n"}).json["version"] for n in range(3)]
    with feed(one, "?cursor=now&collection=profile") as events:
        until(lambda: _caught_up(cluster), "the standby has it")
        cluster.cut_standby()
        lost = [one.put("profile", f"lost{n}", {"name": "n"}) for n in range(50)]
        cluster.settled()
        last = lost[-1]
        assert cluster.primary.sql("SELECT count(*) FROM atoll_tokyo._doc_profile", "shop").strip() == "53"
        assert other.process is not None
        os.kill(other.process.pid, signal.SIGSTOP)  # this node will notice late
        try:
            seen_by_other = lost[-1].token
            # Before: once it is promoted, the node may have them back from the other region at once.
            assert cluster.standby.sql("SELECT count(*) FROM atoll_tokyo._doc_profile", "shop").strip() == "3"
            cluster.fail_over()
            written(one, "new-1")
        finally:
            os.kill(other.process.pid, signal.SIGCONT)
        written(other, "new-2")
        for node in (one, other):
            found = node.get("profile", "lost49", **seen_by_other)
            assert (found.status, found.json["version"]) == (200, last.json["version"])
            assert [node.get("profile", f"kept{n}").json["version"] for n in range(3)] == kept
        with load(cluster, "async") as writers:
            until(lambda: all(writer.acknowledged > 2 for writer in writers), "the load runs", 60)
        nothing_is_lost(cluster, "async", writers)
        keys, _ = keys_until(events, {"new-1", "new-2"})
        assert [key for key in keys if key.startswith("lost")] == [f"lost{n}" for n in range(50)]


def test_writes_wait_for_a_peer_that_may_hold_what_was_lost(make: Callable[[], WithStandby]) -> None:
    cluster = make()
    one, other = cluster.of["tokyo"]
    written(one, "kept")
    until(lambda: _caught_up(cluster), "the standby has it")
    cluster.cut_standby()
    written(one, "lost")
    cluster.settled()
    for node in cluster.of["frankfurt"]:
        node.kill()
    cluster.fail_over()
    until(lambda: _refused(one) and _refused(other), "both refuse writes", 30)
    assert one.get("profile", "kept").status == 200
    health = one.request("GET", "/health/serving")
    assert "waits for frankfurt" in health.json["reason"]
    for node in cluster.of["frankfurt"]:
        node.start()
        node.wait()
    written(one, "new")
    cluster.linked()
    cluster.settled()
    assert {node.get("profile", "lost").status for node in cluster} == {200}
    digests = [node.digest() for node in cluster]
    assert digests == [digests[0]] * 4


def test_writes_go_on_without_a_peer_that_is_gone_for_good(make: Callable[[], WithStandby]) -> None:
    cluster = make()
    one, other = cluster.of["tokyo"]
    written(one, "kept")
    until(lambda: _caught_up(cluster), "the standby has it")
    for node in cluster.of["frankfurt"]:
        node.kill()
    cluster.fail_over()
    until(lambda: _refused(one) and _refused(other), "both refuse writes", 30)
    forgotten = atoll(cluster, "region", "forget", "frankfurt", "--yes")
    assert forgotten.stdout == "tokyo does not wait for frankfurt.\n"
    written(one, "new")
    written(other, "new-2")
    assert one.get("profile", "kept").status == 200


def test_an_old_primary_that_comes_back_is_not_written_to(make: Callable[[], WithStandby]) -> None:
    cluster = make()
    one, other = cluster.of["tokyo"]
    cluster.fail_over()
    written(one, "new")
    written(other, "new-2")
    cluster.primary.start()  # on the timeline before, and first in the URL
    state = _commits(cluster.primary)
    cluster.standby.stop()  # there is nothing else to connect to now
    until(lambda: _refused(one) and _refused(other), "both refuse writes", 30)
    assert "old primary" in _reason(one)
    cluster.standby.start()
    written(one, "again")
    other.kill()
    other.start()
    other.wait()
    written(other, "again-2")  # a node that remembers nothing
    assert _commits(cluster.primary) == state
    cluster.settled()
    digests = [node.digest() for node in cluster]
    assert digests == [digests[0]] * 4


def _commits(server: PostgresServer) -> str:
    return server.sql("SELECT commits FROM atoll_tokyo._region", "shop")


def _caught_up(cluster: WithStandby) -> bool:
    return _commits(cluster.primary) == _commits(cluster.standby)


def _refused(node: Region) -> bool:
    with contextlib.suppress(urllib3.exceptions.HTTPError):
        return node.put("profile", "refused", {"name": "n"}).status == 503
    return False


def _reason(node: Region) -> Any:
    return node.put("profile", "refused", {"name": "n"}).json["detail"]
