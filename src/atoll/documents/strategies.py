"""How a set of concurrent versions becomes the one value that is shown.

Every strategy is a pure function of the set, folded in canonical order (stamp, region, seq). So all
regions show the same, whatever order the versions arrived in, and whatever algebra a team's own
function lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from atoll.causality.clock import stamp_ms
from atoll.documents.register import Operation, Register, Version, canonical_order
from atoll.lattices.json_values import presort

Outcome = Literal["picked", "merged", "manual"]
Resolver = Callable[[Sequence[bytes | None]], bytes | None]
"""A guarded custom function: JSON texts in canonical order (None = deleted) to JSON text; raises ResolverFailed."""


class ResolverFailed(Exception):
    """A custom function raised, overran its bound or returned no valid document."""


class Fold(NamedTuple):
    """The result of a strategy."""

    value: bytes | None
    winner: Version
    """The version that is shown, or the last one that went into a merged value."""
    outcome: Outcome
    reason: str


def last_write_wins(register: Register) -> Fold:
    winner = max(register, key=canonical_order)
    return Fold(winner.value, winner, "picked", "later stamp; region breaks a tie")


def first_write_wins(register: Register) -> Fold:
    winner = min(register, key=canonical_order)
    return Fold(winner.value, winner, "picked", "earlier stamp; region breaks a tie")


def highest_rank(register: Register) -> Fold:
    """For documents that one region at a time writes: who came into the right to write it later knows better."""
    winner = max(register, key=lambda version: (_rank(version), canonical_order(version)))
    return Fold(winner.value, winner, "picked", "higher epoch and revision")


def _rank(version: Version) -> tuple[int, int]:
    if version.value is None:
        return (-1, -1)
    document = msgspec.json.decode(version.value)
    return document.get("epoch", 0), document.get("revision", 0)


def update_wins(register: Register) -> Fold:
    """For a document's presence under `merge`: an update wins over a concurrent deletion."""
    alive = [version for version in register if version.value is not None]
    if len(alive) in (0, len(register)):
        return last_write_wins(register)
    winner = max(alive, key=canonical_order)
    return Fold(winner.value, winner, "picked", "an update prevails over a concurrent deletion")


def delete_wins(register: Register) -> Fold:
    """For operations on mergeable fields of a document that was deleted at the same time."""
    dead = [version for version in register if version.value is None]
    winner = max(dead or register, key=canonical_order)
    return Fold(winner.value, winner, "picked", "the document was deleted at the same time")


def deep_merge(register: Register) -> Fold:
    """For one field under `merge`: objects are merged member by member, anything else is the later write's."""
    winner = max(register, key=canonical_order)
    values = [msgspec.json.decode(v.value) for v in register if v.value is not None]
    if winner.value is None or not all(isinstance(value, dict) for value in values):
        return Fold(winner.value, winner, "picked", "later stamp; region breaks a tie")
    merged: Any = {}
    for value in values:
        merged = _merge_objects(merged, value)
    return Fold(
        msgspec.json.encode(merged, order="deterministic"),
        winner,
        "merged",
        "objects merged; later members prevail",
    )


def _merge_objects(into: Any, value: Any) -> Any:
    if not (isinstance(into, dict) and isinstance(value, dict)):
        return value
    merged = dict(into)
    for name, member in value.items():
        merged[name] = _merge_objects(merged[name], member) if name in merged else member
    presort(merged)
    return merged


def manual(register: Register, reason: str = "left to the application") -> Fold:
    """Show the later write for want of a better one; the siblings are offered beside it."""
    winner = max(register, key=canonical_order)
    return Fold(winner.value, winner, "manual", reason)


def custom(register: Register, resolver: Resolver) -> Fold:
    winner = max(register, key=canonical_order)
    try:
        value = resolver([version.value for version in register])
    except ResolverFailed as failure:
        return manual(register, f"the custom function failed: {failure}")
    for version in register:
        if version.value == value:
            return Fold(value, version, "picked", "chosen by the custom function")
    return Fold(value, winner, "merged", "combined by the custom function")


MULTIPLE_UNIQUE = "multiple_unique_conflicts"
"""The kind of conflict where several documents have one value of a unique field."""
DELETE_REFERENCED = "delete_referenced"
"""The kind of conflict where a document was deleted that another one refers to."""
KINDS = (
    "insert_exists",
    "update_origin_differs",
    "update_deleted",
    "delete_origin_differs",
    MULTIPLE_UNIQUE,
    DELETE_REFERENCED,
)
"""What `kind_of` tells, and two more."""


def kind_of(losing: Version, winning: Version) -> str:
    """The field's own words for what collided (pgEdge Spock, EDB PGD)."""
    if losing.operation == Operation.DELETE:
        return "delete_origin_differs"
    if winning.operation == Operation.DELETE:
        return "update_deleted"
    if losing.operation == Operation.INSERT and winning.operation == Operation.INSERT:
        return "insert_exists"
    return "update_origin_differs"


def within_uncertainty(one: Version, other: Version) -> bool:
    """Whether the two stamps lie so close that the clocks cannot tell which was first."""
    apart_ms = abs(stamp_ms(one.stamp) - stamp_ms(other.stamp))
    return apart_ms <= one.uncertainty_ms + other.uncertainty_ms
