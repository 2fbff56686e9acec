"""Stories as text: commands and what comes of them, run on simulated regions.

A file holds blocks of commands, a line `----` and the expected output, up to an empty line. Lines that begin
with `#` tell the story. REGION is a region's name, or one node's name as in `tokyo/2`. The commands are:

- `regions NAME...`: first command; starts regions, 50 ms apart. NAME@1 begins with the first version of the
  declarations. NAME*2 has two nodes on one database.
- `put REGION COLLECTION KEY JSON`: writes a whole document. `as SESSION` at its end follows a session.
- `patch REGION COLLECTION KEY JSON`: writes with operators.
- `delete REGION COLLECTION KEY`
- `read REGION COLLECTION KEY [as SESSION]`
- `batch REGION COLLECTION KEY JSON ; COLLECTION KEY JSON ...`
- `craft REGION JSON`: an entry that no honest region would write. It has `collection`, `key`, `operation` and
  `registers`, as {name: text}.
- `partition NAME... / NAME...`: cuts all paths between groups.
- `cut NAME NAME`: cuts one pair, both ways.
- `heal`: makes all well.
- `notices NAME SECONDS|lost`: how late nodes hear of each other's commits. Each node also asks once a second.
- `pause NAME SECONDS`: a stopped process.
- `crash NAME`: kill -9.
- `restart NAME`: starts again on what its disk kept.
- `upgrade NAME VERSION`: restarts with another version of the declarations.
- `lose NAME`: kill -9, and an empty disk in the place of the old one.
- `copy NAME`: keeps a copy of a disk.
- `restore NAME`: kill -9, and a start on the copy.
- `truncate NAME`: cuts its journal down to the newest segment.
- `disk NAME full|well`
- `clock NAME MILLISECONDS`: a step of a clock.
- `wait SECONDS`: lets virtual time pass.
- `settle [SECONDS]`: waits until all regions agree.
- `show COLLECTION KEY`: what each region shows.
- `pulls NAME`: which nodes of a region pull from which peers.
- `parked`: the changes that regions could not merge.
- `conflicts [COLLECTION [KEY]]`: the audit, and whether all regions have the same.
"""

from __future__ import annotations

