"""Runs the sagas of a region: a task for each that has something to do, and a heap of those that wait.

Of several nodes of a region one runs sagas, the holder of a node lease. Each of its commits is fenced by that lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
from collections import deque
from collections.abc import Callable

from atoll.causality.types import Generation
from atoll.errors import AtollError
from atoll.region.saga_driving import LONGEST_PAUSE_S, Driven, Driving, Stopped, read
from atoll.region.saga_under_way import UnderWay, home_of
from atoll.region.site import Site
from atoll.region.tasks import ended
from atoll.sagas.instance import UNDER_WAY
from atoll.schema.system import SAGAS
from atoll.store.port import Condition, Documents

logger = logging.getLogger("atoll.region")

_AT_ONCE = 256
"""Sagas that have a task; others wait for their turn."""
_PAGE = 500
_LOOK_S = 1.0
_AHEAD_MS = 2000
"""What is due so soon is looked for where other nodes take requests, too."""


class Runner:
    """Of one node. `run` it."""

    def __init__(self, site: Site, store: Documents, driving: Driving) -> None:
        self._site = site
        self._store = store
        self._driving = driving
        self._driven: dict[str, Driven] = {}
        self._ready: deque[str] = deque()
        self._waiting: dict[str, int] = {}
        """key → when it is due."""
        self._due: list[tuple[int, str]] = []
        """(when it is due, key): a heap of these, and of what they were before."""
        self._woken = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()
        """Tasks that were cancelled."""
        self._looks = False
        """Whether there may be other sagas to run by now."""
        self.all = UnderWay()
        """Whoever runs them."""

    @property
    def running(self) -> bool:
        """Whether this node runs its region's sagas."""
        return self._driving.generation is not None

    @property
    def at_work(self) -> int:
        """How many have a task."""
        return len(self._driven)

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
        """The node's leases are others by now."""
        self._woken.set()

    def review(self) -> None:
        """The region's rights are others by now: end what it may not run any more, and look for what it may."""
        for key, driven in list(self._driven.items()):
            instance = driven.instance
            if instance is not None and (self._driving.lost(instance) or self._driving.doubts(instance)):
                self._cancel(key, driven)
        self._looks = True
        self._woken.set()

    async def stop(self, home: str) -> None:
        """End what runs for a home, which may not run any more."""
        for key, driven in list(self._driven.items()):
            if driven.instance is None or driven.instance.home == home:
                self._cancel(key, driven)
        await ended(self._ending)

    async def run(self, held: Callable[[], Generation | None], *, shared: bool) -> None:
        """For ever. `held` gives the generation of this node's lease; `shared`: other nodes take requests, too."""
        looked_s = all_looked_s = 0.0
        try:
            while True:
                generation = held()
                if generation != self._driving.generation:
                    await self._stop()
                    self._driving.generation = generation
                    self._looks = True
                now_s = self._now_s()
                if self.running and (self._looks or now_s - all_looked_s >= self._site.options.saga_lease_s):
                    self._looks, looked_s, all_looked_s = False, now_s, now_s
                    await self._look_at_all()
                elif shared and self.running and now_s - looked_s >= _LOOK_S:
                    looked_s = now_s
                    await self._look_for_news()
                self._begin()
                await self._pause()
        finally:
            await self._stop()

    async def _stop(self) -> None:
        self._driving.generation = None
        for key, driven in list(self._driven.items()):
            self._cancel(key, driven)
        await ended(self._ending)
        self._ready.clear()
        self._waiting.clear()
        self._due.clear()

    def _cancel(self, key: str, driven: Driven) -> None:
        if self._driven.get(key) is driven:
            del self._driven[key]
        if driven.task is not None:
            driven.task.cancel()
            self._ending.add(driven.task)
            driven.task.add_done_callback(self._ending.discard)

    async def _pause(self) -> None:
        due_ms = self._due[0][0] - self._site.now_ms() if self._due else 1e9
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(_LOOK_S, due_ms / 1000))):
                await self._woken.wait()
        self._woken.clear()

    async def _look_at_all(self) -> None:
        """Find sagas to run. A store that does not answer is asked again later."""
        self.all.begin()
        found: dict[str, str] = {}
        for status in (*UNDER_WAY, "stuck"):
            if not await self._look(found, Condition("status", "eq", status)):
                self._looks = True
                return
        self.all.end(found)

    async def _look_for_news(self) -> None:
        """Of other nodes, which are not told."""
        found: dict[str, str] = {}
        soon = Condition("wake_ms", "lt", self._site.now_ms() + _AHEAD_MS)
        timed = (Condition("status", "eq", "waiting"), Condition("wake_ms", "gt", 0), soon)
        await self._look(found, Condition("status", "eq", "running"))
        await self._look(found, Condition("status", "eq", "compensating"))
        await self._look(found, *timed)

    async def _look(self, found: dict[str, str], *where: Condition) -> bool:
        """Take up what fits; key → home is added to `found`. Returns whether the store has answered."""
        after: str | None = None
        while True:
            try:
                page = await self._store.scan(SAGAS, where=where, after=after, limit=_PAGE)
            except AtollError:
                return False
            for key, row in page.rows:
                home = home_of(row.value)
                if row.value is not None and home is not None:
                    found[key] = home
                    self._offer(key, row.value)
            if not page.rows:
                return True
            after = page.rows[-1][0]

    def _offer(self, key: str, text: bytes) -> None:
        instance = read(text)
        if instance is None or key in self._driven or self._driving.lost(instance):
            return
        if instance.status == "stuck":
            self._driving.stuck.add(key)
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
                self._driven[key] = driven = self._driving.begin()
                driven.task = asyncio.create_task(self._drive(key, driven), name=f"saga {key}")

    def _park(self, key: str, due_ms: int) -> None:
        """Look at it then."""
        if self._waiting.get(key) != due_ms:
            self._waiting[key] = due_ms
            heapq.heappush(self._due, (due_ms, key))
            self._woken.set()

    async def _drive(self, key: str, driven: Driven) -> None:
        try:
            while True:
                driven.again = False
                due_ms = await self._driving.run(key, driven)
                if not driven.again:
                    break
        except Stopped:
            return
        except Exception:
            logger.exception("a defect while running saga %s", key)
            due_ms = self._site.now_ms() + round(LONGEST_PAUSE_S * 1000)
        finally:
            if self._driven.get(key) is driven:
                del self._driven[key]
                self._woken.set()
        if due_ms is not None:
            self._park(key, due_ms)

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()
