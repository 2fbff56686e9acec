"""`/admin/…`, `/health/…` and `/v1/ids/…`: what operators, load balancers and id users ask."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from atoll.client.answers import IdsAnswer
from atoll.config.version import VERSION
from atoll.errors import AtollError, InvalidOperation, MalformedRequest, Unavailable
from atoll.http.common import BODY, STORE
from atoll.http.exchange import Exchange
from atoll.http.parameters import Choice, Parameter, Whole
from atoll.http.route import Answer, Body, Route, Serving
from atoll.ids import KINDS, MAX_COUNT
from atoll.region.status import Check, RegionStatus
from atoll.region.verification import Digests, Verification
from atoll.store.port import StoreStatistics

T = TypeVar("T")

_SMALL_BODY = 4096

Peer = Annotated[str, Meta(extra_json_schema={"format": "peer"})]
"""The name of another region of the deployment."""


class Alone(msgspec.Struct, forbid_unknown_fields=True):
    region: str


class Deciding(msgspec.Struct):
    acceptors: list[str]


class Drain(msgspec.Struct, forbid_unknown_fields=True):
    draining: bool


class Gone(msgspec.Struct, forbid_unknown_fields=True):
    peer: Peer
    gone: Annotated[bool, Meta(extra_json_schema={"const": True})]


class Cut(msgspec.Struct, forbid_unknown_fields=True):
    peer: Peer
    cut: bool


class Delay(msgspec.Struct, forbid_unknown_fields=True):
    peer: Peer
    rtt_ms: Annotated[float, Meta(ge=0, le=60_000)]


class Forgotten(msgspec.Struct):
    gone: str


class Health(msgspec.Struct):
    region: str
    status: str
    reason: str | None


class ParkedChange(msgspec.Struct):
    origin: str
    seq: int
    change: int
    cause: Literal["undeclared", "unreadable", "refused"]
    """`undeclared`: newer declarations have a place for it; `unreadable`: it is no change; `refused`: it is invalid."""
    reason: str


class ParkedChanges(msgspec.Struct):
    items: list[ParkedChange]


class CutLinks(msgspec.Struct):
    cut: list[str]


class Delays(msgspec.Struct):
    one_way_s: dict[str, float]


class Emulated(msgspec.Struct):
    cut: list[str]
    one_way_s: dict[str, float]


class Status(RegionStatus):
    version: str
    pid: int
    emulated: Emulated | None


async def _status(on: Serving) -> Status:
    emulated = Emulated(list(on.emulation.cut), _one_way_s(on)) if on.test_topology else None
    found = msgspec.structs.asdict(on.region.status())
    return Status(**found, version=VERSION, pid=os.getpid(), emulated=emulated)


async def _parked(on: Serving) -> ParkedChanges:
    found = await on.region.parked()
    return ParkedChanges([ParkedChange(p.origin, p.seq, p.change, p.cause, p.reason) for p in found])


def _drain(on: Serving, asked: Drain) -> Drain:
    on.region.drain(asked.draining)
    return asked


def _forget(on: Serving, asked: Gone) -> Forgotten:
    _check_peer(on, asked.peer)
    if not asked.gone:
        raise MalformedRequest("gone accepts true only; a peer that is back is recognised without a request")
    on.region.forget(asked.peer)
    return Forgotten(asked.peer)


async def _decide_alone(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    asked = await exchange.decode(Alone, _SMALL_BODY)
    if asked.region != on.region.name:
        raise InvalidOperation(f"this is {on.region.name}, and not {asked.region!r}")
    await exchange.answer_json({"acceptors": await on.region.decide_alone()})


def _partition(on: Serving, asked: Cut) -> CutLinks:
    _check_peer(on, asked.peer)
    on.emulation.partition(asked.peer, asked.cut)
    return CutLinks(list(on.emulation.cut))


def _delay(on: Serving, asked: Delay) -> Delays:
    _check_peer(on, asked.peer)
    on.emulation.delay(asked.peer, asked.rtt_ms / 2000)
    return Delays(_one_way_s(on))


def _one_way_s(on: Serving) -> dict[str, float]:
    return {peer: on.emulation.one_way_s(peer) for peer in on.region.peers}


def _check_peer(on: Serving, name: str) -> None:
    if name not in on.region.peers:
        raise MalformedRequest(f"there is no peer {name!r}; there are {', '.join(on.region.peers)}")


async def _new_ids(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    on.region.check_whole()  # the counters may be behind what was given out
    await exchange.answer_json({"ids": await on.ids.generate(at[0], exchange.arguments["count"])})


def _health(check: Check, meaning: str) -> Route:
    async def answer(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
        reason = on.region.health_of(check)
        status = "ok" if reason is None else "unavailable"
        body = {"region": on.region.name, "status": status, "reason": reason}
        await exchange.answer_json(body, 200 if reason is None else 503)

    return Route(
        method="GET",
        path=f"/health/{check}",
        name=f"health_{check}",
        handler=answer,
        access="public",
        meaning=meaning,
        answers=(Answer("yes", Health), Answer("no, for the `reason`", Health, status=503)),
    )


def _report(
    name: str,
    find: Callable[[Serving], Awaitable[Any]],
    meaning: str,
    answer: Answer,
    problems: tuple[type[AtollError], ...] = STORE,
) -> Route:
    """Answers with what `find` returns, as JSON."""

    async def handler(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
        await exchange.answer_json(await find(on))

    return Route(
        method="GET",
        path=f"/admin/{name}",
        name=name,
        handler=handler,
        access="observe",
        meaning=meaning,
        answers=(answer,),
        problems=problems,
    )


def _order(
    name: str,
    asked: type[T],
    do: Callable[[Serving, T], Any],
    meaning: str,
    answer: Answer,
    *,
    test_only: str = "",
) -> Route:
    """Does what the body asks, and answers with what `do` returns. `test_only`: what only a test topology may."""

    async def handler(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
        if test_only and not on.test_topology:
            raise InvalidOperation(
                f"only a test topology may {test_only}; atoll.toml has no [emulate] section"
            )
        await exchange.answer_json(do(on, await exchange.decode(asked, _SMALL_BODY)))

    return Route(
        method="POST",
        path=f"/admin/{name}",
        name=name,
        handler=handler,
        access="operate",
        meaning=meaning,
        body=Body(asked),
        answers=(answer,),
        problems=(MalformedRequest, *((InvalidOperation,) if test_only else ()), *BODY),
    )


ROUTES = (
    Route(
        method="POST",
        path="/v1/ids/{kind}",
        name="ids",
        handler=_new_ids,
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
    _report(
        "status",
        _status,
        "position, links, lag, inbox, counts, clock",
        Answer("the state of this node", Status),
        problems=(),
    ),
    _report(
        "statistics",
        lambda on: on.region.contents(),
        "documents, tombstones, conflicts, parked changes, bytes; may scan the store",
        Answer("counts", StoreStatistics),
    ),
    _report(
        "digest",
        lambda on: on.region.digest(),
        "of each collection: documents, and a digest that is equal in regions with the same state",
        Answer("digests", Digests),
    ),
    _report(
        "verify",
        lambda on: on.region.verify(),
        "compares the digests with every peer's, and names the documents that differ",
        Answer("what differs", Verification),
    ),
    _report(
        "parked",
        _parked,
        "changes that could not be merged, with the reason",
        Answer("parked changes", ParkedChanges),
    ),
    _order(
        "forget",
        Gone,
        _forget,
        '`{"peer": "frankfurt", "gone": true}`: this node stops waiting for a peer that is '
        "[permanently lost](postgresql.md#failover); `atoll region forget` sends it to all nodes",
        Answer("it is not waited for", Forgotten),
    ),
    Route(
        method="POST",
        path="/admin/decide-alone",
        name="decide_alone",
        handler=_decide_alone,
        access="operate",
        meaning='`{"region": "frankfurt"}`, sent to that region: it decides on strong documents alone, since most are '
        "[permanently lost](strong.md#a-majority-is-lost-for-good); `atoll region decide-alone` sends it",
        body=Body(Alone),
        answers=(Answer("the regions that decide from now on", Deciding),),
        problems=(MalformedRequest, InvalidOperation, *BODY),
    ),
    _order(
        "drain",
        Drain,
        _drain,
        '`{"draining": true}`: `/health/serving` says 503 from now on',
        Answer("how it is now", Drain),
    ),
    _order(
        "partition",
        Cut,
        _partition,
        'test topologies only: `{"peer": "frankfurt", "cut": true}` cuts this side of a link',
        Answer("the links that are cut", CutLinks),
        test_only="cut links",
    ),
    _order(
        "delay",
        Delay,
        _delay,
        'test topologies only: `{"peer": "frankfurt", "rtt_ms": 230}`',
        Answer("the delays of all links", Delays),
        test_only="change delays",
    ),
)
