"""After a restart with other declarations: stored documents are shown as these say, and what had no place has one.

A rollout restarts one region after the other. Until all have the new declarations, an older region keeps what it
does not know (registers in the document, everything else parked), and passes it on unchanged. This is what
happens when it knows more, or less, or something else. It runs beside the writes, a piece at a time, and after a
crash it begins anew: every step can be repeated.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

from atoll.commit.batch import Batch
from atoll.commit.snapshot_page import KEPT_ASIDE
from atoll.commit.work import Wants
from atoll.documents.entry import decode_entry
from atoll.errors import AtollError
from atoll.region.group_commit import GroupCommit
from atoll.schema.application import Application
from atoll.store.port import Audit, Documents, Parked, States, View

_AT_ONCE = 200
_REPORTED = 20_000

logger = logging.getLogger("atoll.region")


class Stored(Documents, Audit, States, Protocol):
    """The ports of the store that are needed here."""


class Redeclare(NamedTuple):
    """A step of a group commit: some of what a region holds is shown as its present declarations say."""

    collection: str = ""
    keys: tuple[str, ...] = ()
    """Documents to be shown as the present declarations say."""
    parked: tuple[Parked, ...] = ()
    """Changes to be tried again."""
    schemas: Mapping[str, str] = MappingProxyType({})
    """What to commit for them: see `Commit.schemas`."""
    instead_of: Mapping[str, str] = MappingProxyType({})
    """collection → what has to be said of it still, or else nothing is."""

    def want(self, wants: Wants) -> None:
        for parked in self.parked:
            wants.parked(parked)
        for key in self.keys:
            wants.document(self.collection, key)
        if self.keys:
            wants.open_records(self.collection, self.keys)

    def perform(self, batch: Batch, view: View) -> None:
        for parked in self.parked:
            batch.reapply(parked)
        for key in self.keys:
            address = (self.collection, key)
            batch.re_resolve(address, view.open_records.get(address, ()))
        for name, fingerprint in self.schemas.items():
            if name not in self.instead_of or view.schemas.get(name) == self.instead_of[name]:
                batch.schemas[name] = fingerprint


class MarkMixed(NamedTuple):
    """A part of every transaction: it says of which collections not all documents follow one declaration.

    That is so once a node commits beside documents that all follow another declaration than its own. Whoever starts
    next, with these declarations or those, must find out.
    """

    declared: Mapping[str, str]
    """collection → fingerprint of its declaration at this node; other nodes of the region may have others."""

    def want(self, wants: Wants) -> None:
        """Every transaction shows what is stored of all collections."""

    def perform(self, batch: Batch, view: View) -> None:
        if view.schemas == self.declared:
            return
        for name, fingerprint in view.schemas.items():
            if (
                fingerprint
                and name != KEPT_ASIDE
                and fingerprint.partition("?")[0] != self.declared.get(name)
            ):
                batch.schemas.setdefault(name, "")


class Redeclaration:
    """Brings what a region has stored under the declarations that it runs with."""

    def __init__(
        self, application: Application, store: Stored, group_commit: GroupCommit, nonce: Callable[[], str]
    ) -> None:
        """`nonce` makes what no other pass has."""
        self._store = store
        self._group_commit = group_commit
        self._nonce = nonce
        self.declared = fingerprints(application)
        group_commit.accompany(MarkMixed(self.declared))

    def due(self, stored: Mapping[str, str]) -> dict[str, str]:
        """collection → fingerprint of those that are not yet as declared, by the `schemas` of the store."""
        return {name: wanted for name, wanted in self.declared.items() if stored.get(name) != wanted}

    async def run(self) -> bool:
        """Go over all that is due, once; whether all is as declared. Raises what the store and the group commit raise.

        Nodes of one region may run with different declarations while a rollout lasts, and one that writes takes the
        mark of a pass away (`MarkMixed`). So only a pass that nobody wrote into says that it is done.
        """
        due = self.due(await self._store.schemas())
        if not due:
            return True
        mark = {name: f"{wanted}?{self._nonce()}" for name, wanted in due.items()}
        await self._group_commit.commit(Redeclare(schemas=mark))
        async for parked in self._parked():
            await self._group_commit.commit(Redeclare(parked=parked))
        for collection in sorted(due):
            done = 0
            async for keys in self._keys(collection):
                await self._group_commit.commit(Redeclare(collection, keys))
                done += len(keys)
                if done % _REPORTED == 0:
                    logger.info("%s: %d documents follow its new declaration", collection, done)
        await self._group_commit.commit(Redeclare(schemas=due, instead_of=mark))
        return not self.due(await self._store.schemas())

    async def _parked(self) -> AsyncIterator[tuple[Parked, ...]]:
        after: tuple[str, int, int] | None = None
        while page := await self._store.parked(_AT_ONCE, after=after):
            after = page[-1][:3]
            yield tuple(each for each in page if _readable(each))

    async def _keys(self, collection: str) -> AsyncIterator[tuple[str, ...]]:
        after: str | None = None
        while page := await self._store.scan_all(collection, after=after, limit=_AT_ONCE):
            after = page[-1][0]
            yield tuple(key for key, _ in page)


def fingerprints(application: Application) -> Mapping[str, str]:
    """collection → a digest of what its declaration says."""
    found = {}
    for name, schema in application.stored.items():
        text = json.dumps(schema.describe(), sort_keys=True, separators=(",", ":"), default=repr)
        found[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def _readable(parked: Parked) -> bool:
    try:
        decode_entry(parked.body)
    except AtollError:
        return False
    return True
