"""What one seed draws: the deployment, its options, the workloads and the faults. All of it is data.

A failing run is shrunk by running its plan with fewer faults, fewer workloads and less time. For that reason
the nemesis decides nothing while the simulation runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, NamedTuple

from atoll.conflicts.guard import GuardOptions
from atoll.region.group_commit import GroupCommitOptions
from atoll.region.intake import IntakeOptions
from atoll.region.options import RegionOptions
from atoll.replication.link import LinkOptions
from atoll.simulation.geography import PLACES, round_trip_ms

REGIONS = ("frankfurt", "tokyo", "virginia", "sydney", "mumbai", "oregon", "saopaulo")

ROUND_TRIPS_MS = {
    ("frankfurt", "tokyo"): 226, ("frankfurt", "virginia"): 92, ("frankfurt", "sydney"): 288,
    ("frankfurt", "mumbai"): 124, ("frankfurt", "oregon"): 142, ("frankfurt", "saopaulo"): 204,
    ("tokyo", "virginia"): 148, ("tokyo", "sydney"): 104, ("tokyo", "mumbai"): 132, ("tokyo", "oregon"): 98,
    ("tokyo", "saopaulo"): 256, ("virginia", "sydney"): 198, ("virginia", "mumbai"): 192,
    ("virginia", "oregon"): 66, ("virginia", "saopaulo"): 114, ("sydney", "mumbai"): 152,
    ("sydney", "oregon"): 140, ("sydney", "saopaulo"): 310, ("mumbai", "oregon"): 218,
    ("mumbai", "saopaulo"): 304, ("oregon", "saopaulo"): 176,
}  # fmt: skip
"""Typical round trips between cloud regions of these places, as providers and monitors publish them."""

WORKLOADS = (
    "traffic", "counters", "inventory", "sets", "texts", "sessions", "posts", "batches", "retries", "orders",
    "identifiers", "feed", "versions", "hostile", "mistakes",
)  # fmt: skip

EXTRA_WORKLOADS = (
    "freshness",
    "interface",
    "transfers",
    "unique",
    "duplicates",
    "references",
    "strong_references",
    "declared_later",
    "sagas",
    "fallbacks",
    "external",
    "leaving",
    "members",
)
"""Beside the others: in runs without faults, and in a share of those with faults."""
_SHARES: Mapping[str, float] = {
    "transfers": 0.4, "sagas": 0.4, "unique": 0.3, "duplicates": 0.3, "interface": 0.3, "fallbacks": 0.3,
    "references": 0.3, "leaving": 0.3, "strong_references": 0.3,
    "declared_later": 0.2,
    "members": 0.2,
}  # fmt: skip
_WITNESSES = 0.5
"""Of deployments of two regions."""
_EXTERNAL = 0.25
"""With `commit_wait`."""

KINDS = (
    "partition", "one_way", "degrade", "slow", "reset", "kill", "kill_in_commit", "absent", "full_disk",
    "failing_disk", "slow_disk", "pause", "clock_step", "clock_drift", "torn_write", "lost_disk", "upgrade",
)  # fmt: skip


LOSSES = ("lost_disk", "restore", "failover")
"""What takes data back that were durable: of one region in a run, for what two have lost may rightly be gone."""

NODE_KINDS = ("kill", "kill", "restart", "pause", "cut_database", "clock_step")
"""What befalls single nodes, where a region has several."""

_AMOUNTS: Mapping[str, tuple[float, ...]] = {
    "degrade": (0.02, 0.1, 0.3),
    "kill_in_commit": (-0.3, -0.05, 0.05, 0.3),
    "torn_write": (0.05, 0.3),
    "failing_disk": (0.1, 0.5),
    "slow_disk": (0.01, 0.1, 0.4),
    "pause": (0.3, 2.0, 6.0),
    "cut_database": (0.02, 0.2, 1.0),
    "clock_step": (-180_000, -5000, -700, -60, 60, 700, 5000, 60_000),
    "clock_drift": (-50_000, -2000, 2000, 50_000),
}
"""Probabilities, seconds, milliseconds or parts per million, one of which is drawn."""

_AMOUNTS_OF_NODES: Mapping[str, tuple[float, ...]] = {
    "pause": (0.3, 2.0, 4.0, 8.0),
    "cut_database": (0.05, 0.5, 1.0),
    "clock_step": (-5000, -700, -60, 60, 700, 5000),
}


class Fault(NamedTuple):
    """One thing that goes wrong, and when it is over."""

    kind: str
    at_s: float
    until_s: float
    regions: tuple[str, ...]
    """The region it befalls, or its node, as in `tokyo/2`; or the two ends; or one side of a partition."""
    amount: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind}({'+'.join(self.regions)}, {self.at_s:.1f}–{self.until_s:.1f} s, {self.amount:g})"


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    regions: tuple[str, ...]
    one_way_s: dict[tuple[str, str], float]
    trips_s: dict[str, float | None]
    """Of each region: how far away its database is; None for one in its process."""
    jitter_s: float
    offsets_ms: dict[str, int]
    drifts_ppm: dict[str, int]
    kernel_uncertainty_ms: int | None
    options: RegionOptions
    duration_s: float
    workloads: tuple[str, ...]
    clients: int
    mean_s: float
    faults: tuple[Fault, ...]
    files: bool = False
    """Whether regions keep real SQLite databases, on files whose unsynced bytes are lost or torn in a crash."""
    versions: dict[str, int] = field(default_factory=dict)
    """Which version of the declarations a region begins with, where it is not the newest."""
    detour: tuple[tuple[str, str], ...] = field(default=())
    """Pairs that stay cut after the faults, so that entries have to be relayed before all is healed."""
    nodes: dict[str, int] = field(default_factory=dict)
    """Regions that have several nodes on one database, and how many."""
    node_trips_s: dict[str, float] = field(default_factory=dict)
    """How far away the database is of each of these nodes."""
    untold: float = 0.0
    """Probability that a node is not told of what another one has committed."""
    told_late_s: float = 0.0
    """Up to so much later it is told."""
    witnesses: tuple[str, ...] = ()
    """Regions that vote, and hold no documents: they are not among `regions`."""
    margins_ms: dict[str, int | None] = field(default_factory=dict)
    """Of nodes whose kernels know how far off their clocks are: how much more they claim. None: they claim nothing."""

    def adding(self, *faults: Fault, **changes: Any) -> Plan:
        """With more faults, and other changes."""
        return replace(self, faults=_in_order((*self.faults, *faults)), **changes)

    def describe(self) -> str:
        faults = "".join(f"\n  fault {number}: {fault}" for number, fault in enumerate(self.faults))
        return (
            f"seed {self.seed}: {len(self.regions)} regions ({', '.join(map(self._named, self.regions))}), "
            f"{''.join(f'the witness {name}, ' for name in self.witnesses)}"
            f"{self.duration_s:.1f} s, "
            f"{', '.join(self.workloads)} with {self.clients} clients each every {self.mean_s:.2f} s"
            f"{', detour ' + str(self.detour) if self.detour else ''}{faults}"
        )

    def _named(self, region: str) -> str:
        count = self.nodes.get(region, 1)
        return region if count == 1 else f"{region} with {count} nodes"


def _in_order(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


def draw(
    seed: int, required: tuple[str, ...] = (), regions: int | None = None, nodes: int | None = None
) -> Plan:
    """The plan of a seed: the same in every process.

    `required` are regions that an application names. `regions` is how many there are, 2 to 30; `nodes` how many
    each region has. Both are drawn without it; then one seed in three has several nodes in some regions.
    """
    random = Random(f"{seed}/plan")
    drawn = random.choice((2, 3, 3, 3, 4, 4, 5, 6, 7))
    places = REGIONS if regions is None else PLACES
    count = max((drawn if regions is None else regions) - len(required), 2 - len(required), 0)
    others = [name for name in places if name not in required]
    names = tuple(sorted((*required, *random.sample(others, count))))
    duration_s = random.uniform(5.0, 12.0)
    healthy = random.random() < 0.12
    wanted = random.randint(2, 4)
    workloads = tuple(sorted(random.sample(WORKLOADS, wanted), key=WORKLOADS.index))
    if not {*workloads} - {"identifiers", "feed"}:
        workloads = ("counters", *workloads)
    if healthy:
        # A rollout restarts regions: links do not stay up then.
        workloads = ("freshness", *[each for each in workloads if each != "versions"][:1])
    faults = () if healthy else _faults(random, names, duration_s)
    trips_s, cuts = _databases(Random(f"{seed}/databases"), names, duration_s)
    # What is served at once on a healthy network must not wait for a database that takes three commits a second.
    # A region that lost its disk would not be back in time, at an entry a commit.
    near = {*names} if healthy else {fault.regions[0] for fault in faults if fault.kind == "lost_disk"}
    plan = Plan(
        seed=seed,
        regions=names,
        one_way_s=_delays(random, names),
        trips_s={name: _near(trip_s) if name in near else trip_s for name, trip_s in trips_s.items()},
        jitter_s=random.choice((0.0, 0.002, 0.05)),
        offsets_ms={name: random.randint(-120, 120) for name in names},
        drifts_ppm={name: random.choice((0, 0, -100, 80, 150)) for name in names},
        kernel_uncertainty_ms=random.choice((None, 20, 130)),
        options=_options(random, seed),
        duration_s=duration_s,
        workloads=workloads,
        clients=random.choice((1, 2, 3)),
        mean_s=random.choice((0.08, 0.15, 0.3)) * (1.0 if count < 5 else 2.0),
        faults=() if healthy else _in_order((*faults, *cuts)),
        files=any(fault.kind == "torn_write" for fault in faults) or random.random() < 0.03,
        detour=_detour(random, names) if not healthy and random.random() < 0.5 else (),
    )
    plan = with_truncation(plan)
    if "versions" in workloads:
        plan = with_rollout(plan)
    plan = _with_nodes(plan, nodes, healthy=healthy)
    if healthy:
        return plan
    plan = _with_extras(plan)
    if Random(f"{seed}/external").random() < _EXTERNAL:
        plan = replace(with_kernels(plan), workloads=(*plan.workloads, "external"))
    plan = with_loss(plan)
    drawn = len(plan.regions) == 2 and Random(f"{seed}/witnesses").random() < _WITNESSES
    return with_witness(plan) if drawn else plan


def _with_extras(plan: Plan) -> Plan:
    """A share of deployments with faults has each of these workloads."""
    for name, share in _SHARES.items():
        if Random(f"{plan.seed}/{name}").random() < share:
            plan = replace(plan, workloads=(*plan.workloads, name))
    return with_rollout(plan) if "declared_later" in plan.workloads and not plan.versions else plan


def with_witness(plan: Plan) -> Plan:
    """A region that votes, and what befalls it. Its disk is lost only where no other region's is."""
    random = Random(f"{plan.seed}/witness")
    name = random.choice([each for each in REGIONS if each not in plan.regions])
    kinds = (
        "kill",
        "kill",
        "absent",
        "partition",
        "pause",
        "degrade",
        "torn_write",
        "slow_disk",
        "lost_disk",
    )
    delays, faults = dict(plan.one_way_s), []
    for other in plan.regions:
        delays[(name, other)] = delays[(other, name)] = random.choice((0.001, _trip_ms(name, other) / 2000))
    lost = any(fault.kind in LOSSES for fault in plan.faults)
    for _ in range(random.randint(0, 4)):
        kind = random.choice(kinds[: -1 if lost else None])
        at_s, until_s = _spell(random, 0.5, plan.duration_s)
        lost |= kind == "lost_disk"
        ends = (name, random.choice(plan.regions)) if kind == "degrade" else (name,)
        faults.append(Fault(kind, at_s, until_s, ends, random.choice(_AMOUNTS.get(kind, (0.0,)))))
    return plan.adding(*faults, witnesses=(name,), one_way_s=delays)


