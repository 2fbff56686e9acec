"""Every road at the true limits of its sizes, in real processes: nobody holds an event loop, and all arrives.

What is committed here is replicated, listed, fed, audited, exported, imported, backed up and restored. Time is that of
the processor, of the loop's own thread, for each thing that the loop does.

`make limits` tries all shapes of documents, on both databases. `make test` tries one on SQLite.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import urllib3

from atoll.client import connect
from atoll.config.config import load_config
from atoll.schema.bounds import BATCH_BYTES, BATCH_WRITES, DOCUMENT_BYTES
from atoll.schema.loading import load_application
from atoll.testing.postgres_server import PostgresServer

from . import cluster as clusters
from . import processes
from .cluster import Answer, Cluster, until
from .conftest import MakeCluster

PATIENCE_S = 180.0
WHOLE = os.environ.get("ATOLL_LIMITS") == "whole"
STALL_S = 0.05
SHOP = """
from typing import Any

from atoll import Collection, ListOf, Text, field, key_ranges


class Plain(Collection):
    body: Any = None
    note: str = ""


class Card(Collection, resolve="merge"):
    body: Any = None
    note: str = ""


class Deed(Collection, consistency="strong"):
    body: Any = None
    note: str = ""


class Seat(Collection):
    body: Any = None
    number: str | None = field(None, unique=True)


class Placed(Collection, placement=key_ranges({"": "frankfurt", "m": "tokyo"})):
    body: Any = None


class Todo(Collection):
    body: ListOf[int]


class Page(Collection):
    body: Text = ""


class Copied(Collection):
    body: Any = None
    note: str = ""
