"""What the documentation points at is there: files, names in them, pages and headings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_NAME_IN_FILE = re.compile(r"`([\w.]+)` in `([\w./]+\.py)`")
_FILE = re.compile(r"`([\w.]+(?:/[\w.]+)*\.(?:py|sql))(?:::\w+)?`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_WRITTEN_BY_READERS = {"shop.py", "board.py"}


def text_of(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def file_of(name: str) -> Path | None:
    found = [ROOT / name, ROOT / "src" / "atoll" / name]
    return next((path for path in found if path.is_file()), None)


def anchors_of(page: Path) -> set[str]:
    """Headings as GitHub makes them addresses."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_are_named_exist(page: Path) -> None:
    named = {name for name in _FILE.findall(text_of(page)) if name not in _WRITTEN_BY_READERS}
    assert {name for name in named if file_of(name) is None} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_that_is_named_is_in_its_file(page: Path) -> None:
    missing = []
    for name, file in _NAME_IN_FILE.findall(" ".join(text_of(page).split())):
        path = file_of(file)
        definition = rf"^\s*(?:(?:async )?def|class) {name.rpartition('.')[2]}\b"
        if path is None or not re.search(definition, path.read_text("utf-8"), re.MULTILINE):
            missing.append(f"{name} in {file}")
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in _LINK.findall(text_of(page)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.is_file() or (anchor and anchor not in anchors_of(target)):
            lost.append(link)
    assert lost == []
