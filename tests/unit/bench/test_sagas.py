from __future__ import annotations

from pathlib import Path

import pytest
from bench.peers import NotMeasured, dbos_workflows
from bench.sagas import sagas


async def test_each_saga_runs_to_its_end(tmp_path: Path) -> None:
    calls = await sagas(str(tmp_path / "data"), 4, 12)
    assert calls.per_second > 0
    assert 0 < calls.p50_ms <= calls.p99_ms


def test_what_is_not_installed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbos_workflows, "_READY", tmp_path / "installed")
    with pytest.raises(NotMeasured, match="DBOS is not installed yet"):
        dbos_workflows.require(lambda said: None, install=False)
