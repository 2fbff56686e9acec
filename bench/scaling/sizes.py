"""Bytes that a version vector of n regions costs, in everything that carries one."""

from __future__ import annotations

from atoll import Collection, Counter
from atoll.causality.clock import pack
from atoll.causality.origin import Origin
from atoll.causality.token import TokenCodec
from atoll.causality.types import Seq, Stamp
from atoll.conflicts import records
from atoll.documents.document import ELSEWHERE, Document, row_of
from atoll.documents.entry import Change, Entry, encode_frame
from atoll.documents.register import Operation, Version
from atoll.documents.rules import WHOLE
from atoll.replication.wire import FrameWriter, Heartbeat, derive_key
from atoll.schema.application import application_of
from atoll.simulation.runner import rules_of
from bench.documents import document_body, document_key
from bench.record import Record

SEEN = 1_000_000
"""What every region has written: seqs have the length that they have after a while."""
BATCH = 256
_STAMP = pack(1_760_000_000_000)


class Tally(Collection):
    """A counter that every region has incremented."""

    count: Counter


APPLICATION = application_of(Record, Tally, name="scale")
_RECORD, _TALLY = sorted(APPLICATION.collections)
_RULES = rules_of(APPLICATION)


def measure(regions: tuple[str, ...]) -> dict[str, float]:
    """Bytes, with documents of 1 kB."""
    origin = regions[0]
    bare = _frames((origin,))
    full = _frames(regions)
    writer = FrameWriter(bytes(32))
    vector = dict.fromkeys(regions, SEEN)
    counts = dict.fromkeys(regions, (SEEN, SEEN))
    return {
        "entry": len(full[0]),
        "entry_vector": len(full[0]) - len(bare[0]),
        "wire_entry": round(len(writer.entries(b"".join(full))) / BATCH, 1),
        "wire_entry_vector": round(
            (len(writer.entries(b"".join(full))) - len(writer.entries(b"".join(bare)))) / BATCH, 1
        ),
        "document_meta": len(row_of(b"{}", _version(origin, vector, ELSEWHERE)).meta),
        "audit_row": _audit_row(regions),
        "counter": len(_RULES[_TALLY].lattices["count"].encode(counts)),
        "token_chars": len(TokenCodec(bytes(32), "scale", lambda: regions).encode(vector)),
        "full_heartbeat": len(_heartbeat(vector)),
    }


def _frames(regions: tuple[str, ...]) -> list[bytes]:
    """Entries of the first region, each of which has seen one more of every other."""
    frames = []
    for number in range(BATCH):
        context = dict.fromkeys(regions, SEEN + number)
        context[regions[0]] = SEEN + number
        change = Change(_RECORD, document_key(number), int(Operation.UPDATE), {WHOLE: document_body(number)})
        entry = Entry(
            Origin(regions[0]),
            Seq(SEEN + number + 1),
            Stamp(_STAMP + (number << 16)),
            10,
            context,
            (change,),
        )
        frames.append(encode_frame(entry))
    return frames


def _version(region: str, context: dict[str, int], value: bytes) -> Version:
    return Version(Origin(region), Seq(SEEN + 1), _STAMP, 10, int(Operation.UPDATE), context, value)


def _audit_row(regions: tuple[str, ...]) -> int:
    """The record of one value of 1 kB that lost to another."""
    vector = dict.fromkeys(regions, SEEN)
    sides = tuple(_version(region, vector, document_body(at)) for at, region in enumerate(regions[:2]))
    found = records.open_records(_RULES[_RECORD], "key", Document({WHOLE: sides}, {}))
    (record,) = found.values()
    return len(records.row_of(record).body)


def _heartbeat(vector: dict[str, int]) -> bytes:
    moments = dict.fromkeys(vector, 1_760_000_000_000)
    writer = FrameWriter(derive_key(bytes(32), "links"))
    return writer.heartbeat(Heartbeat(next(iter(vector)), 1_760_000_000_000, vector, moments))
