"""`python -m bench.traces FILE [FILE ...]`: recorded typing, replayed in regions of this process, durably.

The files are those of github.com/josephg/editing-traces, sequential and concurrent. Every agent of a concurrent trace
has a region. A region hears of the others what the agent had seen, and no more. At the end each region must show the
trace's last content.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
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
"""Edits in one request, at most."""


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
    """A region, and what it has written and heard."""

    def __init__(self, region: Region, rules: Rules, agents: int) -> None:
        self.region = region
        self.entries: list[EncodedEntry] = []
        """Its own, read from the journal as for a link. There may be others than edits, such as events."""
        self.ends: list[int] = []
        """Of each run: how many entries there were after it."""
        self._rules = rules
        self._segment = 0
        self._heard = [0] * agents
        """How many of each agent's entries are here."""

    async def edit(self, edits: Sequence[Splice]) -> None:
        for first in range(0, len(edits), BATCH):
            patches = (
                patch_of(self._rules, "k", {"$splice": {"body": {"at": at, "remove": gone, "insert": new}}})
                for at, gone, new in edits[first : first + BATCH]
            )
            last = (await self.region.write(Write(tuple(patches), brief=True))).receipt.dot
        while not self.entries or self.entries[-1].entry.seq < last.seq:
            for found in await self.region.store.journal(self._segment):
                self._segment = found.id
                if found.segment.origin == last.origin:
                    self.entries += decode_frames(found.segment.body)
        self.ends.append(len(self.entries))

    async def hear(self, agents: Sequence[_Agent], heard: Mapping[int, int]) -> None:
        """Merge so many runs of the others."""
        wanted: dict[str, int] = {}
        for number, runs in heard.items():
            other = agents[number]
            entries = other.entries[self._heard[number] : other.ends[runs - 1] if runs else 0]
            if entries and other is not self:
                self._heard[number] += len(entries)
                self.region.deliver(entries, other.region.name)
                wanted[entries[-1].entry.origin] = entries[-1].entry.seq
        await self.region.group_commit.progress.covered(wanted)


async def replayed(trace: Trace, collection: str, folder: Path | None) -> Replayed:
    """Raises AssertionError where a region ends with another content."""
    names = [f"agent{number}" for number in range(trace.agents)]
    async with AsyncExitStack() as stack:
        agents = []
        for name in names:
            opened = region_in(folder and folder / name, name, _APPLICATION, names)
            region = await stack.enter_async_context(opened)
            agents.append(_Agent(region, region.rules[collection], len(names)))
        started, busy = perf_counter(), process_time()
        for each in trace.runs:
            await agents[each.agent].hear(agents, each.heard)
            await agents[each.agent].edit(each.edits)
        for agent in agents:
            await agent.hear(agents, {number: len(other.ends) for number, other in enumerate(agents)})
        seconds, busy = perf_counter() - started, process_time() - busy
        for agent in agents:
            shown = (await agent.region.read(collection, "k")).value
            assert shown is not None
            assert json.loads(shown)["body"] == trace.content, f"{agent.region.name} shows another content"
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
                it = run(replayed(trace, collection, None if options.memory else Path(folder)))
            print(
                f"{path.name:36} {collection:6} {it.edits:8,} edits in {len(trace.runs):5,} runs "
                f"{it.edits / it.seconds:8,.0f} edits/s {it.edits / it.processor_seconds:8,.0f} per processor second "
                f"{it.journal_bytes / it.edits:7.1f} B/edit"
            )


if __name__ == "__main__":
    main()
