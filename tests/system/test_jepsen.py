from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from atoll.histories.history import decode
from atoll.histories.linearizability import check_registers
from atoll.histories.serializability import check_transactions

from .jepsen.recording import Options, record

pytestmark = pytest.mark.xdist_group("jepsen")


async def test_strong_documents_are_linearizable_while_regions_fail(tmp_path: Path) -> None:
    options = Options(1, 400, seed=8, folder=tmp_path, quiet_s=0.4, amid_faults=True)
    (found,) = [each async for each in record(options)]
    assert found.ok, "\n".join(found.wrong)
    assert found.odd == {}
    assert sum(found.faults.values()) > 0
    assert found.outcomes["ok"] > 100
    with found.file.open("rb") as file:
        events = decode(file)
    assert sum(event.type == "invoke" for event in events) == found.operations > 400
    assert check_registers(events).verdict == "valid"


async def test_transactions_are_serializable_while_regions_fail(tmp_path: Path) -> None:
    options = Options(1, 120, seed=3, folder=tmp_path, quiet_s=0.4, amid_faults=True, transactions=True)
    (found,) = [each async for each in record(options)]
    assert found.ok, "\n".join(found.wrong)
    assert found.odd == {}
    assert sum(found.faults.values()) > 0
    assert found.outcomes["ok"] > 10
    with found.file.open("rb") as file:
        events = decode(file)
    assert {event.f for event in events} == {"txn"}
    assert check_transactions(events).verdict == "valid"


def test_reads_of_the_local_copy_are_found_out(tmp_path: Path) -> None:
    slow = ["--only", "slow", "--quiet", "0.1", "--amid-faults"]  # else a copy may be as fast as its reader
    arguments = ["--histories", "1", "--operations", "300", *slow, "--local-reads"]
    run = subprocess.run(
        [sys.executable, "-m", "tests.system.jepsen", *arguments, "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert "is not linearizable: no order has a place for" in run.stdout
    kept = tmp_path / "history-0001.jsonl"
    assert f"kept in {kept}" in run.stdout
    with kept.open("rb") as file:
        assert check_registers(decode(file)).verdict == "invalid"
