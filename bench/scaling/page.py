"""The tables of docs/scale.md, from the JSON of a run, between their markers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
_MARKED = re.compile(r"(<!-- scale:(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_SECONDS_A_MONTH = 30 * 86_400

Cell = Callable[[Mapping[str, float]], str]


def filled(page: str, results: Mapping[str, Any]) -> str:
    """The page with every marked table as `results` have it. Raises KeyError for a marker without one."""
    found = tables(results)
    return _MARKED.sub(lambda match: f"{match[1]}{found[match[2]]}\n{match[3]}", page)


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """name → Markdown, of the sections that are there."""
    return {
        name: _table([first, *columns], _rows(results[name], list(columns.values())))
        for name, (first, columns) in _TABLES.items()
        if name in results
    }


def _rows(section: Mapping[str, Mapping[str, float]], cells: Sequence[Cell]) -> Iterable[list[str]]:
    for key, figures in section.items():
        yield [key, *(cell(figures) for cell in cells)]


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---:"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(name: str) -> Cell:
    return lambda figures: f"{figures[name]:,}"


def _both(one: str, other: str) -> Cell:
    return lambda figures: f"{figures[one]:,} · {figures[other]:,}"


def _share(name: str) -> Cell:
    return lambda figures: f"{figures[name]:.1%}"


_TABLES: dict[str, tuple[str, dict[str, Cell]]] = {
    "sizes": (
        "regions",
        {
            "journal entry · of it vector, B": _both("entry", "entry_vector"),
            "on the wire, in batches · of it vectors, B": _both("wire_entry", "wire_entry_vector"),
            "a document's merge state, B": _number("document_meta"),
            "counter that all incremented, B": _number("counter"),
            "audit record, B": _number("audit_row"),
            "session token, characters": _number("token_chars"),
        },
    ),
    "idle": (
        "regions",
        {
            "streams · of one region": _both("streams", "streams_per_region"),
            "messages a second": _number("messages_per_s"),
            "one region sends, B/s": _number("region_sends_bytes_per_s"),
            "and in a month, GB": lambda f: f"{f['region_sends_bytes_per_s'] * _SECONDS_A_MONTH / 1e9:.1f}",
            "had every heartbeat all in it, B/s": _number("region_would_send_bytes_per_s"),
        },
    ),
    "propagation": (
        "regions",
        {
            "delay p50 · p99, ms": _both("delay_p50_ms", "delay_p99_ms"),
            "beyond the network's p50 · p99, ms": _both("beyond_path_p50_ms", "beyond_path_p99_ms"),
            "held for what they had seen": _share("held_for_causes"),
        },
    ),
    "relayed": (
        "regions",
        {
            "pairs cut": _number("pairs_cut"),
            "relayed p50 · p99, ms": _both("delay_p50_ms", "delay_p99_ms"),
            "direct path p50, ms": _number("direct_p50_ms"),
            "shortest detour p50, ms": _number("shortest_detour_p50_ms"),
            "copies of a relayed entry": _number("copies_per_relayed_entry"),
        },
    ),
    "healing": (
        "regions",
        {
            "entries that each half lacks": _number("behind_entries"),
            "converged p50 · longest, s": _both("converged_p50_s", "converged_longest_s"),
        },
    ),
    "audit": (
        "regions",
        {
            "clashes · records in each region": _both("clashes", "rows_in_each_region"),
            "writes to hot documents · records": _both("hot_writes", "hot_rows"),
            "records a write": _number("hot_rows_per_write"),
        },
    ),
    "memory": (
        "regions",
        {"one region, kB": _number("kb_per_region"), "of it for each peer, kB": _number("kb_per_peer")},
    ),
    "serving": (
        "regions",
        {
            "nobody reads: processor time of an entry, µs · entries/s": _both("alone_cpu_us", "alone_per_s"),
            "every peer reads: µs · entries/s": _both("serving_cpu_us", "serving_per_s"),
        },
    ),
    "batching": (
        "writers × documents in an entry",
        {
            "entries/s": _number("entries_per_s"),
            "documents/s": _number("documents_per_s"),
            "processor time of a document, µs": _number("cpu_us_per_document"),
        },
    ),
}
