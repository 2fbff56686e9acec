"""Journals are cut while real processes run, and whoever comes too late for them catches up."""

from __future__ import annotations

import shutil

import pytest

from .cluster import Cluster, until
from .conftest import MakeCluster

SOON = "journal_hours = 0.0003\n"
"""About a second."""


def lived_in(cluster: Cluster) -> None:
    """Documents, deletions, counters, conflicts that are open and conflicts that are resolved."""
    frankfurt, tokyo, virginia = cluster
    for number in range(60):
        tokyo.put("profile", f"k{number}", {"name": "Ann"})
        frankfurt.patch("views", f"v{number % 5}", {"$inc": {"seen": 1}})
    cluster.settled()
    virginia.delete("profile", "k1")
    with cluster.apart():
        for region in cluster:
            region.put("profile", "k2", {"name": region.name})
            region.put("profile", "k3", {"name": region.name})
    assert tokyo.put("profile", "k3", {"name": "resolved"}).status == 200
    cluster.settled()


def cut(cluster: Cluster) -> None:
    until(
        lambda: all(region.status()["journal"]["segments"] == 1 for region in cluster),
        "every journal is cut down to its newest segment",
    )


def ready(cluster: Cluster, name: str) -> None:
    until(lambda: cluster[name].request("GET", "/health/ready").status == 200, f"{name} is ready")


@pytest.mark.xdist_group("faults")
def test_an_empty_disk_is_filled_from_a_snapshot_and_writes_go_on(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(deployment=SOON).start()
    frankfurt, tokyo, virginia = cluster
    lived_in(cluster)
    cut(cluster)
    before = tokyo.digest(), {record["id"]: record for record in tokyo.conflicts()}, tokyo.position()
    assert len(before[1]) == 4
    tokyo.kill()
    shutil.rmtree(tokyo.data)
    tokyo.start()
    tokyo.wait()
    ready(cluster, "tokyo")
    cluster.settled()
    assert (tokyo.digest(), tokyo.position()) == (before[0], before[2])
    assert {record["id"]: record for record in tokyo.conflicts()} == before[1]
    assert tokyo.status()["counted"]["snapshots"] == 1
    assert tokyo.get("profile", "k1").status == 404
    for region in cluster:
        assert region.put("profile", f"after-{region.name}", {"name": "Eve"}).status == 200
    cluster.settled()
    assert frankfurt.digest() == tokyo.digest() == virginia.digest()
    assert tokyo.position()["tokyo"] == before[2]["tokyo"] + 1
    metrics = tokyo.request("GET", "/metrics").body
    assert b"atoll_snapshots_total 1.0" in metrics


@pytest.mark.xdist_group("faults")
def test_a_region_killed_while_it_takes_a_snapshot_over_goes_on(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(deployment=SOON).start()
    frankfurt, tokyo, _ = cluster
    lived_in(cluster)
    cut(cluster)
    tokyo.kill()
    shutil.rmtree(tokyo.data)
    for _ in range(4):
        tokyo.start()
        tokyo.wait()
        until(
            lambda: "snapshot" in (tokyo.status()["out_of_service"] or "") or tokyo.status()["caught_up"],
            "it has begun, or is through",
        )
        tokyo.kill()
    tokyo.start()
    tokyo.wait()
    ready(cluster, "tokyo")
    cluster.settled()
    assert tokyo.digest() == frankfurt.digest()
    assert tokyo.put("profile", "after", {"name": "Eve"}).status == 200


@pytest.mark.xdist_group("faults")
def test_a_consumer_that_comes_back_too_late_is_told(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(deployment=SOON).start()
    tokyo = cluster["tokyo"]
    early = tokyo.put("profile", "k", {"name": "Ann"}).token["Atoll-Session"]
    for number in range(5):
        tokyo.put("profile", f"k{number}", {"name": "Ann"})
        cluster.settled()
    cut(cluster)
    answer = tokyo.request("GET", f"/v1/changes?cursor={early}")
    assert (answer.status, answer.problem) == (410, "cursor-expired")
    assert "cursor=now" in answer.json["detail"]