def _with_nodes(plan: Plan, wanted: int | None, *, healthy: bool) -> Plan:
    """Give some regions several nodes, and let these fail singly."""
    random = Random(f"{plan.seed}/nodes")
    drawn = random.random() < 1 / 3
    several = random.sample(plan.regions, min(random.randint(1, 3), len(plan.regions)))
    counts = {name: random.choice((2, 2, 3, 4)) for name in several}
    if wanted == 1 or (wanted is None and not drawn):
        return plan
    if wanted is not None:
        counts = dict.fromkeys(plan.regions, wanted)
    close = {fault.regions[0] for fault in plan.faults if fault.kind == "lost_disk"}
    trips_s, offsets_ms = dict(plan.node_trips_s), dict(plan.offsets_ms)
    for region, count in sorted(counts.items()):
        for number in range(1, count + 1):
            trip_s = random.choice((0.0, 0.001, 0.001, 0.02, 0.1))
            trips_s[f"{region}/{number}"] = min(trip_s, 0.001) if healthy or region in close else trip_s
            offsets_ms[f"{region}/{number}"] = random.randint(-120, 120)
    return plan.adding(
        *(() if healthy else _faults_of_nodes(random, sorted(trips_s), plan.duration_s)),
        nodes=dict(sorted(counts.items())),
        node_trips_s=trips_s,
        offsets_ms=offsets_ms,
        # A network on which notices are lost is not healthy: each lost one costs up to a second.
        untold=random.choice((0.0, 0.1, 0.5)) * (not healthy),
        told_late_s=random.choice((0.0, 0.05, 1.0)) * (not healthy),
        options=replace(plan.options, lease_s=random.choice((1.0, 3.0, 3.0))),
    )


