"""What is done now and then beside the writers, and how often: checkpoints and retention."""

from __future__ import annotations

import asyncio
import contextlib

from atoll.errors import AtollError
from atoll.region.group_commit import GroupCommit
from atoll.region.site import Site
from atoll.region.truncation import Truncation
from atoll.store.port import Store

_FORGETS_EVERY = 60
"""Rounds."""


class Housekeeping:
    """Of one node. Each of its works goes on for ever; a failing disk is the commit path's to report."""

    def __init__(self, site: Site, store: Store, group_commit: GroupCommit, truncation: Truncation) -> None:
        self._store = store
        self._group_commit = group_commit
        self._truncation = truncation
        self._now_ms = site.now_ms
        self._options = site.options

    async def keep_store(self) -> None:
        """Checkpoints, retention, and a look whether a store that refused can be written again."""
        rounds = 0
        while True:
            await asyncio.sleep(self._options.housekeeping_s)
            await self._store.checkpoint()
            rounds += 1
            if self._group_commit.store_error is not None:
                await self._probe_store()
            if rounds % _FORGETS_EVERY == 0 and self._group_commit.store_error is None:
                await self._forget()

    async def cut_journal(self) -> None:
        while True:
            if self._group_commit.store_error is None:
                with contextlib.suppress(AtollError):
                    await self._truncation.round()
            await asyncio.sleep(self._options.journal_round_s)

    async def _probe_store(self) -> None:
        """Once nobody sends writes here any more, this is how the region learns that it can take them again."""
        with contextlib.suppress(AtollError):
            await self._store.raise_counter("probe_ms", self._now_ms())
            self._group_commit.store_error = None

    async def _forget(self) -> None:
        """In bounded pieces."""
        now_ms = self._now_ms()
        with contextlib.suppress(AtollError):
            while await self._store.forget(  # noqa: ASYNC110 - it gives way between two pieces of work
                remembered_before_ms=now_ms - int(self._options.idempotency_s * 1000),
                audit_before_ms=now_ms - int(self._options.audit_s * 1000),
                audit_keep=self._options.audit_most,
            ):
                await asyncio.sleep(0)
