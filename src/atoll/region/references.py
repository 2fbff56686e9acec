"""References of asynchronous collections: checked where they are written, and what becomes of deletions they met.

A write that refers is refused unless its transaction finds the document here. A deletion looks for what refers to the
document. Both leave a mark in one state of the region, so that of the two the later one sees the other. What regions do
at once is found later, in every region, by its own documents: see `region.dangling`.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

from atoll.commit.batch import Batch
from atoll.commit.draft import simulated
from atoll.commit.identity import Address
from atoll.commit.work import Wants
from atoll.documents.mutation import Delete, Mutation, Patch, Put, Receipt, Write, weight_of
from atoll.documents.references import (
    is_kept,
    kept_at,
    may_delete,
    may_refer,
    missing,
    referred,
    targets_of,
)
from atoll.documents.rules import Rules
from atoll.errors import InvalidKey, InvalidOperation, ReferencesChanged, RequestError
from atoll.replication.beside import beside_loop
from atoll.schema.limits import ANY_KEY, validate_key
from atoll.schema.placement import Everywhere
from atoll.schema.references import Referrer
from atoll.schema.system import DELETED
from atoll.store.port import Condition, Documents, Row, Store, View

REFERRED: Final = "referred"
"""The space of states that change with each reference to a document: `{collection}/{digest of its key}`."""
MOST_DELETED: Final = 1000
"""One deletion deletes so many documents that refer, at most."""
_AT_ONCE_BYTES: Final = 128 << 10
"""A larger document is looked at beside the event loop."""
_TRIES: Final = 100
_PAGE: Final = 100

Known = tuple[Address, Callable[[bytes | None], object], object]
"""A document, what matters of its text, and what that was."""


class Touched(NamedTuple):
    """What a write depends on beside its own documents. Its transaction must find the same."""

    exist: set[Address]
    """Documents that it refers to, and does not write itself."""
    referred: set[Address]
    """All that it refers to."""
    gone: dict[Address, bytes | None]
    """Documents that it deletes → the mark that was there before it looked for what refers to them."""
    known: list[Known]

    def want(self, wants: Wants) -> None:
        for address in (*self.exist, *(address for address, _, _ in self.known)):
            wants.document(*address)
        wants.states += [(REFERRED, kept_at(address)) for address in (*self.referred, *self.gone)]

    def check(self, batch: Batch, view: View) -> None:
        """Raises ReferencesChanged."""

        def mark(address: Address) -> bytes | None:
            place, states = (REFERRED, kept_at(address)), batch.pending.states
            return states[place] if place in states else view.states.get(place)

        same = (
            all(shown(batch.row(address)) is not None for address in self.exist)
            and all(mark(address) == before for address, before in self.gone.items())
            and all(of(shown(batch.row(address))) == before for address, of, before in self.known)
        )
        if not same:
            raise ReferencesChanged("what refers to the documents, or what they refer to, has changed")

    def done(self, batch: Batch, receipt: Receipt) -> None:
        """The write is part of the batch."""
        if receipt.seq and not receipt.replayed:
            for address in self.referred:
                batch.pending.states[REFERRED, kept_at(address)] = str(receipt.dot).encode()
            for address in self.gone:
                batch.pending.states[REFERRED, kept_at(address)] = None


class _Plan:
    """A write that is prepared."""

    def __init__(self) -> None:
        self.after: dict[Address, bytes | None] = {}
        """What its documents will show."""
        self.more: list[Mutation] = []
        """What follows from the write."""
        self.touched = Touched(set(), set(), {}, [])
        self.deleted: list[tuple[Address, bytes]] = []
        """What is deleted, and what it was; of what others may refer to."""

    def depends(self, address: Address, of: Callable[[bytes | None], object], before: object) -> None:
        self.touched.known.append((address, of, before))


class References:
    """Of one node."""

    def __init__(self, rules: Mapping[str, Rules], store: Store) -> None:
        self.rules = {
            name: each
            for name, each in rules.items()
            if (each.schema.references or each.schema.referrers) and not each.schema.policy.by_quorum
        }
        """Of collections that refer, or are referred to."""
        self._store = store

    @property
    def any(self) -> bool:
        """Whether there are references."""
        return bool(self.rules)

    def concern(self, write: Write) -> bool:
        """Whether it may refer to a document, or delete one that is referred to."""
        return bool(self.rules) and not write.restores and any(map(self._concerns, write.mutations))

    def _concerns(self, mutation: Mutation) -> bool:
        rules = self.rules.get(mutation.collection)
        return rules is not None and (may_refer(rules, mutation) or may_delete(rules, mutation))

    async def write(self, write: Write, commit: Callable[[Write, Touched], Awaitable[Receipt]]) -> Receipt:
        """Have `commit` make the write, with the deletions that follow from it.

        Raises ReferenceViolation where a document would refer to what is not here, or others refer to what is deleted.
        Raises InvalidOperation where too many do, ReferencesChanged, and what `commit` raises.
        """
        for _ in range(_TRIES):
            plan = _Plan()
            try:
                await self._prepare(write, plan)
            except RequestError:
                key = write.idempotency_key
                if key is None or not await self._store.remembered([key]):
                    raise
                plan = _Plan()  # it was made before: its answer is remembered
            with contextlib.suppress(ReferencesChanged):
                return await commit(write.with_more(plan.more), plan.touched)
        raise ReferencesChanged(
            "others change what refers to these documents, or what they refer to, all the time; nothing was done: try"
            " again"
        )

    async def _prepare(self, write: Write, plan: _Plan) -> None:
        """Raises ReferenceViolation, InvalidOperation."""
        groups: defaultdict[Address, list[Mutation]] = defaultdict(list)
        for mutation in write.mutations:
            if mutation.collection in self.rules and isinstance(mutation, Put | Patch | Delete):
                groups[mutation.collection, mutation.key].append(mutation)
        refers: list[tuple[Rules, str, str, Address]] = []
        for address, mutations in groups.items():
            rules, row = self.rules[address[0]], await self._store.get(*address)
            before = shown(row)
            try:
                size_bytes = sum(map(weight_of, mutations)) + (0 if row is None else row.size_bytes)
                if size_bytes > _AT_ONCE_BYTES:
                    after = await beside_loop(simulated, rules, address[1], row, mutations)
                else:
                    after = simulated(rules, address[1], row, mutations)
            except RequestError:  # its transaction says so, or finds another document
                plan.depends(address, _as_it_is, before)
                continue
            plan.after[address] = after
            former = targets_of(rules, before)
            plan.depends(address, partial(targets_of, rules), former)
            for each, target in targets_of(rules, after).items():
                if former.get(each) != target:
                    refers.append((rules, address[1], each.field, target))
            if rules.schema.referrers and before is not None and after is None:
                plan.deleted.append((address, before))
        await self._delete(plan)
        for refer in refers:
            await self._refer(*refer, plan)

    async def _refer(self, rules: Rules, key: str, field: str, target: Address, plan: _Plan) -> None:
        """Raises ReferenceViolation."""
        try:
            validate_key(target[1], ANY_KEY)
        except InvalidKey:
            raise missing(rules, key, field, target) from None
        within = target in plan.after
        found = plan.after[target] if within else shown(await self._store.get(*target))
        if found is None:
            raise missing(rules, key, field, target)
        plan.touched.referred.add(target)
        if not within:
            plan.touched.exist.add(target)

    async def _delete(self, plan: _Plan) -> None:
        """Find what refers to what is deleted, and what else is deleted therefore.

        Raises ReferenceViolation, InvalidOperation.
        """
        while plan.deleted:
            target, text = plan.deleted.pop()
            referrers = self.rules[target[0]].schema.referrers
            plan.touched.gone[target] = await self._store.state(REFERRED, kept_at(target))
            plan.depends(target, _is_there, True)
            if is_kept(referrers):
                await self._keep(target, text, plan)
            for referrer in referrers:
                if referrer.on_delete != "dangling":
                    await self._go_on(referrer, target, plan)

    async def _go_on(self, referrer: Referrer, target: Address, plan: _Plan) -> None:
        collection, field, on_delete = referrer
        rules = self.rules[collection]
        most = MOST_DELETED + 1 if on_delete == "cascade" else len(plan.after) + 1
        for key, row in await self.referring(referrer, target[1], most):
            here = (collection, key)
            if here in plan.after:
                if target in targets_of(rules, plan.after[here]).values():
                    raise referred(here, field, target)
            elif on_delete == "restrict":
                raise referred(here, field, target)
            elif isinstance(rules.schema.policy.placement, Everywhere):
                plan.after[here] = None
                plan.more.append(Delete(collection, key))
                plan.depends(here, _is_there, True)
                if len(plan.more) > MOST_DELETED:
                    raise InvalidOperation(
                        f"{target[0]}/{target[1]}: to delete it would delete more than {MOST_DELETED} documents that"
                        f" refer to it, such as {collection}/{key}; delete some of them first"
                    )
                if rules.schema.referrers:
                    plan.deleted.append((here, row.value or b"{}"))

    async def _keep(self, target: Address, text: bytes, plan: _Plan) -> None:
        """Have what is deleted kept, so that every region can undo it."""
        place = (DELETED, kept_at(target))
        kept = shown(await self._store.get(*place)) is not None
        plan.depends(place, _is_there, kept)
        if kept:
            plan.more.append(Delete(*place))
        plan.more.append(Put(*place, text))

    async def referring(self, referrer: Referrer, key: str, most: int) -> list[tuple[str, Row]]:
        """So many documents that refer to a key, at most. Raises what the store raises."""
        return await referring(self._store, referrer, key, most)


async def referring(store: Documents, referrer: Referrer, key: str, most: int) -> list[tuple[str, Row]]:
    """So many documents that refer to a key, at most, as this region shows them. Raises what the store raises."""
    where, found = [Condition(referrer.field, "eq", key)], list[tuple[str, Row]]()
    while len(found) < most:
        after, limit = found[-1][0] if found else None, min(_PAGE, most - len(found))
        page = await store.scan(referrer.collection, after=after, limit=limit, where=where)
        if not page.rows:
            break
        found += page.rows
    return found


def shown(row: Row | None) -> bytes | None:
    """What readers see of it."""
    return None if row is None else row.value


def _as_it_is(text: bytes | None) -> object:
    return text


def _is_there(text: bytes | None) -> object:
    return text is not None
