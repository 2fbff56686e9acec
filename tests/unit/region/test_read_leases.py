"""Strong reads at home: while a lease lasts, and not longer."""

from __future__ import annotations

import asyncio
import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.causality.types import Ballot
from atoll.consensus import acceptor
from atoll.consensus.acceptor import NEVER, Accept, Acceptor, Forget, Prepare, Retire, Vote
from atoll.consensus.decided import Decided
from atoll.consensus.round import Round, heard
from atoll.documents.mutation import Write, put_of
from atoll.errors import DeclarationError
from atoll.region.read_leases import SLOWEST, ReadLeases, SeenLeases
from atoll.replication.messages import VoteCall
from atoll.schema import Collection
from atoll.schema.application import application_of
from atoll.store.memory.store import MemoryStore

from ..commit.replica import rules_of
from ..virtual_time import in_virtual_time
from .world import World

LEASE_S = 2.0


class Rate(Collection, consistency="strong", read_lease_s=LEASE_S):
    cents: int = 0


APPLICATION = application_of(Rate)
RULES = rules_of(APPLICATION)


async def cents(it: World, name: str) -> int:
    found = (await it[name].read("rate", "k")).value
    assert found is not None
    return int(json.loads(found)["cents"])


def put(it: World, cents: int, key: str = "k") -> Write:
    return Write((put_of(it["a"].rules["rate"], key, b'{"cents":%d}' % cents),))


def votes(it: World) -> int:
    return sum(isinstance(call, VoteCall) for _, _, call in it.calls)


@in_virtual_time
async def test_the_region_that_changes_a_document_reads_it_without_asking() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(put(it, 1))
        await it.settled()
        before = votes(it)
        assert await cents(it, "a") == 1
        assert votes(it) == before + 2  # nobody had asked for a lease
        before = votes(it)
        for _ in range(10):
            assert await cents(it, "a") == 1
        assert votes(it) == before
        assert await cents(it, "b") == 1
        assert votes(it) > before


@in_virtual_time
async def test_reads_renew_a_lease_ahead_of_its_end() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(put(it, 1))
        loop, slow = asyncio.get_running_loop(), 0
        assert await cents(it, "a") == 1
        for pair in (("a", "b"), ("a", "c")):
            it.request_s[pair] = 0.1
        for _ in range(100):
            began = loop.time()
            assert await cents(it, "a") == 1
            slow += loop.time() - began > 0.05
            await asyncio.sleep(0.1)
        assert slow == 0
        await asyncio.sleep(10)
        assert await cents(it, "a") == 1  # it is over, and a majority is asked


@in_virtual_time
async def test_others_change_the_document_once_the_lease_of_a_lost_region_is_over() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(put(it, 1))
        assert await cents(it, "a") == 1
        await it.settled()
        it.partition("ab", "ac")
        loop = asyncio.get_running_loop()
        since = loop.time()
        writing = asyncio.create_task(it["b"].write(put(it, 2)))
        while not writing.done():
            await asyncio.sleep(0.01)
            if loop.time() < since + 1.5:
                assert not writing.done()
                assert await cents(it, "a") == 1
        assert loop.time() >= since + LEASE_S - 0.1
        it.partition()
        await it.settled()
        assert await cents(it, "a") == 2


@in_virtual_time
async def test_a_change_under_way_is_asked_for() -> None:
    """Others may see it before its proposer hears that it is decided."""
    async with World(application=APPLICATION) as it:
        await it["a"].write(put(it, 1))
        assert await cents(it, "a") == 1
        await it.settled()
        for peer in "bc":
            it.reply_s[peer, "a"] = 0.5
        writing = asyncio.create_task(it["a"].write(put(it, 2)))
        await asyncio.sleep(0.1)
        assert await cents(it, "b") == 2
        assert not writing.done()
        assert await cents(it, "a") == 2
        await writing


@in_virtual_time
async def test_an_acceptor_that_starts_anew_keeps_a_lease_that_it_finds() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(put(it, 1))
        for name in "bc":  # who has written knows later that its store is no new one
            await it[name].write(put(it, 1, name))
        assert await cents(it, "a") == 1
        await it.settled()
        for name in "bc":
            await it[name].stop()
            await it.create(name).start()
            await asyncio.sleep(5)
        it.partition("ab", "ac")
        loop = asyncio.get_running_loop()
        since = loop.time()
        await it["b"].write(put(it, 2))
        assert loop.time() >= since + LEASE_S


