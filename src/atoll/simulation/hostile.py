"""A region whose entries are well framed and absurd: wrong types, impossible numbers, foreign rows, sheer size.

They enter one region's own journal, as if a program with the deployment's key had written them there, and go the
ordinary way from it. Each has to be refused, parked with a reason or merged, the same in every region, and
nothing may come to a halt. Two different entries under one number are not among them: no region could know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

import msgspec

from atoll.causality.types import Seq, Stamp
from atoll.documents.entry import Change, Entry, LosingVersion, decode_frames, encode_frame, frame_of
from atoll.documents.rules import TOUCH, WHOLE
from atoll.errors import ReplicationError
from atoll.lattices.counter import CounterLattice
from atoll.region.region import Region
from atoll.simulation.world import Solo, World

_ALIKE = "hostile entries are taken alike everywhere"
PARKED, MERGED, EITHER = "parked", "merged", "either"
_SIMPLE = ("profile", "claim", "page", "draft", "row")
_INT = 1 << 62


class Hostile(Solo):
    """Writes absurd entries, and checks that all regions took them alike."""

    name = "hostile"

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients, mean_s * 2)
        self._sent: list[tuple[Entry, tuple[str, ...]]] = []
        """Entries, and what is expected of each of their changes."""

    async def draw(self, world: World, random: Random) -> None:
        self._check_sent(world)
        node = world.node(random.choice(world.names))
        # What waits here while the database dies would be numbered by one that is gone: no region does that itself.
        dying = node.disk.standby is not None
        if node.region is not None and node.life is not None and not (node.life.busy or dying):
            stored = node.disk.store.clock()  # another node may have moved it
            node.life.run(self._send, world, node.region, random, stored)

    async def finish(self, world: World) -> None:
        parked = {
            name: world.cluster[name].disk.store.parked(1 << 40, limit_bytes=1 << 40) for name in world.names
        }
        held = {name: {each[:3] for each in rows} for name, rows in parked.items()}
        first = world.names[0]
        for name in world.names:
            if held[name] != held[first]:
                world.verdict.safety(
                    _ALIKE, f"{name} and {first} differ over {min(held[name] ^ held[first])}"
                )
            for dot, expected in sorted(self._expected(world).items()):
                if expected != EITHER and (dot in held[name]) != (expected == PARKED):
                    world.verdict.safety(_ALIKE, f"{name}: {dot} was to be {expected}")
            for each in parked[name]:
                if not each.reason:
                    world.verdict.safety("what is parked has a reason", f"{name}: {each[:3]}")
        await world.check_takes_writes(world.client("hostile-last"), "after", "hostile entries stop nothing")

    def _send(self, world: World, region: Region, random: Random, stored: int) -> None:
        """Put one absurd entry into the group commit; a write that stands there already may take its number."""
        if region.gates.closed:
            return
        seq = region.vector.get(region.origin, 0) + 1
        context = {**region.vector, region.origin: seq - 1}
        drawn = [
            (make(random, region.origin), expected)
            for kind in random.sample(sorted(_KINDS), random.choice((1, 1, 2, 5)))
            for expected, make in (_KINDS[kind],)
        ]
        found = {(change.collection, change.key): (change, expected) for change, expected in drawn}
        changes, expectations = zip(*found.values(), strict=True)
        stamp = Stamp(max(region.clock.now(), stored + 1))
        entry = Entry(region.origin, Seq(seq), stamp, 5, context, changes)
        frame = _misshapen(random, entry) if random.random() < 0.1 else encode_frame(entry)
        try:
            encoded = list(decode_frames(frame))
        except ReplicationError:
            return  # a link would refuse it
        unreadable = encoded[0].entry.changes != entry.changes
        self._sent.append((encoded[0].entry, (PARKED,) if unreadable else expectations))
        world.journal.crafted.add(encoded[0].frame)
        region.deliver(encoded, region.name)

    def _check_sent(self, world: World) -> None:
        """By what the region did into whose journal they were put; in the end by all."""
        for dot, expected in self._expected(world).items():
            if expected == PARKED and dot not in world.journal.refused:
                world.verdict.safety(_ALIKE, f"{dot[0]} has not parked {dot}")

    def _expected(self, world: World) -> dict[tuple[str, int, int], str]:
        """Of those whose number no other entry took first."""
        return {
            (entry.origin, entry.seq, number): expected
            for entry, expectations in self._sent
            if world.journal.entries.get(entry.dot) == entry
            for number, expected in enumerate(expectations)
        }


def _misshapen(random: Random, entry: Entry) -> bytes:
    """The entry as bytes, with a part of it of another type or beyond all bounds."""
    parts: list[object] = list(msgspec.to_builtins(entry, builtin_types=(bytes,)))
    at, what = random.choice((
        (6, [5]), (6, [["profile"]]), (6, {"a": 1}), (6, "none"), (6, [[1, 2, 3, 4]]), (6, 7),
        (1, ""), (1, 17), (2, 0), (2, -4), (2, 1 << 60), (3, -1), (3, 1 << 63), (4, -1), (4, 1 << 63),
        (5, []), (5, {"tokyo": -1}), (5, {}), (7, 12), (0, 1), (8, [[[["tokyo"], 20, bytes(16)]]]), (8, 3),
    ))  # fmt: skip
    parts[at] = what
    return frame_of(msgspec.msgpack.encode(parts))


def _value(random: Random) -> bytes:
    """Bytes that are no JSON value any writer could have put there."""
    return random.choice((
        b"", b"{", b"nonsense", b"\xff\xfe", b'{"name":"\xff"}', b"[1]", b"17", b'"text"', b'{"n":1e999}', b"NaN",
        b'{"a":' * 300 + b"1" + b"}" * 300, b"[" * 90_000, b"{1:2}",
    ))  # fmt: skip


def _delta(random: Random, origin: str) -> bytes:
    """Bytes that are no delta of this region's."""
    other = {"nowhere": (1, 0), "atlantis": (3, 3)}
    return random.choice((
        b"", b"\xc1", b"\xff" * 40, b"\x00", b"\x93\x80\x80", msgspec.msgpack.encode(other),
        msgspec.msgpack.encode({origin: (-4, 0)}), msgspec.msgpack.encode({origin: "many"}),
        msgspec.msgpack.encode({origin.upper(): (1, 1)}), msgspec.msgpack.encode([{}, {}, {"nowhere": ([1], ['"a"'])}]),
        b"\x01\xff\xff\xff\xff\x0f", b"\x01\x01\x05\x00\x04\x01\x00\x03abc\x00",
    ))  # fmt: skip


