"""`/v1/sagas`: start sagas, see how they stand, and tell them something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from atoll import errors
from atoll.client.answers import SagaAnswer, SagasAnswer
from atoll.errors import InvalidCursor, MalformedRequest, NotFound
from atoll.http.bodies import Schema, closed
from atoll.http.common import (
    BODY,
    LIMIT,
    TOKEN,
    WRITE,
    WRITING,
    answer_page,
    decode_cursor,
    idempotency_key_of,
    page_route,
)
from atoll.http.exchange import Exchange, parse_json
from atoll.http.parameters import Choice, Parameter, Seconds, Text
from atoll.http.route import Answer, Body, Route, Serving
from atoll.http.sessions import HEADER
from atoll.sagas.instance import STATUSES, Instance
from atoll.sagas.protocol import Aborted, Command, Retried, Signalled, Skipped
from atoll.schema.collection import COLLECTION_NAME

MOST_WAIT_S = 30

_HIDDEN = ("given", "nonce", "heard", "plan")
"""Members of an instance that mean nothing to others."""
_SAGA = Parameter("saga", Text(format="saga", min_length=1), "its name", "path")
_KEY = Parameter("key", Text(format="key", min_length=1), "what it was started with", "path")
_WAIT = Parameter(
    "wait", Seconds(MOST_WAIT_S), "answer once it is over or stuck, or after so long", default=0.0
)


class Start(msgspec.Struct, forbid_unknown_fields=True):
    key: Annotated[str, Meta(extra_json_schema={"format": "key"})]
    fields: msgspec.Raw | UnsetType = UNSET


class SignalItem(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    value: msgspec.Raw | UnsetType = UNSET


class RetryItem(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing more to say."""


class SkipItem(msgspec.Struct, forbid_unknown_fields=True):
    step: str = ""
    """What it must be stuck at."""


class AbortItem(msgspec.Struct, forbid_unknown_fields=True):
    reason: str = ""


