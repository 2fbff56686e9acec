"""Pages of what a region holds, for a peer that lacks more than the journal still has.

Documents with their tombstones, by collection and key; the resolved part of the audit (open records follow from the
documents); parked changes. Not the answers to idempotency keys: they are the region's own.

The pages are of different moments, since the region goes on. That costs nothing, because documents only grow in their
lattice. The entries that may be in them and come after the first page end the snapshot. So whoever has all pages needs
nobody any more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec
import zstandard

from atoll.causality.floor import origins_in
from atoll.causality.types import Dot, Seq
from atoll.causality.vector import missing
from atoll.commit.snapshot_page import KEPT_ASIDE
from atoll.conflicts import records
from atoll.documents.document import received
from atoll.documents.entry import EncodedEntry, LosingVersion, decode_frames, digest_of, frames_past, lacks
from atoll.documents.rules import Rules, undeclared
from atoll.errors import AtollError, CorruptEntry, DeclarationError, HostileEntry
from atoll.replication.messages import SnapshotCall, SnapshotPlace, SnapshotReply
from atoll.replication.source import Wanted, batch_for, start_of
from atoll.schema.bounds import MAX_CHUNK_BYTES, SEGMENT_BYTES
from atoll.schema.limits import ANY_KEY, validate_key
from atoll.store.pages import cut_short
from atoll.store.port import Audit, AuditFilter, Documents, Journal, Numbered, Parked, Row, Store


class Content(msgspec.Struct, array_like=True):
    """What a page holds: documents of one collection, or records, or changes, or entries."""

    collection: str = ""
    documents: list[tuple[str, bytes | None, bytes]] = []
    """(key, value, meta)."""
    resolved: list[tuple[str, bytes]] = []
    """(id, body) of conflict records."""
    parked: list[Parked] = []
    entries: bytes = b""
    """Frames, in the order of the peer's journal."""


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
    call: SnapshotCall,
    incarnation: tuple[int, int],
    check: Callable[[], Awaitable[None]],
    *,
    others: Iterable[str],
    most_rows: int,
) -> SnapshotReply:
    """About a MiB, or `most_rows`, from the place on that is asked for.

    `others` are the stored collections that are not declared here any more. Raises what the store raises, and `check`,
    which is asked once the vector is known.
    """
    before, place = await store.positions(), call.place
    await check()
    match place.part:
        case "documents":
            read = await _documents(store, sorted({*rules, *others}), place, most_rows)
        case "audit":
            read = await _audit(store, place, most_rows)
        case "parked":
            read = await _parked(store, place, most_rows)
        case "entries":
            read = await _entries(store, place, call.region)
    clock, after = await store.clock(), await store.positions()
    content = zstandard.ZstdCompressor(level=1, write_content_size=True).compress(_pack(read.content))
    return SnapshotReply(incarnation, declared(rules), before, after, clock, content, read.next)


async def _documents(store: Documents, names: list[str], place: SnapshotPlace, most_rows: int) -> _Read:
    left = [name for name in names if name >= place.collection]
    if not left:
        return _Read(Content(), SnapshotPlace("audit"))
    name, after = left[0], place.key if left[0] == place.collection else None
    rows = await store.scan_all(name, after=after, limit=most_rows, limit_bytes=SEGMENT_BYTES)
    content = Content(name, [(key, row.value, row.meta) for key, row in rows])
    if cut_short([row for _, row in rows], most_rows, SEGMENT_BYTES):
        return _Read(content, SnapshotPlace("documents", name, rows[-1][0]))
    return _Read(content, SnapshotPlace("documents", left[1]) if len(left) > 1 else SnapshotPlace("audit"))


async def _audit(store: Audit, place: SnapshotPlace, most_rows: int) -> _Read:
    wanted = AuditFilter(status="resolved")
    rows = await store.conflicts(wanted, after=place.record, limit=most_rows, limit_bytes=SEGMENT_BYTES)
    content = Content(resolved=[(row.id, row.body) for row in rows])
    if cut_short(rows, most_rows, SEGMENT_BYTES):
        return _Read(content, SnapshotPlace("audit", record=(rows[-1].stamp_ms, rows[-1].id)))
    return _Read(content, SnapshotPlace("parked"))


