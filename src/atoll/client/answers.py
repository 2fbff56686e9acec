"""Answers of a region, turned into values and errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import msgspec

from atoll.client.transport import Response
from atoll.errors import AtollError, ConfigError, Indefinite, RequestError, Unavailable, error_classes

PROBLEM_PREFIX = "urn:atoll:problem:"
_STANDARD = frozenset({"type", "title", "status", "detail", "instance", "definite"})

T = TypeVar("T")


class AnotherAnswer(Exception):
    """The answer is about another document than the one asked for: the connection mixed them up."""

    def __init__(self, asked: object, found: object) -> None:
        super().__init__(f"asked for {asked!r:.200}, the answer is about {found!r:.200}")


class RawSibling(msgspec.Struct):
    value: msgspec.Raw
    region: str
    stamp: int
    seq: int = 0


class DocumentAnswer(msgspec.Struct):
    key: str
    value: msgspec.Raw
    version: str
    siblings: list[RawSibling] = []


class WrittenAnswer(msgspec.Struct):
    collection: str
    key: str
    value: msgspec.Raw
    version: str


class BatchAnswer(msgspec.Struct):
    written: list[WrittenAnswer]


class TransactionAnswer(msgspec.Struct):
    read: list[WrittenAnswer]
    written: list[WrittenAnswer]


class PageAnswer(msgspec.Struct):
    items: list[DocumentAnswer]
    cursor: str | None = None


class RecordsAnswer(msgspec.Struct):
    items: list[dict[str, Any]]
    cursor: str | None = None


class IdsAnswer(msgspec.Struct):
    ids: list[str]


class SagaRecord(msgspec.Struct):
    step: str
    outcome: str
    at_ms: int
    region: str
    attempts: int = 1
    error: str = ""


class SagaAnswer(msgspec.Struct):
    """A saga: see `client.sagas.SagaStatus`."""

    saga: str
    key: str
    home: str
    region: str
    status: str
    step: str
    backwards: bool
    attempts: int
    wake_ms: int
    since_ms: int
    started_ms: int
    cause: str
    error: str
    fields: msgspec.Raw
    done: list[SagaRecord]
    signals: dict[str, Any]
    waits_for: list[str] = []
    """Regions that may have gone on with it: until that is known, the region that took over does not."""


class SagasAnswer(msgspec.Struct):
    items: list[SagaAnswer]
    cursor: str | None = None


def reader(shape: type[T]) -> Callable[[Response], T]:
    """A function that decodes an answer's body. It raises ConfigError for what no Atoll server says."""
    decode = msgspec.json.Decoder(shape).decode

    def read(response: Response) -> T:
        try:
            return decode(response.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            not_atoll(response, str(error))

    return read


def not_atoll(response: Response, reason: str) -> NoReturn:
    """Raise ConfigError, showing what was answered."""
    kind = response.headers.get("content-type") or "no content type"
    start = response.body[:80].decode("utf-8", "replace")
    raise ConfigError(
        f"the server there is not an Atoll server of this version (status {response.status}, {kind}, beginning"
        f" with {start!r}: {reason}); check the region's url and what is in front of it"
    )


def problem_of(response: Response) -> AtollError:
    """The error that a problem document (RFC 9457) stands for, of the class that the region raised.

    Without such a document it comes from something in between. After 502, 503 and 504 it is unknown whether
    the region got the request (some gateways answer 503 if a connection broke): Indefinite. Anything
    else is ConfigError.
    """
    try:
        document = msgspec.json.decode(response.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = None
    kind = document.get("type") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(kind, str) or not kind.startswith(PROBLEM_PREFIX):
        return _from_in_between(response)
    slug = kind.removeprefix(PROBLEM_PREFIX)
    message = str(document.get("detail") or document.get("title") or slug)
    return _make(_class_of(slug, response.status, document), message, document)


def _make(kind: type[AtollError], message: str, document: Mapping[str, Any]) -> AtollError:
    error = kind(message)
    error.details.update({name: value for name, value in document.items() if name not in _STANDARD})
    return error


def _class_of(slug: str, status: int, document: Mapping[str, Any]) -> type[AtollError]:
    known = error_classes().get(slug)
    if known is not None:
        return known
    if document.get("definite") is False:
        return Indefinite
    if status == 503:
        return Unavailable
    return RequestError if 400 <= status < 500 else AtollError


def _from_in_between(response: Response) -> AtollError:
    if response.status in (502, 503, 504):
        return Indefinite(
            f"something in front of the region answered {response.status} for it",
            gateway_status=response.status,
        )
    try:
        not_atoll(response, "no problem document")
    except ConfigError as error:
        return error
