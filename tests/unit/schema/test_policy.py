from __future__ import annotations

from typing import Any

import pytest

from atoll.errors import DeclarationError
from atoll.schema import Everywhere, Policy, key_ranges
from atoll.schema.policy import build_policy


def first(versions: list[Any]) -> Any:
    return versions[0]


def two(mine: Any, theirs: Any) -> Any:
    return mine


async def later(versions: list[Any]) -> Any:
    return versions[-1]


def test_default_is_eventual_and_last_write_wins() -> None:
    assert build_policy("X", {}) == Policy(Everywhere(), "eventual", None, "lww", None, None)


@pytest.mark.parametrize("resolve", [first, "operator:length_hint", "builtins:max"])
def test_resolver_is_a_function_or_its_address(resolve: Any) -> None:
    policy = build_policy("X", {"resolve": resolve})
    assert policy.resolve == "custom"
    assert callable(policy.resolver)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"consistency": "bounded"}, "needs its bound"),
        ({"max_staleness_s": 5}, "no meaning"),
        ({"consistency": "bounded", "max_staleness_s": 0}, "positive"),
        ({"consistency": "bounded", "max_staleness_s": float("nan")}, "positive"),
        ({"fallback": "escrow"}, "only helps strong"),
        ({"consistency": "strong", "resolve": "merge"}, "no conflict is left"),
        ({"consistency": "strong", "resolve": "merge", "fallback": "escrow"}, "no conflict is left"),
        ({"commit_wait": 1}, "not True or False"),
        ({"commit_wait": True, "consistency": "strong"}, "drop it"),
        ({"commit_wait": True, "consistency": "strong", "fallback": "eventual"}, "drop it"),
        ({"consistency": "strnog"}, 'did you mean "strong"'),
        ({"resolve": "lwww"}, 'did you mean "lww"'),
        ({"resolve": 3}, "unknown"),
        ({"resolve": two}, "one argument"),
        ({"resolve": later}, "async"),
        ({"resolve": "nowhere:f"}, "cannot be imported"),
        ({"resolve": "math:nowhere"}, "cannot be imported"),
        ({"resolve": "math:pi"}, "not a function"),
        ({"placement": "tokyo"}, "not a placement"),
        ({"fallback": "none", "consistency": "strong"}, 'use "escrow", "eventual", "stale-read", "reject"'),
        ({"fallback": "stale_read", "consistency": "strong"}, 'did you mean "stale-read"'),
        ({"fallback": "stale-read"}, "only helps strong"),
        ({"fallback": "eventual", "consistency": "strong", "resolve": "merge"}, "one value"),
        ({"fallback": "eventual", "consistency": "strong", "resolve": "manual"}, "one value"),
        (
            {"fallback": "escrow", "consistency": "strong", "placement": key_ranges({"": "a"})},
            "one region orders",
        ),
        ({"consistancy": "strong"}, "did you mean consistency"),
    ],
)
def test_contradiction_is_refused_with_its_reason(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(DeclarationError, match=reason) as caught:
        build_policy("Cart", options)
    assert caught.value.message.startswith("Cart: ")


@pytest.mark.parametrize("resolve", ["lww", "fww", len])
def test_strong_with_eventual_fallback_may_resolve(resolve: Any) -> None:
    options = {"consistency": "strong", "fallback": "eventual", "resolve": resolve}
    assert build_policy("X", options).writes_when_cut_off


@pytest.mark.parametrize(
    ("fallback", "reads", "writes", "by_quorum"),
    [
        (None, False, False, True),
        ("reject", False, False, True),
        ("stale-read", True, False, True),
        ("eventual", True, True, True),
        ("escrow", False, False, False),
    ],
)
def test_a_fallback_says_what_is_done_when_cut_off(
    fallback: str | None, reads: bool, writes: bool, by_quorum: bool
) -> None:
    policy = build_policy("X", {"consistency": "strong", "fallback": fallback})
    assert (policy.reads_when_cut_off, policy.writes_when_cut_off) == (reads, writes)
    assert policy.by_quorum is by_quorum
