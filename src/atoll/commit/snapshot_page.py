"""A piece of a peer's snapshot as a step of a group commit; see `region.snapshot_install`."""

from __future__ import annotations

from typing import NamedTuple

from atoll.commit.batch import Batch
from atoll.commit.work import Wants
from atoll.documents.entry import EncodedEntry, LosingVersion
from atoll.errors import Unavailable
from atoll.store.port import Parked, Row, View

KEPT_ASIDE = "_snapshot"
"""The collection of a snapshot's pages; no declared one has such a name."""
RECORD = ("snapshot", "record")
"""The state that says how far the region is with a snapshot."""
INCOMPLETE = b"installing"
"""Ends that state while the region's vector says more than its documents show."""


class SnapshotPage(NamedTuple):
    """What one commit takes over of a peer's snapshot."""

    documents: tuple[tuple[str, str, Row], ...] = ()
    """(collection, key, the peer's state)."""
    stamp: int = 0
    """The highest that the peer had seen."""
    resolved: tuple[LosingVersion, ...] = ()
    """Of its audit; its open records follow from the documents."""
    parked: tuple[Parked, ...] = ()
    entries: tuple[EncodedEntry, ...] = ()
    """Of its journal: they make of its documents what they were at the end."""

    def want(self, wants: Wants) -> None:
        for collection, key, row in self.documents:
            wants.row(collection, key)
            wants.weight_bytes += row.size_bytes
        wants.records += [losing.id for losing in self.resolved]
        for parked in self.parked:
            wants.parked(parked)
        for encoded in self.entries:
            wants.entry(encoded.entry)
            wants.weight_bytes += len(encoded.frame)

    def perform(self, batch: Batch, view: View) -> None:
        """Raises HostileEntry for a state that no region could have come to hold."""
        for collection, key, row in self.documents:
            batch.install(collection, key, row, self.stamp)
        batch.resolved(self.resolved)
        for parked in self.parked:
            batch.park(parked)
        for encoded in self.entries:
            entry = encoded.entry
            left = (batch.taken(entry, index, change) for index, change in enumerate(entry.changes))
            batch.pending.parked += [each for each in left if each is not None]


class ShowRecord:
    """A part of every transaction: it shows the record, which writes and the steps of a snapshot install compare."""

    def want(self, wants: Wants) -> None:
        wants.states.append(RECORD)

    def perform(self, batch: Batch, view: View) -> None:
        """Nothing: it changes nothing."""


def check_merged(view: View) -> None:
    """Raises Unavailable while the region's vector says more than its documents show.

    A write would claim to have seen what is not here yet.
    """
    if view.states.get(RECORD, b"").endswith(INCOMPLETE):
        raise Unavailable("this region is installing a snapshot: it accepts no writes until then")
