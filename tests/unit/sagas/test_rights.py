from __future__ import annotations

from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.sagas.rights import (
    Cover,
    Covered,
    Event,
    Found,
    Read,
    Refused,
    Right,
    Tick,
    Watch,
    Write,
    Written,
    Yield,
    Yielded,
    step,
)

LEASE_S = 6.0


class Told:
    """One region's view of a right, event by event."""

    def __init__(self, region: str = "a", home: str = "a") -> None:
        self.watch = Watch(region, home, LEASE_S)
        self.now_s = 100.0
        self.effects: tuple[object, ...] = ()

    def on(self, event: Event, after_s: float = 0.0) -> Told:
        self.now_s += after_s
        self.watch, self.effects = step(self.watch, event, self.now_s)
        return self

    def holding(self) -> Told:
        self.on(Tick(True)).on(Found(None, None)).on(Tick(True))
        return self.written().on(Covered(self.epoch))

    def written(self, after_s: float = 0.0) -> Told:
        (write,) = self.effects
        assert isinstance(write, Write)
        began_s = self.now_s
        return self.on(Written(write.right, f"v{write.right.beat}", began_s), after_s)

    @property
    def epoch(self) -> int:
        assert self.watch.right is not None
        return self.watch.right.epoch

    @property
    def may_run(self) -> bool:
        return self.watch.may_run(self.now_s)


def test_a_region_takes_the_right_to_its_own_sagas() -> None:
    it = Told().on(Tick(True))
    assert it.effects == (Read(),)
    assert it.on(Found(None, None)).on(Tick(True)).effects == (Write(Right("a", 1), None),)
    it.written()
    assert it.effects == (Cover(Right("a", 1)),)
    assert not it.may_run
    assert it.on(Covered(1)).may_run


def test_nobody_asks_while_there_is_nothing_to_run() -> None:
    it = Told().on(Tick(False)).on(Found(None, None))
    assert it.on(Tick(False)).effects == ()
    it = Told("b").on(Tick(False)).on(Found(Right("a", 1), "v"))
    assert it.on(Tick(False), after_s=100).effects == ()


def test_a_lease_counts_from_the_beginning_of_its_renewal() -> None:
    it = Told().holding()
    it.on(Tick(True), after_s=3)
    assert it.effects == (Write(Right("a", 1, 1), "v0"),)
    it.written(after_s=2)
    it.now_s += 3.9
    assert it.may_run
    it.now_s += 0.2
    assert not it.may_run


def test_a_lease_that_is_fresh_is_not_renewed() -> None:
    assert Told().holding().on(Tick(True), after_s=1).effects == ()


def test_another_region_waits_for_longer_than_a_lease_after_its_read() -> None:
    it = Told("b").on(Tick(True)).on(Found(Right("a", 4, 7), "v"))
    for _ in range(2):
        assert it.on(Tick(True), after_s=3.1).effects == (Read(),)
        it.on(Found(Right("a", 4, 7), "v"))
    assert it.on(Tick(True), after_s=1.5).effects == (Write(Right("b", 5, 0, "", {}, ("a",)), "v"),)


def test_a_renewal_begins_the_wait_anew() -> None:
    it = Told("b").on(Tick(True)).on(Found(Right("a", 4, 7), "v"))
    it.on(Tick(True), after_s=7).on(Found(Right("a", 4, 8), "w"))
    assert it.on(Tick(True), after_s=1).effects == ()


def test_a_newer_copy_is_looked_at_before_anything_is_written() -> None:
    it = Told("b").on(Tick(True)).on(Found(Right("a", 4, 7), "v"))
    assert it.on(Tick(True, (4, 8)), after_s=9).effects == (Read(),)


def test_what_another_has_written_is_read_before_the_next_attempt() -> None:
    it = Told().holding().on(Tick(True), after_s=3).on(Refused())
    assert it.may_run  # its lease still lasts
    assert it.on(Tick(True)).effects == (Read(),)
    assert not it.on(Found(Right("b", 2), "w")).may_run


def test_doubts_last_until_they_are_cleared() -> None:
    it = Told("b").on(Tick(True)).on(Found(Right("a", 4, doubts=("c",)), "v")).on(Tick(True), after_s=8)
    it.written().on(Covered(5, ("a",)))
    assert it.may_run
    assert it.watch.right
    assert it.watch.right.doubts == ("c",)
    it.on(Tick(True), after_s=3)
    assert it.effects == (Write(Right("b", 5, 1, "", {}, ("c",)), "v0"),)


def test_while_there_are_doubts_each_renewal_asks_about_them() -> None:
    it = Told("b").on(Tick(True)).on(Found(Right("a", 4), "v")).on(Tick(True), after_s=8).written()
    it.on(Covered(5)).on(Tick(True), after_s=3).written()
    assert it.effects == (Cover(Right("b", 5, 1, "", {}, ("a",))),)
    assert it.may_run
    it.on(Covered(5, ("a",))).on(Tick(True), after_s=3).written()
    assert it.effects == ()


