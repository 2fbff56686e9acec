from __future__ import annotations

import asyncio
import contextlib
from typing import Any, ClassVar

import msgspec
import pytest
from tests.unit.region.world import World
from tests.unit.virtual_time import in_virtual_time

from atoll import Abort, BoundedCounter, Collection, Decrement, Increment, Retry, Saga, home_region, step
from atoll.errors import (
    AtollError,
    Conflict,
    IdempotencyKeyReused,
    Indefinite,
    InvalidDocument,
    InvalidKey,
    NotFound,
    Unavailable,
    UnknownField,
    UnknownSaga,
)
from atoll.sagas.instance import Instance
from atoll.sagas.protocol import Aborted, Retried, Signalled, Skipped
from atoll.schema import application_of


class Inventory(Collection, consistency="strong", fallback="escrow"):
    stock: BoundedCounter = 10


class Shipment(Collection):
    sku: str


class Account(Collection, consistency="strong"):
    balance: int = 0


class Parcel(Collection, placement=home_region("region")):
    region: str


class Shop:
    """The world outside. `wrong` holds what goes wrong: the names of acts, each as often as it is there."""

    calls: ClassVar[list[tuple[str, str]]] = []
    wrong: ClassVar[list[str]] = []

    @classmethod
    def open(cls) -> type[Shop]:
        cls.calls, cls.wrong = [], []
        return cls

    @classmethod
    async def act(cls, what: str, key: str) -> str:
        cls.calls.append((what, key))
        await asyncio.sleep(0.01)
        if what in cls.wrong:
            cls.wrong.remove(what)
            raise OSError(f"no {what}")
        if f"{what} refused" in cls.wrong:
            raise Abort(f"{what} was refused")
        return f"{what} {len(cls.calls)}"

    @classmethod
    def acts(cls) -> list[str]:
        return [what for what, _ in cls.calls]


class Checkout(Saga):
    sku: str = "tea"
    n: int = 2
    payment: str = ""

    @step(compensate="release", retry=Retry(3))
    async def reserve(self, tx: Any) -> None:
        tx.update(Inventory, self.sku, stock=Decrement(self.n))

    async def release(self, tx: Any) -> None:
        tx.update(Inventory, self.sku, stock=Increment(self.n))

    @step(effect=True, compensate="refund", retry=Retry(3), timeout_s=5)
    async def charge(self, key: str) -> None:
        self.payment = await Shop.act("charge", key)

    async def refund(self, key: str) -> None:
        assert self.payment or Shop.wrong is not None
        await Shop.act("refund", key)

    @step
    def ship(self, tx: Any) -> None:
        if "ship" in Shop.wrong:
            raise OSError("no ship")
        tx.put(Shipment(key=self.key, sku=self.sku))

    pivot = "charge"


class Approval(Saga):
    by: str = ""

    @step(signal="approved", within_s=60)
    def note(self, tx: Any, signal: Any) -> None:
        self.by = signal

    @step(wait_s=3600)
    def ship(self, tx: Any) -> None:
        tx.put(Shipment(key=self.key, sku=self.by))


class Strange(Saga):
    """What cannot be."""

    what: str

    @step(retry=Retry(2))
    async def do(self, tx: Any) -> None:
        match self.what:
            case "strong":
                tx.update(Account, "ann", balance=1)
            case "elsewhere":
                tx.put(Parcel(key="p", region="b"))
            case "hangs":
                await asyncio.sleep(1000)
            case "unfit":
                self.what = 7  # type: ignore[assignment]
            case "system":
                tx.put(Checkout(key="x"))
            case "exits":
                raise ZeroDivisionError("1/0")


APPLICATION = application_of(Inventory, Shipment, Account, Parcel, Checkout, Approval, Strange, name="shop")


def world(*names: str) -> World:
    Shop.open()
    return World(*(names or ("a",)), application=APPLICATION, purge_s=0.0)


async def stocked(it: World, n: int = 10) -> None:
    await it.write("a", "inventory", "tea", {"stock": n})


async def ended(it: World, saga: str = "checkout", id: str = "1", region: str = "a") -> Instance:
    while True:
        found = await it[region].await_saga(saga, id, 30.0)
        if found.over or found.status == "stuck":
            return found


async def called() -> None:
    while not Shop.calls:  # noqa: ASYNC110 — virtual time
        await asyncio.sleep(0.001)


