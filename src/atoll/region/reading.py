"""What a read asks for and what it gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


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
