from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.documents.trace import TRACE_BYTES, parse_traceparent

# From the specification's own examples.
HEADER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HEX = "0123456789abcdef"


def hexadecimal(digits: int) -> st.SearchStrategy[str]:
    return st.text(HEX, min_size=digits, max_size=digits).filter(lambda text: text.strip("0"))


def test_a_trace_context_is_its_26_bytes() -> None:
    trace = parse_traceparent(HEADER)
    assert trace == bytes.fromhex("004bf92f3577b34da6a3ce929d0e0e473600f067aa0ba902b701")
    assert len(trace) == TRACE_BYTES


@given(hexadecimal(32), hexadecimal(16), st.text(HEX, min_size=2, max_size=2))
def test_every_header_of_the_form_comes_back_from_its_bytes(trace: str, parent: str, flags: str) -> None:
    header = f"00-{trace}-{parent}-{flags}"
    parsed = parse_traceparent(header)
    assert parsed is not None
    assert re.sub("(..)(.{32})(.{16})(..)", r"\1-\2-\3-\4", parsed.hex()) == header


@pytest.mark.parametrize(
    "header",
    [
        "",
        HEADER.upper(),
        HEADER + "\n",
        " " + HEADER,
        HEADER + "-00",
        HEADER + ", " + HEADER,
        HEADER[:-1],
        HEADER.replace("-", ""),
        "01" + HEADER[2:],
        "ff" + HEADER[2:],
        "00-" + "0" * 32 + HEADER[35:],
        HEADER[:36] + "0" * 16 + HEADER[52:],
        HEADER.replace("4", "\u0664"),
        HEADER.replace("a", "g"),
    ],
)
def test_any_other_form_is_dropped(header: str) -> None:
    assert parse_traceparent(header) is None


@given(st.integers(0, len(HEADER) - 1), st.characters())
def test_one_wrong_character_drops_it(at: int, character: str) -> None:
    header = HEADER[:at] + character + HEADER[at + 1 :]
    well_formed = character == "-" if HEADER[at] == "-" else character in HEX
    if at < 2:
        well_formed = header.startswith("00-")
    assert (parse_traceparent(header) is not None) == well_formed


@given(st.text(max_size=80))
def test_any_text_is_26_bytes_or_nothing(header: str) -> None:
    parsed = parse_traceparent(header)
    assert parsed is None or len(parsed) == TRACE_BYTES
