"""This region's rights to run sagas: asks and renews them as `sagas.rights` decides, and holds commits to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

import msgspec

from atoll.causality.vector import merge
from atoll.commit.batch import Batch
from atoll.commit.work import Wants
from atoll.consensus import acceptor
from atoll.consensus.decided import decoded
from atoll.documents.mutation import Put, Write
from atoll.errors import AtollError, Unavailable
from atoll.membership.members import Members
from atoll.region.progress import Progress
from atoll.region.registers import Registers
from atoll.region.saga_commits import Guard
from atoll.region.site import Site
from atoll.region.tasks import Tasks
from atoll.region.voting import REGISTERS, Voting
from atoll.replication.messages import HeldCall, HeldReply
from atoll.sagas import rights
from atoll.sagas.rights import Covered, Found, Refused, Tick, Watch, Written, Yielded
from atoll.schema.system import RIGHTS
from atoll.store.port import States, View

RUN: Final = "run/"
"""Begins the keys of rights to run; the region's name follows."""
_TICKS = 8
"""So often a right is looked at in the time of a lease."""
_RETRY_S = 0.1
_decode = msgspec.json.Decoder(rights.Right).decode


class Right(NamedTuple):
    """The right of this region to run the sagas that a region has started."""

    epoch: int
    """0 in a deployment of one region, where it has no meaning."""
    guard: Guard
    doubts: tuple[str, ...] = ()
    """Regions that may have gone on with them, without anyone knowing."""


class Alone:
    """In a deployment of one region nothing else has to hold."""

    def want(self, wants: Wants) -> None:
        """Nothing."""

    def hold(self, batch: Batch, view: View) -> None:
        """Raises nothing."""


class _OfRegion(NamedTuple):
    """The region's right is in time, and its own acceptor knows of no later holder."""

    rights: SagaRights
    home: str
    epoch: int

    def want(self, wants: Wants) -> None:
        wants.states.append((REGISTERS, register_of(self.home)))

    def hold(self, batch: Batch, view: View) -> None:
        """Raises Unavailable."""
        held = self.rights.right(self.home)
        place = (REGISTERS, register_of(self.home))
        accepted = _accepted(batch.pending.states.get(place) or view.states.get(place))
        if held is None or held.epoch != self.epoch or (accepted is not None and accepted.epoch > self.epoch):
            raise Unavailable(
                f"{self.rights.region} has lost the right to run sagas of {self.home}; another region runs them",
                region=self.rights.region,
            )


