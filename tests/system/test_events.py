"""The timeline of real regions: what each noticed, in one order, everywhere."""

from __future__ import annotations

import json
import shutil
from typing import Any

from . import processes
from .cluster import Cluster, Region, until
from .conftest import MakeCluster

RECORDING = "events_max = 1000"
PATIENCE_S = 60.0


def events(region: Region, query: str = "") -> list[dict[str, Any]]:
    answer = region.request("GET", f"/v1/events?limit=1000{query}")
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json["items"]
    return found


def seen(region: Region) -> list[tuple[str, str, str]]:
    return [(each["kind"], each["region"], each["peer"]) for each in events(region)]


def recorded(cluster: Cluster, region: str, *wanted: tuple[str, str, str]) -> None:
    """Until that region lists all of these."""
    until(
        lambda: set(wanted) <= set(seen(cluster[region])),
        f"{region} lists {wanted}; it has {seen(cluster[region])}",
        PATIENCE_S,
    )


def atoll(cluster: Cluster, *arguments: str) -> str:
    done = processes.atoll(cluster.folder, *arguments, "--config", "tokyo.toml")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_region_that_dies_and_comes_back(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(deployment=RECORDING).start()
    tokyo, frankfurt, virginia = cluster["tokyo"], cluster["frankfurt"], cluster["virginia"]
    started = [("region-started", name, "") for name in cluster.regions]
    recorded(cluster, "frankfurt", *started)
    tokyo.kill()
    down = [("link-down", name, "tokyo") for name in ("frankfurt", "virginia")]
    recorded(cluster, "frankfurt", *down)
    recorded(cluster, "virginia", *down)
    tokyo.start()
    tokyo.wait()
    up = [("link-up", name, "tokyo") for name in ("frankfurt", "virginia")]
    for name in cluster.regions:
        recorded(cluster, name, *down, *up)
    until(lambda: seen(tokyo).count(started[1]) == 2, "tokyo records its start", PATIENCE_S)
    cluster.settled()
    found = events(frankfurt)
    assert events(tokyo) == events(virginia) == found
    kinds = [(each["kind"], each["region"]) for each in found if each["region"] == "frankfurt"]
    assert kinds == [(kind, "frankfurt") for kind in ("region-started", "link-down", "link-up")]
    assert {each["peer"] for each in events(virginia, "&kind=link-down")} == {"tokyo"}
    assert tokyo.request("GET", "/v1/_events").status == 404
    assert tokyo.request("GET", "/admin/verify").json["equal"]
    shown = json.loads(atoll(cluster, "events", "--json", "--region", "frankfurt", "--limit", "2"))
    assert [each["kind"] for each in shown["items"]] == ["link-down", "link-up"]
    assert "region-started" in atoll(cluster, "events")


def test_a_backup_keeps_events_and_a_restore_is_one(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(("frankfurt", "tokyo"), deployment=RECORDING).start()
    tokyo, frankfurt = cluster["tokyo"], cluster["frankfurt"]
    recorded(cluster, "tokyo", ("region-started", "tokyo", ""), ("region-started", "frankfurt", ""))
    before = events(tokyo)
    atoll(cluster, "backup", "tokyo.atoll", "--region", "tokyo")
    tokyo.kill()
    shutil.rmtree(tokyo.data)
    atoll(cluster, "restore", "tokyo.atoll", "--region", "tokyo")
    tokyo.start()
    tokyo.wait()
    recorded(cluster, "frankfurt", ("restored", "tokyo", ""))
    recorded(cluster, "tokyo", ("restored", "tokyo", ""))
    assert events(tokyo)[: len(before)] == before
    cluster.settled()
    assert events(tokyo) == events(frankfurt)
