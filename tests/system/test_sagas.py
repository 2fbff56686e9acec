"""A saga on real processes: its home is killed, another region goes on, and the home comes back."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from .cluster import Cluster, Region, until
from .conftest import MakeCluster

_TRIPS = 12
_VISITS = 4
_OVER = ("completed", "compensated")
_TAKEN_OVER_S = 60.0
"""Long enough for a right to run out, to be taken over, and for all that waits to be done."""


class Call(NamedTuple):
    at_s: float
    pid: int
    what: str
    key: str


def calls(cluster: Cluster) -> list[Call]:
    log = cluster.folder / "outside.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [Call(float(at), int(pid), what, key) for at, pid, what, key in map(str.split, lines)]


def started(region: Region, saga: str, id: str, wait_s: int = 0) -> Any:
    answer = region.post(f"/v1/sagas/{saga}?wait={wait_s}", {"key": id})
    assert answer.status in (200, 201, 202), answer.body
    return answer.json


def listed(region: Region, saga: str) -> dict[str, Any]:
    items = region.request("GET", f"/v1/sagas?saga={saga}&limit=100").json["items"]
    return {item["key"]: item for item in items}


def all_over(region: Region, saga: str, count: int) -> bool:
    found = listed(region, saga)
    return len(found) == count and all(each["status"] in _OVER for each in found.values())


def begun(cluster: Cluster) -> Cluster:
    shutil.copy(Path(__file__).with_name("trips.py"), cluster.folder / "shop.py")
    return cluster.start()


def test_a_home_that_is_killed_is_taken_over_and_comes_back(make_cluster: MakeCluster) -> None:
    cluster = begun(make_cluster())
    tokyo, frankfurt = cluster["tokyo"], cluster["frankfurt"]
    pid = tokyo.status()["pid"]
    for number in range(_TRIPS):
        started(tokyo, "trip", f"t{number}")
    for number in range(_VISITS):
        started(tokyo, "visit", f"v{number}")
    until(lambda: any(call.what == "sleep" for call in calls(cluster)), "some are at their last step")
    tokyo.kill()
    known = listed(frankfurt, "trip")
    assert known  # what acts outside is known to a majority
    acted = {call.key for call in calls(cluster)}

    until(lambda: all_over(frankfurt, "trip", len(known)), "others finish the trips", _TAKEN_OVER_S)
    made = calls(cluster)
    elsewhere_s = [call.at_s for call in made if call.pid != pid]
    assert elsewhere_s
    assert all(call.at_s < min(elsewhere_s) for call in made if call.pid == pid)
    assert acted <= {call.key for call in made}

    tokyo.start()
    tokyo.wait()
    cluster.linked()
    for saga, count in (("trip", _TRIPS), ("visit", _VISITS)):
        until(
            lambda saga=saga, count=count: all_over(tokyo, saga, count), f"each {saga} is over", _TAKEN_OVER_S
        )
    cluster.settled()
    for region in cluster:
        assert {each["status"] for saga in ("trip", "visit") for each in listed(region, saga).values()} == {
            "completed"
        }
        assert region.get("visits", "all").value == {"count": _VISITS}
    for key, each in _by_key(calls(cluster)).items():
        assert len({call.what for call in each}) == 1, key
        assert len(each) <= 2, each  # by the home when it was killed, and by the region that went on
    assert len(_by_key(calls(cluster))) == 2 * _TRIPS + 2 * _VISITS

    found = started(tokyo, "trip", "afterwards", wait_s=20)
    assert (found["status"], found["home"]) == ("completed", "tokyo")
    assert {record["region"] for record in found["done"]} == {"tokyo"}


def _by_key(made: list[Call]) -> dict[str, list[Call]]:
    found: dict[str, list[Call]] = defaultdict(list)
    for call in made:
        found[call.key].append(call)
    return found
