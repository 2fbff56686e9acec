"""What must be shown and recorded, worked out from the history alone and by definition.

A version of a register is present while no later writer had seen it. Of several present ones a strategy
picks, and the others are lost: they must be in the audit. A write whose author had seen both versions
replaces them, and resolves the record. This shares no code with the merge: it looks at all versions that
were ever written, not at states.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from atoll.causality.origin import Origin
from atoll.causality.types import Dot, Order, Seq, Stamp
from atoll.causality.vector import covers
from atoll.conflicts.records import record_id
from atoll.documents.entry import Change, Entry
from atoll.documents.rules import PURGED, TOUCH, WHOLE, Rules, field_of, in_life, is_touch
from atoll.schema.system import DANGLING, DELETED, HOLDERS, RANKED
from atoll.simulation.failures import SafetyViolation
from atoll.simulation.journal import Journal, Touch, revision_of

_TIMES_ASKED = 6


class Written(NamedTuple):
    """One value that one entry wrote to one register."""

    stamp: Stamp
    origin: Origin
    seq: Seq
    value: bytes | None
    context: Mapping[str, int]

    @property
    def dot(self) -> Dot:
        return Dot(self.origin, self.seq)

    def saw(self, other: Written) -> bool:
        return covers(self.context, other.origin, other.seq)


class Expected(NamedTuple):
    """One conflict record, as far as the history determines it."""

    status: str
    losing: Dot
    winning: Dot
    resolved_by: Order | None


def plain_part(rules: Rules, value: bytes | None) -> dict[str, Any] | None:
    """A shown document without its mergeable fields."""
    if value is None:
        return None
    return {name: member for name, member in msgspec.json.decode(value).items() if name not in rules.lattices}


class Oracle:
    """Asks of one application's collections."""

    def __init__(self, rules: Mapping[str, Rules], journal: Journal) -> None:
        self._rules = rules
        self._journal = journal

    def visible_plain(
        self, collection: str, key: str, vector: Mapping[str, int] | None = None
    ) -> dict[str, Any] | None:
        """The plain fields and maps that a region which has seen `vector` must show; None when absent."""
        rules = self._rules[collection]
        present = _present(list(self._journal.touches(collection, key, vector)))
        whole = present.get(WHOLE)
        if not whole:
            return None
        shown = _fold(rules, WHOLE, whole)[0]
        if shown is None:
            return None
        document: dict[str, Any] = {} if rules.per_field else msgspec.json.decode(shown)
        if rules.per_field:
            for field in rules.plain:
                if versions := present.get(field):
                    value = _fold(rules, field, versions)[0]
                    if value is not None:
                        document[field] = msgspec.json.decode(value)
        maps = {in_life(field, _life(present)): field for field in rules.maps}
        document.update((field, {}) for field in rules.maps)
        for register, versions in sorted(present.items()):
            name, _, member = register.partition(".")
            if rules.is_member(register) and name in maps:
                value = _fold(rules, register, versions)[0]
                if value is not None:
                    document[maps[name]][member] = msgspec.json.decode(value)
        return document

    def lattices(self, collection: str, key: str, vector: Mapping[str, int] | None = None) -> dict[str, Any]:
        """What each mergeable field must show: the join of every delta to the present life, wherever they came from."""
        rules = self._rules[collection]
        touches = list(self._journal.touches(collection, key, vector))
        life = _life(_present(touches))
        shown = {}
        for field, lattice in rules.lattices.items():
            state, name = lattice.empty(), in_life(field, life)
            for touch in touches:
                if name in touch.change.deltas:
                    state = lattice.merge(state, lattice.decode(touch.change.deltas[name]))
            shown[field] = lattice.value(state)
        return shown

    def showing_less(self, collection: str, key: str) -> list[Dot]:
        """Purges that changed what their own region showed."""
        found = []
        for entry, change, _ in self._journal.touches(collection, key):
            if PURGED in change.registers and entry.dot not in self._journal.hostile:
                moments = (entry.context, {**entry.context, entry.origin: entry.seq})
                before, after = (self._shown(collection, key, moment) for moment in moments)
                if before != after:
                    found.append(entry.dot)
        return found

    def _shown(self, collection: str, key: str, vector: Mapping[str, int]) -> Any:
        plain = self.visible_plain(collection, key, vector)
        return None if plain is None else (plain, self.lattices(collection, key, vector))

    def ask_functions(self) -> None:
        """Raises SafetyViolation where a team's own function does not give one answer."""
        for collection, key in sorted(self._journal.by_document):
            if collection in self._rules and self._rules[collection].schema.policy.resolver is not None:
                self.visible_plain(collection, key)

    def hidden(self, collection: str, key: str) -> list[tuple[str, Dot]]:
        """What a deletion hides without having seen it: (register, dot) of present values of an absent document."""
        if self.visible_plain(collection, key) is not None:
            return []
        present = _present(list(self._journal.touches(collection, key)))
        deletions = [version for version in present.get(WHOLE, ()) if version.value is None]
        return [
            (register, version.dot)
            for register, versions in sorted(present.items())
            for version in versions
            if register not in (WHOLE, PURGED)
            and version.value is not None
            and version.dot not in self._journal.hostile
            and not any(deletion.saw(version) for deletion in deletions)
        ]

    def expected_audit(self) -> dict[str, Expected]:
        """Every record that each region must hold once it has seen everything."""
        expected: dict[str, Expected] = {}
        for collection, key in sorted(self._journal.by_document):
            if collection in self._rules:
                self._expect(collection, key, expected)
        return expected

    def _expect(self, collection: str, key: str, expected: dict[str, Expected]) -> None:
        rules = self._rules[collection]
        touches = list(self._journal.touches(collection, key))
        if len(touches) < 2 and not rules.records:
            return
        resolved: dict[str, Expected] = {}
        revisions = {revision_of(touch.change) for touch in touches}
        for touch in sorted(touches, key=lambda each: each.entry.order):
            entry = touch.entry
            if entry.dot in self._journal.hostile:
                continue  # it does not say what it overwrites
            version = _written(entry, touch.change, touch.change.registers.get(WHOLE))
            if version.origin == "=" and touch.change.operation and version.seq - 1 not in revisions:
                continue  # what it followed is in no journal: its proposer died
            seen = [other for other in touches if _saw(version, other)]
            lost = _open(rules, key, _present(seen))
            replaced = touch.change.registers
            left = _open(rules, key, _present([*seen, touch])) if PURGED in replaced else lost
            for id_, (register, losing, winner, _) in lost.items():
                if register in replaced or id_ not in left:
                    found = Expected("resolved", losing, winner, version[:3])
                    if id_ not in resolved or version[:3] < (resolved[id_].resolved_by or ()):
                        resolved[id_] = found
        for id_, (_, losing, winner, status) in _open(rules, key, _present(touches)).items():
            expected[id_] = Expected(status, losing, winner, None)
        expected.update(resolved)


