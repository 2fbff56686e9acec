"""Pages of rows: each ends at a number of rows, or with the row that reaches a number of bytes."""

from __future__ import annotations

from collections.abc import Sequence

from atoll.schema.bounds import PAGE_BYTES
from atoll.store.port import AuditRow, Parked, Row, Segment

Paged = Row | AuditRow | Parked | Segment


def cut_short(rows: Sequence[Paged], limit: int, limit_bytes: int = PAGE_BYTES) -> bool:
    """Whether a page ended at one of its bounds, so that more rows may follow."""
    return len(rows) >= limit or sum(map(_size, rows)) >= limit_bytes


def within(rows: Sequence[Paged], limit_bytes: int) -> int:
    """How many of the rows make a page."""
    for at, row in enumerate(rows, 1):
        limit_bytes -= _size(row)
        if limit_bytes <= 0:
            return at
    return len(rows)


def _size(row: Paged) -> int:
    return row.size_bytes if isinstance(row, Row) else len(row.body)
