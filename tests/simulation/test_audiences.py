"""An entry with a section for some regions, written by hand: no declaration restricts anything yet."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
import zstandard

from atoll.backup.archive import ArchiveReader, ArchiveWriter, Header
from atoll.documents.entry import (
    Change,
    EncodedEntry,
    Entry,
    Restricted,
    audience_of,
    decode_frames,
    encode_frame,
)
from atoll.documents.mutation import Write, put_of
from atoll.replication import wire
from atoll.replication.messages import EntryCall, EntryReply, SnapshotCall, SnapshotPlace, SnapshotReply
from atoll.simulation.application import built_in
from atoll.store.sqlite.store import open_sqlite
from atoll.testing import Cluster, NotSettled, simulated
from atoll.testing.network import Path as NetworkPath

SECRET = b"ffe3b0c44298fc1c149afbf4c8996fb92427ae41"
OPEN = b"a1fce4363854ff888cff4b8e7875d600c2682390"
INSIDE, OUTSIDE = ("frankfurt", "tokyo"), "virginia"


class Wiretap:
    """All that every region is sent. Frames are small, so links send them uncompressed."""

    def __init__(self, cluster: Cluster) -> None:
        self.heard: dict[str, bytearray] = {name: bytearray() for name in cluster.names}
        self._cluster = cluster
        self._send = cluster.network.send
        cluster.network.send = self.send  # type: ignore[method-assign]  # only to listen

    def send(self, path: NetworkPath, message: bytes) -> float:
        path_of = self._cluster.network.path
        (target,) = (to for source, to in self._cluster.pairs() if path_of(source, to) is path)
        self.heard[target] += message
        return self._send(path, message)


async def started(monkeypatch: pytest.MonkeyPatch) -> tuple[Cluster, Wiretap]:
    monkeypatch.setattr(wire, "_COMPRESS_FROM_BYTES", 1 << 40)
    cluster = Cluster(built_in(), (*INSIDE, OUTSIDE), seed=7, files=True)
    tap = Wiretap(cluster)
    cluster.start()
    await asyncio.sleep(1)
    return cluster, tap


async def put(cluster: Cluster, region: str, key: str, name: bytes = b"x") -> dict[str, int]:
    body = b'{"name":"' + name + b'"}'

    async def write(found: object) -> dict[str, int]:
        here = cluster.region(region)
        reply = await here.write(Write((put_of(here.rules["profile"], key, body),)))
        return dict(reply.vector)

    return await cluster[region].ask(write)


async def put_restricted(cluster: Cluster) -> int:
    """In tokyo's journal, between its other entries: one document for all, one for tokyo and frankfurt only."""
    tokyo = cluster.region("tokyo")
    changes = [
        Change("profile", key, 0, {"": b'{"name":"' + name + b'","age":1}'})
        for key, name in (("open", OPEN), ("secret-key", SECRET))
    ]
    seq = tokyo.vector.get("tokyo", 0) + 1
    context = {**tokyo.vector, "tokyo": seq - 1}
    entry = Entry("tokyo", seq, tokyo.clock.now(), 5, context, (changes[0],))
    frame = encode_frame(entry, [Restricted(audience_of(*INSIDE), (changes[1],), bytes(range(16)))])
    tokyo.deliver(list(decode_frames(frame)), "tokyo")
    while tokyo.vector["tokyo"] < seq:  # noqa: ASYNC110 — virtual time
        await asyncio.sleep(0.01)
    return seq


async def journal(cluster: Cluster, region: str) -> list[EncodedEntry]:
    numbered = await cluster.region(region).store.journal(0, limit=1000)
    return [each for _, segment in numbered for each in decode_frames(segment.body)]


def folder(cluster: Cluster, region: str) -> Path:
    return cluster[region].disk.medium._folder


def files(cluster: Cluster, region: str) -> bytes:
    """Every byte that the region has on its disk."""
    return b"".join(path.read_bytes() for path in sorted(folder(cluster, region).iterdir()))


async def backup(cluster: Cluster, region: str) -> bytes:
    """The archive, and what is in it uncompressed."""
    file = io.BytesIO()
    writer = ArchiveWriter(file, Header("simulation", region, 1, "0"))
    store = open_sqlite(folder(cluster, region), region=region, deployment="simulation", read_only=True)
    async for chunk in store.contents():
        writer.chunk(chunk)
    await store.close()
    writer.end()
    read = ArchiveReader(io.BytesIO(file.getvalue()), Path("backup"))
    return file.getvalue() + b"".join(repr(chunk).encode() for chunk in read.chunks())


