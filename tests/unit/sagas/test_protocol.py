from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import Conflict, InvalidOperation
from atoll.sagas import protocol
from atoll.sagas.instance import Instance, decoded, effect_key, encoded
from atoll.sagas.protocol import (
    Aborted,
    Begin,
    Done,
    Failed,
    Perform,
    Resumed,
    Retried,
    Signalled,
    Skipped,
    Tell,
    WakeAt,
    Woken,
    begun,
    takes_over_freely,
)
from atoll.schema.saga import Retry, Saga, SagaSchema, compile_saga, step

NOW = 1_800_000_000_000


class Checkout(Saga):
    sku: str = "tea"
    payment: str = ""

    @step(compensate="release", retry=Retry(2))
    async def reserve(self, tx: Any) -> None: ...

    async def release(self, tx: Any) -> None: ...

    @step(effect=True, compensate="refund", retry=Retry(2))
    async def charge(self, key: str) -> None: ...

    async def refund(self, key: str) -> None: ...

    @step(retry=Retry(2))
    async def ship(self, tx: Any) -> None: ...

    pivot = "charge"


class Approval(Saga):
    @step(compensate="withdraw")
    async def ask(self, tx: Any) -> None: ...

    async def withdraw(self, tx: Any) -> None: ...

    @step(signal="approved", within_s=60)
    async def note(self, tx: Any, signal: Any) -> None: ...

    @step(wait_s=30, effect=True)
    async def tell(self, key: str) -> None: ...


class Told:
    """A saga, event by event."""

    def __init__(self, model: type[Saga] = Checkout) -> None:
        self.plan: SagaSchema | None = compile_saga(model)
        self.now_ms = NOW
        self.instance = begun(self.plan, Begin("1", {"sku": "tea"}, "given", "nonce"), "tokyo", NOW)
        self.effects: tuple[Any, ...] = ()

    def on(self, event: protocol.Event, after_s: float = 0) -> Told:
        self.now_ms += round(after_s * 1000)
        self.instance, self.effects = protocol.step(self.instance, self.plan, event, self.now_ms)
        assert decoded(encoded(self.instance)) == self.instance
        return self

    def done(self, **fields: Any) -> Told:
        it = self.instance
        return self.on(Done(it.at, it.backwards, {**it.fields, **fields}))

    def fails(self, times: int = 1, *, refused: bool = False) -> Told:
        for _ in range(times):
            it = self.instance
            self.on(Failed(it.at, it.backwards, it.attempts, "no", 1.0, refused=refused))
            self.now_ms = max(self.now_ms, self.instance.wake_ms)
        return self

    @property
    def at(self) -> tuple[str, str]:
        return self.instance.status, self.instance.step

    @property
    def trail(self) -> list[str]:
        return [f"{each.step} {each.outcome}" for each in self.instance.done]


def test_steps_are_done_in_order() -> None:
    it = Told().on(Resumed())
    assert (it.at, it.effects) == (("running", "reserve"), (Perform(0, False),))
    assert it.done().effects == (Perform(1, False),)
    assert it.done(payment="p").done().at == ("completed", "")
    assert it.effects == ()
    assert it.trail == ["reserve done", "charge done", "ship done"]
    assert it.instance.fields["payment"] == "p"


def test_a_step_that_fails_is_attempted_again_later() -> None:
    it = Told().on(Failed(0, False, 0, "no", 1.0))
    assert it.effects == (WakeAt(NOW + 200),)
    assert it.at == ("running", "reserve")
    assert it.on(Resumed(), after_s=1).effects == (Perform(0, False),)


def test_a_step_that_never_succeeds_is_not_done_and_not_undone() -> None:
    assert Told().fails(2).at == ("compensated", "")


def test_what_was_done_is_undone_in_reverse() -> None:
    it = Told().done().fails(2)
    assert (it.at, it.instance.cause) == (("compensating", "charge"), "failed")  # it may have happened
    assert it.done().at == ("compensating", "reserve")
    assert it.done().at == ("compensated", "")
    assert it.trail == ["reserve done", "charge undone", "reserve undone"]


def test_a_refused_effect_has_not_happened_and_is_not_undone() -> None:
    it = Told().done().fails(refused=True)
    assert (it.at, it.instance.cause) == (("compensating", "reserve"), "refused")