def _simple(random: Random) -> str:
    return random.choice(_SIMPLE)


def _key(random: Random) -> str:
    return random.choice(("k0", "k1", "h0"))


def _mutated(random: Random, origin: str) -> bytes:
    """An honest delta with some of its bits turned over."""
    data = bytearray(CounterLattice().encode({origin: (random.randint(0, 1 << 40), 7)}))
    for _ in range(random.randint(1, 3)):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def _settled(random: Random, origin: str, body: bytes | None = None) -> tuple[LosingVersion, ...]:
    side = {"region": origin, "seq": 1, "stamp": 1 << 80, "operation": "insert", "context": {}, "value": 1}
    record = {
        "id": "00" * 12, "collection": "profile", "key": "k0", "field": "", "kind": "insert_exists",
        "status": "resolved", "strategy": "lww", "outcome": "dropped", "reason": "", "uncertain": False,
        "losing": side, "winning": side, "resolved_by": [1, origin, 1],
    }  # fmt: skip
    return (
        LosingVersion("00" * 12, random.choice(("resolved", "open")), body or msgspec.json.encode(record)),
    )


Making = Callable[[Random, str], Change]

_PARKED: Mapping[str, Making] = {
    "unknown collection": lambda r, o: Change("no_such", "k0", 0, {WHOLE: b"{}"}),
    "impossible key": lambda r, o: Change(
        _simple(r), r.choice(("", "x" * 6000, "a\x00b", "\ud7ff" * 3000)), 0, {WHOLE: b"{}"}
    ),
    "no such operation": lambda r, o: Change(
        _simple(r), _key(r), r.choice((-7, 3, 99, _INT)), {WHOLE: b"{}"}
    ),
    "no JSON": lambda r, o: Change(_simple(r), _key(r), 1, {WHOLE: _value(r)}),
    "no JSON in a field": lambda r, o: Change("cart", _key(r), 1, {"note": b"\xff", WHOLE: b"{}"}),
    "impossible registers": lambda r, o: Change(
        "cart", _key(r), 1, {r.choice((" ", ".", "~~", "a b", "1", "\x00")): b"1"}
    ),
    "numbers that no float holds": lambda r, o: Change("cart", _key(r), 1, {"note": b"1e999"}),
    "no delta": lambda r, o: Change("view", "h0", 1, {}, {"seen": _delta(r, o)}),
    "no bounded delta": lambda r, o: Change("stock", "h0", 1, {}, {"left": _delta(r, o)}),
    "no set": lambda r, o: Change("basket", "h0", 1, {}, {"items": _delta(r, o)}),
    "delta of no field": lambda r, o: Change("profile", "h0", 1, {}, {"name": b"\x80"}),
    "good and bad at once": lambda r, o: Change(
        "setting", _key(r), 1, {WHOLE: b'{"theme":"bad"}'}, {"uses": _delta(r, o)}
    ),
    "settles what it cannot have seen": lambda r, o: Change(
        "profile", _key(r), 1, {WHOLE: b'{"name":"x"}'}, {}, _settled(r, o)
    ),
    "settles rubbish": lambda r, o: Change(
        "profile", _key(r), 1, {WHOLE: b'{"name":"x"}'}, {}, _settled(r, o, b"rubbish")
    ),
}

