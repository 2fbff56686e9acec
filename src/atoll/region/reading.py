"""What a read asks for and what it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from atoll.store.port import Condition, Row


class ReadOptions(NamedTuple):
    consistency: str | None = None
    """`eventual`, `session`, `causal`, `bounded` or `strong`; None is the collection's own."""
    token: Mapping[str, int] | None = None
    """What the session has seen."""
    max_staleness_s: float | None = None
    max_wait_s: float | None = None


PLAIN_READ = ReadOptions()
"""The collection's own consistency, and no session."""


class Reading(NamedTuple):
    value: bytes | None
    """The document as JSON text; None when absent."""
    version: str
    region: str
    """Which region answered."""
    vector: Mapping[str, int]
    """What that region had seen."""
    degraded: str | None = None
    """Why this is weaker than the collection's policy; None when it is not."""


class ListOptions(NamedTuple):
    """Which documents of a collection, in key order."""

    prefix: str = ""
    where: Sequence[Condition] = ()
    after: str | None = None
    """The key after which the page begins."""
    limit: int = 100


FIRST_PAGE = ListOptions()


class Listing(NamedTuple):
    """A page of a collection, as this region shows it."""

    rows: Sequence[tuple[str, Row]]
    more: bool
    """Whether documents come after the page."""
    vector: Mapping[str, int]
    """What the region had seen: no less than what the rows show."""
    degraded: str | None = None
