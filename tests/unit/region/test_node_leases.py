from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from atoll.protocol import port
from atoll.region.driver import Work, lease_outcome
from atoll.region.node_leases import NodeLeases
from atoll.store.memory.store import MemoryStore
from atoll.store.memory.tables import MemoryTables

from ..virtual_time import in_virtual_time

LEASE_S = 3.0


class Node:
    """It counts how often its links are reviewed."""

    def __init__(self, tables: MemoryTables, links: Sequence[str] = ("link b", "link c")) -> None:
        self.store = MemoryStore(tables)
        self.changes = 0
        self.node_leases = NodeLeases(links, self.store, self, lease_s=LEASE_S)
        self.task: asyncio.Task[None] | None = None

    def perform(self, effect: port.Effect) -> Work | None:
        match effect:
            case port.ReviewLinks():
                self.changes += 1
                return None
            case port.ReadHolders() | port.Lease() | port.GiveBack():
                return partial(lease_outcome, self.store, effect)
            case _:
                raise AssertionError(effect)

    async def start(self) -> None:
        await self.node_leases.take()
        self.task = asyncio.create_task(self.node_leases.run())

    @property
    def held(self) -> frozenset[str]:
        return frozenset(self.node_leases.held)

    def die(self) -> None:
        assert self.task is not None
        self.task.cancel()


@in_virtual_time
async def test_another_node_goes_on_soon_after_one_died() -> None:
    tables = MemoryTables()
    one, other = Node(tables), Node(tables)
    await one.start()
    await other.start()
    assert (one.held, other.held) == ({"link b", "link c"}, frozenset())
    await asyncio.sleep(LEASE_S)
    assert (one.held, other.held) == ({"link b"}, {"link c"})
    await asyncio.sleep(10 * LEASE_S)
    assert (one.changes, other.changes) == (2, 1)
    one.die()
    await asyncio.sleep(1.5 * LEASE_S)
    assert (other.held, other.changes) == ({"link b", "link c"}, 2)
    other.die()


@in_virtual_time
async def test_links_are_spread_evenly_as_nodes_come_and_go() -> None:
    tables = MemoryTables()
    links = [f"link {number:02}" for number in range(7)]
    nodes = [Node(tables, links) for _ in range(4)]
    for node in nodes:
        await node.start()
    await asyncio.sleep(LEASE_S)
    assert sorted(len(node.held) for node in nodes) == [1, 2, 2, 2]
    nodes[1].die()
    nodes[3].die()
    await asyncio.sleep(2.5 * LEASE_S)
    left = [nodes[0].held, nodes[2].held]
    assert sorted(map(len, left)) == [3, 4]
    assert frozenset.union(*left) == frozenset(links)
    for node in nodes:
        node.die()


@in_virtual_time
async def test_a_node_that_was_paused_learns_that_it_holds_nothing_any_more() -> None:
    tables = MemoryTables()
    one, other = Node(tables), Node(tables)
    await one.start()
    assert await one.node_leases.claim("machine 0")
    one.die()
    await other.start()
    await asyncio.sleep(2 * LEASE_S)
    assert await other.node_leases.claim("machine 0")
    await one.node_leases.take()
    assert (one.held, one.changes) == (frozenset(), 2)
    assert not await one.node_leases.claim("machine 0")
    other.die()


@in_virtual_time
async def test_what_was_claimed_is_renewed() -> None:
    tables = MemoryTables()
    one, other = Node(tables), Node(tables)
    await one.start()
    assert await one.node_leases.claim("machine 0")
    await asyncio.sleep(5 * LEASE_S)
    assert not await other.node_leases.claim("machine 0")
    one.die()


@in_virtual_time
async def test_a_node_that_ends_gives_everything_back() -> None:
    tables = MemoryTables()
    one, other = Node(tables), Node(tables)
    await one.start()
    one.die()
    await one.store.close()
    await other.start()
    assert other.held == {"link b", "link c"}
    other.die()


@in_virtual_time
async def test_what_is_released_is_free_at_once() -> None:
    tables = MemoryTables()
    one, other = Node(tables), Node(tables)
    await one.start()
    await other.start()
    assert await one.node_leases.claim("snapshot")
    assert not await other.node_leases.claim("snapshot")
    await one.node_leases.release("snapshot")
    assert "snapshot" not in one.held
    assert await other.node_leases.claim("snapshot")
    await one.node_leases.release("snapshot")  # it is not its own any more
    await asyncio.sleep(2 * LEASE_S)
    assert "snapshot" in other.held
    one.die()
    other.die()
