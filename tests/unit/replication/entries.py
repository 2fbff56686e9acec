"""Journal entries to send about."""

from __future__ import annotations

from atoll.causality.clock import pack
from atoll.documents.entry import Change, EncodedEntry, Entry, decode_frames, encode_frame
from atoll.store.port import Segment

NOW_MS = 1_000_000


def encoded(origin: str, seq: int, *, size: int = 4, context: dict[str, int] | None = None) -> EncodedEntry:
    seen = {**(context or {}), **({origin: seq - 1} if seq > 1 else {})}
    change = Change("profile", f"{origin}{seq}", 0, {"": b'{"name":"%s"}' % (b"x" * size)})
    return next(decode_frames(encode_frame(Entry(origin, seq, pack(NOW_MS + seq), 5, seen, (change,)))))


def segment(origin: str, first: int, last: int, *, size: int = 4) -> Segment:
    frames = [encoded(origin, seq, size=size).frame for seq in range(first, last + 1)]
    return Segment(origin, first, last, b"".join(frames))


def dots(messages: list[EncodedEntry]) -> list[tuple[str, int]]:
    return [(each.entry.origin, each.entry.seq) for each in messages]
