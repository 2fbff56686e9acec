"""Every call of the HTTP interface: how it is asked, and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast
from urllib.parse import quote, urlencode

import msgspec

from atoll.client import answers
from atoll.client.batch import BatchWrite, batch_item, key_of, model_class
from atoll.client.results import LeftOut, Read, Sibling
from atoll.client.transaction import CheckedRead
from atoll.client.transport import Response
from atoll.errors import InvalidDocument, InvalidOperation, NotFound
from atoll.schema import Collection, CollectionSchema, Limits
from atoll.schema.models import encoded, fitted, jsonable, schema_of
from atoll.schema.policy import Consistency

M = TypeVar("M", bound=Collection)
T = TypeVar("T")

Condition = tuple[str, str, Any]
"""(field, operator, value), the operator one of eq, ne, lt, le, gt, ge, contains."""

_JSON: Final = {"content-type": "application/json"}
_BRIEFLY: Final = {**_JSON, "prefer": "return=minimal"}
_NO_HEADERS: Final[Mapping[str, str]] = {}

_document = answers.reader(answers.DocumentAnswer)
_page = answers.reader(answers.PageAnswer)
_batch = answers.reader(answers.BatchAnswer)
_transaction = answers.reader(answers.TransactionAnswer)
_records = answers.reader(answers.RecordsAnswer)
_ids = answers.reader(answers.IdsAnswer)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call, before it is known which region gets it."""

    method: str
    path: str
    read: Callable[[Response, str], T]
    """Makes the result of a good answer and the name of the region that was asked."""
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS)
    body: bytes = b""
    writes: bool = False
    """Must count once: it carries an idempotency key, and may not move after an indefinite failure."""
    absent: Callable[[Response, str], T] | None = None
    """The result when there is no such document; None lets NotFound out."""
    wait_s: float = 0.0
    """What the region was asked to wait at most."""
    key: str | None = None
    """The document that may be `absent`: an answer that names another one is not believed."""


PAGE: Final = 100
"""How many results are fetched at a time."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some results, and where the next ones are."""

    items: Sequence[T]
    cursor: str | None
    invalid: Sequence[InvalidDocument] = ()
    """For each document that does not fit its declaration, and so is not among the items."""


class Asked(NamedTuple):
    """What a read of one document may ask for, beside the document."""

    consistency: Consistency | None = None
    max_staleness_s: float | None = None
    max_wait_s: float | None = None


USUAL: Final = Asked()


