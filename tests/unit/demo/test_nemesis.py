from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from atoll.demo.nemesis import AFTER, BACK, CUT, DOWN, Nemesis, Weather
from atoll.errors import AtollError


class FakeTopology:
    """Remembers what was done to it; regions answer at one address."""

    def __init__(self, url: str, done: list[str]) -> None:
        self.urls = dict.fromkeys(("tokyo", "frankfurt", "virginia"), url)
        self._done = done

    def kill(self, region: str) -> int:
        self._done.append(f"kill {region}")
        return 4711

    def start(self, region: str) -> int:
        self._done.append(f"start {region}")
        return 4712

    async def ready(self, http: aiohttp.ClientSession, region: str) -> None:
        self._done.append(f"ready {region}")

    def log(self, region: str) -> str:
        return f"{region}.log"


async def play(status: int = 200) -> tuple[list[str], list[str]]:
    """What was done, in order, and the phase at each thing said."""
    done: list[str] = []
    phases: list[str] = []

    async def region(request: web.Request) -> web.Response:
        asked = await request.json()
        done.append(f"{'cut' if asked['cut'] else 'heal'} {asked['peer']}")
        return web.json_response({}, status=status)

    app = web.Application()
    app.router.add_post("/admin/partition", region)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    weather = Weather()
    try:
        async with aiohttp.ClientSession() as http:
            topology = FakeTopology(f"http://127.0.0.1:{runner.addresses[0][1]}", done)
            said = lambda text: phases.append(weather.phase)  # noqa: E731
            await Nemesis(topology, http, weather, said).run(0.0)  # type: ignore[arg-type]
    finally:
        await runner.cleanup()
    return done, phases


async def test_everything_that_breaks_is_mended() -> None:
    done, phases = await play()
    assert done == [
        "cut frankfurt",
        "cut tokyo",
        "kill virginia",
        "start virginia",
        "ready virginia",
        "heal frankfurt",
        "heal tokyo",
    ]
    assert phases == [CUT, DOWN, BACK, AFTER]


async def test_region_that_refuses_to_be_cut_off_is_an_error() -> None:
    with pytest.raises(AtollError, match="tokyo refused to cut or heal its link"):
        await play(status=422)
