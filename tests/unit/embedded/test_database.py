from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.unit.forked import forked

import atoll
from atoll import Add, Collection, Decrement, Increment, Remove
from atoll.client.batch import Delete, Patch, Put, Update
from atoll.embedded import EmbeddedDatabase
from atoll.errors import (
    AtollError,
    BoundExceeded,
    ConfigError,
    Indefinite,
    InvalidDocument,
    InvalidKey,
    InvalidOperation,
    MalformedRequest,
    NotFound,
    StoreLocked,
    Unavailable,
    UnknownCollection,
    UnknownField,
    VersionMismatch,
)
from atoll.recovery.restore import RESTORED
from atoll.store.sqlite.store import SqliteStore

from .shop import SHOP, Item, Page, Profile

ANN = Profile(key="ann", name="Ann", age=4)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[EmbeddedDatabase]:
    async with atoll.open(SHOP, data=tmp_path) as opened:
        yield opened


# -- verbs ---------------------------------------------------------------------------------------------


async def test_a_document_comes_back_as_it_was_put(db: EmbeddedDatabase) -> None:
    assert await db.put(ANN) == ANN
    assert await db.get(Profile, "ann") == ANN
    assert await db.get(Profile, "nobody") is None


async def test_a_put_may_say_what_must_be_there(db: EmbeddedDatabase) -> None:
    await db.put(ANN, create=True)
    with pytest.raises(VersionMismatch):
        await db.put(ANN, create=True)
    version = (await db.read(Profile, "ann")).version
    await db.put(ANN, if_match=version)
    with pytest.raises(VersionMismatch):
        await db.put(ANN, if_match=version)
    with pytest.raises(InvalidOperation, match="contradict"):
        await db.put(ANN, create=True, if_match="*")


async def test_an_update_changes_what_it_names(db: EmbeddedDatabase) -> None:
    await db.put(Item(key="i", title="t", stock=5, tags={"a", "b"}))
    changed = await db.update(Item, "i", title="u", stock=Decrement(2), seen=Increment(), tags=Remove("a"))
    assert (changed.title, changed.stock, changed.seen, changed.tags) == ("u", 3, 1, {"b"})
    assert (await db.update(Item, "i", tags=Add("c", "d"))).tags == {"b", "c", "d"}


async def test_an_update_of_nothing_starts_from_the_defaults(db: EmbeddedDatabase) -> None:
    assert (await db.update(Item, "new", stock=Increment(3))).stock == 3
    with pytest.raises(NotFound):
        await db.update(Profile, "new", age=3)


async def test_a_patch_reaches_into_maps(db: EmbeddedDatabase) -> None:
    patched = await db.patch(Item, "i", {"$set": {"labels.colour": "red", "labels.size": "L"}})
    assert patched.labels == {"colour": "red", "size": "L"}
    assert (await db.patch(Item, "i", {"$unset": ["labels.size"]})).labels == {"colour": "red"}


async def test_a_deletion_says_whether_there_was_something(db: EmbeddedDatabase) -> None:
    await db.put(ANN)
    assert await db.delete(Profile, "ann")
    assert not await db.delete(Profile, "ann")
    assert await db.get(Profile, "ann") is None


async def test_a_counter_is_not_overdrawn(db: EmbeddedDatabase) -> None:
    await db.put(Item(key="i", stock=2))
    with pytest.raises(BoundExceeded) as caught:
        await db.update(Item, "i", stock=Decrement(3))
    assert caught.value.details["left_in_all"] == 2


async def test_a_read_tells_version_and_region(db: EmbeddedDatabase) -> None:
    await db.put(ANN)
    found = await db.read(Profile, "ann")
    assert (found.value, found.region, found.degraded) == (ANN, "local", None)
    absent = await db.read(Profile, "nobody")
    assert (absent.value, absent.version) == (None, None)
    await db.put(Item(key="i"))
    assert (await db.read(Item, "i")).degraded is None  # one region alone is all regions


async def test_a_listing_is_in_order_of_keys(db: EmbeddedDatabase) -> None:
    for n in (3, 1, 2):
        await db.put(Profile(key=f"k{n}", name=f"n{n}", age=n))
    assert [p.key async for p in db.list(Profile, limit=2)] == ["k1", "k2", "k3"]
    assert [p.key async for p in db.list(Profile, where=[("age", "ge", 2)], prefix="k")] == ["k2", "k3"]


async def test_a_batch_is_all_or_nothing(db: EmbeddedDatabase) -> None:
    writes = (Put(ANN), Update(Item, "i", stock=Increment(2)), Patch(Item, "j", {"$set": {"title": "t"}}))
    written = await db.batch(writes)
    assert [each.key for each in written] == ["ann", "i", "j"]
    with pytest.raises(NotFound):
        await db.batch((Delete(Profile, "ann"), Delete(Profile, "nobody")))
    assert await db.get(Profile, "ann") == ANN


