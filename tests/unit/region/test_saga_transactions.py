from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest
from tests.unit.region.world import World
from tests.unit.virtual_time import in_virtual_time

from atoll import Abort, Collection, Counter, Increment, Retry, Saga, step
from atoll.errors import DeclarationError, Indefinite, NotFound, RegionUnreachable
from atoll.region.saga_marks import Marks
from atoll.sagas.instance import Instance, effect_key
from atoll.sagas.protocol import Aborted
from atoll.schema import application_of
from atoll.schema.system import STEPS


class Account(Collection, consistency="strong"):
    cents: int = 0


class Seen(Collection):
    count: Counter


class Transfer(Saga):
    """Moves money in one step, and undoes that if the next one is refused."""

    calls: ClassVar[int] = 0
    cents: int = 1
    fails: bool = False
    left: int = -1

    @step(transaction=True, compensate="give_back", retry=Retry(3))
    async def move(self, tx: Any) -> None:
        type(self).calls += 1
        ann, bob = await tx.get(Account, "ann"), await tx.get(Account, "bob")
        if ann.cents < self.cents:
            raise Abort("not enough")
        self.left = ann.cents - self.cents
        tx.update(Account, "ann", cents=self.left)
        tx.update(Account, "bob", cents=bob.cents + self.cents)

    async def give_back(self, tx: Any) -> None:
        ann, bob = await tx.get(Account, "ann"), await tx.get(Account, "bob")
        tx.update(Account, "ann", cents=ann.cents + self.cents)
        tx.update(Account, "bob", cents=bob.cents - self.cents)

    @step
    def count(self, tx: Any) -> None:
        if self.fails:
            raise Abort("no")
        tx.update(Seen, "all", count=Increment(1))


class Mixed(Saga):
    strong: bool

    @step(transaction=True, retry=Retry(1))
    def first(self, tx: Any) -> None:
        if not self.strong:
            tx.update(Seen, "all", count=Increment(1))

    @step(retry=Retry(1))
    def second(self, tx: Any) -> None:
        tx.update(Account, "ann", cents=1)


APPLICATION = application_of(Account, Seen, Transfer, Mixed, name="bank")
NAMES = ("a", "b", "c")


def world(*names: str, **options: Any) -> World:
    return World(*(names or NAMES), application=APPLICATION, **options)


async def opened(it: World) -> None:
    for key in ("ann", "bob"):
        await it.write("a", "account", key, {"cents": 100})


async def ended(it: World, saga: str = "transfer", region: str = "a") -> Instance:
    while True:
        found = await it[region].await_saga(saga, "1", 30.0)
        if found.over or found.status == "stuck":
            return found


async def cents(it: World, region: str = "b") -> list[int]:
    readings = [await it[region].read("account", key) for key in ("ann", "bob")]
    return [int(each.value.decode().partition(":")[2].rstrip("}")) for each in readings if each.value]


@pytest.mark.parametrize("names", [("a",), NAMES])
@in_virtual_time
async def test_a_step_changes_strong_documents_all_or_nothing(names: tuple[str, ...]) -> None:
    async with world(*names) as it:
        await opened(it)
        await it["a"].start_saga("transfer", "1", b'{"cents": 30}')
        found = await ended(it)
        assert (found.status, found.fields["left"], await cents(it, names[-1])) == (
            "completed",
            70,
            [70, 130],
        )
        assert it.shown("a", "seen", "all") == {"count": 1}


@in_virtual_time
async def test_it_is_undone_by_another_transaction() -> None:
    async with world() as it:
        await opened(it)
        await it["a"].start_saga("transfer", "1", b'{"cents": 30, "fails": true}')
        found = await ended(it)
        assert [f"{each.step} {each.outcome}" for each in found.done] == ["move done", "move undone"]
        assert (found.status, await cents(it)) == ("compensated", [100, 100])


@in_virtual_time
async def test_what_is_refused_has_not_happened() -> None:
    async with world() as it:
        await opened(it)
        await it["a"].start_saga("transfer", "1", b'{"cents": 300}')
        assert ((await ended(it)).error, await cents(it)) == ("not enough", [100, 100])


@in_virtual_time
async def test_a_transaction_whose_answer_was_lost_is_not_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, Transfer.calls = Marks.commit, 0

    async def commit(self: Marks, *arguments: Any) -> Any:
        found = await honest(self, *arguments)
        if Transfer.calls < 3:
            raise Indefinite("nobody knows")
        return found

    monkeypatch.setattr(Marks, "commit", commit)
    async with world() as it:
        await opened(it)
        await it["a"].start_saga("transfer", "1", b'{"cents": 30}')
        found = await ended(it)
        assert (found.status, Transfer.calls, await cents(it)) == ("completed", 3, [70, 130])
        assert (found.fields["left"], found.done[0].attempts) == (70, 1)  # of the attempt that was decided