class SagaRights:
    """Of one node. `run` it on the node that runs sagas; others `ensure` a right when they need it."""

    def __init__(
        self,
        site: Site,
        members: Members,
        store: States,
        registers: Registers,
        progress: Progress,
        *,
        voting: Voting,
    ) -> None:
        self.region = site.name
        self.settled: Callable[[], bool] = lambda: True
        """Whether nothing of the region's former incarnations is still to come."""
        self.changed: Callable[[], None] = lambda: None
        """Called when a right was won or lost, or a doubt has ended."""
        self.runs: Callable[[], bool] = lambda: True
        """Whether this node of the region runs sagas: only that one gives a right up, once it has stopped."""
        self.stop: Callable[[str], Awaitable[dict[str, int]]] | None = None
        """Stops what runs for a home, until the right is the region's again. Returns the position that it led to."""
        self.taken_over = 0
        """How often this node took over the sagas of another region."""
        self._site = site
        self._members = members
        self._store = store
        self._registers = registers
        self._progress = progress
        self._voting = voting
        self._lease_s = site.options.saga_lease_s
        self._watches: dict[str, Watch] = {}
        self._until_ms: dict[str, int] = {}
        """home → as `Watch.until_s`, by the wall clock: a machine that was suspended tells by it."""
        self._forgotten: set[str] = set()
        self._pumping: dict[str, asyncio.Lock] = {}
        self._covering: set[str] = set()
        self._tasks = Tasks()
        self._time_s: Callable[[], float] | None = None
        self._seen: dict[str, object] = {}
        """home → what was last told by `changed`."""

    @property
    def alone(self) -> bool:
        return len(self._members.regions) == 1

    def right(self, home: str) -> Right | None:
        """This region's right, if it may run the home's sagas now."""
        if self.alone:
            return Right(0, Alone()) if home == self.region else None
        watch = self._watches.get(home)
        if watch is None or watch.right is None or not self._in_time(watch):
            return None
        doubts = self._doubts(watch.right)
        return Right(watch.right.epoch, _OfRegion(self, home, watch.right.epoch), doubts)

    def holder(self, home: str) -> str:
        """Who runs the home's sagas, as far as is known here."""
        watch = self._watches.get(home)
        return home if watch is None or watch.right is None else watch.right.holder

    def forget(self, peer: str) -> None:
        """The operator says that this region is gone for good."""
        self._forgotten.add(peer)
        self.review()

    async def run(self, busy: Callable[[], Iterable[str]]) -> None:
        """For ever. `busy` gives the homes that have sagas to run."""
        try:
            while True:
                wanted = set(busy())
                for home in sorted({*wanted, *self._watches, self.region}):
                    if not self._lock(home).locked():
                        self._tasks.spawn(self._pump(home, busy=home in wanted), f"right to run {home}")
                await asyncio.sleep(self._lease_s / _TICKS)
        finally:
            await self.close()

    async def close(self) -> None:
        await self._tasks.close()

    async def ensure(self, home: str) -> Right:
        """The right, asked for where it is not held. Raises Unavailable."""
        deadline_s = self._now_s() + self._site.options.peer_timeout_s
        while True:
            found = self.right(home)
            if found is not None:
                return found
            if self._now_s() >= deadline_s or self.alone:
                raise Unavailable(
                    f"{self.holder(home)} runs the sagas of {home}, or no majority of regions can be asked; try again,"
                    " or in another region",
                    region=self.region,
                )
            await self._pump(home, busy=True)
            if self.right(home) is None:
                await asyncio.sleep(_RETRY_S)

    def review(self) -> None:
        """Tell what has changed."""
        now = {home: self._state(home) for home in self._watches}
        if now != self._seen:
            self._seen = now
            self.changed()

    # -- protocol --------------------------------------------------------------------------------------

    async def _pump(self, home: str, *, busy: bool) -> None:
        """Step the protocol, and do what it asks for, until there is nothing to do now."""
        if self.alone:
            return
        async with self._lock(home):
            watch = self._watches.get(home) or Watch(self.region, home, self._lease_s)
            accepted = _accepted(await self._state_of(home))
            if accepted is not None and self._voting.of_two:
                watch = self._of_two(watch, accepted)
            local = None if accepted is None else (accepted.epoch, accepted.beat)
            event: rights.Event = Tick(busy, local, self.runs())
            while True:
                watch, effects = rights.step(watch, event, self._now_s())
                self._watches[home] = watch
                if not effects:
                    break
                following = await self._perform(home, effects[0])
                if following is None:
                    break
                watch, event = self._watches[home], following
        self.review()

    def _lock(self, home: str) -> asyncio.Lock:
        return self._pumping.setdefault(home, asyncio.Lock())

    async def _perform(self, home: str, effect: rights.Effect) -> rights.Event | None:
        match effect:
            case rights.Read():
                return await self._read(home)
            case rights.Write(right, version):
                return await self._write(home, right, version)
            case rights.Cover(right):
                if home not in self._covering:
                    self._covering.add(home)
                    self._tasks.spawn(self._cover(home, right), f"covers what {home} has run")
                return None
            case rights.Yield():
                self.review()
                assert self.stop is not None
                try:
                    return Yielded(await self.stop(home))
                except AtollError:
                    return Refused()

    async def _read(self, home: str) -> rights.Event:
        try:
            reading = await self._registers.read(RIGHTS, RUN + home)
        except AtollError:
            return Refused()
        return Found(None, None) if reading.value is None else Found(_decode(reading.value), reading.version)

    async def _write(self, home: str, right: rights.Right, version: str | None) -> rights.Event:
        began_s, began_ms = self._now_s(), self._site.now_ms()
        put = Put(RIGHTS, RUN + home, msgspec.json.encode(right), None, version, version is None)
        try:
            reply = await self._registers.change(Write((put,)), None)
        except AtollError:
            return Refused()
        if right.holder == self.region:
            self._until_ms[home] = began_ms + round(self._lease_s * 1000)
            asyncio.get_running_loop().call_at(began_s + self._lease_s, self.review)
            if right.epoch > 1 and right.beat == 0:
                self.taken_over += 1
        return Written(right, reply.receipt.written[0].version, began_s)

    async def _cover(self, home: str, right: rights.Right) -> None:
        """Until all is here that a majority of regions holds, and what the right names. Then its sagas may run.

        Goes on while there are doubts: a former holder that answers has no more to tell.
        """
        try:
            while (watch := self._watches[home]).right is not None and watch.right.epoch == right.epoch:
                found = await self._positions()
                if found is not None:
                    await self._progress.covered(merge(dict(right.after), found.position))
                    cleared = {*found.told, *self._forgotten} - {self.region}
                    cleared |= {each for each in right.doubts if each not in self._members.regions}
                    event = Covered(right.epoch, tuple(cleared))
                    self._watches[home], _ = rights.step(self._watches[home], event, self._now_s())
                    self.review()
                    held = self.right(home)
                    if held is not None and not held.doubts:
                        return
                await asyncio.sleep(_RETRY_S * 5)
        except AtollError:
            return  # the store does not answer; the next renewal begins anew
        finally:
            self._covering.discard(home)

    async def _positions(self) -> _Positions | None:
        """What regions hold, once a majority has told; None where none has."""
        others = [region for region in self._members.regions if region != self.region]
        told = await asyncio.gather(*(self._position(region) for region in others))
        found = {region: reply for region, reply in zip(others, told, strict=True) if reply is not None}
        if 2 * (1 + len(found)) <= len(self._members.regions):
            return None
        position: dict[str, int] = {}
        for reply in found.values():
            position = merge(position, reply.vector)
        return _Positions(tuple(region for region, reply in found.items() if reply.settled), position)

    async def _position(self, region: str) -> HeldReply | None:
        with contextlib.suppress(AtollError):
            return await self._site.ask(region, HeldCall({}), HeldReply)
        return None

    # -- inside ----------------------------------------------------------------------------------------

    def _in_time(self, watch: Watch) -> bool:
        if self._voting.of_two:  # nobody can take it without this region's vote
            return watch.holds and watch.ready and not watch.yielding
        in_time = self._site.now_ms() < self._until_ms.get(watch.home, 0)
        return in_time and watch.may_run(self._now_s())

    def _of_two(self, watch: Watch, accepted: rights.Right) -> Watch:
        """Of two regions none changes a right without the other. So what this one has accepted last may hold."""
        if accepted.holder == self.region and not watch.read and not accepted.doubts:
            return replace(watch, right=accepted, ready=True)
        if watch.holds and accepted.holder != self.region:
            return replace(watch, right=accepted, version=None, ready=False)
        return watch

    def _doubts(self, right: rights.Right) -> tuple[str, ...]:
        own = () if self.settled() else (self.region,)
        return (*own, *(each for each in right.doubts if each not in self._forgotten and each != self.region))

    def _state(self, home: str) -> object:
        found = self.right(home)
        return None if found is None else (found.epoch, found.doubts)

    async def _state_of(self, home: str) -> bytes | None:
        with contextlib.suppress(AtollError):
            return await self._store.state(REGISTERS, register_of(home))
        return None

    def _now_s(self) -> float:
        if self._time_s is None:  # kept, since a step may be committed in a thread
            self._time_s = asyncio.get_running_loop().time
        return self._time_s()


class _Positions(NamedTuple):
    told: tuple[str, ...]
    """The regions that hold all that they have ever written."""
    position: Mapping[str, int]


def register_of(home: str) -> str:
    """The register of a right, as acceptors name it."""
    return f"{RIGHTS}/{RUN}{home}"


def _accepted(state: bytes | None) -> rights.Right | None:
    """What this region's acceptor has accepted last."""
    if state is None:
        return None
    accepted = acceptor.decoded(state)
    if accepted.accepted == acceptor.NEVER:
        return None
    value = decoded(accepted.value).value
    return None if value is None else _decode(value)