def test_past_the_pivot_nothing_is_undone() -> None:
    it = Told().done().done().fails(2)
    assert it.at == ("stuck", "ship")
    assert it.effects == (Tell("checkout/1 cannot do ship: no"),)
    assert it.on(Retried()).effects == (Perform(2, False),)
    assert it.done().at == ("completed", "")


def test_a_pivot_in_doubt_that_cannot_be_undone_waits_for_a_person() -> None:
    class Payment(Saga):
        @step(effect=True, retry=Retry(1))
        async def pay(self, key: str) -> None: ...

        pivot = "pay"

    assert Told(Payment).fails().at == ("stuck", "pay")
    assert Told(Payment).fails(refused=True).at == ("compensated", "")


def test_a_compensation_that_keeps_failing_is_stuck() -> None:
    it = Told().done().fails(refused=True)
    assert it.fails(9).at == ("compensating", "reserve")
    assert it.fails().at == ("stuck", "reserve")
    assert it.effects == (Tell("checkout/1 cannot undo reserve: no"),)
    assert it.on(Retried()).effects == (Perform(0, True),)
    assert it.fails(refused=True).at == ("stuck", "reserve")
    with pytest.raises(Conflict, match="is stuck at 'reserve', not at 'ship'"):
        it.on(Skipped("ship"))
    assert it.on(Skipped("reserve")).at == ("compensated", "")
    assert it.trail == ["reserve done", "reserve skipped"]


def test_what_is_not_stuck_is_not_skipped() -> None:
    with pytest.raises(Conflict, match="only what a saga is stuck at"):
        Told().on(Skipped())


def test_a_saga_waits_for_a_signal() -> None:
    it = Told(Approval).done()
    assert (it.at, it.effects) == (("waiting", "note"), (WakeAt(NOW + 60_000),))
    assert it.on(Signalled("approved", {"by": "ann"})).effects == (Perform(1, False),)
    assert it.instance.signals == {"approved": {"by": "ann"}}
    assert it.done().instance.signals == {}


def test_a_signal_may_come_before_it_is_awaited() -> None:
    assert Told(Approval).on(Signalled("approved", 1)).done().effects == (Perform(1, False),)


def test_a_signal_that_nothing_awaits_is_refused() -> None:
    with pytest.raises(InvalidOperation, match="it waits for approved"):
        Told(Approval).on(Signalled("aproved", 1))
    with pytest.raises(InvalidOperation, match="it waits for none"):
        Told(Approval).on(Signalled("approved", 1)).done().done().on(Signalled("approved", 1))


def test_a_signal_that_does_not_come_sends_the_saga_back() -> None:
    it = Told(Approval).done().on(Woken(), after_s=61)
    assert (it.at, it.instance.cause) == (("compensating", "ask"), "too-late")


def test_a_timer_is_part_of_the_saga() -> None:
    it = Told(Approval).on(Signalled("approved", 1)).done().done()
    assert (it.at, it.effects) == (("waiting", "tell"), (WakeAt(NOW + 30_000),))
    assert it.on(Woken(), after_s=29).at == ("waiting", "tell")
    assert it.on(Woken(), after_s=1).effects == (Perform(2, False),)


def test_an_aborted_saga_goes_back() -> None:
    it = Told().done().on(Aborted("changed my mind"))
    assert (it.at, it.instance.error) == (("compensating", "charge"), "changed my mind")
    assert Told().on(Aborted("")).at == ("compensated", "")
    for over in (it.done().done(), Told().done().done()):
        with pytest.raises(Conflict, match=r"nothing to abort|can go forward only"):
            over.on(Aborted(""))


def test_what_an_effect_notes_while_it_is_aborted_is_known_to_its_compensation() -> None:
    it = Told().done()
    late = Done(1, False, {"sku": "tea", "payment": "p"})
    it.on(Aborted("")).on(late)
    assert (it.at, it.instance.fields["payment"]) == (("compensating", "charge"), "p")


def test_an_event_about_something_else_changes_nothing() -> None:
    it = Told().done()
    before = it.instance
    for late in (
        Done(0, False, {}),
        Failed(0, False, 0, "no", 0.0),
        Failed(1, False, 1, "no", 0.0),
        Done(1, True, {}),
        Woken(),
    ):
        assert it.on(late).instance is before