def stock(it: World) -> int:
    found: int = it.shown("a", "inventory", "tea")["stock"]
    return found


def trail(instance: Instance) -> list[str]:
    return [f"{each.step} {each.outcome}" for each in instance.done]


@in_virtual_time
async def test_a_saga_runs_to_its_end() -> None:
    async with world() as it:
        await stocked(it)
        begun = await it["a"].start_saga("checkout", "1", b'{"n": 3}')
        assert (begun.status, begun.step) == ("running", "reserve")
        found = await ended(it)
        assert trail(found) == ["reserve done", "charge done", "ship done"]
        assert (found.status, found.fields["payment"]) == ("completed", "charge 1")
        assert (stock(it), it.shown("a", "shipment", "1")) == (7, {"sku": "tea"})


@in_virtual_time
async def test_a_step_and_its_record_are_one_entry() -> None:
    async with world() as it:
        await stocked(it)
        seen: list[tuple[int, int]] = []

        def look(batch: object) -> None:
            document = it.shown("a", "_sagas", "checkout/1")
            if document is not None and seen[-1:] != [now := (document["at"], stock(it))]:
                seen.append(now)  # other commits change neither

        it["a"].group_commit.listen(look)
        await it["a"].start_saga("checkout", "1", b"{}")
        await ended(it)
        assert seen == [(0, 10), (1, 8), (2, 8), (3, 8)]


@in_virtual_time
async def test_starting_it_again_starts_nothing() -> None:
    async with world() as it:
        await stocked(it)
        begun = [await it["a"].start_saga("checkout", "1", b'{"n": 3}') for _ in range(2)]
        assert begun[0].nonce == begun[1].nonce
        await ended(it)
        assert (await it["a"].start_saga("checkout", "1", b'{"sku": "tea", "n": 3}')).status == "completed"
        assert stock(it) == 7
        with pytest.raises(IdempotencyKeyReused, match="was started with other fields"):
            await it["a"].start_saga("checkout", "1", b'{"n": 4}')


@in_virtual_time
async def test_two_starts_at_once_start_one() -> None:
    async with world() as it:
        await stocked(it)
        begun = await asyncio.gather(*(it["a"].start_saga("checkout", "1", b"{}") for _ in range(5)))
        assert len({each.nonce for each in begun}) == 1
        await ended(it)
        assert stock(it) == 8


@in_virtual_time
async def test_a_failed_attempt_is_repeated_under_the_same_key() -> None:
    async with world() as it:
        await stocked(it)
        Shop.wrong.extend(["charge", "charge"])
        await it["a"].start_saga("checkout", "1", b"{}")
        found = await ended(it)
        assert found.status == "completed"
        assert len(set(Shop.calls)) == 1
        assert [(each.attempts, each.error) for each in found.done][1] == (3, "OSError: no charge")


@in_virtual_time
async def test_what_was_done_is_undone() -> None:
    async with world() as it:
        await stocked(it)
        Shop.wrong.append("charge refused")
        await it["a"].start_saga("checkout", "1", b"{}")
        found = await ended(it)
        assert (found.status, found.cause, found.error) == ("compensated", "refused", "charge was refused")
        assert trail(found) == ["reserve done", "reserve undone"]
        assert (stock(it), Shop.acts()) == (10, ["charge"])


@in_virtual_time
async def test_an_effect_in_doubt_is_undone_too() -> None:
    async with world() as it:
        await stocked(it)
        Shop.wrong.extend(["charge"] * 3)
        await it["a"].start_saga("checkout", "1", b"{}")
        assert trail(await ended(it)) == ["reserve done", "charge undone", "reserve undone"]
        assert Shop.acts() == ["charge"] * 3 + ["refund"]
        assert stock(it) == 10


@in_virtual_time
async def test_changes_that_cannot_be_made_are_a_failed_attempt() -> None:
    async with world() as it:
        await stocked(it, 1)
        await it["a"].start_saga("checkout", "1", b"{}")
        found = await ended(it)
        assert (found.status, found.error.partition(":")[0]) == ("compensated", "BoundExceeded")
        assert stock(it) == 1


