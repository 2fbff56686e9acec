"""One run: faults and safety first, then detours, then everything heals and the regions must agree.

There are three classes of failures. Something happened that must never happen (safety), something did not happen
in time (liveness), or nobody expected an exception (crash).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec

from atoll.causality.origin import by_region
from atoll.conflicts.guard import guarded
from atoll.documents.decided import DECIDED
from atoll.documents.rules import Rules, plain_text
from atoll.schema.application import Application
from atoll.simulation.application import built_in_for
from atoll.simulation.declared_later import DeclaredLater
from atoll.simulation.external import External
from atoll.simulation.failures import (
    CrashFound,
    LivenessViolation,
    SafetyViolation,
    SimulationFailure,
    Verdict,
)
from atoll.simulation.fallbacks import Fallbacks
from atoll.simulation.freshness import Freshness
from atoll.simulation.hostile import Hostile
from atoll.simulation.interface import Interface
from atoll.simulation.journal import Journal, revision_of
from atoll.simulation.leaving import Leaving
from atoll.simulation.members import Members
from atoll.simulation.mergeable import Counters, Inventory, Sets, Texts
from atoll.simulation.mistakes import Mistakes
from atoll.simulation.nemesis import Nemesis
from atoll.simulation.oracle import plain_part
from atoll.simulation.placements import Feed, Identifiers, Orders
from atoll.simulation.plan import Plan
from atoll.simulation.references import References
from atoll.simulation.sagas import Sagas
from atoll.simulation.sessions import Batches, Posts, Retries, Returning, Sessions
from atoll.simulation.several_nodes import check_nodes, links_move, wakes
from atoll.simulation.strong_references import StrongReferences
from atoll.simulation.traffic import Traffic
from atoll.simulation.transfers import Transfers
from atoll.simulation.unique import Duplicates, Unique
from atoll.simulation.versions import LOSES_NO_FIELD, Versions
from atoll.simulation.world import Workload, World
from atoll.testing.cluster import Cluster, NotSettled
from atoll.testing.virtual_time import Stalled, VirtualLoop

K = TypeVar("K")
V = TypeVar("V")

_CONVERGE_S = 30.0
"""Once healed, all regions must agree within this, beyond what a clock that ran ahead has to wait for."""
_TRIPS = 6
"""To the database and back, that one commit makes, with one that is lost to another node."""
_MOST_LATE = 20
_ASKED_EVERY_S = 0.1
"""A region that comes back from a backup."""
_FINISH_S = 90.0

SHOWS_THE_SAME = "a purge changes nothing that is shown"

_MAKERS: Mapping[str, Callable[[int, float], Workload]] = {
    each.name: each
    for each in (
        Counters, Inventory, Sets, Texts, Sessions, Posts, Batches, Retries, Orders, Identifiers, Feed, Freshness,
        Transfers, Fallbacks, Versions, Hostile, Mistakes, Interface, External, Sagas, Traffic, Unique, Duplicates,
        References, StrongReferences, DeclaredLater, Leaving, Members,
    )
}  # fmt: skip


@dataclass(slots=True)
class Report:
    """What came of one plan."""

    plan: Plan
    failure: SimulationFailure | None = None
    digest: str = ""
    """Of everything that every region committed and showed: equal for two runs of one plan."""
    virtual_s: float = 0.0
    steps: int = 0
    writes: int = 0
    reads: int = 0
    entries: int = 0
    conflicts: Counter[str] = field(default_factory=Counter)
    """collection and kind → records in the audit at the end."""
    unsolved: Counter[str] = field(default_factory=Counter)
    """collection and why its merge function came to nothing → records that were left to the application."""
    errors: dict[str, int] = field(default_factory=dict)
    """class → how often clients met it."""


def run(
    plan: Plan,
    application: Application | None = None,
    *,
    prepare: Callable[[Cluster], None] | None = None,
) -> Report:
    """Run a plan to its end. With an application, its collections are written; else the built-in workloads.

    `prepare` may change the cluster before it starts.
    """
    report = Report(plan)
    loop = VirtualLoop()
    state = random.getstate()
    random.seed(plan.seed)  # only a team's own function may use it: even then a run can be replayed
    try:
        loop.run_simulation(_simulate(plan, application, report, prepare))
    except SimulationFailure as failure:
        report.failure = failure
    except Stalled as error:
        report.failure = LivenessViolation("something can always happen", str(error))
    except Exception as error:
        report.failure = CrashFound("the simulation ends", f"{type(error).__name__}: {error}")
    finally:
        random.setstate(state)
    report.steps = loop.steps
    report.virtual_s = loop.time()
    return report


async def _simulate(
    plan: Plan,
    application: Application | None,
    report: Report,
    prepare: Callable[[Cluster], None] | None,
) -> None:
    declared = application or built_in_for(plan.workloads)
    cluster = Cluster(
        declared,
        plan.regions,
        seed=plan.seed,
        one_way_s=plan.one_way_s,
        options=plan.options,
        files=plan.files,
        nodes=plan.nodes,
        witnesses=plan.witnesses,
    )
    verdict = Verdict()
    journal = Journal(verdict)
    journal.patient = plan.options.journal_absent_s > _FINISH_S and plan.options.journal_most_bytes is None
    journal.vectors.update({name: {} for name in plan.regions})
    world = World(cluster, rules_of(declared), journal, verdict)
    for path in cluster.network.paths.values():
        path.jitter_s = plan.jitter_s
    for name in cluster.members:
        disk = cluster[name].disk
        if not disk.shared:
            disk.trip_s = plan.trips_s.get(name)
        disk.faults.untold, disk.faults.told_late_s = plan.untold, plan.told_late_s
        if name not in cluster.witnesses:  # which have no journals
            disk.observers.append(journal.observe)
            disk.replaced = journal.replaced
            disk.truncated = journal.cut
        for node in cluster.of(name):
            node.kernel_uncertainty_ms = plan.kernel_uncertainty_ms
            node.kernel_margin_ms = plan.margins_ms.get(node.name)
            node.clock.set_right(offset_ms=plan.offsets_ms.get(node.name, plan.offsets_ms.get(name, 0)))
            node.clock.drift_ppm = plan.drifts_ppm.get(name, 0)
            node.connection.trip_s = plan.node_trips_s.get(node.name)
            if name not in cluster.witnesses:
                node.mounted = journal.mounted
            if application is None and name in plan.versions:
                node.application = built_in_for(plan.workloads, plan.versions[name])
    if prepare is not None:
        prepare(cluster)
    cluster.start()
    workloads = _workloads(plan, declared, own=application is not None)
    try:
        await _unless_failed(verdict, _phases(plan, world, workloads))
    finally:
        _fill(report, world)
        cluster.close()
        if verdict.failure is not None:
            raise verdict.failure
        if cluster.loop.defects:
            raise CrashFound("nothing is raised that nobody expects", cluster.loop.defects[0])


async def _unless_failed(verdict: Verdict, work: Any) -> None:
    """Run `work`, and stop at the first violation."""
    failed = asyncio.ensure_future(verdict.failed())
    main = asyncio.ensure_future(work)
    await asyncio.wait({failed, main}, return_when=asyncio.FIRST_COMPLETED)
    failed.cancel()
    if not main.done():
        main.cancel()
        await asyncio.gather(main, return_exceptions=True)
    verdict.check()
    main.result()


async def _phases(plan: Plan, world: World, workloads: Iterable[Workload]) -> None:
    cluster = world.cluster
    running = [asyncio.ensure_future(each.run(world)) for each in workloads]
    nemesis = asyncio.ensure_future(Nemesis(cluster, plan).run())
    await asyncio.sleep(plan.duration_s)
    nemesis.cancel()
    _heal(plan, cluster, plan.detour)
    world.stopped = True
    done, late = await asyncio.wait(running, timeout=_FINISH_S)
    if late:
        raise LivenessViolation("every call ends", f"{len(late)} workloads still wait after {_FINISH_S:g} s")
    for each in done:
        each.result()
    await check_nodes(world, wakes)
    if plan.detour:
        await _settle(cluster, "a cut between two that both reach a third stops nothing")
        _heal(plan, cluster, ())
    for workload in workloads:
        await workload.rest(world)
        world.verdict.check()
    await _settle(cluster, "healed regions agree in time")
    await _serve(cluster)
    await check_agreement(world, history=False)
    # A clock that was set right is compared anew, and one that was set back has to be caught up with.
    lead_ms = max(cluster.region(name).clock.lead_ms() for name in cluster.nodes)
    await asyncio.sleep(plan.options.ping_s + 1.0 + lead_ms / 1000)
    world.journal.strike_lost()
    for workload in workloads:
        await workload.finish(world)
        world.verdict.check()
    await check_nodes(world, links_move)
    await check_agreement(world)
    world.check_operations()


def _heal(plan: Plan, cluster: Cluster, detour: Iterable[tuple[str, str]]) -> None:
    cluster.heal()
    for path in cluster.network.paths.values():
        path.jitter_s = plan.jitter_s
    for name, node in cluster.nodes.items():
        if node.application is not cluster.application:
            cluster.upgrade(name, cluster.application)
        node.clock.set_right(offset_ms=plan.offsets_ms.get(name, 0))
    for one, other in detour:
        cluster.network.cut(one, other)
        cluster.network.cut(other, one)


async def _settle(cluster: Cluster, invariant: str) -> None:
    ahead_ms = max(
        (node.disk.store.clock() >> 16) - min(each.clock() for each in cluster.nodes.values())
        for node in cluster.nodes.values()
    )
    try:
        within_s = _CONVERGE_S + _snapshots_s(cluster) + _commits_s(cluster)
        await cluster.settle(within_s + max(0, ahead_ms) / 1000)
    except NotSettled as error:
        raise LivenessViolation(invariant, str(error)) from None


async def _let_go(cluster: Cluster) -> None:
    """What a region lost before anyone stored it may wait in an inbox until that region is heard again."""
    deadline_s = cluster.loop.time() + _CONVERGE_S
    while any(len(cluster.region(name).intake.inbox) for name in cluster.nodes):
        if cluster.loop.time() > deadline_s:
            return  # the look says what waits
        await asyncio.sleep(0.05)


async def _serve(cluster: Cluster) -> None:
    """Once all regions agree, one that was restored soon takes note that it has everything again."""
    deadline_s = cluster.loop.time() + _CONVERGE_S
    nodes = [node.name for node in cluster.keepers]
    while closed := [why for name in nodes if (why := cluster.region(name).health_of("reading"))]:
        if cluster.loop.time() > deadline_s:
            raise LivenessViolation("a healed region serves reads", "; ".join(closed))
        await asyncio.sleep(0.05)


def _commits_s(cluster: Cluster) -> float:
    """What a region lacks comes in commits of bounded size, and each makes some trips to its database."""
    return max(
        sum(by_region(cluster.newest()).values()) / node.options.intake.entries_per_commit * _TRIPS * trip_s
        for node in cluster.nodes.values()
        for trip_s in (node.connection.trip_s or node.disk.trip_s or 0.0,)
    )


def _snapshots_s(cluster: Cluster) -> float:
    """Where journals are cut at once, and few regions see each other, one may wait for the snapshots of all others."""
    cut_soon = any(node.options.journal_s < _CONVERGE_S for node in cluster.nodes.values())
    return len(cluster.names) * _CONVERGE_S if cut_soon else 0.0


async def check_agreement(world: World, *, history: bool = True) -> None:
    """All regions hold the same documents bit for bit and the same audit, and both are what the history says.

    To look takes time. A call that its client gave up, or an event, may be committed before and meanwhile. So each
    look begins once all nodes know the same, and what it finds counts only if nothing was committed until its end.
    """
    for _ in range(_MOST_LATE):
        await _settle(world.cluster, "healed regions agree in time")
        await _let_go(world.cluster)
        before = _positions(world)
        try:
            return await _check_agreement(world, history=history)
        except SafetyViolation:
            if _positions(world) == before:
                raise
    raise LivenessViolation(
        "every call ends", f"calls are still taken after {_MOST_LATE} looks at what they did"
    )


def _positions(world: World) -> dict[str, dict[str, int]]:
    return {name: world.cluster[name].disk.store.positions() for name in world.names}


async def _check_agreement(world: World, *, history: bool) -> None:
    cluster = world.cluster
    world.oracle.ask_functions()  # first, because it says whose fault it is
    first = world.names[0]
    shown, audit, digests = cluster.shown(first), cluster.audit(first), await cluster.digests(first)
    for name in world.names:
        for parked in cluster[name].disk.store.parked(1 << 40, limit_bytes=1 << 40):
            if parked[:3] in world.journal.refused:
                continue
            undeclared = parked.cause == "undeclared"
            raise SafetyViolation(
                LOSES_NO_FIELD if undeclared else "nothing is parked between equals",
                f"{name}: {parked.reason}",
            )
        for node in cluster.of(name):
            _nothing_waits(cluster, node.name)
        if name == first:
            continue
        theirs, their_digests = cluster.shown(name), await cluster.digests(name)
        erased = world.journal.erased  # by now: retention goes on beside all this
        _same("documents converge", first, name, _without(shown, erased), _without(theirs, erased))
        incomplete = {collection for collection, _ in erased}
        if _without(their_digests, incomplete) != _without(digests, incomplete):
            raise SafetyViolation("merge states converge", f"the digests of {first} and {name} differ")
        _same("the audit is the same in every region", first, name, audit, cluster.audit(name))
    if history:
        _check_history(world, shown, audit)


def _without(found: Mapping[K, V], left_out: Container[K]) -> dict[K, V]:
    return {key: value for key, value in found.items() if key not in left_out}


def _nothing_waits(cluster: Cluster, name: str) -> None:
    region = cluster.region(name)
    inbox = region.intake.inbox
    waiting = inbox.blocked_on(region.vector)
    if len(inbox) or inbox.size_bytes:
        raise SafetyViolation(
            "nothing waits that has been applied",
            f"{name}: {inbox.size_bytes} bytes of {sorted(waiting)}",
        )


def _same(invariant: str, one: str, other: str, ours: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> None:
    if ours != theirs:
        key = min(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key))
        raise SafetyViolation(invariant, f"{key}: {one} has {ours.get(key)!r}, {other} {theirs.get(key)!r}")


def _check_history(world: World, shown: Mapping[tuple[str, str], bytes], audit: Mapping[str, bytes]) -> None:
    for collection, key in sorted(world.journal.by_document):
        if collection not in world.rules or (collection, key) in world.journal.erased:
            continue
        rules = world.rules[collection]
        value = shown.get((collection, key))
        plain = plain_part(rules, value)
        expected = world.oracle.visible_plain(collection, key)
        if plain != expected:
            raise SafetyViolation(
                "what is shown is what the history says", f"{collection}/{key}: {plain}, not {expected}"
            )
        if value is not None and rules.lattices:
            whole, joined = msgspec.json.decode(value), world.oracle.lattices(collection, key)
            wrong = sorted(field for field in joined if whole[field] != joined[field])
            if wrong:
                raise SafetyViolation(
                    "a mergeable field shows all that was done to it",
                    f"{collection}/{key}.{wrong[0]}: {whole[wrong[0]]!r}, its history comes to {joined[wrong[0]]!r}",
                )
        if less := world.oracle.showing_less(collection, key):
            raise SafetyViolation(SHOWS_THE_SAME, f"{collection}/{key} was another one after {less[0]}")
    wanted = world.oracle.expected_audit()
    records = {id_: msgspec.json.decode(body) for id_, body in audit.items()}
    recorded = {
        (r["collection"], r["key"], r["losing"]["region"], r["losing"]["seq"]) for r in records.values()
    }
    for collection, key in sorted(world.journal.by_document):
        hidden = world.oracle.hidden(collection, key) if collection in world.rules else []
        for register, dot in hidden:
            if (collection, key, *dot) not in recorded:
                raise SafetyViolation(
                    "every lost value is in the audit",
                    f"{collection}/{key} was deleted by someone who had not seen what {dot} wrote to {register!r}",
                )
    for id_ in sorted(wanted.keys() - records.keys()):
        raise SafetyViolation("every lost value is in the audit", f"{id_} is not: {wanted[id_]}")
    for id_ in sorted(records.keys() - wanted.keys()):
        if not _unjournaled(world, records[id_]):
            raise SafetyViolation("the audit holds nothing else", f"{records[id_]}")
    for id_, record in sorted(records.items()):
        if _unjournaled(world, record):
            continue
        resolved = record["resolved_by"]
        found = (
            record["status"],
            (record["losing"]["region"], record["losing"]["seq"]),
            (record["winning"]["region"], record["winning"]["seq"]),
            None if resolved is None else tuple(resolved),
        )
        if found != tuple(wanted[id_]):
            raise SafetyViolation("a record says what happened", f"{id_}: {found}, not {tuple(wanted[id_])}")


def _unjournaled(world: World, record: Mapping[str, Any]) -> bool:
    """Whether a side, or what settled it, is a decided revision that no region has journaled.

    Its proposer never heard that it is decided, and a later one followed. Then only the record tells of it.
    """
    touches = world.journal.by_document[record["collection"], record["key"]]
    revisions = {revision_of(each.change) for each in touches}
    dots = [(record[side]["region"], record[side]["seq"]) for side in ("losing", "winning")]
    if record["resolved_by"] is not None:
        dots.append(tuple(record["resolved_by"][1:]))
    return any(region == DECIDED and revision not in revisions for region, revision in dots)


def rules_of(application: Application) -> dict[str, Rules]:
    """The collections' rules, for checkers: no region's own."""
    found = {}
    for name, schema in application.stored.items():
        function = schema.policy.resolver
        resolver = None if function is None else guarded(function, partial(plain_text, schema))
        found[name] = Rules(schema, resolver)
    return found


def _workloads(plan: Plan, application: Application, *, own: bool) -> list[Workload]:
    if own:
        return [Traffic(plan.clients + 1, plan.mean_s, tuple(application.collections))]
    made = [_MAKERS[name](plan.clients, plan.mean_s) for name in plan.workloads]
    return (
        [*made, Returning(1, _ASKED_EVERY_S)]
        if any(fault.kind == "restore" for fault in plan.faults)
        else made
    )


def _fill(report: Report, world: World) -> None:
    cluster = world.cluster
    digest = blake2b(world.journal.digest.encode(), digest_size=16)
    for name in world.names:
        digest.update(repr(sorted(cluster.shown(name).items())).encode())
        digest.update(repr(sorted(cluster.audit(name).items())).encode())
    report.digest = digest.hexdigest()
    report.writes = len(world.operations)
    report.reads = world.reads
    report.entries = len(world.journal.entries)
    report.errors = dict(sorted(world.errors.items()))
    for body in cluster.audit(world.names[0]).values():
        record = msgspec.json.decode(body)
        report.conflicts[f"{record['collection']} {record['kind']}"] += 1
        if record["strategy"] == "custom" and record["outcome"] == "kept":
            reason = record["reason"]
            if not reason.startswith("the custom function failed"):
                reason = "the custom function failed, and a later write resolved it"
            report.unsolved[f"{record['collection']}: {reason}"] += 1