def _present(touches: Sequence[Touch]) -> dict[str, list[Written]]:
    """register → the versions that nobody has overwritten, in canonical order."""
    written: dict[str, list[Written]] = {}
    seen: dict[str, dict[str, int]] = {}
    for entry, change, _ in touches:
        for register, value in change.registers.items():
            version = _written(entry, change, value)
            if version not in written.setdefault(
                register, []
            ):  # several regions may journal what was decided
                written[register].append(version)
            # What any writer of this register had seen of a region, it overwrote.
            covered = seen.setdefault(register, {})
            for region, seq in version.context.items():
                if seq > covered.get(region, 0):
                    covered[region] = seq
    present = {
        register: sorted((v for v in versions if not covers(seen[register], *v.dot)), key=_canonically)
        for register, versions in written.items()
    }
    purges = _purges(present)
    return _left(present, purges) if purges else present


def _written(entry: Entry, change: Change, value: bytes | None) -> Written:
    if "=" not in change.deltas:
        return Written(entry.stamp, entry.origin, entry.seq, value, entry.context)
    revision, stamp, base = msgspec.msgpack.decode(change.deltas["="])
    if not stamp:  # not decided: its writer had seen that revision
        return Written(entry.stamp, entry.origin, entry.seq, value, {**entry.context, "=": revision})
    return Written(stamp, Origin("="), revision, value, {**base, "=": revision - 1})


def _saw(version: Written, other: Touch) -> bool:
    """Whether whoever wrote the version had seen another entry's change; of two decided ones that is their order."""
    return version.saw(_written(other.entry, other.change, None))


def _purges(present: Mapping[str, list[Written]]) -> list[Any]:
    return [msgspec.json.decode(version.value or b"[0, {}, {}]") for version in present.get(PURGED, ())]