@in_virtual_time
async def test_stuck_sagas_are_counted_and_told_and_go_on_when_told() -> None:
    async with world() as it:
        await stocked(it)
        told: list[str] = []
        it["a"].sagas.driving._tell_stuck = told.append
        Shop.wrong.append("ship")
        await it["a"].start_saga("checkout", "1", b"{}")
        found = await ended(it)
        assert (found.status, found.step, found.cause) == ("stuck", "ship", "failed")
        assert told == ["checkout/1 cannot do ship: OSError: no ship"]
        assert it["a"].sagas.driving.stuck == {"checkout/1"}
        assert [
            each.id for each in await it["a"].list_sagas(saga=None, status="stuck", after=None, limit=9)
        ] == ["1"]
        Shop.wrong.clear()
        await it["a"].tell_saga("checkout", "1", Retried(), None)
        assert (await ended(it)).status == "completed"
        assert it["a"].sagas.driving.stuck == set()


@in_virtual_time
async def test_a_command_that_is_repeated_counts_once() -> None:
    async with world() as it:
        await it["a"].start_saga("approval", "1", b"{}")
        await it["a"].tell_saga("approval", "1", Signalled("approved", "ann"), "one")
        again = await it["a"].tell_saga("approval", "1", Signalled("approved", "bob"), "one")
        assert again.signals in ({"approved": "ann"}, {})
        await asyncio.sleep(1)
        assert (await it["a"].find_saga("approval", "1")).fields == {"by": "ann"}


@in_virtual_time
async def test_signals_and_timers() -> None:
    async with world() as it:
        await it["a"].start_saga("approval", "1", b"{}")
        await asyncio.sleep(30)
        await it["a"].tell_saga("approval", "1", Signalled("approved", "ann"), None)
        await asyncio.sleep(3000)
        assert (await it["a"].find_saga("approval", "1")).status == "waiting"
        found = await ended(it, "approval")
        assert (found.status, it.shown("a", "shipment", "1")) == ("completed", {"sku": "ann"})
        await it["a"].start_saga("approval", "2", b"{}")
        assert (await ended(it, "approval", "2")).cause == "too-late"


@in_virtual_time
async def test_an_abort_during_an_effect_undoes_what_the_effect_came_to() -> None:
    async with world() as it:
        await stocked(it)
        await it["a"].start_saga("checkout", "1", b"{}")
        await called()
        await it["a"].tell_saga("checkout", "1", Aborted("changed my mind"), None)
        found = await ended(it)
        assert (found.status, found.cause, found.fields["payment"]) == ("compensated", "aborted", "charge 1")
        assert (Shop.acts(), stock(it)) == (["charge", "refund"], 10)


@in_virtual_time
async def test_commands_that_do_not_fit_are_refused() -> None:
    async with world() as it:
        await stocked(it)
        with pytest.raises(NotFound, match="there is no saga checkout/1"):
            await it["a"].tell_saga("checkout", "1", Retried(), None)
        await it["a"].start_saga("checkout", "1", b"{}")
        await ended(it)
        for command in (Retried(), Skipped(), Aborted(""), Signalled("approved", 1)):
            with pytest.raises(Conflict):
                await it["a"].tell_saga("checkout", "1", command, None)


@in_virtual_time
async def test_starts_that_cannot_be_are_refused() -> None:
    async with world() as it:
        for saga, id, fields, error in (
            ("chekout", "1", b"{}", UnknownSaga),
            ("checkout", "", b"{}", InvalidKey),
            ("checkout", "x" * 600, b"{}", InvalidKey),
            ("checkout", "x" * 505, b"{}", InvalidKey),
            ("checkout", "1", b'{"nobody": 1}', UnknownField),
            ("checkout", "1", b'{"n": "many"}', InvalidDocument),
        ):
            with pytest.raises(error):
                await it["a"].start_saga(saga, id, fields)
        assert await it["a"].list_sagas(saga=None, status=None, after=None, limit=9) == []


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("strong", "account is strong"),
        ("elsewhere", "b writes this document"),
        ("hangs", "do took longer than 30 s"),
        ("unfit", "InvalidDocument"),
        ("system", "UnknownCollection"),
        ("exits", "ZeroDivisionError: 1/0"),
    ],
)
@in_virtual_time
async def test_a_step_that_does_what_cannot_be_fails(what: str, error: str) -> None:
    async with world("a", "b") as it:
        await it["a"].start_saga("strange", "1", msgspec.json.encode({"what": what}))
        found = await ended(it, "strange")
        assert (found.status, found.attempts) == ("compensated", 0)
        assert error in found.error


