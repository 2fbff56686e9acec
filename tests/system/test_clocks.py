"""Clocks of real processes: one that is off leaves service and comes back, and acknowledgements wait for the order."""

from __future__ import annotations

import signal
from typing import Any

from .cluster import Cluster, Region, until

APPLICATION = """
from atoll import Collection


class Profile(Collection):
    name: str


class Event(Collection, commit_wait=True):
    name: str
"""


def deployed(make_cluster: Any, deployment: str = "", **offsets_ms: int) -> Cluster:
    cluster: Cluster = make_cluster(rtt_ms=4, deployment=deployment)
    (cluster.folder / "shop.py").write_text(APPLICATION)
    for region in cluster:
        set_offset(region, offsets_ms.get(region.name, 0))
    return cluster.start()


def set_offset(region: Region, offset_ms: int) -> None:
    """How far the clock is to be off, once the file is read again."""
    kept = [line for line in region.config.read_text().splitlines() if "clock_offset_ms" not in line]
    line = f"clock_offset_ms = {{ {region.name} = {offset_ms} }}"
    region.config.write_text("\n".join([*kept, line]))


def step(region: Region, offset_ms: int) -> None:
    assert region.process is not None
    set_offset(region, offset_ms)
    region.process.send_signal(signal.SIGHUP)


def serving(region: Region) -> Any:
    answer = region.request("GET", "/health/serving")
    return answer.json["reason"] if answer.status == 503 else "serving"


def measured(cluster: Cluster) -> bool:
    """Whether every region has compared its clock with each peer's."""
    links = [link for region in cluster for link in region.status()["links"].values()]
    return all(link["clock_offset_ms"] is not None for link in links)


def test_clock_beyond_its_bound_leaves_service_and_comes_back(make_cluster: Any) -> None:
    cluster = deployed(make_cluster)
    tokyo, frankfurt = cluster["tokyo"], cluster["frankfurt"]
    until(lambda: measured(cluster), "clocks are compared")
    assert [serving(region) for region in cluster] == ["serving"] * 3

    step(tokyo, 5000)
    reason = until(lambda: serving(tokyo) != "serving" and serving(tokyo), "tokyo leaves service")
    assert "the clock of tokyo is" in reason
    refused = tokyo.put("profile", "k", {"name": "tokyo"})
    assert (refused.status, refused.problem) == (503, "clock-unsafe")
    assert tokyo.request("GET", "/health/reading").status == 200
    clock = tokyo.status()["clock"]
    assert clock["error_ms"] > clock["most_ms"] == 500
    assert clock["latest_ms"] < frankfurt.status()["clock"]["latest_ms"] + 1000
    metrics = tokyo.request("GET", "/metrics").body.decode()
    assert "\natoll_serving 0.0" in metrics
    assert frankfurt.put("profile", "k", {"name": "frankfurt"}).status == 200
    assert serving(frankfurt) == "serving"

    step(tokyo, 0)
    until(lambda: serving(tokyo) == "serving", "tokyo is back")
    assert tokyo.put("profile", "k", {"name": "tokyo"}).status == 200
    cluster.settled()


def test_clock_without_proof_takes_no_writes_where_one_is_required(make_cluster: Any) -> None:
    """The kernel says nothing of a clock that is made to be off, and nothing of the peers' either."""
    offsets_ms = {"frankfurt": 1, "tokyo": 1, "virginia": 1}
    cluster = deployed(make_cluster, "require_synchronised_clocks = true", **offsets_ms)
    for region in cluster:
        assert "look at NTP or chrony" in serving(region)
        assert region.status()["clock"]["kernel_ms"] is None
        assert region.put("profile", "k", {"name": "x"}).problem == "clock-unsafe"


def test_later_write_of_a_slower_clock_is_shown_everywhere(make_cluster: Any) -> None:
    """Tokyo's clock is ahead of frankfurt's, and neither hears of the other's write before its own."""
    cluster = deployed(make_cluster, tokyo=200, frankfurt=-200)
    until(lambda: measured(cluster), "clocks are compared")
    with cluster.apart():
        for number in range(5):
            assert cluster["tokyo"].put("event", f"k{number}", {"name": "earlier"}).status == 200
            assert cluster["frankfurt"].put("event", f"k{number}", {"name": "later"}).status == 200
    for region in cluster:
        for number in range(5):
            assert region.get("event", f"k{number}").value["name"] == "later"
