"""Several nodes of a region on one PostgreSQL: real processes, killed as they come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .cluster import until
from .nodes import NAMES, Nodes, load, nothing_is_lost

pytestmark = [pytest.mark.xdist_group("nodes"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    cluster = Nodes(tmp_path_factory.mktemp("nodes"))
    try:
        yield cluster.start()
    finally:
        cluster.close()


def test_a_session_reads_its_write_at_the_other_node(cluster: Nodes) -> None:
    one, other = cluster.of["tokyo"]
    for number in range(20):
        written = one.put("profile", "moving", {"name": f"n{number}"})
        assert other.get("profile", "moving", **written.token).value["name"] == f"n{number}"
        one, other = other, one


def test_a_retry_at_the_other_node_counts_once(cluster: Nodes) -> None:
    one, other = cluster.of["tokyo"]
    for node in (one, other, one):
        answer = node.patch("views", "retried", {"$inc": {"seen": 1}}, Idempotency_Key="retried")
        assert answer.value["seen"] == 1


def test_one_node_of_a_region_pulls(cluster: Nodes) -> None:
    def held(name: str) -> list[list[bool]]:
        return sorted([link["held"] for link in node.status()["links"].values()] for node in cluster.of[name])

    for name in NAMES:
        # A node that starts gives a lease back that falls to the other one's share, at its next renewal.
        until(lambda: held(name) == [[False], [True]], "one node of each region pulls")  # noqa: B023


def test_a_node_that_pulls_is_killed_and_another_goes_on(cluster: Nodes) -> None:
    with load(cluster, "pulls") as writers:
        for name in NAMES:
            victim = cluster.holder(name)
            victim.kill()
            left = next(node for node in cluster.of[name] if node is not victim)
            assert cluster.holder(name) is left
            victim.start()
            victim.wait()
    nothing_is_lost(cluster, "pulls", writers)


def test_a_database_is_killed_and_comes_back(cluster: Nodes) -> None:
    with load(cluster, "database") as writers:
        for server in cluster.servers.values():
            server.kill()
            server.start()
            before = [writer.acknowledged for writer in writers]
            until(
                lambda: all(w.acknowledged > b + 1 for w, b in zip(writers, before, strict=True)),  # noqa: B023
                "writes go on",
                60,
            )
    nothing_is_lost(cluster, "database", writers)
