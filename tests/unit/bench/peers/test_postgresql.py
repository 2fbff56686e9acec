from __future__ import annotations

from pathlib import Path

import pytest
from bench.peers import NotMeasured
from bench.peers.postgresql import Watch, label, lag_ms, read_singly, replicating, write_batches, write_singly
from bench.served import wait_for


async def test_what_is_written_on_either_side_shows_on_the_other(tmp_path: Path) -> None:
    with replicating(tmp_path) as (here, there):
        assert label(here).startswith("PostgreSQL ")
        await write_singly(here.url(), 2, 10)
        await write_batches(there.url(), 1, 20, 10, 100)
        wait_for(
            lambda: [s.sql("SELECT count(*) FROM document").strip() for s in (here, there)] == ["30"] * 2,
            "30",
        )
        assert (await read_singly(there.url(), 1, 10, 20)).per_second > 0
        assert len(await lag_ms(here.url(), there.url(), 2, 500)) == 2


def test_a_watch_sees_what_is_there(tmp_path: Path) -> None:
    with replicating(tmp_path) as (here, _):
        watch = Watch(here.url())
        try:
            assert not watch.shows(7)
            here.sql("""INSERT INTO document VALUES ('doc-283671', '{}')""")
            assert watch.shows(7)
            assert watch.count() == 1
        finally:
            watch.close()


def test_without_a_server_there_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(NotMeasured, match="ATOLL_POSTGRES_BIN"), replicating(tmp_path):
        pass