def _left(present: dict[str, list[Written]], purges: list[Any]) -> dict[str, list[Written]]:
    """Without what was purged."""
    left = {}
    for register, versions in present.items():
        life = int(register.partition(".")[0].partition(TOUCH)[2] or 0) if register != PURGED else 0
        later = [each for each in purges if each[0] > life]
        if "." in register:
            kept = [] if later else [v for v in versions if v.value is not None or not _covered(v, 1, purges)]
        elif is_touch(register):
            kept = [version for version in versions if not _covered(version, 1, later)]
        elif register in (WHOLE, PURGED):
            kept = versions
        else:
            kept = [version for version in versions if not _covered(version, 2, purges)]
        if kept:
            left[register] = kept
    return left


def _covered(version: Written, member: int, purges: list[Any]) -> bool:
    """Whether the vector that is this member of a purge covers the version."""
    return any(covers(each[member], *version.dot) for each in purges)


def _canonically(version: Written) -> Order:
    return version[:3]


def _open(
    rules: Rules, key: str, present: Mapping[str, list[Written]]
) -> dict[str, tuple[str, Dot, Dot, str]]:
    """id → (register, losing, winning, status) of what is lost in this state."""
    if rules.name == HOLDERS:
        return _duplicates(key, present)
    if rules.name == DANGLING:
        return _dangling(key, present)
    if rules.name == DELETED:
        return {}
    lost: dict[str, tuple[str, Dot, Dot, str]] = {}
    now = in_life(TOUCH, _life(present))
    purged = max((each[0] for each in _purges(present)), default=0)
    for register, present_ones in present.items():
        if register == PURGED:
            continue
        touch = is_touch(register)
        if touch and int(register[1:] or 0) < purged:  # nobody who had seen the end would have written it
            winner = present[PURGED][-1]
            lost |= {
                record_id(rules.name, key, TOUCH, late.dot): (register, late.dot, winner.dot, "open")
                for late in present_ones
                if late.value is not None
            }
            continue
        versions = _with_deletions(present, present_ones) if register == now else present_ones
        if len(versions) < 2 or (touch and not _touch_counts(rules, present, versions, over=register != now)):
            continue
        _, winner, outcome = _fold(rules, register, versions)
        for losing in versions:
            same = losing.value == winner.value and outcome != "manual"
            if losing is winner or same or (touch and losing.value is None):
                continue
            lost[record_id(rules.name, key, TOUCH if touch else field_of(register), losing.dot)] = (
                register,
                losing.dot,
                winner.dot,
                "manual" if outcome == "manual" else "open",
            )
    return lost


def _duplicates(place: str, present: Mapping[str, list[Written]]) -> dict[str, tuple[str, Dot, Dot, str]]:
    """The same of who has a value of a unique field: all but the first one lose it."""
    holders = []
    for register, versions in present.items():
        alive = [version for version in versions if version.value is not None]
        if alive and register.startswith("holders."):
            said = msgspec.json.decode(alive[-1].value or b"")
            holders.append((said["since"], register.removeprefix("holders."), alive[-1].dot, said["manual"]))
    holders.sort()
    return {
        record_id(HOLDERS, place, key, dot): (
            f"holders.{key}",
            dot,
            holders[0][2],
            "manual" if manual else "open",
        )
        for _, key, dot, manual in holders[1:]
    }


def _dangling(place: str, present: Mapping[str, list[Written]]) -> dict[str, tuple[str, Dot, Dot, str]]:
    """The same of what refers to what was deleted."""
    found = present.get(WHOLE, [])[-1:]
    if not found or found[0].value is None:
        return {}
    said, dot = msgspec.json.decode(found[0].value), found[0].dot
    reference, deletion = (
        Dot(each["region"], each["seq"])
        for each in (said["reference"], said["deletion"] or said["reference"])
    )
    losing, winning = (deletion, reference) if said["on_delete"] == "restrict" else (reference, deletion)
    status = "manual" if said["reason"] or said["on_delete"] == "dangling" else "open"
    return {record_id(DANGLING, place, f"{dot[0]}:{dot[1]}", losing): (WHOLE, losing, winning, status)}


def _with_deletions(present: Mapping[str, list[Written]], touches: list[Written]) -> list[Written]:
    """An older region deletes a document without touching what it does not know to be mergeable."""
    dots = {touch[:3] for touch in touches}
    deletions = [
        each
        for each in present.get(WHOLE, ())
        if each.value is None
        and each[:3] not in dots
        and any(touch.value is not None and not each.saw(touch) for touch in touches)
    ]
    return sorted((*touches, *deletions), key=_canonically)


