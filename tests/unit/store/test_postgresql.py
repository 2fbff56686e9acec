from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.unit.store.conformance import (
    SharedStoreConformance,
    StoreConformance,
    commit,
    keys,
    put,
    segments,
)
from tests.unit.store.postgresql_harness import PASSWORD, PostgresHarness

from atoll.errors import (
    AtollError,
    ConfigError,
    Indefinite,
    SerializationConflict,
    StoreUnreachable,
    StoreUnwritable,
)
from atoll.store.port import Commit, Condition, Parked, Remembered, Row, Segment, Shape, Store, Wanted
from atoll.store.postgresql import migration
from atoll.store.postgresql.sql import Bound, condition_sql
from atoll.store.postgresql.store import PostgresStore, open_postgresql
from atoll.store.postgresql.transaction import PostgresTransaction
from atoll.store.postgresql.url import database_url
from atoll.store.sqlite.store import open_sqlite

STOPPED = Path(__file__).with_name("transaction_until_killed.py")


class TestPostgresStore(StoreConformance):
    @pytest.fixture
    def harness(self, database: PostgresHarness) -> PostgresHarness:
        return database

    @pytest.fixture
    def other(self, another_database: PostgresHarness) -> PostgresHarness:
        return another_database


class TestSharedPostgres(SharedStoreConformance):
    @pytest.fixture
    async def nodes(self, store: PostgresStore, other: PostgresStore) -> tuple[Store, Store]:
        return store, other


@pytest.fixture
async def store(database: PostgresHarness) -> AsyncIterator[PostgresStore]:
    store = database.open()
    await store.open_collections(["note"])
    yield store
    await store.close()


@pytest.fixture
async def other(database: PostgresHarness, store: PostgresStore) -> AsyncIterator[PostgresStore]:
    """Another node of the same region."""
    other = database.open(node=2)
    await other.open_collections(["note"])
    yield other
    await other.close()


# Turns of several nodes


async def test_a_transaction_that_somebody_came_before_is_lost_whole(
    store: PostgresStore, other: PostgresStore, database: PostgresHarness
) -> None:
    async with store.begin(Wanted({"note": ["a"]})) as transaction:
        # As if this node had been paused for so long that its lock was taken away.
        await database.end_connections()
        await commit(other, segments(("tokyo", 1, 1)))
        with pytest.raises((StoreUnreachable, Indefinite)):
            await transaction.commit(put(("a", {})))
    assert await store.get("note", "a") is None


async def test_a_commit_on_what_is_no_longer_so_does_nothing(
    store: PostgresStore, other: PostgresStore
) -> None:
    async with store.begin(Wanted()) as transaction:
        await commit(other, segments(("tokyo", 1, 1)))
        late = put(("a", {}))
        late.remembered, late.parked = (
            [Remembered("k", 1, b"")],
            [Parked("tokyo", 1, 0, "refused", "why", b"")],
        )
        with pytest.raises(SerializationConflict):
            await transaction.commit(late)
    assert await store.positions() == {"tokyo": 1}
    assert (await store.get("note", "a"), await store.remembered(["k"]), await store.parked()) == (
        None,
        {},
        [],
    )


def large() -> Commit:
    """A commit of nine MiB."""
    found = put(*((f"k{n}", "x" * 1_000_000) for n in range(4)))
    found.segments = [Segment("tokyo", 1, 1, b"x" * 3_000_000), Segment("tokyo", 2, 2, b"y")]
    found.positions, found.size_bytes = {"tokyo": 2}, 7_000_000
    found.remembered = [Remembered("k", 1, b"")]
    found.states = {("register", f"k{n}"): b"%d" % n + b"x" * 1_500_000 for n in range(3)}
    return found


