"""A region whose entries are well framed and absurd: wrong types, impossible numbers, foreign rows, sheer size.

They enter one region's own journal, as if a program with the deployment's key had written them there, and go the
ordinary way from it. Each has to be refused, parked with a reason or merged, the same in every region, and
nothing may come to a halt. Two different entries under one number are not among them: no region could know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import Random

import msgspec

from atoll.causality.types import Seq, Stamp
from atoll.documents.entry import Change, Entry, LosingVersion, decode_frames, encode_frame, frame_of
from atoll.documents.rules import TOUCH, WHOLE
from atoll.errors import ReplicationError
from atoll.lattices.counter import CounterLattice
from atoll.region.region import Region
from atoll.simulation.failures import LivenessViolation
from atoll.simulation.world import World

_ALIKE = "hostile entries are taken alike everywhere"
PARKED, MERGED, EITHER = "parked", "merged", "either"
_SIMPLE = ("profile", "claim", "page", "draft", "row")
_INT = 1 << 62


class Hostile:
    """Writes absurd entries, and checks that all regions took them alike."""

    name = "hostile"

    def __init__(self, clients: int, mean_s: float) -> None:
        self._mean_s = mean_s * 2
        self._sent: list[tuple[Entry, list[str]]] = []
        """Entries, and what is expected of each of their changes."""
        self._refused = 0

    async def run(self, world: World) -> None:
        random = world.cluster.split("hostile")
        while not world.stopped:
            await asyncio.sleep(random.expovariate(1 / self._mean_s))
            self._check_sent(world)
            node = world.node(random.choice(world.names))
            if (
                node.region is not None
                and node.life is not None
                and node.life.busy_until <= world.cluster.loop.time()
            ):
                stored = node.disk.store.clock()  # another node may have moved it
                node.life.run(self._send, world, node.region, random, stored)

    async def finish(self, world: World) -> None:
        held = {
            name: {each[:3] for each in world.cluster[name].disk.store.parked(100_000)}
            for name in world.names
        }
        for name in world.names:
            if held[name] != held[world.names[0]]:
                dot = min(held[name] ^ held[world.names[0]])
                world.verdict.safety(
                    _ALIKE,
                    f"{name} and {world.names[0]} differ over {dot}",
                )
            for dot, expected in sorted(self._expected(world).items()):
                if expected != EITHER and (dot in held[name]) != (expected == PARKED):
                    world.verdict.safety(_ALIKE, f"{name}: {dot} was to be {expected}")
            for each in world.cluster[name].disk.store.parked(100_000):
                if not each.reason:
                    world.verdict.safety("what is parked has a reason", f"{name}: {each[:3]}")
        client = world.client("hostile-last")
        for name in world.names:
            client.region = name
            if (await client.put("profile", "after", {"name": name})).state != "acked":
                world.verdict.fail(
                    LivenessViolation("hostile entries stop nothing", f"{name} takes no write")
                )

    def _send(self, world: World, region: Region, random: Random, stored: int) -> None:
        """Put one absurd entry into the group commit; a write that stands there already may take its number."""
        if not region.startup_check.knows_its_own or region.gates.closed:
            return
        seq = region.vector.get(region.name, 0) + 1
        context = {**region.vector, region.name: seq - 1}
        drawn = [
            _KINDS[kind](random, region.name)
            for kind in random.sample(sorted(_KINDS), random.choice((1, 1, 2, 5)))
        ]
        changes = list({(each[0].collection, each[0].key): each for each in drawn}.values())
        entry = Entry(
            region.name,
            Seq(seq),
            Stamp(max(region.clock.now(), stored + 1)),
            5,
            context,
            tuple(change for change, _ in changes),
        )
        frame = _misshapen(random, entry) if random.random() < 0.1 else encode_frame(entry)
        try:
            encoded = list(decode_frames(frame))
        except ReplicationError:
            self._refused += 1  # as a link would
            return
        unreadable = encoded[0].entry.changes != entry.changes
        self._sent.append(
            (encoded[0].entry, [PARKED] if unreadable else [expected for _, expected in changes])
        )
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
            if world.journal.entries.get((entry.origin, entry.seq)) == entry
            for number, expected in enumerate(expectations)
        }


def _misshapen(random: Random, entry: Entry) -> bytes:
    """The entry as bytes, with a part of it of another type or beyond all bounds."""
    parts: list[object] = list(msgspec.to_builtins(entry, builtin_types=(bytes,)))
    at, what = random.choice((
        (6, [5]), (6, [["profile"]]), (6, {"a": 1}), (6, "none"), (6, [[1, 2, 3, 4]]), (6, 7),
        (1, ""), (1, 17), (2, 0), (2, -4), (2, 1 << 60), (3, -1), (3, 1 << 63), (4, -1), (4, 1 << 63),
        (5, []), (5, {"tokyo": -1}), (5, {}), (7, 12), (0, 1), (8, -1), (9, [[[["tokyo"], 20, bytes(16)]]]), (9, 3),
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


_KINDS: Mapping[str, Callable[[Random, str], tuple[Change, str]]] = {
    "unknown collection": lambda r, o: (Change("no_such", "k0", 0, {WHOLE: b"{}"}), PARKED),
    "impossible key": lambda r, o: (
        Change(_simple(r), r.choice(("", "x" * 600, "a\x00b", "\ud7ff" * 300)), 0, {WHOLE: b"{}"}),
        PARKED,
    ),
    "no such operation": lambda r, o: (
        Change(_simple(r), _key(r), r.choice((-7, 3, 99, _INT)), {WHOLE: b"{}"}),
        PARKED,
    ),
    "no JSON": lambda r, o: (Change(_simple(r), _key(r), 1, {WHOLE: _value(r)}), PARKED),
    "no JSON in a field": lambda r, o: (Change("cart", _key(r), 1, {"note": b"\xff", WHOLE: b"{}"}), PARKED),
    "wrong types": lambda r, o: (
        Change(
            _simple(r), _key(r), 1, {WHOLE: b'{"name":[17],"title":null,"owner":{"a":1},"mark":2,"more":1}'}
        ),
        MERGED,
    ),
    "wrong types in fields": lambda r, o: (
        Change(
            "cart",
            _key(r),
            1,
            {WHOLE: b'{"x":1}', "note": b"17", "address": b'[{"a":1}]', "labels.a": b'"x"'},
        ),
        MERGED,
    ),
    "huge": lambda r, o: (
        Change("profile", _key(r), 1, {WHOLE: b'{"name":"' + b"x" * (1 << 20) + b'"}'}),
        MERGED,
    ),
    "touch of a simple document": lambda r, o: (Change(_simple(r), _key(r), 1, {TOUCH: b'{"a":1}'}), MERGED),
    "touch with rubbish": lambda r, o: (Change("setting", _key(r), 1, {TOUCH: b"[1,2]"}), MERGED),
    "registers of another version": lambda r, o: (
        Change(r.choice((*_SIMPLE, "cart", "setting")), _key(r), 1, {"colour9": b'"red"', "shapes.a": b"1"}),
        MERGED,
    ),
    "impossible registers": lambda r, o: (
        Change("cart", _key(r), 1, {r.choice((" ", ".", "~~", "a b", "1", "\x00")): b"1"}),
        PARKED,
    ),
    "numbers that no float holds": lambda r, o: (Change("cart", _key(r), 1, {"note": b"1e999"}), PARKED),
    "no delta": lambda r, o: (Change("view", "h0", 1, {}, {"seen": _delta(r, o)}), PARKED),
    "no bounded delta": lambda r, o: (Change("stock", "h0", 1, {}, {"left": _delta(r, o)}), PARKED),
    "no set": lambda r, o: (Change("basket", "h0", 1, {}, {"items": _delta(r, o)}), PARKED),
    "no text": lambda r, o: (Change("note", "h0", 1, {}, {"body": _delta(r, o)}), EITHER),
    "no list": lambda r, o: (Change("note", "h0", 1, {}, {"lines": _delta(r, o)}), EITHER),
    "turned bits": lambda r, o: (Change("view", "h0", 1, {}, {"seen": _mutated(r, o)}), EITHER),
    "delta of no field": lambda r, o: (Change("profile", "h0", 1, {}, {"name": b"\x80"}), PARKED),
    "huge numbers": lambda r, o: (
        Change("view", "h0", 1, {}, {"seen": CounterLattice().encode({o: (2**64 - 1, r.randint(0, 9))})}),
        MERGED,
    ),
    "good and bad at once": lambda r, o: (
        Change("setting", _key(r), 1, {WHOLE: b'{"theme":"bad"}'}, {"uses": _delta(r, o)}),
        PARKED,
    ),
    "settles what it cannot have seen": lambda r, o: (
        Change("profile", _key(r), 1, {WHOLE: b'{"name":"x"}'}, {}, _settled(r, o)),
        PARKED,
    ),
    "settles rubbish": lambda r, o: (
        Change("profile", _key(r), 1, {WHOLE: b'{"name":"x"}'}, {}, _settled(r, o, b"rubbish")),
        PARKED,
    ),
}
