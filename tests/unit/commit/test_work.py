from __future__ import annotations

from atoll.commit.work import Wants


def test_what_several_works_want_is_loaded_once() -> None:
    wants = Wants({})
    for register in ("x", "y", "x"):
        wants.states += [("voter", "a"), ("register", register)]
    assert wants.wanted().states == [("voter", "a"), ("register", "x"), ("register", "y")]
