"""Stories as text: commands and what comes of them, run on simulated regions.

A file holds blocks of commands, a line `----` and the expected output, up to an empty line. Lines that begin
with `#` tell the story. Commands:

    regions NAME...                       start a deployment (first command), 50 ms apart; NAME@1 begins with
                                          the first version of the declarations, NAME*2 has two nodes on one
                                          database, which are called NAME/1 and NAME/2 wherever a region is named
    put REGION COLLECTION KEY JSON        write a whole document; as SESSION at the end follows a session
    patch REGION COLLECTION KEY JSON      write with operators
    delete REGION COLLECTION KEY
    read REGION COLLECTION KEY [as SESSION]
    batch REGION COLLECTION KEY JSON ; COLLECTION KEY JSON ...
    partition NAME... / NAME...           cut all paths between groups; `heal` makes all well
    cut NAME NAME                         cut one pair, both ways
    notices NAME SECONDS|lost             so much later a region's nodes hear of each other's commits, or not at
                                          all; each asks once a second by itself
    pause NAME SECONDS                    a stopped process
    pulls NAME                            which nodes of a region pull from which peers
    crash NAME · restart NAME             kill -9, and start again on what its disk kept
    upgrade NAME VERSION                  restart with another version of the declarations
    lose NAME                             kill -9, and an empty disk in the place of the old one
    copy NAME · restore NAME              keep a copy of a disk · kill -9, and start on the copy
    truncate NAME                         cut its journal down to the newest segment
    craft REGION JSON                     an entry that no honest region would write: {"collection", "key",
                                          "operation", "registers": {name: text}}
    disk NAME full|well                   · clock NAME MILLISECONDS (a step)
    wait SECONDS · settle [SECONDS]       let virtual time pass; until all regions agree
    show COLLECTION KEY                   what each region shows
    parked                                the changes that regions could not merge
    conflicts [COLLECTION [KEY]]          the audit, and whether all regions have the same
"""

from __future__ import annotations

import asyncio
import copy
import shlex
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple

import msgspec

from atoll.causality import vector as vectors
from atoll.causality.types import Seq
from atoll.documents.entry import Change, Entry, decode_frames, encode_frame
from atoll.documents.mutation import Delete, Mutation, Write, patch_of, put_of
from atoll.documents.rules import Rules
from atoll.errors import AtollError
from atoll.region.reading import ReadOptions
from atoll.schema.application import Application
from atoll.simulation.application import built_in
from atoll.simulation.runner import rules_of
from atoll.testing.cluster import Cluster, NotSettled
from atoll.testing.virtual_time import VirtualLoop


class Block(NamedTuple):
    """Commands with the story before them, and what they print."""

    story: list[str]
    commands: list[str]
    output: list[str]


def parse(text: str) -> list[Block]:
    """The blocks of a scenario file."""
    blocks: list[Block] = []
    story: list[str] = []
    commands: list[str] = []
    output: list[str] | None = None
    for line in [*text.splitlines(), ""]:
        if output is not None:
            if line:
                output.append(line)
            else:
                blocks.append(Block(story, commands, output))
                story, commands, output = [], [], None
        elif line == "----":
            output = []
        elif line.startswith("#") or not line:
            story.append(line)
        else:
            commands.append(line)
    return blocks


def written(blocks: list[Block]) -> str:
    """A scenario file of blocks."""
    return "\n".join("\n".join([*b.story, *b.commands, "----", *b.output, ""]) for b in blocks)


def play(blocks: list[Block], application: Application) -> list[Block]:
    """The same blocks with what really came out."""
    loop = VirtualLoop()
    return loop.run_simulation(_play(blocks, application))


async def _play(blocks: list[Block], application: Application) -> list[Block]:
    stage = Stage(application)
    played = []
    for block in blocks:
        output = [line for command in block.commands for line in await stage.perform(command)]
        played.append(Block(block.story, block.commands, output or ["ok"]))
    return played


