from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.ports import free_ports

from atoll.documents.entry import Change

from .cluster import Cluster, until
from .conftest import MakeCluster
from .impostor import Impostor
from .proxy import Proxy


@pytest.mark.xdist_group("shared")
def test_what_three_regions_write_is_everywhere(shared: Cluster) -> None:
    for region in shared:
        for number in range(20):
            assert region.put("profile", f"conv-{region.name}-{number}", {"name": region.name}).status == 200
            assert region.patch("views", "conv", {"$inc": {"seen": 1}}).status == 200
    shared.settled()
    digests = [region.digest() for region in shared]
    assert digests[0] == digests[1] == digests[2]
    assert [region.get("views", "conv").value["seen"] for region in shared] == [60, 60, 60]
    assert all(region.request("GET", "/admin/verify").json["equal"] for region in shared)


@pytest.mark.xdist_group("shared")
def test_a_third_region_relays_when_a_link_is_cut(shared: Cluster) -> None:
    frankfurt, tokyo, _ = shared
    with shared.apart(("frankfurt", "tokyo")):
        tokyo.put("profile", "relayed", {"name": "Ann"})
        frankfurt.put("profile", "back", {"name": "Eve"})
        until(lambda: frankfurt.get("profile", "relayed").status == 200, "it comes by way of virginia")
        until(lambda: tokyo.get("profile", "back").status == 200, "and back")
        links = frankfurt.status()["links"]
        assert not links["tokyo"]["connected"]
        assert links["virginia"]["relays"] == ["tokyo"]
    until(lambda: not frankfurt.status()["links"]["virginia"]["relays"], "the relay ends with the cut")


@pytest.mark.xdist_group("shared")
def test_a_region_that_was_alone_catches_up(shared: Cluster) -> None:
    frankfurt, tokyo, virginia = shared
    with shared.apart(("virginia", "tokyo"), ("virginia", "frankfurt")):
        for number in range(200):
            tokyo.put("profile", f"meanwhile-{number}", {"name": "Ann"})
        virginia.put("profile", "alone", {"name": "Eve"})
        assert virginia.get("profile", "meanwhile-0").status == 404
    assert virginia.get("profile", "meanwhile-199").status == 200
    assert frankfurt.digest() == virginia.digest()


@pytest.mark.xdist_group("faults")
def test_a_frame_damaged_on_the_way_is_refused_and_asked_for_again(make_cluster: MakeCluster) -> None:
    (front,) = free_ports(1)
    cluster = make_cluster(("frankfurt", "tokyo"), through={"tokyo": front})
    proxy = Proxy(cluster["tokyo"].port)
    try:
        for name in ("frankfurt", "tokyo"):
            config = cluster[name].config
            config.write_text(config.read_text().replace(str(front), str(proxy.port)))
        frankfurt, tokyo = cluster.start()
        proxy.damage()
        tokyo.put(
            "profile", "damaged", {"name": "x" * 50, "extra": {str(n): hash(str(n)) for n in range(99)}}
        )
        until(lambda: frankfurt.status()["links"]["tokyo"]["refused"], "the damage is reported")
        assert proxy.damaged == 1
        cluster.settled()
        assert frankfurt.get("profile", "damaged").status == 200
        link = frankfurt.status()["links"]["tokyo"]
        assert (link["connected"], link["refused"]) == (True, 1)
        assert frankfurt.digest() == tokyo.digest()
        metrics = frankfurt.request("GET", "/metrics").body
        assert b'atoll_link_refused_total{peer="tokyo"} 1.0' in metrics
    finally:
        cluster.close()
        proxy.close()


@pytest.fixture
def impostor(make_cluster: MakeCluster) -> Iterator[tuple[Cluster, Impostor]]:
    """Two honest regions, and a third that is none."""
    cluster = make_cluster()
    frankfurt, tokyo, virginia = cluster
    impostor = Impostor("virginia", virginia.port)
    try:
        for region in (frankfurt, tokyo):
            region.start()
        for region in (frankfurt, tokyo):
            region.wait()
        until(
            lambda: all(
                link["connected"]
                for region in (frankfurt, tokyo)
                for link in region.status()["links"].values()
            ),
            "the impostor is believed",
        )
        yield cluster, impostor
    finally:
        cluster.close()
        impostor.close()


def good(key: str) -> Change:
    return Change("profile", key, 0, {"": b'{"name":"V","age":0,"score":0.0,"extra":{}}'})


