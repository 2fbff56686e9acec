"""The part of the table of routes that operators, load balancers and peers ask."""

from __future__ import annotations

from atoll.errors import (
    InvalidOperation,
    MalformedRequest,
    ProtocolMismatch,
    StoreUnreachable,
    StoreUnwritable,
    TooLarge,
    UnsupportedMediaType,
)
from atoll.http import bodies
from atoll.http.parameters import Parameter, Text
from atoll.http.route import Answer, Body, Route
from atoll.region.health import Check
from atoll.replication.seal import CALL_PATH, PROTOCOL_HEADER, STREAM_PATH
from atoll.replication.seal import HEADER as SEAL

_OCTETS = "application/vnd.atoll"
STORE = (StoreUnreachable, StoreUnwritable)
BODY = (UnsupportedMediaType, TooLarge)
IF_CHANGED = Parameter(
    "If-None-Match", Text(format="etag"), "versions that the caller has: 304 where one is shown", "header"
)
ETAG = Parameter(
    "ETag",
    Text(),
    "the version, in quotes; equal in regions that hold the same state",
    "header",
    required=True,
)


def _health(check: Check, meaning: str) -> Route:
    return Route(
        method="GET",
        path=f"/health/{check}",
        name=f"health_{check}",
        handler=lambda on, exchange, at: on.admin.health(exchange, check),
        access="public",
        meaning=meaning,
        answers=(Answer("yes", bodies.Health), Answer("no, for the `reason`", bodies.Health, status=503)),
    )


def _between_regions(path: str, name: str, meaning: str) -> Route:
    return Route(
        method="POST",
        path=path,
        name=f"replication_{name}",
        handler=lambda on, exchange, at: on.peering.answer(exchange, path),
        access="peer",
        meaning=meaning,
        parameters=(
            Parameter(SEAL, Text(), "of the deployment's key", "header", required=True),
            Parameter(
                PROTOCOL_HEADER, Text(), "version of the wire that the asker speaks", "header", required=True
            ),
        ),
        body=Body(bodies.BINARY, _OCTETS),
        answers=(
            Answer(meaning, bodies.BINARY, media_type=_OCTETS),
            *(
                Answer("sealed, as the answer is", bodies.BINARY, status=status, media_type=_OCTETS)
                for status in (400, 503)
            ),
        ),
        problems=(ProtocolMismatch, *BODY),
    )


OPERATIONS: tuple[Route, ...] = (
    _health("live", "200 while the process is up"),
    _health("ready", "200 once nothing is missing that the reachable peers had"),
    _health(
        "serving",
        "200 if a load balancer should send traffic here. 503 while draining, and while reads or writes are refused"
        " or have to wait. `reason` says why",
    ),
    _health(
        "reading",
        "the same for reads alone: 503 only while draining, and while reads are refused",
    ),
    Route(
        method="GET",
        path="/metrics",
        name="metrics",
        handler=lambda on, exchange, at: on.metrics.answer(exchange),
        access="observe",
        meaning="[Prometheus](#metrics)",
        answers=(Answer("the metrics", bodies.TEXT, media_type="text/plain"),),
    ),
    Route(
        method="GET",
        path="/openapi.json",
        name="openapi",
        handler=lambda on, exchange, at: on.description.answer(exchange),
        access="public",
        meaning="OpenAPI 3.1 of the declared collections",
        parameters=(IF_CHANGED,),
        answers=(
            Answer("the description", bodies.OBJECT, headers=(ETAG,)),
            Answer("the caller has it", status=304, headers=(ETAG,)),
        ),
    ),
    Route(
        method="GET",
        path="/admin/status",
        name="status",
        handler=lambda on, exchange, at: exchange.answer_json(on.admin.status()),
        access="observe",
        meaning="position, links, lag, inbox, counts, clock",
        answers=(Answer("the state of this node", bodies.Status),),
    ),
    Route(
        method="GET",
        path="/admin/statistics",
        name="statistics",
        handler=lambda on, exchange, at: on.admin.statistics(exchange),
        access="observe",
        meaning="documents, tombstones, conflicts, parked changes, bytes; may scan the store",
        answers=(Answer("counts", bodies.Statistics),),
        problems=STORE,
    ),
    Route(
        method="GET",
        path="/admin/digest",
        name="digest",
        handler=lambda on, exchange, at: on.admin.digest(exchange),
        access="observe",
        meaning="of each collection: documents, and a digest that is equal in regions with the same state",
        answers=(Answer("digests", bodies.Digests),),
        problems=STORE,
    ),
    Route(
        method="GET",
        path="/admin/verify",
        name="verify",
        handler=lambda on, exchange, at: on.admin.verify(exchange),
        access="observe",
        meaning="compares the digests with every peer's, and names the documents that differ",
        answers=(Answer("what differs", bodies.Verification),),
        problems=STORE,
    ),
    Route(
        method="GET",
        path="/admin/parked",
        name="parked",
        handler=lambda on, exchange, at: on.admin.parked(exchange),
        access="observe",
        meaning="changes that could not be merged, with the reason",
        answers=(Answer("parked changes", bodies.ParkedChanges),),
        problems=STORE,
    ),
    Route(
        method="POST",
        path="/admin/forget",
        name="forget",
        handler=lambda on, exchange, at: on.admin.forget(exchange),
        access="operate",
        meaning='`{"peer": "frankfurt", "gone": true}`: this node stops waiting for a peer that is '
        "[permanently lost](postgresql.md#failover); `atoll region forget` sends it to all nodes",
        body=Body(bodies.Gone),
        answers=(Answer("it is not waited for", bodies.Forgotten),),
        problems=(MalformedRequest, *BODY),
    ),
    Route(
        method="POST",
        path="/admin/drain",
        name="drain",
        handler=lambda on, exchange, at: on.admin.drain(exchange),
        access="operate",
        meaning='`{"draining": true}`: `/health/serving` says 503 from now on',
        body=Body(bodies.Drain),
        answers=(Answer("how it is now", bodies.Drained),),
        problems=(MalformedRequest, *BODY),
    ),
    Route(
        method="POST",
        path="/admin/partition",
        name="partition",
        handler=lambda on, exchange, at: on.admin.partition(exchange),
        access="operate",
        meaning='test topologies only: `{"peer": "frankfurt", "cut": true}` cuts this side of a link',
        body=Body(bodies.Cut),
        answers=(Answer("the links that are cut", bodies.CutLinks),),
        problems=(MalformedRequest, InvalidOperation, *BODY),
    ),
    Route(
        method="POST",
        path="/admin/delay",
        name="delay",
        handler=lambda on, exchange, at: on.admin.delay(exchange),
        access="operate",
        meaning='test topologies only: `{"peer": "frankfurt", "rtt_ms": 230}`',
        body=Body(bodies.Delay),
        answers=(Answer("the delays of all links", bodies.Delays),),
        problems=(MalformedRequest, InvalidOperation, *BODY),
    ),
    _between_regions(CALL_PATH, "call", "a question and its answer"),
    _between_regions(STREAM_PATH, "stream", "entries and heartbeats, for ever"),
)
