"""Prometheus metrics, read from the region when they are asked for: the hot paths count plain integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from atoll.http.exchange import Exchange
from atoll.region.region import Region


class RegionCollector(Collector):
    def __init__(self, region: Region) -> None:
        self._region = region

    def collect(self) -> Iterator[Metric]:
        status = self._region.status()
        counted = status["counted"]
        yield _counter("atoll_writes", "Local entries committed.", counted["writes"])
        yield _counter("atoll_commits", "Group commits, each one fsync.", counted["commits"])
        yield _counter("atoll_reads", "Documents read.", counted["reads"])
        yield _counter("atoll_forwarded", "Requests that another region answered.", counted["forwarded"])
        yield _counter(
            "atoll_token_waits", "Reads that waited for their session's token.", counted["token_waits"]
        )
        yield _counter(
            "atoll_traceparent_invalid",
            "Malformed trace contexts that were dropped.",
            counted["invalid_traces"],
        )
        yield _counter(
            "atoll_parked_changes", "Changes from peers that could not be merged.", counted["parked"]
        )
        yield _counter(
            "atoll_rights_requests", "Times that peers were asked for rights.", counted["rights_requests"]
        )
        conflicts = CounterMetricFamily(
            "atoll_conflicts", "Conflicts detected in this region.", labels=("collection", "kind")
        )
        for place, number in counted["conflicts"].items():
            conflicts.add_metric(tuple(place.split("/")), number)
        yield conflicts
        entries = CounterMetricFamily(
            "atoll_entries_applied", "Entries merged from peers.", labels=("origin",)
        )
        for origin, number in sorted(counted["applied"].items()):
            entries.add_metric((origin,), number)
        yield entries
        lag = GaugeMetricFamily(
            "atoll_lag_seconds", "Age of the state that is known to be complete here.", labels=("origin",)
        )
        connected = GaugeMetricFamily(
            "atoll_link_up", "Whether the link to a peer is open.", labels=("peer",)
        )
        refused = CounterMetricFamily(
            "atoll_link_refused", "Frames refused as corrupt or hostile.", labels=("peer",)
        )
        received = CounterMetricFamily(
            "atoll_link_received_bytes", "Bytes read from a peer.", labels=("peer",)
        )
        for peer, link in status["links"].items():
            if link["lag_s"] is not None:
                lag.add_metric((peer,), link["lag_s"])
            connected.add_metric((peer,), float(link["connected"]))
            refused.add_metric((peer,), link["refused"])
            received.add_metric((peer,), link["received_bytes"])
        yield from (lag, connected, refused, received)
        position = GaugeMetricFamily(
            "atoll_position", "Highest entry of each origin here.", labels=("origin",)
        )
        for origin, seq in sorted(status["position"].items()):
            position.add_metric((origin,), seq)
        yield position
        inbox = GaugeMetricFamily("atoll_inbox_bytes", "Entries that wait for what their writers had seen.")
        inbox.add_metric((), status["inbox"]["bytes"])
        yield inbox
        yield from _journal(status)
        yield from _events(counted)
        serving = GaugeMetricFamily("atoll_serving", "Whether this region should get traffic.")
        serving.add_metric((), float(status["serving"]))
        yield serving


def _journal(status: Mapping[str, Any]) -> Iterator[Metric]:
    """As of the last time that somebody looked whether some of it may go."""
    kept = status["journal"]
    size = GaugeMetricFamily("atoll_journal_bytes", "What the journal holds, about.")
    size.add_metric((), kept["bytes"])
    yield size
    oldest = GaugeMetricFamily(
        "atoll_journal_oldest_timestamp_seconds", "When the oldest entry was written that is kept."
    )
    if kept["oldest_ms"] is not None:
        oldest.add_metric((), kept["oldest_ms"] / 1000)
    yield oldest
    yield _counter(
        "atoll_journal_truncated_segments", "Segments that this node has removed.", kept["truncated"]
    )
    yield _counter(
        "atoll_snapshots", "Snapshots of peers that were taken over.", status["counted"]["snapshots"]
    )


def _events(counted: Mapping[str, Any]) -> Iterator[Metric]:
    written = CounterMetricFamily("atoll_events", "Events that this node has written.", labels=("kind",))
    for kind, count in sorted(counted["events"].items()):
        written.add_metric((kind,), count)
    yield written
    yield _counter(
        "atoll_events_left_out", "Events left out since too many came.", counted["events_left_out"]
    )


def _counter(name: str, text: str, value: int) -> Metric:
    family = CounterMetricFamily(name, text)
    family.add_metric((), value)
    return family


class Metrics:
    content_type = b"text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, region: Region) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(RegionCollector(region))

    async def answer(self, exchange: Exchange) -> None:
        await exchange.answer(200, self.render(), content_type=(b"content-type", self.content_type))

    def render(self) -> bytes:
        return generate_latest(self._registry)
