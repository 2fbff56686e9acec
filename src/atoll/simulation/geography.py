"""Thirty cloud regions and what was measured between them, for deployments as large as one wants to look at.

`round_trips.csv` holds median round trips over 30 days until 30 July 2026, in milliseconds. Microsoft publishes
them for Azure: https://learn.microsoft.com/azure/networking/azure-network-latency. Each is the rounded mean of
both directions. No pair is missing. The places stand in the order in which deployments grow: the first three,
five, nine and twenty are spread over the world too.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from importlib.resources import files


def _read() -> dict[str, dict[str, int]]:
    text = files("atoll.simulation").joinpath("round_trips.csv").read_text("utf-8")
    head, *rows = csv.reader(text.splitlines())
    return {row[0]: dict(zip(head[2:], map(int, row[2:]), strict=False)) for row in rows}


_ROUND_TRIPS_MS = _read()
"""place → each place before it → milliseconds"""

PLACES = tuple(_ROUND_TRIPS_MS)


def round_trip_ms(one: str, other: str) -> int:
    """Raises KeyError for a place that is not there, and for one place twice."""
    nearer = _ROUND_TRIPS_MS[one]
    return nearer[other] if other in nearer else _ROUND_TRIPS_MS[other][one]


def one_way_s(places: Iterable[str]) -> dict[tuple[str, str], float]:
    """Half the round trip, in seconds, for every direction between these places."""
    wanted = tuple(places)
    return {
        (one, other): round_trip_ms(one, other) / 2000 for one in wanted for other in wanted if one != other
    }
