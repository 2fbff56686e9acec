"""Runs the demo: starts three regions, opens the shop, lets things break, heal and settle, and proves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import uvloop
from rich.console import Console

from atoll.demo.collisions import Collisions, put
from atoll.demo.databases import Databases
from atoll.demo.deliveries import SKU, Deliveries
from atoll.demo.findings import collect_settled, settle
from atoll.demo.http_client import HttpClient, Unanswered
from atoll.demo.ledger import Ledger
from atoll.demo.nemesis import Nemesis, Weather
from atoll.demo.observer import Observer
from atoll.demo.proof import prove
from atoll.demo.purchases import load_sample
from atoll.demo.report import Report
from atoll.demo.shoppers import LINES_PER_S, Plan, Shoppers, plan
from atoll.demo.topology import REGIONS, Topology
from atoll.demo.view import LiveView, PlainView, Scene, beside
from atoll.errors import AtollError

_BATCH = 250
_GIVE_UP_S = 20.0
_SETTLE_S = 30.0
_LAST_MARKS_S = 1.0
"""So that the lag after healing is measured to the end."""
_INTERRUPTED = 130
_PIPE_WIDTH = 160


@dataclass(frozen=True, slots=True)
class DemoOptions:
    seconds: float = 60.0
    """How long the shop is open; start, settling and proof come on top."""
    seed: int = 1
    """Which stretch of the purchases is replayed, and who collides with whom."""
    plain: bool = False
    """Lines instead of a live view, as without a terminal."""
    keep: bool = False
    """Leave the regions up after the proof, until Ctrl-C."""
    folder: Path | None = None
    """Where everything lies, and stays; None is a temporary folder that goes away."""
    postgresql: bool = False
    """Each region's data lies in a PostgreSQL server of its own, instead of SQLite."""
    as_json: bool = False
    """Print the proof as JSON on stdout, and everything else on stderr."""


def run(options: DemoOptions) -> int:
    """Run the demo; the exit code is 0 when all proofs hold, 1 when one fails, 130 after Ctrl-C.

    Raises ConfigError for a folder that cannot be used, AtollError when a region does not start.
    """
    return uvloop.run(_until_interrupted(options))


async def _until_interrupted(options: DemoOptions) -> int:
    loop = asyncio.get_running_loop()
    demo = asyncio.create_task(_Demo(options).run())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, demo.cancel)
    try:
        return await demo
    except asyncio.CancelledError:
        return _INTERRUPTED


