"""A region leaves a deployment that goes on serving, and comes back under its name."""

from __future__ import annotations

import shutil
import signal
from typing import Any

from .cluster import Cluster, Region, until

REST = ("frankfurt", "tokyo")


def follow(region: Region, file: str) -> None:
    """Take up another atoll.toml while the region serves."""
    assert region.process is not None
    region.config.write_text(file)
    region.process.send_signal(signal.SIGHUP)


def without(file: str, region: str) -> str:
    """The same file, without a region and without what it says of distances."""
    before, _, after = file.partition(f"[regions.{region}]\n")
    _, _, rest = after.partition("\n")
    return before + rest.partition("[emulate]")[0]


def members(region: Region) -> Any:
    return region.status()["regions"]


def test_region_that_leaves_and_comes_back(make_cluster: Any) -> None:
    cluster: Cluster = make_cluster(("frankfurt", "tokyo", "vienna")).start()
    frankfurt, tokyo, vienna = cluster
    rest = (frankfurt, tokyo)
    files = {region.name: region.config.read_text() for region in cluster}
    assert vienna.put("profile", "p", {"name": "of vienna"}).status == 200
    token = vienna.put("order", "o", {"region": "vienna", "quantity": 1}).token
    assert vienna.put("order", "moved", {"region": "vienna", "quantity": 1}).status == 200
    assert vienna.put("inventory", "tea", {"stock": 9}).status == 200
    cluster.settled()
    for region in rest:
        cluster.cut("vienna", region.name)
    late = vienna.put("profile", "late", {"name": "nobody else has it"}).token
    vienna.stop()
    for region in rest:
        follow(region, without(files[region.name], "vienna"))
        until(lambda region=region: members(region) == list(REST), "vienna has left")  # type: ignore[misc]

    for quantity, region in enumerate(rest, 2):
        assert region.request("GET", "/health/serving").status == 200
        assert region.request("GET", "/v1/profile/p", headers=token).value["name"] == "of vienna"
        assert region.put("profile", "q", {"name": region.name}).status == 200
        written = region.patch("order", "o", {"$set": {"quantity": quantity}})
        assert (written.status, written.value) == (200, {"region": "vienna", "quantity": quantity})
        assert region.request("GET", "/v1/order/o", headers=written.token).value["quantity"] == quantity
        refused = region.put("order", "new", {"region": "vienna"})
        assert (refused.status, refused.problem) == (422, "invalid-document")
        lost = region.request("GET", "/v1/profile/late?consistency=session&max_wait=0", headers=late)
        assert (lost.status, lost.problem) == (503, "token-not-reached")
    assert tokyo.patch("inventory", "tea", {"$inc": {"stock": -6}}).value["stock"] == 3
    short = tokyo.patch("inventory", "tea", {"$inc": {"stock": -1}})
    assert (short.status, short.problem, short.json["left_behind"]) == (409, "bound-exceeded", 3)
    moved = frankfurt.put("order", "moved", {"region": "tokyo", "quantity": 2})
    assert moved.status == 200
    until(lambda: tokyo.get("order", "moved").value["region"] == "tokyo", "the document has moved")
    assert tokyo.patch("order", "moved", {"$set": {"quantity": 3}}).status == 200

    follow(tokyo, files["tokyo"].replace("http://", "gopher://"))
    until(lambda: "tokyo goes on as before" in tokyo.log.read_text(), "the file is refused")
    for region in rest:
        follow(region, files[region.name])
        until(lambda region=region: len(members(region)) == 3, "vienna is back")  # type: ignore[misc]
        assert region.post("/admin/partition", {"peer": "vienna", "cut": False}).status == 200
    vienna.start()
    vienna.wait()
    cluster.linked()
    cluster.settled()
    for region in cluster:
        assert region.request("GET", "/v1/profile/late", headers=late).value["name"] == "nobody else has it"
        assert region.get("order", "moved").value == {"region": "tokyo", "quantity": 3}
        assert region.put("order", f"new-{region.name}", {"region": "vienna"}).status == 200
        assert region.patch("inventory", "tea", {"$inc": {"stock": -1}}).status == 200
    cluster.settled()
    assert frankfurt.digest() == vienna.digest() == tokyo.digest()


def sell_out(region: Region, key: str) -> int:
    """How many it sells until it has no more, and gets none."""
    sold = 0
    while (answer := region.patch("inventory", key, {"$inc": {"stock": -1}})).status == 200:
        sold += 1
    assert (answer.status, answer.problem) == (409, "bound-exceeded"), answer.body
    return sold


def heirs(region: Region) -> Any:
    return [each for each in region.status()["rights"]["heirs"] if not each["waits_for"]]


def test_rights_of_a_region_that_left_are_sold_once(make_cluster: Any) -> None:
    """Nor does it sell them again when it comes back, or when its process goes on."""
    cluster: Cluster = make_cluster(
        ("frankfurt", "tokyo", "vienna"), deployment="heir_minutes = 0.01"
    ).start()
    frankfurt, tokyo, vienna = cluster
    rest = (frankfurt, tokyo)
    files = {region.name: region.config.read_text() for region in cluster}
    assert vienna.put("inventory", "tea", {"stock": 90}).status == 200
    assert vienna.patch("inventory", "tea", {"$inc": {"stock": -4}}).status == 200
    cluster.settled()
    cluster.voting()

    for region in rest:
        follow(region, without(files[region.name], "vienna"))
        until(lambda region=region: members(region) == list(REST), "vienna has left")  # type: ignore[misc]
    until(lambda: vienna.request("GET", "/health/serving").status == 503, "vienna was told")
    refused = vienna.patch("inventory", "tea", {"$inc": {"stock": -1}})
    assert (refused.status, refused.problem) == (503, "unavailable")
    assert "vienna was taken out of the deployment" in refused.json["detail"]
    vienna.stop()
    for region in rest:
        until(lambda region=region: heirs(region), "its rights have an heir")  # type: ignore[misc]
    assert heirs(frankfurt) == heirs(tokyo)
    sold = 4 + sell_out(frankfurt, "tea")
    assert sold == 90
    until(lambda: tokyo.get("inventory", "tea").value["stock"] == 0, "tokyo knows")
    assert sell_out(tokyo, "tea") == 0
    assert tokyo.patch("inventory", "tea", {"$inc": {"stock": 6}}).status == 200

    for region in rest:
        follow(region, files[region.name])
        until(lambda region=region: len(members(region)) == 3, "vienna is back")  # type: ignore[misc]
    shutil.rmtree(vienna.data)
    vienna.start()
    vienna.wait()
    cluster.linked()
    cluster.settled()
    assert sum(sell_out(region, "tea") for region in (vienna, *rest)) == 6
    cluster.settled()
    assert [region.get("inventory", "tea").value["stock"] for region in cluster] == [0, 0, 0]
