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
    RegionUnreachable,
    SerializationConflict,
    TokenNotReached,
    TooLarge,
    TooStale,
    Unavailable,
    UnknownCollection,
    UnknownField,
    VersionMismatch,
)
from atoll.http import bodies, multiplexing
from atoll.http.documents import MAX_CONDITIONS, MAX_IDEMPOTENCY_KEY, MAX_PAGE
from atoll.http.operations import BODY, ETAG, IF_CHANGED, OPERATIONS, STORE
from atoll.http.parameters import Choice, Moment, Parameter, Seconds, Text, Whole
from atoll.http.route import Answer, Body, Route, Table
from atoll.ids import KINDS, MAX_COUNT
from atoll.schema.policy import CONSISTENCIES

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
    "1 to 255 printable ASCII characters; the same write with the same key counts once in the region that took it",
    "header",
)
_IF_MATCH = Parameter(
    "If-Match",
    Text(format="etag"),
    '`"version"`, as `ETag` gave it, or `*`: else 412 `version-mismatch`',
    "header",
)
_IF_ABSENT = Parameter("If-None-Match", Choice(("*",)), "the document must not exist", "header")
_TRACE = Parameter(
    "traceparent",
    Text(format="traceparent"),
    "W3C trace context of version 00; it travels with the journal entry. Any other form is dropped, and counted in"
    " `atoll_traceparent_invalid_total`",
    "header",
)
_PREFER = Parameter(
    "Prefer",
    Text(),
    '`return=minimal`, on a batch of more than one write: `{"written": []}`, and that is also what is remembered of it',
    "header",
)
_WRITE = (_SESSION, _IDEMPOTENCY, _TRACE)

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
    *STORE,
)

_TOKEN = Parameter("Atoll-Session", Text(), "the token to send next", "header", required=True)
_REGION = Parameter("Atoll-Region", Text(), "who answered", "header", required=True)
_DEGRADED = Parameter(
    "Atoll-Degraded",
    Text(),
    "why the answer is weaker than the collection's policy; absent when it is not",
    "header",
)
_APPLIED = Parameter("Preference-Applied", Text(), "`return=minimal`, where it was heeded", "header")
_REPLAYED = Parameter(
    "Atoll-Replayed",
    Choice(("true",)),
    "`true`: the answer that was given to this idempotency key before",
    "header",
)
_SHOWN = (_TOKEN, _REGION, _DEGRADED, ETAG)


TABLE = Table(
    (
        Route(
            method="GET",
            path="/v1/{collection}/{key}",
            name="get",
            handler=lambda on, exchange, at: on.documents.get(exchange, on.documents.rules(at[0]), at[1]),
            access="read",
            meaning='200 `{"key", "value", "version"}`; 404 `not-found`. Under `manual`, or a function that '
            'failed, also `siblings`: `{"value", "region", "seq", "stamp"}` each',
            parameters=(*_DOCUMENT, *_READ, _SESSION, IF_CHANGED),
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
            meaning="writes the whole document, the body; 200 as GET",
            parameters=(*_DOCUMENT, *_WRITE, _IF_MATCH, _IF_ABSENT),
            body=Body(bodies.document),
            answers=(Answer("the document as it is now", bodies.written, headers=(*_SHOWN, _REPLAYED)),),
            problems=(UnknownCollection, InvalidKey, InvalidDocument, UnknownField, *_WRITING, *BODY),
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
                *BODY,
            ),
            multiplexed=True,
        ),
        Route(
            method="DELETE",
            path="/v1/{collection}/{key}",
            name="delete",
            handler=lambda on, exchange, at: on.documents.delete(exchange, on.documents.rules(at[0]), at[1]),
            access="write",
            meaning='200 with `"value": null`; 404 when there was none',
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
                    " substring of a text). The value is JSON or bare text",
                    most=MAX_CONDITIONS,
                ),
                _LIMIT,
                _CURSOR,
                *_READ,
                _SESSION,
                IF_CHANGED,
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
            answers=(
                Answer(
                    "all are done", BatchAnswer, headers=(_TOKEN, _REGION, _DEGRADED, _REPLAYED, _APPLIED)
                ),
            ),
            problems=(
                UnknownCollection,
                InvalidKey,
                NotFound,
                InvalidDocument,
                UnknownField,
                *_WRITING,
                *BODY,
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
            problems=(MalformedRequest, *BODY),
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
                IF_CHANGED,
            ),
            answers=(
                Answer("a page of records", bodies.AuditPage, headers=(ETAG,)),
                Answer("the caller has it", status=304, headers=(ETAG,)),
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
            meaning='resolves a conflict with `{"value": {…}}`, the document as it should be',
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
                *BODY,
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
                IF_CHANGED,
            ),
            answers=(
                Answer("a page of events", bodies.EventPage, headers=(ETAG,)),
                Answer("the caller has it", status=304, headers=(ETAG,)),
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
            meaning='`{"ids": […]}`; `kind` is `uuid4`, `uuid7`, `ulid`, `snowflake` or `prefixed`, see '
            "[identifiers](ids.md)",
            parameters=(
                Parameter("kind", Choice(KINDS), "of the identifiers", "path"),
                Parameter("count", Whole(1, MAX_COUNT), "how many", default=1),
            ),
            answers=(Answer("identifiers", IdsAnswer),),
            problems=(MalformedRequest, InvalidOperation, Unavailable, *STORE),
            multiplexed=True,
        ),
        *OPERATIONS,
    )
)
