"""`python -m bench.scale [--regions 3 5 …] [--only NAME] [--json FILE]`: what grows with the number of regions.

All but `memory`, `serving` and `batching` is virtual time: the same seed gives the same figures on every
machine. `--page` writes the tables into docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from atoll.simulation.geography import PLACES
from bench.rounds import Say
from bench.scaling import experiments, memory, serving, sizes
from bench.scaling.page import PAGE, filled, tables

LATEST = Path(__file__).with_name("results") / "scale.json"
REGIONS = (3, 5, 9, 20, 30)
EXPERIMENTS: Mapping[str, Callable[[int, int], Mapping[str, float]]] = {
    "idle": experiments.idle,
    "propagation": experiments.propagation,
    "relayed": experiments.relayed,
    "healing": experiments.healing,
    "audit": experiments.audit,
}
SECTIONS = ("sizes", *EXPERIMENTS, "memory", "serving", "batching")
_ROUNDS = 3
_SECONDS = 2.0


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    progress = Console(stderr=True)
    started = time.monotonic()
    results: dict[str, Any] = json.loads(options.json.read_text("utf-8")) if options.json.exists() else {}
    results |= {"regions": options.regions, "seed": options.seed, "machine": _machine()}
    with progress.status("") as status:

        def say(what: str) -> None:
            line = f"{time.monotonic() - started:4.0f} s  {what}"
            status.update(line)
            if not progress.is_terminal:
                progress.print(line)

        for name in options.only or SECTIONS:
            results[name] = _section(name, options.regions, options.seed, say)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    for name, table in tables(results).items():
        Console(soft_wrap=True).print(f"\n{name}\n{table}", highlight=False, markup=False)
    progress.print(f"written to {options.json}, after {time.monotonic() - started:.0f} s")
    if options.page:
        PAGE.write_text(filled(PAGE.read_text("utf-8"), results), "utf-8")
        progress.print(f"and into {PAGE}")
    return 0


def _section(name: str, regions: Sequence[int], seed: int, say: Say) -> dict[str, Any]:
    """By number of regions; `batching` by writers and documents."""
    if name == "serving":
        return _serving(regions, say)
    if name == "batching":
        return _batching(say)
    found: dict[str, Any] = {}
    for count in regions:
        say(f"{name}, {count} regions")
        if name == "sizes":
            found[str(count)] = sizes.measure(PLACES[:count])
        elif name == "memory":
            found[str(count)] = memory.measure(count)
        else:
            found[str(count)] = EXPERIMENTS[name](count, seed)
    return found


def _serving(regions: Sequence[int], say: Say) -> dict[str, Any]:
    loads = [serving.Load(PLACES[:count], served) for count in regions for served in (False, True)]
    rates = serving.measure(loads, rounds=_ROUNDS, seconds=_SECONDS, say=say)
    return {
        str(count): {
            "alone_per_s": round(rates[2 * at].entries_per_s),
            "alone_cpu_us": round(rates[2 * at].cpu_us),
            "serving_per_s": round(rates[2 * at + 1].entries_per_s),
            "serving_cpu_us": round(rates[2 * at + 1].cpu_us),
        }
        for at, count in enumerate(regions)
    }


def _batching(say: Say) -> dict[str, Any]:
    loads = [
        serving.Load(PLACES[:3], False, writers=writers, documents=documents)
        for writers, documents in serving.BATCHING
    ]
    rates = serving.measure(loads, rounds=_ROUNDS, seconds=_SECONDS, say=say)
    return {
        f"{load.writers}×{load.documents}": {
            "entries_per_s": round(rate.entries_per_s),
            "documents_per_s": round(rate.entries_per_s * load.documents),
            "cpu_us_per_document": round(rate.cpu_us / load.documents, 1),
        }
        for load, rate in zip(loads, rates, strict=True)
    }


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument(
        "--regions", type=_count, nargs="+", default=list(REGIONS), metavar="N", help="default: 3 5 9 20 30"
    )
    parser.add_argument("--only", action="append", choices=SECTIONS, help="this section; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=LATEST, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--page", action="store_true", help=f"write the tables into {PAGE.name}")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    count = int(text)
    if not 3 <= count <= len(PLACES):
        raise argparse.ArgumentTypeError(f"3 to {len(PLACES)} regions have a place on the map")
    return count


def _machine() -> dict[str, object]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[1], 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