class Order(msgspec.Struct, forbid_unknown_fields=True):
    """One of the four."""

    signal: SignalItem | UnsetType = UNSET
    retry: RetryItem | UnsetType = UNSET
    skip: SkipItem | UnsetType = UNSET
    abort: AbortItem | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Raises ValueError for what is no order."""
        if sum(each is not UNSET for each in (self.signal, self.retry, self.skip, self.abort)) != 1:
            raise ValueError("it takes one of signal, retry, skip, abort")


def _order() -> Schema:
    """That it is one of the four, as a JSON schema."""

    text = {"type": "string"}
    items = {
        "signal": closed({"name": text, "value": {}}, "name"),
        "retry": closed({}),
        "skip": closed({"step": text}),
        "abort": closed({"reason": text}),
    }
    return {"oneOf": [closed({name: item}, name) for name, item in items.items()]}


async def _start(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    asked = await exchange.decode(Start, on.region.bounds.body_bytes)
    idempotency_key_of(exchange)  # the saga's own key makes it count once
    token = await on.sessions.of(exchange)
    fields = b"{}" if asked.fields is UNSET else bytes(asked.fields)
    begun = await on.region.start_saga(at[0], asked.key, fields)
    await _answer(on, exchange, begun, token)


async def _find(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    token = await on.sessions.of(exchange)
    await _answer(on, exchange, await on.region.find_saga(at[0], at[1]), token)


async def _tell(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    asked = await exchange.decode(Order, on.region.bounds.body_bytes)
    key, token = idempotency_key_of(exchange), await on.sessions.of(exchange)
    told = await on.region.tell_saga(at[0], at[1], _command(asked), key)
    await _answer(on, exchange, told, token)


def _command(asked: Order) -> Command:
    if asked.signal:
        value = asked.signal.value
        return Signalled(asked.signal.name, None if value is UNSET else parse_json(bytes(value)))
    if asked.skip is not UNSET:
        return Skipped(asked.skip.step)
    if asked.abort is not UNSET:
        return Aborted(asked.abort.reason)
    return Retried()


async def _answer(
    on: Serving, exchange: Exchange, instance: Instance, token: Mapping[str, int] | None
) -> None:
    wait_s: float = exchange.arguments["wait"]
    if wait_s and not instance.over:
        instance = await on.region.await_saga(instance.saga, instance.id, wait_s)
    headers = [(HEADER, on.sessions.after(on.region.vector, token))]
    await exchange.answer_json(_shown(on, instance), headers=headers)


async def _list(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    asked = exchange.arguments
    limit: int = asked["limit"]
    after = None if asked["cursor"] is None else decode_cursor(asked["cursor"])
    if asked["saga"] is not None and COLLECTION_NAME.fullmatch(asked["saga"]) is None:
        raise MalformedRequest(f"saga={asked['saga'][:64]!r} cannot be the name of a saga")
    if after is not None and "/" not in after:
        raise InvalidCursor("the cursor is none that /v1/sagas gave; begin without one")
    found = await on.region.list_sagas(
        saga=asked["saga"], status=asked["status"], after=after, limit=limit + 1
    )
    more = len(found) > limit
    await answer_page(
        exchange, found[:limit], lambda each: _shown(on, each), lambda each: each.key, more=more
    )


def _shown(on: Serving, instance: Instance) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(instance)
    shown["waits_for"] = list(on.region.saga_doubts(instance))
    shown["key"] = shown.pop("id")
    return {name: value for name, value in shown.items() if name not in _HIDDEN}


_PROBLEMS = (errors.UnknownSaga, errors.InvalidKey, *WRITING)
_STANDS = Answer("how the saga stands", SagaAnswer, headers=(TOKEN,))

ROUTES = (
    page_route(
        path="/v1/sagas",
        name="sagas",
        handler=_list,
        access="observe",
        meaning='[sagas](sagas.md) by name and key: `{"items", "cursor"}`. `?status=stuck` shows what is stuck, since'
        " when, why, and what was undone",
        parameters=(
            Parameter("saga", Text(format="saga", min_length=1), "only of this name"),
            Parameter("status", Choice(STATUSES), "only those that stand so"),
            LIMIT,
            Parameter("cursor", Text(format="saga-cursor"), "from the page before"),
        ),
        page=("a page of sagas", SagasAnswer),
    ),
    Route(
        method="POST",
        path="/v1/sagas/{saga}",
        name="start_saga",
        handler=_start,
        access="write",
        meaning='starts a saga: `{"key": "order-17", "fields": {…}}`. If it was started before, says how it stands',
        parameters=(_SAGA, _WAIT, *WRITE),
        body=Body(Start),
        answers=(_STANDS,),
        problems=(errors.InvalidDocument, errors.UnknownField, *_PROBLEMS, *BODY),
        multiplexed=True,
    ),
    Route(
        method="GET",
        path="/v1/sagas/{saga}/{key}",
        name="saga",
        handler=_find,
        access="read",
        meaning="how a saga stands",
        parameters=(_SAGA, _KEY, _WAIT, *WRITE[:1]),
        answers=(_STANDS,),
        problems=(NotFound, errors.MalformedRequest, errors.InvalidToken, errors.Unavailable),
        multiplexed=True,
    ),
    Route(
        method="POST",
        path="/v1/sagas/{saga}/{key}",
        name="tell_saga",
        handler=_tell,
        access="write",
        meaning='`{"signal": {"name", "value"}}` gives a saga what it waits for. For people: `{"retry": {}}`,'
        ' `{"skip": {"step"}}` when it is stuck, `{"abort": {"reason"}}`',
        parameters=(_SAGA, _KEY, _WAIT, *WRITE),
        body=Body(_order()),
        answers=(_STANDS,),
        problems=(NotFound, errors.Conflict, *_PROBLEMS, *BODY),
        multiplexed=True,
    ),
)
