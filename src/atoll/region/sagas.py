"""Sagas: starts them, says how they stand, and takes what people and other programs tell them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from atoll.causality.types import Generation
from atoll.commit.batch import Batch
from atoll.commit.work import Wants
from atoll.documents.mutation import Write
from atoll.documents.rules import Rules
from atoll.errors import IdempotencyKeyReused, NotFound, Unavailable
from atoll.region.gates import Gates
from atoll.region.local_writes import LocalWrites
from atoll.region.reader import Reader
from atoll.region.saga_commits import SagaWrite
from atoll.region.saga_runner import Right, Runner
from atoll.region.saga_steps import Reads, Steps
from atoll.region.site import Site
from atoll.region.writer import Writer
from atoll.sagas import protocol
from atoll.sagas.instance import Instance, decoded, key_of
from atoll.sagas.protocol import Begin, Command
from atoll.schema.application import Application
from atoll.schema.limits import validate_key
from atoll.schema.system import SAGAS
from atoll.store.port import Condition, Documents, View

_HEARD: Final = 16
"""Idempotency keys of so many commands are remembered."""


class Unguarded:
    """Nothing else has to hold."""

    def want(self, wants: Wants) -> None:
        """Nothing."""

    def hold(self, batch: Batch, view: View) -> None:
        """Raises nothing."""


class Requests(NamedTuple):
    """What answers requests for documents."""

    gates: Gates
    reader: Reader
    writer: Writer
    writes: LocalWrites


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
        held: Callable[[], Generation | None],
        stuck: Callable[[str], None],
    ) -> None:
        """`held` gives the generation of this node's lease to run sagas. `stuck` is told of each that gets stuck."""
        self._site = site
        self._application = application
        self._store = store
        self._gates, reader, self._writer, self._writes = requests
        self._held = held
        self._stuck = stuck
        self._waiting: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)
        """Key → who waits for the saga to change."""
        self.started = 0
        """How many this node has started."""
        steps = Steps(Reads(application, rules, reader.read), self._writer.write, site.random)
        self.runner = Runner(
            site,
            application.sagas,
            store,
            writer=self._writer,
            writes=self._writes,
            steps=steps,
            right=self._right,
            tell=lambda instance, detail: self._stuck(detail),
        )

    @property
    def any(self) -> bool:
        """Whether any is declared."""
        return bool(self._application.sagas)

    async def run(self) -> None:
        """For ever."""
        await self.runner.run(self._held, shared=self._site.options.shares_store)

    # -- requests --------------------------------------------------------------------------------------

    async def start(self, saga: str, id: str, fields: bytes) -> Instance:
        """Start a saga, or say how it stands if it was started before; durable on return.

        Raises UnknownSaga, InvalidKey, what a document's check raises, IdempotencyKeyReused where it was started with
        something else, Unavailable, and what the store raises.
        """
        plan = self._application.saga(saga)
        key = key_of(saga, plan.fields.validate_key(id))
        validate_key(key, plan.fields.limits)
        text = plan.fields.canonical(fields, id)
        given = blake2b(text, digest_size=12).hexdigest()
        nonce = f"{self._site.random.getrandbits(64):016x}"
        begin = Begin(id, msgspec.json.decode(text), given, nonce)
        while True:
            found = await self._read(key)
            if found is not None:
                return _same(found[0], given)
            instance = protocol.begun(plan, begin, self._site.name, self._site.now_ms())
            right = self._needed(self._site.name)
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

    async def tell(self, saga: str, id: str, command: Command, idempotency_key: str | None) -> Instance:
        """Have a command act on a saga; durable on return.

        Raises NotFound, Conflict where it does not fit the saga's status, Unavailable, and what the store raises.
        """
        key = key_of(saga, id)
        while True:
            found = await self._read(key)
            if found is None:
                raise NotFound(f"there is no saga {saga}/{id}"[:200], saga=saga[:256], key=id[:512])
            instance, text = found
            if idempotency_key is not None and idempotency_key in instance.heard:
                return instance
            right = self._needed(instance.home)
            marked = msgspec.structs.replace(instance, region=self._site.name, epoch=right.epoch)
            plan = self._application.sagas.get(instance.saga)
            after, _ = protocol.step(marked, plan, command, self._site.now_ms())
            if after is marked:
                return instance
            heard = (*instance.heard, idempotency_key)[-_HEARD:] if idempotency_key else instance.heard
            after = msgspec.structs.replace(after, heard=heard, revision=instance.revision + 1)
            if await self._commit(text, after, right) is not None:
                self.runner.poke(key)
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

    def committed(self, batch: Batch) -> None:
        """After each commit of this node: whoever waits for a saga looks at it."""
        for entry in (*batch.written, *batch.applied):
            for change in entry.changes:
                if change.collection == SAGAS:
                    for waiting in self._waiting.get(change.key, ()):
                        if not waiting.done():
                            waiting.set_result(None)

    # -- inside ----------------------------------------------------------------------------------------

    async def _read(self, key: str) -> tuple[Instance, bytes] | None:
        entered = self._gates.enter()
        row = await self._store.get(SAGAS, key)
        self._gates.leave(entered)
        if row is None or row.value is None:
            return None
        return decoded(row.value), row.value

    async def _commit(self, before: bytes | None, after: Instance, right: Right) -> bytes | None:
        async def commit() -> bytes | None:
            work = SagaWrite(before, after, (), right.guard, self._writes)
            self._writes.group_commit.submit(work)
            return await work.done

        return await self._writer.commit_here(Write(()), commit)

    def _right(self, home: str) -> Right | None:
        return Right(0, Unguarded()) if home == self._site.name else None

    def _needed(self, home: str) -> Right:
        right = self._right(home)
        if right is None:
            raise Unavailable(f"{home} runs this saga; ask there", region=self._site.name)
        return right


def _same(instance: Instance, given: str) -> Instance:
    """Raises IdempotencyKeyReused where the saga was started with something else."""
    if instance.given != given:
        raise IdempotencyKeyReused(
            f"{instance.saga}/{instance.id} was started with other fields; another saga needs another key"
        )
    return instance