class _Demo:
    def __init__(self, options: DemoOptions) -> None:
        self._options = options
        to_stderr = options.as_json
        stream = sys.stderr if to_stderr else sys.stdout
        self._live = stream.isatty() and not options.plain
        width = None if stream.isatty() else _PIPE_WIDTH
        self._console = Console(stderr=to_stderr, width=width, highlight=False)
        self._ledger = Ledger()
        self._weather = Weather()
        self._scene = Scene(options.seconds, self._ledger, self._weather)

    async def run(self) -> int:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        async with self._opened() as self._topology, aiohttp.ClientSession(connector=connector) as self._http:
            live, plain = LiveView(self._scene, self._console), PlainView(self._scene, self._write)
            self._client = HttpClient(self._http, self._topology.urls, self._ledger)
            async with beside((live if self._live else plain).run()):
                report = await self._drama()
            if self._live:
                for moment, text in self._scene.events:
                    self._write(f"{moment:6.1f} s  {text}")
            report.print(self._console)
            if self._options.as_json:
                json.dump(report.as_json(), sys.stdout, indent=2)
                sys.stdout.write("\n")
                sys.stdout.flush()
            if self._options.keep:
                with contextlib.suppress(asyncio.CancelledError):
                    await self._stay()
            return 0 if report.ok else 1

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[Topology]:
        """The regions' processes and folder, both gone afterwards, whatever happens."""
        given = self._options.folder
        folder = Path(tempfile.mkdtemp(prefix="atoll-demo-")) if given is None else given.resolve()
        topology = databases = None
        try:
            topology = Topology(folder)
            if self._options.postgresql:
                self._scene.step = "starting three PostgreSQL servers"
                databases = Databases(folder)
                topology.keep_in(await asyncio.to_thread(databases.start, REGIONS))
                self._scene.say(databases.told)
            yield topology
        finally:
            if topology is not None:
                topology.stop()
            if databases is not None:
                databases.close()
            if given is None:
                shutil.rmtree(folder, ignore_errors=True)

    async def _drama(self) -> Report:
        scene, ledger, options = self._scene, self._ledger, self._options
        topology, http, client = self._topology, self._http, self._client
        scene.step = "starting three regions"
        pids = {region: topology.start(region) for region in REGIONS}
        purchases = await asyncio.to_thread(load_sample)
        stock = plan(
            purchases, REGIONS, lines=int(options.seconds * LINES_PER_S), random=Random(options.seed)
        )
        await asyncio.gather(*(topology.ready(http, region) for region in REGIONS))
        scene.say(
            "serving: "
            + ", ".join(f"{region} at {topology.urls[region]} (process {pids[region]})" for region in REGIONS)
        )
        random = Random(options.seed + 1)
        collisions = Collisions(client, ledger, REGIONS, alive=topology.alive, random=random)
        deliveries = Deliveries(client, ledger, REGIONS, topology.alive)
        scene.step = "writing the stock"
        await self._fill(stock, collisions.base(options.seconds), deliveries)
        observer = scene.observer = Observer(topology, http, self._weather, ledger.surprises.append)
        async with beside(observer.watch()):
            await self._trade(stock, collisions, deliveries)
            await asyncio.gather(asyncio.sleep(_LAST_MARKS_S), deliveries.conclude(_SETTLE_S))
        settled, findings = await collect_settled(
            client, REGIONS, within_s=_SETTLE_S, tell=lambda text: setattr(scene, "step", text)
        )
        scene.say(
            "all regions have seen the same" if settled else "the regions have not seen the same in time"
        )
        taken = sum(1 for saga in findings[0].sagas.values() if saga["status"] == "completed")
        ledger.sold[SKU] += taken
        checks = await asyncio.to_thread(prove, ledger, findings)
        return Report(
            checks, ledger, findings, observer.by_phase(), scene.events, time.monotonic() - scene.began
        )

    async def _fill(self, stock: Plan, base: list[dict[str, Any]], deliveries: Deliveries) -> None:
        """Write all stock in one region, and wait until the others have it."""
        client, seconds = self._client, self._options.seconds
        hampers = len(REGIONS) * 2 * deliveries.count(seconds)
        writes = base + [
            put("inventory", sku, {"title": stock.titles.get(sku, sku), "stock": units})
            for sku, units in {**stock.stock, SKU: hampers}.items()
        ]
        client.give_up_at = time.monotonic() + _SETTLE_S
        for start in range(0, len(writes), _BATCH):
            body = {"writes": writes[start : start + _BATCH]}
            try:
                answer = await client.write(
                    REGIONS[0], "POST", "/v1/batch", body, idempotency_key=f"fill-{start}"
                )
            except Unanswered:
                raise AtollError(
                    f"{REGIONS[0]} does not answer; see {self._topology.log(REGIONS[0])}"
                ) from None
            if answer.status != 200:
                raise AtollError(f"the stock cannot be written: {answer.body}")
        self._ledger.given = {**stock.stock, SKU: hampers}
        try:
            await deliveries.fill(seconds)
        except Unanswered:
            raise AtollError("the wallets cannot be opened; see the regions' logs") from None
        if not await settle(client, REGIONS, within_s=_SETTLE_S, tell=lambda _: None):
            raise AtollError("the stock did not reach all regions in time; see the regions' logs")
        self._scene.say(f"{len(stock.stock)} products in stock everywhere, {sum(stock.stock.values())} units")

    async def _trade(self, stock: Plan, collisions: Collisions, deliveries: Deliveries) -> None:
        scene, seconds, topology = self._scene, self._options.seconds, self._topology
        random = Random(self._options.seed + 2)
        shoppers = Shoppers(self._client, self._ledger, stock, alive=topology.alive, random=random)
        nemesis = Nemesis(topology, self._http, self._weather, scene.say)
        scene.opened = time.monotonic()
        scene.step = "the shop is open"
        scene.say(f"the shop opens: {len(stock.baskets)} baskets, {stock.lines} lines")
        self._client.give_up_at = scene.opened + seconds + _GIVE_UP_S
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(nemesis.run(seconds))
                group.create_task(shoppers.run(seconds))
                group.create_task(collisions.run(seconds))
                group.create_task(deliveries.run(seconds))
        except ExceptionGroup as errors:
            raise _first(errors) from errors
        scene.say("the shop closes")

    async def _stay(self) -> None:
        topology = self._topology
        url, config = topology.urls["tokyo"], topology.config
        self._write("\nThe regions stay up. Try, in another terminal:\n")
        for line in (
            f"atoll status --config {config}",
            f"atoll verify --config {config}",
            f"atoll conflicts --config {config} --kind update_deleted",
            f"curl '{url}/v1/inventory?limit=5'",
            f"curl '{url}/v1/order?where=quantity:gt:5&limit=5'",
            f"curl -N '{url}/v1/changes?cursor=now'",
            f"curl {url}/metrics",
        ):
            self._write(f"    {line}")
        for region in REGIONS:
            self._write(f"\n{region}: {topology.urls[region]}, log {topology.log(region)}")
        self._write("\nCtrl-C ends them.")
        await asyncio.Event().wait()

    def _write(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """The first error that is no group: what went wrong, without the scaffolding of tasks."""
    error: Exception = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
