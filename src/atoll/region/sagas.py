"""Sagas: starts them, says how they stand, and takes what people and other programs tell them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from atoll.causality.origin import Origin
from atoll.causality.types import Generation
from atoll.commit.batch import Batch
from atoll.commit.work import Wants
from atoll.documents.document import dots_in
from atoll.documents.mutation import Put, Write
from atoll.documents.rules import Rules
from atoll.errors import IdempotencyKeyReused, Indefinite, NotFound, Unavailable, VersionMismatch
from atoll.region.gates import Gates
from atoll.region.local_writes import LocalWrites
from atoll.region.reader import Reader
from atoll.region.registers import Registers
from atoll.region.saga_acks import SagaAcks
from atoll.region.saga_commits import SagaWrite
from atoll.region.saga_driving import Database, Driving
from atoll.region.saga_marks import Marks
from atoll.region.saga_retention import CLAIM, SagaRetention
from atoll.region.saga_rights import Right, SagaRights
from atoll.region.saga_runner import Runner
from atoll.region.saga_steps import Reads, Steps
from atoll.region.site import Site
from atoll.region.transactions import Transactions
from atoll.region.writer import Writer
from atoll.replication.messages import HeldCall, HeldReply, SagaCall, SagaReply
from atoll.sagas import protocol, rights
from atoll.sagas.instance import Instance, decoded, encoded, key_of
from atoll.sagas.protocol import Begin, Command
from atoll.schema.application import Application
from atoll.schema.limits import validate_key
from atoll.schema.system import RIGHTS, SAGAS
from atoll.store.port import Condition, Documents, View

_HEARD: Final = 16
"""Idempotency keys of so many commands are remembered."""


class Requests(NamedTuple):
    """What answers requests for documents."""

    gates: Gates
    reader: Reader
    writer: Writer
    registers: Registers
    writes: LocalWrites
    transactions: Transactions


class Outlook(NamedTuple):
    """What other regions have to do with this one's sagas."""

    rights: SagaRights
    acks: SagaAcks
    retention: SagaRetention


class _Nothing:
    """A step of a group commit. What was submitted before it has ended when it has."""

    def want(self, wants: Wants) -> None:
        """Nothing."""

    def perform(self, batch: Batch, view: View) -> None:
        """Nothing."""


