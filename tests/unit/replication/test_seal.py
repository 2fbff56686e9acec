from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atoll.errors import HostileEntry
from atoll.replication import seal

KEY = b"k" * 32
NOW_MS = 1_700_000_000_000
SEAL = seal.sign(KEY, "tokyo", "/replication/call", NOW_MS, b"body")


def test_a_seal_names_the_region_that_asks() -> None:
    assert seal.verify(KEY, SEAL, "/replication/call", NOW_MS, b"body") == "tokyo"


@pytest.mark.parametrize("late_ms", [-60_000, 60_000])
def test_a_seal_holds_for_a_minute(late_ms: int) -> None:
    assert seal.verify(KEY, SEAL, "/replication/call", NOW_MS + late_ms, b"body") == "tokyo"
    with pytest.raises(HostileEntry, match="compare the clocks"):
        seal.verify(KEY, SEAL, "/replication/call", NOW_MS + late_ms * 2, b"body")
    assert seal.verify(KEY, SEAL, "/replication/call", None, b"body") == "tokyo"


@pytest.mark.parametrize(
    ("key", "text", "target", "body"),
    [
        (b"x" * 32, SEAL, "/replication/call", b"body"),
        (KEY, SEAL, "/replication/stream", b"body"),
        (KEY, SEAL, "/replication/call", b"bodY"),
        (KEY, SEAL.replace("tokyo", "osaka"), "/replication/call", b"body"),
        (KEY, SEAL.replace("1700000000000", "1700000000001"), "/replication/call", b"body"),
    ],
    ids=["key", "target", "body", "region", "time"],
)
def test_whatever_is_changed_breaks_it(key: bytes, text: str, target: str, body: bytes) -> None:
    with pytest.raises(HostileEntry, match="wrong seal"):
        seal.verify(key, text, target, NOW_MS, body)


@given(st.text(max_size=80))
@example("tokyo:1:\udce9")  # as a header with a damaged byte is read
def test_no_text_is_more_than_hostile(text: str) -> None:
    with pytest.raises(HostileEntry):
        seal.verify(KEY, text, "/replication/call", NOW_MS, b"body")
