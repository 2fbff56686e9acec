"""The table of all routes: dispatch, `/openapi.json`, the multiplexed call and the reference are derived from it."""

from __future__ import annotations

from atoll.client import multiplex
from atoll.client.answers import BatchAnswer, DocumentAnswer, IdsAnswer
from atoll.conflicts.records import STATUSES
from atoll.documents.strategies import KINDS as CONFLICT_KINDS
from atoll.errors import (
    BoundExceeded,
    ClockUnsafe,
    Conflict,
    CursorExpired,
    IdempotencyKeyReused,
    Indefinite,
    InvalidCursor,
    InvalidDocument,
    InvalidKey,
    InvalidOperation,
    InvalidToken,
    MalformedRequest,
    NotFound,
    Overloaded,
    OwnershipFixed,
    ProtocolMismatch,
    RegionUnreachable,
    SerializationConflict,
    StoreUnreachable,
    StoreUnwritable,
    TokenNotReached,
    TooLarge,
    TooStale,
    Unavailable,
    UnknownCollection,
    UnknownField,
    UnsupportedMediaType,
    VersionMismatch,
)
from atoll.http import bodies, multiplexing
from atoll.http.documents import MAX_CONDITIONS, MAX_IDEMPOTENCY_KEY, MAX_PAGE
from atoll.http.parameters import Choice, Moment, Parameter, Seconds, Text, Whole
from atoll.http.route import Answer, Body, Route, Table
from atoll.ids import KINDS, MAX_COUNT
from atoll.region.health import Check
from atoll.replication.http_peers import CALL_PATH, PROTOCOL_HEADER, STREAM_PATH
from atoll.replication.seal import HEADER as SEAL
from atoll.schema.policy import CONSISTENCIES

_OCTETS = "application/vnd.atoll"
_DAY_S = 86_400

_COLLECTION = Parameter("collection", Text(), "a declared collection", "path")
_KEY = Parameter("key", Text(format="key", min_length=1), "the document's key", "path")
_DOCUMENT = (_COLLECTION, _KEY)
_LEVEL = Parameter(
    "consistency", Choice(CONSISTENCIES), "what the read waits for; the collection's own when left out"
)
_MAX_WAIT = Parameter(
    "max_wait", Seconds(_DAY_S), "to wait for the session's token or the bound here (1), at most 30"
)
_MAX_STALENESS = Parameter(
    "max_staleness",
    Seconds(_DAY_S),
    "the answer is not older, whatever the level (not for `strong`). `bounded` has the collection's own bound"
    " without it, or none",
)
_READ = (_LEVEL, _MAX_STALENESS, _MAX_WAIT)
_LIMIT = Parameter("limit", Whole(1, MAX_PAGE), "results of a page", default=100)
_CURSOR = Parameter("cursor", Text(format="cursor"), "from the page before")
_ONE_COLLECTION = Parameter("collection", Text(), "only this one")

_SESSION = Parameter(
    "Atoll-Session", Text(format="session"), "the session's token: what it has seen", "header"
)
_IDEMPOTENCY = Parameter(
    "Idempotency-Key",
    Text(pattern="^[!-~]([ -~]*[!-~])?$", max_length=MAX_IDEMPOTENCY_KEY),
    "the same write with the same key counts once in the region that took it",
    "header",
)
_IF_MATCH = Parameter(
    "If-Match",
    Text(format="etag"),
    '`"version"`, as `ETag` gave it, or `*`: else 412 `version-mismatch`',
    "header",
)
_IF_ABSENT = Parameter("If-None-Match", Choice(("*",)), "the document must not exist", "header")
_IF_CHANGED = Parameter(
    "If-None-Match", Text(format="etag"), "versions that the caller has: 304 where one is shown", "header"
)
_TRACE = Parameter(
    "traceparent",
    Text(format="traceparent"),
    "W3C trace context; it travels with the journal entry",
    "header",
)
_PREFER = Parameter(
    "Prefer",
    Text(),
    '`return=minimal`, on a batch of more than one write: `{"written": []}`, and that is also what is remembered of it',
    "header",
)
_WRITE = (_SESSION, _IDEMPOTENCY, _TRACE)

