"""`db.sagas`: starts sagas, says how they stand, and tells them something."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast
from urllib.parse import quote, urlencode

import msgspec

from atoll.client import answers
from atoll.client.answers import SagaAnswer, SagasAnswer
from atoll.client.calls import PAGE, Call, Page
from atoll.client.transport import Response
from atoll.errors import InvalidDocument, InvalidOperation
from atoll.schema.limits import Limits
from atoll.schema.models import encoded, fitted, jsonable
from atoll.schema.saga import Saga, SagaSchema, compile_saga

if TYPE_CHECKING:
    from atoll.client.verbs import Verbs

S = TypeVar("S", bound=Saga)

_JSON: Final = {"content-type": "application/json"}
_WAIT_S: Final = 25.0
"""A region is asked to wait so long at a time."""
_OVER: Final = frozenset({"completed", "compensated"})

_saga = answers.reader(SagaAnswer)
_sagas = answers.reader(SagasAnswer)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that a saga has behind it."""

    step: str
    outcome: str
    """`done`, `undone`, or `skipped` by a person."""
    at_ms: int
    region: str
    """Which region did it."""
    attempts: int
    error: str
    """Of the last attempt that failed; empty for none."""


@dataclass(frozen=True, slots=True)
class SagaStatus(Generic[S]):
    """How a saga stands."""

    saga: str
    key: str
    status: str
    """`running`, `waiting`, `compensating`, `stuck`, `completed` or `compensated`."""
    step: str
    """What is done next, or undone; empty when it is over."""
    value: S | None
    """What it knows. None where its class was not given, or has changed since."""
    cause: str
    """Why it went back or is stuck: `failed`, `refused`, `too-late`, `aborted`, `changed`, `unknown`; else empty."""
    error: str
    """Of the last attempt that failed."""
    attempts: int
    """Of the present step, that have failed."""
    since_ms: int
    """Since when it has this status (unix milliseconds)."""
    started_ms: int
    wake_ms: int
    """Nothing is done before; 0 for no such time."""
    home: str
    """The region in which it was started."""
    region: str
    """The region that has acted on it last."""
    done: tuple[StepRecord, ...]
    fields: Mapping[str, Any]
    """What it knows, as JSON."""
    waits_for: tuple[str, ...] = ()
    """Regions that may have gone on with it. Until that is known, the region that took it over does not."""

    @property
    def over(self) -> bool:
        """Whether nothing happens any more."""
        return self.status in _OVER


class Sagas:
    """What can be asked about sagas. Raises as the other calls of a client do."""

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs

    async def start(self, saga: S, *, wait_s: float = 0.0) -> SagaStatus[S]:
        """Start it; or say how it stands, if it was started before under its key.

        Waits so long for it to be over or stuck. Raises IdempotencyKeyReused if it was started with other fields.
        """
        call = _start(_schema_of(type(saga), self._limits), saga, min(wait_s, _WAIT_S))
        return await self._concluded(type(saga), await self._verbs._run(call), wait_s)

    async def get(self, model: type[S], key: str, *, wait_s: float = 0.0) -> SagaStatus[S] | None:
        """How it stands, once it is over or stuck, or after so long. None if there is none."""
        found = await self._verbs._run(_find(_schema_of(model, self._limits), key, min(wait_s, _WAIT_S)))
        return None if found is None else await self._concluded(model, found, wait_s)

    async def list(
        self, model: type[S] | str | None = None, *, status: str | None = None, limit: int = PAGE
    ) -> AsyncIterator[SagaStatus[S]]:
        """Sagas by name and key, fetched `limit` at a time; only of a class or name, only of a status."""
        schema = _schema_of(model, self._limits) if isinstance(model, type) else None
        name = model if isinstance(model, str) else None if schema is None else schema.name
        cursor: str | None = None
        while True:
            page = await self._verbs._run(_page(schema, name, status, limit, cursor))
            for item in page.items:
                yield cast(SagaStatus[S], item)
            cursor = page.cursor
            if cursor is None:
                return

    async def signal(
        self, model: type[S], key: str, name: str, value: Any = None, *, idempotency_key: str | None = None
    ) -> SagaStatus[S]:
        """Give it what it waits for. Raises NotFound, and InvalidOperation if it never waits for that."""
        body = {"signal": {"name": name, "value": jsonable(value, f"signal {name}")}}
        return await self._tell(model, key, body, idempotency_key)

    async def retry(self, model: type[S], key: str) -> SagaStatus[S]:
        """Attempt once more what it is stuck at, or pauses before. Raises NotFound, Conflict."""
        return await self._tell(model, key, {"retry": {}})

    async def skip(self, model: type[S], key: str, *, step: str = "") -> SagaStatus[S]:
        """Go on as if a person had done what it is stuck at, which must be `step` if that is given.

        Raises NotFound, Conflict.
        """
        return await self._tell(model, key, {"skip": {"step": step}})

    async def abort(self, model: type[S], key: str, *, reason: str = "") -> SagaStatus[S]:
        """Undo what it has done. Raises NotFound, and Conflict if it has passed its pivot or is over."""
        return await self._tell(model, key, {"abort": {"reason": reason}})

    @property
    def _limits(self) -> Limits | None:
        return self._verbs._calls.limits

    async def _tell(
        self, model: type[S], key: str, body: Mapping[str, Any], idempotency_key: str | None = None
    ) -> SagaStatus[S]:
        schema = _schema_of(model, self._limits)
        call = Call(
            "POST",
            _path(schema, key),
            _reading(schema),
            headers=_JSON,
            body=encoded(dict(body), schema.name),
            writes=True,
        )
        return cast(SagaStatus[S], await self._verbs._run(call, idempotency_key))

    async def _concluded(self, model: type[S], found: SagaStatus[Any], wait_s: float) -> SagaStatus[S]:
        now_s = self._verbs._exchanges.clock
        deadline_s = now_s() + wait_s - min(wait_s, _WAIT_S)
        while not found.over and found.status != "stuck":
            left_s = deadline_s - now_s()
            if left_s <= 0:
                break
            call = _find(_schema_of(model, self._limits), found.key, min(left_s, _WAIT_S))
            again: SagaStatus[Any] | None = await self._verbs._run(call)
            found = found if again is None else again
        return cast(SagaStatus[S], found)


