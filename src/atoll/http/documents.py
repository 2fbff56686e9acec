"""`/v1/{collection}` and `/v1/{collection}/{key}`, and `/v1/batch`: the data routes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from atoll import errors
from atoll.causality.origin import region_of
from atoll.client.answers import BatchAnswer
from atoll.commit.checks import check_batch
from atoll.documents import document as documents
from atoll.documents.conditions import OPERATORS, condition_of
from atoll.documents.decided import DECIDED
from atoll.documents.mutation import ANY_VERSION, Delete, Mutation, Put, Write, Written, patch_of, put_of
from atoll.documents.register import Version
from atoll.documents.rules import Rules
from atoll.documents.trace import parse_traceparent
from atoll.errors import InvalidCursor, InvalidKey, MalformedRequest, NotFound, OrderUncertain, TooLarge
from atoll.http import bodies
from atoll.http.bodies import BatchWrite, DeleteItem, PatchItem, PutItem, decode_writes
from atoll.http.common import (
    BODY,
    ETAG,
    IF_CHANGED,
    LIMIT,
    REGION,
    SESSION,
    TOKEN,
    WRITE,
    WRITING,
    decode_cursor,
    encode_cursor,
    idempotency_key_of,
    tagged,
)
from atoll.http.exchange import Exchange, parse_json
from atoll.http.parameters import Choice, Parameter, Seconds, Text
from atoll.http.route import AT_ONCE_BYTES, Answer, Body, Handler, Route, Serving
from atoll.http.sessions import HEADER
from atoll.region.reading import PLAIN_READ, ListOptions, ReadOptions
from atoll.replication.messages import WriteReply
from atoll.schema.bounds import BESIDE_BYTES
from atoll.schema.limits import ANY_KEY, check_members, validate_key
from atoll.schema.policy import CONSISTENCIES
from atoll.store.port import Condition

_MAX_CONDITIONS = 20
_MINIMAL = "return=minimal"
_RETURN = re.compile(r'(?:^|,)\s*return\s*=\s*"?(\w*)"?')
"""The first one counts (RFC 7240)."""
_SIBLINGS = ("manual", "custom")
"""Strategies that may leave several values to show."""

_encode = msgspec.json.Encoder().encode

Headers = list[tuple[bytes, bytes]]


async def _get(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    rules, key = on.rules(at[0]), at[1]
    rules.schema.validate_key(key)
    token = await on.sessions.of(exchange)
    reading = await on.region.read(rules.name, key, _read_options(exchange, token))
    headers = headers_of(reading.region, on.sessions.after(reading.vector, token))
    if reading.degraded is not None:
        headers.append((b"atoll-degraded", reading.degraded.encode()))
    if reading.value is None:
        error = NotFound(f"{rules.name}/{key} does not exist", collection=rules.name, key=key)
        return await exchange.refuse(error, headers)
    headers.append((b"etag", b'"%b"' % reading.version.encode()))
    if exchange.holds(reading.version):
        return await exchange.answer_nothing(304, headers)
    body = _document(key, reading.value, reading.version)
    if rules.schema.policy.resolve in _SIBLINGS and reading.region == on.region.name:
        siblings = await on.region.siblings(rules.name, key)
        if siblings:
            body = b'%b,"siblings":%b}' % (body[:-1], _encode([_sibling(version) for version in siblings]))
    return await exchange.answer(200, body, headers)


def _writing(mutation: Callable[[Rules, str, bytes, str | None, bool], Mutation]) -> Handler:
    """The handler of a write; `mutation` takes collection, key, body, If-Match, and whether nothing may be there."""

    async def write(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
        rules, key = on.rules(at[0]), at[1]
        rules.schema.validate_key(key)
        token = await on.sessions.of(exchange)
        bounds = on.region.bounds
        most_bytes = bounds.document_bytes if exchange.method == "PUT" else bounds.body_bytes
        body = b"" if exchange.method == "DELETE" else await exchange.body(most_bytes)
        if_match, if_absent = _preconditions(exchange)
        if len(body) <= AT_ONCE_BYTES:
            made = mutation(rules, key, body, if_match, if_absent)
        else:
            made = await on.beside(mutation, rules, key, body, if_match, if_absent)
        write = Write((made,), idempotency_key_of(exchange), trace_of(on, exchange))
        try:
            reply = await on.region.write(write, token)
        except OrderUncertain as error:
            await _refuse_uncertain(on, exchange, error, token)
            return
        written = reply.receipt.written[0]
        headers = after(on, reply, token)
        headers.append((b"etag", b'"%b"' % written.version.encode()))
        await exchange.answer(200, _document(written.key, written.value, written.version), headers)

    return write


async def _refuse_uncertain(
    on: Serving, exchange: Exchange, error: OrderUncertain, token: Mapping[str, int] | None
) -> None:
    """The write was done: it is in the session's token."""
    await exchange.refuse(error, [(HEADER, on.sessions.after(error.vector, token))])


