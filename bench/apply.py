"""Entries of a peer, one row each, from the link's frames to durable, against blind upserts in SQLite."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from random import Random
from time import perf_counter

from atoll.documents.mutation import Write
from atoll.region.intake import IntakeOptions
from atoll.region.region import Region
from atoll.replication.beside import beside_loop
from atoll.replication.link import LinkOptions
from atoll.replication.messages import StreamRequest
from atoll.replication.wire import FrameReader, Large, Message
from bench.figures import Figure, Goal
from bench.raw import raw_apply_rate
from bench.regions import LINK_KEY, acquaint, fresh_copy, preload, put_number, region_in, rules_of, run
from bench.rounds import Say, Scale, interleaved, middle

CONFLICTS = 0.01
_BATCH = IntakeOptions().entries_per_commit
_WRITERS = 64


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    loaded = folder / "apply"
    chunks, target = run(_prepare(loaded, scale, say))
    conflicts: list[int] = []

    def theirs() -> tuple[float, float]:
        blind, journalled = (
            raw_apply_rate(folder, _BATCH, scale.seconds / 2, preloaded=scale.preloaded, journal=journal)
            for journal in (False, True)
        )
        return blind.rows_per_second, journalled.rows_per_second

    ours, peers = interleaved(
        scale.rounds,
        say,
        "apply",
        lambda: run(_rate(fresh_copy(loaded), chunks, target, scale.entries, conflicts)),
        theirs,
    )
    details = {"atoll_rounds": ours, "conflicts": conflicts, "entries": scale.entries}
    names = (
        ("apply from a peer, 1% conflicts", "SQLite, blind upserts", Goal("ratio", at_least=0.6)),
        ("", "SQLite, with journal rows too", None),
    )
    return [
        Figure(
            name="apply",
            measure=name,
            unit="entries/s",
            value=middle(ours, float),
            peer=peer,
            peer_value=middle([pair[index] for pair in peers], float),
            goal=goal,
            details={**details, "peer_rounds": [pair[index] for pair in peers]},
        )
        for index, (name, peer, goal) in enumerate(names)
    ]


async def _prepare(folder: Path, scale: Scale, say: Say) -> tuple[list[bytes], dict[str, int]]:
    """A database that has the documents and 1% of writes of its own; and what its peer sends next, unaware."""
    async with region_in(None, "there") as source, region_in(folder) as region:
        for each in (source, region):
            await acquaint(each, ["yonder"])
        await preload(source, scale.preloaded, say)
        await deliver(region, await sent(source, region.vector))
        random = Random("conflicts")
        own = random.sample(range(scale.preloaded), int(scale.preloaded * CONFLICTS))
        rules = rules_of(region)
        for first in range(0, len(own), 100):
            puts = tuple(put_number(rules, number, number + 1) for number in own[first : first + 100])
            await region.write(Write(puts))
        say(f"apply: {scale.entries:,} entries are written at the peer")
        await _write_singly(source, scale)
        return await sent(source, region.vector), dict(source.vector)


async def _write_singly(source: Region, scale: Scale) -> None:
    random = Random("apply")
    rules = rules_of(source)
    left = iter([(random.randrange(scale.preloaded), number) for number in range(scale.entries)])

    async def writer() -> None:
        for number, body in left:
            await source.write(Write((put_number(rules, number, body),)))

    await asyncio.gather(*(writer() for _ in range(_WRITERS)))


async def sent(source: Region, vector: dict[str, int]) -> list[bytes]:
    """The pieces that a link would carry to a region that has seen `vector`."""
    request = StreamRequest("here", dict(vector), (source.name,))
    reader, chunks = FrameReader(LINK_KEY), []
    last, wanted = vector.get(source.name, 0), source.vector[source.name]
    async with aclosing(source.stream(request)) as stream:
        while last < wanted:
            chunk = await anext(stream)
            for found in reader.feed(chunk):
                message = await _read(found)
                if isinstance(message, list):
                    chunks.append(chunk)
                    last = message[-1].entry.seq
    return chunks


async def deliver(region: Region, chunks: list[bytes]) -> None:
    """As `Link` does, with its backpressure."""
    reader, bound = FrameReader(LINK_KEY), LinkOptions().inbox_bytes
    for chunk in chunks:
        await region.backpressure("there", bound)
        for found in reader.feed(chunk):
            message = await _read(found)
            assert isinstance(message, list)
            region.deliver(message, "there")
        await asyncio.sleep(0)


async def _read(found: Message | Large) -> Message:
    return await beside_loop(found.read) if isinstance(found, Large) else found


async def _rate(
    folder: Path, chunks: list[bytes], target: dict[str, int], entries: int, conflicts: list[int]
) -> float:
    async with region_in(folder) as region:
        wanted = {"there": target["there"]}
        started = perf_counter()
        await deliver(region, chunks)
        await region.group_commit.progress.covered(wanted)
        elapsed = perf_counter() - started
        conflicts.append(region.statistics.conflicts.total())
        return entries / elapsed
