from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from atoll.errors import Unavailable
from atoll.testing.postgres_programs import LEAST_VERSION, find_postgres
from atoll.testing.postgres_server import PostgresServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    folder = tmp_path_factory.mktemp("postgres")
    with PostgresServer(
        folder / "data", settings={"wal_level": "logical", "max_connections": "20"}
    ) as started:
        yield started


async def values(server: PostgresServer, query: str, database: str = "postgres") -> list[object]:
    connection = await asyncpg.connect(server.url(database))
    try:
        return [row[0] for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def test_a_driver_finds_the_settings_that_were_asked_for(server: PostgresServer) -> None:
    found = [await values(server, f"SHOW {name}") for name in ("wal_level", "max_connections", "fsync")]
    assert found == [["logical"], ["20"], ["on"]]
    assert int(server.version.split(".")[0]) >= LEAST_VERSION


async def test_databases_are_apart(server: PostgresServer) -> None:
    server.create_database("shop")
    server.sql("CREATE TABLE sale AS SELECT 7 AS amount", "shop")
    assert await values(server, "SELECT amount FROM sale", "shop") == [7]
    with pytest.raises(asyncpg.UndefinedTableError):
        await values(server, "SELECT amount FROM sale")


def test_a_program_that_fails_says_why(server: PostgresServer) -> None:
    with pytest.raises(Unavailable, match="division by zero"):
        server.sql("SELECT 1/0")
    with pytest.raises(Unavailable, match="has no pg_nothing"):
        server.run("pg_nothing")


def test_it_runs_as_nobody_special(server: PostgresServer) -> None:
    assert server.pid is not None
    assert psutil.Process(server.pid).uids().real != 0
    owner = pwd.getpwuid(server.data.stat().st_uid).pw_name
    assert owner in ({"postgres", "nobody"} if os.geteuid() == 0 else {pwd.getpwuid(os.geteuid()).pw_name})


async def test_after_a_kill_it_has_what_was_committed_and_the_same_address(server: PostgresServer) -> None:
    url, pid = server.url(), server.pid
    assert pid is not None
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
    open_transaction = connection.transaction()
    await open_transaction.start()
    await connection.execute("INSERT INTO kept VALUES (2)")
    processes = [psutil.Process(pid), *psutil.Process(pid).children()]

    server.kill()
    assert not server.running
    assert not any(process.is_running() for process in processes)
    connection.terminate()
    with pytest.raises(OSError):
        await asyncpg.connect(url)

    server.start()
    assert server.url() == url
    assert await values(server, "SELECT number FROM kept") == [1]
    assert "was not properly shut down" in server.log


def test_a_stop_leaves_nothing_to_recover(server: PostgresServer) -> None:
    server.stop()
    assert server.pid is None
    said = len(server.log)
    server.start()
    assert "was not properly shut down" not in server.log[said:]


def test_a_standby_can_be_made_of_it(server: PostgresServer, tmp_path: Path) -> None:
    standby = PostgresServer(tmp_path / "standby")
    server.run("pg_basebackup", "--dbname", server.url(), "--write-recovery-conf", "-D", str(standby.data))
    with standby:
        assert standby.sql("SELECT pg_is_in_recovery()").strip() == "t"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders that the server's user cannot reach")
def test_programs_out_of_reach_are_copied(tmp_path: Path) -> None:
    (tmp_path / "installation").symlink_to(find_postgres().parent)
    tmp_path.chmod(0o700)
    copied = PostgresServer(tmp_path / "data", programs=tmp_path / "installation" / "bin")
    try:
        assert "initdb (PostgreSQL)" in copied.run("initdb", "--version")
    finally:
        copied.close()


def test_what_cannot_start_shows_its_log(tmp_path: Path) -> None:
    broken = PostgresServer(tmp_path / "data", settings={"shared_buffers": "much"})
    try:
        with pytest.raises(Unavailable, match="shared_buffers"):
            broken.start()
    finally:
        broken.close()


def test_nothing_of_it_is_left_behind(tmp_path: Path) -> None:
    with PostgresServer(tmp_path / "data", fsync=False) as server:
        pid, data = server.pid, server.data
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert data.is_relative_to(tmp_path) or not data.exists()


def test_programs_that_are_not_there_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATOLL_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(Unavailable, match=str(tmp_path)):
        find_postgres()


async def test_a_standby_follows_and_takes_over(server: PostgresServer, tmp_path: Path) -> None:
    server.sql("CREATE TABLE before AS SELECT 1 AS number")
    with server.standby(tmp_path / "standby", name="second") as second:
        server.reconfigure("synchronous_standby_names", "second")
        try:
            server.sql("CREATE TABLE after AS SELECT 2 AS number")  # acknowledged by the standby, too
        finally:
            server.reconfigure("synchronous_standby_names", "")
        assert await values(second, "SELECT pg_is_in_recovery()") == [True]
        second.promote()
        assert await values(second, "SELECT pg_is_in_recovery()") == [False]
        assert await values(
            second, "SELECT number FROM before UNION SELECT number FROM after ORDER BY 1"
        ) == [1, 2]
        second.sql("INSERT INTO after VALUES (3)")
    assert await values(server, "SELECT number FROM after") == [2]
