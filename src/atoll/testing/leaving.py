"""Regions that leave a simulated deployment, and come back."""

from __future__ import annotations

from collections.abc import Iterable

from atoll.testing.cluster import Cluster


async def leave(cluster: Cluster, region: str) -> None:
    """Kill a region's nodes for good, and take it out of the deployment."""
    cluster.kill(region)
    cluster.gone[region] = cluster.by_region.pop(region)
    for node in cluster.gone[region]:
        del cluster.nodes[node.name]
    await _follow(cluster, {*cluster.names} - {region})


async def join(cluster: Cluster, region: str) -> None:
    """A region that had left comes back with an empty disk."""
    cluster.by_region[region] = cluster.gone.pop(region)
    cluster.nodes.update({node.name: node for node in cluster.by_region[region]})
    await _follow(cluster, {*cluster.names, region})
    cluster.lose_disk(region)
    cluster.start(region)


async def _follow(cluster: Cluster, names: Iterable[str]) -> None:
    cluster.names = tuple(sorted(names))
    cluster.members = (*cluster.names, *cluster.witnesses)
    for node in cluster.nodes.values():
        if node.running:
            await node.ask(lambda each: each.change_members(each.membership.of_regions(cluster.names)))
