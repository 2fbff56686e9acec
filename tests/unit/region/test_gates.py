from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import ClockUnsafe, Unavailable
from atoll.protocol import port
from atoll.recovery.restore import RESTORED, counters
from atoll.region.gates import Gates

from ..virtual_time import in_virtual_time, pause
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
        assert "was set back" in (it["a"].health_of("serving") or "")
        assert it["a"].health_of("reading") is None


# -- what is remembered --------------------------------------------------------------------------------


def passes(check: Callable[[], object]) -> bool:
    try:
        check()
    except Unavailable:
        return False
    return True


def check_remembered(gates: Gates) -> bool:
    """Requests get the answer that every gate, asked anew, gives. Returns whether writes do."""
    remembered = passes(gates.enter), passes(gates.check_writes)
    assert gates.admits_writes() == remembered[1]
    gates.register()  # nothing is remembered past it
    assert not gates.admits_writes()
    assert remembered == (passes(gates.enter), passes(gates.check_writes))
    if remembered[0]:
        gates.leave(gates.enter())
    return remembered[1]


STEPS = st.lists(
    st.tuples(st.sampled_from(("close", "open", "look", "register")), st.integers(0, 5)), max_size=40
)


@given(STEPS)
def test_requests_get_the_answer_of_every_gate(steps: list[tuple[str, int]]) -> None:
    iterations: list[Callable[[], None]] = []
    gates, parts = Gates("a", iterations.append), [Part() for _ in range(6)]
    register = (
        lambda: gates.register(reads=parts[0].ask),
        lambda: gates.register(reads=parts[1].ask, timed=True),
        lambda: gates.register(writes=parts[2].ask),
        lambda: gates.register(writes=parts[3].ask, timed=True),
        lambda: gates.register(writes=parts[4].ask),
        lambda: gates.register(reads=parts[5].ask),
    )
    registered: set[int] = set()
    for step, number in steps:
        begin_iteration(iterations)
        part = parts[number]
        if step == "close":
            closed, part.reason = part.reason, "closed"
            if closed is None and number in (0, 2, 4, 5):
                gates.closing(reads=number in (0, 5))
        elif step == "open":
            part.reason = None
        elif step == "register" and number not in registered:
            registered.add(number)
            register[number]()
        else:
            check_remembered(gates)
    begin_iteration(iterations)
    check_remembered(gates)


def test_time_closes_writes_from_one_iteration_to_the_next() -> None:
    iterations: list[Callable[[], None]] = []
    gates, part, other = Gates("a", iterations.append), Part(), Part()
    gates.register(writes=part.ask, timed=True)
    gates.register(writes=other.ask)
    gates.check_writes()
    assert gates.admits_writes()
    part.reason = "the clock is off"
    assert gates.admits_writes()  # asked in this iteration
    other.reason = "the database was replaced"
    gates.closing(reads=False)
    assert not gates.admits_writes()  # what closes by a call does so at once
    other.reason = None
    begin_iteration(iterations)
    with pytest.raises(Unavailable, match="the clock is off"):
        gates.check_writes()
    part.reason = None
    gates.check_writes()
    assert gates.admits_writes()


def begin_iteration(iterations: list[Callable[[], None]]) -> None:
    """The event loop's next turn: what was to be called in it is called."""
    for call in iterations:
        call()
    iterations.clear()


async def disturb(it: World, random: Random) -> None:
    """Something happens that may close a gate, or open one."""
    region = it["a"]
    peer, seq = random.choice("bc"), random.randrange(4)
    match random.randrange(15):
        case 0:
            region.startup_check.post(port.Heard(peer, {"a": seq}, region.vector))
        case 1:
            region.startup_check.replaced()
        case 2:
            region.startup_check.post(port.Forgotten(peer))
        case 3 | 4:
            region.progress.move(
                {**region.vector, "a": seq}
            )  # a database that lost commits, or its peers' account
        case 5:
            region._history_changed(f"history {seq}", random.random() < 0.5)
        case 6:
            region.failover.post(port.Heard(peer, {"a": seq}, region.vector))
        case 7:
            region.failover.post(port.Forgotten(peer))
        case 8 if region.restore.state.phase == "done":
            found = dict.fromkeys(counters("bc"), 0)
            region.restore.post(port.CountersRead({**found, RESTORED: seq}))
        case 9:
            region.restore.post(port.Heard(peer, {}, region.vector))
        case 10:
            region.snapshot_install.too_late(peer, {peer: region.vector.get(peer, 0) + seq})
            await asyncio.sleep(random.choice((0, 1.01)))
        case 11:
            it.skew_ms["a"] = random.choice((0, 900))
        case 12:
            region.clock.last = (region.now_ms() + random.choice((0, 60_000))) << 16
        case 13:
            pause(30)
        case _:
            await asyncio.sleep(random.choice((0.0, 0.01, 1.0)))


async def mend(it: World) -> None:
    """What closed gates, by `disturb`, is over."""
    region, it.skew_ms["a"] = it["a"], 0
    region.clock.last = region.now_ms() << 16
    region.progress.move({**region.vector, "a": 3})
    for peer in "bc":
        region.failover.post(port.Heard(peer, {"a": 3}, region.vector))
        region.restore.post(port.Heard(peer, {}, region.vector))
    await asyncio.sleep(5)


@in_virtual_time
@pytest.mark.parametrize("shares_store", [False, True])
async def test_whatever_closes_says_so(shares_store: bool) -> None:
    """Random events at the real parts close gates under a remembered answer, and open them again."""
    closed = 0
    for seed in range(8):
        random, opened = Random(seed), False
        async with World(shares_store=shares_store, startup_check_s=0.5, heartbeat_s=2.0) as it:
            for _ in range(60):
                await (mend(it) if random.random() < 0.3 else disturb(it, random))
                it["a"].gates._iterated()  # what time closes is asked once in an iteration of the event loop
                before, opened = opened, check_remembered(it["a"].gates)
                closed += before and not opened
    assert closed > 20, closed
