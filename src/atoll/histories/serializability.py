"""Are transactions strictly serializable? A cycle of dependencies says no, and its edges say what went wrong.

The names are those of A. Adya, "Weak consistency", 1999. The method is that of K. Kingsbury and P. Alvaro, "Elle:
inferring isolation anomalies from experimental observations", 2020. Versions are recovered from what was read:

| anomaly | what was seen |
|---|---|
| `G0` | a cycle of writes over writes |
| `G1a` | a read of what a failed transaction wrote |
| `G1b` | a read of what its writer replaced in the same transaction |
| `G1c` | a cycle of writes and reads: two transactions saw each other |
| `G-single` | a cycle with one read of an old version: a read skew |
| `long fork` | several such reads, never two in a row: two readers saw two writes in different orders |
| `write skew` | two transactions each read what the other replaced, on two keys |
| `G2` | any other cycle with several such reads |
| `lost update` | several transactions replaced the one version that all of them had read |
| `internal` | a transaction contradicts its own reads and writes |
| `incompatible order` | two reads of a list, neither of which is the beginning of the other |
| `unknown value` | a read of what nobody wrote, or of one append twice |

A name ends in `-realtime` if the cycle needs that one transaction ended before another began.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import NamedTuple

from atoll.histories.graph import LATER_RW, LATER_WW, REALTIME, RW, SAME, WR, WW
from atoll.histories.history import Event, Operation, Verdict, operations_of, text_of
from atoll.histories.transactions import (
    INITIAL,
    Dependencies,
    Step,
    Transactions,
    longest_reads,
    transactions_of,
)

_SEARCHES = 200
"""Edges from which a cycle of one sort is looked for in one component. Without any, the first cycle is reported."""
_WRITES_FIRST = (WW, WR, REALTIME, LATER_WW, RW, LATER_RW)
_RW = RW | LATER_RW
_BY_TIME = REALTIME | LATER_WW | LATER_RW


@dataclass(frozen=True)
class Anomaly:
    """What strictly serializable transactions never do."""

    name: str
    operations: tuple[Operation, ...]
    """Those that show it. In a cycle each comes before the next, and the last before the first."""
    because: tuple[str, ...]

    @property
    def starts(self) -> frozenset[int]:
        """Where in the history its operations begin, which names them."""
        return frozenset(each.start for each in self.operations)

    def __str__(self) -> str:
        shown = [f"  T{number}: {each}" for number, each in enumerate(self.operations, 1)]
        return "\n".join([self.name, *shown, *(f"  {each}" for each in self.because)])


@dataclass(frozen=True)
class Serializability:
    """What the check of transactions found."""

    anomalies: list[Anomaly]

    @property
    def verdict(self) -> Verdict:
        return "invalid" if self.anomalies else "valid"

    @property
    def names(self) -> set[str]:
        return {each.name for each in self.anomalies}

    def __str__(self) -> str:
        return "\n".join([self.verdict, *map(str, self.anomalies)])


def check_transactions(events: Sequence[Event]) -> Serializability:
    """Check a history of `txn` for strict serializability.

    For lists of which each was read at the end, and operations without `info`, the answer is exact. Otherwise every
    anomaly is one, and some may not show. Raises InvalidHistory for other operations.
    """
    transactions = transactions_of(operations_of(events))
    found = [*_misread(transactions), *_incompatible(transactions), *_lost_updates(transactions)]
    lost = [each.starts for each in found if each.name == "lost update"]
    for each in _Cycles(transactions).anomalies():
        if each.name != "lost update" or not any(each.starts <= others for others in lost):
            found.append(each)
    return Serializability(found)


def _misread(of: Transactions) -> Iterator[Anomaly]:
    """What single reads show."""
    for number in sorted(of.happened):
        operation = of.operations[number]
        if operation.outcome != "ok":
            continue
        because = _contradiction(of, of.steps[number])
        if because:
            yield Anomaly("internal", (operation,), (because,))
        for step in of.first_reads(number):
            yield from _misread_step(of, number, step)


def _misread_step(of: Transactions, number: int, step: Step) -> Iterator[Anomaly]:
    operation, versions = of.operations[number], of.versions_of(step)
    if len(set(versions)) < len(versions):
        yield Anomaly("unknown value", (operation,), (f"a value of {step.key} is there twice",))
    for version in versions:
        writer = of.written.get((step.key, version))
        if version == INITIAL:
            continue
        if writer is None:
            yield Anomaly("unknown value", (operation,), (f"nobody wrote {version} to {step.key}",))
        elif of.operations[writer.number].outcome == "fail":
            because = f"T1 read {version} of {step.key}, which T2 wrote, and T2 failed"
            yield Anomaly("G1a", (operation, of.operations[writer.number]), (because,))
        elif writer.number != number and not writer.last and version == versions[-1]:
            because = f"T1 read {version} of {step.key}, which T2 wrote and then replaced"
            yield Anomaly("G1b", (operation, of.operations[writer.number]), (because,))


def _contradiction(of: Transactions, steps: Sequence[Step]) -> str | None:
    """Which read of a transaction disagrees with its own earlier reads and writes, or foresees a later write."""
    known: dict[str, list[str]] = {}
    appended: dict[str, list[str]] = defaultdict(list)
    to_write = {(step.key, text_of(step.value)) for step in steps if step.writes}
    for step in steps:
        if step.writes:
            version = text_of(step.value)
            to_write.discard((step.key, version))
            if not of.lists:
                known[step.key] = [version]
            elif step.key in known:
                known[step.key].append(version)
            else:
                appended[step.key].append(version)
            continue
        versions = of.versions_of(step)
        if any((step.key, version) in to_write for version in versions):
            return f"it reads in {step.key} what it writes later"
        ends = appended.pop(step.key, [])
        if known.get(step.key, versions) != versions or (ends and versions[1:][-len(ends) :] != ends):
            return f"it reads {text_of(step.value)} of {step.key}, which is not what it read or wrote before"
        known[step.key] = versions
    return None


def _incompatible(of: Transactions) -> Iterator[Anomaly]:
    if not of.lists:
        return
    longest = longest_reads(of)
    reported: set[str] = set()
    for number in sorted(of.happened):
        for step in of.steps[number] if of.operations[number].outcome == "ok" else ():
            if step.writes or step.key in reported:
                continue
            versions = of.versions_of(step)
            if longest[step.key][: len(versions)] != versions:
                reported.add(step.key)
                because = (
                    f"{step.key} was {text_of(step.value)}, and also [{','.join(longest[step.key][1:])}]"
                )
                yield Anomaly("incompatible order", (of.operations[number],), (because,))


def _lost_updates(of: Transactions) -> Iterator[Anomaly]:
    """They read one version and all replaced it, whatever the order in which they did."""
    replaced: dict[tuple[str, str], list[Operation]] = defaultdict(list)
    for number in sorted(of.happened):
        if of.operations[number].outcome != "ok":
            continue
        wrote = {step.key for step in of.steps[number] if step.writes}
        for step in of.first_reads(number):
            if step.key in wrote:
                replaced[step.key, of.versions_of(step)[-1]].append(of.operations[number])
    for (key, version), operations in replaced.items():
        if len(operations) > 1:
            because = f"all of them read {_shown(version)} of {key} and wrote it"
            yield Anomaly("lost update", tuple(operations), (because,))


class _Family(NamedTuple):
    """Kinds of edges by their role."""

    ww: int
    wr: int
    rw: int


_BY_DATA = _Family(WW | SAME, WR, RW)
_WITH_TIME = _Family(WW | LATER_WW | REALTIME | SAME, WR, RW | LATER_RW)


class _Cycles:
    """The search for cycles in the dependencies."""

    def __init__(self, transactions: Transactions) -> None:
        self._of = transactions
        dependencies = Dependencies(transactions)
        self._graph, self._reasons = dependencies.graph, dependencies.reasons

    def anomalies(self) -> Iterator[Anomaly]:
        """One of each name in each component; real time is used only where nothing else shows."""
        every = _WITH_TIME.ww | _WITH_TIME.wr | _WITH_TIME.rw
        for component in self._graph.components(every):
            found: dict[str, Anomaly] = {}
            for family in (_BY_DATA, _WITH_TIME):
                for cycle in self._cycles(component, family) if not found else ():
                    anomaly = self._named(cycle, family.ww | family.wr | family.rw)
                    found.setdefault(anomaly.name, anomaly)
            if not found:
                # More edges than were looked at lie on no cycle of their sort.
                some = self._graph.path(component[-1], component[-1], set(component), every)
                anomaly = self._named(some or [], every)
                found[anomaly.name] = anomaly
            yield from found.values()

    def _cycles(self, component: Sequence[int], family: _Family) -> Iterator[list[int]]:
        """The shortest of each sort, the gravest sort first. Each begins and ends with the same node."""
        ww, wr, rw = family
        every = ww | wr | rw
        for kinds, first, alone in (
            (ww, ww, 0),
            (ww | wr, wr, 0),
            (every, rw, ww | wr),
            (every, rw, rw),
            (every, rw, 0),
        ):
            shortest: list[int] | None = None
            for part in self._graph.components(kinds, component):
                allowed = set(part)
                for before, after in islice(self._edges(part, allowed, first), _SEARCHES):
                    if alone == ww | wr:
                        path = self._graph.path(after, before, allowed, ww | wr)
                    else:
                        path = self._graph.path(after, before, allowed, kinds, alone, after_alone=bool(alone))
                    if path is not None and (shortest is None or len(path) < len(shortest)):
                        shortest = [before, *path]
            if shortest is not None:
                yield shortest

    def _edges(self, part: Sequence[int], allowed: set[int], kinds: int) -> Iterator[tuple[int, int]]:
        for before in part:
            for after, kind in self._graph.edges.get(before, {}).items():
                if after in allowed and kind & kinds & ~SAME:
                    yield before, after

    def _named(self, cycle: list[int], kinds: int) -> Anomaly:
        """`cycle` begins and ends with the same node. Nodes that join edges are left out of what is shown."""
        steps: list[tuple[int, int, str, str]] = []
        for before, after in pairwise(cycle):
            kind = next(
                (each for each in _WRITES_FIRST if self._graph.edges[before][after] & kinds & each), None
            )
            if kind is not None:
                key, version = self._reasons.get((before, after, kind), ("", ""))
                steps.append((before, kind, key, version))
        operations = tuple(self._of.operations[each] for each, _, _, _ in steps)
        because = tuple(
            f"T{number} before T{number % len(steps) + 1}: {_explained(kind, key, version)}"
            for number, (_, kind, key, version) in enumerate(steps, 1)
        )
        name = _name([kind for _, kind, _, _ in steps], len({key for _, _, key, _ in steps}))
        return Anomaly(name, operations, because)


def _name(kinds: Sequence[int], keys: int) -> str:
    by_time = "-realtime" if any(each & _BY_TIME for each in kinds) else ""
    reads = [bool(each & _RW) for each in kinds]
    if not any(reads):
        return ("G1c" if WR in kinds else "G0") + by_time
    if sum(reads) == 1:
        return "G-single" + by_time
    if not any(one and other for one, other in pairwise([*reads, reads[0]])):
        return "long fork" + by_time
    if len(kinds) == 2:
        return ("write skew" if keys == 2 else "lost update") + by_time
    return "G2" + by_time


def _explained(kind: int, key: str, version: str) -> str:
    if kind == REALTIME:
        return "it had ended when the other began"
    did = "read" if kind & _RW else "wrote"
    then = "read" if kind == WR else "replaced"
    seen = ", as was seen earlier" if kind & (LATER_WW | LATER_RW) else ""
    return f"it {did} {_shown(version)} of {key}, which the other {then}{seen}"


def _shown(version: str) -> str:
    return "nothing" if version == INITIAL else version