def _life(present: Mapping[str, list[Written]]) -> int:
    """How often a document with these registers was created anew after a deletion."""
    lives = [int(name[1:]) for name in present if is_touch(name) and name != TOUCH]
    lives += [each[0] for each in _purges(present)]
    return max((0, *lives))


def _touch_counts(
    rules: Rules, present: Mapping[str, list[Written]], versions: list[Written], *, over: bool
) -> bool:
    """Operations on lattices are lost only where a concurrent deletion hides the document, or that life of it."""
    whole = present.get(WHOLE)
    shown = _fold(rules, WHOLE, whole)[0] if whole else None
    return (over or shown is None) and any(version.value is None for version in versions)


def _fold(rules: Rules, register: str, versions: list[Written]) -> tuple[bytes | None, Written, str]:
    """(value that is shown, winner, outcome)."""
    latest = versions[-1]
    if len(versions) == 1:
        return latest.value, latest, "picked"
    alive = [version for version in versions if version.value is not None]
    if is_touch(register):
        dead = [version for version in versions if version.value is None]
        winner = (dead or versions)[-1]
        return winner.value, winner, "picked"
    if rules.is_member(register) or (register == WHOLE and rules.per_field):
        winner = (alive or versions)[-1]
        return winner.value, winner, "picked"
    if register != WHOLE:
        return _deep(versions)
    if rules.name in RANKED:
        ranked = [(_rank(version), version) for version in versions]
        best = max(rank for rank, _ in ranked)
        winner = next(version for rank, version in reversed(ranked) if rank == best)
        return winner.value, winner, "picked"
    match rules.schema.policy.resolve:
        case "fww":
            return versions[0].value, versions[0], "picked"
        case "manual":
            return latest.value, latest, "manual"
        case "custom":
            return _custom(rules, versions)
        case _:
            return latest.value, latest, "picked"


def _rank(version: Written) -> tuple[int, int]:
    whole = {"epoch": -1, "revision": -1} if version.value is None else msgspec.json.decode(version.value)
    return whole["epoch"], whole["revision"]


def _deep(versions: list[Written]) -> tuple[bytes | None, Written, str]:
    latest = versions[-1]
    values = [msgspec.json.decode(v.value) for v in versions if v.value is not None]
    if latest.value is None or not all(isinstance(value, dict) for value in values):
        return latest.value, latest, "picked"
    merged: dict[str, Any] = {}
    for value in values:
        _overlay(merged, value)
    return msgspec.json.encode(merged, order="deterministic"), latest, "merged"


def _overlay(into: dict[str, Any], value: Mapping[str, Any]) -> None:
    for name, member in value.items():
        if isinstance(into.get(name), dict) and isinstance(member, dict):
            into[name] = dict(into[name])
            _overlay(into[name], member)
        else:
            into[name] = member


def _custom(rules: Rules, versions: list[Written]) -> tuple[bytes | None, Written, str]:
    resolver = rules.schema.policy.resolver
    assert resolver is not None
    decoded = [None if v.value is None else msgspec.json.decode(v.value) for v in versions]
    latest = versions[-1]
    try:
        result = _one_answer(rules, resolver, decoded)
        value = None if result is None else _canonical(rules, result)
        if result is None and all(v.value is not None for v in versions):
            raise ValueError("None although nothing was deleted")
    except SafetyViolation:
        raise
    except Exception:
        return latest.value, latest, "manual"
    for version in versions:
        if version.value == value:
            return value, version, "picked"
    return value, latest, "merged"


def _one_answer(rules: Rules, resolver: Callable[[Any], Any], versions: list[Any]) -> Any:
    """Ask a team's function several times. Regions differ when it does not say the same each time."""
    first, *others = (resolver(copy.deepcopy(versions)) for _ in range(_TIMES_ASKED))
    for other in others:
        if other != first:
            raise SafetyViolation(
                "a merge function gives one answer",
                f"{getattr(resolver, '__name__', 'the function')} of {rules.name!r} made {first} and then {other} of "
                f"{versions}: it may only go by the versions, not by chance, time, or what it saw before",
            )
    return first


def _canonical(rules: Rules, document: Any) -> bytes:
    fields = rules.schema.parse_object(document)
    return msgspec.json.encode({name: fields[name] for name in rules.schema.plain})
