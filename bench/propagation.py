"""One write at idle: from its acknowledgement in one process until another process shows it."""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path
from random import Random
from statistics import median, quantiles

from bench.documents import document_body, document_key
from bench.figures import Figure, Goal
from bench.regions import PREFIX
from bench.rounds import Say, Scale
from bench.served import Served, connect, serving, wait_for

ONE_WAY_MS = (0, 25, 75)
ALLOWED_MS = 5.0
_TIMEOUT_SECONDS = 10


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    figures = []
    for one_way_ms in ONE_WAY_MS:
        say(f"propagation over {one_way_ms} ms: {scale.samples} writes")
        place = folder / f"propagation-{one_way_ms}"
        place.mkdir()
        took_ms = _propagation_ms(place, one_way_ms, scale.samples)
        figures.append(
            Figure(
                name="propagation",
                measure=f"acknowledged → visible, {one_way_ms} ms one way, p50",
                unit="ms",
                value=median(took_ms),
                goal=Goal("value", at_most=one_way_ms + ALLOWED_MS),
                details={"p90_ms": quantiles(took_ms, n=10)[-1], "samples": len(took_ms)},
            )
        )
    return figures


def _propagation_ms(folder: Path, one_way_ms: float, samples: int) -> list[float]:
    with serving(folder, ["here", "there"], {"here-there": 2 * one_way_ms}) as (here, there):
        return lag_ms(here, there, samples)


def lag_ms(here: Served, there: Served, samples: int, first: int = 0) -> list[float]:
    """From the acknowledgement of one write here until it is seen there, nothing else going on."""
    random = Random("propagation")
    took_ms = []
    writer, reader = connect(here.url), connect(there.url)
    # The first write shows that the link is up.
    _put(writer, first + samples)
    wait_for(lambda: _shown(reader, first + samples), "the first write has not arrived")
    for number in range(first, first + samples):
        time.sleep(random.uniform(0.02, 0.06))
        acknowledged = _put(writer, number)
        deadline = acknowledged + _TIMEOUT_SECONDS
        while not _shown(reader, number):
            if time.perf_counter() > deadline:
                raise TimeoutError(f"write {number} did not arrive within {_TIMEOUT_SECONDS} s")
        took_ms.append((time.perf_counter() - acknowledged) * 1000)
    writer.close()
    reader.close()
    return took_ms


def _put(connection: http.client.HTTPConnection, number: int) -> float:
    """Write document `number`; returns when the acknowledgement was here."""
    headers = {"Content-Type": "application/json"}
    connection.request("PUT", PREFIX + document_key(number), document_body(number), headers)
    response = connection.getresponse()
    answer = response.read()
    acknowledged = time.perf_counter()
    assert response.status == 200, answer
    return acknowledged


def _shown(connection: http.client.HTTPConnection, number: int) -> bool:
    connection.request("GET", PREFIX + document_key(number))
    response = connection.getresponse()
    body = response.read()
    return response.status == 200 and json.loads(body)["key"] == document_key(number)