def test_changed_code_stops_a_saga_that_has_begun_what_was_changed() -> None:
    class Changed(Checkout, name="checkout"):
        @step(effect=True)
        async def reserve(self, key: str) -> None: ...

    it = Told().done()
    plan, it.plan = it.plan, compile_saga(Changed)
    it.on(Resumed())
    assert (it.at, it.instance.cause) == (("stuck", "charge"), "changed")
    assert "step 1 was 'reserve compensate=release'" in it.instance.error
    with pytest.raises(Conflict, match="step 1 was"):
        it.on(Retried())
    it.plan = plan
    assert it.on(Resumed()).effects == (Perform(1, False),)


def test_steps_ahead_may_be_changed() -> None:
    class Longer(Checkout, name="checkout"):
        @step
        async def thank(self, tx: Any) -> None: ...

    it = Told().done()
    it.plan = compile_saga(Longer)
    it.on(Resumed()).done().done()
    assert it.at == ("running", "thank")


def test_a_saga_that_is_not_declared_is_stuck_until_it_is() -> None:
    it = Told(Approval).done()
    plan, it.plan = it.plan, None
    it.on(Resumed(), after_s=10)
    assert (it.at, it.instance.cause) == (("stuck", "note"), "unknown")
    it.plan = plan
    it.on(Resumed(), after_s=10)
    assert (it.at, it.effects) == (("waiting", "note"), (WakeAt(NOW + 60_000),))


def test_whoever_takes_over_may_repeat_effects_only() -> None:
    it = Told()
    assert it.plan
    assert not takes_over_freely(it.instance, it.plan)
    assert takes_over_freely(it.done().instance, it.plan)
    assert not takes_over_freely(it.done().instance, it.plan)
    it = Told(Approval).done()
    assert it.plan
    assert takes_over_freely(it.instance, it.plan)
    assert not takes_over_freely(it.on(Signalled("approved", 1)).instance, it.plan)


def test_the_key_of_an_effect_tells_sagas_steps_and_runs_apart() -> None:
    one = Told().instance
    again = msgspec.structs.replace(one, nonce="another")
    keys = {effect_key(one, "charge"), effect_key(one, "refund"), effect_key(again, "charge")}
    assert len(keys) == 3
    assert effect_key(one, "charge").startswith("checkout.charge.")


@given(st.integers(0, 1 << 32))
def test_whatever_happens_the_trail_is_a_saga(seed: int) -> None:
    random = Random(seed)
    it = Told(random.choice((Checkout, Approval)))
    assert it.plan
    undoing = False
    for _ in range(40):
        before = it.instance
        event: protocol.Event = random.choice(
            (
                Resumed(), Woken(), Retried(), Skipped(), Aborted("x"), Signalled("approved", 1),
                Done(before.at, before.backwards, before.fields), Done(before.at, not before.backwards, before.fields),
                Failed(
                    before.at, before.backwards, before.attempts, "no", random.random(), refused=random.random() < 0.3
                ),
            )
        )  # fmt: skip
        try:
            it.on(event, after_s=random.choice((0, 1, 100)))
        except (Conflict, InvalidOperation):
            assert it.instance is before
            continue
        performed = [each for each in it.effects if isinstance(each, Perform)]
        assert len(performed) <= 1
        undoing = undoing or it.instance.backwards
        assert it.instance.backwards == undoing, "a saga that goes back never goes forward again"
        assert not (before.over and it.instance is not before), "what is over stays so"
        if it.instance.backwards:
            passed = [each.step for each in it.instance.done if each.outcome == "done"]
            assert it.plan.pivot == len(it.plan.steps) or it.plan.steps[it.plan.pivot].name not in passed
    check_trail(it.instance, it.plan)


def check_trail(instance: Instance, plan: SagaSchema) -> None:
    """Done in order, and undone in reverse, each once."""
    order = [each.name for each in plan.steps]
    forwards = [order.index(each.step) for each in instance.done if each.outcome == "done"]
    undone = [order.index(each.step) for each in instance.done if each.outcome == "undone"]
    assert forwards == sorted(set(forwards))
    assert undone == sorted(set(undone), reverse=True)
    if instance.status == "compensated":
        kept = {order.index(each.step) for each in instance.done if each.outcome == "skipped"}
        owed = {number for number in forwards if plan.steps[number].options.compensate}
        assert owed <= {*undone, *kept}
