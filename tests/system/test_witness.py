"""Two regions and a witness on real processes: any one of the three may be lost."""

from __future__ import annotations

import json
import shutil

import pytest

from .cluster import Cluster, Region, until
from .conftest import MakeCluster
from .test_cli import atoll
from .test_strong import all_go_on, everything_is_there, load

pytestmark = pytest.mark.xdist_group("strong")
NAMES = ("frankfurt", "tokyo", "virginia")


def with_witness(make_cluster: MakeCluster) -> tuple[Cluster, Region, Region, Region]:
    cluster = make_cluster(NAMES, witnesses=("virginia",)).start()
    frankfurt, tokyo, virginia = cluster
    until(lambda: all(votes(region) for region in cluster), "all acceptors vote")
    return cluster, frankfurt, tokyo, virginia


def votes(region: Region) -> bool:
    registers = region.status()["registers"]
    return bool(registers["voting"] and not registers["cut_off"])


def values(witness: Region) -> int:
    return int(witness.status()["registers"]["values"])


def test_any_one_of_the_three_may_be_killed_under_load(make_cluster: MakeCluster) -> None:
    cluster, *_, virginia = with_witness(make_cluster)
    with load(cluster.keepers) as writers:
        for at, region in enumerate(cluster):
            all_go_on(writers)
            region.kill()
            all_go_on(writers)
            region.start()
            region.wait()
            until(lambda region=region: votes(region), "its acceptors vote again")  # type: ignore[misc]
            all_go_on(writers[2 * at : 2 * at + 2], at_home=True)
    cluster.linked()
    cluster.settled()
    everything_is_there(cluster.keepers, writers)
    assert len({str(region.digest()) for region in cluster.keepers}) == 1
    until(lambda: not values(virginia), "the witness has dropped all values")
    assert virginia.position() == {}


@pytest.mark.parametrize("lost", ["frankfurt", "tokyo"])
def test_what_only_the_lost_region_and_the_witness_held_is_there(
    make_cluster: MakeCluster, lost: str
) -> None:
    cluster, *_, virginia = with_witness(make_cluster)
    gone, left = cluster[lost], next(each for each in cluster.keepers if each.name != lost)
    assert gone.put("purse", "k", {"amount": 1}).status == 200
    cluster.settled()
    until(lambda: not values(virginia), "the witness has dropped the first value")
    for other in (gone.name, "virginia"):
        cluster.cut(left.name, other)
    until(lambda: gone.patch("purse", "k", {"$inc": {"amount": 10}}).status == 200, "the others go on")
    assert gone.put("purse", "new", {"amount": 5}).status == 200
    until(lambda: values(virginia) == 2, "the witness keeps what one region lacks")
    gone.kill()
    shutil.rmtree(gone.data)
    cluster[left.name].post("/admin/partition", {"peer": "virginia", "cut": False})
    virginia.post("/admin/partition", {"peer": left.name, "cut": False})
    until(lambda: left.get("purse", "k").status == 200, "the region that is left reads")
    assert left.get("purse", "k").value == {"amount": 11}
    assert left.get("purse", "new").value == {"amount": 5}
    assert left.patch("purse", "k", {"$inc": {"amount": 1}}).value == {"amount": 12}


def test_a_witness_serves_no_documents(make_cluster: MakeCluster) -> None:
    cluster, frankfurt, _, virginia = with_witness(make_cluster)
    assert frankfurt.put("purse", "k", {"amount": 1}).status == 200
    assert virginia.request("GET", "/health/live").status == 200
    serving = virginia.request("GET", "/health/serving")
    assert serving.status == 503
    assert b"virginia is a witness" in serving.body
    for answer in (
        virginia.get("purse", "k"),
        virginia.put("purse", "k", {"amount": 2}),
        virginia.request("GET", "/v1/purse"),
        virginia.request("GET", "/v1/changes"),
        virginia.get("nothing", "k"),
    ):
        assert (answer.status, answer.problem) == (503, "unavailable")
        assert "holds no documents; ask another region" in answer.json["detail"]
    config = ("--config", str(frankfurt.config))
    status = frankfurt.status()
    assert (status["regions"], status["witnesses"]) == (["frankfurt", "tokyo"], ["virginia"])
    assert list(status["links"]) == ["tokyo"]
    refused = atoll("backup", "--region", "virginia", str(cluster.folder / "v"), *config)
    assert refused.returncode == 2
    assert "virginia is a witness, and holds no documents; name one of frankfurt, tokyo" in refused.stderr
    shown = json.loads(atoll("status", "--json", *config).stdout)
    assert shown["regions"]["virginia"]["registers"]["voting"] is True
    assert "a witness" in atoll("status", *config).stdout