async def test_a_session_sees_what_it_wrote(db: EmbeddedDatabase) -> None:
    async with db.session() as session:
        await session.put(ANN)
        assert await session.get(Profile, "ann") == ANN
        assert session.region == "local"
        token = session.token
    assert await db.session(token).get(Profile, "ann") == ANN


async def test_identifiers_are_given_out(db: EmbeddedDatabase) -> None:
    for kind in ("uuid4", "uuid7", "ulid", "snowflake", "prefixed"):
        assert len(set(await db.ids(kind, 10))) == 10


async def test_changes_are_followed(db: EmbeddedDatabase) -> None:
    await db.put(ANN)
    stream = db.changes()
    change = await anext(stream)
    assert (change.origin, change.seq, change.changes[0].as_model(Profile)) == ("local", 1, ANN)
    following = asyncio.ensure_future(anext(stream))
    await db.delete(Profile, "ann")
    assert (await following).changes[0].operation == "delete"
    await stream.aclose()  # type: ignore[attr-defined]


async def test_there_are_no_conflicts_in_one_region(db: EmbeddedDatabase) -> None:
    await asyncio.gather(*(db.put(Page(key="p", title=f"t{n}")) for n in range(9)))
    assert [record async for record in db.conflicts()] == []
    with pytest.raises(NotFound):
        await db.resolve("nothing", Page(key="p", title="x"))


# -- idempotency ---------------------------------------------------------------------------------------


async def test_a_repeated_write_counts_once(db: EmbeddedDatabase) -> None:
    for _ in range(3):
        changed = await db.update(Item, "i", seen=Increment(), idempotency_key="once")
        assert changed.seen == 1
    with pytest.raises(InvalidOperation, match="another write"):
        await db.update(Item, "i", seen=Increment(2), idempotency_key="once")


async def test_a_key_holds_for_a_call_and_for_http_alike(db: EmbeddedDatabase) -> None:
    await db.update(Item, "i", seen=Increment(), idempotency_key="once")
    async with db.session() as session:
        await session.update(Item, "i", seen=Increment(), idempotency_key="once")
    item = await db.get(Item, "i")
    assert item is not None
    assert item.seen == 1


# -- bad input -----------------------------------------------------------------------------------------


async def test_what_does_not_fit_is_refused_and_changes_nothing(db: EmbeddedDatabase) -> None:
    broken = Profile(key="k", name="x")
    broken.age = "old"  # type: ignore[assignment]
    with pytest.raises(InvalidDocument):
        await db.put(broken)
    with pytest.raises(InvalidKey):
        await db.put(Profile(key="\x00", name="x"))
    with pytest.raises(InvalidKey):
        await db.get(Profile, "")
    with pytest.raises(UnknownField):
        await db.update(Profile, "k", nmae="x")
    with pytest.raises(InvalidOperation):
        await db.update(Profile, "k")
    with pytest.raises(InvalidOperation):
        await db.patch(Profile, "k", {"$inc": {"age": 1}})
    for key in ("", " \t", "é", "x" * 256):
        with pytest.raises(InvalidOperation, match="idempotency key"):
            await db.put(Profile(key="k", name="x"), idempotency_key=key)
        with pytest.raises(InvalidOperation, match="idempotency key"):
            await db.delete(Profile, "k", idempotency_key=key)
    assert db.region.vector == {}


@pytest.mark.parametrize(
    "asked",
    [
        {"consistency": "weak"},
        {"max_wait_s": -1},
        {"max_wait_s": float("nan")},
        {"max_staleness_s": float("inf")},
        {"max_staleness_s": -0.1},
    ],
)
async def test_what_a_read_asks_is_known_and_within_bounds(db: EmbeddedDatabase, asked: Any) -> None:
    with pytest.raises(MalformedRequest, match=str(next(iter(asked.values())))):
        await db.get(Profile, "k", **asked)
    assert await db.get(Profile, "k", consistency="session", max_wait_s=1e-7, max_staleness_s=1) is None


async def test_a_class_that_was_not_declared_is_unknown(db: EmbeddedDatabase) -> None:
    class Stranger(atoll.Collection):
        x: int = 0

    with pytest.raises(UnknownCollection):
        await db.put(Stranger(key="k"))
    with pytest.raises(UnknownCollection):
        await db.get(Stranger, "k")


