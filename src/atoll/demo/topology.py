"""The demo's regions: a folder, an atoll.toml, and a process for each region."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from random import SystemRandom
from types import MappingProxyType

import aiohttp

from atoll.demo.http_client import Unanswered, ask
from atoll.errors import AtollError, ConfigError

REGIONS = ("tokyo", "frankfurt", "virginia")
ROUND_TRIPS_MS = {("frankfurt", "tokyo"): 230, ("tokyo", "virginia"): 150, ("frankfurt", "virginia"): 90}
_LOCATIONS = {"tokyo": [35.68, 139.69], "frankfurt": [50.11, 8.68], "virginia": [38.95, -77.45]}
_START_S = 30.0
_END_S = 8.0
_FIRST_PORT = 10_000
_PORTS = 22_000


def one_way_s(one: str, other: str) -> float:
    return ROUND_TRIPS_MS[min(one, other), max(one, other)] / 2000


class Topology:
    """Starts, kills and ends the regions' processes, each by its own process id."""

    def __init__(self, folder: Path) -> None:
        """Write the deployment's files. Raises ConfigError when the folder is not empty or not writable."""
        self.folder = folder
        self.config = folder / "atoll.toml"
        self.urls: dict[str, str] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise ConfigError(f"{folder} is not empty; give the demo a folder of its own")
            shop = files("atoll").joinpath("demo", "shop.py").read_text("utf-8")
            (folder / "shop.py").write_text(shop, "utf-8")
            self.urls = {
                region: f"http://127.0.0.1:{port}"
                for region, port in zip(REGIONS, free_ports(len(REGIONS)), strict=True)
            }
            self.config.write_text(config_text(self.urls), "utf-8")
        except OSError as error:
            raise ConfigError(f"{folder}: the demo cannot write there: {error.strerror}") from error

    def keep_in(self, stores: Mapping[str, str]) -> None:
        """Have the regions keep their data in these stores, as in atoll.toml. Before they are started."""
        self.config.write_text(config_text(self.urls, stores), "utf-8")

    def start(self, region: str) -> int:
        """Start the region's process; return its id. `ready` waits until it serves."""
        command = [sys.executable, "-m", "atoll.cli.main", "serve", "--region", region, "--config"]
        with self.log(region).open("ab") as log:
            self._processes[region] = subprocess.Popen(
                [*command, str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                # Ctrl-C in the terminal is for the demo, which then ends its regions in order.
                start_new_session=True,
            )
        return self._processes[region].pid

    def log(self, region: str) -> Path:
        return self.folder / f"{region}.log"

    def alive(self, region: str) -> bool:
        process = self._processes.get(region)
        return process is not None and process.poll() is None

    async def ready(self, http: aiohttp.ClientSession, region: str) -> None:
        """Wait until the region answers. Raises AtollError with the end of its log when it does not."""
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if not self.alive(region):
                raise AtollError(f"{region} did not start: {self._log_end(region)}")
            with contextlib.suppress(Unanswered):
                answer = await ask(http, "GET", f"{self.urls[region]}/health/live", within_s=1.0)
                if answer.status == 200:
                    return
            await asyncio.sleep(0.05)
        raise AtollError(f"{region} did not answer within {_START_S:.0f} s: {self._log_end(region)}")

    def kill(self, region: str) -> int:
        """`kill -9`, with no chance to tidy up; return the process id that was."""
        process = self._processes[region]
        process.kill()
        process.wait()
        return process.pid

    def stop(self) -> None:
        """End all processes, those that do not end in time by force."""
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + _END_S
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _log_end(self, region: str) -> str:
        try:
            lines = self.log(region).read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            lines = []
        return " / ".join(lines[-3:]) or "its log is empty"


def free_ports(count: int, first: int = _FIRST_PORT, ports: int = _PORTS) -> list[int]:
    """Free loopback ports out of so many from `first` on, in another place at each call.

    They lie below the range from which outgoing connections take theirs. So a region that is ended and started again
    finds its port free.
    """
    found: list[int] = []
    candidates = itertools.count(SystemRandom().randrange(ports))
    while len(found) < count:
        port = first + next(candidates) % ports
        with socket.socket() as holder, contextlib.suppress(OSError):
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", port))
            found.append(port)
    return found


def config_text(urls: Mapping[str, str], stores: Mapping[str, str] = MappingProxyType({})) -> str:
    """The demo's atoll.toml; `stores` for regions that are not kept in SQLite."""
    # The proof looks at one region after the other: nothing may be written but by the shop.
    lines = ["[deployment]", 'name = "demo"', 'app = "shop.py"', 'data = "./data"', "events_max = 0", ""]
    for region, url in urls.items():
        lines += [f"[regions.{region}]", f'url = "{url}"', f"location = {_LOCATIONS[region]}"]
        lines += [f'store = "{stores[region]}"', ""] if region in stores else [""]
    trips = ", ".join(f'"{one}-{other}" = {rtt}' for (one, other), rtt in ROUND_TRIPS_MS.items())
    lines += ["[emulate]", f"rtt_ms = {{ {trips} }}", ""]
    return "\n".join(lines)
