"""Digests of what a region holds: equal in two regions that hold the same, whatever way it came."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Callable, Mapping, Sequence

from atoll.documents import document as documents
from atoll.documents.rules import Rules
from atoll.errors import UnknownCollection
from atoll.replication.beside import beside_loop
from atoll.replication.messages import DigestReply
from atoll.store.port import Documents, Row

BUCKETS = 256
_AT_ONCE_BYTES = 128 << 10
"""A larger page is worked on beside the event loop."""


class Digests:
    """Of one region's collections."""

    def __init__(
        self, rules: Mapping[str, Rules], store: Documents, horizon_of: Callable[[Sequence[str]], str]
    ) -> None:
        """`horizon_of`: the key from which on retention keeps documents that are written once, given all keys."""
        self._rules = rules
        self._store = store
        self._horizon_of = horizon_of

    async def of(self, collection: str, bucket: int | None = None) -> DigestReply:
        """Of each bucket of keys, or of each document in one bucket; tombstones count. Raises UnknownCollection."""
        rules = self._rules.get(collection)
        if rules is None:
            raise UnknownCollection(
                f"no collection {collection[:64]!r} is declared here", collection=collection[:256]
            )
        count, after = 0, await self._before_horizon(collection) if rules.appended else None
        found: dict[str, bytes] = {}
        while rows := await self._store.scan_all(collection, after=after):
            after = rows[-1][0]
            if sum(row.size_bytes for _, row in rows) > _AT_ONCE_BYTES:
                count += await beside_loop(_add, rules, rows, bucket, found)
            else:
                await asyncio.sleep(0)  # others have their turn between two pages
                count += _add(rules, rows, bucket, found)
        return DigestReply(count, found)

    async def _before_horizon(self, collection: str) -> str | None:
        """The last key that retention does not keep: regions may remove it at different times."""
        keys: list[str] = []
        while rows := await self._store.scan_all(collection, after=keys[-1] if keys else None):
            keys += [key for key, _ in rows]
            await asyncio.sleep(0)
        gone = bisect.bisect_left(keys, self._horizon_of(keys))
        return keys[gone - 1] if gone else None


def _add(rules: Rules, rows: Sequence[tuple[str, Row]], bucket: int | None, found: dict[str, bytes]) -> int:
    """Add a page to the digests; how many of its documents are shown.

    It may take long, since a document may have half a million elements.
    """
    count = 0
    for key, row in rows:
        number = documents.bucket_of(key, BUCKETS)
        count += row.value is not None
        if bucket is None:
            before = found.get(str(number), bytes(16))
            one = documents.digest(rules, key, documents.decode_row(rules, row))
            found[str(number)] = bytes(a ^ b for a, b in zip(before, one, strict=True))
        elif number == bucket:
            found[key] = documents.digest(rules, key, documents.decode_row(rules, row))
    return count