def test_a_node_that_runs_no_sagas_gives_nothing_up() -> None:
    it = Told("b").on(Tick(True)).on(Found(Right("b", 5, 2), "u")).on(Tick(True)).written().on(Covered(5))
    it.on(Refused()).on(Tick(False, None, False)).on(Found(Right("b", 5, 4, "a"), "w"))
    assert it.on(Tick(False, None, False)).effects == ()
    assert it.on(Tick(False)).effects == (Yield(),)


def test_the_home_asks_for_its_right_and_gets_it_back() -> None:
    home = Told("a").on(Tick(True)).on(Found(Right("b", 5, 3), "v")).on(Tick(True))
    assert home.effects == (Write(Right("b", 5, 4, "a"), "v"),)
    other = Told("b").on(Tick(True)).on(Found(Right("b", 5, 2), "u")).on(Tick(True)).written().on(Covered(5))
    assert other.may_run
    other.on(Refused()).on(Tick(True)).on(Found(Right("b", 5, 4, "a"), "w")).on(Tick(True))
    assert other.effects == (Yield(),)
    assert not other.may_run
    other.on(Yielded({"b": 17}))
    assert other.effects == (Write(Right("a", 6, 0, "", {"b": 17}), "w"),)
    assert not other.written().watch.holds
    home.on(Refused()).on(Tick(True)).on(Found(Right("a", 6, 0, "", {"b": 17}), "x")).on(Tick(True))
    home.written()
    assert home.effects == (Cover(Right("a", 6, 1, "", {"b": 17})),)
    assert home.on(Covered(6)).may_run


def test_a_region_that_was_not_heard_goes_on_without_giving_up() -> None:
    it = (
        Told("b").on(Tick(True)).on(Found(Right("b", 5, 2, "a"), "u")).on(Tick(True)).written().on(Covered(5))
    )
    it.on(Tick(True))
    assert it.effects == (Yield(),)
    assert it.on(Refused()).may_run


def test_a_right_that_may_be_given_away_is_renewed_before_anything_runs() -> None:
    it = Told("b").on(Tick(True)).on(Found(Right("b", 5, 2, "a"), "u")).on(Tick(True)).written()
    it.on(Covered(5)).on(Tick(True)).on(Yielded({"b": 17})).on(Refused())
    assert not it.may_run  # nobody told whether it was decided
    assert it.on(Tick(True)).on(Found(Right("b", 5, 3, "a"), "v")).on(Tick(True)).effects == (Yield(),)
    assert not it.may_run


class Register:
    """What a majority decides, without any majority: a document that is written on condition of its version."""

    def __init__(self) -> None:
        self.right: Right | None = None
        self.version = 0

    def read(self) -> Found:
        return Found(self.right, str(self.version) if self.right else None)

    def write(self, right: Right, version: str | None) -> str | None:
        if version != (str(self.version) if self.right else None):
            return None
        self.right, self.version = right, self.version + 1
        return str(self.version)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1 << 32))
def test_no_two_regions_may_run_at_once(seed: int) -> None:
    """Clocks that run unevenly, answers that are late or lost, regions that stop for a while."""
    random = Random(seed)
    register, now_s, began = Register(), 0.0, {}
    rates = {name: random.uniform(0.95, 1.05) for name in "abc"}
    starts = {name: random.uniform(0, 1e6) for name in "abc"}
    watches = {name: Watch(name, "a", LEASE_S) for name in "abc"}
    waiting: dict[str, tuple[float, object]] = {}
    paused_until = dict.fromkeys("abc", 0.0)

    def clock(name: str) -> float:
        return starts[name] + now_s * rates[name]

    def act(name: str, event: Event) -> None:
        watches[name], effects = step(watches[name], event, clock(name))
        for effect in effects:
            waiting[name] = (now_s + random.choice((0.01, 0.01, 0.01, 0.1, 0.3, 2.0, 9.0)), effect)
            began[name] = clock(name)

    def done(name: str, effect: object) -> None:
        lost = random.random() < 0.2
        match effect:
            case Read():
                act(name, Refused() if lost else register.read())
            case Write(right, version):
                written = register.write(right, version)
                act(name, Refused() if lost or written is None else Written(right, written, began[name]))
            case Cover(right):
                act(name, Covered(right.epoch, ("a", "b", "c")))
            case Yield():
                act(name, Refused() if lost else Yielded({name: 1}))

    ran = set()
    for _ in range(900):
        now_s += random.choice((0.02, 0.1, 0.4))
        for name in "abc":
            if random.random() < 0.02:
                paused_until[name] = now_s + random.uniform(0, 20)
            if now_s < paused_until[name]:
                continue
            due = waiting.get(name)
            if due is not None and due[0] <= now_s:
                del waiting[name]
                done(name, due[1])
            if name not in waiting:
                act(name, Tick(busy=random.random() < 0.9))
        running = [name for name in "abc" if watches[name].may_run(clock(name))]
        assert len(running) <= 1
        ran.update(running)
        if register.right is not None:
            assert msgspec.convert(msgspec.to_builtins(register.right), Right) == register.right
