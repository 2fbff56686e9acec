"""What a region's nodes owe each other, once nothing goes wrong any more: to wake, and to go on for one that died."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from atoll.causality import vector as vectors
from atoll.errors import AtollError
from atoll.simulation.world import Client, World
from atoll.testing.cluster import SimulatedNode

LINKS_MOVE = "links move when their node dies"
WAITS_END = "a wait ends when another node commits"
WRITES_GO_ON = "a healed region takes writes"
_ROUNDS = 3
"""Round trips to the database that may come between a lease's end and its new holder."""
_ARRIVES_S = 15.0
_SNAPSHOT_S = 60.0
"""More, where a snapshot may have to be installed first: 21 pages of 0.9 s each, if the peer's database is far away."""
_WOKEN_S = 10.0
"""A node that was stopped may have to go on first."""


async def check_nodes(
    world: World, check: Callable[[World, str, list[SimulatedNode]], Awaitable[None]]
) -> None:
    """Check each region that has several nodes."""
    for region in world.names:
        nodes = world.cluster.of(region)
        if len(nodes) > 1:
            await check(world, region, nodes)
            world.verdict.check()


async def wakes(world: World, region: str, nodes: list[SimulatedNode]) -> None:
    """At each node wait for what comes next from a peer: whichever node brings it, all know of it soon."""
    if "member" not in world.rules:
        return  # a team's own collections
    client = world.client(f"waits-{region}")
    peer = min(name for name in world.names if name != region)
    disk = nodes[0].disk
    wanted = {peer: world.cluster[peer].disk.store.positions().get(peer, 0) + 1}
    waiting = [
        asyncio.ensure_future(node.ask(lambda each: each.group_commit.progress.covered(wanted)))
        for node in nodes
        if node.running
    ]
    # It has seen what one of the nodes wrote a moment before; the others may not yet know of that.
    for place in (region, peer):
        client.region = place
        await _put(world, client, f"waits-{region}")
    if await _becomes(lambda: vectors.descends(disk.store.positions(), wanted), _arrives_s(world)):
        _, late = await asyncio.wait(waiting, timeout=_WOKEN_S)
        if late:
            message = f"{len(late)} nodes of {region} do not know that it has {wanted}, {_WOKEN_S:g} s later"
            world.verdict.liveness(WAITS_END, message)
    for each in waiting:
        each.cancel()
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        if isinstance(outcome, AtollError):
            world.note_error(outcome)


async def _put(world: World, client: Client, key: str) -> None:
    """What is checked with it means nothing unless it is written."""
    loop = world.cluster.loop
    lead_ms = max(node.region.clock.lead_ms() for node in world.cluster.nodes.values() if node.region)
    deadline_s = loop.time() + _arrives_s(world) + lead_ms / 1000
    while (await client.put("member", key, {"text": client.region})).state != "acked":
        if loop.time() > deadline_s:
            # A region may rightly wait for a peer from which it is still cut off.
            if not any(path.cut for path in world.cluster.network.paths.values()):
                message = f"{client.region} takes none, {_arrives_s(world):g} s after all was healed"
                world.verdict.liveness(WRITES_GO_ON, message)
            return
        await asyncio.sleep(0.5)


async def links_move(world: World, region: str, nodes: list[SimulatedNode]) -> None:
    """On a healthy network: kill the node that holds most links, wait for another one, and let an entry come."""
    cluster = world.cluster
    dead = max(nodes, key=lambda node: len(node.pulled))
    left = [node for node in nodes if node is not dead]
    cluster.kill(dead.name)
    lease_s, trip_s = dead.options.lease_s, max(node.connection.trip_s or 0.0 for node in left)
    within_s = lease_s * 2 + _ROUNDS * 2 * trip_s
    peers = {name for name in world.names if name != region}
    if not await _becomes(lambda: {peer for node in left for peer in node.pulled} == peers, within_s):
        held = {node.name: sorted(node.pulled) for node in left}
        message = f"{within_s:.1f} s after {dead.name} died its region's other nodes hold {held}"
        world.verdict.liveness(LINKS_MOVE, message)
        return
    if "member" in world.rules:
        await _get_an_entry(world, region, min(peers))
    cluster.start(dead.name)


async def _get_an_entry(world: World, region: str, peer: str) -> None:
    client = world.client(f"takeover-{region}")
    client.region = peer
    written = await client.put("member", f"takeover-{region}", {"text": peer}, session=False)
    if written.dot is not None:
        origin, seq = written.dot
        disk = world.cluster[region].disk
        within_s = _arrives_s(world)
        if not await _becomes(lambda: disk.store.positions().get(origin, 0) >= seq, within_s):
            message = f"{region} has not got {written.dot} within {within_s:g} s"
            world.verdict.liveness(LINKS_MOVE, message)


def _arrives_s(world: World) -> float:
    return _ARRIVES_S if world.journal.complete else _ARRIVES_S + _SNAPSHOT_S


async def _becomes(true: Callable[[], bool], within_s: float) -> bool:
    deadline_s = asyncio.get_running_loop().time() + within_s
    while not true():
        if asyncio.get_running_loop().time() > deadline_s:
            return False
        await asyncio.sleep(0.05)
    return True
