"""Documents as the last commits left them: the next edit of a large one then need not decode it.

A document is known by the bytes of its row. So one that another node wrote meanwhile is not taken for the present one,
and neither is one whose commit has failed.
"""

from __future__ import annotations

from typing import NamedTuple

from atoll.documents.document import Document
from atoll.store.port import Row

_MOST_BYTES = 8 << 20
"""Of all rows together. A decoded document takes several times its row."""


class _Kept(NamedTuple):
    row: Row
    document: Document
    quick: bool


class Recent:
    """Of one node. The one that was used longest ago goes first."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._size = 0

    def take(self, address: tuple[str, str], row: Row) -> Document | None:
        """The document of this row; whoever takes it keeps it again."""
        kept = self._kept.pop(address, None)
        if kept is None:
            return None
        self._size -= kept.row.size_bytes
        return kept.document if kept.row == row else None

    def quick(self, address: tuple[str, str], row: Row) -> bool:
        """Whether the next edit of this row takes little time."""
        kept = self._kept.get(address)
        return kept is not None and kept.quick and kept.row == row

    def keep(self, address: tuple[str, str], row: Row, document: Document, *, quick: bool) -> None:
        """`quick`: whether all of the document's states are followed (`Lattice.followed`)."""
        self.take(address, row)
        self._kept[address] = _Kept(row, document, quick)
        self._size += row.size_bytes
        while self._size > _MOST_BYTES:
            oldest = next(iter(self._kept))
            self._size -= self._kept.pop(oldest).row.size_bytes
