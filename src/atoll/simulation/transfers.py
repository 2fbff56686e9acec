"""Transfers between strong documents: strictly serializable, and no money is made or lost."""

from __future__ import annotations

import msgspec

from atoll.causality import vector as vectors
from atoll.causality.origin import region_of
from atoll.documents.mutation import Check, Put, put_of
from atoll.errors import AtollError
from atoll.histories.bank import check_bank
from atoll.histories.history import Client as Recorded
from atoll.histories.history import Recorder
from atoll.histories.serializability import check_transactions
from atoll.simulation.world import Client, Workload, World

KEYS = ("t0", "t1", "t2", "t3")
EACH = 100
"""On every account at first, when there is no document."""
_TAG = 1_000_000
"""A stored balance is `amount * _TAG + tag`: each is written once, so that a read says which write it saw."""

SERIALIZABLE = "transactions are strictly serializable"
MONEY = "no money is made or lost"


def amount_of(stored: int | None) -> int:
    return EACH if stored is None else stored // _TAG


class Transfers(Workload):
    """Clients move money between accounts, and look at all of them at once."""

    name = "transfers"
    moves = 0.3

    def __init__(self, clients: int, mean_s: float) -> None:
        super().__init__(clients + 2, mean_s / 2)
        self._recorders: tuple[Recorder, Recorder] | None = None
        self._recorded: dict[str, tuple[Recorded, Recorded]] = {}
        self._tags = 0

    def _of(self, world: World, client: Client) -> tuple[Recorded, Recorded]:
        """Who records its transactions, and what it sees of the bank."""
        if self._recorders is None:
            loop = world.cluster.loop
            self._recorders = (
                Recorder(lambda: round(loop.time() * 1e9)),
                Recorder(lambda: round(loop.time() * 1e9)),
            )
        if client.name not in self._recorded:
            transactions, bank = self._recorders
            self._recorded[client.name] = (transactions.client(), bank.client())
        return self._recorded[client.name]

    async def step(self, world: World, client: Client, count: int) -> None:
        if client.random.random() < 0.4:
            await self._look(world, client)
        else:
            await self._move(world, client)

    async def _look(self, world: World, client: Client) -> None:
        transactions, bank = self._of(world, client)
        transactions.invoke("txn", None, [["r", key, None] for key in KEYS])
        bank.invoke("read")
        found = await self._snapshot(world, client, KEYS)
        if found is None:
            transactions.fail()
            bank.fail()
            return
        transactions.ok([["r", key, found[key][0]] for key in KEYS])
        bank.ok({key: amount_of(found[key][0]) for key in KEYS})

    async def _move(self, world: World, client: Client) -> None:
        """Reads two accounts, or three, and writes two."""
        transactions, _ = self._of(world, client)
        source, target, other = client.random.sample(KEYS, 3)
        wanted = (source, target, other)[: client.random.choice((2, 3))]
        found = await self._snapshot(world, client, wanted)
        if found is None or amount_of(found[source][0]) == 0:
            return
        moved = client.random.randint(1, min(30, amount_of(found[source][0])))
        after = {}
        for key, change in ((source, -moved), (target, moved)):
            self._tags += 1
            after[key] = (amount_of(found[key][0]) + change) * _TAG + self._tags
        steps = [["r", key, found[key][0]] for key in wanted]
        transactions.invoke("txn", None, steps + [["w", key, value] for key, value in after.items()])
        checks = [Check("account", key, found[key][1] or None, not found[key][1]) for key in wanted[2:]]
        puts = [self._put(world, key, value, found[key][1]) for key, value in after.items()]
        written = await client.write(*puts, *checks)
        match written.state:
            case "acked":
                transactions.ok()
            case "refused":
                transactions.fail()
            case _:
                transactions.info()

    def _put(self, world: World, key: str, stored: int, version: str) -> Put:
        body = msgspec.json.encode({"balance": stored})
        rules = world.rules["account"]
        return put_of(rules, key, body, if_match=version or None, if_absent=not version)

    async def _snapshot(
        self, world: World, client: Client, keys: tuple[str, ...]
    ) -> dict[str, tuple[int | None, str]] | None:
        """Key → (what is stored, version)."""
        try:
            found, vector = await client.ask(
                lambda region: region.snapshot([("account", key) for key in keys])
            )
        except AtollError as error:
            world.note_error(error)
            return None
        client.token = vectors.merge(client.token, vector)
        return {
            each.key: (None, "")
            if each.value is None
            else (msgspec.json.decode(each.value)["balance"], each.version)
            for each in found
        }

    async def finish(self, world: World) -> None:
        lost = {region_of(origin) for origin, loss in world.journal.losses.items() if loss.kept < loss.newest}
        if self._recorders is None or len(lost) > 1:
            return  # a majority of copies may have gone at once, and with it what was decided
        transactions, bank = self._recorders
        for anomaly in check_transactions(transactions.events()).anomalies:
            world.verdict.safety(SERIALIZABLE, str(anomaly))
        for _, why in check_bank(bank.events(), total=EACH * len(KEYS)).wrong:
            world.verdict.safety(MONEY, why)
