"""`python -m bench.traces FILE [FILE ...]`: recorded typing, replayed in regions of this process, durably.

The files are those of github.com/josephg/editing-traces, sequential and concurrent. Every agent of a concurrent trace
has a region. A region hears of the others what the agent had seen, and no more. At the end each region must show the
trace's last content.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

from atoll import Collection, Text
from atoll.documents.entry import EncodedEntry, decode_frames
from atoll.documents.mutation import Write, patch_of
from atoll.documents.rules import Rules
from atoll.region.region import Region
from atoll.schema.application import application_of
from bench.regions import region_in, run

BATCH = 100
"""Edits in one request, and in requests that do not wait for each other, at most."""


class Paper(Collection):
    body: Text


class Sheet(Collection, resolve="merge"):
    body: Text


_APPLICATION = application_of(Paper, Sheet, name="bench")
Splice = tuple[int, int, str]
"""Position in code points, how many go, and what comes."""


@dataclass
class Run:
    """Edits of one agent in a row, between which it heard nothing and nobody heard of it."""

    agent: int
    heard: dict[int, int] = field(default_factory=dict)
    """Other agent → how many of its runs this one had seen."""
    edits: list[Splice] = field(default_factory=list)


class Trace(NamedTuple):
    agents: int
    runs: list[Run]
    content: str


class Replayed(NamedTuple):
    edits: int
    seconds: float
    processor_seconds: float
    """Of all regions together: they share this process."""
    journal_bytes: int
    """Of all regions."""


def trace_of(path: Path) -> Trace:
    """Read a trace, gzipped or not."""
    data = path.read_bytes()
    return parsed(json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data))


def parsed(trace: dict[str, Any]) -> Trace:
    txns = trace["txns"]
    if trace.get("kind") != "concurrent":
        return Trace(
            1, [Run(0, edits=[tuple(p[:3]) for txn in txns for p in txn["patches"]])], trace["endContent"]
        )
    agents = [txn["agent"] for txn in txns]
    heard = {p for i, txn in enumerate(txns) for p in txn["parents"] if agents[p] != agents[i]}
    runs: list[Run] = []
    open_runs: dict[int, Run] = {}
    done = [0] * trace["numAgents"]
    ends: list[dict[int, int]] = []  # agent → its runs that are seen after this transaction
    for number, txn in enumerate(txns):
        agent = txn["agent"]
        seen: dict[int, int] = {}
        for parent in txn["parents"]:
            for other, count in ends[parent].items():
                seen[other] = max(seen.get(other, 0), count)
        current = open_runs.get(agent)
        if current is None or any(agents[parent] != agent for parent in txn["parents"]):
            others = {other: count for other, count in seen.items() if other != agent}
            open_runs[agent] = current = Run(agent, others)
            runs.append(current)
            done[agent] += 1
        current.edits += [tuple(patch[:3]) for patch in txn["patches"]]
        ends.append({**seen, agent: done[agent]})
        if number in heard:
            del open_runs[agent]
    return Trace(trace["numAgents"], runs, trace["endContent"])


class _Agent:
    """On a disk its region has a thread of its own, as it would have a machine: the fsyncs of two regions overlap."""

    def __init__(self, number: int, runs: Sequence[Run]) -> None:
        self.name = f"agent{number}"
        self.entries: list[EncodedEntry] = []
        """Its own, read from the journal as for a link. There may be others than edits, such as events."""
        self.runs = runs
        self.ends: list[Future[int]] = [Future() for _ in runs]
        """Of each run, once it is durable: how many entries there were after it."""

    def fail(self, error: BaseException) -> None:
        """Let nobody wait for what does not come."""
        for end in self.ends:
            if not end.done():
                end.set_exception(error)


class _Player:
    """Types what an agent typed, once its region has heard what the agent had heard."""

    def __init__(self, agents: Sequence[_Agent], agent: _Agent, region: Region, rules: Rules) -> None:
        self._agents = agents
        self._agent = agent
        self._region = region
        self._rules = rules
        self._segment = 0
        self._done = 0
        """How many of its runs are durable."""
        self._heard = [0] * len(agents)
        """How many of each agent's entries are here."""
        self._typed: list[tuple[Sequence[Splice], bool]] = []
        """Requests that were not sent yet, and whether a run ends with it."""

    async def play(self) -> None:
        for each in self._agent.runs:
            await self._hear(each.heard)
            for first in range(0, len(each.edits), BATCH):
                edits = each.edits[first : first + BATCH]
                if sum(len(typed) for typed, _ in self._typed) + len(edits) > BATCH:
                    await self._send()
                self._typed.append((edits, first + BATCH >= len(each.edits)))
        await self._send()
        await self._hear({number: len(other.runs) for number, other in enumerate(self._agents)})

    async def _send(self) -> None:
        """What was typed since anything was heard, in requests that do not wait for each other."""
        typed, self._typed = self._typed, []
        if not typed:
            return
        receipts = await asyncio.gather(*(self._region.write(self._write(edits)) for edits, _ in typed))
        last, entries = receipts[-1].receipt.dot, self._agent.entries
        while not entries or entries[-1].entry.seq < last.seq:
            for found in await self._region.store.journal(self._segment):
                self._segment = found.id
                if found.segment.origin == last.origin:
                    entries += decode_frames(found.segment.body)
        for written, (_, ends) in zip(receipts, typed, strict=True):
            if ends:
                self._agent.ends[self._done].set_result(written.receipt.dot.seq - entries[0].entry.seq + 1)
                self._done += 1

    def _write(self, edits: Sequence[Splice]) -> Write:
        patches = (
            patch_of(self._rules, "k", {"$splice": {"body": {"at": at, "remove": gone, "insert": new}}})
            for at, gone, new in edits
        )
        return Write(tuple(patches), brief=True)

    async def _hear(self, heard: Mapping[int, int]) -> None:
        """Merge so many runs of the others."""
        news: list[tuple[_Agent, list[EncodedEntry]]] = []
        for number, runs in heard.items():
            other = self._agents[number]
            if other is self._agent or runs == 0:
                continue
            end = other.ends[runs - 1]
            if not end.done():
                await self._send()
            until = await asyncio.wrap_future(end)
            if until > self._heard[number]:
                news.append((other, other.entries[self._heard[number] : until]))
                self._heard[number] = until
        if news:
            # What was typed before is of a text without them.
            await self._send()
            for other, entries in news:
                self._region.deliver(entries, other.name)
            wanted: dict[str, int] = {entries[-1].entry.origin: entries[-1].entry.seq for _, entries in news}
            await self._region.group_commit.progress.covered(wanted)


