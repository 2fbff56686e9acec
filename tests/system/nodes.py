"""A deployment whose regions have two nodes each on a PostgreSQL server of their own, and a load for it."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import urllib3
from tests.ports import free_ports

from atoll.causality.origin import region_of
from atoll.testing.postgres_server import PostgresServer

from .cluster import KEY, QUIET, SHOP, Cluster, Region, until

NAMES = ("frankfurt", "tokyo")


class Nodes(Cluster):
    """Two regions with two nodes each; every region has a PostgreSQL server of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers = {name: PostgresServer(folder / f"postgresql-{name}") for name in NAMES}
        shutil.copy(SHOP, folder / "shop.py")
        (folder / "regions").write_text(" ".join(NAMES))
        ports = free_ports(2 * len(NAMES))
        self.of = {
            name: [Region(name, folder, ports[2 * at + n], node=n + 1) for n in range(2)]
            for at, name in enumerate(NAMES)
        }
        self.regions = {f"{name} {node.node}": node for name in NAMES for node in self.of[name]}

    def start(self) -> Nodes:
        lines = [f'[deployment]\nname = "shop"\napp = "shop.py"\nkey = "{KEY}"\n{QUIET}']
        for name, server in self.servers.items():
            server.start()
            server.sql("CREATE ROLE shop LOGIN")
            server.create_database("shop")
            server.sql(f"CREATE SCHEMA atoll_{name} AUTHORIZATION shop", "shop")
            urls = ", ".join(f'"http://127.0.0.1:{node.port}"' for node in self.of[name])
            lines.append(f'[regions.{name}]\nnodes = [{urls}]\nstore = "{self.store_url(name)}"')
        (self.folder / "atoll.toml").write_text("\n".join([*lines, "[emulate]"]))
        super().start()
        return self

    def store_url(self, name: str) -> str:
        return self.servers[name].url("shop", role="shop")

    def holder(self, name: str) -> Region:
        """The region's node that pulls from the other region."""

        def found() -> Region | None:
            for node in self.of[name]:
                with contextlib.suppress(urllib3.exceptions.HTTPError):
                    if node.process is not None and any(
                        link["held"] for link in node.status()["links"].values()
                    ):
                        return node
            return None

        node = until(found, f"a node of {name} pulls")
        assert node is not None
        return node

    def close(self) -> None:
        super().close()
        for server in self.servers.values():
            server.close()


class Writer:
    """Writes one after the other at nodes drawn by chance, each until it is acknowledged by one of them."""

    def __init__(self, run: str, nodes: list[Region], number: int, over: threading.Event) -> None:
        """`run` names the test: keys differ between two of them."""
        self.run_name = run
        self.nodes = nodes
        self.number = number
        self.over = over
        self.random = Random(number)
        self.acknowledged = 0
        self.ids: list[str] = []

    def run(self) -> None:
        while not self.over.is_set():
            number = self.acknowledged
            self._until_done(
                "PUT", f"/v1/profile/{self.run_name}{self.number}-{number}", {"name": "n"}, f"p{number}"
            )
            self._until_done("PATCH", f"/v1/views/{self.run_name}", {"$inc": {"seen": 1}}, f"i{number}")
            self.acknowledged += 1
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                answer = self.random.choice(self.nodes).post("/v1/ids/snowflake?count=5")
                self.ids += answer.json["ids"] if answer.status == 200 else []

    def _until_done(self, method: str, path: str, body: object, once: str) -> None:
        headers = {"Idempotency-Key": f"{self.run_name}-{self.number}-{once}"}

        def done() -> bool:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                return self.random.choice(self.nodes).request(method, path, body, headers).status == 200
            return False

        until(done, f"{method} {path}", 60)


@contextlib.contextmanager
def load(cluster: Nodes, run: str) -> Iterator[list[Writer]]:
    """Three writers in each region, until the block ends."""
    over = threading.Event()
    writers = [
        Writer(run, cluster.of[name], 3 * at + n, over) for at, name in enumerate(NAMES) for n in range(3)
    ]
    with ThreadPoolExecutor(len(writers)) as threads:
        running = [threads.submit(writer.run) for writer in writers]
        try:
            yield writers
        finally:
            over.set()
        for each in running:
            each.result()


def nothing_is_lost(cluster: Nodes, run: str, writers: list[Writer]) -> None:
    cluster.linked()
    cluster.settled()
    total = sum(writer.acknowledged for writer in writers)
    assert total > 0
    for region in cluster:
        assert region.get("views", run).value["seen"] == total
    digests = [region.digest() for region in cluster]
    assert digests == [digests[0]] * 4
    for name, server in cluster.servers.items():
        dense = server.sql(
            "SELECT origin, max(last_seq) = sum(last_seq - first_seq + 1) AND min(first_seq) = 1 "
            f"FROM atoll_{name}._journal GROUP BY origin ORDER BY origin",
            "shop",
        )
        origins, are_dense = zip(*(row.split("|") for row in dense.split()), strict=True)
        assert {*map(region_of, origins)} == {"frankfurt", "tokyo"}
        assert {*are_dense} == {"t"}
    ids = [text for writer in writers for text in writer.ids]
    assert len(set(ids)) == len(ids) > 0
