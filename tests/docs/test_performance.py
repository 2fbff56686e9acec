"""docs/performance.md and its plots are what the committed results yield, and nothing else."""

from __future__ import annotations

from pathlib import Path

from bench.page import write_page

DOCS = Path(__file__).parents[2] / "docs"
MOST_BYTES = 100_000


def written(docs: Path) -> dict[str, bytes]:
    files = [docs / "performance.md", *sorted((docs / "performance").glob("*.svg"))]
    return {path.name: path.read_bytes() for path in files}


def test_the_page_is_what_the_results_yield(tmp_path: Path) -> None:
    write_page(DOCS / "performance", tmp_path)
    expected, committed = written(tmp_path), written(DOCS)
    assert expected.keys() == committed.keys()
    differing = {name for name in expected if expected[name] != committed[name]}
    assert differing == set(), "run `make performance`"


def test_its_files_are_small() -> None:
    assert max(len(content) for content in written(DOCS).values()) < MOST_BYTES