class Stage:
    """Performs one command after the other."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self.rules = rules_of(application)
        self._cluster: Cluster | None = None
        self._commands = (self, _Documents(self), _Faults(self), _Looks(self))

    @property
    def cluster(self) -> Cluster:
        if self._cluster is None:
            raise ValueError("a scenario begins with: regions NAME...")
        return self._cluster

    async def perform(self, command: str) -> list[str]:
        """Lines of output. Raises ValueError for a command that there is not."""
        verb, _, rest = command.partition(" ")
        for commands in self._commands:
            act: Callable[[str], Coroutine[Any, Any, list[str] | None]] | None
            act = getattr(commands, f"_do_{verb}", None)
            if act is not None:
                return await act(rest) or []
        raise ValueError(f"no such command: {command}")

    async def _do_regions(self, rest: str) -> None:
        given = [each.partition("*") for each in rest.split()]
        named = [name.partition("@") for name, _, _ in given]
        self._cluster = Cluster(
            self._application,
            [name for name, _, _ in named],
            seed="scenario",
            nodes={name: int(count or 1) for (name, _, _), (_, _, count) in zip(named, given, strict=True)},
        )
        for name, _, version in named:
            for node in self._cluster.of(name) if version else ():
                node.application = built_in(int(version))
        self._cluster.start()
        await asyncio.sleep(1.0)


class _Documents:
    """Commands of clients, and of those who craft entries."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._sessions: dict[str, dict[str, int]] = {}

    async def _do_put(self, rest: str) -> list[str]:
        region, collection, key, body, session = _document(rest)
        return await self._write(
            region, session, put_of(self._rules_in(region, collection), key, body.encode())
        )

    async def _do_patch(self, rest: str) -> list[str]:
        region, collection, key, body, session = _document(rest)
        patch = patch_of(self._rules_in(region, collection), key, msgspec.json.decode(body))
        return await self._write(region, session, patch)

    async def _do_delete(self, rest: str) -> list[str]:
        region, collection, key, _, session = _document(rest)
        return await self._write(region, session, Delete(collection, key))

    async def _do_batch(self, rest: str) -> list[str]:
        region, _, writes = rest.partition(" ")
        mutations = []
        for part in writes.split(" ; "):
            _, collection, key, body, _ = _document(f"{region} {part}")
            mutations.append(put_of(self._stage.rules[collection], key, body.encode()))
        return await self._write(region, None, *mutations)

    async def _do_read(self, rest: str) -> list[str]:
        region, collection, key, _, session = _document(rest)
        token = self._sessions.get(session or "", {})
        options = ReadOptions(None if session is None else "session", token)
        try:
            reading = await self._stage.cluster[region].ask(lambda node: node.read(collection, key, options))
        except AtollError as error:
            return [f"{type(error).__name__}: {error.message}"]
        if session is not None:
            self._sessions[session] = vectors.merge(token, reading.vector)
        return [f"{reading.region}: {_text(reading.value)}"]

    async def _do_craft(self, rest: str) -> list[str]:
        name, _, text = rest.partition(" ")
        region, said = self._stage.cluster.region(name), msgspec.json.decode(text)
        registers = {register: value.encode() for register, value in said["registers"].items()}
        change = Change(said["collection"], said["key"], said["operation"], registers)
        seq = Seq(region.vector.get(name, 0) + 1)
        entry = Entry(name, seq, region.clock.now(), 5, {**region.vector, name: seq - 1}, (change,))
        region.deliver(list(decode_frames(encode_frame(entry))), name)
        await region.group_commit.progress.covered({name: seq})
        return [f"{name}:{seq}"]

    def _rules_in(self, region: str, collection: str) -> Rules:
        """By the declarations of the region that takes the write."""
        running = self._stage.cluster[region].region
        return (self._stage.rules if running is None else running.rules)[collection]

    async def _write(self, region: str, session: str | None, *mutations: Mutation) -> list[str]:
        token = self._sessions.get(session or "", {})
        try:
            reply = await self._stage.cluster[region].ask(lambda node: node.write(Write(mutations), token))
        except AtollError as error:
            return [f"{type(error).__name__}: {error.message}"]
        if session is not None:
            self._sessions[session] = vectors.merge(token, reply.vector)
        return [f"{reply.receipt.region}:{reply.receipt.seq}"]