class Sagas:
    """Of one node. `run` it."""

    def __init__(
        self,
        site: Site,
        application: Application,
        rules: Mapping[str, Rules],
        store: Documents,
        *,
        requests: Requests,
        outlook: Outlook,
        held: Callable[[], Generation | None],
        stuck: Callable[[str], None],
    ) -> None:
        """`held` gives the generation of this node's lease to run sagas. `stuck` is told of each that gets stuck."""
        self._site = site
        self._application = application
        self._store = store
        self._gates, reader, self._writer, self._registers, self._writes, transactions = requests
        self.rights, self.acks, self._retention = outlook
        self._held = held
        self._waiting: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)
        """Key → who waits for the saga to change."""
        self.started = 0
        """How many this node has started."""
        steps = Steps(Reads(application, rules, reader.read), self._writer.write, site.random)
        self.driving = Driving(
            site,
            application.sagas,
            Database(store, self._writer, self._writes, Marks(self._registers, transactions)),
            steps=steps,
            acks=self.acks,
            right=self.rights.right,
            stuck=stuck,
        )
        self.runner = Runner(site, store, self.driving)
        self.rights.changed = self.runner.review
        self.rights.runs = lambda: held() is not None
        self.rights.stop = self._stop

    @property
    def any(self) -> bool:
        """Whether any is declared."""
        return bool(self._application.sagas)

    async def run(self) -> None:
        """For ever."""
        try:
            await asyncio.gather(
                self.runner.run(self._held, shared=self._site.options.shares_store),
                self.rights.run(self._busy),
                self._retention.run(lambda: self._held() is not None, self._writes),
            )
        finally:
            await self.rights.close()
            await self.acks.close()

    def _busy(self) -> list[str]:
        """Homes whose rights matter to this node."""
        return [] if self._held() is None else self.runner.all.homes

    # -- requests --------------------------------------------------------------------------------------

    async def start(self, saga: str, id: str, fields: bytes, *, claimed: bool = False) -> Instance:
        """Start a saga, or say how it stands if it was started before; durable on return.

        `claimed` says that a peer has asked, since the saga is this region's. Raises UnknownSaga, InvalidKey, what a
        document's check raises, IdempotencyKeyReused where it was started with something else, Unavailable, and what
        the store raises.
        """
        plan = self._application.saga(saga)
        key = key_of(saga, plan.fields.validate_key(id))
        validate_key(CLAIM + key, plan.fields.limits)
        text = plan.fields.canonical(fields, id)
        given = blake2b(text, digest_size=12).hexdigest()
        begin = Begin(id, msgspec.json.decode(text), given, f"{self._site.random.getrandbits(64):016x}")
        while True:
            found = await self._read(key)
            if found is not None:
                return _same(found[0], given)
            right = await self.rights.ensure(self._site.name)
            home = self._site.name if self.rights.alone or claimed else await self._claim(key)
            if home != self._site.name:
                return await self._elsewhere(home, SagaCall(saga, id, "start", text))
            if right.doubts:
                raise Unavailable(
                    f"{self._site.name} has lost data, and asks its peers whether it has started {key}; try again",
                    region=self._site.name,
                )
            instance = protocol.begun(plan, begin, self._site.name, self._site.now_ms())
            instance = msgspec.structs.replace(instance, epoch=right.epoch)
            if await self._commit(None, instance, right) is not None:
                self.started += 1
                self.runner.poke(key)
                return instance

    async def find(self, saga: str, id: str) -> Instance:
        """Raises NotFound, Unavailable, and what the store raises."""
        found = await self._read(key_of(saga, id))
        if found is None:
            raise NotFound(f"there is no saga {saga}/{id}"[:200], saga=saga[:256], key=id[:512])
        return found[0]

    async def page(
        self, *, saga: str | None, status: str | None, after: str | None, limit: int
    ) -> Sequence[Instance]:
        """Sagas past a key, in the order of their keys. Raises Unavailable, and what the store raises."""
        where = [] if status is None else [Condition("status", "eq", status)]
        prefix = "" if saga is None else f"{saga}/"
        entered = self._gates.enter()
        found = await self._store.scan(SAGAS, prefix=prefix, where=where, after=after, limit=limit)
        self._gates.leave(entered)
        return [decoded(row.value) for _, row in found.rows if row.value is not None]

    async def tell(
        self, saga: str, id: str, command: Command, idempotency_key: str | None, *, forward: bool = True
    ) -> Instance:
        """Have a command act on a saga, in the region that runs it; durable on return, in a majority of regions.

        Raises NotFound, Conflict where it does not fit the saga's status, Unavailable, and what the store raises.
        Raises Indefinite where it may come to nothing, as another region takes the saga over meanwhile.
        """
        key = key_of(saga, id)
        while True:
            found = await self._read(key)
            if found is None:
                home = await self._claimed(key) if forward and not self.rights.alone else None
                if home in (None, self._site.name):
                    raise NotFound(f"there is no saga {saga}/{id}"[:200], saga=saga[:256], key=id[:512])
                return await self._elsewhere(
                    str(home), SagaCall(saga, id, "tell", protocol.encoded(command), idempotency_key)
                )
            instance, text = found
            holder = self.rights.holder(instance.home)
            if self.rights.right(instance.home) is None and forward and holder != self._site.name:
                call = SagaCall(saga, id, "tell", protocol.encoded(command), idempotency_key)
                return await self._elsewhere(instance.home, call)
            right = await self.rights.ensure(instance.home)
            repeated = idempotency_key is not None and idempotency_key in instance.heard
            after = None if repeated else self._told(instance, command, right)
            if after is None:
                row = await self._store.get(SAGAS, key)
                if row is None or row.value != text:
                    continue
                places = [(each.origin, each.seq) for each in dots_in(row)]
                await self._lasts(places, instance.home, right)
                return instance
            heard = (*instance.heard, idempotency_key)[-_HEARD:] if idempotency_key else instance.heard
            after = msgspec.structs.replace(after, heard=heard, revision=instance.revision + 1)
            if await self._commit(text, after, right) is not None:
                self.runner.poke(key)
                await self._lasts([self.acks.position], instance.home, right)
                return after

    async def concluded(self, saga: str, id: str, wait_s: float) -> Instance:
        """How the saga stands once it is over or stuck, or after so long. Raises as `find`."""
        key = key_of(saga, id)
        wait_s = min(wait_s, self._site.options.longest_wait_s)
        deadline_s = asyncio.get_running_loop().time() + wait_s
        while True:
            changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting[key].append(changed)
            try:
                instance = await self.find(saga, id)
                left_s = deadline_s - asyncio.get_running_loop().time()
                if instance.over or instance.status == "stuck" or left_s <= 0:
                    return instance
                await asyncio.wait({changed}, timeout=left_s)
            finally:
                self._waiting[key].remove(changed)
                if not self._waiting[key]:
                    del self._waiting[key]

    async def answer(self, call: SagaCall) -> SagaReply:
        """What a peer asks of a saga that runs here."""
        if call.order == "start":
            instance = await self.start(call.saga, call.id, call.body, claimed=True)
        else:
            command = protocol.decoded(call.body)
            instance = await self.tell(call.saga, call.id, command, call.key, forward=False)
        return SagaReply(encoded(instance), self._writes.group_commit.progress.vector)

    async def held(self, call: HeldCall) -> HeldReply:
        """What this region holds, once that is all that a peer asks for, or after a while.

        A peer that asks for nothing gets no less than what was submitted until now.
        """
        progress = self._writes.group_commit.progress
        if call.vector:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._site.options.peer_timeout_s / 2):
                    await progress.covered(call.vector)
        else:
            await self._writes.group_commit.commit(_Nothing())
            await progress.refresh()
        return HeldReply(progress.vector, self.rights.settled())

    def committed(self, batch: Batch) -> None:
        """After each commit of this node: whoever waits for a saga looks at it."""
        for entry in (*batch.written, *batch.applied):
            for change in entry.changes:
                if change.collection == SAGAS:
                    self.runner.all.note(change.key, change.registers.get(""))
                    for waiting in self._waiting.get(change.key, ()):
                        if not waiting.done():
                            waiting.set_result(None)
        for entry in batch.applied:
            for change in entry.changes:
                if change.collection == SAGAS:
                    self.runner.poke(change.key)

    # -- inside ----------------------------------------------------------------------------------------

    def _told(self, instance: Instance, command: Command, right: Right) -> Instance | None:
        """The saga after a command; None where nothing changes. Raises what the protocol raises, and Unavailable."""
        plan = self._application.sagas.get(instance.saga)
        doubts = self.driving.doubts(instance)
        if doubts:
            raise Unavailable(
                f"whether {', '.join(doubts)} has done {instance.step!r} is not known; wait for it, or, if it is"
                f" permanently lost: atoll region forget {doubts[0]}",
                region=self._site.name,
            )
        marked = msgspec.structs.replace(
            instance, region=self._site.name, epoch=right.epoch or instance.epoch
        )
        after, _ = protocol.step(marked, plan, command, self._site.now_ms())
        return None if after is marked else after

    async def _elsewhere(self, home: str, call: SagaCall) -> Instance:
        """Ask the region that runs the sagas of a home. Raises RegionUnreachable, Indefinite, and what it answered."""
        reply = await self._site.ask(self.rights.holder(home), call, SagaReply)
        return decoded(reply.document)

    async def _claim(self, key: str) -> str:
        """The region that has started a saga, or may start it now: exactly one. Raises as a strong write does."""
        claim = msgspec.json.encode(rights.Right(self._site.name, 0))
        try:
            await self._registers.change(Write((Put(RIGHTS, CLAIM + key, claim, if_absent=True),)), None)
        except VersionMismatch:
            return await self._claimed(key) or self._site.name
        return self._site.name

    async def _claimed(self, key: str) -> str | None:
        reading = await self._registers.read(RIGHTS, CLAIM + key)
        return None if reading.value is None else msgspec.json.decode(reading.value, type=rights.Right).holder

    async def _read(self, key: str) -> tuple[Instance, bytes] | None:
        entered = self._gates.enter()
        row = await self._store.get(SAGAS, key)
        self._gates.leave(entered)
        if row is None or row.value is None:
            return None
        return decoded(row.value), row.value

    async def _lasts(self, places: Iterable[tuple[Origin, int]], home: str, right: Right) -> None:
        """Return once whoever takes a home's sagas over goes on from these entries. Raises Indefinite.

        Whoever took them over before a majority had the entries goes on without. So the right must hold yet.
        """
        for place in places:
            await self.acks.reached_soon(place)
        now = self.rights.right(home)
        if now is None or now.epoch != right.epoch:
            raise Indefinite(
                f"{self._site.name} could not keep the right to run sagas of {home} meanwhile, so another region may go"
                " on without this; send it again with the same idempotency key"
            )

    async def _commit(self, before: bytes | None, after: Instance, right: Right) -> bytes | None:
        async def commit() -> bytes | None:
            work = SagaWrite(before, after, (), right.guard, self._writes)
            self._writes.group_commit.submit(work)
            return await work.done

        return await self._writer.commit_here(Write(()), commit)

    async def _stop(self, home: str) -> dict[str, int]:
        """Nothing runs for the home afterwards. Returns the position that all of it led to, which a majority holds.

        Raises Unavailable, and what the store raises.
        """
        await self.runner.stop(home)
        await self._writes.group_commit.commit(_Nothing())
        origin, seq = self.acks.position
        await self.acks.reached_soon((origin, seq))
        return {origin: seq}


def _same(instance: Instance, given: str) -> Instance:
    """Raises IdempotencyKeyReused where the saga was started with something else."""
    if instance.given != given:
        raise IdempotencyKeyReused(
            f"{instance.saga}/{instance.id} was started with other fields; another saga needs another key"
        )
    return instance
