"""Faults, drawn from a seed: what, whom, when, how long; several at a time, and each mended again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from math import inf
from random import Random

import aiohttp

from ..cluster import REGIONS
from .deployment import MAX_CLOCK_OFFSET_MS, Deployment
from .history import Fault, History
from .proxy import Proxy, Wire

_AT_ONCE = 3
_LULL = 0.12
_TIMEOUT = aiohttp.ClientTimeout(total=3.0)
_HEAL_S = 30.0
_FURTHEST_MS = 8_000
"""What a region wrote with such a clock before it noticed reaches the others so much later."""


class Nemesis:
    """`run` until the time is up; then everything that it broke is mended."""

    def __init__(
        self,
        deployment: Deployment,
        history: History,
        random: Random,
        kinds: Mapping[str, int] | None = None,
        *,
        longest_s: float = inf,
    ) -> None:
        """`kinds`: as FAULTS, which is the default. `longest_s` bounds how long one of them lasts, about."""
        self._kinds = kinds or FAULTS
        self._longest_s = longest_s
        self._over = asyncio.Event()
        self.struck = asyncio.Event()
        """Whether anything has been done yet."""
        self._deployment = deployment
        self._history = history
        self._random = random
        self._busy: set[str] = set()
        """Regions and wires that something is being done to."""
        self._active: set[asyncio.Task[None]] = set()
        self._healing: set[asyncio.Task[None]] = set()
        self._deck: list[str] = []

    async def run(self, seconds: float, *, quiet_s: float) -> None:
        """About every `quiet_s` seconds something happens."""
        deadline = self._history.now_s + seconds
        while self._history.now_s < deadline and not self._over.is_set():
            await self._wait(self._random.expovariate(1 / quiet_s))
            if self._over.is_set():
                break
            if self._random.random() < _LULL:
                # One fault by itself, so that healing after it can be timed.
                await self._calm()
                if not self._over.is_set():
                    self._begin()
                    await self._calm()
            elif len(self._active) < _AT_ONCE:
                self._begin()
        await self._calm()

    def end(self) -> None:
        """Let `run` return soon: faults end early, and are mended as ever."""
        self._over.set()

    async def _calm(self) -> None:
        await asyncio.gather(*self._active)
        await asyncio.gather(*self._healing)

    def _begin(self) -> None:
        """The next kind of the deck: all come up before one does twice."""
        if not self._deck:
            self._deck = [name for name, count in self._kinds.items() for _ in range(count)]
            self._random.shuffle(self._deck)
        kind = self._deck.pop()
        task = asyncio.create_task(self._strike(kind), name=kind)
        self._active.add(task)
        task.add_done_callback(self._active.discard)

    async def _strike(self, kind: str) -> None:
        fault = Fault(kind, "", self._history.now_s)
        alone = len(self._active) == 1
        async with self._target(kind, fault) as hurt:
            if not hurt:
                return
            fault.began_s = self._history.now_s
            self._history.faults.append(fault)
            self.struck.set()
            try:
                await getattr(self, f"_{kind}")(*hurt)
            except AssertionError as error:
                self._history.violated("mended again", f"{kind} of {fault.target}: {error}")
            fault.lasted_s = self._history.now_s - fault.began_s
        if alone and len(self._active) == 1:
            task = asyncio.create_task(self._time_healing(fault))
            self._healing.add(task)
            task.add_done_callback(self._healing.discard)

    @asynccontextmanager
    async def _target(self, kind: str, fault: Fault) -> AsyncIterator[tuple[str, ...]]:
        """Whom it befalls: regions that nothing else is being done to; nobody when all are busy."""
        count = {"power_cut": 3}.get(kind, 2 if kind in _PAIRS else 1)
        free = [region for region in REGIONS if region not in self._busy]
        self._random.shuffle(free)
        hurt = tuple(free[:count]) if len(free) >= count else ()
        # A pair's faults leave its processes alone, and may lie over those of others.
        taken = {"-".join(hurt)} if kind in _PAIRS else set(hurt)
        if taken & self._busy:
            hurt, taken = (), set()
        fault.target = "-".join(hurt)
        self._busy |= taken
        try:
            yield hurt
        finally:
            self._busy -= taken

    async def _time_healing(self, fault: Fault) -> None:
        """Until everybody has what anybody had; given up when the next fault comes."""
        began = self._history.now_s
        target: dict[str, int] | None = None
        await asyncio.sleep(0.01)  # the fault itself is over by then
        while self._history.now_s < began + _HEAL_S:
            if self._active:
                return
            found = await self._deployment.positions()
            if found is not None:
                if target is None:
                    target = {r: max(each.get(r, 0) for each in found.values()) for r in REGIONS}
                if all(each.get(r, 0) >= seq for each in found.values() for r, seq in target.items()):
                    fault.healed_s = self._history.now_s - began
                    return
            await asyncio.sleep(0.02)
        self._history.violated("healed in time", f"{fault.kind} of {fault.target} did not within {_HEAL_S} s")

    async def _for_some(self, low_s: float, high_s: float) -> None:
        await self._wait(self._some(low_s, max(low_s, min(high_s, self._longest_s))))

    async def _wait(self, seconds: float) -> None:
        """So long, or until the end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()

    def _some(self, low_s: float, high_s: float) -> float:
        """Seconds, short ones more often."""
        return float(low_s * (high_s / low_s) ** self._random.random())

    # -- processes -------------------------------------------------------------------------------------

    async def _kill(self, region: str) -> None:
        self._deployment.nodes[region].kill()
        await self._for_some(0.05, 8.0)
        await self._deployment.restart(region)

    async def _restart(self, region: str) -> None:
        code = await self._deployment.end(region)
        self._history.check("a region ends when asked", code == 0, f"{region} ended with {code}")
        await self._deployment.restart(region)

    async def _pause(self, region: str) -> None:
        node = self._deployment.nodes[region]
        node.send(signal.SIGSTOP)
        try:
            await self._for_some(0.2, 9.0)
        finally:
            node.send(signal.SIGCONT)

    async def _power_cut(self, *regions: str) -> None:
        for region in regions:
            self._deployment.nodes[region].kill()
        await self._for_some(0.05, 3.0)
        await asyncio.gather(*(self._deployment.restart(region) for region in regions))

    async def _kill_twice(self, region: str) -> None:
        """Again before it is up."""
        node = self._deployment.nodes[region]
        node.kill()
        node.start()
        await self._for_some(0.1, 1.5)
        node.kill()
        await self._deployment.restart(region)

    # -- links -----------------------------------------------------------------------------------------

    async def _cut(self, one: str, other: str) -> None:
        await self._apart([(one, other), (other, one)])

    async def _cut_one_way(self, one: str, other: str) -> None:
        await self._apart([(one, other)])

    async def _isolate(self, region: str) -> None:
        others = [other for other in REGIONS if other != region]
        await self._apart([*((region, other) for other in others), *((other, region) for other in others)])

    async def _apart(self, sides: list[tuple[str, str]]) -> None:
        for one, other in sides:
            await self._deployment.cut(one, other, True)
        try:
            await self._for_some(0.5, 15.0)
        finally:
            for one, other in sides:
                await self._deployment.cut(one, other, False)

    async def _slow(self, one: str, other: str) -> None:
        rtt_ms = self._some(200, 3000)
        for here, there in ((one, other), (other, one)):
            await self._deployment.delay(here, there, rtt_ms)
        try:
            await self._for_some(1.0, 12.0)
        finally:
            for here, there in ((one, other), (other, one)):
                await self._deployment.delay(here, there, None)

    # -- wires -----------------------------------------------------------------------------------------

    async def _refuse(self, one: str, other: str) -> None:
        await self._wire(self._deployment.between[one, other], Wire(refuse=True), 8.0)

    async def _tear(self, one: str, other: str) -> None:
        await self._wire(
            self._deployment.between[one, other], Wire(break_after_bytes=int(self._some(100, 50_000))), 8
        )

    async def _freeze(self, one: str, other: str) -> None:
        await self._wire(self._deployment.between[one, other], Wire(frozen=True), 10.0)

    async def _throttle(self, one: str, other: str) -> None:
        wire = Wire(bytes_per_s=int(self._some(1_000, 40_000)))
        await self._wire(self._deployment.between[one, other], wire, 10.0)

    async def _corrupt(self, one: str, other: str) -> None:
        wire = Wire(corrupt_every_bytes=int(self._some(200, 8_000)))
        await self._wire(self._deployment.between[one, other], wire, 8.0)

    async def _front(self, region: str) -> None:
        wire = self._random.choice(
            (Wire(refuse=True), Wire(break_after_bytes=3_000), Wire(frozen=True), Wire(bytes_per_s=5_000))
        )
        await self._wire(self._deployment.front[region], wire, 6.0)

    async def _wire(self, proxy: Proxy, wire: Wire, longest_s: float) -> None:
        proxy.behave(wire)
        try:
            await self._for_some(0.3, longest_s)
        finally:
            proxy.behave(Wire())

    # -- disks -----------------------------------------------------------------------------------------

    async def _disk_full(self, region: str) -> None:
        """Writes are refused and say why, reads go on; with room again, writes work by themselves."""
        node, disk = self._deployment.nodes[region], self._deployment.disks[region]
        if disk.mounted and self._random.random() < 0.6:
            disk.fill()
        else:
            assert node.process is not None
            disk.limit(node.process.pid, node.log)
        try:
            refused = await self._writes_until(region, 507, within_s=20.0)
            self._history.check("a full disk is told", refused, f"{region} never said 507")
            await self._for_some(0.2, 8.0)
            read = await self._answers(region, "GET")
            self._history.check("reads go on", read == 200, f"{region} answers {read} to a read")
        finally:
            disk.free()
        works = await self._writes_until(region, 200, within_s=20.0)
        self._history.check("writes work again", works, f"{region} takes no writes though the disk has room")

    async def _full_at_start(self, region: str) -> None:
        """It may refuse to start, saying why, or serve reads; once there is room, a start must work."""
        node, disk = self._deployment.nodes[region], self._deployment.disks[region]
        await self._end(region)
        if disk.mounted:
            disk.fill()
        node.start()
        assert node.process is not None
        if not disk.mounted:
            disk.limit(node.process.pid, node.log)
        try:
            await self._for_some(1.0, 6.0)
            read = await self._answers(region, "GET")
            kept = read in (0, 200)  # 0: ended, or not up yet
            self._history.check("reads go on", kept, f"{region} answers {read} to a read")
        finally:
            disk.free()
        node.kill()
        await self._deployment.restart(region)

    async def _writes_until(self, region: str, status: int, *, within_s: float) -> bool:
        deadline = self._history.now_s + within_s
        while self._history.now_s < deadline:
            if await self._answers(region, "PUT") == status:
                return True
            await asyncio.sleep(0.05)
        return False

    async def _answers(self, region: str, method: str) -> int:
        url = f"{self._deployment.urls[region]}/v1/mark/disk-{region}"
        if method == "GET":
            url = f"{self._deployment.urls[region]}/v1/mark?limit=1"
        body = None if method == "GET" else {"number": int(self._history.now_s * 1000)}
        try:
            async with self._deployment.http.request(method, url, json=body, timeout=_TIMEOUT) as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0

    # -- clocks ----------------------------------------------------------------------------------------

    async def _clock_inside(self, region: str) -> None:
        """Off, and within what the deployment allows for."""
        await self._off(region, int(self._some(50, MAX_CLOCK_OFFSET_MS * 0.9)))

    async def _clock_beyond(self, region: str) -> None:
        """Off by more: the region must see it and take no writes, and nothing may be lost."""
        await self._off(region, int(self._some(MAX_CLOCK_OFFSET_MS * 1.3, _FURTHEST_MS)))

    async def _clock_far_behind(self, region: str) -> None:
        """By minutes: peers no longer believe its seals, and it has to learn the time from them all the same."""
        await self._off(region, int(self._some(70_000, 900_000)), signs=(-1,))

    async def _off(self, region: str, offset_ms: int, signs: tuple[int, ...] = (-1, 1)) -> None:
        self._deployment.set_clock(region, self._random.choice(signs) * offset_ms)
        await self._again(region)
        await self._for_some(1.0, 12.0)
        self._deployment.set_clock(region, 0)
        await self._again(region)

    async def _again(self, region: str) -> None:
        await self._end(region)
        await self._deployment.restart(region)

    async def _end(self, region: str) -> None:
        """Now in good order, now not."""
        if self._random.random() < 0.5:
            self._deployment.nodes[region].kill()
        else:
            await self._deployment.end(region)


FAULTS = {
    "kill": 3,
    "restart": 1,
    "pause": 3,
    "power_cut": 1,
    "kill_twice": 1,
    "cut": 2,
    "cut_one_way": 2,
    "isolate": 2,
    "slow": 2,
    "refuse": 1,
    "tear": 2,
    "freeze": 2,
    "throttle": 2,
    "corrupt": 2,
    "front": 3,
    "disk_full": 2,
    "full_at_start": 1,
    "clock_inside": 2,
    "clock_beyond": 2,
    "clock_far_behind": 1,
}
"""Kind → how often it is in the deck."""
_PAIRS = frozenset({"cut", "cut_one_way", "slow", "refuse", "tear", "freeze", "throttle", "corrupt"})