async def _parked(store: Audit, place: SnapshotPlace, most_rows: int) -> _Read:
    rows = await store.parked(most_rows, after=place.change, limit_bytes=SEGMENT_BYTES)
    more = cut_short(rows, most_rows, SEGMENT_BYTES)
    return _Read(Content(parked=rows), SnapshotPlace("parked", change=rows[-1][:3]) if more else None)


async def _entries(store: Journal, place: SnapshotPlace, region: str) -> _Read:
    """Of each origin without a gap. Nothing where the journal does not hold the next ones, or not all of them."""
    sent, wanted = dict(place.since), Wanted(place.until)
    if not origins_in(missing(sent, place.until)):
        return _Read(Content(), None)
    after_id, chunk = await start_of(store, sent, wanted), list[bytes]()
    while not chunk:
        numbered = await store.journal(after_id, limit_bytes=SEGMENT_BYTES)
        if not numbered:
            break
        _, chunk, gone = batch_for(list(_up_to(numbered, place.until)), after_id, wanted, sent, region)
        after_id = numbered[-1].id
        if gone:
            break
    if not chunk or any(origin not in wanted for origin in place.until):
        return _Read(Content(), None)
    return _Read(Content(entries=b"".join(chunk)), SnapshotPlace("entries", since=sent, until=place.until))


def _up_to(numbered: Iterable[Numbered], until: Mapping[str, int]) -> Iterator[Numbered]:
    """Without the entries past `until`: whoever merged these would show more than the vector that comes with them."""
    for each in numbered:
        segment, last = each.segment, until.get(each.segment.origin, 0)
        if segment.last_seq <= last:
            yield each
        elif segment.first_seq <= last:
            body = segment.body[: len(segment.body) - len(frames_past(segment.body, last))]
            yield Numbered(each.id, segment._replace(last_seq=Seq(last), body=body))


def open_page(page: SnapshotReply) -> Content:
    """Raises CorruptEntry."""
    try:
        size = zstandard.frame_content_size(page.content)
        if not 0 <= size <= MAX_CHUNK_BYTES:
            raise CorruptEntry(f"a snapshot's page claims {size} bytes, the limit is {MAX_CHUNK_BYTES}")
        return _decode(zstandard.ZstdDecompressor().decompress(page.content, max_output_size=size))
    except (zstandard.ZstdError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptEntry(f"a snapshot's page cannot be read: {error}") from None


def check_content(page: SnapshotReply, content: Content, rules: Mapping[str, Rules], region: str) -> None:
    """The checks that entries pass, before anything of the page is believed by `region`.

    Raises CorruptEntry and HostileEntry.
    """
    if content.documents:
        try:
            known = rules.get(content.collection) or undeclared(content.collection)
        except DeclarationError as error:
            raise HostileEntry(f"a snapshot holds an impossible collection: {error}") from None
        if content.collection == KEPT_ASIDE:
            raise HostileEntry("a snapshot holds pages of another snapshot")
        for key, value, meta in content.documents:
            try:
                validate_key(key, ANY_KEY)
            except AtollError as error:
                raise HostileEntry(f"a snapshot holds a document with an impossible key: {error}") from None
            received(known, key, Row(value, meta), page.clock)
    for encoded in entries_of(content):
        entry = encoded.entry
        if entry.stamp > page.clock:
            raise HostileEntry(
                f"a snapshot holds entry {entry.seq} of {entry.origin}, stamped later than itself"
            )
        if lacks(encoded, region):
            raise HostileEntry(
                f"a snapshot holds entry {entry.seq} of {entry.origin} without a section for {region}"
            )
    for losing in resolved_of(content):
        records.check_recorded(losing)
    for origin, seq in (*page.before.items(), *page.after.items()):
        if not origin or not 0 <= seq < 1 << 53:
            raise HostileEntry(f"a snapshot claims {seq} entries of {origin[:64]!r}")


def entries_of(content: Content) -> tuple[EncodedEntry, ...]:
    """Raises CorruptEntry."""
    return tuple(decode_frames(content.entries))


def digests_of(content: Content) -> dict[Dot, bytes]:
    """Of its entries."""
    return {encoded.entry.dot: digest_of(encoded.frame) for encoded in entries_of(content)}


def resolved_of(content: Content) -> tuple[LosingVersion, ...]:
    """The records, as entries carry them."""
    return tuple(LosingVersion(id, "resolved", body) for id, body in content.resolved)
