"""Regions as processes: `atoll serve` for each, on loopback, started, killed and cut apart by the bench."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]

from atoll.errors import Unavailable

RECORD = Path(__file__).with_name("record.py")
_START_S = 30
_STOP_S = 15
_POLL_S = 0.02


class Served:
    """A running `atoll serve`."""

    def __init__(self, name: str, url: str, config: Path, node: int = 1) -> None:
        self.name = name
        self.url = url
        self._node = node
        self.data = config.parent / "data" / name
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to start; `wait` for it."""
        command = [str(Path(sys.executable).with_name("atoll")), "serve", "--region", self.name]
        command += ["--node", str(self._node)]
        with self._config.with_name(f"{self.name}-{self._node}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--config", str(self._config)], stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Until it answers. Raises Unavailable when it ends, or takes too long."""
        wait_for(self._live, f"the region at {self.url} does not serve")

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> None:
        """Ask it to end; `reap` waits for that."""
        if self._process is not None:
            self._process.terminate()

    def reap(self) -> None:
        if self._process is not None:
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()

    @property
    def process(self) -> psutil.Process:
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def resident_mb(self) -> float:
        """Resident memory in 10⁶ bytes."""
        return float(self.process.memory_info().rss) / 1e6

    def stored_mb(self) -> float:
        """Everything in its folder, in 10⁶ bytes."""
        return sum(path.stat().st_size for path in self.data.rglob("*") if path.is_file()) / 1e6

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """What it answers, from JSON. Raises OSError, http.client.HTTPException."""
        connection = connect(self.url)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
            assert response.status < 300, f"{method} {path}: {answer}"
            return answer
        finally:
            connection.close()

    def status(self) -> Any:
        return self.ask("GET", "/admin/status")

    def cut(self, peer: str, cut: bool) -> None:
        """Its side of the link to a peer."""
        self.ask("POST", "/admin/partition", {"peer": peer, "cut": cut})

    def _live(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise Unavailable(f"the region at {self.url} ended before it served")
        with suppress(OSError, http.client.HTTPException):
            return bool(self.ask("GET", "/health/live")["status"] == "ok")
        return False


@contextmanager
def serving(
    folder: Path,
    names: Sequence[str],
    rtt_ms: Mapping[str, float] | None = None,
    stores: Mapping[str, str] | None = None,
    app: Path = RECORD,
    *,
    deployment: Sequence[str] = (),
) -> Iterator[list[Served]]:
    """`atoll serve` for each name, a process each, with data in `folder`; `rtt_ms` as in `[emulate]`.

    `stores`: where a region keeps its documents, as in atoll.toml; SQLite for those not named. `deployment`: further
    lines of that section.
    """
    urls = {
        name: f"http://127.0.0.1:{port}" for name, port in zip(names, free_ports(len(names)), strict=True)
    }
    config = folder / "atoll.toml"
    config.write_text(_toml(app, urls, rtt_ms or {}, stores or {}, deployment), "utf-8")
    with _running([Served(name, url, config) for name, url in urls.items()]) as regions:
        yield regions


@contextmanager
def serving_nodes(folder: Path, count: int, store: str, app: Path = RECORD) -> Iterator[list[Served]]:
    """One region, `here`, with so many nodes on one PostgreSQL database, whose URL is `store`."""
    urls = [f"http://127.0.0.1:{port}" for port in free_ports(count)]
    config = folder / "atoll.toml"
    listed = ", ".join(f'"{url}"' for url in urls)
    lines = ["[deployment]", 'name = "bench"', f'app = "{app}"', 'data = "data"']
    lines += ["[regions.here]", f"nodes = [{listed}]", f'store = "{store}"', "[emulate]", ""]
    config.write_text("\n".join(lines), "utf-8")
    with _running([Served("here", url, config, number) for number, url in enumerate(urls, 1)]) as nodes:
        yield nodes


@contextmanager
def _running(served: list[Served]) -> Iterator[list[Served]]:
    """All of them at once, from when they serve until they have ended."""
    try:
        for each in served:
            each.start()
        for each in served:
            each.wait()
        yield served
    finally:
        for each in served:
            each.terminate()
        for each in served:
            each.reap()


def linked(regions: Sequence[Served]) -> None:
    """Wait until every link is up."""

    def up() -> bool:
        return all(link["connected"] for region in regions for link in region.status()["links"].values())

    wait_for(up, "not all links are up")


def settled(regions: Sequence[Served], seconds: float = 120) -> None:
    """Wait until all have what any has."""

    def equal() -> bool:
        first, *others = (region.status()["position"] for region in regions)
        return all(other == first for other in others)

    wait_for(equal, "the regions are not at one position", seconds)


def cut_apart(regions: Sequence[Served], cut: bool) -> None:
    """Cut or heal all links between them, on both sides."""
    for one, other in combinations(regions, 2):
        one.cut(other.name, cut)
        other.cut(one.name, cut)


def _toml(
    app: Path,
    urls: Mapping[str, str],
    rtt_ms: Mapping[str, float],
    stores: Mapping[str, str],
    deployment: Sequence[str],
) -> str:
    lines = ["[deployment]", 'name = "bench"', f'app = "{app}"', 'data = "data"', *deployment]
    for name, url in urls.items():
        store = stores.get(name, "sqlite")
        lines += [f"[regions.{name}]", f'url = "{url}"', f'store = "{store}"']
    pairs = ", ".join(f'"{pair}" = {ms}' for pair, ms in rtt_ms.items())
    return "\n".join([*lines, "[emulate]", f"rtt_ms = {{ {pairs} }}", ""])


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def connect(url: str) -> http.client.HTTPConnection:
    """A plain connection, for one request at a time."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = _START_S) -> None:
    """Poll until it holds. Raises Unavailable when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Unavailable(f"{what}: not within {seconds:.0f} s")
        time.sleep(_POLL_S)