def _faults_of_nodes(random: Random, nodes: list[str], duration_s: float) -> list[Fault]:
    faults = []
    for _ in range(random.randint(1, 4)):
        kind = random.choice(NODE_KINDS)
        spell = _spell(random, 0.5, duration_s)
        amount = random.choice(_AMOUNTS_OF_NODES[kind]) if kind in _AMOUNTS_OF_NODES else 0.0
        faults.append(Fault(kind, *spell, (random.choice(nodes),), amount))
    return faults


def _spell(random: Random, earliest_s: float, duration_s: float) -> tuple[float, float]:
    """When a fault begins and ends."""
    at_s = random.uniform(earliest_s, duration_s * 0.8)
    return at_s, min(duration_s, at_s + random.expovariate(1 / 3.0) + 0.2)


def with_loss(plan: Plan, kind: str | None = None) -> Plan:
    """In some deployments a region's data go back to what they were before. `kind`: surely, and in this way."""
    random = Random(f"{plan.seed}/losses")
    drawn = random.choice((None, None, None, "restore", "failover"))
    if kind is None and any(fault.kind in LOSSES for fault in plan.faults):
        return plan
    kind = kind or drawn
    behind = [
        name
        for name in plan.regions
        if name in plan.nodes or (plan.trips_s[name] is not None and not plan.files)
    ]
    regions = behind if kind == "failover" else plan.regions
    if kind is None or not regions:
        return plan
    name = random.choice(regions)
    at_s = random.uniform(0.0, plan.duration_s * 0.6)
    after_s = random.uniform(0.1, plan.duration_s * 0.8 - at_s)
    if kind == "failover":
        after_s = random.choice((0.0, 0.05, 0.3, after_s))
    until_s = random.uniform(at_s + after_s, plan.duration_s)
    # Or it is not back in time, at an entry a commit.
    trips_s = {each: _near(trip_s) if each == name else trip_s for each, trip_s in plan.trips_s.items()}
    nodes_s = {
        each: min(trip_s, 0.001) if each.partition("/")[0] == name else trip_s
        for each, trip_s in plan.node_trips_s.items()
    }
    return plan.adding(Fault(kind, at_s, until_s, (name,), after_s), trips_s=trips_s, node_trips_s=nodes_s)


