"""Runs a team's saga with a crash at every point, on virtual time: does it end, and as it should?"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial, wraps
from types import new_class
from typing import Any, Generic, TypeVar, cast

import msgspec

from atoll.documents.entry import decode_frames
from atoll.documents.mutation import Write
from atoll.errors import Conflict, Indefinite, Unavailable
from atoll.region.region import Region
from atoll.region.saga_steps import Reads
from atoll.sagas.instance import Instance, Record, Status, decoded
from atoll.sagas.protocol import Signalled
from atoll.schema.application import Application, application_of
from atoll.schema.collection import Collection
from atoll.schema.saga import Saga, SagaSchema, compile_saga
from atoll.schema.system import SAGAS
from atoll.store.port import Commit
from atoll.testing.cluster import Cluster, SimulatedNode
from atoll.testing.virtual_time import VirtualLoop

S = TypeVar("S", bound=Saga)
T = TypeVar("T")

_HERE = "here"
_DOWN_S = 1.0
"""After a crash."""
_AGAIN_S = 0.2


@dataclass(frozen=True, slots=True)
class EffectCall:
    """A method that acts outside was called."""

    method: str
    key: str
    """Empty for a method that takes none."""


@dataclass(frozen=True, slots=True)
class SagaRun(Generic[S]):
    """What came of a saga."""

    crash: str
    """Where its region crashed, such as `after entry 2: running charge`; empty for the run without a crash."""
    status: Status
    """`completed`, `compensated`, or `stuck`."""
    value: S
    """What it knows at its end."""
    error: str
    """Of the last attempt that failed."""
    done: tuple[Record, ...]
    """Its steps that were done, or undone."""
    calls: tuple[EffectCall, ...]
    """Of its methods that act outside, in their order."""
    documents: Mapping[tuple[str, str], dict[str, Any]]
    """(collection, key) → document, at its end."""


class NotEnded(AssertionError):
    """A saga was still under way when its time was over."""


def saga_crashes(
    saga: S,
    *collections: type[Collection],
    given: Sequence[Collection] = (),
    signals: Mapping[str, Any] = {},
    within_s: float = 3600.0,
    seed: int = 0,
) -> Iterator[SagaRun[S]]:
    """Run the saga to its end: first without a crash, then anew with a crash of its region at each point.

    Points are before and after each entry that changes the saga, and amid each call of a method that acts outside. The
    region starts again a second later. `collections` are those that its steps use. `given` are documents that are
    there before it starts, `signals` are sent to it at once. Put your world outside back between two runs.

    Raises NotEnded if a run is neither over nor stuck within so many virtual seconds, and AssertionError if attempts of
    one method get different keys. Call it from a plain function: it runs an event loop of its own.
    """
    trial, crasher = _Trial(saga, collections, tuple(given), signals, within_s, seed), _Crasher(None)
    yield _run(trial, crasher)
    for number in range(len(crasher.points)):
        yield _run(trial, _Crasher(number))


@dataclass(frozen=True, slots=True)
class _Trial(Generic[S]):
    """The parameters of `saga_crashes`."""

    saga: S
    collections: tuple[type[Collection], ...]
    given: tuple[Collection, ...]
    signals: Mapping[str, Any]
    within_s: float
    seed: int


@dataclass(slots=True)
class _Crasher:
    """Counts points, and has the node die at one of them."""

    at: int | None
    points: list[str] = field(default_factory=list)
    calls: list[EffectCall] = field(default_factory=list)
    node: SimulatedNode | None = None

    @property
    def crash(self) -> str:
        return "" if self.at is None else self.points[self.at]

    def reached(self, point: str) -> bool:
        self.points.append(point)
        return self.at == len(self.points) - 1

    def dies(self, commit: Commit, durable: bool) -> bool:
        """Asked by the disk, before a commit and after it."""
        what = [told for segment in commit.segments for told in _told(segment.body)]
        return bool(what) and self.reached(f"{'after' if durable else 'before'} entry {what[-1]}")

    def called(self, method: str, key: str) -> None:
        self.calls.append(EffectCall(method, key))
        if self.reached(f"amid {method}"):
            assert self.node is not None
            asyncio.get_running_loop().call_soon(self.node.kill, context=Context())


def _told(segment: bytes) -> Iterator[str]:
    """The entries of a saga in a segment, in words."""
    for encoded in decode_frames(segment):
        for change in encoded.entry.changes:
            value = change.registers.get("") if change.collection == SAGAS else None
            if value is not None:
                instance = decoded(value)
                yield f"{instance.revision}: {instance.status} {instance.step}".rstrip()


def _run(trial: _Trial[S], crasher: _Crasher) -> SagaRun[S]:
    saga, within_s = trial.saga, trial.within_s
    observed = _observed(type(saga), crasher)
    application = application_of(observed, *trial.collections, name="crashes")
    plan = compile_saga(observed)

    async def scenario() -> SagaRun[S]:
        cluster = Cluster(application, (_HERE,), seed=trial.seed)
        node = crasher.node = cluster[_HERE]
        cluster.start()
        for document in trial.given:
            await _again(node, partial(_write, application, document))
        node.disk.faults.dies = crasher.dies
        supervisor = asyncio.ensure_future(_supervise(node))
        try:
            instance = await asyncio.wait_for(_concluded(node, plan, saga, trial.signals), within_s)
        except TimeoutError:
            standing = node.disk.store.get(SAGAS, f"{plan.name}/{saga.key}")
            said = "it was never started" if standing is None else standing.value
            raise NotEnded(
                f"{crasher.crash or 'no crash'}: not over after {within_s:g} s: {said!r}"
            ) from None
        finally:
            supervisor.cancel()
        _check_keys(crasher)
        shown = cluster.shown(_HERE)
        return SagaRun(
            crash=crasher.crash,
            status=instance.status,
            value=cast(S, plan.fields.to_model(instance.id, msgspec.json.encode(instance.fields))),
            error=instance.error,
            done=instance.done,
            calls=tuple(crasher.calls),
            documents={
                place: msgspec.json.decode(text)
                for place, text in shown.items()
                if place[0] in application.collections
            },
        )

    return VirtualLoop().run_simulation(scenario())


async def _concluded(
    node: SimulatedNode, plan: SagaSchema, saga: Saga, signals: Mapping[str, Any]
) -> Instance:
    name, id_ = plan.name, saga.key
    fields = compile_saga(type(saga)).fields.from_model(saga)
    instance = await _again(node, lambda region: region.start_saga(name, id_, fields))
    for signal, value in signals.items():
        told = Signalled(signal, value)
        try:
            await _again(node, partial(_tell, name, id_, told))
        except Conflict:
            break  # it is over
    while not (instance.over or instance.status == "stuck"):
        instance = await _again(node, lambda region: region.await_saga(name, id_, 30.0))
    return instance


async def _again(node: SimulatedNode, work: Callable[[Region], Awaitable[T]]) -> T:
    """As clients do while a region is down."""
    while True:
        try:
            return await node.ask(work)
        except (Indefinite, Unavailable):
            await asyncio.sleep(_AGAIN_S)


async def _supervise(node: SimulatedNode) -> None:
    while True:
        await asyncio.sleep(_DOWN_S)
        node.start()


async def _write(application: Application, document: Collection, region: Region) -> None:
    reads = Reads(application, region.rules, region.read)
    await region.write(Write((reads.put(document, None, create=False),)))


async def _tell(saga: str, id_: str, signal: Signalled, region: Region) -> Instance:
    return await region.tell_saga(saga, id_, signal, f"signal {signal.name}")


def _observed(model: type[S], crasher: _Crasher) -> type[S]:
    """The saga; what acts outside tells that it was called."""
    plan = compile_saga(model)
    named = {
        name for each in plan.steps if each.options.effect for name in (each.name, each.options.compensate)
    }
    body = {name: _telling(getattr(model, name), crasher) for name in sorted(filter(None, named))}
    return new_class(model.__name__, (model,), {"name": plan.name}, lambda space: space.update(body))


def _telling(method: Callable[..., Any], crasher: _Crasher) -> Callable[..., Any]:
    @wraps(method)
    async def call(self: Any, **given: Any) -> None:
        crasher.called(method.__name__, given.get("key", ""))
        came = method(self, **given)
        if inspect.isawaitable(came):
            await came

    return call


def _check_keys(crasher: _Crasher) -> None:
    keys: dict[str, str] = {}
    for method, key in ((each.method, each.key) for each in crasher.calls):
        if keys.setdefault(method, key) != key:
            raise AssertionError(
                f"{crasher.crash}: {method} was called under {keys[method]}, and under {key}"
            )
