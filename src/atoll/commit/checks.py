"""What a write may come to, tested before anything of it is committed."""

from __future__ import annotations

from collections.abc import Iterable

from atoll.errors import InvalidOperation, TooLarge
from atoll.schema.bounds import BATCH_ANSWER_BYTES, BATCH_WRITES
from atoll.store.port import Row


def check_answer(rows: Iterable[Row | None]) -> None:
    """Raises TooLarge where several documents came to more than a client reads in one answer."""
    size_bytes = sum(len(row.value) for row in rows if row is not None and row.value is not None)
    check_together(size_bytes, "Write fewer documents at once, or send Prefer: return=minimal")


def check_together(size_bytes: int, otherwise: str) -> None:
    """Raises TooLarge for documents that one answer cannot hold; `otherwise` says what to do."""
    if size_bytes > BATCH_ANSWER_BYTES:
        raise TooLarge(
            f"the answer would hold documents of {size_bytes} bytes; the limit is {BATCH_ANSWER_BYTES}. {otherwise}",
            size_bytes=size_bytes,
            limit_bytes=BATCH_ANSWER_BYTES,
        )


def check_document(
    address: tuple[str, str], before: bytes | None, after: bytes | None, limit_bytes: int
) -> None:
    """Raises TooLarge for a document that grows past its limit. Merging may have made it too large already."""
    if after is None or len(after) <= limit_bytes:
        return
    if before is None or len(after) > len(before):
        raise TooLarge(
            f"{address[0]}/{address[1]} would grow to {len(after)} bytes; the limit is {limit_bytes}",
            limit_bytes=limit_bytes,
        )


def entry_too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(
        f"the write would make a journal entry of more than {limit_bytes} bytes, which regions do not send to each"
        " other; write fewer documents at once",
        limit_bytes=limit_bytes,
    )


def check_batch(writes: int) -> None:
    """Raises InvalidOperation for an empty or oversized request."""
    if not 0 < writes <= BATCH_WRITES:
        raise InvalidOperation(f"a batch holds 1 to {BATCH_WRITES} writes, this one {writes}")