async def _played(agents: Sequence[_Agent], agent: _Agent, collection: str, folder: Path | None) -> str:
    """What the agent's region shows in the end."""
    names = [each.name for each in agents]
    try:
        async with region_in(folder and folder / agent.name, agent.name, _APPLICATION, names) as region:
            await _Player(agents, agent, region, region.rules[collection]).play()
            shown = (await region.read(collection, "k")).value
    except BaseException as error:
        agent.fail(error)
        raise
    assert shown is not None
    body: str = json.loads(shown)["body"]
    return body


def replayed(trace: Trace, collection: str, folder: Path | None) -> Replayed:
    """In memory where there is no folder. Raises AssertionError where a region ends with another content."""
    agents = [
        _Agent(number, [each for each in trace.runs if each.agent == number])
        for number in range(trace.agents)
    ]

    async def together() -> list[str]:
        return await asyncio.gather(*(_played(agents, agent, collection, None) for agent in agents))

    started, busy = perf_counter(), process_time()
    if folder is None:
        shown = run(together())
    else:
        with ThreadPoolExecutor(len(agents)) as threads:
            shown = list(threads.map(lambda agent: run(_played(agents, agent, collection, folder)), agents))
    seconds, busy = perf_counter() - started, process_time() - busy
    for agent, content in zip(agents, shown, strict=True):
        assert content == trace.content, f"{agent.name} shows another content"
    frames = sum(len(entry.frame) for agent in agents for entry in agent.entries)
    return Replayed(sum(len(each.edits) for each in trace.runs), seconds, busy, frames)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.traces", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument(
        "--memory", action="store_true", help="keep nothing, to see the work without the disk's"
    )
    options = parser.parse_args(arguments)
    for path in options.files:
        trace = trace_of(path)
        for collection in _APPLICATION.collections:
            with tempfile.TemporaryDirectory() as folder:
                it = replayed(trace, collection, None if options.memory else Path(folder))
            print(
                f"{path.name:36} {collection:6} {it.edits:8,} edits in {len(trace.runs):5,} runs "
                f"{it.edits / it.seconds:8,.0f} edits/s {it.edits / it.processor_seconds:8,.0f} per processor second "
                f"{it.journal_bytes / it.edits:7.1f} B/edit"
            )


if __name__ == "__main__":
    main()