async def snapshot(cluster: Cluster, region: str) -> bytes:
    """All pages that the region would hand out, and the entries that tokyo would hand out to it."""
    pages = b""
    for source in ("tokyo", region):
        has = cluster.region(source).vector
        for place in (SnapshotPlace(), SnapshotPlace("entries", until=has)):
            following: SnapshotPlace | None = place
            while following is not None and following.since != has:
                page = await cluster.region(source).answer(SnapshotCall(following, region))
                assert isinstance(page, SnapshotReply)
                if source == region or place.part == "entries":  # documents carry no audience
                    pages += page.content + zstandard.ZstdDecompressor().decompress(page.content)
                following = page.next
            assert place.part == "documents" or following is not None
    return pages


async def digests(cluster: Cluster, seq: int) -> set[bytes | None]:
    found = set()
    for name in cluster.names:
        reply = await cluster.region(name).answer(EntryCall("tokyo", seq))
        assert isinstance(reply, EntryReply)
        found.add(reply.digest)
    return found


async def check(cluster: Cluster, tap: Wiretap, seq: int) -> None:
    """Each region has what it may have, all of it and nothing else."""
    for name in cluster.names:
        inside = name in INSIDE
        places = {
            "files": files(cluster, name),
            "backup": await backup(cluster, name),
            "snapshot": await snapshot(cluster, name),
            "shown": repr(cluster.shown(name)).encode(),
        }
        if name != "tokyo":
            places["stream"] = bytes(tap.heard[name])
        for place, data in places.items():
            assert OPEN in data, (name, place)
            for text in (SECRET, b"secret-key"):
                assert (text in data) == inside, (name, place, text)
        entries = await journal(cluster, name)
        own = [each for each in entries if each.entry.origin == "tokyo"]
        assert [each.entry.seq for each in own] == list(range(1, len(own) + 1)), name
        (found,) = (each for each in own if each.entry.seq == seq)
        assert len(found.entry.changes) == (2 if inside else 1), name
        assert found.withheld == (() if inside else (INSIDE,)), name
        vector: dict[str, int] = {}
        for each in entries:
            assert all(vector.get(o, 0) >= s for o, s in each.entry.context.items()), (name, each.entry)
            vector[each.entry.origin] = each.entry.seq
    assert len(await digests(cluster, seq)) == 1
    assert None not in await digests(cluster, seq)


def test_a_region_outside_an_audience_gets_none_of_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        cluster, tap = await started(monkeypatch)
        await put(cluster, "tokyo", "before")
        seq = await put_restricted(cluster)
        after = await put(cluster, "tokyo", "after")
        assert after["tokyo"] > seq
        await cluster.settle(30)
        await put(cluster, OUTSIDE, "answer")
        await cluster.settle(30)
        await check(cluster, tap, seq)
        cluster.close()

    simulated(scenario)


def test_a_relay_inside_withholds_it_from_one_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        cluster, tap = await started(monkeypatch)
        cluster.network.cut("tokyo", OUTSIDE)
        cluster.network.cut(OUTSIDE, "tokyo")
        await put(cluster, "tokyo", "before")
        seq = await put_restricted(cluster)
        await put(cluster, "tokyo", "after")
        await cluster.settle(30)
        assert cluster.region(OUTSIDE).links["frankfurt"].status.relays == ("tokyo",)
        await check(cluster, tap, seq)
        cluster.close()

    simulated(scenario)


def test_a_relay_outside_passes_nothing_on_halfway(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        cluster, tap = await started(monkeypatch)
        cluster.network.cut("tokyo", "frankfurt")
        cluster.network.cut("frankfurt", "tokyo")
        before = await put(cluster, "tokyo", "before")
        seq = await put_restricted(cluster)
        await put(cluster, "tokyo", "after")
        await asyncio.sleep(10)
        assert cluster.region(OUTSIDE).vector["tokyo"] > seq
        seen = await put(cluster, OUTSIDE, "answer")
        with pytest.raises(NotSettled):
            await cluster.settle(10)
        # What came before is here; the entry and what has seen it wait for the one who can send all of it.
        frankfurt = cluster.region("frankfurt")
        assert before["tokyo"] <= frankfurt.vector["tokyo"] < seq
        assert frankfurt.vector.get(OUTSIDE, 0) < seen[OUTSIDE]
        assert frankfurt.links[OUTSIDE].status.refused == 0
        assert not {("profile", "open"), ("profile", "secret-key")} & cluster.shown("frankfurt").keys()
        cluster.heal()
        await cluster.settle(30)
        await check(cluster, tap, seq)
        cluster.close()

    simulated(scenario)
