"""Documents from one region to another, end to end, beside PostgreSQL's own replication and pouchdb-server's.

Both sides of each pair are processes; writers are another. A round is timed from the first write until the
other side shows the last one, and afterwards the other side must hold every one of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Protocol

from atoll.testing.postgres_server import PostgresServer
from bench.callers import apart
from bench.documents import document_key
from bench.figures import Figure, Goal
from bench.load import LoadResult, load, put_document
from bench.memory import batch_of
from bench.peers import NotMeasured, postgresql, pouchdb
from bench.propagation import lag_ms
from bench.regions import PREFIX
from bench.rounds import Say, Scale
from bench.served import Served, connect, linked, serving, wait_for

WRITERS = 64
BATCH = 500
BATCH_WRITERS = 4
STORES = ("sqlite", "postgresql")
"""Where Atoll's two regions keep their documents: `sqlite`, or `postgresql` for a server each."""
_FRESH = 600_000
"""From here on documents are new, whatever was compared with PostgreSQL."""
_TIMEOUT_S = 300.0
_LOOK_S = 0.01


class Pair(Protocol):
    """Two sides that replicate; documents have numbers, and none is written twice."""

    label: str
    durability: str

    def write_singly(self, first: int, count: int) -> float:
        """One a transaction; returns when the first one left."""
        ...

    def write_batches(self, first: int, count: int) -> float: ...

    def shows(self, number: int) -> bool:
        """Whether the other side has it."""
        ...

    def count(self) -> int:
        """Of documents at the other side."""
        ...

    def cut(self, cut: bool) -> None:
        """Whether the other side gets anything."""
        ...

    def lag_ms(self, samples: int, first: int) -> list[float]: ...


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    figures: list[Figure] = []
    for store in STORES:
        figures += _measure(store, scale, folder / store, say)
    return figures


