"""The command as a pipeline runs it: what it prints, and exit codes that tell failures apart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE_S = 120.0
SHOP = """
from atoll import Collection

class Note(Collection):
    text: str = ""
"""
PLANTED = {
    "safety": """
from atoll.commit.batch import Batch

honest = Batch.commit

def forgetful(self):
    commit = honest(self)
    commit.documents.clear()
    return commit

Batch.commit = forgetful
""",
    "liveness": """
from atoll.replication.link import Link

Link._take = lambda self, message: None
""",
    "crash": """
from atoll.region.region import Region

def broken(self, batch):
    raise ValueError("nobody expects this")

Region._after_commit = broken
""",
}
CODES = {"safety": 3, "liveness": 4, "crash": 5}


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "atoll.cli.main", "simulate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def planted(folder: Path, kind: str) -> str:
    path = folder / f"{kind}.py"
    path.write_text(SHOP + PLANTED.get(kind, ""), "utf-8")
    return str(path)


@pytest.mark.parametrize("kind", CODES)
def test_the_exit_code_tells_what_kind_of_failure_it_was(tmp_path: Path, kind: str) -> None:
    run = simulate("--app", planted(tmp_path, kind), "--seeds", "2", "--jobs", "1", "--json")
    assert run.returncode == CODES[kind], run.stderr
    found = json.loads(run.stdout)
    assert {failure["kind"] for failure in found["failed"]} == {kind}
    assert found["failed"][0]["replay"].startswith("atoll simulate --seed ")


def test_a_run_without_failures_ends_with_zero(tmp_path: Path) -> None:
    run = simulate("--app", planted(tmp_path, "none"), "--seeds", "2", "--jobs", "2", "--json")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert (found["seeds"], found["failed"]) == (2, [])
    assert found["writes"] > 0


def test_what_the_caller_has_to_correct_ends_with_two(tmp_path: Path) -> None:
    for arguments in (["--app", str(tmp_path / "none.py")], ["--workloads", "nonsense"], ["--faults", "x"]):
        run = simulate(*arguments)
        assert run.returncode == 2, run.stderr
        assert "Traceback" not in run.stderr


def test_a_failing_run_is_cut_down_and_replays(tmp_path: Path) -> None:
    app = planted(tmp_path, "safety")
    run = simulate("--app", app, "--seed", "1", "--regions", "2", "--shrink", "--json")
    assert run.returncode == 3, run.stderr
    (failure,) = json.loads(run.stdout)["failed"]
    assert "--faults none" in failure["replay"]
    again = simulate(*failure["replay"].split()[2:])
    assert again.returncode == 3
    assert failure["invariant"] in again.stdout
