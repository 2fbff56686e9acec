"""Runs the sagas of a region: a task for each that has something to do, and a heap of those that wait.

Of several nodes of a region one runs sagas, the holder of a node lease. Each of its commits is fenced by that lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from atoll.causality.types import Generation
from atoll.commit.work import Fence
from atoll.documents.mutation import Mutation, Write
from atoll.errors import AtollError, FenceLost, Indefinite, RegionUnreachable, RequestError
from atoll.region.local_writes import LocalWrites
from atoll.region.saga_commits import Guard, OfNode, SagaWrite
from atoll.region.saga_steps import Steps
from atoll.region.site import Site
from atoll.region.tasks import Tasks
from atoll.region.writer import Writer
from atoll.sagas import protocol
from atoll.sagas.instance import UNDER_WAY, Instance, decoded
from atoll.sagas.protocol import Done, Perform, Resumed, Tell, WakeAt, Woken
from atoll.schema.saga import SagaSchema
from atoll.schema.system import SAGAS
from atoll.store.port import Condition, Documents

logger = logging.getLogger("atoll.region")

LEASE = "sagas"
"""The node lease of whoever runs them."""
_AT_ONCE = 256
"""Sagas that have a task; others wait for their turn."""
_PAGE = 500
_LOOK_S = 1.0
_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0


class Right(NamedTuple):
    """The right of this region to run the sagas that a region has started."""

    epoch: int
    guard: Guard


class Stopped(Exception):
    """The node may not run the saga any more. Never leaves the runner."""


class _Driven:
    """A saga with a task."""

    __slots__ = ("again", "instance", "text")

    def __init__(self) -> None:
        self.again = False
        """Whether someone else has changed it since it was read."""
        self.instance: Instance | None = None
        self.text = b""


class Runner:
    """Of one node. `run` it, and `close` it."""

    def __init__(
        self,
        site: Site,
        sagas: Mapping[str, SagaSchema],
        store: Documents,
        *,
        writer: Writer,
        writes: LocalWrites,
        steps: Steps,
        right: Callable[[str], Right | None],
        tell: Callable[[Instance, str], None],
    ) -> None:
        """`right` gives this region's right to run the sagas that a region has started; None without it."""
        self.ended: Counter[str] = Counter()
        """How many sagas have come to each status, while this node ran them."""
        self.stuck: set[str] = set()
        """Keys of those that are stuck, as far as this node has seen."""
        self.concluded: Callable[[str], None] = lambda key: None
        """Called with the key of a saga that this node has changed."""
        self._site = site
        self._sagas = sagas
        self._store = store
        self._writer = writer
        self._writes = writes
        self._steps = steps
        self._right = right
        self._tell = tell
        self._generation: Generation | None = None
        self._driven: dict[str, _Driven] = {}
        self._ready: deque[str] = deque()
        self._waiting: dict[str, int] = {}
        """key → when it is due."""
        self._due: list[tuple[int, str]] = []
        """(when it is due, key): a heap of these, and of what they were before."""
        self._woken = asyncio.Event()
        self._tasks = Tasks()

    @property
    def running(self) -> bool:
        """Whether this node runs its region's sagas."""
        return self._generation is not None

    @property
    def under_way(self) -> int:
        """How many this node runs, or will."""
        return len(self._driven) + len(self._ready) + len(self._waiting)

    def poke(self, key: str) -> None:
        """A saga has come, or was changed by someone else."""
        driven = self._driven.get(key)
        if driven is not None:
            driven.again = True
        elif self.running:
            self._ready.append(key)
            self._woken.set()

    def wake(self) -> None:
        """The node's leases, or the region's rights, are others by now."""
        self._woken.set()

    async def run(self, held: Callable[[], Generation | None], *, shared: bool) -> None:
        """For ever. `held` gives the generation of this node's lease; `shared` says that other nodes take requests."""
        looked_s = 0.0
        try:
            while True:
                generation = held()
                if generation != self._generation:
                    await self._stop()
                    self._generation = generation
                    if generation is not None:
                        await self._look(*UNDER_WAY, "stuck")
                elif shared and generation is not None and self._now_s() - looked_s >= _LOOK_S:
                    looked_s = self._now_s()
                    await self._look("running", "compensating")
                self._begin()
                await self._pause()
        finally:
            await self._stop()

    async def restart(self) -> None:
        """Look at all sagas anew: those of another region may be this one's to run, or no longer."""
        await self._stop()
        self._woken.set()

    async def _stop(self) -> None:
        self._generation = None
        await self._tasks.close()
        self._driven.clear()
        self._ready.clear()
        self._waiting.clear()
        self._due.clear()

    async def _pause(self) -> None:
        due_ms = self._due[0][0] - self._site.now_ms() if self._due else 1e9
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(_LOOK_S, due_ms / 1000))):
                await self._woken.wait()
        self._woken.clear()

    async def _look(self, *statuses: str) -> None:
        """Find sagas to run. A store that does not answer is asked again later."""
        for status in statuses:
            after: str | None = None
            while True:
                try:
                    where = [Condition("status", "eq", status)]
                    found = await self._store.scan(SAGAS, where=where, after=after, limit=_PAGE)
                except AtollError:
                    self._generation = None
                    return
                for key, row in found.rows:
                    if row.value is not None:
                        self._offer(key, row.value)
                if not found.rows:
                    break
                after = found.rows[-1][0]

    def _offer(self, key: str, text: bytes) -> None:
        instance = _read(text)
        if instance is None or key in self._driven or self._right(instance.home) is None:
            return
        if instance.status == "stuck":
            self.stuck.add(key)
            if instance.cause not in ("changed", "unknown"):
                return
        if instance.wake_ms > self._site.now_ms() and instance.status != "stuck":
            self._park(key, instance.wake_ms)
        else:
            self._ready.append(key)

    def _begin(self) -> None:
        """Give a task to what is due."""
        now_ms = self._site.now_ms()
        while self._due and self._due[0][0] <= now_ms:
            due_ms, key = heapq.heappop(self._due)
            if self._waiting.get(key) == due_ms:
                del self._waiting[key]
                self._ready.append(key)
        while self._ready and len(self._driven) < _AT_ONCE:
            key = self._ready.popleft()
            if key not in self._driven:
                self._driven[key] = driven = _Driven()
                self._tasks.spawn(self._drive(key, driven), f"saga {key}")

    def _park(self, key: str, due_ms: int) -> None:
        """Look at it then."""
        if self._waiting.get(key) != due_ms:
            self._waiting[key] = due_ms
            heapq.heappush(self._due, (due_ms, key))
            self._woken.set()

    async def _drive(self, key: str, driven: _Driven) -> None:
        try:
            while True:
                driven.again = False
                await self._run(key, driven)
                if not driven.again:
                    return
        except Stopped:
            return
        except Exception:
            logger.exception("a defect while running saga %s", key)
            self._park(key, self._site.now_ms() + round(_LONGEST_PAUSE_S * 1000))
        finally:
            if self._driven.get(key) is driven:
                del self._driven[key]
                self._woken.set()

    async def _run(self, key: str, driven: _Driven) -> None:
        """Do what is to be done now. Raises Stopped."""
        if not await self._read(key, driven):
            return
        assert driven.instance is not None
        waited = driven.instance.status == "waiting"
        effects = await self._take(driven, Woken() if waited else Resumed(), ())
        if waited:
            effects = await self._take(driven, Resumed(), ())
        while True:
            perform = next((each for each in effects if isinstance(each, Perform)), None)
            if perform is None:
                break
            plan = self._sagas[driven.instance.saga]
            self._holding(driven.instance)
            attempted = await self._steps.attempt(driven.instance, plan, perform)
            effects = await self._take(driven, attempted.event, attempted.mutations)
        for effect in effects:
            if isinstance(effect, WakeAt):
                self._park(key, effect.at_ms)

    async def _read(self, key: str, driven: _Driven) -> bool:
        """Whether there is something to run."""
        pause_s = _PAUSE_S
        while True:
            try:
                row = await self._store.get(SAGAS, key)
                break
            except AtollError:
                pause_s = await self._sleep(pause_s)
        if row is None or row.value is None:
            return False
        driven.instance, driven.text = _read(row.value), row.value
        return driven.instance is not None

    async def _take(
        self, driven: _Driven, event: protocol.Event, mutations: Sequence[Mutation]
    ) -> tuple[protocol.Effect, ...]:
        """Make what follows from an event durable. Returns what is to be done then. Raises Stopped."""
        pause_s = _PAUSE_S
        while True:
            before = driven.instance
            assert before is not None
            plan = self._sagas.get(before.saga)
            right = self._holding(before)
            now_ms = self._site.now_ms()
            marked = msgspec.structs.replace(before, region=self._site.name, epoch=right.epoch)
            after, effects = protocol.step(marked, plan, event, now_ms)
            if after is marked:
                return effects
            after = msgspec.structs.replace(after, revision=before.revision + 1)
            try:
                text = await self._commit(driven.text, after, mutations, right)
            except FenceLost:
                raise Stopped from None
            except (RequestError, RegionUnreachable) as error:
                if not isinstance(event, Done) or not mutations:
                    pause_s = await self._sleep(pause_s)
                    continue
                event, mutations = self._refused(before, event, error), ()
                continue
            except AtollError as error:
                # The store takes no writes at present; or nobody knows whether it has taken this one.
                pause_s = await self._sleep(pause_s)
                if isinstance(error, Indefinite) and not await self._read(before.key, driven):
                    raise Stopped from None
                continue
            if text is None:
                if not await self._read(before.key, driven):
                    raise Stopped
                continue
            driven.instance, driven.text = _read(text), text
            self._note(after, effects, changed=before.status != after.status)
            return effects

    def _refused(self, instance: Instance, event: Done, error: AtollError) -> protocol.Event:
        return self._steps.refused(instance, Perform(event.at, event.backwards), error).event

    async def _commit(
        self, before: bytes, after: Instance, mutations: Sequence[Mutation], right: Right
    ) -> bytes | None:
        assert self._generation is not None
        guard = OfNode(Fence(LEASE, self._generation), right.guard)

        async def commit() -> bytes | None:
            work = SagaWrite(before, after, mutations, guard, self._writes)
            self._writes.group_commit.submit(work)
            return await work.done

        return await self._writer.commit_here(Write(tuple(mutations)), commit)

    def _holding(self, instance: Instance) -> Right:
        """Raises Stopped without the right to run it."""
        right = self._right(instance.home) if self.running else None
        if right is None:
            raise Stopped
        return right

    def _note(self, instance: Instance, effects: Sequence[protocol.Effect], *, changed: bool) -> None:
        if changed and (instance.over or instance.status == "stuck"):
            self.ended[instance.status] += 1
        if instance.status == "stuck":
            self.stuck.add(instance.key)
        else:
            self.stuck.discard(instance.key)
        for effect in effects:
            if isinstance(effect, Tell):
                self._tell(instance, effect.detail)
        self.concluded(instance.key)

    async def _sleep(self, pause_s: float) -> float:
        """Returns how long to sleep the next time."""
        await asyncio.sleep(pause_s * (0.5 + self._site.random.random()))
        return min(2 * pause_s, _LONGEST_PAUSE_S)

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


def _read(text: bytes) -> Instance | None:
    """None for one that a later version has written in a form that is not known here."""
    try:
        return decoded(text)
    except msgspec.ValidationError:
        return None