class _Faults:
    """Commands that break something, and mend it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._copies: dict[str, Any] = {}

    async def _do_partition(self, rest: str) -> None:
        self._stage.cluster.partition(*(group.split() for group in rest.split("/")))

    async def _do_cut(self, rest: str) -> None:
        one, other = rest.split()
        self._stage.cluster.network.cut(one, other)
        self._stage.cluster.network.cut(other, one)

    async def _do_heal(self, rest: str) -> None:
        self._stage.cluster.heal()

    async def _do_crash(self, rest: str) -> None:
        self._stage.cluster.kill(rest)

    async def _do_restart(self, rest: str) -> None:
        self._stage.cluster.restart(rest)

    async def _do_notices(self, rest: str) -> None:
        name, late = rest.split()
        faults = self._stage.cluster[name].disk.faults
        faults.untold, faults.told_late_s = (1.0, 0.0) if late == "lost" else (0.0, float(late))

    async def _do_pause(self, rest: str) -> None:
        name, seconds = rest.split()
        for node in self._stage.cluster.of(name):
            if node.life is not None:
                node.life.occupy(float(seconds))

    async def _do_upgrade(self, rest: str) -> None:
        name, version = rest.split()
        self._stage.cluster.upgrade(name, built_in(int(version)))
        await asyncio.sleep(1.0)

    async def _do_lose(self, rest: str) -> None:
        self._stage.cluster.lose_disk(rest)

    async def _do_copy(self, rest: str) -> None:
        self._copies[rest] = copy.deepcopy(self._stage.cluster[rest].disk.medium.store)

    async def _do_restore(self, rest: str) -> None:
        self._stage.cluster.kill(rest)
        self._stage.cluster[rest].disk.medium.store = self._copies[rest]
        self._stage.cluster.restart(rest)

    async def _do_truncate(self, rest: str) -> list[str]:
        return [f"{rest} cut {self._stage.cluster[rest].disk.store.truncate(1 << 60)} segments"]

    async def _do_disk(self, rest: str) -> None:
        name, state = rest.split()
        self._stage.cluster[name].disk.faults.refusal = "no space left on device" if state == "full" else ""

    async def _do_clock(self, rest: str) -> None:
        name, ms = rest.split()
        self._stage.cluster[name].clock.step(int(ms))


class _Looks:
    """Commands that look, and wait for something to look at."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def _do_pulls(self, rest: str) -> list[str]:
        lines = []
        for node in self._stage.cluster.of(rest):
            region = node.region
            held = [] if region is None else [peer for peer in region.links if region.holds(peer)]
            lines.append(f"{node.name}: {' '.join(held) or ('down' if region is None else 'nobody')}")
        return lines

    async def _do_parked(self, rest: str) -> list[str]:
        lines = [
            f"{name}: {each.origin}:{each.seq} {each.reason}"
            for name in self._stage.cluster.names
            for each in self._stage.cluster[name].disk.store.parked()
        ]
        return lines or ["none"]

    async def _do_show(self, rest: str) -> list[str]:
        collection, key = rest.split()
        rows = {
            name: self._stage.cluster[name].disk.store.get(collection, key)
            for name in self._stage.cluster.names
            if collection in self._stage.cluster[name].application.collections
        }
        return [f"{name}: {_text(None if row is None else row.value)}" for name, row in rows.items()]

    async def _do_conflicts(self, rest: str) -> list[str]:
        wanted = rest.split()
        audits = {name: self._stage.cluster.audit(name) for name in self._stage.cluster.names}
        first = self._stage.cluster.names[0]
        lines: list[str] = []
        for body in sorted(audits[first].values()):
            record = msgspec.json.decode(body)
            if [record["collection"], record["key"]][: len(wanted)] == wanted:
                lines.extend(_told(record))
        same = all(audit == audits[first] for audit in audits.values())
        return [*(lines or ["none"]), "the same in every region" if same else "regions differ"]

    async def _do_wait(self, rest: str) -> None:
        await asyncio.sleep(float(rest))

    async def _do_settle(self, rest: str) -> list[str] | None:
        try:
            await self._stage.cluster.settle(float(rest or 30))
        except NotSettled as error:
            return [f"not resolved {error}"]
        return None


def _document(rest: str) -> tuple[str, str, str, str, str | None]:
    """region, collection, key, JSON text, session."""
    session = None
    if " as " in rest and not rest.rstrip().endswith("}"):
        rest, _, session = rest.rpartition(" as ")
    region, collection, key, *body = rest.split(" ", 3)
    return region, collection, shlex.split(key)[0], body[0] if body else "", session


def _text(value: bytes | None) -> str:
    return "absent" if value is None else value.decode()


def _told(record: dict[str, Any]) -> Iterator[str]:
    where = f"{record['collection']}/{record['key']}" + (f".{record['field']}" if record["field"] else "")
    yield f"{record['kind']} on {where}: {record['status']}, {record['strategy']}, {record['outcome']}"
    for side in ("losing", "winning"):
        which = record[side]
        value = msgspec.json.encode(which["value"]).decode()
        yield f"  {side} {which['region']}:{which['seq']} {which['operation']} {value}"
    if record["resolved_by"] is not None:
        _, region, seq = record["resolved_by"]
        yield f"  resolved by {region}:{seq}"
