"""What is seen while the demo runs: a live view on a terminal, a line every two seconds elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from atoll.demo.ledger import Ledger, percentile
from atoll.demo.nemesis import Weather
from atoll.demo.observer import Observer
from atoll.demo.topology import REGIONS

_LIVE_EVERY_S = 0.25
_PLAIN_EVERY_S = 2.0
_RATE_OVER_S = 3.0
_EVENTS_SHOWN = 9


@dataclass(slots=True)
class Scene:
    """What the views show."""

    seconds: float
    ledger: Ledger
    weather: Weather
    began: float = field(default_factory=time.monotonic)
    opened: float | None = None
    """When the shop opened, on the monotonic clock."""
    step: str = ""
    events: list[tuple[float, str]] = field(default_factory=list)
    """(seconds since the start, what happened)."""
    observer: Observer | None = None
    _sales: deque[tuple[float, Counter[str]]] = field(default_factory=deque)

    def say(self, text: str) -> None:
        self.events.append((time.monotonic() - self.began, text))

    def sample(self) -> None:
        """Remember how many sales there are, for the rates."""
        now = time.monotonic()
        self._sales.append((now, Counter(self.ledger.sales)))
        while now - self._sales[0][0] > _RATE_OVER_S:
            self._sales.popleft()

    def sales_per_s(self, region: str) -> float:
        if len(self._sales) < 2:
            return 0.0
        (first_at, first), (last_at, last) = self._sales[0], self._sales[-1]
        return (last[region] - first[region]) / max(0.001, last_at - first_at)

    @property
    def part_done(self) -> float:
        """Of the opening hours, 0 to 1."""
        return 0.0 if self.opened is None else min(1.0, (time.monotonic() - self.opened) / self.seconds)

    def lag_ms(self, region: str) -> float:
        """How far the region is behind the slowest of the others."""
        observer = self.observer
        if observer is None:
            return 0.0
        pairs = [(origin, region) for origin in REGIONS if origin != region]
        return max(
            max(observer.latest.get(pair, 0.0), observer.oldest_wait_s(*pair) * 1000) for pair in pairs
        )

    def links(self, region: str) -> list[tuple[str, str]]:
        """(peer, `up`, `cut`, `down` or `relayed`) for what the region pulls."""
        status = None if self.observer is None else self.observer.statuses[region]
        if status is None:
            return []
        relayed = {origin for link in status["links"].values() for origin in link["relays"]}
        cut = (status["emulated"] or {}).get("cut", [])
        broken = {
            peer: "relayed" if peer in relayed else "cut" if peer in cut else "down" for peer in REGIONS
        }
        links = status["links"].items()
        return [(peer, "up" if link["connected"] else broken[peer]) for peer, link in links]

    def answers(self, region: str) -> bool:
        return self.observer is not None and self.observer.statuses[region] is not None


@dataclass(slots=True)
class PlainView:
    """Each event as it happens, and a line every two seconds."""

    _scene: Scene
    _write: Callable[[str], None]
    _told: int = 0
    _step: str = ""

    async def run(self) -> None:
        due = 0.0
        try:
            while True:
                self._news()
                self._scene.sample()
                if self._scene.opened is not None and time.monotonic() >= due:
                    self._write(self.line())
                    due = time.monotonic() + _PLAIN_EVERY_S
                await asyncio.sleep(_LIVE_EVERY_S)
        finally:
            self._news()

    def _news(self) -> None:
        scene = self._scene
        for moment, text in scene.events[self._told :]:
            self._write(f"{moment:6.1f} s  * {text}")
        self._told = len(scene.events)
        if scene.step != self._step:
            self._step = scene.step
            self._write(f"{time.monotonic() - scene.began:6.1f} s  {scene.step}")

    def line(self) -> str:
        scene = self._scene
        regions = []
        for region in REGIONS:
            if not scene.answers(region):
                regions.append(f"{region} DOWN")
                continue
            broken = " ".join(f"{peer} {state}" for peer, state in scene.links(region) if state != "up")
            note = f" ({broken})" if broken else ""
            regions.append(
                f"{region} {scene.sales_per_s(region):.0f}/s lag {scene.lag_ms(region):.0f} ms{note}"
            )
        return (
            f"{time.monotonic() - scene.began:6.1f} s  {scene.part_done:4.0%}  {len(scene.ledger.orders)} orders | "
            + " | ".join(regions)
        )


@dataclass(frozen=True, slots=True)
class LiveView:
    """Redraws itself four times a second."""

    _scene: Scene
    _console: Console

    async def run(self) -> None:
        with Live(self.render(), console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                self._scene.sample()
                live.update(self.render(), refresh=True)
                await asyncio.sleep(_LIVE_EVERY_S)

    def render(self) -> Group:
        scene = self._scene
        bar = Table.grid(padding=(0, 1))
        done = f"{scene.part_done:4.0%}  {scene.step}  ({scene.weather.phase})"
        bar.add_row(ProgressBar(total=1.0, completed=scene.part_done, width=40), Text(done))
        return Group(bar, self._regions(), self._shop(), self._events())

    def _regions(self) -> Table:
        scene = self._scene
        table = Table(expand=True)
        for column in ("region", "sales/s", "orders", "write p50", "lag", "links"):
            table.add_column(column, justify="left" if column in ("region", "links") else "right")
        for region in REGIONS:
            latencies = list(scene.ledger.latencies_ms.get(region, ()))[-500:]
            up = scene.answers(region)
            links = Text(" ").join(_link(peer, state) for peer, state in scene.links(region))
            lag_ms = scene.lag_ms(region)
            table.add_row(
                Text(region, style="bold"),
                f"{scene.sales_per_s(region):.0f}",
                str(scene.ledger.sales[region]),
                f"{percentile(latencies, 0.5):.1f} ms",
                Text(f"{lag_ms:.0f} ms", style="red" if lag_ms > 1000 else "") if up else "",
                links if up else Text("not answering", style="bold red" if scene.opened else "dim"),
            )
        return table

    def _shop(self) -> Text:
        ledger = self._scene.ledger
        return Text(
            f"{sum(ledger.sold.values())} units sold of {sum(ledger.given.values())} · "
            f"{sum(ledger.sold_out.values())} lines sold out · {ledger.out_of_reach} out of reach · "
            f"{sum(ledger.views.values())} views · {len(ledger.collisions)} collisions · "
            f"{ledger.retries} retries · {ledger.sessions_checked} session reads elsewhere",
            style="dim",
        )

    def _events(self) -> Panel:
        lines = [f"{moment:5.1f} s  {text}" for moment, text in self._scene.events[-_EVENTS_SHOWN:]]
        return Panel(Text("\n".join(lines)), title="What happened", title_align="left")


def _link(peer: str, state: str) -> Text:
    style = {"up": "green", "relayed": "yellow"}.get(state, "red")
    mark = {"up": "✓", "relayed": "↷"}.get(state, "✗")
    return Text(f"{mark} {peer}" + ("" if state == "up" else f" {state}"), style=style)


@contextlib.asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work`, which never ends by itself, while the body runs. What it raises comes out at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