def _schema_of(model: type[S], limits: Limits | None) -> SagaSchema:
    """Raises InvalidOperation for what is no saga."""
    if not (isinstance(model, type) and issubclass(model, Saga)) or not model.__atoll_steps__:
        raise InvalidOperation(
            f"{getattr(model, '__name__', model)!r} is not a saga; pass a class that inherits from Saga"
        )
    return compile_saga(model, limits)


def _path(schema: SagaSchema, key: str) -> str:
    return f"/v1/sagas/{schema.name}/{quote(schema.fields.validate_key(key), safe='')}"


def _waiting(wait_s: float) -> str:
    return f"wait={wait_s:.3f}" if wait_s > 0 else ""


def _start(schema: SagaSchema, saga: Saga, wait_s: float) -> Call[SagaStatus[Any]]:
    body = b'{"key":%b,"fields":%b}' % (
        msgspec.json.encode(schema.fields.validate_key(saga.key)),
        schema.fields.from_model(saga),
    )
    return Call(
        "POST",
        f"/v1/sagas/{schema.name}",
        _reading(schema),
        _waiting(wait_s),
        _JSON,
        body,
        writes=True,
        wait_s=wait_s,
    )


def _find(schema: SagaSchema, key: str, wait_s: float) -> Call[SagaStatus[Any] | None]:
    return Call(
        "GET",
        _path(schema, key),
        _reading(schema),
        _waiting(wait_s),
        absent=lambda *_: None,
        wait_s=wait_s,
        key=key,
    )


def _page(
    schema: SagaSchema | None, name: str | None, status: str | None, limit: int, cursor: str | None
) -> Call[Page[SagaStatus[Any]]]:
    given = {"saga": name, "status": status, "limit": limit, "cursor": cursor}

    def read(response: Response, region: str) -> Page[SagaStatus[Any]]:
        page = _sagas(response)
        return Page([_status(schema, item) for item in page.items], page.cursor)

    query = urlencode({name: value for name, value in given.items() if value is not None})
    return Call("GET", "/v1/sagas", read, query)


def _reading(schema: SagaSchema) -> Callable[[Response, str], SagaStatus[Any]]:
    return lambda response, region: _status(schema, _saga(response))


def _status(schema: SagaSchema | None, found: SagaAnswer) -> SagaStatus[Any]:
    fields = bytes(found.fields)
    value = None
    if schema is not None:
        try:
            value = cast(Saga, fitted(schema.fields, found.key, fields))
        except InvalidDocument:
            value = None
    return SagaStatus(
        found.saga,
        found.key,
        found.status,
        found.step,
        value,
        found.cause,
        found.error,
        found.attempts,
        found.since_ms,
        found.started_ms,
        found.wake_ms,
        found.home,
        found.region,
        tuple(
            StepRecord(each.step, each.outcome, each.at_ms, each.region, each.attempts, each.error)
            for each in found.done
        ),
        msgspec.json.decode(fields),
        tuple(found.waits_for),
    )