import asyncio
import copy
import shlex
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from atoll.causality import vector as vectors
from atoll.causality.types import Seq
from atoll.documents.entry import Change, Entry, decode_frames, encode_frame
from atoll.documents.mutation import Delete, Mutation, Write, patch_of, put_of
from atoll.errors import AtollError
from atoll.region.reading import Reading, ReadOptions
from atoll.region.region import Region
from atoll.replication.messages import WriteReply
from atoll.schema.application import Application
from atoll.schema.policy import Consistency
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
        self.application = application
        self.rules = rules_of(application)
        self.sessions: dict[str, dict[str, int]] = {}
        self.copies: dict[str, Any] = {}
        self._cluster: Cluster | None = None

    @property
    def cluster(self) -> Cluster:
        if self._cluster is None:
            raise ValueError("a scenario begins with: regions NAME...")
        return self._cluster

    async def perform(self, command: str) -> list[str]:
        """Lines of output. Raises ValueError for a command that there is not."""
        verb, _, rest = command.partition(" ")
        words = command.split()
        if verb == "regions":
            return await self._begin(rest)
        if verb in ("put", "patch", "delete", "read"):
            return await self._request(verb, rest)
        if verb == "batch":
            return await self._batch(rest)
        if verb == "craft":
            return await self._craft(rest)
        if await self._change(words):
            return []
        return await self._look(words)

    async def _begin(self, rest: str) -> list[str]:
        given = [each.partition("*") for each in rest.split()]
        named = [(*name.partition("@")[::2], int(count or 1)) for name, _, count in given]
        self._cluster = cluster = Cluster(
            self.application,
            [name for name, _, _ in named],
            seed="scenario",
            nodes={name: count for name, _, count in named},
        )
        for name, version, _ in named:
            for node in cluster.of(name) if version else ():
                node.application = built_in(int(version))
        cluster.start()
        await asyncio.sleep(1.0)
        return []

    async def _request(self, verb: str, rest: str) -> list[str]:
        region, collection, key, body, session = _document(rest)
        if verb == "read":
            level: Consistency | None = None if session is None else "session"
            return await self._ask(
                region, session, lambda node, token: node.read(collection, key, ReadOptions(level, token))
            )
        running = self.cluster[region].region  # it takes the write by its own declarations
        rules = (self.rules if running is None else running.rules)[collection]
        match verb:
            case "put":
                return await self._write(region, session, put_of(rules, key, body.encode()))
            case "patch":
                return await self._write(region, session, patch_of(rules, key, msgspec.json.decode(body)))
        return await self._write(region, session, Delete(collection, key))

    async def _write(self, region: str, session: str | None, *mutations: Mutation) -> list[str]:
        return await self._ask(region, session, lambda node, token: node.write(Write(mutations), token))

    async def _ask(
        self,
        region: str,
        session: str | None,
        work: Callable[[Region, dict[str, int]], Awaitable[Reading | WriteReply]],
    ) -> list[str]:
        token = self.sessions.get(session or "", {})
        try:
            answer = await self.cluster[region].ask(lambda node: work(node, token))
        except AtollError as error:
            return [f"{type(error).__name__}: {error.message}"]
        if session is not None:
            self.sessions[session] = vectors.merge(token, answer.vector)
        if isinstance(answer, Reading):
            return [f"{answer.region}: {_text(answer.value)}"]
        return [str(answer.receipt.dot)]

    async def _batch(self, rest: str) -> list[str]:
        region, _, writes = rest.partition(" ")
        parts = [_document(f"{region} {part}") for part in writes.split(" ; ")]
        mutations = [put_of(self.rules[name], key, body.encode()) for _, name, key, body, _ in parts]
        return await self._write(region, None, *mutations)

    async def _craft(self, rest: str) -> list[str]:
        name, _, text = rest.partition(" ")
        region, said = self.cluster.region(name), msgspec.json.decode(text)
        registers = {register: value.encode() for register, value in said["registers"].items()}
        change = Change(said["collection"], said["key"], said["operation"], registers)
        origin = region.origin
        seq = Seq(region.vector.get(origin, 0) + 1)
        entry = Entry(origin, seq, region.clock.now(), 5, {**region.vector, origin: seq - 1}, (change,))
        region.deliver(list(decode_frames(encode_frame(entry))), name)
        await region.group_commit.progress.covered({origin: seq})
        return [f"{origin}:{seq}"]

    async def _change(self, words: list[str]) -> bool:
        """Break something, mend it, or wait. Returns False for a command that does none of these."""
        cluster = self.cluster
        match words:
            case ["partition", *names]:
                cluster.partition(*(group.split() for group in " ".join(names).split("/")))
            case ["cut", one, other]:
                cluster.network.cut(one, other)
                cluster.network.cut(other, one)
            case ["heal"]:
                cluster.heal()
            case ["crash", name]:
                cluster.kill(name)
            case ["restart", name]:
                cluster.restart(name)
            case ["notices", name, late]:
                faults = cluster[name].disk.faults
                faults.untold, faults.told_late_s = (1.0, 0.0) if late == "lost" else (0.0, float(late))
            case ["pause", name, seconds]:
                for node in cluster.of(name):
                    if node.life is not None:
                        node.life.occupy(float(seconds))
            case ["upgrade", name, version]:
                cluster.upgrade(name, built_in(int(version)))
                await asyncio.sleep(1.0)
            case ["lose", name]:
                cluster.lose_disk(name)
            case ["copy", name]:
                self.copies[name] = copy.deepcopy(cluster[name].disk.medium.store)
            case ["restore", name]:
                cluster.kill(name)
                cluster[name].disk.medium.store = self.copies[name]
                cluster.restart(name)
            case ["disk", name, state]:
                cluster[name].disk.faults.refusal = "no space left on device" if state == "full" else ""
            case ["clock", name, ms]:
                cluster[name].clock.step(int(ms))
            case ["wait", seconds]:
                await asyncio.sleep(float(seconds))
            case _:
                return False
        return True

    async def _look(self, words: list[str]) -> list[str]:
        cluster = self.cluster
        match words:
            case ["settle", *seconds]:
                try:
                    await cluster.settle(float(seconds[0]) if seconds else 30)
                except NotSettled as error:
                    return [f"not resolved {error}"]
                return []
            case ["truncate", name]:
                return [f"{name} cut {cluster[name].disk.store.truncate(1 << 60)} segments"]
            case ["pulls", name]:
                return [
                    f"{node.name}: {' '.join(node.pulled) or ('nobody' if node.running else 'down')}"
                    for node in cluster.of(name)
                ]
            case ["parked"]:
                return [
                    f"{name}: {each.origin}:{each.seq} {each.reason}"
                    for name in cluster.names
                    for each in cluster[name].disk.store.parked()
                ] or ["none"]
            case ["show", collection, key]:
                return [
                    f"{name}: {_text(self._shown(name, collection, key))}"
                    for name in cluster.names
                    if collection in cluster[name].application.collections
                ]
            case ["conflicts", *wanted]:
                first, *others = (cluster.audit(name) for name in cluster.names)
                records = map(msgspec.json.decode, sorted(first.values()))
                lines = [
                    line
                    for each in records
                    if [each["collection"], each["key"]][: len(wanted)] == wanted
                    for line in _described(each)
                ]
                same = all(audit == first for audit in others)
                return [*(lines or ["none"]), "the same in every region" if same else "regions differ"]
            case _:
                raise ValueError(f"no such command: {' '.join(words)}")

    def _shown(self, region: str, collection: str, key: str) -> bytes | None:
        row = self.cluster[region].disk.store.get(collection, key)
        return None if row is None else row.value


def _document(rest: str) -> tuple[str, str, str, str, str | None]:
    """region, collection, key, JSON text, session."""
    session = None
    if " as " in rest and not rest.rstrip().endswith("}"):
        rest, _, session = rest.rpartition(" as ")
    region, collection, key, *body = rest.split(" ", 3)
    return region, collection, shlex.split(key)[0], body[0] if body else "", session


def _text(value: bytes | None) -> str:
    return "absent" if value is None else value.decode()


def _described(record: dict[str, Any]) -> Iterator[str]:
    where = f"{record['collection']}/{record['key']}" + (f".{record['field']}" if record["field"] else "")
    yield f"{record['kind']} on {where}: {record['status']}, {record['strategy']}, {record['outcome']}"
    for side in ("losing", "winning"):
        which = record[side]
        value = msgspec.json.encode(which["value"]).decode()
        yield f"  {side} {which['region']}:{which['seq']} {which['operation']} {value}"
    if record["resolved_by"] is not None:
        _, region, seq = record["resolved_by"]
        yield f"  resolved by {region}:{seq}"