def _near(trip_s: float | None) -> float | None:
    return None if trip_s is None else min(trip_s, 0.001)


def with_truncation(plan: Plan, *, always: bool = False) -> Plan:
    """In some deployments journals are cut soon, and regions are away for longer than they are kept."""
    random = Random(f"{plan.seed}/truncation")
    if random.random() > 0.4 and not always:
        return plan
    options = replace(
        plan.options,
        journal_s=random.choice((0.0, 0.5, 2.0)),
        journal_absent_s=random.choice((0.5, 2.0, 6.0, 3600.0)),
        journal_round_s=random.choice((0.2, 0.7)),
        journal_most_bytes=random.choice((None, None, None, 2000)),
        snapshot_grace_s=random.choice((0.1, 1.0)),
        snapshot_page_rows=random.choice((5, 50, 2000)),
    )
    at_s = random.uniform(0.5, plan.duration_s * 0.4)
    away = Fault("absent", at_s, random.uniform(at_s + 2.0, plan.duration_s), (random.choice(plan.regions),))
    # Or it is not here in time, at a commit for each page.
    trips_s = {name: None if trip_s is None else min(trip_s, 0.02) for name, trip_s in plan.trips_s.items()}
    return plan.adding(*([away] if plan.faults else []), options=options, trips_s=trips_s)


