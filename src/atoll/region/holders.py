"""Unique fields of asynchronous collections: who has a value, and what becomes of duplicates.

Each local write also says in `_holders` which values its documents have: see `documents.unique`. A value that this
region shows in another document is refused. Duplicates that regions wrote at once are found by every region. The
document that had the value first keeps it. The field of the others is cleared, or a person decides.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from atoll.causality.clock import HybridLogicalClock
from atoll.commit.batch import Admit, Batch
from atoll.commit.draft import simulated
from atoll.commit.identity import Address
from atoll.conflicts import records
from atoll.documents.document import version_tag
from atoll.documents.mutation import Delete, Mutation, Patch, Put, Receipt, Step, Write, weight_of
from atoll.documents.register import Operation
from atoll.documents.rules import Rules
from atoll.documents.strategies import MULTIPLE_UNIQUE
from atoll.documents.unique import (
    Held,
    Value,
    member_of,
    members_of,
    place_of,
    supposed,
    values_of,
    violation,
)
from atoll.errors import AtollError, ClaimsChanged, DeclarationError, RequestError
from atoll.region.site import Site
from atoll.replication.beside import Turns, beside_loop
from atoll.replication.messages import WriteReply
from atoll.schema.system import HOLDERS
from atoll.store.port import AuditFilter, Row, Store

_TRIES: Final = 100
_EVERY_S: Final = 30.0
"""So often a region looks at all duplicates, beside those that it hears of."""
_OTHERS_MS: Final = 5_000
"""The region that wrote a duplicate settles it; after so long any region does."""
_PAGE: Final = 100
_MOST_MERGED: Final = 10_000
_GATHER_S: Final = 0.05
_LOOK_BYTES: Final = 50 << 10
"""What it weighs to see who has a value."""
_AT_ONCE_BYTES: Final = 128 << 10
"""A larger document is looked at beside the event loop."""

Writes = Callable[[Write], Awaitable[WriteReply]]
Strikes = Callable[[Write], Awaitable[Receipt]]


class _Known(NamedTuple):
    """What a write was prepared for. Its transaction must find the same."""

    values: dict[Address, dict[str, Value]]
    """Document → its values of unique fields."""
    rows: dict[Address, Row | None]
    """Documents that may refuse the write, going by what was here."""
    holders: dict[str, bytes | None]
    """Place → what is shown of who has the value."""


class _Moves(NamedTuple):
    """One document of a write."""

    rules: Rules
    key: str
    before: Mapping[str, Value]
    after: Mapping[str, Value]


class Holders:
    """Of one node. `run` it."""

    def __init__(
        self, site: Site, rules: Mapping[str, Rules], store: Store, clock: HybridLogicalClock, admit: Admit
    ) -> None:
        """`admit`: whether the transaction may take the write that was asked for."""
        self._rules = {
            name: each
            for name, each in rules.items()
            if each.schema.unique and not each.schema.policy.by_quorum
        }
        self._site = site
        self._store = store
        self._clock = clock
        self._admit = admit
        self._found = asyncio.Event()
        self._detected = True
        """Whether there may be duplicates that nobody has looked at."""
        self._merged: dict[Address, None] = {}
        """Documents that peers' entries have changed, in the order in which they have."""
        self._all = True
        """Whether any document may be one of these: what an earlier run had heard of is not known."""

    @property
    def any(self) -> bool:
        """Whether any field is unique so."""
        return bool(self._rules)

    def concern(self, write: Write) -> bool:
        """Whether it writes a document with unique fields."""
        return bool(self._rules) and any(each.collection in self._rules for each in write.mutations)

    # -- writes ----------------------------------------------------------------------------------------

    async def write(self, write: Write, commit: Callable[[Write, Admit], Awaitable[Receipt]]) -> Receipt:
        """Have `commit` make the write, and what it says of values.

        Raises UniqueViolation where this region shows a value in another document, and what `commit` raises.
        """
        for _ in range(_TRIES):
            known = _Known({}, {}, {})
            try:
                whole = await self._with_holders(write, known)
            except RequestError:
                if write.idempotency_key is None:
                    raise
                if not await self._store.remembered([write.idempotency_key]):
                    raise
                whole = write  # it was made before: its answer is remembered

            def admit(_: Write, row: Callable[[Address], Row | None], known: _Known = known) -> None:
                self._admit(write, row)
                self._check(known, row)

            with contextlib.suppress(ClaimsChanged):
                return await commit(whole, admit)
        raise ClaimsChanged(
            "others change unique fields of these documents all the time; nothing was done: try again"
        )

    def _check(self, known: _Known, row: Callable[[Address], Row | None]) -> None:
        """Raises ClaimsChanged."""
        same = (
            all(
                values_of(self._rules[address[0]], _shown(row(address))) == values
                for address, values in known.values.items()
            )
            and all(row(address) == found for address, found in known.rows.items())
            and all(_shown(row((HOLDERS, place))) == shown for place, shown in known.holders.items())
        )
        if not same:
            raise ClaimsChanged("other values are here by now")

    async def _with_holders(self, write: Write, known: _Known) -> Write:
        """The write with what it says of values. Raises UniqueViolation."""
        groups: defaultdict[Address, list[Mutation]] = defaultdict(list)
        for mutation in write.mutations:
            if mutation.collection in self._rules and isinstance(mutation, Put | Patch | Delete):
                groups[mutation.collection, mutation.key].append(mutation)
        turns = Turns()
        moves = []
        for address, given in groups.items():
            await turns.after(_LOOK_BYTES)
            moves.append(await self._moves(address, given, known))
        steps: defaultdict[str, list[Step]] = defaultdict(list)
        for each in moves:
            for name in each.rules.schema.unique:
                before, after = each.before.get(name), each.after.get(name)
                if before == after:
                    continue
                await turns.after(_LOOK_BYTES)
                if before is not None:
                    place, members = await self._members(each, before, known)
                    if each.key in members:
                        steps[place].append(Step("$unset", "holders", each.key, None))
                if after is not None:
                    place, members = await self._members(each, after, known)
                    steps[place] += await self._free(each, after, members, moves)
                    steps[place].append(self._taken(each, after, members.get(each.key)))
        patches = [Patch(HOLDERS, place, tuple(each)) for place, each in sorted(steps.items()) if each]
        return write.with_more(patches)

    async def _moves(self, address: Address, mutations: Sequence[Mutation], known: _Known) -> _Moves:
        rules, row = self._rules[address[0]], await self._store.get(*address)
        before = known.values[address] = values_of(rules, _shown(row))
        try:
            size_bytes = sum(map(weight_of, mutations)) + (0 if row is None else row.size_bytes)
            if size_bytes > _AT_ONCE_BYTES:
                after = await beside_loop(_values, rules, address[1], row, mutations)
            else:
                after = _values(rules, address[1], row, mutations)
        except RequestError:
            known.rows[address] = row
            after = supposed(rules, before, mutations)
        return _Moves(rules, address[1], before, after)

    async def _members(self, move: _Moves, value: Value, known: _Known) -> tuple[str, dict[str, Held]]:
        place = place_of(move.rules.name, value)
        if place not in known.holders:
            known.holders[place] = _shown(await self._store.get(HOLDERS, place))
        return place, members_of(known.holders[place])

    async def _free(
        self, move: _Moves, value: Value, members: Mapping[str, Held], moves: Iterable[_Moves]
    ) -> list[Step]:
        """Whom to strike from the holders: documents that show another value by now. Raises UniqueViolation."""
        rules, here = move.rules, {each.key: each.after for each in moves if each.rules is move.rules}
        for key, after in here.items():
            if key != move.key and after.get(value.field) == value:
                raise violation((rules.name, value.field), move.key, value.json, key)
        gone = []
        for key in sorted(members, key=lambda key: members[key].since):
            if key == move.key or key in here:
                continue  # what it had before is struck with its own write
            if await self._has(rules, key, value):
                raise violation((rules.name, value.field), move.key, value.json, key)
            gone.append(Step("$unset", "holders", key, None))
        return gone

    def _taken(self, move: _Moves, value: Value, held: Held | None) -> Step:
        since = f"{self._clock.now():016x}/{self._site.name}" if held is None else held.since
        says = Held(since, msgspec.Raw(value.json), value.field in move.rules.schema.manual)
        return Step("$set", "holders", move.key, member_of(says))

    async def _has(self, rules: Rules, key: str, value: Value) -> bool:
        return values_of(rules, _shown(await self._store.get(rules.name, key))).get(value.field) == value

    # -- duplicates ------------------------------------------------------------------------------------

    def committed(self, batch: Batch) -> None:
        """After each commit of this node."""
        self._detected |= any(record.kind == MULTIPLE_UNIQUE for record in batch.detected)
        for entry in batch.applied:
            for change in entry.changes:
                if change.collection in self._rules and change.operation != Operation.DELETE:
                    self._merged[change.collection, change.key] = None
        if len(self._merged) > _MOST_MERGED:
            self._merged.clear()
            self._all = True
        if self._detected or self._merged or self._all:
            self._found.set()

    async def run(self, write: Writes, strike: Strikes) -> None:
        """Settle duplicates, for ever. `write` changes documents, `strike` what this region says of values."""
        while True:
            self._found.clear()
            left = self._detected
            try:
                await self._review(strike)
                self._detected = False
                left = await self.settle(write, strike)
            except AtollError:
                self._detected = self._detected or left  # the store fails: once more, later
            with contextlib.suppress(TimeoutError):
                every_s = _OTHERS_MS / 1000 if left else _EVERY_S
                async with asyncio.timeout(every_s * (0.5 + self._site.random.random())):
                    await self._found.wait()
            await asyncio.sleep(_GATHER_S)

    async def _review(self, strike: Strikes) -> None:
        """Have said of what peers' entries brought who has a value. Raises what the store raises.

        As a rule they say so themselves. But a conflict may bring back what somebody has replaced already. So it is
        with a document that one region changed while another one deleted it.
        """
        if self._all:
            self._all = False
            try:
                await self._review_all(strike)
            except AtollError:
                self._all = True
                raise
        while self._merged:
            collection, key = address = next(iter(self._merged))
            del self._merged[address]  # it may be changed once more meanwhile
            try:
                await self._say(self._rules[collection], key, strike)
            except AtollError:
                self._merged[address] = None
                raise

    async def _review_all(self, strike: Strikes) -> None:
        for name, rules in self._rules.items():
            after: str | None = None
            while rows := (await self._store.scan(name, after=after, limit=_PAGE)).rows:
                for key, _ in rows:
                    await self._say(rules, key, strike)
                after = rows[-1][0]
                await asyncio.sleep(_GATHER_S)

    async def _say(self, rules: Rules, key: str, strike: Strikes) -> None:
        """Raises what the store raises."""
        shown = _shown(await self._store.get(rules.name, key))
        for value in values_of(rules, shown).values():
            place = place_of(rules.name, value)
            row = await self._store.get(HOLDERS, place)
            if key not in members_of(_shown(row)):
                says = self._taken(_Moves(rules, key, {}, {}), value, None)
                tag = None if row is None else version_tag(row)
                with contextlib.suppress(RequestError):  # somebody has just said so, or something else
                    await strike(Write((Patch(HOLDERS, place, (says,), tag),), brief=True))

    async def settle(self, write: Writes, strike: Strikes) -> bool:
        """Go over all duplicates once; whether some are left that need no person. Raises what the store raises."""
        left = False
        for status in ("open", "manual"):
            after: tuple[int, str] | None = None
            wanted = AuditFilter(kind=MULTIPLE_UNIQUE, status=status)
            while page := await self._store.conflicts(wanted, after=after, limit=_PAGE):
                for row in page:
                    left |= status == "open"
                    mine = row.losing_origin == self._site.name
                    if mine or self._site.now_ms() - row.stamp_ms > _OTHERS_MS:
                        rules = self._rules.get(row.collection)
                        if rules is not None:
                            value = records.duplicate_of(row)
                            await self._settle(rules, value, write, strike)
                after = (page[-1].stamp_ms, page[-1].id)
        return left

    async def _settle(self, rules: Rules, value: Value, write: Writes, strike: Strikes) -> None:
        """Strike who has the value no longer; of the others, all but the first."""
        place = place_of(rules.name, value)
        row = await self._store.get(HOLDERS, place)
        members = members_of(_shown(row))
        if row is None or len(members) < 2:
            return
        ordered = sorted(members, key=lambda key: (members[key].since, key))
        gone = [key for key in ordered if not await self._has(rules, key, value)]
        if gone:
            steps = tuple(Step("$unset", "holders", key, None) for key in gone)
            with contextlib.suppress(AtollError):  # others did, or it is tried again
                await strike(Write((Patch(HOLDERS, place, steps, version_tag(row)),), brief=True))
        for key in [key for key in ordered if key not in gone][1:]:
            document = await self._store.get(rules.name, key)
            if members[key].manual or document is None:
                continue
            cleared = Patch(rules.name, key, (Step("$set", value.field, None, None),), version_tag(document))
            with contextlib.suppress(AtollError):
                await write(Write((cleared,), brief=True))


def _shown(row: Row | None) -> bytes | None:
    return None if row is None else row.value


def _values(rules: Rules, key: str, row: Row | None, mutations: Sequence[Mutation]) -> dict[str, Value]:
    """The values that a document will have. Raises what the write would raise."""
    return values_of(rules, simulated(rules, key, row, mutations))


async def check_held(rules: Rules, store: Store) -> None:
    """Raise DeclarationError where a document has a value that nothing says it holds: it was not unique before."""
    after: str | None = None
    while rows := (await store.scan(rules.name, after=after, limit=1000)).rows:
        for key, row in rows:
            for value in values_of(rules, row.value).values():
                holders = _shown(await store.get(HOLDERS, place_of(rules.name, value)))
                if key not in members_of(holders):
                    raise DeclarationError(
                        f"{rules.name}/{key} was written when {value.field} was not unique; a field of documents that"
                        " exist cannot become unique: declare the former collection again, export it, and import it"
                        " into a new one"
                    )
        after = rows[-1][0]
