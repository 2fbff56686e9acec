"""Regions to measure inside this process; `bench.served` has those with a process of their own."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import uvloop

from atoll.causality.clock import pack
from atoll.causality.origin import Origin
from atoll.causality.types import RegionName, Seq
from atoll.documents.entry import EncodedEntry, Entry, encode_frame
from atoll.documents.mutation import Put, Write, put_of
from atoll.documents.rules import Rules
from atoll.errors import RegionUnreachable
from atoll.node.node import unix_ms
from atoll.region.options import RegionOptions
from atoll.region.region import Region
from atoll.region.site import Site
from atoll.replication.messages import Call, Reply, StreamRequest
from atoll.schema.application import Application, application_of
from atoll.store.memory.store import MemoryStore
from atoll.store.sqlite.store import open_sqlite
from bench.documents import document_body, document_key
from bench.record import Record
from bench.rounds import Say

T = TypeVar("T")

APPLICATION = application_of(Record, name="bench")
(COLLECTION,) = APPLICATION.collections
PREFIX = f"/v1/{COLLECTION}/"
REGIONS = ("here", "there", "yonder")
LINK_KEY = bytes(32)
_DOCUMENTS_PER_WRITE = 500


class NoPeers:
    """A network on which nobody answers, as in a deployment that is cut apart."""

    async def call(self, region: str, call: Call, *, timeout_s: float) -> Reply:
        raise RegionUnreachable(f"{region} is not there", region=region)

    async def stream(self, region: str, request: StreamRequest) -> AsyncGenerator[bytes, None]:
        raise RegionUnreachable(f"{region} is not there", region=region)
        yield b""  # makes this a generator


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a measurement on the event loop that `atoll serve` uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


@asynccontextmanager
async def region_in(
    folder: Path | None,
    name: str = "here",
    application: Application = APPLICATION,
    regions: Sequence[str] = REGIONS,
) -> AsyncIterator[Region]:
    """A started region on the database in `folder`; in memory without one."""
    store = MemoryStore() if folder is None else open_sqlite(folder, region=name, deployment="bench")
    region = Region(
        Site(
            RegionName(name),
            NoPeers(),
            LINK_KEY,
            unix_ms,
            Random(name),
            options=RegionOptions(founding=True, startup_check_s=0.0),  # nobody is there to be heard
        ),
        regions,
        application,
        store,
    )
    await region.start()
    try:
        yield region
    finally:
        await region.stop()
        await store.close()


def rules_of(region: Region) -> Rules:
    return region.rules[COLLECTION]


def put_number(rules: Rules, number: int, body: int | None = None) -> Put:
    """Document `number`, with the body of another where one is given."""
    return put_of(rules, document_key(number), document_body(number if body is None else body))


async def acquaint(region: Region, others: Sequence[str]) -> None:
    """Let the region have seen something of the others, so that contexts have the length of real ones."""
    seen = []
    for other in others:
        entry = Entry(Origin(other), Seq(1), pack(unix_ms()), 0, {}, ())
        seen.append(EncodedEntry(entry, encode_frame(entry)))
    region.deliver(seen, "bench")
    await region.group_commit.progress.covered(dict.fromkeys(others, 1))


async def preload(region: Region, count: int, say: Say) -> None:
    """Write the first `count` documents."""
    rules = rules_of(region)
    for first in range(0, count, _DOCUMENTS_PER_WRITE):
        if first % 20_000 == 0:
            say(f"loading {count:,} documents: {first:,}")
        numbers = range(first, min(first + _DOCUMENTS_PER_WRITE, count))
        await region.write(Write(tuple(put_number(rules, number) for number in numbers)))


def fresh_copy(folder: Path) -> Path:
    """The closed database of `folder` once more, so that every round begins with the same rows.

    It is on the disk on return: else the kernel would write it while the round waits for its own fsyncs.
    """
    copy = folder.with_name(folder.name + "-copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    for path in copy.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    return copy