async def test_a_large_commit_is_written_in_pieces_all_or_nothing(
    store: PostgresStore, other: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[Commit] = []
    statement = PostgresTransaction._statement

    def watched(self: PostgresTransaction, commit: Commit) -> Any:
        pieces.append(commit)
        return statement(self, commit)

    monkeypatch.setattr(PostgresTransaction, "_statement", watched)
    async with store.begin(Wanted()) as transaction:
        await commit(other, put(("a", {})))
        pieces.clear()
        with pytest.raises(SerializationConflict):
            await transaction.commit(large())
    assert (await store.positions(), len((await store.scan("note")).rows)) == ({}, 1)
    written = 0

    async def write(self: PostgresTransaction, connection: Any, piece: Commit) -> bool:
        nonlocal written
        written += 1
        if written == 2:
            raise asyncpg.PostgresError("the disk is full")
        return await write_piece(self, connection, piece)

    write_piece = PostgresTransaction._write
    with monkeypatch.context() as patched:
        patched.setattr(PostgresTransaction, "_write", write)
        with pytest.raises(AtollError):
            await commit(store, large())
    assert (await store.positions(), len((await store.scan("note")).rows)) == ({}, 1)
    pieces.clear()
    await commit(store, large())
    assert [sum(map(len, each.documents.values())) for each in pieces] == [3, 1, 0, 0]
    assert [len(each.segments) for each in pieces] == [0, 1, 1, 0]
    assert [len(each.states) for each in pieces] == [0, 0, 2, 1]
    assert [(key, value[:1]) for key, value in await other.states("register")] == [
        ("k0", b"0"),
        ("k1", b"1"),
        ("k2", b"2"),
    ]
    assert (await other.positions(), len((await other.scan("note")).rows)) == ({"tokyo": 2}, 5)
    assert [each.segment.last_seq for each in await other.journal(0)] == [1, 2]
    assert await other.remembered(["k"]) == {"k": b""}


async def test_turns_of_two_nodes_follow_each_other(store: PostgresStore, other: PostgresStore) -> None:
    lost = 0

    async def count(node: PostgresStore) -> None:
        nonlocal lost
        done = 0
        while done < 40:
            async with node.begin(Wanted()) as transaction:
                seq = transaction.positions.get("tokyo", 0) + 1
                try:
                    await transaction.commit(segments(("tokyo", seq, seq)))
                    done += 1
                except SerializationConflict:
                    lost += 1

    await asyncio.gather(count(store), count(other))
    found = [numbered.segment.last_seq for numbered in await store.journal(0, limit=100)]
    assert found == list(range(1, 81))
    assert (
        lost < 30
    )  # having met, they wait for each other: else nearly each transaction of one costs the other its own


async def test_a_slow_node_that_waited_its_turn_is_not_overtaken(
    store: PostgresStore, other: PostgresStore
) -> None:
    """Found by seed 795932099: faster nodes lost no transaction, so they never waited for one that lost each."""
    async with store.begin(Wanted()) as transaction:
        await commit(other, segments(("paris", 1, 1)))
        with pytest.raises(SerializationConflict):
            await transaction.commit(segments(("tokyo", 1, 1)))
    async with store.begin(Wanted()) as transaction:
        with pytest.raises(SerializationConflict):
            await commit(other, segments(("paris", 2, 2)))
        await transaction.commit(segments(("tokyo", 1, 1)))
    await commit(other, segments(("paris", 2, 2)))
    assert await store.positions() == {"paris": 2, "tokyo": 1}


@pytest.mark.timeout(60)
async def test_a_node_that_is_stopped_in_its_transaction_holds_nobody_up(
    store: PostgresStore, database: PostgresHarness
) -> None:
    command = [sys.executable, str(STOPPED), database.url]
    stopped = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert stopped.stdout is not None
    assert stopped.stdin is not None
    try:
        assert await stopped.stdout.readline() == b"has the transaction\n"
        os.kill(stopped.pid, signal.SIGSTOP)
        store.crowded_until_s = float("inf")
        await commit(store, segments(("tokyo", 1, 1)))
        os.kill(stopped.pid, signal.SIGCONT)
        stopped.stdin.write(b"go on\n")
        assert (await stopped.stdout.readline()).strip() in (
            b"SerializationConflict",
            b"StoreUnreachable",
            b"Indefinite",
        )
    finally:
        stopped.kill()
        await stopped.wait()
    assert [numbered.segment.last_seq for numbered in await store.journal(0)] == [1]
    assert await store.get("note", "late") is None


async def test_other_nodes_hear_of_a_commit(store: PostgresStore, other: PostgresStore) -> None:
    heard: asyncio.Queue[dict[str, int]] = asyncio.Queue()
    own: list[dict[str, int]] = []
    other.follow(lambda positions: heard.put_nowait(dict(positions)))
    store.follow(lambda positions: own.append(dict(positions)))
    await commit(store, segments(("tokyo", 1, 3)))
    while await heard.get() != {"tokyo": 3}:
        pass


async def test_one_node_at_a_time_has_a_lease(store: PostgresStore, other: PostgresStore) -> None:
    names = ["link oregon", "link paris", "link rome"]
    assert await store.lease(names, 60) == dict.fromkeys(names, 1)
    assert set((await other.holders()).items()) >= {
        ("link oregon", store.holder),
        ("link rome", store.holder),
    }
    await other.give_back(["link rome"])
    assert await other.lease(["link rome"], 60) == {}
    await store.give_back(["link rome"])
    assert await other.lease(["link rome"], 60) == {"link rome": 2}
    assert await other.lease(["link oregon", "machine 1"], 60) == {"machine 1": 1}
    await store.lease(["link oregon"], -1)
    assert await other.lease(["link oregon", "link paris"], 60) == {"link oregon": 2}
    await store.close()
    assert await other.lease(["link paris"], 60) == {"link paris": 2}


async def test_a_node_that_was_restarted_has_its_leases_still(
    store: PostgresStore, other: PostgresStore, database: PostgresHarness
) -> None:
    assert await store.lease(["link oregon"], 60)
    again = database.open()
    await again.open_collections(["note"])
    assert not await other.lease(["link oregon"], 60)
    assert await again.lease(["link oregon"], 60) == {"link oregon": 2}  # its run before may still go on
    await again.close()


# Failures


async def test_a_read_survives_broken_connections(store: PostgresStore, database: PostgresHarness) -> None:
    await commit(store, put(("a", {})))
    await database.end_connections()
    assert keys((await store.scan("note")).rows) == ["a"]
    await commit(store, put(("b", {})))


async def test_a_connection_that_breaks_in_a_commit_leaves_it_in_doubt(
    store: PostgresStore, database: PostgresHarness
) -> None:
    blocker = await asyncpg.connect(database.url.partition("?")[0])
    await blocker.execute(f"BEGIN; LOCK TABLE {database.name}._doc_note IN EXCLUSIVE MODE")
    async with store.begin(Wanted()) as transaction:
        committing = asyncio.ensure_future(transaction.commit(put(("a", {}))))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not await blocker.fetchval(waiting):  # noqa: ASYNC110 - it asks the server
            await asyncio.sleep(0)
        await database.end_connections()
        with pytest.raises(Indefinite):
            await committing
    assert await store.get("note", "a") is None


async def test_a_lock_that_does_not_come_is_a_definite_error(
    store: PostgresStore, database: PostgresHarness
) -> None:
    blocker = await asyncpg.connect(database.url.partition("?")[0])
    try:
        await blocker.execute(f"BEGIN; LOCK TABLE {database.name}._doc_note IN EXCLUSIVE MODE")
        with pytest.raises(StoreUnreachable, match="too busy"):
            await commit(store, put(("a", {})))
    finally:
        await blocker.close()
    await commit(store, put(("a", {})))


async def test_a_right_that_is_missing_is_told(store: PostgresStore, database: PostgresHarness) -> None:
    await database.execute(f"ALTER TABLE {database.name}._doc_note OWNER TO CURRENT_USER")
    with pytest.raises(StoreUnwritable, match="make the role the owner"):
        await commit(store, put(("a", {})))


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    store = open_postgresql(
        "postgresql://shop:s3cret-word@127.0.0.1:1/shop", region="tokyo", deployment="shop"
    )
    with pytest.raises(StoreUnreachable, match="does not answer") as caught:
        await store.open_collections(["note"])
    assert "s3cret-word" not in f"{caught.value} {caught.value.details} {store.database.url!r}"
    await store.close()


# Opening


def test_several_hosts_are_the_drivers_to_choose_from() -> None:
    url = database_url("postgresql://shop:hunter2@one:5432,two/shop?target_session_attrs=primary&schema=mine")
    assert url.dsn == "postgresql://shop:hunter2@one:5432,two/shop?target_session_attrs=primary"
    assert (url.schema_for("a-b"), url.shown) == ("mine", "postgresql://shop@one:5432,two/shop")
    assert database_url("postgres://one/shop").schema_for("a-b") == "atoll_a_b"


def test_a_driver_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ConfigError, match=r"pip install 'atoll\[postgresql\]'"):
        open_postgresql("postgresql://one/shop", region="tokyo", deployment="shop")


