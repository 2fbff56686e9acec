"""A region's data in an archive and back, in a deployment that goes on meanwhile."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from atoll.testing.postgres_server import PostgresServer

from . import processes
from .cluster import Cluster, Region, until
from .conftest import MakeCluster


def atoll(cluster: Cluster, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = processes.atoll(cluster.folder, *arguments)
    assert done.returncode == code, done.stderr
    return done


def back_up(cluster: Cluster, name: str = "tokyo.atoll", region: str = "tokyo") -> Any:
    done = atoll(cluster, "backup", name, "--region", region, "--config", f"{region}.toml", "--json")
    return json.loads(done.stdout)


def restore(cluster: Cluster, *options: str, name: str = "tokyo.atoll", code: int = 0) -> str:
    done = atoll(cluster, "restore", name, "--region", "tokyo", "--config", "tokyo.toml", *options, code=code)
    return done.stdout + done.stderr


def serving(region: Region) -> bool:
    return region.request("GET", "/health/serving").status == 200


def ids(region: Region, kind: str, count: int = 50) -> list[str]:
    answer = region.post(f"/v1/ids/{kind}?count={count}")
    assert answer.status == 200, answer.body
    found: list[str] = answer.json["ids"]
    return found


def write_some(cluster: Cluster, prefix: str) -> None:
    tokyo = cluster["tokyo"]
    for n in range(20):
        assert tokyo.put("profile", f"{prefix}/{n}", {"name": f"{prefix} {n}"}).status == 200
        assert tokyo.patch("views", f"v{n % 3}", {"$inc": {"seen": 1}}).status == 200
        assert tokyo.patch("cart", f"c{n % 3}", {"$add": {"items": [f"{prefix}{n}"]}}).status == 200
    assert cluster["virginia"].put("page", f"{prefix}", {"title": "v"}).status == 200


def test_a_region_comes_back_without_resurrecting_anything(make_cluster: MakeCluster) -> None:
    cluster = make_cluster().start()
    tokyo, frankfurt = cluster["tokyo"], cluster["frankfurt"]
    write_some(cluster, "before")
    assert tokyo.put("inventory", "tea", {"stock": 30}).status == 200
    cluster.settled()
    given = {kind: ids(tokyo, kind) for kind in ("prefixed", "snowflake")}
    position = tokyo.position()
    summary = back_up(cluster)
    assert summary["position"] == position
    write_some(cluster, "after")
    assert tokyo.delete("profile", "before/1").status == 200
    assert frankfurt.delete("profile", "before/2").status == 200
    assert tokyo.patch("inventory", "tea", {"$inc": {"stock": -9}}).status == 200
    for kind in given:
        given[kind] += ids(tokyo, kind, 3_000)
    cluster.settled()
    before = frankfurt.digest()
    ours = tokyo.position()["tokyo"]
    tokyo.kill()
    shutil.rmtree(tokyo.data)
    restore(cluster)
    frankfurt.kill()  # while a peer is away, the region holds back: it may hold what nobody else has
    tokyo.start()
    tokyo.wait()
    until(lambda: tokyo.status()["position"] != position, "the other peer was heard")
    refused = tokyo.get("profile", "before/1")
    assert (refused.status, refused.problem) == (503, "unavailable")
    assert "waits for frankfurt" in refused.json["detail"]
    assert tokyo.put("profile", "new", {"name": "n"}).status == 503
    assert tokyo.post("/v1/ids/prefixed").status == 503
    assert not serving(tokyo)
    frankfurt.start()
    frankfurt.wait()
    until(lambda: serving(tokyo), "it serves again")
    for key in ("before/1", "before/2"):
        assert tokyo.get("profile", key).status == 404
    assert tokyo.get("profile", "after/3").value["name"] == "after 3"
    assert tokyo.get("inventory", "tea").value["stock"] == 21
    assert tokyo.position()["tokyo"] == ours
    assert tokyo.put("profile", "new", {"name": "n"}).status == 200
    assert tokyo.position()["tokyo"] == ours + 1  # numbered after what the peers had of it
    cluster.linked()
    cluster.settled()
    assert tokyo.digest() == frankfurt.digest() == cluster["virginia"].digest() != before
    for kind, found in given.items():
        assert len({*found, *ids(tokyo, kind, 500)}) == len(found) + 500
    # Restarted, it has nothing to wait for.
    frankfurt.kill()
    tokyo.kill()
    tokyo.start()
    tokyo.wait()
    assert tokyo.get("profile", "new").status == 200


def test_a_region_on_postgresql_comes_back_into_a_running_deployment(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    with PostgresServer(tmp_path / "postgresql", fsync=False) as server:
        cluster = make_cluster(stores={"tokyo": server.create_database("shop")}).start()
        tokyo, frankfurt, virginia = (cluster[name] for name in ("tokyo", "frankfurt", "virginia"))
        write_some(cluster, "before")
        cluster.settled()
        given = ids(tokyo, "prefixed")
        position = tokyo.position()
        assert back_up(cluster)["position"] == position
        write_some(cluster, "after")
        assert tokyo.delete("profile", "before/1").status == 200
        assert frankfurt.delete("profile", "before/2").status == 200
        given += ids(tokyo, "prefixed", 3_000)
        cluster.settled()
        ours, digest = tokyo.position()["tokyo"], frankfurt.digest()

        assert "is connected" in restore(cluster, "--force", code=1)
        tokyo.kill()
        assert "--force" in restore(cluster, code=1)
        archive = cluster.folder / "tokyo.atoll"
        whole = archive.read_bytes()
        archive.write_bytes(whole[: len(whole) // 2])
        restore(cluster, "--force", code=1)
        assert server.sql("SELECT count(*) FROM atoll_tokyo._doc_profile", "shop").strip() == "40"
        archive.write_bytes(whole)
        restore(cluster, "--force")
        assert server.sql("SELECT count(*) FROM atoll_tokyo._doc_profile", "shop").strip() == "20"
        virginia.kill()  # while a peer is away, the region holds back
        tokyo.start()
        tokyo.wait()
        until(lambda: tokyo.status()["position"] != position, "the other peer was heard")
        assert tokyo.get("profile", "before/1").status == 503
        assert not serving(tokyo)
        assert tokyo.request("GET", "/health/reading").status == 503
        virginia.start()
        virginia.wait()
        until(lambda: serving(tokyo), "it serves again")
        for key in ("before/1", "before/2"):
            assert tokyo.get("profile", key).status == 404
        assert tokyo.get("profile", "after/3").value["name"] == "after 3"
        cluster.linked()
        cluster.settled()
        assert [region.digest() for region in cluster] == [digest] * 3
        assert tokyo.put("profile", "new", {"name": "n"}).status == 200
        assert tokyo.position()["tokyo"] == ours + 1
        assert len({*given, *ids(tokyo, "prefixed", 500)}) == len(given) + 500


def test_a_backup_of_an_abandoned_history_is_refused(make_cluster: MakeCluster) -> None:
    """It holds a write that was lost since, and the region went on without it."""
    cluster = make_cluster(["frankfurt", "tokyo"]).start()
    tokyo, frankfurt = cluster["tokyo"], cluster["frankfurt"]
    write_some_at(tokyo, "before")
    cluster.settled()
    cluster.cut("frankfurt", "tokyo")
    abandoned = tokyo.put("profile", "abandoned", {"name": "n"})
    assert abandoned.status == 200
    token = abandoned.headers["atoll-session"]
    back_up(cluster)
    tokyo.kill()
    shutil.rmtree(tokyo.data)
    assert frankfurt.post("/admin/partition", {"peer": "tokyo", "cut": False}).status == 200
    tokyo.start()
    tokyo.wait()
    until(lambda: tokyo.put("profile", "another", {"name": "n"}).status == 200, "it has its entries back")
    cluster.linked()
    cluster.settled()
    late = "?consistency=session&max_wait=0.1"
    until(
        lambda: frankfurt.get("profile", "before/0", late, atoll_session=token).status == 400,
        "the peer knows what was lost",
    )
    tokyo.kill()
    restore(cluster, "--force")
    tokyo.start()
    tokyo.wait()
    until(lambda: "abandoned" in (tokyo.status()["out_of_service"] or ""), "it finds out")
    assert "was given up" in tokyo.get("profile", "another").json["detail"]
    assert tokyo.put("profile", "new", {"name": "n"}).status == 503
    tokyo.kill()
    shutil.rmtree(tokyo.data)
    tokyo.start()
    tokyo.wait()
    until(lambda: tokyo.put("profile", "new", {"name": "n"}).status == 200, "it has its entries back")
    cluster.linked()
    cluster.settled()
    assert tokyo.digest() == frankfurt.digest()


def write_some_at(region: Region, prefix: str) -> None:
    for n in range(5):
        assert region.put("profile", f"{prefix}/{n}", {"name": f"{prefix} {n}"}).status == 200


def test_two_restores_of_one_backup_give_no_id_twice(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(["frankfurt", "tokyo"]).start()
    tokyo = cluster["tokyo"]
    found = ids(tokyo, "prefixed") + ids(tokyo, "snowflake")
    back_up(cluster)
    for _ in range(2):
        found += ids(tokyo, "prefixed", 2_000) + ids(tokyo, "snowflake", 2_000)
        tokyo.kill()
        restore(cluster, "--force")
        tokyo.start()
        tokyo.wait()
        until(lambda: serving(tokyo), "it serves again")
    found += ids(tokyo, "prefixed", 2_000) + ids(tokyo, "snowflake", 2_000)
    assert len(set(found)) == len(found)


def test_a_backup_under_load_is_of_one_moment(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(["frankfurt", "tokyo"]).start()
    tokyo = cluster["tokyo"]
    over = threading.Event()
    acknowledged: list[int] = []

    def write() -> None:
        while not over.is_set():
            number = len(acknowledged) + 1
            puts = [
                {"put": {"collection": "views", "key": f"{side}/{number}", "value": {"seen": number}}}
                for side in ("left", "right")
            ]
            if tokyo.post("/v1/batch", {"writes": puts}).status == 200:
                acknowledged.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        until(lambda: len(acknowledged) > 20, "writes are under way")
        before = len(acknowledged)
        summary = back_up(cluster)
        after = len(acknowledged) + 1
    finally:
        over.set()
        writer.join()
    taken = summary["position"]["tokyo"]
    assert before <= taken <= after
    assert summary["documents"] == 2 * taken  # both halves of each write, and of each write up to there
    cluster.settled()
    tokyo.kill()
    shutil.rmtree(tokyo.data)
    restore(cluster)
    tokyo.start()
    tokyo.wait()
    until(lambda: serving(tokyo), "it serves again")
    for side in ("left", "right"):
        for number in acknowledged:
            assert tokyo.get("views", f"{side}/{number}").status == 200
    cluster.linked()
    cluster.settled()
    assert tokyo.digest() == cluster["frankfurt"].digest()


def test_a_peer_gone_for_good_is_not_waited_for(make_cluster: MakeCluster) -> None:
    cluster = make_cluster().start()
    tokyo = cluster["tokyo"]
    write_some(cluster, "before")
    cluster.settled()
    back_up(cluster)
    tokyo.kill()
    cluster["frankfurt"].kill()
    restore(cluster, "--force", "--without", "frankfurt")
    tokyo.start()
    tokyo.wait()
    until(lambda: serving(tokyo), "it serves without it")
    assert tokyo.get("profile", "before/1").status == 200


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A stopped region, its archive, and the bytes of its database."""
    cluster = Cluster(tmp_path_factory.mktemp("backed-up"), ["frankfurt", "tokyo"])
    try:
        cluster.start()
        for n in range(50):
            assert cluster["tokyo"].put("profile", f"p{n}", {"name": "x" * 100}).status == 200
        cluster["tokyo"].stop()
        back_up(cluster)
        yield cluster
    finally:
        cluster.close()


