from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atoll.store.port import AuditFilter
from atoll.store.sqlite.store import open_sqlite

WORKER = Path(__file__).with_name("commit_until_killed.py")


def commit_until(folder: Path, commits: int) -> int:
    """Let a process commit, kill it outright after so many answers, and return the last seq it answered."""
    with subprocess.Popen(
        [sys.executable, str(WORKER), str(folder)], stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        for _ in range(commits):
            worker.stdout.readline()
        worker.send_signal(signal.SIGKILL)
        answered = (
            worker.stdout.read().split()
        )  # complete lines, and perhaps a cut one that was written whole
    assert worker.returncode == -signal.SIGKILL
    return int(answered[-1]) if answered else 0


async def check_whole(folder: Path) -> int:
    """Documents, journal, positions, clock and audit tell one story; return the last seq in it."""
    store = open_sqlite(folder, region="tokyo", deployment="shop")
    await store.open_collections(["note"])
    last = (await store.positions()).get("tokyo", 0)
    expected = 1
    for _, segment in await store.journal(0, limit=1 << 30, limit_bytes=1 << 40):
        assert segment.first_seq == expected
        assert segment.body == b"entry" * (segment.last_seq - segment.first_seq + 1)
        expected = segment.last_seq + 1
    assert (expected - 1, await store.clock()) == (last, last)
    assert [key for key, _ in await store.scan_all("note", limit=1 << 30)] == [
        f"k{n:08}" for n in range(1, last + 1)
    ]
    states = {key: int(value) for key, value in await store.states("seq")}
    assert states == {f"{n % 7}": n for n in range(1, last + 1)}
    audit = await store.conflicts(AuditFilter(), limit=1 << 30)
    assert [row.id for row in reversed(audit)] == [f"c{n:08}" for n in range(1, last + 1)]
    await store.close()
    return last


@pytest.mark.parametrize("seed", [1, 2])
async def test_killed_process_loses_no_answered_commit_and_leaves_none_half_done(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    last = 0
    for _ in range(4):
        answered = commit_until(tmp_path, rng.randrange(1, 250))
        found = await check_whole(tmp_path)
        assert found >= max(answered, last)
        last = found
