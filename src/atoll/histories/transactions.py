"""Transactions of a history: what each read and wrote, and which version of a key came before which.

A transaction has `f` = `txn`, no key, and a list of steps as its value, as in Elle:

    [["r","x",[1,2]],["append","x",3]]        keys are lists, and each append is of a value that no other is of
    [["r","x",2],["w","x",3]]                 keys are registers, at first null, and each value is written once
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from atoll.errors import InvalidHistory
from atoll.histories.graph import LATER_RW, LATER_WW, REALTIME, RW, SAME, WR, WW, Graph
from atoll.histories.history import Operation, text_of

INITIAL = ""
"""The version before the first write. No JSON text is empty."""


class Step(NamedTuple):
    """One read or write in a transaction."""

    f: str
    key: str
    """Canonical JSON, as all keys and versions here."""
    value: Any

    @property
    def writes(self) -> bool:
        return self.f != "r"


class Written(NamedTuple):
    """Who wrote a version."""

    number: int
    last: bool
    """False if the same transaction replaced the version."""


@dataclass
class Transactions:
    """The transactions of one history. Their numbers are positions in `operations`."""

    operations: list[Operation]
    lists: bool
    """Whether keys are lists that are appended to."""
    steps: list[list[Step]]
    written: dict[tuple[str, str], Written] = field(default_factory=dict)
    """(key, version) → who wrote it"""
    readers: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))
    """(key, version) → who read it before writing the key"""
    happened: set[int] = field(default_factory=set)
    """Numbers of transactions that certainly took effect: those that were told so, and those that were seen."""

    def versions_of(self, step: Step) -> list[str]:
        """What a read saw, the newest last."""
        if self.lists:
            return [INITIAL, *map(text_of, step.value)]
        return [INITIAL if step.value is None else text_of(step.value)]

    def first_reads(self, number: int) -> Iterator[Step]:
        """The first read of each key that the transaction had not written before."""
        touched: set[str] = set()
        for step in self.steps[number]:
            if not step.writes and step.key not in touched:
                yield step
            touched.add(step.key)


def transactions_of(operations: Iterable[Operation]) -> Transactions:
    """Raises InvalidHistory for other operations, and for a value that is written twice."""
    kept = list(operations)
    steps = [_steps_of(each) for each in kept]
    forms = {step.f for each in steps for step in each if step.writes}
    if len(forms) > 1:
        raise InvalidHistory("a history of transactions has appends or writes, and not both")
    read_lists = any(isinstance(step.value, list) for each in steps for step in each)
    found = Transactions(kept, "append" in forms or (not forms and read_lists), steps)
    for number, each in enumerate(kept):
        if each.outcome == "ok":
            found.happened.add(number)
        _index_writes(found, number)
    for number in list(found.happened):
        _index_reads(found, number)
    return found


def _steps_of(operation: Operation) -> list[Step]:
    if operation.f != "txn":
        raise InvalidHistory(f"{operation} is no txn")
    invoked = _parsed(operation, operation.invoked)
    if operation.outcome != "ok":
        return invoked
    told = _parsed(operation, operation.value)
    if [(each.f, each.key, each.value if each.writes else None) for each in told] != [
        (each.f, each.key, each.value if each.writes else None) for each in invoked
    ]:
        raise InvalidHistory(f"{operation} has other steps than its invocation")
    return told


def _parsed(operation: Operation, value: Any) -> list[Step]:
    found: list[Step] = []
    for step in value if isinstance(value, list) else [value]:
        match step:
            case ["r" | "w" | "append" as f, str() | int() as key, it]:
                found.append(Step(f, text_of(key), it))
            case _:
                raise InvalidHistory(f'{operation} is not a list of ["r" | "w" | "append", key, value]')
    return found


def _index_writes(found: Transactions, number: int) -> None:
    last: dict[str, tuple[str, str]] = {}
    for step in found.steps[number]:
        if not step.writes:
            continue
        version = (step.key, text_of(step.value))
        if version in found.written or (not found.lists and step.value is None):
            raise InvalidHistory(
                f"{found.operations[number]} writes {version[1]} to {step.key}; each value may be written once"
            )
        if step.key in last:
            found.written[last[step.key]] = Written(number, False)
        found.written[version] = Written(number, True)
        last[step.key] = version


def _index_reads(found: Transactions, number: int) -> None:
    for step in found.steps[number]:
        if step.writes:
            continue
        if found.lists and not isinstance(step.value, list):
            raise InvalidHistory(f"{found.operations[number]} reads {step.key}, and not as a list")
        for version in found.versions_of(step):
            writer = found.written.get((step.key, version))
            if writer is not None and found.operations[writer.number].outcome == "info":
                found.happened.add(writer.number)
    for step in found.first_reads(number):
        found.readers[step.key, found.versions_of(step)[-1]].append(number)


class Reason(NamedTuple):
    """The key and the version that the earlier transaction wrote or read."""

    key: str
    version: str


class Dependencies:
    """The graph of what must come before what, if the history is strictly serializable."""

    def __init__(self, transactions: Transactions) -> None:
        self.graph = Graph()
        self.reasons: dict[tuple[int, int, int], Reason] = {}
        self._of = transactions
        self._joined = 0
        self._writers: dict[str, list[int]] = defaultdict(list)
        for (key, _), (number, last) in transactions.written.items():
            if last and number in transactions.happened:
                self._writers[key].append(number)
        for (key, version), numbers in transactions.readers.items():
            writer = self._writer(key, version)
            for each in numbers if writer is not None else ():
                self._add(writer, each, WR, Reason(key, version))
        (self._order_lists if transactions.lists else self._order_registers)()
        for before, after in realtime(transactions.operations, sorted(transactions.happened)):
            self.graph.add(before, after, REALTIME)

    def _writer(self, key: str, version: str) -> int | None:
        found = self._of.written.get((key, version))
        return found.number if found is not None and found.number in self._of.happened else None

    def _add(self, before: int | None, after: int | None, kind: int, reason: Reason) -> None:
        if before is not None and after is not None:
            self.graph.add(before, after, kind)
            self.reasons.setdefault((before, after, kind), reason)

    def _precede(self, key: str, older: str, newer: str, ww: int = WW, rw: int = RW) -> None:
        writer, reason = self._writer(key, newer), Reason(key, older)
        self._add(self._writer(key, older), writer, ww, reason)
        for each in self._of.readers.get((key, older), ()):
            self._add(each, writer, rw, reason)

    def _precede_all(self, key: str, older: str, writers: Sequence[int]) -> None:
        """A version is older than what all these wrote."""
        reason, writing = Reason(key, older), set(writers)
        for each in writers:
            self._add(self._writer(key, older), each, WW, reason)
        self._joined -= 1
        for reader in self._of.readers.get((key, older), ()):
            if reader in writing:
                for each in writers:
                    self._add(reader, each, RW, reason)
            else:
                # One node between all readers and all writers, instead of an edge for each pair.
                self._add(reader, self._joined, RW, reason)
        for each in writers:
            self.graph.add(self._joined, each, SAME)

    def _order_lists(self) -> None:
        """The longest list that was read is the order. What is in no list came after it."""
        longest = longest_reads(self._of)
        for key in {*longest, *self._writers}:
            order = [INITIAL, *dict.fromkeys(longest.get(key, [INITIAL])[1:])]
            newer: str | None = None
            for version in reversed(order):
                if newer is not None:
                    self._precede(key, version, newer)
                if self._writer(key, version) is not None:
                    newer = version
            last = next((each for each in reversed(order) if self._writer(key, each) is not None), INITIAL)
            seen = {self._writer(key, version) for version in order}
            unseen = [each for each in dict.fromkeys(self._writers[key]) if each not in seen]
            if unseen:
                self._precede_all(key, last, unseen)

    def _order_registers(self) -> None:
        """Every version came after the first, after what its writer had read, and after what was seen earlier."""
        touching: dict[str, dict[int, tuple[str, str]]] = defaultdict(dict)
        for number in sorted(self._of.happened):
            known = self._of.operations[number].outcome == "ok"
            for step in self._of.steps[number]:
                if step.writes or known:
                    version = self._of.versions_of(step)[-1]
                    seen = touching[step.key].get(number, (version, INITIAL))
                    touching[step.key][number] = (seen[0], version)
                    if step.writes and seen[1] != INITIAL:
                        self._precede(step.key, seen[1], version)
        for key, numbers in touching.items():
            self._precede_all(key, INITIAL, list(dict.fromkeys(self._writers[key])))
            for before, after in realtime(self._of.operations, list(numbers)):
                older, newer = numbers[before][1], numbers[after][0]
                if older != newer and INITIAL not in (older, newer):
                    self._precede(key, older, newer, LATER_WW, LATER_RW)


def longest_reads(transactions: Transactions) -> dict[str, list[str]]:
    """key → the versions of the longest list that was read of it"""
    found: dict[str, list[str]] = {}
    for number in sorted(transactions.happened):
        if transactions.operations[number].outcome == "ok":
            for step in transactions.steps[number]:
                if not step.writes and len(step.value) >= len(found.get(step.key, ())):
                    found[step.key] = transactions.versions_of(step)
    return found


def realtime(operations: Sequence[Operation], numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pairs of which the first ended before the other began. What follows from other pairs is left out."""
    events = [(operations[each].start, each) for each in numbers]
    events += [(end, each) for each in numbers if (end := operations[each].end) is not None]
    ended: list[int] = []
    for position, number in sorted(events):
        if position == operations[number].start:
            yield from ((each, number) for each in ended)
        else:
            start = operations[number].start
            ended = [each for each in ended if (operations[each].end or 0) > start]
            ended.append(number)
