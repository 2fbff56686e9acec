from __future__ import annotations

import io
import math

import pytest
from bench.figures import Curve, Figure, Goal, measured_again, report_of, table_of
from rich.console import Console

RATE = Figure("commit", "commit, 64 writers", "rows/s", 12_000, "SQLite", 20_000, Goal("ratio", at_least=0.6))


def shown(*figures: Figure) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table_of(figures))
    return console.export_text()


def test_a_ratio_is_ours_over_the_peers() -> None:
    assert RATE.ratio == 0.6
    assert RATE.met is True


def test_without_a_peer_there_is_no_ratio() -> None:
    alone = Figure("memory", "resident", "MB", 120)
    assert alone.ratio is None
    assert alone.met is None


@pytest.mark.parametrize(
    ("goal", "met", "text"),
    [
        (Goal("value", at_least=5_000), True, "≥ 5,000"),
        (Goal("value", at_least=12_001), False, "≥ 12,001"),
        (Goal("value", at_most=300), False, "≤ 300"),
        (Goal("ratio", at_least=0.61), False, "≥ 61%"),
        (Goal("ratio", at_most=4), True, "≤ 4×"),
    ],
)
def test_goals_bound_a_value_or_a_ratio(goal: Goal, met: bool, text: str) -> None:
    assert goal.met(RATE) is met
    assert str(goal) == text


def test_a_ratio_that_is_missing_meets_no_goal() -> None:
    assert not Goal("ratio", at_most=4).met(Figure("read", "read", "µs", 10))
    assert not Goal("value", at_most=4).met(Figure("read", "read", "µs", math.nan))


def test_the_table_shows_value_peer_ratio_and_verdict() -> None:
    text = shown(RATE, Figure("read", "read", "µs", 8.85, "sqlite3", 10.6, Goal("ratio", at_most=0.5)))
    assert "12,000 rows/s │ 20,000 │ SQLite" in text
    assert "60% │ ≥ 60% │ yes" in text
    assert "8.85 µs │   10.6 │ sqlite3" in text
    assert "83% │ ≤ 50% │ no" in text


def test_the_report_reads_back_as_json() -> None:
    report = report_of([RATE], {"cores": 2})
    assert report["machine"] == {"cores": 2}
    (figure,) = report["figures"]
    assert figure["atoll"] == 12_000
    assert figure["ratio"] == 0.6
    assert figure["goal"] == "≥ 60%"
    assert figure["met"] is True
    assert report["curves"] == []


def test_what_was_not_measured_says_why_and_meets_and_misses_nothing() -> None:
    missing = Figure(
        "clients",
        "writes",
        "/s",
        700,
        "Redis",
        goal=Goal("ratio", at_least=1),
        not_measured="no redis-server",
    )
    assert missing.met is None
    assert "700 /s" in shown(missing)
    assert "not measured: no redis-server" in shown(missing)
    assert missing.as_json()["not_measured"] == "no redis-server"
    assert shown(Figure("clients", "writes", "/s", None, "Redis", not_measured="gone")).count("gone") == 1


def test_curves_are_reported_apart() -> None:
    curve = Curve(
        "growth", "by-size", "By size", "bytes", "rows/s", {"Atoll": [(100, 5.0), (1000, 4.0)]}, log_x=True
    )
    report = report_of([RATE, curve], {})
    assert len(report["figures"]) == 1
    (found,) = report["curves"]
    assert found["lines"] == {"Atoll": [[100, 5.0], [1000, 4.0]]}
    assert found["log_x"] is True


def test_what_was_measured_again_takes_its_place() -> None:
    def report(at: str, **values: float) -> dict[str, object]:
        figures = [Figure(name, measure, "/s", value) for name, measure, value in _named(values)]
        return report_of(figures, {"at": at, "cores": 2})

    merged = measured_again(report("monday", a_x=1, b_x=2, b_y=3, c_x=4), report("friday", b_x=5, b_z=6))
    found = [(figure["name"], figure["measure"], figure["atoll"]) for figure in merged["figures"]]
    assert found == [("a", "x", 1), ("b", "x", 5), ("b", "z", 6), ("c", "x", 4)]
    assert merged["machine"] == {"at": "monday", "cores": 2, "again": {"b": "friday"}}
    loaded = report("sunday", c_x=7)
    loaded["machine"]["load"] = [9.0, 4.5, 2.0]
    told = measured_again(merged, loaded)["machine"]["again"]["c"]
    assert told == "sunday, at a load of 4.5 in the last five minutes"


def _named(values: dict[str, float]) -> list[tuple[str, str, float]]:
    return [(name[0], name[2], value) for name, value in values.items()]