@in_virtual_time
async def test_a_region_goes_on_where_it_was_stopped() -> None:
    async with world() as it:
        await stocked(it)
        Shop.wrong.append("charge")
        await it["a"].start_saga("checkout", "1", b"{}")
        await it["a"].start_saga("approval", "2", b"{}")
        await called()
        await it["a"].stop()
        it.create("a")
        await it["a"].start()
        await it["a"].tell_saga("approval", "2", Signalled("approved", "ann"), None)
        assert ((await ended(it)).status, stock(it)) == ("completed", 8)
        assert len(set(Shop.calls)) == 1
        assert (await ended(it, "approval", "2")).status == "completed"


@in_virtual_time
async def test_many_sagas_run_at_once() -> None:
    async with world() as it:
        await stocked(it, 2000)
        await asyncio.gather(*(it["a"].start_saga("checkout", str(n), b"{}") for n in range(600)))
        found = await asyncio.gather(*(ended(it, id=str(n)) for n in range(600)))
        assert {each.status for each in found} == {"completed"}
        assert stock(it) == 800


# -- several regions -----------------------------------------------------------------------------------


class Slow(Saga):
    """A step of each kind, with a pause before each."""

    n: int = 0

    @step(compensate="less")
    async def more(self, tx: Any) -> None:
        tx.update(Inventory, "tea", stock=Decrement(1))

    async def less(self, tx: Any) -> None:
        tx.update(Inventory, "tea", stock=Increment(1))

    @step(effect=True, timeout_s=1000)
    async def act(self, key: str) -> None:
        self.n = len(Shop.calls)
        await Shop.act("act", key)
        await asyncio.sleep(self.n * 1000.0 if "slow" in Shop.wrong else 0)

    @step
    async def end(self, tx: Any) -> None:
        tx.put(Shipment(key=self.key, sku="slow"))


THREE = application_of(Inventory, Shipment, Account, Parcel, Checkout, Approval, Strange, Slow, name="shop")


def three() -> World:
    Shop.open()
    return World("a", "b", "c", application=THREE, purge_s=0.0)


async def runs(it: World, saga: str, id: str, region: str, status: str) -> Instance:
    """Once the region shows that the saga stands so."""
    async with asyncio.timeout(600):
        while True:
            with contextlib.suppress(NotFound):
                found = await it[region].find_saga(saga, id)
                if found.status == status:
                    return found
            await asyncio.sleep(0.1)


@in_virtual_time
async def test_regions_agree_which_of_them_has_started_a_saga() -> None:
    async with three() as it:
        await stocked(it)
        begun = await asyncio.gather(*(it[name].start_saga("checkout", "1", b"{}") for name in "abc"))
        assert len({(each.home, each.nonce) for each in begun}) == 1
        for name in "abc":
            assert (await runs(it, "checkout", "1", name, "completed")).home == begun[0].home
        await it.settled()
        assert [it.shown(name, "inventory", "tea")["stock"] for name in "abc"] == [8] * 3


@in_virtual_time
async def test_another_region_takes_over_what_acts_outside() -> None:
    async with three() as it:
        await stocked(it)
        Shop.wrong.append("slow")
        await it["a"].start_saga("slow", "1", b"{}")
        await called()
        Shop.wrong.clear()
        await it["a"].stop()
        it.partition("a")
        found = await runs(it, "slow", "1", "b", "completed")
        assert (found.home, found.epoch) == ("a", 2)
        assert (found.done[0].step, found.done[0].region) == ("more", "a")
        assert {each.region for each in found.done[1:]} < {"b", "c"}
        assert len(Shop.calls) == 2
        assert len({key for _, key in Shop.calls}) == 1
        assert it.shown("b", "inventory", "tea")["stock"] == 9


@in_virtual_time
async def test_what_may_have_changed_documents_waits_for_its_region() -> None:
    async with three() as it:
        await stocked(it)
        await it.settled()
        it["a"].group_commit.listen(lambda batch: it.partition("a") if _begun(batch) else None)
        await it["a"].start_saga("slow", "1", b"{}")  # its first step is done, and nobody hears of it
        await asyncio.sleep(60)
        assert it["b"].sagas.rights.holder("a") in ("a", "b", "c")
        it.partition()
        found = await runs(it, "slow", "1", "b", "completed")
        assert len(found.done) == 3
        await it.settled()
        assert {it.shown(name, "inventory", "tea")["stock"] for name in "abc"} == {9}