class Calls:
    """Builds calls. `in_session`: collections that are only eventually consistent are read as a session's."""

    def __init__(self, limits: Limits | None, *, in_session: bool = False) -> None:
        self.limits = limits
        self._in_session = in_session

    def put(self, model: M, if_match: str | None, *, create: bool) -> Call[M]:
        schema = schema_of(type(model), self.limits)
        headers = _guarded(if_match)
        if create:
            if if_match is not None:
                raise InvalidOperation(
                    "put takes create=True or if_match, not both: they contradict each other"
                )
            headers["if-none-match"] = "*"
        path, read = _path(schema, model.key), _shown(type(model), model.key)
        return Call("PUT", path, read, headers=headers, body=schema.from_model(model), writes=True)

    def patch(self, model: type[M], key: str, if_match: str | None, operators: Mapping[str, Any]) -> Call[M]:
        schema = schema_of(model, self.limits)
        body = encoded(jsonable(dict(operators), schema.name), schema.name)
        headers = _guarded(if_match)
        return Call("PATCH", _path(schema, key), _shown(model, key), headers=headers, body=body, writes=True)

    def delete(self, model: type[Collection], key: str, if_match: str | None) -> Call[bool]:
        path = _path(schema_of(model, self.limits), key)
        headers = {} if if_match is None else {"if-match": _quoted(if_match)}

        def deleted(response: Response, region: str) -> bool:
            _of_key(response, key)
            return True

        return Call("DELETE", path, deleted, headers=headers, writes=True, absent=lambda *_: False, key=key)

    def get(self, model: type[M], key: str, asked: Asked = USUAL) -> Call[M | None]:
        schema = schema_of(model, self.limits)

        def read(response: Response, region: str) -> M | None:
            return cast(M, fitted(schema, key, bytes(_of_key(response, key).value)))

        return self._reading(schema, key, asked, read, lambda *_: None)

    def read(self, model: type[M], key: str, asked: Asked = USUAL) -> Call[Read[M]]:
        schema = schema_of(model, self.limits)

        def read(response: Response, region: str) -> Read[M]:
            return _read_of(schema, _of_key(response, key), response, region)

        def absent(response: Response, region: str) -> Read[M]:
            headers = response.headers
            return Read(key, None, None, headers.get("atoll-region", region), headers.get("atoll-degraded"))

        return self._reading(schema, key, asked, read, absent)

    def page(
        self,
        model: type[M],
        prefix: str,
        where: Sequence[Condition],
        limit: int,
        cursor: str | None,
        *,
        consistency: Consistency | None = None,
    ) -> Call[Page[M]]:
        schema = schema_of(model, self.limits)
        query: list[tuple[str, str]] = [("limit", str(limit))]
        if prefix:
            query.append(("prefix", prefix))
        for name, operator, value in where:
            form = schema.elements.get(name) if operator == "contains" else schema.forms.get(name)
            at = f"{schema.name}.{name}"
            text = bytes(value) if isinstance(value, msgspec.Raw) else encoded(jsonable(value, at, form), at)
            query.append(("where", f"{name}:{operator}:{text.decode()}"))
        if cursor is not None:
            query.append(("cursor", cursor))
        if (level := self._level(schema, consistency)) is not None:
            query.append(("consistency", level))

        def read(response: Response, region: str) -> Page[M]:
            page, items, invalid = _page(response), [], []
            for item in page.items:
                try:
                    items.append(_model(schema, item))
                except InvalidDocument as error:
                    invalid.append(error)
            return Page(items, page.cursor, invalid)

        return Call("GET", f"/v1/{schema.name}", read, _encoded_query(query))

    def batch(self, writes: Sequence[BatchWrite]) -> Call[tuple[Read[Any], ...]]:
        if not writes:
            raise InvalidOperation("a batch needs at least one write")
        items = [batch_item(write, self.limits) for write in writes]
        schemas = [schema_of(model_class(write), self.limits) for write in writes]
        asked = [(schema.name, key_of(write)) for schema, write in zip(schemas, writes, strict=True)]

        def read(response: Response, region: str) -> tuple[Read[Any], ...]:
            written = _batch(response).written
            found = [(each.collection, each.key) for each in written]
            if found != asked:
                raise answers.AnotherAnswer(asked, found)
            reads: list[Read[Any] | None] = []
            left_out = LeftOut()
            for schema, each in zip(schemas, written, strict=True):
                try:
                    reads.append(_read_of(schema, each, response, region))
                except InvalidDocument as error:
                    left_out.add(error)
                    reads.append(None)
            left_out.tell("all were written", written=tuple(reads))
            return tuple(read for read in reads if read is not None)

        body = msgspec.json.encode({"writes": items})
        return Call("POST", "/v1/batch", read, headers=_JSON, body=body, writes=True)

    def transact(self, checks: Sequence[CheckedRead], writes: Sequence[BatchWrite]) -> Call[None]:
        body = {
            "checks": [
                {**self._named(each.model, each.key), "version": each.version or None} for each in checks
            ],
            "writes": [batch_item(write, self.limits) for write in writes],
        }

        def read(response: Response, region: str) -> None:
            _transaction(response)

        return Call(
            "POST",
            "/v1/transactions",
            read,
            headers=_JSON,
            body=msgspec.json.encode(body),
            writes=bool(writes),
        )

    def snapshot(self, wanted: Sequence[tuple[type[Collection], str]]) -> Call[tuple[Read[Any], ...]]:
        schemas = [schema_of(model, self.limits) for model, _ in wanted]
        asked = [
            (schema.name, schema.validate_key(key)) for schema, (_, key) in zip(schemas, wanted, strict=True)
        ]

        def read(response: Response, region: str) -> tuple[Read[Any], ...]:
            found = _transaction(response).read
            if [(each.collection, each.key) for each in found] != asked:
                raise answers.AnotherAnswer(asked, [(each.collection, each.key) for each in found])
            return tuple(
                _read_of(schema, each, response, region) for schema, each in zip(schemas, found, strict=True)
            )

        body = msgspec.json.encode({"reads": [self._named(model, key) for model, key in wanted]})
        return Call("POST", "/v1/transactions", read, headers=_JSON, body=body)

    def _named(self, model: type[Collection], key: str) -> dict[str, Any]:
        schema = schema_of(model, self.limits)
        return {"collection": schema.name, "key": schema.validate_key(key)}

    def put_many(self, model: type[Collection], documents: Sequence[tuple[str, bytes]]) -> Call[None]:
        if not documents:
            raise InvalidOperation("put_many needs at least one document")
        schema = schema_of(model, self.limits)
        head = b'{"put":{"collection":' + msgspec.json.encode(schema.name) + b',"key":'
        encode, check = msgspec.json.encode, schema.validate_key
        items = [head + encode(check(key)) + b',"value":' + text + b"}}" for key, text in documents]
        body = b'{"writes":[' + b",".join(items) + b"]}"
        return Call("POST", "/v1/batch", _done, headers=_BRIEFLY, body=body, writes=True)

    def texts(
        self,
        model: type[Collection],
        prefix: str,
        where: Sequence[Condition],
        limit: int,
        cursor: str | None,
        *,
        consistency: Consistency | None = None,
    ) -> Call[Page[tuple[str, bytes]]]:
        def read(response: Response, region: str) -> Page[tuple[str, bytes]]:
            page = _page(response)
            return Page([(item.key, bytes(item.value)) for item in page.items], page.cursor)

        asked = self.page(model, prefix, where, limit, cursor, consistency=consistency)
        return Call("GET", asked.path, read, asked.query)

    def conflicts(self, filters: Mapping[str, Any], cursor: str | None) -> Call[Page[dict[str, Any]]]:
        query = {
            name: value.isoformat() if isinstance(value, datetime) else str(value)
            for name, value in filters.items()
            if value is not None
        }
        if cursor is not None:
            query["cursor"] = cursor

        def read(response: Response, region: str) -> Page[dict[str, Any]]:
            page = _records(response)
            return Page(page.items, page.cursor)

        return Call("GET", "/v1/conflicts", read, _encoded_query(query))

    def resolve(self, conflict_id: str, value: Collection | Mapping[str, Any]) -> Call[dict[str, Any]]:
        if isinstance(value, Collection):
            value = schema_of(type(value), self.limits).document_of(value)
        where = f"conflict {conflict_id}"
        body = encoded({"value": jsonable(dict(value), where)}, where)

        def read(response: Response, region: str) -> dict[str, Any]:
            shown: dict[str, Any] = msgspec.json.decode(bytes(_document(response).value))
            return shown

        path = f"/v1/conflicts/{quote(conflict_id, safe='')}/resolve"
        return Call("POST", path, read, headers=_JSON, body=body, writes=True)

    def ids(self, kind: str, count: int) -> Call[list[str]]:
        # Not a write in the sense of `Call`: identifiers that nobody received are simply never used.
        path = f"/v1/ids/{quote(kind, safe='')}"
        return Call("POST", path, lambda response, region: _ids(response).ids, f"count={count:d}")

    def _level(self, schema: CollectionSchema, consistency: Consistency | None) -> Consistency | None:
        if consistency is None and self._in_session and schema.policy.consistency == "eventual":
            return "session"
        return consistency

    def _reading(
        self,
        schema: CollectionSchema,
        key: str,
        asked: Asked,
        read: Callable[[Response, str], T],
        absent: Callable[[Response, str], T],
    ) -> Call[T]:
        level, staleness_s, wait_s = self._level(schema, asked.consistency), *asked[1:]
        if staleness_s is None and wait_s is None:
            query = "" if level is None else f"consistency={quote(level)}"
        else:
            given = {"consistency": level, "max_staleness": staleness_s, "max_wait": wait_s}
            query = urlencode({name: value for name, value in given.items() if value is not None})
        return Call("GET", _path(schema, key), read, query, absent=absent, wait_s=wait_s or 0.0, key=key)


