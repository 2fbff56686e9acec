"""Does what is next in one saga, and makes each outcome durable, until it waits or is over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from atoll.causality.origin import Origin
from atoll.causality.types import Generation
from atoll.commit.work import Fence
from atoll.documents.mutation import Mutation, Write
from atoll.errors import AtollError, FenceLost, Indefinite, RegionUnreachable, RequestError
from atoll.region.local_writes import LocalWrites
from atoll.region.saga_acks import SagaAcks
from atoll.region.saga_commits import OfNode, SagaWrite
from atoll.region.saga_marks import MarkedSteps, Marks
from atoll.region.saga_rights import Right
from atoll.region.saga_steps import Steps
from atoll.region.site import Site
from atoll.region.writer import Writer
from atoll.sagas import protocol
from atoll.sagas.instance import Instance, decoded
from atoll.sagas.protocol import Done, Perform, Resumed, Tell, WakeAt, Woken
from atoll.schema.saga import SagaSchema
from atoll.schema.system import SAGAS
from atoll.store.port import Documents

LEASE = "sagas"
"""The node lease of whoever runs them."""
LONGEST_PAUSE_S = 5.0
_PAUSE_S = 0.05
_UNDECIDED_S = 0.5

Place = tuple[Origin, int]
"""Of an entry."""


class Stopped(Exception):
    """The node may not run the saga any more. Never leaves the runner."""


class Driven:
    """A saga with a task."""

    __slots__ = ("again", "barrier", "instance", "last", "task", "text")

    def __init__(self, place: Place) -> None:
        """`place` is the region's last entry: what it has written of the saga is not after it."""
        self.again = False
        """Whether someone else has changed it since it was read."""
        self.instance: Instance | None = None
        self.text = b""
        self.last = place
        """The entry that wrote it last, or one after that."""
        self.barrier = place
        """A majority must hold this entry before documents are changed: see `protocol.takes_over_freely`."""
        self.task: asyncio.Task[None] | None = None


class Database(NamedTuple):
    """What a saga is read from and written to."""

    store: Documents
    writer: Writer
    writes: LocalWrites
    marks: Marks


