from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from atoll import Counter, Retry, Saga, step
from atoll.errors import DeclarationError, InvalidDocument, UnknownSaga
from atoll.schema import Collection, application_of, load_application
from atoll.schema.saga import compile_saga


class Order(Collection):
    sku: str


class Checkout(Saga):
    sku: str
    payment: str = ""

    @step(compensate="release", retry=Retry(3))
    async def reserve(self, tx: Any) -> None: ...

    async def release(self, tx: Any) -> None: ...

    @step(effect=True, compensate="refund")
    async def charge(self, key: str, db: Any) -> None: ...

    async def refund(self, key: str) -> None: ...

    @step
    def ship(self, tx: Any) -> None: ...

    pivot = "charge"


def test_steps_stand_in_their_order() -> None:
    saga = compile_saga(Checkout)
    assert [each.signature for each in saga.steps] == [
        "reserve compensate=release",
        "charge effect compensate=refund pivot",
        "ship",
    ]
    assert (saga.name, saga.pivot, saga.fields.fields) == ("checkout", 1, ("sku", "payment"))
    assert saga.steps[1].takes == {"key", "db"}


def test_a_base_gives_its_steps_first() -> None:
    class _Signed(Saga):
        @step
        def sign(self, tx: Any) -> None: ...

    class Contract(_Signed, name="deal"):
        @step
        def send(self, tx: Any) -> None: ...

    saga = compile_saga(Contract)
    assert [each.name for each in saga.steps] == ["sign", "send"]
    assert saga.name == "deal"


def test_what_a_step_leaves_in_the_fields_is_checked() -> None:
    fields, saga = compile_saga(Checkout).fields, Checkout(key="1", sku="tea")
    saga.payment = 7  # type: ignore[assignment]
    with pytest.raises(InvalidDocument, match="payment"):
        fields.from_model(saga)


def test_an_application_keeps_sagas_apart() -> None:
    application = application_of(Order, Checkout)
    assert list(application.collections) == ["order"]
    assert list(application.sagas) == ["checkout"]
    with pytest.raises(UnknownSaga, match="did you mean checkout"):
        application.saga("chekout")
    with pytest.raises(UnknownSaga, match="there are none"):
        application_of(Order).saga("checkout")


def test_two_sagas_of_one_name_are_refused() -> None:
    class Other(Saga, name="checkout"):
        @step
        def pay(self, tx: Any) -> None: ...

    with pytest.raises(DeclarationError, match="both called 'checkout'"):
        application_of(Checkout, Other)


def test_sagas_are_found_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "shop.py"
    file.write_text(
        "from atoll import Saga, step\n\n\nclass Pay(Saga):\n    @step\n    def pay(self, tx): ...\n"
    )
    assert list(load_application(file).sagas) == ["pay"]


def _declared(body: str, head: str = "Wrong(Saga)") -> None:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    names = {"Saga": Saga, "step": step, "Retry": Retry}
    exec(f"class {head}:\n{lines}", names)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("x: int = 0", "a saga needs a step"),
        ("@step(compensate='undo')\ndef do(self, tx): ...", "define one, without @step"),
        (
            "@step(compensate='undone')\ndef do(self, tx): ...\ndef undo(self, tx): ...",
            "did you mean undo",
        ),
        ("@step(compensate='do')\ndef do(self, tx): ...", "names no method that undoes it"),
        ("pivot = 'pay'\n@step\ndef do(self, tx): ...", "pivot='pay' is no step"),
        ("@step\ndef do(self, key): ...", "takes self and any of tx"),
        ("@step(effect=True)\nasync def do(self, tx): ...", "takes self and any of db, key"),
        ("@step(effect=True)\ndef do(self, key): ...", "write `async def`"),
        ("@step(signal='a b')\ndef do(self, tx): ...", "is no name"),
        ("@step(within_s=3)\ndef do(self, tx): ...", "name it with signal="),
        ("@step(signal='ok', wait_s=3)\ndef do(self, tx): ...", "make two steps of it"),
        ("@step(timeout_s=0)\ndef do(self, tx): ...", "timeout_s=0 is no number of seconds"),
        ("@step(retry=5)\ndef do(self, tx): ...", "write retry=Retry"),
        ("@step(retry=Retry(0))\ndef do(self, tx): ...", "a whole number of attempts"),
        ("@step(retry=Retry(1, factor=0.5))\ndef do(self, tx): ...", "give a number from 1"),
        (
            "pivot = 'do'\n@step\ndef do(self): ...\n@step(compensate='u')\ndef m(self): ...\ndef u(self): ...",
            "it comes after the pivot",
        ),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(body: str, reason: str) -> None:
    with pytest.raises(DeclarationError, match=reason):
        _declared(body)


def test_a_saga_has_nothing_to_merge() -> None:
    with pytest.raises(DeclarationError, match="declare a plain field"):

        class Counting(Saga):
            n: Counter

            @step
            def do(self, tx: Any) -> None: ...


def test_a_saga_has_no_options_of_a_collection() -> None:
    with pytest.raises(DeclarationError, match="takes no option 'consistency'"):
        _declared("@step\ndef do(self): ...", "Wrong(Saga, consistency='strong')")


def test_pauses_grow_and_end() -> None:
    retry = Retry(4, first_s=1, factor=3, most_s=5)
    assert [retry.pause_s(failed, 1.0) for failed in (1, 2, 3, 400)] == [1, 3, 5, 5]
    assert retry.pause_s(1, 0.0) == 0.5
    assert [retry.ended(failed) for failed in (3, 4)] == [False, True]
    assert not Retry(None).ended(1000)
