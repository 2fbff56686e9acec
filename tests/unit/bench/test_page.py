from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench.__main__ import MEASURES
from bench.figures import Curve, Figure, Goal, report_json, report_of
from bench.page import SECTIONS, write_page

MACHINE = {
    "at": "2026-11-25T12:00:00+00:00",
    "took_seconds": 120.0,
    "cores": 2,
    "processor": "some processor",
    "memory_gb": 24,
    "system": "Linux x86_64",
    "python": "3.11.7",
    "sqlite": "3.50.0",
    "atoll": "0.1.0",
    "libraries": {"aiohttp": "3.14"},
    "quick": False,
}
WRITES = Figure(
    "clients",
    "durable writes, in process",
    "/s",
    4_000,
    "Redis 7, redis-py",
    2_000,
    Goal("ratio", at_least=3),
    durability="appendfsync always",
)
CURVE = Curve(
    "growth", "by-size", "By size", "bytes", "rows/s", {"Atoll": [(100, 5.0), (1_000, 4.0)]}, log_x=True
)


def page(folder: Path, *measured: Figure | Curve, reasons: str = "", **machine: Any) -> str:
    source = folder / "source"
    source.mkdir(exist_ok=True)
    (source / "results.json").write_text(report_json(report_of(measured, {**MACHINE, **machine})))
    (source / "reasons.toml").write_text(reasons)
    write_page(source, folder / "docs")
    return (folder / "docs" / "performance.md").read_text()


def test_goals_ratios_and_durability_are_told(tmp_path: Path) -> None:
    text = page(tmp_path, WRITES)
    line = "| durable writes, in process | 4,000 /s | 2,000 | Redis 7, redis-py | 2.00× | ≥ 3× | **no** |"
    assert line in text
    assert "| Redis 7 | appendfsync always |" in text
    assert "2 cores of some processor" in text


def test_a_missed_goal_has_its_reason_or_says_that_there_is_none(tmp_path: Path) -> None:
    assert "durable writes, in process** against Redis 7, redis-py: not explained yet." in page(
        tmp_path, WRITES
    )
    text = page(tmp_path, WRITES, reasons='"durable writes, in process" = """\nmost goes\nto fsync"""')
    assert "redis-py: most goes to fsync\n" in text
    assert "redis-py: by the group\n" in page(tmp_path, WRITES, reasons='clients = "by the group"')


def test_what_was_not_measured_is_neither_met_nor_missed(tmp_path: Path) -> None:
    figure = Figure(
        "clients", "writes", "/s", 9, "Redis", goal=Goal("ratio", at_least=1), not_measured="no server"
    )
    text = page(tmp_path, figure)
    assert "| writes | 9 /s |  | not measured: no server |  | ≥ 1× | not measured |" in text
    assert "Missed" not in text


def test_a_quick_run_is_called_a_placeholder(tmp_path: Path) -> None:
    assert "placeholder" in page(tmp_path, WRITES, quick=True)
    assert "placeholder" not in page(tmp_path, WRITES)


def test_plots_are_the_same_bytes_for_the_same_figures(tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "performance"
    text = page(tmp_path, WRITES, CURVE)
    first = {path.name: path.read_bytes() for path in folder.glob("*.svg")}
    assert first.keys() == {"writes.svg", "by-size.svg"}
    assert all(f"(performance/{name})" in text for name in first)
    page(tmp_path, WRITES, CURVE)
    assert {path.name: path.read_bytes() for path in folder.glob("*.svg")} == first
    page(tmp_path, WRITES)
    assert not (folder / "by-size.svg").exists()


def test_a_soak_is_a_section_of_its_own(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    soak = Figure("soak", "regions equal at the end", "", 1.0, goal=Goal("value", at_least=1))
    (source / "soak.json").write_text(report_json(report_of([soak], {**MACHINE, "minutes": 30})))
    text = page(tmp_path, WRITES)
    assert "## Soak" in text
    assert ", 30 minutes |" in text


def test_results_without_their_machine_are_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"figures": [], "curves": []}))
    with pytest.raises(KeyError):
        write_page(tmp_path, tmp_path / "docs")


def test_whatever_is_measured_has_a_place_on_the_page() -> None:
    assert MEASURES.keys() | {"soak", "recovery on virtual time"} == SECTIONS.keys()