# -- life ----------------------------------------------------------------------------------------------


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    async with atoll.open(SHOP, data=tmp_path) as db:
        await db.put(ANN)
        await db.update(Item, "i", seen=Increment(), idempotency_key="once")
        ids = set(await db.ids("prefixed", 5))
    async with atoll.open(SHOP, data=tmp_path) as db:
        assert await db.get(Profile, "ann") == ANN
        assert (await db.update(Item, "i", seen=Increment(), idempotency_key="once")).seen == 1
        assert not ids & set(await db.ids("prefixed", 5))
        assert db.region.status().position == {"local": 2}


async def test_a_folder_belongs_to_one_application(tmp_path: Path) -> None:
    async with atoll.open([Profile], data=tmp_path):
        pass
    with pytest.raises(ConfigError, match="belongs to deployment 'app', not 'shop'"):
        atoll.open(SHOP, data=tmp_path)


async def test_two_regions_cannot_share_a_folder(tmp_path: Path) -> None:
    async with atoll.open(SHOP, data=tmp_path):
        with pytest.raises(StoreLocked, match="already runs the region"):
            atoll.open(SHOP, data=tmp_path)


_OPEN = """
import sys, atoll
from atoll.errors import StoreLocked
class Note(atoll.Collection): text: str = ""
try:
    atoll.open([Note], data=sys.argv[1])
except StoreLocked as error:
    sys.exit(42 if error.details["pid"] == int(sys.argv[2]) else 1)
"""


async def test_a_second_process_is_told_who_has_the_folder(tmp_path: Path) -> None:
    async with atoll.open(SHOP, data=tmp_path):
        command = [sys.executable, "-c", _OPEN, str(tmp_path), str(os.getpid())]
        ended = await asyncio.to_thread(subprocess.run, command, check=False)
    assert ended.returncode == 42


async def test_an_application_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="data="):
        atoll.open(SHOP)


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(
        "from atoll import Collection\nclass Note(Collection):\n    text: str = ''\n", "utf-8"
    )
    path = tmp_path / "atoll.toml"
    path.write_text(
        '[deployment]\nname = "shop"\napp = "shop.py"\n'
        '[regions.a]\nurl = "http://127.0.0.1:1"\n[regions.b]\nurl = "http://127.0.0.1:2"\n',
        "utf-8",
    )
    return path


async def test_of_several_regions_one_must_be_named(deployment: Path) -> None:
    with pytest.raises(ConfigError, match="select one with region="):
        atoll.open(deployment)
    with pytest.raises(ConfigError, match="no region is called 'c'"):
        atoll.open(deployment, region="c")


async def test_a_region_of_a_deployment_opens_without_its_port(deployment: Path) -> None:
    async with atoll.open(deployment, region="a", listen=False) as db:
        assert (db.region.name, db.regions) == ("a", ("a",))
        assert set(db.region.links) == {"b"}
    assert (deployment.parent / "data" / "a").is_dir()


def test_a_port_that_is_taken_leaves_nothing_locked(deployment: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = deployment.read_text("utf-8").replace(':1"', f':{taken.getsockname()[1]}"')
        deployment.write_text(text, "utf-8")
        for _ in range(2):
            with pytest.raises(ConfigError, match="in use"):
                atoll.open(deployment, region="a")


async def test_a_restored_region_shows_nothing_before_its_peers_were_heard(deployment: Path) -> None:
    class Note(atoll.Collection):
        text: str = ""

    async with atoll.open(deployment, region="a", listen=False) as db:
        await db.put(Note(key="k", text="deleted since, elsewhere"))
        await db.region.store.raise_counter(RESTORED, 1)
    async with atoll.open(deployment, region="a", listen=False) as db:
        for road in (db.get, db.read):
            with pytest.raises(Unavailable, match="restored from a backup and waits for b"):
                await road(Note, "k")
        with pytest.raises(Unavailable, match="restored from a backup"):
            await db.put(Note(key="k"))


async def test_a_write_that_was_done_is_not_said_to_be_refused(db: EmbeddedDatabase) -> None:
    def declared_anew() -> type[Collection]:
        class Profile(Collection):
            name: int
            age: int = 0

        return Profile

    model = declared_anew()
    await db.put(ANN)
    for road in (db.update(model, "ann", age=5), db.batch([Update(model, "ann", age=5)])):
        with pytest.raises(Indefinite, match=r"the write was done, .* profile/ann does not fit"):
            await road
    assert await db.get(Profile, "ann") == Profile(key="ann", name="Ann", age=5)


async def test_another_event_loop_is_refused_and_does_not_hang(db: EmbeddedDatabase) -> None:
    session = db.session()

    async def listed() -> None:
        [page async for page in db.list(Profile)]

    async def fed() -> None:
        await anext(db.changes())

    async def entered() -> None:
        async with db:
            pass

    roads: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: db.put(ANN),
        lambda: db.get(Profile, "ann"),
        lambda: db.read(Profile, "ann"),
        lambda: db.update(Profile, "ann", age=5),
        lambda: db.delete(Profile, "ann"),
        lambda: db.batch((Put(ANN),)),
        lambda: session.put(ANN),
        lambda: db.ids("uuid7"),
        listed,
        fed,
        entered,
        db.close,
    ]
    for road in roads:
        with pytest.raises(ConfigError, match="another event loop"):
            await asyncio.to_thread(lambda road=road: asyncio.run(road()))  # type: ignore[misc]
    assert await db.put(ANN) == ANN


