from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from atoll.demo.nemesis import CUT, Weather
from atoll.demo.observer import Lag, Observer
from atoll.demo.topology import Topology


@pytest.fixture
async def observer(tmp_path: Path) -> Any:
    async with aiohttp.ClientSession() as http:
        yield Observer(Topology(tmp_path), http, Weather(), lambda text: None)


def seen(origin: str, number: int) -> dict[str, Any]:
    return {"changes": [{"key": origin, "value": {"number": number}}]}


async def test_mark_is_waited_for_until_the_feed_shows_it(observer: Observer) -> None:
    observer._pending["tokyo", "virginia"].extend([(1, 0.0, "before"), (2, 0.0, CUT), (3, 0.0, CUT)])
    observer._seen("virginia", seen("tokyo", 2))
    assert [(lag.phase, lag.origin, lag.region) for lag in observer.lags] == [
        ("before", "tokyo", "virginia"),
        (CUT, "tokyo", "virginia"),
    ]
    assert observer.oldest_wait_s("tokyo", "virginia") > 0


async def test_own_marks_are_not_replication(observer: Observer) -> None:
    observer._seen("tokyo", seen("tokyo", 1))
    assert observer.lags == []


async def test_lags_are_summed_up_by_the_phase_they_began_in(observer: Observer) -> None:
    observer.lags = [Lag("before", "tokyo", "virginia", ms) for ms in (80.0, 75.04, 90.0)]
    observer.lags.append(Lag("healed", "tokyo", "virginia", 76.0))
    table = observer.by_phase()
    assert list(table) == ["before", "healed"]
    assert table["before"] == {"marks": 3.0, "p50_ms": 80.0, "p99_ms": 90.0, "max_ms": 90.0}
