"""Real region processes on free loopback ports, and a small client that hides nothing of HTTP."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import urllib3
from tests.ports import free_ports

from atoll import connect_sync
from atoll.client import SyncDatabase
from atoll.errors import AtollError

from .processes import Place, Process, serve

T = TypeVar("T")

QUIET = "events_max = 0"
"""Nothing but a test writes."""
KEY = "the-key-of-a-deployment-under-test"
REGIONS = ("frankfurt", "tokyo", "virginia")
PATIENCE_S = 20.0
SHOP = Path(__file__).with_name("shop.py")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def value(self) -> Any:
        return self.json["value"]

    @property
    def problem(self) -> str:
        """The slug of a problem document, after a check that it is one."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        document = self.json
        assert document["status"] == self.status
        assert document["title"]
        assert document["detail"]
        assert isinstance(document["definite"], bool)
        return str(document["type"].removeprefix("urn:atoll:problem:"))

    @property
    def token(self) -> dict[str, str]:
        """The header that carries the session on."""
        return {"Atoll-Session": self.headers["atoll-session"]}


def until(found: Callable[[], T], what: str, patience_s: float | None = None) -> T:
    """Ask until the answer is true."""
    patience_s = PATIENCE_S if patience_s is None else patience_s
    deadline = time.monotonic() + patience_s
    while True:
        answer = found()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {patience_s} s: {what}; last seen {answer!r}"
        time.sleep(0.02)


def path_of(collection: str, key: str) -> str:
    return f"/v1/{collection}/{quote(key, safe='')}"


