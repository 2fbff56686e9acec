"""Fields of documents that exist become unique, and references, on real processes."""

from __future__ import annotations

import inspect
from typing import Any

from atoll import Collection, Ref, connect_sync, field

from .cluster import Cluster, Region, until
from .conftest import MakeCluster
from .processes import atoll


class Login(Collection, consistency="strong"):
    email: str = field(unique=True)


class Owner(Collection, consistency="strong"):
    name: str = ""


class Pet(Collection, consistency="strong"):
    owner: Ref[Owner]


APP = "\n\n".join(["from atoll import Collection, Ref, field", *map(inspect.getsource, (Login, Owner, Pet))])
FORMER = APP.replace("email: str = field(unique=True)", "email: str").replace(
    "owner: Ref[Owner]", "owner: str"
)


def build(region: Region, name: str) -> dict[str, Any]:
    found = [each for each in region.status()["builds"] if each["field"] == name]
    return found[0] if found else {"state": "", "looked": 0}


def whole(*regions: Region) -> bool:
    return all(
        build(each, name)["state"] == "whole" for each in regions for name in ("login.email", "pet.owner")
    )


def events(region: Region) -> set[str]:
    return {each["kind"] for each in region.request("GET", "/v1/events").json["items"]}


def fill(cluster: Cluster) -> None:
    """Five logins have an address that another one has; three pets have an owner that is not there."""
    with connect_sync(cluster.urls, near="tokyo") as db:
        db.put_many(Owner, [(f"{n}", b"{}") for n in range(7)])
        for at in range(0, 300, 100):
            numbers = range(at, at + 100)
            db.put_many(Login, [(f"{n:03}", f'{{"email": "{n % 295}@x"}}'.encode()) for n in numbers])
            owners = [n % 6 if n < 297 else 7 for n in numbers]
            db.put_many(
                Pet,
                [(f"{n:03}", f'{{"owner": "{of}"}}'.encode()) for n, of in zip(numbers, owners, strict=True)],
            )
    cluster.settled()


def test_fields_of_documents_that_exist_become_unique_and_references(make_cluster: MakeCluster) -> None:
    """While one region is killed."""
    cluster = make_cluster(deployment="events_max = 1000")
    app = cluster.folder / "shop.py"
    app.write_text(FORMER)
    cluster.start()
    fill(cluster)
    app.write_text(APP)
    for region in cluster:
        region.stop()
        region.start()
        region.wait()
        answer = region.request("DELETE", "/v1/owner/6")
        assert (answer.status, answer.json["type"]) == (503, "urn:atoll:problem:unavailable"), answer
        assert "references by pet.owner are being counted" in answer.json["detail"]
    until(lambda: any(build(each, "pet.owner")["state"] == "building" for each in cluster), "a region builds")
    cluster["frankfurt"].kill()
    others = [region for region in cluster if region.name != "frankfurt"]
    until(lambda: whole(*others), "all is built", 90)
    cluster["frankfurt"].start()
    cluster["frankfurt"].wait()
    until(lambda: whole(*cluster), "all know that it is")
    cluster.settled()
    shown = atoll(cluster.folder, "status", "--config", "tokyo.toml").stdout
    assert "login.email" in shown, shown
    assert "pet.owner" in shown, shown
    for number, region in enumerate(cluster):
        assert build(region, "login.email")["conflicts"] == 5
        assert build(region, "pet.owner")["conflicts"] == 3
        waiting = region.conflicts(kind="multiple_unique_conflicts", collection="login")
        assert sorted(each["key"] for each in waiting) == [f"{n:03}" for n in range(295, 300)]
        waiting = region.conflicts(kind="delete_referenced", collection="pet")
        assert sorted(each["key"] for each in waiting) == ["297", "298", "299"]
        for taken in (0, 250, 294):
            answer = region.request("PUT", "/v1/login/more", {"email": f"{taken}@x"})
            assert (answer.status, answer.json["holder"]) == (409, f"{taken:03}")
        answer = region.request("DELETE", f"/v1/owner/{number}")
        assert (answer.status, answer.json["count"]) == (409, sum(n % 6 == number for n in range(297)))
    cluster["virginia"].delete("owner", "6")
    for number in range(295, 300):
        cluster["virginia"].put("login", f"{number:03}", {"email": f"{number}@y"})
    cluster["virginia"].put("owner", "7", {"name": "created later"})
    names = ("login.email", "pet.owner")
    until(
        lambda: all(build(each, name)["conflicts"] == 0 for each in cluster for name in names),
        "all is mended",
    )
    assert cluster["tokyo"].request("DELETE", "/v1/owner/7").json["count"] == 3
    ended = [kinds for region in cluster if "build-ended" in (kinds := events(region))]
    assert ended
    assert all("build-began" in kinds for kinds in ended)
