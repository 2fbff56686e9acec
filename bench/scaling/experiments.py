"""What is asked of a simulated deployment, each time of a fresh one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from statistics import median, quantiles

from atoll.testing import simulated
from atoll.testing.cluster import OPTIONS
from bench.scaling import sizes
from bench.scaling.deployment import Deployment, Pair

WRITES = 300
"""In one experiment, however many regions share them: the percentiles of all sizes rest on as many."""
SECONDS = 10.0
HEAL_ROUNDS = 3
CUT_S = 20.0
_CLASHES = 100
_HOT_KEYS = 50
_HOT_WRITES_PER_S = 2
_MANY_KEYS = 1_000_000
_HELD_S = 0.005
"""More than a few fsyncs of the same disk take."""
_NOTICED_S = 6.0
"""A link is given up after 3 s of silence; then others are asked to relay."""


def idle(regions: int, seed: int) -> dict[str, float]:
    """What crosses the network while nobody writes."""

    async def run() -> dict[str, float]:
        deployment = Deployment(regions, seed)
        await deployment.start()
        network = deployment.cluster.network
        messages, size_bytes = network.messages, network.size_bytes
        await asyncio.sleep(SECONDS)
        full = sizes.measure(deployment.names)["full_heartbeat"]
        return {
            "streams": network.streams,
            "streams_per_region": 2 * network.streams // regions,
            "messages_per_s": round((network.messages - messages) / SECONDS, 1),
            "bytes_per_s": round((network.size_bytes - size_bytes) / SECONDS),
            "region_sends_bytes_per_s": round((network.size_bytes - size_bytes) / SECONDS / regions),
            "region_would_send_bytes_per_s": round(full * (regions - 1) / OPTIONS.heartbeat_s),
        }

    return simulated(run)


def propagation(regions: int, seed: int) -> dict[str, float]:
    """From durable where it was written to durable elsewhere, all links up."""

    async def run() -> dict[str, float]:
        deployment = Deployment(regions, seed)
        await deployment.start()
        await deployment.write_at_random(WRITES, SECONDS, _MANY_KEYS, "writes")
        await deployment.cluster.settle()
        delays = list(deployment.delays())
        beyond = [delay_s - deployment.one_way_s[pair] for pair, delay_s in delays]
        return {
            **_percentiles("delay", [delay_s for _, delay_s in delays]),
            **_percentiles("beyond_path", beyond),
            "held_for_causes": round(sum(each > _HELD_S for each in beyond) / len(beyond), 4),
        }

    return simulated(run)


def relayed(regions: int, seed: int) -> dict[str, float]:
    """The same between regions that reach each other only through others: about a third of all, in pairs."""

    async def run() -> dict[str, float]:
        deployment = Deployment(regions, seed)
        await deployment.start()
        names = list(deployment.names)
        deployment.cluster.split("pairs").shuffle(names)
        apart: set[Pair] = set()
        for at in range(max(1, regions // 6)):
            one, other = names[2 * at : 2 * at + 2]
            deployment.cut(one, other)
            apart |= {(one, other), (other, one)}
        await asyncio.sleep(_NOTICED_S)
        received = _received(deployment)
        await deployment.write_at_random(WRITES, SECONDS, _MANY_KEYS, "writes")
        await deployment.cluster.settle()
        around = [(pair, delay_s) for pair, delay_s in deployment.delays() if pair in apart]
        cut_off = {origin for origin, _ in apart}
        copies = sum(_received(deployment)[name] - received[name] for name in cut_off)
        applied = sum(
            name in seen and name != origin
            for (origin, _), seen in deployment.durable.items()
            for name in cut_off
        )
        return {
            "pairs_cut": len(apart) // 2,
            **_percentiles("delay", [delay_s for _, delay_s in around]),
            "direct_p50_ms": _ms(median(deployment.one_way_s[pair] for pair, _ in around)),
            "shortest_detour_p50_ms": _ms(median(_detour_s(deployment, *pair) for pair, _ in around)),
            "copies_per_relayed_entry": round((copies - applied) / len(around) + 1, 1),
        }

    return simulated(run)


def healing(regions: int, seed: int) -> dict[str, float]:
    """Two halves write on for themselves; from the end of the cut until every region has everything."""
    rounds = [_heal_once(regions, f"{seed}/{number}") for number in range(HEAL_ROUNDS)]
    return {
        "behind_entries": WRITES // 2,
        "converged_p50_s": round(median(rounds), 2),
        "converged_longest_s": round(max(rounds), 2),
    }


def _heal_once(regions: int, seed: str) -> float:
    async def run() -> float:
        deployment = Deployment(regions, seed)
        await deployment.start()
        cluster = deployment.cluster
        cluster.partition(deployment.names[::2], deployment.names[1::2])
        await deployment.write_at_random(WRITES, CUT_S, _MANY_KEYS, "writes")
        cluster.heal()
        healed_s = cluster.loop.time()
        await cluster.settle()
        return deployment.last_commit_s - healed_s

    return simulated(run)


def audit(regions: int, seed: int) -> dict[str, float]:
    """Conflict records, where as many writes conflict, and where every region writes as much."""
    return {
        "clashes": _CLASHES,
        "rows_in_each_region": _clash(regions, seed),
        **_contend(regions, seed),
    }


def _clash(regions: int, seed: int) -> float:
    async def run() -> float:
        deployment = Deployment(regions, seed)
        await deployment.start()
        random = deployment.cluster.split("clashes")
        for number in range(_CLASHES):
            sides = random.sample(deployment.names, 2)
            await asyncio.gather(
                *(deployment.write(side, f"clash-{number}", at) for at, side in enumerate(sides))
            )
            await asyncio.sleep(0.05)
        await deployment.cluster.settle()
        (rows,) = {len(deployment.cluster.audit(name)) for name in deployment.names}
        return rows

    return simulated(run)


def _contend(regions: int, seed: int) -> dict[str, float]:
    """Every region writes twice a second to one of fifty documents."""

    async def run() -> dict[str, float]:
        deployment = Deployment(regions, seed)
        await deployment.start()
        writes = int(regions * _HOT_WRITES_PER_S * SECONDS)
        await deployment.write_at_random(writes, SECONDS, _HOT_KEYS, "hot")
        await deployment.cluster.settle()
        (rows,) = {len(deployment.cluster.audit(name)) for name in deployment.names}
        return {"hot_writes": writes, "hot_rows": rows, "hot_rows_per_write": round(rows / writes, 3)}

    return simulated(run)


def _received(deployment: Deployment) -> dict[str, int]:
    """region → entries that its links brought, copies included"""
    return {
        name: sum(link.status.received_entries for link in deployment.cluster.region(name).links.values())
        for name in deployment.names
    }


def _detour_s(deployment: Deployment, origin: str, region: str) -> float:
    """The shortest way through one other region."""
    ways = deployment.one_way_s
    return min(
        ways[origin, via] + ways[via, region] for via in deployment.names if via not in (origin, region)
    )


def _percentiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    cuts = quantiles(seconds, n=100, method="inclusive")
    return {f"{name}_p50_ms": _ms(cuts[49]), f"{name}_p99_ms": _ms(cuts[98])}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
