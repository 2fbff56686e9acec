"""One document while one request writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, assert_never

import msgspec

from atoll.causality.origin import Origin
from atoll.causality.types import Seq, Stamp
from atoll.commit.identity import Address
from atoll.conflicts import records
from atoll.documents.decided import DECIDED, Decision, encode, seen_by
from atoll.documents.document import (
    Document,
    carried_over,
    decode_row,
    map_members,
    shown_plain,
    version_of,
    version_tag,
    visible,
)
from atoll.documents.entry import Change, LosingVersion
from atoll.documents.mutation import (
    ANY_VERSION,
    Check,
    Delete,
    Mutation,
    Patch,
    Put,
    Step,
    Transfer,
    Write,
    Written,
)
from atoll.documents.purging import drop, purgeable, unseen_touches
from atoll.documents.register import Operation, Version
from atoll.documents.rules import PURGED, TOUCH, WHOLE, Rules, in_life, is_touch
from atoll.errors import BoundExceeded, InvalidOperation, NotFound, VersionMismatch
from atoll.lattices.base import Actor, Escrowed
from atoll.store.port import Row

_NOT_ADDING = frozenset({"$inc", "$remove"})
_ALONE = Actor(Origin("alone"), (), ())
_DOT = Version(Origin("alone"), Seq(1), Stamp(1), 0, 0, {}, None)


class Draft:
    """Applies mutations to a copy of the document and gathers the change that other regions will merge.

    A local write has seen everything that is here, so each register that it writes holds its version alone.
    """

    def __init__(
        self, rules: Rules, key: str, before: Document, row: Row | None, *, dot: Version, actor: Actor
    ) -> None:
        """`before` is what `row` holds; `dot` a version to take dot, stamp and context from."""
        self.rules = rules
        self.before = before
        self._key = key
        self._row = row
        self._seen = seen_by(before.registers.get(WHOLE, ()))
        """The decided revision that an ordinary write replaces."""
        if self._seen:
            dot = msgspec.structs.replace(dot, context={**dot.context, DECIDED: self._seen})
        self._dot = dot
        self._actor = actor
        self._registers: dict[str, bytes | None] = {}
        self._deltas: dict[str, list[Any]] = {}
        self.size_bytes = 0
        """Of the values that are written into registers."""
        self.added = False
        """Whether anything may have been added, other than to numbers."""
        self.document = before if rules.simple else before.copy()
        self._alive = shown_plain(rules, before) is not None
        self._life = before.life
        self._begun = False
        """Whether it is a new life."""
        self._operation = Operation.UPDATE if self._alive else Operation.INSERT

    def mutate(self, mutation: Mutation) -> None:
        """Raises NotFound, VersionMismatch, BoundExceeded, InvalidOperation."""
        self.added |= not (
            isinstance(mutation, Delete | Transfer | Check)
            or (isinstance(mutation, Patch) and all(step.operator in _NOT_ADDING for step in mutation.steps))
        )
        match mutation:
            case Put():
                self._guard(mutation.if_match, absent=mutation.if_absent)
                self._put(mutation)
            case Patch():
                self._guard(mutation.if_match)
                self._patch(mutation)
            case Delete():
                self._guard(mutation.if_match)
                self._delete()
            case Transfer():
                self._transfer(mutation)
            case Check():
                self._guard(mutation.if_match, absent=mutation.if_absent)
            case _:
                assert_never(mutation)
        self._row = None  # a second precondition in one request would name a version that nobody has seen

    def change(self, resolved: tuple[LosingVersion, ...]) -> Change:
        deltas = {}
        for field, done in self._deltas.items():
            lattice = self.rules.lattices[field.partition(TOUCH)[0]]
            deltas[field] = lattice.encode(lattice.gathered(done))
        if self._seen:
            deltas[DECIDED] = encode(Decision(self._seen))
        return Change(self.rules.name, self._key, int(self._operation), self._registers, deltas, resolved)

    def purge(self, seen: Mapping[str, int]) -> None:
        """Let go what is over in all regions, each of which has seen `seen`."""
        value = purgeable(self.document.registers, self.document.lattices, seen)
        if value is not None:
            if not self._alive:
                self._operation = Operation.DELETE  # as the feed is to tell it
            self._write(PURGED, value)
            drop(self.document.registers, self.document.lattices)

    @property
    def written_registers(self) -> Mapping[str, bytes | None]:
        return self._registers

    @property
    def empty(self) -> bool:
        """Whether nothing would change."""
        return not self._registers and not self._deltas

    def _guard(self, if_match: str | None, *, absent: bool = False) -> None:
        if if_match is None and not absent:
            return
        where = f"{self.rules.name}/{self._key}"
        tag = None if self._row is None else version_tag(self._row)
        if absent and self._alive:
            raise VersionMismatch(
                f"{where} exists already, and the request requires that it does not", version=tag
            )
        if if_match is None:
            return
        if not self._alive:
            raise VersionMismatch(
                f"{where} does not exist, and the request expects version {if_match}", version=None
            )
        if if_match not in (ANY_VERSION, tag) and tag not in if_match.split(", "):
            raise VersionMismatch(
                f"{where} is at version {tag}, not {if_match or 'one that the request names'}; read it again and"
                " repeat the change",
                version=tag,
            )

    def _write(self, register: str, value: bytes | None) -> None:
        if not self._registers and self.rules.simple:
            self.document = self.before.copy()
        self.document.registers[register] = (version_of(self._dot, int(self._operation), value),)
        self.size_bytes += len(value or b"") - len(self._registers.get(register) or b"")
        self._registers[register] = value

    def _merge(self, field: str, delta: Any) -> None:
        name = in_life(field, self._life)
        self.document.lattices[name] = self.rules.lattices[field].merge(self._state(field), delta)
        self._deltas.setdefault(name, []).append(delta)

    def _state(self, field: str) -> Any:
        state = self.document.lattices.get(in_life(field, self._life))
        return self.rules.lattices[field].empty() if state is None else state

    def _put(self, put: Put) -> None:
        rules = self.rules
        if not self._alive:
            self._begin()
        plain = put.plain if rules.per_field else carried_over(rules, self._shown(), put.plain)
        if put.fields is None:
            self._write(WHOLE, plain)
        else:
            if rules.per_field:
                self._write(WHOLE, b"{}")
                for field in rules.plain:
                    if field in put.fields:
                        self._set_field(field, put.fields[field])
            else:
                self._write(WHOLE, plain)
            for field in rules.lattices:
                if field in put.fields:  # else a peer forwards what its declarations know
                    self._reach(field, put.fields[field])
            for field in sorted(rules.maps):
                if field in put.fields:
                    self._set_map(field, put.fields[field])
        self._alive = True
        self._touch()

    def _begin(self) -> None:
        """A new document under the key of a deleted one inherits nothing of it: it begins a new life."""
        registers = self.document.registers
        if WHOLE in registers and (self.rules.touched or any(map(is_touch, registers))):
            self._begun = True
            former = in_life(TOUCH, self._life)
            versions = registers.get(former, ())
            if self._life and not versions:
                return  # the former one was purged, and this one is new
            if not versions or any(version.value is not None for version in versions):
                self._write(former, None)  # whoever has not seen it worked on what is over
            self._life += 1

    def _patch(self, patch: Patch) -> None:
        rules = self.rules
        if not self._alive:
            self._create(patch)
        plain: dict[str, Any] | None = None
        for step in patch.steps:
            if step.field in rules.plain and not rules.per_field:
                if plain is None:
                    plain = msgspec.json.decode(self._shown() or b"{}")
                plain[step.field] = step.argument
            else:
                self._step(step)
        if rules.schema.has_rules:
            checked = self._checked(plain or {})
            if plain is not None:
                plain |= checked
            elif rules.per_field:
                for field, value in checked.items():
                    self._set_field(field, value)
        if plain is not None:
            ordered = {name: plain.pop(name) for name in rules.plain if name in plain}
            self._write(WHOLE, msgspec.json.encode({**ordered, **plain}))
        elif rules.per_field:
            self._write(WHOLE, b"{}")
        self._touch()

    def _checked(self, plain: dict[str, Any]) -> dict[str, Any]:
        """The plain fields as the team's own validators leave them; they see whole documents only."""
        whole = {**msgspec.json.decode(visible(self.rules, self.document) or b"{}"), **plain}
        known = {name: value for name, value in whole.items() if name in self.rules.known}
        checked = self.rules.schema.parse_object(known, self._key, sized=False)
        return {name: checked[name] for name in self.rules.plain}

    def _create(self, patch: Patch) -> None:
        """A patch of an absent document starts from the defaults."""
        self.added = True
        given = {
            step.field: step.argument
            for step in patch.steps
            if step.operator == "$set" and step.member is None
        }
        default = self.rules.schema.default_of
        try:
            fields = {name: given[name] if name in given else default(name) for name in self.rules.plain}
        except InvalidOperation as error:
            raise NotFound(
                f"{self.rules.name}/{self._key} does not exist, and this patch cannot create it: {error.message}",
                collection=self.rules.name,
                key=self._key,
            ) from None
        for name in (*self.rules.lattices, *self.rules.maps):
            fields[name] = default(name)
        plain = msgspec.json.encode({name: fields[name] for name in self.rules.plain})
        self._put(Put(self.rules.name, self._key, plain, None if self.rules.simple else fields))

    def _step(self, step: Step) -> None:
        rules = self.rules
        if step.field in rules.maps:
            if step.member is None:
                self._set_map(step.field, step.argument)
            else:
                removing = step.operator == "$unset"
                self._write(
                    f"{in_life(step.field, self._life)}.{step.member}",
                    None if removing else msgspec.json.encode(step.argument),
                )
        elif step.field in rules.plain:
            self._set_field(step.field, step.argument)
        elif step.operator == "$set":
            self._reach(step.field, step.argument)
        else:
            delta = self._bounded(
                step.field,
                lambda lattice: lattice.operate(
                    self._state(step.field), step.operator, step.argument, self._actor
                ),
            )
            if delta is not None:
                self._merge(step.field, delta)

    def _set_field(self, field: str, value: Any) -> None:
        """Under `merge` only what differs is written, so that it cannot collide with another field's change."""
        encoded = msgspec.json.encode(value)
        versions = self.document.registers.get(field, ())
        if self._alive and len(versions) == 1 and versions[0].value == encoded:
            return
        self._write(field, encoded)

    def _set_map(self, field: str, members: Mapping[str, Any]) -> None:
        map_name = in_life(field, self._life)
        shown = map_members(self.rules, self.document, map_name)
        for name in sorted(shown.keys() - members.keys()):
            self._write(f"{map_name}.{name}", None)
        for name in sorted(members):
            encoded = msgspec.json.encode(members[name])
            if shown.get(name) != encoded:
                self._write(f"{map_name}.{name}", encoded)

    def _reach(self, field: str, target: Any) -> None:
        delta = self._bounded(
            field, lambda lattice: lattice.difference(self._state(field), target, self._actor)
        )
        if delta is not None:
            self._merge(field, delta)

    def _bounded(self, field: str, operation: Any) -> Any:
        try:
            return operation(self.rules.lattices[field])
        except BoundExceeded as error:
            error.details.update(collection=self.rules.name, key=self._key, field=field)
            raise

    def _touch(self) -> None:
        """That there was an operation: what it did follows from the states, so an edit costs what it changes."""
        if self._begun or (
            self.rules.touched and (self._deltas or any(map(self.rules.is_member, self._registers)))
        ):
            self._write(in_life(TOUCH, self._life), b"{}")

    def _delete(self) -> None:
        if not self._alive:
            raise NotFound(
                f"{self.rules.name}/{self._key} does not exist", collection=self.rules.name, key=self._key
            )
        self._operation = Operation.DELETE
        for register, value in self._registers.items():
            # What was written by this request before goes, too. Else it is what the deletion has not seen.
            self.size_bytes -= len(value or b"")
            self.document.registers.pop(register)
            if register in self.before.registers:
                self.document.registers[register] = self.before.registers[register]
        self._registers.clear()
        self._write(WHOLE, None)
        touch = in_life(TOUCH, self._life)
        if self.rules.touched or touch in self.document.registers:
            self._write(touch, None)
        self._alive = False

    def _transfer(self, transfer: Transfer) -> None:
        lattice = self.rules.lattices.get(transfer.field)
        if not isinstance(lattice, Escrowed):
            raise InvalidOperation(
                f"{self.rules.name}.{transfer.field} is not a BoundedCounter: it has no rights to transfer"
            )
        state = self._state(transfer.field)
        spare = lattice.spendable(state, self._actor)
        amount = min(spare, transfer.wanted if transfer.ahead else max(transfer.wanted, spare // 2))
        if amount > 0:
            self._merge(transfer.field, lattice.transfer(state, self._actor, transfer.target, amount))

    def _shown(self) -> bytes | None:
        """The plain fields as they are at this point of the request."""
        return shown_plain(self.rules, self.document)

    def shown(self) -> bytes | None:
        return visible(self.rules, self.document)


def leaves_remains(draft: Draft) -> bool:
    """Whether something is over now that may be purged once all regions have seen it."""
    document, written = draft.document, draft.written_registers
    return (
        (document.life > draft.before.life and PURGED not in written)
        or any(
            value is None and (name == WHOLE or draft.rules.is_member(name))
            for name, value in written.items()
        )
        or bool(unseen_touches(document.registers))
    )


def resolved_records(draft: Draft, key: str) -> list[records.Record]:
    """Open ones whose losing version goes with this write, which has seen it."""
    purges = PURGED in draft.written_registers
    lost = records.open_records(draft.rules, key, draft.before, None if purges else draft.written_registers)
    left = records.open_records(draft.rules, key, draft.document) if purges else {}
    return [record for name, record in lost.items() if name not in left]


def written_of(address: Address, row: Row | None) -> Written:
    """What a client is told of a document that was written."""
    return Written(*address, None, "") if row is None else Written(*address, row.value, version_tag(row))


def told_of(
    write: Write, addresses: Iterable[Address], row: Callable[[Address], Row | None]
) -> tuple[Written, ...]:
    """The same of all documents that were asked for."""
    added = {(each.collection, each.key) for each in write.mutations[len(write.asked) :]}
    return tuple(written_of(address, row(address)) for address in addresses if address not in added)


def simulated(rules: Rules, key: str, row: Row | None, mutations: Sequence[Mutation]) -> bytes | None:
    """What a document will show, as far as its plain fields go. Raises what the write would raise."""
    document = Document({}, {}) if row is None else decode_row(rules, row)
    draft = Draft(rules, key, document, row, dot=_DOT, actor=_ALONE)
    for mutation in mutations:
        plain: Any = mutation
        if isinstance(mutation, Patch):
            steps = tuple(step for step in mutation.steps if step.field not in rules.lattices)
            plain = msgspec.structs.replace(mutation, steps=steps)
        elif isinstance(mutation, Put) and mutation.fields is not None:
            fields = {name: value for name, value in mutation.fields.items() if name not in rules.lattices}
            plain = msgspec.structs.replace(mutation, fields=fields)
        draft.mutate(plain)
    return draft.shown()