@in_virtual_time
async def test_an_acceptor_that_lost_its_disk_waits_for_the_leases_that_it_had_granted() -> None:
    async with World(application=APPLICATION) as it:
        loop = asyncio.get_running_loop()
        await it["a"].write(put(it, 1))
        assert await cents(it, "a") == 1
        await it.settled()
        since = loop.time()
        await it["b"].stop()
        it.stores["b"] = MemoryStore()
        await it.create("b").start()
        while it["b"].voting.joining is not None:  # noqa: ASYNC110 — virtual time
            await asyncio.sleep(0.01)
        assert loop.time() >= since + LEASE_S


@in_virtual_time
async def test_several_nodes_of_a_region_ask_for_no_lease() -> None:
    async with World(application=APPLICATION, read_leases=False) as it:
        await it["a"].write(put(it, 1))
        await it.settled()
        before = votes(it)
        assert await cents(it, "a") == 1
        assert votes(it) > before


@pytest.mark.parametrize("lease_s", [0, -1, 3.5, True, "2", float("nan")])
def test_a_lease_is_short(lease_s: object) -> None:
    with pytest.raises(DeclarationError, match="read_lease_s"):
        type(
            "Bad", (Collection,), {"__annotations__": {"n": int}}, consistency="strong", read_lease_s=lease_s
        )


def test_a_lease_needs_a_majority() -> None:
    with pytest.raises(DeclarationError, match="a majority is asked"):
        type("Bad", (Collection,), {"__annotations__": {"n": int}}, read_lease_s=1.0)


# -- clocks that run unevenly ------------------------------------------------------------------------------