def database(cluster: Cluster) -> bytes:
    return (cluster["tokyo"].data / "region.sqlite").read_bytes()


def test_a_damaged_archive_changes_nothing(backed_up: Cluster) -> None:
    whole = (backed_up.folder / "tokyo.atoll").read_bytes()
    before = database(backed_up)
    damaged = {
        "empty": b"",
        "cut in its head": whole[:20],
        "cut off": whole[:-1],
        "without its end": whole[: len(whole) * 2 // 3],
        "a byte differs": whole[: len(whole) // 2]
        + bytes([whole[len(whole) // 2] ^ 1])
        + whole[len(whole) // 2 + 1 :],
        "more after its end": whole + b"x",
        "something else": b"PK" + whole,
    }
    for what, content in damaged.items():
        (backed_up.folder / "bad.atoll").write_bytes(content)
        told = restore(backed_up, "--force", name="bad.atoll", code=1)
        assert "bad.atoll" in told, what
        assert database(backed_up) == before
        atoll(backed_up, "backup", "bad.atoll", "--verify", code=1)


def test_a_region_is_not_replaced_unasked_nor_by_another(backed_up: Cluster) -> None:
    before = database(backed_up)
    assert "holds a region's data already" in restore(backed_up, code=1)
    config = (backed_up.folder / "tokyo.toml").read_text()
    (backed_up.folder / "other.toml").write_text(config.replace('name = "shop"', 'name = "other"'))
    for arguments, problem in (
        (("--region", "frankfurt", "--config", "frankfurt.toml"), "is a backup of region 'tokyo'"),
        (("--region", "tokyo", "--config", "other.toml"), "is a backup of deployment 'shop'"),
        (("--region", "mars", "--config", "tokyo.toml"), "no region is called 'mars'"),
    ):
        assert problem in atoll(backed_up, "restore", "tokyo.atoll", "--force", *arguments, code=2).stderr
    assert database(backed_up) == before
    backed_up["tokyo"].start()
    backed_up["tokyo"].wait()
    assert "already runs the region" in restore(backed_up, "--force", code=1)
    backed_up["tokyo"].stop()


def test_an_archive_says_what_it_holds(backed_up: Cluster) -> None:
    found = json.loads(atoll(backed_up, "backup", "tokyo.atoll", "--verify", "--json").stdout)
    assert (found["deployment"], found["region"], found["documents"]) == ("shop", "tokyo", 50)
    assert found["position"] == {"tokyo": 50}
    assert (backed_up.folder / "tokyo.atoll").stat().st_mode & 0o077 == 0