async def test_a_forked_process_is_refused(db: EmbeddedDatabase) -> None:
    await db.put(ANN)
    found = await asyncio.to_thread(forked(lambda: asyncio.run(db.get(Profile, "ann"))))
    assert found[0] == "ConfigError"
    assert "another event loop or process" in found[1]
    assert await db.get(Profile, "ann") == ANN


@pytest.mark.parametrize("durable", [False, True])
def test_an_interrupted_commit_leaves_the_region_usable(
    durable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Ctrl-C in a notebook, whose event loop runs on."""
    db = atoll.open(SHOP, data=tmp_path)
    commit = SqliteStore.commit

    def interrupted(*arguments: Any) -> None:
        monkeypatch.undo()
        if durable:
            commit(*arguments)
        raise KeyboardInterrupt

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(db.__aenter__())
        bob = Profile(key="bob", name="Bob", age=5)
        assert loop.run_until_complete(db.put(bob)) == bob
        monkeypatch.setattr(SqliteStore, "commit", interrupted)
        interrupting = loop.create_task(db.put(ANN))
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(interrupting)
        with pytest.raises(AtollError, match="KeyboardInterrupt"):
            loop.run_until_complete(interrupting)
        assert loop.run_until_complete(asyncio.wait_for(db.put(bob), 20)) == bob
        assert loop.run_until_complete(db.get(Profile, "ann")) == (ANN if durable else None)
        loop.run_until_complete(db.close())
    finally:
        loop.close()


def test_a_region_opened_before_a_fork_belongs_to_the_parent(tmp_path: Path) -> None:
    """As gunicorn with preload does with a module that opens a region."""
    db = atoll.open(SHOP, data=tmp_path)

    async def use(name: str) -> list[str]:
        async with db:
            await db.put(Profile(key=name, name=name))
            return [profile.key async for profile in db.list(Profile)]

    workers = [forked(lambda name=name: asyncio.run(use(name))) for name in ("w1", "w2")]  # type: ignore[misc]
    for worker in workers:
        kind, message = worker()
        assert kind == "StoreLocked"
        assert "open the region after the fork" in message
    assert asyncio.run(use("parent")) == ["parent"]


def test_a_forked_process_neither_uses_nor_holds_the_store(tmp_path: Path) -> None:
    db = atoll.open(SHOP, data=tmp_path)
    over, end = os.pipe()

    async def roads() -> list[str]:
        store = db.region.store
        found = await asyncio.gather(
            store.state("a", "b"),
            store.raise_counter("a", 1),
            store.advance_counter("a", 1),
            anext(store.contents()),
            return_exceptions=True,
        )
        await store.close()
        return [type(each).__name__ for each in found]

    def child() -> list[str]:
        os.close(end)
        refused = asyncio.run(roads())
        os.read(over, 1)
        return refused

    async def use() -> Profile | None:
        async with db:
            return await db.put(ANN)

    worker = forked(child)
    os.close(over)
    assert asyncio.run(use()) == ANN
    db = atoll.open(SHOP, data=tmp_path)  # nobody holds the folder, though the child is still there
    assert asyncio.run(use()) == ANN
    os.close(end)
    assert worker() == ["StoreLocked"] * 4


async def test_a_region_is_used_between_opening_and_closing(tmp_path: Path) -> None:
    db = atoll.open(SHOP, data=tmp_path)
    for road in (db.get, db.read):
        with pytest.raises(ConfigError, match="not open yet"):
            await road(Profile, "ann")
    async with db:
        assert await db.put(ANN) == ANN
        with pytest.raises(ConfigError, match="open already"):
            await db.__aenter__()
    await db.close()
    for road in (db.get, db.read):
        with pytest.raises(ConfigError, match="closed"):
            await road(Profile, "ann")
    with pytest.raises(ConfigError, match="closed"):
        async with db:
            pass
    async with atoll.open(SHOP, data=tmp_path) as again:
        assert await again.get(Profile, "ann") == ANN
