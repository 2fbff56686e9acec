"""Rows a second through `atoll import` and `atoll export`, over HTTP, against SQLite alone in batches of that size."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from atoll.bulk.importing import CHUNK_ROWS
from bench.documents import document_body, document_key
from bench.figures import Figure, Goal
from bench.raw import WriteRate, raw_commit_rate
from bench.regions import COLLECTION
from bench.rounds import Say, Scale, interleaved, middle
from bench.served import serving

BATCH = CHUNK_ROWS
_ROUNDS_OF_ENTRIES = 3
"""An import has to outlast several checkpoints."""


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    rows = scale.entries * _ROUNDS_OF_ENTRIES
    source = folder / "rows.jsonl"
    say(f"writing {rows:,} rows")
    _write_rows(source, rows)
    ours, raw = interleaved(
        scale.rounds,
        say,
        "import",
        partial(_in_and_out, folder, source),
        partial(raw_commit_rate, folder, BATCH, scale.seconds),
    )
    return [
        Figure(
            name="bulk",
            measure=f"import of 1 kB rows, JSON Lines over HTTP, batches of {BATCH}",
            unit="rows/s",
            value=middle(ours, lambda each: each[0]),
            peer="SQLite: the same rows and journal rows, batches of that size",
            peer_value=middle(raw, _rate),
            goal=Goal("ratio", at_least=0.5),
            details={
                "rows": rows,
                "atoll_rounds": [each[0] for each in ours],
                "peer_rounds": [_rate(each) for each in raw],
            },
        ),
        Figure(
            name="bulk",
            measure="export of 1 kB rows, JSON Lines over HTTP",
            unit="rows/s",
            value=middle(ours, lambda each: each[1]),
            details={"rows": rows, "atoll_rounds": [each[1] for each in ours]},
        ),
    ]


def _write_rows(path: Path, count: int) -> None:
    with path.open("wb") as file:
        for number in range(count):
            file.write(
                b'{"key":"' + document_key(number).encode() + b'",' + document_body(number)[1:] + b"\n"
            )


def _in_and_out(folder: Path, source: Path) -> tuple[float, float]:
    """Import into an empty region of its own process, and export from it: rows a second each."""
    here = folder / "served"
    here.mkdir()
    try:
        with serving(here, ["here"]):
            imported = _run("import", here, source, "--restart")
            exported = _run("export", here, here / "out.jsonl")
        assert imported["rows"] == exported["rows"]
        return imported["rows"] / imported["seconds"], exported["rows"] / exported["seconds"]
    finally:
        shutil.rmtree(here)


def _run(verb: str, folder: Path, file: Path, *options: str) -> dict[str, float]:
    command = [Path(sys.executable).with_name("atoll"), verb, COLLECTION, file, *options]
    done = subprocess.run(
        [*map(str, command), "--config", str(folder / "atoll.toml"), "--json"],
        stdout=subprocess.PIPE,
        check=True,
    )
    summary: dict[str, float] = json.loads(done.stdout)
    return summary


def _rate(rate: WriteRate) -> float:
    return rate.rows_per_second