"""
SHAPES: dict[str, Callable[[int], Any]] = {
    "text": lambda n: "x" * n,
    "unicode": lambda n: "\u65e5" * n,
    "integers": lambda n: [0] * n,
    "lists": lambda n: [[]] * n,
    "members": lambda n: {f"m{i:05}": 7 for i in range(n)},
}
"""Values of some size, as JSON has them: some are quick to pass over and slow to take apart."""


TRIED = tuple(SHAPES) if WHOLE else ("lists",)


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


def largest(shape: str, size: int = DOCUMENT_BYTES) -> dict[str, Any]:
    """A document of just so many bytes, with all its fields."""
    unit = len(encoded(SHAPES[shape](1001))) - len(encoded(SHAPES[shape](1)))
    head = len(encoded({"body": SHAPES[shape](0), "note": ""}))
    value = SHAPES[shape]((size - head) * 1000 // unit - 2)
    note = "y" * (size - head - len(encoded(value)) + len(encoded(SHAPES[shape](0))))
    return {"body": value, "note": note}


def put(collection: str, key: str, value: Any) -> dict[str, Any]:
    return {"put": {"collection": collection, "key": key, "value": value}}


class Machine:
    """How busy it was: processors that are shared take longer for the same."""

    def __init__(self) -> None:
        self._body = encoded(largest("integers"))
        self._over = threading.Event()
        self._parsing_s = 0.0
        """What the slowest of all tries took for a document, in Python, by the processor time of its thread."""

    def __enter__(self) -> Machine:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            begun_s = time.thread_time()
            json.loads(self._body)
            self._parsing_s = max(self._parsing_s, time.thread_time() - begun_s)

    @property
    def limit_s(self) -> float:
        """How long a region may hold its event loop there."""
        return max(STALL_S, 3 * self._parsing_s)


class Keyed(msgspec.Struct):
    """A document of an answer. Its value is passed over: decoding all of them would take the longest."""

    key: str
    collection: str = ""


class Page(msgspec.Struct):
    items: list[Keyed]
    cursor: str | None


class Event(msgspec.Struct):
    changes: list[Keyed]


class Roads:
    """Two regions, whose processes are watched."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.here, self.there = cluster["frankfurt"], cluster["tokyo"]

    def good(self, answer: Answer) -> Answer:
        assert answer.status == 200, (answer.status, answer.body[:400])
        return answer

    def batch(self, writes: list[Any], *, minimal: bool = True) -> Answer:
        headers = {"Prefer": "return=minimal"} if minimal else {}
        headers["content-type"] = "application/json"
        body = encoded({"writes": writes})
        assert len(body) <= BATCH_BYTES
        return self.good(self.here.request("POST", "/v1/batch", body, headers))

    def transact(self, asked: Any) -> Answer:
        return self.good(self.here.request("POST", "/v1/transactions", encoded(asked)))

    def page(self, path: str) -> Page:
        return msgspec.json.decode(self.good(self.there.request("GET", path)).body, type=Page)

    def listed(self, path: str) -> list[str]:
        """The keys of the items of all pages."""
        page = self.page(path)
        found = [each.key for each in page.items]
        while page.cursor:
            page = self.page(f"{path}&cursor={page.cursor}")
            found += [each.key for each in page.items]
        return found

    def fed(self, wanted: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Documents that the feed of the other region brings from the beginning, until it has brought as many."""
        found: set[tuple[str, str]] = set()
        pool = urllib3.HTTPConnectionPool("127.0.0.1", self.there.port)
        path = "/v1/changes?cursor="
        response = pool.request("GET", path, preload_content=False, timeout=PATIENCE_S)
        assert response.status == 200, response.read()
        deadline_s = time.monotonic() + PATIENCE_S
        try:
            for line in _lines(response):
                if len(found) >= len(wanted) or time.monotonic() > deadline_s:
                    return found
                if line.startswith(b"data:"):
                    event = msgspec.json.decode(line[5:], type=Event)
                    found |= {(each.collection, each.key) for each in event.changes}
        finally:
            response.close()
        raise AssertionError("the feed has ended")

    def atoll(self, *arguments: object) -> Any:
        done = processes.atoll(self.cluster.folder, *arguments, "--config", "tokyo.toml", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def stalls(self) -> list[tuple[float, str, str]]:
        return [
            (told["s"], region.name, told["by"])
            for region in self.cluster
            if region.stalls.exists()
            for told in map(json.loads, region.stalls.read_text().splitlines())
        ]


def _lines(response: Any) -> Iterator[bytes]:
    rest = b""
    for chunk in response.stream(1 << 20):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole


@pytest.fixture(params=["sqlite", "postgresql"] if WHOLE else ["sqlite"])
def roads(
    request: pytest.FixtureRequest,
    make_cluster: MakeCluster,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Roads]:
    monkeypatch.setattr(clusters, "PATIENCE_S", PATIENCE_S)
    regions = ("frankfurt", "tokyo")
    if request.param == "sqlite":
        yield Roads(_watched(make_cluster(regions)))
        return
    with PostgresServer(tmp_path / "postgres", fsync=False) as server:
        cluster = make_cluster(regions, stores={name: server.create_database(name) for name in regions})
        yield Roads(_watched(cluster))
        cluster.close()


def _watched(cluster: Cluster) -> Cluster:
    (cluster.folder / "shop.py").write_text(SHOP)
    for region in cluster:
        region.watched = True
    return cluster.start()


@pytest.mark.timeout(900)
def test_all_roads_at_their_limits(roads: Roads) -> None:
    with Machine() as machine:
        written = {
            *_single(roads),
            *_together(roads),
            *_in_conflict(roads),
            *asyncio.run(_multiplexed(roads)),
        }
        roads.cluster.settled()
        assert roads.here.digest() == roads.there.digest()
        _read(roads, written)
        _moved(roads)
    assert [each for each in roads.stalls() if each[0] > machine.limit_s] == []


def _single(roads: Roads) -> Iterator[tuple[str, str]]:
    """Documents of exactly the largest size; a byte more is refused."""
    here = roads.here
    for number, (shape, collection) in enumerate(
        (shape, collection) for shape in TRIED for collection in ("plain", "card", "deed")
    ):
        document, key = largest(shape), f"k{number:02}"
        assert len(encoded(document)) == DOCUMENT_BYTES
        roads.good(here.put(collection, key, encoded(document)))
        small = encoded({"$set": {"note": "y" * (len(document["note"]) - 1)}})
        roads.good(here.patch(collection, key, small))
        roads.good(here.patch(collection, key, encoded({"$set": {"body": document["body"]}})))
        more = encoded({"$set": {"note": document["note"] + "y"}})
        assert here.patch(collection, key, more).status == 413
        yield collection, key
    lists = {"body": [i % 10 for i in range(100_000)]}
    roads.good(here.put("todo", "k", encoded(lists)))
    roads.good(here.patch("todo", "k", encoded({"$remove": {"body": [3]}})))
    roads.good(here.put("page", "k", encoded({"body": "x " * 500_000})))
    roads.good(here.patch("page", "k", encoded({"$append": {"body": "y"}})))
    yield from [("todo", "k"), ("page", "k")]


def _together(roads: Roads) -> Iterator[tuple[str, str]]:
    """The largest batches and transactions, here and forwarded, of a few large documents and of many small ones."""
    keys = [f"b{number:04}" for number in range(BATCH_WRITES)]
    few = [f"{key}-few" for key in keys[: 15 if WHOLE else 2]]
    for collection, shape in (("plain", "lists"), ("card", "integers"))[: 2 if WHOLE else 1]:
        small = largest(shape, BATCH_BYTES // BATCH_WRITES - 100)
        roads.batch([put(collection, key, small) for key in keys], minimal=collection == "plain")
        roads.batch([put(collection, key, largest("lists")) for key in few])
        noted = [
            {"patch": {"collection": collection, "key": key, "operators": {"$set": {"note": ""}}}}
            for key in few
        ]
        roads.batch(noted)
        yield from ((collection, key) for key in (*keys, *few))
    roads.batch([put("placed", f"z{key}", {"body": small["body"]}) for key in keys], minimal=False)
    yield from (("placed", f"z{key}") for key in keys)
    roads.batch([put("seat", key, {"number": key}) for key in keys])
    yield from (("seat", key) for key in keys)
    roads.transact({"writes": [put("deed", key, largest("lists")) for key in few]})
    read = roads.transact({"reads": [{"collection": "deed", "key": key} for key in few]}).json["read"]
    assert [each["key"] for each in read] == few
    yield from (("deed", key) for key in few)


def _in_conflict(roads: Roads) -> Iterator[tuple[str, str]]:
    with roads.cluster.apart():
        for collection in ("plain", "card"):
            for shape in TRIED:
                for number, region in enumerate(roads.cluster):
                    document = largest(shape, DOCUMENT_BYTES - number)
                    roads.good(region.put(collection, f"c-{shape}", encoded(document)))
                yield collection, f"c-{shape}"
    audit = roads.listed("/v1/conflicts?limit=1000")
    assert {*audit} == {f"c-{shape}" for shape in TRIED}


async def _multiplexed(roads: Roads) -> list[tuple[str, str]]:
    """Calls that share exchanges, of up to the largest size."""
    folder = roads.cluster.folder
    model: Any = load_application(folder / "shop.py").collections["plain"].model
    body = SHAPES["integers"](20_000)
    async with connect(load_config(folder / "frankfurt.toml")) as database:
        await asyncio.gather(*(database.put(model(key=f"m{i:03}", body=body)) for i in range(60)))
        found = await asyncio.gather(*(database.get(model, f"m{i:03}") for i in range(60)))
    assert all(each is not None and each.body == body for each in found)
    return [("plain", f"m{i:03}") for i in range(60)]


def _read(roads: Roads, written: set[tuple[str, str]]) -> None:
    assert roads.fed(written) == written
    for collection in sorted({collection for collection, _ in written}):
        found = roads.listed(f"/v1/{collection}?limit=1000")
        assert found == sorted(key for each, key in written if each == collection)
    assert roads.listed("/v1/todo?limit=1000&where=body:contains:77") == []
    assert roads.atoll("verify")["equal"]


def _moved(roads: Roads) -> None:
    """Out, in, away and back."""
    out = roads.atoll("export", "plain", "plain.jsonl")
    assert roads.atoll("import", "copied", "plain.jsonl")["rows"] == out["rows"]
    if WHOLE:
        deeds = roads.atoll("export", "deed", "deed.jsonl")
        assert roads.atoll("import", "deed", "deed.jsonl")["rows"] == deeds["rows"]
    roads.cluster.settled()
    roads.atoll("backup", "tokyo.atoll", "--region", "tokyo")
    before = roads.here.digest()
    roads.there.kill()
    roads.atoll("restore", "tokyo.atoll", "--region", "tokyo", "--force")
    roads.there.start()
    roads.there.wait()
    roads.cluster.linked()
    until(lambda: roads.there.request("GET", "/health/serving").status == 200, "it serves")
    roads.cluster.settled()
    assert roads.there.digest() == before
