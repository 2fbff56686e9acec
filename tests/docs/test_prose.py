"""Pages and docstrings are in plain technical English: short sentences, and the words of docs/glossary.md."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_WORDS = 25
WRITTEN_BY_MEASUREMENTS = {"performance", "scale"}
"""`bench/` writes these pages, with the sentences that belong to a result."""
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if page.stem not in WRITTEN_BY_MEASUREMENTS
]
MODULES = sorted((ROOT / "src" / "atoll").rglob("*.py"))
_OLD_WORDS = re.compile(
    r"\b(forgo\w*|disown\w*|tenure|succession|reintroduction|lineage|the door|the loser|takes? over a snapshot"
    r"|does it say|is it gone|surely not done|perhaps done|an? turn|standing records?|settled records?)\b",
    re.IGNORECASE,
)


def paragraphs(page: str) -> Iterator[str]:
    """What is read in one breath: a paragraph, an item of a list, a heading, a cell of a table."""
    page = re.sub(r"^```.*?^```$|<!--.*?-->", "\n", page, flags=re.MULTILINE | re.DOTALL)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) |\||#)", page):
        if block.lstrip().startswith("|"):
            yield from (cell for row in block.splitlines() for cell in row.strip("| ").split(" | "))
        else:
            yield block


def sentences(paragraph: str) -> Iterator[str]:
    text = re.sub(r"`[^`]*`", "code", " ".join(paragraph.split()))
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return (each for each in re.split(r"(?<=[.!?])[)*_\"]* +(?=[\[(*_\"]*[A-Z0-9c])| · ", text) if each)


def length(sentence: str) -> int:
    return len(re.findall(r"[\w'’%/.+-]*\w[\w'’%/.+-]*", sentence))


def docstrings(source: str) -> Iterator[str]:
    """Of modules, classes, functions and attributes, without blocks of code and tables, which are indented by four."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", ())
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(ast.Constant(str(text))):
                    yield re.sub(r"(?<=\n\n)(?: {4}.*(?:\n|$))+", "\n", inspect.cleandoc(text))


def long_sentences(text: str) -> list[str]:
    return [
        sentence
        for paragraph in paragraphs(text)
        for sentence in sentences(paragraph)
        if length(sentence) > MOST_WORDS
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_sentences_are_short(page: Path) -> None:
    assert long_sentences(page.read_text("utf-8")) == []


def test_docstrings_are_in_the_same_plain_english() -> None:
    found = []
    for module in MODULES:
        for text in docstrings(module.read_text("utf-8")):
            words = _OLD_WORDS.findall(" ".join(" ".join(paragraphs(text)).split()))
            found += [
                (module.relative_to(ROOT).as_posix(), wrong) for wrong in [*long_sentences(text), *words]
            ]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_use_the_words_of_the_glossary(page: Path) -> None:
    text = " ".join(" ".join(paragraphs(page.read_text("utf-8"))).split())
    assert _OLD_WORDS.findall(text) == []


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("{}", 1),
        ("Short. {}", 1),
        ("- item\n- {}", 1),
        ("| cell | {} |\n|---|---|", 1),
        ("# H\n\n{}", 1),
        ("```text\n{}\n```", 0),
    ],
)
def test_a_long_sentence_is_found_in_every_place(page: str, found: int) -> None:
    long = "Word" + " word" * MOST_WORDS + "."
    each = [sentence for paragraph in paragraphs(page.format(long)) for sentence in sentences(paragraph)]
    assert sum(length(sentence) > MOST_WORDS and sentence.endswith(long) for sentence in each) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('"""{}"""', 1),
        ('x = 1\n"""{}"""', 1),
        ('class A:\n    """Short.\n\n    {}\n    """', 1),
        ('class A:\n    x: int\n    """{}"""', 1),
        ('async def f():\n    """Short.\n\n    - item\n    - {}\n    """', 1),
        ('def f():\n    """Short:\n\n        {}\n        {}\n\n    End."""', 0),
        ('x = "{}"', 0),
    ],
)
def test_a_long_sentence_is_found_in_every_docstring(source: str, found: int) -> None:
    long = "Word" + " word" * MOST_WORDS + "."
    texts = docstrings(source.replace("{}", long))
    assert sum(len(long_sentences(text)) for text in texts) == found
