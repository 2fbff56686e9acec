"""Prometheus metrics, read from the region when they are asked for: the hot paths count plain integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from atoll.http.bodies import TEXT
from atoll.http.exchange import Exchange
from atoll.http.route import Answer, Route, Serving
from atoll.region.region import Region
from atoll.region.status import RegionStatus

_CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_COUNTERS = (
    ("atoll_writes", "Local entries committed.", "counted.writes"),
    ("atoll_commits", "Group commits, each one fsync.", "counted.commits"),
    ("atoll_reads", "Documents read.", "counted.reads"),
    ("atoll_forwarded", "Requests that another region answered.", "counted.forwarded"),
    ("atoll_degraded", "Answers that a fallback gave.", "counted.degraded", "request", "fallback"),
    ("atoll_token_waits", "Reads that waited for their session's token.", "counted.token_waits"),
    ("atoll_traceparent_invalid", "Malformed trace contexts that were dropped.", "counted.invalid_traces"),
    ("atoll_parked_changes", "Changes from peers that could not be merged.", "counted.parked"),
    ("atoll_rights_requests", "Times that writes asked peers for rights.", "counted.rights_requests"),
    ("atoll_rights_ahead", "Times that rights came here ahead of need.", "counted.rights_ahead"),
    ("atoll_events_left_out", "Events left out since too many came.", "counted.events_left_out"),
    ("atoll_proposals", "Proposals of new values of strong documents.", "registers.proposals"),
    ("atoll_proposals_lost", "Rounds of proposals that a higher ballot ended.", "registers.lost"),
    ("atoll_changes_combined", "Changes that shared a proposal with another one.", "registers.combined"),
    ("atoll_snapshots", "Snapshots of peers that were installed.", "counted.snapshots"),
    ("atoll_conflicts", "Conflicts detected in this region.", "counted.conflicts", "collection", "kind"),
    ("atoll_entries_applied", "Entries merged from peers.", "counted.applied", "origin"),
    ("atoll_events", "Events that this node has written.", "counted.events", "kind"),
    ("atoll_sagas_started", "Sagas that this node has started.", "sagas.started"),
    ("atoll_sagas_ended", "Sagas that ended here, or got stuck.", "sagas.ended", "status"),
    ("atoll_journal_truncated_segments", "Segments that this node has removed.", "journal.truncated"),
)
"""(metric, help, what it is called in the region's status, labels)"""
_GAUGES = (
    ("atoll_position", "Entries of each region that are here.", "position", "origin"),
    ("atoll_inbox_bytes", "Entries that wait for what their writers had seen.", "inbox.bytes"),
    ("atoll_journal_bytes", "What the journal holds, about.", "journal.bytes"),
    ("atoll_clock_synchronised", "Whether the kernel bounds the error of the clock.", "clock.synchronised"),
    ("atoll_clock_uncertainty_seconds", "How far off the clock may be.", "clock.error_s"),
    ("atoll_rights_counters", "Bounded counters that are followed.", "rights.counters"),
    ("atoll_rights_exhausted", "Those of which only others hold rights.", "rights.exhausted"),
    ("atoll_sagas_under_way", "Sagas that this node runs.", "sagas.under_way"),
    ("atoll_sagas_stuck", "Sagas that wait for a person.", "sagas.stuck"),
    ("atoll_serving", "Whether this region should get traffic.", "serving"),
    ("atoll_acceptors_voting", "Whether this region votes for strong documents.", "registers.voting"),
    ("atoll_cut_off", "Whether links say that no majority can be asked.", "registers.cut_off"),
    ("atoll_undecided", "Documents that were written while cut off.", "registers.undecided"),
    ("atoll_loop_stall_seconds", "Longest time of late that the event loop was held.", "loop_stall_s"),
)
_OLDEST = ("atoll_journal_oldest_timestamp_seconds", "When the oldest entry was written that is kept.")
_LAG = ("atoll_lag_seconds", "Age of the state that is known to be complete here.", "lag_s", "origin")
_UP = ("atoll_link_up", "Whether the link to a peer is open.", "connected", "peer")
_REFUSED = ("atoll_link_refused", "Frames refused as corrupt or hostile.", "refused", "peer")
_RECEIVED = ("atoll_link_received_bytes", "Bytes read from a peer.", "received_bytes", "peer")
_FAMILIES = (
    (CounterMetricFamily, _COUNTERS, (_REFUSED, _RECEIVED)),
    (GaugeMetricFamily, _GAUGES, (_LAG, _UP)),
)
"""(family, of the region, of each of its links)"""


class RegionCollector(Collector):
    def __init__(self, region: Region) -> None:
        self._region = region

    def collect(self) -> Iterator[Metric]:
        status = self._region.status()
        for family, of_region, of_links in _FAMILIES:
            for name, text, place, *labels in of_region:
                yield _filled(family(name, text, labels=labels), _found(status, place))
            for name, text, member, label in of_links:
                values = {peer: getattr(link, member) for peer, link in status.links.items()}
                yield _filled(family(name, text, labels=[label]), values)
        oldest_ms = status.journal.oldest_ms
        yield _filled(GaugeMetricFamily(*_OLDEST), None if oldest_ms is None else oldest_ms / 1000)


def _found(status: RegionStatus, place: str) -> Any:
    """None where the region has no such part."""
    part, _, rest = place.partition(".")
    found = getattr(status, part)
    return attrgetter(rest)(found) if rest and found is not None else found


def _filled(
    family: CounterMetricFamily | GaugeMetricFamily, found: Mapping[str, float | None] | float | None
) -> Metric:
    """With one value, or one for each label; two labels have a slash between them. None is left out."""
    values = dict(sorted(found.items())) if isinstance(found, Mapping) else {"": found}
    for place, number in values.items():
        if number is not None:
            family.add_metric(place.split("/") if place else (), float(number))
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
