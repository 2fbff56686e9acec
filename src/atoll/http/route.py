"""What a route is: data from which dispatch, the OpenAPI document and the reference page are derived."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, ParamSpec, TypeVar

from atoll.causality.origin import region_of
from atoll.documents.rules import Rules
from atoll.errors import AtollError, MalformedRequest, NotFound
from atoll.http.bodies import Described
from atoll.http.direct import App
from atoll.http.exchange import Exchange, text_of
from atoll.http.parameters import Parameter, Query, defaults_of
from atoll.http.sessions import Sessions
from atoll.ids import IdService
from atoll.region.region import Region
from atoll.replication.beside import beside_loop
from atoll.replication.emulation import Emulation

Method = Literal["GET", "PUT", "PATCH", "POST", "DELETE"]
Access = Literal["public", "read", "write", "audit", "observe", "operate", "peer"]
"""What a caller has to be allowed, once callers are told apart."""
Handler = Callable[["Serving", Exchange, Sequence[str]], Awaitable[None]]
"""Answers the exchange. The texts are the values of the path's parameters, in its order."""

JSON = "application/json"
AT_ONCE_BYTES = 64 << 10
"""A larger body is taken apart beside the event loop."""
T = TypeVar("T")
Arguments = ParamSpec("Arguments")


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What handlers use to answer for one region."""

    app: App
    region: Region
    sessions: Sessions
    emulation: Emulation
    ids: IdService
    link_key: bytes
    test_topology: bool
    closing: asyncio.Event
    """Set when the server shuts down, so that streams end and do not hold it up."""
    description: Callable[[], bytes]
    """The OpenAPI document."""
    one: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """Of several threads the event loop would have to wait for each in turn."""

    async def beside(
        self, work: Callable[Arguments, T], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> T:
        """Do what takes long in a thread."""
        async with self.one:
            return await beside_loop(work, *args, **kwargs)

    def rules(self, collection: str) -> Rules:
        """Raises UnknownCollection."""
        region = self.region
        return region.rules.get(collection) or region.rules[region.application.collection(collection).name]

    def check_region(self, parameter: str, name: str | None) -> None:
        """Raises MalformedRequest for a region that is no member, and never was."""
        known = {region_of(origin) for origin in self.region.membership.origins}
        if name is not None and name not in known:
            raise MalformedRequest(
                f"{parameter}={name[:64]!r} is no region; there are {', '.join(sorted(known))}"
            )


@dataclass(frozen=True, slots=True)
class Body:
    """What a request has to bring along."""

    schema: Described
    media_type: str = JSON


@dataclass(frozen=True, slots=True)
class Answer:
    """One good outcome of a call."""

    meaning: str
    schema: Described | None = None
    """None for an answer without a body."""
    status: int = 200
    media_type: str = JSON
    headers: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One call of the HTTP interface."""

    method: Method
    path: str
    """Its parameters stand in braces; `{key}` takes all that is left, slashes included."""
    name: str
    handler: Handler
    access: Access
    meaning: str
    """In the reference, as Markdown."""
    answers: tuple[Answer, ...]
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    problems: tuple[type[AtollError], ...] = ()
    multiplexed: bool = False
    """Whether it can be asked within `POST /v1/multiplex`: it is answered in one piece."""

    @property
    def query(self) -> Query:
        return {each.name: each for each in self.parameters if each.place == "query"}


@dataclass(frozen=True, slots=True)
class Bound:
    """A route as dispatch needs it: everything that can be worked out before the request comes."""

    handler: Handler
    query: Query
    defaults: Mapping[str, Any]
    media_type: bytes | None
    answers_with: frozenset[str]
    """The media types of its good answers."""
    conditions: frozenset[bytes]
    """The preconditions that it takes, as header names in lower case."""
    repeatable: bool
    """Whether it takes an idempotency key."""
    multiplexed: bool
    of_documents: bool
    """Whether it is about documents, which a witness does not hold."""


class Place:
    """A path of the table, or the beginning of one."""

    __slots__ = ("allow", "literals", "methods", "of_collection", "parameter", "takes")

    def __init__(self, takes: str = "") -> None:
        self.takes = takes
        """The parameter that leads here; empty for a literal."""
        self.literals: dict[bytes, Place] = {}
        self.parameter: Place | None = None
        self.methods: dict[str, Bound] = {}
        self.of_collection = False
        """Whether the first parameter of its path is a collection."""
        self.allow: tuple[str, ...] = ()
        """The methods that it takes, sorted. `OPTIONS *` asks for those of all paths."""


class Table:
    """Finds the routes of a path. A literal segment goes before a parameter in its place."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._root = Place()
        for route in self.routes:
            self._add(route)
        whole = self._root.literals[b"*"] = Place()
        whole.allow = tuple(sorted({"HEAD", "OPTIONS", *(route.method for route in self.routes)}))

    def _add(self, route: Route) -> None:
        place = self._root
        for segment in route.path.split("/")[1:]:
            if not segment.startswith("{"):
                place = place.literals.setdefault(segment.encode(), Place())
            else:
                place.parameter = place.parameter or Place(segment[1:-1])
                place = place.parameter
        place.of_collection = route.path.startswith("/v1/{collection}")
        assert route.method not in place.methods, f"two routes answer {route.method} {route.path}"
        bound = Bound(
            route.handler,
            route.query,
            defaults_of(route.query),
            None if route.body is None else route.body.media_type.encode(),
            frozenset(each.media_type for each in route.answers if each.schema is not None),
            frozenset(each.name.lower().encode() for each in route.parameters if each.name.startswith("If-")),
            any(each.name == "Idempotency-Key" for each in route.parameters),
            route.multiplexed,
            route.access in ("read", "write", "audit"),
        )
        place.methods[route.method] = bound
        if route.method == "GET":
            place.methods["HEAD"] = bound
        place.allow = tuple(sorted([*place.methods, "OPTIONS"]))

    def find(self, segments: Sequence[bytes]) -> tuple[Place, list[str]]:
        """A path's place, and the values of its parameters.

        Raises NotFound for a path that no route has, InvalidKey, MalformedRequest.
        """
        place = self._root
        values: list[str] = []
        for index, segment in enumerate(segments):
            step = place.literals.get(segment)
            if step is None:
                step = place.parameter
                if step is None or not (segment or step.takes == "key"):
                    break
                if step.takes == "key":
                    values.append(text_of(b"/".join(segments[index:])))
                    return step, values
                values.append(text_of(segment))
            place = step
        else:
            if place.allow:
                return place, values
        shown = b"/".join(segments)[:200].decode("latin-1")
        raise NotFound(f"there is no /{shown}; see /openapi.json")