def _put(rules: Rules, key: str, body: bytes, if_match: str | None, if_absent: bool) -> Mutation:
    return put_of(rules, key, body, if_match=if_match, if_absent=if_absent)


def _patch(rules: Rules, key: str, body: bytes, if_match: str | None, _: bool) -> Mutation:
    return patch_of(rules, key, parse_json(body), if_match=if_match)


def _delete(rules: Rules, key: str, body: bytes, if_match: str | None, _: bool) -> Mutation:
    return Delete(rules.name, key, if_match)


async def _batch(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    """Many writes, one atomic entry. With `Prefer: return=minimal` (RFC 7240) only whether it was done."""
    token = await on.sessions.of(exchange)
    body = await exchange.body(on.region.bounds.batch_bytes)
    mutations = _mutations(on, body) if len(body) <= AT_ONCE_BYTES else await on.beside(_mutations, on, body)
    brief = len(mutations) > 1 and _RETURN.findall((exchange.header(b"prefer") or "").lower())[:1] == [
        "minimal"
    ]
    write = Write(mutations, idempotency_key_of(exchange), trace_of(on, exchange), brief)
    try:
        reply = await on.region.write(write, token)
    except OrderUncertain as error:
        await _refuse_uncertain(on, exchange, error, token)
        return
    if len(body) > AT_ONCE_BYTES:
        await on.beside(_let_go, on, mutations)
    headers = after(on, reply, token)
    if brief:
        headers.append((b"preference-applied", _MINIMAL.encode()))
    await answer_told(on, exchange, headers, written=reply.receipt.written)


async def answer_told(
    on: Serving, exchange: Exchange, headers: Headers, **documents: Sequence[Written]
) -> None:
    """Answer with documents of several collections, by what was done to them."""
    size_bytes = sum(len(each.value or b"") for found in documents.values() for each in found)
    answer = {name: told(found) for name, found in documents.items()}
    large = size_bytes > BESIDE_BYTES
    body = await on.beside(msgspec.json.encode, answer) if large else msgspec.json.encode(answer)
    await exchange.answer(200, body, headers)


def told(documents: Sequence[Written]) -> list[dict[str, Any]]:
    """Documents of several collections, as answers have them."""
    return [
        {
            "collection": each.collection,
            "key": each.key,
            "value": None if each.value is None else msgspec.Raw(each.value),
            "version": each.version,
        }
        for each in documents
    ]


def _let_go(on: Serving, mutations: Sequence[Mutation]) -> None:
    """Drop what was decoded, one document after the other: at once, millions of objects would stop the event loop.

    Not of strong documents: whoever proposes them may go on after the answer.
    """
    for mutation in mutations:
        strong = on.rules(mutation.collection).schema.policy.by_quorum
        if isinstance(mutation, Put) and mutation.fields is not None and not strong:
            mutation.fields.clear()


def _mutations(on: Serving, body: bytes) -> tuple[Mutation, ...]:
    try:
        decoded = decode_writes(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(
            f'a batch is {{"writes": [{{"put": {{…}}}}, {{"patch": {{…}}}}, {{"delete": {{…}}}}]}}: {error}'
        ) from None
    check_batch(len(decoded.writes))
    found = mutations_of(on, decoded.writes)
    check_members(body, decoded)
    return tuple(found)


def mutations_of(on: Serving, writes: Sequence[BatchWrite]) -> list[Mutation]:
    """Raises RequestErrors."""
    most_bytes = on.region.bounds.body_bytes
    found: list[Mutation] = []
    rules: Rules | None = None
    for item in [write.item for write in writes]:
        if rules is None or rules.name != item.collection:
            rules = on.rules(item.collection)
        key = rules.schema.validate_key(item.key)
        match item:
            case PutItem():
                found.append(put_of(rules, key, bytes(item.value), if_match=item.if_match))
            case PatchItem():
                if len(memoryview(item.operators)) > most_bytes:
                    raise TooLarge(f"a patch has more than {most_bytes} bytes", limit_bytes=most_bytes)
                found.append(patch_of(rules, key, parse_json(bytes(item.operators)), if_match=item.if_match))
            case DeleteItem():
                found.append(Delete(rules.name, key, item.if_match))
    return found


async def _list(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    rules, asked = on.rules(at[0]), exchange.arguments
    token = await on.sessions.of(exchange)
    wanted = ListOptions(
        prefix=asked["prefix"],
        where=_conditions(rules, asked["where"]),
        after=None if asked["cursor"] is None else _resumed(asked["cursor"]),
        limit=asked["limit"],
    )
    found = await on.region.list(rules.name, wanted, _read_options(exchange, token))
    items = b",".join([_document(key, row.value, documents.version_tag(row)) for key, row in found.rows])
    cursor = _encode(encode_cursor(found.rows[-1][0]) if found.more else None)
    headers = headers_of(on.region.name, on.sessions.after(found.vector, token))
    if found.degraded is not None:
        headers.append((b"atoll-degraded", found.degraded.encode()))
    await exchange.answer_tagged(b'{"items":[%b],"cursor":%b}' % (items, cursor), headers)


def _resumed(cursor: str) -> str:
    """The key that a page ended with. Raises InvalidCursor."""
    try:
        return validate_key(decode_cursor(cursor), ANY_KEY)
    except InvalidKey as error:
        raise InvalidCursor(f"the cursor is none that a listing gave: {error.message}") from None


def trace_of(on: Serving, exchange: Exchange) -> bytes | None:
    header = exchange.header(b"traceparent")
    if header is None:
        return None
    trace = parse_traceparent(header)
    if trace is None:
        on.region.count_invalid_trace()
    return trace


def headers_of(region: str, token: bytes) -> Headers:
    return [(HEADER, token), (b"atoll-region", region.encode())]


def after(on: Serving, reply: WriteReply, token: Mapping[str, int] | None) -> Headers:
    origin = reply.receipt.origin
    region = on.region.name if origin == DECIDED else region_of(origin)
    headers = headers_of(region, on.sessions.after(reply.vector, token))
    if reply.receipt.replayed:
        headers.append((b"atoll-replayed", b"true"))
    if reply.receipt.degraded is not None:
        headers.append((b"atoll-degraded", reply.receipt.degraded.encode()))
    return headers


def _document(key: str, value: bytes | None, version: str) -> bytes:
    shown = b"null" if value is None else value
    return b'{"key":%b,"value":%b,"version":"%b"}' % (_encode(key), shown, version.encode())


def _sibling(version: Version) -> dict[str, Any]:
    return {
        "value": None if version.value is None else msgspec.Raw(version.value),
        "region": region_of(version.origin),
        "seq": version.seq,
        "stamp": version.stamp,
    }


def _preconditions(exchange: Exchange) -> tuple[str | None, bool]:
    """The versions of which one has to be there, or `*`; and whether nothing may be there."""
    headers = exchange.headers
    if_absent = b"if-none-match" in headers
    if if_absent and exchange.tags(b"if-none-match") != [ANY_VERSION]:
        raise MalformedRequest("If-None-Match takes only *, which requires that the document does not exist")
    if b"if-match" not in headers:
        return None, if_absent
    return ", ".join(exchange.tags(b"if-match", strong=True)), if_absent


def _read_options(exchange: Exchange, token: Mapping[str, int] | None) -> ReadOptions:
    asked = exchange.arguments
    if token is None and not exchange.query_string:
        return PLAIN_READ
    return ReadOptions(asked["consistency"], token, asked["max_staleness"], asked["max_wait"])


def _conditions(rules: Rules, texts: list[str]) -> list[Condition]:
    conditions = []
    for text in texts:
        field, _, rest = text.partition(":")
        operator, colon, value = rest.partition(":")
        if not colon or operator not in OPERATORS:
            raise MalformedRequest(
                f"where={text!r} is not field:op:value with op one of {', '.join(OPERATORS)}"
            )
        conditions.append(condition_of(rules, field, OPERATORS[operator], value))
    return conditions


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
READ = (_LEVEL, _MAX_STALENESS, _MAX_WAIT)
"""What a read may ask for, in the order of `ReadOptions`."""
_CURSOR = Parameter("cursor", Text(format="cursor"), "from the page before")
_IF_MATCH = Parameter(
    "If-Match",
    Text(format="etag"),
    '`"version"`, as `ETag` gave it, several of them, or `*`: else 412 `version-mismatch`',
    "header",
)
_IF_ABSENT = Parameter("If-None-Match", Choice(("*",)), "the document must not exist", "header")
_PREFER = Parameter(
    "Prefer",
    Text(),
    '`return=minimal`, on a batch of more than one write: `{"written": []}`, and that is also what is remembered of it',
    "header",
)

_READING = (
    errors.MalformedRequest,
    errors.InvalidToken,
    errors.Unavailable,
    errors.RegionUnreachable,
    errors.TokenNotReached,
    errors.TooStale,
    errors.Indefinite,
)

_DEGRADED = Parameter(
    "Atoll-Degraded",
    Text(),
    "why the answer is weaker than the collection's policy; absent when it is not",
    "header",
)
_APPLIED = Parameter("Preference-Applied", Text(), "`return=minimal`, where it was heeded", "header")
REPLAYED = Parameter(
    "Atoll-Replayed",
    Choice(("true",)),
    "`true`: the answer that was given to this idempotency key before",
    "header",
)
_ADDRESSED = (errors.UnknownCollection, errors.InvalidKey)
_CHECKED = (errors.InvalidDocument, errors.UnknownField, *WRITING, *BODY)
_SHOWN = (TOKEN, REGION, _DEGRADED, ETAG)
_DONE = (*_SHOWN, REPLAYED)


ROUTES = (
    Route(
        method="GET",
        path="/v1/{collection}/{key}",
        name="get",
        handler=_get,
        access="read",
        meaning='200 `{"key", "value", "version"}`; 404 `not-found`. Under `manual`, or a function that '
        'failed, also `siblings`: `{"value", "region", "seq", "stamp"}` each',
        parameters=(*_DOCUMENT, *READ, SESSION, IF_CHANGED),
        answers=tagged("the document", bodies.shown, _SHOWN),
        problems=(*_ADDRESSED, errors.NotFound, errors.InvalidOperation, *_READING),
        multiplexed=True,
    ),
    Route(
        method="PUT",
        path="/v1/{collection}/{key}",
        name="put",
        handler=_writing(_put),
        access="write",
        meaning="writes the whole document, the body; 200 as GET",
        parameters=(*_DOCUMENT, *WRITE, _IF_MATCH, _IF_ABSENT),
        body=Body(bodies.document),
        answers=(Answer("the document as it is now", bodies.written, headers=_DONE),),
        problems=(*_ADDRESSED, *_CHECKED),
        multiplexed=True,
    ),
    Route(
        method="PATCH",
        path="/v1/{collection}/{key}",
        name="patch",
        handler=_writing(_patch),
        access="write",
        meaning="applies [operators](#operators); creates the document if all required fields are given",
        parameters=(*_DOCUMENT, *WRITE, _IF_MATCH),
        body=Body(bodies.operators),
        answers=(Answer("the document as it is now", bodies.written, headers=_DONE),),
        problems=(*_ADDRESSED, errors.NotFound, *_CHECKED),
        multiplexed=True,
    ),
    Route(
        method="DELETE",
        path="/v1/{collection}/{key}",
        name="delete",
        handler=_writing(_delete),
        access="write",
        meaning='200 with `"value": null`; 404 when there was none',
        parameters=(*_DOCUMENT, *WRITE, _IF_MATCH),
        answers=(Answer("it is deleted", bodies.written, headers=_DONE),),
        problems=(*_ADDRESSED, errors.NotFound, *WRITING),
        multiplexed=True,
    ),
    Route(
        method="GET",
        path="/v1/{collection}",
        name="list",
        handler=_list,
        access="read",
        meaning='a page in key order: `{"items": […], "cursor"}`; `cursor` is null on the last one',
        parameters=(
            _COLLECTION,
            Parameter("prefix", Text(format="prefix"), "keys that start so", default=""),
            Parameter(
                "where",
                Text(format="condition"),
                "`field:op:value`; op is `eq`, `ne`, `lt`, `le`, `gt`, `ge` or `contains` (element of a list,"
                " substring of a text). The value is JSON or bare text",
                most=_MAX_CONDITIONS,
            ),
            LIMIT,
            _CURSOR,
            *READ,
            SESSION,
            IF_CHANGED,
        ),
        answers=tagged("a page", bodies.page, _SHOWN),
        problems=(
            errors.UnknownCollection,
            errors.UnknownField,
            errors.InvalidOperation,
            errors.InvalidKey,
            errors.InvalidCursor,
            *_READING,
        ),
        multiplexed=True,
    ),
    Route(
        method="POST",
        path="/v1/batch",
        name="batch",
        handler=_batch,
        access="write",
        meaning='many writes, one atomic entry: `{"writes": [{"put": {…}}, {"patch": {…}}, {"delete": {…}}]}` →'
        ' `{"written": […]}`',
        parameters=(*WRITE, _PREFER),
        body=Body({"$ref": "#/components/schemas/Batch"}),
        answers=(
            Answer("all are done", BatchAnswer, headers=(TOKEN, REGION, _DEGRADED, REPLAYED, _APPLIED)),
        ),
        problems=(*_ADDRESSED, errors.NotFound, *_CHECKED),
        multiplexed=True,
    ),
)
