"""Three regions as processes: each with its own file of settings, disk and clock, and proxies in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from tests.ports import free_ports

from ..cluster import KEY, REGIONS, Region
from .disk import Disk
from .proxy import Proxy, Wire

RTT_MS = {("frankfurt", "tokyo"): 40, ("tokyo", "virginia"): 30, ("frankfurt", "virginia"): 20}
MAX_CLOCK_OFFSET_MS = 500
_READY_S = 60.0
_SHOP = Path(__file__).with_name("shop.py")
_SHORT = aiohttp.ClientTimeout(total=3.0)


class Node(Region):
    """A region whose clock and disk can be made to fail."""

    offset_ms = 0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


class Deployment:
    """Regions, the proxies between them and in front of them, and the ways to talk to both."""

    def __init__(self, folder: Path, random: Random, *, mounts: bool) -> None:
        self.folder = folder
        self.http: aiohttp.ClientSession
        self.nodes = {
            name: Node(name, folder, port) for name, port in zip(REGIONS, free_ports(3), strict=True)
        }
        self.disks = {name: Disk(node.data, mounts=mounts) for name, node in self.nodes.items()}
        self.between = {
            (one, other): Proxy(self.nodes[other].port, random)
            for one in REGIONS
            for other in REGIONS
            if one != other
        }
        """(who asks, who is asked) → the proxy that the first one reaches the second one through."""
        self.front = {name: Proxy(node.port, random) for name, node in self.nodes.items()}
        """Where some of the clients reach a region."""
        shutil.copy(_SHOP, folder / "shop.py")

    @property
    def urls(self) -> dict[str, str]:
        """The regions' own addresses."""
        return {name: f"http://127.0.0.1:{node.port}" for name, node in self.nodes.items()}

    @property
    def front_urls(self) -> dict[str, str]:
        """The regions behind proxies that misbehave at times."""
        return {name: f"http://127.0.0.1:{proxy.port}" for name, proxy in self.front.items()}

    async def start(self) -> None:
        self.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        for proxy in [*self.between.values(), *self.front.values()]:
            await proxy.start()
        for name in REGIONS:
            self.set_clock(name, 0)
            self.nodes[name].start()
        for name in REGIONS:
            await self.ready(name)

    async def stop(self) -> None:
        for node in self.nodes.values():
            node.kill()
        for proxy in [*self.between.values(), *self.front.values()]:
            await proxy.stop()
        await self.http.close()

    def set_clock(self, region: str, offset_ms: int) -> None:
        """Write the region's settings; its next start takes them up."""
        node = self.nodes[region]
        node.offset_ms = offset_ms
        node.config = self.folder / f"{region}.toml"
        lines = [
            # Entries of events are not in the feed, whose checker lets no number be missing.
            f'[deployment]\nname = "shop"\napp = "shop.py"\nkey = "{KEY}"\nevents_max = 0',
            f"max_clock_offset_ms = {MAX_CLOCK_OFFSET_MS}",
        ]
        for other in REGIONS:
            port = node.port if other == region else self.between[region, other].port
            lines.append(f'[regions.{other}]\nurl = "http://127.0.0.1:{port}"')
        trips = ", ".join(f'"{one}-{other}" = {rtt}' for (one, other), rtt in RTT_MS.items())
        lines.append(f"[emulate]\nrtt_ms = {{ {trips} }}\nclock_offset_ms = {{ {region} = {offset_ms} }}")
        node.config.write_text("\n".join(lines) + "\n")

    # -- processes -------------------------------------------------------------------------------------

    async def ready(self, region: str) -> float:
        """Seconds until the region's present process answers. Raises AssertionError when it does not."""
        node = self.nodes[region]
        began = time.monotonic()
        while time.monotonic() < began + _READY_S:
            assert node.alive, f"{region} ended: {node.log.read_text()[-2000:]}"
            status = await self.status(region)
            if status is not None and node.process is not None and status["pid"] == node.process.pid:
                return time.monotonic() - began
            await asyncio.sleep(0.05)
        raise AssertionError(f"{region} did not answer within {_READY_S} s")

    async def restart(self, region: str) -> float:
        self.nodes[region].start()
        return await self.ready(region)

    async def end(self, region: str) -> int:
        """As a service manager would; the exit code."""
        return await asyncio.to_thread(self.nodes[region].stop)

    # -- administration --------------------------------------------------------------------------------

    async def get(self, region: str, path: str, timeout_s: float = 30.0) -> Any:
        """Raises aiohttp.ClientError, TimeoutError, OSError."""
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with self.http.get(self.urls[region] + path, timeout=timeout) as response:
            response.raise_for_status()
            return await response.json()

    async def status(self, region: str) -> dict[str, Any] | None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            found: dict[str, Any] = await self.get(region, "/admin/status", 2.0)
            return found
        return None

    async def admin(self, region: str, name: str, body: dict[str, Any], *, insist_s: float = 0.0) -> bool:
        """True when the region has taken it; a region that is down has forgotten what to mend anyway."""
        deadline = time.monotonic() + insist_s
        while True:
            url = f"{self.urls[region]}/admin/{name}"
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with self.http.post(url, json=body, timeout=_SHORT) as response:
                    assert response.status == 200, f"{region} refuses /admin/{name}: {await response.text()}"
                    return True
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.1)

    async def cut(self, region: str, peer: str, cut: bool) -> None:
        """One side of a link. Mending insists; a process started anew has nothing cut."""
        await self.admin(region, "partition", {"peer": peer, "cut": cut}, insist_s=0.0 if cut else 20.0)

    async def delay(self, region: str, peer: str, rtt_ms: float | None) -> None:
        """One side of a link; None is as configured."""
        usual = RTT_MS[min(region, peer), max(region, peer)]
        body = {"peer": peer, "rtt_ms": usual if rtt_ms is None else rtt_ms}
        await self.admin(region, "delay", body, insist_s=20.0 if rtt_ms is None else 0.0)

    # -- everything well -------------------------------------------------------------------------------

    async def heal(self) -> None:
        """Whatever is broken: mend it."""
        for proxy in [*self.between.values(), *self.front.values()]:
            proxy.behave(Wire())
        for region, node in self.nodes.items():
            self.disks[region].free()
            if node.alive:
                node.send(signal.SIGCONT)
            if not node.alive or node.offset_ms:
                if node.alive:
                    await self.end(region)
                self.set_clock(region, 0)
                await self.restart(region)
        for one, other in self.between:
            await self.cut(one, other, False)
            await self.delay(one, other, None)

    async def positions(self) -> dict[str, dict[str, int]] | None:
        """region → what it has; None when one does not answer."""
        found = {}
        for region in REGIONS:
            status = await self.status(region)
            if status is None:
                return None
            found[region] = dict(status["position"])
        return found

    async def settled(self, within_s: float) -> float | None:
        """Seconds until all regions are at one position; None when they are not in time."""
        began = time.monotonic()
        while time.monotonic() < began + within_s:
            found = await self.positions()
            if found is not None and len({tuple(sorted(each.items())) for each in found.values()}) == 1:
                return time.monotonic() - began
            await asyncio.sleep(0.05)
        return None

    def keep_data(self) -> None:
        """Copy what lies on file systems that vanish with this process."""
        for region, disk in self.disks.items():
            if disk.mounted:
                shutil.copytree(disk.folder, self.folder / f"kept-{region}", dirs_exist_ok=True)

    def size_bytes(self) -> int:
        return sum(
            os.path.getsize(path)
            for node in self.nodes.values()
            for path in node.data.iterdir()
            if path.is_file()
        )
