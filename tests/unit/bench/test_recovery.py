from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from bench import failover, recovery
from bench.recovery import Found, Written, worst


def test_the_longest_pause_lies_between_two_acknowledgements() -> None:
    assert Written({1: 10.0, 2: 10.5, 3: 14.0, 4: 14.1}).longest_pause_s() == 3.5
    assert Written().longest_pause_s() == 0.0


def test_calls_in_flight_are_told_from_later_ones() -> None:
    written = Written(calls=[(0.0, 1.0), (1.5, 9.5), (3.0, 4.0), (3.5, 3.75)])
    assert written.longest_call_s(2.0, in_flight=True) == 8.0
    assert written.longest_call_s(2.0, in_flight=False) == 1.0
    assert written.longest_call_s(20.0, in_flight=False) == 0.0


def test_of_several_failures_the_longest_times_and_all_losses_count() -> None:
    one = Found(1.0, 0.5, 0.2, 3.0, 100, 0, 0.0, 1.5)
    other = Found(2.0, 0.1, 0.3, 1.0, 50, 2, 40.0, 0.5)
    assert worst([one, other]) == Found(2.0, 0.5, 0.3, 3.0, 150, 2, 40.0, 1.5)


def test_only_what_may_lose_acknowledged_writes_has_no_goal_of_none() -> None:
    found = Found(1.0, 0.5, 0.2, 3.0, 100, 2, 40.0, 1.5)
    met = {
        kind: recovery._figures(kind, name, found)[-1].met
        for kind, name in (recovery.KINDS | failover.KINDS).items()
    }
    losing = {kind for kind, each in met.items() if each is None}
    assert losing == {"region", "asynchronous"}
    for kind in losing:
        (at_risk,) = (f for f in recovery._figures(kind, kind, found) if f.unit == "ms")
        assert at_risk.value == 40.0


def test_a_region_knows_both_servers_by_one_url() -> None:
    first, second = (
        SimpleNamespace(
            port=port, url=lambda name, port=port: f"postgresql://postgres@127.0.0.1:{port}/{name}"
        )
        for port in (5501, 5502)
    )
    alone = failover.Database(first, None)  # type: ignore[arg-type]
    both = failover.Database(first, second)  # type: ignore[arg-type]
    assert alone.url == "postgresql://postgres@127.0.0.1:5501/atoll"
    assert both.url == "postgresql://postgres@127.0.0.1:5501,127.0.0.1:5502/atoll"


def test_without_postgresql_there_is_a_reason_and_no_figure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ATOLL_POSTGRES_BIN", str(tmp_path))
    for kind, name in failover.KINDS.items():
        (figure,) = recovery._of_databases(kind, name, 1, tmp_path, lambda _: None)
        assert (figure.value, figure.met) == (None, None)
        assert "$ATOLL_POSTGRES_BIN" in figure.not_measured
