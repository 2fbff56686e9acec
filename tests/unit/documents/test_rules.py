from __future__ import annotations

import pytest

from atoll.documents import strategies
from atoll.documents.register import Version
from atoll.documents.rules import TOUCH, WHOLE, Rules, plain_text, well_named
from atoll.errors import InvalidDocument

from ..commit.replica import rules_of
from ..commit.shop import SHOP

RULES = rules_of(SHOP)


def versions(*values: bytes | None) -> tuple[Version, ...]:
    return tuple(Version("abc"[n], 1, n, 5, 0, {}, value) for n, value in enumerate(values))


@pytest.mark.parametrize(
    ("collection", "shown"), [("profile", b'{"n":3}'), ("claim", b'{"n":1}'), ("page", b'{"n":3}')]
)
def test_the_whole_document_follows_its_policy(collection: str, shown: bytes) -> None:
    fold = RULES[collection].strategy(WHOLE)(versions(b'{"n":1}', b'{"n":2}', b'{"n":3}'))
    assert fold.value == shown


@pytest.mark.parametrize(
    ("collection", "register", "name"),
    [
        ("profile", WHOLE, "lww"),
        ("claim", WHOLE, "fww"),
        ("page", WHOLE, "manual"),
        ("draft", WHOLE, "custom"),
        ("cart", WHOLE, "update_wins"),
        ("cart", "note", "merge"),
        ("cart", "labels.a", "update_wins"),
        ("views", TOUCH, "delete_wins"),
    ],
)
def test_the_audit_names_the_strategy(collection: str, register: str, name: str) -> None:
    assert RULES[collection].strategy_name(register) == name


def test_each_register_has_its_strategy() -> None:
    cart = RULES["cart"]
    assert cart.strategy(WHOLE) is strategies.update_wins
    assert cart.strategy("note") is strategies.deep_merge
    assert cart.strategy("labels.a") is strategies.update_wins
    assert RULES["views"].strategy(TOUCH) is strategies.delete_wins


@pytest.mark.parametrize(
    ("collection", "simple", "per_field", "touched"),
    [
        ("profile", True, False, False),
        ("draft", True, False, False),
        ("cart", False, True, True),
        ("stock", False, False, True),
        ("views", False, False, True),
    ],
)
def test_what_a_document_is_made_of(collection: str, simple: bool, per_field: bool, touched: bool) -> None:
    rules = RULES[collection]
    assert (rules.simple, rules.per_field, rules.touched) == (simple, per_field, touched)


@pytest.mark.parametrize(
    ("register", "possible"),
    [
        (WHOLE, True),
        (TOUCH, True),
        ("note", True),
        ("labels.a", True),
        ("labels.", True),
        ("of_another_version", True),
        ("no name", False),
        (".a", False),
        ("~~", True),
        ("~~1", False),
        ("~~.a", False),
        ("~1", True),
        ("~0", False),
        ("~01", False),
        ("~1.a", False),
        ("note~2", True),
        ("labels~2.a", True),
        ("labels~.a", False),
        ("note~1234567890", False),
    ],
)
def test_which_registers_a_peer_may_name(register: str, possible: bool) -> None:
    assert well_named(register) is possible


def test_a_custom_function_prevails_over_the_policys_name() -> None:
    rules = Rules(SHOP.collections["profile"], lambda values: b'{"chosen":true}')
    assert rules.strategy(WHOLE)(versions(b"{}", b"{}")).value == b'{"chosen":true}'


def test_the_plain_text_of_a_document_is_checked() -> None:
    assert plain_text(SHOP.collections["stock"], {"left": 3, "title": "t"}) == b'{"title":"t"}'
    with pytest.raises(InvalidDocument):
        plain_text(SHOP.collections["stock"], {"title": 3})