def _path(schema: CollectionSchema, key: str) -> str:
    return f"/v1/{schema.name}/{quote(schema.validate_key(key), safe='')}"


def _encoded_query(query: Mapping[str, Any] | Sequence[tuple[str, str]]) -> str:
    try:
        return urlencode(query)
    except UnicodeEncodeError as error:
        raise InvalidOperation(f"a lone surrogate is no character ({error}); send the whole one") from None


def _guarded(if_match: str | None) -> dict[str, str]:
    headers = dict(_JSON)
    if if_match is not None:
        headers["if-match"] = _quoted(if_match)
    return headers


def _quoted(version: str) -> str:
    if not version.isascii() or not version.isprintable() or '"' in version:
        raise InvalidOperation(f"if_match takes a version as read() gave it, or *, not {version[:64]!r}")
    return version if version == "*" else f'"{version}"'


def _of_key(response: Response, key: str) -> answers.DocumentAnswer:
    """Raises AnotherAnswer, ConfigError."""
    found = _document(response)
    if found.key != key:
        raise answers.AnotherAnswer(key, found.key)
    return found


def _shown(model: type[M], key: str) -> Callable[[Response, str], M]:
    def read(response: Response, region: str) -> M:
        found = _of_key(response, key)
        shown = _model(schema_of(model), found)
        if shown is None:
            raise NotFound(f"{found.key!r} was written, but a concurrent deletion is shown")
        return cast(M, shown)

    return read


def _model(schema: CollectionSchema, found: answers.DocumentAnswer | answers.WrittenAnswer) -> Any:
    value = bytes(found.value)
    return None if value == b"null" else fitted(schema, found.key, value)


def _read_of(
    schema: CollectionSchema,
    found: answers.DocumentAnswer | answers.WrittenAnswer,
    response: Response,
    region: str,
) -> Read[Any]:
    siblings: tuple[Sibling[Any], ...] = ()
    if isinstance(found, answers.DocumentAnswer) and found.siblings:
        siblings = tuple(
            Sibling(
                None if bytes(each.value) == b"null" else fitted(schema, found.key, bytes(each.value)),
                each.region,
                each.stamp,
                each.seq,
            )
            for each in found.siblings
        )
    headers = response.headers
    return Read(
        found.key,
        _model(schema, found),
        found.version,
        headers.get("atoll-region", region),
        headers.get("atoll-degraded"),
        siblings,
    )


def _done(response: Response, region: str) -> None:
    _batch(response)
