"""Values whose JSON texts are not in their order, or of which several are one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atoll.store.port import Kind

HELD: Mapping[Kind, Sequence[str | int | float | bool | None]] = {
    "moment": (
        "2024-01-01T00:00:00Z",
        "2024-01-01T00:00:00.500000Z",
        "2024-01-01T02:00:00+02:00",
        "2023-12-31T19:00:00-05:00",
        "2024-01-01T00:00:00.000001Z",
        "2024-01-01T23:59:00+23:59",
        "0001-01-01T00:00:00+02:00",
        "9999-12-31T23:59:59.999999-02:00",
        "1900-02-28T12:00:00Z",
    ),
    "local": ("2024-01-01T00:00:00", "2024-01-01T00:00:00.500000", "2023-12-31T23:59:59.999999"),
    "decimal": (
        "9",
        "10",
        "9.0",
        "9.00",
        "-1",
        "-10",
        "0",
        "-0",
        "0E+3",
        "1E+3",
        "1000",
        "1E-900",
        "9" * 900,
        "-" + "9" * 900,
        "0.1000000000000000055511151231257827",
        "0.1",
        "12345678901234567890.12",
        "12345678901234567890.13",
        9,
        9.5,
    ),
    "bytes": ("", "-w==", "AA==", "__8=", "AAA=", "fg==", "fw==", "enp6"),
    "time": ("12:00:00", "12:00:00.500000", "00:00:00", "23:59:59.999999"),
}
NONE: Sequence[str | int | bool | None] = (
    None,
    True,
    "",
    "now",
    "today",
    "Infinity",
    "NaN",
    "2024-02-30T00:00:00Z",
    "2024-01-01",
    "2024-01-01T24:00:00",
    "12:00:00Z",
    "A===",
    "0000-01-01T00:00:00Z",
    "1e",
    "x" * 300,
)
"""Held by a field of such a type, say, since before it was declared so."""