async def test_another_regions_schema_is_refused(store: PostgresStore, database: PostgresHarness) -> None:
    for region, deployment in (("paris", "shop"), ("tokyo", "other")):
        with pytest.raises(ConfigError, match="belongs to") as caught:
            await database.open(region, deployment).open_collections(["note"])
        assert PASSWORD not in str(caught.value)


async def test_a_newer_format_is_refused(store: PostgresStore, database: PostgresHarness) -> None:
    await database.fetch("UPDATE _settings SET value = '99' WHERE name = 'format'")
    with pytest.raises(ConfigError, match="has format 99; this Atoll knows up to"):
        await database.open().open_collections(["note"])


async def test_an_older_format_is_refused_and_left_as_it_is(
    store: PostgresStore, database: PostgresHarness
) -> None:
    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = $1 ORDER BY 1"

    async def contents() -> dict[str, list[str]]:
        names = [row[0] for row in await database.fetch(tables, database.name)]
        rows = {name: await database.fetch(f'SELECT t::text FROM "{name}" AS t') for name in names}
        return {name: sorted(row[0] for row in found) for name, found in rows.items()}

    await database.fetch("UPDATE _settings SET value = '1' WHERE name = 'format'")
    before = await contents()
    with pytest.raises(ConfigError, match=r"has format 1; .* `atoll export`.* `atoll import`"):
        await database.open().open_collections(["note", "new"])
    assert await contents() == before