HOSTILE = {
    "unknown collection": Change("nothing", "k", 0, {"": b"{}"}),
    "no JSON": Change("profile", "k", 0, {"": b"{oops"}),
    "no object": Change("profile", "k", 0, {"": b"[1]"}),
    "a register whose name is none": Change("profile", "k", 0, {".": b"1"}),
    "unknown lattice": Change("views", "k", 0, {"": b"{}"}, {"name": b"\x80"}),
    "no lattice state": Change("views", "k", 0, {"": b"{}"}, {"seen": b"\xff\xff"}),
    "no text": Change("note", "k", 0, {"": b"{}"}, {"body": b"\x01\x02\x03"}),
    "an empty key": Change("profile", "", 0, {"": b"{}"}),
    "an unknown operation": Change("profile", "k", 77, {"": b"{}"}),
}


@pytest.mark.xdist_group("faults")
def test_what_makes_no_sense_is_parked_and_the_rest_goes_on(impostor: tuple[Cluster, Impostor]) -> None:
    cluster, virginia = impostor
    frankfurt, tokyo = cluster["frankfurt"], cluster["tokyo"]
    for change in HOSTILE.values():
        virginia.send(change)
    virginia.send(good("before"), *HOSTILE.values(), good("after"))
    until(lambda: frankfurt.get("profile", "after").status == 200, "the good changes are applied")
    assert frankfurt.get("profile", "before").status == 200
    parked = frankfurt.request("GET", "/admin/parked").json["items"]
    assert len(parked) == 2 * len(HOSTILE)
    assert all(each["origin"] == "virginia" and each["reason"] for each in parked)
    assert [each["change"] for each in parked if each["seq"] == len(HOSTILE) + 1] == list(
        range(1, len(HOSTILE) + 1)
    )
    tokyo.put("profile", "honest", {"name": "Ann"})
    until(lambda: frankfurt.get("profile", "honest").status == 200, "honest regions go on")
    until(lambda: frankfurt.position() == tokyo.position(), "both stand equal")
    assert frankfurt.digest() == tokyo.digest()
    assert (
        f"atoll_parked_changes_total {2 * len(HOSTILE)}.0".encode()
        in frankfurt.request("GET", "/metrics").body
    )


@pytest.mark.xdist_group("faults")
def test_a_stamp_from_the_far_future_waits_and_holds_nobody_back(impostor: tuple[Cluster, Impostor]) -> None:
    cluster, virginia = impostor
    frankfurt, tokyo = cluster["frankfurt"], cluster["tokyo"]
    virginia.send(good("tomorrow"), ahead_ms=86_400_000)
    until(lambda: tokyo.status()["inbox"]["held"], "the entry is held")
    assert "ahead" in tokyo.status()["inbox"]["held"]
    tokyo.put("profile", "now", {"name": "Ann"})
    frankfurt.put("profile", "now-too", {"name": "Eve"})
    until(lambda: frankfurt.get("profile", "now").status == 200, "others' entries are applied")
    until(lambda: tokyo.get("profile", "now-too").status == 200, "in both regions")
    assert tokyo.get("profile", "tomorrow").status == 404
    assert tokyo.status()["serving"]


@pytest.mark.xdist_group("faults")
def test_entries_that_cannot_be_believed_are_refused(impostor: tuple[Cluster, Impostor]) -> None:
    cluster, virginia = impostor
    frankfurt, tokyo = cluster["frankfurt"], cluster["tokyo"]
    virginia.send(good("checksum"), damaged=True)
    until(lambda: tokyo.status()["links"]["virginia"]["refused"], "a wrong checksum is reported")
    assert "checksum" in until(lambda: tokyo.status()["links"]["virginia"]["last_error"] or "", "the reason")
    virginia.chunks[:] = []
    virginia.send(good("stranger"), origin="mars")
    until(lambda: "mars" in (tokyo.status()["links"]["virginia"]["last_error"] or ""), "a stranger is named")
    virginia.chunks[:] = []
    virginia.send(good("sound"))
    until(lambda: tokyo.get("profile", "sound").status == 200, "the link recovers")
    assert [tokyo.get("profile", key).status for key in ("checksum", "stranger")] == [404, 404]
    tokyo.put("profile", "honest", {"name": "Ann"})
    until(lambda: frankfurt.get("profile", "honest").status == 200, "honest regions go on")