_MERGED: Mapping[str, Making] = {
    "wrong types": lambda r, o: Change(
        _simple(r), _key(r), 1, {WHOLE: b'{"name":[17],"title":null,"owner":{"a":1},"mark":2,"more":1}'}
    ),
    "wrong types in fields": lambda r, o: Change(
        "cart", _key(r), 1, {WHOLE: b'{"x":1}', "note": b"17", "address": b'[{"a":1}]', "labels.a": b'"x"'}
    ),
    "huge": lambda r, o: Change("profile", _key(r), 1, {WHOLE: b'{"name":"' + b"x" * (1 << 20) + b'"}'}),
    "touch of a simple document": lambda r, o: Change(_simple(r), _key(r), 1, {TOUCH: b'{"a":1}'}),
    "touch with rubbish": lambda r, o: Change("setting", _key(r), 1, {TOUCH: b"[1,2]"}),
    "registers of another version": lambda r, o: Change(
        r.choice((*_SIMPLE, "cart", "setting")), _key(r), 1, {"colour9": b'"red"', "shapes.a": b"1"}
    ),
    "huge numbers": lambda r, o: Change(
        "view", "h0", 1, {}, {"seen": CounterLattice().encode({o: (2**64 - 1, r.randint(0, 9))})}
    ),
}

_EITHER: Mapping[str, Making] = {
    "no text": lambda r, o: Change("note", "h0", 1, {}, {"body": _delta(r, o)}),
    "no list": lambda r, o: Change("note", "h0", 1, {}, {"lines": _delta(r, o)}),
    "turned bits": lambda r, o: Change("view", "h0", 1, {}, {"seen": _mutated(r, o)}),
}

_KINDS: Mapping[str, tuple[str, Making]] = {
    kind: (expected, make)
    for expected, kinds in ((PARKED, _PARKED), (MERGED, _MERGED), (EITHER, _EITHER))
    for kind, make in kinds.items()
}