_STORE = (StoreUnreachable, StoreUnwritable)
_READING = (
    MalformedRequest,
    InvalidToken,
    Unavailable,
    RegionUnreachable,
    TokenNotReached,
    TooStale,
    Indefinite,
)
_WRITING = (
    MalformedRequest,
    InvalidToken,
    TooLarge,
    InvalidOperation,
    IdempotencyKeyReused,
    BoundExceeded,
    OwnershipFixed,
    VersionMismatch,
    Unavailable,
    RegionUnreachable,
    TokenNotReached,
    Overloaded,
    SerializationConflict,
    ClockUnsafe,
    Indefinite,
    *_STORE,
)
_BODY = (UnsupportedMediaType, TooLarge)

_TOKEN = Parameter("Atoll-Session", Text(), "the token to send next", "header", required=True)
_REGION = Parameter("Atoll-Region", Text(), "who answered", "header", required=True)
_DEGRADED = Parameter(
    "Atoll-Degraded",
    Text(),
    "why the answer is weaker than the collection's policy; absent when it is not",
    "header",
)
_REPLAYED = Parameter(
    "Atoll-Replayed", Choice(("true",)), "the answer that was given to this idempotency key before", "header"
)
_ETAG = Parameter(
    "ETag",
    Text(),
    "the version, in quotes; equal in regions that hold the same state",
    "header",
    required=True,
)
_SHOWN = (_TOKEN, _REGION, _DEGRADED, _ETAG)


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
        problems=(ProtocolMismatch, *_BODY),
    )


