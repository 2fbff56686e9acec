from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from atoll.errors import AtollError
from atoll.store.port import Commit, Segment
from atoll.store.sqlite import database as sqlite_database
from atoll.testing.torn_files import TornMedium


@pytest.fixture
def medium() -> Iterator[TornMedium]:
    made = TornMedium("tokyo")
    made.store.open_collections(["profile"])
    yield made
    made.close()


def commit(medium: TornMedium, seq: int) -> None:
    row = ("k", b'{"n":%d}' % seq, b"meta")
    medium.store.commit(
        Commit(
            documents={"profile": [row]},
            segments=[Segment("tokyo", seq, seq, b"x" * 5000)],
            positions={"tokyo": seq},
            clock=seq,
        )
    )


def test_what_was_acknowledged_survives(medium: TornMedium) -> None:
    for seed in range(20):
        commit(medium, seed + 1)
        medium.recover(Random(seed))
        assert medium.store.positions() == {"tokyo": seed + 1}


def test_a_commit_in_which_the_power_goes_out_is_whole_or_not_there(medium: TornMedium) -> None:
    outcomes = set()
    done = 0
    for seed in range(60):
        medium.die_within(seed + 1)
        try:
            commit(medium, done + 1)
        except AtollError:
            assert medium.dead
        medium.recover(Random(seed))
        held = medium.store.positions().get("tokyo", 0)
        assert held in (done, done + 1)
        row = medium.store.get("profile", "k")
        assert (row.value if row is not None else None) == (b'{"n":%d}' % held if held else None)
        outcomes.add(held - done)
        done = held
    assert outcomes == {0, 1}


def test_a_database_that_does_not_sync_loses_commits(
    medium: TornMedium, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = sqlite_database.connect

    def connect(*args: object, **options: object) -> object:
        connection = honest(*args, **options)  # type: ignore[arg-type]
        connection.pragma("synchronous", "OFF")
        return connection

    monkeypatch.setattr(sqlite_database, "connect", connect)
    medium.lose()
    medium.store.open_collections(["profile"])
    kept = []
    for seed in range(10):
        before = medium.store.positions().get("tokyo", 0)
        commit(medium, before + 1)
        medium.recover(Random(seed))
        medium.store.open_collections(["profile"])
        kept.append(medium.store.positions().get("tokyo", 0) > before)
    assert not all(kept)


def test_a_lost_disk_is_empty(medium: TornMedium) -> None:
    commit(medium, 1)
    medium.lose()
    assert medium.store.positions() == {}
