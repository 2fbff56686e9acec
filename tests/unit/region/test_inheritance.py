"""Rights of regions that have left: an heir sells them, and nobody sells them twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from atoll.documents import document as documents
from atoll.errors import BoundExceeded, InvalidToken, Unavailable
from atoll.ownership.ownership import rendezvous
from atoll.schema.system import HEIRS
from atoll.store.memory.store import MemoryStore

from ..virtual_time import in_virtual_time, until
from .world import World

ALL = ("a", "b", "c", "d")
STOCKED = 80


class Leaving(World):
    """Regions a, b, c and d hold 20 rights each."""

    def __init__(self, *names: str, **options: Any) -> None:
        super().__init__(*(names or ALL), **{"inherit_s": 5.0, "escrow_timeout_s": 1.0, **options})

    async def __aenter__(self) -> Leaving:
        await super().__aenter__()
        await self.write("a", "stock", "k", {"left": STOCKED})
        await self.settled()
        await until(lambda: all(region.voting.votes for region in self.regions.values()))
        return self

    async def follow(self, *names: str, without: str) -> None:
        for each in names:
            await self[each].change_members(self[each].members.current.without(without))

    async def readmit(self, region: str, *names: str) -> None:
        for each in names:
            await self[each].change_members(self[each].members.current.with_region(region))

    async def leave(self, region: str, *, within_s: float = 60.0) -> str:
        """Stop it, take it out everywhere, and wait for its heir, which is told."""
        await self[region].stop()
        del self.regions[region]
        await self.follow(*self.regions, without=region)
        await until(lambda: all(self.spendable(each) is not None for each in self.regions), within_s)
        return await self.heir(region, within_s)

    async def heir(self, region: str, within_s: float = 60.0) -> str:
        """Which region may spend its rights, once one may."""

        def found() -> list[str]:
            return [
                name for name, each in self.regions.items() if each.members.heirs.cleared.get(region, -1) >= 0
            ]

        await until(lambda: len(found()) == len(self.regions), within_s)
        holders = {self[name].members.heirs.holder_of(region) for name in found()}
        assert len(holders) == 1
        return next(iter(holders))[0]

    def left(self) -> int:
        """What all regions may sell."""
        return sum(map(self.spendable, self.regions))

    def spendable(self, region: str) -> int:
        """What it may sell without asking."""
        rules, row = self[region].rules["stock"], self.stores[region].tables.get("stock", "k")
        lattice = rules.lattices["left"]
        state = documents.decode_row(rules, row).lattices["left"]
        spendable: int = lattice.spendable(state, self[region]._identity().actor)
        return spendable

    async def sell(self, region: str, amount: int = 1) -> None:
        await self.write(region, "stock", "k", {"$inc": {"left": -amount}})

    async def sell_all(self, *names: str) -> int:
        """One after the other, until none has any; how many."""
        sold = 0
        for name in names or tuple(self.regions):
            while True:
                try:
                    await self.sell(name)
                except BoundExceeded:
                    break
                sold += 1
        return sold


@in_virtual_time
async def test_an_heir_sells_what_a_region_that_left_held() -> None:
    async with Leaving() as it:
        await it.sell("d", 5)
        await it.settled()
        heir = await it.leave("d")
        assert {name: it.spendable(name) for name in "abc"} == {**dict.fromkeys("abc", 20), heir: 35}
        await it.sell(heir, 30)
        assert it.spendable(heir) == 5
        assert await it.sell_all() == STOCKED - 35
        await it.settled()
        assert it.shown("a", "stock", "k") == {"left": 0}


@in_virtual_time
async def test_others_ask_the_heir_for_what_it_inherited() -> None:
    async with Leaving() as it:
        heir = await it.leave("d")
        other = min({*"abc"} - {heir})
        await it.sell(other, 55)
        with pytest.raises(BoundExceeded) as refused:
            await it.sell(other, 26)
        assert "left_behind" not in refused.value.details


@in_virtual_time
async def test_nothing_is_inherited_before_every_member_has_sealed() -> None:
    """What one member alone holds of the region must be known to the heir first."""
    async with Leaving(*ALL, "e") as it:
        heir = rendezvous(("a", "b", "c", "e"), "d")
        alone = min({*"abce"} - {heir})
        it.partition(*("".join(sorted(("d", name))) for name in "abce" if name != alone))
        it.cut |= {frozenset((alone, name)) for name in "abce" if name != alone}
        await it.sell("d", 14)
        await until(lambda: it.shown(alone, "stock", "k") == {"left": STOCKED - 14})
        await it["d"].stop()
        del it.regions["d"]
        await it.follow("a", "b", "c", "e", without="d")
        await until(lambda: it.shown(heir, HEIRS, "d") is not None)
        await asyncio.sleep(30)
        assert it.spendable(heir) == 16
        it.partition()
        assert await it.heir("d") == heir
        assert it.spendable(heir) == 18


@in_virtual_time
async def test_the_heir_of_an_heir_has_both() -> None:
    async with Leaving() as it:
        first = await it.leave("d")
        await it.sell(first, 30)
        await it.settled()
        second = await it.leave(first)
        assert it[second].members.heirs.holder_of("d") == (second, True)
        assert it.spendable(second) == 30
        assert await it.sell_all() == STOCKED - 30


@in_virtual_time
async def test_an_heir_goes_on_after_a_restart() -> None:
    async with Leaving() as it:
        heir = await it.leave("d")
        await it.sell(heir, 25)
        await it[heir].stop()
        await it.create(heir).start()
        await it[heir].change_members(it[heir].members.current.without("d"))
        await until(lambda: it.left() == STOCKED - 25)
        assert await it.sell_all() == STOCKED - 25


@in_virtual_time
async def test_an_heir_that_lost_its_disk_does_not_sell_again() -> None:
    async with Leaving() as it:
        heir = await it.leave("d")
        it.names = tuple(it.regions)
        await it.sell(heir, 25)
        await it.settled()
        await it[heir].stop()
        it.stores[heir] = MemoryStore()
        others = [name for name in it.regions if name != heir]
        it.partition(heir + others[0], others[0] + heir)
        await it.create(heir).start()
        await until(lambda: it.shown(heir, "stock", "k") is not None)
        assert it.spendable(heir) == 0
        it.partition()
        await until(lambda: it[heir].inheritance.inherits)
        await it.settled()
        assert it.left() == STOCKED - 25
        assert await it.sell_all() == STOCKED - 25


@in_virtual_time
async def test_a_region_that_comes_back_empty_has_none_of_its_rights() -> None:
    async with Leaving() as it:
        heir = await it.leave("d")
        await it.sell(heir, 40)
        it.stores["d"] = MemoryStore()
        await it.readmit("d", "a", "b", "c")
        await it.create("d", founding=False).start()
        await it.settled()
        await until(lambda: it["d"].startup_check.state.settled)
        await until(lambda: it["d"].inheritance._read is not None)
        assert it["d"].startup_check.former
        assert it.spendable("d") == 0
        assert await it.sell_all() == STOCKED - 40


@in_virtual_time
async def test_a_region_that_comes_back_with_its_store_has_none_of_its_rights() -> None:
    """It numbers anew before it sells anything."""
    async with Leaving() as it:
        await it.leave("d")
        await it.readmit("d", "a", "b", "c")
        await it.create("d").start()
        with pytest.raises(BoundExceeded):
            await it.sell("d", STOCKED + 1)
        assert it["d"].origin != "d"
        assert it.spendable("d") == 0
        await it.sell("d", 3)
        assert await it.sell_all() == STOCKED - 3
        await it.settled()


@in_virtual_time
async def test_a_region_that_wrote_after_it_had_left_is_refused() -> None:
    async with Leaving() as it:
        it.partition("ad", "bd", "cd")
        await it.sell("d", 4)
        await it.follow("a", "b", "c", without="d")
        await until(lambda: all(it[name].members.heirs.cleared for name in "abc"))
        it.partition()
        await it.readmit("d", "a", "b", "c")
        await until(lambda: it["d"].health_of("serving") is not None)
        assert "start it with an empty store" in (it["d"].health_of("serving") or "")
        with pytest.raises(Unavailable, match="start it with an empty store"):
            await it.sell("d")
        assert all("d" not in it[name].vector for name in "abc")
        assert "was written after d had left" in (it["a"].links["d"].status.last_error or "")
        assert await it.sell_all("a", "b", "c") == STOCKED


@in_virtual_time
async def test_a_region_that_runs_on_after_it_was_taken_out_is_refused() -> None:
    async with Leaving() as it:
        await it.follow("a", "b", "c", without="d")
        await until(lambda: it["d"].health_of("serving") is not None)
        with pytest.raises(Unavailable, match="says that d was taken out of the deployment"):
            await it.sell("d")


@in_virtual_time
async def test_a_mistake_that_is_put_right_in_time_changes_nothing() -> None:
    async with Leaving() as it:
        await it.follow("a", "b", "c", without="d")
        await asyncio.sleep(3)
        await it.readmit("d", "a", "b", "c")
        await asyncio.sleep(30)
        await it.sell("d", 20)
        assert it["d"].origin == "d"
        assert not it["a"].members.heirs.spans


@in_virtual_time
async def test_a_token_that_names_what_a_left_region_kept_to_itself_is_lost() -> None:
    async with Leaving() as it:
        await it.sell("d", 5)
        await it.settled()
        await it.leave("d")
        with pytest.raises(InvalidToken) as refused:
            it["a"].check_token({"d": 1000})
        assert refused.value.details["reason"] == "lost"
        it["a"].check_token({"d": it["a"].vector["d"]})
