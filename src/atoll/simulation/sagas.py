"""Sagas under every fault: each ends, whole or undone, and no region runs what another one runs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from atoll.causality.origin import region_of
from atoll.documents.rules import WHOLE
from atoll.errors import AtollError, Indefinite, Unavailable
from atoll.sagas.instance import Instance, decoded, effect_key, key_of
from atoll.sagas.protocol import Aborted, Command, Retried, Signalled
from atoll.schema.saga import SagaSchema
from atoll.schema.system import SAGAS
from atoll.simulation.journeys import APPROVED, OTHER, SHARED
from atoll.simulation.outside import Call, Outside
from atoll.simulation.world import Client, Workload, World

NAME = "journey"
TRAIL = "trail"
PURSE = "purse"
ENDS = "every saga ends"
ONE_ENTRY = "a step and its record are one entry"
IN_ORDER = "steps are done in their order, and undone backwards, once each"
ONCE = "a step changes documents once"
NOTHING_HALF = "a saga is done or undone as a whole"
STABLE = "an effect has one key, and is called before it is recorded"
STARTED = "an acknowledged start is durable"
HEARD = "an acknowledged command is durable"

_TAKES_S = 60.0
"""So long a saga may take once all is healed, beyond what disks and clocks cost."""
_ENTRIES = 20
"""Of a saga, at most, and of the rights to run it."""
_CALLS = ("charge", "book", "tell", "refund")


@dataclass(eq=False, slots=True)
class Told:
    """What is known of one saga from outside."""

    fields: dict[str, Any]
    nonces: set[str] = field(default_factory=set)
    """Of acknowledged starts."""
    aborted: bool = False
    """Whether an acknowledged command had it undone."""
    approved: bool = False
    """Whether an acknowledged signal came while it went forward."""


class Sagas(Workload):
    """Clients start sagas, some of them again, and tell them things; people free those that are stuck."""

    name = "sagas"

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients, mean_s * 1.5)
        self.outside: Outside | None = None
        self._told: dict[str, Told] = {}

    async def run(self, world: World) -> None:
        self.outside = Outside(world.cluster.split("outside"), world.verdict, lambda: world.stopped)
        self.outside.open()
        await super().run(world)

    async def step(self, world: World, client: Client, count: int) -> None:
        known = sorted(self._told)
        chance = client.random.random()
        if not known or chance < 0.4:
            id_ = f"{client.name}-{count}"
            amount = client.random.randint(1, 9)
            refused = client.random.choice(("", "", "", *_CALLS[:2]))
            self._told[id_] = Told({"amount": amount, "refused": refused})
            await self._start(world, client, id_)
        elif chance < 0.5:
            await self._start(world, client, client.random.choice(known))
        elif chance < 0.93:
            await self._tell(
                world, client, client.random.choice(known[-6:]), Signalled(APPROVED, client.name)
            )
        else:
            await self._tell(world, client, client.random.choice(known), Aborted(client.name))

    async def _start(self, world: World, client: Client, id_: str) -> None:
        told = self._told[id_]
        body = msgspec.json.encode(told.fields)
        found = await self._asked(world, client, lambda region: region.start_saga(NAME, id_, body))
        if found is not None:
            told.nonces.add(found.nonce)

    async def _tell(self, world: World, client: Client, id_: str, command: Command) -> None:
        told, key = self._told[id_], f"{client.name}/{client.count}"
        found = await self._asked(world, client, lambda region: region.tell_saga(NAME, id_, command, key))
        if found is not None and isinstance(command, Aborted):
            told.aborted = True
        elif found is not None and not found.backwards:
            told.approved = True

    async def _asked(self, world: World, client: Client, work: Any) -> Instance | None:
        """Asks a few times, as clients do."""
        client.count += 1
        for attempt in range(3):
            try:
                found: Instance = await client.ask(work)
            except AtollError as error:
                world.note_error(error)
                if not isinstance(error, Unavailable | Indefinite) or world.stopped:
                    return None
                await asyncio.sleep(client.random.uniform(0.05, 0.4) * (attempt + 1))
                client.move()
            else:
                return found
        return None

    # -- its end ---------------------------------------------------------------------------------------

    async def rest(self, world: World) -> None:
        loop = world.cluster.loop
        deadline_s = loop.time() + _TAKES_S + self._slow_s(world) + _ahead_s(world)
        client = world.client("sagas-people")
        while under_way := self._under_way(world):
            if loop.time() > deadline_s:
                world.verdict.liveness(ENDS, "; ".join(map(_standing, under_way)))
                return
            for each in under_way:
                if each.status == "stuck":
                    await self._asked(
                        world,
                        client,
                        lambda region, id_=each.id: region.tell_saga(NAME, id_, Retried(), None),
                    )
            await asyncio.sleep(0.5)

    def _slow_s(self, world: World) -> float:
        """What so many entries take, each in a commit of its own."""
        trips_s = [node.connection.trip_s or node.disk.trip_s or 0.0 for node in world.cluster.nodes.values()]
        return len(self._told) * _ENTRIES * 6 * max(trips_s)

    def _under_way(self, world: World) -> list[Instance]:
        """In any region: they differ while entries are on their way."""
        found = {each.key: each for name in world.names for each in _stored(world, name) if not each.over}
        return [found[key] for key in sorted(found)]

    async def finish(self, world: World) -> None:
        lost = {region_of(origin) for origin, loss in world.journal.losses.items() if loss.kept < loss.newest}
        if self.outside is None or len(lost) > 1:
            return  # a majority of copies may have gone at once
        self._check_entries(world)
        found = {each.id: each for each in _stored(world, world.names[0])}
        plan, lives = world.cluster.application.sagas[NAME], _lost_lives(world)
        for id_, told in sorted(self._told.items()):
            instance = found.get(id_)
            if instance is None:
                if told.nonces and not lost:
                    world.verdict.safety(STARTED, f"{id_} is gone")
                continue
            self._check_told(world, instance, told, lost)
            self._check_order(world, instance, plan)
            before = [each for each in lives.get(instance.key, ()) if each.nonce != instance.nonce]
            self._check_trail(world, instance, plan, len(before))
            self._check_calls(world, instance, plan, before)
        completed = [each.fields["amount"] for each in found.values() if each.status == "completed"]
        left = _counted(world, TRAIL, SHARED).get("left", 0)
        if left != -sum(completed):
            world.verdict.safety(
                NOTHING_HALF, f"{-left} are taken, and {sum(completed)} by sagas that are completed"
            )

    def _check_entries(self, world: World) -> None:
        """Whatever changes a saga's trail also changes the saga."""
        for dot, entry in world.journal.entries.items():
            if dot in world.journal.hostile:
                continue
            sagas = {change.key for change in entry.changes if change.collection == SAGAS}
            trails = {change.key for change in entry.changes if change.collection == TRAIL} - {SHARED}
            if {key_of(NAME, key) for key in trails} - sagas:
                world.verdict.safety(ONE_ENTRY, f"{dot} changes the trail of {trails} alone")

    def _check_told(self, world: World, instance: Instance, told: Told, lost: set[str]) -> None:
        if told.nonces - {instance.nonce} and not lost:
            world.verdict.safety(
                STARTED, f"{instance.id} was started as {told.nonces}; it is {instance.nonce}"
            )
        if told.aborted and instance.status != "compensated":
            world.verdict.safety(HEARD, f"{instance.id} was aborted, and is {instance.status}")
        if told.approved and instance.cause == "too-late":
            world.verdict.safety(HEARD, f"{instance.id} was approved, and that came too late: {instance}")

    def _check_order(self, world: World, instance: Instance, plan: SagaSchema) -> None:
        forwards = [each.step for each in instance.done if each.outcome == "done"]
        backwards = [each.step for each in instance.done if each.outcome == "undone"]
        names = [each.name for each in plan.steps]
        trail = [f"{each.step} {each.outcome}" for each in instance.done]
        if forwards != names[: len(forwards)] or forwards + backwards != [
            each.step for each in instance.done
        ]:
            world.verdict.safety(IN_ORDER, f"{instance.id}: {trail}")
        if instance.status == "completed" and (len(forwards) < len(names) or backwards):
            world.verdict.safety(NOTHING_HALF, f"{instance.id} is completed: {trail}")
        undoing = {each.name for each in plan.steps if each.options.compensate is not None}
        wanted = [each for each in reversed(names) if each in forwards and each in undoing]
        # An effect whose end is not known is undone, too.
        known = [each for each in backwards if each in forwards]
        in_doubt = backwards[:1] if backwards and backwards[0] not in forwards else []
        if instance.status == "compensated" and (known != wanted or in_doubt + known != backwards):
            world.verdict.safety(IN_ORDER, f"{instance.id} is compensated: {trail}")

    def _check_trail(self, world: World, instance: Instance, plan: SagaSchema, lives: int) -> None:
        """`lives`: how often it was started before, and lost."""
        records: Counter[tuple[str, str]] = Counter((each.step, each.outcome) for each in instance.done)
        purses = [_counted(world, PURSE, instance.id + end) for end in ("", OTHER)]
        if purses[0] != purses[1]:
            world.verdict.safety(NOTHING_HALF, f"{instance.id} has purses {purses}")
        counted = {**_counted(world, TRAIL, instance.id), **purses[0]}
        for each in plan.steps:
            options = each.options
            if options.effect:
                continue
            done, undone = records[(each.name, "done")], records[(each.name, "undone")]
            if options.transaction and undone and not done:  # nobody knew; it was done and undone, or neither
                done = undone = min(1, counted.get(each.name, 0))
            # What a majority decided stays, though the only copy of the saga may have been lost, of two regions.
            earlier = lives if options.transaction else 0
            for name, times in ((each.name, done), (options.compensate, undone)):
                if name is not None and not times <= counted.get(name, 0) <= times + earlier:
                    world.verdict.safety(
                        ONCE,
                        f"{instance.id}: {name} has happened {counted.get(name, 0)} times; recorded are"
                        f" {instance.done}",
                    )

    def _check_calls(
        self, world: World, instance: Instance, plan: SagaSchema, lives: Sequence[Instance]
    ) -> None:
        assert self.outside is not None
        calls: dict[str, list[Call]] = {}
        for call in self.outside.calls:
            if call.saga == instance.id and call.key not in {effect_key(each, call.what) for each in lives}:
                calls.setdefault(call.what, []).append(call)
        for what, made in calls.items():
            if len({call.key for call in made}) > 1:
                world.verdict.safety(
                    STABLE, f"{instance.id}: {what} was called as {[call.key for call in made]}"
                )
        for wanted in _recorded_effects(instance, plan):
            if not any(call.answered for call in calls.get(wanted, ())):
                world.verdict.safety(STABLE, f"{instance.id}: {wanted} was recorded, and never answered")
        for what, undo in (("charge", "refund"), ("book", "cancel")):
            done, undone = calls.get(what, []), calls.get(undo, [])
            if undone and done and max(call.began_s for call in done) > min(call.began_s for call in undone):
                world.verdict.safety(IN_ORDER, f"{instance.id}: {what} was called after {undo}")
            happened = any(call.happened for call in done)
            if happened and instance.status == "compensated" and not any(call.happened for call in undone):
                world.verdict.safety(NOTHING_HALF, f"{instance.id}: {what} has happened, and was not undone")
        first, second = (calls.get(name, []) for name in ("cancel", "refund"))
        if first and second and max(call.began_s for call in first) > min(call.began_s for call in second):
            world.verdict.safety(IN_ORDER, f"{instance.id}: book was undone after charge")


