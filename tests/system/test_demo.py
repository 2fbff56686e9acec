from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KINDS = {"insert_exists", "update_origin_differs", "update_deleted", "delete_origin_differs"}


@pytest.mark.timeout(160)
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_short_demo_proves_that_nothing_was_lost(tmp_path: Path, store: str) -> None:
    folder = tmp_path / "demo"
    command = [
        sys.executable,
        "-m",
        "atoll.cli.main",
        "demo",
        "--plain",
        "--json",
        "--seconds",
        "10",
        "--store",
        store,
    ]
    run = subprocess.run(
        [*command, "--folder", str(folder)], capture_output=True, text=True, timeout=150, check=False
    )
    logs = "\n".join(path.read_text("utf-8", "replace") for path in sorted(folder.glob("*.log")))
    assert run.returncode == 0, f"{run.stderr}\n{logs}"
    proof = json.loads(run.stdout)
    assert all(check["ok"] for check in proof["checks"])
    assert proof["shop"]["orders"] > 200
    assert {group["kind"] for group in proof["conflicts"]} == KINDS
    assert {"before", "virginia down", "healed"} <= proof["replication_lag"].keys()
    assert "kill -9" in run.stderr
    assert (folder / "data" / "tokyo").is_dir() == (store == "sqlite")  # a folder that was given stays
