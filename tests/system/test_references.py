"""References on real processes: both clients, both databases, files, regions that are killed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any

import pytest

from atoll import Collection, Ref, connect, connect_sync, field
from atoll.client import SyncDatabase
from atoll.errors import ReferenceViolation
from atoll.testing.postgres_server import PostgresServer

from .cluster import Cluster, Region, until
from .processes import atoll


class Author(Collection):
    name: str


class Book(Collection):
    author: Ref[Author]
    editor: Ref[Author] | None = field(None, on_delete="dangling")


class Chapter(Collection):
    book: Ref[Book] = field(on_delete="cascade")


class Owner(Collection, consistency="strong"):
    name: str


class Pet(Collection, consistency="strong"):
    owner: Ref[Owner]


APP = "\n\n".join(
    ["from atoll import Collection, Ref, field", *map(inspect.getsource, (Author, Book, Chapter, Owner, Pet))]
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Frankfurt keeps its data in PostgreSQL."""
    folder = tmp_path_factory.mktemp("references")
    with PostgresServer(folder / "postgresql", fsync=False) as server:
        cluster = Cluster(folder, stores={"frankfurt": server.create_database("frankfurt")})
        (folder / "shop.py").write_text(APP)
        try:
            yield cluster.start()
        finally:
            cluster.close()


@pytest.mark.parametrize("near", ["tokyo", "frankfurt"])
def test_the_client_hears_what_refers(cluster: Cluster, near: str) -> None:
    with connect_sync(cluster.urls, near=near) as db:
        with pytest.raises(ReferenceViolation, match="which does not exist here"):
            db.put(Book(key=f"{near}-lost", author="nobody"))
        db.put(Author(key=f"{near}-ann", name="Ann"))
        db.put(Book(key=f"{near}-tea", author=f"{near}-ann"))
        db.put(Chapter(key=f"{near}-one", book=f"{near}-tea"))
        with pytest.raises(ReferenceViolation) as refused:
            db.delete(Author, f"{near}-ann")
        assert refused.value.details["key"] == f"{near}-tea"
        assert [each.key for each in db.list(Book, where=[("author", "eq", f"{near}-ann")])] == [
            f"{near}-tea"
        ]
        db.delete(Book, f"{near}-tea")
        assert db.get(Chapter, f"{near}-one") is None
        db.delete(Author, f"{near}-ann")


async def test_strong_references_are_kept_by_every_road(cluster: Cluster) -> None:
    async with (
        connect(cluster.urls, near="tokyo") as tokyo,
        connect(cluster.urls, near="virginia") as virginia,
    ):
        with pytest.raises(ReferenceViolation):
            await tokyo.put(Pet(key="rex", owner="eve"))
        async with tokyo.transaction() as t:
            t.put(Owner(key="eve", name="Eve"))
            t.put(Pet(key="rex", owner="eve"))
        with pytest.raises(ReferenceViolation):
            await virginia.delete(Owner, "eve")
        with pytest.raises(ReferenceViolation):
            await virginia.update(Pet, "rex", owner="nobody")
        async with virginia.transaction() as t:
            t.delete(Pet, "rex")
            t.delete(Owner, "eve")
        assert await tokyo.get(Owner, "eve") is None


def test_files_keep_references(cluster: Cluster) -> None:
    with connect_sync(cluster.urls, near="tokyo") as db:
        db.put(Author(key="file-ann", name="Ann"))
    rows = [{"key": f"file-{n}", "author": "file-ann" if n % 2 else "nobody"} for n in range(6)]
    (cluster.folder / "books.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = _run(cluster, "import", "book", "books.jsonl", "--on-error", "skip")
    assert done["rejected"] == 3, done
    _run(cluster, "export", "book", "out.jsonl")
    exported = [json.loads(line) for line in (cluster.folder / "out.jsonl").read_text().splitlines()]
    assert [row["author"] for row in exported if row["key"].startswith("file-")] == ["file-ann"] * 3


def _run(cluster: Cluster, *arguments: str) -> Any:
    done = atoll(cluster.folder, *arguments, "--config", "tokyo.toml", "--json")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_a_concurrent_deletion_is_undone_in_every_region(cluster: Cluster) -> None:
    cluster["tokyo"].put("author", "met-ann", {"name": "Ann"})
    cluster["tokyo"].put("author", "met-ed", {"name": "Ed"})
    cluster.settled()
    with cluster.apart():
        cluster["frankfurt"].put("book", "met", {"author": "met-ann", "editor": "met-ed"})
        for key in ("met-ann", "met-ed"):
            assert cluster["tokyo"].delete("author", key).status == 200

    def records(region: Region) -> list[dict[str, Any]]:
        found = region.conflicts(kind="delete_referenced", collection="book")
        return sorted(found, key=lambda record: str(record["field"]))

    until(
        lambda: all([r["status"] for r in records(each)] == ["resolved", "manual"] for each in cluster),
        "the deletion is undone, and what dangles waits for a person",
    )
    cluster.settled()
    for region in cluster:
        assert region.get("author", "met-ann").value == {"name": "Ann"}
        assert region.get("author", "met-ed").status == 404
        assert records(region) == records(cluster["tokyo"])


def test_strong_references_never_dangle_while_regions_are_killed(cluster: Cluster) -> None:
    def change(db: SyncDatabase, client: int, count: int) -> None:
        owner = f"o{(count + client) % 3}"
        match count % 4:
            case 0:
                db.put(Owner(key=owner, name="x"))
            case 1 | 2:
                db.put(Pet(key=f"p{(count * 5 + client) % 4}", owner=owner))
            case _ if count % 8 == 3:
                db.delete(Pet, f"p{count % 4}")
            case _:
                db.delete(Owner, owner)

    cluster.killed_in_turn(change)
    with connect_sync(cluster.urls, near="tokyo") as db:
        read = db.snapshot(*((Pet, f"p{n}") for n in range(4)), *((Owner, f"o{n}") for n in range(3)))
        pets, owners = [each.value for each in read[:4]], [each.value for each in read[4:]]
        exist = {owner.key for owner in owners if owner is not None}
        assert {pet.owner for pet in pets if pet is not None} <= exist
