"""`/v1/{collection}` and `/v1/{collection}/{key}`, and `/v1/batch`: the data routes."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec

from atoll.causality.origin import region_of
from atoll.documents import document as documents
from atoll.documents.mutation import ANY_VERSION, Delete, Mutation, Write, patch_of, put_of
from atoll.documents.register import Version
from atoll.documents.rules import Rules
from atoll.documents.trace import parse_traceparent
from atoll.errors import InvalidCursor, MalformedRequest, NotFound
from atoll.http.bodies import DeleteItem, PatchItem, PutItem, decode_writes
from atoll.http.exchange import Exchange
from atoll.http.sessions import HEADER, Sessions
from atoll.region.reading import ListOptions, ReadOptions
from atoll.region.region import Region
from atoll.replication.messages import WriteReply
from atoll.schema.fields import INT_MAX, INT_MIN
from atoll.store.port import Condition

MAX_PAGE = 1000
MAX_CONDITIONS = 20
MAX_IDEMPOTENCY_KEY = 255
_OPERATORS = ("eq", "ne", "lt", "le", "gt", "ge", "contains")
_BATCH_BYTES = 16 << 20
_ONE_VERSION = re.compile(r'"[^"]*"')
_MINIMAL = "return=minimal"

Headers = list[tuple[bytes, bytes]]


class Documents:
    """Reads and writes of one region."""

    def __init__(self, region: Region, sessions: Sessions) -> None:
        self._region = region
        self._sessions = sessions
        self._own = region.name.encode()

    async def get(self, exchange: Exchange, rules: Rules, key: str) -> None:
        region = self._region
        rules.schema.validate_key(key)
        token = await self._sessions.of(exchange)
        options = _read_options(exchange, token)
        reading = await region.read(rules.name, key, options)
        headers = self._headers(reading.region, self._sessions.after(reading.vector, token))
        if reading.degraded is not None:
            headers.append((b"atoll-degraded", reading.degraded.encode()))
        if reading.value is None:
            return await exchange.refuse(
                NotFound(f"{rules.name}/{key} does not exist", collection=rules.name, key=key), headers
            )
        headers.append((b"etag", b'"' + reading.version.encode() + b'"'))
        if exchange.holds(reading.version):
            return await exchange.answer_nothing(304, headers)
        body = _document(key, reading.value, reading.version)
        if rules.schema.policy.resolve in ("manual", "custom") and reading.region == region.name:
            body = await self._with_siblings(rules, key, body)
        await exchange.answer(200, body, headers)
        return None

    async def put(self, exchange: Exchange, rules: Rules, key: str) -> None:
        rules.schema.validate_key(key)
        token = await self._sessions.of(exchange)
        body = await exchange.body(self._region.options.document_bytes)
        if_match, if_absent = _preconditions(exchange)
        put = put_of(rules, key, body, if_match=if_match, if_absent=if_absent)
        await self._write_one(exchange, rules, put, token)

    async def patch(self, exchange: Exchange, rules: Rules, key: str) -> None:
        rules.schema.validate_key(key)
        token = await self._sessions.of(exchange)
        operators = await exchange.json(self._region.options.document_bytes)
        if_match, _ = _preconditions(exchange)
        await self._write_one(exchange, rules, patch_of(rules, key, operators, if_match=if_match), token)

    async def delete(self, exchange: Exchange, rules: Rules, key: str) -> None:
        rules.schema.validate_key(key)
        token = await self._sessions.of(exchange)
        if_match, _ = _preconditions(exchange)
        await self._write_one(exchange, rules, Delete(rules.name, key, if_match), token)

    async def _write_one(
        self, exchange: Exchange, rules: Rules, mutation: Mutation, token: dict[str, int] | None
    ) -> None:
        reply = await self._region.write(
            Write((mutation,), idempotency_key_of(exchange), self._trace(exchange)), token
        )
        written = reply.receipt.written[0]
        headers = self._after(reply, token)
        headers.append((b"etag", b'"' + written.version.encode() + b'"'))
        fallback = rules.schema.policy.standing_fallback
        if fallback is not None:
            headers.append((b"atoll-degraded", fallback.encode()))
        await exchange.answer(200, _document(written.key, written.value, written.version), headers)

    def _trace(self, exchange: Exchange) -> bytes | None:
        header = exchange.header(b"traceparent")
        trace = None if header is None else parse_traceparent(header)
        if trace is None and header is not None:
            self._region.count_invalid_trace()
        return trace

    async def batch(self, exchange: Exchange) -> None:
        """Many writes, one atomic entry. With `Prefer: return=minimal` (RFC 7240) only whether it was done."""
        token = await self._sessions.of(exchange)
        mutations = self._mutations(await exchange.body(_BATCH_BYTES))
        brief = len(mutations) > 1 and (exchange.header(b"prefer") or "").strip() == _MINIMAL
        reply = await self._region.write(
            Write(mutations, idempotency_key_of(exchange), self._trace(exchange), brief), token
        )
        written = [
            {
                "collection": each.collection,
                "key": each.key,
                "value": None if each.value is None else msgspec.Raw(each.value),
                "version": each.version,
            }
            for each in reply.receipt.written
        ]
        headers = self._after(reply, token)
        fallbacks = {self.rules(each.collection).schema.policy.standing_fallback for each in mutations} - {
            None
        }
        if fallbacks:
            headers.append((b"atoll-degraded", ", ".join(sorted(map(str, fallbacks))).encode()))
        if brief:
            headers.append((b"preference-applied", _MINIMAL.encode()))
        await exchange.answer_json({"written": written}, headers=headers)

    def _mutations(self, body: bytes) -> tuple[Mutation, ...]:
        try:
            writes = decode_writes(body).writes
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRequest(
                f'a batch is {{"writes": [{{"put": {{…}}}}, {{"patch": {{…}}}}, {{"delete": {{…}}}}]}}: {error}'
            ) from None
        found: list[Mutation] = []
        rules: Rules | None = None
        for index, write in enumerate(writes):
            item = write.put or write.patch or write.delete
            if not item or bool(write.put) + bool(write.patch) + bool(write.delete) != 1:
                raise MalformedRequest(f"write {index} of the batch needs one of put, patch, delete")
            if rules is None or rules.name != item.collection:
                rules = self.rules(item.collection)
            key = rules.schema.validate_key(item.key)
            match item:
                case PutItem():
                    found.append(put_of(rules, key, bytes(item.value), if_match=item.if_match))
                case PatchItem():
                    found.append(patch_of(rules, key, item.operators, if_match=item.if_match))
                case DeleteItem():
                    found.append(Delete(rules.name, key, item.if_match))
        return tuple(found)

    async def list(self, exchange: Exchange, rules: Rules) -> None:
        asked = exchange.arguments
        token = await self._sessions.of(exchange)
        options = _read_options(exchange, token)
        wanted = ListOptions(
            prefix=asked["prefix"],
            where=_conditions(rules, asked["where"]),
            after=None if asked["cursor"] is None else decode_cursor(asked["cursor"]),
            limit=asked["limit"],
        )
        found = await self._region.list(rules.name, wanted, options)
        items = [_document(key, row.value, documents.version_tag(row)) for key, row in found.rows]
        cursor = msgspec.json.encode(encode_cursor(found.rows[-1][0]) if found.more else None)
        headers = self._headers(self._region.name, self._sessions.after(found.vector, token))
        if found.degraded is not None:
            headers.append((b"atoll-degraded", found.degraded.encode()))
        body = b'{"items":[' + b",".join(items) + b'],"cursor":' + cursor + b"}"
        await exchange.answer_tagged(body, headers)

    def rules(self, collection: str) -> Rules:
        """Raises UnknownCollection."""
        found = self._region.rules.get(collection)
        return (
            self._region.rules[self._region.application.collection(collection).name]
            if found is None
            else found
        )

    async def _with_siblings(self, rules: Rules, key: str, body: bytes) -> bytes:
        found = await self._region.siblings(rules.name, key)
        if not found:
            return body
        shown = msgspec.json.encode([_sibling(version) for version in found])
        return body[:-1] + b',"siblings":' + shown + b"}"

    def _headers(self, region: str, token: bytes) -> Headers:
        name = self._own if region == self._region.name else region.encode()
        return [(HEADER, token), (b"atoll-region", name)]

    def _after(self, reply: WriteReply, token: dict[str, int] | None) -> Headers:
        headers = self._headers(region_of(reply.receipt.origin), self._sessions.after(reply.vector, token))
        if reply.receipt.replayed:
            headers.append((b"atoll-replayed", b"true"))
        return headers


def _document(key: str, value: bytes | None, version: str) -> bytes:
    return (
        b'{"key":'
        + msgspec.json.encode(key)
        + b',"value":'
        + (b"null" if value is None else value)
        + b',"version":"'
        + version.encode()
        + b'"}'
    )


def _sibling(version: Version) -> dict[str, Any]:
    return {
        "value": None if version.value is None else msgspec.Raw(version.value),
        "region": region_of(version.origin),
        "seq": version.seq,
        "stamp": version.stamp,
    }


def _preconditions(exchange: Exchange) -> tuple[str | None, bool]:
    if_none_match = exchange.header(b"if-none-match")
    if if_none_match is not None and if_none_match.strip() != ANY_VERSION:
        raise MalformedRequest("If-None-Match takes only *, which requires that the document does not exist")
    if_match = exchange.header(b"if-match")
    if if_match is None:
        return None, if_none_match is not None
    if_match = if_match.strip()
    if if_match != ANY_VERSION:
        if not _ONE_VERSION.fullmatch(if_match):
            raise MalformedRequest("If-Match takes one version in double quotes, as ETag gave it, or *")
        if_match = if_match[1:-1]
    return if_match, if_none_match is not None


def idempotency_key_of(exchange: Exchange) -> str | None:
    key = exchange.header(b"idempotency-key")
    if key is not None and not (0 < len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable()):
        raise MalformedRequest(f"Idempotency-Key takes 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters")
    return key


def _read_options(exchange: Exchange, token: dict[str, int] | None) -> ReadOptions:
    asked = exchange.arguments
    return ReadOptions(asked["consistency"], token, asked["max_staleness"], asked["max_wait"])


def _conditions(rules: Rules, texts: list[str]) -> list[Condition]:
    conditions = []
    for text in texts:
        field, _, rest = text.partition(":")
        operator, colon, value = rest.partition(":")
        if operator not in _OPERATORS or not colon:
            raise MalformedRequest(
                f"where={text!r} is not field:op:value with op one of {', '.join(_OPERATORS)}"
            )
        if field not in rules.plain and field not in rules.lattices and field not in rules.maps:
            rules.schema.validate_field(field, None)  # raises UnknownField, naming what may have been meant
        try:
            parsed = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            parsed = value
        if isinstance(parsed, dict | list):
            raise MalformedRequest(
                f"where={text!r} compares with a single value, not with an object or a list"
            )
        if isinstance(parsed, int) and not INT_MIN <= parsed <= INT_MAX:
            raise MalformedRequest(f"where={field}:{operator}:… compares with an integer beyond 64 bits")
        conditions.append(Condition(field, operator, parsed))  # type: ignore[arg-type]
    return conditions


def encode_cursor(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).rstrip(b"=").decode()


def decode_cursor(text: str) -> str:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise InvalidCursor("the cursor is not one of this interface; start without a cursor") from None