TABLE = Table(
    (
        Route(
            method="GET",
            path="/v1/{collection}/{key}",
            name="get",
            handler=lambda on, exchange, at: on.documents.get(exchange, on.documents.rules(at[0]), at[1]),
            access="read",
            meaning='`{"key", "value", "version"}`; 404 `not-found`. Under `manual`, or a function that failed,'
            ' also `siblings`: `{"value", "region", "seq", "stamp"}` each',
            parameters=(*_DOCUMENT, *_READ, _SESSION, _IF_CHANGED),
            answers=(
                Answer("the document", bodies.shown, headers=_SHOWN),
                Answer("the caller has it", status=304, headers=_SHOWN),
            ),
            problems=(UnknownCollection, InvalidKey, NotFound, InvalidOperation, *_READING),
            multiplexed=True,
        ),
        Route(
            method="PUT",
            path="/v1/{collection}/{key}",
            name="put",
            handler=lambda on, exchange, at: on.documents.put(exchange, on.documents.rules(at[0]), at[1]),
            access="write",
            meaning="writes the whole document, the body; answers as GET does",
            parameters=(*_DOCUMENT, *_WRITE, _IF_MATCH, _IF_ABSENT),
            body=Body(bodies.document),
            answers=(Answer("the document as it is now", bodies.written, headers=(*_SHOWN, _REPLAYED)),),
            problems=(UnknownCollection, InvalidKey, InvalidDocument, UnknownField, *_WRITING, *_BODY),
            multiplexed=True,
        ),
        Route(
            method="PATCH",
            path="/v1/{collection}/{key}",
            name="patch",
            handler=lambda on, exchange, at: on.documents.patch(exchange, on.documents.rules(at[0]), at[1]),
            access="write",
            meaning="applies [operators](#operators); creates the document if all required fields are given",
            parameters=(*_DOCUMENT, *_WRITE, _IF_MATCH),
            body=Body(bodies.operators),
            answers=(Answer("the document as it is now", bodies.written, headers=(*_SHOWN, _REPLAYED)),),
            problems=(
                UnknownCollection,
                InvalidKey,
                NotFound,
                InvalidDocument,
                UnknownField,
                *_WRITING,
                *_BODY,
            ),
            multiplexed=True,
        ),
        Route(
            method="DELETE",
            path="/v1/{collection}/{key}",
            name="delete",
            handler=lambda on, exchange, at: on.documents.delete(exchange, on.documents.rules(at[0]), at[1]),
            access="write",
            meaning='`"value": null`; 404 when there was none',
            parameters=(*_DOCUMENT, *_WRITE, _IF_MATCH),
            answers=(Answer("it is deleted", bodies.written, headers=(*_SHOWN, _REPLAYED)),),
            problems=(UnknownCollection, InvalidKey, NotFound, *_WRITING),
            multiplexed=True,
        ),
        Route(
            method="GET",
            path="/v1/{collection}",
            name="list",
            handler=lambda on, exchange, at: on.documents.list(exchange, on.documents.rules(at[0])),
            access="read",
            meaning='a page in key order: `{"items": […], "cursor"}`; `cursor` is null on the last one',
            parameters=(
                _COLLECTION,
                Parameter("prefix", Text(), "keys that start so", default=""),
                Parameter(
                    "where",
                    Text(format="condition"),
                    "`field:op:value`; op is `eq`, `ne`, `lt`, `le`, `gt`, `ge` or `contains` (element of a list,"
                    " substring of a text); the value is JSON or bare text",
                    most=MAX_CONDITIONS,
                ),
                _LIMIT,
                _CURSOR,
                *_READ,
                _SESSION,
                _IF_CHANGED,
            ),
            answers=(
                Answer("a page", bodies.page, headers=_SHOWN),
                Answer("the caller has it", status=304, headers=_SHOWN),
            ),
            problems=(UnknownCollection, UnknownField, InvalidOperation, InvalidCursor, *_READING),
            multiplexed=True,
        ),
        Route(
            method="POST",
            path="/v1/batch",
            name="batch",
            handler=lambda on, exchange, at: on.documents.batch(exchange),
            access="write",
            meaning='many writes, one atomic entry: `{"writes": [{"put": {…}}, {"patch": {…}}, {"delete": {…}}]}` →'
            ' `{"written": […]}`',
            parameters=(*_WRITE, _PREFER),
            body=Body({"$ref": "#/components/schemas/Batch"}),
            answers=(Answer("all are done", BatchAnswer, headers=(_TOKEN, _REGION, _DEGRADED, _REPLAYED)),),
            problems=(
                UnknownCollection,
                InvalidKey,
                NotFound,
                InvalidDocument,
                UnknownField,
                *_WRITING,
                *_BODY,
            ),
            multiplexed=True,
        ),
        Route(
            method="POST",
            path=multiplex.PATH,
            name="multiplex",
            handler=lambda on, exchange, at: multiplexing.answer(exchange, on.app),
            access="public",
            meaning="up to 256 of these calls in one exchange (8 MiB). Each is answered as if it were alone, as soon as"
            " possible. `client/multiplex.py` defines the format",
            body=Body(bodies.BINARY, multiplex.CONTENT_TYPE),
            answers=(Answer("the answers, as they come", bodies.BINARY, media_type=multiplex.CONTENT_TYPE),),
            problems=(MalformedRequest, *_BODY),
        ),
        Route(
            method="GET",
            path="/v1/changes",
            name="changes",
            handler=lambda on, exchange, at: on.feed.stream(exchange),
            access="read",
            meaning='server-sent events, for ever: `id` is the cursor, `data` `{"cursor", "origin", "seq", "stamp",'
            ' "changes": [{"collection", "key", "operation", "value"}]}`',
            parameters=(
                Parameter(
                    "cursor",
                    Text(format="feed-cursor"),
                    "where to go on, in any region; `now` for what comes next; nothing for the beginning",
                ),
                Parameter("collection", Text(format="collection"), "only these", most=50),
                Parameter("Last-Event-ID", Text(format="feed-cursor"), "goes before `cursor`", "header"),
            ),
            answers=(
                Answer("the changes", bodies.EVENT, media_type="text/event-stream", headers=(_REGION,)),
            ),
            problems=(MalformedRequest, InvalidCursor, CursorExpired, UnknownCollection, Unavailable),
        ),
        Route(
            method="GET",
            path="/v1/conflicts",
            name="conflicts",
            handler=lambda on, exchange, at: on.audit.list(exchange),
            access="audit",
            meaning='the [audit](conflicts.md#the-audit), newest first: `{"items", "cursor"}`',
            parameters=(
                _ONE_COLLECTION,
                Parameter("key", Text(), "only this document's"),
                Parameter("kind", Choice(CONFLICT_KINDS), "only of this kind"),
                Parameter("status", Choice(STATUSES), "only of this status"),
                Parameter("origin", Text(), "only where either side was written in this region"),
                Parameter("since", Moment(), "the losing value was written then or later"),
                Parameter("until", Moment(), "the losing value was written before"),
                _LIMIT,
                Parameter("cursor", Text(format="record-cursor"), "from the page before"),
                _IF_CHANGED,
            ),
            answers=(
                Answer("a page of records", bodies.AuditPage, headers=(_ETAG,)),
                Answer("the caller has it", status=304, headers=(_ETAG,)),
            ),
            problems=(MalformedRequest, InvalidCursor, Unavailable),
            multiplexed=True,
        ),
        Route(
            method="POST",
            path="/v1/conflicts/{id}/resolve",
            name="resolve",
            handler=lambda on, exchange, at: on.audit.resolve(exchange, at[0]),
            access="write",
            meaning='settles a conflict with `{"value": {…}}`, the document as it should be',
            parameters=(Parameter("id", Text(), "of the record", "path"), *_WRITE),
            body=Body(bodies.Resolution),
            answers=(Answer("the document as it is now", DocumentAnswer, headers=(_TOKEN,)),),
            problems=(
                NotFound,
                Conflict,
                InvalidDocument,
                UnknownField,
                UnknownCollection,
                *_WRITING,
                *_BODY,
            ),
            multiplexed=True,
        ),
        Route(
            method="GET",
            path="/v1/events",
            name="events",
            handler=lambda on, exchange, at: on.events.list(exchange),
            access="observe",
            meaning="the [timeline](operations.md#the-timeline) of the deployment, in causal order, oldest first:"
            ' `{"items", "cursor"}`',
            parameters=(
                Parameter("kind", Text(), "only of this kind"),
                Parameter("region", Text(), "only what this region noticed"),
                Parameter("since", Moment(), "written then or later"),
                _LIMIT,
                Parameter("cursor", Text(format="event-cursor"), "from the page before"),
                _IF_CHANGED,
            ),
            answers=(
                Answer("a page of events", bodies.EventPage, headers=(_ETAG,)),
                Answer("the caller has it", status=304, headers=(_ETAG,)),
            ),
            problems=(MalformedRequest, InvalidCursor, Unavailable),
            multiplexed=True,
        ),
        Route(
            method="POST",
            path="/v1/ids/{kind}",
            name="ids",
            handler=lambda on, exchange, at: on.admin.new_ids(exchange, at[0]),
            access="write",
            meaning='`{"ids": […]}`, see [identifiers](ids.md)',
            parameters=(
                Parameter("kind", Choice(KINDS), "of the identifiers", "path"),
                Parameter("count", Whole(1, MAX_COUNT), "how many", default=1),
            ),
            answers=(Answer("identifiers", IdsAnswer),),
            problems=(MalformedRequest, InvalidOperation, Unavailable, *_STORE),
            multiplexed=True,
        ),
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
            meaning="OpenAPI 3.1 of every call and of the declared collections",
            parameters=(_IF_CHANGED,),
            answers=(
                Answer("the description", bodies.OBJECT, headers=(_ETAG,)),
                Answer("the caller has it", status=304, headers=(_ETAG,)),
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
            problems=_STORE,
        ),
        Route(
            method="GET",
            path="/admin/digest",
            name="digest",
            handler=lambda on, exchange, at: on.admin.digest(exchange),
            access="observe",
            meaning="of each collection: documents, and a digest that is equal in regions with the same state",
            answers=(Answer("digests", bodies.Digests),),
            problems=_STORE,
        ),
        Route(
            method="GET",
            path="/admin/verify",
            name="verify",
            handler=lambda on, exchange, at: on.admin.verify(exchange),
            access="observe",
            meaning="compares the digests with every peer's, and names the documents that differ",
            answers=(Answer("what differs", bodies.Verification),),
            problems=_STORE,
        ),
        Route(
            method="GET",
            path="/admin/parked",
            name="parked",
            handler=lambda on, exchange, at: on.admin.parked(exchange),
            access="observe",
            meaning="changes that could not be merged, with the reason",
            answers=(Answer("parked changes", bodies.ParkedChanges),),
            problems=_STORE,
        ),
        Route(
            method="POST",
            path="/admin/forget",
            name="forget",
            handler=lambda on, exchange, at: on.admin.forget(exchange),
            access="operate",
            meaning='`{"peer": "frankfurt", "gone": true}`: this node does not wait for it after a failover, it is'
            " [gone for good](postgresql.md#failover); `atoll region forget` tells all nodes",
            body=Body(bodies.Gone),
            answers=(Answer("it is not waited for", bodies.Forgotten),),
            problems=(MalformedRequest, *_BODY),
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
            problems=(MalformedRequest, *_BODY),
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
            problems=(MalformedRequest, InvalidOperation, *_BODY),
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
            problems=(MalformedRequest, InvalidOperation, *_BODY),
        ),
        _between_regions(CALL_PATH, "call", "a question and its answer"),
        _between_regions(STREAM_PATH, "stream", "entries and heartbeats, for ever"),
    )
)