class Driving:
    """Of one node."""

    def __init__(
        self,
        site: Site,
        sagas: Mapping[str, SagaSchema],
        database: Database,
        *,
        steps: Steps,
        acks: SagaAcks,
        right: Callable[[str], Right | None],
        stuck: Callable[[str], None],
    ) -> None:
        """`right` gives this region's right to run the sagas that a region has started; None without it.

        `stuck` is told of each saga that gets stuck.
        """
        self.ended: Counter[str] = Counter()
        """How many sagas have come to each status, while this node ran them."""
        self.stuck: set[str] = set()
        """Keys of those that are stuck, as far as this node has seen."""
        self.generation: Generation | None = None
        """Of this node's lease to run them; None while it has none."""
        self._site = site
        self._sagas = sagas
        self._store, self._writer, self._writes, marks = database
        self._steps = steps
        self._marked = MarkedSteps(steps, marks)
        self._acks = acks
        self._right = right
        self._tell_stuck = stuck

    def begin(self) -> Driven:
        return Driven(self._acks.position)

    def lost(self, instance: Instance) -> bool:
        """Whether another region runs it, or may."""
        right = self._right(instance.home)
        return right is None or 0 < right.epoch < instance.epoch

    def doubts(self, instance: Instance) -> tuple[str, ...]:
        """Former holders of the right that may have done what is next, so that it must not be done once more."""
        right, plan = self._right(instance.home), self._sagas.get(instance.saga)
        if right is None or plan is None or not right.doubts:
            return ()
        if instance.epoch >= right.epoch and self._site.name not in right.doubts:
            return ()
        free = instance.at < len(plan.steps) and protocol.takes_over_freely(instance, plan)
        return () if free or instance.over else right.doubts

    async def run(self, key: str, driven: Driven) -> int | None:
        """Do what is to be done now. Returns when there is more to do, if that is known. Raises Stopped."""
        if not await self._read(key, driven):
            return None
        assert driven.instance is not None
        if self.doubts(driven.instance):
            return None
        if driven.instance.revision == 1:  # nobody could have gone on with it from an earlier state
            driven.barrier = (driven.barrier[0], 0)
        if driven.instance.status == "waiting":
            await self._take(driven, Woken(), ())
        effects = await self._take(driven, Resumed(), ())
        while True:
            perform = next((each for each in effects if isinstance(each, Perform)), None)
            if perform is None:
                break
            plan = self._sagas[driven.instance.saga]
            transaction = plan.steps[perform.at].options.transaction
            place = driven.last if plan.steps[perform.at].options.decided else driven.barrier
            if not await self._acks.reached(place):  # the database went back: so may have the saga
                if not await self._read(key, driven):
                    return None
                effects = await self._take(driven, Resumed(), ())
                continue
            self._holding(driven.instance)
            try:
                attempt = self._marked.attempt if transaction else self._steps.attempt
                attempted = await attempt(driven.instance, plan, perform)
            except AtollError:
                # No majority can be asked at present; or nobody knows what it has decided. The mark will tell.
                await self._sleep(_UNDECIDED_S)
                if not await self._read(key, driven):
                    return None
                effects = await self._take(driven, Resumed(), ())
            else:
                mutations = () if transaction else attempted.mutations
                effects = await self._take(driven, attempted.event, mutations)
        return next((each.at_ms for each in effects if isinstance(each, WakeAt)), None)

    async def _read(self, key: str, driven: Driven) -> bool:
        """Whether there is something to run."""
        pause_s = _PAUSE_S
        while True:
            try:
                row = await self._store.get(SAGAS, key)
                break
            except AtollError:
                pause_s = await self._sleep(pause_s)
        if row is None or row.value is None:
            return False
        driven.instance, driven.text = read(row.value), row.value
        driven.last = driven.barrier = self._acks.position  # it may be an earlier one, in another database
        return driven.instance is not None

    async def _take(
        self, driven: Driven, event: protocol.Event, mutations: Sequence[Mutation]
    ) -> tuple[protocol.Effect, ...]:
        """Make what follows from an event durable. Returns what is to be done then. Raises Stopped."""
        pause_s = _PAUSE_S
        while True:
            before = driven.instance
            assert before is not None
            right = self._holding(before)
            epoch = right.epoch or before.epoch
            marked = msgspec.structs.replace(before, region=self._site.name, epoch=epoch)
            after, effects = protocol.step(marked, self._sagas.get(before.saga), event, self._site.now_ms())
            if after is marked:
                return effects
            after = msgspec.structs.replace(after, revision=before.revision + 1)
            try:
                text = await self._commit(driven.text, after, mutations, right)
            except FenceLost:
                raise Stopped from None
            except (RequestError, RegionUnreachable) as error:
                if isinstance(event, Done) and mutations:
                    event, mutations = self._refused(before, event, error), ()
                else:
                    pause_s = await self._sleep(pause_s)
            except AtollError as error:
                # The store takes no writes at present; or nobody knows whether it has taken this one.
                pause_s = await self._sleep(pause_s)
                if isinstance(error, Indefinite) and not await self._read(before.key, driven):
                    raise Stopped from None
            else:
                if text is not None:
                    self._written(driven, before, text)
                    self._note(after, effects, changed=before.status != after.status)
                    return effects
                if not await self._read(before.key, driven):
                    raise Stopped

    def _written(self, driven: Driven, before: Instance, text: bytes) -> None:
        driven.instance, driven.text, driven.last = read(text), text, self._acks.position
        plan = self._sagas.get(before.saga)
        if plan is None or before.at >= len(plan.steps) or protocol.takes_over_freely(before, plan):
            driven.barrier = driven.last

    def _refused(self, instance: Instance, event: Done, error: AtollError) -> protocol.Event:
        return self._steps.refused(instance, Perform(event.at, event.backwards), error).event

    async def _commit(
        self, before: bytes, after: Instance, mutations: Sequence[Mutation], right: Right
    ) -> bytes | None:
        assert self.generation is not None
        guard = OfNode(Fence(LEASE, self.generation), right.guard)

        async def commit() -> bytes | None:
            work = SagaWrite(before, after, mutations, guard, self._writes)
            self._writes.group_commit.submit(work)
            return await work.done

        return await self._writer.commit_here(Write(tuple(mutations)), commit)

    def _holding(self, instance: Instance) -> Right:
        """Raises Stopped without the right to run it."""
        right = self._right(instance.home)
        if right is None or self.generation is None or self.lost(instance) or self.doubts(instance):
            raise Stopped
        return right

    def _note(self, instance: Instance, effects: Sequence[protocol.Effect], *, changed: bool) -> None:
        if changed and (instance.over or instance.status == "stuck"):
            self.ended[instance.status] += 1
        if instance.status == "stuck":
            self.stuck.add(instance.key)
        else:
            self.stuck.discard(instance.key)
        for effect in effects:
            if isinstance(effect, Tell):
                self._tell_stuck(effect.detail)

    async def _sleep(self, pause_s: float) -> float:
        """Returns how long to sleep the next time."""
        await asyncio.sleep(pause_s * (0.5 + self._site.random.random()))
        return min(2 * pause_s, LONGEST_PAUSE_S)


def read(text: bytes) -> Instance | None:
    """None for one that a later version has written in a form that is not known here."""
    try:
        return decoded(text)
    except msgspec.ValidationError:
        return None