class Histories:
    """Proposers in three regions, clocks of their own rates, late and lost messages, lost processes and disks."""

    def __init__(self, seed: int, spread: float, waits: float = 1.0) -> None:
        """`waits`: for what part of the leases that it finds an acceptor with a new disk waits."""
        self.random = Random(seed)
        self.pace = self.random.choice((0.2, 1.0))
        self.waits = waits
        self.votes_s = dict.fromkeys("abc", 0.0)
        """When an acceptor that lost its disk votes again, on its clock."""
        self.now_s = 0.0
        self.rates = {name: self.random.uniform(1.0, spread) for name in "abc"}
        self.starts = {name: self.random.uniform(0.0, 1e6) for name in "abc"}
        self.states = dict.fromkeys("abc", Acceptor())
        self.seen = {name: SeenLeases() for name in "abc"}
        self.leases = {name: ReadLeases(RULES) for name in "abc"}
        self.top = self.decided = self.served = 0

    def clock(self, name: str) -> float:
        return self.starts[name] + self.now_s * self.rates[name]

    def ask(self, request: Prepare | Accept | Retire | Forget, but: str = "") -> Round:
        """All acceptors, in some order, while time passes."""
        state = Round(dict.fromkeys("abc", 0))
        for name in self.random.sample([name for name in "abc" if name != but], 3 - bool(but)):
            self.now_s += self.pace * self.random.choice((0.01, 0.05, 0.3))
            if self.random.random() < 0.25 or self.clock(name) < self.votes_s[name]:
                state = heard(state, name, None)
                continue
            if self.random.random() < 0.05:
                self.seen[name] = SeenLeases()  # its process was started anew
            state = heard(state, name, self.vote(name, request))
        return state

    def vote(self, name: str, request: Prepare | Accept | Retire | Forget) -> Vote:
        seen, before = self.seen[name], self.states[name]
        seen.now_s = self.clock(name)
        after, answer = acceptor.vote(before, request, leased=seen.lasts("rate/k", before))
        seen.lasts("rate/k", after)
        if isinstance(request, Forget) and after is not before:
            after = acceptor.unknown(acceptor.past(after))
        self.states[name] = after
        return answer

    def propose(self, home: str) -> None:
        self.top += 2
        ballot = Ballot(self.top, f"{home}/1")
        found = self.ask(Prepare("rate/k", ballot))
        if found.outcome != "won":
            return
        before = int(found.value) if found.value else round(self.now_s * 1000)
        after, since_s = Decided(before + self.random.randint(0, 1)), self.clock(home)
        lease_ms = self.random.choice((0, round(LEASE_S * 1000), round(LEASE_S * 1000)))
        self.leases[home].proposed(("rate", "k"), after, lease_ms)
        accept = Accept("rate/k", ballot, b"%d" % after.revision, Ballot(self.top + 1, f"{home}/1"), lease_ms)
        if self.ask(accept).outcome == "won":
            self.leases[home].decided(("rate", "k"), after, accept.lease_ms, since_s)
            self.decided = max(self.decided, after.revision)

    def lose_disk(self, name: str) -> None:
        """It joins anew, from the others."""
        others = [self.states[other] for other in "abc" if other != name]
        if any(self.clock(other) < self.votes_s[other] for other in "abc"):
            return
        lease_s = max(state.lease_ms for state in others) / 1000
        self.votes_s[name] = self.clock(name) + lease_s * self.waits
        self.states[name] = acceptor.joined(*others)
        self.seen[name], self.leases[name] = SeenLeases(), ReadLeases(RULES)

    def forget(self, home: str) -> None:
        """The register's document is deleted, as far as this model is concerned."""
        accepted = self.states[home].accepted
        if accepted == NEVER or accepted.region != home:
            return
        if len(self.ask(Retire("rate/k", accepted)).granted) < 3:
            return
        if len(self.ask(Forget("rate/k", accepted), home).granted) == 2:
            self.vote(home, Forget("rate/k", accepted))

    def consistent(self) -> bool:
        """Whether nobody shows less than what was decided; counts who shows anything."""
        shown = [self.leases[name].revision(("rate", "k"), self.clock(name)) for name in "abc"]
        self.served += any(each is not None for each in shown)
        return all(each is None or each >= self.decided for each in shown)

    def run(self) -> bool:
        for _ in range(60):
            self.propose(self.random.choice("aaabc"))
            if self.random.random() < 0.1:
                self.lose_disk(self.random.choice("abc"))
            if self.random.random() < 0.2:
                self.forget(self.random.choice("abc"))
            for _ in range(4):
                if not self.consistent():
                    return False
                self.now_s += self.pace * self.random.choice((0.02, 0.2, 0.6))
        return True


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 32))
def test_a_read_at_home_shows_what_was_decided_last(seed: int) -> None:
    it = Histories(seed, SLOWEST)
    assert it.run()
    assert it.served


def test_clocks_that_differ_by_more_than_their_bound_are_found() -> None:
    assert not all(Histories(seed, 4.0).run() for seed in range(400))


def test_a_lease_that_is_trusted_past_its_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = ReadLeases.decided

    def trusted(
        self: ReadLeases, address: tuple[str, str], after: Decided, lease_ms: int, since_s: float
    ) -> None:
        honest(self, address, after, lease_ms, since_s + 2 * LEASE_S)

    monkeypatch.setattr(ReadLeases, "decided", trusted)
    assert not all(Histories(seed, SLOWEST).run() for seed in range(400))


def test_an_acceptor_that_does_not_wait_for_the_leases_it_finds_is_found() -> None:
    assert not all(Histories(seed, SLOWEST, waits=0.0).run() for seed in range(2000))


def test_a_register_that_is_dropped_while_it_is_leased_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = acceptor.vote

    def dropped(state: Acceptor, request: acceptor.Request, *, leased: bool) -> tuple[Acceptor, Vote]:
        return honest(state, request, leased=leased and not isinstance(request, Forget))

    monkeypatch.setattr(acceptor, "vote", dropped)
    assert not all(Histories(seed, SLOWEST).run() for seed in range(2000))


def test_a_lease_that_a_later_proposal_did_not_ask_for_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = ReadLeases.proposed

    def kept(self: ReadLeases, address: tuple[str, str], after: Decided, lease_ms: int) -> None:
        honest(self, address, after, 10_000)

    monkeypatch.setattr(ReadLeases, "proposed", kept)
    assert not all(Histories(seed, SLOWEST).run() for seed in range(2000))
