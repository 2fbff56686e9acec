"""Pages of what a region holds, for a peer that lacks more than the journal still has.

Documents with their tombstones, by collection and key; the resolved part of the audit (open records follow from the
documents); parked changes. Not the answers to idempotency keys: they are the region's own.

The pages are of different moments, since the region goes on. That costs nothing: documents only grow in their
lattice, and whoever takes the snapshot over waits until it has every entry that may be in it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec
import zstandard

from atoll.causality.types import check_incarnations
from atoll.commit.snapshot_page import KEPT_ASIDE
from atoll.conflicts import records
from atoll.documents.document import received
from atoll.documents.entry import MAX_ENTRY_BYTES, LosingVersion
from atoll.documents.rules import Rules, undeclared
from atoll.errors import AtollError, CorruptEntry, DeclarationError, HostileEntry
from atoll.replication.messages import SnapshotPlace, SnapshotReply
from atoll.store.port import Audit, AuditFilter, Documents, Parked, Row, Store

_PAGE_BYTES = 1 << 20
_ROWS_AT_ONCE = 50
_MOST_BYTES = 4 * MAX_ENTRY_BYTES
"""Of a page, decompressed: one document may hold several versions, each as large as an entry."""


class Content(msgspec.Struct, array_like=True):
    """What a page holds: documents of one collection, or records, or changes."""

    collection: str = ""
    documents: list[tuple[str, bytes | None, bytes]] = []
    """(key, value, meta)."""
    resolved: list[tuple[str, bytes]] = []
    """(id, body) of conflict records."""
    parked: list[Parked] = []


class _Read(NamedTuple):
    content: Content
    next: SnapshotPlace | None


_pack = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Content).decode


def declared(rules: Mapping[str, Rules]) -> dict[str, dict[str, str]]:
    """collection → mergeable field → its kind: what whoever merges these documents has to know."""
    return {
        name: {field: lattice.kind for field, lattice in sorted(each.lattices.items())}
        for name, each in sorted(rules.items())
    }


async def read_page(
    store: Store,
    rules: Mapping[str, Rules],
    place: SnapshotPlace,
    incarnation: tuple[int, int],
    check: Callable[[], Awaitable[None]],
    *,
    others: Iterable[str],
    most_rows: int,
) -> SnapshotReply:
    """About a MiB, or `most_rows`, from `place` on.

    `others` are the stored collections that are not declared here any more. Raises what the store raises, and `check`,
    which is asked once the vector is known.
    """
    before = await store.positions()
    await check()
    match place.part:
        case "documents":
            read = await _documents(store, sorted({*rules, *others}), place, most_rows)
        case "audit":
            read = await _audit(store, place, most_rows)
        case "parked":
            read = await _parked(store, place, most_rows)
    clock, after = await store.clock(), await store.positions()
    content = zstandard.ZstdCompressor(level=1, write_content_size=True).compress(_pack(read.content))
    return SnapshotReply(incarnation, declared(rules), before, after, clock, content, read.next)


async def _documents(store: Documents, names: list[str], place: SnapshotPlace, most_rows: int) -> _Read:
    left = [name for name in names if name >= place.collection]
    if not left:
        return _Read(Content(), SnapshotPlace("audit"))
    name, after = left[0], place.key if left[0] == place.collection else None
    content = Content(collection=name)
    size_bytes = 0
    while size_bytes < _PAGE_BYTES and (limit := min(_ROWS_AT_ONCE, most_rows - len(content.documents))):
        rows = await store.scan_all(name, after=after, limit=limit)
        for key, row in rows:
            content.documents.append((key, row.value, row.meta))
            size_bytes += len(row.value or b"") + len(row.meta)
            after = key
        if len(rows) < limit:
            end = SnapshotPlace("documents", left[1]) if len(left) > 1 else SnapshotPlace("audit")
            return _Read(content, end)
    return _Read(content, SnapshotPlace("documents", name, after))


async def _audit(store: Audit, place: SnapshotPlace, most_rows: int) -> _Read:
    content, after = Content(), place.record
    size_bytes = 0
    while size_bytes < _PAGE_BYTES and (limit := min(_ROWS_AT_ONCE, most_rows - len(content.resolved))):
        rows = await store.conflicts(AuditFilter(status="resolved"), after=after, limit=limit)
        for row in rows:
            content.resolved.append((row.id, row.body))
            size_bytes += len(row.body)
            after = (row.stamp_ms, row.id)
        if len(rows) < limit:
            return _Read(content, SnapshotPlace("parked"))
    return _Read(content, SnapshotPlace("audit", record=after))


async def _parked(store: Audit, place: SnapshotPlace, most_rows: int) -> _Read:
    content, after = Content(), place.change
    size_bytes = 0
    while size_bytes < _PAGE_BYTES and (limit := min(_ROWS_AT_ONCE, most_rows - len(content.parked))):
        rows = await store.parked(limit, after=after)
        for row in rows:
            content.parked.append(row)
            size_bytes += len(row.body)
            after = row[:3]
        if len(rows) < limit:
            return _Read(content, None)
    return _Read(content, SnapshotPlace("parked", change=after))


def open_page(page: SnapshotReply) -> Content:
    """Raises CorruptEntry."""
    try:
        size = zstandard.frame_content_size(page.content)
        if not 0 <= size <= _MOST_BYTES:
            raise CorruptEntry(f"a snapshot's page claims {size} bytes, the limit is {_MOST_BYTES}")
        return _decode(zstandard.ZstdDecompressor().decompress(page.content, max_output_size=size))
    except (zstandard.ZstdError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptEntry(f"a snapshot's page cannot be read: {error}") from None


def check_content(page: SnapshotReply, content: Content, rules: Mapping[str, Rules]) -> None:
    """The checks that entries pass, before anything of the page is believed.

    Raises HostileEntry, and ProtocolMismatch for numbers of another incarnation.
    """
    check_incarnations(page.incarnations, "a snapshot")
    if content.documents:
        try:
            known = rules.get(content.collection) or undeclared(content.collection)
        except DeclarationError as error:
            raise HostileEntry(f"a snapshot holds an impossible collection: {error}") from None
        if content.collection == KEPT_ASIDE:
            raise HostileEntry("a snapshot holds pages of another snapshot")
        for key, value, meta in content.documents:
            try:
                known.schema.validate_key(key)
            except AtollError as error:
                raise HostileEntry(f"a snapshot holds a document with an impossible key: {error}") from None
            received(known, key, Row(value, meta), page.clock)
    for losing in resolved_of(content):
        records.check_recorded(losing)
    for origin, seq in (*page.before.items(), *page.after.items()):
        if not origin or not 0 <= seq < 1 << 53:
            raise HostileEntry(f"a snapshot claims {seq} entries of {origin[:64]!r}")


def resolved_of(content: Content) -> tuple[LosingVersion, ...]:
    """The records, as entries carry them."""
    return tuple(LosingVersion(id, "resolved", body) for id, body in content.resolved)