@in_virtual_time
async def test_a_transaction_in_doubt_is_not_made_any_more_once_it_is_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unreachable = True
    honest = Marks.commit

    async def commit(self: Marks, *arguments: Any) -> Any:
        if unreachable:
            raise RegionUnreachable("no majority", region="a")
        return await honest(self, *arguments)

    monkeypatch.setattr(Marks, "commit", commit)
    async with world() as it:
        await opened(it)
        begun = await it["a"].start_saga("transfer", "1", b'{"cents": 30}')
        await asyncio.sleep(2)
        await it["a"].tell_saga("transfer", "1", Aborted("enough"), None)
        assert [f"{each.step} {each.outcome}" for each in (await ended(it)).done] == ["move undone"]
        unreachable = False
        marks = it["b"].sagas.driving._marked.marks
        key = effect_key(begun, "move")
        late = await marks.commit(key, (it.mutation("account", "ann", {"cents": 1}),), {})
        assert (late.outcome, await cents(it)) == ("void", [100, 100])


@in_virtual_time
async def test_a_transaction_that_was_made_when_it_is_aborted_is_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest, made, gate = Marks.commit, asyncio.Event(), asyncio.Event()

    async def commit(self: Marks, *arguments: Any) -> Any:
        found = await honest(self, *arguments)
        made.set()
        await gate.wait()
        return found

    monkeypatch.setattr(Marks, "commit", commit)
    async with world() as it:
        await opened(it)
        await it["a"].start_saga("transfer", "1", b'{"cents": 30}')
        await made.wait()
        await it["a"].tell_saga("transfer", "1", Aborted("enough"), None)
        gate.set()
        found = await ended(it)
        assert [f"{each.step} {each.outcome}" for each in found.done] == ["move undone"]
        assert (found.status, found.fields["left"], await cents(it)) == ("compensated", 70, [100, 100])


@in_virtual_time
async def test_another_region_learns_that_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, made, gate = Marks.commit, asyncio.Event(), asyncio.Event()

    async def commit(self: Marks, *arguments: Any) -> Any:
        found = await honest(self, *arguments)
        if not made.is_set():
            made.set()
            await gate.wait()  # for ever: its region dies here
        return found

    monkeypatch.setattr(Marks, "commit", commit)
    async with world() as it:
        await opened(it)
        await it["a"].start_saga("transfer", "1", b'{"cents": 30, "fails": true}')
        await made.wait()
        await it["a"].stop()
        it.partition("ab", "ac")
        async with asyncio.timeout(60):
            while (await it["b"].find_saga("transfer", "1")).step == "move":  # noqa: ASYNC110 — virtual time
                await asyncio.sleep(0.5)
        found = await it["b"].find_saga("transfer", "1")
        assert (found.done[0].step, found.done[0].region) == ("move", "b" if found.region == "b" else "c")
        assert found.fields["left"] == 70
        assert await cents(it) in ([70, 130], [100, 100])


@pytest.mark.parametrize(
    ("strong", "error"), [("false", "seen is not decided"), ("true", "account is strong")]
)
@in_virtual_time
async def test_what_cannot_be_part_of_it_is_told(strong: str, error: str) -> None:
    async with world() as it:
        await it["a"].start_saga("mixed", "1", f'{{"strong": {strong}}}'.encode())
        assert error in (await ended(it, "mixed")).error


@in_virtual_time
async def test_its_marks_go_with_the_saga() -> None:
    async with world(sagas_s=50.0, sagas_round_s=10.0, forget_s=1.0) as it:
        await opened(it)
        begun = await it["a"].start_saga("transfer", "1", b'{"cents": 30, "fails": true}')
        await ended(it)
        marks = [effect_key(begun, method) for method in ("move", "give_back")]
        assert [it.shown("a", STEPS, mark)["outcome"] for mark in marks] == ["done", "done"]
        await asyncio.sleep(90)
        with pytest.raises(NotFound):
            await it["c"].find_saga("transfer", "1")
        assert [it.shown("a", STEPS, mark) for mark in marks] == [None, None]


def test_a_step_is_a_transaction_or_acts_outside() -> None:
    with pytest.raises(DeclarationError, match="make two steps of it"):

        class Both(Saga):
            @step(effect=True, transaction=True)
            async def do(self) -> None:
                """Neither."""


@in_virtual_time
async def test_what_others_change_meanwhile_is_no_failure_of_a_step() -> None:
    async with world() as it:
        for pair in ("ab", "ba", "ac", "ca", "bc", "cb"):
            it.request_s[pair[0], pair[1]] = it.reply_s[pair[0], pair[1]] = 0.04
        await opened(it)
        ids = [f"{name}{number}" for number in range(4) for name in NAMES]
        for each in ids:
            await it[each[0]].start_saga("transfer", each, b'{"cents": 1}')
        for each in ids:
            found = await it[each[0]].await_saga("transfer", each, 60.0)
            assert (found.status, found.done[0].attempts) == ("completed", 1), found.error
        assert await cents(it) == [88, 112]