def _delays(random: Random, regions: tuple[str, ...]) -> dict[tuple[str, str], float]:
    topology = random.choice(("measured", "measured", "flat", "random"))
    flat_s = random.choice((0.0, 0.001, 0.02, 0.12))
    delays: dict[tuple[str, str], float] = {}
    for one in regions:
        for other in regions:
            if one < other:
                trip_s = _trip_ms(one, other) / 2000
                drawn_s = random.uniform(0.0, 0.3)
                there_s = {"measured": trip_s, "flat": flat_s, "random": drawn_s}[topology]
                delays[(one, other)] = there_s
                delays[(other, one)] = there_s * random.choice((1.0, 1.0, 1.5))
    return delays


def _trip_ms(one: str, other: str) -> int:
    """Of regions that an application named we do not know where they are."""
    known = ROUND_TRIPS_MS.get((one, other), ROUND_TRIPS_MS.get((other, one)))
    if known is None and one in PLACES and other in PLACES:
        known = round_trip_ms(one, other)
    return 150 if known is None else known


def _options(random: Random, seed: int) -> RegionOptions:
    return RegionOptions(
        heartbeat_s=random.choice((0.2, 0.5, 0.5)),
        max_wait_s=random.choice((0.2, 1.0)),
        ping_s=random.choice((1.0, 2.0)),
        startup_check_s=1.0,
        inherit_s=1.0,
        purge_s=Random(f"{seed}/purges").choice((0.3, 1.0, 10.0)),
        saga_lease_s=Random(f"{seed}/saga leases").choice((3.0, 6.0)),
        group_commit=GroupCommitOptions(works_per_commit=random.choice((1, 3, 256))),
        intake=IntakeOptions(entries_per_commit=random.choice((1, 4, 512))),
        link=LinkOptions(inbox_bytes=random.choice((600, 32 << 20, 32 << 20))),
        guard=GuardOptions(wall_s=600.0),
        # In every fourth deployment nodes write events, and few are kept in some.
        events_most=Random(f"{seed}/events").choice((0, 0, 0, 0, 0, 0, 5, 10_000)),
    )


