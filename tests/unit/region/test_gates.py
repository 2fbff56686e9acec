from __future__ import annotations

import asyncio

import pytest

from atoll.errors import ClockUnsafe, Unavailable
from atoll.region.gates import Gates

from ..virtual_time import in_virtual_time
from .world import World


class Part:
    """Closes when `reason` is set; `wait` opens it."""

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason
        self.opens = False

    def ask(self) -> str | None:
        return self.reason

    async def wait(self) -> None:
        await asyncio.sleep(0)
        if self.opens:
            self.reason = None


def test_what_closes_reads_closes_writes() -> None:
    gates, part = Gates("a"), Part("a is not whole")
    gates.register(reads=part.ask)
    for check in (gates.enter, gates.check_writes):
        with pytest.raises(Unavailable, match="a is not whole"):
            check()
    assert (gates.reads_closed, gates.closed, gates.whole) == ("a is not whole", "a is not whole", False)
    part.reason = None
    gates.leave(gates.enter())
    gates.check_writes()
    assert (gates.reads_closed, gates.closed, gates.whole) == (None, None, True)


def test_what_closes_writes_lets_reads_go_on() -> None:
    gates, part = Gates("a"), Part("the clock is off")
    gates.register(writes=part.ask, error=ClockUnsafe)
    gates.leave(gates.enter())
    with pytest.raises(ClockUnsafe, match="the clock is off"):
        gates.check_writes()
    assert (gates.reads_closed, gates.closed) == (None, "the clock is off")


def test_a_read_that_a_closing_fell_into_shows_nothing() -> None:
    gates, part = Gates("a"), Part()
    gates.register(reads=part.ask)
    entered = gates.enter()
    gates.closing(reads=False)
    gates.leave(entered)
    gates.closing(reads=True)  # and opens again before the read ends
    with pytest.raises(Unavailable, match="stopped serving while it was read"):
        gates.leave(entered)
    gates.leave(gates.enter())


async def test_a_write_waits_at_a_gate_that_may_open() -> None:
    gates, opens, stays = Gates("a"), Part("starting"), Part("starting")
    gates.register(writes=opens.ask, wait=opens.wait)
    opens.opens = True
    await gates.admit()
    gates.register(writes=stays.ask, wait=stays.wait)
    with pytest.raises(Unavailable, match="starting"):
        await gates.admit()


def test_advice_refuses_nothing() -> None:
    gates, part = Gates("a"), Part("the disk is full")
    gates.advise(writes=part.ask)
    gates.check_writes()
    assert (gates.reads_closed, gates.closed) == (None, "the disk is full")
    gates.draining = True
    gates.leave(gates.enter())
    assert gates.reads_closed == gates.closed == "draining"


@in_virtual_time
async def test_nothing_serves_while_its_writes_are_refused() -> None:
    async with World() as it:
        await asyncio.sleep(3)
        it["a"].clock.last = (
            it["a"].now_ms() + 60_000
        ) << 16  # its clock was a minute ahead, and is right again
        with pytest.raises(ClockUnsafe, match="was set back"):
            await it.write("a", "note", "k", {})
        assert "was set back" in (it["a"].health.of("serving") or "")
        assert it["a"].health.of("reading") is None