def _begun(batch: Any) -> bool:
    changes = [change for entry in batch.written for change in entry.changes]
    return any(change.collection == "inventory" for change in changes) and len(batch.written) == 1


@in_virtual_time
async def test_a_region_that_is_cut_off_stops_before_another_one_begins() -> None:
    async with three() as it:
        await stocked(it)
        Shop.wrong.append("slow")
        await it["a"].start_saga("slow", "1", b"{}")
        await called()
        it.partition("ab", "ac")
        cut_s = asyncio.get_running_loop().time()
        while it["a"].sagas.runner.at_work:  # noqa: ASYNC110 — virtual time
            await asyncio.sleep(0.05)
        stopped_s = asyncio.get_running_loop().time()
        assert stopped_s - cut_s <= 6.1
        assert len(Shop.calls) == 1
        while len(Shop.calls) == 1:  # noqa: ASYNC110 — virtual time
            await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() > stopped_s
        Shop.wrong.clear()


@in_virtual_time
async def test_the_home_gets_its_sagas_back() -> None:
    async with three() as it:
        await stocked(it)
        await it["a"].start_saga("approval", "1", b"{}")
        await it.settled()
        await it["a"].stop()
        it.partition("a")
        for _ in range(2):  # or they do not ask for what waits
            await asyncio.sleep(10)
        told = await it["b"].tell_saga("approval", "1", Signalled("approved", "ann"), None)
        assert (told.signals, told.epoch) == ({"approved": "ann"}, 2)
        it.partition()
        it.create("a")
        await it["a"].start()
        async with asyncio.timeout(60):
            while it["a"].sagas.rights.right("a") is None:  # noqa: ASYNC110 — virtual time
                await asyncio.sleep(0.1)
        found = await it["a"].find_saga("approval", "1")
        assert found.fields == {"by": "ann"}
        begun = await it["a"].start_saga("slow", "2", b"{}")
        assert begun.home == "a"
        assert begun.epoch > 2


@in_virtual_time
async def test_commands_reach_the_region_that_runs_a_saga() -> None:
    async with three() as it:
        await it["a"].start_saga("approval", "1", b"{}")
        told = await it["c"].tell_saga("approval", "1", Signalled("approved", "ann"), "one")
        assert told.region == "a"
        again = await it["b"].tell_saga("approval", "1", Signalled("approved", "bob"), "one")
        assert again.nonce == told.nonce
        with pytest.raises(Conflict, match="only what a saga is stuck at"):
            await it["b"].tell_saga("approval", "1", Skipped(), None)
        with pytest.raises(NotFound):
            await it["b"].tell_saga("approval", "2", Retried(), None)


@in_virtual_time
async def test_a_repeated_command_is_not_acknowledged_before_a_majority_holds_it() -> None:
    async with three() as it:
        signal = Signalled("approved", "ann")
        await it["a"].start_saga("approval", "1", b"{}")
        await it.settled()
        it.partition("ab", "ac")
        for _ in range(2):
            with pytest.raises((Indefinite, Unavailable)):
                await it["a"].tell_saga("approval", "1", signal, "one")
            assert (await it["a"].find_saga("approval", "1")).signals
        it.partition()
        async with asyncio.timeout(60):
            for name in "ab":
                while True:
                    with contextlib.suppress(Unavailable, Indefinite):
                        assert (await it[name].tell_saga("approval", "1", signal, "one")).heard == ("one",)
                        break


@in_virtual_time
async def test_a_region_without_a_majority_starts_nothing() -> None:
    async with three() as it:
        it.partition("ab", "ac")
        with pytest.raises(AtollError) as refused:
            await it["a"].start_saga("slow", "1", b"{}")
        assert refused.value.definite
        it.partition()
        await stocked(it)
        await it["b"].start_saga("slow", "1", b"{}")
        await runs(it, "slow", "1", "a", "completed")


@in_virtual_time
async def test_of_two_regions_one_goes_on_alone() -> None:
    Shop.open()
    async with World("a", "b", application=THREE, purge_s=0.0) as it:
        await stocked(it)
        await it["a"].start_saga("approval", "1", b"{}")
        await it.settled()
        it.partition("ab")
        await asyncio.sleep(40)
        await it["a"].tell_saga("approval", "1", Signalled("approved", "ann"), None)
        await asyncio.sleep(1)
        assert (await it["a"].find_saga("approval", "1")).fields == {"by": "ann"}
        assert it["b"].sagas.rights.right("a") is None
