"""The customers of a group commit: what each needs of the transaction, what it does in it, and how it hears the end.

The group commit (`region.group_commit`) knows no kind of work by name. Each kind is a `Work`, in the module of
what it is for:

- a local write,
- the entries of a peer,
- a page of a snapshot,
- a step of a protocol.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from atoll.causality.types import Generation, Stamp
from atoll.commit.batch import Batch
from atoll.documents.entry import Entry, decode_entry
from atoll.documents.mutation import DOCUMENT_BYTES, MERGED_DOCUMENT_BYTES, weight_of_parts
from atoll.documents.rules import Rules
from atoll.errors import AtollError, FenceLost
from atoll.store.port import Parked, View, Wanted

Gate = Callable[[View], None]
"""Raises an AtollError while no local write may be committed on top of what the transaction shows."""


class Wants:
    """Collects what the works of one group need to have loaded."""

    def __init__(self, rules: Mapping[str, Rules]) -> None:
        self.answers: list[str] = []
        """Idempotency keys."""
        self.records: list[str] = []
        """Ids of conflict records."""
        self.states: list[tuple[str, str]] = []
        """(space, key) of protocols' states."""
        self.fences: list[str] = []
        """Node leases whose generation is wanted."""
        self.gates: Sequence[Gate] = ()
        """What must be open for local writes: see `Batch.closed`."""
        self.weight_bytes = 0
        """About how much the works bring: see `GroupCommit`."""
        self.divisible = False
        """Whether the last work can be refused, or divided, when it would have too much loaded."""
        self._rules = rules
        self._documents: defaultdict[str, dict[str, int]] = defaultdict(dict)
        """collection → key → how many changes, at most."""
        self._open_records: dict[str, set[str]] = {}

    def document(self, collection: str, key: str) -> None:
        """A document; one of a collection that is not declared here may have no table, and is not loaded."""
        rules = self._rules.get(collection)
        if rules is not None:
            self.weight_bytes += DOCUMENT_BYTES if rules.simple else MERGED_DOCUMENT_BYTES
            self.row(collection, key)

    def row(self, collection: str, key: str) -> None:
        """A document of a collection that has its table, be it declared here or not."""
        wanted = self._documents[collection]
        wanted[key] = wanted.get(key, 0) + 1

    def changes(self, collection: str, key: str) -> int:
        """How often the works change the document, at most."""
        return self._documents[collection][key]

    def open_records(self, collection: str, keys: Iterable[str]) -> None:
        """The documents' open conflict records."""
        self._open_records.setdefault(collection, set()).update(keys)

    def entry(self, entry: Entry) -> None:
        """What a peer's entry changes."""
        for change in entry.changes:
            self.document(change.collection, change.key)
            if change.resolved:
                self.records += [losing.id for losing in change.resolved]
            if change.deltas or len(change.registers) > 1:
                self.weight_bytes += weight_of_parts(change)

    def parked(self, parked: Parked) -> None:
        """What a parked change is for; one that cannot be read is for nothing."""
        with contextlib.suppress(AtollError):
            self.entry(decode_entry(parked.body))

    def wanted(self, most_bytes: int | None = None) -> Wanted:
        """For the store."""
        return Wanted(
            _in_order(self._documents),
            self.answers,
            self.records,
            open_records=_in_order(self._open_records) if self._open_records else {},
            states=list(dict.fromkeys(self.states)),  # many works want the same few
            fences=self.fences,
            most_bytes=most_bytes,
        )


def _in_order(keys: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    return {name: sorted(found) for name, found in keys.items()}


class Fence(NamedTuple):
    """A node lease that a step depends on: nothing of it is committed once another node has taken the lease over."""

    lease: str
    generation: Generation
    """When this node got it."""

    def want(self, wants: Wants) -> None:
        wants.fences.append(self.lease)

    def hold(self, batch: Batch, view: View) -> None:
        """Raises FenceLost when the lease is lost already; else the commit is refused if it is lost by then."""
        if view.generations.get(self.lease) != self.generation:
            raise FenceLost(f"another node holds the lease {self.lease!r} now", lease=self.lease)
        batch.pending.fences[self.lease] = self.generation


class Step(Protocol):
    """A change to what the region holds, as one transaction makes it."""

    def want(self, wants: Wants) -> None:
        """Name what `perform` needs to find loaded. Idempotent: a transaction that was lost is begun anew."""

    def perform(self, batch: Batch, view: View) -> None:
        """Add the change to the batch, on top of the works before it. Called once per attempt.

        Raises an AtollError to be left out: the other works of the group then begin anew without this one.
        """


class Fenced(NamedTuple):
    """A step that only the holder of a lease may commit."""

    step: Step
    fence: Fence

    def want(self, wants: Wants) -> None:
        self.fence.want(wants)
        self.step.want(wants)

    def perform(self, batch: Batch, view: View) -> None:
        """Raises FenceLost, and what the step raises."""
        self.fence.hold(batch, view)
        self.step.perform(batch, view)


class Noted(NamedTuple):
    """A step that brings what a peer had stamped up to `stamp`. The clock is the transaction's while it runs."""

    step: Step
    stamp: Stamp

    def want(self, wants: Wants) -> None:
        self.step.want(wants)

    def perform(self, batch: Batch, view: View) -> None:
        """Raises ClockAhead, and what the step raises."""
        batch.clock.update(self.stamp)
        self.step.perform(batch, view)


class Work(Step, Protocol):
    """A step that hears how it ended: exactly one of `committed` and `failed` is called, once."""

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for it any more; it is then dropped unless its transaction has begun."""

    def committed(self) -> None:
        """All of the group is durable, and the region's position has moved. Must not raise."""

    def failed(self, error: AtollError) -> None:
        """Nothing of it is durable, or nobody knows (`error.definite`). Must not raise."""
