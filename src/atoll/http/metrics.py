"""Prometheus metrics, read from the region when they are asked for: the hot paths count plain integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from atoll.http.bodies import TEXT
from atoll.http.exchange import Exchange
from atoll.http.route import Answer, Route, Serving
from atoll.region.region import Region
from atoll.region.status import JournalStatus, LinkStatus

_CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_COUNTERS = (
    ("atoll_writes", "Local entries committed.", "writes"),
    ("atoll_commits", "Group commits, each one fsync.", "commits"),
    ("atoll_reads", "Documents read.", "reads"),
    ("atoll_forwarded", "Requests that another region answered.", "forwarded"),
    ("atoll_token_waits", "Reads that waited for their session's token.", "token_waits"),
    ("atoll_traceparent_invalid", "Malformed trace contexts that were dropped.", "invalid_traces"),
    ("atoll_parked_changes", "Changes from peers that could not be merged.", "parked"),
    ("atoll_rights_requests", "Times that peers were asked for rights.", "rights_requests"),
    ("atoll_events_left_out", "Events left out since too many came.", "events_left_out"),
    ("atoll_snapshots", "Snapshots of peers that were installed.", "snapshots"),
)
"""(metric, help, what it is called in the region's status)"""


class RegionCollector(Collector):
    def __init__(self, region: Region) -> None:
        self._region = region

    def collect(self) -> Iterator[Metric]:
        status = self._region.status()
        counted = status.counted
        for name, text, key in _COUNTERS:
            yield _counter(name, text, _single(getattr(counted, key)))
        conflicts = {tuple(place.split("/")): number for place, number in counted.conflicts.items()}
        yield _counter(
            "atoll_conflicts", "Conflicts detected in this region.", conflicts, "collection", "kind"
        )
        yield _counter(
            "atoll_entries_applied", "Entries merged from peers.", _keyed(counted.applied), "origin"
        )
        yield _counter("atoll_events", "Events that this node has written.", _keyed(counted.events), "kind")
        yield from _links(status.links)
        yield _gauge(
            "atoll_position", "Highest entry of each origin here.", _keyed(status.position), "origin"
        )
        inbox = _single(status.inbox.bytes)
        yield _gauge("atoll_inbox_bytes", "Entries that wait for what their writers had seen.", inbox)
        yield from _journal(status.journal)
        serving = _single(float(status.serving))
        yield _gauge("atoll_serving", "Whether this region should get traffic.", serving)
        stall = _single(status.loop_stall_s)
        yield _gauge("atoll_loop_stall_seconds", "Longest time of late that the event loop was held.", stall)


_LINKS = (
    (
        GaugeMetricFamily,
        "atoll_lag_seconds",
        "Age of the state that is known to be complete here.",
        "lag_s",
        "origin",
    ),
    (GaugeMetricFamily, "atoll_link_up", "Whether the link to a peer is open.", "connected", "peer"),
    (CounterMetricFamily, "atoll_link_refused", "Frames refused as corrupt or hostile.", "refused", "peer"),
    (CounterMetricFamily, "atoll_link_received_bytes", "Bytes read from a peer.", "received_bytes", "peer"),
)
"""(family, metric, help, what it is called in a link's status, label)"""


def _links(links: Mapping[str, LinkStatus]) -> Iterator[Metric]:
    for family, name, text, key, label in _LINKS:
        measured = {peer: getattr(link, key) for peer, link in links.items()}
        known = {peer: float(value) for peer, value in measured.items() if value is not None}
        yield _filled(family(name, text, labels=(label,)), _keyed(known))


def _journal(kept: JournalStatus) -> Iterator[Metric]:
    yield _gauge("atoll_journal_bytes", "What the journal holds, about.", _single(kept.bytes))
    oldest: Values = {} if kept.oldest_ms is None else _single(kept.oldest_ms / 1000)
    yield _gauge(
        "atoll_journal_oldest_timestamp_seconds", "When the oldest entry was written that is kept.", oldest
    )
    removed = _single(kept.truncated)
    yield _counter("atoll_journal_truncated_segments", "Segments that this node has removed.", removed)


Values = Mapping[tuple[str, ...], float]
"""label values → number"""


def _single(value: float) -> Values:
    return {(): value}


def _keyed(values: Mapping[str, float]) -> Values:
    return {(label,): number for label, number in sorted(values.items())}


def _counter(name: str, text: str, values: Values, *labels: str) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), values)


def _gauge(name: str, text: str, values: Values, *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), values)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, values: Values) -> Metric:
    for labels, number in values.items():
        family.add_metric(labels, number)
    return family


def render(region: Region) -> bytes:
    """All metrics in the text format of Prometheus."""
    return generate_latest(RegionCollector(region))


async def _answer(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    await exchange.answer(200, render(on.region), content_type=(b"content-type", _CONTENT_TYPE))


ROUTES = (
    Route(
        method="GET",
        path="/metrics",
        name="metrics",
        handler=_answer,
        access="observe",
        meaning="[Prometheus](#metrics)",
        answers=(Answer("the metrics", TEXT, media_type="text/plain"),),
    ),
)