def _measure(store: str, scale: Scale, folder: Path, say: Say) -> list[Figure]:
    folder.mkdir()
    with atoll_pair(folder, store) as ours:
        try:
            with postgres_pair(folder / "postgresql") as theirs:
                figures = _beside(ours, theirs, scale, say)
        except NotMeasured as error:
            figures = [_missing("PostgreSQL", name, str(error)) for name in _NAMES]
        rates = {
            name: rate(ours, name, scale.rows // 5, first, say)
            for name, first in zip(_NAMES[:2], (_FRESH, _FRESH + scale.rows), strict=True)
        }
    try:
        with pouch_pair(folder / "pouchdb", say, install=scale.install) as theirs:
            return figures + _far_beside(ours.label, rates, theirs, scale, say)
    except NotMeasured as error:
        return figures + [_missing("pouchdb-server", name, str(error)) for name in _NAMES[:2]]


_NAMES = (f"{BATCH} documents a transaction", "one document a transaction", "after a cut")


def _beside(ours: Pair, theirs: Pair, scale: Scale, say: Say) -> list[Figure]:
    figures = []
    first = 0
    for name in _NAMES:
        found: dict[str, list[float]] = {ours.label: [], theirs.label: []}
        for _ in range(scale.rounds):
            for pair in (ours, theirs):
                found[pair.label].append(rate(pair, name, scale.rows, first, say))
            first += scale.rows
        goal = None if name == _NAMES[2] else Goal("ratio", at_least=1)
        figures.append(_figure(name, ours.label, found[ours.label], theirs, found[theirs.label], goal=goal))
    lags: dict[str, list[float]] = {}
    for pair in (ours, theirs):
        say(f"lag of one write: {pair.label}")
        lags[pair.label] = pair.lag_ms(scale.samples, first)
    mine, others = lags[ours.label], lags[theirs.label]
    lag = Figure(
        name="replication",
        measure=f"lag of one write at idle, {ours.label}, p50",
        unit="ms",
        value=median(mine),
        peer=theirs.label,
        peer_value=median(others),
        goal=Goal("ratio", at_most=1),
        durability=theirs.durability,
        details={"p90_ms": quantiles(mine, n=10)[-1], "peer_p90_ms": quantiles(others, n=10)[-1]},
    )
    return [*figures, lag]


def _far_beside(label: str, rates: dict[str, float], theirs: Pair, scale: Scale, say: Say) -> list[Figure]:
    """Pouchdb-server is given fewer documents, in one round: it would hold up the run."""
    figures = []
    first = 0
    for name, ours in rates.items():
        rows = scale.pouch_rows if name == _NAMES[0] else scale.pouch_rows // 5
        others = [rate(theirs, name, rows, first, say)]
        first += rows
        figures.append(_figure(name, label, [ours], theirs, others, goal=Goal("ratio", at_least=10)))
    say(f"lag of one write: {theirs.label}")
    lag = theirs.lag_ms(min(scale.samples, 20), first)
    return [
        *figures,
        Figure(
            name="replication",
            measure="lag of one write at idle, the peer alone, p50",
            unit="ms",
            value=None,
            peer=theirs.label,
            peer_value=median(lag),
            durability=theirs.durability,
        ),
    ]


def _figure(
    name: str, label: str, ours: list[float], theirs: Pair, others: list[float], *, goal: Goal | None
) -> Figure:
    return Figure(
        name="replication",
        measure=f"replicated, {name}, {label}",
        unit="rows/s",
        value=median(ours),
        peer=theirs.label,
        peer_value=median(others),
        goal=goal,
        durability=theirs.durability,
        details={"atoll_rounds": ours, "peer_rounds": others},
    )


def _missing(peer: str, name: str, reason: str) -> Figure:
    return Figure("replication", f"replicated, {name}", "rows/s", None, peer, not_measured=reason)


def rate(pair: Pair, name: str, rows: int, first: int, say: Say) -> float:
    """Rows a second, to the other side. Raises NotMeasured when they do not all arrive."""
    say(f"{rows:,} documents: {name}, {pair.label}")
    before = pair.count()
    write = pair.write_singly if name == _NAMES[1] else pair.write_batches
    if name == _NAMES[2]:
        pair.cut(True)
        write(first, rows)
        started = perf_counter()
        pair.cut(False)
        seen = _seen(lambda: pair.shows(first + rows - 1), lambda: None)
    else:
        with ThreadPoolExecutor(1) as writer:
            writing = writer.submit(write, first, rows)
            seen = _seen(
                lambda: pair.shows(first + rows - 1), lambda: writing.result() if writing.done() else None
            )
            started = writing.result()
    deadline = time.monotonic() + 10
    while pair.count() != before + rows:
        if time.monotonic() > deadline:
            raise NotMeasured(f"{pair.label} holds {pair.count() - before:,} of {rows:,} documents")
        time.sleep(_LOOK_S)
    return rows / (seen - started)


def _seen(shown: Callable[[], bool], check: Callable[[], object]) -> float:
    deadline = perf_counter() + _TIMEOUT_S
    while not shown():
        check()
        if perf_counter() > deadline:
            raise NotMeasured(f"not replicated within {_TIMEOUT_S:.0f} s")
        time.sleep(_LOOK_S)
    return perf_counter()


class _Atoll:
    durability = "fsync before every acknowledgement"

    def __init__(self, here: Served, there: Served, store: str) -> None:
        self.label = f"Atoll on {'SQLite' if store == 'sqlite' else 'PostgreSQL'}"
        self._here, self._there = here, there
        self._reader = connect(there.url)

    def write_singly(self, first: int, count: int) -> float:
        put = partial(put_document, prefix=PREFIX, first=first)
        return _started(load(self._here.url, put, requests=count, connections=WRITERS, warmup=0))

    def write_batches(self, first: int, count: int) -> float:
        post = partial(batch_of, first=first, size=BATCH)
        return _started(
            load(self._here.url, post, requests=count // BATCH, connections=BATCH_WRITERS, warmup=0)
        )

    def shows(self, number: int) -> bool:
        self._reader.request("GET", PREFIX + document_key(number))
        response = self._reader.getresponse()
        response.read()
        return response.status == 200

    def count(self) -> int:
        return sum(self._there.ask("GET", "/admin/statistics")["documents"].values())

    def cut(self, cut: bool) -> None:
        self._there.cut("here", cut)
        self._here.cut("there", cut)

    def lag_ms(self, samples: int, first: int) -> list[float]:
        return lag_ms(self._here, self._there, samples, first)


def _started(result: LoadResult) -> float:
    assert result.all_ok, dict(result.statuses)
    return result.started


@contextmanager
def atoll_pair(folder: Path, store: str = "sqlite") -> Iterator[Pair]:
    with ExitStack() as stack:
        stores = {}
        if store == "postgresql":
            for name in ("here", "there"):
                server = stack.enter_context(PostgresServer(folder / f"store-{name}"))
                stores[name] = server.create_database("atoll")
        place = folder / "atoll"
        place.mkdir()
        here, there = stack.enter_context(serving(place, ["here", "there"], stores=stores))
        linked([here, there])
        yield _Atoll(here, there, store)


class _Postgres:
    durability = postgresql.DURABILITY

    def __init__(self, here: PostgresServer, there: PostgresServer) -> None:
        self.label = postgresql.label(here)
        self._here, self._there = here, there
        self._watch = postgresql.Watch(there.url())

    def write_singly(self, first: int, count: int) -> float:
        return apart(postgresql.write_singly, self._here.url(), WRITERS, count, first).started

    def write_batches(self, first: int, count: int) -> float:
        return apart(postgresql.write_batches, self._here.url(), BATCH_WRITERS, count, BATCH, first).started

    def shows(self, number: int) -> bool:
        return self._watch.shows(number)

    def count(self) -> int:
        return self._watch.count()

    def cut(self, cut: bool) -> None:
        self._there.sql(f"ALTER SUBSCRIPTION from_here {'DISABLE' if cut else 'ENABLE'}")

    def lag_ms(self, samples: int, first: int) -> list[float]:
        return apart(postgresql.lag_ms, self._here.url(), self._there.url(), samples, first)

    def close(self) -> None:
        self._watch.close()


@contextmanager
def postgres_pair(folder: Path) -> Iterator[Pair]:
    with postgresql.replicating(folder) as (here, there):
        pair = _Postgres(here, there)
        try:
            yield pair
        finally:
            pair.close()


class _Pouch:
    label = f"pouchdb-server {pouchdb.VERSION}"
    durability = pouchdb.DURABILITY

    def __init__(self, here: pouchdb.Served, there: pouchdb.Served) -> None:
        self._here, self._there = here, there

    def write_singly(self, first: int, count: int) -> float:
        put = partial(pouchdb.put_document, first=first)
        return _started(load(self._here.url, put, requests=count, connections=WRITERS, warmup=0))

    def write_batches(self, first: int, count: int) -> float:
        post = partial(pouchdb.batch_of, size=BATCH, first=first)
        requests = max(2, count // BATCH)
        return _started(load(self._here.url, post, requests=requests, connections=1, warmup=0))

    def shows(self, number: int) -> bool:
        return self._there.shows(number)

    def count(self) -> int:
        return self._there.count()

    def cut(self, cut: bool) -> None:
        raise NotMeasured("replication of pouchdb-server is not cut here")

    def lag_ms(self, samples: int, first: int) -> list[float]:
        took_ms = []
        for number in range(first, first + samples):
            self._here.put(number)
            acknowledged = perf_counter()
            wait_for(lambda number=number: self.shows(number), "pouchdb-server has not replicated")  # type: ignore[misc]
            took_ms.append((perf_counter() - acknowledged) * 1000)
        return took_ms


@contextmanager
def pouch_pair(folder: Path, say: Say, *, install: bool) -> Iterator[Pair]:
    with pouchdb.replicating(folder, say, install=install) as (here, there):
        yield _Pouch(here, there)