async def test_nodes_that_start_at_once_migrate_once(
    database: PostgresHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = database.open()
    await first.open_collections(["note"])
    await first.close()
    # A script that cannot run twice stands for the next format.
    monkeypatch.setattr(migration, "MIGRATIONS", (*migration.MIGRATIONS, "postgresql_schema_next.sql"))
    script = "CREATE TABLE _next (n integer); INSERT INTO _next VALUES (1)"
    read = migration.script_text
    monkeypatch.setattr(
        migration, "script_text", lambda name: script if name.endswith("next.sql") else read(name)
    )
    nodes = [database.open() for _ in range(4)]
    await asyncio.gather(*(node.open_collections(["note", "cart"]) for node in nodes))
    assert [tuple(row) for row in await database.fetch("SELECT n FROM _next")] == [(1,)]
    for node in nodes:
        assert await node.get("cart", "a") is None
        await node.close()


async def test_a_database_of_earlier_code_gets_the_functions_that_it_lacks(database: PostgresHarness) -> None:
    first = database.open()
    await first.open_collections(["note"])
    await commit(first, put(("a", {"at": "2024-01-01T02:00:00+02:00"})))
    await first.close()
    await database.fetch("DROP FUNCTION _decimal, _moment, _local, _local_text, _time, _bytes")
    await database.fetch("DELETE FROM _settings WHERE name = 'functions'")
    at = Condition("at", "eq", "2024-01-01T00:00:00Z", "moment")
    await database.refuse_writes(first)
    standby = database.open()
    with pytest.raises(StoreUnwritable):
        await standby.open_collections(["note"])
    await standby.close()
    await database.accept_writes(first)
    nodes = [database.open() for _ in range(3)]
    await asyncio.gather(*(node.open_collections(["note"]) for node in nodes))
    for node in nodes:
        assert keys((await node.scan("note", where=[at])).rows) == ["a"]
        await node.close()


async def test_a_role_without_rights_is_told_what_to_ask_for(database: PostgresHarness) -> None:
    store = open_postgresql(
        database.url.replace(f"schema={database.name}", "schema=elsewhere"), region="tokyo", deployment="shop"
    )
    with pytest.raises(ConfigError, match='CREATE SCHEMA "elsewhere" AUTHORIZATION'):
        await store.open_collections(["note"])
    await store.close()


async def test_commits_are_synchronous_whatever_the_database_says(database: PostgresHarness) -> None:
    await database.execute(f"ALTER ROLE {database.name} SET synchronous_commit = off")
    store = database.open()
    await store.open_collections(["note"])
    assert [row[0] for row in await store.database.rows("SHOW synchronous_commit")] == ["on"]
    await store.close()


async def test_a_server_without_fsync_is_warned_of(store: PostgresStore, database: PostgresHarness) -> None:
    off = (await database.administrator.fetchval("SHOW fsync")) == "off"
    assert bool(store.warning) == off


# What people see

SHAPE = Shape(
    "note",
    (
        ("sku", "text"),
        ("n", "integer"),
        ("price", "number"),
        ("open", "boolean"),
        ("at", "time"),
        ("tags", "json"),
    ),
    ("sku", "n"),
)


async def test_a_view_has_typed_columns(store: PostgresStore, database: PostgresHarness) -> None:
    await store.declare([SHAPE])
    whole = {"sku": "tea", "n": 3, "price": 1.5, "open": True, "at": "2026-01-02T03:04:05Z", "tags": ["a"]}
    forked = {"sku": None, "n": "three", "price": [], "at": "yesterday"}
    await commit(store, put(("a", whole), ("b", forked), ("gone", None)))
    rows = await database.fetch("SELECT * FROM note ORDER BY key")
    found = [tuple(row) for row in rows]
    assert found[0][:5] == ("a", "tea", 3, 1.5, True)
    assert (found[0][5].isoformat(), found[0][6]) == ("2026-01-02T03:04:05+00:00", '["a"]')
    assert found[1:] == [("b", None, None, None, None, None, None)]


async def test_a_view_follows_its_declaration(store: PostgresStore, database: PostgresHarness) -> None:
    await store.declare([SHAPE])
    await store.declare([Shape("note", (("title", "text"),))])
    await commit(store, put(("a", {"title": "x"})))
    assert [dict(row) for row in await database.fetch("SELECT * FROM note")] == [{"key": "a", "title": "x"}]
    assert await database.fetch("SELECT indexname FROM pg_indexes WHERE indexname LIKE '\\_by\\_%'") == []


async def test_a_view_that_others_depend_on_stays(
    store: PostgresStore, database: PostgresHarness, caplog: pytest.LogCaptureFixture
) -> None:
    await store.declare([SHAPE])
    await database.fetch("CREATE VIEW report AS SELECT sku FROM note")
    await store.declare([Shape("note", (("title", "text"),))])
    assert "stays as it is" in caplog.text
    await commit(store, put(("a", {"sku": "tea"})))
    assert [row[0] for row in await database.fetch("SELECT sku FROM report")] == ["tea"]


async def test_an_index_answers_what_is_asked(store: PostgresStore, database: PostgresHarness) -> None:
    await store.declare([SHAPE])
    await commit(store, put(*((f"k{n:04}", {"sku": f"s{n}", "n": n}) for n in range(3_000))))
    await database.fetch("ANALYZE _doc_note")
    for field, value, index in (("sku", "s77", "text"), ("n", 77, "number")):
        assert keys((await store.scan("note", where=[Condition(field, "eq", value)])).rows) == ["k0077"]
        bound = Bound()
        condition = condition_sql(Condition(field, "eq", value), bound, indexed=True)
        asked = f"EXPLAIN SELECT key FROM _doc_note WHERE {condition}"
        plan = "\n".join(row[0] for row in await database.fetch(asked, *bound.values))
        assert f"_by_{index}_note_{field}" in plan


async def test_what_does_not_fit_an_index_is_written_all_the_same(store: PostgresStore) -> None:
    await store.declare([SHAPE])
    forked = [10**400, "x" * 100_000, {"deep": ["x" * 5_000]}, None, True, "\x00", 1e308, -(2**63)]
    await commit(store, put(*((f"k{at}", {"sku": value, "n": value}) for at, value in enumerate(forked))))
    assert len((await store.scan("note")).rows) == len(forked)
    assert keys((await store.scan("note", where=[Condition("sku", "eq", "x" * 100_000)])).rows) == ["k1"]
    assert keys((await store.scan("note", where=[Condition("sku", "eq", "\x00")])).rows) == ["k5"]
    assert keys((await store.scan("note", where=[Condition("n", "gt", 1e300)])).rows) == ["k0", "k6"]


async def test_text_comes_back_as_it_was_written(store: PostgresStore, database: PostgresHarness) -> None:
    text = rb'{"b": 1.50, "a":"\u0000 \\u0000 \ud83d", "b": 10000000000000000000001e2 }'
    whole = put()
    whole.documents = {"note": [("k\x00y", text, b"m")]}
    await commit(store, whole)
    assert await store.get("note", "k\x00y") == Row(text, b"m")
    assert (await store.scan("note")).rows == [("k\x00y", Row(text, b"m"))]


async def test_a_long_name_of_a_collection_has_a_table_of_its_own(store: PostgresStore) -> None:
    one, two = "c" * 62 + "a", "c" * 62 + "b"
    await store.open_collections([one, two])
    await store.declare([Shape(one, (("n", "integer"),), ("n",)), Shape(two, (("n", "integer"),), ("n",))])
    await commit(store, put(("k", {"n": 1}), collection=one))
    assert await store.get(two, "k") is None


async def test_what_an_embedded_store_held_moves_in(
    database: PostgresHarness, store: PostgresStore, tmp_path: Path
) -> None:
    names = ["note", "c" * 63]
    embedded = open_sqlite(tmp_path, region="tokyo", deployment="shop")
    await embedded.open_collections(names)
    everything = put(("a", {"n": 1}), ("b", None))
    everything.segments, everything.positions = [Segment("tokyo", 1, 1, b"s")], {"tokyo": 1}
    everything.schemas, everything.clock = {"c" * 63: "x"}, 7
    await commit(embedded, everything)
    await embedded.raise_counter("ids", 5)
    await store.fill(embedded.contents())
    assert [chunk async for chunk in store.contents()] == [chunk async for chunk in embedded.contents()]
    await embedded.close()
    assert await store.counter("ids") == 5
    await commit(store, segments(("tokyo", 2, 2)))
    assert [found.id for found in await store.journal(0)] == [1, 2]
