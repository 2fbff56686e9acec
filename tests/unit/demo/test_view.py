from __future__ import annotations

import asyncio
import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from atoll.demo.ledger import Ledger
from atoll.demo.nemesis import Weather
from atoll.demo.view import LiveView, PlainView, Scene, beside


def status(cut: list[str], **links: tuple[bool, list[str]]) -> dict[str, Any]:
    return {
        "links": {peer: {"connected": up, "relays": relays} for peer, (up, relays) in links.items()},
        "emulated": {"cut": cut},
    }


@pytest.fixture
def scene() -> Scene:
    made = Scene(60.0, Ledger(), Weather())
    made.opened = made.began
    statuses = {
        "tokyo": status(["frankfurt"], frankfurt=(False, []), virginia=(True, ["frankfurt"])),
        "frankfurt": status([], tokyo=(False, []), virginia=(True, [])),
        "virginia": None,
    }
    made.observer = SimpleNamespace(statuses=statuses, latest={}, oldest_wait_s=lambda *pair: 0.25)  # type: ignore[assignment]
    return made


def test_links_say_whether_they_are_up_cut_down_or_relayed(scene: Scene) -> None:
    assert scene.links("tokyo") == [("frankfurt", "relayed"), ("virginia", "up")]
    assert scene.links("frankfurt") == [("tokyo", "down"), ("virginia", "up")]
    assert scene.links("virginia") == []


def test_lag_counts_what_is_still_waited_for(scene: Scene) -> None:
    assert scene.lag_ms("tokyo") == 250.0


def test_rate_is_over_the_last_seconds(scene: Scene) -> None:
    scene.sample()
    scene.ledger.sales["tokyo"] += 30
    scene.sample()
    assert scene.sales_per_s("tokyo") > 0
    assert scene.sales_per_s("frankfurt") == 0


def test_plain_line_names_what_is_broken(scene: Scene) -> None:
    line = PlainView(scene, print).line()
    assert "tokyo 0/s lag 250 ms (frankfurt relayed)" in line
    assert "virginia DOWN" in line


async def test_plain_view_tells_every_event_once(scene: Scene) -> None:
    lines: list[str] = []
    scene.step = "the shop is open"
    async with beside(PlainView(scene, lines.append).run()):
        scene.say("first")
        await asyncio.sleep(0)
        scene.say("second")
    told = [line.split("* ")[1] for line in lines if "* " in line]
    assert told == ["first", "second"]
    assert sum("the shop is open" in line for line in lines) == 1


def test_live_view_draws_regions_links_and_events(scene: Scene) -> None:
    console = Console(file=io.StringIO(), width=120)
    scene.say("kill -9 [now]")
    console.print(LiveView(scene, console).render())
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    for shown in ("tokyo", "↷ frankfurt relayed", "✓ virginia", "not answering", "kill -9 [now]"):
        assert shown in drawn


async def test_what_work_beside_raises_comes_out() -> None:
    async def fails() -> None:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        async with beside(fails()):
            await asyncio.sleep(0)