def _recorded_effects(instance: Instance, plan: SagaSchema) -> Iterator[str]:
    options = {each.name: each.options for each in plan.steps}
    for record in instance.done:
        found = options[record.step]
        if found.effect and record.outcome == "done":
            yield record.step
        elif found.effect and record.outcome == "undone" and found.compensate is not None:
            yield found.compensate


def _lost_lives(world: World) -> dict[str, list[Instance]]:
    """Saga → as it was in entries that were lost with the only region, once for each start."""
    found: dict[str, dict[str, Instance]] = {}
    for entry in world.journal.struck:
        for change in entry.changes:
            if change.collection == SAGAS and (value := change.registers.get(WHOLE)) is not None:
                life = decoded(value)
                found.setdefault(change.key, {})[life.nonce] = life
    return {key: list(lives.values()) for key, lives in found.items()}


def _stored(world: World, region: str) -> list[Instance]:
    store = world.cluster[region].disk.store
    rows = store.scan_all(SAGAS, limit=1 << 40, limit_bytes=1 << 40)
    return [decoded(row.value) for _, row in rows if row.value is not None]


def _counted(world: World, collection: str, key: str) -> dict[str, int]:
    value = world.stored(world.names[0], collection, key).value
    return {} if value is None else msgspec.json.decode(value)


def _ahead_s(world: World) -> float:
    """What was due by a clock that ran ahead is due that much later."""
    due_ms = [each.wake_ms for name in world.names for each in _stored(world, name) if not each.over]
    return max(0.0, *((each - world.cluster.now_ms()) / 1000 for each in due_ms), 0.0)


def _standing(instance: Instance) -> str:
    where = "undoing" if instance.backwards else "at"
    return (
        f"{instance.id} of {instance.home}, {instance.status}, {where} {instance.step}, written last by"
        f" {instance.region} under {instance.epoch}: {instance.cause} {instance.error}"
    )
