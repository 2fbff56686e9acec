from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from bench.peers import NotMeasured, dbos_workflows, temporal_workflows
from bench.sagas import sagas


async def test_each_saga_runs_to_its_end(tmp_path: Path) -> None:
    calls = await sagas(str(tmp_path / "data"), 4, 12)
    assert calls.per_second > 0
    assert 0 < calls.p50_ms <= calls.p99_ms


@pytest.mark.parametrize("peer", [dbos_workflows, temporal_workflows])
def test_what_is_not_installed_is_told(tmp_path: Path, peer: ModuleType) -> None:
    absent = replace(peer.ENVIRONMENT, folder=tmp_path)
    with pytest.raises(NotMeasured, match=f"{absent.label} is not installed yet"):
        absent.require(lambda said: None, install=False)
