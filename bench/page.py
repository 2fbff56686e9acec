"""`python -m bench.page [RESULTS] [--soak FILE]`: docs/performance.md and its plots, from what was measured.

With RESULTS, that run becomes the page's; without, the page is written anew from docs/performance/results.json.
Nothing on the page is written by hand but the texts here, and docs/performance/reasons.toml, which says for a missed
goal why it is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from os.path import commonprefix
from pathlib import Path
from typing import Any

from bench import plots
from bench.figures import number, ratio_text

DOCS = Path(__file__).parents[1] / "docs"
RESULTS, SOAK, REASONS = "results.json", "soak.json", "reasons.toml"
Record = Mapping[str, Any]

_HEAD = """# Performance

Written by `make performance` from [results.json](performance/results.json) and
[soak.json](performance/soak.json); `bench/page.py` makes it, and a test holds it to them.
`make bench` measures again, with the peers in the same run: it starts them itself, from packages;
`python -m bench.soak` soaks for half an hour; and
`make performance ARGS="bench/results/latest.json --soak bench/results/soak.json"` takes both over.

Read ratios, not rates: on a shared machine the same code moves by 15–40% from run to run, and both sides of a ratio
met the same minutes. Every figure is the median of its rounds, in which the sides take turns. Atoll acknowledges a
write after its fsync, always; what a peer has done by then stands beside it.
"""
_PLACEHOLDER = """
> **A placeholder.** These figures are of a quick run. They show what is measured, and nothing about
> how fast anything is.
"""
SECTIONS = {
    "clients": (
        "What a Python user gets",
        "Sixty-four concurrent callers in one process, each waiting for its acknowledgement, with the driver that its"
        " users have; servers are other processes. `atoll.open` has no server: the region is in the caller's process.",
    ),
    "replication": (
        "From region to region",
        "Two processes (of each system), another one that writes: from the first write until the other side shows the"
        " last, and holds all of them. *After a cut* is the backlog of a cut link, from its healing on.",
    ),
    "commit": (
        "Commits",
        "Sixty-four writers in one process, against SQLite with the same rows and batches.",
    ),
    "escrow": (
        "Escrow",
        "A region of three, in process. It holds the rights that it sells, and each sale is durable here.",
    ),
    "apply": ("Applying what a peer sends", "From the link's frames to durable, against SQLite alone."),
    "http": ("HTTP", "`atoll serve`, durable, against the barest ASGI application over a dictionary."),
    "read": ("Reads by key", "In process, against `sqlite3` of the standard library."),
    "propagation": ("Propagation", "One write at idle, with emulated distance."),
    "latency": ("One caller", "What a single caller waits."),
    "conflicts": (
        "Conflicts",
        "Every document was written in both regions: documents a second from the link's frames to durable, resolved"
        " and recorded. The *window* is how long after a write's acknowledgement a write of the same document"
        " elsewhere still clashes with it.",
    ),
    "recovery": (
        "Failures",
        "Three regions under load, 25 ms apart; of several failures the worst. One kind of callers writes to the"
        " failing region only, one through Atoll's client, which fails over. Emulated distance is added where entries"
        " arrive, so a lost region takes less with it here than over a real ocean: there, what it had acknowledged in"
        " the last one-way delay and had not sent is lost with its disk. A machine that loses its page cache cannot be"
        " had here; the table below has it.",
    ),
    "recovery on virtual time": (
        "Failures, simulated",
        "The real region code on simulated networks and disks: for each failure five regions, drawn anew from thirty,"
        " at the distances that were measured between them, each written to throughout. Processes take no time here, so"
        " what is measured is waiting: for the network, for a silent link to be given up (3 s) and for a dead node's"
        " leases to end (3 s). Of many failures the longest times, and all that was lost. The same on every machine.",
    ),
    "growth": (
        "How cost grows",
        "Writes replace documents that are there, so their number stays. All regions share the cores of this machine.",
    ),
    "bulk": ("Import and export", "Rows of a file through `atoll import` and `atoll export`, over HTTP."),
    "nodes": (
        "Several nodes of a region",
        "One, two and four nodes on one PostgreSQL. They, the database and the callers share the cores of this machine,"
        " so the curve flattens where these end.",
    ),
    "strong": (
        "Strong documents, far apart",
        "Three regions, a process each, and an etcd cluster of three members: 150, 230 and 90 ms round trip from tokyo"
        " to virginia, from tokyo to frankfurt and from frankfurt to virginia. Callers write a kilobyte at their own"
        " region's process, over bare connections: HTTP to Atoll, gRPC to etcd, whose leader is in virginia. A document"
        " belongs to the region that has written it last. All processes share the cores of this machine.",
    ),
    "strong, near": (
        "Strong documents, without distance",
        "The same processes, with no distance between them, and callers in all three regions at once.",
    ),
    "sagas": (
        "Sagas",
        "A saga of three steps in one region, and workflows of three steps in DBOS and Temporal. Two steps change a"
        " document, but in Temporal, which keeps none. The one between acts outside, and takes no time. All run in the"
        " program that starts them.",
    ),
    "memory": ("Memory", "Of `atoll serve`."),
    "soak": (
        "Soak",
        "Three regions at 70% of what they can, writing the same documents; every minute one of them is cut off for ten"
        " seconds. Three minutes of the journal are kept, and 20,000 conflicts, so that both come and go meanwhile.",
    ),
}


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    folder = DOCS / "performance"
    folder.mkdir(exist_ok=True)
    for given, name in ((options.results, RESULTS), (options.soak, SOAK)):
        if given is not None:
            (folder / name).write_text(given.read_text("utf-8"), "utf-8")
    write_page(folder, DOCS)
    print(f"written: {DOCS / 'performance.md'}")
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.page", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, help="of `python -m bench`")
    parser.add_argument("--soak", type=Path, help="of `python -m bench.soak`")
    return parser.parse_args(arguments)


def write_page(source: Path, docs: Path) -> None:
    """The page into `docs`, its plots beside it, from the JSON in `source`; plots of earlier runs are removed."""
    runs = [json.loads((source / RESULTS).read_text("utf-8"))]
    if (source / SOAK).exists():
        runs.append(json.loads((source / SOAK).read_text("utf-8")))
    reasons = source / REASONS
    why = tomllib.loads(reasons.read_text("utf-8")) if reasons.exists() else {}
    figures = [figure for run in runs for figure in run["figures"]]
    folder = docs / "performance"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    drawn = dict.fromkeys(SECTIONS, "")
    for group, markdown in _draw(folder, runs, figures):
        drawn[group] += markdown
    parts = [
        _HEAD,
        _PLACEHOLDER if runs[0]["machine"]["quick"] else "",
        _where(runs),
        _goals(figures, why),
        _peers(figures),
        *_sections(figures, drawn),
    ]
    (docs / "performance.md").write_text(
        "\n".join(part.strip("\n") + "\n" for part in parts if part), "utf-8"
    )


# -- tables --------------------------------------------------------------------------------------------


def _where(runs: Sequence[Record]) -> str:
    about = runs[0]["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in about["libraries"].items())
    rows = [
        (
            "Machine",
            f"{about['cores']} cores of {about['processor']}, {about['memory_gb']} GB, {about['system']}",
        ),
        ("Measured", f"{about['at']}, in {about['took_seconds'] / 60:.0f} minutes"),
        *((f"Measured again: {name}", at) for name, at in about.get("again", {}).items()),
        ("With", f"Atoll {about['atoll']}, Python {about['python']}, SQLite {about['sqlite']}, {libraries}"),
    ]
    if len(runs) > 1:
        soak = runs[1]["machine"]
        rows.append(("Soak", f"{soak['at']}, {soak['minutes']:g} minutes"))
    return "## Where\n\n" + _table(("", ""), rows)


def _goals(figures: Sequence[Record], why: Record) -> str:
    rows = [
        (*_compared(figure), figure["goal"], _verdict(figure))
        for figure in figures
        if figure["goal"] is not None
    ]
    headings = ("goal of", "Atoll", "peer", "", "ratio", "bound", "met")
    text = "## Goals\n\n" + _table(headings, rows)
    missed = [figure for figure in figures if figure["met"] is False]
    if missed:
        text += "\n### Missed, and why\n\n"
        for figure in missed:
            against = f" against {figure['peer']}" if figure["peer"] else ""
            text += f"- **{figure['measure']}**{against}: {_reason(figure, why)}\n"
    return text


def _reason(figure: Record, why: Record) -> str:
    """What reasons.toml says of the measure, or of its group."""
    reason = why.get(figure["measure"]) or why.get(figure["name"])
    return " ".join(str(reason).split()) if reason else "not explained yet."


def _peers(figures: Sequence[Record]) -> str:
    found = {f["peer"].partition(",")[0]: f["durability"] for f in figures if f["durability"]}
    rows = [("Atoll", "fsync before every acknowledgement"), *found.items()]
    return "## What an acknowledgement means\n\n" + _table(("", "when a write is acknowledged"), rows)


def _sections(figures: Sequence[Record], drawn: Mapping[str, str]) -> Iterator[str]:
    for group, (heading, text) in SECTIONS.items():
        rows = [_compared(figure) for figure in figures if figure["name"] == group]
        table = _table(("", "Atoll", "peer", "", "ratio"), rows) if rows else ""
        if table or drawn[group]:
            yield f"## {heading}\n\n{text}\n\n{table}{drawn[group]}"


def _compared(figure: Record) -> tuple[str, ...]:
    unit = figure["unit"]
    ratio = figure["ratio"]
    return (
        figure["measure"],
        "" if figure["atoll"] is None else f"{number(figure['atoll'])} {unit}".strip(),
        "" if figure["peer_value"] is None else number(figure["peer_value"]),
        f"not measured: {figure['not_measured']}" if figure["not_measured"] else figure["peer"] or "",
        "" if ratio is None else ratio_text(ratio),
    )


def _verdict(figure: Record) -> str:
    return {None: "not measured", True: "yes", False: "**no**"}[figure["met"]]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


# -- plots ---------------------------------------------------------------------------------------------


def _draw(folder: Path, runs: Sequence[Record], figures: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """(group, Markdown that shows the plot) of each plot that there is something for."""
    for slug, group, title, unit in (
        ("writes", "clients", "Durable writes, 64 at a time", "/s"),
        ("reads", "clients", "Read by key, p50", "µs"),
        ("replicated", "replication", "Replicated, end to end", "rows/s"),
        ("resolved", "conflicts", "Conflicts resolved", "/s"),
    ):
        found = list(_contestants([f for f in figures if (f["name"], f["unit"]) == (group, unit)]))
        if found:
            plots.bars(folder / f"{slug}.svg", title, unit, found)
            yield group, _shown(slug, title)
    for run in runs:
        for curve in run["curves"]:
            plots.lines(folder / f"{curve['slug']}.svg", curve)
            yield curve["name"], _shown(curve["slug"], curve["title"])


def _contestants(figures: Sequence[Record]) -> Iterator[tuple[str, float, bool]]:
    """Everybody once, with what distinguishes the measure."""
    measures = [figure["measure"] for figure in figures]
    common = commonprefix(measures) if len(figures) > 1 else ""  # noqa: RUF071 (measures are no paths)
    seen = set()
    for figure in figures:
        for label, value, ours in (
            (figure["measure"].removeprefix(common).removesuffix(", p50"), figure["atoll"], True),
            (_peer_label(figure), figure["peer_value"], False),
        ):
            if value is not None and (label, value) not in seen:
                seen.add((label, value))
                yield label, value, ours


def _peer_label(figure: Record) -> str:
    """A peer that is held against several measures does not do the same in each."""
    parts = figure["measure"].split(", ")
    return f"{parts[1]}, {figure['peer']}" if figure["name"] == "replication" else str(figure["peer"])


def _shown(slug: str, title: str) -> str:
    return f"\n![{title}](performance/{slug}.svg)\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
