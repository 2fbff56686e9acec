"""What calls return, where it is more than a document."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from atoll.errors import InvalidDocument
from atoll.schema import Collection
from atoll.schema.models import model_of

_MOST_KEYS = 100
"""That an error names."""

M = TypeVar("M", bound=Collection)


@dataclass(frozen=True, slots=True)
class Sibling(Generic[M]):
    """One of several concurrent versions, where a collection shows them (`resolve="manual"` or a function)."""

    value: M | None
    """None for a deletion."""
    region: str
    """Where it was written."""
    stamp: int
    """Hybrid logical clock: unix milliseconds in the upper bits, a counter in the lower 16."""
    seq: int = 0
    """Its place in that region's journal."""


@dataclass(frozen=True, slots=True)
class Read(Generic[M]):
    """A document, and what is known about this view of it."""

    key: str
    value: M | None
    """None when there is no such document."""
    version: str | None
    """For `if_match` of a later write; None when there is no such document."""
    region: str
    """Which region answered."""
    degraded: str | None = None
    """Why this is weaker than the collection's policy promises; None when it is not."""
    siblings: tuple[Sibling[M], ...] = ()


@dataclass(slots=True)
class LeftOut:
    """The documents of an answer that did not fit their declaration."""

    _first: InvalidDocument | None = None
    _keys: list[str] = field(default_factory=list)
    _count: int = 0

    def add(self, error: InvalidDocument) -> None:
        self._first = self._first or error
        self._count += 1
        if len(self._keys) < _MOST_KEYS:
            self._keys.append(error.details["key"])

    def tell(self, rest: str, **details: Any) -> None:
        """Raises InvalidDocument if there were any. `rest` says what became of all others."""
        if self._first is None:
            return
        more = f" ({self._count - 1} more do not: {', '.join(self._keys[1:])})" if self._count > 1 else ""
        raise InvalidDocument(
            f"{self._first.message}{more}; {rest}",
            **{**self._first.details, "keys": self._keys, "count": self._count, **details},
        )


@dataclass(frozen=True, slots=True)
class DocumentChange:
    """One document of a `Change`."""

    collection: str
    key: str
    operation: str
    """`insert`, `update` or `delete`."""
    value: dict[str, Any] | None
    """The document as the region shows it by now, without its key; None when it is gone."""

    def as_model(self, model: type[M]) -> M | None:
        """The document as the declared class. Raises InvalidDocument where it does not fit."""
        if self.value is None:
            return None
        return model_of(model, self.key, msgspec.json.encode(self.value))


@dataclass(frozen=True, slots=True)
class Change:
    """One write: everything in it happened together."""

    cursor: str
    """Where to go on after it, in any region."""
    origin: str
    """The region that took the write; empty in what `progress` adds."""
    seq: int
    """Its place in that region's journal."""
    stamp: int
    """As `Sibling.stamp`."""
    changes: tuple[DocumentChange, ...]
    """Empty if only the cursor has moved, in a feed with `progress`."""
    more: bool = False
    """The write was large: the next change is of the same one. The cursor still stands before all of it."""
