"""Stories with expected output. `ATOLL_REWRITE=1 pytest tests/simulation/test_scenarios.py` writes it anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.simulation.scenario import parse, play, written

from atoll.simulation.application import built_in

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_ends_as_written(path: Path) -> None:
    text = path.read_text()
    played = written(play(parse(text), built_in()))
    if os.environ.get("ATOLL_REWRITE"):
        path.write_text(played)
    else:
        assert played == text
