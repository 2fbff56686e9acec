from __future__ import annotations

from pathlib import Path

import pytest

from .chaos.report import lines
from .chaos.run import Options, chaos

pytestmark = pytest.mark.xdist_group("chaos")


async def test_no_promise_is_broken_while_everything_fails(tmp_path: Path) -> None:
    outcome = await chaos(Options(20.0, seed=5, folder=tmp_path, quiet_s=0.6))
    assert outcome.ok, "\n".join(lines(outcome))
    assert len(outcome.history.faults) > 5
    assert sum(outcome.history.acknowledged.values()) > 200