def _faults(random: Random, regions: tuple[str, ...], duration_s: float) -> tuple[Fault, ...]:
    faults = []
    for _ in range(random.randint(1, 6)):
        kind = random.choice(KINDS[:-1])
        at_s, until_s = _spell(random, 0.5, duration_s)
        one, other = random.sample(regions, 2)
        chosen: tuple[str, ...] = (one,)
        amount = 0.0
        match kind:
            case "partition":
                chosen = tuple(sorted(random.sample(regions, random.randint(1, len(regions) - 1))))
            case "one_way" | "slow" | "reset":
                chosen, amount = (one, other), random.uniform(0.2, 2.0)
            case "degrade":
                chosen, amount = (one, other), random.choice(_AMOUNTS[kind])
            case "absent" | "lost_disk":
                at_s, until_s = at_s * 0.5, duration_s
            case _ if kind in _AMOUNTS:
                amount = random.choice(_AMOUNTS[kind])
        faults.append(Fault(kind, at_s, until_s, chosen, amount))
    # If two regions lost their disks, what was in both would rightly be gone.
    lost = [fault for fault in faults if fault.kind == "lost_disk"]
    return _in_order(fault for fault in faults if fault not in lost[1:])


def with_kernels(plan: Plan) -> Plan:
    """Kernels claim what is true of their clocks, or nothing."""
    random = Random(f"{plan.seed}/kernels")
    nodes = [node for name in plan.regions for node in _nodes_of(plan, name)]
    proof, most_ms = random.choice(((False, 300), (False, 500), (True, 300), (True, 1000)))
    # A peer's kernel proves less by half the distance: too little for the small bound.
    most_silent = len(nodes) // 2 if proof else len(nodes)
    silent = random.sample(nodes, random.randint(0, 0 if proof and most_ms == 300 else most_silent))
    drawn = {node: random.choice((0, 5, 60)) for node in nodes}
    return replace(
        plan,
        margins_ms={node: None if node in silent else margin_ms for node, margin_ms in drawn.items()},
        kernel_uncertainty_ms=None,
        options=replace(plan.options, max_clock_offset_ms=most_ms, require_synchronised_clocks=proof),
    )


def _nodes_of(plan: Plan, region: str) -> list[str]:
    count = plan.nodes.get(region, 1)
    return [region] if count == 1 else [f"{region}/{number}" for number in range(1, count + 1)]


def with_rollout(plan: Plan) -> Plan:
    """Regions begin with different versions of the declarations, and move to others, mostly forwards."""
    random = Random(f"{plan.seed}/rollout")
    versions = {name: random.choice((1, 1, 1, 2, 3)) for name in plan.regions}
    upgrades = [
        Fault("upgrade", at_s, at_s, (random.choice(plan.regions),), random.choice((1, 2, 2, 3, 3)))
        for _ in range(random.randint(1, len(plan.regions) + 1))
        for at_s in (random.uniform(0.5, plan.duration_s * 0.9),)
    ]
    return plan.adding(*upgrades, versions=versions)


def _databases(
    random: Random, regions: tuple[str, ...], duration_s: float
) -> tuple[dict[str, float | None], list[Fault]]:
    """Where the regions' databases are, and when connections to them break."""
    trips_s: dict[str, float | None] = {
        name: random.choice((None, None, 0.0, 0.001, 0.02, 0.1)) for name in regions
    }
    cuts = []
    for name in regions:
        if trips_s[name] is not None and random.random() < 0.3:
            spell = _spell(random, 0.2, duration_s)
            cuts.append(Fault("cut_database", *spell, (name,), random.choice(_AMOUNTS["cut_database"])))
    return trips_s, cuts


def _detour(random: Random, regions: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Cut pairs at random, and keep the rest connected."""
    pairs = [(one, other) for one in regions for other in regions if one < other]
    random.shuffle(pairs)
    cut: list[tuple[str, str]] = []
    for pair in pairs:
        if random.random() < 0.7 and _connected(regions, {*pairs} - {*cut, pair}):
            cut.append(pair)
    return tuple(sorted(cut))


def _connected(regions: tuple[str, ...], edges: set[tuple[str, str]]) -> bool:
    reached = {regions[0]}
    while grown := {end for edge in edges if reached & {*edge} for end in edge} - reached:
        reached |= grown
    return len(reached) == len(regions)
