from __future__ import annotations

from atoll.causality.origin import Origin
from atoll.membership.heirs import NOBODY, Heirs, Seal, Span, due, next_spans

A, B, D5 = Origin("a"), Origin("b"), Origin("d~5")
SPANS = {"d": (Span(3, A), Span(9, B))}


def seals(**of_d: int) -> Heirs:
    return Heirs(SPANS, {"d": {member: Seal(upto, {"d": 7, "d~5": upto}) for member, upto in of_d.items()}})


def test_each_incarnation_has_the_heir_of_its_span() -> None:
    found = Heirs(SPANS)
    assert [found.heir_of(origin) for origin in ("d", "d~3", "d~4", "d~9", "d~a", "e")] == [
        A,
        A,
        B,
        B,
        None,
        None,
    ]
    assert found.upto("d") == 9
    assert found.address("d") == "d~a"
    assert NOBODY.address("d") == "d"
    assert next_spans(found, "d", 12, A) == (*SPANS["d"], Span(12, A))


def test_rights_go_on_to_the_heir_of_an_heir() -> None:
    found = Heirs({**SPANS, "a": (Span(0, B),)}, cleared={"d": 3})
    assert found.holder_of("d") == ("b", False)
    found = Heirs(found.spans, cleared={"d": 3, "a": 0})
    assert found.holder_of("d") == ("b", True)
    assert found.holder_of("d~5") == ("b", False)
    assert found.holder_of("a~1") == ("a", True)


def test_a_circle_of_heirs_ends() -> None:
    """Nobody decides one; but it could be read."""
    found = Heirs({"a": (Span(0, B),), "b": (Span(0, A),)})
    assert found.holder_of("a")[0] in "ab"


def test_a_span_is_clear_once_every_member_has_sealed_it() -> None:
    assert seals(a=9, b=3).unsealed("d", "abcd") == ["b", "c", "d"]
    assert seals(a=9, b=3).clear("ab").cleared == {"d": 3}
    assert seals(a=9, b=9).clear("ab").cleared == {"d": 9}
    assert seals(a=9, b=9).clear("abc").cleared == {}
    assert seals(a=9, b=9).clear("abd").cleared == {}
    assert seals(a=9, b=9, d=9).clear("abd").cleared == {"d": 9}
    assert seals(a=9, b=9).clear("ab").clear("abc").cleared == {"d": 9}


def test_what_was_written_after_the_end_is_beyond() -> None:
    found, here = seals(a=9), {"d": 7}
    assert found.beyond({"d": 8}, "a", "d", here) == "d"
    assert found.beyond({"d": 8}, "a", "d", {"d": 8}) is None
    assert found.beyond({"d": 8}, "a", "b", here) is None  # another member may have had it
    assert found.clear("ab").beyond({"d": 8}, "a", "b", here) is None
    assert found.clear("a").beyond({"d": 8}, "a", "b", here) == "d"
    assert found.beyond({"d~a": 1}, "a", "d", here) is None
    assert found.beyond({"d~8": 1}, "a", "d", here) == "d~8"
    assert seals(b=9).beyond({"d": 8}, "a", "d", here) is None


def test_ends_name_the_last_incarnation() -> None:
    assert seals(a=9).ends() == {}
    assert seals(a=9).clear("a").ends() == {"d": 7, "d~5": 9, "d~9": 0}


def test_what_is_due() -> None:
    assert due(NOBODY, "a", ["d"], {}) == (["d"], [])
    assert due(seals(a=9), "a", ["d"], {"d~5": 1}) == ([], [])
    assert due(seals(a=3), "a", ["d"], {"d~a": 1}) == (["d"], ["d"])
    assert due(seals(a=9), "d", [], {}) == ([], ["d"])
    assert due(seals(d=9), "d", [], {}) == ([], [])