class Region:
    """One region's process, or one of its nodes."""

    def __init__(self, name: str, folder: Path, port: int, node: int = 1) -> None:
        self.name = name
        self.port = port
        self.node = node
        self.log = folder / (f"{name}.log" if node == 1 else f"{name}-{node}.log")
        self.data = folder / "data" / name
        self.config = folder / "atoll.toml"
        self.watched = False
        """Whether its process notes what holds the event loop."""
        self.descriptors: int | None = None
        """At most, of the process; None for as many as usual."""
        self.process: Process | subprocess.Popen[bytes] | None = None
        self._pool: urllib3.HTTPConnectionPool | None = None

    def launch(self) -> Process | subprocess.Popen[bytes]:
        """A process that opens this region, ready or not."""
        if not self.watched:
            place = Place(Path.cwd(), self.log, self.log, descriptors=self.descriptors)
            return Process(place, serve, self.config, self.name, self.node)
        program = [str(Path(__file__).with_name("watched.py")), str(self.config), self.name, str(self.node)]
        with self.log.open("ab") as log:
            return subprocess.Popen([sys.executable, *program, str(self.stalls)], stdout=log, stderr=log)

    @property
    def stalls(self) -> Path:
        """Where a watched process notes them."""
        return self.log.with_suffix(".stalls")

    def start(self) -> None:
        self._pool = urllib3.HTTPConnectionPool("127.0.0.1", self.port, maxsize=32, retries=False)
        self.process = self.launch()

    def wait(self) -> Region:
        """Until it answers; another process on this port would not do."""
        until(self._answers, f"{self.name} answers")
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} ended: {self.log.read_text()[-2000:]}"
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            return bool(self.status()["pid"] == self.process.pid)
        return False

    def kill(self) -> None:
        """`kill -9`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        if self._pool is not None:
            self._pool.close()

    def stop(self) -> int:
        """As a service manager would; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.kill()

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """`body`: bytes as they are, anything else as JSON."""
        assert self._pool is not None
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        given = {**({} if body is None else {"content-type": "application/json"}), **(headers or {})}
        response = self._pool.request(
            method, path, body=sent, headers=given, timeout=PATIENCE_S, redirect=False
        )
        return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, response.data)

    def get(self, collection: str, key: str, query: str = "", **headers: str) -> Answer:
        return self.request("GET", path_of(collection, key) + query, headers=_dashed(headers))

    def put(self, collection: str, key: str, value: Any, **headers: str) -> Answer:
        return self.request("PUT", path_of(collection, key), value, _dashed(headers))

    def patch(self, collection: str, key: str, operators: Any, **headers: str) -> Answer:
        return self.request("PATCH", path_of(collection, key), operators, _dashed(headers))

    def delete(self, collection: str, key: str, **headers: str) -> Answer:
        return self.request("DELETE", path_of(collection, key), headers=_dashed(headers))

    def post(self, path: str, body: Any = None) -> Answer:
        return self.request("POST", path, body)

    def status(self) -> Any:
        return self.request("GET", "/admin/status").json

    def position(self) -> Any:
        return self.status()["position"]

    def digest(self) -> Any:
        return self.request("GET", "/admin/digest").json["collections"]

    def conflicts(self, **filters: str) -> list[Any]:
        """All pages of the audit."""
        query = "&".join(f"{name}={quote(value)}" for name, value in filters.items())
        found: list[Any] = []
        page = self.request("GET", f"/v1/conflicts?limit=50&{query}").json
        found += page["items"]
        while page["cursor"]:
            page = self.request("GET", f"/v1/conflicts?limit=50&cursor={page['cursor']}&{query}").json
            found += page["items"]
        return found

    def raw(self, sent: bytes, *, shut: bool = False) -> bytes:
        """Send bytes as they are and read to the end; `shut` closes the sending side first."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_S) as connection:
            connection.sendall(sent)
            if shut:
                connection.shutdown(socket.SHUT_WR)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while chunk := connection.recv(65_536):
                    received += chunk
            return received


class Cluster:
    """A deployment in a folder of its own."""

    witnesses: tuple[str, ...] = ()

    def __init__(
        self,
        folder: Path,
        regions: Sequence[str] = REGIONS,
        *,
        rtt_ms: float = 16,
        through: Mapping[str, int] | None = None,
        deployment: str = "",
        stores: Mapping[str, str] | None = None,
        witnesses: Sequence[str] = (),
    ) -> None:
        """`through`: ports that the others reach a region at, where that is not its own. `stores`: those of regions
        that do not keep their data in SQLite. `witnesses`: regions that vote, and hold no documents."""
        self.witnesses = tuple(witnesses)
        self.folder = folder
        ports = dict(zip(regions, free_ports(len(regions)), strict=True))
        shutil.copy(SHOP, folder / "shop.py")
        (folder / "regions").write_text(" ".join(name for name in regions if name not in witnesses))
        pairs = [f"{a}-{b}" for i, a in enumerate(regions) for b in regions[i + 1 :]]
        rtts = ", ".join(f'"{pair}" = {rtt_ms}' for pair in pairs)
        self.regions = {name: Region(name, folder, port) for name, port in ports.items()}
        for name, region in self.regions.items():
            region.config = folder / f"{name}.toml"
            settings = deployment if "events_max" in deployment else f"{deployment}\n{QUIET}"
            lines = [f'[deployment]\nname = "shop"\napp = "shop.py"\nkey = "{KEY}"\n{settings}']
            for other, port in ports.items():
                reached = port if other == name else (through or {}).get(other, port)
                lines.append(f'[regions.{other}]\nurl = "http://127.0.0.1:{reached}"')
                if other in witnesses:
                    lines.append("witness = true")
                if stores and other in stores:
                    lines.append(f'store = "{stores[other]}"')
            region.config.write_text("\n".join([*lines, f"[emulate]\nrtt_ms = {{ {rtts} }}"]))

    def __getitem__(self, name: str) -> Region:
        return self.regions[name]

    def __iter__(self) -> Iterator[Region]:
        return iter(self.regions.values())

    @property
    def urls(self) -> dict[str, str]:
        """As a client takes them."""
        return {region.name: f"http://127.0.0.1:{region.port}" for region in self}

    @property
    def keepers(self) -> list[Region]:
        """The regions that hold documents."""
        return [region for region in self if region.name not in self.witnesses]

    def start(self) -> Cluster:
        for region in self:
            region.start()
        for region in self:
            region.wait()
        self.linked()
        return self

    def linked(self) -> None:
        """Until every link is open."""
        until(
            lambda: all(link["connected"] for region in self for link in region.status()["links"].values()),
            "all links are up",
        )

    def voting(self) -> None:
        """Until the acceptors of every region have joined: before, they can spare none."""
        until(lambda: all(region.status()["registers"]["voting"] for region in self), "all regions vote")

    def settled(self) -> None:
        """Until all regions are at one position."""

        def equal() -> bool:
            positions = [region.position() for region in self.keepers]
            return all(position == positions[0] for position in positions)

        until(equal, "all regions are at one position")

    def cut(self, one: str, other: str, cut: bool = True) -> None:
        """Cut or heal both sides of a link."""
        for here, there in ((one, other), (other, one)):
            assert self[here].post("/admin/partition", {"peer": there, "cut": cut}).status == 200

    @contextlib.contextmanager
    def apart(self, *pairs: tuple[str, str]) -> Iterator[None]:
        """Cut links (all, when none is named), then heal and settle."""
        names = list(self.regions)
        cut = pairs or tuple((a, b) for i, a in enumerate(names) for b in names[i + 1 :])
        for one, other in cut:
            self.cut(one, other)
        try:
            yield
        finally:
            for one, other in cut:
                self.cut(one, other, cut=False)
        self.linked()
        self.settled()

    def killed_in_turn(
        self,
        step: Callable[[SyncDatabase, int, int], object],
        meanwhile: Callable[[Region], object] = lambda killed: None,
    ) -> None:
        """Kill each region and start it again, while a client near each of them goes on. Then settle.

        `step`: what a client does next, by its number and the count of its steps. It may raise AtollErrors.
        `meanwhile`: what is looked at while a region is gone, once others have gone on.
        """
        over = threading.Event()
        done = [0] * len(self.regions)

        def act(client: int, near: str) -> None:
            with connect_sync(self.urls, near=near) as db:
                while not over.is_set():
                    with contextlib.suppress(AtollError):
                        step(db, client, done[client])
                    done[client] += 1

        with ThreadPoolExecutor(len(done)) as threads:
            running = [threads.submit(act, client, near) for client, near in enumerate(self.regions)]
            try:
                until(lambda: min(done) > 0, "all clients have begun")
                for region in self:
                    self.voting()  # else the next one is a second one that does not
                    before = max(done)
                    region.kill()
                    until(lambda: max(done) > before + 5, "others go on")  # noqa: B023
                    meanwhile(region)
                    region.start()
                    region.wait()
            finally:
                over.set()
            for each in running:
                each.result()
        self.linked()
        self.settled()

    def logs(self) -> str:
        return "\n".join(
            f"== {region.name}\n{region.log.read_text()[-4000:] if region.log.exists() else ''}"
            for region in self
        )

    def close(self) -> None:
        for region in self:
            region.kill()


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
